//! What the launches of this module have in common: operands of the right length and alignment, of
//! the stream's context, outputs that overlap nothing.
//!
//! # Safety
//! A kernel reads its inputs and writes its outputs within the lengths that [`Memory`] checked.
#![expect(
    unsafe_code,
    reason = "launches kernels whose contract is fulfilled here"
)]

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use crate::device::{Context, Kernel, LaunchConfig, Stream};
use crate::gemm::{GemmError, OperandError, View, ViewMut, disjoint, range};
use crate::params::KernelParams;

/// Memory of an operand.
#[derive(Debug, Clone)]
pub(super) struct Memory<'a> {
    what: &'static str,
    context: &'a Arc<Context>,
    bytes: Range<u64>,
}

impl<'a> Memory<'a> {
    /// An operand whose length and alignment were checked already.
    pub(super) fn of<T: Pod>(what: &'static str, view: &View<'a, T>) -> Self {
        Self {
            what,
            context: view.context(),
            bytes: view.bytes(),
        }
    }

    /// An output whose length and alignment were checked already.
    pub(super) fn of_mut<T: Pod>(what: &'static str, view: &ViewMut<'a, T>) -> Self {
        Self {
            what,
            context: view.context(),
            bytes: view.bytes(),
        }
    }

    /// An input of `len` elements at a multiple of `align` bytes.
    pub(super) fn input<T: Pod>(
        what: &'static str,
        view: &View<'a, T>,
        len: u64,
        align: u64,
    ) -> Result<Self, OperandError> {
        view.check(what, len, align)?;
        Ok(Self::of(what, view))
    }

    /// An output of `len` elements at a multiple of `align` bytes.
    pub(super) fn output<T: Pod>(
        what: &'static str,
        view: &ViewMut<'a, T>,
        len: u64,
        align: u64,
    ) -> Result<Self, OperandError> {
        view.check(what, len, align)?;
        Ok(Self::of_mut(what, view))
    }
}

/// CTAs for `items` pieces of work of which one takes `per_cta` at a time: as many as there is work
/// for, at most `ctas_per_sm` on each of `sms` SMs.
pub(super) fn grid(
    what: &'static str,
    items: u64,
    per_cta: u64,
    [sms, ctas_per_sm]: [u32; 2],
) -> Result<u32, OperandError> {
    range("SMs", sms.into(), [1, 1 << 16])?;
    // Kernels count in 32 bits, with room for one step of the whole grid.
    range(what, items, [0, i32::MAX as u64])?;
    let most = u64::from(sms) * u64::from(ctas_per_sm);
    Ok(u32::try_from(items.div_ceil(per_cta).min(most)).unwrap_or(u32::MAX))
}

/// Fails when a plan is not what its description gives: its fields are public, and kernels write
/// where they say.
pub(super) fn unchanged<P: PartialEq>(plan: &P, planned: &P) -> Result<(), OperandError> {
    if plan == planned {
        return Ok(());
    }
    Err(OperandError::PlanChanged)
}

/// Checks contexts and overlaps, then enqueues `grid` CTAs of `kernel`, or nothing for 0.
pub(super) fn enqueue<P: KernelParams>(
    stream: &Stream,
    (kernel, grid): (&Kernel, u32),
    inputs: &[Memory<'_>],
    outputs: &[Memory<'_>],
    params: &P,
) -> Result<(), GemmError> {
    for memory in inputs.iter().chain(outputs) {
        if !Arc::ptr_eq(memory.context, stream.context()) {
            let what = memory.what;
            return Err(OperandError::WrongContext { what }.into());
        }
    }
    for (i, output) in outputs.iter().enumerate() {
        for other in inputs.iter().chain(outputs.iter().take(i)) {
            disjoint((output.what, &output.bytes), (other.what, &other.bytes))?;
        }
    }
    if grid == 0 {
        return Ok(());
    }
    let config = LaunchConfig::new(kernel, [grid, 1, 1]);
    // SAFETY: (1) the addresses in `params` are those of operands whose lengths and alignments the
    // callers in this module checked against the plan, and views are valid on the stream's device,
    // as compared above; (2) and (3) are the contract of views.
    unsafe { stream.launch(kernel, &config, params) }?;
    Ok(())
}
