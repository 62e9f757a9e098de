//! Errors of the expert all-to-all. A fault on the device becomes [`EpError::Fault`]; the context stays usable.

use std::fmt;
use std::time::Duration;

use crate::device::DeviceError;
use crate::memory::MemoryError;

/// Why a round failed, or was not begun.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EpError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Memory shared between the ranks, or their meeting.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A description that cannot be planned.
    #[error("all-to-all: {field} is {value}, expected {expected}")]
    Desc {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The rule.
        expected: String,
    },
    /// An argument that does not fit the plan.
    #[error("{operation}: {what} is {value}, expected {expected}")]
    Argument {
        /// The call.
        operation: &'static str,
        /// The argument.
        what: &'static str,
        /// Its value.
        value: String,
        /// What the plan demands.
        expected: String,
    },
    /// Two rounds are open already.
    #[error("dispatch: rounds {open:?} are open, expected fewer than 2: combine or drop one first")]
    Busy {
        /// Their epochs.
        open: Vec<u64>,
    },
    /// Halves of rounds are called in another order than the rounds were begun. The round is abandoned.
    #[error("{operation}: epoch {epoch} is called, expected epoch {next} first")]
    OutOfOrder {
        /// The call.
        operation: Operation,
        /// The round of the call.
        epoch: u64,
        /// The round whose turn it is.
        next: u64,
    },
    /// A kernel found a fault. The communicator is of no further use; the context is.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A peer abandoned a round that this rank combined: its experts contributed nothing.
    #[error("combine: ranks {ranks:?} abandoned epoch {epoch}: their experts contributed nothing")]
    Abandoned {
        /// The round.
        epoch: u64,
        /// Who abandoned it.
        ranks: Vec<u32>,
    },
    /// An earlier launch failed halfway, so this rank is out of step with its peers.
    #[error("the communicator failed earlier: {cause}")]
    Failed {
        /// The first error.
        cause: String,
    },
}

/// The four kernels of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Rows go out to the experts' ranks.
    DispatchSend,
    /// Rows come in and are laid out for the experts.
    DispatchRecv,
    /// Results go back to the tokens' ranks.
    CombineSend,
    /// Results come in and are summed.
    CombineRecv,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DispatchSend => "dispatch send",
            Self::DispatchRecv => "dispatch receive",
            Self::CombineSend => "combine send",
            Self::CombineRecv => "combine receive",
        })
    }
}

/// What a kernel was doing when it found a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting until the expert's rank has consumed an earlier epoch.
    DispatchCredit,
    /// Waiting for a source's rows.
    DispatchSignal,
    /// Waiting until the tokens' rank has consumed an earlier epoch.
    CombineCredit,
    /// Waiting for an expert's results.
    CombineSignal,
    /// Reading this rank's routing.
    Routing,
    /// Placing received rows.
    Placement,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DispatchCredit => "dispatch credit",
            Self::DispatchSignal => "dispatch signal",
            Self::CombineCredit => "combine credit",
            Self::CombineSignal => "combine signal",
            Self::Routing => "routing",
            Self::Placement => "placement",
        })
    }
}

/// What kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The peer's word did not come within the deadline.
    Timeout,
    /// The awaited peer reported a fault of its own.
    Poisoned,
    /// A routing entry outside `-1..experts`; `slot` is `token * topk + k`, `seen` the entry.
    Index,
    /// More rows of this rank for one expert (`slot`) than `max_tokens`.
    Slots,
    /// More rows for one expert (`slot`) of this rank than `max_rows`.
    Rows,
    /// A peer's word shows an epoch that cannot be.
    Protocol,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timeout",
            Self::Poisoned => "the peer faulted",
            Self::Index => "routing entry out of range",
            Self::Slots => "too many rows for one expert from this rank",
            Self::Rows => "too many rows for one expert",
            Self::Protocol => "epoch from the future",
        })
    }
}

/// A fault that a kernel found, as it recorded it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "rank {rank}, {operation}, epoch {epoch}: {kind} ({phase}, peer {peer}, slot {slot}): \
     expected {expected}, seen {seen}, waited {waited:?}"
)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The kernel that found it.
    pub operation: Operation,
    /// The rank that found it.
    pub rank: u32,
    /// The rank that was waited for; this rank where nobody was.
    pub peer: u32,
    /// What was being done.
    pub phase: Phase,
    /// Expert or routing entry, by phase and kind.
    pub slot: u32,
    /// The round.
    pub epoch: u64,
    /// What was expected: an epoch or a limit.
    pub expected: u64,
    /// What was there instead.
    pub seen: i64,
    /// How long was waited, by the device's clock.
    pub waited: Duration,
}
