//! Operations of the asynchronous engines and what orders them: fences, mbarriers, bulk and tensor
//! copies, wgmma, and the tensor-map fields.

use super::{Order, RmwOp, Scope, Ty};

/// wgmma / mma element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum MmaTy {
    F16,
    BF16,
    TF32,
    E4M3,
    E5M2,
    S8,
    U8,
    S4,
    U4,
    B1,
    F32,
    S32,
    F64,
}

/// Fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FenceKind {
    /// `fence.{sc,acq_rel,acquire,release}.scope` and `membar`.
    Memory(Order, Scope),
    /// `fence.mbarrier_init.release.cluster`.
    MbarrierInit,
    /// `fence.proxy.async` in all its space forms.
    ProxyAsync,
    /// `fence.proxy.alias`.
    ProxyAlias,
    /// `fence.proxy.tensormap::generic.release.scope`.
    ProxyTensormapRelease(Scope),
    /// `fence.proxy.tensormap::generic.acquire.scope [addr], 128`; `src` = address.
    ProxyTensormapAcquire(Scope),
}

/// mbarrier instructions. Addresses are 32-bit shared addresses (or generic 64-bit: see `wide`).
/// `offset` is added to `src[0]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MbarOp {
    /// `src` = address, count.
    Init,
    /// `src` = address.
    Inval,
    /// `arrive[.noComplete][.expect_tx]`, `arrive_drop…`: `dst` = state token if asked for;
    /// `src` = address, then the tx-count if `expect_tx`, then the arrive count if `count`.
    Arrive {
        /// `.expect_tx`.
        expect_tx: bool,
        /// An explicit arrival count is the last source.
        count: bool,
        /// `arrive_drop`.
        drop: bool,
        /// `.noComplete`.
        no_complete: bool,
    },
    /// `expect_tx`: `src` = address, bytes.
    ExpectTx,
    /// `complete_tx`: `src` = address, bytes.
    CompleteTx,
    /// `test_wait` / `try_wait`: `dst` = predicate; `src` = address, parity or state token
    /// (and the suspend-time hint, which may be ignored).
    Wait {
        /// `try_wait` (may suspend) rather than `test_wait`.
        try_wait: bool,
        /// `src[1]` is a parity rather than a state token.
        parity: bool,
    },
    /// `pending_count`: `dst` = count, `src` = state token.
    PendingCount,
    /// `cp.async.mbarrier.arrive[.noinc]`: `src` = address.
    CpAsyncArrive {
        /// `.noinc`.
        noinc: bool,
    },
}

/// The state space of a bulk copy's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "source to destination")]
pub enum BulkDir {
    GlobalToShared,
    SharedToGlobal,
    SharedToCluster,
}

/// The forms of `multimem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Multimem {
    /// `ld_reduce`.
    LoadReduce {
        /// Operation.
        op: RmwOp,
        /// `.acc::f32`.
        wide: bool,
    },
    /// `st`.
    Store,
    /// `red`.
    Reduce(RmwOp),
}

/// Completion mechanism of a bulk operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum BulkDone {
    Mbarrier,
    BulkGroup,
}

/// Asynchronous copies of the bulk engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BulkOp {
    /// `cp.async.bulk`: `src` = dst address, src address, size, `[mbarrier]`, `[cta mask]`.
    Copy {
        /// Direction.
        dir: BulkDir,
        /// Completion.
        done: BulkDone,
        /// `.multicast::cluster` (the 16-bit CTA mask is the last source).
        multicast: bool,
    },
    /// `cp.async.bulk.tensor` loads (tile mode): `src` = dst address, tensor-map address,
    /// `rank` coordinates, mbarrier, [cta mask].
    TensorLoad {
        /// 1 to 5.
        rank: u8,
        /// `.multicast::cluster`.
        multicast: bool,
    },
    /// `cp.async.bulk.tensor` stores: `src` = tensor-map address, `rank` coordinates, src address.
    TensorStore {
        /// 1 to 5.
        rank: u8,
        /// `cp.reduce…`: the operation, element type from the map.
        reduce: Option<RmwOp>,
    },
    /// `cp.reduce.async.bulk`: `src` as in `Copy`.
    Reduce {
        /// Direction.
        dir: BulkDir,
        /// Completion.
        done: BulkDone,
        /// Operation.
        op: RmwOp,
        /// Element type.
        ty: Ty,
    },
    /// `st.async`: `src` = dst address, values, mbarrier.
    StoreAsync {
        /// Element type.
        ty: Ty,
        /// Number of values.
        vec: u8,
    },
    /// `red.async`: `src` = dst address, value, mbarrier.
    ReduceAsync {
        /// Operation.
        op: RmwOp,
        /// Element type.
        ty: Ty,
    },
    /// `cp.async.bulk.prefetch…` and other hints: no effect beyond address checks.
    Prefetch,
    /// `cp.async.bulk.commit_group`.
    CommitGroup,
    /// `cp.async.bulk.wait_group[.read] n`.
    WaitGroup {
        /// At most this many groups may stay open.
        pending: u32,
        /// `.read`: only the source must be free again.
        read: bool,
    },
}

/// Static part of `wgmma.mma_async`. `dst` = accumulator registers (N/2 of them for f32 D; they are
/// also inputs). `src` = [A registers (4) or A descriptor], B descriptor, scale-d predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wgmma {
    /// Columns of D: 8 to 256.
    pub n: u16,
    /// K of the instruction.
    pub k: u16,
    /// Accumulator type.
    pub d: MmaTy,
    /// Element type of A.
    pub a: MmaTy,
    /// Element type of B.
    pub b: MmaTy,
    /// A comes from registers.
    pub a_regs: bool,
    /// `imm-scale-a` is -1.
    pub negate_a: bool,
    /// `imm-scale-b` is -1.
    pub negate_b: bool,
    /// A is MN-major.
    pub transpose_a: bool,
    /// B is MN-major.
    pub transpose_b: bool,
    /// `.satfinite`.
    pub saturate: bool,
}

/// Fields of a tensor map that `tensormap.replace` writes; dimensions count from 0 (innermost).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum TensormapField {
    GlobalAddress,
    Rank,
    BoxDim(u8),
    GlobalDim(u8),
    /// In bytes; `GlobalStride(0)` is the stride of dimension 1.
    GlobalStride(u8),
    ElementStride(u8),
    Elemtype,
    InterleaveLayout,
    SwizzleMode,
    FillMode,
}
