//! Kernels that prepare operands of the GEMM: quantisation to FP8 and back, layouts of scales,
//! transposition for weight gradients.
//!
//! | kernel | from | to |
//! |---|---|---|
//! | [`Quantise1x128`] | BF16 | codes, scales per 1×128: [`Matrix::fp8_rows`] |
//! | [`Quantise128x128`] | BF16 | codes, scales per 128×128: [`Matrix::fp8_blocks`] |
//! | [`Dequantise`] | codes and scales of any kind | BF16 |
//! | [`TransposeScales`] | scales `[rows, columns / 128]` | M-major scales, or back |
//! | [`PackUe8m0`], [`UnpackUe8m0`] | F32 scales | powers of two in bytes, four in a word, or back |
//! | [`PadOffsets`] | offsets of groups of rows | offsets in multiples of 128 |
//! | [`TransposeQuantise`] | BF16 or FP8 rows in groups | their transpose with scales along the rows: an operand of the K-grouped GEMM |
//!
//! Each is a description → a plan (pure) → a kernel loaded in a context → `run`, which checks its
//! operands, enqueues one launch on the stream it is given and returns: nothing is allocated or
//! waited for, so it may be captured in a graph. An output overlaps neither an input nor another
//! output. When `run` fails, nothing was launched; errors of the execution appear at a later
//! synchronisation.
//!
//! # How a block becomes codes
//!
//! `scale = amax / 448` (57 344 for E5M2), 1 for a block of zeros; `code = fp8(x / scale)`. Both
//! divisions are IEEE's in F32, codes are rounded to nearest even, and an oracle reproduces every
//! bit. [`Scaling::PowerOfTwo`] rounds the scale up to a power of two.
//!
//! | input | outcome |
//! |---|---|
//! | zeros only | scale 1, codes 0 with the signs of the zeros |
//! | subnormal values | exact like all others; where `amax / 448` is below 2⁻¹⁴⁹, the scale is that |
//! | NaN | its code is NaN (0x7f); it does not count for the scale |
//! | ±∞ | the scale is ∞ and the block is lost: the code of ±∞ is NaN, all finite ones are 0, and 0 · ∞ is NaN |
//!
//! (`csrc/quant/block_scale.cuh`.)
//!
//! [`Matrix::fp8_rows`]: crate::gemm::Matrix::fp8_rows
//! [`Matrix::fp8_blocks`]: crate::gemm::Matrix::fp8_blocks

mod dequantise;
mod launch;
mod quantise_128x128;
mod quantise_1x128;
mod transpose_quantise;
mod transpose_scales;
mod ue8m0;

pub use dequantise::{Dequantise, DequantiseDesc, DequantisePlan};
pub use quantise_1x128::{Quantise1x128, Quantise1x128Desc, Quantise1x128Plan};
pub use quantise_128x128::{Quantise128x128, Quantise128x128Desc, Quantise128x128Plan};
pub use transpose_quantise::{
    PadOffsets, PadOffsetsDesc, TransposeQuantise, TransposeQuantiseDesc,
    TransposeQuantiseOperands, TransposeQuantisePlan, padded_rows,
};
pub use transpose_scales::{TransposeScales, TransposeScalesDesc, TransposeScalesPlan};
pub use ue8m0::{PackUe8m0, Ue8m0Desc, Ue8m0Plan, UnpackUe8m0};

use crate::gemm::{BLOCK, Format, OperandError, Shape, multiple, range, scale_stride};
use crate::params::{HADAL_QUANT_E5M2, HADAL_QUANT_POWER_OF_TWO};

/// Where the scale of a row and block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleLayout {
    /// `[slots, rows, columns / 128 rounded up]`: what travels with a row.
    RowMajor,
    /// `[slots, columns / 128 rounded up, scale_stride(rows)]`: what the GEMM reads per 1×128. What
    /// is behind the last row of a line is neither read nor written.
    MMajor,
}

/// Which scales a quantisation may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// `amax / largest`.
    Exact,
    /// The same rounded up to a power of two, at least 2⁻¹²⁶: what [`PackUe8m0`] keeps exactly.
    PowerOfTwo,
}

/// Where scales of a matrix per 1×128 lie, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Strides {
    slot: u64,
    row: u64,
    block: u64,
    /// Scales in all, padding included.
    len: u64,
}

impl ScaleLayout {
    fn strides(self, shape: Shape) -> Strides {
        let (rows, blocks) = (u64::from(shape.rows), u64::from(blocks(shape)));
        let (row, block, slot) = match self {
            Self::RowMajor => (blocks, 1, rows * blocks),
            Self::MMajor => {
                let stride = u64::from(scale_stride(shape.rows));
                (1, stride, blocks * stride)
            }
        };
        Strides {
            slot,
            row,
            block,
            len: u64::from(shape.slots) * slot,
        }
    }
}

/// Blocks of 128 columns.
fn blocks(shape: Shape) -> u32 {
    shape.columns.div_ceil(BLOCK)
}

/// Columns as the GEMM has them, and a number of rows that strides can be made from.
fn check_shape(shape: Shape) -> Result<(), OperandError> {
    multiple("columns", shape.columns.into(), 16)?;
    range("columns", shape.columns.into(), [16, i32::MAX as u64])?;
    let rows = u64::from(shape.slots) * u64::from(shape.rows);
    range("rows", rows, [0, i32::MAX as u64])
}

/// A kernel's `rule` for codes of `format`.
fn rule(format: Format, scaling: Scaling) -> Result<u32, OperandError> {
    let format = match format {
        Format::E4m3 => 0,
        Format::E5m2 => HADAL_QUANT_E5M2,
        Format::Bf16 => {
            return Err(OperandError::Kind {
                what: "codes",
                found: format.name(),
                expected: "E4M3 or E5M2",
            });
        }
    };
    let scaling = match scaling {
        Scaling::Exact => 0,
        Scaling::PowerOfTwo => HADAL_QUANT_POWER_OF_TWO,
    };
    Ok(format | scaling)
}

/// Fails when an operand has another shape than the plan.
fn same_shape(found: Shape, expected: Shape) -> Result<(), OperandError> {
    let sizes = [
        ("slots", found.slots, expected.slots),
        ("rows", found.rows, expected.rows),
        ("columns", found.columns, expected.columns),
    ];
    match sizes.iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some(&(what, found, expected)) => Err(OperandError::Shape {
            what,
            found: found.into(),
            expected: expected.into(),
        }),
    }
}
