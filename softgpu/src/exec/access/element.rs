//! Elements of guest memory and how they stand in registers.
#![expect(unsafe_code, reason = "guest memory is accessed through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "elements are narrower than the registers that hold them"
)]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::exec::lanes::value::Raw;

/// An unsigned integer of 1 to 16 bytes in guest memory.
pub(crate) trait Element: Copy + Default {
    /// A strong load: one access, acquiring. (Relaxed loads take the same path: acquiring costs
    /// nothing on x86 and little elsewhere.)
    ///
    /// # Safety
    /// `at` is aligned and points to guest memory.
    unsafe fn load_strong(at: *mut Self) -> Self;
    /// A strong store: one access, releasing.
    ///
    /// # Safety
    /// As for [`Self::load_strong`].
    unsafe fn store_strong(at: *mut Self, value: Self);
}

macro_rules! elements {
    ($($ty:ident $atomic:ident)*) => {$(
        impl Element for $ty {
            #[inline(always)]
            unsafe fn load_strong(at: *mut Self) -> Self {
                // SAFETY: aligned and valid, the caller's promise; guest memory is only ever
                // accessed through raw pointers, and other threads use atomics where they mean to
                // synchronise.
                unsafe { $atomic::from_ptr(at) }.load(Ordering::Acquire)
            }
            #[inline(always)]
            unsafe fn store_strong(at: *mut Self, value: Self) {
                // SAFETY: as above.
                unsafe { $atomic::from_ptr(at) }.store(value, Ordering::Release);
            }
        }
    )*};
}
elements!(u8 AtomicU8 u16 AtomicU16 u32 AtomicU32 u64 AtomicU64);

impl Element for u128 {
    #[inline(always)]
    unsafe fn load_strong(at: *mut Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { wide::load(at) }
    }
    #[inline(always)]
    unsafe fn store_strong(at: *mut Self, value: Self) {
        // SAFETY: the caller's promise.
        unsafe { wide::store(at, value) }
    }
}

/// 16-byte accesses in one piece.
#[cfg(target_arch = "x86_64")]
pub(crate) mod wide {
    use std::arch::x86_64::__m128i;
    use std::sync::atomic::{Ordering, compiler_fence};

    /// Whether the host can do it.
    pub(crate) fn available() -> bool {
        is_x86_feature_detected!("cmpxchg16b") && is_x86_feature_detected!("avx")
    }

    /// # Safety
    /// `at` is aligned to 16 and valid; [`available`].
    #[inline(always)]
    pub(crate) unsafe fn load(at: *mut u128) -> u128 {
        // SAFETY: the caller's promise. Aligned 16-byte vector accesses are single accesses on
        // every processor with AVX (Intel SDM vol. 3A 9.1.1, AMD APM vol. 2 7.3.2).
        let value = unsafe { at.cast::<__m128i>().read_volatile() };
        compiler_fence(Ordering::Acquire);
        // SAFETY: both are 16 bytes of plain data.
        unsafe { std::mem::transmute::<__m128i, u128>(value) }
    }

    /// # Safety
    /// As for [`load`].
    #[inline(always)]
    pub(crate) unsafe fn store(at: *mut u128, value: u128) {
        // SAFETY: both are 16 bytes of plain data.
        let value = unsafe { std::mem::transmute::<u128, __m128i>(value) };
        compiler_fence(Ordering::Release);
        // SAFETY: as in `load`.
        unsafe { at.cast::<__m128i>().write_volatile(value) };
    }

    /// Replaces `old` by `new`; what stood there.
    ///
    /// # Safety
    /// As for [`load`].
    pub(crate) unsafe fn exchange(at: *mut u128, old: u128, new: u128) -> u128 {
        let (mut low, mut high) = (old as u64, (old >> 64) as u64);
        // SAFETY: the caller's promise. The compiler keeps rbx to itself, so it is exchanged in
        // and out; everything else that the instruction touches is an operand. The address has a
        // register of its own, because an operand of any register may stand in rbx.
        unsafe {
            std::arch::asm!(
                "xchg rbx, {new_low}",
                "lock cmpxchg16b [rdi]",
                "mov rbx, {new_low}",
                new_low = inout(reg) new as u64 => _,
                in("rcx") (new >> 64) as u64,
                in("rdi") at,
                inout("rax") low,
                inout("rdx") high,
                options(nostack),
            );
        }
        u128::from(high) << 64 | u128::from(low)
    }
}

/// 16-byte accesses in one piece: not on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) mod wide {
    /// Whether the host can do it.
    pub(crate) fn available() -> bool {
        false
    }
    /// # Safety
    /// Never called, as nothing is available.
    pub(crate) unsafe fn load(_: *mut u128) -> u128 {
        0
    }
    /// # Safety
    /// Never called, as nothing is available.
    pub(crate) unsafe fn store(_: *mut u128, _: u128) {}
    /// # Safety
    /// Never called, as nothing is available.
    pub(crate) unsafe fn exchange(_: *mut u128, _: u128, _: u128) -> u128 {
        0
    }
}

/// A memory type, as it is held in registers with lanes of type `R`.
pub(crate) trait Held<R: Raw> {
    /// The element in memory.
    type Memory: Element;
    /// Extended to the lane.
    fn widen(memory: Self::Memory) -> R;
    /// Cut to the element.
    fn narrow(lane: R) -> Self::Memory;
}

macro_rules! held {
    ($($ty:ident: $memory:ident in $($raw:ident)*;)*) => {$($(
        impl Held<$raw> for $ty {
            type Memory = $memory;
            #[inline(always)]
            fn widen(memory: $memory) -> $raw {
                memory as $ty as $raw
            }
            #[inline(always)]
            fn narrow(lane: $raw) -> $memory {
                lane as $memory
            }
        }
    )*)*};
}
held! {
    u8: u8 in u32 u64;
    i8: u8 in u32 u64;
    u16: u16 in u32 u64;
    i16: u16 in u32 u64;
    u32: u32 in u32 u64;
    i32: u32 in u64;
    u64: u64 in u64;
    u128: u128 in u128;
}
