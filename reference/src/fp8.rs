//! The FP8 formats. E4M3 (OCP FP8, "fn" variant): 1 sign, 4 exponent bits (bias 7), 3 fraction bits;
//! no infinities, 0x7f and 0xff are NaN, largest finite value 448.

use std::sync::LazyLock;

/// Largest finite magnitude.
pub const E4M3_MAX: f64 = 448.0;

/// Exponent of the smallest normal number; subnormals share it.
pub const E4M3_MIN_EXPONENT: i32 = -6;

/// Largest finite magnitude of E5M2.
pub const E5M2_MAX: f64 = 57344.0;

/// Magnitudes of the finite codes from 0 on, which grow with the code.
static E4M3_MAGNITUDES: LazyLock<Vec<f64>> = LazyLock::new(|| (0..0x7f).map(e4m3_to_f64).collect());
static E5M2_MAGNITUDES: LazyLock<Vec<f64>> = LazyLock::new(|| (0..0x7c).map(e5m2_to_f64).collect());

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
    nearest(value, &E4M3_MAGNITUDES)
}

/// Nearest E5M2 code, ties to even, saturating at ±57344; NaN gives 0x7f.
#[must_use]
pub fn e5m2_from_f64(value: f64) -> u8 {
    nearest(value, &E5M2_MAGNITUDES)
}

/// Codes of one sign grow with their value, so the nearest one is found by bisection.
fn nearest(value: f64, magnitudes: &[f64]) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let last = magnitudes.len() - 1;
    let magnitude = value.abs().min(magnitudes[last]);
    let high = magnitudes.partition_point(|&m| m < magnitude).min(last);
    let low = high.saturating_sub(1);
    let below = magnitude - magnitudes[low];
    let over = magnitudes[high] - magnitude;
    let code = match below.partial_cmp(&over) {
        Some(std::cmp::Ordering::Less) => low,
        Some(std::cmp::Ordering::Greater) => high,
        _ => low + (low & 1),
    };
    sign | u8::try_from(code).unwrap_or(0x7f)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small test values")]
mod tests {
    use super::*;
    use float8::{F8E4M3, F8E5M2};

    #[test]
    fn every_code_has_the_value_of_an_independent_implementation() {
        for code in 0..=u8::MAX {
            let pairs = [
                (e4m3_to_f64(code), F8E4M3::from_bits(code).to_f64()),
                (e5m2_to_f64(code), F8E5M2::from_bits(code).to_f64()),
            ];
            for (got, expected) in pairs {
                assert!(
                    got == expected || got.is_nan() && expected.is_nan(),
                    "{code:#x}: {got}"
                );
            }
        }
    }

    #[test]
    fn every_finite_code_rounds_to_itself_and_midpoints_to_even() {
        type Format = (fn(u8) -> f64, fn(f64) -> u8, u8);
        let formats: [Format; 2] = [
            (e4m3_to_f64, e4m3_from_f64, 0x7e),
            (e5m2_to_f64, e5m2_from_f64, 0x7b),
        ];
        for (to_f64, from_f64, last) in formats {
            for code in 0..last {
                let (low, high) = (to_f64(code), to_f64(code + 1));
                assert_eq!(from_f64(low), code);
                assert_eq!(from_f64(-low), code | 0x80);
                let even = code + (code & 1);
                assert_eq!(
                    from_f64(f64::midpoint(low, high)),
                    even,
                    "between {low} and {high}"
                );
            }
            assert_eq!(from_f64(to_f64(last)), last);
            assert_eq!(from_f64(1e9), last);
            assert_eq!(from_f64(f64::NEG_INFINITY), last | 0x80);
            assert_eq!(from_f64(f64::NAN), 0x7f);
        }
        assert_eq!(e4m3_to_f64(0x7e), E4M3_MAX);
        assert_eq!(e5m2_to_f64(0x7b), E5M2_MAX);
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
