//! FP8 with scales to BF16; `csrc/quant/dequantise.cuh`.

use std::sync::Arc;

use super::launch::{Memory, enqueue, grid, unchanged};
use super::{Scaling, blocks, check_shape, rule, same_shape};
use crate::device::{Context, Kernel, Stream};
use crate::gemm::{
    BLOCK, GemmError, Matrix, MatrixMut, MatrixScales, OperandError, Shape, Values, ValuesMut,
};
use crate::params::DequantiseParams;

/// A conversion back to BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DequantiseDesc {
    /// Of codes and output. Any number of rows, 0 included; columns are a positive multiple of 16.
    pub shape: Shape,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How a conversion is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DequantisePlan {
    /// The problem.
    pub desc: DequantiseDesc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
}

/// Codes that a CTA converts at a time: 256 threads, 16 each.
const CODES_PER_CTA: u64 = 256;
/// CTAs that fit on an SM together.
const CTAS_PER_SM: u32 = 8;

impl DequantisePlan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError`]: columns no positive multiple of 16, no SMs, or a matrix of 2³¹ rows or
    /// 2³⁵ codes.
    pub fn new(desc: DequantiseDesc) -> Result<Self, OperandError> {
        check_shape(desc.shape)?;
        let sixteens = desc.shape.elements() / 16;
        let grid = grid(
            "sixteens of codes",
            sixteens,
            CODES_PER_CTA,
            [desc.sms, CTAS_PER_SM],
        )?;
        Ok(Self { desc, grid })
    }
}

/// A planned conversion with its kernel loaded in one context: `bf16(code · scale)`, the product
/// rounded to F32 and then to BF16, each to nearest even. A NaN is 0x7fff.
///
/// ```no_run
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::{Format, Matrix, MatrixMut, Shape};
/// # use hadal::quant::{Dequantise, DequantiseDesc, DequantisePlan};
/// # use half::bf16;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new(0)?;
/// let stream = Stream::new(&context)?;
/// let shape = Shape::matrix(256, 512);
/// let codes = Buffer::<u8>::zeroed(&stream, 256 * 512)?;
/// let scales = Buffer::<f32>::zeroed(&stream, 2 * 4)?;
/// let mut values = Buffer::<bf16>::alloc(&context, 256 * 512)?;
/// let sms = context.multiprocessors()?;
/// let plan = DequantisePlan::new(DequantiseDesc { shape, sms })?;
/// Dequantise::new(&context, plan)?.run(
///     &stream,
///     &Matrix::fp8_blocks(Format::E4m3, &codes, &scales, shape)?,
///     &mut MatrixMut::bf16(&mut values, shape)?,
/// )?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Dequantise {
    plan: DequantisePlan,
    kernel: Kernel,
}

impl Dequantise {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: DequantisePlan) -> Result<Self, GemmError> {
        unchanged(&plan, &DequantisePlan::new(plan.desc)?)?;
        let kernel = context.kernel("dequantise")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &DequantisePlan {
        &self.plan
    }

    /// Enqueues the conversion of `input`, FP8 with scales of any kind, into `output`, BF16, on
    /// `stream`.
    ///
    /// # Errors
    /// Another shape than the plan's, BF16 as input or F32 as output, operands that overlap, memory
    /// of another context, or a driver error: then nothing is launched.
    pub fn run(
        &self,
        stream: &Stream,
        input: &Matrix<'_>,
        output: &mut MatrixMut<'_>,
    ) -> Result<(), GemmError> {
        let shape = self.plan.desc.shape;
        same_shape(input.shape, shape)?;
        same_shape(output.shape, shape)?;
        let (codes, view) = match (&input.values, &output.values) {
            (Values::Bf16(_), _) => return Err(kind("input", "BF16", "E4M3 or E5M2")),
            (_, ValuesMut::F32(_)) => return Err(kind("output", "F32", "BF16")),
            (Values::Codes(codes), ValuesMut::Bf16(view)) => (codes, view),
        };
        let lines = u64::from(blocks(shape));
        let rows = u64::from(shape.rows);
        let (scales, [slot, row, block], rows_log2) = match &input.scales {
            MatrixScales::Rows { values, stride } => {
                let stride = u64::from(*stride);
                (values, [lines * stride, 1, stride], 0)
            }
            MatrixScales::Blocks(values) => {
                let slot = rows.div_ceil(BLOCK.into()) * lines;
                (values, [slot, lines, 1], BLOCK.ilog2())
            }
            MatrixScales::Channel { values, stride } => {
                let stride = u64::from(*stride);
                (values, [rows * stride, stride, 0], 0)
            }
            MatrixScales::None => return Err(kind("input", input.scales.name(), "scales")),
        };
        let inputs = [Memory::of("input", codes), Memory::of("scales", scales)];
        let outputs = [Memory::of_mut("output", view)];
        let params = DequantiseParams {
            codes: codes.address(),
            scales: scales.address(),
            output: view.address(),
            scale_slot_stride: slot,
            scale_row_stride: row,
            scale_block_stride: block,
            slots: shape.slots,
            rows: shape.rows,
            columns: shape.columns,
            rows_log2,
            rule: rule(input.format, Scaling::Exact)?,
            reserved: 0,
        };
        enqueue(
            stream,
            (&self.kernel, self.plan.grid),
            &inputs,
            &outputs,
            &params,
        )
    }
}

fn kind(what: &'static str, found: &'static str, expected: &'static str) -> GemmError {
    OperandError::Kind {
        what,
        found,
        expected,
    }
    .into()
}
