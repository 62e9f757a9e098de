//! The forward pass of a checkpoint's layer on several ranks, from files to a file.

use crate::check;
use crate::checkpoint::{Checkpoint, LayerWeights, read_hidden_states};
use crate::config::{Config, WeightFormat};
use crate::error::{Error, Result};
use crate::layer::capture::LayerCapture;
use crate::layer::size;
use crate::layer::timeline::trace;
use crate::oracle;
use crate::quantise::quantise;
pub use crate::rank::Form;
use crate::rank::{self, Job, RankResult};
use crate::report::{Agreement, Phase, Run};
use crate::tensors::{self, TensorFile};
use hadal::device::{self, Context, Stream};
use hadal::memory::Bootstrap;
use hadal_reference::compare::relative_l2;
use half::bf16;
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::tensor::{Dtype, TensorView};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name in reports.
    pub name: String,
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// File with `hidden_states`.
    pub input: PathBuf,
    /// File to write `output` to.
    pub output: PathBuf,
    /// Ranks, one per device.
    pub ranks: usize,
    /// Which form of the pass.
    pub form: Form,
    /// How the experts are to run; `None`: as they are stored.
    pub experts: Option<WeightFormat>,
    /// Layer; `None` for the only one.
    pub layer: Option<usize>,
    /// Check every stage, and the output against full precision.
    pub check: bool,
    /// Compare the output with tensor `output` of this file.
    pub expected: Option<PathBuf>,
    /// File to write the steps of all ranks to, as a trace for Perfetto.
    pub trace: Option<PathBuf>,
}

/// Runs a request. The output file appears complete or not at all.
///
/// # Errors
///
/// Bad input, or a device failure.
pub fn run(request: &Request) -> Result<Run> {
    let checkpoint = Checkpoint::open(&request.checkpoint)?;
    let layer = checkpoint.choose_layer(request.layer)?;
    let config = checkpoint.config.clone();
    let input = read_hidden_states(&request.input, config.hidden)?;
    let expected = request
        .expected
        .as_deref()
        .map(|path| read_expected(path, input.len(), &config));
    let expected = expected.transpose()?;
    writable(&request.output)?;
    let devices = device::device_count().map_err(Error::device("device selection"))?;
    if request.ranks == 0 || request.ranks > devices as usize {
        return Err(Error::Request {
            what: "--ranks",
            found: request.ranks.to_string(),
            expected: format!("1 to {devices}, the number of devices"),
        });
    }
    let stored = checkpoint.read_layer(layer)?;
    let stored_config = config;
    let (config, quantised) = in_format(&stored_config, &stored, request.experts)?;
    let weights = quantised.as_ref().unwrap_or(&stored);
    let results = run_ranks(&config, weights, &input, request)?;
    let output: Vec<f32> = results.iter().flat_map(|r| &r.output).copied().collect();
    write_output(&request.output, &output, config.hidden)?;
    if let Some(path) = &request.trace {
        write_trace(path, &results)?;
    }
    let mut run = summarise(
        &request.name,
        &config,
        input.len() / config.hidden,
        &results,
    )?;
    let capture = LayerCapture {
        ranks: results.into_iter().filter_map(|r| r.capture).collect(),
    };
    if request.check {
        let forward = check::Forward {
            config: &config,
            weights,
            input: &input,
            capture: &capture,
            output: &output,
        };
        run.check = Some(forward.check());
    }
    let expected = match expected {
        None if request.check => {
            Some(oracle::full_precision(&stored_config, &stored, &input).output)
        }
        given => given,
    };
    run.agreement = expected.map(|expected| agreement(&output, &expected));
    Ok(run)
}

/// The layer as its experts are to run, and its weights where those are not the stored ones.
fn in_format(
    config: &Config,
    stored: &LayerWeights,
    wanted: Option<WeightFormat>,
) -> Result<(Config, Option<LayerWeights>)> {
    match (wanted, config.weights) {
        (Some(WeightFormat::Fp8), WeightFormat::Bf16) => {
            let config = config.with_fp8_experts()?;
            let context = Context::new(0).map_err(Error::device("device"))?;
            let stream = Stream::new(&context).map_err(Error::device("stream"))?;
            Ok((config, Some(quantise(stored, &stream)?)))
        }
        (Some(WeightFormat::Bf16), WeightFormat::Fp8) => Err(Error::Request {
            what: "--experts",
            found: "bf16".into(),
            expected: "fp8, as the checkpoint stores them".into(),
        }),
        _ => Ok((config.clone(), None)),
    }
}

/// `tokens` split over `ranks` as evenly as they go, the first ones taking one more.
#[must_use]
pub fn split(tokens: usize, ranks: usize) -> Vec<Range<usize>> {
    let (each, more) = (tokens / ranks, tokens % ranks);
    let start = |rank: usize| rank * each + rank.min(more);
    (0..ranks)
        .map(|rank| start(rank)..start(rank + 1))
        .collect()
}

