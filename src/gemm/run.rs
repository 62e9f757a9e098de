//! Executes a plan: checks the operands against it, encodes the tensor maps, launches.
//!
//! Operands that are the same as in the previous call (addresses, strides) are not encoded again,
//! so a steady state calls the driver for the launch only; with changing operands, once more per
//! tensor map that changes. Nothing is allocated either way.
//!
//! # Safety
//! The kernel reads A, B, their scales and the groups, and writes D, within the ranges that the
//! operand types checked; tensor maps clip what a tile reads past the last row.
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use std::ops::Range;
use std::sync::Arc;

use super::desc::{Arithmetic, BLOCK, Form, Output};
use super::error::{GemmError, OperandError, disjoint};
use super::matrix::{Groups, Matrix, MatrixMut, MatrixScales, Shape, Values, ValuesMut};
use super::plan::GemmPlan;
use super::tile::Order;
use crate::device::{Context, Element, Kernel, LaunchConfig, Stream, Swizzle, TensorMapDesc};
use crate::params::{
    GemmParams, HADAL_GEMM_BATCHED, HADAL_GEMM_CONTIGUOUS, HADAL_GEMM_K_GROUPED, HADAL_GEMM_MASKED,
    HADAL_GEMM_OFFSETS, TensorMap,
};

/// What one call computes with.
#[derive(Debug)]
pub struct Operands<'a> {
    /// A: `[slots, rows, k]`, by the plan's form.
    pub a: Matrix<'a>,
    /// B: `[groups, n, k]`; `[n, k]` in the dense and K-grouped forms.
    pub b: Matrix<'a>,
    /// Groups, as the form wants them.
    pub groups: Groups<'a>,
    /// D: `[slots, rows, n]`; `[groups, rows, n]` in the K-grouped form. It overlaps no other
    /// operand.
    pub d: MatrixMut<'a>,
}

/// What the tensor maps and addresses of a launch depend on, besides the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    a: u64,
    b: u64,
    scale_a: Scale,
    scale_b: Scale,
    groups: u64,
    d: u64,
}

/// Address of scales, and their stride (of lines, rows, or 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    address: u64,
    stride: u32,
}

impl Scale {
    fn of(scales: &MatrixScales<'_>) -> Self {
        let (address, stride) = match scales {
            MatrixScales::None => (0, 0),
            MatrixScales::Blocks(values) => (values.address(), 0),
            MatrixScales::Rows { values, stride } | MatrixScales::Channel { values, stride } => {
                (values.address(), *stride)
            }
        };
        Self { address, stride }
    }
}

/// A planned GEMM with its kernel loaded in one context.
///
/// One value serves any number of calls, one after another; it keeps the last call's tensor maps.
/// A layer whose weights never change does best with a value of its own: then only the maps of what
/// changes are encoded again.
///
/// The experts of a decode step: two slots of four rows, of which three and none are in use.
///
/// ```
/// use hadal::device::{Buffer, Context, Stream};
/// use hadal::gemm::{
///     Arithmetic, Form, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands, Output, Shape,
/// };
/// use half::bf16;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = Stream::new(&Context::new(0)?)?;
/// let form = Form::Masked { slot_rows: 4, groups: 2, expected_rows: 2 };
/// let (arithmetic, output) = (Arithmetic::Bf16, Output::F32);
/// let plan = GemmPlan::new(GemmDesc { form, n: 16, k: 64, arithmetic, output, sms: 4 })?;
/// let mut gemm = Gemm::new(stream.context(), plan)?;
///
/// let ones = |len| Buffer::from_slice(&stream, &vec![bf16::ONE; len]);
/// let (a, b) = (ones(2 * 4 * 64)?, ones(2 * 16 * 64)?);
/// let counts = Buffer::from_slice(&stream, &[3, 0])?;
/// let mut d = Buffer::<f32>::zeroed(&stream, 2 * 4 * 16)?;
/// let shape = |rows, columns| Shape { slots: 2, rows, columns };
/// let mut operands = Operands {
///     a: Matrix::bf16(&a, shape(4, 64))?,
///     b: Matrix::bf16(&b, shape(16, 64))?,
///     groups: Groups::Counts((&counts).into()),
///     d: MatrixMut::f32(&mut d, shape(4, 16))?,
/// };
/// gemm.run(&stream, &mut operands)?;
///
/// let d = d.to_vec(&stream)?;
/// assert!(d[..3 * 16].iter().all(|&value| value == 64.0));
/// assert!(d[3 * 16..].iter().all(|&value| value == 0.0), "rows that no group owns stay");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Gemm {
    plan: GemmPlan,
    kernel: Kernel,
    config: LaunchConfig,
    /// What the addresses in `params` were encoded from; nothing before the first call.
    bound: Option<Key>,
    params: GemmParams,
}

