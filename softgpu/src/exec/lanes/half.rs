//! Decoding and encoding of the floating-point formats, exactly, through f64.
//!
//! Encoders take values that [`round_to`](super::round::round_to) has already rounded.
#![expect(
    clippy::cast_possible_truncation,
    reason = "values are exact in the narrower format"
)]

use super::round::{Brain, Format, Half, Single, power};
use super::value::{Bf16, F16, Value};

/// A floating-point type with its format.
pub(crate) trait Float: Value {
    /// The format.
    type Format: Format;
    /// The value in f64; exact.
    fn decode(self) -> f64;
    /// A value of the format as bits; NaN becomes the canonical NaN of PTX.
    fn encode(exact: f64) -> Self;
}

impl Float for f32 {
    type Format = Single;
    #[inline(always)]
    fn decode(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn encode(exact: f64) -> Self {
        canonical(exact as Self)
    }
}

/// NaN results are 0x7fffffff.
///
/// On bits: to the compiler all NaNs of arithmetic are alike, and it removes a replacement of one
/// float by another.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    let nan = bits & 0x7fff_ffff > 0x7f80_0000;
    f32::from_bits(if nan { 0x7fff_ffff } else { bits })
}

/// NaN results of f64 are the default NaN of CUDA. On bits, as in [`canonical`].
#[inline(always)]
pub(crate) fn canonical64(x: f64) -> f64 {
    let bits = x.to_bits();
    let nan = bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000;
    f64::from_bits(if nan { 0xfff8_0000_0000_0000 } else { bits })
}

impl Float for F16 {
    type Format = Half;
    #[inline(always)]
    fn decode(self) -> f64 {
        let bits = u32::from(self.0);
        let magnitude = bits & 0x7fff;
        // Exponent and fraction in the place where f32 has them; the bias is made up for by the
        // factor, which also normalises subnormals.
        let scaled = f32::from_bits(magnitude << 13) * 5.192_297e33;
        let special = f32::from_bits(magnitude << 13 | 0x7f80_0000);
        let value = if magnitude >= 0x7c00 { special } else { scaled };
        f64::from(f32::from_bits(value.to_bits() | (bits & 0x8000) << 16))
    }
    #[inline(always)]
    fn encode(exact: f64) -> Self {
        let sign = (exact.to_bits() >> 48) as u16 & 0x8000;
        let magnitude = exact.abs();
        let normal = ((magnitude as f32).to_bits() >> 13).wrapping_sub((127 - 15) << 10);
        // A multiple of 2^-24 below 2^-14: the integer, by way of the low bits of 2^52 + n.
        let subnormal = (magnitude * power(24) + power(52)).to_bits() as u32;
        let small = magnitude < power(-14);
        let finite = if small { subnormal } else { normal };
        let bits = if magnitude.is_infinite() {
            0x7c00
        } else {
            finite
        };
        Self(if exact.is_nan() {
            0x7fff
        } else {
            bits as u16 | sign
        })
    }
}

impl Float for Bf16 {
    type Format = Brain;
    #[inline(always)]
    fn decode(self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.0) << 16))
    }
    #[inline(always)]
    fn encode(exact: f64) -> Self {
        let bits = ((exact as f32).to_bits() >> 16) as u16;
        Self(if exact.is_nan() { 0x7fff } else { bits })
    }
}
