//! Decode: latency mode and the masked form.

use super::activations::{Input, copy};
use super::capture::{KeptMlp, Round};
use super::mlp::{Mlp, Rows, Used};
use super::prefill::too_many;
use super::timeline::{Lane, Step};
use super::weights::Experts;
use super::{COMBINE, DISPATCH, EXPERTS, LayerDesc, MoeLayer, Output, memory, size};
use crate::error::{Error, Result};
use hadal::device::{Buffer, Stream};
use hadal::ep::latency::{
    CombineInput, DispatchHandle, DispatchInFlight, DispatchInput, LatencyBuffers, LatencyDesc,
    LatencyPlan, Payload,
};
use hadal::memory::Bootstrap;
use half::bf16;
use std::sync::Arc;

/// What decode needs.
#[derive(Debug)]
pub(crate) struct Decode {
    pub(crate) buffers: LatencyBuffers,
    pub(crate) experts: Option<Mlp>,
    /// Rows to return where this rank owns no experts: none.
    none: Buffer<bf16>,
}

/// The all-to-all.
pub(crate) fn plan(desc: &LayerDesc) -> Result<LatencyPlan> {
    let config = &desc.config;
    let plan = LatencyPlan::new(LatencyDesc {
        ranks: desc.ranks,
        experts: size(config.experts)?,
        topk: size(config.top_k)?,
        hidden: size(config.hidden)?,
        max_tokens: desc.decode_tokens,
        payload: desc.payload(),
        combine: Payload::Bf16,
        max_rows: None,
        ctas: None,
        timeout: desc.timeout,
    });
    plan.map_err(Error::plan("plan of the all-to-all of decode"))
}

/// How its rows lie.
pub(crate) fn rows(plan: &LatencyPlan) -> Rows {
    let LatencyDesc {
        ranks,
        experts,
        topk,
        max_tokens,
        ..
    } = plan.desc;
    let entries = u64::from(ranks) * u64::from(max_tokens) * u64::from(topk);
    Rows::Masked {
        slot: plan.max_rows,
        expected: u32::try_from(entries.div_ceil(experts.into())).unwrap_or(u32::MAX),
    }
}

impl Decode {
    pub(crate) fn new(
        desc: &LayerDesc,
        stream: &Stream,
        experts: Option<&Arc<Experts>>,
        bootstrap: &mut Bootstrap,
    ) -> Result<Self> {
        let context = stream.context();
        let plan = plan(desc)?;
        let sms = context
            .multiprocessors()
            .map_err(Error::device("device attributes"))?;
        let experts = experts.map(|experts| Mlp::new(stream, experts, rows(&plan), [1, sms]));
        Ok(Self {
            buffers: LatencyBuffers::new(&plan, bootstrap, context)
                .map_err(Error::device("set-up of the all-to-all of decode"))?,
            experts: experts.transpose()?,
            none: Buffer::alloc(context, 0).map_err(memory())?,
        })
    }
}

/// A decode whose rows are on their way. Dropping it abandons the round.
#[derive(Debug)]
#[must_use = "finish it; dropping it abandons the round"]
pub struct DecodeInFlight<'a> {
    layer: &'a mut MoeLayer,
    round: DispatchInFlight,
    count: u32,
}

