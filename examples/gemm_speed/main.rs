//! Time of the FP8 GEMM on the device, at shapes for which times of other kernels are published, with
//! a cold and a warm L2. A table goes to standard output; every sample, a line of JSON per row, to
//! `DIR/DEVICE.jsonl` with `--output DIR`.
//!
//! * *cold*: one call between two events, after as much memory was set as fits L2 several times;
//! * *warm*: calls on the same operands back to back between two events, divided by their number; a
//!   call's beginning may overlap the end of the one before (programmatic dependent launch).
//!
//! Before that, elements of D are compared with a sum in f64. `nvidia-smi`, where there is one, tells
//! the clocks while the GPU is at work.
//!
//! On the software GPU the shapes are small and the rows are marked: its times are those of a
//! simulation and say nothing about a GPU.

mod case;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use hadal::device::{Buffer, Context, DeviceKind, Event, Stream, selected};

use crate::case::{Case, PUBLISHED, Problem, TOYS};
use crate::report::{L2, Report, Row};

/// Any error: each is printed and ends the program.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is set to flush L2: five times an H100's 50 MB.
const FLUSH_BYTES: usize = 256 << 20;

/// How much is measured.
struct Effort {
    cases: &'static [Case],
    samples: usize,
    /// Calls of a warm sample.
    calls: u32,
    flush_bytes: usize,
}

const ON_GPU: Effort = Effort {
    cases: &PUBLISHED,
    samples: 50,
    calls: 20,
    flush_bytes: FLUSH_BYTES,
};

const ON_SOFTWARE: Effort = Effort {
    cases: &TOYS,
    samples: 2,
    calls: 2,
    flush_bytes: 1 << 16,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let output = match arguments.as_slice() {
        [] => None,
        [flag, folder] if flag == "--output" => Some(PathBuf::from(folder)),
        _ => {
            eprintln!("usage: gemm_speed [--output DIR]");
            return ExitCode::FAILURE;
        }
    };
    match run(output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(output: Option<PathBuf>) -> Result<()> {
    let device = selected()?;
    let effort = match device.kind {
        DeviceKind::Cuda => &ON_GPU,
        DeviceKind::Soft => &ON_SOFTWARE,
    };
    let stream = Stream::new(&Context::new(0)?)?;
    let mut report = Report::new(device, output)?;
    let mut flush = Buffer::<u8>::alloc(stream.context(), effort.flush_bytes)?;
    for case in effort.cases {
        let mut problem = Problem::new(&stream, *case)?;
        problem.run(&stream)?;
        problem.check(&stream)?;
        for l2 in [L2::Cold, L2::Warm] {
            let samples = match l2 {
                L2::Cold => cold(&stream, &mut problem, &mut flush, effort)?,
                L2::Warm => warm(&stream, &mut problem, effort)?,
            };
            let clocks = clocks(&stream, &mut problem, device.kind)?;
            report.add(&Row {
                case: *case,
                plan: *problem.plan(),
                l2,
                samples,
                clocks,
            })?;
        }
    }
    report.finish()
}

fn cold(
    stream: &Stream,
    problem: &mut Problem,
    flush: &mut Buffer<u8>,
    effort: &Effort,
) -> Result<Vec<Duration>> {
    let [start, end] = [Event::new(stream.context())?, Event::new(stream.context())?];
    let mut samples = Vec::new();
    for sample in 0..effort.samples {
        flush.fill_bytes(stream, u8::try_from(sample % 256)?)?;
        start.record(stream)?;
        problem.run(stream)?;
        end.record(stream)?;
        stream.synchronize()?;
        samples.push(end.elapsed_since(&start)?);
    }
    Ok(samples)
}

fn warm(stream: &Stream, problem: &mut Problem, effort: &Effort) -> Result<Vec<Duration>> {
    let [start, end] = [Event::new(stream.context())?, Event::new(stream.context())?];
    let mut samples = Vec::new();
    // The first is not counted: it warms up.
    for sample in 0..=effort.samples {
        start.record(stream)?;
        for _ in 0..effort.calls {
            problem.run(stream)?;
        }
        end.record(stream)?;
        stream.synchronize()?;
        if sample > 0 {
            samples.push(end.elapsed_since(&start)? / effort.calls);
        }
    }
    Ok(samples)
}

/// What `nvidia-smi` says while calls are under way.
fn clocks(stream: &Stream, problem: &mut Problem, kind: DeviceKind) -> Result<Option<String>> {
    if kind == DeviceKind::Soft {
        return Ok(None);
    }
    for _ in 0..1000 {
        problem.run(stream)?;
    }
    let query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,\
                 power.limit,temperature.gpu";
    let told = Command::new("nvidia-smi")
        .args(["--id=0", "--format=csv,noheader", query])
        .output();
    stream.synchronize()?;
    let text = told.ok().filter(|told| told.status.success());
    Ok(text.map(|told| String::from_utf8_lossy(&told.stdout).trim().to_owned()))
}
