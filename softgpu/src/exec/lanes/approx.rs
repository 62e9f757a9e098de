//! The `.approx` functions.
//!
//! The PTX ISA bounds their errors, it does not define their bits. These compute in f64 with an
//! error far below an ulp of f32 and round to nearest, so they are inside every bound (the tests
//! sweep them). Range reduction is plain Cody-Waite; the coefficients are Taylor series, whose
//! remainders are stated where they are used.
#![expect(
    clippy::cast_possible_truncation,
    reason = "range reduction yields small integers"
)]

use super::half::Float;
use super::map::maps;
use super::round::{Mode, exponent, finish, input, power, round_to};
use super::value::{Bf16, F16};

maps! {
    Ex2<T: Float>(a: T) [imm plain] -> T { unary(a, imm, ex2) }
    Tanh<T: Float>(a: T) [imm plain] -> T { unary(a, imm, tanh) }
    Lg2(a: f32) [imm plain] -> f32 { unary(a, imm, lg2) }
    Sin(a: f32) [imm plain] -> f32 { unary(a, imm, |x| sin_cos(x, 0.0)) }
    Cos(a: f32) [imm plain] -> f32 { unary(a, imm, |x| sin_cos(x, 1.0)) }
    RcpApprox(a: f32) [imm plain] -> f32 { unary(a, imm, |x| 1.0 / x) }
    SqrtApprox(a: f32) [imm plain] -> f32 { unary(a, imm, f64::sqrt) }
    RsqrtApprox(a: f32) [imm plain] -> f32 { unary(a, imm, |x| 1.0 / x.sqrt()) }
    Ex2F16x2(a: [F16; 2]) [imm plain] -> [F16; 2] { [unary(a[0], imm, ex2), unary(a[1], imm, ex2)] }
    TanhF16x2(a: [F16; 2]) [imm plain] -> [F16; 2] { [unary(a[0], imm, tanh), unary(a[1], imm, tanh)] }
    Ex2Bf16x2(a: [Bf16; 2]) [imm plain] -> [Bf16; 2] { [unary(a[0], imm, ex2), unary(a[1], imm, ex2)] }
    TanhBf16x2(a: [Bf16; 2]) [imm plain] -> [Bf16; 2] {
        [unary(a[0], imm, tanh), unary(a[1], imm, tanh)]
    }
    /// `div.full`: 2 ulp over the whole range.
    DivFull(a: f32, b: f32) [imm plain] -> f32 {
        let (a, b) = (input::<Single>(a.decode(), imm), input::<Single>(b.decode(), imm));
        f32::encode(finish::<Single>(round_to::<Single>(a / b, Mode::Nearest), imm))
    }
    /// `div.approx`: beyond |b| = 2^126 the reciprocal underflows, and the result is zero, or NaN
    /// for an infinite dividend.
    DivApprox(a: f32, b: f32) [imm plain] -> f32 {
        let (a, b) = (input::<Single>(a.decode(), imm), input::<Single>(b.decode(), imm));
        let large = b.abs() > power(126);
        let quotient = if large { a * 0.0f64.copysign(b) } else { a / b };
        f32::encode(finish::<Single>(round_to::<Single>(quotient, Mode::Nearest), imm))
    }
}

type Single = <f32 as Float>::Format;

#[inline(always)]
fn unary<T: Float>(a: T, imm: u64, f: impl Fn(f64) -> f64) -> T {
    let x = input::<T::Format>(a.decode(), imm);
    let value = round_to::<T::Format>(f(x), Mode::Nearest);
    T::encode(finish::<T::Format>(value, imm))
}

/// `c[0] + x (c[1] + x (c[2] + …))`.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let mut sum = 0.0;
    for c in coefficients.into_iter().rev() {
        sum = sum * x + c;
    }
    sum
}

/// 1.5 · 2^52: adding it leaves no bits for fractions.
const SHIFT: f64 = 6_755_399_441_055_744.0;

/// x to the nearest integer, for |x| < 2^51.
#[inline(always)]
fn nearest(x: f64) -> f64 {
    (x + SHIFT) - SHIFT
}

/// 1/n! up to n = 10: below 0.35 the rest of the series of exp is under 2^-40.
const EXP: [f64; 11] = [
    1.0,
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
];

