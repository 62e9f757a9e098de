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

/// `output[i] += shared[i]` for the first `elements` (a multiple of 4), in FP32.
///
/// # Errors
///
/// [`MoeError::Desc`] for another number of elements, [`MoeError::Operand`] for a buffer that is too
/// short, or a device error.
pub fn add_shared(
    stream: &Stream,
    output: &mut Buffer<f32>,
    shared: &Buffer<bf16>,
    elements: usize,
) -> Result<(), MoeError> {
    let quads = elements.is_multiple_of(4);
    require(OPERATION, ("elements", elements), quads, "a multiple of 4")?;
    let params = AddSharedParams {
        output: operand(OPERATION, stream, ("output", output), elements)?,
        shared: operand(OPERATION, stream, ("shared", shared), elements)?,
        elements: elements as u64,
    };
    if elements == 0 {
        return Ok(());
    }
    let kernel = stream.context().kernel("moe_add_shared")?;
    let ctas = (elements / 4).div_ceil(256);
    let most = stream.context().multiprocessors()?.max(1);
    let grid = u32::try_from(ctas).unwrap_or(most).min(most);
    let config = LaunchConfig::new(&kernel, [grid, 1, 1]);
    // SAFETY: (1) both buffers have the elements, on this device, aligned by their allocation;
    // (2) freeing a buffer waits for work that uses it; (3) the output is borrowed mutably here and
    // ordered by its streams afterwards.
    unsafe { stream.launch(&kernel, &config, &params) }?;
    Ok(())
}
