//! Loads and stores.
//!
//! Three ways, in order: all lanes active and side by side in memory (one wide copy, transposed
//! for vectors); all active lanes at one address (one element, broadcast; loads only); lane by
//! lane. The first two have a path of their own where all lanes are active and the access is weak.
#![expect(unsafe_code, reason = "guest memory is accessed through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses of 64-bit hosts, 32-bit guest addresses"
)]

use std::marker::PhantomData;
use std::ops::{BitOr, BitXor};

use super::element::{Element, Held};
use super::resolve::Bounds;
use super::{MemCtx, Resolved, Span};
use crate::exec::inst::{Inst, LaneFault};
use crate::exec::lanes::isa::{Host, MemBody};
use crate::exec::lanes::value::Raw;
use crate::exec::regs::{FULL, RegFile, Slot};
use crate::ir::Space;
use crate::mem;

/// What a memory handler must know besides its types; stands in the instruction's field `c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode(pub(crate) u32);

impl Mode {
    /// The address register has 64 bits.
    pub(crate) const WIDE: u32 = 1 << 3;
    /// The access is strong.
    pub(crate) const STRONG: u32 = 1 << 4;
    /// Where the operation of an atomic begins.
    pub(crate) const OP_SHIFT: u32 = 8;

    /// The code of a space.
    pub(crate) const fn space_code(space: Space) -> u32 {
        match space {
            Space::Generic => 0,
            Space::Global => 1,
            Space::Shared => 2,
            Space::SharedCluster => 3,
            Space::Local => 4,
            Space::Param => 5,
            Space::Const => 6,
        }
    }

    /// The space accessed.
    #[inline(always)]
    pub(crate) const fn space(self) -> Space {
        match self.0 & 7 {
            0 => Space::Generic,
            2 => Space::Shared,
            3 => Space::SharedCluster,
            4 => Space::Local,
            5 => Space::Param,
            _ => Space::Global,
        }
    }

    /// Whether the access is strong.
    #[inline(always)]
    pub(crate) const fn strong(self) -> bool {
        self.0 & Self::STRONG != 0
    }
}

/// The guest addresses of an instruction: its operand `a` plus the immediate.
///
/// # Safety
/// The operand lies in the file.
#[inline(always)]
pub(crate) unsafe fn addresses(regs: &mut RegFile, inst: &Inst, mode: Mode) -> [u64; 32] {
    let base = regs.source(inst.a);
    let mut addresses = [0; 32];
    if mode.0 & Mode::WIDE != 0 {
        let base = base.cast::<u64>();
        for (lane, address) in addresses.iter_mut().enumerate() {
            // SAFETY: the operand has 32 lanes of 8 bytes.
            let base = unsafe { base.wrapping_add(lane).read() };
            *address = base.wrapping_add(inst.imm);
        }
    } else {
        for (lane, address) in addresses.iter_mut().enumerate() {
            // SAFETY: the operand has 32 lanes of 4 bytes.
            let base = unsafe { base.wrapping_add(lane).read() };
            *address = u64::from(base.wrapping_add(inst.imm as u32));
        }
    }
    addresses
}

/// The guest addresses of a load, store or atomic, and its space.
///
/// # Safety
/// `inst` is such an instruction, and its operand lies in the file.
pub(crate) unsafe fn guest_addresses(regs: &mut RegFile, inst: &Inst) -> (Space, [u64; 32]) {
    let mode = Mode(inst.c.0);
    // SAFETY: the caller's promise.
    (mode.space(), unsafe { addresses(regs, inst, mode) })
}

/// How the host addresses of the active lanes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// All lanes are active and each follows the one before.
    Contiguous,
    /// All active lanes have one address.
    Uniform,
    /// Anything else.
    Scattered,
}

/// Where the lanes of an access are in host memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Located {
    /// The address of the first active lane.
    pub(crate) first: u64,
    /// How they lie.
    pub(crate) pattern: Pattern,
}

impl Located {
    /// The address of an active lane of an access of `bytes` bytes.
    #[inline(always)]
    pub(crate) fn host(&self, hosts: &Hosts, lane: usize, bytes: u64) -> u64 {
        match self.pattern {
            Pattern::Contiguous => self.first.wrapping_add((lane as u64).wrapping_mul(bytes)),
            Pattern::Uniform => self.first,
            Pattern::Scattered => hosts.0[lane],
        }
    }
}

