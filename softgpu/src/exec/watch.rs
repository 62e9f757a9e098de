//! Parked clusters: what a cluster that waits has read, so that it need not run again before
//! something of that changes.
//!
//! When every warp of a cluster that could run only spins, or when the cluster has run for a while,
//! it is let run on ([`super::round`]) and records meanwhile, just before every access, the words of
//! global memory that it reads. If it waits, it is parked: the scheduler compares the words with
//! memory, which costs nanoseconds instead of a turn. Whoever changes them, another cluster, device,
//! process or the host, needs to tell nobody. Because a word is recorded before it is read, a change
//! that comes later is always seen.
//!
//! A cluster that comes back to where it was does the same for ever with the same memory. One that
//! reads a clock or counts its attempts also gets a turn now and then, ever more rarely.
#![expect(
    unsafe_code,
    reason = "polled words of guest memory are read through pointers"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::access::{MemCtx, Span, window};
use super::cta::{Env, LaunchState};
use super::kernel::{AccessInfo, AccessKind};
use super::round;
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

/// Collects what a cluster reads while it goes round.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) on: bool,
    /// The work at which this began.
    pub(super) begin: u64,
    /// Everything read is known.
    pub(super) whole: bool,
    /// No clock was read.
    pub(super) fixed: bool,
    /// Memory has changed that others can see, or an atomic operation has changed any.
    pub(super) moved: bool,
    /// A hash of the cluster's memory at the beginning of the round, if something has been stored
    /// there since, and if there is not too much of it.
    pub(super) memory: Option<Option<u64>>,
    words: Vec<Word>,
    /// What an atomic operation is about to work on.
    operands: Vec<Word>,
}

impl Recorder {
    pub(super) fn start(&mut self, work: u64) {
        (self.on, self.begin, self.whole) = (true, work, true);
        self.operands.clear();
        self.begin_round();
    }

    /// Forgets what was read before this round.
    pub(super) fn begin_round(&mut self) {
        (self.fixed, self.moved, self.memory) = (true, false, None);
        self.words.clear();
    }

    /// Whether nothing has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.fixed && self.words.is_empty()
    }

    /// Notes what the lanes of an instruction are about to access: space, address and lane.
    pub(super) fn access(
        &mut self,
        (env, ctx): (&Env, &MemCtx<'_>),
        info: AccessInfo,
        places: impl Iterator<Item = (Space, u64, u32)>,
    ) {
        let mut last = None;
        for (space, address, lane) in places {
            let global = match space {
                Space::Generic => window(address).is_none(),
                Space::Global | Space::Const => true,
                _ => false,
            };
            if global && last.replace(address) != Some(address) && info.poll != 0 {
                self.poll(ctx, address, info.bytes);
            }
            match info.kind {
                AccessKind::Load => {}
                AccessKind::Atom => self.operand(ctx, (space, address, lane), info.element),
                AccessKind::Store | AccessKind::Red if global => self.moved = true,
                AccessKind::Store | AccessKind::Red => self.before_store(env),
            }
        }
    }

    /// The cluster's own memory is about to be written.
    pub(super) fn before_store(&mut self, env: &Env) {
        if self.on && self.memory.is_none() {
            self.memory = Some(round::memory(&env.blocks));
        }
    }

    /// Notes global memory that a lane is about to read.
    fn poll(&mut self, ctx: &MemCtx<'_>, address: u64, bytes: u32) {
        let place = ctx.resolve_one(Space::Global, address, 0, read(bytes));
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
            self.moved |= *known != word;
            *known = word;
        } else if self.words.len() < MOST {
            self.words.push(word);
        } else {
            self.whole = false;
        }
    }

    /// Notes what an atomic operation is about to work on, wherever that is.
    fn operand(&mut self, ctx: &MemCtx<'_>, (space, address, lane): (Space, u64, u32), bytes: u32) {
        // An illegal access is about to end the launch.
        if let Ok(host) = ctx.resolve_one(space, address, lane, read(bytes)) {
            let host = host.expose_provenance() as u64;
            let size = u8::try_from(bytes.min(8)).unwrap_or(8);
            for offset in (0..u64::from(bytes)).step_by(size.into()) {
                self.operands.push(Word::read(host + offset, size));
            }
        }
    }

    /// Looks whether an atomic operation, just executed, has changed anything.
    pub(super) fn look_at_atomics(&mut self) {
        self.moved |= self.operands.drain(..).any(|word| word.changed());
    }

    /// The words read, if they are all.
    pub(super) fn take_words(&mut self) -> Option<Vec<Word>> {
        self.whole.then(|| std::mem::take(&mut self.words))
    }
}

fn read(bytes: u32) -> Span {
    Span {
        bytes: bytes.into(),
        align: u64::from(bytes.min(8)),
        access: Access::Read,
    }
}
