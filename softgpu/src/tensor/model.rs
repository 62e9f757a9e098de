//! The numerics of Hopper's tensor cores: one output element, one instruction, obvious code.
//!
//! A tensor core does not add products one after the other. It aligns all products and the addend
//! C to the largest exponent E, truncates each of them toward zero to a multiple of `2^(E-F)`,
//! adds the integers exactly and rounds the sum once. F and the rounding depend on instruction and
//! types; [`Schedule::of`] is the table.
//!
//! Sources: Khattak and Mikaitis (ACM TACO, arXiv 2512.07004), whose H100 vectors all agree with
//! this file, and MMA-Sim (arXiv 2511.10909). What no published vector covers is *modelled*:
//!
//! * wgmma with FP8 operands and C ≠ 0, wgmma with f16, bf16 or tf32 operands, and wgmma FP8 with
//!   an f16 accumulator follow the same rule, as in MMA-Sim;
//! * mma.sync with FP8 operands and an f32 accumulator: `ptxas` 13.0 for `sm_90a` emits two chained
//!   HMMA.16816.F32 over the low and the high byte pairs, starting from zero, and then an FADD of C;
//! * infinities follow IEEE 754 (`inf * 0` and `inf - inf` are NaN), a result beyond the largest
//!   finite value becomes an infinity (MMA-Sim), NaN is canonical, and an exact sum of zero is +0;
//! * the lower bound of E for FP8 operands with an f16 accumulator is that of f32 results.

use super::convert;
use super::format::{Finite, Format, Value};

/// Which instruction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `wgmma.mma_async`.
    Wgmma,
    /// `mma.sync`.
    MmaSync,
}

/// Type of C and D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// `f32`; as bits in a `u32`.
    F32,
    /// `f16`; as bits in the low half of a `u32`.
    F16,
}

impl Accumulator {
    const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
        }
    }

    /// The canonical NaN that tensor cores return.
    #[must_use]
    pub const fn nan(self) -> u32 {
        match self {
            Self::F32 => 0x7FFF_FFFF,
            Self::F16 => 0x7FFF,
        }
    }

    const fn infinity(self) -> u32 {
        match self {
            Self::F32 => 0x7F80_0000,
            Self::F16 => 0x7C00,
        }
    }

    const fn sign_bit(self) -> u32 {
        match self {
            Self::F32 => 1 << 31,
            Self::F16 => 1 << 15,
        }
    }
}

/// An instruction, as far as numerics go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mma {
    /// Instruction family.
    pub family: Family,
    /// Format of A.
    pub a: Format,
    /// Format of B.
    pub b: Format,
    /// Type of C and D.
    pub d: Accumulator,
}

/// How the final sum becomes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Toward zero.
    TowardZero,
    /// To nearest, ties to even.
    NearestEven,
}

/// Parameters of one fused sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FusedSum {
    /// F: terms are multiples of `2^(E-F)`.
    pub aligned_bits: i32,
    /// Lower bound of E.
    pub min_exponent: i32,
    /// Fraction bits of the result that may be non-zero.
    pub result_bits: u32,
    /// Rounding of the result.
    pub rounding: Rounding,
    /// Type of the result.
    pub d: Accumulator,
}

/// Order in which products enter the fused sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// k = 0, 1, 2, …
    Ascending,
    /// All k with k % 4 < 2, then all others.
    BytePairs,
}

/// How an instruction is made of fused sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Parameters of every sum.
    pub sum: FusedSum,
    /// Products per sum (FP8 by mma.sync: when K is 32); the result of one is the addend of the next.
    pub group: usize,
    /// Order of the products.
    pub order: Order,
    /// C enters by an ordinary addition (round to nearest even) after the last sum, and not as the
    /// addend of the first.
    pub add_c_last: bool,
}

impl Schedule {
    /// The schedule of Hopper for an instruction.
    #[must_use]
    pub const fn of(mma: Mma) -> Self {
        let fp8 = matches!(mma.a, Format::E4M3 | Format::E5M2);
        let wgmma = matches!(mma.family, Family::Wgmma);
        let (aligned_bits, order, group) = match (fp8, wgmma) {
            (true, true) => (13, Order::Ascending, 32),
            (true, false) => (25, Order::BytePairs, 16),
            // The whole of K, which is 16 for 16-bit formats and at most 8 for tf32.
            (false, _) => (25, Order::Ascending, 16),
        };
        let (result_bits, rounding) = match mma.d {
            Accumulator::F16 => (10, Rounding::NearestEven),
            Accumulator::F32 if fp8 && wgmma => (13, Rounding::TowardZero),
            Accumulator::F32 => (23, Rounding::TowardZero),
        };
        let min_exponent = match mma.d {
            Accumulator::F16 if !fp8 || !wgmma => -21,
            _ => -133,
        };
        Self {
            sum: FusedSum {
                aligned_bits,
                min_exponent,
                result_bits,
                rounding,
                d: mma.d,
            },
            group,
            order,
            add_c_last: fp8 && !wgmma,
        }
    }
}

