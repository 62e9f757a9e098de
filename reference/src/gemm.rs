//! FP8 GEMM with 1×128 scales of A and 128×128 scales of B, as Hopper computes it.
//!
//! # The bound
//!
//! One `wgmma` of K = 32 aligns its 32 products and the accumulator C at E, the largest exponent
//! among them, truncates each to a multiple of 2^(E−13), adds them exactly and truncates the sum to
//! 13 fraction bits (Khattak & Mikaitis, arXiv 2512.07004). So, per instruction,
//!
//! * a product of exponent e has 6 fraction bits and is exact when e ≥ E−7; a smaller one loses at
//!   most min(|product|, 2^(E−13));
//! * C, itself of 13 fraction bits, is exact when it has the largest exponent and loses at most
//!   2^(E−13) otherwise;
//! * the sum S loses at most 2^(⌊log2 |S|⌋−13).
//!
//! The oracle follows the exact sums, takes E from the exact operands and from |C| plus the bound so
//! far (the bound grows with E, so an E that is too large is safe), and adds these losses. Promotion
//! to FP32 every 128 of K rounds the product of the two scales and the accumulating fused
//! multiply-add (2^-24 relative each), and the output is rounded to BF16 (2^-8 relative) at the end.

use crate::compare::Bounded;
use crate::fp8::{e4m3_exponent, e4m3_to_f64};
use rayon::prelude::*;

/// K of one `wgmma` on FP8 operands.
const STEP: usize = 32;

/// K between promotions, and the edge of a scale block.
pub const BLOCK: usize = 128;

/// FP8 codes of a row-major matrix with their scales.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// E4M3 codes `[rows, k]`, row-major.
    pub codes: &'a [u8],
    /// Scales `[rows / row_block rounded up, k / 128]`, row-major.
    pub scales: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Rows that share a scale: 1 for A, 128 for B.
    pub row_block: usize,
}

/// The output type whose rounding the bound includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Rounded to BF16.
    Bf16,
    /// FP32, no further rounding.
    F32,
}

/// One decoded row: values, and 2^exponent of each (0 for zeros).
struct Row {
    values: Vec<f32>,
    powers: Vec<f32>,
}

/// `D[m, n] = Σ_k A[m, k]·B[n, k]` with scales, every element with its bound; row-major.
///
/// Both operands have scales laid out `[rows / row_block, k / 128]` row-major.
#[must_use]
pub fn fp8_gemm_1d2d(a: Operand<'_>, b: Operand<'_>, k: usize, output: Output) -> Vec<Bounded> {
    let b_rows: Vec<Row> = (0..b.rows)
        .into_par_iter()
        .map(|n| decode(b, n, k))
        .collect();
    (0..a.rows)
        .into_par_iter()
        .flat_map_iter(|m| {
            let a_row = decode(a, m, k);
            let scales_a = scales(a, m, k);
            b_rows
                .iter()
                .enumerate()
                .map(|(n, b_row)| element(&a_row, b_row, scales_a, scales(b, n, k), output))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn scales(operand: Operand<'_>, row: usize, k: usize) -> &[f32] {
    let blocks = k / BLOCK;
    &operand.scales[row / operand.row_block * blocks..][..blocks]
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "E4M3 values and powers are exact in f32"
)]
fn decode(operand: Operand<'_>, row: usize, k: usize) -> Row {
    let codes = &operand.codes[row * k..][..k];
    Row {
        values: codes.iter().map(|&c| e4m3_to_f64(c) as f32).collect(),
        powers: codes
            .iter()
            .map(|&c| e4m3_exponent(c).map_or(0.0, |e| 2f32.powi(e)))
            .collect(),
    }
}

fn element(a: &Row, b: &Row, scales_a: &[f32], scales_b: &[f32], output: Output) -> Bounded {
    let (mut sum, mut bound) = (0f64, 0f64);
    for (block, (&sa, &sb)) in scales_a.iter().zip(scales_b).enumerate() {
        let range = block * BLOCK..(block + 1) * BLOCK;
        let partial = partial(
            (&a.values[range.clone()], &a.powers[range.clone()]),
            (&b.values[range.clone()], &b.powers[range]),
        );
        let scale = f64::from(sa) * f64::from(sb);
        let term = partial.value * scale;
        sum += term;
        // The scale product is rounded once, then the fused multiply-add; both act on values that
        // may themselves be off by the bound so far.
        bound += partial.bound * scale.abs();
        bound += (term.abs() + partial.bound * scale.abs()) * 2f64.powi(-24);
        bound += (sum.abs() + bound) * 2f64.powi(-24);
    }
    if output == Output::Bf16 {
        bound += (sum.abs() + bound) * 2f64.powi(-8);
    }
    Bounded { value: sum, bound }
}

/// Unscaled sum over one block of 128 and what the four instructions may lose.
fn partial(a: (&[f32], &[f32]), b: (&[f32], &[f32])) -> Bounded {
    let (mut c, mut bound) = (0f64, 0f64);
    for step in 0..BLOCK / STEP {
        let range = step * STEP..(step + 1) * STEP;
        let products = Products::of(
            (&a.0[range.clone()], &a.1[range.clone()]),
            (&b.0[range.clone()], &b.1[range]),
        );
        let c_power = power_of_two_below(c.abs() + bound);
        let unit = products.power.max(c_power) * 2f64.powi(-13);
        bound += products.lost(unit);
        if c_power > 0.0 && c_power < products.power {
            bound += unit;
        }
        c += products.sum;
        bound += power_of_two_below(c.abs() + bound) * 2f64.powi(-13);
    }
    Bounded { value: c, bound }
}

/// The 32 products of one instruction.
struct Products {
    values: [f32; STEP],
    powers: [f32; STEP],
    sum: f64,
    power: f64,
}

impl Products {
    fn of(a: (&[f32], &[f32]), b: (&[f32], &[f32])) -> Self {
        let mut values = [0f32; STEP];
        let mut powers = [0f32; STEP];
        for (i, (value, power)) in values.iter_mut().zip(&mut powers).enumerate() {
            *value = a.0[i] * b.0[i];
            *power = a.1[i] * b.1[i];
        }
        // Eight running sums let the compiler use vector registers; every addition is exact.
        let mut sums = [0f64; 8];
        let mut maxima = [0f32; 8];
        for (value, power) in values.chunks_exact(8).zip(powers.chunks_exact(8)) {
            for lane in 0..8 {
                sums[lane] += f64::from(value[lane]);
                maxima[lane] = maxima[lane].max(power[lane]);
            }
        }
        let power = f64::from(maxima.into_iter().fold(0f32, f32::max));
        Self {
            values,
            powers,
            sum: sums.into_iter().sum(),
            power,
        }
    }

    /// What truncation to multiples of `unit` takes from the products at most.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a power of two within f32's range"
    )]
    fn lost(&self, unit: f64) -> f64 {
        let unit = unit as f32;
        let exact_from = unit * 64.0;
        let mut lost = [0f32; 8];
        for (value, power) in self.values.chunks_exact(8).zip(self.powers.chunks_exact(8)) {
            for lane in 0..8 {
                let loss = value[lane].abs().min(unit);
                lost[lane] += if power[lane] < exact_from { loss } else { 0.0 };
            }
        }
        f64::from(lost.into_iter().sum::<f32>()) * (1.0 + 2f64.powi(-20))
    }
}

