//! How many blocks fit: the limits of one Hopper multiprocessor, as the scheduler applies them.

use super::module::{Function, MAX_SHARED};
use super::status::{Result, Status};
use crate::exec::{Config, Need};

const SHARED_PER_SM: u32 = 233_472;
/// Shared memory that the system takes per block.
const RESERVED_SHARED: u32 = 1024;
/// Unit in which shared memory is handed out.
const SHARED_UNIT: u32 = 128;

/// Blocks of `threads` threads with `dynamic` bytes of dynamic shared memory that fit into one
/// multiprocessor at a time. Registers count as [`crate::ir::Function::registers`] estimates them.
///
/// # Errors
///
/// `INVALID_VALUE` for no threads.
pub fn blocks_per_sm(function: &Function, threads: u32, dynamic: u64) -> Result<u32> {
    if threads == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let dynamic = u32::try_from(dynamic).map_err(|_| Status::INVALID_VALUE)?;
    if threads > function.max_threads() {
        return Ok(0);
    }
    let (_, shared) = function.kernel.shared_layout(dynamic.min(MAX_SHARED));
    if dynamic > MAX_SHARED || shared > MAX_SHARED {
        return Ok(0);
    }
    Ok(Need::new(shared, threads, function.kernel.function().registers).per_sm())
}

/// Blocks that fit into the whole device at a time.
///
/// # Errors
///
/// As [`blocks_per_sm`].
pub fn blocks_per_device(function: &Function, threads: u32, dynamic: u64) -> Result<u64> {
    let per_sm = blocks_per_sm(function, threads, dynamic)?;
    Ok(u64::from(per_sm) * u64::from(Config::global().sms))
}

/// Dynamic shared memory with which `blocks` blocks still fit into one multiprocessor.
///
/// # Errors
///
/// `INVALID_VALUE` if not even without any.
pub fn available_dynamic_shared(function: &Function, blocks: u32, threads: u32) -> Result<u64> {
    if blocks == 0 || blocks_per_sm(function, threads, 0)? < blocks {
        return Err(Status::INVALID_VALUE);
    }
    let share = (SHARED_PER_SM / blocks).saturating_sub(RESERVED_SHARED);
    let share = (share / SHARED_UNIT * SHARED_UNIT).min(MAX_SHARED);
    let (start, _) = function.kernel.shared_layout(1);
    Ok(u64::from(share.saturating_sub(start)))
}
