//! Executes a plan: checks the operands against it, encodes the tensor maps, launches.
//!
//! Operands that are the same as in the previous call (addresses, strides) are not encoded again,
//! so a steady state neither allocates nor calls the driver but for the launch itself.
//!
//! # Safety
//! The kernel reads A, B, their scales and the groups, and writes D, within the ranges that the
//! operand types checked; tensor maps clip what a tile reads past the last row.
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use std::sync::Arc;

use super::error::{GemmError, OperandError};
use super::operand::{Bf16Matrix, Fp8Matrix, Fp8Weights, Groups};
use super::plan::{BLOCK, Form, GemmPlan};
use crate::device::{Context, Element, Kernel, LaunchConfig, Stream, Swizzle, TensorMapDesc};
use crate::params::{Fp8Gemm1d2dParams, TensorMap};

/// What one call computes with.
#[derive(Debug)]
pub struct Operands<'a> {
    /// A: slots, rows and K of the plan.
    pub a: Fp8Matrix<'a>,
    /// B: groups, N and K of the plan.
    pub b: Fp8Weights<'a>,
    /// Which rows belong to which group, as the plan's form demands.
    pub groups: Groups<'a>,
    /// D: slots, rows and N of the plan. Rows that no group uses are not written.
    pub d: Bf16Matrix<'a>,
}

/// A planned FP8 GEMM with its kernel loaded in one context.
#[derive(Debug)]
pub struct Fp8Gemm {
    plan: GemmPlan,
    kernel: Kernel,
    bound: Option<(Key, Fp8Gemm1d2dParams)>,
}

/// What the encoded parameters depend on beyond the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    a: u64,
    scale_a: u64,
    scale_stride: u32,
    b: u64,
    scale_b: u64,
    groups: u64,
    d: u64,
}

