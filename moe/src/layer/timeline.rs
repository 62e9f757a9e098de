//! Device time of the steps of one call: an event before and after each.

use crate::error::{Error, Result};
use hadal::device::{Buffer, Event, Stream};
use serde::Serialize;
use std::time::Duration;

/// Which stream a step ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The caller's: routing and the experts.
    Compute,
    /// The layer's own, for the all-to-all.
    Communication,
    /// The layer's own, for the shared expert.
    Shared,
}

impl Lane {
    const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Communication => "communication",
            Self::Shared => "shared expert",
        }
    }
}

/// A step: its name, its stream, and which micro-batch it worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Name, one of [`super::STEPS`].
    pub name: &'static str,
    /// Stream.
    pub lane: Lane,
    /// Micro-batch; 0 for steps over all tokens.
    pub part: u32,
}

/// When a step ran, by the device's clock, from the first step's beginning on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The step.
    pub step: Step,
    /// Its beginning: the stream had come to it.
    pub begin: Duration,
    /// Its end.
    pub end: Duration,
}

/// Events of one call, in the order in which its steps were enqueued.
#[derive(Debug, Default)]
pub struct Timeline {
    steps: Vec<(Step, Event, Event)>,
    /// Rows of each of the rank's experts, by micro-batch.
    pub(crate) received: Vec<Buffer<i32>>,
}

impl Timeline {
    /// Enqueues a step between two events.
    pub(crate) fn step<T>(
        &mut self,
        stream: &Stream,
        step: Step,
        enqueue: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mark = || {
            let event = Event::new(stream.context()).map_err(Error::device("a timing event"))?;
            event.record(stream).map_err(Error::device(step.name))?;
            Ok::<_, Error>(event)
        };
        let begin = mark()?;
        let result = enqueue()?;
        self.steps.push((step, begin, mark()?));
        Ok(result)
    }

    /// Waits for the end of each step in turn, at most `limit` each, and tells its name.
    ///
    /// # Errors
    /// [`Error::Device`] naming the step: it took longer, or the device failed.
    pub fn wait(&self, limit: Duration, mut done: impl FnMut(&'static str)) -> Result<()> {
        for (step, _, end) in &self.steps {
            end.synchronize_within(limit)
                .map_err(Error::device(step.name))?;
            done(step.name);
        }
        Ok(())
    }

    /// When each step ran, once the streams are past all of them.
    ///
    /// # Errors
    /// [`Error::Device`] where a step has not ended.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let Some((_, origin, _)) = self.steps.first() else {
            return Ok(Vec::new());
        };
        let since = |event: &Event| event.elapsed_since(origin).map_err(Error::device("timing"));
        let span = |(step, begin, end): &(Step, Event, Event)| {
            Ok(Span {
                step: *step,
                begin: since(begin)?,
                end: since(end)?,
            })
        };
        self.steps.iter().map(span).collect()
    }
}

/// The spans of all ranks as a trace for Perfetto or `chrome://tracing`: a process per rank, a row per stream. The
/// ranks' first steps begin at 0: clocks of different devices need not agree.
///
/// # Errors
/// None that [`serde_json`] has for numbers and names.
pub fn trace(ranks: &[Vec<Span>]) -> serde_json::Result<String> {
    let event = |rank: usize, span: &Span| Complete {
        name: span.step.name,
        cat: span.step.lane.name(),
        ph: "X",
        ts: span.begin.as_secs_f64() * 1e6,
        dur: span.end.saturating_sub(span.begin).as_secs_f64() * 1e6,
        pid: rank,
        tid: span.step.lane as u32,
        args: Args {
            micro_batch: span.step.part,
        },
    };
    let of_rank = |(rank, spans): (usize, &Vec<Span>)| -> Vec<_> {
        spans.iter().map(|span| event(rank, span)).collect()
    };
    let events: Vec<_> = ranks.iter().enumerate().flat_map(of_rank).collect();
    serde_json::to_string(&events)
}

/// A complete event of the trace format.
#[derive(Serialize)]
struct Complete {
    name: &'static str,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: usize,
    tid: u32,
    args: Args,
}

#[derive(Serialize)]
struct Args {
    micro_batch: u32,
}