/// One element of D: `sum over k of a[k]*b[k]`, plus C.
///
/// `a` and `b` hold one element per word, in the low bits (tf32: the whole word); `c` and the result
/// are bits of the accumulator type.
#[must_use]
pub fn dot(mma: Mma, a: &[u32], b: &[u32], c: u32) -> u32 {
    dot_with(&Schedule::of(mma), mma, a, b, c)
}

/// [`dot`] by an explicit schedule.
#[must_use]
pub fn dot_with(schedule: &Schedule, mma: Mma, a: &[u32], b: &[u32], c: u32) -> u32 {
    let products: Vec<(Value, Value)> = (a.iter().zip(b))
        .map(|(&a, &b)| (operand(mma.family, mma.a, a), operand(mma.family, mma.b, b)))
        .collect();
    let ordered: Vec<(Value, Value)> = match schedule.order {
        Order::Ascending => products,
        Order::BytePairs => (0..products.len())
            .filter(|k| k % 4 < 2)
            .chain((0..products.len()).filter(|k| k % 4 >= 2))
            .map(|k| products[k])
            .collect(),
    };
    let mut d = if schedule.add_c_last { 0 } else { c };
    let group = match schedule.order {
        Order::Ascending => schedule.group,
        // Stated for K = 32; half as many products are half of that in a sum.
        Order::BytePairs => (schedule.group * ordered.len() / 32).max(1),
    };
    for group in ordered.chunks(group) {
        d = fused_sum(&schedule.sum, group, d);
    }
    if schedule.add_c_last {
        d = add(mma.d, c, d);
    }
    d
}

/// An operand as the multipliers see it. mma.sync has no FP8 multipliers on Hopper: `ptxas` unpacks
/// FP8 to f16, where E4M3's subnormals are normal numbers.
fn operand(family: Family, format: Format, bits: u32) -> Value {
    let code = bits.to_le_bytes()[0];
    match (family, format) {
        (Family::MmaSync, Format::E4M3) => Format::F16.value(convert::f16_from_e4m3(code).into()),
        (Family::MmaSync, Format::E5M2) => Format::F16.value(convert::f16_from_e5m2(code).into()),
        _ => format.value(bits),
    }
}

/// A term of a fused sum: `(-1)^negative * significand * 2^(exponent - fraction_bits)`, where
/// `exponent` takes part in the maximum E. The significand of a product is not renormalised.
struct Term {
    negative: bool,
    significand: u64,
    exponent: i32,
    fraction_bits: u32,
}

/// One fused sum of products and an addend `c`, both ways in bits of the result type.
#[must_use]
pub fn fused_sum(rule: &FusedSum, products: &[(Value, Value)], c: u32) -> u32 {
    let mut terms = Vec::with_capacity(products.len() + 1);
    let mut infinities = [false; 2];
    let mut nan = false;
    for &(a, b) in products {
        match multiply(a, b) {
            Product::Zero => {}
            Product::Term(term) => terms.push(term),
            Product::Infinite { negative } => infinities[usize::from(negative)] = true,
            Product::Nan => nan = true,
        }
    }
    match rule.d.format().value(c) {
        Value::Zero => {}
        Value::Finite(c) => terms.push(Term {
            negative: c.negative,
            significand: u64::from(c.significand),
            // An f16 addend is treated as the f32 value it is.
            exponent: (c.exponent - c.fraction_bits.cast_signed() + top_bit(c.significand))
                .max(Format::F32.min_exponent()),
            fraction_bits: fraction_bits_below_top(c),
        }),
        Value::Infinite { negative } => infinities[usize::from(negative)] = true,
        Value::Nan => nan = true,
    }
    match infinities {
        _ if nan => return rule.d.nan(),
        [true, true] => return rule.d.nan(),
        [false, true] => return rule.d.infinity() | rule.d.sign_bit(),
        [true, false] => return rule.d.infinity(),
        [false, false] => {}
    }
    let largest = terms.iter().map(|term| term.exponent);
    let largest = largest.fold(rule.min_exponent, i32::max);
    let quantum = largest - rule.aligned_bits;
    let sum: i64 = terms.iter().map(|term| align(term, quantum)).sum();
    round(rule, sum, quantum)
}

