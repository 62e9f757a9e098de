//! Bitwise oracles of the kernels that prepare operands of the GEMM: quantisation by blocks and
//! back, powers of two in bytes, transposition in groups.
//!
//! Each is written from the definition (`hadal::quant`), in the obvious order of loops; a scale or
//! code has one right value, so there is no tolerance.

use half::bf16;

use crate::fp8::{E4M3_MAX, E5M2_MAX, e4m3_from_f64, e4m3_to_f64, e5m2_from_f64, e5m2_to_f64};

/// Edge of the blocks.
pub const BLOCK: usize = 128;

/// A format of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// E4M3.
    E4m3,
    /// E5M2.
    E5m2,
}

/// Which scales a quantisation may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// The largest magnitude over the format's largest value.
    Exact,
    /// The smallest power of two, from 2⁻¹²⁶ on, with which no value saturates.
    PowerOfTwo,
}

/// A quantised matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    /// Codes, row-major.
    pub codes: Vec<u8>,
    /// Scales, row-major.
    pub scales: Vec<f32>,
}

impl Format {
    fn largest(self) -> f64 {
        match self {
            Self::E4m3 => E4M3_MAX,
            Self::E5m2 => E5M2_MAX,
        }
    }

    /// Nearest code.
    #[must_use]
    pub fn encode(self, value: f64) -> u8 {
        match self {
            Self::E4m3 => e4m3_from_f64(value),
            Self::E5m2 => e5m2_from_f64(value),
        }
    }

    /// Value of a code, exact in F32.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "FP8 values are exact in f32"
    )]
    pub fn decode(self, code: u8) -> f32 {
        let value = match self {
            Self::E4m3 => e4m3_to_f64(code),
            Self::E5m2 => e5m2_to_f64(code),
        };
        value as f32
    }
}

/// Scale of a block.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the format's largest value and powers of two are exact in f32"
)]
pub fn scale(block: impl IntoIterator<Item = f32>, format: Format, scaling: Scaling) -> f32 {
    let numbers = block.into_iter().filter(|x| !x.is_nan());
    let amax = numbers.fold(0f32, |amax, x| amax.max(x.abs()));
    if amax == 0.0 {
        return 1.0;
    }
    if scaling == Scaling::Exact || amax.is_infinite() {
        return (amax / format.largest() as f32).max(f32::from_bits(1));
    }
    let fits = |&power: &i32| 2f64.powi(power) * format.largest() >= f64::from(amax);
    let power = (-126..128).find(fits).unwrap_or(128);
    2f64.powi(power) as f32
}

/// Code of a value.
#[must_use]
pub fn code(value: f32, scale: f32, format: Format) -> u8 {
    format.encode(f64::from(value / scale))
}

/// Rows of `columns` values with one scale per 128 columns, `[rows, columns / 128 rounded up]`.
#[must_use]
pub fn quantise_rows(
    values: &[f32],
    columns: usize,
    format: Format,
    scaling: Scaling,
) -> Quantised {
    let mut out = Quantised {
        codes: Vec::new(),
        scales: Vec::new(),
    };
    for row in values.chunks(columns) {
        for block in row.chunks(BLOCK) {
            let scale = scale(block.iter().copied(), format, scaling);
            out.scales.push(scale);
            let codes = block.iter().map(|&value| code(value, scale, format));
            out.codes.extend(codes);
        }
    }
    out
}

/// One matrix of `columns` columns with one scale per 128×128,
/// `[rows / 128, columns / 128]`, both rounded up.
#[must_use]
pub fn quantise_blocks(
    values: &[f32],
    columns: usize,
    format: Format,
    scaling: Scaling,
) -> Quantised {
    let mut codes = vec![0; values.len()];
    let mut scales = Vec::new();
    let rows = values.len() / columns;
    for first_row in (0..rows).step_by(BLOCK) {
        for first_column in (0..columns).step_by(BLOCK) {
            let rows = first_row..rows.min(first_row + BLOCK);
            let width = columns.min(first_column + BLOCK) - first_column;
            let places: Vec<usize> = rows
                .flat_map(|row| (0..width).map(move |j| row * columns + first_column + j))
                .collect();
            let scale = scale(places.iter().map(|&at| values[at]), format, scaling);
            scales.push(scale);
            for at in places {
                codes[at] = code(values[at], scale, format);
            }
        }
    }
    Quantised { codes, scales }
}

/// BF16 bits of code times scale: rounded to F32, then to BF16; NaN is 0x7fff.
#[must_use]
pub fn dequantise(code: u8, scale: f32, format: Format) -> u16 {
    let value = format.decode(code) * scale;
    if value.is_nan() {
        return 0x7fff;
    }
    bf16::from_f32(value).to_bits()
}

