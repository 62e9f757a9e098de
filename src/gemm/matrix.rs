//! Operands: matrices in device memory whose shape, length and alignment were checked when they
//! were made.

use half::bf16;

use super::desc::{BLOCK, Format, scale_stride};
use super::error::{OperandError, multiple, range};
use super::view::{View, ViewMut};

/// Sizes of a stack of equal matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Matrices.
    pub slots: u32,
    /// Rows of each.
    pub rows: u32,
    /// Columns: the contiguous dimension.
    pub columns: u32,
}

impl Shape {
    /// One matrix.
    #[must_use]
    pub const fn matrix(rows: u32, columns: u32) -> Self {
        Self {
            slots: 1,
            rows,
            columns,
        }
    }

    /// Saturates: memory of so many elements does not exist, so no length equals it.
    pub(crate) fn elements(self) -> u64 {
        let matrix = u64::from(self.rows) * u64::from(self.columns);
        matrix.saturating_mul(self.slots.into())
    }
}

/// Memory of the values of a matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    Codes(View<'a, u8>),
    Bf16(View<'a, bf16>),
}

/// Scales of a matrix, and how they lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MatrixScales<'a> {
    None,
    /// Per 1×128, lines of one block of columns `stride` apart.
    Rows {
        values: View<'a, f32>,
        stride: u32,
    },
    /// Per 128×128.
    Blocks(View<'a, f32>),
    /// Per row (`stride` 1), or one in all (0).
    Channel {
        values: View<'a, f32>,
        stride: u32,
    },
}

impl MatrixScales<'_> {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::None => "no scales",
            Self::Rows { .. } => "scales per 1x128",
            Self::Blocks(_) => "scales per 128x128",
            Self::Channel { .. } => "channel scales",
        }
    }
}

/// An input: `[slots, rows, columns]`, row-major, columns along K.
///
/// A checked description of memory that it borrows: making one costs no call of the driver.
///
/// ```
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::{Format, Matrix, Shape, scale_stride};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = Stream::new(&Context::new(0)?)?;
/// // 100 rows of K = 512: four scales per row, stored block by block.
/// let codes = Buffer::<u8>::zeroed(&stream, 100 * 512)?;
/// let scales = Buffer::<f32>::zeroed(&stream, 4 * scale_stride(100) as usize)?;
/// let a = Matrix::fp8_rows(Format::E4m3, &codes, &scales, Shape::matrix(100, 512))?;
///
/// let short = Matrix::fp8_rows(Format::E4m3, &codes, &scales, Shape::matrix(101, 512));
/// let error = short.map(|_| ()).unwrap_err().to_string();
/// assert_eq!(error, "scales: 400 elements, expected 416");
/// # let _ = a;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) format: Format,
    pub(crate) values: Values<'a>,
    pub(crate) scales: MatrixScales<'a>,
    pub(crate) shape: Shape,
}

impl<'a> Matrix<'a> {
    /// FP8 codes with one F32 scale per row and 128 columns, stored M-major:
    /// `[slots, columns / 128 rounded up, scale_stride(rows)]`, of which the first `rows` of each line
    /// count. A of the 1d2d and both operands of the 1d1d kernels.
    ///
    /// # Errors
    /// [`OperandError`]: BF16 as format, columns no multiple of 16, a length that is not the
    /// shape's, or an address that is no multiple of 16.
    pub fn fp8_rows(
        format: Format,
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
    ) -> Result<Self, OperandError> {
        Self::fp8_rows_with_stride(format, codes, scales, shape, scale_stride(shape.rows))
    }

    /// The same with lines of scales `stride` apart.
    ///
    /// # Errors
    /// As [`Self::fp8_rows`]; a stride below the rows or no multiple of 4.
    pub fn fp8_rows_with_stride(
        format: Format,
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
        stride: u32,
    ) -> Result<Self, OperandError> {
        multiple("scale stride", stride.into(), 4)?;
        range(
            "scale stride",
            stride.into(),
            [shape.rows.into(), u32::MAX.into()],
        )?;
        let values = scales.into();
        let lines = u64::from(shape.slots) * u64::from(shape.columns.div_ceil(BLOCK));
        values.check("scales", lines.saturating_mul(stride.into()), 16)?;
        Self::fp8(
            format,
            codes.into(),
            MatrixScales::Rows { values, stride },
            shape,
        )
    }

    /// FP8 codes with one F32 scale per 128×128:
    /// `[slots, rows / 128 rounded up, columns / 128 rounded up]`. B of the 1d2d kernels.
    ///
    /// # Errors
    /// [`OperandError`]: BF16 as format, columns no multiple of 16, a length that is not the
    /// shape's, or a misaligned address (codes 16 bytes, scales 4).
    pub fn fp8_blocks(
        format: Format,
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
    ) -> Result<Self, OperandError> {
        let values = scales.into();
        let blocks =
            u64::from(shape.rows.div_ceil(BLOCK)) * u64::from(shape.columns.div_ceil(BLOCK));
        values.check("scales", blocks.saturating_mul(shape.slots.into()), 4)?;
        Self::fp8(format, codes.into(), MatrixScales::Blocks(values), shape)
    }

