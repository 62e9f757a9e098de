//! Loads, stores and atomics of a warp.
//!
//! Protocol: a handler turns the 32 guest addresses of its operand into host addresses (window,
//! alignment and bounds, all lanes at once where they fall into one piece of memory), then moves
//! the data in the widest way that the pattern of addresses allows.
//!
//! Guest memory is shared with other host threads, with other processes and with the guest's own
//! races. It is never seen as a Rust reference: all accesses go through raw pointers. Strong
//! accesses (`relaxed`, `acquire`, `release`, `volatile`, `mmio`, atomics) use the host's atomic
//! instructions. Weak ones are plain copies of plain data: PTX promises nothing to a weak access
//! that races, and the host instructions behind a copy have no other effect than to deliver some
//! mixture of the bytes that were stored.
//!
//! Address windows: global addresses are host virtual addresses. Above the host's user space stand
//! the windows of shared, local and parameter memory, each 4 GiB wide and aligned, so that the low
//! 32 bits of a generic address are the address within the window. A shared address holds the
//! offset in the CTA's shared memory in bits 0..24 and, in bits 24.., the rank of the CTA in its
//! cluster plus one; zero there means the executing CTA.

pub(crate) mod atomic;
pub(crate) mod element;
pub(crate) mod query;
mod resolve;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;

pub use resolve::{LocalMemory, MemCtx, Resolved, SharedMemory, Span, window};

/// Generic addresses of shared memory.
pub const SHARED_WINDOW: u64 = 1 << 48;
/// Generic addresses of local memory.
pub const LOCAL_WINDOW: u64 = SHARED_WINDOW + (1 << 32);
/// Generic addresses of kernel parameters.
pub const PARAM_WINDOW: u64 = SHARED_WINDOW + (2 << 32);

/// Bits of a shared address below the rank field.
pub const SHARED_RANK_SHIFT: u32 = 24;
/// The offset part of a shared address.
pub const SHARED_OFFSET_MASK: u32 = (1 << SHARED_RANK_SHIFT) - 1;

/// The address of `address` (a shared address of any CTA) in the shared memory of CTA `rank` of the
/// cluster: `mapa`.
#[inline]
#[must_use]
pub const fn map_shared(address: u32, rank: u32) -> u32 {
    address & SHARED_OFFSET_MASK | rank.wrapping_add(1) << SHARED_RANK_SHIFT
}

/// The rank that a shared address names, or `own` if it names none.
#[inline]
#[must_use]
pub const fn shared_rank(address: u32, own: u32) -> u32 {
    match address >> SHARED_RANK_SHIFT {
        0 => own,
        field => field - 1,
    }
}
