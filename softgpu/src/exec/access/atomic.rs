//! `atom` and `red`: read-modify-write on host atomics.
//!
//! Lanes run in ascending order. Every operation is acquiring and releasing, whatever order was
//! written: a locked instruction of x86 is both.
#![expect(unsafe_code, reason = "guest memory is accessed through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "values of 16 bits stand in lanes of 32, and signed ones are handled as bits"
)]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::element::wide;
use super::transfer::{Hosts, Mode, addresses, values};
use super::{MemCtx, Span, window};
use crate::exec::inst::{Inst, LaneFault};
use crate::exec::lanes::float::scalar;
use crate::exec::lanes::isa::{Host, MemBody};
use crate::exec::lanes::round::FTZ;
use crate::exec::lanes::value::{Bf16, F16, Raw, Value};
use crate::exec::regs::{RegFile, Slot};
use crate::ir::{RmwOp, Space};
use crate::mem;

/// The code of an operation in a [`Mode`].
pub(crate) const fn op_code(op: RmwOp) -> u32 {
    match op {
        RmwOp::Add => 0,
        RmwOp::Min => 1,
        RmwOp::Max => 2,
        RmwOp::And => 3,
        RmwOp::Or => 4,
        RmwOp::Xor => 5,
        RmwOp::Exch => 6,
        RmwOp::Cas => 7,
        RmwOp::Inc => 8,
        RmwOp::Dec => 9,
    }
}

#[inline(always)]
const fn op_of(mode: Mode) -> RmwOp {
    match mode.0 >> Mode::OP_SHIFT {
        0 => RmwOp::Add,
        1 => RmwOp::Min,
        2 => RmwOp::Max,
        3 => RmwOp::And,
        4 => RmwOp::Or,
        5 => RmwOp::Xor,
        6 => RmwOp::Exch,
        7 => RmwOp::Cas,
        8 => RmwOp::Inc,
        _ => RmwOp::Dec,
    }
}

/// One operation, with its operands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rmw<R> {
    op: RmwOp,
    b: R,
    /// `cas`: the new value; `b` is the expected one.
    c: R,
    /// Subnormals of f32 count as zero (global memory only).
    ftz: bool,
}

/// Types of atomics; `Self::Raw` is the lane that holds one.
pub(crate) trait Atomic {
    /// The lane.
    type Raw: Raw;
    /// Bytes in memory.
    const BYTES: u64;
    /// Whether the operation exists.
    fn has(op: RmwOp) -> bool;
    /// Performs it; the old value.
    ///
    /// # Safety
    /// `host` is resolved for writing `BYTES` bytes, and aligned to them.
    unsafe fn rmw(host: u64, rmw: Rmw<Self::Raw>) -> Self::Raw;
}

macro_rules! integers {
    ($($name:ident: $ty:ident as $bits:ident in $atomic:ident;)*) => {$(
        pub(crate) struct $name;
        impl Atomic for $name {
            type Raw = $bits;
            const BYTES: u64 = size_of::<$bits>() as u64;
            fn has(_: RmwOp) -> bool {
                true
            }
            #[inline(always)]
            unsafe fn rmw(host: u64, rmw: Rmw<$bits>) -> $bits {
                let at = std::ptr::with_exposed_provenance_mut::<$bits>(host as usize);
                // SAFETY: the caller's promise; guest memory is shared through atomics.
                let cell = unsafe { $atomic::from_ptr(at) };
                let b = rmw.b;
                let order = Ordering::AcqRel;
                let update = |f: &dyn Fn($bits) -> $bits| {
                    cell.fetch_update(order, Ordering::Acquire, |old| Some(f(old)))
                        .unwrap_or_else(|old| old)
                };
                match rmw.op {
                    RmwOp::Add => cell.fetch_add(b, order),
                    RmwOp::And => cell.fetch_and(b, order),
                    RmwOp::Or => cell.fetch_or(b, order),
                    RmwOp::Xor => cell.fetch_xor(b, order),
                    RmwOp::Exch => cell.swap(b, order),
                    RmwOp::Cas => cell
                        .compare_exchange(b, rmw.c, order, Ordering::Acquire)
                        .unwrap_or_else(|old| old),
                    RmwOp::Min => update(&|old| (old as $ty).min(b as $ty) as $bits),
                    RmwOp::Max => update(&|old| (old as $ty).max(b as $ty) as $bits),
                    RmwOp::Inc => update(&|old| if old >= b { 0 } else { old + 1 }),
                    RmwOp::Dec => update(&|old| if old == 0 || old > b { b } else { old - 1 }),
                }
            }
        }
    )*};
}
integers! {
    U32: u32 as u32 in AtomicU32;
    S32: i32 as u32 in AtomicU32;
    U64: u64 as u64 in AtomicU64;
    S64: i64 as u64 in AtomicU64;
}

