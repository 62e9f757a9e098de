//! One rank: its device, its experts, its tokens.

use crate::capture::{ActivationValues, Activations, ExpertCapture, RankCapture, Scales, Source};
use crate::checkpoint::{ExpertWeights, LayerWeights, RouterValues};
use crate::config::{BLOCK, Config, WeightFormat};
use crate::error::{Error, Result};
pub(crate) use crate::mlp::size;
use crate::mlp::{Activated, Input, Mlp, PhaseNames, Rows};
use crate::report::Phase;
use crate::timer::Timer;
use hadal::device::{Buffer, Context, Stream};
use hadal::ep::latency::{
    CombineInput, DispatchInput, LatencyBuffers, LatencyDesc, LatencyPlan, Output, Payload,
    Received, ReceivedRows, Rows as DispatchRows,
};
use hadal::gemm::{Format, Shape};
use hadal::memory::Bootstrap;
use hadal::moe::{RouteDesc, RouteOperands, RoutePlan, RouterWeight, add_shared};
use hadal::params::EpSource;
use hadal::quant::{Quantise1x128, Quantise1x128Desc, Quantise1x128Plan, ScaleLayout, Scaling};
use half::bf16;
use indicatif::ProgressBar;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Phases after the start, and loading: the steps of the progress bar per rank.
pub(crate) const STEPS: usize = PHASES.len() + 1;

const ROUTE: &str = "route";
const QUANTISE: &str = "quantise";
const DISPATCH: &str = "dispatch";
const EXPERTS: PhaseNames = PhaseNames(["expert gate+up", "expert SwiGLU", "expert down"]);
const COMBINE: &str = "combine";
const SHARED: PhaseNames = PhaseNames(["shared gate+up", "shared SwiGLU", "shared down"]);
const ADD: &str = "add shared";
const PHASES: [&str; 11] = [
    ROUTE,
    QUANTISE,
    DISPATCH,
    EXPERTS.0[0],
    EXPERTS.0[1],
    EXPERTS.0[2],
    COMBINE,
    SHARED.0[0],
    SHARED.0[1],
    SHARED.0[2],
    ADD,
];

/// How long a rank waits for a phase of its own.
const PHASE_DEADLINE: Duration = Duration::from_secs(600);

/// What a rank is to do.
pub(crate) struct Job<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a LayerWeights,
    /// BF16 rows of its tokens.
    pub(crate) input: &'a [bf16],
    /// Which tokens of the batch those are.
    pub(crate) tokens: Range<usize>,
    /// Most tokens of any rank.
    pub(crate) max_tokens: usize,
    /// Copy intermediate results to the host.
    pub(crate) capture: bool,
    pub(crate) progress: &'a ProgressBar,
}

/// What a rank did.
#[derive(Debug)]
pub(crate) struct RankResult {
    /// `[tokens, hidden]`.
    pub(crate) output: Vec<f32>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) wall: Duration,
    pub(crate) kernels: Vec<&'static str>,
    pub(crate) capture: Option<RankCapture>,
}

/// Everything of a rank on its device.
struct Rank<'a> {
    job: &'a Job<'a>,
    stream: Stream,
    route: RoutePlan,
    quantised: Option<QuantisedTokens>,
    all_to_all: LatencyBuffers,
    experts: Option<Mlp>,
    shared: Option<Mlp>,
    router: RouterBuffer,
    bias: Option<Buffer<f32>>,
    x: Buffer<bf16>,
    topk_indices: Buffer<i32>,
    topk_weights: Buffer<f32>,
    output: Buffer<f32>,
}

/// The router's weight on the device.
enum RouterBuffer {
    Bf16(Buffer<bf16>),
    F32(Buffer<f32>),
}

/// The tokens of a layer with FP8 experts.
struct QuantisedTokens {
    /// Row-major scales for the dispatch, M-major ones for the shared expert.
    quantise: [Quantise1x128; 2],
    codes: Buffer<u8>,
    scales: [Buffer<f32>; 2],
}

