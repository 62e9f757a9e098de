//! A warp: its registers, its splits and the interpreter's loop.
//!
//! [`Warp::run`] executes one split after another until the warp blocks, spins, ends or has used
//! its slice. A split alternates between straight runs ([`super::straight`]) and instructions of the
//! machine. Runs are counted at their ends (branches, blocking instructions), or where they meet
//! another split.

use super::call::Stacks;
use super::counters::{CLOCKS, EFFECTS, POLLS};
use super::cta::{Env, Event, Origin, State, events, thread_indices};
use super::group::Groups;
use super::inst::{Code, LaneFault};
use super::kernel::{Flow, Kernel, Sys};
use super::regs::RegFile;
use super::split::{Spin, Split, Splits, Wait};
use super::visibility::orders_nothing;
use super::waits::Look;
use super::wgmma::WarpIssue;
use crate::error::{Fault, FaultKind};
use crate::exec::access::MemCtx;
use crate::ir::Op;

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The slice is used up.
    Slice,
    /// Nothing can run until an event.
    Blocked,
    /// Everything that can run only polls.
    Spinning,
    /// All lanes have exited.
    Ended,
}

/// What became of an instruction of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Complete.
    Next,
    /// Complete when the wait is over.
    Wait(Wait),
    /// To be executed again when the wait is over.
    Retry(Wait),
    /// The lanes given are through (or wait); the others execute the instruction again.
    Subset(u32, Option<Wait>),
}

/// Whether a split may go on after a backward branch.
enum Turn {
    Stay,
    Switch,
    Stop(Stop),
}

/// One instruction of the machine: where it stands, and what runs it.
#[derive(Debug, Clone, Copy)]
struct Visit {
    at: usize,
    pc: u32,
    /// Where the straight run began that has not been counted.
    start: u32,
    /// Lanes whose guard is true.
    mask: u32,
    /// Lanes of the split.
    active: u32,
    /// Work at which the slice ends.
    end: u64,
}

/// Where the loop goes on.
enum Go {
    Next,
    To(u32),
    Leave(Option<Stop>),
}

/// Iterations of a loop that polls in vain before the warp gives way.
const SPINS: u32 = 2;

/// Adds a value to a hash.
pub(super) fn stir(hash: u64, value: u64) -> u64 {
    (hash ^ value)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(29)
}

/// A hash of many words, four at a time because each step has to wait for the one before.
pub(super) fn digest(rows: impl Iterator<Item = [u64; 4]>) -> u64 {
    let mut sums = [1, 2, 3, 4];
    for row in rows {
        for (sum, word) in sums.iter_mut().zip(row) {
            *sum = stir(*sum, word);
        }
    }
    sums.into_iter().fold(0, stir)
}

/// Whether an instruction of the machine reads nothing that changes outside of the cluster, but for
/// the clock.
pub(super) fn is_known(op: &Op) -> bool {
    matches!(
        op,
        Op::Special(_)
            | Op::Mbarrier(..)
            | Op::Fence(_)
            | Op::Nanosleep
            | Op::Bar { .. }
            | Op::BarRed(_)
            | Op::BarWarp
            | Op::BarClusterArrive { .. }
            | Op::BarClusterWait
            | Op::Elect { .. }
            | Op::Activemask
            | Op::Vote(_)
            | Op::Match { .. }
            | Op::Redux(..)
            | Op::Shfl(_)
            | Op::Griddep { .. }
            | Op::Cvta { .. }
            | Op::Isspacep(_)
            | Op::Mapa { .. }
            | Op::Getctarank { .. }
            | Op::Frame
            | Op::StackSave
            | Op::StackRestore
            | Op::Alloca(_)
    )
}

/// A warp.
#[derive(Debug)]
pub(super) struct Warp {
    pub(super) regs: RegFile,
    pub(super) splits: Splits,
    /// Lanes that have not exited.
    pub(super) live: u32,
    /// Rank of the CTA in the cluster.
    pub(super) rank: u32,
    /// Index in the CTA.
    pub(super) index: u32,
    /// `%tid` of the lanes.
    pub(super) tid: [[u32; 32]; 3],
    /// `cp.async.bulk` groups.
    pub(super) bulk: Groups,
    /// `cp.async` groups.
    pub(super) copies: Groups,
    pub(super) wgmma: WarpIssue,
    pub(super) stacks: Box<Stacks>,
    /// Phase of the cluster barrier in which lanes last arrived, and which.
    pub(super) cluster_arrived: (u64, u32),
    /// Since a round began: it has had a slice, and which of its lanes have run.
    pub(super) served: bool,
    pub(super) ran: u32,
    /// Weak loads of the split that runs count as polls.
    pub(super) armed: bool,
}

