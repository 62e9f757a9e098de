//! Moving and setting device memory with kernels.
#![expect(
    unsafe_code,
    reason = "launches kernels whose contract is fulfilled here"
)]

use std::sync::Arc;

use crate::device::{Buffer, DeviceError, LaunchConfig, Stream};
use crate::params::FillParams;

/// Sets every word of `buffer` to `value` with a kernel, in the order of `stream`.
///
/// # Errors
/// The buffer belongs to another context, or a driver error.
pub fn fill_words(
    stream: &Stream,
    buffer: &mut Buffer<u32>,
    value: u32,
) -> Result<(), DeviceError> {
    if !Arc::ptr_eq(stream.context(), buffer.context()) {
        return Err(DeviceError::WrongContext {
            operation: "fill",
            what: "buffer",
        });
    }
    if buffer.is_empty() {
        return Ok(());
    }
    let kernel = stream.context().kernel("fill_words")?;
    let count = buffer.len() as u64;
    let ctas = count.div_ceil(u64::from(kernel.image().threads));
    let most = stream.context().multiprocessors()?.max(1);
    let grid = [u32::try_from(ctas).unwrap_or(most).min(most), 1, 1];
    let config = LaunchConfig::new(&kernel, grid);
    let params = FillParams {
        destination: buffer.address(),
        count,
        value,
        reserved: 0,
    };
    // SAFETY: (1) the range is the whole buffer, which is on the stream's device; (2) freeing a
    // buffer waits for work that uses it; (3) the buffer is borrowed mutably while it is enqueued,
    // and its other users are ordered by their streams.
    unsafe { stream.launch(&kernel, &config, &params) }
}
