//! A cluster: the CTAs that run together, and the loop that advances them.
//!
//! [`Cluster::run`] gives slices to the warps that can run, round robin (or as the seed says), and
//! completes asynchronous operations when they are due. When no warp can run it completes the next
//! operation at once; when nothing is in flight either, warps that only spin run on for a while; and
//! when that changes nothing the cluster is idle and the machine goes on elsewhere. Now and then it
//! looks whether all warps together go round and round ([`super::round`]).
//!
//! Deadlock: nothing can run, nothing is in flight, no warp spins or sleeps. Warps in `try_wait`
//! are then let go once, since the instruction may time out. If they all come back without having
//! written anything, read a clock, or polled memory, nothing will ever change.

use std::sync::Arc;

use super::access::{LocalMemory, SharedMemory};
use super::barrier::ClusterBarrier;
use super::block::Block;
use super::bulk::WRITE;
use super::clock::{Clock, Share};
use super::counters::{Counters, EFFECTS};
use super::cta::{Cta, Env, Event, LaunchState, Position, State};
use super::device;
use super::held::Held;
use super::inflight::{Action, InFlight, Op, due_of_store};
use super::mbar;
use super::round::{Found, Searches};
use super::seed::Choice;
use super::split::Wait;
use super::transfer::Progress;
use super::visibility::LateStores;
use super::warp::{Stop, Warp};
use super::watch::{Recorder, Watch, Word};
use super::wgmma;
use crate::error::Fault;

/// Warp instructions that a warp runs at a time.
const SLICE: u64 = 4096;

/// How long a parked cluster whose loops are no fixed points is left alone: at first, and at most.
const SHORTEST_PARK: u64 = 1_000_000;
const LONGEST_PARK: u64 = 200_000_000;

/// Words that a report names of those that a cluster reads.
const READS: usize = 4;

/// What became of a quantum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is more to do.
    Busy,
    /// Everything waits for something outside of the cluster, or for time.
    Idle,
    /// All threads have ended and all operations are complete.
    Done,
}

/// A cluster of CTAs (one, if the launch has no clusters).
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) env: Arc<Env>,
    pub(super) st: State,
    /// Warps of all CTAs, by rank and index.
    pub(super) warps: Vec<Warp>,
    warps_per_cta: usize,
    /// Where the round robin stands.
    next: usize,
    /// `EFFECTS + POLLS + CLOCKS` when waits last timed out for lack of anything else.
    stalled_at: Option<u64>,
    /// Nanoseconds that it is left alone when it is parked.
    park: u64,
    /// What it watches while it is idle.
    watch: Option<Watch>,
    /// What it read, for reports, if it goes round.
    pub(super) reads: Vec<Word>,
    pub(super) searches: Searches,
}

/// Where the CTAs of a new cluster are.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) cluster_id: [u32; 3],
    pub(super) positions: Vec<Position>,
}

