//! Which CTAs fit on a device at a time: streaming multiprocessors and what they have room for.

use super::cta::Position;

/// Shared memory of one SM in bytes, of which every CTA takes [`CTA_RESERVED`] beside its own.
const SM_SHARED: u32 = 228 << 10;
const CTA_RESERVED: u32 = 1 << 10;
const SM_THREADS: u32 = 2048;
const SM_CTAS: u32 = 32;
/// An SM has four parts; each holds whole warps in its share of the registers.
const SM_PARTS: u32 = 4;
const PART_REGISTERS: u32 = 16 << 10;
const SM_REGISTERS: u32 = SM_PARTS * PART_REGISTERS;
/// Units in which registers of a warp and shared memory of a CTA are handed out.
const WARP_REGISTERS_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;

/// What one CTA takes of an SM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    shared: u32,
    threads: u32,
    /// Its share of the registers, by how many of its kind fit.
    registers: u32,
}

impl Need {
    /// The need of a CTA with `shared` bytes of shared memory and so many registers per thread.
    ///
    /// One CTA always has enough registers: their number is an estimate, and must not refuse what
    /// the hardware would run.
    pub(crate) fn new(shared: u32, threads: u32, registers: u32) -> Self {
        let shared = shared.min(SM_SHARED).next_multiple_of(SHARED_UNIT);
        let warps = threads.div_ceil(32).max(1);
        let per_warp = (registers.clamp(1, 256) * 32).next_multiple_of(WARP_REGISTERS_UNIT);
        let fit = PART_REGISTERS / per_warp * SM_PARTS / warps;
        Self {
            shared: shared + CTA_RESERVED,
            threads: warps.saturating_mul(32),
            registers: SM_REGISTERS / fit.max(1),
        }
    }

