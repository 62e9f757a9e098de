//! Typed IR: what lowering makes of PTX text and what the executor turns into handlers.
//!
//! An [`Instr`] is an [`Op`] (everything that is known statically: types, modifiers, offsets) plus
//! ordered operand lists: `dst` are registers written, `src` are values read. The order of
//! operands is that of the PTX text unless the variant says otherwise. Register operands are
//! *slots* of the warp's register file, already allocated by liveness.

mod arith;
mod asynchronous;
pub mod cfg;
mod control;
pub(crate) mod decode;
mod display;
pub mod lower;
mod matrix;
mod video;

pub use arith::{Arith, FloatClass};
pub use asynchronous::{
    BulkDir, BulkDone, BulkOp, FenceKind, MbarOp, MmaTy, Multimem, TensormapField, Wgmma,
};
pub use control::{
    Builtin, CallSite, Callee, Calls, FUNCTION_WINDOW, ReservedSmem, Routine, Stack, Transfer,
    function_address,
};
pub use matrix::{BitOp, Fragments, Layout, Mma, WmmaAccess, WmmaMatrix};
use smallvec::SmallVec;
use std::sync::Arc;
pub use video::{Second, Video, VideoOp};

use crate::ptx::Sources;

/// Operand and memory element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    F32,
    F64,
    E4M3x2,
    E5M2x2,
    UE8M0x2,
    U16x2,
    S16x2,
}

impl Ty {
    /// Size in bytes of one value of this type (predicates count as 4).
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::BF16 => 2,
            Self::E4M3x2 | Self::E5M2x2 | Self::UE8M0x2 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B128 => 16,
            _ => 4,
        }
    }
    /// Whether values are signed integers.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }
}

/// Register classes. A predicate is one bit per lane (one `u32` per warp); `B32` holds every type
/// of up to 32 bits, zero-extended; `B64` and `B128` take two and four consecutive 32-lane slots'
/// worth of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "see the type")]
pub enum Class {
    Pred,
    B32,
    B64,
    B128,
}

/// A register: class and slot. Predicates count in a file of their own; `B32/B64/B128` share one
/// file counted in units of 32 lanes × 4 bytes (a `B64` at slot 6 occupies 6 and 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reg {
    /// Register class.
    pub class: Class,
    /// First slot.
    pub slot: u32,
}

/// A source operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A constant, as raw bits already truncated to the operand width. Symbol addresses arrive
    /// here too, resolved at load time. Immediate predicates are 0 or 1.
    Imm(u64),
    /// A negated predicate register (`!p` as a source of `bar.red`, `selp`, `vote`, …).
    NotPred(Reg),
}

/// `@p` or `@!p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guard {
    /// Predicate slot.
    pub slot: u32,
    /// `@!p`.
    pub negated: bool,
}

/// Rounding of arithmetic and conversions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Rounding {
    /// As the instruction defines when nothing is written (`rn` for f32 add/mul/fma).
    #[default]
    Default,
    Rn,
    Rz,
    Rm,
    Rp,
    Rna,
    Rs,
    Rni,
    Rzi,
    Rmi,
    Rpi,
    Approx,
    Full,
}

/// Modifiers of floating-point arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FloatMod {
    /// Rounding.
    pub rounding: Rounding,
    /// `.ftz`.
    pub ftz: bool,
    /// `.sat` (clamp to [0, 1]).
    pub sat: bool,
}

/// State spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Space {
    Generic,
    Global,
    Shared,
    SharedCluster,
    Local,
    Param,
    Const,
}

/// Scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// Memory order of a load, store, atomic or fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Order {
    Weak,
    Volatile,
    Mmio,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
}

