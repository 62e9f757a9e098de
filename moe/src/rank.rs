//! One rank of a run: loads the layer, calls it once, and collects what it left.

use crate::checkpoint::LayerWeights;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::capture::RankCapture;
use crate::layer::timeline::{Span, Timeline};
use crate::layer::{LayerDesc, MoeLayer, Output, STEPS, size};
use crate::report::Phase;
use hadal::device::{Buffer, Context, Stream};
use hadal::memory::Bootstrap;
use half::bf16;
use indicatif::ProgressBar;
use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a rank waits for a step of its own.
const STEP_DEADLINE: Duration = Duration::from_secs(600);

/// Which form of the forward pass is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Form {
    /// [`MoeLayer::prefill`].
    Prefill,
    /// [`MoeLayer::decode`].
    Decode,
}

impl Form {
    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }

    /// Steps of the progress bar per rank: loading, and what is enqueued at most.
    pub(crate) const fn steps(self) -> usize {
        match self {
            Self::Prefill => 17,
            Self::Decode => 13,
        }
    }
}

/// What a rank is to do.
pub(crate) struct Job<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a LayerWeights,
    pub(crate) form: Form,
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
    pub(crate) spans: Vec<Span>,
    pub(crate) wall: Duration,
    pub(crate) kernels: Vec<&'static str>,
    pub(crate) capture: Option<RankCapture>,
}

impl Job<'_> {
    fn desc(&self, ranks: u32) -> Result<LayerDesc> {
        let tokens = size(self.max_tokens.max(1))?;
        let all = LayerDesc::new(self.config.clone(), ranks, tokens);
        Ok(match self.form {
            Form::Prefill => LayerDesc {
                decode_tokens: 0,
                ..all
            },
            Form::Decode => LayerDesc {
                prefill_tokens: 0,
                ..all
            },
        })
    }
}

/// Loads a rank, runs the layer once on it, and collects the results. All ranks call it together.
pub(crate) fn run(job: &Job<'_>, mut bootstrap: Bootstrap) -> Result<RankResult> {
    let context = Context::new(bootstrap.rank()).map_err(Error::device("device"))?;
    let stream = Stream::new(&context).map_err(Error::device("stream"))?;
    let desc = job.desc(bootstrap.ranks())?;
    let mut layer = MoeLayer::new(&desc, job.weights, &mut bootstrap, &context)?;
    let memory = || Error::device("device memory");
    let x = Buffer::from_slice(&stream, job.input).map_err(memory())?;
    let mut output = Buffer::alloc(&context, job.input.len()).map_err(memory())?;
    job.progress.inc(1);
    bootstrap
        .barrier("forward")
        .map_err(Error::device("start of the forward pass"))?;
    layer.record();
    if job.capture {
        layer.keep_intermediates();
    }
    let start = Instant::now();
    let count = size(job.tokens.len())?;
    let to = Output::F32(&mut output);
    match job.form {
        Form::Prefill => layer.prefill(&stream, &x, count, to)?,
        Form::Decode => layer.decode(&stream, &x, (count, None), to)?,
    }
    let timeline = layer.take_timeline().unwrap_or_default();
    timeline.wait(STEP_DEADLINE, |name| {
        job.progress.set_message(name);
        job.progress.inc(1);
    })?;
    layer.synchronize(&stream)?;
    let wall = start.elapsed();
    let kernels = context.launches().iter().map(|&(name, _)| name).collect();
    let bytes = layer.bytes(&stream, &timeline, count)?;
    let capture = job
        .capture
        .then(|| layer.take_capture(&stream, &x, job.tokens.clone()));
    Ok(RankResult {
        output: output.to_vec(&stream).map_err(memory())?,
        phases: phases(&timeline, bytes)?,
        spans: timeline.spans()?,
        wall,
        kernels,
        capture: capture.transpose()?,
    })
}

/// Device time by step, over all micro-batches.
fn phases(timeline: &Timeline, bytes: [u64; STEPS.len()]) -> Result<Vec<Phase>> {
    let spans = timeline.spans()?;
    let phase = |(name, bytes): (&'static str, u64)| {
        let own = spans.iter().filter(|span| span.step.name == name);
        let mut times = own
            .map(|span| span.end.saturating_sub(span.begin))
            .peekable();
        times.peek()?;
        let time = times.sum();
        Some(Phase { name, time, bytes })
    };
    Ok(STEPS.into_iter().zip(bytes).filter_map(phase).collect())
}
