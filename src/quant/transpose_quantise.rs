//! Rows in groups, transposed and quantised along the rows: operands of weight gradients;
//! `csrc/quant/{pad_offsets,transpose_quantise}.cuh`.

use std::sync::Arc;

use super::launch::{Memory, enqueue, grid, unchanged};
use super::{Scaling, rule, same_shape};
use crate::device::{Context, Kernel, Stream};
use crate::gemm::{
    BLOCK, Format, GemmError, Matrix, MatrixScales, OperandError, Shape, Values, View, ViewMut,
    multiple, range, scale_stride,
};
use crate::params::{PadOffsetsParams, TransposeQuantiseParams};

/// Columns that suffice for `rows` rows in `groups` groups, each padded to a multiple of 128,
/// however the rows are distributed; at least 128: K of the GEMM.
///
/// # Errors
/// [`OperandError::Range`] when that, the groups or the rows are 2³¹ or more, or there is no group.
pub fn padded_rows(rows: u32, groups: u32) -> Result<u32, OperandError> {
    range("groups", groups.into(), [1, i32::MAX as u64 - 1])?;
    let (wide, block) = (u64::from(rows), u64::from(BLOCK));
    // A group of which a block is not full has a row.
    let padding = u64::from(groups).min(wide) * (block - 1);
    let k = ((wide + padding) / block * block).max(block);
    range("padded rows", k, [0, i32::MAX as u64])?;
    // Fits, as checked.
    Ok(u32::try_from(k).unwrap_or(u32::MAX))
}

/// Padding of a table of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PadOffsetsDesc {
    /// Rows of all groups: no offset counts as more.
    pub rows: u32,
    /// Groups, at least 1.
    pub groups: u32,
}

/// Where groups begin once each is padded to a multiple of 128 rows, computed on the device: the
/// first at 0, and no end beyond [`padded_rows`]. Offsets are read as the GEMM reads them: below 0
/// as 0, above `rows` as that, and a group that ends before it begins is empty.
#[derive(Debug)]
pub struct PadOffsets {
    desc: PadOffsetsDesc,
    k: u32,
    kernel: Kernel,
}

impl PadOffsets {
    /// Checks `desc` and loads the kernel.
    ///
    /// # Errors
    /// Those of [`padded_rows`], or a driver error.
    pub fn new(context: &Arc<Context>, desc: PadOffsetsDesc) -> Result<Self, GemmError> {
        let k = padded_rows(desc.rows, desc.groups)?;
        let kernel = context.kernel("pad_offsets")?;
        Ok(Self { desc, k, kernel })
    }

    /// Enqueues the computation of `padded` from `offsets`, `[groups + 1]` both, on `stream`.
    ///
    /// # Errors
    /// A length that does not fit, an address that is no multiple of 4, operands that overlap,
    /// memory of another context, or a driver error: then nothing is launched.
    pub fn run(
        &self,
        stream: &Stream,
        offsets: View<'_, i32>,
        padded: ViewMut<'_, i32>,
    ) -> Result<(), GemmError> {
        let PadOffsetsDesc { rows, groups } = self.desc;
        let entries = u64::from(groups) + 1;
        let inputs = [Memory::input("offsets", &offsets, entries, 4)?];
        let outputs = [Memory::output("padded offsets", &padded, entries, 4)?];
        let params = PadOffsetsParams {
            offsets: offsets.address(),
            padded: padded.address(),
            groups,
            rows,
            k: self.k,
            reserved: 0,
        };
        enqueue(stream, (&self.kernel, 1), &inputs, &outputs, &params)
    }
}

/// A transposition with quantisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransposeQuantiseDesc {
    /// Rows of all groups; 0 is allowed.
    pub rows: u32,
    /// Columns of the input, rows of the output: a positive multiple of 16.
    pub columns: u32,
    /// Groups, at least 1.
    pub groups: u32,
    /// Format of the input: BF16, or FP8 with scales per 1×128.
    pub input: Format,
    /// Format of the codes: E4M3 or E5M2.
    pub format: Format,
    /// Which scales.
    pub scaling: Scaling,
    /// Most SMs to use, at least 1.
    pub sms: u32,
}

/// How a transposition with quantisation is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransposeQuantisePlan {
    /// The problem.
    pub desc: TransposeQuantiseDesc,
    /// CTAs; 0 when there is nothing to do.
    pub grid: u32,
    /// Columns of the output: [`padded_rows`], K of the GEMM.
    pub k: u32,
    /// Scales: `[k / 128, scale_stride(columns)]`.
    pub scales: u64,
}

/// Columns of the input that a CTA takes at a time, of 128 rows.
const TILE: u32 = 64;
/// CTAs that fit on an SM together.
const CTAS_PER_SM: u32 = 4;

