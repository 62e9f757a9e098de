//! Conversion, moves, control flow, barriers and warp-wide instructions.
//! Source: PTX ISA 9.0, "cvt", "mov", "Control Flow", "Parallel Synchronization", "Miscellaneous".

use super::modifiers::Mods;
use super::rows_arith::float_mod;
use super::{Fixed, Row, row};
use crate::ir::{Arith, BarRed, Op, Order, RmwOp, Rounding as R, ShflMode, Special, Ty, VoteMode};

fn conversion(m: &Mods) -> Op {
    Op::Cvt {
        to: m.ty(0),
        from: m.ty(1),
        modifiers: float_mod(m),
        satfinite: m.has("satfinite"),
        relu: m.has("relu"),
    }
}

const fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::BF16 | Ty::TF32 | Ty::F32 | Ty::F64)
}

const fn to_integral(rounding: R) -> bool {
    matches!(rounding, R::Rni | R::Rzi | R::Rmi | R::Rpi)
}

const fn directed(rounding: R) -> bool {
    matches!(rounding, R::Rn | R::Rz | R::Rm | R::Rp)
}

/// Whether a float-to-float conversion exists with that rounding.
fn float_to_float(to: Ty, from: Ty, rounding: R) -> bool {
    match (to, from) {
        (Ty::TF32, Ty::F32) => matches!(rounding, R::Rna | R::Rn | R::Rz),
        (Ty::TF32, _) | (_, Ty::TF32) => false,
        _ if to == from => rounding == R::Default || to_integral(rounding),
        (Ty::F16 | Ty::BF16, Ty::F32 | Ty::F64) | (Ty::F32, Ty::F64) => directed(rounding),
        // Between the two halves nothing written means to nearest; a bf16 widens whatever is.
        (Ty::F16, Ty::BF16) | (Ty::BF16, Ty::F16) | (Ty::F32 | Ty::F64, Ty::BF16) => {
            rounding == R::Default || directed(rounding)
        }
        _ => rounding == R::Default,
    }
}

fn convert(m: &Mods) -> Option<Op> {
    let (to, from, rounding) = (m.ty(0), m.ty(1), m.rounding);
    let exists = match (is_float(to), is_float(from)) {
        (false, false) => rounding == R::Default && !m.has("ftz"),
        (false, true) => from != Ty::TF32 && to_integral(rounding),
        (true, false) => to != Ty::TF32 && directed(rounding),
        (true, true) => float_to_float(to, from, rounding),
    };
    let narrowing = from == Ty::F32 && matches!(to, Ty::F16 | Ty::BF16 | Ty::TF32);
    let extras = !(m.has("relu") || m.has("satfinite")) || narrowing;
    let ftz = !m.has("ftz") || to == Ty::F32 || from == Ty::F32;
    (exists && extras && ftz).then(|| conversion(m))
}

fn convert_packed(m: &Mods) -> Option<Op> {
    let (to, from, rounding) = (m.ty(0), m.ty(1), m.rounding);
    let satfinite = m.has("satfinite");
    let exists = match (to, from) {
        (Ty::F16x2 | Ty::BF16x2, Ty::F32) => matches!(rounding, R::Rn | R::Rz),
        (Ty::E4M3x2 | Ty::E5M2x2, Ty::F32 | Ty::F16x2) => rounding == R::Rn && satfinite,
        (Ty::UE8M0x2, Ty::F32 | Ty::BF16x2) => matches!(rounding, R::Rz | R::Rp) && !m.has("relu"),
        (Ty::F16x2, Ty::E4M3x2 | Ty::E5M2x2) => rounding == R::Rn && !satfinite,
        (Ty::BF16x2, Ty::UE8M0x2) => rounding == R::Rn && !satfinite && !m.has("relu"),
        _ => false,
    };
    exists.then(|| conversion(m))
}

