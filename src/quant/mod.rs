//! Quantisation of BF16 rows to E4M3 with one F32 scale per 128 columns:
//! `scale = amax / 448` (1 for a block of zeros), `code = e4m3(x / scale)`, both IEEE divisions
//! (`csrc/quant/quantise_1x128.cuh` states NaN and infinity too).
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use std::sync::Arc;

use half::bf16;

use crate::device::{Context, Kernel, LaunchConfig, Stream};
use crate::gemm::{
    BLOCK, GemmError, OperandError, Shape, View, ViewMut, multiple, range, scale_stride,
};
use crate::params::Quantise1x128Params;

/// Where the scale of a row and block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleLayout {
    /// `[rows, columns / 128]`: what travels with a row.
    RowMajor,
    /// `[columns / 128, scale_stride(rows)]`: what the GEMM reads of A.
    MMajor,
}

/// A quantisation of one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantDesc {
    /// Rows; 0 is allowed.
    pub rows: u32,
    /// Columns: a positive multiple of 128.
    pub columns: u32,
    /// Layout of the scales.
    pub layout: ScaleLayout,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How a quantisation is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantPlan {
    /// The problem.
    pub desc: QuantDesc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
    /// Scales from one row to the next.
    pub row_stride: u64,
    /// Scales from one block of columns to the next.
    pub block_stride: u64,
    /// Scales in all, padding included.
    pub scales: u64,
}

/// Blocks of 128 values that one CTA quantises at a time: sixteen lanes each.
const BLOCKS_PER_CTA: u64 = 16;
/// CTAs that fit on an SM together.
const CTAS_PER_SM: u64 = 8;

impl QuantPlan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError::Multiple`] when the columns are no multiple of 128, [`OperandError::Range`]
    /// when a size is 0 or too large.
    pub fn new(desc: QuantDesc) -> Result<Self, OperandError> {
        let QuantDesc {
            rows,
            columns,
            layout,
            sms,
        } = desc;
        multiple("columns", columns.into(), BLOCK.into())?;
        range("columns", columns.into(), [BLOCK.into(), i32::MAX as u64])?;
        range("SMs", sms.into(), [1, 1 << 16])?;
        let blocks = u64::from(columns / BLOCK);
        let stride = u64::from(scale_stride(rows));
        let (row_stride, block_stride, scales) = match layout {
            ScaleLayout::RowMajor => (blocks, 1, blocks * u64::from(rows)),
            ScaleLayout::MMajor => (1, stride, blocks * stride),
        };
        let ctas = (u64::from(rows) * blocks).div_ceil(BLOCKS_PER_CTA);
        let grid = ctas.min(u64::from(sms) * CTAS_PER_SM);
        Ok(Self {
            desc,
            grid: u32::try_from(grid).unwrap_or(u32::MAX),
            row_stride,
            block_stride,
            scales,
        })
    }
}

/// A planned quantisation with its kernel loaded in one context.
#[derive(Debug)]
pub struct Quantise {
    plan: QuantPlan,
    kernel: Kernel,
}

impl Quantise {
    /// Loads the kernel.
    ///
    /// # Errors
    /// A driver error.
    pub fn new(context: &Arc<Context>, plan: QuantPlan) -> Result<Self, GemmError> {
        let kernel = context.kernel("quantise_1x128")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &QuantPlan {
        &self.plan
    }

    /// Enqueues the quantisation of `input` `[rows, columns]` into `codes` `[rows, columns]` and
    /// `scales` (the plan's number) on `stream` and returns; nothing is waited for. Padding of
    /// M-major scales is not written.
    ///
    /// # Errors
    /// A length or an alignment (input 16 bytes, codes 8, scales 4) that does not fit,
    /// [`OperandError::WrongContext`], or a driver error.
    pub fn run(
        &self,
        stream: &Stream,
        input: View<'_, bf16>,
        codes: ViewMut<'_, u8>,
        scales: ViewMut<'_, f32>,
    ) -> Result<(), GemmError> {
        let QuantDesc { rows, columns, .. } = self.plan.desc;
        let elements = Shape::matrix(rows, columns).elements();
        input.check("input", elements, 16)?;
        codes.check("codes", elements, 8)?;
        scales.check("scales", self.plan.scales, 4)?;
        let contexts = [
            ("input", input.context()),
            ("codes", codes.context()),
            ("scales", scales.context()),
        ];
        if let Some(&(what, _)) = contexts
            .iter()
            .find(|(_, c)| !Arc::ptr_eq(c, stream.context()))
        {
            return Err(OperandError::WrongContext { what }.into());
        }
        if self.plan.grid == 0 {
            return Ok(());
        }
        let params = Quantise1x128Params {
            input: input.address(),
            codes: codes.address(),
            scales: scales.address(),
            scale_row_stride: self.plan.row_stride,
            scale_block_stride: self.plan.block_stride,
            rows,
            blocks: columns / BLOCK,
        };
        let config = LaunchConfig::new(&self.kernel, [self.plan.grid, 1, 1]);
        // SAFETY: (1) lengths and alignments were checked, and views are valid on the stream's
        // device; (2) and (3) are the contract of views.
        unsafe { stream.launch(&self.kernel, &config, &params) }?;
        Ok(())
    }
}