impl Cluster {
    /// A cluster at the entry of its kernel.
    pub(super) fn new(launch: Arc<LaunchState>, site: Site, choice: Choice) -> Self {
        let threads = launch.threads();
        let kernel = &launch.kernel;
        let (reserved, shared_bytes) = kernel.reserved_shared(launch.dynamic_shared);
        let local = kernel.local_bytes(device::services(launch.device).stack_bytes());
        let size = launch.cluster_size();
        let mut blocks = Vec::new();
        let mut block = |bytes: usize| {
            blocks.push(Block::poisoned(bytes));
            blocks[blocks.len() - 1].base()
        };
        let shared = (0..size).map(|_| SharedMemory {
            base: block(shared_bytes as usize),
            len: shared_bytes,
        });
        let shared: Vec<_> = shared.collect();
        clear_reserved(&shared, reserved);
        let warps_per_cta = threads.div_ceil(32);
        let locals = (0..size).map(|_| LocalMemory {
            base: block(local as usize * warps_per_cta as usize * 32),
            bytes: local,
            first_thread: 0,
        });
        let locals = locals.collect();
        let env = Env {
            launch,
            positions: site.positions,
            shared,
            locals,
            blocks,
            cluster_id: site.cluster_id,
        };
        let warps = (0..size).flat_map(|rank| (0..warps_per_cta).map(move |i| (rank, i)));
        let warps: Vec<_> = warps
            .map(|(rank, index)| Warp::new(&env, rank, index))
            .collect();
        let st = State {
            ctas: (0..size).map(|_| Cta::new(threads)).collect(),
            inflight: InFlight::default(),
            barrier: ClusterBarrier::default(),
            live: threads * size,
            work: 0,
            share: Share::default(),
            turn: 0,
            counters: Counters {
                ctas: size.into(),
                traffic: env.launch.traffic.then(Box::default),
                ..Counters::default()
            },
            tally: Default::default(),
            activity: 0,
            expire: false,
            recorder: Recorder::default(),
            hooked: choice.is_seeded() || env.launch.traffic,
            late: LateStores::new(&choice),
            held: Held::default(),
            injects: false,
            choice,
        };
        Self {
            env: Arc::new(env),
            st,
            searches: Searches::new(warps.len()),
            warps,
            warps_per_cta: warps_per_cta as usize,
            next: 0,
            stalled_at: None,
            park: SHORTEST_PARK,
            watch: None,
            reads: Vec::new(),
        }
    }

    /// The launch it belongs to.
    pub(super) fn launch(&self) -> &Arc<LaunchState> {
        &self.env.launch
    }

    /// Where its CTAs are.
    pub(super) fn positions(&self) -> &[Position] {
        &self.env.positions
    }

    /// Warp instructions executed, or what took as long.
    pub(super) fn work(&self) -> u64 {
        self.st.work
    }

    /// What it has executed.
    pub(super) fn counters(&mut self) -> &Counters {
        self.st.settle_tally();
        &self.st.counters
    }

    /// Gives its memory back for reuse.
    pub(super) fn recycle(self) {
        if let Some(env) = Arc::into_inner(self.env) {
            env.blocks.into_iter().for_each(Block::recycle);
        }
    }

    /// Runs for about `quantum` warp instructions. `clusters` are in flight on the machine.
    ///
    /// # Errors
    /// The fault that ends the launch.
    pub(super) fn run(
        &mut self,
        clock: &Clock,
        quantum: u64,
        clusters: u64,
    ) -> Result<Outcome, Fault> {
        let env = self.env.clone();
        self.st.share = Share::begin(clock, self.st.work, clusters);
        self.st.turn += 1;
        self.watch = None;
        self.reads.clear();
        self.st.look_at_faults(env.launch.device);
        let result = self.advance(&env, quantum);
        self.st.settle_tally();
        if matches!(result, Ok(Outcome::Busy)) {
            self.park = SHORTEST_PARK;
        }
        result
    }

    /// Clock ticks that the quantum was worth; at its end.
    pub(super) fn ticks(&self) -> u64 {
        self.st.share.since(self.st.work)
    }

