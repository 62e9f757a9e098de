//! GEMM on quantised operands: exact values with a bound per element ([`bound`]), and the very bits
//! of the order in which the kernels sum ([`order`]).

pub mod bound;
pub mod order;

pub use bound::gemm as gemm_bounded;
pub use order::gemm as gemm_in_order;

use rayon::prelude::*;

use crate::fp8::{e4m3_exponent, e4m3_to_f64, e5m2_exponent, e5m2_to_f64};

/// K between promotions of FP8, and the edge of a scale block.
pub const BLOCK: usize = 128;

/// Values of a row-major matrix `[rows, k]`.
#[derive(Debug, Clone, Copy)]
pub enum Codes<'a> {
    /// E4M3 codes.
    E4m3(&'a [u8]),
    /// E5M2 codes.
    E5m2(&'a [u8]),
    /// BF16 bits.
    Bf16(&'a [u16]),
}

/// Scales of a matrix.
#[derive(Debug, Clone, Copy)]
pub enum Scales<'a> {
    /// None.
    None,
    /// One per `rows` rows and 128 columns, `[rows / …, k / 128]`, both rounded up, row-major.
    Blocks {
        /// The scales.
        values: &'a [f32],
        /// Rows that share one: 1 or 128.
        rows: usize,
    },
    /// One per row, or one in all.
    Channel(&'a [f32]),
}

/// One operand.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Its values.
    pub codes: Codes<'a>,
    /// Their scales.
    pub scales: Scales<'a>,
    /// Rows.
    pub rows: usize,
}

impl<'a> Operand<'a> {
    /// E4M3 codes with one scale per `row_block` rows and 128 columns.
    #[must_use]
    pub fn e4m3(codes: &'a [u8], scales: &'a [f32], rows: usize, row_block: usize) -> Self {
        Self {
            codes: Codes::E4m3(codes),
            scales: Scales::Blocks {
                values: scales,
                rows: row_block,
            },
            rows,
        }
    }
}

/// The output type whose rounding a bound includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Rounded to BF16.
    Bf16,
    /// F32, no further rounding.
    F32,
}

/// One decoded row, padded with zeros to whole blocks of [`BLOCK`]: values, and 2^exponent of each
/// (0 for zeros).
struct Row {
    values: Vec<f32>,
    powers: Vec<f32>,
    /// No infinity and no NaN.
    finite: bool,
}

/// One row of an operand.
#[derive(Clone, Copy)]
struct Line<'a> {
    operand: &'a Operand<'a>,
    index: usize,
    row: &'a Row,
}

/// `element` of every row of A and row of B, each decoded once; row-major.
fn each<T: Send>(
    a: &Operand<'_>,
    b: &Operand<'_>,
    k: usize,
    element: impl Fn(Line<'_>, Line<'_>) -> T + Sync,
) -> Vec<T> {
    let b_rows: Vec<Row> = (0..b.rows).into_par_iter().map(|n| b.row(n, k)).collect();
    let line = |m: usize| {
        let a_row = a.row(m, k);
        let line = b_rows.iter().enumerate().map(|(index, row)| {
            let a = Line {
                operand: a,
                index: m,
                row: &a_row,
            };
            let b = Line {
                operand: b,
                index,
                row,
            };
            element(a, b)
        });
        line.collect::<Vec<_>>()
    };
    (0..a.rows).into_par_iter().flat_map_iter(line).collect()
}

impl Line<'_> {
    /// Blocks of K.
    fn blocks(&self) -> usize {
        self.row.values.len() / BLOCK
    }

    /// Its scale in a block of K; 1 where scales come last or not at all.
    fn block_scale(&self, block: usize) -> f32 {
        match self.operand.scales {
            Scales::Blocks { values, rows } => values[self.index / rows * self.blocks() + block],
            _ => 1.0,
        }
    }

    /// The scale that is applied at the end.
    fn last_scale(&self) -> Option<f32> {
        match self.operand.scales {
            Scales::Channel(values) if values.len() == 1 => Some(values[0]),
            Scales::Channel(values) => Some(values[self.index]),
            _ => None,
        }
    }
}

impl Operand<'_> {
    fn is_bf16(&self) -> bool {
        matches!(self.codes, Codes::Bf16(_))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "FP8 values and powers are exact in f32"
    )]
    fn row(&self, row: usize, k: usize) -> Row {
        let padded = k.next_multiple_of(BLOCK);
        let range = row * k..(row + 1) * k;
        let power = |exponent: Option<i32>| exponent.map_or(0.0, |e| 2f32.powi(e));
        let (mut values, mut powers): (Vec<f32>, Vec<f32>) = match self.codes {
            Codes::E4m3(codes) => codes[range]
                .iter()
                .map(|&c| (e4m3_to_f64(c) as f32, power(e4m3_exponent(c))))
                .unzip(),
            Codes::E5m2(codes) => codes[range]
                .iter()
                .map(|&c| (e5m2_to_f64(c) as f32, power(e5m2_exponent(c))))
                .unzip(),
            Codes::Bf16(bits) => bits[range]
                .iter()
                .map(|&b| f32::from_bits(u32::from(b) << 16))
                .map(|v| (v, f32::from_bits(v.to_bits() & 0x7f80_0000)))
                .unzip(),
        };
        values.resize(padded, 0.0);
        powers.resize(padded, 0.0);
        let finite = values.iter().all(|v| v.is_finite());
        Row {
            values,
            powers,
            finite,
        }
    }
}
