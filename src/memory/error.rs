//! Errors of shared memory and of the ranks' meeting.

use std::time::Duration;

use crate::device::DeviceError;

/// Why shared memory could not be set up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A number of ranks outside what is supported.
    #[error("{ranks} ranks, expected 1 or more")]
    Ranks {
        /// Ranks asked for.
        ranks: u32,
    },
    /// Ranks did not come to a meeting in time.
    #[error("{operation}: ranks {missing:?} did not come within {waited:?}")]
    Timeout {
        /// The meeting.
        operation: &'static str,
        /// Who was missing.
        missing: Vec<u32>,
        /// How long was waited.
        waited: Duration,
    },
    /// A rank left before a meeting.
    #[error("{operation}: rank {rank} has left")]
    Gone {
        /// The meeting.
        operation: &'static str,
        /// Who left.
        rank: u32,
    },
    /// Two ranks are at different meetings.
    #[error("rank {rank} is at `{found}`, expected `{operation}`")]
    OutOfStep {
        /// The meeting of this rank.
        operation: &'static str,
        /// The other rank.
        rank: u32,
        /// The meeting of that rank.
        found: &'static str,
    },
    /// An earlier meeting failed, so the ranks can no longer be brought together.
    #[error("{operation}: an earlier meeting of these ranks failed")]
    Broken {
        /// The meeting.
        operation: &'static str,
    },
    /// A peer failed in its part of a common operation.
    #[error("{operation}: rank {rank} failed: {message}")]
    Peer {
        /// The operation.
        operation: &'static str,
        /// Who failed.
        rank: u32,
        /// What that rank reported.
        message: String,
    },
    /// Ranks disagree about something that must be equal.
    #[error("{what} is {found} on rank {rank}, {expected} here")]
    Disagreement {
        /// What must be equal.
        what: &'static str,
        /// The other rank.
        rank: u32,
        /// Its value.
        found: String,
        /// The value here.
        expected: String,
    },
    /// Sizes add up to more than an address holds.
    #[error("{what}: {bytes} bytes are too many")]
    TooLarge {
        /// What was laid out.
        what: &'static str,
        /// Its size, or the largest representable one.
        bytes: u64,
    },
    /// Nothing is mapped at an address.
    #[error("nothing is mapped at {address:#x}")]
    NotMapped {
        /// The address.
        address: u64,
    },
    /// An access outside a host-visible allocation.
    #[error("host-visible memory: {bytes} bytes at offset {offset}, of {size}")]
    Range {
        /// Offset of the access.
        offset: usize,
        /// Its bytes; also its alignment.
        bytes: usize,
        /// Bytes allocated.
        size: usize,
    },
}
