//! The fast tiles: the model's fused sum over vectors of output elements.
//!
//! Pass 1 finds the largest exponent E of every element from sums of operand exponents (i8 lanes for
//! FP8, i16 otherwise). Pass 2 adds the products, each truncated to a multiple of `2^(E-F)`, as
//! integers:
//!
//! * FP8 (F = 13): a product of two 4-bit significands has 8 bits, so shifted left by 7 it is the
//!   term in 15 bits when its exponent is E, and a right shift by the distance to E truncates it.
//!   i16 lanes; signs come in when pairs are added into i32.
//! * f16, bf16, tf32 (F = 25): the product is exact in `f32`, scaling by `2^(25-E)` is too, and the
//!   conversion to i32 truncates. A sum of 16 stays below 2^31; C joins in `f64`.
//!
//! f16 accumulators are widened and take part as `f32`; the result of a sum is kept with a sticky last
//! bit, so that rounding it to f16 is the only rounding.
//!
//! Rows and columns for which this arithmetic has no room ([`decode::Class::Hard`]) are computed by the
//! model. So are, in place, elements whose E is out of range, which only C can cause: then no
//! product reaches the result, or C is not finite.

use std::cell::RefCell;

use super::decode::{self, Bf16, F16, Fp8, Group, Operands, Row, Tf32};
use super::reference;
use super::simd::{Level, Simd, Work};
use super::{Accumulators, Addend};
use crate::tensor::convert;
use crate::tensor::format::Format;
use crate::tensor::model::{Accumulator, Mma, Schedule};

/// E within which scale factors are normal `f32` numbers.
const LOW: i32 = -100;
const HIGH: i32 = 127;

/// Rows of a stage: those of one warp.
const STAGE: usize = 16;

/// Accumulators of one warp and some groups of columns, row by row in fragment order.
pub(super) type Stage = [[[u32; 16]; STAGE]];

/// Rows times vectors that are computed together, so that operands are loaded once for several
/// elements and all of it stays in registers.
const ROWS: usize = 4;

/// The arithmetic of a tile.
#[derive(Debug, Clone, Copy)]
struct Arithmetic {
    fp8: bool,
    /// Value words along K.
    values: usize,
    /// What sums of two exponents are too large by.
    bias: i32,
    /// f16 accumulators.
    half: bool,
    /// Lower bound of E.
    floor: i32,
}

/// `D = A·B (+ D)` in floating point, at a level that the CPU has.
pub(in crate::tensor) fn multiply_add(level: Level, task: &Task<'_>, d: &mut Accumulators<'_>) {
    thread_local! {
        static OPERANDS: RefCell<Box<Operands>> = RefCell::new(Box::new(Operands::ZERO));
    }
    OPERANDS.with_borrow_mut(|operands| level.run(Work::Float(task, operands), d));
}

/// The arguments of one tile.
#[derive(Debug)]
pub(in crate::tensor) struct Task<'a> {
    pub(in crate::tensor) mma: Mma,
    /// Columns of D: a multiple of 8, at most 256.
    pub(in crate::tensor) n: usize,
    /// All products change their sign.
    pub(in crate::tensor) negate: bool,
    /// Packed rows of A: 16 for each warp, at most 64.
    pub(in crate::tensor) a: &'a [u8],
    /// n packed rows of B.
    pub(in crate::tensor) b: &'a [u8],
    pub(in crate::tensor) addend: Addend,
}

impl Task<'_> {
    /// Rows of A and D.
    pub(super) fn rows(&self) -> usize {
        self.a.len() / super::K_BYTES
    }
}

