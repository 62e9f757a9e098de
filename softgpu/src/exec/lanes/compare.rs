//! Comparisons and selections.
//!
//! Every comparison is one of a few conditions, with the operands possibly exchanged and the
//! result possibly negated; the forms that are true for NaN (`ltu`, …) are negations of the
//! opposite ordered form.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]

use std::marker::PhantomData;

use super::half::Float;
use super::int::Int;
use super::isa::AluBody;
use super::map::{Map, Test, lanes_where};
use super::round::input;
use super::value::{Raw, Value};
use crate::exec::inst::Inst;
use crate::exec::regs::{PredSlot, RegFile, Slot};
use crate::ir::{BoolOp, Cmp, Ty};

/// Immediate bit: the condition is negated.
const NEGATE: u64 = 1 << 16;
/// Immediate bits: the combination with the third operand.
const COMBINE_SHIFT: u32 = 17;

/// The conditions that have handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// a = b.
    Equal,
    /// a < b.
    Less,
    /// a ≤ b.
    LessEqual,
    /// a < b or a > b.
    Differ,
    /// Neither is NaN.
    Ordered,
}

/// A comparison in terms of [`Condition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// The condition.
    pub(crate) condition: Condition,
    /// Operands are exchanged.
    pub(crate) swap: bool,
    /// The result is negated.
    pub(crate) negate: bool,
}

impl Comparison {
    /// Of a PTX comparison on operands of type `ty`; `None` for combinations that do not exist.
    pub(crate) fn of(cmp: Cmp, ty: Ty) -> Option<Self> {
        use Condition::{Differ, Equal, Less, LessEqual, Ordered};
        let float = matches!(
            ty,
            Ty::F16 | Ty::BF16 | Ty::F16x2 | Ty::BF16x2 | Ty::F32 | Ty::F64
        );
        let (condition, swap, negate) = match cmp {
            Cmp::Eq => (Equal, false, false),
            Cmp::Ne if float => (Differ, false, false),
            Cmp::Ne => (Equal, false, true),
            Cmp::Lt | Cmp::Lo => (Less, false, false),
            Cmp::Le | Cmp::Ls => (LessEqual, false, false),
            Cmp::Gt | Cmp::Hi => (Less, true, false),
            Cmp::Ge | Cmp::Hs => (LessEqual, true, false),
            _ if !float => return None,
            Cmp::Equ => (Differ, false, true),
            Cmp::Neu => (Equal, false, true),
            Cmp::Ltu => (LessEqual, true, true),
            Cmp::Leu => (Less, true, true),
            Cmp::Gtu => (LessEqual, false, true),
            Cmp::Geu => (Less, false, true),
            Cmp::Num => (Ordered, false, false),
            Cmp::Nan => (Ordered, false, true),
        };
        Some(Self {
            condition,
            swap,
            negate,
        })
    }

    /// The immediate for this comparison and a combination.
    pub(crate) fn immediate(self, combine: Option<BoolOp>) -> u64 {
        let negate = if self.negate { NEGATE } else { 0 };
        negate | combination(combine) << COMBINE_SHIFT
    }
}

/// The code of a combination.
pub(crate) fn combination(combine: Option<BoolOp>) -> u64 {
    match combine {
        None => 0,
        Some(BoolOp::And) => 1,
        Some(BoolOp::Or) => 2,
        Some(BoolOp::Xor) => 3,
    }
}

macro_rules! tests {
    ($($name:ident<$bound:ident>($a:ident, $b:ident, $imm:ident) $body:block)*) => {$(
        pub(crate) struct $name<T>(PhantomData<T>);
        impl<T: $bound> Test for $name<T> {
            type A = T;
            #[inline(always)]
            fn eval($a: T, $b: T, $imm: u64) -> bool {
                let _ = $imm;
                $body
            }
        }
    )*};
}
tests! {
    Equal<Int>(a, b, imm) { a.eq(b) }
    Less<Int>(a, b, imm) { a.lt(b) }
    LessEqual<Int>(a, b, imm) { a.le(b) }
    FloatEqual<Comparable>(a, b, imm) { a.number(imm) == b.number(imm) }
    FloatLess<Comparable>(a, b, imm) { a.number(imm) < b.number(imm) }
    FloatLessEqual<Comparable>(a, b, imm) { a.number(imm) <= b.number(imm) }
    FloatDiffer<Comparable>(a, b, imm) {
        let (a, b) = (a.number(imm), b.number(imm));
        (a < b) | (a > b)
    }
    FloatOrdered<Comparable>(a, b, imm) {
        let (a, b) = (a.number(imm), b.number(imm));
        !a.is_nan() & !b.is_nan()
    }
}

/// Floating-point types, for comparing.
pub(crate) trait Comparable: Value {
    /// The value in f64, flushed if the immediate says so.
    fn number(self, imm: u64) -> f64;
}

impl<T: Float> Comparable for T {
    #[inline(always)]
    fn number(self, imm: u64) -> f64 {
        input::<T::Format>(self.decode(), imm)
    }
}

impl Comparable for f64 {
    #[inline(always)]
    fn number(self, _: u64) -> f64 {
        self
    }
}

/// Combines a condition as a code of [`combination`] says.
#[inline(always)]
pub(crate) fn combine(bits: u32, other: u32, code: u64) -> u32 {
    match code & 3 {
        0 => bits,
        1 => bits & other,
        2 => bits | other,
        _ => bits ^ other,
    }
}

#[inline(always)]
fn negated(bits: u32, imm: u64) -> u32 {
    if imm & NEGATE != 0 { !bits } else { bits }
}

/// `setp`: `dst` = p, `list` = `[q]` if asked for, `c` = the predicate to combine with.
pub(crate) struct Setp<T>(PhantomData<T>);

