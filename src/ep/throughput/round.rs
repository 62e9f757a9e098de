//! The steps of a round as types: each is consumed by the next, and dropping one abandons the round.

use std::sync::Arc;

use half::bf16;

use super::launch::{Counted, OutputType, Shared};
use super::{Output, Payload, Received, Rows, ThroughputPlan};
use crate::device::{Buffer, Stream};
use crate::ep::endpoint::Abandon;
use crate::ep::{EpError, Operation};
use crate::params::{EpTpCombineRecvParams, EpTpCountParams, EpTpDispatchSendParams};

/// What a rank dispatches. Buffers may be longer than needed. They must not change until the stream is past the
/// dispatch; nothing of them is used later.
#[derive(Debug, Clone, Copy)]
pub struct DispatchInput<'a> {
    /// Tokens of this rank, 0 to `max_tokens`.
    pub tokens: u32,
    /// Row of the first of them in all buffers of the round: not 0 for a later chunk of a longer batch.
    pub first: u32,
    /// The rows.
    pub rows: Rows<'a>,
    /// Chosen experts `[tokens][topk]`, different ones of a token; -1 is a dropped entry.
    pub topk_idx: &'a Buffer<i32>,
    /// Weights `[tokens][topk]`.
    pub weights: &'a Buffer<f32>,
}

impl DispatchInput<'_> {
    /// The parameters of the first two kernels apart from the common ones.
    pub(super) fn check(
        &self,
        shared: &Shared,
    ) -> Result<(EpTpCountParams, EpTpDispatchSendParams), EpError> {
        let desc = &shared.plan.desc;
        let arguments = shared.endpoint.arguments("dispatch");
        if self.tokens > desc.max_tokens {
            return Err(arguments.refuse("tokens", self.tokens.to_string(), desc.max_tokens));
        }
        let entries = [self.first, self.tokens, desc.topk];
        let count = EpTpCountParams {
            topk_idx: arguments.rows("topk_idx", self.topk_idx, entries)?,
            weights: arguments.rows("weights", self.weights, entries)?,
            tokens: self.tokens,
            ..Default::default()
        };
        let send = check_rows(shared, self.rows, [self.first, self.tokens])?;
        Ok((count, send))
    }
}

/// The parameters of the send kernel for `tokens` rows from row `first` on.
fn check_rows(
    shared: &Shared,
    rows: Rows<'_>,
    [first, tokens]: [u32; 2],
) -> Result<EpTpDispatchSendParams, EpError> {
    let plan = &shared.plan;
    let arguments = shared.endpoint.arguments("dispatch");
    let elements = [first, tokens, plan.desc.hidden];
    let (x, x_scales) = match (rows, plan.desc.payload) {
        (Rows::Fp8 { codes, scales }, Payload::Fp8) => (
            arguments.rows("codes", codes, elements)?,
            arguments.rows("scales", scales, [first, tokens, plan.scales])?,
        ),
        (Rows::Bf16(values), Payload::Bf16) => (arguments.rows("rows", values, elements)?, 0),
        (Rows::Fp8 { .. }, Payload::Bf16) => {
            return Err(arguments.refuse("rows", "FP8".into(), "BF16"));
        }
        (Rows::Bf16(_), Payload::Fp8) => {
            return Err(arguments.refuse("rows", "BF16".into(), "FP8"));
        }
    };
    Ok(EpTpDispatchSendParams {
        x,
        x_scales,
        tokens,
        ..Default::default()
    })
}

/// The routing and weights of a dispatched round, for rounds with other rows: nothing is checked or counted again. Its
/// memory ([`ThroughputPlan::routing_bytes`]) is freed when it and its rounds are dropped.
#[derive(Debug)]
pub struct Routing {
    shared: Arc<Shared>,
    counted: Arc<Counted>,
    membership: u64,
    tokens: u32,
    first: u32,
}

impl Routing {
    /// Sends `rows` as the rows of that round were sent: as many, from the same row of the buffer on. A round like any other; which
    /// ranks use a routing again does not matter to their peers.
    ///
    /// # Errors
    /// As [`Self::dispatch_begin`] and [`DispatchInFlight::finish`].
    pub fn dispatch(&self, stream: &Stream, rows: Rows<'_>) -> Result<DispatchHandle, EpError> {
        self.dispatch_begin(stream, rows)?.finish(stream)
    }

