//! A plain SGEMM on the software GPU and on the crate `ptoxide`, from the same text.
//!
//! `ptoxide` interprets one thread after the other on one core, and is timed once.
#![expect(unsafe_code, reason = "launches a kernel")]

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use ptoxide::{Argument, LaunchParams};

use crate::{Figure, Result, best, processor_time};

const TEXT: &str = include_str!("sgemm.ptx");
const ENTRY: &str = "sgemm";
/// Rows, columns and depth.
const SIZE: u16 = 256;
/// Side of a CTA's tile: across a row, and down.
const TILE: (u16, u16) = (32, 8);
const GRID: (u32, u32) = ((SIZE / TILE.0) as u32, (SIZE / TILE.1) as u32);
const BLOCK: (u32, u32) = (TILE.0 as u32, TILE.1 as u32);
const ELEMENTS: usize = SIZE as usize * SIZE as usize;

/// Small integers, of which all sums of products are exact.
struct Operands {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Operands {
    fn new() -> Self {
        let cycle = |length: u8| (0..length).map(f32::from).cycle().take(ELEMENTS).collect();
        Self {
            a: cycle(5),
            b: cycle(7),
        }
    }

    /// Fails at the first element of `c` that is not the product's.
    fn check(&self, name: &str, c: &[f32]) -> Result<()> {
        let size = usize::from(SIZE);
        for (at, &found) in c.iter().enumerate() {
            let (row, column) = (at / size, at % size);
            let terms = (0..size).map(|k| self.a[row * size + k] * self.b[k * size + column]);
            let expected: f32 = terms.sum();
            if found != expected {
                let place = format!("{name}: C[{row}][{column}]");
                return Err(format!("{place} = {found}, expected {expected}").into());
            }
        }
        Ok(())
    }
}

/// How many times as fast the software GPU is, per core.
pub(crate) fn against_ptoxide(stream: &Arc<CudaStream>) -> Result<Figure> {
    let operands = Operands::new();
    let time = softgpu(stream, &operands)?;
    let other = ptoxide(&operands)?;
    eprintln!(
        "SGEMM of {SIZE}: softgpu {:.4} s of processor time, ptoxide {:.3} s",
        time.as_secs_f64(),
        other.as_secs_f64()
    );
    Ok(Figure {
        key: "ptoxide_ratio",
        value: other.as_secs_f64() / time.as_secs_f64(),
        unit: "times ptoxide, per core",
        target: 20.0,
        time,
    })
}

fn softgpu(stream: &Arc<CudaStream>, operands: &Operands) -> Result<Duration> {
    let module = stream.context().load_module(Ptx::from_src(TEXT))?;
    let kernel = module.load_function(ENTRY)?;
    let a = stream.clone_htod(&operands.a)?;
    let b = stream.clone_htod(&operands.b)?;
    let mut c = stream.alloc_zeros::<f32>(ELEMENTS)?;
    let size = u64::from(SIZE);
    let config = LaunchConfig {
        grid_dim: (GRID.0, GRID.1, 1),
        block_dim: (BLOCK.0, BLOCK.1, 1),
        shared_mem_bytes: 0,
    };
    let time = best(|| {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&a).arg(&b).arg(&mut c).arg(&size).arg(&size);
        // SAFETY: the arguments are those of the kernel; grid and matrices are of the same size.
        unsafe { launch.launch(config) }?;
        Ok(stream.synchronize()?)
    })?;
    operands.check("softgpu", &stream.clone_dtoh(&c)?)?;
    Ok(time)
}

fn ptoxide(operands: &Operands) -> Result<Duration> {
    let mut machine = ptoxide::Context::new_with_module(TEXT)?;
    let a = machine.alloc(ELEMENTS);
    let b = machine.alloc(ELEMENTS);
    let c = machine.alloc(ELEMENTS);
    machine.write(a, &operands.a);
    machine.write(b, &operands.b);
    let launch = LaunchParams::func(ENTRY)
        .grid2d(GRID.0, GRID.1)
        .block2d(BLOCK.0, BLOCK.1);
    let arguments = [
        Argument::ptr(a),
        Argument::ptr(b),
        Argument::ptr(c),
        Argument::U64(SIZE.into()),
        Argument::U64(SIZE.into()),
    ];
    let before = processor_time();
    machine.run(launch, &arguments)?;
    let time = processor_time().saturating_sub(before);
    let mut product = vec![0f32; ELEMENTS];
    machine.read(c, &mut product);
    operands.check("ptoxide", &product)?;
    Ok(time)
}
