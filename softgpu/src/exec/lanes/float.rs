//! Floating-point arithmetic.
//!
//! `f32` and `f64` to nearest run on the host's own instructions. Everything else (directed
//! rounding, `.ftz`, `.sat`, the 16-bit formats) is computed in f64 and rounded once; see
//! [`round`](super::round).

use super::half::{Float, canonical, canonical64};
use super::map::maps;
use super::round::{Mode, add_odd, finish, input, odd, round_to};
use super::value::Value;

maps! {
    AddF32(a: f32, b: f32) -> f32 { canonical(a + b) }
    SubF32(a: f32, b: f32) -> f32 { canonical(a - b) }
    MulF32(a: f32, b: f32) -> f32 { canonical(a * b) }
    DivF32(a: f32, b: f32) -> f32 { canonical(a / b) }
    FmaF32(a: f32, b: f32, c: f32) -> f32 { canonical(a.mul_add(b, c)) }
    AddF64(a: f64, b: f64) -> f64 { canonical64(a + b) }
    SubF64(a: f64, b: f64) -> f64 { canonical64(a - b) }
    MulF64(a: f64, b: f64) -> f64 { canonical64(a * b) }
    DivF64(a: f64, b: f64) -> f64 { canonical64(a / b) }
    FmaF64(a: f64, b: f64, c: f64) -> f64 { canonical64(a.mul_add(b, c)) }
    SqrtF32(a: f32) -> f32 { canonical(a.sqrt()) }
    RcpF32(a: f32) -> f32 { canonical(1.0 / a) }
    SqrtF64(a: f64) -> f64 { canonical64(a.sqrt()) }
    RcpF64(a: f64) -> f64 { canonical64(1.0 / a) }
    NegF64(a: f64) -> f64 { -a }
    AbsF64(a: f64) -> f64 { a.abs() }
    CopysignF32(a: f32, b: f32) -> f32 { b.copysign(a) }
    CopysignF64(a: f64, b: f64) -> f64 { b.copysign(a) }

    Add<T: Lanes>(a: T, b: T) [imm plain] -> T { T::zip(a, b, a, |a, b, _| scalar::add(a, b, imm)) }
    Sub<T: Lanes>(a: T, b: T) [imm plain] -> T { T::zip(a, b, a, |a, b, _| scalar::sub(a, b, imm)) }
    Mul<T: Lanes>(a: T, b: T) [imm plain] -> T { T::zip(a, b, a, |a, b, _| scalar::mul(a, b, imm)) }
    Fma<T: Lanes>(a: T, b: T, c: T) [imm plain] -> T {
        T::zip(a, b, c, |a, b, c| scalar::fma(a, b, c, imm))
    }
    Neg<T: Lanes>(a: T) [imm plain] -> T { T::zip(a, a, a, |a, _, _| scalar::signed(a, -1.0, imm)) }
    Abs<T: Lanes>(a: T) [imm plain] -> T { T::zip(a, a, a, |a, _, _| scalar::signed(a, 1.0, imm)) }
    Min<T: Lanes>(a: T, b: T) [imm plain] -> T { T::zip(a, b, a, |a, b, _| scalar::min(a, b, imm)) }
    Max<T: Lanes>(a: T, b: T) [imm plain] -> T { T::zip(a, b, a, |a, b, _| scalar::max(a, b, imm)) }
    MinF64(a: f64, b: f64) [imm plain] -> f64 { canonical64(scalar::pick::<false>(a, b, imm)) }
    MaxF64(a: f64, b: f64) [imm plain] -> f64 { canonical64(scalar::pick::<true>(a, b, imm)) }
    Div(a: f32, b: f32) [imm plain] -> f32 { scalar::div(a, b, imm) }
    Rcp(a: f32) [imm plain] -> f32 { scalar::div(1.0, a, imm) }
    Sqrt(a: f32) [imm plain] -> f32 { scalar::sqrt(a, imm) }
}

/// Immediate bit of min and max: NaN if an operand is NaN.
pub(crate) const NAN: u64 = 1 << 8;
/// Immediate bit of min and max: `.xorsign.abs`.
pub(crate) const XORSIGN: u64 = 1 << 9;

/// One or two values of a format per lane.
pub(crate) trait Lanes: Value {
    /// The format's type.
    type Item: Float;
    /// Applies a function to every item of three operands.
    fn zip(
        a: Self,
        b: Self,
        c: Self,
        f: impl Fn(Self::Item, Self::Item, Self::Item) -> Self::Item,
    ) -> Self;
}

impl<T: Float> Lanes for T {
    type Item = T;
    #[inline(always)]
    fn zip(a: T, b: T, c: T, f: impl Fn(T, T, T) -> T) -> T {
        f(a, b, c)
    }
}

macro_rules! pairs {
    ($($ty:path)*) => {$(
        impl Lanes for [$ty; 2] {
            type Item = $ty;
            #[inline(always)]
            fn zip(a: Self, b: Self, c: Self, f: impl Fn($ty, $ty, $ty) -> $ty) -> Self {
                [f(a[0], b[0], c[0]), f(a[1], b[1], c[1])]
            }
        }
    )*};
}
pairs!(super::value::F16 super::value::Bf16);

