//! The interpreter's speed in lane-instructions: an arithmetic loop and a loop of coalesced accesses.
#![expect(unsafe_code, reason = "launches a kernel")]

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use hadal::device::{Buffer, Stream};
use hadal::transfer::{PROBE_INSTRUCTIONS, probe_arithmetic};

use crate::{Figure, RUNS, Result, best};

const CTAS: u32 = 64;
const THREADS: u32 = 256;
const UNIT: &str = "G lane-instructions/s/core";

/// Instructions of an iteration of `memory_loop.ptx`.
const MEMORY_INSTRUCTIONS: u32 = 23;
/// Elements of each array that a CTA of `memory_loop.ptx` walks through.
const CHUNK: u32 = 4096;
/// Elements that an iteration of a CTA touches.
const STEP: u32 = 4 * THREADS;

/// `iterations` of `instructions` by all threads, as a figure.
fn rate(iterations: u32, instructions: f64, time: Duration) -> f64 {
    let threads = f64::from(CTAS * THREADS);
    threads * f64::from(iterations) * instructions / time.as_secs_f64() / 1e9
}

/// The loop of `ptx/probe_arithmetic.ptx`.
pub(crate) fn arithmetic(stream: &Stream) -> Result<Figure> {
    let iterations = 4000;
    let mut output = Buffer::zeroed(stream, (CTAS * THREADS) as usize)?;
    let time = best(|| {
        probe_arithmetic(stream, &mut output, iterations)?;
        Ok(stream.synchronize()?)
    })?;
    Ok(Figure {
        key: "alu_glane_per_core",
        value: rate(iterations, PROBE_INSTRUCTIONS as f64, time),
        unit: UNIT,
        target: 4.0,
        time,
    })
}

/// The loop of `memory_loop.ptx`, with its sums checked.
pub(crate) fn memory(stream: &Arc<CudaStream>) -> Result<Figure> {
    let iterations: u32 = 2000;
    let text = include_str!("memory_loop.ptx");
    let module = stream.context().load_module(Ptx::from_src(text))?;
    let kernel = module.load_function("memory_loop")?;
    let len = (CTAS * CHUNK) as usize;
    let x: Vec<f32> = (0..7u8).map(f32::from).cycle().take(len).collect();
    let x_device = stream.clone_htod(&x)?;
    let mut y_device = stream.alloc_zeros::<f32>(len)?;
    let config = LaunchConfig {
        grid_dim: (CTAS, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    };
    let time = best(|| {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&x_device).arg(&mut y_device).arg(&iterations);
        // SAFETY: the arguments are those of the kernel, and each CTA touches its own chunk of both
        // arrays, which have as many chunks as the grid has CTAs.
        unsafe { launch.launch(config) }?;
        Ok(stream.synchronize()?)
    })?;
    // Each run adds half of x to y once per pass; all sums are exact.
    let passes = (RUNS as f32 + 1.0) * (iterations * STEP / CHUNK) as f32;
    for (at, (y, x)) in stream.clone_dtoh(&y_device)?.iter().zip(&x).enumerate() {
        let expected = 0.5 * x * passes;
        if *y != expected {
            return Err(format!("memory loop: y[{at}] = {y}, expected {expected}").into());
        }
    }
    Ok(Figure {
        key: "mem_glane_per_core",
        value: rate(iterations, MEMORY_INSTRUCTIONS.into(), time),
        unit: UNIT,
        target: 2.5,
        time,
    })
}