/// Comparison operators of `setp`; the `u` forms are true when an operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Lo,
    Ls,
    Hi,
    Hs,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Boolean combination of `setp.cmp.and p, a, b, c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// Two-operand arithmetic; `Min`/`Max` of floats carry `nan` and `xorsign` in [`Op::FMinMax`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum IntOp {
    Add,
    Sub,
    MulLo,
    MulHi,
    MulWide,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    AddSat,
    SubSat,
}

/// One-operand integer operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum IntUn {
    Neg,
    Abs,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
    Bfind,
    BfindShiftamt,
}

/// Approximate and exact one-operand float functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum FloatUn {
    Neg,
    Abs,
    Rcp,
    Rsqrt,
    Sqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

/// Float two-operand operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum FloatBin {
    Add,
    Sub,
    Mul,
    Div,
}

/// Read-modify-write operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum RmwOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// Special registers; the axis of the vectors is 0 = x, 1 = y, 2 = z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Clusterid(u8),
    Nclusterid(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    Clock64,
    Globaltimer,
    GlobaltimerLo,
    GlobaltimerHi,
    DynamicSmemSize,
    TotalSmemSize,
    /// `%aggr_smem_size`: with the reserved part.
    AggrSmemSize,
    ReservedSmem(ReservedSmem),
    Envreg(u8),
    ClockHi,
    /// Performance counters; they read as zero.
    Pm(u8),
    Pm64(u8),
    /// Zero outside of device graphs.
    CurrentGraphExec,
    /// The fourth component of a vector.
    Zero,
}

/// Warp shuffle modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Warp votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// Reductions of `bar.red`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum BarRed {
    Popc,
    And,
    Or,
}

/// Memory access shape shared by loads and stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    /// State space; generic addresses are resolved per lane.
    pub space: Space,
    /// Element type in memory.
    pub ty: Ty,
    /// Vector length: 1, 2, 4 or 8.
    pub vec: u8,
    /// Memory order.
    pub order: Order,
    /// Scope of a strong access.
    pub scope: Scope,
    /// Added to the address operand.
    pub offset: i64,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// `mov`: also `cvta` where it is the identity. Class decides the width; predicates too.
    Mov,
    /// `mov.b64 d, {a, b}` and the like: `src` are parts, low first, each `part` wide.
    Pack {
        /// Type of the parts.
        part: Ty,
    },
    /// `mov.b64 {a, b}, d`: `dst` are parts, low first. A `_` part has no `dst` and its index is
    /// set in `sink` (bit i = part i is discarded).
    Unpack {
        /// Type of the parts.
        part: Ty,
        /// Discarded parts.
        sink: u8,
    },
    /// Reads a special register.
    Special(Special),
    /// Integer and bitwise two-operand arithmetic (predicates for And/Or/Xor with `Ty::Pred`).
    Int(IntOp, Ty),
    /// Integer one-operand arithmetic.
    IntUnary(IntUn, Ty),
    /// `mad.{lo,hi,wide}`: `src` = a, b, c.
    Mad(IntOp, Ty),
    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad…cc`: carry in and out of the thread's CC register.
    Carry {
        /// Add, Sub, MulLo (mad.lo) or MulHi (mad.hi).
        op: IntOp,
        /// Element type.
        ty: Ty,
        /// Uses the carry flag.
        carry_in: bool,
        /// Sets the carry flag.
        carry_out: bool,
    },
    /// Float add, sub, mul, div.
    Float(FloatBin, Ty, FloatMod),
    /// `fma` (and `mad` of floats): `relu` for f16/bf16.
    Fma(Ty, FloatMod, bool),
    /// `min`/`max` of floats.
    FMinMax {
        /// `max` rather than `min`.
        max: bool,
        /// Element type.
        ty: Ty,
        /// `.ftz`.
        ftz: bool,
        /// `.NaN`.
        nan: bool,
        /// `.xorsign.abs`.
        xorsign: bool,
    },
    /// Float one-operand functions.
    FloatUnary(FloatUn, Ty, FloatMod),
    /// `testp`, `copysign` are separate, rare forms: `copysign` a, b.
    Copysign(Ty),
    /// `cvt`: `src` = a (for packed x2 destinations: a, b with a in the high half).
    Cvt {
        /// Destination type.
        to: Ty,
        /// Source type.
        from: Ty,
        /// Modifiers.
        modifiers: FloatMod,
        /// `.satfinite`.
        satfinite: bool,
        /// `.relu`.
        relu: bool,
    },
    /// `setp`: `dst` = p [, q = the complement, or of packed types the high half]; `src` = a, b [, c].
    Setp {
        /// Comparison.
        cmp: Cmp,
        /// Type of a and b.
        ty: Ty,
        /// Combination with predicate `src[2]`.
        combine: Option<BoolOp>,
        /// `.ftz`.
        ftz: bool,
    },
    /// `set`: all ones or 1.0 into `dst`, half by half for packed types; `src` = a, b [, c].
    Set {
        /// Comparison.
        cmp: Cmp,
        /// Destination type.
        to: Ty,
        /// Type of a and b.
        ty: Ty,
        /// Combination with predicate `src[2]`.
        combine: Option<BoolOp>,
        /// `.ftz`.
        ftz: bool,
    },
    /// `selp`: `src` = a, b, predicate.
    Selp(Ty),
    /// `slct`: `src` = a, b, c; a if c ≥ 0.
    Slct {
        /// Type of a and b.
        ty: Ty,
        /// Type of c.
        by: Ty,
        /// `.ftz`.
        ftz: bool,
    },
    /// `shf.{l,r}.{wrap,clamp}`: `src` = a (low), b (high), c.
    Shf {
        /// `.r` rather than `.l`.
        right: bool,
        /// `.clamp` rather than `.wrap`.
        clamp: bool,
    },
    /// `bfe`.
    Bfe(Ty),
    /// `bfi`: `src` = a, b, pos, len.
    Bfi(Ty),
    /// `prmt`: mode 0 is the default form; 1.. = f4e, b4e, rc8, ecl, ecr, rc16.
    Prmt(u8),
    /// `lop3.b32` with its truth table.
    Lop3(u8),
    /// `dp4a`: types of a and b.
    Dp4a(Ty, Ty),
    /// The rarer register-only instructions.
    Arith(Arith),
    /// Load. `src` = address; `dst` = `vec` registers.
    Ld(Access),
    /// Store. `src` = address, then `vec` values.
    St(Access),
    /// `atom` and `red`: `dst` = old value(s), empty for `red`; `src` = address, b [, c for cas].
    Atom(RmwOp, Access),
    /// `cp.async`: `src` = dst (shared), src (global) [, src-size or the predicate ignore-src].
    /// Size in bytes.
    CpAsync {
        /// 4, 8 or 16.
        bytes: u32,
        /// Offset of the destination.
        dst_offset: i64,
        /// Offset of the source.
        src_offset: i64,
    },
    /// `cp.async.commit_group`.
    CpAsyncCommit,
    /// `cp.async.wait_group n` (`wait_all` = 0).
    CpAsyncWait(u32),
    /// `prefetch`, `prefetchu`, `applypriority`, `discard`: no effect. `src` = address.
    Prefetch,
    /// `createpolicy`: the policy is opaque and without effect.
    Createpolicy(u64),
    /// `multimem`: `dst` = what `ld_reduce` loads; `src` = address [, values].
    Multimem(Multimem, Access),
    /// `tensormap.cp_fenceproxy`: `src` = destination (global), source (shared), both with their
    /// offsets added. Copies 128 bytes once for the warp.
    TensormapCopy,
    /// `cvta` between a window and generic: `dst`, `src`; identity for global, const.
    Cvta {
        /// The non-generic space.
        space: Space,
        /// `cvta.to.space`.
        to_space: bool,
    },
    /// `isspacep.space`: `dst` = predicate.
    Isspacep(Space),
    /// `mapa`: `src` = address, CTA rank.
    Mapa {
        /// 64-bit addresses.
        wide: bool,
        /// Generic addresses rather than shared ones.
        generic: bool,
    },
    /// `getctarank`.
    Getctarank {
        /// Generic 64-bit form.
        wide: bool,
    },
    /// Branch to a block; guarded or not. `.uni` is only a hint.
    Bra(BlockId),
    /// `brx.idx`: `src` = index.
    BrxIdx(Vec<BlockId>),
    /// `exit`, and `ret` from an entry.
    Exit,
    /// `call` of a routine, by number of its site; `src` = address of an indirect callee.
    Call(u32),
    /// `ret` from a routine.
    Ret,
    /// `dst` = base of the routine's frame in local memory.
    Frame,
    /// `call` of a function that the driver provides.
    Builtin(Builtin),
    /// `alloca`: `dst` = local address; `src` = bytes. Alignment in bytes.
    Alloca(u32),
    /// `stacksave`: `dst` = top of the stack.
    StackSave,
    /// `stackrestore`: `src` = top of the stack.
    StackRestore,
    /// `trap`.
    Trap,
    /// `brkpt`.
    Brkpt,
    /// Notes that the opcode with this number runs; see [`crate::coverage`].
    Cover(u32),
    /// `bar.sync` / `barrier.sync` / `bar.arrive`: `src` = id [, thread count].
    Bar {
        /// `arrive` rather than `sync`.
        arrive: bool,
        /// `.aligned`.
        aligned: bool,
    },
    /// `bar.red`: `dst` = result; `src` = id, `[count]`, predicate (last).
    BarRed(BarRed),
    /// `bar.warp.sync`: `src` = member mask.
    BarWarp,
    /// `barrier.cluster.arrive`.
    BarClusterArrive {
        /// `.relaxed`: no release.
        relaxed: bool,
    },
    /// `barrier.cluster.wait`.
    BarClusterWait,
    /// Fences.
    Fence(FenceKind),
    /// mbarrier family. `space` may be generic, shared or shared::cluster.
    Mbarrier(MbarOp, Space, i64),
    /// Bulk asynchronous family. Offsets are already folded in by lowering.
    Bulk(BulkOp),
    /// `tensormap.replace.tile`: `src` = address of the 128-byte map, new value (B64 for the global
    /// address and strides, B32 otherwise).
    TensormapReplace {
        /// Field.
        field: TensormapField,
        /// Generic, global or shared.
        space: Space,
        /// Added to the address.
        offset: i64,
    },
    /// `wgmma.mma_async`.
    Wgmma(Wgmma),
    /// `wgmma.fence`.
    WgmmaFence,
    /// `wgmma.commit_group`.
    WgmmaCommit,
    /// `wgmma.wait_group n`.
    WgmmaWait(u32),
    /// Put in by the executor: the next instruction reads `src` and writes `dst`, which a wgmma in
    /// flight may own; `copy` for a plain `mov`.
    WgmmaTouch {
        /// The next instruction is `mov`.
        copy: bool,
    },
    /// `setmaxnreg`: `inc` and the register count.
    Setmaxnreg {
        /// `.inc`.
        inc: bool,
        /// Registers per thread.
        count: u32,
    },
    /// `elect.sync`: `dst` = [lane id], predicate (a `_` destination is absent; see `has_lane`);
    /// `src` = member mask.
    Elect {
        /// `dst[0]` is the elected lane.
        has_lane: bool,
    },
    /// `activemask`.
    Activemask,
    /// `vote.sync`: `src` = predicate, member mask. `dst` is a predicate, or b32 for ballot.
    Vote(VoteMode),
    /// `match.{any,all}.sync`: `dst` = mask [, predicate]; `src` = a, member mask.
    Match {
        /// `match.all`.
        all: bool,
        /// Element type.
        ty: Ty,
    },
    /// `redux.sync`: `src` = a, member mask.
    Redux(RmwOp, Ty),
    /// `shfl.sync`: `dst` = d [, predicate]; `src` = a, b, c, member mask.
    Shfl(ShflMode),
    /// `nanosleep`: `src` = time.
    Nanosleep,
    /// `griddepcontrol.wait` (true) or `.launch_dependents` (false).
    Griddep {
        /// `.wait`.
        wait: bool,
    },
    /// `mma.sync`, `wmma.mma`.
    Mma(Mma),
    /// `wmma.load`.
    WmmaLoad(WmmaAccess),
    /// `wmma.store`.
    WmmaStore(WmmaAccess),
    /// `movmatrix`: transposes an 8×8 matrix of b16.
    Movmatrix,
    /// `ldmatrix`: `num` 8×8 b16 matrices.
    Ldmatrix {
        /// 1, 2 or 4.
        num: u8,
        /// `.trans`.
        trans: bool,
        /// Shared or generic.
        space: Space,
        /// Address offset.
        offset: i64,
    },
    /// `stmatrix`.
    Stmatrix {
        /// 1, 2 or 4.
        num: u8,
        /// `.trans`.
        trans: bool,
        /// Shared or generic.
        space: Space,
        /// Address offset.
        offset: i64,
    },
}

