//! A plan bound to a rank: the window, the received layouts, and the calls that begin a round.

use std::sync::Arc;
use std::time::Duration;

use super::launch::{ALLOCATE, Shared};
use super::round::OpenRound;
use super::{
    DispatchHandle, DispatchInFlight, DispatchInput, Payload, ReceivedRows, ThroughputPlan,
};
use crate::device::{Buffer, Context, DEFAULT_WAIT, Stream};
use crate::ep::endpoint::agree_on;
use crate::ep::{EpError, EpStats};
use crate::memory::{Bootstrap, Members, MemoryError};
use crate::params::EpSource;

/// What a rank's experts received. Within an expert, rows are in the order of source rank, then token. Rows
/// between experts, and behind the last one, are undefined.
#[derive(Debug)]
pub struct Received {
    /// The rows `[max_rows][hidden]`.
    pub rows: ReceivedRows,
    /// f32 `[scales][scale_rows]`: M-major, as [`crate::gemm::Matrix::fp8_rows`] takes them. Empty for BF16.
    pub scales: Buffer<f32>,
    /// Row at which each local expert begins, and where the last one ends, padding included: `[local experts + 1]`.
    pub offsets: Buffer<i32>,
    /// Rows per local expert, without padding.
    pub counts: Buffer<i32>,
    /// Local expert of every row, -1 where there is none: `[max_rows]`.
    pub index: Buffer<i32>,
    /// Where each row came from, `[max_rows]`; only where `index` is not -1.
    pub source: Buffer<EpSource>,
    /// The weight of each row's entry, `[max_rows]`; only where `index` is not -1.
    pub weights: Buffer<f32>,
}

impl Received {
    pub(super) fn new(plan: &ThroughputPlan, rank: u32, stream: &Stream) -> Result<Self, EpError> {
        let context = stream.context();
        let rows = plan.max_rows as usize;
        let elements = size(u64::from(plan.max_rows) * u64::from(plan.desc.hidden))?;
        let experts = plan.desc.local_experts(rank) as usize;
        Ok(Self {
            rows: match plan.desc.payload {
                Payload::Fp8 => ReceivedRows::Fp8(Buffer::alloc(context, elements)?),
                Payload::Bf16 => ReceivedRows::Bf16(Buffer::alloc(context, elements)?),
            },
            scales: Buffer::alloc(
                context,
                size(u64::from(plan.scales) * u64::from(plan.scale_rows))?,
            )?,
            offsets: Buffer::zeroed(stream, experts + 1)?,
            counts: Buffer::zeroed(stream, experts)?,
            index: Buffer::alloc(context, rows)?,
            source: Buffer::alloc(context, rows)?,
            weights: Buffer::alloc(context, rows)?,
        })
    }
}

fn size(elements: u64) -> Result<usize, MemoryError> {
    usize::try_from(elements).map_err(|_| MemoryError::TooLarge {
        what: "received layout",
        bytes: elements,
    })
}

/// One rank's side of the all-to-all. Open rounds keep what they use alive, so this may be dropped before them.
#[derive(Debug)]
pub struct ThroughputBuffers {
    shared: Arc<Shared>,
}