impl Warp {
    /// A warp at the entry of the kernel.
    pub(super) fn new(env: &Env, rank: u32, index: u32) -> Self {
        let launch = &env.launch;
        let kernel = &launch.kernel;
        let first = index * 32;
        let lanes = launch.threads().saturating_sub(first).min(32);
        let live = if lanes == 0 {
            0
        } else {
            u32::MAX >> (32 - lanes)
        };
        Self {
            regs: RegFile::new(kernel.slots, kernel.preds, &kernel.consts),
            splits: Splits::new(live),
            live,
            rank,
            index,
            tid: thread_indices(launch.block, first),
            bulk: Groups::default(),
            copies: Groups::default(),
            wgmma: WarpIssue::default(),
            stacks: Box::new(Stacks::new(kernel.function().local_bytes)),
            cluster_arrived: (0, 0),
            served: false,
            ran: 0,
            armed: false,
        }
    }

    /// This warp at an instruction, for reports.
    pub(super) fn origin(&self, lane: u32, line: u32) -> Origin {
        Origin {
            rank: self.rank,
            warp: self.index,
            lane,
            line,
        }
    }

    /// Runs for about `slice` instructions.
    ///
    /// # Errors
    /// The fault that ends the launch.
    pub(super) fn run(&mut self, env: &Env, st: &mut State, slice: u64) -> Result<Stop, Fault> {
        self.served = true;
        self.look_at_waits(env, st, Look::First);
        let end = st.work + slice;
        loop {
            let Some((at, limit)) = self.splits.select() else {
                // What this warp did may have ended its own wait: the last arrival at a barrier.
                self.look_at_waits(env, st, Look::Again);
                if self.splits.select().is_some() {
                    continue;
                }
                return Ok(self.stop(st));
            };
            if let Some(stop) = self.run_split(env, st, (at, limit, end))? {
                return Ok(stop);
            }
        }
    }

    /// No split can run: says why, and notes the events that can change it.
    fn stop(&mut self, st: &mut State) -> Stop {
        if self.live == 0 {
            return Stop::Ended;
        }
        let cta = &mut st.ctas[self.rank as usize];
        for split in self.splits.iter() {
            for &event in events(split.wait) {
                cta.sleep(self.index, event);
            }
        }
        if self.splits.clear_spun() {
            return Stop::Spinning;
        }
        st.counters.barrier_waits += 1;
        Stop::Blocked
    }

    /// Executes one split until it meets another, blocks, ends, or its time is up.
    fn run_split(
        &mut self,
        env: &Env,
        st: &mut State,
        (at, limit, end): (usize, u32, u64),
    ) -> Result<Option<Stop>, Fault> {
        let kernel = &*env.launch.kernel;
        let mut ctx = env.context(self.rank, self.index * 32);
        let Split {
            mut pc,
            mask: active,
            ..
        } = *self.splits.at(at);
        let mut start = pc;
        self.armed = self.splits.at(at).spin.armed();
        self.ran |= active;
        loop {
            let stretch = (at, pc, limit, active);
            pc = self
                .straight(env, st, &mut ctx, stretch)
                .map_err(|fault| *fault)?;
            if pc == limit {
                self.leave(at, pc);
                self.tally(kernel, st, at, start..pc);
                return Ok(None);
            }
            let inst = &kernel.code[pc as usize];
            let Code::Sys(index) = inst.code else {
                continue;
            };
            let visit = Visit {
                at,
                pc,
                start,
                mask: active & self.regs.pred_operand(inst.guard),
                active,
                end,
            };
            match self.control(env, st, &mut ctx, (index, visit))? {
                Go::Next => pc += 1,
                Go::To(target) => {
                    pc = target;
                    start = target;
                }
                Go::Leave(stop) => return Ok(stop),
            }
        }
    }

    /// Executes an instruction of the machine: says where the loop goes on.
    #[inline(always)]
    fn control(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (index, visit): (u32, Visit),
    ) -> Result<Go, Fault> {
        let kernel = &*env.launch.kernel;
        let sys = &kernel.sys[index as usize];
        let Visit { at, pc, mask, .. } = visit;
        if mask == 0 || sys.flow == Flow::Nop {
            return Ok(Go::Next);
        }
        let run = visit.start..pc + 1;
        if let Flow::Branch(target) = sys.flow
            && mask == visit.active
        {
            self.tally(kernel, st, at, run);
            let turn = if target <= pc {
                self.backward((at, pc), st, visit.end)
            } else {
                Turn::Stay
            };
            let stop = match turn {
                Turn::Stay if self.splits.len() == 1 => return Ok(Go::To(target)),
                Turn::Stay | Turn::Switch => None,
                Turn::Stop(stop) => Some(stop),
            };
            self.leave(at, target);
            return Ok(Go::Leave(stop));
        }
        self.leave(at, pc);
        if self.system(env, st, ctx, (sys, at, mask))? {
            return Ok(Go::Next);
        }
        let tally = self.tally_for(kernel, st, visit.active, run);
        if tally[EFFECTS] != 0 {
            // Which splits there are has changed, so all of them begin anew.
            for split in self.splits.iter_mut() {
                split.spin = Spin::default();
            }
        }
        // A recursion has no backward branch, but it gives way like one.
        let called = matches!(sys.flow, Flow::Call(_) | Flow::Return);
        let stop = (called && st.work >= visit.end).then_some(Stop::Slice);
        Ok(Go::Leave(stop))
    }

