//! What a launch executed.
//!
//! Instruction counts come from prefix sums per program counter, added once per straight run of
//! instructions: the interpreter's inner loop counts nothing. A *lane instruction* is one lane
//! that was active when a warp instruction issued, whether or not its guard was true.

use std::ops::AddAssign;

use super::traffic::Traffic;
use crate::ir::{Instr, MbarOp, Multimem, Op, Operand, Order, Space, Special};

/// Classes of warp instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum InstrClass {
    /// Registers only.
    Alu,
    /// Loads.
    Load,
    /// Stores.
    Store,
    /// `atom` and `red`.
    Atomic,
    /// Branches and exits.
    Control,
    /// Shuffles, votes, special registers and other operations of one warp.
    Warp,
    /// Barriers, mbarriers, fences.
    Sync,
    /// Bulk copies, `cp.async`, wgmma.
    Async,
}

/// Number of classes.
pub const CLASSES: usize = 8;

/// Column of instructions whose effect others can see.
pub(super) const EFFECTS: usize = CLASSES;
/// Column of instructions that read what others may change.
pub(super) const POLLS: usize = CLASSES + 1;
/// Column of instructions that read a clock or sleep.
pub(super) const CLOCKS: usize = CLASSES + 2;

/// Columns of bytes that a lane moves in accesses without a guard, by state space as in
/// [`SpaceBytes::place`].
const BYTES: usize = CLASSES + 3;
/// Fields of [`SpaceBytes`].
const SPACES: usize = 5;

/// Columns of the prefix sums.
pub(super) const COLUMNS: usize = BYTES + SPACES;

/// Instruction counts of a straight run, by class and by the columns above.
pub(super) type Tally = [u32; COLUMNS];

/// Counters of one launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions by [`InstrClass`].
    pub warp_instructions: [u64; CLASSES],
    /// Lane instructions.
    pub lane_instructions: u64,
    /// Multiply-accumulates done by wgmma.
    pub wgmma_macs: u64,
    /// Multiply-accumulates done by `mma.sync` and `wmma`.
    pub mma_macs: u64,
    /// Bytes that loads, stores and atomics moved, per space.
    pub bytes: SpaceBytes,
    /// Bytes that asynchronous operations moved.
    pub moved: AsyncBytes,
    /// Times that a warp had to wait at a barrier or mbarrier.
    pub barrier_waits: u64,
    /// CTAs executed.
    pub ctas: u64,
    /// Hash of the machine's schedule up to the end of the launch: equal for equal runs.
    pub schedule: u64,
    /// What a look at each access tells, if somebody asked for it.
    pub traffic: Option<Box<Traffic>>,
}

/// Bytes that asynchronous operations moved, as their destinations received them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AsyncBytes {
    /// Bulk and tensor copies from global memory into one CTA.
    pub load: u64,
    /// The same into several CTAs of a cluster at once, counted in each.
    pub multicast: u64,
    /// Bulk and tensor copies from shared to global memory.
    pub store: u64,
    /// Bulk and tensor reductions into global memory.
    pub reduce: u64,
    /// Bulk copies and reductions, `st.async` and `red.async` into shared memory of the cluster.
    pub cluster: u64,
    /// `cp.async`.
    pub cp_async: u64,
}

impl AsyncBytes {
    /// All bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.load + self.multicast + self.store + self.reduce + self.cluster + self.cp_async
    }
}

/// Bytes by the state space that the instruction names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceBytes {
    /// Generic addresses.
    pub generic: u64,
    /// `.global` and `.const`.
    pub global: u64,
    /// `.shared`, own or of a peer CTA.
    pub shared: u64,
    /// `.local`.
    pub local: u64,
    /// `.param`.
    pub param: u64,
}

impl SpaceBytes {
    /// The number of the space's field.
    #[inline]
    const fn place(space: Space) -> usize {
        match space {
            Space::Generic => 0,
            Space::Global | Space::Const => 1,
            Space::Shared | Space::SharedCluster => 2,
            Space::Local => 3,
            Space::Param => 4,
        }
    }

