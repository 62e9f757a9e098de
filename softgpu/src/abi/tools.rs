//! Entry points beyond CUDA, for tools. See [`crate::abi`].

#![expect(unsafe_code, reason = "exported C functions")]

use std::ffi::c_char;

use super::entry;
use super::pointers::{In, Out};
use crate::driver::report;
use crate::exec::{inject, traffic};

fn give(text: &str, buffer: Out<u8>, size: u64) -> u64 {
    buffer.set_text(text.as_bytes(), usize::try_from(size).unwrap_or(0));
    text.len() as u64
}

/// Text of the last guest fault, refused module or rejected launch.
///
/// # Safety
///
/// `buffer` is null or has `size` writable bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpuLastFault(buffer: Out<u8>, size: u64) -> u64 {
    give(&report::last(), buffer, size)
}

/// One line per kernel that finished, with the number of launches and counters.
///
/// # Safety
///
/// `buffer` is null or has `size` writable bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpuLaunchLog(buffer: Out<u8>, size: u64) -> u64 {
    give(&report::launches(), buffer, size)
}

/// The counters of all kernels that finished, as a JSON array with an object per kernel.
///
/// # Safety
///
/// `buffer` is null or has `size` writable bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpuCounters(buffer: Out<u8>, size: u64) -> u64 {
    give(&report::counters_json(), buffer, size)
}

/// Has the launches from now on count their traffic, or no longer.
#[unsafe(no_mangle)]
extern "C" fn softgpuCountTraffic(on: i32) {
    if on == 0 {
        traffic::end();
    } else {
        traffic::begin();
    }
}

/// Forgets the launches counted so far.
#[unsafe(no_mangle)]
extern "C" fn softgpuLaunchLogReset() {
    report::clear_launches();
}

/// Adds faults to inject.
///
/// # Safety
///
/// `spec` is null or a text that ends with NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpuFault(spec: In<c_char>) -> u32 {
    entry::call_any(|| inject::add(&spec.text()?).map_err(|why| report::mistake(&why)))
}

/// Ends all faults.
#[unsafe(no_mangle)]
extern "C" fn softgpuFaultClear() {
    inject::clear();
}

/// Announces a phase of the client's work, for faults that wait for it.
///
/// # Safety
///
/// `name` is null or a text that ends with NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn softgpuPhase(name: In<c_char>) -> u32 {
    entry::call_any(|| {
        inject::phase(&name.text()?);
        Ok(())
    })
}