    /// Enqueues the send half and begins a round.
    ///
    /// # Errors
    /// As [`super::ThroughputBuffers::dispatch_begin`].
    pub fn dispatch_begin(
        &self,
        stream: &Stream,
        rows: Rows<'_>,
    ) -> Result<DispatchInFlight, EpError> {
        let send = check_rows(&self.shared, rows, [self.first, self.tokens])?;
        let count = EpTpCountParams {
            tokens: self.tokens,
            again: 1,
            ..Default::default()
        };
        let kept = (self.first, Some((&self.counted, self.membership)));
        let round = OpenRound::begin(&self.shared, stream, kept, (count, send))?;
        Ok(DispatchInFlight { round })
    }
}

/// A round that still owes kernels.
#[derive(Debug)]
pub(super) struct OpenRound {
    shared: Arc<Shared>,
    counted: Arc<Counted>,
    epoch: u64,
    membership: u64,
    tokens: u32,
    first: u32,
}

impl OpenRound {
    /// Enqueues the first two kernels of a round whose tokens begin at row `first`, with what an earlier
    /// round has `counted`, if it is to be used again.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        stream: &Stream,
        (first, counted): (u32, Option<(&Arc<Counted>, u64)>),
        (count, send): (EpTpCountParams, EpTpDispatchSendParams),
    ) -> Result<Self, EpError> {
        let mut desk = shared.endpoint.enter()?;
        if let Some((_, membership)) = counted {
            desk.still(Operation::Count, membership)?;
        }
        let coming = desk.ledger.coming_epoch();
        shared.end_owed(&mut desk, Operation::Count, coming)?;
        let epoch = desk.ledger.next_epoch()?;
        let counted =
            counted.map_or_else(|| shared.counted(epoch), |(counted, _)| Arc::clone(counted));
        shared.count(&mut desk, stream, (&counted, count))?;
        shared.dispatch_send(&mut desk, stream, (&counted, send))?;
        shared.endpoint.begin(&mut desk, stream)?;
        Ok(Self {
            shared: Arc::clone(shared),
            counted,
            epoch,
            membership: desk.membership(),
            tokens: send.tokens,
            first,
        })
    }
}

impl Drop for OpenRound {
    /// Does nothing for a round that has run all its kernels.
    fn drop(&mut self) {
        self.shared.abandon(self.epoch, self.membership);
    }
}

/// A round whose rows are on their way.
#[derive(Debug)]
#[must_use = "dropping it abandons the round"]
pub struct DispatchInFlight {
    pub(super) round: OpenRound,
}

impl DispatchInFlight {
    /// Enqueues the receive half: waits, on the device, for all ranks' rows and expands them.
    ///
    /// # Errors
    /// [`EpError::OutOfOrder`], [`EpError::Capture`], an earlier fault, a driver error. The round is then abandoned.
    pub fn finish(self, stream: &Stream) -> Result<DispatchHandle, EpError> {
        let OpenRound {
            shared,
            epoch,
            membership,
            ..
        } = &self.round;
        let mut desk = shared.endpoint.enter()?;
        shared.endpoint.turn(
            &desk,
            stream,
            (Operation::DispatchRecv, *epoch, *membership),
        )?;
        shared.dispatch_recv(&mut desk, stream, *epoch, Abandon::No)?;
        desk.ledger.launched(Operation::DispatchRecv, *epoch);
        shared.run_owed(&mut desk);
        drop(desk);
        Ok(DispatchHandle { round: self.round })
    }
}

/// A dispatched round: the experts' rows are received, or will be once the stream gets there.
#[derive(Debug)]
#[must_use = "combine it; dropping it abandons the round"]
pub struct DispatchHandle {
    round: OpenRound,
}

impl DispatchHandle {
    /// What this rank's experts received; valid on the dispatching stream until the round is combined.
    #[must_use]
    pub fn received(&self) -> &Received {
        self.round.shared.received(self.round.epoch)
    }

    /// The round.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.round.epoch
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &ThroughputPlan {
        &self.round.shared.plan
    }

