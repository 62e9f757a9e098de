//! How long a layer's calls take, over numbers of tokens, ranks and forms: a table, JSON, and a chart.
//!
//! The software GPU's times are its own: they say nothing of a GPU.

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::forward::{Form, split};
use crate::layer::{LayerDesc, MoeLayer, Output, size};
use crate::seeded;
use comfy_table::{Cell, CellAlignment, Table, presets};
use hadal::device::{self, Buffer, Context, Stream};
use hadal::memory::Bootstrap;
use half::bf16;
use indicatif::ProgressBar;
use plotters::prelude::*;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// The layer; it is seeded.
    pub config: Config,
    /// Tokens of all ranks together.
    pub tokens: Vec<usize>,
    /// Ranks.
    pub ranks: Vec<u32>,
    /// Calls of each kind; the median counts.
    pub repeat: usize,
}

/// One kind of call.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// `prefill` or `decode`.
    pub form: &'static str,
    /// Ranks.
    pub ranks: u32,
    /// Tokens of all ranks together.
    pub tokens: usize,
    /// Median over the calls, each that of its slowest rank, from its enqueueing to its end.
    pub seconds: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Where it ran.
    pub device: String,
}

/// Runs the sweep, the ranks as threads.
///
/// # Errors
///
/// More ranks than devices, a description that cannot be planned, or a device failure.
pub fn run(sweep: &Sweep) -> Result<Vec<Sample>> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder", "create"))?;
    seeded::write(folder.path(), &sweep.config, 0, 1)?;
    let checkpoint = Checkpoint::open(folder.path())?;
    let devices = device::device_count().map_err(Error::device("device selection"))?;
    let selected = device::selected().map_err(Error::device("device selection"))?;
    let bar = ProgressBar::new((sweep.ranks.len() * sweep.tokens.len() * 2) as u64);
    let mut samples = Vec::new();
    for &ranks in &sweep.ranks {
        if ranks == 0 || ranks > devices {
            return Err(Error::Request {
                what: "--ranks",
                found: ranks.to_string(),
                expected: format!("1 to {devices}, the number of devices"),
            });
        }
        for (form, tokens, seconds) in on_ranks(sweep, &checkpoint, ranks, &bar)? {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let tokens_per_second = tokens as f64 / seconds;
            samples.push(Sample {
                form: form.name(),
                ranks,
                tokens,
                seconds,
                tokens_per_second,
                device: selected.to_string(),
            });
        }
    }
    bar.finish_and_clear();
    Ok(samples)
}

/// Medians for a number of ranks, by form and tokens.
fn on_ranks(
    sweep: &Sweep,
    checkpoint: &Checkpoint,
    ranks: u32,
    bar: &ProgressBar,
) -> Result<Vec<(Form, usize, f64)>> {
    let sides = Bootstrap::in_process(ranks).map_err(Error::device("bootstrap"))?;
    let all: Vec<Result<Vec<Vec<Duration>>>> = std::thread::scope(|scope| {
        let start = |side: Bootstrap| scope.spawn(move || rank(sweep, checkpoint, side, bar));
        let threads: Vec<_> = sides.into_iter().map(start).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|_| Err(Error::device("a rank")("it panicked"))))
            .collect()
    });
    let all = all.into_iter().collect::<Result<Vec<_>>>()?;
    let kinds = sweep.kinds().enumerate();
    let medians = kinds.map(|(kind, (form, tokens))| {
        let slowest = |call: usize| all.iter().map(|rank| rank[kind][call]).max();
        let mut times: Vec<_> = (0..sweep.repeat).filter_map(slowest).collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        (form, tokens, median.as_secs_f64())
    });
    Ok(medians.collect())
}

