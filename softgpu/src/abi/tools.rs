//! Entry points beyond CUDA, for tools. See [`crate::abi`].

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::Out;
use crate::driver::report;

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

/// Forgets the launches counted so far.
#[unsafe(no_mangle)]
extern "C" fn softgpuLaunchLogReset() {
    report::clear_launches();
}