#[inline(always)]
pub(super) fn run<S: Simd>(
    s: S,
    task: &Task<'_>,
    operands: &mut Operands,
    d: &mut Accumulators<'_>,
) {
    let arithmetic = decode(s, operands, task);
    let hard = reference::hard_elements(task, operands, d);
    let groups = task.n.div_ceil(16);
    let together = S::LANES / 8;
    let mut stage = [[[0; 16]; STAGE]; 2];
    let mut group = 0;
    while group < groups {
        let count = together.min(groups - group);
        // Vectors of columns; the last group may be half empty.
        let columns = (task.n - 16 * group).min(16 * count);
        for warp in 0..task.rows() / STAGE {
            let stage = &mut stage[..count];
            match task.addend {
                Addend::Zero => stage.fill([[0; 16]; STAGE]),
                Addend::Accumulator if arithmetic.half => read_half(d, warp, group, stage),
                Addend::Accumulator => read(s, d, (warp, group), stage),
            }
            let rows = &operands.rows[STAGE * warp..][..STAGE];
            let groups = &operands.groups[group..group + count];
            block(s, rows, groups, (stage, columns), arithmetic);
            if arithmetic.half {
                write_half(d, warp, group, stage);
            } else {
                write(s, d, (warp, group), stage);
            }
        }
        group += count;
    }
    for (place, bits) in hard {
        d.set(place, bits);
    }
}

#[inline(always)]
fn decode<S: Simd>(s: S, out: &mut Operands, task: &Task<'_>) -> Arithmetic {
    let mma = task.mma;
    match mma.a {
        Format::E4M3 => decode::rows::<S, Fp8<3>>(s, out, task),
        Format::E5M2 => decode::rows::<S, Fp8<2>>(s, out, task),
        Format::F16 => decode::rows::<S, F16>(s, out, task),
        Format::BF16 => decode::rows::<S, Bf16>(s, out, task),
        Format::Tf32 | Format::F32 => decode::rows::<S, Tf32>(s, out, task),
    }
    match mma.b {
        Format::E4M3 => decode::groups::<S, Fp8<3>>(s, out, task),
        Format::E5M2 => decode::groups::<S, Fp8<2>>(s, out, task),
        Format::F16 => decode::groups::<S, F16>(s, out, task),
        Format::BF16 => decode::groups::<S, Bf16>(s, out, task),
        Format::Tf32 | Format::F32 => decode::groups::<S, Tf32>(s, out, task),
    }
    let bias = |format: Format| 1 - format.min_exponent();
    let tf32 = mma.a == Format::Tf32;
    Arithmetic {
        fp8: mma.a.bytes() == 1,
        values: if tf32 { 8 } else { 16 },
        bias: bias(mma.a) + bias(mma.b),
        half: mma.d == Accumulator::F16,
        floor: Schedule::of(mma).sum.min_exponent,
    }
}

/// Register of D with the columns of place `4 * q` and the next three of a group, rows 0 to 7 or, if
/// `lower` is 1, 8 to 15: lanes `4 * (row % 8)..+4` are those of a row.
#[inline(always)]
const fn register(group: usize, lower: usize, q: usize) -> usize {
    4 * (2 * group + q / 2) + 2 * lower + q % 2
}

#[inline(always)]
pub(super) fn read<S: Simd>(
    s: S,
    d: &Accumulators<'_>,
    (warp, group): (usize, usize),
    stage: &mut Stage,
) {
    const NONE: [u32; 32] = [0; 32];
    for (g, stage) in stage.iter_mut().enumerate() {
        for (lower, rows) in stage.chunks_exact_mut(8).enumerate() {
            let quarters: [&[u32; 32]; 4] = std::array::from_fn(|q| {
                let register = register(group + g, lower, q);
                // The last group of a tile with odd n/8 is half empty.
                if register < d.registers() {
                    d.lanes(warp, register)
                } else {
                    &NONE
                }
            });
            let (rows, _) = rows.as_chunks_mut::<4>();
            for (part, rows) in rows.iter_mut().enumerate() {
                let from = quarters.map(|lanes| &lanes.as_chunks::<16>().0[part]);
                s.exchange(from, rows);
            }
        }
    }
}

