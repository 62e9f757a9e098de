//! put, get and put-with-signal.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;

use super::sync::Change;
use super::{Endpoint, NvLinkError};
use crate::device::{Buffer, Context, Stream};
use crate::params::NvlinkCopyParams;

/// How bytes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Loads and stores of 16 bytes, or the widest that both addresses can be aligned to.
    Vector,
    /// Bulk copies through shared memory where both addresses can be aligned to 16 bytes together, else as
    /// [`Form::Vector`]. One thread per CTA works.
    Bulk,
}

/// Most CTAs that a plan takes by itself: about what fills the links of an H100 (modelled).
const MOST_CTAS: u32 = 32;
/// Bytes per CTA below which more of them do not pay (modelled).
const BYTES_PER_CTA: u64 = 32 << 10;

/// How a copy runs. The result does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CopyPlan {
    /// How bytes move.
    pub form: Form,
    /// CTAs of 256 threads.
    pub ctas: u32,
}

impl CopyPlan {
    /// A plan for copies of about `bytes`.
    #[must_use]
    pub fn new(form: Form, bytes: u64) -> Self {
        let most = u64::from(MOST_CTAS);
        let ctas = bytes.div_ceil(BYTES_PER_CTA).clamp(1, most);
        Self {
            form,
            ctas: u32::try_from(ctas).unwrap_or(MOST_CTAS),
        }
    }

    /// With exactly `ctas` CTAs, at least one.
    #[must_use]
    pub fn with_ctas(self, ctas: u32) -> Self {
        Self { ctas, ..self }
    }
}

/// A byte of the caller's part of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whose window.
    pub rank: u32,
    /// Bytes from its start, any alignment.
    pub offset: u64,
}

/// Bytes of this rank's device.
#[derive(Debug, Clone, Copy)]
enum Local<'a> {
    Buffer {
        context: &'a Arc<Context>,
        address: u64,
        size: u64,
    },
    Window,
}

/// What a put reads: a buffer of this rank, or part of its own window.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    local: Local<'a>,
    range: Range<u64>,
}

impl<'a> Source<'a> {
    /// All of `buffer`.
    #[must_use]
    pub fn buffer<T: Pod>(buffer: &'a Buffer<T>) -> Self {
        let size = buffer.bytes() as u64;
        Self {
            local: Local::Buffer {
                context: buffer.context(),
                address: buffer.address(),
                size,
            },
            range: 0..size,
        }
    }

    /// Bytes `range` of the caller's part of the own window.
    #[must_use]
    pub fn window(range: Range<u64>) -> Self {
        Self {
            local: Local::Window,
            range,
        }
    }

    /// Bytes `range` of what this was; counted from the start of the buffer or window.
    #[must_use]
    pub fn slice(self, range: Range<u64>) -> Self {
        Self { range, ..self }
    }
}

/// What a get writes: bytes of a buffer of this rank.
#[derive(Debug)]
pub struct Target<'a> {
    source: Source<'a>,
}

impl<'a, T: Pod> From<&'a mut Buffer<T>> for Target<'a> {
    fn from(buffer: &'a mut Buffer<T>) -> Self {
        Self {
            source: Source::buffer(buffer),
        }
    }
}

impl Target<'_> {
    /// Bytes `range` of the buffer.
    #[must_use]
    pub fn slice(self, range: Range<u64>) -> Self {
        Self {
            source: self.source.slice(range),
        }
    }
}

impl Endpoint {
    /// Copies `source` to `to`, in the order of `stream`.
    ///
    /// Order: none by itself. The bytes are visible to whoever acquires a signal or passes a barrier that this rank
    /// enqueues on the same stream afterwards. Until then nobody may read them. Any number per phase.
    ///
    /// # Errors
    /// A range outside its memory, ranges that overlap, another context, an earlier fault (nothing is launched in these
    /// cases), or a driver error.
    pub fn put(
        &self,
        stream: &Stream,
        source: Source<'_>,
        to: Place,
        plan: CopyPlan,
    ) -> Result<(), NvLinkError> {
        let operation = "put";
        self.enter(operation, stream)?;
        let params = self.put_params(operation, &source, to)?;
        self.copy(operation, stream, plan, &params)
    }

