//! Loads, stores, atomics, prefetches, matrix transposes and address conversion.
//! Source: PTX ISA 9.0, "Data Movement" and "Memory Consistency Model" (defaults of order, scope).

use super::modifiers::Mods;
use super::{Fixed, Row, row};
use crate::ir::{Access, Multimem, Op, Order, RmwOp, Scope, Space, Ty};

fn access(m: &Mods, f: &Fixed, order: Order, scope: Scope) -> Access {
    Access {
        space: f.space.unwrap_or_else(|| m.space(0)),
        ty: m.ty(0),
        vec: m.vec(),
        order,
        scope,
        offset: f.offset(0),
    }
}

/// Order and scope of a load or store. A scope stands exactly with the strong orders.
fn strength(m: &Mods, strong: Order) -> Option<(Order, Scope)> {
    if m.has("mmio") {
        let written = m.order == Some(Order::Relaxed) && m.scope == Some(Scope::Sys);
        return written.then_some((Order::Mmio, Scope::Sys));
    }
    match (m.order, m.scope) {
        (None | Some(Order::Weak), None) if m.has("cv") => Some((Order::Volatile, Scope::Sys)),
        (None | Some(Order::Weak), None) => Some((Order::Weak, Scope::Cta)),
        (Some(Order::Volatile), None) => Some((Order::Volatile, Scope::Sys)),
        (Some(order), Some(scope)) if order == Order::Relaxed || order == strong => {
            Some((order, scope))
        }
        _ => None,
    }
}

fn vector_exists(m: &Mods) -> bool {
    let bytes = u32::from(m.vec()) * m.ty(0).bytes();
    bytes <= 16
}

fn load(m: &Mods, f: &Fixed) -> Option<Op> {
    let (order, scope) = strength(m, Order::Acquire)?;
    let constant = m.has("nc") && (order != Order::Weak || m.space(0) != Space::Global);
    (!constant && vector_exists(m)).then(|| Op::Ld(access(m, f, order, scope)))
}

fn store(m: &Mods, f: &Fixed) -> Option<Op> {
    let (order, scope) = strength(m, Order::Release)?;
    let writable = !matches!(m.space(0), Space::Const);
    (writable && vector_exists(m)).then(|| Op::St(access(m, f, order, scope)))
}

/// Which types a read-modify-write operation exists for.
fn rmw_exists(op: RmwOp, ty: Ty) -> bool {
    match op {
        RmwOp::And | RmwOp::Or | RmwOp::Xor => matches!(ty, Ty::B32 | Ty::B64),
        RmwOp::Exch => matches!(ty, Ty::B32 | Ty::B64 | Ty::B128),
        RmwOp::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128),
        RmwOp::Inc | RmwOp::Dec => ty == Ty::U32,
        RmwOp::Min | RmwOp::Max => matches!(
            ty,
            Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2
        ),
        RmwOp::Add => matches!(
            ty,
            Ty::U32
                | Ty::S32
                | Ty::U64
                | Ty::F32
                | Ty::F64
                | Ty::F16
                | Ty::F16x2
                | Ty::BF16
                | Ty::BF16x2
        ),
    }
}

fn atomic(m: &Mods, f: &Fixed) -> Option<Op> {
    let op = m.rmw?;
    let order = m.order.unwrap_or(Order::Relaxed);
    if matches!(order, Order::Weak | Order::Volatile | Order::SeqCst) {
        return None;
    }
    let narrow = matches!(m.ty(0), Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2);
    let scope = m.scope.unwrap_or(Scope::Gpu);
    let space = matches!(
        m.space(0),
        Space::Generic | Space::Global | Space::Shared | Space::SharedCluster
    );
    // f16 and bf16 sums are `.noftz` by name; minimum and maximum of them exist as vectors only.
    let named = !narrow || m.has("noftz");
    let vector = m.vec == 0 || matches!(m.ty(0), Ty::F32) && op == RmwOp::Add || narrow;
    let scalar_extremum = narrow && op != RmwOp::Add && m.vec == 0;
    // Address and operand; `cas` has a comparand as well.
    let arity = m.vec != 0 || f.sources == if op == RmwOp::Cas { 3 } else { 2 };
    (arity && space && named && vector && !scalar_extremum && rmw_exists(op, m.ty(0)))
        .then(|| Op::Atom(op, access(m, f, order, scope)))
}

