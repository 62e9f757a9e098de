//! The steps of a round as types: each is consumed by the next, and dropping one abandons the round.

use std::sync::Arc;

use half::bf16;

use super::launch::{OutputType, Shared};
use super::{LatencyPlan, Payload, Received};
use crate::device::{Buffer, Stream};
use crate::ep::endpoint::Abandon;
use crate::ep::{EpError, Operation};
use crate::params::{EpCombineRecvParams, EpDispatchSendParams};

/// Rows to dispatch, one per token.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// E4M3 codes `[tokens][hidden]` and f32 scales `[tokens][hidden / 128, rounded up]`, both row-major.
    Fp8 {
        /// The codes.
        codes: &'a Buffer<u8>,
        /// The scales.
        scales: &'a Buffer<f32>,
    },
    /// BF16 values `[tokens][hidden]`.
    Bf16(&'a Buffer<bf16>),
}

/// What a rank dispatches. Buffers may be longer than needed. They must not change until the stream is past the call.
#[derive(Debug, Clone, Copy)]
pub struct DispatchInput<'a> {
    /// Tokens of this rank, 0 to `max_tokens`.
    pub tokens: u32,
    /// Row of the first of them in all buffers of the round: not 0 for a later chunk of a longer batch.
    pub first: u32,
    /// The rows.
    pub rows: Rows<'a>,
    /// Chosen experts `[tokens][topk]`; -1 is a dropped entry.
    pub topk_idx: &'a Buffer<i32>,
}

/// What a rank needs to sum its tokens' results.
#[derive(Debug, Clone, Copy)]
pub struct CombineInput<'a> {
    /// The buffer that was dispatched with, unchanged.
    pub topk_idx: &'a Buffer<i32>,
    /// Weights `[tokens][topk]`.
    pub weights: &'a Buffer<f32>,
}

/// Where the sums `[tokens][hidden]` go.
#[derive(Debug)]
pub enum Output<'a> {
    /// As summed.
    F32(&'a mut Buffer<f32>),
    /// Rounded to nearest even.
    Bf16(&'a mut Buffer<bf16>),
}

impl DispatchInput<'_> {
    /// The kernel's parameters apart from the common ones.
    pub(super) fn check(&self, shared: &Shared) -> Result<EpDispatchSendParams, EpError> {
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
        Ok(EpDispatchSendParams {
            x,
            x_scales,
            topk_idx: arguments.rows("topk_idx", self.topk_idx, of(desc.topk))?,
            tokens: self.tokens,
            ..Default::default()
        })
    }
}

/// A round that still owes kernels.
#[derive(Debug)]
pub(super) struct OpenRound {
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: u64,
    pub(super) membership: u64,
    pub(super) tokens: u32,
    pub(super) first: u32,
    /// Address of the routing that was dispatched.
    pub(super) topk_idx: u64,
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
    /// Enqueues the receive half: waits, on the device, for all ranks' rows and lays them out.
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
    pub fn plan(&self) -> &LatencyPlan {
        &self.round.shared.plan
    }

    /// Returns the experts' rows `y`, BF16 `[local experts][max_rows][hidden]`, and sums this rank's tokens:
    /// `acc = fma(weight, row, acc)` in f32, from +0, in the order of k, without dropped entries.
    ///
    /// # Errors
    /// As [`Self::combine_begin`] and [`CombineInFlight::finish`]. The round is then abandoned.
    pub fn combine(
        self,
        stream: &Stream,
        y: &Buffer<bf16>,
        input: &CombineInput<'_>,
        output: Output<'_>,
    ) -> Result<(), EpError> {
        self.combine_begin(stream, y)?.finish(stream, input, output)
    }

    /// Enqueues the send half: returns the experts' rows `y`, BF16 `[local experts][max_rows][hidden]`.
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
        let experts = shared.plan.desc.local_experts(shared.endpoint.rank);
        let rows = u64::from(experts) * u64::from(shared.plan.max_rows);
        let y = arguments.elements("y", y, rows * u64::from(shared.plan.desc.hidden))?;
        let mut desk = shared.endpoint.enter()?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::CombineSend, *epoch, *membership))?;
        shared.combine_send(&mut desk, stream, *epoch, Some(y))?;
        desk.ledger.launched(Operation::CombineSend, *epoch);
        // A younger round that was abandoned meanwhile may go on now; so below.
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
    /// Enqueues the receive half: waits, on the device, for all experts' rows and sums this rank's tokens.
    ///
    /// # Errors
    /// [`EpError::Argument`], [`EpError::OutOfOrder`], [`EpError::Capture`], an earlier fault, a driver error. The round is then
    /// abandoned.
    pub fn finish(
        self,
        stream: &Stream,
        input: &CombineInput<'_>,
        output: Output<'_>,
    ) -> Result<(), EpError> {
        let OpenRound {
            shared,
            epoch,
            membership,
            ..
        } = &self.round;
        let (kind, params) = self.check(input, output)?;
        let mut desk = shared.endpoint.enter()?;
        desk.still(Operation::CombineRecv, *membership)?;
        shared.end_owed(&mut desk, Operation::CombineRecv, *epoch)?;
        shared
            .endpoint
            .turn(&desk, stream, (Operation::CombineRecv, *epoch, *membership))?;
        shared.combine_recv(&mut desk, stream, kind, params)?;
        desk.ledger.launched(Operation::CombineRecv, *epoch);
        shared.run_owed(&mut desk);
        Ok(())
    }

    fn check(
        &self,
        input: &CombineInput<'_>,
        output: Output<'_>,
    ) -> Result<(OutputType, EpCombineRecvParams), EpError> {
        let OpenRound {
            shared,
            tokens,
            first,
            ..
        } = &self.round;
        let desc = &shared.plan.desc;
        let of = |columns| [*first, *tokens, columns];
        let arguments = shared.endpoint.arguments("combine");
        let entries = of(desc.topk);
        let topk_idx = arguments.rows("topk_idx", input.topk_idx, entries)?;
        if topk_idx != self.round.topk_idx {
            let found = format!("the buffer at {topk_idx:#x}");
            let expected = format!("the one dispatched with, at {:#x}", self.round.topk_idx);
            return Err(arguments.refuse("topk_idx", found, expected));
        }
        let sums = of(desc.hidden);
        let (kind, out) = match output {
            Output::F32(out) => (OutputType::F32, arguments.rows("output", out, sums)?),
            Output::Bf16(out) => (OutputType::Bf16, arguments.rows("output", out, sums)?),
        };
        let params = EpCombineRecvParams {
            topk_idx,
            weights: arguments.rows("weights", input.weights, entries)?,
            out,
            tokens: *tokens,
            abandon: Abandon::No as u32,
            ..Default::default()
        };
        Ok((kind, params))
    }
}
