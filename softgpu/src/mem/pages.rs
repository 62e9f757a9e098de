//! The permission table: one word per 64 KiB page of the window. Bit `d` says that device `d` may
//! read the page, bit `16 + d` that it may write it.
//!
//! # Safety
//!
//! The table is a process-lifetime anonymous mapping of `count` words, zeroed by the system; words
//! are only ever accessed as atomics, at indices checked against `count`.

#![expect(
    unsafe_code,
    reason = "the table is a lazily committed mapping, too large for a Vec"
)]

use std::sync::atomic::{AtomicU32, Ordering};

use super::{MemError, sys};

/// log2 of the page size.
pub(super) const PAGE_BITS: u32 = 16;

/// Permission words of a window.
#[derive(Debug)]
pub(super) struct PageTable {
    words: *const AtomicU32,
    count: u64,
}

// SAFETY: the words are atomics that live as long as the process.
unsafe impl Send for PageTable {}
// SAFETY: as above.
unsafe impl Sync for PageTable {}

impl PageTable {
    /// A table without permissions for a window of `window` bytes.
    pub(super) fn new(window: u64) -> Result<Self, MemError> {
        let count = window >> PAGE_BITS;
        let words = sys::lazy_zeroed(count * 4)?
            .cast::<AtomicU32>()
            .cast_const();
        Ok(Self { words, count })
    }

    /// The word of a page; 0 beyond the end.
    #[inline]
    pub(super) fn get(&self, page: u64) -> u32 {
        self.word(page).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    #[inline]
    fn word(&self, page: u64) -> Option<&AtomicU32> {
        if page >= self.count {
            return None;
        }
        // SAFETY: `page < count`, the number of words of the mapping.
        let word = unsafe { self.words.add(usize::try_from(page).ok()?) };
        // SAFETY: in bounds, aligned, zero-initialised, never unmapped.
        Some(unsafe { &*word })
    }

    /// Changes the words of `pages` pages from `first`: clears `clear`, then sets `set`.
    pub(super) fn update(&self, first: u64, pages: u64, clear: u32, set: u32) {
        for page in first..first + pages {
            if let Some(word) = self.word(page) {
                // Readers either see the old or the new word; a transient is never visible.
                let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, |old| {
                    Some((old & !clear) | set)
                });
            }
        }
    }
}
