//! Runs of bytes that the driver copies and fills on behalf of the host.
//!
//! # Safety
//!
//! A [`Span`] is a promise that its bytes can be read and written from any host thread for as
//! long as it is used. For guest memory the address space keeps the promise (freed ranges stay
//! backed); for other host memory the caller of [`Span::host`] makes it. Device threads may touch
//! the same bytes at the same time; as on a GPU, what a racing copy sees is then unspecified.

#![expect(unsafe_code, reason = "copies between raw addresses")]

use super::{AddressSpace, PAGE, to_usize};

/// Bytes from which on zeroed memory is given back to the system.
const SPARSE: usize = 2 << 20;

/// A run of bytes at a host address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    address: u64,
    bytes: usize,
}

impl Span {
    /// A run of host memory.
    ///
    /// # Safety
    ///
    /// The bytes must be readable (and writable, if the span is written) until its last use.
    #[must_use]
    pub unsafe fn host(address: u64, bytes: u64) -> Self {
        Self {
            address,
            bytes: to_usize(bytes),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// A part of the span; cut off at its end.
    #[must_use]
    pub fn part(&self, offset: u64, bytes: u64) -> Self {
        let offset = to_usize(offset).min(self.bytes);
        Self {
            address: self.address + offset as u64,
            bytes: to_usize(bytes).min(self.bytes - offset),
        }
    }

    fn pointer(self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(to_usize(self.address))
    }

    /// Copies as many bytes as both spans have; they may overlap.
    pub fn copy_from(&self, source: &Self) {
        let bytes = self.bytes.min(source.bytes);
        // SAFETY: both spans hold at least `bytes` accessible bytes (module header).
        unsafe { std::ptr::copy(source.pointer().cast_const(), self.pointer(), bytes) };
    }

    /// Writes the bytes of a slice, as far as the span goes.
    pub fn write(&self, bytes: &[u8]) {
        let count = self.bytes.min(bytes.len());
        // SAFETY: the span holds at least `count` writable bytes (module header), the slice too.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.pointer(), count) };
    }

    /// The bytes, as they are now.
    #[must_use]
    pub fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: the span holds `self.bytes` readable bytes (module header), the vector too.
        unsafe { std::ptr::copy(self.pointer().cast_const(), bytes.as_mut_ptr(), self.bytes) };
        bytes
    }

    /// Repeats a pattern of 1, 2 or 4 bytes over the span.
    pub fn fill(&self, pattern: &[u8]) {
        if pattern.iter().all(|b| Some(b) == pattern.first()) {
            let byte = pattern.first().copied().unwrap_or(0);
            if byte == 0 && self.clear() {
                return;
            }
            // SAFETY: the span holds `self.bytes` writable bytes (module header).
            unsafe { std::ptr::write_bytes(self.pointer(), byte, self.bytes) };
            return;
        }
        let block: Vec<u8> = pattern.iter().copied().cycle().take(4096).collect();
        let mut at = 0;
        while at < self.bytes {
            self.part(at as u64, block.len() as u64).write(&block);
            at += block.len();
        }
    }

    /// Zeroes a large span by giving its pages back to the system, so that memory which is only ever
    /// zeroed costs the host nothing; false if it is not large, or the system cannot.
    fn clear(&self) -> bool {
        if self.bytes < SPARSE {
            return false;
        }
        let page = to_usize(PAGE);
        let head = self.pointer().addr().next_multiple_of(page) - self.pointer().addr();
        let pages = (self.bytes - head) / page * page;
        let start = self.pointer().wrapping_add(head);
        // SAFETY: whole pages inside of the span, which may be written (module header): afterwards they
        // read as zero. The call answers with an error where the mapping cannot do that.
        if unsafe { libc::madvise(start.cast(), pages, libc::MADV_REMOVE) } != 0 {
            return false;
        }
        let zeros = vec![0; page];
        let tail = head + pages;
        self.part(0, head as u64).write(&zeros);
        self.part(tail as u64, (self.bytes - tail) as u64)
            .write(&zeros);
        true
    }

    /// Reads a 32- or 64-bit word at the start, atomically; `None` if misaligned or too short.
    #[must_use]
    pub fn load(&self, width: Width) -> Option<u64> {
        use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
        if self.bytes < width as usize || !self.address.is_multiple_of(width as u64) {
            return None;
        }
        Some(match width {
            Width::Four => {
                // SAFETY: aligned, accessible; concurrent accesses are atomic or device stores.
                let word = unsafe { AtomicU32::from_ptr(self.pointer().cast()) };
                u64::from(word.load(Ordering::Acquire))
            }
            Width::Eight => {
                // SAFETY: as above.
                let word = unsafe { AtomicU64::from_ptr(self.pointer().cast()) };
                word.load(Ordering::Acquire)
            }
        })
    }

    /// Writes a 32- or 64-bit word at the start, atomically; whether it could.
    pub fn store(&self, width: Width, value: u64) -> bool {
        use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
        if self.bytes < width as usize || !self.address.is_multiple_of(width as u64) {
            return false;
        }
        match width {
            Width::Four => {
                // SAFETY: aligned, accessible; concurrent accesses are atomic or device accesses.
                let word = unsafe { AtomicU32::from_ptr(self.pointer().cast()) };
                #[expect(clippy::cast_possible_truncation, reason = "a 32-bit store")]
                word.store(value as u32, Ordering::Release);
            }
            Width::Eight => {
                // SAFETY: as above.
                let word = unsafe { AtomicU64::from_ptr(self.pointer().cast()) };
                word.store(value, Ordering::Release);
            }
        }
        true
    }
}

/// Width of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Four = 4,
    /// 64 bits.
    Eight = 8,
}

impl AddressSpace {
    /// The span of guest memory `[address, address + bytes)`, if all of it is allocated.
    #[must_use]
    pub fn span(&self, address: u64, bytes: u64) -> Option<Span> {
        self.is_allocated(address, bytes).then_some(Span {
            address,
            bytes: to_usize(bytes),
        })
    }
}
