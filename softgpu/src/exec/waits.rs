//! When the waits of a warp's splits are over.

use super::cta::{Env, State};
use super::group::Until;
use super::split::{Split, Wait};
use super::warp::Warp;

/// Whether a warp looks at its waits at the beginning of its slice, when they may also time out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// At the beginning.
    First,
    /// Later.
    Again,
}

impl Warp {
    /// Releases `bar.warp.sync` waiters all of whose members have come or gone.
    pub(super) fn release_warp_barrier(&mut self) {
        let mut left = self.splits.len();
        while left > 0 {
            left -= 1;
            let Wait::WarpBarrier { members } = self.splits.at(left).wait else {
                continue;
            };
            let same = Wait::WarpBarrier { members };
            let here = self.splits.iter().filter(|split| split.wait == same);
            let here = here.fold(0, |mask, split| mask | split.mask);
            if members & self.live & !here == 0 {
                for split in self.splits.iter_mut().filter(|split| split.wait == same) {
                    split.wait = Wait::Run;
                    split.pc += 1;
                }
            }
        }
    }

    /// Resumes splits whose waits are over.
    pub(super) fn look_at_waits(&mut self, env: &Env, st: &mut State, look: Look) {
        st.ctas[self.rank as usize].rouse(self.index);
        for index in 0..self.splits.len() {
            let split = *self.splits.at(index);
            let (over, retry, expired) = self.wait_is_over(env, st, &split, look);
            if over {
                let split = self.splits.at_mut(index);
                split.wait = Wait::Run;
                split.expired = expired;
                split.pc += u32::from(!retry);
            }
        }
    }

    /// Whether a wait is over; whether the instruction executes again; whether it timed out.
    fn wait_is_over(
        &mut self,
        env: &Env,
        st: &State,
        split: &Split,
        look: Look,
    ) -> (bool, bool, bool) {
        let cta = &st.ctas[self.rank as usize];
        let over = match split.wait {
            Wait::Run | Wait::Converge | Wait::WarpBarrier { .. } => return (false, false, false),
            Wait::Barrier { id, generation } => {
                let done = cta.barriers[usize::from(id)].generation() > generation;
                if done {
                    self.finish_barrier(env, st, split);
                }
                done
            }
            Wait::Cluster { phase } => st.barrier.phase() > phase,
            Wait::Mbarrier {
                offset,
                parity,
                until,
            } => {
                let completed = super::mbar::completed(env, self.rank, offset, parity);
                let late = look == Look::First && (st.expire || st.cycles() >= until);
                return (completed || late, true, !completed);
            }
            Wait::Bulk { pending, read } => {
                self.bulk.settle(&st.inflight);
                self.bulk.at_most(split.mask, pending, read.into())
            }
            Wait::CpAsync { pending } => {
                self.copies.settle(&st.inflight);
                self.copies.at_most(split.mask, pending, Until::Done)
            }
            Wait::WgmmaDone { number } => {
                let group = &cta.warpgroups[self.index as usize / 4];
                return (group.completed() >= number, true, false);
            }
            Wait::Wgmma { pending } => {
                let group = &cta.warpgroups[self.index as usize / 4];
                self.wgmma.at_most(&env.launch.kernel, group, pending)
            }
            Wait::Sleep { until, turn } => turn != st.turn || st.cycles() >= until,
            Wait::Grid => env.launch.dependence.pending().is_none(),
        };
        (over, false, false)
    }
}
