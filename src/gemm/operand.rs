//! Operands in device memory: views with an element type, and matrices whose shape, length and
//! alignment were checked when they were made.
//!
//! # Safety
//! A view made from a buffer is valid while it borrows the buffer; [`View::from_raw`] and
//! [`ViewMut::from_raw`] hand that duty to their callers.
#![expect(
    unsafe_code,
    reason = "views of memory that is not a Buffer are made from raw addresses"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use half::bf16;

use super::error::{OperandError, multiple};
use super::plan::{BLOCK, scale_stride};
use crate::device::{Buffer, Context};

/// `len` elements of `T` in device memory that kernels may read.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    context: &'a Arc<Context>,
    address: u64,
    len: usize,
    element: PhantomData<&'a [T]>,
}

/// `len` elements of `T` in device memory that kernels may write.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    context: &'a Arc<Context>,
    address: u64,
    len: usize,
    element: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> View<'a, T> {
    /// A view of memory that is no [`Buffer`].
    ///
    /// # Safety
    /// `address` leads to `len` elements that stay allocated, readable from `context`'s device and
    /// unwritten until every stream that a kernel with this view was enqueued on is past it.
    #[must_use]
    pub unsafe fn from_raw(context: &'a Arc<Context>, address: u64, len: usize) -> Self {
        Self {
            context,
            address,
            len,
            element: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Errors
    /// [`OperandError::Slice`] when it does not lie within the view.
    pub fn slice(self, range: Range<usize>) -> Result<Self, OperandError> {
        let (address, len) = slice::<T>(self.address, self.len, range)?;
        Ok(Self {
            address,
            len,
            ..self
        })
    }

    /// Device address of the first element.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn context(&self) -> &'a Arc<Context> {
        self.context
    }

    pub(crate) fn check(
        &self,
        what: &'static str,
        len: u64,
        align: u64,
    ) -> Result<(), OperandError> {
        check(what, (self.address, self.len), len, align)
    }
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// A view of memory that is no [`Buffer`].
    ///
    /// # Safety
    /// `address` leads to `len` elements that stay allocated, writable from `context`'s device and
    /// otherwise unused until every stream that a kernel with this view was enqueued on is past it.
    #[must_use]
    pub unsafe fn from_raw(context: &'a Arc<Context>, address: u64, len: usize) -> Self {
        Self {
            context,
            address,
            len,
            element: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Errors
    /// [`OperandError::Slice`] when it does not lie within the view.
    pub fn slice(self, range: Range<usize>) -> Result<Self, OperandError> {
        let (address, len) = slice::<T>(self.address, self.len, range)?;
        Ok(Self {
            address,
            len,
            ..self
        })
    }

    /// Device address of the first element.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn context(&self) -> &'a Arc<Context> {
        self.context
    }

    pub(crate) fn check(
        &self,
        what: &'static str,
        len: u64,
        align: u64,
    ) -> Result<(), OperandError> {
        check(what, (self.address, self.len), len, align)
    }
}

impl<'a, T: Pod> From<&'a Buffer<T>> for View<'a, T> {
    fn from(buffer: &'a Buffer<T>) -> Self {
        Self {
            context: buffer.context(),
            address: buffer.address(),
            len: buffer.len(),
            element: PhantomData,
        }
    }
}

impl<'a, T: Pod> From<&'a mut Buffer<T>> for ViewMut<'a, T> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        Self {
            context: buffer.context(),
            address: buffer.address(),
            len: buffer.len(),
            element: PhantomData,
        }
    }
}

fn slice<T>(address: u64, len: usize, range: Range<usize>) -> Result<(u64, usize), OperandError> {
    let Range { start, end } = range;
    if start > end || end > len {
        return Err(OperandError::Slice { start, end, len });
    }
    // Cannot wrap: the view is memory that exists.
    Ok((address + (start * size_of::<T>()) as u64, end - start))
}

fn check(
    what: &'static str,
    (address, found): (u64, usize),
    expected: u64,
    of: u64,
) -> Result<(), OperandError> {
    let found = found as u64;
    if found != expected {
        return Err(OperandError::Length {
            what,
            found,
            expected,
        });
    }
    if !address.is_multiple_of(of) {
        return Err(OperandError::Alignment { what, address, of });
    }
    Ok(())
}

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

    pub(crate) fn elements(self) -> u64 {
        u64::from(self.slots) * u64::from(self.rows) * u64::from(self.columns)
    }
}

