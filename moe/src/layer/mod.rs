//! A mixture-of-experts layer of one rank, on its device.
//!
//! [`LayerDesc`] says what is wanted, [`MoeLayer`] holds weights and all memory of its calls. A call only enqueues work:
//!
//! * [`MoeLayer::prefill`]: many tokens, in two micro-batches. The rows of one are dispatched or combined while the
//!   experts work on the other (throughput mode, offsets form of the GEMM).
//! * [`MoeLayer::decode`]: few tokens (latency mode, masked form). It can be captured; and [`MoeLayer::decode_begin`] leaves
//!   room for the caller's work while rows are on their way.
//!
//! All ranks make the same calls in the same order, each with its own tokens, or none.

pub(crate) mod activations;
pub mod capture;
mod decode;
mod memory;
mod mlp;
mod prefill;
pub mod timeline;
mod tokens;
mod weights;

pub use decode::DecodeInFlight;
pub use memory::Memory;

use crate::checkpoint::{ExpertWeights, LayerWeights};
use crate::config::{BLOCK, Config, WeightFormat};
use crate::error::{Error, Result};
use capture::Kept;
use hadal::device::{Buffer, Context, Event, Stream};
use hadal::ep::EpError;
use hadal::ep::latency::{LatencyBuffers, Payload};
use hadal::ep::throughput::{Reduce, ThroughputBuffers};
use hadal::memory::{Bootstrap, Members};
use hadal::moe::{Sum, add_shared};
use half::bf16;
use mlp::{Mlp, Names, Rows, Used};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use timeline::{Lane, Step, Timeline};
use tokens::Tokens;
use weights::Experts;

const ROUTE: &str = "route";
const QUANTISE: &str = "quantise";
const DISPATCH: &str = "dispatch";
const EXPERTS: Names = ["expert gate+up", "expert SwiGLU", "expert down"];
const COMBINE: &str = "combine";
const SHARED: Names = ["shared gate+up", "shared SwiGLU", "shared down"];
const ADD: &str = "add shared";

/// Names of all steps, in the order of a call.
pub const STEPS: [&str; 11] = [
    ROUTE, QUANTISE, DISPATCH, EXPERTS[0], EXPERTS[1], EXPERTS[2], COMBINE, SHARED[0], SHARED[1],
    SHARED[2], ADD,
];

/// What a layer is made for; equal on all ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDesc {
    /// Shape, routing and format.
    pub config: Config,
    /// Ranks, 1 to 16; the experts are split as evenly as they go, the first ranks owning one more.
    pub ranks: u32,
    /// Most tokens of any rank in one [`MoeLayer::prefill`]; 0: it is not called.
    pub prefill_tokens: u32,
    /// Most tokens of any rank in one [`MoeLayer::decode`]; 0: it is not called.
    pub decode_tokens: u32,
    /// What travels back in prefill. [`Reduce::PerExpert`]: the output's bits are those of decode, and of any number of
    /// ranks.
    pub reduce: Reduce,
    /// Rows that the experts of a rank can receive in a micro-batch of prefill. `None`: what always suffices.
    pub max_rows: Option<u32>,
    /// SMs that prefill leaves to the all-to-all while the experts work on the others.
    pub communication_sms: u32,
    /// How long a kernel waits for a peer before it reports a fault.
    pub timeout: Duration,
}

impl LayerDesc {
    /// SMs for the all-to-all that saturate the links of a node (DeepSeek-V3, arXiv 2412.19437, section 3.2.2).
    pub const COMMUNICATION_SMS: u32 = 20;

    /// So many tokens in both forms, capacities that always suffice, [`Reduce::PerExpert`].
    #[must_use]
    pub const fn new(config: Config, ranks: u32, tokens: u32) -> Self {
        Self {
            config,
            ranks,
            prefill_tokens: tokens,
            decode_tokens: tokens,
            reduce: Reduce::PerExpert,
            max_rows: None,
            communication_sms: Self::COMMUNICATION_SMS,
            timeout: hadal::ep::latency::LatencyDesc::DEFAULT_TIMEOUT,
        }
    }