/// One rank's times, by kind and call.
fn rank(
    sweep: &Sweep,
    checkpoint: &Checkpoint,
    mut side: Bootstrap,
    bar: &ProgressBar,
) -> Result<Vec<Vec<Duration>>> {
    let context = Context::new(side.rank()).map_err(Error::device("device"))?;
    let stream = Stream::new(&context).map_err(Error::device("stream"))?;
    let (rank, ranks) = (side.rank() as usize, side.ranks() as usize);
    let most = sweep
        .tokens
        .iter()
        .max()
        .map_or(0, |&tokens| tokens.div_ceil(ranks));
    let desc = LayerDesc::new(sweep.config.clone(), side.ranks(), size(most.max(1))?);
    let weights = checkpoint.read_share(0, desc.experts(side.rank()))?;
    let mut layer = MoeLayer::new(&desc, &weights, &mut side, &context)?;
    let memory = || Error::device("device memory");
    let elements = most * sweep.config.hidden;
    let row = |i: usize| {
        let value = u16::try_from((i * 7919 + rank * 131) % 4096).unwrap_or_default();
        bf16::from_f32(f32::from(value) / 2048.0 - 1.0)
    };
    let x: Vec<bf16> = (0..elements).map(row).collect();
    let x = Buffer::from_slice(&stream, &x).map_err(memory())?;
    let mut output = Buffer::<bf16>::alloc(&context, elements).map_err(memory())?;
    let mut times = Vec::new();
    for (form, tokens) in sweep.kinds() {
        let count = size(split(tokens, ranks)[rank].len())?;
        let mut of_kind = Vec::with_capacity(sweep.repeat);
        // Once more in front: kernels are loaded, plans are made.
        for call in 0..=sweep.repeat {
            side.barrier("call").map_err(Error::device("bootstrap"))?;
            let start = Instant::now();
            let to = Output::Bf16(&mut output);
            match form {
                Form::Prefill => layer.prefill(&stream, &x, count, to)?,
                Form::Decode => layer.decode(&stream, &x, (count, None), to)?,
            }
            layer.synchronize(&stream)?;
            if call > 0 {
                of_kind.push(start.elapsed());
            }
        }
        times.push(of_kind);
        if rank == 0 {
            bar.inc(1);
        }
    }
    Ok(times)
}

impl Sweep {
    fn kinds(&self) -> impl Iterator<Item = (Form, usize)> {
        let forms = [Form::Prefill, Form::Decode];
        forms
            .into_iter()
            .flat_map(|form| self.tokens.iter().map(move |&tokens| (form, tokens)))
    }
}

/// Tokens per second by tokens, a column per form and number of ranks.
#[must_use]
pub fn table(samples: &[Sample]) -> String {
    let mut series: Vec<(&str, u32)> = samples.iter().map(|s| (s.form, s.ranks)).collect();
    series.dedup();
    let mut tokens: Vec<usize> = samples.iter().map(|s| s.tokens).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let mut table = Table::new();
    let header = series
        .iter()
        .map(|(form, ranks)| format!("{form}, {ranks}"));
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_header(std::iter::once("tokens".to_owned()).chain(header));
    for tokens in tokens {
        let rate = |&(form, ranks): &(&str, u32)| {
            let found = samples
                .iter()
                .find(|s| (s.form, s.ranks, s.tokens) == (form, ranks, tokens));
            found.map_or_else(String::new, |sample| {
                format!("{:.0}", sample.tokens_per_second)
            })
        };
        let cells = std::iter::once(tokens.to_string()).chain(series.iter().map(rate));
        table.add_row(cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
    }
    format!("tokens per second, by form and ranks\n{table}")
}

/// Writes the samples as an SVG chart, tokens per second over tokens, both axes logarithmic.
///
/// # Errors
///
/// The file cannot be written.
pub fn chart(samples: &[Sample], path: &Path) -> Result<()> {
    let mut svg = String::new();
    draw(samples, &mut svg).map_err(|e| Error::device("the chart")(e.to_string()))?;
    std::fs::write(path, svg).map_err(Error::io(PathBuf::from(path), "write"))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

#[expect(clippy::cast_precision_loss, reason = "places on a chart")]
fn draw(samples: &[Sample], svg: &mut String) -> Drawn {
    let extent = |value: &dyn Fn(&Sample) -> f64| {
        let values = samples.iter().map(value);
        let (low, high) = values.fold((f64::MAX, 0f64), |(l, h), v| (l.min(v), h.max(v)));
        low.max(1e-3)..high.max(low * 2.0) * 1.3
    };
    let area = SVGBackend::with_string(svg, (960, 600)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = samples.first().map_or("", |sample| sample.device.as_str());
    let mut chart = ChartBuilder::on(&area)
        .caption(
            title.split(" (").next().unwrap_or(title),
            ("sans-serif", 22),
        )
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(
            extent(&|s| s.tokens as f64).log_scale(),
            extent(&|s| s.tokens_per_second).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("tokens of all ranks")
        .y_desc("tokens per second")
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    let mut series: Vec<(&str, u32)> = samples.iter().map(|s| (s.form, s.ranks)).collect();
    series.dedup();
    for (form, ranks) in series {
        let color = Palette99::pick(ranks.ilog2() as usize).mix(1.0);
        let width = if form == "decode" { 1 } else { 3 };
        let style = color.stroke_width(width);
        let own = samples
            .iter()
            .filter(|s| (s.form, s.ranks) == (form, ranks));
        let points: Vec<(f64, f64)> = own
            .map(|s| (s.tokens as f64, s.tokens_per_second))
            .collect();
        let label = format!("{form}, {ranks} rank{}", if ranks == 1 { "" } else { "s" });
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}