impl MoeLayer {
    /// Enqueues the layer for the first `count` rows of `x`, BF16 `[tokens, hidden]`. Of these, `valid` (read on the device)
    /// are in use; without it, all. Output rows that are not are undefined. `stream` is past the call when the output is
    /// complete. It can be captured: a launch of the graph then works on what `x` and `valid` hold at that time.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(
        &mut self,
        stream: &Stream,
        x: &Buffer<bf16>,
        (count, valid): (u32, Option<&Buffer<u32>>),
        output: Output<'_>,
    ) -> Result<()> {
        self.decode_begin(stream, x, (count, valid))?
            .finish(stream, output)
    }

    /// The same up to the dispatch, with the shared expert on a stream of its own: what the caller enqueues before
    /// [`DecodeInFlight::finish`] runs while rows are on their way.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode_begin(
        &mut self,
        stream: &Stream,
        x: &Buffer<bf16>,
        (count, valid): (u32, Option<&Buffer<u32>>),
    ) -> Result<DecodeInFlight<'_>> {
        if self.decode.is_none() {
            return Err(not_made());
        }
        if count > self.desc.decode_tokens {
            return Err(too_many(count, self.desc.decode_tokens));
        }
        self.enter(stream, x, (count, valid))?;
        let Self {
            tokens,
            timeline,
            decode,
            ..
        } = self;
        let input = DispatchInput {
            first: 0,
            tokens: count,
            rows: tokens.rows(x),
            topk_idx: &tokens.topk_indices,
        };
        let decode = decode.as_ref().ok_or_else(not_made)?;
        let round = Self::step(timeline, stream, step(DISPATCH), || {
            let begin = decode.buffers.dispatch_begin(stream, &input);
            begin.map_err(Error::device(DISPATCH))
        })?;
        self.run_shared(x, count)?;
        Ok(DecodeInFlight {
            layer: self,
            round,
            count,
        })
    }

    fn masked_experts(
        &mut self,
        stream: &Stream,
        handle: &DispatchHandle,
        count: u32,
    ) -> Result<()> {
        let Self {
            decode,
            timeline,
            kept,
            ..
        } = self;
        if let Some(kept) = kept {
            kept.parts.push(0..count);
        }
        let Some(experts) = decode.as_mut().and_then(|decode| decode.experts.as_mut()) else {
            return Ok(());
        };
        let received = handle.received();
        let what = (
            Input::received(&received.rows, &received.scales),
            Used::Counts(&received.counts),
        );
        super::run_mlp(
            (experts, 0),
            (stream, Lane::Compute, 0),
            timeline,
            EXPERTS,
            what,
        )?;
        if let Some(timeline) = timeline {
            timeline.received.push(copy(stream, &received.counts)?);
        }
        if let Some(kept) = kept {
            kept.rounds.push(Round {
                counts: copy(stream, &received.counts)?,
                offsets: None,
                source: copy(stream, &received.source)?,
                mlp: KeptMlp::new(
                    stream,
                    Input::received(&received.rows, &received.scales),
                    experts,
                    0,
                )?,
            });
        }
        Ok(())
    }
}

impl DecodeInFlight<'_> {
    /// Enqueues the rest.
    ///
    /// # Errors
    /// As [`MoeLayer::prefill`].
    pub fn finish(self, stream: &Stream, mut output: Output<'_>) -> Result<()> {
        let Self {
            layer,
            round,
            count,
        } = self;
        layer.check_output(count, &output)?;
        let handle = MoeLayer::step(&mut layer.timeline, stream, step(DISPATCH), || {
            round.finish(stream).map_err(Error::device(DISPATCH))
        })?;
        layer.masked_experts(stream, &handle, count)?;
        let has_shared = layer.has_shared();
        let MoeLayer {
            tokens,
            sum,
            timeline,
            decode,
            ..
        } = &mut *layer;
        let decode = decode.as_ref().ok_or_else(not_made)?;
        let experts = decode.experts.as_ref();
        let y = experts.map_or(&decode.none, |experts| &experts.outputs[0]);
        let weights = CombineInput {
            topk_idx: &tokens.topk_indices,
            weights: &tokens.topk_weights,
        };
        let combined = MoeLayer::combined(sum, has_shared, &mut output);
        MoeLayer::step(timeline, stream, step(COMBINE), || {
            let combine = handle.combine(stream, y, &weights, combined);
            combine.map_err(Error::device(COMBINE))
        })?;
        layer.add_shared(stream, count, output)
    }
}

fn step(name: &'static str) -> Step {
    Step {
        name,
        lane: Lane::Compute,
        part: 0,
    }
}

fn not_made() -> Error {
    Error::Request {
        what: "decode",
        found: "called".into(),
        expected: "`decode_tokens` in the layer's description".into(),
    }
}