/// Index of the leading one.
const fn top_bit(significand: u32) -> i32 {
    31 - significand.leading_zeros().cast_signed()
}

/// Fraction digits of an addend once its exponent is that of its leading bit (or -126).
fn fraction_bits_below_top(c: Finite) -> u32 {
    let lsb = c.exponent - c.fraction_bits.cast_signed();
    let exponent = (lsb + top_bit(c.significand)).max(Format::F32.min_exponent());
    (exponent - lsb).unsigned_abs()
}

enum Product {
    Zero,
    Term(Term),
    Infinite { negative: bool },
    Nan,
}

fn multiply(a: Value, b: Value) -> Product {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Product::Nan,
        (Value::Infinite { .. }, Value::Zero) | (Value::Zero, Value::Infinite { .. }) => {
            Product::Nan
        }
        (Value::Zero, _) | (_, Value::Zero) => Product::Zero,
        (Value::Infinite { negative }, Value::Infinite { negative: other }) => Product::Infinite {
            negative: negative != other,
        },
        (Value::Infinite { negative }, Value::Finite(x))
        | (Value::Finite(x), Value::Infinite { negative }) => Product::Infinite {
            negative: negative != x.negative,
        },
        (Value::Finite(a), Value::Finite(b)) => Product::Term(Term {
            negative: a.negative != b.negative,
            significand: u64::from(a.significand) * u64::from(b.significand),
            exponent: a.exponent + b.exponent,
            fraction_bits: a.fraction_bits + b.fraction_bits,
        }),
    }
}

/// The term in units of `2^quantum`, truncated toward zero.
fn align(term: &Term, quantum: i32) -> i64 {
    let shift = term.exponent - term.fraction_bits.cast_signed() - quantum;
    let magnitude = if shift >= 0 {
        term.significand << shift
    } else {
        term.significand
            .checked_shr(shift.unsigned_abs())
            .unwrap_or(0)
    };
    let magnitude = magnitude.cast_signed();
    if term.negative { -magnitude } else { magnitude }
}

/// `sum * 2^quantum` as a result.
fn round(rule: &FusedSum, sum: i64, quantum: i32) -> u32 {
    if sum == 0 {
        return 0;
    }
    let format = rule.d.format();
    let magnitude = sum.unsigned_abs();
    let leading = 63 - magnitude.leading_zeros().cast_signed() + quantum;
    let exponent = leading.max(format.min_exponent());
    // The last digit that the result keeps is 2^(exponent - result_bits).
    let drop = exponent - rule.result_bits.cast_signed() - quantum;
    let kept = if drop <= 0 {
        magnitude << drop.unsigned_abs()
    } else {
        shift_right(magnitude, drop.unsigned_abs(), rule.rounding)
    };
    let fraction_bits = format.fraction_bits();
    let significand = kept << (fraction_bits - rule.result_bits);
    // A significand below 2^fraction_bits is subnormal: field 0. Adding lets a carry out of
    // rounding move to the next exponent by itself.
    let field = (exponent - format.min_exponent()).cast_unsigned();
    let bits = (u64::from(field) << fraction_bits) + significand;
    let infinity = rule.d.infinity();
    let bits = u32::try_from(bits).unwrap_or(infinity).min(infinity);
    if sum < 0 {
        bits | rule.d.sign_bit()
    } else {
        bits
    }
}

fn shift_right(magnitude: u64, drop: u32, rounding: Rounding) -> u64 {
    let kept = magnitude.checked_shr(drop).unwrap_or(0);
    match rounding {
        Rounding::TowardZero => kept,
        Rounding::NearestEven => {
            let Some(unit) = 1u128.checked_shl(drop) else {
                return 0;
            };
            let rest = u128::from(magnitude) & (unit - 1);
            let up = rest > unit / 2 || (rest == unit / 2 && kept & 1 != 0);
            kept + u64::from(up)
        }
    }
}

/// An ordinary addition, rounded to nearest even, with the NaN of the tensor cores.
fn add(d: Accumulator, x: u32, y: u32) -> u32 {
    match d {
        Accumulator::F32 => {
            let sum = f32::from_bits(x) + f32::from_bits(y);
            if sum.is_nan() { d.nan() } else { sum.to_bits() }
        }
        // Every f16 is a multiple of 2^-24 below 2^16, so 41 aligned bits make the sum exact.
        Accumulator::F16 => {
            let exact = FusedSum {
                aligned_bits: 41,
                min_exponent: -14,
                result_bits: 10,
                rounding: Rounding::NearestEven,
                d,
            };
            let one = Format::F16.value(0x3C00);
            fused_sum(&exact, &[(Format::F16.value(x & 0xFFFF), one)], y)
        }
    }
}
