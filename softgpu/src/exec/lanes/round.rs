//! Rounding, shared by arithmetic and conversions.
//!
//! Everything below f64 is computed in f64 and rounded once: an operation that is not exact in f64
//! is *rounded to odd* there (truncated, with the last bit set if anything was cut off), after
//! which rounding to 24 or fewer bits gives what rounding the exact value would have given
//! (53 ≥ 24 + 2, Boldo & Melquiond, "Emulation of FMA and correctly rounded sums").
#![expect(
    clippy::cast_sign_loss,
    reason = "exponents are taken from and put into bit fields"
)]

use crate::ir::{FloatMod, Rounding};

/// Rounding directions, as they stand in bits 0..3 of an immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
}

/// Immediate bit: subnormal inputs and results become zero.
pub(crate) const FTZ: u64 = 1 << 3;
/// Immediate bit: results are clamped to [0, 1], NaN to 0.
pub(crate) const SAT: u64 = 1 << 4;
/// Immediate bit: negative results become +0.
pub(crate) const RELU: u64 = 1 << 5;
/// Immediate bit: overflow gives the largest finite value.
pub(crate) const SATFINITE: u64 = 1 << 6;

impl Mode {
    /// The mode in an immediate.
    #[inline(always)]
    pub(crate) fn of(imm: u64) -> Self {
        match imm & 7 {
            1 => Self::Away,
            2 => Self::Zero,
            3 => Self::Down,
            4 => Self::Up,
            _ => Self::Nearest,
        }
    }

    /// The direction that is written; `None` for approximations and stochastic rounding.
    pub(crate) fn written(rounding: Rounding) -> Option<Self> {
        Some(match rounding {
            Rounding::Default | Rounding::Rn | Rounding::Rni => Self::Nearest,
            Rounding::Rna => Self::Away,
            Rounding::Rz | Rounding::Rzi => Self::Zero,
            Rounding::Rm | Rounding::Rmi => Self::Down,
            Rounding::Rp | Rounding::Rpi => Self::Up,
            Rounding::Rs | Rounding::Approx | Rounding::Full => return None,
        })
    }

    /// The immediate of a set of modifiers.
    pub(crate) fn immediate(modifiers: FloatMod) -> Option<u64> {
        let mode = Self::written(modifiers.rounding)? as u64;
        Some(mode | flags(modifiers))
    }
}

/// The immediate of modifiers without their rounding.
pub(crate) fn flags(modifiers: FloatMod) -> u64 {
    let ftz = if modifiers.ftz { FTZ } else { 0 };
    let sat = if modifiers.sat { SAT } else { 0 };
    ftz | sat
}

/// A binary format with up to 24 bits of precision inside f64.
pub(crate) trait Format {
    /// Significand bits, the hidden one included.
    const PRECISION: i32;
    /// Exponent of the smallest normal value.
    const MIN_EXPONENT: i32;
    /// Largest finite value.
    const MAX: f64;
}

macro_rules! formats {
    ($($(#[$meta:meta])* $name:ident: $precision:literal, $min:literal, $max:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name;
        impl Format for $name {
            const PRECISION: i32 = $precision;
            const MIN_EXPONENT: i32 = $min;
            const MAX: f64 = $max;
        }
    )*};
}
formats! {
    /// IEEE single.
    Single: 24, -126, f32::MAX as f64;
    /// TF32: the exponents of f32, 10 stored bits.
    Tf32: 11, -126, 3.401_162_134_214_653_5e38;
    /// IEEE half.
    Half: 11, -14, 65504.0;
    /// bfloat16.
    Brain: 8, -126, 3.389_531_389_251_535_5e38;
}

/// 2^`exponent` for exponents of normal f64 values.
#[inline(always)]
pub(crate) fn power(exponent: i32) -> f64 {
    f64::from_bits((exponent.wrapping_add(1023) as u64) << 52)
}

/// ⌊log2 |x|⌋ of a normal x; -1023 for zero and f64 subnormals.
#[inline(always)]
pub(crate) fn exponent(x: f64) -> i32 {
    ((x.to_bits() >> 52 & 0x7ff) as i32).wrapping_sub(1023)
}

/// The sum of two values, rounded to odd. Infinite and NaN results are those of f64.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // Knuth's two-sum: the error is exact, as nothing here comes near the range of f64.
    let b_part = sum - a;
    let a_part = sum - b_part;
    let error = (a - a_part) + (b - b_part);
    odd(sum, error)
}

