//! Host memory that kernels write and the host reads while they run.
//!
//! # Safety
//! The allocation is `bytes` long, 8-byte aligned and lives until the drop; it is only read through atomics,
//! since the device may write at any time.
#![expect(
    unsafe_code,
    reason = "calls the CUDA driver and reads memory that the device writes"
)]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cudarc::driver::sys::{CU_MEMHOSTALLOC_DEVICEMAP, CU_MEMHOSTALLOC_PORTABLE};

use super::MemoryError;
use crate::device::Context;
use crate::device::driver::call;

/// Zeroed, page-locked host memory, mapped into the devices.
#[derive(Debug)]
pub struct MappedHost {
    context: Arc<Context>,
    host: NonNull<c_void>,
    address: u64,
    bytes: usize,
}

// SAFETY: the memory is reached through atomics only, and may be freed from any thread.
unsafe impl Send for MappedHost {}
// SAFETY: as above.
unsafe impl Sync for MappedHost {}

impl MappedHost {
    /// Allocates `bytes` (at least 8) of zeros.
    ///
    /// # Errors
    /// A driver error.
    pub fn zeroed(context: &Arc<Context>, bytes: usize) -> Result<Self, MemoryError> {
        context.bind()?;
        let bytes = bytes.max(8);
        let flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: a valid place for the answer.
        unsafe { call!(cuMemHostAlloc(&raw mut pointer, bytes, flags)) }?;
        let Some(host) = NonNull::new(pointer) else {
            return Err(MemoryError::TooLarge {
                what: "host-visible memory",
                bytes: bytes as u64,
            });
        };
        // SAFETY: `bytes` were allocated above, and nobody else knows them yet.
        unsafe { host.cast::<u8>().write_bytes(0, bytes) };
        // The drop frees it from here on, whatever fails.
        let mut this = Self {
            context: Arc::clone(context),
            host,
            address: 0,
            bytes,
        };
        let place = &raw mut this.address;
        // SAFETY: allocated for device mapping above; a valid place for the answer.
        unsafe { call!(cuMemHostGetDevicePointer_v2(place, host.as_ptr(), 0)) }?;
        Ok(this)
    }

    /// The address under which the context's device reaches it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The u32 at `offset`, acquiring what the device released with it.
    ///
    /// # Errors
    /// [`MemoryError::Range`] outside the allocation or misaligned.
    pub fn load_u32(&self, offset: usize) -> Result<u32, MemoryError> {
        let place = self.at(offset, size_of::<u32>())?.cast::<u32>();
        // SAFETY: in bounds and aligned (checked), alive, and accessed atomically by both sides.
        let word = unsafe { AtomicU32::from_ptr(place.as_ptr()) };
        Ok(word.load(Ordering::Acquire))
    }

    /// The u64 at `offset`, acquiring what the device released with it.
    ///
    /// # Errors
    /// [`MemoryError::Range`] outside the allocation or misaligned.
    pub fn load_u64(&self, offset: usize) -> Result<u64, MemoryError> {
        let place = self.at(offset, size_of::<u64>())?.cast::<u64>();
        // SAFETY: in bounds and aligned (checked), alive, and accessed atomically by both sides.
        let word = unsafe { AtomicU64::from_ptr(place.as_ptr()) };
        Ok(word.load(Ordering::Acquire))
    }

    /// Sets everything to 0. No kernel uses it.
    pub(crate) fn clear(&self) {
        for offset in (0..self.bytes / 8 * 8).step_by(8) {
            if let Ok(place) = self.at(offset, 8) {
                // SAFETY: in bounds and aligned (checked), alive, and accessed atomically by both sides.
                let word = unsafe { AtomicU64::from_ptr(place.cast::<u64>().as_ptr()) };
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn at(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, MemoryError> {
        let end = offset.checked_add(bytes);
        if !offset.is_multiple_of(bytes) || end.is_none_or(|end| end > self.bytes) {
            return Err(MemoryError::Range {
                offset,
                bytes,
                size: self.bytes,
            });
        }
        // SAFETY: in bounds of the allocation (checked).
        Ok(unsafe { self.host.cast::<u8>().add(offset) })
    }
}

impl Drop for MappedHost {
    /// Whoever handed the address to a kernel keeps this until that kernel has ended.
    fn drop(&mut self) {
        let result = self.context.bind().and_then(|()| {
            // SAFETY: allocated in `zeroed`, freed once.
            unsafe { call!(cuMemFreeHost(self.host.as_ptr())) }
        });
        self.context.defer(result);
    }
}