    fn leave(&mut self, at: usize, pc: u32) {
        self.splits.at_mut(at).pc = pc;
    }

    fn tally_for(
        &self,
        kernel: &Kernel,
        st: &mut State,
        active: u32,
        run: std::ops::Range<u32>,
    ) -> super::counters::Tally {
        let tally = st.count(kernel, run.start, run.end, active.count_ones());
        if tally[CLOCKS] != 0 {
            // It may end the loop, even if it shows the same time for a while.
            st.recorder.fixed = false;
        }
        tally
    }

    /// Counts a straight run, and draws conclusions for the split.
    #[inline]
    fn tally(&mut self, kernel: &Kernel, st: &mut State, at: usize, run: std::ops::Range<u32>) {
        let active = self.splits.at(at).mask;
        let length = i32::try_from(run.end - run.start).unwrap_or(i32::MAX);
        let tally = self.tally_for(kernel, st, active, run);
        let split = self.splits.at_mut(at);
        split.budget = split.budget.saturating_sub(length);
        if tally[EFFECTS] != 0 {
            split.spin = Spin::default();
        } else if tally[POLLS] != 0 {
            split.spin.polled = true;
            split.spin.timed |= tally[CLOCKS] != 0;
        }
    }

    /// After a backward branch: looks for spinning, fairness within the warp, the slice's end.
    #[inline]
    fn backward(&mut self, (at, pc): (usize, u32), st: &mut State, end: u64) -> Turn {
        let split = self.splits.at_mut(at);
        split.spin.quiet = split.spin.quiet.wrapping_add(1);
        self.armed = split.spin.armed();
        if split.spin.polled && self.spins((at, pc), st) {
            return Turn::Switch;
        }
        let split = self.splits.at_mut(at);
        if split.budget <= 0 {
            self.splits.give_way(at);
            return Turn::Switch;
        }
        if st.work >= end {
            return Turn::Stop(Stop::Slice);
        }
        Turn::Stay
    }

    /// After an iteration that polled: whether the loop spins.
    fn spins(&mut self, (at, pc): (usize, u32), st: &mut State) -> bool {
        let split = self.splits.at_mut(at);
        let spin = &mut split.spin;
        if spin.hash == spin.last {
            spin.count += 1;
        } else {
            *spin = Spin {
                hash: spin.hash,
                places: spin.places,
                quiet: spin.quiet,
                timed: spin.timed,
                ..Spin::default()
            };
        }
        spin.wanders |= spin.count > 1 && spin.places != spin.last_places;
        spin.last = spin.hash;
        spin.last_places = spin.places;
        (spin.hash, spin.places, spin.polled) = (0, 0, false);
        let patience = if st.recorder.on { 0 } else { spin.patience };
        let spun = spin.count >= SPINS << patience;
        if st.recorder.on && spin.count + 1 >= SPINS {
            // The last two iterations before the verdict.
            let registers = self.regs.fingerprint();
            let spin = &mut self.splits.at_mut(at).spin;
            spin.counts = spun && !spin.timed && spin.registers != registers;
            spin.registers = registers;
            st.recorder.whole &= !(spun && spin.wanders);
        }
        if spun {
            let spin = &mut self.splits.at_mut(at).spin;
            (spin.count, spin.spun, spin.hot, spin.branch) = (0, true, true, pc);
        }
        spun
    }