/// 2^⌊log2 value⌋ of a nonnegative number; 0 for 0.
fn power_of_two_below(value: f64) -> f64 {
    f64::from_bits(value.to_bits() & 0x7ff0_0000_0000_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(n: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let code = (state >> 24) as u8;
                if code & 0x7f == 0x7f { 0 } else { code }
            })
            .collect()
    }

    #[test]
    fn values_are_the_plain_sum_and_bounds_are_narrow() {
        let (m, n, k) = (3, 130, 256);
        let (a, b) = (pattern(m * k, 1), pattern(n * k, 2));
        let sa: Vec<f32> = (0..m * 2).map(|i| 0.5 + i as f32).collect();
        let sb: Vec<f32> = (0..2 * 2).map(|i| 0.25 + i as f32).collect();
        let got = fp8_gemm_1d2d(
            Operand {
                codes: &a,
                scales: &sa,
                rows: m,
                row_block: 1,
            },
            Operand {
                codes: &b,
                scales: &sb,
                rows: n,
                row_block: 128,
            },
            k,
            Output::F32,
        );
        let largest = got.iter().map(|e| e.value.abs()).fold(0.0, f64::max);
        for i in 0..m {
            for j in 0..n {
                let expected: f64 = (0..k)
                    .map(|l| {
                        e4m3_to_f64(a[i * k + l])
                            * e4m3_to_f64(b[j * k + l])
                            * f64::from(sa[i * 2 + l / 128])
                            * f64::from(sb[j / 128 * 2 + l / 128])
                    })
                    .sum();
                let element = got[i * n + j];
                assert!(
                    (element.value - expected).abs() < 1e-9 * largest,
                    "[{i}, {j}]"
                );
                assert!(
                    element.bound > 0.0 && element.bound < 0.01 * largest,
                    "[{i}, {j}]"
                );
            }
        }
    }

    #[test]
    fn sums_that_need_no_rounding_have_only_the_bound_of_their_last_bit() {
        let a = [0x38u8; 128]; // 1.0
        let got = fp8_gemm_1d2d(
            Operand {
                codes: &a,
                scales: &[1.0],
                rows: 1,
                row_block: 1,
            },
            Operand {
                codes: &a,
                scales: &[1.0],
                rows: 1,
                row_block: 128,
            },
            128,
            Output::F32,
        );
        assert_eq!(got[0].value, 128.0);
        assert!(got[0].bound < 0.05, "{}", got[0].bound);
    }
}
