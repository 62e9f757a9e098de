//! FP8 codes: e4m3 (no infinities, NaN = 0x7f) and e5m2.
//!
//! Conversions to FP8 always saturate to the largest finite value (`.satfinite`).
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are exact in the narrower format"
)]

use super::round::{E4m3, E5m2, Format, Mode, power, round_to};

/// An FP8 format.
pub(crate) trait Float8: Format {
    /// Stored significand bits.
    const FRACTION: u32;
    /// Exponent bias.
    const BIAS: i32;
    /// The value of a code, as f32; exact.
    fn decode(code: u8) -> f32;
}

impl Float8 for E4m3 {
    const FRACTION: u32 = 3;
    const BIAS: i32 = 7;
    #[inline(always)]
    fn decode(code: u8) -> f32 {
        decode::<Self>(code, code & 0x7f == 0x7f, false)
    }
}

impl Float8 for E5m2 {
    const FRACTION: u32 = 2;
    const BIAS: i32 = 15;
    #[inline(always)]
    fn decode(code: u8) -> f32 {
        decode::<Self>(code, code & 0x7f > 0x7c, code & 0x7f == 0x7c)
    }
}

#[inline(always)]
fn decode<F: Float8>(code: u8, nan: bool, infinite: bool) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    // Exponent and fraction in their place in f32; the factor corrects the bias.
    let scaled = f32::from_bits(magnitude << (23 - F::FRACTION)) * power(127 - F::BIAS) as f32;
    let value = if nan { f32::NAN } else { scaled };
    let value = if infinite { f32::INFINITY } else { value };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

/// Rounds to nearest even with saturation and encodes; NaN gives 0x7f.
#[inline(always)]
pub(crate) fn encode<F: Float8>(x: f64) -> u8 {
    let limited = if x.abs() > F::MAX {
        F::MAX.copysign(x)
    } else {
        x
    };
    let exact = round_to::<F>(limited, Mode::Nearest);
    let sign = (x.to_bits() >> 56) as u8 & 0x80;
    let magnitude = exact.abs();
    let shifted = (magnitude as f32).to_bits() >> (23 - F::FRACTION);
    let normal = shifted.wrapping_sub(((127 - F::BIAS) as u32) << F::FRACTION);
    let last_place = F::MIN_EXPONENT - F::FRACTION as i32;
    let subnormal = (magnitude * power(-last_place)) as i32 as u32;
    let bits = if magnitude < power(F::MIN_EXPONENT) {
        subnormal
    } else {
        normal
    };
    if x.is_nan() { 0x7f } else { bits as u8 | sign }
}
