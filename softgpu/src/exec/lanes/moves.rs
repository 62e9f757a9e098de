//! Moves between registers, packing and unpacking, predicate logic, address windows.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]
#![expect(clippy::cast_possible_truncation, reason = "parts of a register")]

use std::marker::PhantomData;

use super::isa::AluBody;
use super::map::{Map, maps};
use super::value::{Raw, Value};
use crate::exec::access::map_shared;
use crate::exec::inst::Inst;
use crate::exec::regs::{PredSlot, RegFile, Slot};

/// A copy.
pub(crate) struct Mov<T>(PhantomData<T>);

impl<T: Value> Map for Mov<T> {
    type A = T;
    type B = ();
    type C = ();
    type D = T;
    const PLAIN: bool = false;
    #[inline(always)]
    fn eval(a: T, _: (), _: (), _: u64) -> T {
        a
    }
}

/// Logic on predicates: operands are predicate operands.
pub(crate) struct PredLogic<O>(PhantomData<O>);

/// A function of two lane masks.
pub(crate) trait MaskOp {
    /// The function.
    fn eval(a: u32, b: u32) -> u32;
}

impl<O: MaskOp> AluBody for PredLogic<O> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let a = regs.pred_operand(PredSlot(inst.a.0));
        let b = regs.pred_operand(PredSlot(inst.b.0));
        regs.set_pred(inst.dst.0, mask, O::eval(a, b));
    }
}

macro_rules! mask_ops {
    ($($name:ident($a:ident, $b:ident) $body:block)*) => {$(
        pub(crate) struct $name;
        impl MaskOp for $name {
            #[inline(always)]
            fn eval($a: u32, $b: u32) -> u32 $body
        }
    )*};
}
mask_ops! {
    And(a, b) { a & b }
    Or(a, b) { a | b }
    Xor(a, b) { a ^ b }
    First(a, _b) { a }
    NotFirst(a, _b) { !a }
}

/// A register as a whole and its parts.
pub(crate) trait Parts<P: Value>: Value {
    /// Zero.
    const ZERO: Self;
    /// With the part at `index` (from the low end) set, which was zero.
    fn with(self, index: usize, part: P) -> Self;
    /// The part at `index`.
    fn part(self, index: usize) -> P;
}

macro_rules! parts {
    ($($whole:ident of $($part:ident)*;)*) => {$($(
        impl Parts<$part> for $whole {
            const ZERO: Self = 0;
            #[inline(always)]
            fn with(self, index: usize, part: $part) -> Self {
                self | $whole::from(part) << (index as u32 * $part::BITS % $whole::BITS)
            }
            #[inline(always)]
            fn part(self, index: usize) -> $part {
                (self >> (index as u32 * $part::BITS % $whole::BITS)) as $part
            }
        }
    )*)*};
}
parts! {
    u32 of u8 u16;
    u64 of u8 u16 u32;
    u128 of u32 u64;
}
impl Parts<u8> for u16 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn with(self, index: usize, part: u8) -> Self {
        self | Self::from(part) << (index as u32 * 8 % 16)
    }
    #[inline(always)]
    fn part(self, index: usize) -> u8 {
        (self >> (index as u32 * 8 % 16)) as u8
    }
}

/// `mov d, {a, b, …}`: `list` holds the parts, low first.
pub(crate) struct Pack<W, P>(PhantomData<(W, P)>);

impl<W: Parts<P>, P: Value> AluBody for Pack<W, P> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let mut whole = [W::ZERO; 32];
        for (index, &slot) in inst.list.as_deref().unwrap_or_default().iter().enumerate() {
            let part = regs.source(slot);
            for (lane, whole) in whole.iter_mut().enumerate() {
                // SAFETY: the operand lies in the file, and lane < 32.
                let part = unsafe { P::get(part, lane) };
                *whole = whole.with(index, part);
            }
        }
        let target = regs.target(inst.dst);
        let out = whole.map(W::into_raw);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
    }
}

/// `mov {a, b, …}, d`: `list` holds the parts, low first, [`Slot::NONE`] for `_`.
pub(crate) struct Unpack<W, P>(PhantomData<(W, P)>);

impl<W: Parts<P>, P: Value> AluBody for Unpack<W, P> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let source = regs.source(inst.a);
        let mut whole = [W::ZERO; 32];
        for (lane, whole) in whole.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            *whole = unsafe { W::get(source, lane) };
        }
        for (index, &slot) in inst.list.as_deref().unwrap_or_default().iter().enumerate() {
            if slot == Slot::NONE {
                continue;
            }
            let mut out = [P::Raw::default(); 32];
            for (out, whole) in out.iter_mut().zip(&whole) {
                *out = whole.part(index).into_raw();
            }
            let target = regs.target(slot);
            // SAFETY: the part lies in the file.
            unsafe { Raw::commit(target, mask, &out) };
        }
    }
}

maps! {
    /// Into a window: the immediate is its base.
    ToGeneric(a: u64) [imm] -> u64 { (a & 0xffff_ffff) | imm }
    ToGeneric32(a: u32) [imm] -> u64 { u64::from(a) | imm }
    FromGeneric(a: u64) -> u64 { a & 0xffff_ffff }
    FromGeneric64To32(a: u64) -> u32 { a as u32 }
    Mapa32(a: u32, b: u32) -> u32 { map_shared(a, b) }
    Mapa64(a: u64, b: u32) [imm] -> u64 { imm | u64::from(map_shared(a as u32, b)) }
}