/// Operations on one value, through f64.
pub(crate) mod scalar {
    use super::*;

    /// Rounds a value that is exact or rounded to odd.
    #[inline(always)]
    fn rounded<T: Float>(exact: f64, imm: u64) -> T {
        let value = round_to::<T::Format>(exact, Mode::of(imm));
        T::encode(finish::<T::Format>(value, imm))
    }

    /// A sum; an exact zero from values of different sign is negative when rounding down.
    #[inline(always)]
    fn sum<T: Float>(a: f64, b: f64, imm: u64) -> T {
        let sum = add_odd(a, b);
        let negative = a.is_sign_negative() | b.is_sign_negative();
        let down = (Mode::of(imm) == Mode::Down) & (sum == 0.0) & negative;
        rounded(if down { -0.0 } else { sum }, imm)
    }

    #[inline(always)]
    pub(crate) fn add<T: Float>(a: T, b: T, imm: u64) -> T {
        let (a, b) = (a.decode(), b.decode());
        sum(input::<T::Format>(a, imm), input::<T::Format>(b, imm), imm)
    }

    #[inline(always)]
    pub(crate) fn sub<T: Float>(a: T, b: T, imm: u64) -> T {
        let (a, b) = (a.decode(), b.decode());
        sum(input::<T::Format>(a, imm), -input::<T::Format>(b, imm), imm)
    }

    #[inline(always)]
    pub(crate) fn mul<T: Float>(a: T, b: T, imm: u64) -> T {
        let (a, b) = (a.decode(), b.decode());
        // At most 48 bits: exact.
        rounded(input::<T::Format>(a, imm) * input::<T::Format>(b, imm), imm)
    }

    #[inline(always)]
    pub(crate) fn fma<T: Float>(a: T, b: T, c: T, imm: u64) -> T {
        let (a, b, c) = (a.decode(), b.decode(), c.decode());
        let product = input::<T::Format>(a, imm) * input::<T::Format>(b, imm);
        sum(product, input::<T::Format>(c, imm), imm)
    }

    /// `neg` (factor -1) and `abs` (factor 1 on the magnitude) without touching NaN payloads.
    #[inline(always)]
    pub(crate) fn signed<T: Float>(a: T, factor: f64, imm: u64) -> T {
        let value = input::<T::Format>(a.decode(), imm);
        let value = if factor < 0.0 { -value } else { value.abs() };
        T::encode(value)
    }

    #[inline(always)]
    pub(crate) fn div(a: f32, b: f32, imm: u64) -> f32 {
        let a = input::<<f32 as Float>::Format>(a.decode(), imm);
        let b = input::<<f32 as Float>::Format>(b.decode(), imm);
        let quotient = a / b;
        // The remainder is exact in f64 arithmetic with one fused step: its sign tells on which
        // side of the quotient the exact value lies.
        let rest = (-quotient).mul_add(b, a);
        let error = if b < 0.0 { -rest } else { rest };
        let exact = if quotient.is_finite() & b.is_finite() {
            odd(quotient, error)
        } else {
            quotient
        };
        rounded(exact, imm)
    }

    #[inline(always)]
    pub(crate) fn sqrt(a: f32, imm: u64) -> f32 {
        let a = input::<<f32 as Float>::Format>(a.decode(), imm);
        let root = a.sqrt();
        let rest = (-root).mul_add(root, a);
        let exact = if (a > 0.0) & a.is_finite() {
            odd(root, rest)
        } else {
            root
        };
        rounded(exact, imm)
    }

    /// The smaller or larger; a NaN loses against a number unless `.NaN`; -0 < +0.
    #[inline(always)]
    pub(crate) fn pick<const MAX: bool>(a: f64, b: f64, imm: u64) -> f64 {
        let sign = a.is_sign_negative() ^ b.is_sign_negative();
        let xorsign = imm & XORSIGN != 0;
        let (a, b) = if xorsign { (a.abs(), b.abs()) } else { (a, b) };
        let less = (a < b) | ((a == b) & a.is_sign_negative());
        let first = if less != MAX { a } else { b };
        let first = if a.is_nan() { b } else { first };
        let first = if b.is_nan() { a } else { first };
        let nan = (imm & NAN != 0) & (a.is_nan() | b.is_nan());
        let result = if nan { f64::NAN } else { first };
        if xorsign {
            result.copysign(if sign { -1.0 } else { 1.0 })
        } else {
            result
        }
    }

    #[inline(always)]
    pub(crate) fn min<T: Float>(a: T, b: T, imm: u64) -> T {
        let (a, b) = (a.decode(), b.decode());
        let (a, b) = (input::<T::Format>(a, imm), input::<T::Format>(b, imm));
        T::encode(pick::<false>(a, b, imm))
    }

    #[inline(always)]
    pub(crate) fn max<T: Float>(a: T, b: T, imm: u64) -> T {
        let (a, b) = (a.decode(), b.decode());
        let (a, b) = (input::<T::Format>(a, imm), input::<T::Format>(b, imm));
        T::encode(pick::<true>(a, b, imm))
    }
}
