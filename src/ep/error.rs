//! Errors of the expert all-to-all. A fault on the device becomes [`EpError::Fault`]; the context stays usable.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::device::DeviceError;
use crate::memory::MemoryError;
use crate::params;

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
    /// A round that was begun in a capture is called outside of it, or the reverse.
    #[error(
        "{operation}: epoch {epoch} is called in another capture than it was begun in, expected all \
         calls of a round in one capture or in none"
    )]
    Capture {
        /// The call.
        operation: Operation,
        /// The round of the call.
        epoch: u64,
    },
    /// A round, or a routing, of an earlier membership is called. It is over.
    #[error("{operation}: begun in membership {began}, which has ended: it is {now} now")]
    Membership {
        /// The call.
        operation: Operation,
        /// The membership in which it began.
        began: u64,
        /// The present one.
        now: u64,
    },
    /// A kernel found a fault. The communicator is of no further use until its members recover; the context is.
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

/// The kernels of a round, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// Throughput mode: entries and rows are counted, and the counts go to all ranks.
    Count,
    /// Rows go out to the experts' ranks.
    DispatchSend,
    /// Rows come in and are laid out for the experts.
    DispatchRecv,
    /// Results go back to the tokens' ranks.
    CombineSend,
    /// Results come in and are summed.
    CombineRecv,
}

impl Operation {
    /// All of them.
    pub(in crate::ep) const IN_ORDER: [Self; 5] = [
        Self::Count,
        Self::DispatchSend,
        Self::DispatchRecv,
        Self::CombineSend,
        Self::CombineRecv,
    ];

    /// Its number on the device.
    pub(in crate::ep) const fn kernel(self) -> u32 {
        match self {
            Self::Count => params::HADAL_EP_COUNT,
            Self::DispatchSend => params::HADAL_EP_DISPATCH_SEND,
            Self::DispatchRecv => params::HADAL_EP_DISPATCH_RECV,
            Self::CombineSend => params::HADAL_EP_COMBINE_SEND,
            Self::CombineRecv => params::HADAL_EP_COMBINE_RECV,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "count",
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
    /// Placing received rows; in throughput mode also before they are sent.
    Placement,
    /// Waiting for a source's counts, or adding them up.
    Counts,
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
            Self::Counts => "counts",
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
    /// A routing entry outside `-1..experts`, or an expert that the token has named already; `slot` is `token * topk + k`, `seen` the entry.
    Index,
    /// More rows for one expert (`slot`) of this rank than `max_rows`; in throughput mode for the rank `peer`
    /// than `max_recv_rows` or `max_rows`.
    Rows,
    /// A peer's word shows an epoch that cannot be, or its counts contradict their checksum or its rows.
    Protocol,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "timeout",
            Self::Poisoned => "the peer faulted",
            Self::Index => "routing entry out of range or repeated",
            Self::Rows => "too many rows",
            Self::Protocol => "a word that cannot be",
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