    fn advance(&mut self, env: &Env, quantum: u64) -> Result<Outcome, Fault> {
        let end = self.st.work + quantum;
        self.st.wake_all(Event::Time);
        self.release_spinning();
        let mut progress = false;
        while self.st.work < end {
            self.complete_due(env)?;
            if self.may_go_round() {
                let found = self.look_for_round(env)?;
                if found == Found::Round {
                    return Ok(if progress {
                        Outcome::Busy
                    } else {
                        self.pause(env, found)
                    });
                }
                progress |= found == Found::Progress;
            }
            if let Some(index) = self.pick() {
                let before = self.st.tally[EFFECTS];
                let stop = self.slice(env, index, SLICE)?;
                progress |=
                    matches!(stop, Stop::Slice | Stop::Ended) || self.st.tally[EFFECTS] != before;
                continue;
            }
            if let Some(op) = self.st.inflight.pop_first() {
                self.complete(env, op)?;
                progress = true;
                continue;
            }
            if self.st.late.any() {
                progress = true;
                if self.st.choice.below(2, 1) == 0 {
                    // Others run between one store and the next.
                    return Ok(Outcome::Busy);
                }
                self.st.late.settle_any(&mut self.st.choice);
                continue;
            }
            if self.st.live == 0 {
                return Ok(match self.st.held.is_empty() {
                    true => Outcome::Done,
                    // Time has to pass until the last delayed store arrives.
                    false if progress => Outcome::Busy,
                    false => Outcome::Idle,
                });
            }
            if self.only_polls() {
                if progress {
                    return Ok(Outcome::Busy);
                }
                return Ok(match self.search(env)? {
                    Found::Progress => Outcome::Busy,
                    found => self.pause(env, found),
                });
            }
            if self.stalled(env)? {
                return Ok(if progress {
                    Outcome::Busy
                } else {
                    self.pause(env, Found::Blocked)
                });
            }
        }
        Ok(Outcome::Busy)
    }

    /// Whether there are warps that spin or sleep; none can run.
    fn only_polls(&self) -> bool {
        let mut splits = self.warps.iter().flat_map(|warp| warp.splits.iter());
        self.st.ctas.iter().any(|cta| cta.spinning != 0)
            || splits.any(|split| matches!(split.wait, Wait::Sleep { .. }))
    }

    /// Ends a turn in which nothing has happened, nor can inside: what would change that.
    fn pause(&mut self, env: &Env, found: Found) -> Outcome {
        if found == Found::Nothing {
            self.be_patient();
        }
        self.watch = self.watched(env, found);
        Outcome::Idle
    }

    /// What can end all waits of the cluster, if that is known.
    fn watched(&mut self, env: &Env, found: Found) -> Option<Watch> {
        let words = match found {
            Found::Blocked => Vec::new(),
            _ => self.st.recorder.take_words()?,
        };
        self.reads.extend(words.iter().take(READS));
        let mut timed = match found {
            Found::Blocked => false,
            Found::Round => !self.st.recorder.fixed,
            _ => true,
        };
        let mut launch = None;
        for split in self.warps.iter().flat_map(|warp| warp.splits.iter()) {
            match split.wait {
                Wait::Sleep { .. } => return None,
                Wait::Mbarrier { .. } => timed = true,
                Wait::Grid => launch = env.launch.dependence.pending().cloned(),
                _ => {}
            }
        }
        if !self.st.held.is_empty() {
            // They arrive in its turns.
            return None;
        }
        if found == Found::Blocked && launch.is_none() {
            return None;
        }
        let ticks = Clock::ticks(self.park);
        let until = timed.then(|| self.st.share.end(self.st.work) + ticks);
        self.park = (self.park * 2).min(LONGEST_PARK);
        Some(Watch {
            words,
            until,
            launch,
        })
    }

    /// What an idle cluster watches: it need not run before that changes.
    pub(super) fn take_watch(&mut self) -> Option<Watch> {
        self.watch.take()
    }

    /// CTAs that have not executed `griddepcontrol.launch_dependents`.
    pub(super) fn untriggered(&self) -> u64 {
        self.st.ctas.iter().filter(|cta| !cta.triggered).count() as u64
    }

    /// Warps that only spin may run again.
    pub(super) fn release_spinning(&mut self) {
        for cta in &mut self.st.ctas {
            cta.ready |= std::mem::take(&mut cta.spinning);
        }
    }

    /// The next warp that can run.
    pub(super) fn pick(&mut self) -> Option<usize> {
        let count = self.warps.len();
        let random = self.st.choice.below(count as u64, self.next as u64);
        let start = usize::try_from(random).unwrap_or(0);
        let mut order = (start..count).chain(0..start);
        let found = order.find(|&index| self.is_ready(index))?;
        self.next = (found + 1) % count;
        Some(found)
    }