    /// Experts that `rank` owns, by their numbers.
    #[must_use]
    pub fn experts(&self, rank: u32) -> Range<usize> {
        let (experts, ranks, rank) = (
            self.config.experts,
            self.ranks.max(1) as usize,
            rank as usize,
        );
        let first = |rank: usize| rank * (experts / ranks) + rank.min(experts % ranks);
        first(rank)..first(rank + 1)
    }

    fn payload(&self) -> Payload {
        match self.config.weights {
            WeightFormat::Fp8 => Payload::Fp8,
            WeightFormat::Bf16 => Payload::Bf16,
        }
    }

    fn max_tokens(&self) -> u32 {
        self.prefill_tokens.max(self.decode_tokens)
    }
}

/// Where the layer's output `[tokens, hidden]` goes; no residual is added.
#[derive(Debug)]
pub enum Output<'a> {
    /// As summed.
    F32(&'a mut Buffer<f32>),
    /// The same, rounded to nearest even.
    Bf16(&'a mut Buffer<bf16>),
}

/// One rank's layer. Its memory must outlive the graphs that its calls were captured into.
#[derive(Debug)]
pub struct MoeLayer {
    desc: LayerDesc,
    rank: u32,
    context: Arc<Context>,
    tokens: Tokens,
    shared: Option<Mlp>,
    prefill: Option<prefill::Prefill>,
    decode: Option<decode::Decode>,
    /// Combined rows on their way to a BF16 output.
    sum: Buffer<f32>,
    communication: Stream,
    shared_stream: Stream,
    /// The caller's stream has what the others need; the others have ended.
    ready: Event,
    shared_done: Event,
    timeline: Option<Timeline>,
    kept: Option<Kept>,
}

impl MoeLayer {
    /// Uploads the weights of this rank's experts, allocates everything, and meets the other ranks.
    ///
    /// # Errors
    /// [`Error::Request`] for weights that are not of the description's shape, [`Error::Plan`] for a description that the
    /// kernels cannot execute, [`Error::Device`] for lack of memory, or where the ranks do not meet.
    pub fn new(
        desc: &LayerDesc,
        weights: &LayerWeights,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<Self> {
        let fail = || Error::device("stream");
        let stream = Stream::new(context).map_err(fail())?;
        let own = own_experts(desc, weights, bootstrap.rank())?;
        let experts = Experts::upload(&stream, own)?.map(Arc::new);
        let shared = weights.shared.as_slice();
        let shared = Experts::upload(&stream, shared)?.map(Arc::new);
        let sms = context
            .multiprocessors()
            .map_err(Error::device("device attributes"))?;
        let rows = Rows::Dense(desc.max_tokens());
        let shared = shared.map(|experts| Mlp::new(&stream, &experts, rows, [1, sms]));
        let elements = desc.max_tokens() as usize * desc.config.hidden;
        let prefill = (desc.prefill_tokens > 0)
            .then(|| prefill::Prefill::new(desc, &stream, experts.as_ref(), bootstrap));
        let prefill = prefill.transpose()?;
        let decode = (desc.decode_tokens > 0)
            .then(|| decode::Decode::new(desc, &stream, experts.as_ref(), bootstrap));
        let event = || Event::new(context).map_err(Error::device("an event"));
        let layer = Self {
            tokens: Tokens::new(&stream, &desc.config, weights, desc.max_tokens())?,
            shared: shared.transpose()?,
            prefill,
            decode: decode.transpose()?,
            sum: Buffer::alloc(context, elements).map_err(memory())?,
            communication: Stream::new(context).map_err(fail())?,
            shared_stream: Stream::new(context).map_err(fail())?,
            ready: event()?,
            shared_done: event()?,
            timeline: None,
            kept: None,
            context: Arc::clone(context),
            desc: desc.clone(),
            rank: bootstrap.rank(),
        };
        stream.synchronize().map_err(fail())?;
        Ok(layer)
    }

    /// What it was made for.
    #[must_use]
    pub fn desc(&self) -> &LayerDesc {
        &self.desc
    }

    /// Records the steps of the next call.
    pub fn record(&mut self) {
        self.timeline = Some(Timeline::default());
    }

    /// The steps of the call that was recorded.
    pub fn take_timeline(&mut self) -> Option<Timeline> {
        self.timeline.take()
    }

    /// Keeps copies of the next call's intermediate results, for [`Self::take_capture`].
    pub fn keep_intermediates(&mut self) {
        self.kept = Some(Kept::default());
    }

    /// Bytes that each of [`STEPS`] read and wrote in the call that `timeline` recorded, which had `count` tokens and has
    /// ended.
    ///
    /// # Errors
    /// [`Error::Device`]: the counts cannot be read.
    pub fn bytes(&self, stream: &Stream, timeline: &Timeline, count: u32) -> Result<[u64; 11]> {
        let mut rows = 0;
        for counts in &timeline.received {
            let counts = counts.to_vec(stream).map_err(Error::device("counts"))?;
            rows += counts
                .iter()
                .map(|&n| u64::try_from(n).unwrap_or(0))
                .sum::<u64>();
        }
        let Config {
            hidden,
            experts,
            top_k,
            weights,
            ..
        } = self.desc.config;
        let [tokens, hidden, experts, top_k] =
            [count as usize, hidden, experts, top_k].map(|n| n as u64);
        let row = match weights {
            WeightFormat::Fp8 => hidden + hidden / BLOCK as u64 * 4,
            WeightFormat::Bf16 => hidden * 2,
        };
        let prefill = self
            .prefill
            .as_ref()
            .and_then(|prefill| prefill.experts.as_ref());
        let decode = self
            .decode
            .as_ref()
            .and_then(|decode| decode.experts.as_ref());
        let mlp = |mlp: Option<&Mlp>, rows| mlp.map_or([0; 3], |mlp| mlp.bytes(rows));
        let [gate_up, swiglu, down] = mlp(prefill.or(decode), rows);
        let [shared_gate_up, shared_swiglu, shared_down] = mlp(self.shared.as_ref(), tokens);
        Ok([
            (tokens + experts) * hidden * 2 + tokens * top_k * 8,
            2 * (tokens * hidden * 2 + tokens * row),
            (tokens * top_k + 2 * rows) * row,
            gate_up,
            swiglu,
            down,
            (2 * rows + tokens * top_k) * hidden * 2 + tokens * hidden * 4,
            shared_gate_up,
            shared_swiglu,
            shared_down,
            tokens * hidden * 10,
        ])
    }

    /// A fault that a device has recorded.
    ///
    /// # Errors
    /// [`Error::Device`] with the fault.
    pub fn check(&self) -> Result<()> {
        self.all_to_alls(ThroughputBuffers::check, LatencyBuffers::check)
    }

    /// Does something to each of the all-to-alls that there are.
    fn all_to_alls(
        &self,
        prefill: impl FnOnce(&ThroughputBuffers) -> std::result::Result<(), EpError>,
        decode: impl FnOnce(&LatencyBuffers) -> std::result::Result<(), EpError>,
    ) -> Result<()> {
        if let Some(it) = &self.prefill {
            prefill(&it.buffers).map_err(Error::device("all-to-all of prefill"))?;
        }
        if let Some(it) = &self.decode {
            decode(&it.buffers).map_err(Error::device("all-to-all of decode"))?;
        }
        Ok(())
    }

    /// The ranks that take part. What a token asks of the experts of others, these do not contribute, as if it were dropped.
    #[must_use]
    pub fn members(&self) -> Option<Members> {
        let prefill = self
            .prefill
            .as_ref()
            .map(|prefill| prefill.buffers.members());
        prefill.or_else(|| self.decode.as_ref().map(|decode| decode.buffers.members()))
    }

    /// After a fault: agrees with the ranks that are left on who they are, and goes on with them. All of them call it
    /// together, each with the bootstrap of [`Self::new`]. Graphs that decode was captured into stay valid; their launches
    /// have ended.
    ///
    /// # Errors
    /// [`Error::Device`]: the others left this rank out, or the device failed.
    pub fn recover(&mut self, bootstrap: &mut Bootstrap) -> Result<()> {
        let bootstrap = RefCell::new(bootstrap);
        self.all_to_alls(
            |prefill| prefill.recover(&mut bootstrap.borrow_mut()),
            |decode| decode.recover(&mut bootstrap.borrow_mut()),
        )
    }

    /// Goes on with the ranks of a new bootstrap, among them ranks that were lost: they call [`Self::new`] where this rank
    /// calls this, with an equal description, or this too if they were only left out.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn rejoin(&mut self, bootstrap: &mut Bootstrap) -> Result<()> {
        let bootstrap = RefCell::new(bootstrap);
        self.all_to_alls(
            |prefill| prefill.rejoin(&mut bootstrap.borrow_mut()),
            |decode| decode.rejoin(&mut bootstrap.borrow_mut()),
        )
    }

    /// Of the last call, how many choices of this rank's `count` tokens were of experts that take no part, and so contributed
    /// nothing. Waits for `stream`.
    ///
    /// # Errors
    /// [`Error::Device`]: the choices cannot be read.
    pub fn lost_choices(&self, stream: &Stream, count: u32) -> Result<u64> {
        let Some(members) = self.members() else {
            return Ok(0);
        };
        let lost = (0..self.desc.ranks).filter(|&rank| !members.contains(rank));
        let lost: Vec<Range<usize>> = lost.map(|rank| self.desc.experts(rank)).collect();
        if lost.is_empty() {
            return Ok(0);
        }
        let chosen = self.tokens.topk_indices.to_vec(stream);
        let chosen = chosen.map_err(Error::device("choices of experts"))?;
        let entries = count as usize * self.desc.config.top_k;
        let of_lost = |&index: &i32| {
            let expert = usize::try_from(index);
            expert.is_ok_and(|expert| lost.iter().any(|experts| experts.contains(&expert)))
        };
        let lost = chosen.iter().take(entries).filter(|index| of_lost(index));
        Ok(lost.count() as u64)
    }

    /// Waits for everything that was enqueued on `stream`, a bounded time.
    ///
    /// # Errors
    /// [`Error::Device`]: a fault, or the work takes too long.
    pub fn synchronize(&self, stream: &Stream) -> Result<()> {
        match (&self.prefill, &self.decode) {
            (Some(prefill), _) => prefill.buffers.synchronize(stream),
            (None, Some(decode)) => decode.buffers.synchronize(stream),
            (None, None) => return Ok(()),
        }
        .map_err(Error::device("the layer"))?;
        self.check()
    }

    /// Enqueues a step, recorded if asked for.
    fn step<T>(
        timeline: &mut Option<Timeline>,
        stream: &Stream,
        step: Step,
        enqueue: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match timeline {
            Some(timeline) => timeline.step(stream, step, enqueue),
            None => enqueue(),
        }
    }

    /// Enqueues routing and quantisation; `ready` is recorded behind them.
    fn enter(
        &mut self,
        stream: &Stream,
        x: &Buffer<bf16>,
        (count, valid): (u32, Option<&Buffer<u32>>),
    ) -> Result<()> {
        if !Arc::ptr_eq(stream.context(), &self.context) {
            return Err(Error::Request {
                what: "stream",
                found: "of another context".into(),
                expected: "of the layer's".into(),
            });
        }
        let elements = count as usize * self.desc.config.hidden;
        require_len("tokens", x.len(), elements)?;
        let Self {
            tokens, timeline, ..
        } = self;
        tokens.set(stream, count)?;
        let on = |name| Step {
            name,
            lane: Lane::Compute,
            part: 0,
        };
        Self::step(timeline, stream, on(ROUTE), || {
            tokens.route(stream, x, valid)
        })?;
        if tokens.quantised.is_some() {
            Self::step(timeline, stream, on(QUANTISE), || {
                tokens.quantise(stream, x)
            })?;
        }
        record(&self.ready, stream)
    }

    /// Enqueues the shared expert on its stream.
    fn run_shared(&mut self, x: &Buffer<bf16>, count: u32) -> Result<()> {
        let Self {
            tokens,
            shared,
            timeline,
            shared_stream: stream,
            ..
        } = self;
        let Some(shared) = shared else { return Ok(()) };
        order_after(&self.ready, stream)?;
        shared.set_rows(stream, count)?;
        let x = tokens.shared_input(x);
        run_mlp(
            (shared, 0),
            (stream, Lane::Shared, 0),
            timeline,
            SHARED,
            (x, Used::All),
        )?;
        record(&self.shared_done, stream)
    }

    /// Where combined rows go, before the shared expert is added.
    fn combined<'a>(
        sum: &'a mut Buffer<f32>,
        has_shared: HasShared,
        output: &'a mut Output<'_>,
    ) -> hadal::ep::latency::Output<'a> {
        match (output, has_shared) {
            (Output::F32(rows), _) => hadal::ep::latency::Output::F32(rows),
            (Output::Bf16(rows), HasShared::No) => hadal::ep::latency::Output::Bf16(rows),
            (Output::Bf16(_), HasShared::Yes) => hadal::ep::latency::Output::F32(sum),
        }
    }

    fn check_output(&self, count: u32, output: &Output<'_>) -> Result<()> {
        let found = match output {
            Output::F32(rows) => rows.len(),
            Output::Bf16(rows) => rows.len(),
        };
        require_len("output", found, count as usize * self.desc.config.hidden)
    }

    fn has_shared(&self) -> HasShared {
        match self.shared {
            Some(_) => HasShared::Yes,
            None => HasShared::No,
        }
    }

    /// Enqueues the addition of the shared expert's rows.
    fn add_shared(&mut self, stream: &Stream, count: u32, output: Output<'_>) -> Result<()> {
        let Self {
            shared,
            sum,
            timeline,
            shared_done,
            ..
        } = self;
        let Some(shared) = shared else { return Ok(()) };
        order_after(shared_done, stream)?;
        let elements = count as usize * self.desc.config.hidden;
        let sum = match output {
            Output::F32(rows) => Sum::InPlace(rows),
            Output::Bf16(output) => Sum::Bf16 {
                combined: sum,
                output,
            },
        };
        let step = Step {
            name: ADD,
            lane: Lane::Compute,
            part: 0,
        };
        Self::step(timeline, stream, step, || {
            add_shared(stream, sum, &shared.outputs[0], elements).map_err(Error::device(ADD))
        })
    }
}