fn reduction(m: &Mods, f: &Fixed) -> Option<Op> {
    let order = m.order.unwrap_or(Order::Relaxed);
    let exists = !matches!(m.rmw?, RmwOp::Exch | RmwOp::Cas);
    (exists && matches!(order, Order::Relaxed | Order::Release))
        .then(|| atomic(m, f))
        .flatten()
}

/// `ldu`: a weak load of global memory that is uniform over the warp.
fn uniform_load(m: &Mods, f: &Fixed) -> Option<Op> {
    let space = matches!(m.space(0), Space::Generic | Space::Global);
    (space && vector_exists(m)).then(|| Op::Ld(access(m, f, Order::Weak, Scope::Cta)))
}

const fn is_narrow(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2)
}

/// Whether a `multimem` reduction exists: as PTX has them for one value and for vectors.
fn multimem_op(m: &Mods, op: RmwOp) -> bool {
    let (ty, vector) = (m.ty(0), m.vec != 0);
    let packed = matches!(ty, Ty::F16x2 | Ty::BF16x2);
    match op {
        RmwOp::And | RmwOp::Or | RmwOp::Xor => !vector && matches!(ty, Ty::B32 | Ty::B64),
        RmwOp::Min | RmwOp::Max if vector => is_narrow(ty),
        RmwOp::Min | RmwOp::Max => {
            packed && m.has("ld_reduce") || matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64)
        }
        RmwOp::Add if vector => is_narrow(ty) || ty == Ty::F32,
        RmwOp::Add => packed || matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32 | Ty::F64),
        _ => false,
    }
}

fn multimem(m: &Mods, f: &Fixed) -> Option<Op> {
    let strong = if m.has("ld_reduce") {
        Order::Acquire
    } else {
        Order::Release
    };
    // `red` is relaxed where nothing is written; the others are weak.
    let (order, scope) = strength(m, strong)?;
    let weak_red = m.has("red") && m.order == Some(Order::Weak);
    let ty = m.ty(0);
    let form = if m.has("st") {
        let exists = if m.vec == 0 {
            !matches!(ty, Ty::F16 | Ty::BF16)
        } else {
            is_narrow(ty) || ty == Ty::F32
        };
        exists.then_some(Multimem::Store)?
    } else {
        let op = m.rmw.filter(|op| multimem_op(m, *op))?;
        let wide = m.has("acc::f32");
        if wide && !(op == RmwOp::Add && is_narrow(ty)) {
            return None;
        }
        match m.has("red") {
            true => Multimem::Reduce(op),
            false => Multimem::LoadReduce { op, wide },
        }
    };
    let space = matches!(m.space(0), Space::Generic | Space::Global);
    let exists = space && !weak_red && order != Order::Volatile && vector_exists(m);
    exists.then(|| Op::Multimem(form, access(m, f, order, scope)))
}

/// The upper bits of a policy, as the usual constants of CUDA programs have them.
fn policy(m: &Mods) -> Option<Op> {
    Some(Op::Createpolicy(if m.has("L2::evict_last") {
        0x14f0_0000_0000_0000
    } else if m.has("L2::evict_first") {
        0x12f0_0000_0000_0000
    } else {
        0x1000_0000_0000_0000
    }))
}

