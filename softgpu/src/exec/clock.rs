//! Virtual time.
//!
//! Rule: there is one clock for the machine, in nanoseconds; `%globaltimer` reads it and
//! `%clock64` is the same time in SM cycles of 1755 MHz.
//!
//! * While anything works, time advances with work: a cluster that executes `n` warp instructions
//!   (a wgmma counts as the instructions that take as long) advances it by
//!   `n / clusters in flight` cycles, as if all of them had run side by side. That is always slower
//!   than wall time, so a deadline of a kernel never fires because interpreting is slow.
//! * While *all* runnable work of the machine is polling or sleeping, time advances at the rate of
//!   wall time, so deadlines do expire when nobody makes progress, and a host that has to act has
//!   as much time as it would have with a real device. Under a seed, where runs must replay, such
//!   a round advances time by a fixed step instead.
//!
//! Time never goes back: within a quantum a cluster reads the machine's time at the quantum's
//! start plus its own share so far, and adds that share at the end.

use std::sync::atomic::{AtomicU64, Ordering};

/// SM cycles per 1000 ns.
pub const CYCLES_PER_MICROSECOND: u64 = 1755;

/// The machine's clock. Counts thousandths of a cycle, so that small shares add up.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

const UNIT: u64 = 1000;

impl Clock {
    /// Thousandths of a cycle since the start.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Advances by a share of work, as computed by [`Share::since`].
    pub(super) fn add(&self, ticks: u64) {
        self.0.fetch_add(ticks, Ordering::Relaxed);
    }

    /// The ticks of a time.
    pub(super) fn ticks(nanoseconds: u64) -> u64 {
        nanoseconds.saturating_mul(CYCLES_PER_MICROSECOND) * UNIT / 1000
    }

    /// The ticks of a duration.
    pub(super) fn ticks_of(duration: std::time::Duration) -> u64 {
        Self::ticks(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Advances by wall time.
    pub(super) fn add_nanoseconds(&self, nanoseconds: u64) {
        self.add(Self::ticks(nanoseconds));
    }
}

/// A cluster's view of the clock during one quantum.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    base: u64,
    work_base: u64,
    clusters: u64,
}

impl Share {
    /// Begins a quantum at `work` instructions while `clusters` clusters are in flight.
    pub(super) fn begin(clock: &Clock, work: u64, clusters: u64) -> Self {
        Self {
            base: clock.now(),
            work_base: work,
            clusters: clusters.max(1),
        }
    }

    /// Ticks that the work done since the beginning of the quantum is worth.
    pub(super) fn since(&self, work: u64) -> u64 {
        work.wrapping_sub(self.work_base) * UNIT / self.clusters
    }

    /// Ticks of the clock at `work` instructions.
    pub(super) fn end(&self, work: u64) -> u64 {
        self.base + self.since(work)
    }

    /// `%clock64` at `work` instructions.
    pub(super) fn cycles(&self, work: u64) -> u64 {
        (self.base + self.since(work)) / UNIT
    }

    /// `%globaltimer` at `work` instructions.
    pub(super) fn nanoseconds(&self, work: u64) -> u64 {
        self.cycles(work) * 1000 / CYCLES_PER_MICROSECOND
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Share};

    #[test]
    fn work_is_shared_and_time_is_monotonic() {
        let clock = Clock::default();
        let first = Share::begin(&clock, 0, 10);
        assert_eq!(first.cycles(10_000), 1000);
        clock.add(first.since(10_000));
        let second = Share::begin(&clock, 10_000, 5);
        assert_eq!(second.cycles(10_000), 1000);
        assert_eq!(second.cycles(15_000), 2000);
        assert_eq!(second.nanoseconds(15_000), 2000 * 1000 / 1755);
    }

    #[test]
    fn wall_time_counts_in_full() {
        let clock = Clock::default();
        clock.add_nanoseconds(10_000_000_000);
        let share = Share::begin(&clock, 0, 1);
        assert_eq!(share.cycles(0), 17_550_000_000);
        assert_eq!(share.nanoseconds(0), 10_000_000_000);
    }
}
