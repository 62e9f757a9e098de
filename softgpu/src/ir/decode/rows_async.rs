//! mbarriers, asynchronous copies, tensor maps, fences and warpgroup matrix multiplication.
//! Source: PTX ISA 9.0, "mbarrier", "Asynchronous copy", "Tensormap", "wgmma".

use super::modifiers::Mods;
use super::{Fixed, Row, row};
use crate::ir::{
    BulkDir, BulkDone, BulkOp, FenceKind, MbarOp, Op, Order, RmwOp, Scope, Space, TensormapField,
    Ty,
};

fn mbarrier(op: MbarOp, m: &Mods, f: &Fixed) -> Option<Op> {
    let space = m.space(0);
    matches!(space, Space::Generic | Space::Shared | Space::SharedCluster)
        .then(|| Op::Mbarrier(op, space, f.offset(0)))
}

/// Arrivals release and waits acquire, or are relaxed; at CTA or cluster scope.
fn barrier_order(m: &Mods, strong: Order) -> bool {
    let order = m.order.is_none_or(|o| o == strong || o == Order::Relaxed);
    let scope = m
        .scope
        .is_none_or(|s| matches!(s, Scope::Cta | Scope::Cluster));
    order && scope
}

fn arrive(m: &Mods, f: &Fixed) -> Option<Op> {
    let expect_tx = m.has("expect_tx");
    let no_complete = m.has("noComplete");
    let count = f.sources > 1 && !expect_tx;
    // A remote arrival returns no state.
    let state = m.space(0) != Space::SharedCluster || f.destinations == 0;
    let needs_count = (!expect_tx || f.sources == 2) && (!no_complete || count);
    if !(state && needs_count && barrier_order(m, Order::Release)) || expect_tx && no_complete {
        return None;
    }
    let op = MbarOp::Arrive {
        expect_tx,
        count,
        drop: m.has("arrive_drop"),
        no_complete,
    };
    mbarrier(op, m, f)
}

fn wait(m: &Mods, f: &Fixed) -> Option<Op> {
    let op = MbarOp::Wait {
        try_wait: m.has("try_wait"),
        parity: m.has("parity"),
    };
    (barrier_order(m, Order::Acquire) && m.space(0) != Space::SharedCluster)
        .then(|| mbarrier(op, m, f))
        .flatten()
}

fn transactions(op: MbarOp, m: &Mods, f: &Fixed) -> Option<Op> {
    let order = m.order.is_none_or(|o| o == Order::Relaxed);
    let scope = m
        .scope
        .is_none_or(|s| matches!(s, Scope::Cta | Scope::Cluster));
    (order && scope).then(|| mbarrier(op, m, f)).flatten()
}

fn cp_async(f: &Fixed, m: &Mods) -> Option<Op> {
    let bytes = u32::try_from(f.imm(0)).ok()?;
    let sizes: &[u32] = if m.has("cg") { &[16] } else { &[4, 8, 16] };
    sizes.contains(&bytes).then(|| Op::CpAsync {
        bytes,
        dst_offset: f.offset(0),
        src_offset: f.offset(1),
    })
}

fn direction(m: &Mods) -> Option<BulkDir> {
    match (m.space(0), m.space(1)) {
        (Space::SharedCluster | Space::Shared, Space::Global) => Some(BulkDir::GlobalToShared),
        (Space::Global, Space::Shared) => Some(BulkDir::SharedToGlobal),
        (Space::SharedCluster, Space::Shared) => Some(BulkDir::SharedToCluster),
        _ => None,
    }
}

fn bulk_copy(m: &Mods, done: BulkDone) -> Option<Op> {
    let dir = direction(m)?;
    let multicast = m.has("multicast::cluster");
    let to_global = dir == BulkDir::SharedToGlobal;
    let legal = to_global == (done == BulkDone::BulkGroup)
        && (!multicast || dir == BulkDir::GlobalToShared && m.space(0) == Space::SharedCluster);
    legal.then_some(Op::Bulk(BulkOp::Copy {
        dir,
        done,
        multicast,
    }))
}

fn bulk_reduce(m: &Mods, done: BulkDone) -> Option<Op> {
    let dir = direction(m)?;
    let op = m.rmw?;
    let ty = m.ty(0);
    let narrow = matches!(ty, Ty::F16 | Ty::BF16);
    let ok = match done {
        BulkDone::Mbarrier => {
            dir == BulkDir::SharedToCluster
                && match op {
                    RmwOp::And | RmwOp::Or | RmwOp::Xor => ty == Ty::B32,
                    RmwOp::Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64),
                    RmwOp::Min | RmwOp::Max => matches!(ty, Ty::U32 | Ty::S32),
                    RmwOp::Inc | RmwOp::Dec => ty == Ty::U32,
                    _ => false,
                }
        }
        BulkDone::BulkGroup => {
            dir == BulkDir::SharedToGlobal
                && match op {
                    RmwOp::And | RmwOp::Or | RmwOp::Xor => matches!(ty, Ty::B32 | Ty::B64),
                    RmwOp::Add => {
                        matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32 | Ty::F64)
                            || narrow && m.has("noftz")
                    }
                    RmwOp::Min | RmwOp::Max => {
                        narrow || matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64)
                    }
                    RmwOp::Inc | RmwOp::Dec => ty == Ty::U32,
                    _ => false,
                }
        }
    };
    ok.then_some(Op::Bulk(BulkOp::Reduce { dir, done, op, ty }))
}

