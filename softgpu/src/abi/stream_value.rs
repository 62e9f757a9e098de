//! Waiting for and writing words of memory in stream order.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::In;
use super::types::BatchMemOp;
use crate::driver::context::{DefaultStream, stream};
use crate::driver::status::{Result, Status};
use crate::driver::stream::Op;
use crate::mem::{AddressSpace, Width};

type Target = (u64, DefaultStream);

/// Whether a word satisfies a wait: `CUstreamWaitValue_flags`.
fn satisfied(mode: u32, width: Width, word: u64, value: u64) -> bool {
    let mask = match width {
        Width::Four => u64::from(u32::MAX),
        Width::Eight => u64::MAX,
    };
    let half = mask / 2;
    match mode {
        // Cyclic: the word is at most half the range ahead of the value.
        0 => word.wrapping_sub(value) & mask <= half,
        1 => word == value & mask,
        2 => word & value != 0,
        _ => !(word | value) & mask != 0,
    }
}

fn wait((on, default): Target, width: Width, at: u64, value: u64, flags: u32) -> Result<()> {
    const FLUSH: u32 = 1 << 30;
    let mode = flags & !FLUSH;
    let (context, stream) = stream(on, default)?;
    let span = AddressSpace::global().span(at, width as u64);
    let span = span.filter(|s| s.load(width).is_some() && mode <= 3);
    let span = span.ok_or(Status::INVALID_VALUE)?;
    let done = Box::new(move || {
        let word = span.load(width);
        word.is_none_or(|word| satisfied(mode, width, word, value))
    });
    context.enqueue(&stream, Op::Poll(done)).map(drop)
}

fn write((on, default): Target, width: Width, at: u64, value: u64, flags: u32) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    let span = AddressSpace::global().span(at, width as u64);
    let span = span.filter(|s| s.load(width).is_some() && flags <= 1);
    let span = span.ok_or(Status::INVALID_VALUE)?;
    let work = Box::new(move || {
        span.store(width, value);
    });
    context.enqueue(&stream, Op::Quick(work)).map(drop)
}

/// The low half of a word, where C has a 32-bit field.
fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn batch(target: Target, count: u32, ops: In<BatchMemOp>, flags: u32) -> Result<()> {
    if flags != 0 || count > 256 {
        return Err(Status::INVALID_VALUE);
    }
    for op in ops.all(count as usize)? {
        let (at, flags) = (op.address, low(op.flags));
        let narrow = u64::from(low(op.value));
        match low(op.operation) {
            1 => wait(target, Width::Four, at, narrow, flags)?,
            2 => write(target, Width::Four, at, narrow, flags)?,
            3 | 6 => {}
            4 => wait(target, Width::Eight, at, op.value, flags)?,
            5 => write(target, Width::Eight, at, op.value, flags)?,
            _ => return Err(Status::INVALID_VALUE),
        }
    }
    Ok(())
}

entries! { call:
    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz, default (
        on: u64, at: u64, value: u32, flags: u32
    ) {
        wait((on, default), Width::Four, at, u64::from(value), flags)
    }
    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz, default (
        on: u64, at: u64, value: u64, flags: u32
    ) {
        wait((on, default), Width::Eight, at, value, flags)
    }
    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz, default (
        on: u64, at: u64, value: u32, flags: u32
    ) {
        write((on, default), Width::Four, at, u64::from(value), flags)
    }
    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz, default (
        on: u64, at: u64, value: u64, flags: u32
    ) {
        write((on, default), Width::Eight, at, value, flags)
    }
    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz, default (
        on: u64, count: u32, ops: In<BatchMemOp>, flags: u32
    ) {
        batch((on, default), count, ops, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_compare_as_the_api_says() {
        let narrow = |mode, word, value| satisfied(mode, Width::Four, word, value);
        assert!(narrow(0, 5, 5) && narrow(0, 6, 5) && !narrow(0, 4, 5));
        // Cyclic comparison wraps.
        assert!(narrow(0, 1, 0xFFFF_FFFF) && !narrow(0, 0xFFFF_FFFF, 1));
        assert!(narrow(1, 7, 7) && !narrow(1, 8, 7));
        assert!(narrow(2, 6, 2) && !narrow(2, 4, 2));
        assert!(narrow(3, 1, 2) && !narrow(3, 0xFFFF_0000, 0xFFFF));
        assert!(satisfied(0, Width::Eight, 1 << 40, 5));
    }
}