fn convert_address(m: &Mods) -> Option<Op> {
    Some(match m.space(0) {
        Space::Generic => return None,
        Space::Global | Space::Const => Op::Mov,
        space => Op::Cvta {
            space,
            to_space: m.has("to"),
        },
    })
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("ld", "@sem? @scope? .mmio? @space? .nc? .ca|.cg|.cs|.lu|.cv? .L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate? .L2::evict_first|.L2::evict_last|.L2::evict_normal? .L2::cache_hint? .L2::64B|.L2::128B|.L2::256B? @vec? :mem",
        "V0,a0,h!", load),
    row("st", "@sem? @scope? .mmio? @space? .wb|.cg|.cs|.wt? .L1::evict_normal|.L1::evict_unchanged|.L1::evict_first|.L1::evict_last|.L1::no_allocate? .L2::evict_first|.L2::evict_last|.L2::evict_normal? .L2::cache_hint? @vec? :mem",
        "a0,v0,h!", store),
    row("atom", "@sem? @scope? @space? @rmw .L2::cache_hint? :u32|s32|u64|s64|b16|b32|b64|b128|f32|f64", "D0,a0,s0,s0?,h!", atomic),
    row("atom", "@sem? @scope? @space? @rmw .noftz .L2::cache_hint? :half", "D0,a0,s0,h!", atomic),
    row("atom", "@sem? @scope? @space? @rmw .noftz? .L2::cache_hint? @vec :f32|f16|f16x2|bf16|bf16x2", "V0,a0,v0,h!", atomic),
    row("red", "@sem? @scope? @space? @rmw .L2::cache_hint? :u32|s32|u64|s64|b32|b64|f32|f64", "a0,s0,h!", reduction),
    row("red", "@sem? @scope? @space? @rmw .noftz .L2::cache_hint? :half", "a0,s0,h!", reduction),
    row("red", "@sem? @scope? @space? @rmw .noftz? .L2::cache_hint? @vec :f32|f16|f16x2|bf16|bf16x2", "a0,v0,h!", reduction),

    row("ldu", "@space? @vec? :mem",                        "V0,a0", uniform_load),

    row("multimem", ".ld_reduce @sem? @scope? @space? @rmw .acc::f32? @vec? :u32|s32|u64|s64|b32|b64|f32|f64|f16|f16x2|bf16|bf16x2", "V0,a0", multimem),
    row("multimem", ".st @sem? @scope? @space? @vec? :u32|s32|u64|s64|b32|b64|f32|f64|f16|f16x2|bf16|bf16x2", "a0,v0", multimem),
    row("multimem", ".red @sem? @scope? @space? @rmw @vec? :u32|s32|u64|s64|b32|b64|f32|f64|f16|f16x2|bf16|bf16x2", "a0,v0", multimem),

    row("createpolicy", ".fractional .L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged .L2::evict_first|.L2::evict_unchanged? .b64", "dq,z?", |m, _| policy(m)),
    row("createpolicy", ".range .global? .L2::evict_last|.L2::evict_normal|.L2::evict_first|.L2::evict_unchanged .L2::evict_first|.L2::evict_unchanged? .b64", "dq,fg,su,su", |m, _| policy(m)),
    row("createpolicy", ".cvt .L2 .b64",                    "dq,sq", |_, _| Some(Op::Mov)),

    row("prefetch", "@space? .L1|.L2",                      "f0", |_, _| Some(Op::Prefetch)),
    row("prefetch", ".global? .L2::evict_last|.L2::evict_normal", "fg", |_, _| Some(Op::Prefetch)),
    row("prefetch", ".tensormap",                           "fg", |_, _| Some(Op::Prefetch)),
    row("prefetch", "@space .tensormap",                    "f0", |_, _| Some(Op::Prefetch)),
    row("prefetchu", ".L1",                                 "fg", |_, _| Some(Op::Prefetch)),
    row("applypriority", ".global? .L2::evict_normal",      "fg,z", |_, _| Some(Op::Prefetch)),
    row("discard", ".global? .L2",                          "fg,z", |_, _| Some(Op::Prefetch)),

    row("cvta", ".to? @space :u64",                         "d0,s0", |m, _| convert_address(m)),
    row("isspacep", "@space",                               "dp,g",  |m, _| Some(Op::Isspacep(m.space(0)))),
    row("mapa", ".shared::cluster :u32",                    "d0,s0,su", |_, _| Some(Op::Mapa { wide: false, generic: false })),
    row("mapa", ".shared::cluster :u64",                    "d0,s0,su", |_, _| Some(Op::Mapa { wide: true, generic: false })),
    // The low halves of a generic shared address and of one in the window are the same.
    row("mapa", ":u32",                                     "d0,s0,su", |_, _| Some(Op::Mapa { wide: false, generic: false })),
    row("mapa", ":u64",                                     "d0,s0,su", |_, _| Some(Op::Mapa { wide: true, generic: true })),
    row("getctarank", ".shared::cluster :u32",              "du,s0", |_, _| Some(Op::Getctarank { wide: false })),
    row("getctarank", ".shared::cluster :u64",              "du,s0", |_, _| Some(Op::Getctarank { wide: true })),
    row("getctarank", ":u32",                               "du,s0", |_, _| Some(Op::Getctarank { wide: false })),
    row("getctarank", ":u64",                               "du,s0", |_, _| Some(Op::Getctarank { wide: true })),
];
