//! Signals, waits and barriers.

use std::time::Duration;

use super::{Endpoint, NvLinkError};
use crate::device::{Buffer, DeviceError, Stream};
use crate::params::{
    HADAL_NVLINK_ADD, HADAL_NVLINK_AT_LEAST, HADAL_NVLINK_COUNT, HADAL_NVLINK_EQUAL,
    HADAL_NVLINK_MAX_RANKS, HADAL_NVLINK_SET, NvlinkBarrierParams, NvlinkOutcome,
    NvlinkSignalParams, NvlinkWaitParams,
};

/// How a signal word changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It becomes this. The word has one writer.
    Set(u64),
    /// This is added, modulo 2^64. Several ranks may add to one word.
    Add(u64),
}

impl Change {
    /// Kind and value.
    pub(super) fn encode(self) -> (u32, u64) {
        match self {
            Self::Set(value) => (HADAL_NVLINK_SET, value),
            Self::Add(value) => (HADAL_NVLINK_ADD, value),
        }
    }
}

/// What ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Until {
    /// A value that is not smaller.
    AtLeast(u64),
    /// This value.
    Equal(u64),
    /// This much more than all waits of this kind for the signal have waited for before. Their sum is kept by
    /// the device: a captured wait waits for the next additions each time it is launched.
    Count(u64),
}

/// A wait for a signal of the own window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wait {
    /// The rank that changes it: named in errors, and its faults end the wait.
    pub peer: u32,
    /// The signal.
    pub signal: u32,
    /// What ends the wait.
    pub until: Until,
    /// Device time after which it gives up; `None`: the endpoint's.
    pub limit: Option<Duration>,
}

/// Some of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Team {
    mask: u64,
}

impl Team {
    /// Ranks `0..ranks`.
    ///
    /// # Errors
    /// More than 64 ranks.
    pub fn all(ranks: u32) -> Result<Self, NvLinkError> {
        (0..ranks).try_fold(Self { mask: 0 }, Self::with)
    }

    /// These ranks, in any order.
    ///
    /// # Errors
    /// A rank from 64 on.
    pub fn of(ranks: &[u32]) -> Result<Self, NvLinkError> {
        ranks.iter().copied().try_fold(Self { mask: 0 }, Self::with)
    }

    fn with(self, rank: u32) -> Result<Self, NvLinkError> {
        if rank < HADAL_NVLINK_MAX_RANKS {
            let mask = self.mask | 1 << rank;
            return Ok(Self { mask });
        }
        Err(NvLinkError::Argument {
            operation: "team",
            what: "rank",
            value: rank.to_string(),
            expected: format!("less than {HADAL_NVLINK_MAX_RANKS}"),
        })
    }

    /// Whether `rank` is one of them.
    #[must_use]
    pub fn contains(self, rank: u32) -> bool {
        rank < HADAL_NVLINK_MAX_RANKS && self.mask >> rank & 1 == 1
    }
}

pub(super) fn nanoseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)
}

impl Endpoint {
    /// Changes signal `index` of the window of `rank`, in the order of `stream`.
    ///
    /// Order: release at system scope; who acquires it sees all that this rank did earlier on the stream. Any number per phase,
    /// by the word's one writer (additions: by several).
    ///
    /// # Errors
    /// No such rank or signal, another context, an earlier fault (nothing is launched in these cases), or a driver
    /// error.
    pub fn signal(
        &self,
        stream: &Stream,
        (rank, index): (u32, u32),
        change: Change,
    ) -> Result<(), NvLinkError> {
        let operation = "signal";
        self.enter(operation, stream)?;
        let (change, value) = change.encode();
        let params = NvlinkSignalParams {
            signal: self.signal_address(operation, rank, index)?,
            state: self.state_address(),
            value,
            change,
            reserved: 0,
        };
        self.launch(stream, (&self.kernels.signal, 1), &params)
    }

    /// Makes later work of `stream` wait for a signal of the own window.
    ///
    /// Order: acquire at system scope; later work of the stream sees what the signal's writer released. One wait at a time per
    /// signal. When the limit passes, the wait ends with a fault: later primitives of this endpoint do nothing, but other
    /// work of the stream runs.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub fn wait(&self, stream: &Stream, wait: Wait) -> Result<(), NvLinkError> {
        self.wait_into(stream, wait, 0)
    }

    /// As [`Self::wait`]; how it ended lies in the first element of `outcome` when the stream is past it.
    ///
    /// # Errors
    /// As [`Self::wait`], or an empty buffer.
    pub fn wait_recorded(
        &self,
        stream: &Stream,
        wait: Wait,
        outcome: &mut Buffer<NvlinkOutcome>,
    ) -> Result<(), NvLinkError> {
        let operation = "wait";
        self.same_context(operation, "outcome", outcome.context())?;
        if outcome.is_empty() {
            let (found, expected) = (0, 1);
            let error = DeviceError::Length {
                operation,
                found,
                expected,
            };
            return Err(error.into());
        }
        self.wait_into(stream, wait, outcome.address())
    }

    fn wait_into(&self, stream: &Stream, wait: Wait, outcome: u64) -> Result<(), NvLinkError> {
        let operation = "wait";
        self.enter(operation, stream)?;
        self.check_rank(operation, wait.peer)?;
        let (until, value) = match wait.until {
            Until::AtLeast(value) => (HADAL_NVLINK_AT_LEAST, value),
            Until::Equal(value) => (HADAL_NVLINK_EQUAL, value),
            Until::Count(value) => (HADAL_NVLINK_COUNT, value),
        };
        let params = NvlinkWaitParams {
            nvlink: self.params(),
            signal: self.signal_address(operation, self.rank(), wait.signal)?,
            consumed: self.consumed.address() + u64::from(wait.signal) * 8,
            outcome,
            value,
            limit_ns: nanoseconds(wait.limit.unwrap_or(self.desc.timeout)),
            until,
            peer: wait.peer,
            slot: wait.signal,
            reserved: 0,
        };
        self.launch(stream, (&self.kernels.wait, 1), &params)
    }

    /// Makes later work of `stream` wait until every rank of `team` has come to its barrier.
    ///
    /// Order: what a member did earlier on its stream is visible to later work of every member (release and acquire at system
    /// scope). Barriers of one rank follow each other, and any two ranks enter the barriers that contain both in the same order;
    /// teams may differ from call to call. Counts lie in device memory: a captured barrier replays.
    ///
    /// # Errors
    /// A team without this rank or with one that does not exist, another context, an earlier fault (nothing is launched in
    /// these cases), or a driver error.
    pub fn barrier(&self, stream: &Stream, team: Team) -> Result<(), NvLinkError> {
        let operation = "barrier";
        self.enter(operation, stream)?;
        let strangers = (self.ranks()..HADAL_NVLINK_MAX_RANKS).any(|rank| team.contains(rank));
        if strangers || !team.contains(self.rank()) {
            return Err(NvLinkError::Argument {
                operation,
                what: "team",
                value: format!("{:#b}", team.mask),
                expected: format!("rank {} and others below {}", self.rank(), self.ranks()),
            });
        }
        let params = NvlinkBarrierParams {
            nvlink: self.params(),
            team: team.mask,
        };
        self.launch(stream, (&self.kernels.barrier, 1), &params)
    }
}