    /// Whether a warp can run, or has to look whether it can.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        let cta = &self.st.ctas[index / self.warps_per_cta];
        cta.ready >> (index % self.warps_per_cta) & 1 != 0
    }

    /// Runs one warp for at most about so many instructions.
    pub(super) fn slice(&mut self, env: &Env, index: usize, most: u64) -> Result<Stop, Fault> {
        let slice = self.st.choice.below(most, most).max(16);
        let stop = self.warps[index].run(env, &mut self.st, slice)?;
        let bit = 1 << (index % self.warps_per_cta);
        let cta = &mut self.st.ctas[index / self.warps_per_cta];
        match stop {
            Stop::Slice => {}
            Stop::Blocked | Stop::Ended => cta.ready &= !bit,
            Stop::Spinning => {
                cta.ready &= !bit;
                cta.spinning |= bit;
            }
        }
        Ok(stop)
    }

    fn complete_due(&mut self, env: &Env) -> Result<(), Fault> {
        if self.st.late.on {
            self.st.late.settle_due(self.st.work);
        }
        if !self.st.held.is_empty() {
            let now = self.st.share.end(self.st.work);
            self.st.held.land(env, now)?;
        }
        while let Some(op) = self.st.inflight.pop_due(self.st.work) {
            self.complete(env, op)?;
        }
        Ok(())
    }

    /// Completes an operation, or its next step.
    fn complete(&mut self, env: &Env, mut op: Op) -> Result<(), Fault> {
        let st = &mut self.st;
        let fault = |kind| env.fault(op.origin, kind);
        match &mut op.action {
            Action::Transfer(transfer) => {
                if transfer.advance(env, st, op.origin).map_err(fault)? == Progress::Read {
                    let when = due_of_store(&mut st.choice, st.work, WRITE);
                    st.wake(op.origin.rank, Event::Async);
                    st.inflight.push_again(when, op);
                    return Ok(());
                }
            }
            Action::Arrive { after, mbarrier } => {
                let last = after.iter().filter_map(|id| st.inflight.due(*id)).max();
                if let Some(last) = last {
                    st.inflight.push_again(last, op);
                    return Ok(());
                }
                mbar::arrive_one(env, st, *mbarrier).map_err(fault)?;
            }
            Action::Wgmma { rank, group } => {
                let first = *rank as usize * self.warps_per_cta;
                let warps = &mut self.warps[first..first + self.warps_per_cta];
                wgmma::complete(env, st, warps, (*rank, *group))?;
            }
        }
        st.inflight.finish(op.id);
        st.wake(op.origin.rank, Event::Async);
        Ok(())
    }

    /// Nothing can run, is in flight, spins or sleeps: whether the turn is over.
    fn stalled(&mut self, env: &Env) -> Result<bool, Fault> {
        let waits = || self.warps.iter().flat_map(|warp| warp.splits.iter());
        let timed = waits().any(|split| matches!(split.wait, Wait::Mbarrier { .. }));
        if waits().any(|split| split.wait == Wait::Grid) {
            return Ok(true);
        }
        let activity = self.st.settle_tally();
        if !timed || self.stalled_at == Some(activity) {
            return Err(self.deadlock());
        }
        let before = self.stalled_at.replace(activity);
        self.st.expire = true;
        self.st.wake_all(Event::Time);
        let woken = self.pick_all(env);
        self.st.expire = false;
        woken?;
        // After the first time the machine looks elsewhere before waits time out again.
        Ok(before.is_some())
    }

    /// Gives each warp that can run one slice.
    fn pick_all(&mut self, env: &Env) -> Result<(), Fault> {
        for _ in 0..self.warps.len() {
            let Some(index) = self.pick() else { break };
            self.slice(env, index, SLICE)?;
        }
        Ok(())
    }
}

/// Zeroes the system's part of shared memory, where barriers of cooperative groups stand.
fn clear_reserved(shared: &[SharedMemory], begin: u32) {
    for memory in shared {
        let bytes = memory.len.saturating_sub(begin) as usize;
        super::block::zero(memory.base.wrapping_add(begin as usize), bytes);
    }
}