/// Host addresses of the lanes of a scattered access.
#[repr(align(64))]
pub(crate) struct Hosts(pub(crate) Resolved);

impl Hosts {
    /// To be filled.
    pub(crate) const NONE: Self = Self([0; 32]);
}

/// Whether each of the 32 words at `base` follows the one before by `step`; 0 asks whether all are the
/// same.
///
/// It compares the words as they stand in the register, because an array of addresses in between costs
/// more than all else.
///
/// # Safety
/// 32 words can be read there.
#[inline(always)]
unsafe fn in_steps<A: Address>(base: *const A, step: u32) -> bool {
    // SAFETY: the caller's promise.
    let first = unsafe { base.read() };
    let mut astray = A::default();
    for lane in 0..32u32 {
        // SAFETY: the caller's promise.
        let word = unsafe { base.wrapping_add(lane as usize).read() };
        astray = astray | (word ^ first.advance(lane * step));
    }
    astray == A::default()
}

/// A word of an address register.
trait Address: Copy + Default + PartialEq + BitOr<Output = Self> + BitXor<Output = Self> {
    /// The word `by` bytes on.
    fn advance(self, by: u32) -> Self;
}

impl Address for u32 {
    #[inline(always)]
    fn advance(self, by: u32) -> Self {
        self.wrapping_add(by)
    }
}

impl Address for u64 {
    #[inline(always)]
    fn advance(self, by: u32) -> Self {
        self.wrapping_add(by.into())
    }
}

/// Resolves the addresses of 32 active lanes if they lie in the pattern given, side by side or all the
/// same, which one pass over them tells: the extremes need not be found.
///
/// # Safety
/// The operand lies in the file.
#[inline(always)]
unsafe fn regular(
    regs: &mut RegFile,
    inst: &Inst,
    ctx: &MemCtx<'_>,
    (span, pattern): (Span, Pattern),
) -> Option<Located> {
    let mode = Mode(inst.c.0);
    let base = regs.source(inst.a);
    // At most 512, so 31 steps of lanes fit well.
    let step = match pattern {
        Pattern::Contiguous => span.bytes as u32,
        _ => 0,
    };
    let first = if mode.0 & Mode::WIDE != 0 {
        let base = base.cast::<u64>();
        // SAFETY: the operand has 32 lanes of 8 bytes.
        if !unsafe { in_steps(base, step) } {
            return None;
        }
        // SAFETY: as above.
        unsafe { base.read() }.wrapping_add(inst.imm)
    } else {
        // SAFETY: the operand has 32 lanes of 4 bytes.
        if !unsafe { in_steps(base, step) } {
            return None;
        }
        // SAFETY: as above.
        let first = unsafe { base.read() }.wrapping_add(inst.imm as u32);
        // Lanes beyond the end of the 32 bits are elsewhere.
        first.checked_add(31 * step)?;
        first.into()
    };
    let extent = u64::from(31 * step);
    let near = mode.space() == Space::Global
        && first & span.align.wrapping_sub(1) == 0
        && (ctx.space).allows_within_page(ctx.device, first, extent + span.bytes, span.access);
    let delta = if near {
        0
    } else {
        elsewhere(ctx, mode, &Bounds::from(first, extent), span)?
    };
    Some(Located {
        first: first.wrapping_add(delta),
        pattern,
    })
}

/// [`MemCtx::common`] where it need not be fast.
#[inline(never)]
fn elsewhere(ctx: &MemCtx<'_>, mode: Mode, bounds: &Bounds, span: Span) -> Option<u64> {
    ctx.common(mode.space(), bounds, span)
}

