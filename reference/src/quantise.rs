//! Quantisation to E4M3 with one FP32 scale per 1×128 block: scale = amax / 448 (1 for a block of
//! zeros), code = nearest(value / scale).
//!
//! Codes are judged as codes: equal to the exact value's code, or the neighbouring one where the
//! exact value lies within 2^-10 (relative) of the boundary between them.

use crate::fp8::{E4M3_MAX, e4m3_from_f64, e4m3_to_f64};
use std::fmt;

/// Columns that share a scale.
pub const BLOCK: usize = 128;

/// How near to a rounding boundary either neighbour is right, relative.
const BOUNDARY: f64 = 1.0 / 1024.0;

/// How far a device scale may be from amax / 448, relative: FP32 evaluation of the values.
const SCALE_TOLERANCE: f64 = 1.0 / 262_144.0;

/// What comparing a quantising stage found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CodeCheck {
    /// Codes compared.
    pub elements: usize,
    /// Codes that are the admissible neighbour of the exact one.
    pub neighbours: usize,
    /// First wrong code or scale.
    pub first_mismatch: Option<CodeMismatch>,
}

/// A wrong code or scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodeMismatch {
    /// Row.
    pub row: usize,
    /// Column; the first of the block for a scale.
    pub column: usize,
    /// Code or scale of the device.
    pub got: f64,
    /// Expected value, dequantised.
    pub expected: f64,
    /// The scale is wrong rather than a code.
    pub in_scale: bool,
}

impl fmt::Display for CodeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            row,
            column,
            got,
            expected,
            in_scale,
        } = self;
        let what = if *in_scale { "scale" } else { "code" };
        write!(
            f,
            "[{row}, {column}]: {what} {got:e}, expected {expected:e}"
        )
    }
}

/// Scale of a block of exact values.
#[must_use]
pub fn scale(block: &[f64]) -> f64 {
    let amax = block.iter().fold(0f64, |amax, v| amax.max(v.abs()));
    if amax == 0.0 { 1.0 } else { amax / E4M3_MAX }
}

/// Compares one row: exact `values`, the device's `codes` and `scales` (one per 128 values).
pub fn check_row(check: &mut CodeCheck, row: usize, values: &[f64], codes: &[u8], scales: &[f32]) {
    for (index, block) in values.chunks(BLOCK).enumerate() {
        let exact = scale(block);
        let device = f64::from(scales.get(index).copied().unwrap_or(f32::NAN));
        let near = (device - exact).abs() <= exact * SCALE_TOLERANCE;
        if !near && check.first_mismatch.is_none() {
            check.first_mismatch = Some(CodeMismatch {
                row,
                column: index * BLOCK,
                got: device,
                expected: exact,
                in_scale: true,
            });
        }
        for (offset, &value) in block.iter().enumerate() {
            let column = index * BLOCK + offset;
            check_code(
                check,
                (row, column),
                value / exact,
                codes.get(column).copied(),
            );
        }
    }
}

fn check_code(check: &mut CodeCheck, at: (usize, usize), exact: f64, got: Option<u8>) {
    check.elements += 1;
    let want = e4m3_from_f64(exact);
    let got = got.unwrap_or(0x7f);
    // A negative zero and a positive one are the same number.
    if got == want || (got & 0x7f == 0 && want & 0x7f == 0) {
        return;
    }
    let (want_value, got_value) = (e4m3_to_f64(want), e4m3_to_f64(got));
    let neighbour =
        got & 0x80 == want & 0x80 && got.abs_diff(want) == 1 || (got & 0x7f).max(want & 0x7f) == 1;
    let boundary = f64::midpoint(want_value, got_value);
    if neighbour && (exact - boundary).abs() <= boundary.abs() * BOUNDARY {
        check.neighbours += 1;
    } else if check.first_mismatch.is_none() {
        let (row, column) = at;
        check.first_mismatch = Some(CodeMismatch {
            row,
            column,
            got: got_value,
            expected: want_value,
            in_scale: false,
        });
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small test values")]
mod tests {
    use super::*;

    fn row() -> (Vec<f64>, Vec<u8>, Vec<f32>) {
        let values: Vec<f64> = (0..128).map(|i| f64::from(i) * 3.5 - 200.0).collect();
        let scale = scale(&values);
        let codes = values.iter().map(|v| e4m3_from_f64(v / scale)).collect();
        (values, codes, vec![scale as f32])
    }

    #[test]
    fn exact_codes_pass_and_one_wrong_code_is_found() {
        let (values, mut codes, scales) = row();
        let mut check = CodeCheck::default();
        check_row(&mut check, 0, &values, &codes, &scales);
        assert_eq!((check.first_mismatch, check.elements), (None, 128));
        codes[17] += 1;
        check_row(&mut check, 5, &values, &codes, &scales);
        let first = check.first_mismatch.expect("a wrong code");
        assert_eq!((first.row, first.column, first.in_scale), (5, 17, false));
    }

    #[test]
    fn a_wrong_scale_is_found_and_zero_blocks_have_scale_one() {
        let (values, codes, scales) = row();
        let mut check = CodeCheck::default();
        check_row(&mut check, 0, &values, &codes, &[scales[0] * 1.001]);
        assert!(check.first_mismatch.is_some_and(|m| m.in_scale));
        assert_eq!(scale(&[0.0; 128]), 1.0);
    }

    #[test]
    fn either_neighbour_is_right_on_a_boundary_only() {
        let mut check = CodeCheck::default();
        let boundary = f64::midpoint(e4m3_to_f64(0x40), e4m3_to_f64(0x41));
        check_code(&mut check, (0, 0), boundary * 1.0005, Some(0x40));
        assert_eq!((check.neighbours, check.first_mismatch), (1, None));
        check_code(&mut check, (0, 1), boundary * 1.002, Some(0x40));
        assert!(check.first_mismatch.is_some());
    }
}