#[inline(always)]
pub(super) fn write<S: Simd>(
    s: S,
    d: &mut Accumulators<'_>,
    (warp, group): (usize, usize),
    stage: &Stage,
) {
    let registers = d.registers();
    for (g, stage) in stage.iter().enumerate() {
        for (lower, rows) in stage.chunks_exact(8).enumerate() {
            let mut quarters = [[[0; 16]; 4]; 2];
            let (rows, _) = rows.as_chunks::<4>();
            for (quarters, rows) in quarters.iter_mut().zip(rows) {
                s.exchange(rows.each_ref(), quarters);
            }
            for q in 0..4 {
                let register = register(group + g, lower, q);
                if register < registers {
                    let (parts, _) = d.lanes_mut(warp, register).as_chunks_mut::<16>();
                    for (part, quarters) in parts.iter_mut().zip(&quarters) {
                        *part = quarters[q];
                    }
                }
            }
        }
    }
}

/// Calls `f(register, first place, row)` for every register of f16 pairs: the low halves of lanes
/// `4·(row % 8)..+4` are the four places from the first on, the high halves the four after them.
#[inline(always)]
fn runs_half(registers: usize, group: usize, mut f: impl FnMut(usize, usize, usize)) {
    for i in 0..4 {
        let register = 4 * group + i;
        if register < registers {
            f(register, 8 * (i / 2), 8 * (i % 2));
        }
    }
}

#[inline(always)]
fn read_half(d: &Accumulators<'_>, warp: usize, group: usize, stage: &mut Stage) {
    stage.fill([[0; 16]; STAGE]);
    for (g, stage) in stage.iter_mut().enumerate() {
        runs_half(d.registers(), group + g, |register, place, row| {
            for (r, lanes) in d.lanes(warp, register).chunks_exact(4).enumerate() {
                let to = &mut stage[row + r][place..place + 8];
                for (i, &pair) in lanes.iter().enumerate() {
                    to[i] = pair & 0xFFFF;
                    to[4 + i] = pair >> 16;
                }
            }
        });
    }
}

#[inline(always)]
fn write_half(d: &mut Accumulators<'_>, warp: usize, group: usize, stage: &Stage) {
    for (g, stage) in stage.iter().enumerate() {
        runs_half(d.registers(), group + g, |register, place, row| {
            for (r, lanes) in d.lanes_mut(warp, register).chunks_exact_mut(4).enumerate() {
                let from = &stage[row + r][place..place + 8];
                for (i, pair) in lanes.iter_mut().enumerate() {
                    *pair = from[i] | from[4 + i] << 16;
                }
            }
        });
    }
}

/// One warp's rows by one or two groups, of which `columns` columns count.
#[inline(always)]
fn block<S: Simd>(
    s: S,
    rows: &[Row],
    groups: &[Group],
    (stage, columns): (&mut Stage, usize),
    arithmetic: Arithmetic,
) {
    for first in (0..STAGE).step_by(ROWS) {
        let Some(rows) = rows[first..].first_chunk::<ROWS>() else {
            return;
        };
        // Two vectors: two groups of 16 lanes, or the halves of one.
        if columns > S::LANES {
            elements::<S, 2>(s, rows, groups, (stage, first), arithmetic);
        } else {
            elements::<S, 1>(s, rows, groups, (stage, first), arithmetic);
        }
    }
}