/// Index of a basic block within a function.
pub type BlockId = u32;

/// An instruction with its operands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instr {
    /// Operation.
    pub op: Op,
    /// `@p`.
    pub guard: Option<Guard>,
    /// Registers written.
    pub dst: SmallVec<[Reg; 2]>,
    /// Values read.
    pub src: SmallVec<[Operand; 4]>,
    /// 1-based line in the PTX text.
    pub line: u32,
}

/// A straight run of instructions. Falls through to the next block in order unless its last
/// instruction is an unguarded `Bra`, `BrxIdx`, `Exit` or `Trap`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// Instructions; control flow only at the end.
    pub instrs: Vec<Instr>,
}

/// One `.param` of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Byte offset in the parameter buffer.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Alignment.
    pub align: u32,
}

/// A lowered entry. Blocks stand in an order in which a block's index is below that of the
/// post-dominator of any branch in it (reverse post-order, loops contiguous), so that running the
/// split with the lowest position first reconverges a diverged warp.
#[derive(Debug, Clone)]
pub struct Function {
    /// Entry name.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Blocks; execution starts at block 0.
    pub blocks: Vec<Block>,
    /// Slots of the B32 file per warp.
    pub slots: u32,
    /// Predicate slots per warp.
    pub preds: u32,
    /// Bytes of `.local` per thread.
    pub local_bytes: u32,
    /// Bytes of static shared memory; dynamic shared memory begins at the next multiple of
    /// `dynamic_align` at or above it.
    pub static_shared: u32,
    /// Alignment of `.extern .shared`; at least 16.
    pub dynamic_align: u32,
    /// `.maxntid`, if given.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`, if given.
    pub req_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`, if given.
    pub req_cluster: Option<[u32; 3]>,
    /// Estimated registers per thread (softgpu does not run machine code).
    pub registers: u32,
    /// Where its lines come from.
    pub sources: Arc<Sources>,
    /// Functions that are called rather than expanded in place. Where there are any, block 0 only
    /// leads to the entry, which stands behind them, so that the split with the lowest position is
    /// one that others wait for.
    pub calls: Calls,
}
