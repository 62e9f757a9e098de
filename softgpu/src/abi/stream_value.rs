//! Waiting for and writing words of memory in stream order.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::In;
use super::types::BatchMemOp;
use crate::driver::context::{DefaultStream, stream};
use crate::driver::status::{Result, Status};
use crate::driver::task::Task;
use crate::driver::transfer::Mode;
use crate::driver::words::{WordAction, WordOp};
use crate::mem::Width;

type Target = (u64, DefaultStream);

fn submit((on, default): Target, ops: Vec<WordOp>) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    Task::Words(ops).submit(&context, &stream, Mode::Async)
}

fn wait(width: Width, at: u64, value: u64, flags: u32) -> Result<WordOp> {
    const FLUSH: u32 = 1 << 30;
    WordOp::new(WordAction::Wait(flags & !FLUSH), width, at, value)
}

fn write(width: Width, at: u64, value: u64, flags: u32) -> Result<WordOp> {
    if flags > 1 {
        return Err(Status::INVALID_VALUE);
    }
    WordOp::new(WordAction::Write, width, at, value)
}

/// The operations of a batch.
pub(super) fn operations(count: u32, ops: In<BatchMemOp>) -> Result<Vec<WordOp>> {
    if count > 256 {
        return Err(Status::INVALID_VALUE);
    }
    let list = ops.all(count as usize)?;
    list.iter().map(operation).collect()
}

fn operation(op: &BatchMemOp) -> Result<WordOp> {
    let (at, flags) = (op.address, low(op.flags));
    let narrow = u64::from(low(op.value));
    let made = match low(op.operation) {
        1 => wait(Width::Four, at, narrow, flags),
        2 => write(Width::Four, at, narrow, flags),
        3 | 6 => WordOp::new(WordAction::Order, Width::Four, 0, 0),
        4 => wait(Width::Eight, at, op.value, flags),
        5 => write(Width::Eight, at, op.value, flags),
        _ => Err(Status::INVALID_VALUE),
    };
    let raw = [
        op.operation,
        op.address,
        op.value,
        op.flags,
        op.alias,
        op.pad,
    ];
    let mut made = made?;
    made.raw = raw;
    Ok(made)
}

/// The low half of a word, where C has a 32-bit field.
fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn batch(target: Target, count: u32, ops: In<BatchMemOp>, flags: u32) -> Result<()> {
    if flags != 0 {
        return Err(Status::INVALID_VALUE);
    }
    submit(target, operations(count, ops)?)
}

entries! { call:
    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz, default (
        on: u64, at: u64, value: u32, flags: u32
    ) {
        submit((on, default), vec![wait(Width::Four, at, u64::from(value), flags)?])
    }
    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz, default (
        on: u64, at: u64, value: u64, flags: u32
    ) {
        submit((on, default), vec![wait(Width::Eight, at, value, flags)?])
    }
    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz, default (
        on: u64, at: u64, value: u32, flags: u32
    ) {
        submit((on, default), vec![write(Width::Four, at, u64::from(value), flags)?])
    }
    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz, default (
        on: u64, at: u64, value: u64, flags: u32
    ) {
        submit((on, default), vec![write(Width::Eight, at, value, flags)?])
    }
    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz, default (
        on: u64, count: u32, ops: In<BatchMemOp>, flags: u32
    ) {
        batch((on, default), count, ops, flags)
    }
    fn cuStreamWaitValue32 | cuStreamWaitValue32_ptsz, default (
        on: u64, at: u64, value: u32, flags: u32
    ) {
        submit((on, default), vec![wait(Width::Four, at, u64::from(value), flags)?])
    }
    fn cuStreamWaitValue64 | cuStreamWaitValue64_ptsz, default (
        on: u64, at: u64, value: u64, flags: u32
    ) {
        submit((on, default), vec![wait(Width::Eight, at, value, flags)?])
    }
    fn cuStreamWriteValue32 | cuStreamWriteValue32_ptsz, default (
        on: u64, at: u64, value: u32, flags: u32
    ) {
        submit((on, default), vec![write(Width::Four, at, u64::from(value), flags)?])
    }
    fn cuStreamWriteValue64 | cuStreamWriteValue64_ptsz, default (
        on: u64, at: u64, value: u64, flags: u32
    ) {
        submit((on, default), vec![write(Width::Eight, at, value, flags)?])
    }
    fn cuStreamBatchMemOp | cuStreamBatchMemOp_ptsz, default (
        on: u64, count: u32, ops: In<BatchMemOp>, flags: u32
    ) {
        batch((on, default), count, ops, flags)
    }
}
