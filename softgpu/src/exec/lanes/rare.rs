//! Handlers of [`Arith`](crate::ir::Arith).
#![expect(unsafe_code, reason = "operands are read through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "parts of words, two's complement"
)]

use std::marker::PhantomData;

use super::bits::Lop3;
use super::compare::combine;
use super::int::Int;
use super::isa::AluBody;
use super::map::{Map, maps};
use super::value::{Raw, Value};
use crate::exec::inst::Inst;
use crate::exec::regs::{PredSlot, RegFile};
use crate::ir::FloatClass;

/// Immediate bit: the first operand is signed.
pub(crate) const A_SIGNED: u64 = 1;
/// Immediate bit: the second operand is signed.
pub(crate) const B_SIGNED: u64 = 2;
/// Immediate bit: the high form.
pub(crate) const HIGH: u64 = 4;
/// Immediate bit: `.sat`.
pub(crate) const SATURATE: u64 = 8;
/// Immediate bit: `.clamp`.
pub(crate) const CLAMP: u64 = 16;

/// The 32 bits of a 24-bit product that an instruction asks for.
#[inline(always)]
fn product24(a: u32, b: u32, imm: u64) -> u32 {
    let narrow = |x: u32| {
        if imm & A_SIGNED != 0 {
            i64::from((x << 8) as i32 >> 8)
        } else {
            i64::from(x & 0xff_ffff)
        }
    };
    let product = narrow(a).wrapping_mul(narrow(b));
    (if imm & HIGH != 0 {
        product >> 16
    } else {
        product
    }) as u32
}

/// The `count` low bits set; all from 32 on.
#[inline(always)]
fn low(count: u32) -> u32 {
    if count < 32 {
        !(u32::MAX << count)
    } else {
        u32::MAX
    }
}

/// `fns`: position of the n-th set bit from `base` on, upwards for n > 0, downwards for n < 0.
#[inline(always)]
fn nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let inside = base < 32;
    let at = base & 31;
    // The candidates, in the order in which they are counted.
    let row = if offset < 0 {
        (mask & low(at + 1)).reverse_bits()
    } else {
        mask & !low(at)
    };
    let row = if offset == 0 { row & 1 << at } else { row };
    let mut left = row;
    for step in 1..33 {
        left = if step < offset.unsigned_abs() {
            left & left.wrapping_sub(1)
        } else {
            left
        };
    }
    let found = inside & (left != 0) & (offset.unsigned_abs() <= 32);
    let first = left.trailing_zeros();
    let position = if offset < 0 {
        31u32.wrapping_sub(first)
    } else {
        first
    };
    if found { position } else { u32::MAX }
}

/// Half `i` of a word, extended by its sign if `signed` is not zero.
#[inline(always)]
fn half(word: u32, i: u32, signed: u64) -> i32 {
    let half = word >> (16 * i);
    if signed != 0 {
        i32::from(half as i16)
    } else {
        i32::from(half as u16)
    }
}

/// Byte `i` of a word, likewise.
#[inline(always)]
fn byte(word: u32, i: u32, signed: u64) -> i32 {
    let byte = word >> (8 * i);
    if signed != 0 {
        i32::from(byte as i8)
    } else {
        i32::from(byte as u8)
    }
}

#[inline(always)]
fn positive(x: i32) -> i32 {
    if x < 0 { 0 } else { x }
}

maps! {
    Sad<T: Int>(a: T, b: T, c: T) -> T { a.max(b).sub(a.min(b)).add(c) }
    Mul24(a: u32, b: u32) [imm] -> u32 { product24(a, b, imm) }
    Mad24(a: u32, b: u32, c: u32) [imm] -> u32 {
        let product = product24(a, b, imm);
        let clamped = (product as i32).saturating_add(c as i32) as u32;
        if imm & SATURATE != 0 { clamped } else { product.wrapping_add(c) }
    }
    MadHiSat(a: i32, b: i32, c: i32) -> i32 { a.mul_high(b).saturating_add(c) }
    MinRelu(a: i32, b: i32) -> i32 { positive(Int::min(a, b)) }
    MaxRelu(a: i32, b: i32) -> i32 { positive(Int::max(a, b)) }
    MinReluS16x2(a: [i16; 2], b: [i16; 2]) -> [i16; 2] {
        [0, 1].map(|i| positive(i32::from(Int::min(a[i], b[i]))) as i16)
    }
    MaxReluS16x2(a: [i16; 2], b: [i16; 2]) -> [i16; 2] {
        [0, 1].map(|i| positive(i32::from(Int::max(a[i], b[i]))) as i16)
    }
    Bmsk(a: u32, b: u32) [imm] -> u32 {
        let clamp = imm & CLAMP != 0;
        let start = if clamp & (a >= 32) { 0 } else { u32::MAX << (a & 31) };
        let end = (a & 31).wrapping_add(b & 31);
        let open = (end >= 32) | (clamp & (b >= 32));
        start & if open { u32::MAX } else { low(end) }
    }
    Szext(a: u32, b: u32) [imm] -> u32 {
        let whole = (b >= 32) & (imm & CLAMP != 0);
        let kept = if whole { u32::MAX } else { low(b & 31) };
        let sign = a >> ((b & 31).wrapping_sub(1) & 31) & 1 != 0;
        let extended = (imm & A_SIGNED != 0) & (b & 31 != 0) & !whole & sign;
        a & kept | if extended { !kept } else { 0 }
    }
    Fns(a: u32, b: u32, c: i32) -> u32 { nth_set(a, b, c) }
    Dp2a(a: u32, b: u32, c: u32) [imm] -> u32 {
        let (signed_a, signed_b) = (imm & A_SIGNED, imm & B_SIGNED);
        let bytes = if imm & HIGH != 0 { b >> 16 } else { b };
        let product = |i| half(a, i, signed_a).wrapping_mul(byte(bytes, i, signed_b)) as u32;
        c.wrapping_add(product(0)).wrapping_add(product(1))
    }
    /// Immediate: bits of a part, [`SIGNED_PARTS`].
    CvtPack(a: i32, b: i32, c: u32) [imm] -> u32 { packed(a, b, c, imm) }
    CvtPackTwo(a: i32, b: i32) [imm] -> u32 { packed(a, b, 0, imm) }
}