/// `st.async` into the shared memory of a CTA of the cluster.
fn store_async(m: &Mods) -> Option<Op> {
    let (ty, vec) = (m.ty(0), m.vec());
    let weak = matches!(m.order, None | Some(Order::Weak));
    let fits = vec <= 4 && u32::from(vec) * ty.bytes() <= 16;
    let space = matches!(m.space(0), Space::Generic | Space::SharedCluster);
    (weak && fits && space).then_some(Op::Bulk(BulkOp::StoreAsync { ty, vec }))
}

fn reduce_async(m: &Mods) -> Option<Op> {
    let (op, ty) = (m.rmw?, m.ty(0));
    let exists = match op {
        RmwOp::Inc | RmwOp::Dec => ty == Ty::U32,
        RmwOp::Min | RmwOp::Max => matches!(ty, Ty::U32 | Ty::S32),
        RmwOp::Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
        RmwOp::And | RmwOp::Or | RmwOp::Xor => ty == Ty::B32,
        RmwOp::Exch | RmwOp::Cas => false,
    };
    let ordered = matches!(
        (m.order, m.scope),
        (Some(Order::Relaxed), Some(Scope::Cluster))
    );
    (exists && ordered && m.space(0) == Space::SharedCluster)
        .then_some(Op::Bulk(BulkOp::ReduceAsync { op, ty }))
}

fn tensor_load(m: &Mods) -> Option<Op> {
    let multicast = m.has("multicast::cluster");
    let legal = direction(m)? == BulkDir::GlobalToShared
        && (!multicast || m.space(0) == Space::SharedCluster);
    legal.then_some(Op::Bulk(BulkOp::TensorLoad {
        rank: m.rank,
        multicast,
    }))
}

fn tensor_store(m: &Mods, reduce: Option<RmwOp>) -> Option<Op> {
    let legal = direction(m)? == BulkDir::SharedToGlobal
        && reduce.is_none_or(|op| !matches!(op, RmwOp::Exch | RmwOp::Cas));
    legal.then_some(Op::Bulk(BulkOp::TensorStore {
        rank: m.rank,
        reduce,
    }))
}

fn wait_group(m: &Mods, f: &Fixed) -> Option<Op> {
    let read = m.has("read");
    let pending = u32::try_from(f.imm(0)).ok()?;
    Some(Op::Bulk(BulkOp::WaitGroup { pending, read }))
}

fn tensormap(m: &Mods, f: &Fixed) -> Option<Op> {
    let ordinal = u8::try_from(f.imm(0)).ok().filter(|o| *o < 5);
    let wide = m.ty(0) == Ty::B64;
    let field = if m.has("global_address") {
        wide.then_some(TensormapField::GlobalAddress)?
    } else if m.has("global_stride") {
        wide.then_some(TensormapField::GlobalStride(ordinal?))?
    } else if wide {
        return None;
    } else if m.has("global_dim") {
        TensormapField::GlobalDim(ordinal?)
    } else if m.has("box_dim") {
        TensormapField::BoxDim(ordinal?)
    } else if m.has("element_stride") {
        TensormapField::ElementStride(ordinal?)
    } else if m.has("rank") {
        TensormapField::Rank
    } else if m.has("elemtype") {
        TensormapField::Elemtype
    } else if m.has("interleave_layout") {
        TensormapField::InterleaveLayout
    } else if m.has("swizzle_mode") {
        TensormapField::SwizzleMode
    } else {
        TensormapField::FillMode
    };
    let space = m.space(0);
    matches!(space, Space::Generic | Space::Global | Space::Shared).then(|| Op::TensormapReplace {
        field,
        space,
        offset: f.offset(0),
    })
}

fn fence(m: &Mods) -> Option<Op> {
    let order = m.order.unwrap_or(Order::AcqRel);
    matches!(
        order,
        Order::SeqCst | Order::AcqRel | Order::Acquire | Order::Release
    )
    .then(|| m.scope)
    .flatten()
    .map(|scope| Op::Fence(FenceKind::Memory(order, scope)))
}