impl QuantisedTokens {
    fn new(stream: &Stream, job: &Job<'_>) -> Result<Self> {
        let layouts = [ScaleLayout::RowMajor, ScaleLayout::MMajor];
        let [dispatched, shared] = layouts.map(|layout| quantise(stream, job, layout));
        let quantise = [dispatched?, shared?];
        let elements = job.tokens.len() * job.config.hidden;
        Ok(Self {
            scales: [
                scales_of(stream, &quantise[0])?,
                scales_of(stream, &quantise[1])?,
            ],
            codes: Buffer::alloc(stream.context(), elements).map_err(memory())?,
            quantise,
        })
    }

    /// The same codes come with scales in both layouts.
    fn run(&mut self, stream: &Stream, x: &Buffer<bf16>) -> Result<()> {
        for (quantise, scales) in self.quantise.iter().zip(&mut self.scales) {
            quantise
                .run(stream, x.into(), (&mut self.codes).into(), scales.into())
                .map_err(Error::device(QUANTISE))?;
        }
        Ok(())
    }
}

/// Loads a rank, runs the layer once on it, and collects the results. All ranks call it together.
pub(crate) fn run(job: &Job<'_>, mut bootstrap: Bootstrap) -> Result<RankResult> {
    let mut rank = Rank::new(job, &mut bootstrap)?;
    job.progress.inc(1);
    bootstrap
        .barrier("forward")
        .map_err(Error::device("start of the forward pass"))?;
    let start = Instant::now();
    let mut timer = Timer::default();
    let received = rank.forward(&mut timer)?;
    timer.wait(PHASE_DEADLINE, |name| {
        job.progress.set_message(name);
        job.progress.inc(1);
    })?;
    rank.all_to_all
        .synchronize(&rank.stream)
        .map_err(Error::device("forward pass"))?;
    let wall = start.elapsed();
    let kernels = rank
        .stream
        .context()
        .launches()
        .iter()
        .map(|&(name, _)| name)
        .collect();
    Ok(RankResult {
        output: rank.download(&rank.output)?,
        phases: rank.phases(&timer, &received)?,
        wall,
        kernels,
        capture: job.capture.then(|| rank.capture(&received)).transpose()?,
    })
}

impl<'a> Rank<'a> {
    fn new(job: &'a Job<'a>, bootstrap: &mut Bootstrap) -> Result<Self> {
        let Config {
            hidden,
            experts,
            top_k,
            routing,
            ..
        } = *job.config;
        let tokens = job.tokens.len();
        let context = Context::new(bootstrap.rank()).map_err(Error::device("device"))?;
        let stream = Stream::new(&context).map_err(Error::device("stream"))?;
        let plan = all_to_all(job, bootstrap.ranks())?;
        let buffers = LatencyBuffers::new(&plan, bootstrap, &context);
        let route = RouteDesc {
            tokens,
            hidden,
            experts,
            top_k,
            groups: routing.groups,
            top_groups: routing.top_groups,
            scores: routing.scores,
            group_worth: routing.group_worth,
            normalise: routing.normalise,
            scaling: routing.scaling,
        };
        let quantised = (job.config.weights == WeightFormat::Fp8)
            .then(|| QuantisedTokens::new(&stream, job))
            .transpose()?;
        let desc = &plan.desc;
        let first = desc.first_expert(bootstrap.rank()) as usize;
        let own = first..first + desc.local_experts(bootstrap.rank()) as usize;
        Ok(Self {
            route: route.plan().map_err(Error::device("plan of the routing"))?,
            experts: routed(&stream, &job.weights.experts[own], &plan)?,
            shared: shared_expert(&stream, job)?,
            all_to_all: buffers.map_err(Error::device("set-up of the all-to-all"))?,
            quantised,
            router: router(&stream, &job.weights.router)?,
            bias: match &job.weights.bias {
                Some(bias) => Some(Buffer::from_slice(&stream, bias).map_err(memory())?),
                None => None,
            },
            x: Buffer::from_slice(&stream, job.input).map_err(memory())?,
            topk_indices: Buffer::alloc(&context, tokens * top_k).map_err(memory())?,
            topk_weights: Buffer::alloc(&context, tokens * top_k).map_err(memory())?,
            output: Buffer::alloc(&context, tokens * hidden).map_err(memory())?,
            stream,
            job,
        })
    }

