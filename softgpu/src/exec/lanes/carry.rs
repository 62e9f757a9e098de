//! Extended-precision arithmetic: one carry flag per thread.
//!
//! `sub.cc` sets the flag when it borrows and `subc` subtracts it.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]
#![expect(clippy::cast_sign_loss, reason = "signed operands are handled as bits")]
#![expect(
    clippy::fn_params_excessive_bools,
    reason = "the flag is a value, not an option"
)]

use std::marker::PhantomData;

use super::int::Int;
use super::isa::AluBody;
use super::value::{Raw, Value};
use crate::exec::inst::Inst;
use crate::exec::regs::RegFile;

/// Immediate bit: the flag takes part.
pub(crate) const CARRY_IN: u64 = 1;
/// Immediate bit: the flag is set.
pub(crate) const CARRY_OUT: u64 = 2;

/// A sum or a difference, or a product added to something, with the flag.
pub(crate) trait CarryOp {
    /// Operand type.
    type T: Value;
    /// Whether there is a third operand.
    const THREE: bool;
    /// Result and flag.
    fn eval(a: Self::T, b: Self::T, c: Self::T, carry: bool) -> (Self::T, bool);
}

/// Handler body of a [`CarryOp`].
pub(crate) struct Carrying<O>(PhantomData<O>);

impl<O: CarryOp> AluBody for Carrying<O> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let (a, b) = (regs.source(inst.a), regs.source(inst.b));
        let c = if O::THREE { regs.source(inst.c) } else { a };
        let taken = if inst.imm & CARRY_IN != 0 {
            regs.carry
        } else {
            0
        };
        let mut out = [<O::T as Value>::Raw::default(); 32];
        let mut flags = 0;
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            let a = unsafe { O::T::get(a, lane) };
            // SAFETY: as above.
            let b = unsafe { O::T::get(b, lane) };
            // SAFETY: as above.
            let c = unsafe { O::T::get(c, lane) };
            let (value, flag) = O::eval(a, b, c, taken >> lane & 1 != 0);
            *out = value.into_raw();
            flags |= u32::from(flag) << lane;
        }
        let target = regs.target(inst.dst);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
        if inst.imm & CARRY_OUT != 0 {
            regs.carry = regs.carry & !mask | flags & mask;
        }
    }
}

macro_rules! carry_ops {
    ($($name:ident<$($ty:ident),*>($three:literal, $a:ident, $b:ident, $c:ident, $carry:ident) $body:block)*) => {$(
        pub(crate) struct $name<T>(PhantomData<T>);
        $(impl CarryOp for $name<$ty> {
            type T = $ty;
            const THREE: bool = $three;
            #[inline(always)]
            fn eval($a: $ty, $b: $ty, $c: $ty, $carry: bool) -> ($ty, bool) {
                let _ = $c;
                $body
            }
        })*
    )*};
}
carry_ops! {
    Add<u32, u64>(false, a, b, c, carry) { a.carrying_add(b, carry) }
    Sub<u32, u64>(false, a, b, c, carry) { a.borrowing_sub(b, carry) }
    MadLo<u32, u64>(true, a, b, c, carry) { a.wrapping_mul(b).carrying_add(c, carry) }
}

/// `mad.hi.cc`; signed operands arrive as their bits.
pub(crate) struct MadHi<T>(PhantomData<T>);

macro_rules! mad_hi {
    ($($ty:ident as $unsigned:ident)*) => {$(
        impl CarryOp for MadHi<$ty> {
            type T = $unsigned;
            const THREE: bool = true;
            #[inline(always)]
            fn eval(a: $unsigned, b: $unsigned, c: $unsigned, carry: bool) -> ($unsigned, bool) {
                let high = (a as $ty).mul_high(b as $ty) as $unsigned;
                high.carrying_add(c, carry)
            }
        }
    )*};
}
mad_hi!(u32 as u32 i32 as u32 u64 as u64 i64 as u64);
