//! Copies and fills: from checked guest ranges and trusted host ranges to work on a stream.
//!
//! # Safety
//!
//! Addresses outside the guest window are host memory of the caller, who vouches for them at the
//! `unsafe` entry ([`Rect::submit`]); for asynchronous operations until the work is done, as with
//! a real driver. Pageable host memory is read at the call and written before it returns.

#![expect(unsafe_code, reason = "host memory is taken on the caller's word")]

use std::sync::Arc;

use super::context::Context;
use super::output;
use super::status::{Result, Status};
use super::stream::{Op, Stream};
use super::task::Task;
use crate::mem::{Access, AddressSpace, Span};

/// What an address is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Host memory, pinned or not.
    Host,
    /// Memory known to the driver.
    Device,
    /// Either; the address decides.
    Unified,
}

/// One end of a copy: rows of `width` bytes at `pitch`, in slices of `rows` rows.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// What kind of memory.
    pub memory: Memory,
    /// Address of the first byte.
    pub address: u64,
    /// Distance of rows in bytes.
    pub pitch: u64,
    /// Distance of slices in rows.
    pub rows: u64,
}

impl Side {
    /// A plain run of bytes.
    #[must_use]
    pub fn linear(memory: Memory, address: u64) -> Self {
        Self {
            memory,
            address,
            pitch: 0,
            rows: 0,
        }
    }

    fn offset(&self, row: u64, slice: u64) -> u64 {
        (slice * self.rows + row) * self.pitch
    }
}

/// A box of bytes to copy.
#[derive(Debug, Clone, Copy)]
pub struct Rect {
    /// Destination.
    pub dst: Side,
    /// Source.
    pub src: Side,
    /// Bytes per row.
    pub width: u64,
    /// Rows per slice.
    pub height: u64,
    /// Slices.
    pub depth: u64,
}

/// Whether a call returns before its work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The call returns when the work is done.
    Sync,
    /// The call queues the work.
    Async,
}

/// How a resolved side may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Residence {
    Guest,
    Pageable,
}

impl Rect {
    /// A plain copy.
    #[must_use]
    pub fn linear(dst: Side, src: Side, bytes: u64) -> Self {
        Self {
            dst,
            src,
            width: bytes,
            height: 1,
            depth: 1,
        }
    }

    /// Bytes from the first to the last one touched on a side; `None` on overflow or overlap.
    fn extent(&self, side: &Side) -> Option<u64> {
        let overlapping_rows = self.height > 1 && side.pitch < self.width;
        let overlapping_slices = self.depth > 1 && side.rows < self.height;
        if overlapping_rows || overlapping_slices {
            return None;
        }
        let slices = (self.depth - 1).checked_mul(side.rows)?;
        let rows = slices.checked_add(self.height - 1)?;
        rows.checked_mul(side.pitch)?.checked_add(self.width)
    }

