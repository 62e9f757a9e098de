//! Integer tiles: s8, u8, s4 and u4 products by sums of `i16` pairs, and one-bit products by
//! population counts. The accumulator wraps, or clamps the exact sum with `.satfinite`.

use std::cell::RefCell;

use super::decode;
use super::simd::{Level, Simd, Work};
use super::{Accumulators, Addend, K_BYTES, M};

/// What the bits of the operands mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tensor) enum Integers {
    /// s8 or u8.
    Bytes { a_signed: bool, b_signed: bool },
    /// s4 or u4, the element with the smaller k in the low half of a byte.
    Nibbles { a_signed: bool, b_signed: bool },
    /// b1: the population count of the AND, or of the XOR.
    Bits { and: bool },
}

/// The arguments of one tile.
#[derive(Debug)]
pub(in crate::tensor) struct Task<'a> {
    pub(in crate::tensor) kind: Integers,
    /// `.satfinite`.
    pub(in crate::tensor) saturate: bool,
    /// Columns of D: a multiple of 8, at most 256.
    pub(in crate::tensor) n: usize,
    /// Packed rows of A: 16 for each warp, at most 64.
    pub(in crate::tensor) a: &'a [u8],
    /// n packed rows of B.
    pub(in crate::tensor) b: &'a [u8],
    pub(in crate::tensor) addend: Addend,
}

/// Words along K: pairs of elements as `i16`, or 32 bits each.
const WORDS: usize = 32;

/// Both operands, taken apart; columns in fragment order.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Operands {
    rows: [[u32; WORDS]; M],
    groups: [[[u32; 16]; WORDS]; 16],
}

impl Operands {
    const ZERO: Self = Self {
        rows: [[0; WORDS]; M],
        groups: [[[0; 16]; WORDS]; 16],
    };
}

/// `D = A·B (+ D)` in integers, at a level that the CPU has.
pub(in crate::tensor) fn multiply_add(level: Level, task: &Task<'_>, d: &mut Accumulators<'_>) {
    thread_local! {
        static OPERANDS: RefCell<Box<Operands>> = RefCell::new(Box::new(Operands::ZERO));
    }
    OPERANDS.with_borrow_mut(|operands| level.run(Work::Integer(task, operands), d));
}

#[inline(always)]
pub(super) fn run<S: Simd>(
    s: S,
    task: &Task<'_>,
    operands: &mut Operands,
    d: &mut Accumulators<'_>,
) {
    let words = take_apart(s, task, operands);
    let groups = task.n.div_ceil(16);
    for warp in 0..task.a.len() / K_BYTES / 16 {
        for group in 0..groups {
            let mut stage = [[[0; 16]; 16]];
            if task.addend == Addend::Accumulator {
                super::fast::read(s, d, (warp, group), &mut stage);
            }
            let rows = &operands.rows[16 * warp..][..16];
            let columns = &operands.groups[group];
            for (row, c) in rows.iter().zip(&mut stage[0]) {
                for lane in (0..16).step_by(S::LANES) {
                    let sum = match task.kind {
                        Integers::Bits { and: true } => {
                            bits(s, row, columns, lane, |s, a, b| s.and(a, b))
                        }
                        Integers::Bits { and: false } => {
                            bits(s, row, columns, lane, |s, a, b| s.xor(a, b))
                        }
                        _ => pairs(s, &row[..words], columns, lane),
                    };
                    let before = s.load(c, lane);
                    let after = s.add_i32(before, sum);
                    let after = if task.saturate {
                        saturated(s, before, sum, after)
                    } else {
                        after
                    };
                    s.store(c, lane, after);
                }
            }
            super::fast::write(s, d, (warp, group), &stage);
        }
    }
}

#[inline(always)]
fn pairs<S: Simd>(s: S, row: &[u32], columns: &[[u32; 16]; WORDS], lane: usize) -> S::V {
    let mut sum = s.splat(0);
    for (&a, b) in row.iter().zip(columns) {
        sum = s.dot_i16(sum, s.splat(a), s.load(b, lane));
    }
    sum
}

#[inline(always)]
fn bits<S: Simd>(
    s: S,
    row: &[u32; WORDS],
    columns: &[[u32; 16]; WORDS],
    lane: usize,
    combine: impl Fn(S, S::V, S::V) -> S::V,
) -> S::V {
    let mut sum = s.splat(0);
    for (&a, b) in row.iter().zip(columns).take(K_BYTES / 4) {
        sum = s.add_i32(sum, s.count_ones(combine(s, s.splat(a), s.load(b, lane))));
    }
    sum
}

/// `after = before + sum`, clamped where it overflowed.
#[inline(always)]
fn saturated<S: Simd>(s: S, before: S::V, sum: S::V, after: S::V) -> S::V {
    let overflow = s.and(s.xor(before, after), s.xor(sum, after));
    let overflow = s.sar::<31>(overflow);
    let limit = s.xor(s.sar::<31>(before), s.splat(0x7FFF_FFFF));
    s.xor(after, s.and(overflow, s.xor(after, limit)))
}

/// Fills `operands`; how many of the words along K count.
#[inline(always)]
fn take_apart<S: Simd>(s: S, task: &Task<'_>, operands: &mut Operands) -> usize {
    let (width, a_signed, b_signed) = match task.kind {
        Integers::Bytes { a_signed, b_signed } => (8, a_signed, b_signed),
        Integers::Nibbles { a_signed, b_signed } => (4, a_signed, b_signed),
        Integers::Bits { .. } => (32, false, false),
    };
    // Pairs in a 32-bit word; one-bit operands stay as they are.
    let parts = if width == 32 { 1 } else { 16 / width };
    for (bytes, row) in task.a.chunks_exact(K_BYTES).zip(&mut operands.rows) {
        let words: [u32; 8] = decode::row_words(bytes);
        for (i, to) in row[..8 * parts].iter_mut().enumerate() {
            *to = pair(words[i / parts], i % parts, (width, a_signed));
        }
    }
    for (group, to) in operands.groups[..task.n.div_ceil(16)]
        .iter_mut()
        .enumerate()
    {
        let words = decode::transpose(s, task.b, group);
        for (i, to) in to[..8 * parts].iter_mut().enumerate() {
            for (to, &word) in to.iter_mut().zip(&words[i / parts]) {
                *to = pair(word, i % parts, (width, b_signed));
            }
        }
    }
    8 * parts
}

/// Elements 2i and 2i+1 of `width` bits, signed or not, as `i16` in the halves of a word.
#[inline(always)]
fn pair(word: u32, i: usize, (width, signed): (usize, bool)) -> u32 {
    if width == 32 {
        return word;
    }
    let bits = word >> (2 * width * i);
    let shift = 32 - width;
    let element = |bits: u32| {
        let top = bits << shift;
        if signed {
            (top.cast_signed() >> shift).cast_unsigned()
        } else {
            top >> shift
        }
    };
    (element(bits) & 0xFFFF) | element(bits >> width) << 16
}
