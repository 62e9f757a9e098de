//! Errors of the NVLink primitives. A fault on the device becomes [`NvLinkError::Fault`]; the context stays usable.

use std::fmt;
use std::time::Duration;

use crate::device::DeviceError;
use crate::memory::MemoryError;

/// Why a primitive was refused, or failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NvLinkError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Memory shared between the ranks, or their meeting.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An argument that does not fit. Nothing was launched.
    #[error("{operation}: {what} is {value}, expected {expected}")]
    Argument {
        /// The call.
        operation: &'static str,
        /// The argument.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is demanded.
        expected: String,
    },
    /// A range that is not inside its memory. Nothing was launched.
    #[error("{operation}: {bytes} bytes at offset {offset} of the {what}, which has {size}")]
    Range {
        /// The call.
        operation: &'static str,
        /// The memory.
        what: &'static str,
        /// First byte.
        offset: u64,
        /// Bytes.
        bytes: u64,
        /// Bytes of the memory.
        size: u64,
    },
    /// A wait of this rank failed. The endpoint is of no further use; the context is.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A wait for a signal.
    Wait,
    /// A barrier.
    Barrier,
    /// An all-gather, for the peer to have read an earlier record.
    GatherCredit,
    /// An all-gather, for the peer's record.
    GatherSignal,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Barrier => "barrier",
            Self::GatherCredit => "all-gather credit",
            Self::GatherSignal => "all-gather signal",
        })
    }
}

/// What kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The peer's word did not come within the limit.
    Timeout,
    /// The awaited peer has a fault of its own.
    Poisoned,
    /// A peer's word shows an epoch that cannot be.
    Protocol,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timeout",
            Self::Poisoned => "the peer faulted",
            Self::Protocol => "epoch from the future",
        })
    }
}

/// The first fault of a rank, as its device recorded it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "rank {rank}, {operation}: {kind} (peer {peer}, slot {slot}): expected {expected}, seen {seen}, \
     waited {waited:?}"
)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// What waited.
    pub operation: Operation,
    /// The rank that waited.
    pub rank: u32,
    /// The rank that was waited for.
    pub peer: u32,
    /// The signal; in an all-gather the buffer.
    pub slot: u32,
    /// The value that was waited for.
    pub expected: u64,
    /// The word at the last look.
    pub seen: u64,
    /// Device time from the first look to the last.
    pub waited: Duration,
}
