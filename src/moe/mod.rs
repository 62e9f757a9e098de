//! The kernels around the expert GEMMs of a mixture-of-experts layer: routing, SwiGLU (with
//! quantisation or without), and the addition of the shared expert. Each is description → plan (checked, pure) →
//! run on a stream.

mod add_shared;
mod route;
mod swiglu;

pub use add_shared::{Sum, add_shared};
pub use route::{GroupWorth, RouteDesc, RouteOperands, RoutePlan, RouterWeight, Scores};
pub use swiglu::{SwigluDesc, SwigluFormat, SwigluOperands, SwigluOutput, SwigluPlan};

use crate::device::{Buffer, DeviceError, Stream};
use crate::gemm::View;
use bytemuck::Pod;
use std::sync::Arc;

/// Why one of these operations was refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MoeError {
    /// A number of a description is not supported.
    #[error("{operation}: {what} = {found}, expected {expected}")]
    Desc {
        /// Operation.
        operation: &'static str,
        /// Field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What is supported.
        expected: String,
    },
    /// A buffer has too few elements, or is in another context than the stream.
    #[error("{operation}: {what} has {found} elements, expected at least {expected}")]
    Operand {
        /// Operation.
        operation: &'static str,
        /// Operand.
        what: &'static str,
        /// Elements.
        found: usize,
        /// Elements needed.
        expected: usize,
    },
    /// A bound that is not a positive number.
    #[error("{operation}: limit = {found}, expected a positive number")]
    Limit {
        /// Operation.
        operation: &'static str,
        /// The bound.
        found: f32,
    },
    /// An operand is stored in another format than the plan's.
    #[error("{operation}: {what} is {found}, expected {expected}")]
    Format {
        /// Operation.
        operation: &'static str,
        /// Operand.
        what: &'static str,
        /// Its format.
        found: &'static str,
        /// The plan's.
        expected: &'static str,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

#[expect(
    clippy::fn_params_excessive_bools,
    reason = "the condition that must hold"
)]
fn require(
    operation: &'static str,
    (what, found): (&'static str, usize),
    holds: bool,
    expected: impl Into<String>,
) -> Result<(), MoeError> {
    if holds {
        return Ok(());
    }
    let (found, expected) = (found as u64, expected.into());
    Err(MoeError::Desc {
        operation,
        what,
        found,
        expected,
    })
}

/// Address of a buffer that is long enough and on the stream's device.
fn operand<T: Pod>(
    operation: &'static str,
    stream: &Stream,
    (what, buffer): (&'static str, &Buffer<T>),
    expected: usize,
) -> Result<u64, MoeError> {
    view(operation, stream, (what, buffer.into()), expected)
}

/// The same of a view.
fn view<T: Pod>(
    operation: &'static str,
    stream: &Stream,
    (what, view): (&'static str, View<'_, T>),
    expected: usize,
) -> Result<u64, MoeError> {
    if !Arc::ptr_eq(stream.context(), view.context()) {
        return Err(DeviceError::WrongContext { operation, what }.into());
    }
    if view.len() < expected {
        return Err(MoeError::Operand {
            operation,
            what,
            found: view.len(),
            expected,
        });
    }
    Ok(view.address())
}

/// A checked dimension as the kernels take it.
fn dimension(operation: &'static str, what: &'static str, value: usize) -> Result<u32, MoeError> {
    u32::try_from(value).map_err(|_| MoeError::Desc {
        operation,
        what,
        found: value as u64,
        expected: "at most 4294967295".into(),
    })
}
