//! Scales per 1×128 from one layout to the other; `csrc/quant/transpose_scales.cuh`.

use std::sync::Arc;

use super::launch::{Memory, enqueue, grid, unchanged};
use super::{ScaleLayout, blocks, check_shape};
use crate::device::{Context, Kernel, Stream};
use crate::gemm::{GemmError, OperandError, Shape, View, ViewMut, scale_stride};
use crate::params::TransposeScalesParams;

/// A change of layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransposeScalesDesc {
    /// Of the matrix that the scales belong to. Any number of rows, 0 included; columns are a
    /// positive multiple of 16.
    pub shape: Shape,
    /// Layout of the input; the output has the other one.
    pub from: ScaleLayout,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How a change of layout is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransposeScalesPlan {
    /// The problem.
    pub desc: TransposeScalesDesc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
    /// Scales of the input, padding included.
    pub input: u64,
    /// Scales of the output, padding included.
    pub output: u64,
}

/// Edge of the tiles that a CTA transposes.
const TILE: u32 = 32;
/// CTAs that fit on an SM together.
const CTAS_PER_SM: u32 = 8;

impl TransposeScalesPlan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError`]: columns no positive multiple of 16, no SMs, or a matrix of 2³¹ rows or
    /// tiles.
    pub fn new(desc: TransposeScalesDesc) -> Result<Self, OperandError> {
        let shape = desc.shape;
        check_shape(shape)?;
        let tiles = u64::from(shape.rows.div_ceil(TILE)) * u64::from(blocks(shape).div_ceil(TILE));
        let tiles = u64::from(shape.slots) * tiles;
        let to = match desc.from {
            ScaleLayout::RowMajor => ScaleLayout::MMajor,
            ScaleLayout::MMajor => ScaleLayout::RowMajor,
        };
        Ok(Self {
            desc,
            grid: grid("tiles", tiles, 1, [desc.sms, CTAS_PER_SM])?,
            input: desc.from.strides(shape).len,
            output: to.strides(shape).len,
        })
    }
}

/// A planned change of layout with its kernel loaded in one context. Bits are copied as they are;
/// padding of M-major lines is neither read nor written.
///
/// ```no_run
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::Shape;
/// # use hadal::quant::{ScaleLayout, TransposeScales, TransposeScalesDesc, TransposeScalesPlan};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new(0)?;
/// let stream = Stream::new(&context)?;
/// // Scales [100, 56] as another library computed them.
/// let plan = TransposeScalesPlan::new(TransposeScalesDesc {
///     shape: Shape::matrix(100, 7168),
///     from: ScaleLayout::RowMajor,
///     sms: context.multiprocessors()?,
/// })?;
/// let theirs = Buffer::<f32>::zeroed(&stream, plan.input as usize)?;
/// let mut scales = Buffer::<f32>::alloc(&context, plan.output as usize)?;
/// let transpose = TransposeScales::new(&context, plan)?;
/// transpose.run(&stream, (&theirs).into(), (&mut scales).into())?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TransposeScales {
    plan: TransposeScalesPlan,
    kernel: Kernel,
}

impl TransposeScales {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: TransposeScalesPlan) -> Result<Self, GemmError> {
        unchanged(&plan, &TransposeScalesPlan::new(plan.desc)?)?;
        let kernel = context.kernel("transpose_scales")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &TransposeScalesPlan {
        &self.plan
    }

    /// Enqueues the change of layout on `stream`.
    ///
    /// # Errors
    /// A length that is not the plan's, an address that is no multiple of 4, operands that overlap,
    /// memory of another context, or a driver error: then nothing is launched.
    pub fn run(
        &self,
        stream: &Stream,
        input: View<'_, f32>,
        output: ViewMut<'_, f32>,
    ) -> Result<(), GemmError> {
        let TransposeScalesDesc { shape, from, .. } = self.plan.desc;
        let inputs = [Memory::input("input", &input, self.plan.input, 4)?];
        let outputs = [Memory::output("output", &output, self.plan.output, 4)?];
        let (blocks, stride) = (blocks(shape), scale_stride(shape.rows));
        // Rows, columns and pitches of the matrix of scales that is transposed.
        let (rows, columns, input_pitch, output_pitch) = match from {
            ScaleLayout::RowMajor => (shape.rows, blocks, blocks, stride),
            ScaleLayout::MMajor => (blocks, shape.rows, stride, blocks),
        };
        let params = TransposeScalesParams {
            input: input.address(),
            output: output.address(),
            slots: shape.slots,
            rows,
            columns,
            input_pitch,
            output_pitch,
            reserved: 0,
        };
        let launch = (&self.kernel, self.plan.grid);
        enqueue(stream, launch, &inputs, &outputs, &params)
    }
}
