//! Faults that happen at one moment: the end of the process, a wrong bit.
#![expect(
    unsafe_code,
    reason = "a signal is sent, and guest memory is changed through a pointer"
)]

use std::sync::atomic::{AtomicU8, Ordering};

use crate::mem::{Access, AddressSpace, MAX_DEVICES};

/// Ends this process as the loss of its host would: nothing is cleaned up.
pub(super) fn kill() {
    // SAFETY: no pointers.
    let own = unsafe { libc::getpid() };
    // SAFETY: no pointers; the process is this one.
    unsafe { libc::kill(own, libc::SIGKILL) };
}

/// The host address of a byte that some device may write.
fn byte_at(address: u64) -> Option<*mut u8> {
    let space = AddressSpace::global();
    (0..MAX_DEVICES).find_map(|device| space.translate(device, address, 1, Access::Write))
}

/// Whether there is memory at an address.
pub(super) fn is_memory(address: u64) -> bool {
    byte_at(address).is_some()
}

/// Changes a bit, counted from the lowest of the byte at an address; `false` if nothing is there.
pub(super) fn flip(address: u64, bit: u32) -> bool {
    let Some(host) = byte_at(address.saturating_add(u64::from(bit / 8))) else {
        return false;
    };
    // SAFETY: `translate` answered for the byte, and guest memory stays backed.
    let byte = unsafe { AtomicU8::from_ptr(host) };
    byte.fetch_xor(1 << (bit % 8), Ordering::Relaxed);
    true
}