/// 2^x.
#[inline(always)]
fn ex2(x: f64) -> f64 {
    // Past these limits the result is zero or infinite in every format.
    let low = if x < -1000.0 { -1000.0 } else { x };
    let bounded = if low > 1000.0 { 1000.0 } else { low };
    let shifted = bounded + SHIFT;
    let value = polynomial((bounded - (shifted - SHIFT)) * std::f64::consts::LN_2, EXP);
    // The integer stands in the low bits of the shifted value.
    value * power(shifted.to_bits() as i32)
}

/// log2 x.
#[inline(always)]
fn lg2(x: f64) -> f64 {
    // x = m 2^e with m in [√½, √2): log2 m = 2/ln 2 · atanh s, s = (m - 1)/(m + 1), |s| < 0.172.
    let e = exponent(x);
    let fraction = x * power(-e);
    let upper = fraction > std::f64::consts::SQRT_2;
    let m = if upper { fraction * 0.5 } else { fraction };
    let whole = f64::from(e) + if upper { 1.0 } else { 0.0 };
    let s = (m - 1.0) / (m + 1.0);
    // 1/(2n+1) up to n = 8: the rest is under 2^-45 of the first term.
    let series = polynomial(
        s * s,
        [
            1.0,
            1.0 / 3.0,
            1.0 / 5.0,
            1.0 / 7.0,
            1.0 / 9.0,
            1.0 / 11.0,
            1.0 / 13.0,
            1.0 / 15.0,
            1.0 / 17.0,
        ],
    );
    let value = whole + s * series * (2.0 * std::f64::consts::LOG2_E);
    let value = if x == f64::INFINITY { x } else { value };
    let value = if x == 0.0 { f64::NEG_INFINITY } else { value };
    if x < 0.0 || x.is_nan() {
        f64::NAN
    } else {
        value
    }
}

/// sin (quarter = 0) or cos (quarter = 1).
#[inline(always)]
fn sin_cos(x: f64, quarter: f64) -> f64 {
    use std::f64::consts::FRAC_PI_2;
    // π/2 - FRAC_PI_2.
    const LOW: f64 = 6.123_233_995_736_766e-17;
    // Beyond this no bound is given, and reduced arguments would lose all bits.
    let limit = 4_503_599_627_370_496.0;
    let inside = x.abs() < limit;
    let bounded = if inside { x } else { 0.0 };
    let k = nearest(bounded * std::f64::consts::FRAC_2_PI);
    // Exact for |k| < 2^20 or so, as far as f64 goes beyond that.
    let r = (-k).mul_add(FRAC_PI_2, bounded);
    let r = (-k).mul_add(LOW, r);
    let q = k + quarter;
    let phase = q - 4.0 * (q * 0.25).floor();
    let r2 = r * r;
    // Up to r^15 and r^16: below π/4 the rest is under 2^-50.
    let sine = r * polynomial(
        r2,
        [
            1.0,
            -1.0 / 6.0,
            1.0 / 120.0,
            -1.0 / 5_040.0,
            1.0 / 362_880.0,
            -1.0 / 39_916_800.0,
            1.0 / 6_227_020_800.0,
            -1.0 / 1_307_674_368_000.0,
        ],
    );
    let cosine = polynomial(
        r2,
        [
            1.0,
            -1.0 / 2.0,
            1.0 / 24.0,
            -1.0 / 720.0,
            1.0 / 40_320.0,
            -1.0 / 3_628_800.0,
            1.0 / 479_001_600.0,
            -1.0 / 87_178_291_200.0,
            1.0 / 20_922_789_888_000.0,
        ],
    );
    let value = if phase == 1.0 || phase == 3.0 {
        cosine
    } else {
        sine
    };
    let value = if phase >= 2.0 { -value } else { value };
    if x.is_finite() { value } else { f64::NAN }
}

/// tanh x.
#[inline(always)]
fn tanh(x: f64) -> f64 {
    let a = x.abs();
    let bounded = if a < 30.0 { a } else { 30.0 };
    let e = ex2(bounded * (-2.0 * std::f64::consts::LOG2_E));
    let large = (1.0 - e) / (1.0 + e);
    // Below 1/16 the quotient cancels; the series' rest is under 2^-30 there.
    let x2 = a * a;
    let small = a * polynomial(x2, [1.0, -1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0]);
    let value = if a < 0.0625 { small } else { large };
    if x.is_nan() { x } else { value.copysign(x) }
}