/// 16-bit patterns: `cas` and `exch`.
pub(crate) struct B16;
impl Atomic for B16 {
    type Raw = u32;
    const BYTES: u64 = 2;
    fn has(op: RmwOp) -> bool {
        matches!(op, RmwOp::Cas | RmwOp::Exch)
    }
    #[inline(always)]
    unsafe fn rmw(host: u64, rmw: Rmw<u32>) -> u32 {
        let at = std::ptr::with_exposed_provenance_mut::<u16>(host as usize);
        // SAFETY: the caller's promise; guest memory is shared through atomics.
        let cell = unsafe { AtomicU16::from_ptr(at) };
        let (b, c) = (rmw.b as u16, rmw.c as u16);
        u32::from(if rmw.op == RmwOp::Exch {
            cell.swap(b, Ordering::AcqRel)
        } else {
            cell.compare_exchange(b, c, Ordering::AcqRel, Ordering::Acquire)
                .unwrap_or_else(|old| old)
        })
    }
}

/// 128-bit patterns: `cas` and `exch`.
pub(crate) struct B128;
impl Atomic for B128 {
    type Raw = u128;
    const BYTES: u64 = 16;
    fn has(op: RmwOp) -> bool {
        wide::available() && matches!(op, RmwOp::Cas | RmwOp::Exch)
    }
    #[inline(always)]
    unsafe fn rmw(host: u64, rmw: Rmw<u128>) -> u128 {
        let at = std::ptr::with_exposed_provenance_mut::<u128>(host as usize);
        if rmw.op == RmwOp::Cas {
            // SAFETY: the caller's promise; `has` checked the host.
            return unsafe { wide::exchange(at, rmw.b, rmw.c) };
        }
        // SAFETY: the caller's promise.
        let mut expected = unsafe { wide::load(at) };
        loop {
            // SAFETY: the caller's promise; `has` checked the host.
            let old = unsafe { wide::exchange(at, expected, rmw.b) };
            if old == expected {
                return old;
            }
            expected = old;
        }
    }
}