    /// Enqueues the whole pass and returns where the dispatched rows lie.
    fn forward(&mut self, timer: &mut Timer) -> Result<ReceivedCopy> {
        timer.mark(&self.stream, "start")?;
        self.route()?;
        timer.mark(&self.stream, ROUTE)?;
        if let Some(quantised) = &mut self.quantised {
            quantised.run(&self.stream, &self.x)?;
            timer.mark(&self.stream, QUANTISE)?;
        }
        let input = DispatchInput {
            first: 0,
            tokens: size(self.job.tokens.len())?,
            rows: match &self.quantised {
                Some(QuantisedTokens { codes, scales, .. }) => DispatchRows::Fp8 {
                    codes,
                    scales: &scales[0],
                },
                None => DispatchRows::Bf16(&self.x),
            },
            topk_idx: &self.topk_indices,
        };
        let handle = self
            .all_to_all
            .dispatch(&self.stream, &input)
            .map_err(Error::device(DISPATCH))?;
        timer.mark(&self.stream, DISPATCH)?;
        let received = handle.received();
        let none = Buffer::alloc(self.stream.context(), 0).map_err(memory())?;
        if let Some(experts) = &mut self.experts {
            let (x, counts) = (received_rows(received), Some(&received.counts));
            experts.run(&self.stream, x, counts, (timer, EXPERTS))?;
        }
        let y = self.experts.as_ref().map_or(&none, Mlp::output);
        let weights = CombineInput {
            topk_idx: &self.topk_indices,
            weights: &self.topk_weights,
        };
        let copy = ReceivedCopy::new(&self.stream, received, self.job)?;
        handle
            .combine(&self.stream, y, &weights, Output::F32(&mut self.output))
            .map_err(Error::device(COMBINE))?;
        timer.mark(&self.stream, COMBINE)?;
        if let Some(shared) = &mut self.shared {
            let x = tokens(self.quantised.as_ref(), &self.x);
            shared.run(&self.stream, x, None, (timer, SHARED))?;
            let elements = self.job.tokens.len() * self.job.config.hidden;
            add_shared(&self.stream, &mut self.output, shared.output(), elements)
                .map_err(Error::device(ADD))?;
            timer.mark(&self.stream, ADD)?;
        }
        Ok(copy)
    }

    fn route(&mut self) -> Result<()> {
        let operands = RouteOperands {
            hidden_states: &self.x,
            router: match &self.router {
                RouterBuffer::Bf16(weight) => RouterWeight::Bf16(weight),
                RouterBuffer::F32(weight) => RouterWeight::F32(weight),
            },
            bias: self.bias.as_ref(),
            valid: None,
            topk_indices: &mut self.topk_indices,
            topk_weights: &mut self.topk_weights,
        };
        self.route
            .run(&self.stream, operands)
            .map_err(Error::device(ROUTE))
    }

    fn download<T: bytemuck::Pod>(&self, buffer: &Buffer<T>) -> Result<Vec<T>> {
        buffer
            .to_vec(&self.stream)
            .map_err(Error::device("copy of results to the host"))
    }

    fn phases(&self, timer: &Timer, received: &ReceivedCopy) -> Result<Vec<Phase>> {
        let counts = self.download(&received.counts)?;
        let rows: u64 = counts.iter().map(|&c| u64::try_from(c).unwrap_or(0)).sum();
        let tokens = self.job.tokens.len() as u64;
        let Config {
            hidden,
            experts,
            top_k,
            ..
        } = *self.job.config;
        let (hidden, experts, top_k) = (hidden as u64, experts as u64, top_k as u64);
        let row = match self.job.config.weights {
            WeightFormat::Fp8 => hidden + hidden / BLOCK as u64 * 4,
            WeightFormat::Bf16 => hidden * 2,
        };
        let expert_bytes = self.experts.as_ref().map_or([0; 3], |mlp| mlp.bytes(rows));
        let shared_bytes = self.shared.as_ref().map_or([0; 3], |mlp| mlp.bytes(tokens));
        let bytes = |name: &str| match PHASES.iter().position(|&phase| phase == name) {
            Some(0) => (tokens + experts) * hidden * 2 + tokens * top_k * 8,
            Some(1) => 2 * (tokens * hidden * 2 + tokens * row),
            Some(2) => (tokens * top_k + 2 * rows) * row,
            Some(phase @ 3..=5) => expert_bytes[phase - 3],
            Some(6) => (2 * rows + tokens * top_k) * hidden * 2 + tokens * hidden * 4,
            Some(phase @ 7..=9) => shared_bytes[phase - 7],
            _ => tokens * hidden * 10,
        };
        let phases = timer.phases()?.into_iter();
        Ok(phases
            .map(|(name, time)| Phase {
                name,
                time,
                bytes: bytes(name),
            })
            .collect())
    }

