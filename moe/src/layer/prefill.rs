//! Prefill: throughput mode and the offsets form, in two micro-batches.

use super::activations::{Input, copy};
use super::capture::{KeptMlp, Round};
use super::mlp::{Mlp, Rows, Used};
use super::timeline::{Lane, Step, Timeline};
use super::weights::Experts;
use super::{
    COMBINE, DISPATCH, EXPERTS, LayerDesc, MoeLayer, Output, memory, order_after, record, size,
};
use crate::error::{Error, Result};
use hadal::device::{Buffer, Event, Stream};
use hadal::ep::throughput::{
    DispatchHandle, DispatchInput, ThroughputBuffers, ThroughputDesc, ThroughputPlan,
};
use hadal::memory::Bootstrap;
use half::bf16;
use std::sync::Arc;

/// Micro-batches of a call.
const PARTS: usize = 2;

/// What prefill needs.
#[derive(Debug)]
pub(crate) struct Prefill {
    pub(crate) buffers: ThroughputBuffers,
    pub(crate) experts: Option<Mlp>,
    /// Rows to return where this rank owns no experts.
    none: Buffer<bf16>,
    /// Of each micro-batch: its rows have arrived, and its experts are done.
    arrived: [Event; PARTS],
    computed: [Event; PARTS],
    combined: Event,
}

/// The all-to-all of a micro-batch.
pub(crate) fn plan(desc: &LayerDesc) -> Result<ThroughputPlan> {
    let config = &desc.config;
    let shape = [desc.ranks, size(config.experts)?, size(config.top_k)?];
    let tokens = desc.prefill_tokens.div_ceil(2);
    let (hidden, payload) = (size(config.hidden)?, desc.payload());
    let plan = ThroughputPlan::new(ThroughputDesc {
        max_rows: desc.max_rows,
        ctas: Some(desc.communication_sms),
        timeout: desc.timeout,
        ..ThroughputDesc::new(shape, hidden, tokens, payload, desc.reduce)
    });
    plan.map_err(Error::plan("plan of the all-to-all of prefill"))
}

/// How its rows lie.
pub(crate) fn rows(plan: &ThroughputPlan) -> Rows {
    Rows::Offsets(plan.max_rows)
}

impl Prefill {
    pub(crate) fn new(
        desc: &LayerDesc,
        stream: &Stream,
        experts: Option<&Arc<Experts>>,
        bootstrap: &mut Bootstrap,
    ) -> Result<Self> {
        let context = stream.context();
        let config = &desc.config;
        let plan = plan(desc)?;
        let sms = context
            .multiprocessors()
            .map_err(Error::device("device attributes"))?;
        let sms = sms.saturating_sub(desc.communication_sms).max(1);
        let experts = experts.map(|experts| Mlp::new(stream, experts, rows(&plan), [2, sms]));
        let experts = experts.transpose()?;
        let none = match experts {
            Some(_) => 0,
            None => plan.max_rows as usize * config.hidden,
        };
        let event = || Event::new(context).map_err(Error::device("an event"));
        Ok(Self {
            buffers: ThroughputBuffers::new(&plan, bootstrap, context)
                .map_err(Error::device("set-up of the all-to-all of prefill"))?,
            experts,
            none: Buffer::zeroed(stream, none).map_err(memory())?,
            arrived: [event()?, event()?],
            computed: [event()?, event()?],
            combined: event()?,
        })
    }
}

impl MoeLayer {
    /// Enqueues the layer for the first `count` rows of `x`, BF16 `[tokens, hidden]`, in two micro-batches: the all-to-all
    /// of one runs beside the experts of the other. `stream` is past the call when the output is complete.
    ///
    /// # Errors
    /// [`Error::Request`]: more tokens than the layer was made for, buffers that are too short, another context.
    /// [`Error::Device`]: a fault of an earlier call, or the driver's error. A round that has begun is abandoned then.
    pub fn prefill(
        &mut self,
        stream: &Stream,
        x: &Buffer<bf16>,
        count: u32,
        mut output: Output<'_>,
    ) -> Result<()> {
        let Some(mut prefill) = self.prefill.take() else {
            return Err(Error::Request {
                what: "prefill",
                found: "called".into(),
                expected: "`prefill_tokens` in the layer's description".into(),
            });
        };
        let result = self.run_prefill(&mut prefill, (stream, x, count), &mut output);
        self.prefill = Some(prefill);
        result?;
        self.add_shared(stream, count, output)
    }

