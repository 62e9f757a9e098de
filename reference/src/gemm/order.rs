//! The bits of D: the kernels' own order of summation, emulated.
//!
//! * FP8: over each block of 128 of K four `wgmma` of K = 32, the first from zero; their result P is
//!   promoted by `sum = fma(scale_a * scale_b, P, sum)`, or `sum = sum + P` when scales come last:
//!   then the value is `(sum * scale_a) * scale_b`.
//! * BF16: `wgmma` of K = 16, one after another.
//!
//! One `wgmma`: products and accumulator are aligned at the largest exponent E among them (that of a
//! product is the sum of its factors', not renormalised), truncated to multiples of 2^(E−F), added
//! exactly, and truncated to F' fraction bits: F = F' = 13 for FP8, 25 and 23 for BF16 (Khattak &
//! Mikaitis, arXiv 2512.07004).

use multiversion::multiversion;

use super::{BLOCK, Line, Operand, Row, each};

/// K of one `wgmma` on FP8.
const STEP: usize = 32;
/// Products that are taken together, so that the compiler uses vector registers.
const LANES: usize = STEP / 2;
/// 2 to the number of fraction bits of FP8.
const FRACTION: f32 = 8192.0;
/// K of one `wgmma` on BF16.
const STEP_BF16: usize = 16;

/// `D[m, n]` before it is rounded to its format; row-major.
#[must_use]
pub fn gemm(a: &Operand<'_>, b: &Operand<'_>, k: usize) -> Vec<f32> {
    each(a, b, k, |a, b| {
        if a.operand.is_bf16() {
            element_bf16(a.row, b.row)
        } else {
            element_fp8(a, b)
        }
    })
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma"
))]
fn element_fp8<'a>(a: Line<'a>, b: Line<'a>) -> f32 {
    let last = a.last_scale().zip(b.last_scale());
    let mut sum = 0f32;
    for block in 0..a.blocks() {
        let mut products = 0f32;
        for step in 0..BLOCK / STEP {
            let at = block * BLOCK + step * STEP;
            products = wgmma_fp8(a.row, b.row, at, products);
        }
        sum = if last.is_some() {
            sum + products
        } else {
            let scale = a.block_scale(block) * b.block_scale(block);
            scale.mul_add(products, sum)
        };
    }
    last.map_or(sum, |(scale_a, scale_b)| sum * scale_a * scale_b)
}

/// One `wgmma` of K = 32 on FP8 operands.
#[expect(
    clippy::cast_possible_truncation,
    reason = "truncation to a multiple of the unit is the operation; the quotients fit"
)]
#[inline(always)]
fn wgmma_fp8(a: &Row, b: &Row, at: usize, c: f32) -> f32 {
    let range = at..at + STEP;
    let (av, bv) = (&a.values[range.clone()], &b.values[range.clone()]);
    if !(a.finite && b.finite && c.is_finite()) {
        // Infinities and NaN as IEEE 754 adds them; they outlast whatever finite rest is added.
        return av.iter().zip(bv).fold(c, |sum, (a, b)| sum + a * b);
    }
    let (ap, bp) = (&a.powers[range.clone()], &b.powers[range]);
    let mut powers = [0f32; LANES];
    for (i, power) in powers.iter_mut().enumerate() {
        *power = (ap[i] * bp[i]).max(ap[LANES + i] * bp[LANES + i]);
    }
    let least = f32::from_bits(c.to_bits() & 0x7f80_0000);
    let power = powers.into_iter().fold(least, f32::max);
    if power == 0.0 {
        return 0.0;
    }
    let (unit, per_unit) = (power / FRACTION, FRACTION / power);
    let mut sums = [0i32; LANES];
    for (i, sum) in sums.iter_mut().enumerate() {
        let term = |i: usize| (av[i] * bv[i] * per_unit) as i32;
        *sum = term(i) + term(LANES + i);
    }
    let sum = sums.into_iter().sum::<i32>() + (c * per_unit) as i32;
    // Below 2^24, so exact; then toward zero to 13 fraction bits.
    f32::from_bits((sum as f32).to_bits() & !0x3ff) * unit
}