    fn capture(&self, received: &ReceivedCopy) -> Result<RankCapture> {
        let Job { tokens, config, .. } = self.job;
        let values = match &self.quantised {
            None => ActivationValues::Bf16(self.download(&self.x)?),
            Some(QuantisedTokens { codes, scales, .. }) => ActivationValues::Fp8 {
                codes: self.download(codes)?,
                scales: Scales::RowMajor(self.download(&scales[0])?),
            },
        };
        let x = Activations {
            rows: tokens.len(),
            columns: config.hidden,
            values,
        };
        let shared = match &self.shared {
            Some(mlp) => {
                let x = self::tokens(self.quantised.as_ref(), &self.x);
                mlp.capture(&self.stream, x, &[tokens.len()])?.pop()
            }
            None => None,
        };
        Ok(RankCapture {
            tokens: tokens.clone(),
            topk_indices: self.download(&self.topk_indices)?,
            topk_weights: self.download(&self.topk_weights)?,
            x,
            experts: self.capture_experts(received)?,
            shared,
        })
    }

    fn capture_experts(&self, received: &ReceivedCopy) -> Result<Vec<ExpertCapture>> {
        let (Some(mlp), Some(rows)) = (&self.experts, &received.rows) else {
            return Ok(Vec::new());
        };
        let counts = self.download(&received.counts)?;
        let counts: Vec<usize> = counts
            .into_iter()
            .map(|c| usize::try_from(c).unwrap_or(0))
            .collect();
        let sources = self.download(&rows.source)?;
        let plan = self.all_to_all.plan();
        let first = plan.desc.first_expert(self.all_to_all.rank()) as usize;
        let slot = plan.max_rows as usize;
        let captured = mlp.capture(&self.stream, rows.values.input(), &counts)?;
        let experts = captured.into_iter().zip(counts).enumerate();
        Ok(experts
            .map(|(local, (mlp, count))| ExpertCapture {
                expert: first + local,
                sources: sources[local * slot..][..count]
                    .iter()
                    .map(source)
                    .collect(),
                mlp,
            })
            .collect())
    }
}

/// What was received, kept beyond the round.
#[derive(Debug)]
struct ReceivedCopy {
    counts: Buffer<i32>,
    rows: Option<ReceivedRowsCopy>,
}

#[derive(Debug)]
struct ReceivedRowsCopy {
    values: Activated,
    source: Buffer<EpSource>,
}

impl ReceivedCopy {
    /// Enqueues copies of the counts, and of the rows where the job captures.
    fn new(stream: &Stream, received: &Received, job: &Job<'_>) -> Result<Self> {
        let rows = || -> Result<_> {
            Ok(ReceivedRowsCopy {
                values: match received_rows(received) {
                    Input::Fp8 { codes, scales } => Activated::Fp8 {
                        codes: copy(stream, codes)?,
                        scales: copy(stream, scales)?,
                    },
                    Input::Bf16(values) => Activated::Bf16(copy(stream, values)?),
                },
                source: copy(stream, &received.source)?,
            })
        };
        Ok(Self {
            counts: copy(stream, &received.counts)?,
            rows: job.capture.then(rows).transpose()?,
        })
    }
}

fn copy<T: bytemuck::Pod>(stream: &Stream, from: &Buffer<T>) -> Result<Buffer<T>> {
    let mut to = Buffer::alloc(stream.context(), from.len()).map_err(memory())?;
    to.copy_from_buffer(stream, from)
        .map_err(Error::device("copy of received rows"))?;
    Ok(to)
}

