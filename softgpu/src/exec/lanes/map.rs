//! Running a function of one lane over a warp.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]

use std::marker::PhantomData;

use super::isa::AluBody;
use super::value::{Raw, Value};
use crate::exec::inst::Inst;
use crate::exec::regs::RegFile;

/// A function of up to three operands and the instruction's immediate; `()` for operands that it
/// does not have. Total: any bits may arrive, those of inactive lanes too.
pub(crate) trait Map {
    /// First operand.
    type A: Value;
    /// Second operand.
    type B: Value;
    /// Third operand.
    type C: Value;
    /// Result.
    type D: Value;
    /// Whether an immediate of zero (no modifiers) deserves a loop of its own, in which the
    /// compiler knows that.
    const PLAIN: bool;
    /// The function.
    fn eval(a: Self::A, b: Self::B, c: Self::C, imm: u64) -> Self::D;
}

/// Handler body of a [`Map`].
pub(crate) struct Lanewise<M>(PhantomData<M>);

impl<M: Map> AluBody for Lanewise<M> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        if M::PLAIN && inst.imm == 0 {
            // SAFETY: the caller's promise.
            unsafe { lanewise::<M>(regs, mask, inst, 0) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { lanewise::<M>(regs, mask, inst, inst.imm) };
        }
    }
}

/// # Safety
/// The operands lie in the file.
#[inline(always)]
unsafe fn lanewise<M: Map>(regs: &mut RegFile, mask: u32, inst: &Inst, imm: u64) {
    let (a, b, c) = (
        regs.source(inst.a),
        regs.source(inst.b),
        regs.source(inst.c),
    );
    // Results gather in a local first: the destination may be one of the sources, and the
    // compiler vectorises only what cannot overlap.
    let mut out = [<M::D as Value>::Raw::default(); 32];
    for (lane, out) in out.iter_mut().enumerate() {
        // SAFETY: the operand lies in the file, and lane < 32.
        let a = unsafe { M::A::get(a, lane) };
        // SAFETY: as above.
        let b = unsafe { M::B::get(b, lane) };
        // SAFETY: as above.
        let c = unsafe { M::C::get(c, lane) };
        *out = M::eval(a, b, c, imm).into_raw();
    }
    let target = regs.target(inst.dst);
    // SAFETY: the destination lies in the file.
    unsafe { Raw::commit(target, mask, &out) };
}

/// A condition of up to two operands and the instruction's immediate.
pub(crate) trait Test {
    /// Type of both operands.
    type A: Value;
    /// The condition.
    fn eval(a: Self::A, b: Self::A, imm: u64) -> bool;
}

/// The lanes in which a condition holds, inactive lanes included.
///
/// # Safety
/// `a` and `b` lie in the file.
#[inline(always)]
pub(crate) unsafe fn lanes_where<T: Test>(regs: &mut RegFile, inst: &Inst) -> u32 {
    let (a, b) = (regs.source(inst.a), regs.source(inst.b));
    let mut bits = 0;
    for lane in 0..32 {
        // SAFETY: the operand lies in the file, and lane < 32.
        let a = unsafe { T::A::get(a, lane) };
        // SAFETY: as above.
        let b = unsafe { T::A::get(b, lane) };
        bits |= u32::from(T::eval(a, b, inst.imm)) << lane;
    }
    bits
}

/// Declares [`Map`]s, generic or not.
macro_rules! maps {
    ($(
        $(#[$meta:meta])*
        $name:ident $(<$param:ident: $bound:path>)? ($a:ident: $A:ty $(, $b:ident: $B:ty $(, $c:ident: $C:ty)?)?)
            $([$imm:ident $($plain:ident)?])? -> $D:ty $body:block
    )*) => {$(
        $(#[$meta])*
        pub(crate) struct $name$(<$param>(std::marker::PhantomData<$param>))?;

        impl$(<$param: $bound>)? $crate::exec::lanes::map::Map for $name$(<$param>)? {
            type A = $A;
            type B = $crate::exec::lanes::map::or_unit!($($B)?);
            type C = $crate::exec::lanes::map::or_unit!($($($C)?)?);
            type D = $D;
            const PLAIN: bool = $crate::exec::lanes::map::is_plain!($($($plain)?)?);
            #[inline(always)]
            fn eval($a: Self::A, b: Self::B, c: Self::C, imm: u64) -> Self::D {
                $(let $b = b; $(let $c = c;)?)?
                $(let $imm = imm;)?
                let _ = (b, c, imm);
                $body
            }
        }
    )*};
}
macro_rules! or_unit {
    () => {
        ()
    };
    ($ty:ty) => {
        $ty
    };
}
macro_rules! is_plain {
    () => {
        false
    };
    (plain) => {
        true
    };
}
pub(crate) use {is_plain, maps, or_unit};