    /// CTAs of this kind that an empty SM holds.
    pub(crate) fn per_sm(self) -> u32 {
        Sm::default().room(self)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sm {
    shared: u32,
    threads: u32,
    registers: u32,
    ctas: u32,
}

impl Sm {
    fn room(&self, need: Need) -> u32 {
        let shared = (SM_SHARED - self.shared) / need.shared;
        let threads = (SM_THREADS - self.threads) / need.threads;
        let registers = (SM_REGISTERS - self.registers) / need.registers;
        shared.min(threads).min(registers).min(SM_CTAS - self.ctas)
    }

    fn fits(&self, need: Need) -> bool {
        self.shared + need.shared <= SM_SHARED
            && self.threads + need.threads <= SM_THREADS
            && self.registers + need.registers <= SM_REGISTERS
            && self.ctas < SM_CTAS
    }

    fn take(&mut self, need: Need) {
        self.shared += need.shared;
        self.threads += need.threads;
        self.registers += need.registers;
        self.ctas += 1;
    }

    fn give(&mut self, need: Need) {
        self.shared -= need.shared;
        self.threads -= need.threads;
        self.registers -= need.registers;
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

    /// Whether so many CTAs of a kind fit beside what is there.
    pub(super) fn has_room(&self, need: Need, ctas: u64) -> bool {
        let mut left = ctas;
        let fitting = self.0.iter().filter(|sm| sm.fits(need));
        ctas == 0
            || fitting.into_iter().any(|sm| {
                // Most ask for one: no need to count how many.
                let room = if left == 1 { 1 } else { sm.room(need) };
                left = left.saturating_sub(room.into());
                left == 0
            })
    }

    /// Takes room for one CTA on the SM with the fewest; the SM.
    pub(super) fn take(&mut self, need: Need) -> Option<u32> {
        let fits = self
            .0
            .iter_mut()
            .enumerate()
            .filter(|(_, sm)| sm.fits(need));
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
        assert_eq!(device.room(Need::new(227 << 10, 384, 32)), 4);
        assert_eq!(device.room(Need::new(100 << 10, 128, 32)), 8);
        assert_eq!(device.room(Need::new(0, 1024, 32)), 8);
        assert_eq!(device.room(Need::new(0, 33, 32)), 4 * 32);
        assert_eq!(device.room(Need::new(228 << 10, 32, 32)), 0);
    }

    #[test]
    fn room_for_some_is_room_for_at_least_as_many() {
        let mut device = Residency::new(3);
        for need in [Need::new(100 << 10, 128, 32), Need::new(0, 1024, 64)] {
            for _ in 0..2 {
                device.take(need);
                let room = device.room(need);
                for ctas in 0..10 {
                    assert_eq!(device.has_room(need, ctas), ctas <= room, "{ctas}");
                }
            }
        }
    }

    /// What `cuda_occupancy.h` of CUDA 13.0 computes for compute capability 9.0, blocks of these
    /// sizes in the columns. 0 means that one block has too few registers, where we allow one.
    #[test]
    fn an_empty_sm_holds_what_the_occupancy_calculator_says() {
        const THREADS: [u32; 9] = [32, 64, 96, 128, 256, 384, 512, 768, 1024];
        const BY_REGISTERS: [(u32, [u32; 9]); 12] = [
            (16, [32, 32, 21, 16, 8, 5, 4, 2, 2]),
            (24, [32, 32, 21, 16, 8, 5, 4, 2, 2]),
            (32, [32, 32, 21, 16, 8, 5, 4, 2, 2]),
            (40, [32, 24, 16, 12, 6, 4, 3, 2, 1]),
            (64, [32, 16, 10, 8, 4, 2, 2, 1, 1]),
            (72, [28, 14, 9, 7, 3, 2, 1, 1, 0]),
            (96, [20, 10, 6, 5, 2, 1, 1, 0, 0]),
            (104, [16, 8, 5, 4, 2, 1, 1, 0, 0]),
            (128, [16, 8, 5, 4, 2, 1, 1, 0, 0]),
            (168, [12, 6, 4, 3, 1, 1, 0, 0, 0]),
            (200, [8, 4, 2, 2, 1, 0, 0, 0, 0]),
            (255, [8, 4, 2, 2, 1, 0, 0, 0, 0]),
        ];
        const BY_SHARED: [(u32, [u32; 9]); 4] = [
            (1000, [32, 24, 16, 12, 6, 4, 3, 2, 1]),
            (16384, [13, 13, 13, 12, 6, 4, 3, 2, 1]),
            (99328, [2, 2, 2, 2, 2, 2, 2, 2, 1]),
            (232448, [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ];
        for (registers, blocks) in BY_REGISTERS {
            for (threads, blocks) in THREADS.into_iter().zip(blocks) {
                let got = Need::new(0, threads, registers).per_sm();
                assert_eq!(
                    got,
                    blocks.max(1),
                    "{registers} registers, {threads} threads"
                );
            }
        }
        for (shared, blocks) in BY_SHARED {
            for (threads, blocks) in THREADS.into_iter().zip(blocks) {
                let got = Need::new(shared, threads, 40).per_sm();
                assert_eq!(got, blocks, "{shared} bytes, {threads} threads");
            }
        }
    }

    #[test]
    fn registers_are_taken_and_given_back() {
        let mut device = Residency::new(1);
        let (wide, slim) = (Need::new(0, 256, 128), Need::new(0, 32, 96));
        assert_eq!(device.room(wide), 2);
        assert_eq!(device.take(wide), Some(0));
        // Half of the registers are left: 10 warps of the 20 that fit into all of them.
        assert_eq!(device.room(slim), 10);
        assert_eq!(device.take(wide), Some(0));
        assert_eq!(device.room(slim), 0);
        device.give(&[Position { cta: [0; 3], sm: 0 }; 2], wide);
        assert_eq!(device.room(slim), 20);
    }

    #[test]
    fn room_is_spread_and_given_back() {
        let mut device = Residency::new(2);
        let need = Need::new(120 << 10, 256, 32);
        assert_eq!(device.take(need), Some(0));
        assert_eq!(device.take(need), Some(1));
        assert_eq!(device.take(need), None);
        let position = Position { cta: [0; 3], sm: 1 };
        device.give(&[position], need);
        assert_eq!(device.take(need), Some(1));
    }
}