    /// Keeps the routing of this round for further rounds, before or after this one is combined.
    ///
    /// # Errors
    /// [`EpError::Argument`] for a captured round, whose routing changes with every launch of the graph; an earlier fault; a driver
    /// error. The handle is as before.
    pub fn reuse(&self) -> Result<Routing, EpError> {
        let OpenRound {
            shared,
            counted,
            epoch,
            membership,
            tokens,
            first,
        } = &self.round;
        let desk = shared.endpoint.enter()?;
        desk.still(Operation::Count, *membership)?;
        let captured = desk.ledger.capture(*epoch).is_some();
        drop(desk);
        if captured {
            let arguments = shared.endpoint.arguments("reuse");
            return Err(arguments.refuse("round", "captured".into(), "one outside of a capture"));
        }
        shared.keep(counted)?;
        Ok(Routing {
            shared: Arc::clone(shared),
            counted: Arc::clone(counted),
            membership: *membership,
            tokens: *tokens,
            first: *first,
        })
    }

    /// Returns the experts' rows `y`, BF16 `[max_rows][hidden]`, and sums this rank's tokens with the weights
    /// that were dispatched, in the order that [`super::Reduce`] says.
    ///
    /// # Errors
    /// As [`Self::combine_begin`] and [`CombineInFlight::finish`]. The round is then abandoned.
    pub fn combine(
        self,
        stream: &Stream,
        y: &Buffer<bf16>,
        output: Output<'_>,
    ) -> Result<(), EpError> {
        self.combine_begin(stream, y)?.finish(stream, output)
    }

    /// Enqueues the send half: returns the experts' rows `y`, BF16 `[max_rows][hidden]`.
    ///
    /// # Errors
    /// [`EpError::Argument`], [`EpError::OutOfOrder`], [`EpError::Capture`], an earlier fault, a driver error. The round is then
    /// abandoned.
    pub fn combine_begin(
        self,
        stream: &Stream,
        y: &Buffer<bf16>,
    ) -> Result<CombineInFlight, EpError> {
        let OpenRound {
            shared,
            epoch,
            membership,
            ..
        } = &self.round;
        let arguments = shared.endpoint.arguments("combine");
        let y = arguments.rows("y", y, [0, shared.plan.max_rows, shared.plan.desc.hidden])?;
        let mut desk = shared.endpoint.enter()?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::CombineSend, *epoch, *membership))?;
        shared.combine_send(&mut desk, stream, Some(y))?;
        desk.ledger.launched(Operation::CombineSend, *epoch);
        shared.run_owed(&mut desk);
        drop(desk);
        Ok(CombineInFlight { round: self.round })
    }
}

/// A round whose results are on their way back.
#[derive(Debug)]
#[must_use = "dropping it abandons the round"]
pub struct CombineInFlight {
    round: OpenRound,
}

impl CombineInFlight {
    /// Enqueues the receive half: waits, on the device, for all results and sums this rank's tokens into
    /// `[tokens][hidden]`.
    ///
    /// # Errors
    /// [`EpError::Argument`], [`EpError::OutOfOrder`], [`EpError::Capture`], an earlier fault, a driver error. The round is then
    /// abandoned.
    pub fn finish(self, stream: &Stream, output: Output<'_>) -> Result<(), EpError> {
        let OpenRound {
            shared,
            counted,
            epoch,
            membership,
            tokens,
            first,
        } = &self.round;
        let arguments = shared.endpoint.arguments("combine");
        let sums = [*first, *tokens, shared.plan.desc.hidden];
        let (kind, out) = match output {
            Output::F32(out) => (OutputType::F32, arguments.rows("output", out, sums)?),
            Output::Bf16(out) => (OutputType::Bf16, arguments.rows("output", out, sums)?),
        };
        let params = EpTpCombineRecvParams {
            out,
            tokens: *tokens,
            abandon: Abandon::No as u32,
            ..Default::default()
        };
        let mut desk = shared.endpoint.enter()?;
        desk.still(Operation::CombineRecv, *membership)?;
        shared.end_owed(&mut desk, Operation::CombineRecv, *epoch)?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::CombineRecv, *epoch, *membership))?;
        shared.combine_recv(&mut desk, stream, kind, (Some(counted), params))?;
        desk.ledger.launched(Operation::CombineRecv, *epoch);
        shared.run_owed(&mut desk);
        Ok(())
    }
}