/// `value + error` rounded to odd, where |error| is at most half an ulp of value.
#[inline(always)]
pub(crate) fn odd(value: f64, error: f64) -> f64 {
    let bits = value.to_bits();
    let inexact = (error != 0.0) & error.is_finite();
    // Step back by one when the error points toward zero, then mark the last bit.
    let inward = (error < 0.0) != (value < 0.0);
    let truncated = bits.wrapping_sub(u64::from(inward));
    f64::from_bits(if inexact { truncated | 1 } else { bits })
}

/// Rounds a finite or non-finite f64 to a format, leaving the exponent range open at the top:
/// the result is a multiple of the format's last place, or x itself if x is not finite.
#[inline(always)]
fn to_precision<F: Format>(x: f64, mode: Mode) -> f64 {
    let e = exponent(x);
    let e = if e > F::MIN_EXPONENT {
        e
    } else {
        F::MIN_EXPONENT
    };
    // Unit in the last place. Beyond the range of all formats any lower unit does: x stays as it
    // is and overflows.
    let e = if e < 200 { e } else { 200 };
    let ulp = power(e.wrapping_sub(F::PRECISION - 1));
    // Adding and subtracting 1.5 · 2^52 ulp rounds to a multiple of ulp, ties to even.
    let shift = ulp * 6_755_399_441_055_744.0;
    let near = (x + shift) - shift;
    // One unit back or on, where the direction says so. All cases are evaluated and selected
    // from, which keeps the loop over lanes free of branches.
    let outward = near.abs() > x.abs();
    let tie = ((x - near).abs() * 2.0 == ulp) & (near.abs() < x.abs());
    let unit = ulp.copysign(x);
    let step = if (mode == Mode::Zero) & outward {
        -unit
    } else {
        0.0
    };
    let step = if (mode == Mode::Down) & (near > x) {
        -ulp
    } else {
        step
    };
    let step = if (mode == Mode::Up) & (near < x) {
        ulp
    } else {
        step
    };
    let step = if (mode == Mode::Away) & tie {
        unit
    } else {
        step
    };
    let rounded = (near + step).copysign(x);
    if x.is_finite() { rounded } else { x }
}

/// Rounds to a format. Overflow gives infinity or the largest finite value as the mode says;
/// infinities and NaN stay.
#[inline(always)]
pub(crate) fn round_to<F: Format>(x: f64, mode: Mode) -> f64 {
    let rounded = to_precision::<F>(x, mode);
    let over = (rounded.abs() > F::MAX) & x.is_finite();
    let inward = ((mode == Mode::Down) & (x > 0.0)) | ((mode == Mode::Up) & (x < 0.0));
    let to_max = (mode == Mode::Zero) | inward;
    let limit = if to_max { F::MAX } else { f64::INFINITY };
    if over { limit.copysign(x) } else { rounded }
}

/// The common end of arithmetic: `.ftz`, `.sat`, `.relu` on a value already rounded to a format.
#[inline(always)]
pub(crate) fn finish<F: Format>(x: f64, imm: u64) -> f64 {
    let x = if imm & FTZ != 0 { flush::<F>(x) } else { x };
    let x = if imm & SAT != 0 { saturate(x) } else { x };
    // `.relu`: negative values become +0, NaN stays.
    if (imm & RELU != 0) & (x <= 0.0) {
        0.0
    } else {
        x
    }
}

/// Subnormals of a format become zero of the same sign.
#[inline(always)]
pub(crate) fn flush<F: Format>(x: f64) -> f64 {
    if x.abs() < power(F::MIN_EXPONENT) {
        0.0f64.copysign(x)
    } else {
        x
    }
}

/// Subnormal inputs become zero if the immediate says so.
#[inline(always)]
pub(crate) fn input<F: Format>(x: f64, imm: u64) -> f64 {
    if imm & FTZ != 0 { flush::<F>(x) } else { x }
}

/// `.sat`: [0, 1], NaN to +0.
#[inline(always)]
pub(crate) fn saturate(x: f64) -> f64 {
    // NaN and -0 fail the first comparison.
    let low = if x > 0.0 { x } else { 0.0 };
    if low < 1.0 { low } else { 1.0 }
}
