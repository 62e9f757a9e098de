//! Scales as powers of two in one byte each; `csrc/quant/ue8m0.cuh`.

use std::sync::Arc;

use super::launch::{Memory, enqueue, grid, unchanged};
use super::{ScaleLayout, Strides, blocks, check_shape};
use crate::device::{Context, Kernel, Stream};
use crate::gemm::{GemmError, OperandError, Shape, View, ViewMut, scale_stride};
use crate::params::Ue8m0Params;

/// Scales to pack or unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ue8m0Desc {
    /// Of the matrix that the scales belong to. Any number of rows, 0 included; columns are a
    /// positive multiple of 16.
    pub shape: Shape,
    /// Layout of the F32 scales.
    pub layout: ScaleLayout,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How packing and unpacking are executed.
///
/// Packed scales are words `[slots, columns / 512 rounded up, scale_stride(rows)]`: byte `j` of word
/// `w` of a row (bits `8 j` on) is block `4 w + j`. Bytes of blocks that there are not are 0, and
/// what is behind the last row of a line is neither read nor written. This is what block-scaled
/// kernels of later GPUs read (DeepGEMM's packed layout for sm_100, M-major and aligned for TMA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ue8m0Plan {
    /// The problem.
    pub desc: Ue8m0Desc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
    /// F32 scales, padding included.
    pub scales: u64,
    /// Words of packed scales, padding included.
    pub packed: u64,
}

/// Blocks whose scales are in one word.
const SCALES_PER_WORD: u32 = 4;
/// Words that a CTA converts at a time.
const WORDS_PER_CTA: u64 = 256;
/// CTAs that fit on an SM together.
const CTAS_PER_SM: u32 = 8;

impl Ue8m0Plan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError`]: columns no positive multiple of 16, no SMs, or a matrix of 2³¹ rows or
    /// words.
    pub fn new(desc: Ue8m0Desc) -> Result<Self, OperandError> {
        let shape = desc.shape;
        check_shape(shape)?;
        let lines = u64::from(shape.slots) * u64::from(blocks(shape).div_ceil(SCALES_PER_WORD));
        let words = lines * u64::from(shape.rows);
        Ok(Self {
            desc,
            grid: grid("words", words, WORDS_PER_CTA, [desc.sms, CTAS_PER_SM])?,
            scales: desc.layout.strides(shape).len,
            packed: lines * u64::from(scale_stride(shape.rows)),
        })
    }

    fn params(&self, scales: u64, packed: u64) -> Ue8m0Params {
        let Ue8m0Desc { shape, layout, .. } = self.desc;
        let Strides {
            slot, row, block, ..
        } = layout.strides(shape);
        Ue8m0Params {
            scales,
            packed,
            scale_slot_stride: slot,
            scale_row_stride: row,
            scale_block_stride: block,
            slots: shape.slots,
            rows: shape.rows,
            blocks: blocks(shape),
            packed_stride: scale_stride(shape.rows),
        }
    }
}

/// Packing of F32 scales to UE8M0, with its kernel loaded in one context: the code of 2ⁿ is
/// `n + 127`.
///
/// A scale that is no power of two is rounded up to the next, as `cvt.rp.ue8m0x2.f32` and CUDA's
/// `__nv_fp8_e8m0` do; the codes that it belongs to then stand for up to twice their values, so
/// quantise with [`Scaling::PowerOfTwo`](super::Scaling::PowerOfTwo), whose scales are exact here.
/// (DeepGEMM's kernel takes powers of two for granted and drops the fraction.) The sign is ignored;
/// zero and what is below 2⁻¹²⁷ become 2⁻¹²⁷ (code 0); what is above 2¹²⁷, infinity and NaN become
/// NaN (0xff).
///
/// ```no_run
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::Shape;
/// # use hadal::quant::{PackUe8m0, ScaleLayout, Ue8m0Desc, Ue8m0Plan};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new(0)?;
/// let stream = Stream::new(&context)?;
/// let plan = Ue8m0Plan::new(Ue8m0Desc {
///     shape: Shape::matrix(100, 7168),
///     layout: ScaleLayout::MMajor,
///     sms: context.multiprocessors()?,
/// })?;
/// let scales = Buffer::<f32>::zeroed(&stream, plan.scales as usize)?;
/// let mut packed = Buffer::<u32>::alloc(&context, plan.packed as usize)?;
/// let pack = PackUe8m0::new(&context, plan)?;
/// pack.run(&stream, (&scales).into(), (&mut packed).into())?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PackUe8m0 {
    plan: Ue8m0Plan,
    kernel: Kernel,
}

impl PackUe8m0 {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: Ue8m0Plan) -> Result<Self, GemmError> {
        unchanged(&plan, &Ue8m0Plan::new(plan.desc)?)?;
        let kernel = context.kernel("pack_ue8m0")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Ue8m0Plan {
        &self.plan
    }

    /// Enqueues the packing of `scales` into `packed`, both of the plan's lengths, on `stream`.
    ///
    /// # Errors
    /// A length or an alignment (scales 4 bytes, packed 16) that does not fit, operands that
    /// overlap, memory of another context, or a driver error: then nothing is launched.
    pub fn run(
        &self,
        stream: &Stream,
        scales: View<'_, f32>,
        packed: ViewMut<'_, u32>,
    ) -> Result<(), GemmError> {
        let inputs = [Memory::input("scales", &scales, self.plan.scales, 4)?];
        let outputs = [Memory::output("packed", &packed, self.plan.packed, 16)?];
        let params = self.plan.params(scales.address(), packed.address());
        let launch = (&self.kernel, self.plan.grid);
        enqueue(stream, launch, &inputs, &outputs, &params)
    }
}

/// The way back, with its kernel loaded in one context: code `c` is `2^(c - 127)`, exactly; 0xff is
/// NaN.
#[derive(Debug)]
pub struct UnpackUe8m0 {
    plan: Ue8m0Plan,
    kernel: Kernel,
}

impl UnpackUe8m0 {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: Ue8m0Plan) -> Result<Self, GemmError> {
        unchanged(&plan, &Ue8m0Plan::new(plan.desc)?)?;
        let kernel = context.kernel("unpack_ue8m0")?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Ue8m0Plan {
        &self.plan
    }

    /// Enqueues the unpacking of `packed` into `scales`, both of the plan's lengths, on `stream`.
    ///
    /// # Errors
    /// As [`PackUe8m0::run`].
    pub fn run(
        &self,
        stream: &Stream,
        packed: View<'_, u32>,
        scales: ViewMut<'_, f32>,
    ) -> Result<(), GemmError> {
        let inputs = [Memory::input("packed", &packed, self.plan.packed, 16)?];
        let outputs = [Memory::output("scales", &scales, self.plan.scales, 4)?];
        let params = self.plan.params(scales.address(), packed.address());
        let launch = (&self.kernel, self.plan.grid);
        enqueue(stream, launch, &inputs, &outputs, &params)
    }
}
