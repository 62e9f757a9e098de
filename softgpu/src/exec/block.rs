//! Memory that belongs to a CTA while it runs: shared and local memory.
//!
//! Blocks are kept for reuse, since a grid runs thousands of CTAs of one size. A block is filled
//! with [`POISON`] when it is handed out, so that nothing ever depends on leftovers or on zeroes:
//! as an f32 the pattern is a NaN, and as a 64-bit word it is no mbarrier object.
#![expect(
    unsafe_code,
    reason = "guest memory is raw storage reached through pointers"
)]

use std::alloc::Layout;
use std::ptr::NonNull;

use parking_lot::Mutex;

use super::warp::{digest, stir};

/// What uninitialised shared and local memory holds, as 32-bit words.
pub const POISON: u32 = 0xFFC0_DEAD;

const ALIGN: usize = 1024;
const KEPT: usize = 64;

/// Blocks above this size are neither filled nor kept.
const LARGE: usize = 8 << 20;

static FREE: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// A block of raw bytes, aligned to 1024.
#[derive(Debug)]
pub(super) struct Block {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block owns its bytes, and its pointer is not tied to a thread.
unsafe impl Send for Block {}
// SAFETY: a shared block only gives out its address.
unsafe impl Sync for Block {}

impl Block {
    /// A poisoned block of at least `bytes` bytes. A large one, which only stacks need, is not
    /// touched, and so takes no host memory before it is used; frames are poisoned by calls.
    pub(super) fn poisoned(bytes: usize) -> Self {
        let size = bytes.max(1).next_multiple_of(ALIGN);
        if size > LARGE {
            return Self::new(size);
        }
        let mut free = FREE.lock();
        let kept = free.iter().position(|block| block.layout.size() == size);
        let kept = kept.map(|index| free.swap_remove(index));
        drop(free);
        let block = kept.unwrap_or_else(|| Self::new(size));
        // SAFETY: the block is ours alone, `size` bytes long and aligned to 1024.
        let words =
            unsafe { std::slice::from_raw_parts_mut(block.base.as_ptr().cast::<u32>(), size / 4) };
        words.fill(POISON);
        block
    }

    fn new(size: usize) -> Self {
        let Ok(layout) = Layout::from_size_align(size, ALIGN) else {
            std::alloc::handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            std::alloc::handle_alloc_error(layout);
        };
        Self { base, layout }
    }

    /// First byte.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }

    /// Adds the contents to a hash. Nobody else may use them meanwhile.
    pub(super) fn fingerprint(&self, hash: u64) -> u64 {
        let rows = self.len() / 32;
        // SAFETY: the block is initialised, this long and aligned to 1024; the caller has it to
        // itself.
        let rows = unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), rows) };
        stir(hash, digest(rows.iter().copied()))
    }

    /// Keeps the block for the next CTA.
    pub(super) fn recycle(self) {
        let mut free = FREE.lock();
        if free.len() < KEPT && self.layout.size() <= LARGE {
            free.push(self);
        }
    }
}

/// Zeroes bytes of a block that nothing uses yet.
pub(super) fn zero(start: *mut u8, bytes: usize) {
    // SAFETY: the caller owns the block, and the range lies in it.
    unsafe { std::ptr::write_bytes(start, 0, bytes) };
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and dropped once.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, POISON};
    use crate::exec::mbarrier::Mbarrier;

    #[test]
    fn poison_is_a_nan_and_no_mbarrier() {
        assert!(f32::from_bits(POISON).is_nan());
        let word = u64::from(POISON) << 32 | u64::from(POISON);
        assert!(Mbarrier::decode(word).is_err());
    }

    #[test]
    fn a_reused_block_is_poisoned_again() {
        let block = Block::poisoned(1_234_567);
        // SAFETY: the block has at least one byte.
        unsafe { block.base().write(1) };
        block.recycle();
        let block = Block::poisoned(1_234_567);
        // SAFETY: the block has at least one byte.
        let byte = unsafe { block.base().read() };
        assert_eq!(byte, POISON.to_ne_bytes()[0]);
    }
}
