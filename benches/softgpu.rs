//! Speed of the software GPU per host core: an arithmetic loop through the interpreter, and the
//! dense FP8 GEMM end to end. `--json` prints one JSON line per figure.
//!
//! Figures are about the simulation. They say nothing about a GPU.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hadal::device::{Buffer, Context, DeviceKind, Stream, selected};
use hadal::gemm::{
    Bf16Matrix, Form, Fp8Gemm, Fp8Matrix, Fp8Weights, GemmDesc, GemmPlan, Groups, Operands, Shape,
};
use hadal::transfer::{PROBE_INSTRUCTIONS, probe_arithmetic};

const RUNS: usize = 3;

/// One result.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    target: f64,
    seconds: f64,
}

fn main() -> ExitCode {
    let json = std::env::args().any(|argument| argument == "--json");
    match measure() {
        Ok(figures) => {
            figures.iter().for_each(|figure| print(figure, json));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stdout, reason = "prints its results")]
#[expect(
    clippy::fn_params_excessive_bools,
    reason = "one output format or the other"
)]
fn print(figure: &Figure, json: bool) {
    let Figure {
        name,
        value,
        unit,
        target,
        seconds,
    } = figure;
    if json {
        println!(
            "{{\"bench\":\"softgpu\",\"figure\":\"{name}\",\"value\":{value:.3},\
             \"unit\":\"{unit}\",\"target\":{target},\"seconds\":{seconds:.4}}}"
        );
    } else {
        println!("{name:<12} {value:8.2} {unit} (target {target}; one run {seconds:.3} s)");
    }
}

fn measure() -> Result<Vec<Figure>, Box<dyn Error>> {
    let device = selected()?;
    eprintln!("{device}");
    if device.kind != DeviceKind::Soft {
        return Err("this measures the software GPU: set HADAL_DEVICE=soft".into());
    }
    let cores = host_cores()?;
    eprintln!("{cores} host cores");
    let stream = Stream::new(&Context::new(0)?)?;
    Ok(vec![
        interpreter(&stream, cores)?,
        dense_gemm(&stream, cores)?,
    ])
}

/// Host threads that the software GPU uses.
fn host_cores() -> Result<f64, Box<dyn Error>> {
    let threads: u32 = match std::env::var("SOFTGPU_THREADS") {
        Ok(value) => value
            .parse()
            .map_err(|_| format!("SOFTGPU_THREADS = `{value}`"))?,
        Err(_) => u32::try_from(std::thread::available_parallelism()?.get())?,
    };
    Ok(threads.max(1).into())
}

/// Median time of [`RUNS`] runs after one that loads and warms up.
fn median(
    stream: &Stream,
    mut run: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..=RUNS {
        let start = Instant::now();
        run()?;
        stream.synchronize()?;
        times.push(start.elapsed());
    }
    times.remove(0);
    times.sort_unstable();
    Ok(times[RUNS / 2])
}

fn interpreter(stream: &Stream, cores: f64) -> Result<Figure, Box<dyn Error>> {
    let (threads, iterations) = (64 * 256, 4000);
    let mut output = Buffer::zeroed(stream, threads)?;
    let time = median(stream, || {
        Ok(probe_arithmetic(stream, &mut output, iterations)?)
    })?;
    let instructions = (threads as u64 * PROBE_INSTRUCTIONS * u64::from(iterations)) as f64;
    Ok(Figure {
        name: "interpreter",
        value: instructions / time.as_secs_f64() / cores / 1e9,
        unit: "G lane-instructions/s/core",
        target: 2.0,
        seconds: time.as_secs_f64(),
    })
}

/// E4M3 codes of finite numbers without a pattern.
fn codes(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let code = state.to_be_bytes()[0];
        // 0x7f and 0xff are NaN.
        if code & 0x7f == 0x7f { 0 } else { code }
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn dense_gemm(stream: &Stream, cores: f64) -> Result<Figure, Box<dyn Error>> {
    let (m, n, k) = (128u32, 4096u32, 7168u32);
    let (a, b, d) = (
        Shape::matrix(m, k),
        Shape::matrix(n, k),
        Shape::matrix(m, n),
    );
    let elements = |shape: Shape| shape.rows as usize * shape.columns as usize;
    let a_codes = Buffer::from_slice(stream, &codes(elements(a)))?;
    let a_scales = Buffer::from_slice(stream, &vec![1.0f32; (m * k / 128) as usize])?;
    let b_codes = Buffer::from_slice(stream, &codes(elements(b)))?;
    let b_scales = Buffer::from_slice(stream, &vec![1.0f32; (n / 128 * k / 128) as usize])?;
    let mut values = Buffer::zeroed(stream, elements(d))?;
    let sms = stream.context().multiprocessors()?;
    let desc = GemmDesc {
        form: Form::Dense { rows: m },
        n,
        k,
        sms,
    };
    let mut gemm = Fp8Gemm::new(stream.context(), GemmPlan::new(desc)?)?;
    let time = median(stream, || {
        let mut operands = Operands {
            a: Fp8Matrix::new(&a_codes, &a_scales, a)?,
            b: Fp8Weights::new(&b_codes, &b_scales, b)?,
            groups: Groups::None,
            d: Bf16Matrix::new(&mut values, d)?,
        };
        Ok(gemm.run(stream, &mut operands)?)
    })?;
    let flops = 2.0 * f64::from(m) * f64::from(n) * f64::from(k);
    Ok(Figure {
        name: "dense GEMM",
        value: flops / time.as_secs_f64() / cores / 1e9,
        unit: "GFLOP/s/core",
        target: 15.0,
        seconds: time.as_secs_f64(),
    })
}
