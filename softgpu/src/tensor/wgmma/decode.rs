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

/// A row of A. FP8 words hold two elements (k, k+1) in their halves, except `largest`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// FP8: significands. Otherwise: one `f32` per word.
    pub(super) value: [u32; 16],
    /// FP8: biased exponents as the instruction set wants them.
    pub(super) exponent: [u32; 16],
    /// FP8: 0xFFFE for a negative element, which turns 1 into -1 and back.
    pub(super) sign: [u32; 16],
    /// Biased exponents for the maximum; very small for zero. FP8: four i8; otherwise two i16.
    pub(super) largest: [u32; 8],
}

/// Sixteen columns of B in fragment order; the first index is k as in [`Row`].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Group {
    /// As in [`Row`]; FP8 significands are shifted left by [`Simd::FP8_SHIFT`].
    pub(super) value: [[u32; 16]; 16],
    /// As in [`Row`].
    pub(super) exponent: [[u32; 16]; 16],
    /// FP8: 1 or -1.
    pub(super) sign: [[u32; 16]; 16],
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
            sign: [[0; 16]; 16],
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

/// The 32-bit words of packed rows: word `w` of the rows of a group, in fragment order. Columns at
/// and above n read as zero.
#[inline(always)]
pub(super) fn transpose(b: &[u8], group: usize) -> [[u32; 16]; 8] {
    let mut words = [[0; 16]; 8];
    for lane in 0..16 {
        let at = column(16 * group + lane) * K_BYTES;
        let Some(row) = b.get(at..at + K_BYTES) else {
            continue;
        };
        for (w, bytes) in row.chunks_exact(4).enumerate() {
            words[w][lane] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    words
}

/// The 32-bit words of a packed row.
#[inline(always)]
pub(super) fn words(row: &[u8]) -> [u32; 8] {
    std::array::from_fn(|w| {
        let bytes = &row[4 * w..4 * w + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    })
}

/// One element format, as operations on 32-bit words of packed elements.
pub(super) trait Element {
    /// Decoded value words of a memory word.
    const VALUES: usize;
    /// Memory words that one word of [`Row::largest`] covers.
    const WORDS: usize;
    /// The bits of a value word that negation flips: of [`Row::sign`] for FP8, else of the value.
    const NEGATE: u32;
    /// Whether the format is FP8.
    const FP8: bool;
    /// Not 0 when some element of the word is [`Class::Hard`].
    fn hard(word: u32) -> u32;
    /// See [`Row::value`]; `i` below [`Self::VALUES`].
    fn value(word: u32, i: usize) -> u32;
    /// The word of [`Row::largest`] of the first and the last of its memory words.
    fn largest(first: u32, last: u32) -> u32;
    /// FP8: exponents of two elements, one per half.
    fn exponent(_word: u32, _i: usize) -> u32 {
        0
    }
    /// FP8: see [`Row::sign`].
    fn sign(_word: u32, _i: usize) -> u32 {
        0
    }
}

/// 1 in each half and in each byte.
const HALVES: u32 = 0x0001_0001;
const BYTES: u32 = 0x0101_0101;

/// E4M3 and E5M2; arithmetic on two codes in the halves of a word, or on four in its bytes.
pub(super) struct Fp8<const FRACTION: u32>;

impl<const FRACTION: u32> Fp8<FRACTION> {
    const EXPONENT_BITS: u32 = 7 - FRACTION;
    const EXPONENT: u32 = (1 << Self::EXPONENT_BITS) - 1;

    /// Elements 2i and 2i+1 in the halves of a word.
    #[inline(always)]
    fn pair(word: u32, i: usize) -> u32 {
        let pair = if i == 0 { word } else { word >> 16 };
        (pair & 0xFF) | (pair & 0xFF00) << 8
    }

    /// Exponent fields, and 1 where they are not zero; `ones` is [`HALVES`] or [`BYTES`].
    #[inline(always)]
    fn fields(codes: u32, ones: u32) -> (u32, u32) {
        let field = (codes >> FRACTION) & (ones * Self::EXPONENT);
        let normal = (field.wrapping_add(ones * Self::EXPONENT) >> Self::EXPONENT_BITS) & ones;
        (field, normal)
    }
}

impl<const FRACTION: u32> Element for Fp8<FRACTION> {
    const VALUES: usize = 2;
    const WORDS: usize = 1;
    const NEGATE: u32 = 0xFFFE_FFFE;
    const FP8: bool = true;

    #[inline(always)]
    fn hard(word: u32) -> u32 {
        // E4M3 has one special magnitude, 0x7F; E5M2 four, from 0x7C on.
        let first = if FRACTION == 3 { 0x7F } else { 0x7C };
        (word & (BYTES * 0x7F)).wrapping_add(BYTES * (0x80 - first)) & (BYTES << 7)
    }
    #[inline(always)]
    fn value(word: u32, i: usize) -> u32 {
        let codes = Self::pair(word, i);
        let (_, normal) = Self::fields(codes, HALVES);
        let significand = (codes & (HALVES * ((1 << FRACTION) - 1))) | normal << FRACTION;
        // Three fraction bits for both formats.
        significand << (3 - FRACTION)
    }
    #[inline(always)]
    fn exponent(word: u32, i: usize) -> u32 {
        let (field, normal) = Self::fields(Self::pair(word, i), HALVES);
        field.wrapping_add(HALVES ^ normal)
    }
    #[inline(always)]
    fn sign(word: u32, i: usize) -> u32 {
        ((Self::pair(word, i) >> 7) & HALVES).wrapping_mul(0xFFFF) & Self::NEGATE
    }
    #[inline(always)]
    fn largest(first: u32, _last: u32) -> u32 {
        let (field, normal) = Self::fields(first, BYTES);
        let magnitudes = first & (BYTES * 0x7F);
        let zero = ((magnitudes.wrapping_add(BYTES * 0x7F) >> 7) & BYTES) ^ BYTES;
        // The exponent of zero is 1 ^ 1, and then the sign bit: -128.
        (field.wrapping_add(BYTES ^ normal) ^ zero) | zero << 7
    }
}

/// Exponents of two elements in halves, -16383 for zero: sums of two stay below all others.
#[inline(always)]
fn wide_largest(fields: u32, magnitudes: u32) -> u32 {
    let normal = (fields.wrapping_add(HALVES * 0x7FFF) >> 15) & HALVES;
    let zero = ((magnitudes.wrapping_add(HALVES * 0x7FFF) >> 15) & HALVES) ^ HALVES;
    fields.wrapping_add(HALVES ^ normal) | zero << 15 | zero << 14
}

/// Not 0 where an element that is not zero has an exponent outside of -50..=50: beyond that, scaled
/// products might leave the range of `f32`.
#[inline(always)]
fn out_of_range(fields: u32, magnitudes: u32) -> u32 {
    let not_zero = magnitudes.wrapping_add(HALVES * 0x7FFF);
    let large_enough = fields.wrapping_add(HALVES * (0x8000 - 77));
    let too_large = fields.wrapping_add(HALVES * (0x8000 - 178));
    (!large_enough | too_large) & not_zero & (HALVES << 15)
}

/// IEEE binary16.
pub(super) struct F16;

impl Element for F16 {
    const VALUES: usize = 2;
    const WORDS: usize = 1;
    const NEGATE: u32 = 1 << 31;
    const FP8: bool = false;

    #[inline(always)]
    fn hard(word: u32) -> u32 {
        (word & (HALVES * 0x7FFF)).wrapping_add(HALVES * 0x0400) & (HALVES << 15)
    }
    #[inline(always)]
    fn value(word: u32, i: usize) -> u32 {
        let bits = word >> (16 * i);
        let scale = f32::from_bits((127 + 112) << 23);
        let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * scale;
        magnitude.to_bits() | (bits & 0x8000) << 16
    }
    #[inline(always)]
    fn largest(first: u32, _last: u32) -> u32 {
        wide_largest((first >> 10) & (HALVES * 0x1F), first & (HALVES * 0x7FFF))
    }
}

/// bf16.
pub(super) struct Bf16;

impl Element for Bf16 {
    const VALUES: usize = 2;
    const WORDS: usize = 1;
    const NEGATE: u32 = 1 << 31;
    const FP8: bool = false;

    #[inline(always)]
    fn hard(word: u32) -> u32 {
        out_of_range((word >> 7) & (HALVES * 0xFF), word & (HALVES * 0x7FFF))
    }
    #[inline(always)]
    fn value(word: u32, i: usize) -> u32 {
        word >> (16 * i) << 16
    }
    #[inline(always)]
    fn largest(first: u32, _last: u32) -> u32 {
        wide_largest((first >> 7) & (HALVES * 0xFF), first & (HALVES * 0x7FFF))
    }
}

/// tf32: the upper 19 bits of a word.
pub(super) struct Tf32;

impl Tf32 {
    /// Exponent field, and whether the magnitude is not zero, as 15-bit numbers.
    #[inline(always)]
    fn parts(word: u32) -> (u32, u32) {
        ((word >> 23) & 0xFF, u32::from(word & 0x7FFF_E000 != 0))
    }
}

impl Element for Tf32 {
    const VALUES: usize = 1;
    const WORDS: usize = 2;
    const NEGATE: u32 = 1 << 31;
    const FP8: bool = false;

    #[inline(always)]
    fn hard(word: u32) -> u32 {
        let (field, magnitude) = Self::parts(word);
        out_of_range(field, magnitude)
    }
    #[inline(always)]
    fn value(word: u32, _i: usize) -> u32 {
        word & 0xFFFF_E000
    }
    #[inline(always)]
    fn largest(first: u32, last: u32) -> u32 {
        let ((low, a), (high, b)) = (Self::parts(first), Self::parts(last));
        wide_largest(low | high << 16, a | b << 16)
    }
}

/// Takes A apart, with the sign that the tile gives to all products.
#[inline(always)]
pub(super) fn rows<S: Simd, E: Element>(out: &mut Operands, task: &Task<'_>) {
    let flip = if task.negate { E::NEGATE } else { 0 };
    for (r, bytes) in task.a.chunks_exact(K_BYTES).enumerate() {
        let (words, row) = (words(bytes), &mut out.rows[r]);
        for i in 0..8 * E::VALUES {
            let (word, part) = (words[i / E::VALUES], i % E::VALUES);
            row.value[i] = E::value(word, part);
            if E::FP8 {
                row.exponent[i] = S::fp8_exponents(E::exponent(word, part));
                row.sign[i] = E::sign(word, part) ^ flip;
            } else {
                row.value[i] ^= flip;
            }
        }
        for i in 0..8 / E::WORDS {
            let first = i * E::WORDS;
            row.largest[i] = E::largest(words[first], words[first + E::WORDS - 1]);
        }
        let hard = words.iter().fold(0, |hard, &word| hard | E::hard(word));
        out.row_class[r] = class(hard);
    }
}

/// Takes B apart.
#[inline(always)]
pub(super) fn groups<S: Simd, E: Element>(out: &mut Operands, task: &Task<'_>) {
    for g in 0..task.n.div_ceil(16) {
        let (words, group) = (transpose(task.b, g), &mut out.groups[g]);
        for i in 0..8 * E::VALUES {
            let (word, part) = (&words[i / E::VALUES], i % E::VALUES);
            for lane in 0..16 {
                let value = E::value(word[lane], part);
                group.value[i][lane] = if E::FP8 { value << S::FP8_SHIFT } else { value };
            }
            if E::FP8 {
                for lane in 0..16 {
                    group.exponent[i][lane] = S::fp8_exponents(E::exponent(word[lane], part));
                    group.sign[i][lane] = E::sign(word[lane], part) ^ HALVES;
                }
            }
        }
        for i in 0..8 / E::WORDS {
            let (first, last) = (&words[i * E::WORDS], &words[(i + 1) * E::WORDS - 1]);
            for lane in 0..16 {
                group.largest[i][lane] = E::largest(first[lane], last[lane]);
            }
        }
        let mut hard = [0; 16];
        for word in &words {
            for lane in 0..16 {
                hard[lane] |= E::hard(word[lane]);
            }
        }
        for lane in 0..16 {
            out.column_class[16 * g + lane] = class(hard[lane]);
        }
    }
}

#[inline(always)]
fn class(hard: u32) -> Class {
    if hard == 0 { Class::Plain } else { Class::Hard }
}