    /// FP8 codes with one F32 scale per row, `[slots, rows]`, or one in all.
    ///
    /// # Errors
    /// [`OperandError`]: BF16 as format, columns no multiple of 16, scales neither one nor as many
    /// as rows, codes of another length than the shape's, or a misaligned address (codes 16 bytes,
    /// scales 4).
    pub fn fp8_channel(
        format: Format,
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
    ) -> Result<Self, OperandError> {
        let values = scales.into();
        let rows = u64::from(shape.slots) * u64::from(shape.rows);
        let stride = u32::from(values.len() != 1 || rows == 1);
        values.check("scales", if stride == 0 { 1 } else { rows }, 4)?;
        Self::fp8(
            format,
            codes.into(),
            MatrixScales::Channel { values, stride },
            shape,
        )
    }

    /// BF16 values without scales.
    ///
    /// # Errors
    /// [`OperandError`]: columns no multiple of 16, a length that is not the shape's, or an address
    /// that is no multiple of 16.
    pub fn bf16(values: impl Into<View<'a, bf16>>, shape: Shape) -> Result<Self, OperandError> {
        let values = values.into();
        multiple("columns", shape.columns.into(), 16)?;
        values.check("values", shape.elements(), 16)?;
        Ok(Self {
            format: Format::Bf16,
            values: Values::Bf16(values),
            scales: MatrixScales::None,
            shape,
        })
    }

    fn fp8(
        format: Format,
        codes: View<'a, u8>,
        scales: MatrixScales<'a>,
        shape: Shape,
    ) -> Result<Self, OperandError> {
        if format == Format::Bf16 {
            return Err(OperandError::Kind {
                what: "codes",
                found: format.name(),
                expected: "E4M3 or E5M2",
            });
        }
        multiple("columns", shape.columns.into(), 16)?;
        codes.check("codes", shape.elements(), 16)?;
        Ok(Self {
            format,
            values: Values::Codes(codes),
            scales,
            shape,
        })
    }

    pub(crate) fn address(&self) -> u64 {
        match &self.values {
            Values::Codes(view) => view.address(),
            Values::Bf16(view) => view.address(),
        }
    }
}

/// Memory of an output.
#[derive(Debug)]
pub(crate) enum ValuesMut<'a> {
    Bf16(ViewMut<'a, bf16>),
    F32(ViewMut<'a, f32>),
}

/// An output: `[slots, rows, columns]`, row-major, the address a multiple of 16 bytes. It borrows its
/// memory mutably, so that no input can be part of the same buffer.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub(crate) values: ValuesMut<'a>,
    pub(crate) shape: Shape,
}

impl<'a> MatrixMut<'a> {
    /// BF16 values.
    ///
    /// # Errors
    /// A length that is not the shape's, or an address that is no multiple of 16.
    pub fn bf16(values: impl Into<ViewMut<'a, bf16>>, shape: Shape) -> Result<Self, OperandError> {
        let values = values.into();
        values.check("D", shape.elements(), 16)?;
        Ok(Self {
            values: ValuesMut::Bf16(values),
            shape,
        })
    }

    /// F32 values.
    ///
    /// # Errors
    /// As [`Self::bf16`].
    pub fn f32(values: impl Into<ViewMut<'a, f32>>, shape: Shape) -> Result<Self, OperandError> {
        let values = values.into();
        values.check("D", shape.elements(), 16)?;
        Ok(Self {
            values: ValuesMut::F32(values),
            shape,
        })
    }

    pub(crate) fn address(&self) -> u64 {
        match &self.values {
            ValuesMut::Bf16(view) => view.address(),
            ValuesMut::F32(view) => view.address(),
        }
    }
}

/// Which group a row of A belongs to: what the plan's [`Form`](super::Form) reads on the device.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// Dense and batched forms: nothing to say.
    None,
    /// Contiguous form: the group of each row, `[rows]`. A negative number marks padding, and so
    /// does one that is no group: such rows of D are not written. Within a block of
    /// [`GROUP_ALIGNMENT`](super::GROUP_ALIGNMENT) rows only the group of the block's first row
    /// counts.
    OfRows(View<'a, i32>),
    /// Masked form: rows in use of each slot, `[groups]`. Below 0 counts as 0, above the slot as
    /// all of it.
    Counts(View<'a, i32>),
    /// Offsets and K-grouped forms: where each group begins, and where the last one ends,
    /// `[groups + 1]`, ascending: rows of A and D, or columns of K in multiples of 128. Rows before
    /// the first and behind the last are not written. An entry below 0 counts as 0, one above the
    /// extent as that, and a group that ends before it begins is empty.
    Offsets(View<'a, i32>),
}

impl Groups<'_> {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OfRows(_) => "groups of rows",
            Self::Counts(_) => "counts",
            Self::Offsets(_) => "offsets",
        }
    }
}
