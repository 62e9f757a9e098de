//! Typed device memory.
//!
//! # Safety
//! A buffer's address range is allocated for `len` elements of `T` and freed once, in its drop;
//! `T: Pod`, so any bytes that the device left there are valid values.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::driver::call;
use super::{Context, DeviceError, Stream};

/// `len` elements of `T` in the memory of one device.
///
/// Kernels get the address; whoever launches one must keep the buffer until the stream is past it.
#[derive(Debug)]
pub struct Buffer<T: Pod> {
    context: Arc<Context>,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Allocates `len` elements with undefined contents.
    ///
    /// # Errors
    /// A driver error, such as out of memory.
    pub fn alloc(context: &Arc<Context>, len: usize) -> Result<Self, DeviceError> {
        context.bind()?;
        let mut address = 0;
        let bytes = len.saturating_mul(size_of::<T>());
        if bytes > 0 {
            // SAFETY: a valid place for the answer.
            unsafe { call!(cuMemAlloc_v2(&raw mut address, bytes)) }?;
        }
        Ok(Self {
            context: Arc::clone(context),
            address,
            len,
            element: PhantomData,
        })
    }

    /// Allocates `len` elements whose bytes are zero, before later work of `stream`.
    ///
    /// # Errors
    /// A driver error.
    pub fn zeroed(stream: &Stream, len: usize) -> Result<Self, DeviceError> {
        let mut buffer = Self::alloc(stream.context(), len)?;
        buffer.fill_bytes(stream, 0)?;
        Ok(buffer)
    }

    /// Allocates a copy of `data`, complete on return.
    ///
    /// # Errors
    /// A driver error, or the error of earlier work of `stream`.
    pub fn from_slice(stream: &Stream, data: &[T]) -> Result<Self, DeviceError> {
        let mut buffer = Self::alloc(stream.context(), data.len())?;
        buffer.copy_from(stream, data)?;
        Ok(buffer)
    }

    /// Device address of the first element; 0 when empty.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // Cannot wrap: it was allocated.
        self.len * size_of::<T>()
    }

    /// The context that the memory belongs to.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Sets every byte, in the order of `stream`.
    ///
    /// # Errors
    /// A driver error.
    pub fn fill_bytes(&mut self, stream: &Stream, value: u8) -> Result<(), DeviceError> {
        stream.context().bind()?;
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is this buffer's, and freeing it waits for the stream.
        unsafe {
            call!(cuMemsetD8Async(
                self.address,
                value,
                self.bytes(),
                stream.handle()
            ))
        }
    }

    /// Copies `data` over the whole buffer after the earlier work of `stream`; complete on return.
    ///
    /// # Errors
    /// Another length than [`Self::len`], a driver error, or the error of earlier work.
    pub fn copy_from(&mut self, stream: &Stream, data: &[T]) -> Result<(), DeviceError> {
        self.same_length("copy to device", data.len())?;
        self.write(stream, 0, data)
    }

    /// Copies `data` to the elements from index `start` on, after the earlier work of `stream`;
    /// complete on return.
    ///
    /// # Errors
    /// An end beyond [`Self::len`], a driver error, or the error of earlier work.
    pub fn write(&mut self, stream: &Stream, start: usize, data: &[T]) -> Result<(), DeviceError> {
        let to = self.element_address("copy to device", start, data.len())?;
        // Bounded; what follows waits for nothing but its own copy, so `data` is never left in use.
        stream.synchronize()?;
        if data.is_empty() {
            return Ok(());
        }
        let (from, bytes) = (data.as_ptr().cast(), size_of_val(data));
        // SAFETY: both ranges have `bytes` bytes, and `data` is borrowed until the wait below ends.
        let copied = unsafe { call!(cuMemcpyHtoDAsync_v2(to, from, bytes, stream.handle())) };
        finish(stream, copied)
    }

    /// Copies the whole buffer to `data` after the earlier work of `stream`.
    ///
    /// # Errors
    /// Another length than [`Self::len`], a driver error, or the error of earlier work.
    pub fn copy_to(&self, stream: &Stream, data: &mut [T]) -> Result<(), DeviceError> {
        self.same_length("copy to host", data.len())?;
        self.read(stream, 0, data)
    }

    /// Copies the elements from index `start` on to `data`, after the earlier work of `stream`.
    ///
    /// # Errors
    /// An end beyond [`Self::len`], a driver error, or the error of earlier work.
    pub fn read(&self, stream: &Stream, start: usize, data: &mut [T]) -> Result<(), DeviceError> {
        let from = self.element_address("copy to host", start, data.len())?;
        stream.synchronize()?;
        if data.is_empty() {
            return Ok(());
        }
        let (to, bytes) = (data.as_mut_ptr().cast(), size_of_val(data));
        // SAFETY: both ranges have `bytes` bytes, `T` is valid for any bytes, and `data` is borrowed
        // until the wait below ends.
        let copied = unsafe { call!(cuMemcpyDtoHAsync_v2(to, from, bytes, stream.handle())) };
        finish(stream, copied)
    }

    /// The contents after the earlier work of `stream`.
    ///
    /// # Errors
    /// A driver error, or the error of earlier work.
    pub fn to_vec(&self, stream: &Stream) -> Result<Vec<T>, DeviceError> {
        let mut data = vec![T::zeroed(); self.len];
        self.copy_to(stream, &mut data)?;
        Ok(data)
    }

    /// Copies `source` (same length, any device) into this buffer, in the order of `stream`.
    ///
    /// # Errors
    /// Another length, or a driver error.
    pub fn copy_from_buffer(&mut self, stream: &Stream, source: &Self) -> Result<(), DeviceError> {
        self.same_length("copy between buffers", source.len)?;
        stream.context().bind()?;
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: both ranges have `bytes` bytes, and freeing either waits for the stream.
        unsafe {
            call!(cuMemcpyAsync(
                self.address,
                source.address,
                self.bytes(),
                stream.handle()
            ))
        }
    }

    /// Address of element `start`, with `count` elements behind it.
    fn element_address(
        &self,
        operation: &'static str,
        start: usize,
        count: usize,
    ) -> Result<u64, DeviceError> {
        let end = start.saturating_add(count);
        if end > self.len {
            let (found, expected) = (end, self.len);
            return Err(DeviceError::Length {
                operation,
                found,
                expected,
            });
        }
        Ok(self.address + (start * size_of::<T>()) as u64)
    }

    fn same_length(&self, operation: &'static str, found: usize) -> Result<(), DeviceError> {
        if found == self.len {
            return Ok(());
        }
        Err(DeviceError::Length {
            operation,
            found,
            expected: self.len,
        })
    }
}

/// Waits for a copy that uses borrowed host memory, without a deadline: the stream was idle before,
/// and returning early would free memory that the device still uses.
fn finish(stream: &Stream, enqueued: Result<(), DeviceError>) -> Result<(), DeviceError> {
    // SAFETY: the handle is live.
    let done = unsafe { call!(cuStreamSynchronize(stream.handle())) };
    enqueued.and(done)
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        let result = self.context.bind().and_then(|()| {
            // SAFETY: allocated in `alloc`, freed once; the driver waits for work that uses it.
            unsafe { call!(cuMemFree_v2(self.address)) }
        });
        self.context.defer(result);
    }
}
