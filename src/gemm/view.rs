//! Views of device memory with an element type.
//!
//! # Safety
//! A view made from a buffer is valid while it borrows the buffer; [`View::from_raw`] and
//! [`ViewMut::from_raw`] hand that duty to their callers.
#![expect(
    unsafe_code,
    reason = "views of memory that is not a Buffer are made from raw addresses"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use super::error::OperandError;
use crate::device::{Buffer, Context};

/// `len` elements of `T` in device memory that kernels may read: a [`Buffer`], a part of one
/// ([`Self::slice`]), or memory from elsewhere ([`Self::from_raw`]).
///
/// A view of a buffer is borrowed for the call that it is given to, not until the kernel has ended:
/// freeing the buffer waits for that. Two views of one piece of memory that is mapped at several
/// addresses are not known to overlap.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    context: &'a Arc<Context>,
    address: u64,
    len: usize,
    element: PhantomData<&'a [T]>,
}

/// `len` elements of `T` in device memory that kernels may write: as [`View`], borrowed mutably.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    context: &'a Arc<Context>,
    address: u64,
    len: usize,
    element: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> View<'a, T> {
    /// A view of memory that is no [`Buffer`].
    ///
    /// # Safety
    /// `address` leads to `len` elements that stay allocated, readable from `context`'s device and
    /// unwritten until every stream that a kernel with this view was enqueued on is past it.
    #[must_use]
    pub unsafe fn from_raw(context: &'a Arc<Context>, address: u64, len: usize) -> Self {
        Self {
            context,
            address,
            len,
            element: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Errors
    /// [`OperandError::Slice`] when it does not lie within the view.
    pub fn slice(self, range: Range<usize>) -> Result<Self, OperandError> {
        let (address, len) = slice::<T>(self.address, self.len, range)?;
        Ok(Self {
            address,
            len,
            ..self
        })
    }

    /// Device address of the first element.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes from the first element to one past the last, as device addresses.
    pub(crate) fn bytes(&self) -> Range<u64> {
        bytes::<T>(self.address, self.len)
    }

    pub(crate) fn context(&self) -> &'a Arc<Context> {
        self.context
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn check(
        &self,
        what: &'static str,
        len: u64,
        align: u64,
    ) -> Result<(), OperandError> {
        check(what, (self.address, self.len), len, align)
    }
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// A view of memory that is no [`Buffer`].
    ///
    /// # Safety
    /// `address` leads to `len` elements that stay allocated, writable from `context`'s device and
    /// otherwise unused until every stream that a kernel with this view was enqueued on is past it.
    #[must_use]
    pub unsafe fn from_raw(context: &'a Arc<Context>, address: u64, len: usize) -> Self {
        Self {
            context,
            address,
            len,
            element: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Errors
    /// [`OperandError::Slice`] when it does not lie within the view.
    pub fn slice(self, range: Range<usize>) -> Result<Self, OperandError> {
        let (address, len) = slice::<T>(self.address, self.len, range)?;
        Ok(Self {
            address,
            len,
            ..self
        })
    }

    /// Device address of the first element.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes from the first element to one past the last, as device addresses.
    pub(crate) fn bytes(&self) -> Range<u64> {
        bytes::<T>(self.address, self.len)
    }

    pub(crate) fn context(&self) -> &'a Arc<Context> {
        self.context
    }

    pub(crate) fn check(
        &self,
        what: &'static str,
        len: u64,
        align: u64,
    ) -> Result<(), OperandError> {
        check(what, (self.address, self.len), len, align)
    }
}

impl<'a, T: Pod> From<&'a Buffer<T>> for View<'a, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        Self {
            context: buffer.context(),
            address: buffer.address(),
            len: buffer.len(),
            element: PhantomData,
        }
    }
}

impl<'a, T: Pod> From<&'a mut Buffer<T>> for ViewMut<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        Self {
            context: buffer.context(),
            address: buffer.address(),
            len: buffer.len(),
            element: PhantomData,
        }
    }
}

/// Saturates for a raw view that its maker described wrongly.
fn bytes<T>(address: u64, len: usize) -> Range<u64> {
    address..address.saturating_add(len.saturating_mul(size_of::<T>()) as u64)
}

fn slice<T>(address: u64, len: usize, range: Range<usize>) -> Result<(u64, usize), OperandError> {
    let Range { start, end } = range;
    if start > end || end > len {
        return Err(OperandError::Slice { start, end, len });
    }
    // Cannot wrap: the view is memory that exists.
    Ok((address + (start * size_of::<T>()) as u64, end - start))
}

fn check(
    what: &'static str,
    (address, found): (u64, usize),
    expected: u64,
    of: u64,
) -> Result<(), OperandError> {
    let found = found as u64;
    if found != expected {
        return Err(OperandError::Length {
            what,
            found,
            expected,
        });
    }
    if address == 0 && found > 0 {
        return Err(OperandError::Null { what, len: found });
    }
    if !address.is_multiple_of(of) {
        return Err(OperandError::Alignment { what, address, of });
    }
    Ok(())
}