fn source(source: &EpSource) -> Source {
    Source {
        rank: source.rank.into(),
        token: source.token as usize,
        k: source.k.into(),
    }
}

fn received_rows(received: &Received) -> Input<'_> {
    match &received.rows {
        ReceivedRows::Fp8(codes) => Input::Fp8 {
            codes,
            scales: &received.scales,
        },
        ReceivedRows::Bf16(values) => Input::Bf16(values),
    }
}

/// A rank's own tokens as the shared expert reads them.
fn tokens<'a>(quantised: Option<&'a QuantisedTokens>, x: &'a Buffer<bf16>) -> Input<'a> {
    match quantised {
        Some(QuantisedTokens { codes, scales, .. }) => Input::Fp8 {
            codes,
            scales: &scales[1],
        },
        None => Input::Bf16(x),
    }
}

fn router(stream: &Stream, values: &RouterValues) -> Result<RouterBuffer> {
    Ok(match values {
        RouterValues::Bf16(values) => {
            RouterBuffer::Bf16(Buffer::from_slice(stream, values).map_err(memory())?)
        }
        RouterValues::F32(values) => {
            RouterBuffer::F32(Buffer::from_slice(stream, values).map_err(memory())?)
        }
    })
}

fn memory<E: Into<Box<dyn std::error::Error + Send + Sync>>>() -> impl FnOnce(E) -> Error {
    Error::device("device memory")
}

fn all_to_all(job: &Job<'_>, ranks: u32) -> Result<LatencyPlan> {
    let desc = LatencyDesc {
        ranks,
        experts: size(job.config.experts)?,
        topk: size(job.config.top_k)?,
        hidden: size(job.config.hidden)?,
        max_tokens: size(job.max_tokens.max(1))?,
        payload: match job.config.weights {
            WeightFormat::Fp8 => Payload::Fp8,
            WeightFormat::Bf16 => Payload::Bf16,
        },
        combine: Payload::Bf16,
        max_rows: None,
        ctas: None,
        timeout: LatencyDesc::DEFAULT_TIMEOUT,
    };
    LatencyPlan::new(desc).map_err(Error::device("plan of the all-to-all"))
}

fn quantise(stream: &Stream, job: &Job<'_>, layout: ScaleLayout) -> Result<Quantise1x128> {
    let context = stream.context();
    let sms = context
        .multiprocessors()
        .map_err(Error::device("device attributes"))?;
    let (rows, columns) = (size(job.tokens.len())?, size(job.config.hidden)?);
    let plan = Quantise1x128Plan::new(Quantise1x128Desc {
        shape: Shape::matrix(rows, columns),
        format: Format::E4m3,
        layout,
        scaling: Scaling::Exact,
        sms,
    });
    let plan = plan.map_err(Error::device("plan of the quantisation"))?;
    Quantise1x128::new(context, plan).map_err(Error::device("loading the quantisation"))
}

fn scales_of(stream: &Stream, quantise: &Quantise1x128) -> Result<Buffer<f32>> {
    let count = usize::try_from(quantise.plan().scales).map_err(memory())?;
    Buffer::zeroed(stream, count).map_err(memory())
}

/// The MLPs of this rank's experts; a rank may have none.
fn routed(stream: &Stream, experts: &[ExpertWeights], plan: &LatencyPlan) -> Result<Option<Mlp>> {
    if experts.is_empty() {
        return Ok(None);
    }
    let LatencyDesc {
        ranks,
        experts: all,
        topk,
        max_tokens,
        ..
    } = plan.desc;
    let expected = (ranks * max_tokens * topk).div_ceil(all);
    let rows = Rows::Masked {
        slot: plan.max_rows,
        expected,
    };
    Mlp::new(stream, &experts.iter().collect::<Vec<_>>(), rows).map(Some)
}

fn shared_expert(stream: &Stream, job: &Job<'_>) -> Result<Option<Mlp>> {
    let Some(weights) = &job.weights.shared else {
        return Ok(None);
    };
    Mlp::new(stream, &[weights], Rows::Dense(size(job.tokens.len())?)).map(Some)
}