impl<T: Test> AluBody for Setp<T> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        // SAFETY: the caller's promise.
        let found = unsafe { lanes_where::<T>(regs, inst) };
        let bits = negated(found, inst.imm);
        let other = regs.pred_operand(PredSlot(inst.c.0));
        let code = inst.imm >> COMBINE_SHIFT;
        if inst.dst != Slot::NONE {
            regs.set_pred(inst.dst.0, mask, combine(bits, other, code));
        }
        if let Some(&[q]) = inst.list.as_deref() {
            regs.set_pred(q.0, mask, combine(!bits, other, code));
        }
    }
}

/// The lanes in which a condition holds for the low and for the high halves.
///
/// # Safety
/// As for [`lanes_where`].
#[inline(always)]
unsafe fn halves_where<T: Test>(regs: &mut RegFile, inst: &Inst) -> [u32; 2]
where
    [T::A; 2]: Value,
{
    let (a, b) = (regs.source(inst.a), regs.source(inst.b));
    let mut bits = [0; 2];
    for lane in 0..32 {
        // SAFETY: the operand lies in the file, and lane < 32.
        let a = unsafe { <[T::A; 2]>::get(a, lane) };
        // SAFETY: as above.
        let b = unsafe { <[T::A; 2]>::get(b, lane) };
        bits[0] |= u32::from(T::eval(a[0], b[0], inst.imm)) << lane;
        bits[1] |= u32::from(T::eval(a[1], b[1], inst.imm)) << lane;
    }
    bits.map(|bits| negated(bits, inst.imm))
}

/// `setp` of packed types: `dst` = low halves, `list` = `[q]` for the high halves, if asked for.
pub(crate) struct SetpPair<T>(PhantomData<T>);

impl<T: Test> AluBody for SetpPair<T>
where
    [T::A; 2]: Value,
{
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        // SAFETY: the caller's promise.
        let [low, high] = unsafe { halves_where::<T>(regs, inst) };
        let other = regs.pred_operand(PredSlot(inst.c.0));
        let code = inst.imm >> COMBINE_SHIFT;
        regs.set_pred(inst.dst.0, mask, combine(low, other, code));
        if let Some(&[q]) = inst.list.as_deref() {
            regs.set_pred(q.0, mask, combine(high, other, code));
        }
    }
}

/// `set` of packed types: as [`Set`], with the value that stands for true in the low half of the
/// constant.
pub(crate) struct SetPair<T>(PhantomData<T>);

impl<T: Test> AluBody for SetPair<T>
where
    [T::A; 2]: Value,
{
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        // SAFETY: the caller's promise.
        let found = unsafe { halves_where::<T>(regs, inst) };
        let [low, high] = found.map(|bits| with_third(regs, bits, inst));
        let truth = regs.lanes32(inst.c)[0] & 0xffff;
        let half = |bits: u32, lane: usize| if bits >> lane & 1 != 0 { truth } else { 0 };
        let values = std::array::from_fn(|lane| half(low, lane) | half(high, lane) << 16);
        regs.write32(inst.dst, mask, &values);
    }
}

/// Combines with the predicate in `list`, if there is one.
#[inline(always)]
fn with_third(regs: &RegFile, bits: u32, inst: &Inst) -> u32 {
    match inst.list.as_deref() {
        Some(&[third]) => {
            let other = regs.pred_operand(PredSlot(third.0));
            combine(bits, other, inst.imm >> COMBINE_SHIFT)
        }
        _ => bits,
    }
}

/// `set`: `c` is the slot of a constant with the value that stands for true, `list` = the predicate
/// to combine with.
pub(crate) struct Set<T>(PhantomData<T>);

impl<T: Test> AluBody for Set<T> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        // SAFETY: the caller's promise.
        let found = unsafe { lanes_where::<T>(regs, inst) };
        let bits = with_third(regs, negated(found, inst.imm), inst);
        let truth = regs.lanes32(inst.c)[0];
        let values = std::array::from_fn(|lane| if bits >> lane & 1 != 0 { truth } else { 0 });
        regs.write32(inst.dst, mask, &values);
    }
}

/// `selp`: `c` is a predicate operand.
pub(crate) struct Selp<T>(PhantomData<T>);

impl<T: Value> AluBody for Selp<T> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let bits = regs.pred_operand(PredSlot(inst.c.0));
        let (a, b) = (regs.source(inst.a), regs.source(inst.b));
        let mut out = [T::Raw::default(); 32];
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            let a = unsafe { T::get(a, lane) };
            // SAFETY: as above.
            let b = unsafe { T::get(b, lane) };
            let chosen = if bits >> lane & 1 != 0 { a } else { b };
            *out = chosen.into_raw();
        }
        let target = regs.target(inst.dst);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
    }
}

/// `slct` on the sign of an integer.
pub(crate) struct SlctInt<T>(PhantomData<T>);

impl<T: Value> Map for SlctInt<T> {
    type A = T;
    type B = T;
    type C = i32;
    type D = T;
    const PLAIN: bool = false;
    #[inline(always)]
    fn eval(a: T, b: T, c: i32, _: u64) -> T {
        if c >= 0 { a } else { b }
    }
}

/// `slct` on the sign of a float: -0 counts as non-negative, NaN selects b.
pub(crate) struct SlctFloat<T>(PhantomData<T>);

impl<T: Value> Map for SlctFloat<T> {
    type A = T;
    type B = T;
    type C = f32;
    type D = T;
    const PLAIN: bool = false;
    #[inline(always)]
    fn eval(a: T, b: T, c: f32, imm: u64) -> T {
        if c.number(imm) >= 0.0 { a } else { b }
    }
}
