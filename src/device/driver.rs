//! Turns driver results into errors that name the call.
//!
//! # Safety
//! Only error texts are read here: they are static strings of the driver.
#![expect(unsafe_code, reason = "reads the driver's error strings")]

use std::ffi::{CStr, c_char};

use cudarc::driver::sys::{self, CUresult};

use super::DeviceError;
use super::library;

/// Calls a driver function inside an `unsafe` block and checks its result.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        $crate::device::driver::check(
            stringify!($name),
            cudarc::driver::sys::$name($($argument),*),
        )
    };
}
pub(crate) use call;

/// `Ok` for `CUDA_SUCCESS`, else the error of `call`.
pub(crate) fn check(call: &'static str, code: CUresult) -> Result<(), DeviceError> {
    if code == CUresult::CUDA_SUCCESS {
        Ok(())
    } else {
        Err(failure(call, code))
    }
}

#[cold]
fn failure(call: &'static str, code: CUresult) -> DeviceError {
    let mut name = std::ptr::null();
    // SAFETY: `name` is a valid place for the pointer.
    let named = unsafe { sys::cuGetErrorName(code, &raw mut name) };
    let mut text = std::ptr::null();
    // SAFETY: `text` is a valid place for the pointer.
    let told = unsafe { sys::cuGetErrorString(code, &raw mut text) };
    let read = |result, pointer: *const c_char| {
        if result == CUresult::CUDA_SUCCESS && !pointer.is_null() {
            // SAFETY: the driver answers with a NUL-terminated static string.
            unsafe { CStr::from_ptr(pointer) }
                .to_string_lossy()
                .into_owned()
        } else {
            String::from("unknown")
        }
    };
    DeviceError::Driver {
        call,
        code: code as u32,
        name: read(named, name),
        text: read(told, text),
        fault: library::last_fault(),
    }
}
