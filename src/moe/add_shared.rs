//! Addition of the shared expert's output; `csrc/moe/add_shared.cuh`.
#![expect(
    unsafe_code,
    reason = "launches a kernel whose contract is fulfilled here"
)]

use super::{MoeError, operand, require};
use crate::device::{Buffer, LaunchConfig, Stream};
use crate::params::AddSharedParams;
use half::bf16;

const OPERATION: &str = "add shared expert";

/// Where the sums go.
#[derive(Debug)]
pub enum Sum<'a> {
    /// Over the combined rows.
    InPlace(&'a mut Buffer<f32>),
    /// Rounded to nearest even.
    Bf16 {
        /// The combined rows.
        combined: &'a Buffer<f32>,
        /// Out.
        output: &'a mut Buffer<bf16>,
    },
}

/// `combined[i] + shared[i]`, in FP32, for the first `elements` (a multiple of 4).
///
/// # Errors
///
/// [`MoeError::Desc`] for another number of elements, [`MoeError::Operand`] for a buffer that is too
/// short, or a device error.
pub fn add_shared(
    stream: &Stream,
    sum: Sum<'_>,
    shared: &Buffer<bf16>,
    elements: usize,
) -> Result<(), MoeError> {
    let quads = elements.is_multiple_of(4);
    require(OPERATION, ("elements", elements), quads, "a multiple of 4")?;
    let shared = operand(OPERATION, stream, ("shared", shared), elements)?;
    let (kernel, combined, output) = match sum {
        Sum::InPlace(rows) => {
            let rows = operand(OPERATION, stream, ("combined", rows), elements)?;
            ("moe_add_shared_f32", rows, rows)
        }
        Sum::Bf16 { combined, output } => (
            "moe_add_shared_bf16",
            operand(OPERATION, stream, ("combined", combined), elements)?,
            operand(OPERATION, stream, ("output", output), elements)?,
        ),
    };
    let params = AddSharedParams {
        combined,
        shared,
        output,
        elements: elements as u64,
    };
    if elements == 0 {
        return Ok(());
    }
    let kernel = stream.context().kernel(kernel)?;
    let ctas = (elements / 4).div_ceil(256);
    let most = stream.context().multiprocessors()?.max(1);
    let grid = u32::try_from(ctas).unwrap_or(most).min(most);
    let config = LaunchConfig::new(&kernel, [grid, 1, 1]);
    // SAFETY: (1) all buffers have the elements, on this device, aligned by their allocation;
    // (2) freeing a buffer waits for work that uses it; (3) the output is borrowed mutably here and
    // ordered by its streams afterwards.
    unsafe { stream.launch(&kernel, &config, &params) }?;
    Ok(())
}