    /// # Safety
    ///
    /// As [`Self::submit`].
    unsafe fn resolve(&self, side: &Side, access: Access) -> Result<(Span, Residence)> {
        let space = AddressSpace::global();
        let bytes = self.extent(side).ok_or(Status::INVALID_VALUE)?;
        if let Some(span) = space.span(side.address, bytes) {
            if !space.any_access(side.address, bytes, access) {
                return Err(Status::INVALID_VALUE);
            }
            return Ok((span, Residence::Guest));
        }
        let end = side.address.checked_add(bytes);
        let last = end.ok_or(Status::INVALID_VALUE)? - 1;
        let guest = space.in_window(side.address) || space.in_window(last);
        if guest || side.memory == Memory::Device || side.address == 0 {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: host memory that the caller vouches for.
        let span = unsafe { Span::host(side.address, bytes) };
        Ok((span, Residence::Pageable))
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    /// Checks both sides.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for a guest range that is not allocated, memory that no device may touch,
    /// or rows that overlap.
    pub fn check(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: the spans are dropped at once; nothing is accessed.
        unsafe { self.resolve(&self.dst, Access::Write) }?;
        // SAFETY: as above.
        unsafe { self.resolve(&self.src, Access::Read) }?;
        Ok(())
    }

    /// Copies now. Nothing happens if memory is gone since the check.
    pub fn perform(&self) {
        if self.is_empty() {
            return;
        }
        // SAFETY: host memory is the client's word at the entry where the copy was asked for.
        let dst = unsafe { self.resolve(&self.dst, Access::Write) };
        // SAFETY: as above.
        let src = unsafe { self.resolve(&self.src, Access::Read) };
        if let (Ok((dst, _)), Ok((src, _))) = (dst, src) {
            self.copy(&dst, &src);
        }
    }

    /// Queues the copy on a stream; in synchronous mode, or where the destination is pageable
    /// host memory, waits for it.
    ///
    /// # Safety
    ///
    /// Host addresses must be valid for the bytes touched: pageable source memory during the
    /// call, pinned memory until the work is done; in a capture, as long as the graph is used.
    ///
    /// # Errors
    ///
    /// As [`Self::check`]; the sticky fault of the context; errors of captures.
    pub unsafe fn submit(self, context: &Context, stream: &Arc<Stream>, mode: Mode) -> Result<()> {
        self.check()?;
        if stream.capture.lock().is_some() {
            return Task::Copy(self).submit(context, stream, mode);
        }
        if self.is_empty() {
            return context.health.check();
        }
        // SAFETY: the caller's promise.
        let (dst, dst_at) = unsafe { self.resolve(&self.dst, Access::Write) }?;
        // SAFETY: the caller's promise.
        let (src, src_at) = unsafe { self.resolve(&self.src, Access::Read) }?;
        let waits = mode == Mode::Sync || dst_at == Residence::Pageable;
        let work: Box<dyn FnOnce() + Send> = if src_at == Residence::Pageable && !waits {
            let staged = src.read();
            Box::new(move || {
                // SAFETY: the vector lives until the copy is done.
                let src = unsafe { Span::host(address_of(&staged), staged.len() as u64) };
                self.copy(&dst, &src);
            })
        } else {
            Box::new(move || self.copy(&dst, &src))
        };
        submit(context, stream, work, if waits { Mode::Sync } else { mode })
    }

    fn copy(&self, dst: &Span, src: &Span) {
        for slice in 0..self.depth {
            for row in 0..self.height {
                let to = dst.part(self.dst.offset(row, slice), self.width);
                let from = src.part(self.src.offset(row, slice), self.width);
                to.copy_from(&from);
            }
        }
    }
}

/// A fill: rows of `width` bytes with a repeated pattern.
#[derive(Debug, Clone)]
pub struct Fill {
    /// First address.
    pub address: u64,
    /// Distance of rows.
    pub pitch: u64,
    /// 1, 2 or 4 bytes.
    pub pattern: Vec<u8>,
    /// Bytes per row.
    pub width: u64,
    /// Rows.
    pub height: u64,
}

impl Fill {
    fn span(&self) -> Result<Span> {
        let space = AddressSpace::global();
        let unit = self.pattern.len() as u64;
        let aligned = self.address.is_multiple_of(unit)
            && (self.height == 1 || self.pitch.is_multiple_of(unit) && self.pitch >= self.width);
        let bytes = (self.height - 1)
            .checked_mul(self.pitch)
            .and_then(|rows| rows.checked_add(self.width));
        let allowed = |b: &u64| space.any_access(self.address, *b, Access::Write);
        let span = bytes
            .filter(allowed)
            .and_then(|b| space.span(self.address, b));
        span.filter(|_| aligned).ok_or(Status::INVALID_VALUE)
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Checks the destination.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for misaligned or unallocated ranges and for memory that no device may
    /// write.
    pub fn check(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.span().map(drop)
    }

    /// Fills now. Nothing happens if the memory is gone since the check.
    pub fn perform(&self) {
        if self.is_empty() {
            return;
        }
        if let Ok(span) = self.span() {
            for row in 0..self.height {
                span.part(row * self.pitch, self.width).fill(&self.pattern);
            }
        }
    }

    /// Queues the fill; in synchronous mode waits for it.
    ///
    /// # Errors
    ///
    /// As [`Self::check`]; the sticky fault of the context; errors of captures.
    pub fn submit(self, context: &Context, stream: &Arc<Stream>, mode: Mode) -> Result<()> {
        self.check()?;
        if self.is_empty() && stream.capture.lock().is_none() {
            return context.health.check();
        }
        Task::Fill(self).submit(context, stream, mode)
    }
}

fn submit(
    context: &Context,
    stream: &Arc<Stream>,
    work: Box<dyn FnOnce() + Send>,
    mode: Mode,
) -> Result<()> {
    let done = context.enqueue(stream, Op::Quick(work))?;
    if mode == Mode::Sync {
        done.wait();
        output::flush(context.device);
        return context.health.check();
    }
    Ok(())
}

fn address_of(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}