    fn run_prefill(
        &mut self,
        prefill: &mut Prefill,
        (stream, x, count): (&Stream, &Buffer<bf16>, u32),
        output: &mut Output<'_>,
    ) -> Result<()> {
        self.check_output(count, output)?;
        if count > self.desc.prefill_tokens {
            return Err(too_many(count, self.desc.prefill_tokens));
        }
        self.enter(stream, x, (count, None))?;
        order_after(&self.ready, &self.communication)?;
        let half = count.div_ceil(2);
        let parts = [(0, half), (half, count - half)];
        let mut handles = Vec::with_capacity(PARTS);
        for (part, (first, tokens)) in parts.into_iter().enumerate() {
            handles.push(self.dispatch(prefill, (part, first, tokens), x)?);
        }
        self.run_shared(x, count)?;
        for (part, handle) in handles.into_iter().enumerate() {
            self.experts(prefill, stream, (part, parts[part]), &handle)?;
            self.combine(prefill, part, handle, output)?;
        }
        record(&prefill.combined, &self.communication)?;
        order_after(&prefill.combined, stream)
    }

    fn dispatch(
        &mut self,
        prefill: &Prefill,
        (part, first, tokens): (usize, u32, u32),
        x: &Buffer<bf16>,
    ) -> Result<DispatchHandle> {
        let input = DispatchInput {
            first,
            tokens,
            rows: self.tokens.rows(x),
            topk_idx: &self.tokens.topk_indices,
            weights: &self.tokens.topk_weights,
        };
        let stream = &self.communication;
        let handle = Self::step(&mut self.timeline, stream, step(DISPATCH, part), || {
            let handle = prefill.buffers.dispatch(stream, &input);
            handle.map_err(Error::device(DISPATCH))
        })?;
        record(&prefill.arrived[part], stream)?;
        Ok(handle)
    }

    fn experts(
        &mut self,
        prefill: &mut Prefill,
        stream: &Stream,
        (part, (first, tokens)): (usize, (u32, u32)),
        handle: &DispatchHandle,
    ) -> Result<()> {
        order_after(&prefill.arrived[part], stream)?;
        let received = handle.received();
        if let Some(kept) = &mut self.kept {
            kept.parts.push(first..first + tokens);
        }
        if let Some(experts) = &mut prefill.experts {
            let lane = (stream, Lane::Compute, narrow(part));
            let what = (
                Input::received(&received.rows, &received.scales),
                Used::Offsets(&received.offsets),
            );
            super::run_mlp((experts, part), lane, &mut self.timeline, EXPERTS, what)?;
            if let Some(timeline) = &mut self.timeline {
                timeline.received.push(copy(stream, &received.counts)?);
            }
            if let Some(kept) = &mut self.kept {
                kept.rounds.push(Round {
                    counts: copy(stream, &received.counts)?,
                    offsets: Some(copy(stream, &received.offsets)?),
                    source: copy(stream, &received.source)?,
                    mlp: KeptMlp::new(
                        stream,
                        Input::received(&received.rows, &received.scales),
                        experts,
                        part,
                    )?,
                });
            }
        }
        record(&prefill.computed[part], stream)
    }

    fn combine(
        &mut self,
        prefill: &Prefill,
        part: usize,
        handle: DispatchHandle,
        output: &mut Output<'_>,
    ) -> Result<()> {
        let has_shared = self.has_shared();
        let stream = &self.communication;
        order_after(&prefill.computed[part], stream)?;
        let experts = prefill.experts.as_ref();
        let y = experts.map_or(&prefill.none, |experts| &experts.outputs[part]);
        let (sum, timeline): (_, &mut Option<Timeline>) = (&mut self.sum, &mut self.timeline);
        let output = Self::combined(sum, has_shared, output);
        Self::step(timeline, stream, step(COMBINE, part), || {
            let combine = handle.combine(stream, y, output);
            combine.map_err(Error::device(COMBINE))
        })
    }
}

fn step(name: &'static str, part: usize) -> Step {
    Step {
        name,
        lane: Lane::Communication,
        part: narrow(part),
    }
}

fn narrow(part: usize) -> u32 {
    u32::from(part != 0)
}

pub(super) fn too_many(found: u32, most: u32) -> Error {
    Error::Request {
        what: "tokens",
        found: found.to_string(),
        expected: format!("at most {most}, what the layer was made for"),
    }
}
