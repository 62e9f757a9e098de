//! The FP8 formats. E4M3 (OCP FP8, "fn" variant): 1 sign, 4 exponent bits (bias 7), 3 fraction bits;
//! no infinities, 0x7f and 0xff are NaN, largest finite value 448.

use std::sync::LazyLock;

/// Largest finite magnitude.
pub const E4M3_MAX: f64 = 448.0;

/// Exponent of the smallest normal number; subnormals share it.
pub const E4M3_MIN_EXPONENT: i32 = -6;

/// Magnitudes of the codes 0 to 0x7e, which grow with the code.
static MAGNITUDES: LazyLock<Vec<f64>> = LazyLock::new(|| (0..0x7f).map(e4m3_to_f64).collect());

/// Value of a code.
#[must_use]
pub fn e4m3_to_f64(code: u8) -> f64 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(code >> 3 & 0xf);
    let fraction = f64::from(code & 7);
    match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => sign * fraction / 8.0 * 2f64.powi(E4M3_MIN_EXPONENT),
        _ => sign * (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
    }
}

/// `⌊log2 |value|⌋` of a nonzero code, not below the format's smallest exponent; `None` for zero.
#[must_use]
pub fn e4m3_exponent(code: u8) -> Option<i32> {
    match code >> 3 & 0xf {
        _ if code & 0x7f == 0 => None,
        0 => Some(E4M3_MIN_EXPONENT),
        exponent => Some(i32::from(exponent) - 7),
    }
}

/// Value of an E5M2 code (OCP FP8): 5 exponent bits (bias 15), 2 fraction bits, infinities and NaN as
/// in IEEE 754.
#[must_use]
pub fn e5m2_to_f64(code: u8) -> f64 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(code >> 2 & 0x1f);
    let fraction = f64::from(code & 3);
    match (exponent, code & 3) {
        (31, 0) => sign * f64::INFINITY,
        (31, _) => f64::NAN,
        (0, _) => sign * fraction / 4.0 * 2f64.powi(-14),
        _ => sign * (1.0 + fraction / 4.0) * 2f64.powi(exponent - 15),
    }
}

/// `⌊log2 |value|⌋` of a nonzero E5M2 code, not below the format's smallest exponent; `None` for
/// zero.
#[must_use]
pub fn e5m2_exponent(code: u8) -> Option<i32> {
    match code >> 2 & 0x1f {
        _ if code & 0x7f == 0 => None,
        0 => Some(-14),
        exponent => Some(i32::from(exponent) - 15),
    }
}

/// Nearest code, ties to even, saturating at ±448; NaN gives 0x7f.
#[must_use]
pub fn e4m3_from_f64(value: f64) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs().min(E4M3_MAX);
    // Codes of one sign grow with their value, so the nearest one is found by bisection.
    let above = (0u8..0x7f)
        .collect::<Vec<_>>()
        .partition_point(|&c| e4m3_to_f64(c) < magnitude);
    let high = u8::try_from(above).unwrap_or(0x7e).min(0x7e);
    if high == 0 {
        return sign;
    }
    let low = high - 1;
    let below = magnitude - MAGNITUDES[usize::from(low)];
    let over = MAGNITUDES[usize::from(high)] - magnitude;
    let nearest = match below.partial_cmp(&over) {
        Some(std::cmp::Ordering::Less) => low,
        Some(std::cmp::Ordering::Greater) => high,
        _ => low + (low & 1),
    };
    sign | nearest
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small test values")]
mod tests {
    use super::*;
    use float8::F8E4M3;

    #[test]
    fn every_code_has_the_value_of_an_independent_implementation() {
        for code in 0..=u8::MAX {
            let expected = F8E4M3::from_bits(code).to_f64();
            let got = e4m3_to_f64(code);
            assert!(
                got == expected || got.is_nan() && expected.is_nan(),
                "{code:#x}: {got}"
            );
        }
    }

    #[test]
    fn every_finite_code_rounds_to_itself_and_midpoints_to_even() {
        for code in 0..0x7eu8 {
            let (low, high) = (e4m3_to_f64(code), e4m3_to_f64(code + 1));
            assert_eq!(e4m3_from_f64(low), code);
            assert_eq!(e4m3_from_f64(-low), code | 0x80);
            let even = code + (code & 1);
            assert_eq!(
                e4m3_from_f64(f64::midpoint(low, high)),
                even,
                "between {low} and {high}"
            );
        }
        assert_eq!(e4m3_from_f64(1e9), 0x7e);
        assert_eq!(e4m3_from_f64(f64::NAN), 0x7f);
    }

    #[test]
    fn exponents_are_those_of_the_values() {
        for code in 1..0x7fu8 {
            let expected = (e4m3_to_f64(code).log2().floor() as i32).max(E4M3_MIN_EXPONENT);
            assert_eq!(e4m3_exponent(code), Some(expected), "{code:#x}");
        }
        assert_eq!(e4m3_exponent(0x80), None);
    }
}
