//! BF16 to FP8 with one scale per 128 rows and 128 columns; `csrc/quant/quantise_128x128.cuh`.

use std::sync::Arc;

use half::bf16;

use super::launch::{Memory, enqueue, grid, unchanged};
use super::{Scaling, blocks, check_shape, rule};
use crate::device::{Context, Kernel, Stream};
use crate::gemm::{BLOCK, Format, GemmError, OperandError, Shape, View, ViewMut};
use crate::params::Quantise128x128Params;

/// A quantisation of matrices (weights).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantise128x128Desc {
    /// Of input and codes. Any number of slots and rows, 0 included; columns are a positive multiple
    /// of 16. The last block along rows and columns may be smaller.
    pub shape: Shape,
    /// Format of the codes: E4M3 or E5M2.
    pub format: Format,
    /// Which scales.
    pub scaling: Scaling,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How a quantisation is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantise128x128Plan {
    /// The problem.
    pub desc: Quantise128x128Desc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
    /// Scales in all: `[slots, rows / 128, columns / 128]`, both rounded up.
    pub scales: u64,
}

/// CTAs that fit on an SM together.
const CTAS_PER_SM: u32 = 3;

impl Quantise128x128Plan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError`]: columns no positive multiple of 16, BF16 as format, no SMs, or a matrix of
    /// 2³¹ rows or blocks.
    pub fn new(desc: Quantise128x128Desc) -> Result<Self, OperandError> {
        let shape = desc.shape;
        check_shape(shape)?;
        rule(desc.format, desc.scaling)?;
        let lines = u64::from(shape.slots) * u64::from(shape.rows.div_ceil(BLOCK));
        let scales = lines * u64::from(blocks(shape));
        Ok(Self {
            desc,
            grid: grid("blocks", scales, 1, [desc.sms, CTAS_PER_SM])?,
            scales,
        })
    }
}

/// A planned quantisation with its kernel loaded in one context.
///
/// ```no_run
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::{Format, Matrix, Shape};
/// # use hadal::quant::{Quantise128x128, Quantise128x128Desc, Quantise128x128Plan, Scaling};
/// # use half::bf16;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new(0)?;
/// let stream = Stream::new(&context)?;
/// // Weights of eight experts.
/// let shape = Shape { slots: 8, rows: 576, columns: 7168 };
/// let plan = Quantise128x128Plan::new(Quantise128x128Desc {
///     shape,
///     format: Format::E4m3,
///     scaling: Scaling::Exact,
///     sms: context.multiprocessors()?,
/// })?;
/// let weights = Buffer::<bf16>::zeroed(&stream, 8 * 576 * 7168)?;
/// let mut codes = Buffer::<u8>::alloc(&context, 8 * 576 * 7168)?;
/// let mut scales = Buffer::<f32>::alloc(&context, plan.scales as usize)?;
/// let quantise = Quantise128x128::new(&context, plan)?;
/// quantise.run(&stream, (&weights).into(), (&mut codes).into(), (&mut scales).into())?;
/// let b = Matrix::fp8_blocks(Format::E4m3, &codes, &scales, shape)?;
/// # let _ = b;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Quantise128x128 {
    plan: Quantise128x128Plan,
    kernel: Kernel,
}

impl Quantise128x128 {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: Quantise128x128Plan) -> Result<Self, GemmError> {
        unchanged(&plan, &Quantise128x128Plan::new(plan.desc)?)?;
        let kernel = context.kernel("quantise_128x128")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Quantise128x128Plan {
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
        let elements = shape.elements();
        let inputs = [Memory::input("input", &input, elements, 16)?];
        let outputs = [
            Memory::output("codes", &codes, elements, 8)?,
            Memory::output("scales", &scales, self.plan.scales, 4)?,
        ];
        let params = Quantise128x128Params {
            input: input.address(),
            codes: codes.address(),
            scales: scales.address(),
            slots: shape.slots,
            rows: shape.rows,
            columns: shape.columns,
            rule,
        };
        let launch = (&self.kernel, self.plan.grid);
        enqueue(stream, launch, &inputs, &outputs, &params)
    }
}
