//! The steps of a round as types: each is consumed by the next, and dropping one abandons the round.

use std::sync::Arc;

use half::bf16;

use super::launch::{OutputType, Shared};
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
        let plan = &shared.plan;
        let desc = &plan.desc;
        let arguments = shared.endpoint.arguments("dispatch");
        if self.tokens > desc.max_tokens {
            return Err(arguments.refuse("tokens", self.tokens.to_string(), desc.max_tokens));
        }
        let of = |columns| [self.first, self.tokens, columns];
        let rows = of(desc.hidden);
        let (x, x_scales) = match (self.rows, desc.payload) {
            (Rows::Fp8 { codes, scales }, Payload::Fp8) => (
                arguments.rows("codes", codes, rows)?,
                arguments.rows("scales", scales, of(plan.scales))?,
            ),
            (Rows::Bf16(values), Payload::Bf16) => (arguments.rows("rows", values, rows)?, 0),
            (Rows::Fp8 { .. }, Payload::Bf16) => {
                return Err(arguments.refuse("rows", "FP8".into(), "BF16"));
            }
            (Rows::Bf16(_), Payload::Fp8) => {
                return Err(arguments.refuse("rows", "BF16".into(), "FP8"));
            }
        };
        let entries = of(desc.topk);
        let count = EpTpCountParams {
            topk_idx: arguments.rows("topk_idx", self.topk_idx, entries)?,
            weights: arguments.rows("weights", self.weights, entries)?,
            tokens: self.tokens,
            ..Default::default()
        };
        let send = EpTpDispatchSendParams {
            x,
            x_scales,
            tokens: self.tokens,
            ..Default::default()
        };
        Ok((count, send))
    }
}

/// A round that still owes kernels.
#[derive(Debug)]
pub(super) struct OpenRound {
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: u64,
    pub(super) tokens: u32,
    pub(super) first: u32,
}

impl Drop for OpenRound {
    /// Does nothing for a round that has run all its kernels.
    fn drop(&mut self) {
        self.shared.abandon(self.epoch);
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
        let OpenRound { shared, epoch, .. } = &self.round;
        let mut desk = shared.endpoint.enter()?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::DispatchRecv, *epoch))?;
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
        let OpenRound { shared, epoch, .. } = &self.round;
        let arguments = shared.endpoint.arguments("combine");
        let y = arguments.rows("y", y, [0, shared.plan.max_rows, shared.plan.desc.hidden])?;
        let mut desk = shared.endpoint.enter()?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::CombineSend, *epoch))?;
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
            epoch,
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
        shared.end_owed(&mut desk, Operation::CombineRecv, *epoch)?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::CombineRecv, *epoch))?;
        shared.combine_recv(&mut desk, stream, kind, params)?;
        desk.ledger.launched(Operation::CombineRecv, *epoch);
        shared.run_owed(&mut desk);
        Ok(())
    }
}