/// Resolves the addresses of an instruction. `hosts` is written if they are scattered.
///
/// # Safety
/// The operand lies in the file.
#[inline(always)]
pub(crate) unsafe fn locate(
    regs: &mut RegFile,
    mask: u32,
    inst: &Inst,
    ctx: &MemCtx<'_>,
    (span, hosts): (Span, &mut Hosts),
) -> Result<Located, LaneFault> {
    let mode = Mode(inst.c.0);
    // Weak accesses have been tried before: see `MemBody::all`.
    if mask == FULL && mode.strong() {
        for pattern in [Pattern::Contiguous, Pattern::Uniform] {
            // SAFETY: the caller's promise.
            let located = unsafe { regular(regs, inst, ctx, (span, pattern)) };
            if let Some(located) = located {
                return Ok(located);
            }
        }
    }
    // SAFETY: the caller's promise.
    let addresses = unsafe { addresses(regs, inst, mode) };
    let bounds = Bounds::of(&addresses, mask);
    let lane = mask.trailing_zeros() as usize & 31;
    let Some(delta) = ctx.common(mode.space(), &bounds, span) else {
        hosts.0 = ctx.resolve_apart(mode.space(), (&addresses, &bounds), mask, span)?;
        return Ok(Located {
            first: hosts.0[lane],
            pattern: Pattern::Scattered,
        });
    };
    let first = addresses[lane];
    let mut pattern = Pattern::Uniform;
    if bounds.high != bounds.low {
        pattern = Pattern::Scattered;
        for (host, address) in hosts.0.iter_mut().zip(&addresses) {
            *host = address.wrapping_add(delta);
        }
    }
    Ok(Located {
        first: first.wrapping_add(delta),
        pattern,
    })
}

/// The pointer to an element at a resolved address.
#[inline(always)]
fn at<M>(host: u64, index: usize) -> *mut M {
    std::ptr::with_exposed_provenance_mut::<M>(host as usize).wrapping_add(index)
}

#[inline(always)]
fn span<M, const V: usize>(access: mem::Access) -> Span {
    let bytes = (size_of::<M>() * V) as u64;
    Span {
        bytes,
        align: bytes,
        access,
    }
}

/// `ld` of `V` elements of type `T` into registers with lanes `R`; `list` holds the registers.
pub(crate) struct Load<T, R, const V: usize>(PhantomData<(T, R)>);

impl<T: Held<R>, R: Raw, const V: usize> MemBody for Load<T, R, V> {
    #[inline(always)]
    unsafe fn all(regs: &mut RegFile, inst: &Inst, ctx: &MemCtx<'_>) -> bool {
        let mode = Mode(inst.c.0);
        if mode.strong() {
            return false;
        }
        let span = span::<T::Memory, V>(mem::Access::Read);
        let mut out = [[R::default(); 32]; V];
        // SAFETY: the caller's promise.
        let aside = unsafe { regular(regs, inst, ctx, (span, Pattern::Contiguous)) };
        if let Some(Located { first, .. }) = aside {
            for lane in 0..32 {
                for (k, out) in out.iter_mut().enumerate() {
                    // SAFETY: resolved for all lanes, and aligned.
                    let value = unsafe { at::<T::Memory>(first, lane * V + k).read() };
                    out[lane] = T::widen(value);
                }
            }
        } else {
            // SAFETY: the caller's promise.
            let same = unsafe { regular(regs, inst, ctx, (span, Pattern::Uniform)) };
            let Some(Located { first, .. }) = same else {
                return false;
            };
            for (k, out) in out.iter_mut().enumerate() {
                // SAFETY: resolved for all lanes, and aligned.
                let value = unsafe { element::<T, R>(first, k, mode) };
                *out = [value; 32];
            }
        }
        for (out, slot) in out.iter().zip(inst.list.as_deref().unwrap_or_default()) {
            let target = regs.target(*slot);
            // SAFETY: the register lies in the file.
            unsafe { Raw::commit(target, FULL, out) };
        }
        true
    }

    #[inline(always)]
    unsafe fn run<I: Host>(
        regs: &mut RegFile,
        mask: u32,
        inst: &Inst,
        ctx: &mut MemCtx<'_>,
    ) -> Result<(), LaneFault> {
        let mode = Mode(inst.c.0);
        let span = span::<T::Memory, V>(mem::Access::Read);
        let mut hosts = Hosts::NONE;
        // SAFETY: the caller's promise.
        let located = unsafe { I::locate(regs, mask, inst, ctx, (span, &mut hosts)) }?;
        let first = located.first;
        let mut out = [[R::default(); 32]; V];
        match located.pattern {
            Pattern::Uniform => {
                for (k, out) in out.iter_mut().enumerate() {
                    // SAFETY: resolved for the active lanes, and aligned.
                    let value = unsafe { element::<T, R>(first, k, mode) };
                    *out = [value; 32];
                }
            }
            _ => {
                let host = |lane| located.host(&hosts, lane, span.bytes);
                let mut left = mask;
                while left != 0 {
                    let lane = left.trailing_zeros() as usize;
                    left &= left - 1;
                    for (k, out) in out.iter_mut().enumerate() {
                        // SAFETY: resolved for this lane, and aligned.
                        out[lane] = unsafe { element::<T, R>(host(lane), k, mode) };
                    }
                }
            }
        }
        for (out, slot) in out.iter().zip(inst.list.as_deref().unwrap_or_default()) {
            let target = regs.target(*slot);
            // SAFETY: the register lies in the file.
            unsafe { Raw::commit(target, mask, out) };
        }
        Ok(())
    }
}

