//! Barriers of a CTA (`bar`, 0..=15) and of a cluster (`barrier.cluster`) as pure state.
//!
//! A named barrier counts threads. An explicit count comes with every arrival and must agree within
//! a generation. Without one, all threads of the CTA that have not exited take part, so an exit can
//! complete a barrier. A generation number tells waiters that theirs has completed; results of
//! `bar.red` are kept for the last few generations because a waiter may look late.
//! Source: PTX ISA, `barrier{.cta}` and `barrier.cluster`.

/// Named barriers per CTA.
pub const BARRIERS: usize = 16;

const KEPT: usize = 8;

/// What the threads of one `bar.red` contribute, and what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reduction {
    /// Threads whose predicate was true.
    pub yes: u32,
    /// Threads that took part.
    pub all: u32,
}

/// One named barrier.
#[derive(Debug, Clone, Default)]
pub struct NamedBarrier {
    /// Threads that arrived in the current generation.
    arrived: u32,
    /// Explicit thread count of the current generation.
    count: Option<u32>,
    /// Completed generations.
    generation: u64,
    reduction: Reduction,
    results: [Reduction; KEPT],
}

/// An arrival of threads of one warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Threads. With an explicit count, a warp of which all live lanes arrive counts as 32.
    pub threads: u32,
    /// Explicit count, if the instruction has one.
    pub count: Option<u32>,
    /// Contribution to `bar.red`.
    pub reduction: Reduction,
}

/// A use of a barrier against its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BarrierMisuse {
    /// Barrier number above 15.
    #[error("barrier {0} is not in 0..=15")]
    Number(u64),
    /// Thread count zero or not a multiple of the warp size.
    #[error("barrier thread count {0} is not a positive multiple of 32")]
    Count(u32),
    /// Arrivals of one generation disagree about the thread count.
    #[error("barrier thread counts {first} and {second} meet in one generation")]
    Disagree {
        /// Count of the first arrival.
        first: u32,
        /// Count of this arrival.
        second: u32,
    },
    /// More threads arrived than the barrier counts.
    #[error("{arrived} threads arrived at a barrier of {count}")]
    Overrun {
        /// Threads with this arrival.
        arrived: u32,
        /// Thread count.
        count: u32,
    },
}

impl NamedBarrier {
    /// Generation that arrivals now join.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Threads that have arrived, and the explicit count, for reports.
    #[must_use]
    pub fn progress(&self) -> (u32, Option<u32>) {
        (self.arrived, self.count)
    }

    /// What the current generation has been given for `bar.red`.
    #[must_use]
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// Adds an arrival. `live` = threads of the CTA that have not exited. Says
    /// whether the generation completed.
    ///
    /// # Errors
    /// Counts that are not whole warps, disagree, or are overrun.
    pub fn arrive(&mut self, arrival: Arrival, live: u32) -> Result<bool, BarrierMisuse> {
        if let Some(count) = arrival.count {
            if count == 0 || !count.is_multiple_of(32) {
                return Err(BarrierMisuse::Count(count));
            }
            match self.count {
                Some(first) if first != count => {
                    return Err(BarrierMisuse::Disagree {
                        first,
                        second: count,
                    });
                }
                _ => self.count = Some(count),
            }
        }
        self.arrived += arrival.threads;
        self.reduction.yes += arrival.reduction.yes;
        self.reduction.all += arrival.reduction.all;
        if let Some(count) = self.count
            && self.arrived > count
        {
            let arrived = self.arrived;
            return Err(BarrierMisuse::Overrun { arrived, count });
        }
        Ok(self.settle(live))
    }

    /// Completes the generation if all threads that remain have arrived: some have exited.
    pub fn exit(&mut self, live: u32) -> bool {
        self.count.is_none() && self.settle(live)
    }

    /// Completes the generation if everyone has arrived.
    fn settle(&mut self, live: u32) -> bool {
        let done = self.arrived > 0 && self.arrived >= self.count.unwrap_or(live);
        if done {
            self.results[slot(self.generation)] = self.reduction;
            self.generation += 1;
            self.arrived = 0;
            self.count = None;
            self.reduction = Reduction::default();
        }
        done
    }

    /// The reduction of a completed generation.
    #[must_use]
    pub fn result(&self, generation: u64) -> Reduction {
        self.results[slot(generation)]
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below KEPT"
)]
fn slot(generation: u64) -> usize {
    (generation % KEPT as u64) as usize
}

/// The barrier of a cluster. Threads that exit count as arrived.
#[derive(Debug, Clone, Default)]
pub struct ClusterBarrier {
    arrived: u32,
    phase: u64,
}

impl ClusterBarrier {
    /// Phase that arrivals now join.
    #[must_use]
    pub fn phase(&self) -> u64 {
        self.phase
    }

    /// Threads that have arrived in this phase.
    #[must_use]
    pub fn arrived(&self) -> u32 {
        self.arrived
    }

    /// Adds arrivals of live threads; says whether the phase completed.
    pub fn arrive(&mut self, threads: u32, live: u32) -> bool {
        self.arrived += threads;
        self.settle(live)
    }

    /// Threads exit, `arrived` of which had arrived in this phase; `live` remain.
    pub fn exit(&mut self, arrived: u32, live: u32) -> bool {
        self.arrived -= arrived;
        self.settle(live)
    }

    fn settle(&mut self, live: u32) -> bool {
        let done = self.arrived > 0 && self.arrived >= live;
        if done {
            self.arrived = 0;
            self.phase += 1;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, BarrierMisuse, ClusterBarrier, NamedBarrier, Reduction};

    fn warp(count: Option<u32>) -> Arrival {
        Arrival {
            threads: 32,
            count,
            reduction: Reduction { yes: 3, all: 32 },
        }
    }

    #[test]
    fn explicit_counts_complete_and_reuse() {
        let mut barrier = NamedBarrier::default();
        for generation in 0..20 {
            assert_eq!(barrier.generation(), generation);
            assert_eq!(barrier.arrive(warp(Some(64)), 128), Ok(false));
            assert_eq!(barrier.arrive(warp(Some(64)), 128), Ok(true));
            assert_eq!(barrier.result(generation), Reduction { yes: 6, all: 64 });
        }
    }

    #[test]
    fn exits_complete_a_barrier_of_all_threads() {
        let mut barrier = NamedBarrier::default();
        assert_eq!(barrier.arrive(warp(None), 96), Ok(false));
        assert!(!barrier.exit(64));
        assert!(barrier.exit(32));
        assert!(
            !barrier.exit(32),
            "nobody has arrived in the next generation"
        );
    }

    #[test]
    fn misuse_is_named() {
        let mut barrier = NamedBarrier::default();
        assert_eq!(
            barrier.arrive(warp(Some(33)), 64),
            Err(BarrierMisuse::Count(33))
        );
        assert_eq!(barrier.arrive(warp(Some(64)), 64), Ok(false));
        let clash = BarrierMisuse::Disagree {
            first: 64,
            second: 96,
        };
        assert_eq!(barrier.arrive(warp(Some(96)), 96), Err(clash));
    }

    #[test]
    fn a_cluster_counts_exits_as_arrivals() {
        let mut barrier = ClusterBarrier::default();
        assert!(!barrier.arrive(32, 96));
        assert!(!barrier.exit(0, 64));
        assert!(barrier.exit(0, 32));
        assert_eq!(barrier.phase(), 1);
        assert!(!barrier.arrive(16, 32));
        assert!(!barrier.exit(16, 16), "the arrived half has exited");
        assert!(barrier.arrive(16, 16));
    }
}