impl Gemm {
    /// Loads the plan's kernel.
    ///
    /// # Errors
    /// [`OperandError::PlanChanged`] when a field of the plan is not as [`GemmPlan::with_tile`] set
    /// it, its other errors, or a driver error.
    pub fn new(context: &Arc<Context>, plan: GemmPlan) -> Result<Self, GemmError> {
        // Its fields are public, and the kernel relies on what follows from them.
        if GemmPlan::with_tile(plan.desc, plan.tile, plan.cluster)? != plan {
            return Err(OperandError::PlanChanged.into());
        }
        let kernel = context.kernel(plan.tile.kernel)?;
        let config = LaunchConfig {
            pdl: true,
            cluster: [plan.cluster[0] * plan.cluster[1], 1, 1],
            ..LaunchConfig::new(&kernel, [plan.grid, 1, 1])
        };
        Ok(Self {
            plan,
            kernel,
            config,
            bound: None,
            params: unbound(&plan),
        })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &GemmPlan {
        &self.plan
    }

    /// Enqueues the product on `stream` and returns; nothing is waited for.
    ///
    /// Rows of D that no group owns are not written. A plan without rows checks its operands and
    /// launches nothing. The kernel may begin before the stream's previous kernel has ended
    /// (programmatic dependent launch); it touches memory only afterwards, so the order is that of
    /// the stream.
    ///
    /// Buffers may be dropped right after the call: freeing waits for the device. Until the stream is
    /// past the call, other streams must not write what it reads: the product would be of no one
    /// state, and groups that change while the kernel reads them may leave it waiting for ever.
    ///
    /// # Errors
    /// An operand of another shape, format or scaling than the plan's, D overlapping an input,
    /// memory of another context than the stream's, or a driver error: then nothing is launched.
    /// Errors of the execution appear at a later synchronisation.
    pub fn run(&mut self, stream: &Stream, operands: &mut Operands<'_>) -> Result<(), GemmError> {
        check_kinds(&self.plan, operands)?;
        check_shapes(&self.plan, operands)?;
        check_memory(stream, operands)?;
        let groups = groups_address(&self.plan, operands.groups)?;
        if self.plan.grid == 0 {
            return Ok(());
        }
        self.bind(Key {
            a: operands.a.address(),
            b: operands.b.address(),
            scale_a: Scale::of(&operands.a.scales),
            scale_b: Scale::of(&operands.b.scales),
            groups,
            d: operands.d.address(),
        })?;
        // SAFETY: (1) every range was checked against the plan's shape, and views are valid on the
        // stream's device; (2) and (3) are the contract of views: buffers wait for the device when
        // they are freed and are borrowed here, raw views promise it.
        unsafe { stream.launch(&self.kernel, &self.config, &self.params) }?;
        Ok(())
    }

    /// Encodes what is not as in the last call.
    fn bind(&mut self, key: Key) -> Result<(), GemmError> {
        if self.bound == Some(key) {
            return Ok(());
        }
        // Should an encoding fail, nothing counts as bound.
        let last = self.bound.take();
        let (plan, params) = (&self.plan, &mut self.params);
        let (desc, tile, [cluster_m, cluster_n]) = (&plan.desc, &plan.tile, plan.cluster);
        let (form, wide) = (desc.form, u64::from);
        let changed = |part: fn(&Key) -> u64| last.is_none_or(|last| part(&last) != part(&key));
        let scale_changed =
            |part: fn(&Key) -> Scale| last.is_none_or(|last| part(&last) != part(&key));
        if changed(|key| key.a) {
            let rows = wide(form.a_slots()) * wide(form.rows());
            params.a = operand_map(plan, key.a, rows, tile.m / cluster_n)?;
        }
        if changed(|key| key.b) {
            let rows = wide(form.b_slots()) * wide(desc.n);
            params.b = operand_map(plan, key.b, rows, tile.n / cluster_m)?;
        }
        if scale_changed(|key| key.scale_a) {
            params.scale_a = scale_map(plan, key.scale_a, [form.a_slots(), form.rows()], tile.m)?;
            params.scale_a_values = key.scale_a.address;
            params.scale_a_stride = channel_stride(plan, key.scale_a);
        }
        if scale_changed(|key| key.scale_b) {
            params.scale_b = scale_map(plan, key.scale_b, [form.b_slots(), desc.n], tile.n)?;
            params.scale_b_values = key.scale_b.address;
            params.scale_b_stride = channel_stride(plan, key.scale_b);
        }
        if changed(|key| key.d) {
            params.d = output_map(plan, key.d)?;
            params.d_values = key.d;
        }
        params.groups = key.groups;
        self.bound = Some(key);
        Ok(())
    }
}

fn same(what: &'static str, found: u32, expected: u32) -> Result<(), OperandError> {
    if found == expected {
        return Ok(());
    }
    Err(OperandError::Shape {
        what,
        found: found.into(),
        expected: expected.into(),
    })
}

fn same_kind(
    what: &'static str,
    found: &'static str,
    expected: &'static str,
) -> Result<(), OperandError> {
    if found == expected {
        return Ok(());
    }
    Err(OperandError::Kind {
        what,
        found,
        expected,
    })
}

fn check_kinds(plan: &GemmPlan, operands: &Operands<'_>) -> Result<(), OperandError> {
    let desc = &plan.desc;
    let (rows, blocks) = ("scales per 1x128", "scales per 128x128");
    let [scales_a, scales_b] = match desc.arithmetic {
        Arithmetic::Fp8Block1d2d { .. } => [rows, blocks],
        Arithmetic::Fp8Block1d1d { .. } => [rows, rows],
        Arithmetic::Fp8Channel { .. } => ["channel scales"; 2],
        Arithmetic::Bf16 => ["no scales"; 2],
    };
    let Operands { a, b, d, .. } = operands;
    same_kind("A", a.format.name(), desc.arithmetic.a().name())?;
    same_kind("B", b.format.name(), desc.arithmetic.b().name())?;
    same_kind("A", a.scales.name(), scales_a)?;
    same_kind("B", b.scales.name(), scales_b)?;
    let found = match d.values {
        ValuesMut::Bf16(_) => "BF16",
        ValuesMut::F32(_) => "F32",
    };
    let expected = match desc.output {
        Output::Bf16 => "BF16",
        Output::F32 | Output::AddF32 => "F32",
    };
    same_kind("D", found, expected)
}

fn check_shapes(plan: &GemmPlan, operands: &Operands<'_>) -> Result<(), OperandError> {
    let desc = plan.desc;
    let form = desc.form;
    let (a, b, d): (Shape, Shape, Shape) = (operands.a.shape, operands.b.shape, operands.d.shape);
    same("slots of A", a.slots, form.a_slots())?;
    same("rows of A", a.rows, form.rows())?;
    same("K of A", a.columns, desc.k)?;
    same("groups of B", b.slots, form.b_slots())?;
    same("N of B", b.rows, desc.n)?;
    same("K of B", b.columns, desc.k)?;
    same("slots of D", d.slots, form.d_slots())?;
    same("rows of D", d.rows, form.rows())?;
    same("N of D", d.columns, desc.n)
}

/// Contexts, and that D overlaps nothing.
fn check_memory(stream: &Stream, operands: &Operands<'_>) -> Result<(), OperandError> {
    let (d_context, d) = match &operands.d.values {
        ValuesMut::Bf16(view) => (view.context(), view.bytes()),
        ValuesMut::F32(view) => (view.context(), view.bytes()),
    };
    let check = |what, context: &Arc<Context>, bytes: Range<u64>| {
        if !Arc::ptr_eq(context, stream.context()) {
            return Err(OperandError::WrongContext { what });
        }
        disjoint(("D", &d), (what, &bytes))
    };
    check("D", d_context, 0..0)?;
    let sides = [
        (&operands.a, "A", "scales of A"),
        (&operands.b, "B", "scales of B"),
    ];
    for (matrix, name, scales) in sides {
        match &matrix.values {
            Values::Codes(view) => check(name, view.context(), view.bytes())?,
            Values::Bf16(view) => check(name, view.context(), view.bytes())?,
        }
        match &matrix.scales {
            MatrixScales::None => {}
            MatrixScales::Blocks(values)
            | MatrixScales::Rows { values, .. }
            | MatrixScales::Channel { values, .. } => {
                check(scales, values.context(), values.bytes())?;
            }
        }
    }
    match &operands.groups {
        Groups::None => Ok(()),
        Groups::OfRows(view) | Groups::Counts(view) | Groups::Offsets(view) => {
            check("groups", view.context(), view.bytes())
        }
    }
}

/// The address that the kernel gets, after the operand was checked against the form.
fn groups_address(plan: &GemmPlan, groups: Groups<'_>) -> Result<u64, OperandError> {
    let (view, len) = match (plan.desc.form, groups) {
        (Form::Dense { .. } | Form::Batched { .. }, Groups::None) => return Ok(0),
        (Form::Contiguous { rows, .. }, Groups::OfRows(view)) => (view, rows.into()),
        (Form::Masked { groups, .. }, Groups::Counts(view)) => (view, groups.into()),
        (Form::Offsets { groups, .. } | Form::KGrouped { groups, .. }, Groups::Offsets(view)) => {
            (view, u64::from(groups) + 1)
        }
        (form, given) => {
            return Err(OperandError::Form {
                found: given.name(),
                form: form.name(),
            });
        }
    };
    view.check("groups", len, 4)?;
    Ok(view.address())
}

/// High word of a wgmma descriptor: 128-byte swizzle, 1024 bytes between groups of eight rows.
const DESCRIPTOR_HIGH: u32 = 1 << 30 | 1024 >> 4;

/// Parameters of a plan whose operands are not known yet.
fn unbound(plan: &GemmPlan) -> GemmParams {
    let desc = &plan.desc;
    let nothing = TensorMap::default();
    GemmParams {
        a: nothing,
        b: nothing,
        scale_a: nothing,
        scale_b: nothing,
        d: nothing,
        scale_a_values: 0,
        scale_b_values: 0,
        d_values: 0,
        groups: 0,
        descriptor_a: DESCRIPTOR_HIGH,
        form: match desc.form {
            Form::Dense { .. } | Form::Batched { .. } => HADAL_GEMM_BATCHED,
            Form::Contiguous { .. } => HADAL_GEMM_CONTIGUOUS,
            Form::Offsets { .. } => HADAL_GEMM_OFFSETS,
            Form::Masked { .. } => HADAL_GEMM_MASKED,
            Form::KGrouped { .. } => HADAL_GEMM_K_GROUPED,
        },
        descriptor_b: DESCRIPTOR_HIGH,
        m: desc.form.rows(),
        n: desc.n,
        k_blocks: desc.k_blocks(),
        group_count: desc.form.groups(),
        cluster_m: plan.cluster[0],
        cluster_n: plan.cluster[1],
        band: plan.band,
        output_f32: u32::from(desc.output != Output::Bf16),
        accumulate: u32::from(desc.output == Output::AddF32),
        scale_a_stride: 0,
        scale_b_stride: 0,
    }
}

/// Channel scales from one row to the next; 0 for one in all, and where scales are blocks.
fn channel_stride(plan: &GemmPlan, scale: Scale) -> u32 {
    match plan.desc.arithmetic {
        Arithmetic::Fp8Channel { .. } => scale.stride,
        _ => 0,
    }
}

/// A or B: boxes of one stage.
fn operand_map(
    plan: &GemmPlan,
    address: u64,
    rows: u64,
    box_rows: u32,
) -> Result<TensorMap, GemmError> {
    let desc = &plan.desc;
    let element = match desc.arithmetic {
        Arithmetic::Bf16 => Element::Bf16,
        _ => Element::U8,
    };
    let (shape, tile) = ([rows, desc.k.into()], [box_rows, desc.arithmetic.stage_k()]);
    let pitch = u64::from(desc.k) * u64::from(desc.arithmetic.element_bytes());
    let map = TensorMapDesc::matrix(element, address, shape, pitch, tile, Swizzle::B128);
    Ok(map.encode()?)
}

/// M-major scales: boxes of one line of a tile. Nothing where there are none.
fn scale_map(
    plan: &GemmPlan,
    scale: Scale,
    [slots, rows]: [u32; 2],
    box_rows: u32,
) -> Result<TensorMap, GemmError> {
    let staged = matches!(
        plan.desc.arithmetic,
        Arithmetic::Fp8Block1d2d { .. } | Arithmetic::Fp8Block1d1d { .. }
    );
    if !staged || scale.stride == 0 {
        return Ok(TensorMap::default());
    }
    let lines = u64::from(slots) * u64::from(plan.desc.k.div_ceil(BLOCK));
    let (shape, tile) = ([lines, rows.into()], [1, box_rows]);
    let pitch = u64::from(scale.stride) * 4;
    let map = TensorMapDesc::matrix(
        Element::F32,
        scale.address,
        shape,
        pitch,
        tile,
        Swizzle::None,
    );
    Ok(map.encode()?)
}

/// D: boxes of 16 rows of 128 bytes. Nothing for swapped operands, which are stored row by row.
fn output_map(plan: &GemmPlan, address: u64) -> Result<TensorMap, GemmError> {
    if plan.tile.order == Order::Swapped {
        return Ok(TensorMap::default());
    }
    let desc = &plan.desc;
    let (element, bytes) = match desc.output {
        Output::Bf16 => (Element::Bf16, 2),
        Output::F32 | Output::AddF32 => (Element::F32, 4),
    };
    let rows = u64::from(desc.form.d_slots()) * u64::from(desc.form.rows());
    let (shape, tile) = ([rows, desc.n.into()], [16, 128 / bytes]);
    let pitch = u64::from(desc.n) * u64::from(bytes);
    let map = TensorMapDesc::matrix(element, address, shape, pitch, tile, Swizzle::B128);
    Ok(map.encode()?)
}
