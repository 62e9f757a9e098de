//! Rounds: whether a cluster that seems to wait comes back to where it was.
//!
//! Invariant: in a round everything that decides what the cluster does next has come back to what it
//! was (registers, positions and waits, barriers, shared and local memory), every thread that could
//! run has run, nothing that it read outside has changed, and it has changed nothing there. The
//! same could happen for ever, so a program that ends under every fair schedule is not done for: it
//! goes on only when what it read changes, or when time passes.
//!
//! Protocol: the cluster runs with polls recorded ([`super::watch`]) and its clocks standing still,
//! warps in turn, spinning ones too. Whenever the turn has gone round, its state is compared with
//! an earlier one, which is replaced after 1, 2, 4, … comparisons, so that periods of any length are
//! found (Brent, "An improved Monte Carlo factorization algorithm"). How often this is tried while
//! the cluster does not spin doubles with each failure, so that programs which do not wait lose
//! next to nothing.

use super::block::Block;
use super::cluster::Cluster;
use super::counters::{EFFECTS, POLLS};
use super::cta::{Cta, Env, Event, State};
use super::split::{Split, Wait};
use super::warp::{Stop, Warp, stir};
use super::watch::Recording;
use crate::error::Fault;

/// Warp instructions that a warp runs at a time.
const SLICE: u64 = 64;

/// Slices per warp in search of a round.
const SLICES: u64 = 32;

/// Comparisons in search of a round.
const COMPARISONS: u32 = 16;

/// Slices per warp from one search to the next: at first, and at most.
const SHORTEST_GAP: u64 = 4;
const LONGEST_GAP: u64 = 512;

/// Slices per warp that pass besides while only weak loads could be polls: nearly all loops that
/// have them and no strong ones compute.
const WEAK_GAP: u64 = 768;

/// Bytes of a cluster's memory that are compared at most.
const MOST_MEMORY: usize = 1 << 20;

/// What a search has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A round.
    Round,
    /// None, but nothing has happened either that anyone but the threads themselves could see.
    Nothing,
    /// The cluster gets on.
    Progress,
    /// There was no search: every warp is blocked, or stores of the cluster are on their way.
    Blocked,
}

/// When a cluster that does not spin is next searched for a round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Searches {
    /// The work at which.
    at: u64,
    /// Slices per warp to the one after.
    gap: u64,
}

impl Searches {
    pub(super) fn new(warps: usize) -> Self {
        Self {
            at: warps as u64 * SLICE * SHORTEST_GAP,
            gap: SHORTEST_GAP,
        }
    }
}

/// What rounds are compared with.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    state: u64,
    comparisons: u32,
}

impl Cluster {
    /// Whether it is time to look whether the cluster, which does not spin, goes round.
    pub(super) fn may_go_round(&self) -> bool {
        // After a round there may be another one, right at the beginning of the next turn.
        let polls = self.st.tally[POLLS] != 0 || self.searches.gap == 0;
        let more = if polls {
            0
        } else {
            WEAK_GAP * SLICE * self.warps.len() as u64
        };
        self.st.work >= self.searches.at + more
            && self.st.inflight.is_empty()
            && !self.st.choice.is_seeded()
    }

    /// Looks whether the cluster, which does not spin, goes round.
    ///
    /// # Errors
    /// The fault that ends the launch.
    pub(super) fn look_for_round(&mut self, env: &Env) -> Result<Found, Fault> {
        let mut found = self.search(env)?;
        if found == Found::Round && self.st.recorder.is_empty() {
            // It waits for nobody outside, and only ever ends with the machine.
            found = Found::Progress;
        }
        let gap = match found {
            Found::Round => 0,
            _ => (self.searches.gap * 2).clamp(SHORTEST_GAP, LONGEST_GAP),
        };
        let work = self.st.work + gap * SLICE * self.warps.len() as u64;
        self.searches = Searches { at: work, gap };
        Ok(found)
    }

    /// Searches for a round. Leaves behind what has been recorded meanwhile.
    ///
    /// # Errors
    /// The fault that ends the launch.
    pub(super) fn search(&mut self, env: &Env) -> Result<Found, Fault> {
        if self.st.late.any() || !self.st.held.is_empty() {
            return Ok(Found::Blocked);
        }
        // Sleepers wake up: sleeping may end early.
        self.st.turn += 1;
        self.st.wake_all(Event::Time);
        self.release_spinning();
        self.st.record(Recording::On);
        let found = self.search_recorded(env);
        self.st.record(Recording::Off);
        found
    }

    fn search_recorded(&mut self, env: &Env) -> Result<Found, Fault> {
        let end = self.st.work + SLICES * SLICE * self.warps.len() as u64;
        let effects = self.st.tally[EFFECTS];
        let mut sliced = false;
        let mut mark: Option<Mark> = None;
        let mut last = None;
        let mut comparisons = 0;
        while self.st.work < end && self.st.recorder.whole && self.st.inflight.is_empty() {
            let Some(index) = self.pick() else {
                return Ok(Found::Progress);
            };
            if last.replace(index).is_none_or(|last| index <= last) {
                let state = self.state();
                comparisons += 1;
                match &mut mark {
                    Some(mark) if self.is_round(env, mark, state) => return Ok(Found::Round),
                    Some(mark) if comparisons < 2 * mark.comparisons => {}
                    _ if comparisons >= COMPARISONS || sliced && self.st.recorder.is_empty() => {
                        break;
                    }
                    _ => {
                        self.begin_round();
                        mark = Some(Mark { state, comparisons });
                    }
                }
            }
            sliced |= match self.slice(env, index, SLICE)? {
                Stop::Slice => true,
                Stop::Ended => return Ok(Found::Progress),
                Stop::Blocked | Stop::Spinning => false,
            };
            if self.st.recorder.moved {
                return Ok(Found::Progress);
            }
            // Who spins shall see all that the others do.
            self.release_spinning();
        }
        let happened = sliced || self.st.tally[EFFECTS] != effects || !self.st.inflight.is_empty();
        Ok(if happened {
            Found::Progress
        } else {
            Found::Nothing
        })
    }

