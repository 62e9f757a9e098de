//! What kernels print reaches the process's standard output when the host synchronises.
//!
//! It goes through the C library's stream, as clients mix it with their own output and may have
//! redirected it, and is flushed there.

#![expect(unsafe_code, reason = "the C library's stdout is a C object")]

use parking_lot::Mutex;

use crate::exec::device::services;

unsafe extern "C" {
    #[link_name = "stdout"]
    static STDOUT: *mut libc::FILE;
}

/// Passes on what the kernels of a device have printed since the last call.
pub fn flush(device: u32) {
    static ORDER: Mutex<()> = Mutex::new(());
    let _order = ORDER.lock();
    let text = services(device).take_output();
    if text.is_empty() {
        return;
    }
    // SAFETY: the C library sets its variable before any code of the process runs.
    let stdout = unsafe { STDOUT };
    // SAFETY: the text is as long as said, and the stream is open unless the client closed it,
    // which would be undefined for the client's own output as well.
    unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stdout) };
    // SAFETY: as above.
    unsafe { libc::fflush(stdout) };
}