/// [`ROWS`] rows by `V` vectors of columns.
#[inline(always)]
fn elements<S: Simd, const V: usize>(
    s: S,
    rows: &[Row; ROWS],
    groups: &[Group],
    (stage, first): (&mut Stage, usize),
    arithmetic: Arithmetic,
) {
    // Group and first lane of a vector.
    let at = |v: usize| (v * S::LANES / 16, v * S::LANES % 16);
    let groups: [&Group; V] = std::array::from_fn(|v| &groups[at(v).0]);
    let mut e = largest::<S, V>(s, rows, groups, arithmetic);
    let mut c = [[s.splat(0); V]; ROWS];
    for r in 0..ROWS {
        for v in 0..V {
            let (group, lane) = at(v);
            c[r][v] = s.load(&stage[group][first + r], lane);
            if arithmetic.half {
                c[r][v] = s.f32_from_f16(c[r][v]);
            }
            let field = s.and(s.shr::<23>(c[r][v]), s.splat(0xFF));
            let exponent = s.sub_i32(s.max_i32(field, s.splat(1)), s.splat(127));
            e[r][v] = s.max_i32(e[r][v], exponent);
            if arithmetic.half {
                e[r][v] = s.max_i32(e[r][v], s.splat(arithmetic.floor.cast_unsigned()));
            }
        }
    }
    let sums = if arithmetic.fp8 {
        sum_fp8::<S, V>(s, rows, groups, &e, arithmetic)
    } else {
        sum_wide::<S, V>(s, rows, groups, &e, arithmetic)
    };
    for r in 0..ROWS {
        for v in 0..V {
            let (group, lane) = at(v);
            let d = round(s, (sums[r][v], c[r][v], e[r][v]), arithmetic);
            let to = &mut stage[group][first + r];
            let c = c[r][v];
            s.store(to, lane, d);
            if s.any_outside(e[r][v], LOW, HIGH) {
                only_c(s, to, lane, (c, e[r][v]), arithmetic);
            }
        }
    }
}

/// Pass 1: the largest exponent of the products; far below [`LOW`] where all are zero.
#[inline(always)]
fn largest<S: Simd, const V: usize>(
    s: S,
    rows: &[Row; ROWS],
    groups: [&Group; V],
    arithmetic: Arithmetic,
) -> [[S::V; V]; ROWS] {
    let mut top = [[s.splat(0x8080_8080); V]; ROWS];
    for i in 0..8 {
        for v in 0..V {
            let b = s.load(&groups[v].largest[i], v * S::LANES % 16);
            for r in 0..ROWS {
                let a = s.splat(rows[r].largest[i]);
                top[r][v] = if arithmetic.fp8 {
                    s.max_i8(top[r][v], s.add_i8(a, b))
                } else {
                    s.max_i16(top[r][v], s.add_i16(a, b))
                };
            }
        }
    }
    let bias = s.splat(arithmetic.bias.cast_unsigned());
    for row in &mut top {
        for top in row {
            *top = if arithmetic.fp8 {
                let halves = s.max_i8(*top, s.shr::<16>(*top));
                s.sar::<24>(s.shl::<24>(s.max_i8(halves, s.shr::<8>(halves))))
            } else {
                s.sar::<16>(s.shl::<16>(s.max_i16(*top, s.shr::<16>(*top))))
            };
            *top = s.sub_i32(*top, bias);
        }
    }
    top
}

/// Pass 2 for FP8.
#[inline(always)]
fn sum_fp8<S: Simd, const V: usize>(
    s: S,
    rows: &[Row; ROWS],
    groups: [&Group; V],
    e: &[[S::V; V]; ROWS],
    arithmetic: Arithmetic,
) -> [[S::V; V]; ROWS] {
    // Beyond these bounds, which keep E in a byte, there is no product or none that counts.
    let (low, high) = (s.splat((-28i32).cast_unsigned()), s.splat(63));
    let bias = s.splat(arithmetic.bias.cast_unsigned());
    let mut largest = *e;
    for row in &mut largest {
        for e in row {
            *e = s.fp8_largest(s.add_i32(s.min_i32(s.max_i32(*e, low), high), bias));
        }
    }
    let mut sums = [[s.splat(0); V]; ROWS];
    for i in 0..16 {
        for v in 0..V {
            let (group, lane) = (groups[v], v * S::LANES % 16);
            let b = s.load(&group.value[i], lane);
            let eb = s.load(&group.exponent[i], lane);
            for r in 0..ROWS {
                let product = s.mul_i16(s.splat(rows[r].value[i]), b);
                let term = s.align_fp8(product, largest[r][v], s.splat(rows[r].exponent[i]), eb);
                let sign = s.load(&group.sign[i][rows[r].sign[i] as usize & 3], lane);
                sums[r][v] = s.dot_i16(sums[r][v], term, sign);
            }
        }
    }
    sums
}