/// Code of the smallest power of two of at least `|scale|`; 255 where there is none.
#[must_use]
pub fn to_ue8m0(scale: f32) -> u8 {
    let enough = |&code: &u8| f64::from(from_ue8m0(code)) >= f64::from(scale.abs());
    (0..255).find(enough).unwrap_or(255)
}

/// 2^(code − 127), NaN for 255.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "powers of two are exact in f32"
)]
pub fn from_ue8m0(code: u8) -> f32 {
    match code {
        255 => f32::NAN,
        _ => 2f64.powi(i32::from(code) - 127) as f32,
    }
}

/// Begin and end of each group of a table of offsets: below 0 is 0, above `most` is that, and a
/// group that ends before it begins is empty.
#[must_use]
pub fn ranges(offsets: &[i32], most: usize) -> Vec<std::ops::Range<usize>> {
    let held: Vec<usize> = offsets
        .iter()
        .map(|&offset| usize::try_from(offset).unwrap_or(0).min(most))
        .collect();
    let pairs = held.windows(2);
    pairs.map(|pair| pair[0]..pair[1].max(pair[0])).collect()
}

/// Where groups begin when each is padded to a multiple of 128, held at `k`.
#[must_use]
pub fn pad_offsets(offsets: &[i32], rows: usize, k: usize) -> Vec<usize> {
    let mut padded = vec![0];
    let mut end = 0;
    for range in ranges(offsets, rows) {
        end = (end + range.len().next_multiple_of(BLOCK)).min(k);
        padded.push(end);
    }
    padded
}

/// The transpose `[columns, k]` of rows in groups, group `g` at columns `padded[g]` on and zeros
/// behind it; `None` in blocks that no group owns.
#[must_use]
pub fn transpose_groups(
    values: &[f32],
    columns: usize,
    groups: &[std::ops::Range<usize>],
    padded: &[std::ops::Range<usize>],
    k: usize,
) -> Vec<Option<f32>> {
    let mut out = vec![None; columns * k];
    // Backwards: of groups that share a block, the first has it.
    for (rows, place) in groups.iter().zip(padded).rev() {
        for (i, to) in place.clone().enumerate() {
            let row = rows.start + i;
            for column in 0..columns {
                let value = if row < rows.end {
                    values[row * columns + column]
                } else {
                    0.0
                };
                out[column * k + to] = Some(value);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_known_blocks() {
        let scale = |x: &[f32], format, scaling| scale(x.iter().copied(), format, scaling);
        let (e4m3, e5m2) = (Format::E4m3, Format::E5m2);
        let (exact, power) = (Scaling::Exact, Scaling::PowerOfTwo);
        assert_eq!(scale(&[0.0, -0.0, f32::NAN], e4m3, power), 1.0);
        assert_eq!(scale(&[-896.0, 3.0], e4m3, exact), 2.0);
        assert_eq!(scale(&[-896.0, 3.0], e4m3, power), 2.0);
        assert_eq!(scale(&[897.0], e4m3, power), 4.0);
        assert_eq!(scale(&[57344.0 * 3.0], e5m2, exact), 3.0);
        assert_eq!(scale(&[57344.0 * 3.0], e5m2, power), 4.0);
        assert_eq!(scale(&[f32::from_bits(1)], e4m3, exact), f32::from_bits(1));
        assert_eq!(scale(&[f32::from_bits(1)], e4m3, power), f32::MIN_POSITIVE);
        assert_eq!(scale(&[f32::NEG_INFINITY], e4m3, power), f32::INFINITY);
    }

    #[test]
    fn bytes_of_powers_of_two() {
        for code in 0..255 {
            assert_eq!(to_ue8m0(from_ue8m0(code)), code);
        }
        assert_eq!(
            (to_ue8m0(1.0), to_ue8m0(1.5), to_ue8m0(-2.0)),
            (127, 128, 128)
        );
        assert_eq!((to_ue8m0(0.0), to_ue8m0(f32::from_bits(1))), (0, 0));
        assert_eq!((to_ue8m0(f32::MAX), to_ue8m0(f32::NAN)), (255, 255));
    }

    #[test]
    fn groups_are_padded_and_transposed() {
        let offsets = [0, 1, 1, 130];
        assert_eq!(pad_offsets(&offsets, 130, 512), [0, 128, 128, 384]);
        assert_eq!(pad_offsets(&offsets, 130, 256), [0, 128, 128, 256]);
        assert_eq!(ranges(&[-3, 5, 2, 9], 7), [0..5, 5..5, 2..7]);
        let values = [1.0, 2.0, 3.0, 4.0];
        let out = transpose_groups(&values, 2, &[0..1, 1..2], &[0..2, 2..3], 4);
        let expected = [1.0, 0.0, 3.0, f32::NAN, 2.0, 0.0, 4.0, f32::NAN];
        for (got, want) in out.iter().zip(expected) {
            assert_eq!(*got, Some(want).filter(|w| !w.is_nan()));
        }
    }
}