/// `cvt.pack.sat.TYPE.s32`: the 16-bit parts fill the word, narrower ones leave room for `c`.
fn convert_pack(m: &Mods, f: &Fixed) -> Option<Op> {
    let (bits, signed) = [
        ("u2", 2, false),
        ("s2", 2, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u8", 8, false),
        ("s8", 8, true),
        ("u16", 16, false),
        ("s16", 16, true),
    ]
    .into_iter()
    .find_map(|(name, bits, signed)| m.has(name).then_some((bits, signed)))?;
    let two = f.sources == 2;
    (two == (bits == 16)).then_some(Op::Arith(Arith::CvtPack { bits, signed }))
}

/// The type of one of `parts` equal parts of a value.
fn part(whole: Ty, parts: usize) -> Option<Ty> {
    let bytes = u32::try_from(parts).ok()?;
    match (whole.bytes(), bytes) {
        (2, 2) | (4, 4) => Some(Ty::B8),
        (4, 2) | (8, 4) => Some(Ty::B16),
        (8, 2) | (16, 4) => Some(Ty::B32),
        (16, 2) => Some(Ty::B64),
        _ => None,
    }
}

fn pack(m: &Mods, f: &Fixed) -> Option<Op> {
    Some(Op::Pack {
        part: part(m.ty(0), f.parts)?,
    })
}

fn unpack(m: &Mods, f: &Fixed) -> Option<Op> {
    Some(Op::Unpack {
        part: part(m.ty(0), f.parts)?,
        sink: f.sink,
    })
}

fn branch(f: &Fixed) -> Option<Op> {
    Some(Op::Bra(*f.targets.first()?))
}

/// The alignment is 8 where it is not written.
fn alloca(f: &Fixed) -> Option<Op> {
    let written = f.imms.first().copied().unwrap_or(8);
    let align = u32::try_from(written).ok()?;
    (align.is_power_of_two() && align <= 1 << 16).then_some(Op::Alloca(align))
}

/// `bar` is `barrier` with `.aligned`.
fn bar(m: &Mods) -> Option<Op> {
    Some(Op::Bar {
        arrive: m.has("arrive"),
        aligned: true,
    })
}

fn barrier(m: &Mods) -> Option<Op> {
    Some(Op::Bar {
        arrive: m.has("arrive"),
        aligned: m.has("aligned"),
    })
}

fn cluster_arrive(m: &Mods) -> Option<Op> {
    match m.order {
        None | Some(Order::Release) => Some(Op::BarClusterArrive { relaxed: false }),
        Some(Order::Relaxed) => Some(Op::BarClusterArrive { relaxed: true }),
        Some(_) => None,
    }
}

fn cluster_wait(m: &Mods) -> Option<Op> {
    matches!(m.order, None | Some(Order::Acquire)).then_some(Op::BarClusterWait)
}

fn vote(m: &Mods) -> Option<Op> {
    Some(Op::Vote(if m.has("all") {
        VoteMode::All
    } else if m.has("any") {
        VoteMode::Any
    } else if m.has("uni") {
        VoteMode::Uni
    } else {
        VoteMode::Ballot
    }))
}

fn shuffle(m: &Mods) -> Option<Op> {
    Some(Op::Shfl(if m.has("up") {
        ShflMode::Up
    } else if m.has("down") {
        ShflMode::Down
    } else if m.has("bfly") {
        ShflMode::Bfly
    } else {
        ShflMode::Idx
    }))
}

fn redux(m: &Mods) -> Option<Op> {
    let (op, ty) = (m.rmw?, m.ty(0));
    let exists = match op {
        RmwOp::Add | RmwOp::Min | RmwOp::Max => matches!(ty, Ty::U32 | Ty::S32),
        RmwOp::And | RmwOp::Or | RmwOp::Xor => ty == Ty::B32,
        _ => false,
    };
    exists.then_some(Op::Redux(op, ty))
}

fn bar_red(m: &Mods) -> BarRed {
    if m.has("and") {
        BarRed::And
    } else if m.has("or") {
        BarRed::Or
    } else {
        BarRed::Popc
    }
}

fn match_sync(m: &Mods) -> Option<Op> {
    Some(Op::Match {
        all: m.has("all"),
        ty: m.ty(0),
    })
}

fn setmaxnreg(m: &Mods, f: &Fixed) -> Option<Op> {
    let count = u32::try_from(f.imm(0)).ok()?;
    ((24..=256).contains(&count) && count % 8 == 0).then(|| Op::Setmaxnreg {
        inc: m.has("inc"),
        count,
    })
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("cvt", ".sat? @rnd? .ftz? .relu? .satfinite? :u8|s8|u16|s16|u32|s32|u64|s64|f16|bf16|tf32|f32|f64 :u8|s8|u16|s16|u32|s32|u64|s64|f16|bf16|f32|f64",
        "X0,x1", |m, _| convert(m)),
    row("cvt", "@rnd .relu? .satfinite? :f16x2|bf16x2|e4m3x2|e5m2x2|ue8m0x2 :f32", "d0,s1,s1", |m, _| convert_packed(m)),
    row("cvt", "@rnd .relu? .satfinite? :e4m3x2|e5m2x2|ue8m0x2 :f16x2|bf16x2", "d0,s1", |m, _| convert_packed(m)),
    row("cvt", "@rnd .relu? .satfinite? :f16x2|bf16x2 :e4m3x2|e5m2x2|ue8m0x2", "d0,s1", |m, _| convert_packed(m)),

    row("cvt", ".pack .sat .u16|.s16 :s32", "du,s0,s0", convert_pack),
    row("cvt", ".pack .sat .u2|.s2|.u4|.s4|.u8|.s8 :s32 .b32", "du,s0,s0,su", convert_pack),

    row("mov", ":b16|u16|s16|b32|u32|s32|b64|u64|s64", "d0,r", |_, f| f.special.filter(|s| *s != Special::IsExplicitCluster).map(Op::Special)),
    row("mov", ":pred",                     "d0,r", |_, f| (f.special == Some(Special::IsExplicitCluster)).then_some(Op::Special(Special::IsExplicitCluster))),
    row("mov", ":b16|b32|b64|b128",         "d0,k", pack),
    row("mov", ":b16|b32|b64|b128",         "m0,s0", unpack),
    row("mov", ":pred|b16|u16|s16|f16|bf16|b32|u32|s32|f32|b64|u64|s64|f64|b128", "d0,s0", |_, _| Some(Op::Mov)),

    row("bra", ".uni?",                     "l", |_, f| branch(f)),
    row("brx", ".idx .uni?",                "su,j", |_, f| Some(Op::BrxIdx(f.targets.clone()))),
    row("exit", "",                         "", |_, _| Some(Op::Exit)),
    row("ret", ".uni?",                     "", |_, _| Some(Op::Exit)),
    row("alloca", ":u32|u64",               "d0,s0,c?", |_, f| alloca(f)),
    row("stacksave", ":u32|u64",            "d0", |_, _| Some(Op::StackSave)),
    row("stackrestore", ":u32|u64",         "s0", |_, _| Some(Op::StackRestore)),
    row("trap", "",                         "", |_, _| Some(Op::Trap)),
    row("pmevent", ".mask?",                "c", |_, _| Some(Op::Prefetch)),
    row("brkpt", "",                        "", |_, _| Some(Op::Brkpt)),

    row("bar", ".cta? .sync",               "su,su?", |m, _| bar(m)),
    row("bar", ".cta? .arrive",             "su,su", |m, _| bar(m)),
    row("bar", ".cta? .red .popc :u32",     "du,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("bar", ".cta? .red .popc :u32",     "du,su,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("bar", ".cta? .red .and|.or :pred", "dp,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("bar", ".cta? .red .and|.or :pred", "dp,su,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("barrier", ".cta? .sync .aligned?", "su,su?", |m, _| barrier(m)),
    row("barrier", ".cta? .arrive .aligned?", "su,su", |m, _| barrier(m)),
    row("barrier", ".cta? .red .aligned? .popc :u32", "du,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("barrier", ".cta? .red .aligned? .popc :u32", "du,su,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("barrier", ".cta? .red .aligned? .and|.or :pred", "dp,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("barrier", ".cta? .red .aligned? .and|.or :pred", "dp,su,su,sp", |m, _| Some(Op::BarRed(bar_red(m)))),
    row("bar", ".warp .sync",               "su", |_, _| Some(Op::BarWarp)),
    row("barrier", ".cluster .arrive @sem? .aligned?", "", |m, _| cluster_arrive(m)),
    row("barrier", ".cluster .wait @sem? .aligned?", "", |m, _| cluster_wait(m)),

    row("activemask", ":b32",               "d0", |_, _| Some(Op::Activemask)),
    row("elect", ".sync",                   "E,su", |_, f| Some(Op::Elect { has_lane: f.destinations == 2 })),
    row("vote", ".sync .all|.any|.uni :pred", "dp,sp,su", |m, _| vote(m)),
    row("vote", ".sync .ballot :b32",       "d0,sp,su", |m, _| vote(m)),
    row("match", ".any .sync :b32|b64",     "du,s0,su", |m, _| match_sync(m)),
    row("match", ".all .sync :b32|b64",     "du/p,s0,su", |m, _| match_sync(m)),
    row("redux", ".sync @rmw :u32|s32|b32", "d0,s0,su", |m, _| redux(m)),
    row("shfl", ".sync .up|.down|.bfly|.idx :b32", "d0/p,s0,su,su,su", |m, _| shuffle(m)),
    row("nanosleep", ":u32",                "s0", |_, _| Some(Op::Nanosleep)),
    row("griddepcontrol", ".wait",          "", |_, _| Some(Op::Griddep { wait: true })),
    row("griddepcontrol", ".launch_dependents", "", |_, _| Some(Op::Griddep { wait: false })),
    row("setmaxnreg", ".inc|.dec .sync .aligned .u32", "c", setmaxnreg),
];