/// One element, strong or weak. A weak load is volatile, so that it happens once.
///
/// # Safety
/// The address is resolved for it, and aligned.
#[inline(always)]
unsafe fn element<T: Held<R>, R: Raw>(host: u64, index: usize, mode: Mode) -> R {
    let at = at::<T::Memory>(host, index);
    T::widen(if mode.strong() {
        // SAFETY: the caller's promise.
        unsafe { T::Memory::load_strong(at) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { at.read_volatile() }
    })
}

/// `st` of `V` elements of type `T` from operands with lanes `R`; `list` holds the operands.
pub(crate) struct Store<T, R, const V: usize>(PhantomData<(T, R)>);

impl<T: Held<R>, R: Raw, const V: usize> MemBody for Store<T, R, V> {
    #[inline(always)]
    unsafe fn all(regs: &mut RegFile, inst: &Inst, ctx: &MemCtx<'_>) -> bool {
        if Mode(inst.c.0).strong() {
            return false;
        }
        let span = span::<T::Memory, V>(mem::Access::Write);
        // SAFETY: the caller's promise.
        let aside = unsafe { regular(regs, inst, ctx, (span, Pattern::Contiguous)) };
        let Some(Located { first, .. }) = aside else {
            return false;
        };
        // SAFETY: the caller's promise.
        let values = unsafe { values::<R, V>(regs, inst.list.as_deref().unwrap_or_default()) };
        for lane in 0..32 {
            for (k, values) in values.iter().enumerate() {
                let to = at::<T::Memory>(first, lane * V + k);
                // SAFETY: resolved for all lanes, and aligned.
                unsafe { to.write(T::narrow(values[lane])) };
            }
        }
        true
    }

    #[inline(always)]
    unsafe fn run<I: Host>(
        regs: &mut RegFile,
        mask: u32,
        inst: &Inst,
        ctx: &mut MemCtx<'_>,
    ) -> Result<(), LaneFault> {
        let mode = Mode(inst.c.0);
        let span = span::<T::Memory, V>(mem::Access::Write);
        let mut hosts = Hosts::NONE;
        // SAFETY: the caller's promise.
        let located = unsafe { I::locate(regs, mask, inst, ctx, (span, &mut hosts)) }?;
        // SAFETY: the caller's promise.
        let values = unsafe { values::<R, V>(regs, inst.list.as_deref().unwrap_or_default()) };
        let host = |lane| located.host(&hosts, lane, span.bytes);
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            for (k, values) in values.iter().enumerate() {
                let to = at::<T::Memory>(host(lane), k);
                let value = T::narrow(values[lane]);
                if mode.strong() {
                    // SAFETY: resolved for this lane, and aligned.
                    unsafe { T::Memory::store_strong(to, value) };
                } else {
                    // SAFETY: resolved for this lane, and aligned.
                    unsafe { to.write_volatile(value) };
                }
            }
        }
        Ok(())
    }
}

/// The lanes of `V` operands.
///
/// # Safety
/// The operands lie in the file.
#[inline(always)]
pub(crate) unsafe fn values<R: Raw, const V: usize>(
    regs: &mut RegFile,
    slots: &[Slot],
) -> [[R; 32]; V] {
    let mut values = [[R::default(); 32]; V];
    for (values, slot) in values.iter_mut().zip(slots) {
        let source = regs.source(*slot).cast::<[R; 32]>();
        // SAFETY: the operand has 32 lanes of this width.
        *values = unsafe { source.read() };
    }
    values
}
