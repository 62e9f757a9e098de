//! Matrix multiplication and the moves of matrix fragments: wgmma, mma, wmma, ldmatrix, stmatrix,
//! movmatrix. Which combinations exist is what `ptxas` 13.0 accepts for `sm_90a`.
//! Source: PTX ISA 9.0, "Warp level matrix multiply-accumulate", "Asynchronous warpgroup level
//! matrix multiply-accumulate".

use super::modifiers::Mods;
use super::{Fixed, Row, row};
use crate::ir::{
    BitOp, Fragments, Layout, Mma, MmaTy, Op, Rounding, Space, Wgmma, WmmaAccess, WmmaMatrix,
};
use MmaTy::{B1, BF16, E4M3, E5M2, F16, F32, F64, S4, S8, S32, TF32, U4, U8};

/// Whether accumulators of type `d` and operands of types `a` and `b` go together, in any shape.
fn types_exist(d: MmaTy, a: MmaTy, b: MmaTy) -> bool {
    match (a, b) {
        (F16, F16) | (E4M3 | E5M2, E4M3 | E5M2) => matches!(d, F16 | F32),
        (BF16, BF16) | (TF32, TF32) => d == F32,
        (S8 | U8, S8 | U8) | (S4 | U4, S4 | U4) | (B1, B1) => d == S32,
        (F64, F64) => d == F64,
        _ => false,
    }
}

fn wgmma(m: &Mods, f: &Fixed) -> Option<Op> {
    let [d, a, b] = *m.mma.as_slice() else {
        return None;
    };
    let (rows, n, k) = m.shape;
    let integer = d == S32;
    let step = if integer && n > 32 { 16 } else { 8 };
    let registers = usize::from(n) * d.bits() / 64;
    let shape = rows == 64
        && (8..=256).contains(&n)
        && (n % step == 0 || n == 24)
        && usize::from(k) * a.bits() == 256
        && f.destinations == registers;
    let types = types_exist(d, a, b) && !matches!(a, S4 | U4 | F64);
    // scale-a, scale-b (floats), then the two transposes (16-bit types; not for A in registers).
    let scales = if integer { 0 } else { 2 };
    let transposes = match (a.bits() == 16, f.a_regs) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => 2,
    };
    let scale = |i: usize| matches!(f.imm(i), 1 | -1);
    let bit = |i: usize| matches!(f.imm(i), 0 | 1);
    let immediates = f.imms.len() == scales + transposes
        && (0..scales).all(scale)
        && (scales..scales + transposes).all(bit);
    let popc = m.has("and") && m.has("popc");
    let modifiers = popc == (a == B1) && (!m.has("satfinite") || matches!(a, S8 | U8));
    (types && shape && immediates && modifiers).then(|| {
        Op::Wgmma(Wgmma {
            n,
            k,
            d,
            a,
            b,
            a_regs: f.a_regs,
            negate_a: scales > 0 && f.imm(0) == -1,
            negate_b: scales > 0 && f.imm(1) == -1,
            transpose_a: transposes == 2 && f.imm(2) == 1,
            transpose_b: transposes > 0 && f.imm(scales + transposes - 1) == 1,
            saturate: m.has("satfinite"),
        })
    })
}

/// The layouts of A and B, as written.
fn layouts(m: &Mods) -> Option<(Layout, Layout)> {
    let layout = |name: &str| {
        if name == "row" {
            Layout::Row
        } else {
            Layout::Col
        }
    };
    match m.among(&["row", "col"]).as_slice() {
        [a, b] => Some((layout(a), layout(b))),
        _ => None,
    }
}

/// Whether `mma.sync` has a shape for operands of type `a`.
fn mma_shape(shape: (u16, u16, u16), a: MmaTy) -> bool {
    match a {
        F16 => matches!(shape, (8, 8, 4) | (16, 8, 8 | 16)),
        BF16 => matches!(shape, (16, 8, 8 | 16)),
        TF32 => matches!(shape, (16, 8, 4 | 8)),
        E4M3 | E5M2 => matches!(shape, (16, 8, 16 | 32)),
        S8 | U8 => matches!(shape, (8, 8, 16) | (16, 8, 16 | 32)),
        S4 | U4 => matches!(shape, (8, 8, 32) | (16, 8, 32 | 64)),
        B1 => matches!(shape, (8, 8, 128) | (16, 8, 128 | 256)),
        F64 => matches!(shape, (8, 8, 4) | (16, 8, 4 | 8 | 16)),
        F32 | S32 => false,
    }
}