impl TransposeQuantisePlan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`OperandError`]: columns no positive multiple of 16, BF16 as format of the codes, no groups,
    /// no SMs, or 2³¹ padded rows or tiles.
    pub fn new(desc: TransposeQuantiseDesc) -> Result<Self, OperandError> {
        rule(desc.format, desc.scaling)?;
        multiple("columns", desc.columns.into(), 16)?;
        range("columns", desc.columns.into(), [16, i32::MAX as u64])?;
        let k = padded_rows(desc.rows, desc.groups)?;
        let blocks = u64::from(k / BLOCK);
        let tiles = blocks * u64::from(desc.columns.div_ceil(TILE));
        let tiles = if desc.rows == 0 { 0 } else { tiles };
        Ok(Self {
            desc,
            grid: grid("tiles", tiles, 1, [desc.sms, CTAS_PER_SM])?,
            k,
            scales: blocks * u64::from(scale_stride(desc.columns)),
        })
    }

    /// Shape of the output.
    #[must_use]
    pub fn output(&self) -> Shape {
        Shape::matrix(self.desc.columns, self.k)
    }
}

/// What one call works on.
#[derive(Debug)]
pub struct TransposeQuantiseOperands<'a> {
    /// `[rows, columns]`: BF16, or FP8 with scales per 1×128, as the plan has it.
    pub input: Matrix<'a>,
    /// Where the rows of each group begin and the last ones end, `[groups + 1]`, ascending.
    pub offsets: View<'a, i32>,
    /// Where each group's columns of the output begin and end, `[groups + 1]`: multiples of 128,
    /// ascending, with room for the group's rows. [`PadOffsets`] computes it; another table, as of a
    /// dispatch that aligned groups itself, will do too.
    pub padded: View<'a, i32>,
    /// Out: FP8 `[columns, k]`.
    pub codes: ViewMut<'a, u8>,
    /// Out: `[k / 128, scale_stride(columns)]`.
    pub scales: ViewMut<'a, f32>,
}

/// Scales of an FP8 input, and the stride of their lines.
type Scales<'a> = Option<(View<'a, f32>, u32)>;

/// A planned transposition with quantisation, its kernel loaded in one context.
///
/// Row `c` of the output is column `c` of the input: the rows of each group side by side, zeros
/// behind them up to where the next group begins, one scale for 128 of them. Blocks of 128 columns
/// that no group owns, and their scales, are not written, nor read by the GEMM. FP8 input counts as
/// `code · scale`, rounded to F32.
///
/// Whatever the tables say, nothing outside of the operands is read or written: offsets count as
/// in the GEMM, rows for which there is no room are left out, and of groups that share a block the
/// first gets it.
///
/// A weight gradient `D[g] = dYᵀ · X` of the rows of each group:
///
/// ```no_run
/// # use hadal::device::{Buffer, Context, Stream};
/// # use hadal::gemm::{Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut,
/// #     Operands, Output, Shape};
/// # use hadal::quant::{PadOffsets, PadOffsetsDesc, Scaling, TransposeQuantise,
/// #     TransposeQuantiseDesc, TransposeQuantiseOperands, TransposeQuantisePlan};
/// # use half::bf16;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let context = Context::new(0)?;
/// # let stream = Stream::new(&context)?;
/// # let sms = context.multiprocessors()?;
/// let (rows, groups, m, n) = (1000, 4, 512, 256);
/// let dy = Buffer::<bf16>::zeroed(&stream, 1000 * 512)?;
/// let x = Buffer::<bf16>::zeroed(&stream, 1000 * 256)?;
/// let offsets = Buffer::from_slice(&stream, &[0, 400, 400, 401, 1000])?;
/// let mut padded = Buffer::<i32>::alloc(&context, 5)?;
/// PadOffsets::new(&context, PadOffsetsDesc { rows, groups })?
///     .run(&stream, (&offsets).into(), (&mut padded).into())?;
///
/// let plan = |columns| {
///     TransposeQuantisePlan::new(TransposeQuantiseDesc {
///         rows,
///         columns,
///         groups,
///         input: Format::Bf16,
///         format: Format::E4m3,
///         scaling: Scaling::Exact,
///         sms,
///     })
/// };
/// let transposed = |values: &Buffer<bf16>, columns| {
///     let plan = plan(columns)?;
///     let mut codes = Buffer::<u8>::alloc(&context, (columns * plan.k) as usize)?;
///     let mut scales = Buffer::<f32>::alloc(&context, plan.scales as usize)?;
///     let operands = TransposeQuantiseOperands {
///         input: Matrix::bf16(values, Shape::matrix(rows, columns))?,
///         offsets: (&offsets).into(),
///         padded: (&padded).into(),
///         codes: (&mut codes).into(),
///         scales: (&mut scales).into(),
///     };
///     TransposeQuantise::new(&context, plan)?.run(&stream, operands)?;
///     Ok::<_, Box<dyn std::error::Error>>((codes, scales))
/// };
/// let (a, b) = (transposed(&dy, m)?, transposed(&x, n)?);
///
/// let k = plan(m)?.k;
/// let gemm = GemmPlan::new(GemmDesc {
///     form: Form::KGrouped { rows: m, groups },
///     n,
///     k,
///     arithmetic: Arithmetic::Fp8Block1d1d { a: Format::E4m3 },
///     output: Output::F32,
///     sms,
/// })?;
/// let mut d = Buffer::<f32>::alloc(&context, 4 * 512 * 256)?;
/// let d_shape = Shape { slots: groups, rows: m, columns: n };
/// let mut operands = Operands {
///     a: Matrix::fp8_rows(Format::E4m3, &a.0, &a.1, Shape::matrix(m, k))?,
///     b: Matrix::fp8_rows(Format::E4m3, &b.0, &b.1, Shape::matrix(n, k))?,
///     groups: Groups::Offsets((&padded).into()),
///     d: MatrixMut::f32(&mut d, d_shape)?,
/// };
/// Gemm::new(&context, gemm)?.run(&stream, &mut operands)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TransposeQuantise {
    plan: TransposeQuantisePlan,
    kernel: Kernel,
}

