//! Which CTAs fit on a device at a time: streaming multiprocessors and what they have room for.

use super::cta::Position;

/// Shared memory of one SM in bytes, of which every CTA takes [`CTA_RESERVED`] beside its own.
const SM_SHARED: u32 = 228 << 10;
const CTA_RESERVED: u32 = 1 << 10;
const SM_THREADS: u32 = 2048;
const SM_CTAS: u32 = 32;

/// What one CTA takes of an SM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    shared: u32,
    threads: u32,
}

impl Need {
    /// The need of a CTA with `shared` bytes of shared memory.
    pub(super) fn new(shared: u32, threads: u32) -> Self {
        Self {
            shared: shared.saturating_add(CTA_RESERVED),
            threads: threads.next_multiple_of(32),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sm {
    shared: u32,
    threads: u32,
    ctas: u32,
}

impl Sm {
    fn room(&self, need: Need) -> u32 {
        let shared = (SM_SHARED - self.shared) / need.shared;
        let threads = (SM_THREADS - self.threads) / need.threads.max(1);
        shared.min(threads).min(SM_CTAS - self.ctas)
    }

    fn take(&mut self, need: Need) {
        self.shared += need.shared;
        self.threads += need.threads;
        self.ctas += 1;
    }

    fn give(&mut self, need: Need) {
        self.shared -= need.shared;
        self.threads -= need.threads;
        self.ctas -= 1;
    }
}

/// The SMs of a device.
#[derive(Debug, Clone)]
pub(super) struct Residency(Vec<Sm>);

impl Residency {
    /// An empty device.
    pub(super) fn new(sms: u32) -> Self {
        Self(vec![Sm::default(); sms as usize])
    }

    /// CTAs of a kind that fit beside what is there.
    pub(super) fn room(&self, need: Need) -> u64 {
        self.0.iter().map(|sm| u64::from(sm.room(need))).sum()
    }

    /// Takes room for one CTA on the SM with the fewest; the SM.
    pub(super) fn take(&mut self, need: Need) -> Option<u32> {
        let fits = self
            .0
            .iter_mut()
            .enumerate()
            .filter(|(_, sm)| sm.room(need) > 0);
        let (index, sm) = fits.min_by_key(|(_, sm)| (sm.ctas, sm.threads))?;
        sm.take(need);
        u32::try_from(index).ok()
    }

    /// Gives the room of CTAs back.
    pub(super) fn give(&mut self, positions: &[Position], need: Need) {
        for position in positions {
            self.0[position.sm as usize].give(need);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, Residency};
    use crate::exec::cta::Position;

    #[test]
    fn limits_are_shared_memory_threads_and_ctas() {
        let device = Residency::new(4);
        assert_eq!(device.room(Need::new(227 << 10, 384)), 4);
        assert_eq!(device.room(Need::new(100 << 10, 128)), 8);
        assert_eq!(device.room(Need::new(0, 1024)), 8);
        assert_eq!(device.room(Need::new(0, 33)), 4 * 32);
        assert_eq!(device.room(Need::new(228 << 10, 32)), 0);
    }

    #[test]
    fn room_is_spread_and_given_back() {
        let mut device = Residency::new(2);
        let need = Need::new(120 << 10, 256);
        assert_eq!(device.take(need), Some(0));
        assert_eq!(device.take(need), Some(1));
        assert_eq!(device.take(need), None);
        let position = Position { cta: [0; 3], sm: 1 };
        device.give(&[position], need);
        assert_eq!(device.take(need), Some(1));
    }
}