impl ThroughputBuffers {
    /// Binds `plan` to the rank of `bootstrap` and the device of `context`. All ranks call it together.
    ///
    /// # Errors
    /// A plan for another number of ranks, plans that differ between ranks
    /// ([`MemoryError::Disagreement`]), a driver error here or on a peer, or a failed meeting.
    pub fn new(
        plan: &ThroughputPlan,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<Self, EpError> {
        agree_on(bootstrap, (plan.desc.ranks, 0), plan.desc)?;
        let shared = Shared::new(plan, bootstrap, context)?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &ThroughputPlan {
        &self.shared.plan
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.shared.endpoint.rank
    }

    /// The ranks that take part in rounds. What a token asks of the experts of others, these do not contribute, as if it were dropped.
    #[must_use]
    pub fn members(&self) -> Members {
        self.shared.endpoint.members()
    }

    /// After a fault: agrees with the ranks that are left on who they are ([`Bootstrap::recover`], unless another
    /// communicator's recovery has done so), and begins anew with them. All of them call it together, each
    /// with the bootstrap of [`Self::new`]. Open rounds and kept routings are over; their handles may be dropped at any
    /// time. Captured graphs stay valid; their launches, which this cannot know of, have ended. Addresses stay, and what a rank that was
    /// left out still writes goes to memory that nobody reads.
    ///
    /// # Errors
    /// [`MemoryError::Masked`] on a rank that the others left out; kernels that do not end; a driver error, here or on a peer. Until
    /// a further call succeeds, all others are refused.
    pub fn recover(&self, bootstrap: &mut Bootstrap) -> Result<(), EpError> {
        self.shared.endpoint.recover(bootstrap)
    }

    /// Begins anew with the ranks of a new bootstrap, among them ranks that were lost: they call [`Self::new`] where this
    /// rank calls this, with an equal description, or this too if they have only been masked. Otherwise as
    /// [`Self::recover`].
    ///
    /// # Errors
    /// As [`Self::new`] and [`Self::recover`].
    pub fn rejoin(&self, bootstrap: &mut Bootstrap) -> Result<(), EpError> {
        let desc = self.shared.plan.desc;
        let shape = (desc.ranks, desc);
        self.shared.endpoint.rejoin(bootstrap, ALLOCATE, shape)
    }

    /// Sets how long kernels launched from now on wait for a peer; at least 1 ns.
    pub fn set_timeout(&self, timeout: Duration) {
        self.shared.endpoint.set_timeout(timeout);
    }

    /// Sends this rank's rows and receives those for its experts.
    ///
    /// # Errors
    /// As [`Self::dispatch_begin`] and [`DispatchInFlight::finish`].
    pub fn dispatch(
        &self,
        stream: &Stream,
        input: &DispatchInput<'_>,
    ) -> Result<DispatchHandle, EpError> {
        self.dispatch_begin(stream, input)?.finish(stream)
    }

    /// Enqueues the count and the send half of a dispatch and begins a round.
    ///
    /// # Errors
    /// [`EpError::Argument`] and [`EpError::Busy`], which begin nothing; an earlier [`EpError::Fault`] or
    /// [`EpError::Failed`]; a driver error.
    pub fn dispatch_begin(
        &self,
        stream: &Stream,
        input: &DispatchInput<'_>,
    ) -> Result<DispatchInFlight, EpError> {
        let kernels = input.check(&self.shared)?;
        let round = OpenRound::begin(&self.shared, stream, (input.first, None), kernels)?;
        Ok(DispatchInFlight { round })
    }

    /// Waits for all work of `stream`, then tells what this rank has had to do with each peer so far, and when.
    ///
    /// # Errors
    /// A failed or timed-out synchronisation.
    pub fn stats(&self, stream: &Stream) -> Result<EpStats, EpError> {
        let plan = &self.shared.plan;
        let dispatched = u64::from(plan.payload_bytes) + u64::from(plan.scales) * 4;
        let combined = u64::from(plan.desc.hidden) * 2;
        let row_bytes = [dispatched, combined];
        self.shared
            .endpoint
            .stats(stream, plan.desc.ranks, row_bytes)
    }

    /// Reports what has gone wrong on the device so far, without waiting.
    ///
    /// # Errors
    /// [`EpError::Fault`], from the first one on for ever; [`EpError::Abandoned`], once per round.
    pub fn check(&self) -> Result<(), EpError> {
        self.shared.endpoint.check()
    }

    /// Waits for all work of `stream`, then reports as [`Self::check`].
    ///
    /// # Errors
    /// As [`Self::check`], a failed or timed-out synchronisation.
    pub fn synchronize(&self, stream: &Stream) -> Result<(), EpError> {
        stream.synchronize_within(DEFAULT_WAIT)?;
        self.check()
    }
}