    #[inline]
    fn fields(&mut self) -> [&mut u64; SPACES] {
        let Self {
            generic,
            global,
            shared,
            local,
            param,
        } = self;
        [generic, global, shared, local, param]
    }

    /// Adds to the space's count.
    #[inline]
    pub fn add(&mut self, space: Space, bytes: u64) {
        *self.fields()[Self::place(space)] += bytes;
    }

    /// Adds what the accesses without a guard of a straight run moved, executed by `lanes` lanes.
    #[inline]
    pub(super) fn add_run(&mut self, run: &Tally, lanes: u64) {
        let columns = &run[BYTES..];
        if columns.iter().any(|&bytes| bytes != 0) {
            for (field, &bytes) in self.fields().into_iter().zip(columns) {
                *field += u64::from(bytes) * lanes;
            }
        }
    }
}

impl Counters {
    /// Warp instructions of a class.
    #[must_use]
    pub fn of(&self, class: InstrClass) -> u64 {
        self.warp_instructions[class as usize]
    }

    /// All warp instructions.
    #[must_use]
    pub fn instructions(&self) -> u64 {
        self.warp_instructions.iter().sum()
    }

    pub(super) fn add_tally(&mut self, tally: &Tally) {
        for (sum, &count) in self.warp_instructions.iter_mut().zip(tally) {
            *sum += u64::from(count);
        }
    }
}

impl AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        for (sum, count) in self
            .warp_instructions
            .iter_mut()
            .zip(other.warp_instructions)
        {
            *sum += count;
        }
        self.lane_instructions += other.lane_instructions;
        self.wgmma_macs += other.wgmma_macs;
        self.mma_macs += other.mma_macs;
        self.barrier_waits += other.barrier_waits;
        self.ctas += other.ctas;
        if other.schedule != 0 {
            self.schedule = other.schedule;
        }
        let (sum, more) = (&mut self.bytes, &other.bytes);
        sum.generic += more.generic;
        sum.global += more.global;
        sum.shared += more.shared;
        sum.local += more.local;
        sum.param += more.param;
        let (sum, more) = (&mut self.moved, &other.moved);
        sum.load += more.load;
        sum.multicast += more.multicast;
        sum.store += more.store;
        sum.reduce += more.reduce;
        sum.cluster += more.cluster;
        sum.cp_async += more.cp_async;
        if let Some(more) = &other.traffic {
            **self.traffic.get_or_insert_default() += &**more;
        }
    }
}

/// The class of an instruction.
fn class(op: &Op) -> InstrClass {
    match op {
        Op::Ld(_)
        | Op::Ldmatrix { .. }
        | Op::WmmaLoad(_)
        | Op::Multimem(Multimem::LoadReduce { .. }, _) => InstrClass::Load,
        Op::St(_)
        | Op::Stmatrix { .. }
        | Op::WmmaStore(_)
        | Op::Multimem(Multimem::Store, _)
        | Op::TensormapReplace { .. }
        | Op::TensormapCopy => InstrClass::Store,
        Op::Atom(..) | Op::Multimem(Multimem::Reduce(_), _) => InstrClass::Atomic,
        Op::Bra(_)
        | Op::BrxIdx(_)
        | Op::Exit
        | Op::Call(_)
        | Op::Ret
        | Op::Builtin(_)
        | Op::Trap
        | Op::Brkpt => InstrClass::Control,
        Op::Special(_)
        | Op::Elect { .. }
        | Op::Activemask
        | Op::Vote(_)
        | Op::Match { .. }
        | Op::Redux(..)
        | Op::Shfl(_)
        | Op::Nanosleep
        | Op::Griddep { .. }
        | Op::Setmaxnreg { .. } => InstrClass::Warp,
        Op::Bar { .. }
        | Op::BarRed(_)
        | Op::BarWarp
        | Op::BarClusterArrive { .. }
        | Op::BarClusterWait
        | Op::Fence(_)
        | Op::Mbarrier(..) => InstrClass::Sync,
        Op::CpAsync { .. }
        | Op::CpAsyncCommit
        | Op::CpAsyncWait(_)
        | Op::Bulk(_)
        | Op::Wgmma(_)
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait(_) => InstrClass::Async,
        _ => InstrClass::Alu,
    }
}