/// All of K on BF16 operands.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma"
))]
fn element_bf16(a: &Row, b: &Row) -> f32 {
    let mut c = 0f32;
    for at in (0..a.values.len()).step_by(STEP_BF16) {
        c = wgmma_bf16(a, b, at, c);
    }
    c
}

/// One `wgmma` of K = 16 on BF16 operands.
#[expect(
    clippy::cast_possible_truncation,
    reason = "truncation to a multiple of the unit is the operation; the quotients fit"
)]
#[inline(always)]
fn wgmma_bf16(a: &Row, b: &Row, at: usize, c: f32) -> f32 {
    let exponent = |value: f64| f64::from_bits(value.to_bits() & 0x7ff0_0000_0000_0000);
    let mut power = exponent(f64::from(c).abs());
    let mut products = [0f64; STEP_BF16];
    for (i, product) in products.iter_mut().enumerate() {
        *product = f64::from(a.values[at + i]) * f64::from(b.values[at + i]);
        power = power.max(f64::from(a.powers[at + i]) * f64::from(b.powers[at + i]));
    }
    let plain = products.iter().fold(f64::from(c), |sum, p| sum + p);
    if !plain.is_finite() {
        return plain as f32;
    }
    if power == 0.0 {
        return 0.0;
    }
    let (unit, per_unit) = (power * 2f64.powi(-25), 2f64.powi(25) / power);
    let sum: i64 = products.iter().map(|p| (p * per_unit) as i64).sum();
    let sum = (sum + (f64::from(c) * per_unit) as i64) as f64 * unit;
    // Toward zero to f32: the f64 holds the sum exactly.
    let nearest = sum as f32;
    if f64::from(nearest).abs() > sum.abs() {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Codes, Scales};
    use super::*;

    fn operand(codes: &[u8]) -> Operand<'_> {
        Operand {
            codes: Codes::E4m3(codes),
            scales: Scales::None,
            rows: 1,
        }
    }

    fn one(a: &[u8], b: &[u8]) -> f32 {
        gemm(&operand(a), &operand(b), a.len())[0]
    }

    #[test]
    fn small_products_beside_a_large_one_are_cut() {
        // 448 * 448 = 2^17 * 1.53: multiples of 2^(16-13) count, so products of 7 do not.
        let mut a = [0u8; 128];
        let mut b = [0u8; 128];
        (a[0], b[0]) = (0x7e, 0x7e);
        for i in 1..32 {
            (a[i], b[i]) = (0x38, 0x4e); // 1 * 7
        }
        assert_eq!(one(&a, &b), 448.0 * 448.0);
        for code in &mut b[1..32] {
            *code = 0x50; // 8
        }
        // 31 times 8, and the sum, beyond 2^17, in multiples of 16.
        assert_eq!(one(&a, &b), 448.0 * 448.0 + 240.0);
    }

    #[test]
    fn sums_keep_thirteen_fraction_bits() {
        // 2^14 from one step, then 1 + 1 per step: each 2 is a multiple of 2^(14-13).
        let mut a = [0u8; 128];
        let mut b = [0u8; 128];
        (a[0], b[0]) = (0x70, 0x70); // 128 * 128
        (a[32], b[32]) = (0x38, 0x38);
        (a[33], b[33]) = (0x38, 0x38);
        assert_eq!(one(&a, &b), 16384.0);
        (a[32], b[32]) = (0x40, 0x38);
        (a[33], b[33]) = (0x40, 0x38);
        assert_eq!(one(&a, &b), 16384.0 + 4.0);
    }

    #[test]
    fn nan_and_zeros() {
        assert_eq!(one(&[0; 128], &[0x38; 128]).to_bits(), 0);
        let mut a = [0x38; 128];
        a[77] = 0x7f;
        assert!(one(&a, &[0x38; 128]).is_nan());
    }
}