    /// Executes an instruction of the machine or a diverging branch; `true` if the split simply
    /// goes on with the next instruction.
    fn system(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (sys, at, mask): (&Sys, usize, u32),
    ) -> Result<bool, Fault> {
        let (pc, line) = (self.splits.at(at).pc, sys.instr.line);
        let fault =
            |warp: &Self, fault: LaneFault| env.fault(warp.origin(fault.lane, line), fault.kind);
        match &sys.flow {
            Flow::Nop => Ok(true),
            Flow::Cover(number) => {
                crate::coverage::executed(*number);
                Ok(true)
            }
            Flow::Branch(target) => {
                self.divert(at, mask, *target);
                Ok(false)
            }
            Flow::Table(targets) => {
                self.jump(at, mask, (sys, targets))
                    .map_err(|error| fault(self, error))?;
                Ok(false)
            }
            Flow::Exit => {
                self.exit(at, mask, st);
                Ok(false)
            }
            Flow::Call(site) => {
                st.recorder.before_store(env);
                let kernel = &*env.launch.kernel;
                self.enter_call(kernel, ctx, (&sys.instr, *site), (at, mask))
                    .map_err(|error| fault(self, error))?;
                Ok(false)
            }
            Flow::Return => {
                st.recorder.before_store(env);
                self.leave_call(&env.launch.kernel, ctx, (at, mask))
                    .map_err(|error| fault(self, error))?;
                Ok(false)
            }
            Flow::Machine => {
                if st.recorder.on {
                    st.recorder.whole &= is_known(&sys.instr.op);
                    if matches!(sys.instr.op, Op::Mbarrier(..)) {
                        st.recorder.before_store(env);
                    }
                }
                if st.late.on && !orders_nothing(&sys.instr.op) {
                    st.late.drain();
                }
                let done = self.machine(env, st, ctx, (sys, at, mask));
                let step = done.map_err(|error| fault(self, error))?;
                Ok(self.apply(at, mask, pc, step))
            }
        }
    }

    /// Carries out what an instruction of the machine asks for; `true` if the split goes on.
    fn apply(&mut self, at: usize, mask: u32, pc: u32, step: Step) -> bool {
        let active = self.splits.at(at).mask;
        let (lanes, wait, next) = match step {
            Step::Next => {
                self.splits.at_mut(at).expired = false;
                return true;
            }
            Step::Wait(wait) => (mask, wait, pc),
            Step::Retry(wait) => (mask, wait, pc),
            Step::Subset(lanes, Some(wait)) => (lanes, wait, pc),
            Step::Subset(lanes, None) => (lanes, Wait::Run, pc + 1),
        };
        let split = *self.splits.at(at);
        let rest = match step {
            // Lanes whose guard is false are through; those of a subset are not.
            Step::Subset(..) => Split {
                mask: active & !lanes,
                ..split
            },
            _ => Split {
                mask: active & !lanes,
                pc: pc + 1,
                ..split
            },
        };
        *self.splits.at_mut(at) = Split {
            mask: lanes,
            pc: next,
            wait,
            expired: false,
            ..split
        };
        if rest.mask != 0 {
            self.splits.push(Split {
                wait: Wait::Run,
                ..rest
            });
        }
        if matches!(wait, Wait::WarpBarrier { .. }) {
            self.release_warp_barrier();
        }
        false
    }

    /// Splits off the lanes that take a branch.
    pub(super) fn divert(&mut self, at: usize, taken: u32, target: u32) {
        let split = self.splits.at_mut(at);
        let fallen = split.mask & !taken;
        if fallen == 0 {
            split.pc = target;
            return;
        }
        split.mask = fallen;
        split.pc += 1;
        let other = Split {
            pc: target,
            mask: taken,
            ..*split
        };
        self.splits.push(other);
    }

    /// `brx.idx`: one split per target.
    fn jump(
        &mut self,
        at: usize,
        mask: u32,
        (sys, targets): (&Sys, &[u32]),
    ) -> Result<(), LaneFault> {
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            let index = self.regs.operand_u64(&sys.instr.src[0], lane) & 0xffff_ffff;
            let target = usize::try_from(index)
                .ok()
                .and_then(|index| targets.get(index));
            let Some(&target) = target else {
                return Err(LaneFault {
                    lane,
                    kind: FaultKind::IllegalInstruction {
                        what: format!("brx.idx {index} of {} targets", targets.len()),
                    },
                });
            };
            let same = (0..32).filter(|&other| {
                left >> other & 1 != 0
                    && self.regs.operand_u64(&sys.instr.src[0], other) & 0xffff_ffff == index
            });
            let same = same.fold(0, |mask, other| mask | 1 << other);
            left &= !same;
            self.divert(at, same, target);
        }
        Ok(())
    }

    /// Lanes end.
    fn exit(&mut self, at: usize, mask: u32, st: &mut State) {
        let split = self.splits.at_mut(at);
        split.mask &= !mask;
        split.pc += 1;
        if split.mask == 0 {
            self.splits.remove(at);
        }
        self.live &= !mask;
        self.splits.recheck();
        self.release_warp_barrier();
        let count = mask.count_ones();
        let cta = &mut st.ctas[self.rank as usize];
        cta.live -= count;
        let live = cta.live;
        let mut completed = false;
        for barrier in &mut cta.barriers {
            completed |= barrier.exit(live);
        }
        if completed {
            cta.wake(Event::Barrier);
        }
        st.live -= count;
        let (phase, arrived) = self.cluster_arrived;
        let arrived = if phase == st.barrier.phase() {
            arrived & mask
        } else {
            0
        };
        if st.barrier.exit(arrived.count_ones(), st.live) {
            st.wake_all(Event::Cluster);
        }
    }
}