/// Whether `wmma` has a shape for operands of type `a`.
fn wmma_shape(shape: (u16, u16, u16), a: MmaTy) -> bool {
    match a {
        F16 | BF16 | S8 | U8 => matches!(shape, (16, 16, 16) | (8, 32, 16) | (32, 8, 16)),
        TF32 => shape == (16, 16, 8),
        S4 | U4 => shape == (8, 8, 32),
        B1 => shape == (8, 8, 128),
        F64 => shape == (8, 8, 4),
        E4M3 | E5M2 | F32 | S32 => false,
    }
}

/// Checks what all instructions that multiply share.
fn multiply(m: &Mods, f: &Fixed, mma: Mma) -> Option<Op> {
    let Mma { d, a, b, c, .. } = mma;
    let bits = mma.bits.is_some() == (a == B1) && m.has("popc") == (a == B1);
    let saturate = !mma.saturate || matches!(a, S8 | U8 | S4 | U4);
    let rounding = match m.rounding {
        Rounding::Default => true,
        Rounding::Rn | Rounding::Rz | Rounding::Rm | Rounding::Rp => a == F64,
        _ => false,
    };
    let (wide, narrow) = mma.operand_registers();
    let sources = wide + narrow + mma.accumulator_registers(c);
    let registers = f.destinations == mma.accumulator_registers(d) && f.sources == sources;
    (types_exist(d, a, b) && types_exist(c, a, b) && bits && saturate && rounding && registers)
        .then_some(Op::Mma(mma))
}

fn bit_op(m: &Mods) -> Option<BitOp> {
    match m.among(&["and", "xor"]).as_slice() {
        ["and"] => Some(BitOp::And),
        ["xor"] => Some(BitOp::Xor),
        _ => None,
    }
}

fn mma(m: &Mods, f: &Fixed) -> Option<Op> {
    let [d, a, b, c] = *m.mma.as_slice() else {
        return None;
    };
    let layouts = layouts(m)?;
    let mma = Mma {
        shape: m.shape,
        d,
        a,
        b,
        c,
        fragments: Fragments::Mma,
        layouts,
        saturate: m.has("satfinite"),
        bits: bit_op(m),
        rounding: m.rounding,
    };
    let layout = mma.is_quad() || layouts == (Layout::Row, Layout::Col);
    // Only m8n8k4 has an f32 D with an f16 C.
    let accumulators = d == c || (mma.is_quad() && (d, c) == (F32, F16));
    if !(mma_shape(m.shape, a) && layout && accumulators) {
        return None;
    }
    multiply(m, f, mma)
}

fn wmma(m: &Mods, f: &Fixed) -> Option<Op> {
    // The types of f16 operands are not written.
    let (d, a, b, c) = match *m.mma.as_slice() {
        [d, c] => (d, F16, F16, c),
        [d, a, b, c] if a != F16 && d == c => (d, a, b, c),
        _ => return None,
    };
    let layouts = layouts(m)?;
    let only = matches!(a, S4 | U4 | B1);
    let mma = Mma {
        shape: m.shape,
        d,
        a,
        b,
        c,
        fragments: Fragments::Wmma,
        layouts,
        saturate: m.has("satfinite"),
        bits: bit_op(m),
        rounding: m.rounding,
    };
    if !wmma_shape(m.shape, a) || a != b || (only && layouts != (Layout::Row, Layout::Col)) {
        return None;
    }
    multiply(m, f, mma)
}

/// A `wmma` load or store.
fn wmma_access(m: &Mods, f: &Fixed, matrix: WmmaMatrix) -> Option<WmmaAccess> {
    let [ty] = *m.mma.as_slice() else {
        return None;
    };
    let layout = match m.among(&["row", "col"]).as_slice() {
        ["row"] => Layout::Row,
        _ => Layout::Col,
    };
    let space = m.space(0);
    let exists = match (matrix, ty) {
        (WmmaMatrix::C, F16 | F32) => {
            wmma_shape(m.shape, F16) || (ty == F32 && wmma_shape(m.shape, TF32))
        }
        (WmmaMatrix::C, S32) => [S8, S4, B1].iter().any(|&a| wmma_shape(m.shape, a)),
        (WmmaMatrix::C, F64) => wmma_shape(m.shape, F64),
        (WmmaMatrix::C, _) => false,
        (_, ty) => {
            let only = match matrix {
                WmmaMatrix::A => Layout::Row,
                _ => Layout::Col,
            };
            wmma_shape(m.shape, ty) && (!matches!(ty, S4 | U4 | B1) || layout == only)
        }
    };
    let spaces = matches!(space, Space::Generic | Space::Global | Space::Shared);
    (exists && spaces).then(|| WmmaAccess {
        shape: m.shape,
        matrix,
        ty,
        layout,
        space,
        offset: f.offset(0),
        stride: false,
    })
}