/// `2^(exponent)` as `f32` bits.
#[inline(always)]
fn power<S: Simd>(s: S, exponent: S::V) -> S::V {
    s.shl::<23>(s.add_i32(exponent, s.splat(127)))
}

/// Pass 2 for 16- and 32-bit elements.
#[inline(always)]
fn sum_wide<S: Simd, const V: usize>(
    s: S,
    rows: &[Row; ROWS],
    groups: [&Group; V],
    e: &[[S::V; V]; ROWS],
    arithmetic: Arithmetic,
) -> [[S::V; V]; ROWS] {
    let mut scale = *e;
    for row in &mut scale {
        for e in row {
            *e = power(s, s.sub_i32(s.splat(25), *e));
        }
    }
    let mut sums = [[s.splat(0); V]; ROWS];
    for i in 0..arithmetic.values {
        for v in 0..V {
            let b = s.load(&groups[v].value[i], v * S::LANES % 16);
            for r in 0..ROWS {
                let product = s.mul_f32(s.splat(rows[r].value[i]), b);
                let term = s.i32_from_f32(s.mul_f32(product, scale[r][v]));
                sums[r][v] = s.add_i32(sums[r][v], term);
            }
        }
    }
    sums
}

/// The sum of the products, with C, as a result; right for E in `LOW..=HIGH`.
#[inline(always)]
fn round<S: Simd>(s: S, (sum, c, e): (S::V, S::V, S::V), arithmetic: Arithmetic) -> S::V {
    let aligned = s.splat(if arithmetic.fp8 { 13 } else { 25 });
    let c = s.i32_from_f32(s.mul_f32(c, power(s, s.sub_i32(aligned, e))));
    let total = if arithmetic.fp8 {
        // Below 2^24, so the conversion is exact; 13 fraction bits stay in an f32 result.
        let total = s.f32_from_i32(s.add_i32(sum, c));
        if arithmetic.half {
            total
        } else {
            s.and(total, s.splat(FP8_DIGITS))
        }
    } else if arithmetic.half {
        s.f32_from_sum::<true>(sum, c)
    } else {
        s.f32_from_sum::<false>(sum, c)
    };
    let result = s.mul_f32(total, power(s, s.sub_i32(e, aligned)));
    if arithmetic.half {
        s.f16_from_f32(result)
    } else {
        result
    }
}

/// The bits of an `f32` that FP8 tiles return.
const FP8_DIGITS: u32 = 0xFFFF_FC00;

/// Corrects the lanes whose E is out of range, where the result is C truncated, or not finite.
#[cold]
#[inline(never)]
fn only_c<S: Simd>(
    s: S,
    to: &mut [u32; 16],
    first: usize,
    (c, e): (S::V, S::V),
    arithmetic: Arithmetic,
) {
    let (mut cs, mut es) = ([0; 16], [0; 16]);
    s.store(&mut cs, first, c);
    s.store(&mut es, first, e);
    for lane in first..first + S::LANES {
        let (c, e) = (cs[lane], es[lane].cast_signed());
        if (LOW..=HIGH).contains(&e) {
            continue;
        }
        let magnitude = c & 0x7FFF_FFFF;
        if arithmetic.half {
            // E is at least that of the smallest f16, unless all is zero.
            to[lane] = match magnitude {
                0 => 0,
                _ if magnitude > 0x7F80_0000 => 0x7FFF,
                _ => convert::f16_from_f32(f32::from_bits(c)).into(),
            };
            continue;
        }
        let kept = if arithmetic.fp8 { c & FP8_DIGITS } else { c };
        to[lane] = if magnitude > 0x7F80_0000 {
            0x7FFF_FFFF
        } else if kept & 0x7FFF_FFFF == 0 {
            0
        } else {
            kept
        };
    }
}