fn run_ranks(
    config: &Config,
    weights: &LayerWeights,
    input: &[bf16],
    request: &Request,
) -> Result<Vec<RankResult>> {
    let ranks = request.ranks;
    let split = split(input.len() / config.hidden, ranks);
    let most = split.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    let sides = Bootstrap::in_process(size(ranks)?).map_err(Error::device("bootstrap"))?;
    let progress = progress_bar(ranks * request.form.steps());
    let failures = Mutex::new(Vec::new());
    let results: Vec<Option<RankResult>> = std::thread::scope(|scope| {
        let threads: Vec<_> = sides
            .into_iter()
            .zip(&split)
            .map(|(bootstrap, tokens)| {
                let job = Job {
                    config,
                    weights,
                    form: request.form,
                    input: &input[tokens.start * config.hidden..tokens.end * config.hidden],
                    tokens: tokens.clone(),
                    max_tokens: most,
                    capture: request.check,
                    progress: &progress,
                };
                let failures = &failures;
                scope.spawn(move || {
                    let result = rank::run(&job, bootstrap);
                    result.map_err(|error| note(failures, error)).ok()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().ok().flatten())
            .collect()
    });
    progress.finish_and_clear();
    // The first failure in time is the cause; the others follow from a rank that is gone.
    let failures = failures.into_inner().unwrap_or_default();
    match failures.into_iter().next() {
        Some(error) => Err(error),
        None => results
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| Error::device("a rank")("its thread panicked")),
    }
}

fn write_trace(path: &Path, results: &[RankResult]) -> Result<()> {
    let spans: Vec<_> = results.iter().map(|result| result.spans.clone()).collect();
    let text = trace(&spans).map_err(Error::device("the trace"))?;
    std::fs::write(path, text).map_err(Error::io(path, "write"))
}

fn note(failures: &Mutex<Vec<Error>>, error: Error) {
    if let Ok(mut failures) = failures.lock() {
        failures.push(error);
    }
}

fn progress_bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn summarise(name: &str, config: &Config, tokens: usize, results: &[RankResult]) -> Result<Run> {
    let selected = device::selected().map_err(Error::device("device selection"))?;
    let mut phases: Vec<Phase> = Vec::new();
    for phase in results.iter().flat_map(|result| &result.phases) {
        match phases.iter_mut().find(|p| p.name == phase.name) {
            Some(known) => {
                known.time = known.time.max(phase.time);
                known.bytes += phase.bytes;
            }
            None => phases.push(phase.clone()),
        }
    }
    let mut kernels: Vec<String> = results
        .iter()
        .flat_map(|r| &r.kernels)
        .map(|&k| k.to_owned())
        .collect();
    kernels.sort_unstable();
    kernels.dedup();
    Ok(Run {
        name: name.to_owned(),
        device: selected.to_string(),
        ranks: results.len(),
        tokens,
        hidden: config.hidden,
        experts: config.experts,
        top_k: config.top_k,
        phases,
        wall: results.iter().map(|r| r.wall).max().unwrap_or_default(),
        kernels,
        check: None,
        agreement: None,
    })
}

fn agreement(output: &[f32], expected: &[f32]) -> Agreement {
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let difference = output.iter().zip(expected).fold(0f32, |m, (a, b)| {
        // A NaN must not be swallowed by `max`.
        if (a - b).is_nan() {
            f32::INFINITY
        } else {
            m.max((a - b).abs())
        }
    });
    Agreement {
        relative_l2: relative_l2(output, expected),
        relative_max: if difference == 0.0 {
            0.0
        } else {
            f64::from(difference / largest)
        },
    }
}

fn read_expected(path: &Path, elements: usize, config: &Config) -> Result<Vec<f32>> {
    let shape = [Some(elements / config.hidden), Some(config.hidden)];
    let (_, bytes) = TensorFile::open(path)?.read("output", &[Dtype::F32], &shape)?;
    Ok(bytemuck::allocation::pod_collect_to_vec(&bytes))
}

/// Fails early where the output could not be written.
fn writable(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if path.is_dir() || !parent.is_dir() {
        return Err(Error::Request {
            what: "--output",
            found: path.display().to_string(),
            expected: "a file in a folder that exists".into(),
        });
    }
    Ok(())
}

fn write_output(path: &Path, output: &[f32], hidden: usize) -> Result<()> {
    let shape = vec![output.len() / hidden, hidden];
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(output)).map_err(|e| {
        Error::Format {
            path: path.to_path_buf(),
            expectation: e.to_string(),
        }
    })?;
    tensors::write(path, &[("output", view)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_split_evenly_without_gap_or_overlap() {
        for tokens in [0, 1, 5, 64, 257] {
            for ranks in 1..=8 {
                let parts = split(tokens, ranks);
                let sizes: Vec<usize> = parts.iter().map(ExactSizeIterator::len).collect();
                assert_eq!(sizes.iter().sum::<usize>(), tokens);
                let (least, most) = (sizes.iter().min(), sizes.iter().max());
                assert!(most.unwrap() - least.unwrap() <= 1, "{sizes:?}");
                assert!(parts.windows(2).all(|p| p[0].end == p[1].start));
            }
        }
    }

    #[test]
    fn agreement_does_not_swallow_nan() {
        assert!(
            agreement(&[1.0, f32::NAN], &[1.0, 1.0])
                .relative_max
                .is_infinite()
        );
        assert_eq!(
            agreement(&[], &[]),
            Agreement {
                relative_l2: 0.0,
                relative_max: 0.0
            }
        );
    }
}