fn wmma_load(m: &Mods, f: &Fixed, matrix: WmmaMatrix) -> Option<Op> {
    let mut access = wmma_access(m, f, matrix)?;
    access.stride = f.sources == 2;
    (f.destinations == access.registers()).then_some(Op::WmmaLoad(access))
}

fn wmma_store(m: &Mods, f: &Fixed) -> Option<Op> {
    let mut access = wmma_access(m, f, WmmaMatrix::C)?;
    let registers = access.registers();
    access.stride = f.sources == registers + 2;
    (access.stride || f.sources == registers + 1).then_some(Op::WmmaStore(access))
}

/// Number, transposition and place of the matrices of `ldmatrix` and `stmatrix`.
fn matrices(m: &Mods) -> Option<(u8, bool, Space)> {
    let number = if m.has("x4") {
        4
    } else if m.has("x2") {
        2
    } else {
        1
    };
    let space = m.space(0);
    matches!(space, Space::Generic | Space::Shared).then(|| (number, m.has("trans"), space))
}

fn ldmatrix(m: &Mods, f: &Fixed) -> Option<Op> {
    let (num, trans, space) = matrices(m)?;
    Some(Op::Ldmatrix {
        num,
        trans,
        space,
        offset: f.offset(0),
    })
}

fn stmatrix(m: &Mods, f: &Fixed) -> Option<Op> {
    let (num, trans, space) = matrices(m)?;
    Some(Op::Stmatrix {
        num,
        trans,
        space,
        offset: f.offset(0),
    })
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("wgmma", ".mma_async .sync .aligned @shape .satfinite? .and? .popc? @mma @mma @mma", "W,A,sq,sp,c?,c?,c?,c?", wgmma),
    row("wgmma", ".fence .sync .aligned",               "", |_, _| Some(Op::WgmmaFence)),
    row("wgmma", ".commit_group .sync .aligned",        "", |_, _| Some(Op::WgmmaCommit)),
    row("wgmma", ".wait_group .sync .aligned",          "c", |_, f| Some(Op::WgmmaWait(u32::try_from(f.imm(0)).ok()?))),

    row("mma", ".sync .aligned @shape .row|.col .row|.col .satfinite? .and|.xor? .popc? @rnd? @mma @mma @mma @mma", "M,y,y,y", mma),

    row("wmma", ".mma .sync .aligned .row|.col .row|.col @shape .satfinite? @rnd? @mma @mma", "M,y,y,y", wmma),
    row("wmma", ".mma .sync .aligned .row|.col .row|.col @shape .satfinite? .and|.xor? .popc? @rnd? @mma @mma @mma @mma", "M,y,y,y", wmma),
    row("wmma", ".load .a .sync .aligned .row|.col @shape @space? @mma", "M,a0,su?", |m, f| wmma_load(m, f, WmmaMatrix::A)),
    row("wmma", ".load .b .sync .aligned .row|.col @shape @space? @mma", "M,a0,su?", |m, f| wmma_load(m, f, WmmaMatrix::B)),
    row("wmma", ".load .c .sync .aligned .row|.col @shape @space? @mma", "M,a0,su?", |m, f| wmma_load(m, f, WmmaMatrix::C)),
    row("wmma", ".store .d .sync .aligned .row|.col @shape @space? @mma", "a0,y,su?", wmma_store),

    row("ldmatrix", ".sync .aligned .m8n8 .x1|.x2|.x4 .trans? @space? :b16", "N,a0", ldmatrix),
    row("stmatrix", ".sync .aligned .m8n8 .x1|.x2|.x4 .trans? @space? :b16", "a0,n", stmatrix),
    row("movmatrix", ".sync .aligned .m8n8 .trans :b16", "du,su", |_, _| Some(Op::Movmatrix)),
];
