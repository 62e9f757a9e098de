//! Speed of the software GPU per host core: loops through the interpreter, the dense FP8 GEMM end to
//! end, and a plain SGEMM against another executor of PTX. `--json` prints one JSON line.
//!
//! A run costs the processor time that the process used for it, so that a figure is about a core
//! that works for the software GPU, whatever else the machine does; the best of several runs counts.
//! Figures are about the simulation. They say nothing about a GPU.
#![expect(unsafe_code, reason = "processor time is asked for in C")]

mod gemm;
mod loops;
mod sgemm;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use cudarc::driver::CudaContext;
use hadal::device::{Context, DeviceKind, Stream, selected};
use softgpu::exec::Isa;

/// Any error: each is printed and ends the program.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RUNS: usize = 5;

/// One result.
struct Figure {
    /// Key of the JSON line.
    key: &'static str,
    value: f64,
    unit: &'static str,
    target: f64,
    /// Processor time of the best run.
    time: Duration,
}

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    match measure() {
        Ok((host, figures)) if json => print_json(&host, &figures),
        Ok((_, figures)) => figures.iter().for_each(print),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "prints its results")]
fn print(figure: &Figure) {
    let Figure {
        key,
        value,
        unit,
        target,
        time,
    } = figure;
    let seconds = time.as_secs_f64();
    println!(
        "{key:<28} {value:8.2} {unit} (target {target}; best run {seconds:.3} s of processor time)"
    );
}

#[expect(clippy::print_stdout, reason = "prints its results")]
fn print_json(host: &Host, figures: &[Figure]) {
    let pairs: String = figures
        .iter()
        .map(|figure| format!("\"{}\":{:.3},", figure.key, figure.value))
        .collect();
    let (cores, width) = (host.cores, host.vector_width);
    println!("{{\"bench\":\"softgpu\",{pairs}\"cores\":{cores},\"vector_width\":{width}}}");
}

/// What the software GPU runs on.
struct Host {
    /// Threads that it uses.
    cores: f64,
    /// Bits of the vectors that its handlers are compiled for.
    vector_width: u32,
}

impl Host {
    fn new() -> Result<Self> {
        let cores: u32 = match std::env::var("SOFTGPU_THREADS") {
            Ok(value) => value
                .parse()
                .map_err(|_| format!("SOFTGPU_THREADS = `{value}`"))?,
            Err(_) => u32::try_from(std::thread::available_parallelism()?.get())?,
        };
        let vector_width = match Isa::detect() {
            Isa::Avx512 => 512,
            Isa::Avx2 => 256,
            Isa::Baseline => 128,
        };
        Ok(Self {
            cores: cores.max(1).into(),
            vector_width,
        })
    }
}

fn measure() -> Result<(Host, Vec<Figure>)> {
    let device = selected()?;
    eprintln!("{device}");
    if device.kind != DeviceKind::Soft {
        return Err("this measures the software GPU: set HADAL_DEVICE=soft".into());
    }
    let host = Host::new()?;
    eprintln!("{} host cores, {} bits", host.cores, host.vector_width);
    let stream = Stream::new(&Context::new(0)?)?;
    let plain = CudaContext::new(0)?.new_stream()?;
    let figures = vec![
        loops::arithmetic(&stream)?,
        loops::memory(&plain)?,
        gemm::dense(&stream, &host)?,
        sgemm::against_ptoxide(&plain)?,
    ];
    Ok((host, figures))
}

/// Least processor time of [`RUNS`] runs after one that loads and warms up. A run ends when its work
/// has.
fn best(mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    run()?;
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let before = processor_time();
        run()?;
        least = least.min(processor_time().saturating_sub(before));
    }
    Ok(least)
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live object of the type. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(time.tv_sec.unsigned_abs(), nanoseconds)
}