/// Whether the instruction changes something that another thread or the machine can see.
fn has_effect(instr: &Instr) -> bool {
    match &instr.op {
        Op::St(access) => access.space != Space::Local,
        Op::Atom(..) => instr.dst.is_empty(),
        Op::Mbarrier(MbarOp::Wait { .. } | MbarOp::PendingCount, ..) => false,
        Op::Multimem(form, _) => !matches!(form, Multimem::LoadReduce { .. }),
        Op::Mbarrier(..)
        | Op::Stmatrix { .. }
        | Op::TensormapReplace { .. }
        | Op::TensormapCopy
        | Op::WmmaStore(_)
        | Op::CpAsync { .. }
        | Op::CpAsyncCommit
        | Op::Bulk(_)
        | Op::Wgmma(_)
        | Op::WgmmaCommit
        | Op::Bar { .. }
        | Op::BarRed(_)
        | Op::BarClusterArrive { .. }
        | Op::Builtin(_)
        | Op::Exit => true,
        _ => false,
    }
}

/// The values of a store that a seed may make visible late: weak or relaxed, of at most 64 bits per
/// element.
pub(super) fn may_be_late(instr: &Instr) -> Option<&[Operand]> {
    let Op::St(access) = &instr.op else {
        return None;
    };
    let late = matches!(access.order, Order::Weak | Order::Relaxed)
        && access.ty.bytes() <= 8
        && matches!(access.space, Space::Generic | Space::Global);
    let values = instr.src.get(1..)?.get(..access.vec.into())?;
    late.then_some(values)
}

/// Whether a store or atomic must come after all earlier stores, as others see them.
pub(super) fn orders_stores(instr: &Instr) -> bool {
    match &instr.op {
        Op::St(access) | Op::Atom(_, access) => {
            !matches!(access.order, Order::Weak | Order::Relaxed)
        }
        _ => false,
    }
}

/// Whether the instruction is a weak load, which may be part of a spin loop too.
pub(super) fn is_weak_poll(instr: &Instr) -> bool {
    let Op::Ld(access) = &instr.op else {
        return false;
    };
    access.order == Order::Weak
        && matches!(
            access.space,
            Space::Generic | Space::Global | Space::Shared | Space::SharedCluster
        )
}

/// Whether the instruction reads what other threads may change while this one loops.
pub(super) fn is_poll(instr: &Instr) -> bool {
    match &instr.op {
        Op::Ld(access) => {
            access.order != Order::Weak && !matches!(access.space, Space::Local | Space::Param)
        }
        Op::Atom(..) => !instr.dst.is_empty(),
        Op::Multimem(Multimem::LoadReduce { .. }, access) => access.order != Order::Weak,
        Op::Mbarrier(
            MbarOp::Wait {
                try_wait: false, ..
            },
            ..,
        ) => true,
        _ => is_clock(instr),
    }
}

fn is_clock(instr: &Instr) -> bool {
    matches!(
        instr.op,
        Op::Nanosleep
            | Op::Special(
                Special::Clock
                    | Special::Clock64
                    | Special::ClockHi
                    | Special::Globaltimer
                    | Special::GlobaltimerLo
                    | Special::GlobaltimerHi
            )
    )
}

/// The columns that one instruction adds to.
pub(super) fn columns(instr: &Instr) -> Tally {
    let mut tally = [0; COLUMNS];
    if matches!(instr.op, Op::WgmmaTouch { .. }) {
        // No instruction of the program.
        return tally;
    }
    tally[class(&instr.op) as usize] = 1;
    tally[EFFECTS] = u32::from(has_effect(instr));
    tally[POLLS] = u32::from(is_poll(instr));
    tally[CLOCKS] = u32::from(is_clock(instr));
    if let (Op::Ld(access) | Op::St(access) | Op::Atom(_, access), None) = (&instr.op, instr.guard)
    {
        let bytes = access.ty.bytes() * u32::from(access.vec);
        tally[BYTES + SpaceBytes::place(access.space)] = bytes;
    }
    tally
}
