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
    /// A rank that is none of the ranks.
    #[error("rank {rank} of {ranks} ranks, expected less than their number")]
    Ranks {
        /// The rank.
        rank: u32,
        /// All ranks.
        ranks: u32,
    },
    /// A variable of the environment that is missing, or says what cannot be.
    #[error("{variable} is {}, expected {expected}", value.as_deref().unwrap_or("not set"))]
    Environment {
        /// Its name.
        variable: &'static str,
        /// Its value, if it is set.
        value: Option<String>,
        /// What it should be.
        expected: &'static str,
    },
    /// A shared secret that is too easy to guess.
    #[error("the shared secret has {bytes} bytes, expected at least {least}")]
    Secret {
        /// Its bytes.
        bytes: usize,
        /// Fewest bytes.
        least: usize,
    },
    /// Ranks could not be connected.
    #[error("cannot meet at {address}: {message}")]
    Connect {
        /// Where.
        address: String,
        /// What the operating system says.
        message: String,
    },
    /// A rank said something that was not understood.
    #[error("{operation}: rank {rank} is not understood: {message}")]
    Message {
        /// The meeting.
        operation: &'static str,
        /// Whose value.
        rank: u32,
        /// Why.
        message: String,
    },
    /// Memory of a rank of another host, whose device or host offers no fabric handle.
    #[error("{what}: rank {rank} is on another host and offers no fabric handle")]
    OtherHost {
        /// What was to be shared.
        what: &'static str,
        /// The other rank.
        rank: u32,
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
    /// A rank does not come, since an earlier meeting failed there, or since it calls for an agreement on who is left.
    #[error("{operation}: rank {rank} has given up and recovers")]
    GaveUp {
        /// The meeting.
        operation: &'static str,
        /// Who gave up.
        rank: u32,
    },
    /// The other ranks go on without this one.
    #[error(
        "{operation}: rank {rank} and others go on without this rank, at membership epoch {epoch}"
    )]
    Masked {
        /// The operation.
        operation: &'static str,
        /// The epoch without this rank.
        epoch: u64,
        /// Who said so.
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
        found: String,
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