    /// Begins a round here.
    fn begin_round(&mut self) {
        self.st.recorder.begin_round();
        for warp in &mut self.warps {
            (warp.served, warp.ran) = (false, 0);
        }
    }

    /// Whether the round that began at the mark ends here.
    fn is_round(&self, env: &Env, mark: &Mark, state: u64) -> bool {
        let runnable = |split: &&Split| split.wait == Wait::Run;
        let fair = |(index, warp): (usize, &Warp)| {
            let mut runnable = warp.splits.iter().filter(runnable);
            (warp.served || !self.is_ready(index))
                && runnable.all(|split| split.mask & !warp.ran == 0)
        };
        mark.state == state
            && self.st.recorder.whole
            && self.warps.iter().enumerate().all(fair)
            && match self.st.recorder.memory {
                Some(before) => before.is_some() && before == memory(&env.blocks),
                None => true,
            }
    }

    /// A hash of all that decides what the cluster does next, but for memory and time.
    fn state(&self) -> u64 {
        let st = &self.st;
        let cluster = stir(u64::from(st.barrier.arrived()), st.live.into());
        let ctas = st.ctas.iter().fold(cluster, |hash, cta| cta.state(hash));
        self.warps
            .iter()
            .fold(ctas, |hash, warp| warp.state(st, hash))
    }

    /// A search has found nothing: loops that count their attempts shall get on faster.
    pub(super) fn be_patient(&mut self) {
        for warp in &mut self.warps {
            for split in warp.splits.iter_mut() {
                split.spin.be_patient();
            }
        }
    }
}

impl Cta {
    fn state(&self, hash: u64) -> u64 {
        let masks = [self.live, self.ready, self.triggered.into()];
        let hash = masks.iter().fold(hash, |hash, &v| stir(hash, v.into()));
        self.barriers.iter().fold(hash, |hash, barrier| {
            let (arrived, count) = barrier.progress();
            let reduction = barrier.reduction();
            let count = count.map_or(0, |count| u64::from(count) + 1);
            let words = [u64::from(arrived), count, reduction.yes.into()];
            words.into_iter().fold(hash, stir)
        })
    }
}

impl Warp {
    fn state(&self, st: &State, hash: u64) -> u64 {
        let (phase, arrived) = self.cluster_arrived;
        let arrived = if phase == st.barrier.phase() {
            arrived
        } else {
            0
        };
        let words = [self.live.into(), arrived.into(), self.stacks.fingerprint()];
        let hash = words.into_iter().fold(hash, stir);
        // The order of splits says nothing, and no two have the same lanes.
        let splits = self.splits.iter().map(|split| self.split_state(st, split));
        let splits = splits.fold(0, u64::wrapping_add);
        stir(stir(hash, splits), self.regs.fingerprint())
    }

    fn split_state(&self, st: &State, split: &Split) -> u64 {
        let barriers = &st.ctas[self.rank as usize].barriers;
        let wait = match split.wait {
            Wait::Run => [0; 3],
            Wait::Converge => [1, 0, 0],
            Wait::WarpBarrier { members } => [2, members.into(), 0],
            Wait::Barrier { id, generation } => {
                let barrier = &barriers[usize::from(id)];
                let age = barrier.generation() - generation;
                let result = if age == 0 {
                    0
                } else {
                    let result = barrier.result(generation);
                    u64::from(result.yes) << 32 | u64::from(result.all)
                };
                [3 + age * 16, id.into(), result]
            }
            Wait::Cluster { phase } => [4, st.barrier.phase() - phase, 0],
            Wait::Mbarrier { offset, parity, .. } => [5, offset.into(), parity.into()],
            Wait::Bulk { pending, read } => [6, pending.into(), read.into()],
            Wait::CpAsync { pending } => [7, pending.into(), 0],
            Wait::Wgmma { pending } => [8, pending.into(), 0],
            Wait::WgmmaDone { number } => [9, number, 0],
            Wait::Grid => [10, 0, 0],
            Wait::Sleep { until, turn } => [11, until, turn],
        };
        let place = u64::from(split.pc) << 33 | u64::from(split.mask) << 1;
        let place = stir(0, place | u64::from(split.expired));
        wait.into_iter().fold(place, stir)
    }
}

/// A hash of the memory of a cluster; `None` if that is too much.
pub(super) fn memory(blocks: &[Block]) -> Option<u64> {
    let bytes: usize = blocks.iter().map(Block::len).sum();
    let hash = || blocks.iter().fold(0, |hash, block| block.fingerprint(hash));
    (bytes <= MOST_MEMORY).then(hash)
}
