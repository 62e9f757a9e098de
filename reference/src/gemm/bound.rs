//! Exact values of a GEMM, and how far Hopper's arithmetic may be from them.
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
//!
//! Scales that come last round twice more (2^-24 each), and promotion is then an addition. BF16 runs
//! one accumulator through all of K, 16 at a time, F = 25 and 23 fraction bits in the result: each of
//! the 17 terms loses less than 2^(E−25), and the sum less than 2^(⌊log2 |S|⌋−23).

use multiversion::multiversion;

use super::{BLOCK, Line, Operand, Output, Row, each};
use crate::compare::Bounded;

/// K of one `wgmma` on FP8 operands.
const STEP: usize = 32;
/// K of one `wgmma` on BF16 operands.
const STEP_BF16: usize = 16;
/// Half a unit in the last place of f32, relative.
const F32: f64 = 1.0 / (1u64 << 24) as f64;

/// `D[m, n] = Σ_k A[m, k]·B[n, k]` with scales, every element with its bound; row-major.
#[must_use]
pub fn gemm(a: &Operand<'_>, b: &Operand<'_>, k: usize, output: Output) -> Vec<Bounded> {
    each(a, b, k, |a, b| {
        let mut element = if a.operand.is_bf16() {
            element_bf16(a.row, b.row)
        } else {
            element_fp8(a, b)
        };
        if output == Output::Bf16 {
            element.bound += (element.value.abs() + element.bound) * 2f64.powi(-8);
        }
        element
    })
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma"
))]
fn element_fp8<'a>(a: Line<'a>, b: Line<'a>) -> Bounded {
    let (mut sum, mut bound) = (0f64, 0f64);
    for block in 0..a.blocks() {
        let range = block * BLOCK..(block + 1) * BLOCK;
        let partial = partial(
            (&a.row.values[range.clone()], &a.row.powers[range.clone()]),
            (&b.row.values[range.clone()], &b.row.powers[range]),
        );
        let scale = f64::from(a.block_scale(block)) * f64::from(b.block_scale(block));
        let term = partial.value * scale;
        sum += term;
        // The scale product is rounded once, then the fused multiply-add; both act on values that
        // may themselves be off by the bound so far.
        bound += partial.bound * scale.abs();
        bound += (term.abs() + partial.bound * scale.abs()) * F32;
        bound += (sum.abs() + bound) * F32;
    }
    if let Some((scale_a, scale_b)) = a.last_scale().zip(b.last_scale()) {
        let scale = f64::from(scale_a) * f64::from(scale_b);
        sum *= scale;
        bound *= scale.abs();
        bound += 2.0 * (sum.abs() + bound) * F32 * (1.0 + F32);
    }
    Bounded { value: sum, bound }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma"
))]
fn element_bf16(a: &Row, b: &Row) -> Bounded {
    let (mut c, mut bound) = (0f64, 0f64);
    for at in (0..a.values.len()).step_by(STEP_BF16) {
        let mut power = power_of_two_below(c.abs() + bound);
        for i in at..at + STEP_BF16 {
            c += f64::from(a.values[i]) * f64::from(b.values[i]);
            power = power.max(f64::from(a.powers[i]) * f64::from(b.powers[i]));
        }
        bound += 17.0 * power * 2f64.powi(-25);
        bound += power_of_two_below(c.abs() + bound) * 2f64.powi(-23);
    }
    Bounded { value: c, bound }
}

/// Unscaled sum over one block of 128 and what the four instructions may lose.
#[inline(always)]
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
    #[inline(always)]
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
    #[inline(always)]
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
    use super::super::{Codes, Scales};
    use super::*;
    use crate::fp8::e4m3_to_f64;

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
        let got = gemm(
            &Operand::e4m3(&a, &sa, m, 1),
            &Operand::e4m3(&b, &sb, n, 128),
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
        let got = gemm(
            &Operand::e4m3(&a, &[1.0], 1, 1),
            &Operand::e4m3(&a, &[1.0], 1, 128),
            128,
            Output::F32,
        );
        assert_eq!(got[0].value, 128.0);
        assert!(got[0].bound < 0.05, "{}", got[0].bound);
    }

    /// The emulated order lies within the bound, whatever the scaling and the format.
    #[test]
    fn the_kernels_order_is_within_the_bound() {
        let (m, n, k) = (5, 20, 272);
        // E5M2 has infinities and NaN at 0x7c and above.
        let finite = |codes: Vec<u8>| -> Vec<u8> {
            let keep = |code: u8| if code & 0x7c == 0x7c { 0x11 } else { code };
            codes.into_iter().map(keep).collect()
        };
        let (a, b) = (finite(pattern(m * k, 3)), finite(pattern(n * k, 4)));
        let wide = |codes: &[u8]| -> Vec<u16> {
            codes.iter().map(|&c| 0x3c00 + u16::from(c) * 13).collect()
        };
        let (a16, b16) = (wide(&a), wide(&b));
        let scale = |len: usize| -> Vec<f32> { (0..len).map(|i| 0.3 + i as f32 * 0.17).collect() };
        let (rows_a, rows_b, blocks_b) = (scale(m * 3), scale(n * 3), scale(3));
        let (row_a, row_b) = (scale(m), scale(1));
        let blocks = |values, rows| Scales::Blocks { values, rows };
        let operands: [[(Codes<'_>, Scales<'_>); 2]; 4] = [
            [
                (Codes::E4m3(&a), blocks(&rows_a, 1)),
                (Codes::E4m3(&b), blocks(&blocks_b, 128)),
            ],
            [
                (Codes::E5m2(&a), blocks(&rows_a, 1)),
                (Codes::E4m3(&b), blocks(&rows_b, 1)),
            ],
            [
                (Codes::E4m3(&a), Scales::Channel(&row_a)),
                (Codes::E4m3(&b), Scales::Channel(&row_b)),
            ],
            [
                (Codes::Bf16(&a16), Scales::None),
                (Codes::Bf16(&b16), Scales::None),
            ],
        ];
        for (case, [a, b]) in operands.into_iter().enumerate() {
            let of = |(codes, scales), rows| Operand {
                codes,
                scales,
                rows,
            };
            let (a, b) = (of(a, m), of(b, n));
            let bounded = gemm(&a, &b, k, Output::F32);
            let ordered = super::super::order::gemm(&a, &b, k);
            let got = ordered.iter().map(|&v| f64::from(v));
            let result = crate::compare::Comparison::of(&bounded, got, n);
            assert_eq!(result.first_mismatch, None, "case {case}");
            assert!(
                result.err_over_bound > 0.0,
                "case {case}: nothing was rounded"
            );
        }
    }
}
