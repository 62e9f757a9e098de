//! m8n8k4 with f16: four products, each in the registers of eight lanes (l, …, l+3, l+16, …, l+19).
//!
//! Fragments (PTX ISA, "Matrix fragments for mma.m8n8k4 with .f16"), h = 4 in lanes from 16 on, else 0:
//! row-major A has row `l%4 + h`, k = element; column-major A row `element + h`, k = `l%4`;
//! row-major B has k = `l%4`, column `element + h`; column-major B k = element, column `l%4 + h`. An f16
//! accumulator has row `l%4 + h`, column = element; an f32 one row `(l&1) + (i&2) + h`, column
//! `(i&4) + (l&2) + (i&1)`.
//!
//! Arithmetic, read off what `ptxas` 13.0 emits for `sm_90a`: an f32 D is C plus one chain of fused
//! multiply-adds from zero; an f16 D is the sum, in f32, of C and two pairs of products, rounded once.
//! *Modelled* in that no device has confirmed it.

use super::Registers;
use crate::ir::{Layout, Mma, MmaTy};
use crate::tensor::convert;

/// The `i`-th f16 of a lane's registers.
fn element(registers: &[[u32; 32]], lane: usize, i: usize) -> f32 {
    let [low, high, ..] = (registers[i / 2][lane] >> (16 * (i % 2))).to_le_bytes();
    convert::f32_from_f16(u16::from_le_bytes([low, high]))
}

/// The lane of a group that holds index `i` of 0 to 7.
const fn owner(group: usize, i: usize) -> usize {
    4 * group + i % 4 + i / 4 * 16
}

/// Lane and element of (row, column) of an accumulator.
const fn place(ty: MmaTy, group: usize, row: usize, column: usize) -> (usize, usize) {
    if matches!(ty, MmaTy::F16) {
        return (owner(group, row), column);
    }
    let lane = 4 * group + (row & 1) + (column & 2) + row / 4 * 16;
    (lane, (column & 4) + (row & 2) + (column & 1))
}

/// D of the four products.
pub(super) fn multiply(mma: &Mma, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Registers {
    let mut d = vec![[0; 32]; mma.accumulator_registers(mma.d)];
    for group in 0..4 {
        let element_a = |row: usize, k: usize| match mma.layouts.0 {
            Layout::Row => element(a, owner(group, row), k),
            Layout::Col => element(a, 4 * group + k + row / 4 * 16, row % 4),
        };
        let element_b = |k: usize, column: usize| match mma.layouts.1 {
            Layout::Row => element(b, 4 * group + k + column / 4 * 16, column % 4),
            Layout::Col => element(b, owner(group, column), k),
        };
        for row in 0..8 {
            for column in 0..8 {
                let (lane, i) = place(mma.c, group, row, column);
                let addend = match mma.c {
                    MmaTy::F16 => element(c, lane, i),
                    _ => f32::from_bits(c[i][lane]),
                };
                let product = |k: usize| (element_a(row, k), element_b(k, column));
                let value = sum(mma.d, [0, 1, 2, 3].map(product), addend);
                let (lane, i) = place(mma.d, group, row, column);
                if mma.d == MmaTy::F16 {
                    d[i / 2][lane] |= half(value) << (16 * (i % 2));
                } else {
                    d[i][lane] = if value.is_nan() {
                        0x7FFF_FFFF
                    } else {
                        value.to_bits()
                    };
                }
            }
        }
    }
    d
}

fn half(value: f32) -> u32 {
    if value.is_nan() {
        return 0x7FFF;
    }
    convert::f16_from_f32(value).into()
}

fn sum(d: MmaTy, products: [(f32, f32); 4], c: f32) -> f32 {
    let [(a0, b0), (a1, b1), (a2, b2), (a3, b3)] = products;
    if d == MmaTy::F16 {
        // Products of two f16 are exact.
        let low = fma(a1, b1, a0 * b0);
        let high = fma(a3, b3, a2 * b2);
        return (c + low) + high;
    }
    c + products.iter().fold(0.0, |sum, &(a, b)| fma(a, b, sum))
}

/// A fused multiply-add whose product is exact in `f64`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the rounding of the operation"
)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    // a·b has 22 digits, so an f64 holds it; to make the sum of it and c round once, the digits
    // that the f64 sum loses go into its last bit.
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let back = sum - product;
    let lost = (product - (sum - back)) + (c - back);
    if lost != 0.0 && sum.to_bits() & 1 == 0 && sum.is_finite() {
        let away = (lost > 0.0) == (sum > 0.0);
        let bits = if away {
            sum.to_bits() + 1
        } else {
            sum.to_bits() - 1
        };
        return f64::from_bits(bits) as f32;
    }
    sum as f32
}