fn tensormap_fence(m: &Mods) -> Option<Op> {
    Some(Op::Fence(match m.order? {
        Order::Release => FenceKind::ProxyTensormapRelease(m.scope?),
        Order::Acquire => FenceKind::ProxyTensormapAcquire(m.scope?),
        _ => return None,
    }))
}

/// Fences of one direction that are restricted to operations on shared memory, at cluster scope.
fn restricted(m: &Mods, kind: fn(Order) -> FenceKind) -> Option<Op> {
    let order = m.order?;
    let legal = m.scope == Some(Scope::Cluster)
        && match order {
            Order::Acquire => m.has("sync_restrict::shared::cluster"),
            Order::Release => m.has("sync_restrict::shared::cta"),
            _ => false,
        };
    legal.then_some(Op::Fence(kind(order)))
}

fn membar(m: &Mods) -> Option<Op> {
    let scope = if m.has("gl") { Scope::Gpu } else { m.scope? };
    (scope != Scope::Cluster).then_some(Op::Fence(FenceKind::Memory(Order::SeqCst, scope)))
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("mbarrier", ".init @space? .b64",               "a0,su", |m, f| mbarrier(MbarOp::Init, m, f)),
    row("mbarrier", ".inval @space? .b64",              "a0", |m, f| mbarrier(MbarOp::Inval, m, f)),
    row("mbarrier", ".arrive .expect_tx? .noComplete? @sem? @scope? @space? .b64", "Dq,a0,su?", arrive),
    row("mbarrier", ".arrive_drop .expect_tx? .noComplete? @sem? @scope? @space? .b64", "Dq,a0,su?", arrive),
    row("mbarrier", ".expect_tx @sem? @scope? @space? .b64", "a0,su", |m, f| transactions(MbarOp::ExpectTx, m, f)),
    row("mbarrier", ".complete_tx @sem? @scope? @space? .b64", "a0,su", |m, f| transactions(MbarOp::CompleteTx, m, f)),
    row("mbarrier", ".test_wait @sem? @scope? @space? .b64", "dp,a0,sq", wait),
    row("mbarrier", ".test_wait .parity @sem? @scope? @space? .b64", "dp,a0,su", wait),
    row("mbarrier", ".try_wait @sem? @scope? @space? .b64", "dp,a0,sq,su?", wait),
    row("mbarrier", ".try_wait .parity @sem? @scope? @space? .b64", "dp,a0,su,su?", wait),
    row("mbarrier", ".pending_count .b64",              "du,sq", |_, _| Some(Op::Mbarrier(MbarOp::PendingCount, Space::Shared, 0))),

    row("cp", ".async .ca|.cg .shared|.shared::cta .global .L2::cache_hint? .L2::64B|.L2::128B|.L2::256B?", "as,ag,c,su?,h!", |m, f| cp_async(f, m)),
    row("cp", ".async .ca|.cg .shared|.shared::cta .global .L2::cache_hint? .L2::64B|.L2::128B|.L2::256B?", "as,ag,c,sp,h!", |m, f| cp_async(f, m)),
    row("cp", ".async .commit_group",                   "", |_, _| Some(Op::CpAsyncCommit)),
    row("cp", ".async .wait_group",                     "c", |_, f| Some(Op::CpAsyncWait(u32::try_from(f.imm(0)).ok()?))),
    row("cp", ".async .wait_all",                       "", |_, _| Some(Op::CpAsyncWait(0))),
    row("cp", ".async .mbarrier .arrive .noinc? @space? .b64", "a0", |m, f| mbarrier(MbarOp::CpAsyncArrive { noinc: m.has("noinc") }, m, f)),

    row("cp", ".async .bulk @space @space .mbarrier::complete_tx::bytes .L2::cache_hint?", "f0,f1,su,fs,h!", |m, _| bulk_copy(m, BulkDone::Mbarrier)),
    row("cp", ".async .bulk @space @space .mbarrier::complete_tx::bytes .multicast::cluster .L2::cache_hint?", "f0,f1,su,fs,sh,h!", |m, _| bulk_copy(m, BulkDone::Mbarrier)),
    row("cp", ".async .bulk @space @space .bulk_group .L2::cache_hint?", "f0,f1,su,h!", |m, _| bulk_copy(m, BulkDone::BulkGroup)),
    row("cp", ".async .bulk .prefetch .L2 .global .L2::cache_hint?", "fg,su,h!", |_, _| Some(Op::Bulk(BulkOp::Prefetch))),
    row("cp", ".async .bulk .prefetch .tensor @rank .L2 .global .tile? .L2::cache_hint?", "t,h!", |_, _| Some(Op::Bulk(BulkOp::Prefetch))),
    row("cp", ".async .bulk .commit_group",             "", |_, _| Some(Op::Bulk(BulkOp::CommitGroup))),
    row("cp", ".async .bulk .wait_group",               "c", wait_group),
    row("cp", ".async .bulk .wait_group .read",         "c", wait_group),
    row("cp", ".async .bulk .tensor @rank @space @space .tile? .mbarrier::complete_tx::bytes .L2::cache_hint?", "f0,t,fs,h!", |m, _| tensor_load(m)),
    row("cp", ".async .bulk .tensor @rank @space @space .tile? .mbarrier::complete_tx::bytes .multicast::cluster .L2::cache_hint?", "f0,t,fs,sh,h!", |m, _| tensor_load(m)),
    row("cp", ".async .bulk .tensor @rank @space @space .tile? .bulk_group .L2::cache_hint?", "t,f1,h!", |m, _| tensor_store(m, None)),
    row("cp", ".reduce .async .bulk .tensor @rank @space @space @rmw .tile? .bulk_group .L2::cache_hint?", "t,f1,h!", |m, _| tensor_store(m, m.rmw)),
    row("cp", ".reduce .async .bulk @space @space .mbarrier::complete_tx::bytes @rmw :u32|s32|u64|s64|b32|b64", "f0,f1,su,fs", |m, _| bulk_reduce(m, BulkDone::Mbarrier)),
    row("cp", ".reduce .async .bulk @space @space .bulk_group .L2::cache_hint? @rmw .noftz? :u32|s32|u64|s64|b32|b64|f32|f64|f16|bf16", "f0,f1,su,h!", |m, _| bulk_reduce(m, BulkDone::BulkGroup)),

    row("st", ".async @sem? @space .mbarrier::complete_tx::bytes @vec? :b32|u32|s32|f32|b64|u64|s64|f64", "f0,v0,fs", |m, _| store_async(m)),
    row("st", ".async @sem? .mbarrier::complete_tx::bytes @vec? :b32|u32|s32|f32|b64|u64|s64|f64", "fs,v0,fs", |m, _| store_async(m)),
    row("red", ".async @sem @scope @space .mbarrier::complete_tx::bytes @rmw :u32|s32|u64|s64|b32", "f0,s0,fs", |m, _| reduce_async(m)),

    row("tensormap", ".replace .tile .global_address @space? .b1024 :b64", "a0,s0", tensormap),
    row("tensormap", ".replace .tile .rank @space? .b1024 :b32", "a0,s0", tensormap),
    row("tensormap", ".replace .tile .global_dim|.box_dim|.element_stride @space? .b1024 :b32", "a0,c,s0", tensormap),
    row("tensormap", ".replace .tile .global_stride @space? .b1024 :b64", "a0,c,s0", tensormap),
    row("tensormap", ".replace .tile .elemtype|.interleave_layout|.swizzle_mode|.fill_mode @space? .b1024 :b32", "a0,s0", tensormap),

    row("tensormap", ".cp_fenceproxy .global .shared::cta .tensormap::generic @sem @scope .sync .aligned", "fg,fs,c",
        |m, f| (m.order == Some(Order::Release) && f.imm(0) == 128).then_some(Op::TensormapCopy)),

    row("fence", "@sem .sync_restrict::shared::cta|.sync_restrict::shared::cluster @scope", "", |m, _| restricted(m, |order| FenceKind::Memory(order, Scope::Cluster))),
    row("fence", ".proxy .async::generic @sem .sync_restrict::shared::cta|.sync_restrict::shared::cluster @scope", "", |m, _| restricted(m, |_| FenceKind::ProxyAsync)),
    row("fence", "@sem? @scope",                        "", |m, _| fence(m)),
    row("fence", ".mbarrier_init @sem @scope",          "", |m, _| (m.order == Some(Order::Release) && m.scope == Some(Scope::Cluster)).then_some(Op::Fence(FenceKind::MbarrierInit))),
    row("fence", ".proxy .async",                       "", |_, _| Some(Op::Fence(FenceKind::ProxyAsync))),
    row("fence", ".proxy .async .global|.shared::cta|.shared::cluster", "", |_, _| Some(Op::Fence(FenceKind::ProxyAsync))),
    row("fence", ".proxy .alias",                       "", |_, _| Some(Op::Fence(FenceKind::ProxyAlias))),
    row("fence", ".proxy .tensormap::generic .release @scope", "", |m, _| Some(Op::Fence(FenceKind::ProxyTensormapRelease(m.scope?)))),
    row("fence", ".proxy .tensormap::generic @sem @scope", "fg,c", |m, f| (m.order == Some(Order::Acquire) && f.imm(0) == 128).then(|| tensormap_fence(m)).flatten()),
    row("membar", ".proxy .alias",                      "", |_, _| Some(Op::Fence(FenceKind::ProxyAlias))),
    row("membar", ".gl",                                "", |m, _| membar(m)),
    row("membar", "@scope",                             "", |m, _| membar(m)),
];