    /// Copies `source` to `to`, then changes signal `signal.0` of the same window, in the order of `stream`.
    ///
    /// Order: the signal is a release at system scope after the stores of all CTAs; who acquires it sees the bytes. One
    /// copy at a time per signal; the signal's one writer is this rank.
    ///
    /// # Errors
    /// As [`Self::put`], or no such signal.
    pub fn put_signal(
        &self,
        stream: &Stream,
        source: Source<'_>,
        to: Place,
        plan: CopyPlan,
        (signal, change): (u32, Change),
    ) -> Result<(), NvLinkError> {
        let operation = "put with signal";
        self.enter(operation, stream)?;
        let index = u64::from(to.rank) * u64::from(self.desc.signals) + u64::from(signal);
        let (change, value) = change.encode();
        let params = NvlinkCopyParams {
            signal: self.signal_address(operation, to.rank, signal)?,
            value,
            change,
            arrived: self.arrived.address() + index * 4,
            ..self.put_params(operation, &source, to)?
        };
        self.launch_copy(operation, stream, plan, &params)
    }

    /// Copies as many bytes as `target` has from `from`, in the order of `stream`.
    ///
    /// Order: none by itself. The bytes are those that their writer published before what this rank waited for, earlier on
    /// the same stream. Any number per phase.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn get(
        &self,
        stream: &Stream,
        from: Place,
        target: Target<'_>,
        plan: CopyPlan,
    ) -> Result<(), NvLinkError> {
        let operation = "get";
        self.enter(operation, stream)?;
        let (destination, bytes) = self.local(operation, &target.source)?;
        let source = self.data_address(operation, from.rank, (from.offset, bytes))?;
        let params = NvlinkCopyParams {
            nvlink: self.params(),
            destination,
            source,
            bytes,
            ..Default::default()
        };
        self.copy(operation, stream, plan, &params)
    }

    fn put_params(
        &self,
        operation: &'static str,
        source: &Source<'_>,
        to: Place,
    ) -> Result<NvlinkCopyParams, NvLinkError> {
        let (source, bytes) = self.local(operation, source)?;
        let destination = self.data_address(operation, to.rank, (to.offset, bytes))?;
        Self::disjoint(operation, (source, destination), (to.offset, bytes))?;
        Ok(NvlinkCopyParams {
            nvlink: self.params(),
            destination,
            source,
            bytes,
            ..Default::default()
        })
    }

    /// Refuses a destination, at `offset` of the own window, that shares bytes with the source.
    pub(super) fn disjoint(
        operation: &'static str,
        (source, destination): (u64, u64),
        (offset, bytes): (u64, u64),
    ) -> Result<(), NvLinkError> {
        if source < destination + bytes && destination < source + bytes {
            return Err(NvLinkError::Argument {
                operation,
                what: "destination",
                value: format!("offset {offset} of the own window"),
                expected: "no byte of the source".into(),
            });
        }
        Ok(())
    }

    /// Address and bytes.
    pub(super) fn local(
        &self,
        operation: &'static str,
        source: &Source<'_>,
    ) -> Result<(u64, u64), NvLinkError> {
        let Range { start, end } = source.range;
        let bytes = end.saturating_sub(start);
        match source.local {
            Local::Window => {
                let address = self.data_address(operation, self.rank(), (start, bytes))?;
                Ok((address, bytes))
            }
            Local::Buffer {
                context,
                address,
                size,
            } => {
                self.same_context(operation, "buffer", context)?;
                if start.checked_add(bytes).is_some_and(|end| end <= size) {
                    return Ok((address + start, bytes));
                }
                Err(NvLinkError::Range {
                    operation,
                    what: "buffer",
                    offset: start,
                    bytes,
                    size,
                })
            }
        }
    }

    /// Without a signal nothing is to be done for no bytes.
    fn copy(
        &self,
        operation: &'static str,
        stream: &Stream,
        plan: CopyPlan,
        params: &NvlinkCopyParams,
    ) -> Result<(), NvLinkError> {
        if params.bytes == 0 {
            return Ok(());
        }
        self.launch_copy(operation, stream, plan, params)
    }

    fn launch_copy(
        &self,
        operation: &'static str,
        stream: &Stream,
        plan: CopyPlan,
        params: &NvlinkCopyParams,
    ) -> Result<(), NvLinkError> {
        if plan.ctas == 0 {
            return Err(NvLinkError::Argument {
                operation,
                what: "CTAs",
                value: "0".into(),
                expected: "at least 1".into(),
            });
        }
        let kernel = match plan.form {
            Form::Vector => &self.kernels.copy_vector,
            Form::Bulk => &self.kernels.copy_bulk,
        };
        self.launch(stream, (kernel, plan.ctas), params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_grows_with_the_bytes_up_to_a_bound() {
        let ctas = |bytes| CopyPlan::new(Form::Vector, bytes).ctas;
        let found = [0, 1, 32 << 10, (32 << 10) + 1, 1 << 20, u64::MAX].map(ctas);
        assert_eq!(found, [1, 1, 1, 2, 32, 32]);
    }
}
