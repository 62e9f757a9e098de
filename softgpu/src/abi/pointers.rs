//! Pointer arguments.
//!
//! # Safety
//!
//! The types here have private fields and are made only by C callers, as arguments of `unsafe
//! extern "C"` functions: whoever calls vouches that a pointer that is not null is valid for what
//! the driver API says, for as long as it says. That promise is what the accesses below rest on.

#![expect(unsafe_code, reason = "this is where C pointers are read and written")]

use std::ffi::{CStr, c_char};

use crate::driver::status::{Result, Status};

/// Where a result goes.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Whether the caller does not want it.
    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Writes the result; null is an error.
    pub(super) fn set(self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        self.set_if(value);
        Ok(())
    }

    /// Writes the result if it is wanted.
    pub(super) fn set_if(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null; the caller vouches for it (module header).
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes an array of results.
    pub(super) fn set_all(self, values: impl Iterator<Item = T>) -> Result<()> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        for (i, value) in values.enumerate() {
            // SAFETY: the caller vouches for as many elements as it asked for.
            let element = unsafe { self.0.add(i) };
            // SAFETY: as above.
            unsafe { element.write_unaligned(value) };
        }
        Ok(())
    }

    /// Where it is.
    pub(super) fn address(self) -> u64 {
        self.0.expose_provenance() as u64
    }

    /// The raw pointer.
    pub(super) fn raw(self) -> *mut T {
        self.0
    }

    /// The same place, seen as another type.
    pub(super) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }

    /// A place whose address came as a number from the caller.
    pub(super) fn at(address: u64) -> Self {
        let address = usize::try_from(address).unwrap_or(0);
        Self(std::ptr::with_exposed_provenance_mut(address))
    }
}

impl Out<u8> {
    /// Writes a NUL-terminated text into `size` bytes, cut off if need be.
    pub(super) fn set_text(self, text: &[u8], size: usize) {
        if size == 0 {
            return;
        }
        let cut = text.iter().take(size - 1).copied();
        // Null is an error of set_all; here it means that the text is not wanted.
        let _ = self.set_all(cut.chain([0]));
    }
}

/// What the caller passes by pointer.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Whether there is nothing.
    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Reads the value; null is an error.
    pub(super) fn get(self) -> Result<T> {
        self.get_at(0)
    }

    /// Reads element `index` of an array.
    pub(super) fn get_at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null; the caller vouches for the elements that the API reads.
        let element = unsafe { self.0.add(index) };
        // SAFETY: as above.
        Ok(unsafe { element.read_unaligned() })
    }

    /// Reads an array.
    pub(super) fn all(self, count: usize) -> Result<Vec<T>> {
        (0..count).map(|i| self.get_at(i)).collect()
    }

    /// Where it is.
    pub(super) fn address(self) -> u64 {
        self.0.expose_provenance() as u64
    }

    /// The raw pointer.
    pub(super) fn raw(self) -> *const T {
        self.0
    }

    /// A value whose address came as a number from the caller.
    pub(super) fn at(address: u64) -> Self {
        let address = usize::try_from(address).unwrap_or(0);
        Self(std::ptr::with_exposed_provenance(address))
    }
}

impl In<c_char> {
    /// A NUL-terminated text in UTF-8.
    pub(super) fn text(self) -> Result<String> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null; the caller vouches for the terminator.
        let text = unsafe { CStr::from_ptr(self.0) };
        let text = text.to_str().map_err(|_| Status::INVALID_VALUE)?;
        Ok(text.to_owned())
    }
}
