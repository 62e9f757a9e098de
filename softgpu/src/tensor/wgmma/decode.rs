//! Operands of a fast tile, taken apart once per instruction.
//!
//! Columns stand in *fragment order*: column `8j + 2p + i` at `8j + 4i + p`, so that four
//! consecutive ones are four consecutive lanes of one accumulator register. A group is 16 columns
//! in that order.
#![expect(
    clippy::needless_range_loop,
    reason = "lanes index several arrays in step, which vectorises"
)]

use super::fast::Task;
use super::simd::Simd;
use super::{K_BYTES, M};

/// What keeps a row or a column from the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing.
    Plain,
    /// An infinity, a NaN, or an exponent that the fast path has no room for.
    Hard,
}

/// A row of A. Value words stand in two runs of eight: the first parts of the row's words, then the
/// second ones. FP8 value words hold two elements (k, k+1) in their halves.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// FP8: significands. Otherwise: one `f32` per word.
    pub(super) value: [u32; 16],
    /// FP8: biased exponents as the instruction set wants them.
    pub(super) exponent: [u32; 16],
    /// FP8: which of [`Group::sign`] has the signs of the products: 1 for a negative element in the low
    /// half, and 2 for one in the high half.
    pub(super) sign: [u32; 16],
    /// Biased exponents for the maximum; very small for zero. FP8: four i8; otherwise two i16.
    pub(super) largest: [u32; 8],
}

/// Sixteen columns of B in fragment order; the first index is k as in [`Row`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Group {
    /// As in [`Row`]; FP8 significands are those of [`Simd::fp8_significands`].
    pub(super) value: [[u32; 16]; 16],
    /// As in [`Row`].
    pub(super) exponent: [[u32; 16]; 16],
    /// FP8: 1 or -1, for elements of A that are both positive, for a negative one in the low half, in
    /// the high half, in both.
    pub(super) sign: [[[u32; 16]; 4]; 16],
    /// As in [`Row`].
    pub(super) largest: [[u32; 16]; 8],
}

/// Both operands.
#[derive(Debug)]
pub(super) struct Operands {
    pub(super) rows: [Row; M],
    pub(super) groups: [Group; 16],
    pub(super) row_class: [Class; M],
    /// In fragment order.
    pub(super) column_class: [Class; 256],
}

impl Operands {
    pub(super) const ZERO: Self = Self {
        rows: [Row {
            value: [0; 16],
            exponent: [0; 16],
            sign: [0; 16],
            largest: [0; 8],
        }; M],
        groups: [Group {
            value: [[0; 16]; 16],
            exponent: [[0; 16]; 16],
            sign: [[[0; 16]; 4]; 16],
            largest: [[0; 16]; 8],
        }; 16],
        row_class: [Class::Plain; M],
        column_class: [Class::Plain; 256],
    };
}

/// The column at a place in fragment order.
pub(super) const fn column(place: usize) -> usize {
    place / 8 * 8 + place % 4 * 2 + place / 4 % 2
}

/// The 32-bit words of the columns of a group from `first` on, a vector of columns in fragment order.
/// Columns at and above n read as zero.
#[inline(always)]
pub(super) fn words<S: Simd>(s: S, b: &[u8], group: usize, first: usize) -> [S::V; 8] {
    const NONE: [u8; K_BYTES] = [0; K_BYTES];
    s.transpose(|lane| {
        let at = column(16 * group + first + lane) * K_BYTES;
        let row = b.get(at..).and_then(|rows| rows.first_chunk());
        row.unwrap_or(&NONE)
    })
}

/// [`words`] of all 16 columns.
#[inline(always)]
pub(super) fn transpose<S: Simd>(s: S, b: &[u8], group: usize) -> [[u32; 16]; 8] {
    let mut all = [[0; 16]; 8];
    for first in (0..16).step_by(S::LANES) {
        for (all, word) in all.iter_mut().zip(words(s, b, group, first)) {
            s.store(all, first, word);
        }
    }
    all
}

