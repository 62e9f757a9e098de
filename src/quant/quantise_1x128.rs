//! BF16 to FP8 with one scale per row and 128 columns; `csrc/quant/quantise_1x128.cuh`.

use std::sync::Arc;

use half::bf16;

use super::launch::{Memory, enqueue, grid, unchanged};
use super::{ScaleLayout, Scaling, blocks, check_shape, rule};
use crate::device::{Context, Kernel, Stream};
use crate::gemm::{Format, GemmError, OperandError, Shape, View, ViewMut};
use crate::params::Quantise1x128Params;

/// A quantisation of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantise1x128Desc {
    /// Of input and codes. Any number of rows, 0 included; columns are a positive multiple of 16,
    /// and the last block of 128 may be narrower.
    pub shape: Shape,
    /// Format of the codes: E4M3 or E5M2.
    pub format: Format,
    /// Layout of the scales.
    pub layout: ScaleLayout,
    /// Which scales.
    pub scaling: Scaling,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How a quantisation is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantise1x128Plan {
    /// The problem.
    pub desc: Quantise1x128Desc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
    /// Scales in all, padding of M-major lines included.
    pub scales: u64,
}

/// Blocks of 128 values that one CTA quantises at a time: sixteen lanes each.
const BLOCKS_PER_CTA: u64 = 16;
/// CTAs that fit on an SM together.
const CTAS_PER_SM: u32 = 8;

impl Quantise1x128Plan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError`]: columns no positive multiple of 16, BF16 as format, no SMs, or a matrix of
    /// 2³¹ rows or blocks.
    pub fn new(desc: Quantise1x128Desc) -> Result<Self, OperandError> {
        let shape = desc.shape;
        check_shape(shape)?;
        rule(desc.format, desc.scaling)?;
        let rows = u64::from(shape.slots) * u64::from(shape.rows);
        let items = rows * u64::from(blocks(shape));
        Ok(Self {
            desc,
            grid: grid("blocks", items, BLOCKS_PER_CTA, [desc.sms, CTAS_PER_SM])?,
            scales: desc.layout.strides(shape).len,
        })
    }
}

/// A planned quantisation with its kernel loaded in one context.
///
/// ```no_run
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::{Format, Matrix, Shape};
/// # use hadal::quant::{Quantise1x128, Quantise1x128Desc, Quantise1x128Plan, ScaleLayout, Scaling};
/// # use half::bf16;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new(0)?;
/// let stream = Stream::new(&context)?;
/// let shape = Shape::matrix(100, 7168);
/// let plan = Quantise1x128Plan::new(Quantise1x128Desc {
///     shape,
///     format: Format::E4m3,
///     layout: ScaleLayout::MMajor,
///     scaling: Scaling::Exact,
///     sms: context.multiprocessors()?,
/// })?;
/// let x = Buffer::<bf16>::zeroed(&stream, 100 * 7168)?;
/// let mut codes = Buffer::<u8>::alloc(&context, 100 * 7168)?;
/// let mut scales = Buffer::<f32>::alloc(&context, plan.scales as usize)?;
/// let quantise = Quantise1x128::new(&context, plan)?;
/// quantise.run(&stream, (&x).into(), (&mut codes).into(), (&mut scales).into())?;
/// let a = Matrix::fp8_rows(Format::E4m3, &codes, &scales, shape)?;
/// # let _ = a;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Quantise1x128 {
    plan: Quantise1x128Plan,
    kernel: Kernel,
}

impl Quantise1x128 {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: Quantise1x128Plan) -> Result<Self, GemmError> {
        unchanged(&plan, &Quantise1x128Plan::new(plan.desc)?)?;
        let kernel = context.kernel("quantise_1x128")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Quantise1x128Plan {
        &self.plan
    }

    /// Enqueues the quantisation of `input` `[slots, rows, columns]` into `codes` of the same shape
    /// and `scales` (the plan's number) on `stream`.
    ///
    /// # Errors
    /// A length or an alignment (input 16 bytes, codes 8, scales 4) that does not fit, operands that
    /// overlap, memory of another context, or a driver error: then nothing is launched.
    pub fn run(
        &self,
        stream: &Stream,
        input: View<'_, bf16>,
        codes: ViewMut<'_, u8>,
        scales: ViewMut<'_, f32>,
    ) -> Result<(), GemmError> {
        let desc = &self.plan.desc;
        let (shape, rule) = (desc.shape, rule(desc.format, desc.scaling)?);
        let strides = desc.layout.strides(shape);
        let elements = shape.elements();
        let inputs = [Memory::input("input", &input, elements, 16)?];
        let outputs = [
            Memory::output("codes", &codes, elements, 8)?,
            Memory::output("scales", &scales, strides.len, 4)?,
        ];
        let params = Quantise1x128Params {
            input: input.address(),
            codes: codes.address(),
            scales: scales.address(),
            scale_slot_stride: strides.slot,
            scale_row_stride: strides.row,
            scale_block_stride: strides.block,
            slots: shape.slots,
            rows: shape.rows,
            columns: shape.columns,
            rule,
        };
        let launch = (&self.kernel, self.plan.grid);
        enqueue(stream, launch, &inputs, &outputs, &params)
    }
}