impl Fp8Gemm {
    /// Loads the plan's kernel.
    ///
    /// # Errors
    /// A driver error.
    pub fn new(context: &Arc<Context>, plan: GemmPlan) -> Result<Self, GemmError> {
        let kernel = context.kernel(plan.kernel)?;
        Ok(Self {
            plan,
            kernel,
            bound: None,
        })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &GemmPlan {
        &self.plan
    }

    /// Enqueues the product on `stream` and returns; nothing is waited for. May begin while the
    /// previous kernel of the stream ends (programmatic dependent launch): the kernel itself waits
    /// before it touches memory.
    ///
    /// # Errors
    /// [`OperandError::Shape`] and [`OperandError::Form`] when an operand does not fit the plan,
    /// [`OperandError::WrongContext`], or a driver error. Errors of the execution appear at a later
    /// synchronisation.
    pub fn run(&mut self, stream: &Stream, operands: &mut Operands<'_>) -> Result<(), GemmError> {
        check_shapes(&self.plan, operands)?;
        check_contexts(stream, operands)?;
        let groups = groups_address(&self.plan, operands.groups)?;
        if self.plan.grid == 0 {
            return Ok(());
        }
        let key = Key {
            a: operands.a.codes.address(),
            scale_a: operands.a.scales.address(),
            scale_stride: operands.a.scale_stride,
            b: operands.b.codes.address(),
            scale_b: operands.b.scales.address(),
            groups,
            d: operands.d.values.address(),
        };
        let params = match self.bound {
            Some((bound, params)) if bound == key => params,
            _ => encode(&self.plan, key)?,
        };
        self.bound = Some((key, params));
        let config = LaunchConfig {
            pdl: true,
            ..LaunchConfig::new(&self.kernel, [self.plan.grid, 1, 1])
        };
        // SAFETY: (1) every range was checked against the plan's shape, and views are valid on the
        // stream's device; (2) and (3) are the contract of views: buffers wait for the device when
        // they are freed and are borrowed here, raw views promise it.
        unsafe { stream.launch(&self.kernel, &config, &params) }?;
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

fn check_shapes(plan: &GemmPlan, operands: &Operands<'_>) -> Result<(), OperandError> {
    let desc = plan.desc;
    let (rows, slots, groups) = (desc.form.rows(), desc.form.slots(), desc.form.groups());
    let (a, b, d) = (operands.a.shape, operands.b.shape, operands.d.shape);
    same("slots of A", a.slots, slots)?;
    same("rows of A", a.rows, rows)?;
    same("K of A", a.columns, desc.k)?;
    same("groups of B", b.slots, groups)?;
    same("N of B", b.rows, desc.n)?;
    same("K of B", b.columns, desc.k)?;
    same("slots of D", d.slots, slots)?;
    same("rows of D", d.rows, rows)?;
    same("N of D", d.columns, desc.n)
}

fn check_contexts(stream: &Stream, operands: &Operands<'_>) -> Result<(), OperandError> {
    let Operands { a, b, groups, d } = operands;
    let groups = match groups {
        Groups::None => None,
        Groups::OfRows(view) | Groups::Counts(view) => Some(("groups", view.context())),
    };
    let operands = [
        ("codes of A", a.codes.context()),
        ("scales of A", a.scales.context()),
        ("codes of B", b.codes.context()),
        ("scales of B", b.scales.context()),
        ("D", d.values.context()),
    ];
    let foreign = operands
        .into_iter()
        .chain(groups)
        .find(|(_, context)| !Arc::ptr_eq(context, stream.context()));
    match foreign {
        Some((what, _)) => Err(OperandError::WrongContext { what }),
        None => Ok(()),
    }
}

/// The address that the kernel gets, after the operand was checked against the form.
fn groups_address(plan: &GemmPlan, groups: Groups<'_>) -> Result<u64, OperandError> {
    let (view, len) = match (plan.desc.form, groups) {
        (Form::Dense { .. }, Groups::None) => return Ok(0),
        (Form::Contiguous { rows, .. }, Groups::OfRows(view)) => (view, rows),
        (Form::Masked { groups, .. }, Groups::Counts(view)) => (view, groups),
        (form, given) => {
            return Err(OperandError::Form {
                found: match given {
                    Groups::None => "none",
                    Groups::OfRows(_) => "groups of rows",
                    Groups::Counts(_) => "counts",
                },
                form: form.name(),
            });
        }
    };
    view.check("groups", len.into(), 4)?;
    Ok(view.address())
}

fn encode(plan: &GemmPlan, key: Key) -> Result<Fp8Gemm1d2dParams, GemmError> {
    let desc = plan.desc;
    let form = desc.form;
    let k_blocks = desc.k / BLOCK;
    let (rows, k) = (u64::from(form.rows()), u64::from(desc.k));
    let codes = |address, rows: u64, box_rows: u32| {
        let (shape, tile) = ([rows, k], [box_rows, BLOCK]);
        TensorMapDesc::matrix(Element::U8, address, shape, k, tile, Swizzle::B128).encode()
    };
    let scale_map = || {
        let lines = u64::from(form.slots()) * u64::from(k_blocks);
        let (shape, tile) = ([lines, rows], [1, plan.tile.rows()]);
        let pitch = u64::from(key.scale_stride) * 4;
        TensorMapDesc::matrix(Element::F32, key.scale_a, shape, pitch, tile, Swizzle::None).encode()
    };
    let a: TensorMap = codes(key.a, u64::from(form.slots()) * rows, plan.tile.rows())?;
    let b = codes(key.b, u64::from(form.groups()) * u64::from(desc.n), BLOCK)?;
    Ok(Fp8Gemm1d2dParams {
        a,
        b,
        scale_a: scale_map()?,
        scale_b: key.scale_b,
        d: key.d,
        groups: key.groups,
        m: form.rows(),
        n_blocks: desc.n / BLOCK,
        k_blocks,
        group_count: form.groups(),
    })
}