macro_rules! floats {
    ($($(#[$meta:meta])* $name:ident in $atomic:ident($bits:ident) as $raw:ident, [$($op:ident)|+],
        |$old:ident, $rmw:ident| $new:expr;)*) => {$(
        $(#[$meta])*
        pub(crate) struct $name;
        impl Atomic for $name {
            type Raw = $raw;
            const BYTES: u64 = size_of::<$bits>() as u64;
            fn has(op: RmwOp) -> bool {
                matches!(op, $(RmwOp::$op)|+)
            }
            #[inline(always)]
            unsafe fn rmw(host: u64, $rmw: Rmw<$raw>) -> $raw {
                let at = std::ptr::with_exposed_provenance_mut::<$bits>(host as usize);
                // SAFETY: the caller's promise; guest memory is shared through atomics.
                let cell = unsafe { $atomic::from_ptr(at) };
                let update = |old: $bits| {
                    let $old = $raw::from(old);
                    Some($new as $bits)
                };
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                $raw::from(old)
            }
        }
    )*};
}
floats! {
    /// `add.f32`.
    F32 in AtomicU32(u32) as u32, [Add], |old, rmw| {
        let imm = if rmw.ftz { FTZ } else { 0 };
        scalar::add(f32::from_bits(old), f32::from_bits(rmw.b), imm).to_bits()
    };
    /// `add.f64`.
    F64 in AtomicU64(u64) as u64, [Add], |old, rmw| {
        (f64::from_bits(old) + f64::from_bits(rmw.b)).to_bits()
    };
    /// `add`, `min`, `max` of f16.
    Half in AtomicU16(u16) as u32, [Add | Min | Max], |old, rmw| half(F16(old as u16), rmw).0;
    /// `add`, `min`, `max` of bf16.
    Brain in AtomicU16(u16) as u32, [Add | Min | Max], |old, rmw| brain(Bf16(old as u16), rmw).0;
    /// Two f16 in one access.
    HalfPair in AtomicU32(u32) as u32, [Add | Min | Max], |old, rmw| {
        pairwise(old, rmw, |old, rmw| half(F16(old as u16), rmw).0)
    };
    /// Two bf16 in one access.
    BrainPair in AtomicU32(u32) as u32, [Add | Min | Max], |old, rmw| {
        pairwise(old, rmw, |old, rmw| brain(Bf16(old as u16), rmw).0)
    };
}

#[inline(always)]
fn half(old: F16, rmw: Rmw<u32>) -> F16 {
    let b = F16::from_raw(rmw.b);
    match rmw.op {
        RmwOp::Min => scalar::min(old, b, 0),
        RmwOp::Max => scalar::max(old, b, 0),
        _ => scalar::add(old, b, 0),
    }
}

#[inline(always)]
fn brain(old: Bf16, rmw: Rmw<u32>) -> Bf16 {
    let b = Bf16::from_raw(rmw.b);
    match rmw.op {
        RmwOp::Min => scalar::min(old, b, 0),
        RmwOp::Max => scalar::max(old, b, 0),
        _ => scalar::add(old, b, 0),
    }
}

#[inline(always)]
fn pairwise(old: u32, rmw: Rmw<u32>, f: impl Fn(u32, Rmw<u32>) -> u16) -> u32 {
    let high = Rmw {
        b: rmw.b >> 16,
        ..rmw
    };
    u32::from(f(old, rmw)) | u32::from(f(old >> 16, high)) << 16
}

/// `atom` (registers for the old values in the list) and `red` (none). The list holds `V`
/// destinations ([`Slot::NONE`] for `red`), then `V` operands b, then for `cas` the operand c.
/// A vector is `V` accesses, each atomic on its own.
pub(crate) struct Atom<T, const V: usize>(PhantomData<T>);

impl<T: Atomic, const V: usize> MemBody for Atom<T, V> {
    #[inline(always)]
    unsafe fn run<I: Host>(
        regs: &mut RegFile,
        mask: u32,
        inst: &Inst,
        ctx: &mut MemCtx<'_>,
    ) -> Result<(), LaneFault> {
        let mode = Mode(inst.c.0);
        let op = op_of(mode);
        let bytes = T::BYTES * V as u64;
        let span = Span {
            bytes,
            align: bytes,
            access: mem::Access::Write,
        };
        let mut hosts = Hosts::NONE;
        // SAFETY: the caller's promise.
        let located = unsafe { I::locate(regs, mask, inst, ctx, (span, &mut hosts)) }?;
        // SAFETY: the caller's promise.
        let addresses = unsafe { addresses(regs, inst, mode) };
        let (targets, operands) = inst.list.as_deref().unwrap_or_default().split_at(V);
        // SAFETY: the caller's promise.
        let b = unsafe { values::<T::Raw, V>(regs, operands) };
        // SAFETY: the caller's promise.
        let [c] = unsafe { values::<T::Raw, 1>(regs, operands.get(V..).unwrap_or_default()) };
        let mut out = [[T::Raw::default(); 32]; V];
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            for k in 0..V {
                let rmw = Rmw {
                    op,
                    b: b[k][lane],
                    c: c[lane],
                    ftz: is_global(mode, addresses[lane]),
                };
                let host = located.host(&hosts, lane, bytes) + k as u64 * T::BYTES;
                // SAFETY: resolved for this lane, and aligned.
                out[k][lane] = unsafe { T::rmw(host, rmw) };
            }
        }
        for (out, slot) in out.iter().zip(targets) {
            if *slot != Slot::NONE {
                let target = regs.target(*slot);
                // SAFETY: the register lies in the file.
                unsafe { Raw::commit(target, mask, out) };
            }
        }
        Ok(())
    }
}

/// Whether an address is in global memory, where f32 additions flush subnormals.
#[inline(always)]
fn is_global(mode: Mode, address: u64) -> bool {
    match mode.space() {
        Space::Generic => window(address).is_none(),
        space => space == Space::Global,
    }
}
