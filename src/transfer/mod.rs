//! Transfers between ranks ([`nvlink`]); setting device memory and waiting on it with kernels, and a probe of the speed of
//! execution.
//!
//! # Safety
//! Every range that a kernel gets here is one whole buffer of the stream's context; freeing a buffer
//! waits for work that uses it.
#![expect(
    unsafe_code,
    reason = "launches kernels whose contract is fulfilled here"
)]

pub mod nvlink;

use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use crate::device::{Buffer, DeviceError, LaunchConfig, Stream};
use crate::params::{FillParams, ProbeArithmeticParams, WaitOutcome, WaitWordParams};

/// Sets every word of `buffer` to `value` with a kernel, in the order of `stream`.
///
/// # Errors
/// The buffer belongs to another context, or a driver error.
pub fn fill_words(
    stream: &Stream,
    buffer: &mut Buffer<u32>,
    value: u32,
) -> Result<(), DeviceError> {
    same_context(stream, buffer, "buffer")?;
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

/// Enqueues a wait on `stream` until the first word of `word` is `expected`, at most `limit` of
/// device time. How it ended lies in `outcome` when the stream is past it.
///
/// The word is read with acquire order at system scope; one thread polls it. Writers (another
/// stream, another device, the host) publish with release order.
///
/// # Errors
/// An empty buffer, one of another context, or a driver error.
pub fn wait_word(
    stream: &Stream,
    word: &Buffer<u32>,
    expected: u32,
    limit: Duration,
    outcome: &mut Buffer<WaitOutcome>,
) -> Result<(), DeviceError> {
    same_context(stream, word, "word")?;
    same_context(stream, outcome, "outcome")?;
    let shortest = word.len().min(outcome.len());
    if shortest == 0 {
        return Err(DeviceError::Length {
            operation: "wait",
            found: shortest,
            expected: 1,
        });
    }
    let kernel = stream.context().kernel("wait_word")?;
    let params = WaitWordParams {
        address: word.address(),
        outcome: outcome.address(),
        limit_ns: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
        expected,
        reserved: 0,
    };
    let config = LaunchConfig::new(&kernel, [1, 1, 1]);
    // SAFETY: (1) both ranges have at least one element of this context; (2) freeing a buffer waits;
    // (3) the kernel only reads the word, atomically, and `outcome` is borrowed mutably.
    unsafe { stream.launch(&kernel, &config, &params) }
}

/// Instructions that each thread executes per iteration of [`probe_arithmetic`].
pub const PROBE_INSTRUCTIONS: u64 = 35;

/// Runs `iterations` (at least one) of an arithmetic loop in one thread per element of `output`,
/// each of which becomes a digest of the results.
///
/// # Errors
/// A length that is not a multiple of the CTA's threads, another context, or a driver error.
pub fn probe_arithmetic(
    stream: &Stream,
    output: &mut Buffer<u32>,
    iterations: u32,
) -> Result<(), DeviceError> {
    same_context(stream, output, "output")?;
    let kernel = stream.context().kernel("probe_arithmetic")?;
    let threads = kernel.image().threads as usize;
    if output.is_empty() || !output.len().is_multiple_of(threads) {
        let found = output.len();
        let expected = found.next_multiple_of(threads).max(threads);
        return Err(DeviceError::Length {
            operation: "arithmetic probe",
            found,
            expected,
        });
    }
    let ctas = u32::try_from(output.len() / threads).unwrap_or(u32::MAX);
    let params = ProbeArithmeticParams {
        output: output.address(),
        iterations,
        reserved: 0,
    };
    let config = LaunchConfig::new(&kernel, [ctas, 1, 1]);
    // SAFETY: (1) one word per thread of the grid; (2) freeing a buffer waits; (3) the buffer is
    // borrowed mutably.
    unsafe { stream.launch(&kernel, &config, &params) }
}

fn same_context<T: Pod>(
    stream: &Stream,
    buffer: &Buffer<T>,
    what: &'static str,
) -> Result<(), DeviceError> {
    if Arc::ptr_eq(stream.context(), buffer.context()) {
        return Ok(());
    }
    Err(DeviceError::WrongContext {
        operation: "transfer kernel",
        what,
    })
}
