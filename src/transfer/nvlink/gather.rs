//! All-gather of small records.

use bytemuck::Pod;

use super::{Endpoint, NvLinkError};
use crate::device::{Buffer, DeviceError, Stream};
use crate::params::NvlinkAllGatherParams;

impl Endpoint {
    /// Brings `record` of every rank to every rank: `output` becomes `[rank][record]`, in the order of `stream`.
    ///
    /// All ranks call it the same number of times with records of the same length, at most
    /// [`record_bytes`](super::Desc::record_bytes). The all-gathers of one rank follow each other. Order: acquire; later
    /// work of the stream also sees what each rank did before its own call. The epoch lies in device memory: a captured
    /// all-gather replays.
    ///
    /// # Errors
    /// Lengths that do not fit, another context, an earlier fault (nothing is launched in these cases), or a driver error.
    pub fn all_gather<T: Pod>(
        &self,
        stream: &Stream,
        record: &Buffer<T>,
        output: &mut Buffer<T>,
    ) -> Result<(), NvLinkError> {
        let operation = "all-gather";
        self.enter(operation, stream)?;
        self.same_context(operation, "record", record.context())?;
        self.same_context(operation, "output", output.context())?;
        let expected = record.len().saturating_mul(self.ranks() as usize);
        if output.len() != expected {
            let found = output.len();
            let error = DeviceError::Length {
                operation,
                found,
                expected,
            };
            return Err(error.into());
        }
        let bytes = u32::try_from(record.bytes()).unwrap_or(u32::MAX);
        if bytes > self.desc.record_bytes {
            return Err(NvLinkError::Range {
                operation,
                what: "record's slot",
                offset: 0,
                bytes: record.bytes() as u64,
                size: self.desc.record_bytes.into(),
            });
        }
        let params = NvlinkAllGatherParams {
            nvlink: self.params(),
            record: record.address(),
            output: output.address(),
            bytes,
            reserved: 0,
        };
        self.launch(stream, (&self.kernels.all_gather, 1), &params)
    }
}
