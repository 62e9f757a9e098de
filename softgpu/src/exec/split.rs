//! Splits: the groups of lanes of a warp that share a program counter.
//!
//! Every live lane is in exactly one split. The runnable split with the lowest program counter
//! runs, up to the program counter of the next split, where the two merge. The front end orders
//! blocks so that this reconverges at post-dominators. A split that spins or runs for long gives
//! way: splits are chosen by how often they gave way, then by program counter.

use smallvec::SmallVec;

/// What a split waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: it can run.
    Run,
    /// Other lanes of the warp, at this very instruction, which executes once they are here.
    Converge,
    /// Other lanes of the warp, at any `bar.warp.sync` with the same members.
    WarpBarrier { members: u32 },
    /// A generation of a named barrier; the instruction is complete then.
    Barrier { id: u8, generation: u64 },
    /// A phase of the cluster barrier.
    Cluster { phase: u64 },
    /// The phase of an mbarrier of this CTA; the instruction then executes again.
    Mbarrier {
        offset: u32,
        parity: u32,
        /// Virtual time at which the wait gives up.
        until: u64,
    },
    /// Bulk groups of the lanes of the split.
    Bulk { pending: u32, read: bool },
    /// `cp.async` groups.
    CpAsync { pending: u32 },
    /// wgmma groups.
    Wgmma { pending: u32 },
    /// The completion of the wgmma of that number; the instruction then executes again.
    WgmmaDone { number: u64 },
    /// The end of the grid before this one in the stream.
    Grid,
    /// Virtual time, or the cluster's next turn: sleeping may end early.
    Sleep { until: u64, turn: u64 },
}

/// Lanes that share a program counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub(super) pc: u32,
    pub(super) mask: u32,
    pub(super) wait: Wait,
    /// The mbarrier wait at `pc` timed out, so it answers false.
    pub(super) expired: bool,
    /// Times this split gave way to others.
    pub(super) turns: u32,
    /// Instructions left until it gives way.
    pub(super) budget: i32,
    pub(super) spin: Spin,
}

/// Signs of a spin loop: iterations that write nothing and read the same values again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spin {
    /// Hash of the values polled since the last backward branch.
    pub(super) hash: u64,
    /// The same for the iteration before.
    pub(super) last: u64,
    /// Hashes of the addresses polled, this time and the time before.
    pub(super) places: u64,
    pub(super) last_places: u64,
    /// Iterations have polled different addresses.
    pub(super) wanders: bool,
    /// A clock was read since the last backward branch.
    pub(super) timed: bool,
    /// Something was polled since the last backward branch.
    pub(super) polled: bool,
    /// Like iterations in a row.
    pub(super) count: u32,
    /// It spun, and has not run since.
    pub(super) spun: bool,
    /// It has spun, and has polled nothing new since.
    pub(super) hot: bool,
    /// Backward branches in a row without an effect.
    pub(super) quiet: u32,
    /// Doublings of the iterations that it takes to call it spinning.
    pub(super) patience: u32,
    /// Hash of the registers at the last backward branch, while polls are recorded.
    pub(super) registers: u64,
    /// They have changed since the backward branch before: it counts its attempts.
    pub(super) counts: bool,
    /// The backward branch of the loop.
    pub(super) branch: u32,
}

/// Weak loads count as polls in the last few of so many iterations without an effect: hashing what
/// they read costs time, and a loop that spins goes on for longer.
const SAMPLING: u32 = 1024;
const SAMPLED: u32 = 4;

impl Spin {
    /// Whether weak loads count as polls now.
    pub(super) fn armed(&self) -> bool {
        self.hot || self.quiet % SAMPLING >= SAMPLING - SAMPLED
    }

    /// Lets a loop that counts its attempts make more of them in the next turn.
    pub(super) fn be_patient(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.patience = (self.patience + 1).min(MOST_PATIENCE);
        }
    }
}

/// Most doublings of the iterations of a loop that counts its attempts.
const MOST_PATIENCE: u32 = 13;

/// Instructions that a split may run while others of its warp can.
const BUDGET: i32 = 1 << 15;

impl Split {
    /// A runnable split.
    pub(super) fn new(pc: u32, mask: u32) -> Self {
        Self {
            pc,
            mask,
            wait: Wait::Run,
            expired: false,
            turns: 0,
            budget: BUDGET,
            spin: Spin::default(),
        }
    }

    fn merges(&self) -> bool {
        matches!(self.wait, Wait::Run | Wait::Converge)
    }

    fn runnable(&self) -> bool {
        self.wait == Wait::Run
    }
}

/// The splits of a warp.
#[derive(Debug, Clone)]
pub(super) struct Splits(SmallVec<[Split; 4]>);

impl Splits {
    /// One split of all lanes at the entry.
    pub(super) fn new(mask: u32) -> Self {
        let mut splits = SmallVec::new();
        if mask != 0 {
            splits.push(Split::new(0, mask));
        }
        Self(splits)
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Split> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Split> {
        self.0.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn at(&self, index: usize) -> &Split {
        &self.0[index]
    }

    pub(super) fn at_mut(&mut self, index: usize) -> &mut Split {
        &mut self.0[index]
    }

    pub(super) fn push(&mut self, split: Split) {
        self.0.push(split);
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.0.swap_remove(index);
    }

    /// The split to run and the program counter at which it meets another one. Splits at the same
    /// place merge first. `None` if no split can run, or all that can have spun.
    pub(super) fn select(&mut self) -> Option<(usize, u32)> {
        if let [only] = &self.0[..] {
            return (only.runnable() && !only.spin.spun).then_some((0, u32::MAX));
        }
        let key = |split: &Split| (split.turns, split.pc);
        let candidates = self.0.iter().enumerate();
        let candidates = candidates.filter(|(_, split)| split.runnable() && !split.spin.spun);
        let (index, _) = candidates.min_by_key(|(_, split)| key(split))?;
        let index = self.merge(index);
        let pc = self.0[index].pc;
        let others = self
            .0
            .iter()
            .map(|split| split.pc)
            .filter(|&other| other > pc);
        Some((index, others.min().unwrap_or(u32::MAX)))
    }

    /// Merges all splits at the place of `index` into it; the index it has then.
    fn merge(&mut self, index: usize) -> usize {
        let mut kept = self.0[index];
        let before = self.0.len();
        self.0.retain(|split| {
            let same = split.pc == kept.pc && split.merges();
            if same {
                kept.mask |= split.mask;
            }
            !same
        });
        if self.0.len() + 1 < before {
            kept.spin = Spin::default();
        }
        self.0.push(kept);
        self.0.len() - 1
    }

    /// Makes the split give way to the others that can run.
    pub(super) fn give_way(&mut self, index: usize) {
        let most = self.0.iter().map(|split| split.turns).max().unwrap_or(0);
        let split = &mut self.0[index];
        split.turns = most + 1;
        split.budget = BUDGET;
    }

    /// Lets splits that wait for lanes of the warp look again: a lane has exited or arrived.
    pub(super) fn recheck(&mut self) {
        for split in &mut self.0 {
            if split.wait == Wait::Converge {
                split.wait = Wait::Run;
            }
        }
    }

    /// Lets splits that spun run again; whether there are any.
    pub(super) fn clear_spun(&mut self) -> bool {
        let mut any = false;
        for split in &mut self.0 {
            any |= std::mem::take(&mut split.spin.spun);
        }
        any
    }
}