/// A rank's experts among weights that hold at least those.
fn own_experts<'a>(
    desc: &LayerDesc,
    weights: &'a LayerWeights,
    rank: u32,
) -> Result<&'a [ExpertWeights]> {
    let own = desc.experts(rank);
    let first = own.start.checked_sub(weights.first_expert);
    let experts = first.and_then(|first| weights.experts.get(first..first + own.len()));
    experts.ok_or_else(|| Error::Request {
        what: "the experts of the weights",
        found: format!("{} from {} on", weights.experts.len(), weights.first_expert),
        expected: format!("those of rank {rank}, {own:?}"),
    })
}

#[derive(Clone, Copy)]
enum HasShared {
    No,
    Yes,
}

/// Enqueues the three steps of an MLP into one of its outputs.
fn run_mlp(
    (mlp, output): (&mut Mlp, usize),
    (stream, lane, part): (&Stream, Lane, u32),
    timeline: &mut Option<Timeline>,
    names: Names,
    (x, used): (activations::Input<'_>, Used<'_>),
) -> Result<()> {
    let on = |name| Step { name, lane, part };
    MoeLayer::step(timeline, stream, on(names[0]), || {
        mlp.gate_up(stream, x, used)
    })?;
    MoeLayer::step(timeline, stream, on(names[1]), || mlp.swiglu(stream, used))?;
    MoeLayer::step(timeline, stream, on(names[2]), || {
        mlp.down(stream, used, output)
    })
}

fn record(event: &Event, stream: &Stream) -> Result<()> {
    let record = event.record(stream);
    record.map_err(Error::device("order of the streams"))
}

fn order_after(event: &Event, stream: &Stream) -> Result<()> {
    let wait = stream.wait_event(event);
    wait.map_err(Error::device("order of the streams"))
}

fn require_len(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found >= expected {
        return Ok(());
    }
    Err(Error::Request {
        what,
        found: format!("a buffer of {found} elements"),
        expected: format!("at least {expected}"),
    })
}

/// A size as the kernels take it.
pub(crate) fn size(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Request {
        what: "a size",
        found: value.to_string(),
        expected: "at most 4294967295".into(),
    })
}

pub(crate) fn memory<E: Into<Box<dyn std::error::Error + Send + Sync>>>() -> impl FnOnce(E) -> Error
{
    Error::device("device memory")
}