/// Immediate bit of `cvt.pack`.
pub(crate) const SIGNED_PARTS: u64 = 64;

/// Two clamped parts below what moves up.
#[inline(always)]
fn packed(a: i32, b: i32, c: u32, imm: u64) -> u32 {
    let bits = (imm & 31) as u32;
    let signed = imm & SIGNED_PARTS != 0;
    let max = if signed {
        low(bits.wrapping_sub(1))
    } else {
        low(bits)
    } as i32;
    let min = if signed { !max } else { 0 };
    let part = |x: i32| {
        let x = if x < min { min } else { x };
        (if x > max { max } else { x }) as u32 & low(bits)
    };
    let above = if bits < 16 { c << (2 * bits) } else { 0 };
    above | part(a) << bits | part(b)
}

/// `lop3` with a predicate: the immediate holds the table and, from bit 8, the combination;
/// `list` = p, q.
pub(crate) struct Lop3Pred;

impl AluBody for Lop3Pred {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let (a, b) = (regs.source(inst.a), regs.source(inst.b));
        let c = regs.source(inst.c);
        let mut out = [0u32; 32];
        let mut nonzero = 0;
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            let a = unsafe { u32::get(a, lane) };
            // SAFETY: as above.
            let b = unsafe { u32::get(b, lane) };
            // SAFETY: as above.
            let c = unsafe { u32::get(c, lane) };
            *out = Lop3::eval(a, b, c, inst.imm & 0xff);
            nonzero |= u32::from(*out != 0) << lane;
        }
        let Some(&[p, q]) = inst.list.as_deref() else {
            return;
        };
        let other = regs.pred_operand(PredSlot(q.0));
        let target = regs.target(inst.dst);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
        regs.set_pred(p.0, mask, combine(nonzero, other, inst.imm >> 8));
    }
}

/// Float formats as fields.
pub(crate) trait Fields: Value {
    /// Exponent field is zero, is all ones; fraction is zero.
    fn fields(self) -> (bool, bool, bool);
}

macro_rules! fields {
    ($($ty:ident: $fraction:literal, $top:literal;)*) => {$(
        impl Fields for $ty {
            #[inline(always)]
            fn fields(self) -> (bool, bool, bool) {
                let exponent = self >> $fraction & $top;
                (exponent == 0, exponent == $top, self << ($ty::BITS - $fraction) == 0)
            }
        }
    )*};
}
fields! {
    u32: 23, 0xff;
    u64: 52, 0x7ff;
}

/// `testp`: the immediate is the [`FloatClass`].
pub(crate) struct Testp<T>(PhantomData<T>);

impl<T: Fields> AluBody for Testp<T> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let a = regs.source(inst.a);
        let (mut low, mut top, mut zero) = (0, 0, 0);
        for lane in 0..32 {
            // SAFETY: the operand lies in the file, and lane < 32.
            let fields = unsafe { T::get(a, lane) }.fields();
            low |= u32::from(fields.0) << lane;
            top |= u32::from(fields.1) << lane;
            zero |= u32::from(fields.2) << lane;
        }
        let bits = match inst.imm {
            FINITE => !top,
            INFINITE => top & zero,
            NUMBER => !top | zero,
            NOT_A_NUMBER => top & !zero,
            NORMAL => !top & (!low | zero),
            _ => low & !zero,
        };
        regs.set_pred(inst.dst.0, mask, bits);
    }
}

const FINITE: u64 = FloatClass::Finite as u64;
const INFINITE: u64 = FloatClass::Infinite as u64;
const NUMBER: u64 = FloatClass::Number as u64;
const NOT_A_NUMBER: u64 = FloatClass::NotANumber as u64;
const NORMAL: u64 = FloatClass::Normal as u64;