impl TransposeQuantise {
    /// Loads the kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as its constructor set it, or a
    /// driver error.
    pub fn new(context: &Arc<Context>, plan: TransposeQuantisePlan) -> Result<Self, GemmError> {
        unchanged(&plan, &TransposeQuantisePlan::new(plan.desc)?)?;
        let kernel = context.kernel(match plan.desc.input {
            Format::Bf16 => "transpose_quantise_bf16",
            Format::E4m3 | Format::E5m2 => "transpose_quantise_fp8",
        })?;
        Ok(Self { plan, kernel })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &TransposeQuantisePlan {
        &self.plan
    }

    /// Enqueues the transposition on `stream`.
    ///
    /// # Errors
    /// An input of another shape, format or scaling than the plan's, a length or an alignment (codes
    /// 16 bytes, scales 16, offsets 4) that does not fit, operands that overlap, memory of another
    /// context, or a driver error: then nothing is launched.
    pub fn run(
        &self,
        stream: &Stream,
        operands: TransposeQuantiseOperands<'_>,
    ) -> Result<(), GemmError> {
        let desc = &self.plan.desc;
        let TransposeQuantiseOperands {
            input,
            offsets,
            padded,
            codes,
            scales,
        } = operands;
        let (values, input_scales) = self.input(&input)?;
        let entries = u64::from(desc.groups) + 1;
        let inputs = [
            // Without scales, the values count twice.
            match &input_scales {
                Some((view, _)) => Memory::of("input scales", view),
                None => values.clone(),
            },
            values,
            Memory::input("offsets", &offsets, entries, 4)?,
            Memory::input("padded offsets", &padded, entries, 4)?,
        ];
        let outputs = [
            Memory::output("codes", &codes, self.plan.output().elements(), 16)?,
            Memory::output("scales", &scales, self.plan.scales, 16)?,
        ];
        let input_rule = match desc.input {
            Format::Bf16 => 0,
            format => rule(format, Scaling::Exact)?,
        };
        let params = TransposeQuantiseParams {
            input: input.address(),
            input_scales: input_scales.map_or(0, |(view, _)| view.address()),
            offsets: offsets.address(),
            padded: padded.address(),
            codes: codes.address(),
            scales: scales.address(),
            rows: desc.rows,
            columns: desc.columns,
            k: self.plan.k,
            groups: desc.groups,
            input_scale_stride: input_scales.map_or(0, |(_, stride)| stride),
            scale_stride: scale_stride(desc.columns),
            input_rule,
            rule: rule(desc.format, desc.scaling)?,
        };
        let launch = (&self.kernel, self.plan.grid);
        enqueue(stream, launch, &inputs, &outputs, &params)
    }

    /// The input's values, and its scales with their stride where it is FP8; checked.
    fn input<'a>(&self, input: &Matrix<'a>) -> Result<(Memory<'a>, Scales<'a>), OperandError> {
        let desc = &self.plan.desc;
        same_shape(input.shape, Shape::matrix(desc.rows, desc.columns))?;
        let kind = |found, expected| OperandError::Kind {
            what: "input",
            found,
            expected,
        };
        if input.format != desc.input {
            return Err(kind(input.format.name(), desc.input.name()));
        }
        match (&input.values, &input.scales) {
            (Values::Bf16(view), MatrixScales::None) => Ok((Memory::of("input", view), None)),
            (Values::Codes(view), MatrixScales::Rows { values, stride }) => {
                Ok((Memory::of("input", view), Some((*values, *stride))))
            }
            (_, scales) => Err(kind(scales.name(), "scales per 1x128")),
        }
    }
}
