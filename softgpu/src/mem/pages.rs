//! The permission table: one word per 64 KiB page of the window. Bit `d` says that device `d` may
//! read the page, bit `16 + d` that it may write it; bits 32 to 47 hold the first byte of the page
//! that belongs to an allocation, bits 48 to 63 how many bytes at its end do not: zero for a page
//! that is used as a whole. So a bounds check costs two comparisons beside the permission, and
//! allocations begin and end at any byte.
//!
//! # Safety
//!
//! The table is a process-lifetime anonymous mapping of `count` words, zeroed by the system; words
//! are only ever accessed as atomics, at indices checked against `count`.

#![expect(
    unsafe_code,
    reason = "the table is a lazily committed mapping, too large for a Vec"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::{MemError, sys};

/// log2 of the page size.
pub(super) const PAGE_BITS: u32 = 16;

/// Bytes of a page.
const SIZE: u64 = 1 << PAGE_BITS;

/// The word of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page(u64);

impl Page {
    /// A page with permissions, of which `used` belongs to an allocation.
    pub(super) fn new(permissions: u32, used: std::ops::Range<u64>) -> Self {
        let first = used.start.min(SIZE - 1);
        let unused = SIZE - used.end.clamp(first + 1, SIZE);
        Self(u64::from(permissions) | first << 32 | unused << 48)
    }

    /// A page that belongs to one allocation.
    pub(super) fn whole(permissions: u32) -> Self {
        Self::new(permissions, 0..SIZE)
    }

    /// Whether a permission bit is set.
    #[inline]
    pub(super) const fn allows(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// Whether any bit of a mask of permissions is set.
    pub(super) fn permits(self, mask: u32) -> bool {
        self.0 & u64::from(mask) != 0
    }

    /// The first byte in use.
    #[inline]
    pub(super) const fn first(self) -> u64 {
        self.0 >> 32 & (SIZE - 1)
    }

    /// The last byte in use.
    #[inline]
    pub(super) const fn last(self) -> u64 {
        SIZE - 1 - (self.0 >> 48)
    }
}

/// Permission words of a window.
#[derive(Debug)]
pub(super) struct PageTable {
    words: *const AtomicU64,
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
        let words = sys::lazy_zeroed(count * 8)?
            .cast::<AtomicU64>()
            .cast_const();
        Ok(Self { words, count })
    }

    /// The word of a page; 0 beyond the end.
    #[inline]
    pub(super) fn get(&self, page: u64) -> Page {
        Page(self.word(page).map_or(0, |w| w.load(Ordering::Relaxed)))
    }

    #[inline]
    fn word(&self, page: u64) -> Option<&AtomicU64> {
        if page >= self.count {
            return None;
        }
        // SAFETY: `page < count`, the number of words of the mapping.
        let word = unsafe { self.words.add(usize::try_from(page).ok()?) };
        // SAFETY: in bounds, aligned, zero-initialised, never unmapped.
        Some(unsafe { &*word })
    }

    /// Replaces the word of a page.
    pub(super) fn set(&self, page: u64, to: Page) {
        if let Some(word) = self.word(page) {
            word.store(to.0, Ordering::Release);
        }
    }

    /// Changes the permissions of `pages` pages from `first`: clears `clear`, then sets `set`.
    pub(super) fn update(&self, first: u64, pages: u64, clear: u32, set: u32) {
        for page in first..first + pages {
            if let Some(word) = self.word(page) {
                // Readers either see the old or the new word; a transient is never visible.
                let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, |old| {
                    Some((old & !u64::from(clear)) | u64::from(set))
                });
            }
        }
    }
}