/// A: E4M3 codes `[slots, rows, k]` with F32 scales per 1×128, stored M-major:
/// `[slots, k / 128, scale_stride]`, of which the first `rows` of each line count.
#[derive(Debug, Clone, Copy)]
pub struct Fp8Matrix<'a> {
    pub(crate) codes: View<'a, u8>,
    pub(crate) scales: View<'a, f32>,
    pub(crate) shape: Shape,
    pub(crate) scale_stride: u32,
}

impl<'a> Fp8Matrix<'a> {
    /// Checks and joins the two parts; lines of scales are [`scale_stride`]`(rows)` apart.
    ///
    /// # Errors
    /// K no multiple of 128, a length that is not the shape's, or an address that is no multiple of
    /// 16.
    pub fn new(
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
    ) -> Result<Self, OperandError> {
        Self::with_scale_stride(codes, scales, shape, scale_stride(shape.rows))
    }

    /// The same with lines of scales `stride` apart.
    ///
    /// # Errors
    /// As [`Self::new`]; a stride below the rows or no multiple of 4.
    pub fn with_scale_stride(
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
        stride: u32,
    ) -> Result<Self, OperandError> {
        let (codes, scales) = (codes.into(), scales.into());
        multiple("K", shape.columns.into(), BLOCK.into())?;
        multiple("scale stride of A", stride.into(), 4)?;
        super::error::range(
            "scale stride of A",
            stride.into(),
            [shape.rows.into(), u32::MAX.into()],
        )?;
        codes.check("codes of A", shape.elements(), 16)?;
        let lines = u64::from(shape.slots) * u64::from(shape.columns / BLOCK);
        scales.check("scales of A", lines * u64::from(stride), 16)?;
        Ok(Self {
            codes,
            scales,
            shape,
            scale_stride: stride,
        })
    }
}

/// B: E4M3 codes `[groups, n, k]` with F32 scales per 128×128, `[groups, n / 128, k / 128]`.
#[derive(Debug, Clone, Copy)]
pub struct Fp8Weights<'a> {
    pub(crate) codes: View<'a, u8>,
    pub(crate) scales: View<'a, f32>,
    pub(crate) shape: Shape,
}

impl<'a> Fp8Weights<'a> {
    /// Checks and joins the two parts; `shape` is groups, N and K.
    ///
    /// # Errors
    /// N or K no multiple of 128, a length that is not the shape's, or a misaligned address (codes
    /// 16 bytes, scales 4).
    pub fn new(
        codes: impl Into<View<'a, u8>>,
        scales: impl Into<View<'a, f32>>,
        shape: Shape,
    ) -> Result<Self, OperandError> {
        let (codes, scales) = (codes.into(), scales.into());
        multiple("N", shape.rows.into(), BLOCK.into())?;
        multiple("K", shape.columns.into(), BLOCK.into())?;
        codes.check("codes of B", shape.elements(), 16)?;
        let blocks = u64::from(shape.slots) * u64::from(shape.rows / BLOCK);
        scales.check("scales of B", blocks * u64::from(shape.columns / BLOCK), 4)?;
        Ok(Self {
            codes,
            scales,
            shape,
        })
    }
}

/// D: BF16 `[slots, rows, n]`.
#[derive(Debug)]
pub struct Bf16Matrix<'a> {
    pub(crate) values: ViewMut<'a, bf16>,
    pub(crate) shape: Shape,
}

impl<'a> Bf16Matrix<'a> {
    /// Checks the memory against the shape.
    ///
    /// # Errors
    /// A length that is not the shape's, or an address that is no multiple of 16.
    pub fn new(values: impl Into<ViewMut<'a, bf16>>, shape: Shape) -> Result<Self, OperandError> {
        let values = values.into();
        values.check("D", shape.elements(), 16)?;
        Ok(Self { values, shape })
    }
}

/// Which group a row of A belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// Dense form: there is one.
    None,
    /// Contiguous form: the group of each row, `[rows]`. A negative number marks padding, and so
    /// does one that is no group: such rows of D are not written. Within a block of 128 rows only
    /// the group of the block's first row counts.
    OfRows(View<'a, i32>),
    /// Masked form: rows in use of each slot, `[groups]`. Below 0 counts as 0, above the slot as
    /// all of it.
    Counts(View<'a, i32>),
}
