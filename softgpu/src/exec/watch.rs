//! Parked spins: what a cluster that only polls has read, so that it need not run again before
//! something of that changes.
//!
//! When every warp of a cluster that could run only spins, the cluster gives each another round and
//! records meanwhile, just before every poll, the words of global memory that it reads. If the
//! round changes nothing, the cluster is parked: the scheduler compares the words with memory, which
//! costs nanoseconds instead of a turn. Whoever changes them, another cluster, device, process or
//! the host, needs to tell nobody. Because a word is recorded before it is polled, a change that
//! comes later is always seen.
//!
//! A loop whose registers come round to the same values is a fixed point: with the same memory it
//! does the same for ever. Otherwise (it reads a clock or counts its attempts) the cluster also
//! gets a turn now and then, ever more rarely.
#![expect(
    unsafe_code,
    reason = "polled words of guest memory are read through pointers"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::access::{MemCtx, Span, window};
use super::cta::LaunchState;
use crate::ir::Space;
use crate::mem::{Access, AddressSpace};

/// Words that a parked cluster watches at most; with more it is not parked.
const MOST: usize = 512;

/// A word of guest memory, and what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) address: u64,
    bytes: u8,
    pub(super) value: u64,
}

impl Word {
    fn read(address: u64, bytes: u8) -> Self {
        let pointer = usize::try_from(address).unwrap_or(0);
        let pointer = std::ptr::with_exposed_provenance_mut::<u8>(pointer);
        let order = Ordering::Relaxed;
        let value = match bytes {
            // SAFETY: the address was resolved within the window of guest memory, which stays
            // backed for ever, and is aligned.
            1 => unsafe { AtomicU8::from_ptr(pointer) }.load(order).into(),
            // SAFETY: as above.
            2 => unsafe { AtomicU16::from_ptr(pointer.cast()) }
                .load(order)
                .into(),
            // SAFETY: as above.
            4 => unsafe { AtomicU32::from_ptr(pointer.cast()) }
                .load(order)
                .into(),
            // SAFETY: as above.
            _ => unsafe { AtomicU64::from_ptr(pointer.cast()) }.load(order),
        };
        Self {
            address,
            bytes,
            value,
        }
    }

    pub(super) fn changed(&self) -> bool {
        Self::read(self.address, self.bytes).value != self.value
    }
}

/// What must happen before a parked cluster runs again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) words: Vec<Word>,
    /// Clock at which it runs anyway.
    pub(super) until: Option<u64>,
    /// The launch for whose end it waits.
    pub(super) launch: Option<Arc<LaunchState>>,
}

/// Whether polls are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recording {
    On,
    Off,
}

/// Collects what the spinning warps of a cluster poll.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    /// A round is being recorded.
    pub(super) on: bool,
    /// Everything polled is known.
    pub(super) whole: bool,
    /// Registers came round to the same values.
    pub(super) fixed: bool,
    words: Vec<Word>,
}

impl Recorder {
    pub(super) fn start(&mut self) {
        self.words.clear();
        (self.on, self.whole, self.fixed) = (true, true, true);
    }

    /// Notes what a lane is about to poll.
    pub(super) fn poll(&mut self, ctx: &MemCtx<'_>, (space, address): (Space, u64), bytes: u32) {
        let global = match space {
            Space::Generic => window(address).is_none(),
            Space::Global | Space::Const => true,
            // Memory of the cluster does not change while the cluster is parked.
            _ => return,
        };
        if !global {
            return;
        }
        let span = Span {
            bytes: bytes.into(),
            align: u64::from(bytes.min(8)),
            access: Access::Read,
        };
        let place = ctx.resolve_one(Space::Global, address, 0, span);
        if place.is_err() || !AddressSpace::global().in_window(address) {
            // Memory that the host has registered may go away.
            self.whole = false;
            return;
        }
        let size = u8::try_from(bytes.min(8)).unwrap_or(8);
        for offset in (0..u64::from(bytes)).step_by(size.into()) {
            self.add(Word::read(address + offset, size));
        }
    }

    fn add(&mut self, word: Word) {
        let same = |known: &&mut Word| known.address == word.address;
        if let Some(known) = self.words.iter_mut().rev().find(same) {
            *known = word;
        } else if self.words.len() < MOST {
            self.words.push(word);
        } else {
            self.whole = false;
        }
    }

    /// Ends the recording; the words, if they are all.
    pub(super) fn finish(&mut self) -> Option<Vec<Word>> {
        let whole = std::mem::take(&mut self.on) && self.whole;
        whole.then(|| std::mem::take(&mut self.words))
    }
}