/// The 32-bit words of packed bytes.
#[inline(always)]
pub(super) fn row_words<const N: usize>(row: &[u8]) -> [u32; N] {
    std::array::from_fn(|w| {
        let bytes = &row[4 * w..4 * w + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    })
}

/// One element format, as operations on lanes that are 32-bit words of packed elements.
pub(super) trait Element {
    /// Decoded value words of a memory word.
    const VALUES: usize;
    /// The bits of a word that negation flips: of [`Self::sign`] for FP8, else of the value.
    const NEGATE: u32;
    /// Whether the format is FP8.
    const FP8: bool;
    /// Not 0 when some element of the word is [`Class::Hard`].
    fn hard<S: Simd>(s: S, word: S::V) -> S::V;
    /// See [`Row::value`]; `part` below [`Self::VALUES`].
    fn value<S: Simd>(s: S, word: S::V, part: usize) -> S::V;
    /// See [`Row::largest`].
    fn largest<S: Simd>(s: S, word: S::V) -> S::V;
    /// FP8: exponents of two elements, one per half.
    fn exponent<S: Simd>(_s: S, word: S::V, _part: usize) -> S::V {
        word
    }
    /// FP8: 1 in the halves of negative elements.
    fn sign<S: Simd>(_s: S, word: S::V, _part: usize) -> S::V {
        word
    }
}

/// 1 in each half and in each byte.
const HALVES: u32 = 0x0001_0001;
const BYTES: u32 = 0x0101_0101;

/// E4M3 and E5M2; arithmetic on the four codes of a word in its bytes.
pub(super) struct Fp8<const FRACTION: u32>;

impl<const FRACTION: u32> Fp8<FRACTION> {
    const EXPONENT: u32 = (1 << (7 - FRACTION)) - 1;

    /// Exponent fields, and 1 where they are not zero.
    #[inline(always)]
    fn fields<S: Simd>(s: S, word: S::V) -> (S::V, S::V) {
        let exponent = s.splat(BYTES * Self::EXPONENT);
        let field = s.and(s.shr::<FRACTION>(word), exponent);
        let carried = s.add_i32(field, s.splat(BYTES * (0x80 - 1)));
        (field, s.and(s.shr::<7>(carried), s.splat(BYTES)))
    }

    /// Biased exponents, those of subnormal numbers and zero like the smallest normal ones.
    #[inline(always)]
    fn exponents<S: Simd>(s: S, word: S::V) -> S::V {
        let (field, normal) = Self::fields(s, word);
        s.add_i32(field, s.xor(normal, s.splat(BYTES)))
    }
}

impl<const FRACTION: u32> Element for Fp8<FRACTION> {
    const VALUES: usize = 2;
    const NEGATE: u32 = HALVES;
    const FP8: bool = true;

    #[inline(always)]
    fn hard<S: Simd>(s: S, word: S::V) -> S::V {
        // E4M3 has one special magnitude, 0x7F; E5M2 four, from 0x7C on.
        let first = if FRACTION == 3 { 0x7F } else { 0x7C };
        let magnitudes = s.and(word, s.splat(BYTES * 0x7F));
        let carried = s.add_i32(magnitudes, s.splat(BYTES * (0x80 - first)));
        s.and(carried, s.splat(BYTES << 7))
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, word: S::V, part: usize) -> S::V {
        let (_, normal) = Self::fields(s, word);
        let fraction = s.and(word, s.splat(BYTES * ((1 << FRACTION) - 1)));
        let significand = s.or(fraction, s.shl::<FRACTION>(normal));
        // Three fraction bits for both formats.
        let significand = if FRACTION == 3 {
            significand
        } else {
            s.shl::<1>(significand)
        };
        s.pair(significand, part)
    }
    #[inline(always)]
    fn exponent<S: Simd>(s: S, word: S::V, part: usize) -> S::V {
        s.pair(Self::exponents(s, word), part)
    }
    #[inline(always)]
    fn sign<S: Simd>(s: S, word: S::V, part: usize) -> S::V {
        s.and(s.shr::<7>(s.pair(word, part)), s.splat(HALVES))
    }
    #[inline(always)]
    fn largest<S: Simd>(s: S, word: S::V) -> S::V {
        let magnitudes = s.and(word, s.splat(BYTES * 0x7F));
        let carried = s.shr::<7>(s.add_i32(magnitudes, s.splat(BYTES * 0x7F)));
        let zero = s.xor(s.and(carried, s.splat(BYTES)), s.splat(BYTES));
        // The exponent of zero is 1 ^ 1, and then the sign bit: -128.
        s.or(s.xor(Self::exponents(s, word), zero), s.shl::<7>(zero))
    }
}

/// 1 in the halves that are not zero; halves are below 0x8000.
#[inline(always)]
fn not_zero<S: Simd>(s: S, halves: S::V) -> S::V {
    let carried = s.add_i32(halves, s.splat(HALVES * 0x7FFF));
    s.and(s.shr::<15>(carried), s.splat(HALVES))
}

/// Exponents of two elements in halves, -16383 for zero: sums of two stay below all others.
#[inline(always)]
fn wide_largest<S: Simd>(s: S, fields: S::V, magnitudes: S::V) -> S::V {
    let subnormal = s.xor(not_zero(s, fields), s.splat(HALVES));
    let zero = s.xor(not_zero(s, magnitudes), s.splat(HALVES));
    let very_small = s.or(s.shl::<15>(zero), s.shl::<14>(zero));
    s.or(s.add_i32(fields, subnormal), very_small)
}

/// Not 0 where an element that is not zero has an exponent outside of -50..=50: beyond that, scaled
/// products might leave the range of `f32`.
#[inline(always)]
fn out_of_range<S: Simd>(s: S, fields: S::V, magnitudes: S::V) -> S::V {
    let not_zero = s.add_i32(magnitudes, s.splat(HALVES * 0x7FFF));
    let large_enough = s.add_i32(fields, s.splat(HALVES * (0x8000 - 77)));
    let too_small = s.xor(large_enough, s.splat(u32::MAX));
    let too_large = s.add_i32(fields, s.splat(HALVES * (0x8000 - 178)));
    let outside = s.and(s.or(too_small, too_large), not_zero);
    s.and(outside, s.splat(HALVES << 15))
}

/// IEEE binary16.
pub(super) struct F16;

impl Element for F16 {
    const VALUES: usize = 2;
    const NEGATE: u32 = 1 << 31;
    const FP8: bool = false;

    #[inline(always)]
    fn hard<S: Simd>(s: S, word: S::V) -> S::V {
        let magnitudes = s.and(word, s.splat(HALVES * 0x7FFF));
        let carried = s.add_i32(magnitudes, s.splat(HALVES * 0x0400));
        s.and(carried, s.splat(HALVES << 15))
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, word: S::V, part: usize) -> S::V {
        let bits = if part == 0 { word } else { s.shr::<16>(word) };
        let magnitude = s.shl::<13>(s.and(bits, s.splat(0x7FFF)));
        let magnitude = s.mul_f32(magnitude, s.splat((127 + 112) << 23));
        s.or(magnitude, s.shl::<16>(s.and(bits, s.splat(0x8000))))
    }
    #[inline(always)]
    fn largest<S: Simd>(s: S, word: S::V) -> S::V {
        let fields = s.and(s.shr::<10>(word), s.splat(HALVES * 0x1F));
        wide_largest(s, fields, s.and(word, s.splat(HALVES * 0x7FFF)))
    }
}

/// bf16.
pub(super) struct Bf16;

impl Bf16 {
    /// Exponent fields and magnitudes.
    #[inline(always)]
    fn parts<S: Simd>(s: S, word: S::V) -> (S::V, S::V) {
        let fields = s.and(s.shr::<7>(word), s.splat(HALVES * 0xFF));
        (fields, s.and(word, s.splat(HALVES * 0x7FFF)))
    }
}

impl Element for Bf16 {
    const VALUES: usize = 2;
    const NEGATE: u32 = 1 << 31;
    const FP8: bool = false;

    #[inline(always)]
    fn hard<S: Simd>(s: S, word: S::V) -> S::V {
        let (fields, magnitudes) = Self::parts(s, word);
        out_of_range(s, fields, magnitudes)
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, word: S::V, part: usize) -> S::V {
        if part == 0 {
            s.shl::<16>(word)
        } else {
            s.and(word, s.splat(0xFFFF_0000))
        }
    }
    #[inline(always)]
    fn largest<S: Simd>(s: S, word: S::V) -> S::V {
        let (fields, magnitudes) = Self::parts(s, word);
        wide_largest(s, fields, magnitudes)
    }
}

/// tf32: the upper 19 bits of a word. In halves, the upper one is a zero.
pub(super) struct Tf32;

impl Tf32 {
    /// Exponent field, and whether the magnitude is not zero.
    #[inline(always)]
    fn parts<S: Simd>(s: S, word: S::V) -> (S::V, S::V) {
        let magnitude = s.and(word, s.splat(0x7FFF_E000));
        let field = s.shr::<23>(magnitude);
        (field, s.min_i32(magnitude, s.splat(1)))
    }
}

impl Element for Tf32 {
    const VALUES: usize = 1;
    const NEGATE: u32 = 1 << 31;
    const FP8: bool = false;

    #[inline(always)]
    fn hard<S: Simd>(s: S, word: S::V) -> S::V {
        let (field, magnitude) = Self::parts(s, word);
        out_of_range(s, field, magnitude)
    }
    #[inline(always)]
    fn value<S: Simd>(s: S, word: S::V, _part: usize) -> S::V {
        s.and(word, s.splat(0xFFFF_E000))
    }
    #[inline(always)]
    fn largest<S: Simd>(s: S, word: S::V) -> S::V {
        let (field, magnitude) = Self::parts(s, word);
        wide_largest(s, field, magnitude)
    }
}

/// Takes A apart, with the sign that the tile gives to all products.
#[inline(always)]
pub(super) fn rows<S: Simd, E: Element>(s: S, out: &mut Operands, task: &Task<'_>) {
    let flip = s.splat(if task.negate { E::NEGATE } else { 0 });
    for (two, bytes) in task.a.chunks_exact(2 * K_BYTES).enumerate() {
        let words = row_words(bytes);
        let rows = &mut out.rows[2 * two..][..2];
        let mut hard = [0; 16];
        for first in (0..16).step_by(S::LANES) {
            let word = s.load(&words, first);
            let rows = &mut rows[first / 8..];
            for part in 0..E::VALUES {
                let value = E::value(s, word, part);
                if E::FP8 {
                    let exponent = s.fp8_exponents(E::exponent(s, word, part));
                    let sign = s.xor(E::sign(s, word, part), flip);
                    let sign = s.and(s.or(sign, s.shr::<15>(sign)), s.splat(3));
                    put(s, rows, (value, part), |row| &mut row.value);
                    put(s, rows, (exponent, part), |row| &mut row.exponent);
                    put(s, rows, (sign, part), |row| &mut row.sign);
                } else {
                    put(s, rows, (s.xor(value, flip), part), |row| &mut row.value);
                }
            }
            put(s, rows, (E::largest(s, word), 0), |row| &mut row.largest);
            s.store(&mut hard, first, E::hard(s, word));
        }
        for (class_of, hard) in out.row_class[2 * two..]
            .iter_mut()
            .zip(hard.chunks_exact(8))
        {
            *class_of = class(hard.iter().fold(0, |all, word| all | word));
        }
    }
}

/// Writes a vector of words, eight of each row, to run `part` of a field.
#[inline(always)]
fn put<S: Simd>(
    s: S,
    rows: &mut [Row],
    (v, part): (S::V, usize),
    field: impl Fn(&mut Row) -> &mut [u32],
) {
    let mut lanes = [0; 16];
    s.store(&mut lanes, 0, v);
    for (row, lanes) in rows.iter_mut().zip(lanes[..S::LANES].chunks_exact(8)) {
        field(row)[8 * part..][..8].copy_from_slice(lanes);
    }
}

/// Takes B apart.
#[inline(always)]
pub(super) fn groups<S: Simd, E: Element>(s: S, out: &mut Operands, task: &Task<'_>) {
    for g in 0..task.n.div_ceil(16) {
        let mut hard = [0; 16];
        for first in (0..16).step_by(S::LANES) {
            let mut any = s.splat(0);
            let words = words(s, task.b, g, first);
            for w in 0..8 {
                let (word, group) = (words[w], &mut out.groups[g]);
                for part in 0..E::VALUES {
                    column_words::<S, E>(s, group, (8 * part + w, first), (word, part));
                }
                s.store(&mut group.largest[w], first, E::largest(s, word));
                any = s.or(any, E::hard(s, word));
            }
            s.store(&mut hard, first, any);
        }
        for lane in 0..16 {
            out.column_class[16 * g + lane] = class(hard[lane]);
        }
    }
}

/// Value, exponent and signs of a part of a word of columns.
#[inline(always)]
fn column_words<S: Simd, E: Element>(
    s: S,
    group: &mut Group,
    (i, first): (usize, usize),
    (word, part): (S::V, usize),
) {
    let value = E::value(s, word, part);
    if !E::FP8 {
        s.store(&mut group.value[i], first, value);
        return;
    }
    s.store(&mut group.value[i], first, s.fp8_significands(value));
    let exponent = s.fp8_exponents(E::exponent(s, word, part));
    s.store(&mut group.exponent[i], first, exponent);
    // 1 ^ 0xFFFE is -1.
    let negative = s.mul_i16(E::sign(s, word, part), s.splat(HALVES * 0xFFFE));
    for (to, flip) in group.sign[i].iter_mut().zip(FLIPS) {
        s.store(to, first, s.xor(negative, s.splat(flip ^ HALVES)));
    }
}

/// What turns the signs of [`Group::sign`] into those of its other places.
const FLIPS: [u32; 4] = [0, 0xFFFE, 0xFFFE_0000, 0xFFFE_FFFE];

#[inline(always)]
fn class(hard: u32) -> Class {
    if hard == 0 { Class::Plain } else { Class::Hard }
}
