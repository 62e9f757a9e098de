//! Rate of the bare wgmma tiles and of mma.sync on one core, all operands packed: `cargo bench -p softgpu --bench wgmma`.
#![expect(clippy::print_stdout, reason = "it reports")]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use softgpu::exec::regs::RegFile;
use softgpu::ir::{Fragments, Layout, Mma, MmaTy, Wgmma};
use softgpu::tensor::mma::Multiply;
use softgpu::tensor::wgmma::{A_BYTES, Accumulators, Addend, Level, Tile};

/// Bytes of operands with exponents near one, as quantised data have: the low bits vary.
fn operand(bytes: usize, ty: MmaTy) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40).to_le_bytes()
    };
    let element = |[low, high, ..]: [u8; 8]| match ty {
        MmaTy::E4M3 => vec![(low & 0x80) | (0x20 + high % 0x20)],
        MmaTy::E5M2 => vec![(low & 0x80) | (0x30 + high % 0x10)],
        MmaTy::F16 => vec![low, 0x34 | (high & 0x83)],
        MmaTy::S8 => vec![low],
        MmaTy::BF16 => vec![low, 0x3F | (high & 0x80)],
        _ => vec![0, low, low, 0x3F | (high & 0x80)],
    };
    std::iter::repeat_with(|| element(next()))
        .flatten()
        .take(bytes)
        .collect()
}

/// A tile of 64×n, its operands near one.
fn rate(level: Level, (d, ty): (MmaTy, MmaTy), n: u16) -> Result<f64, Box<dyn Error>> {
    let k = u16::try_from(256 / ty.bits())?;
    let tile = Tile::new(&Wgmma {
        n,
        k,
        d,
        a: ty,
        b: ty,
        a_regs: false,
        negate_a: false,
        negate_b: false,
        transpose_a: false,
        transpose_b: false,
        saturate: false,
    })
    .map_err(|fault| format!("{fault:?}"))?;
    let (a, b) = (operand(A_BYTES, ty), operand(tile.b_bytes(), ty));
    let registers = u32::try_from(tile.registers())?;
    let slots: Vec<u32> = (0..registers).collect();
    let mut files: [RegFile; 4] = std::array::from_fn(|_| RegFile::new(registers, 0, &[]));
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        const TIMES: u32 = 100;
        for step in 0..TIMES {
            let mut d = Accumulators::new(files.each_mut(), &slots)
                .map_err(|fault| format!("{fault:?}"))?;
            // As a GEMM with promotion every fourth step does.
            let addend = if step % 4 == 0 {
                Addend::Zero
            } else {
                Addend::Accumulator
            };
            tile.multiply_add_at(level, (black_box(&a), black_box(&b)), &mut d, addend)
                .map_err(|fault| format!("{fault:?}"))?;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(TIMES));
    }
    Ok(2.0 * 64.0 * f64::from(n) * f64::from(k) / best / 1e9)
}

/// `mma.sync` of 16×8×k over fragments.
fn warp_rate(d: MmaTy, ty: MmaTy, k: u16) -> Result<f64, Box<dyn Error>> {
    let mma = Mma {
        shape: (16, 8, k),
        d,
        a: ty,
        b: ty,
        c: d,
        fragments: Fragments::Mma,
        layouts: (Layout::Row, Layout::Col),
        saturate: false,
        bits: None,
        rounding: softgpu::ir::Rounding::Default,
    };
    let multiply = Multiply::new(&mma).map_err(|fault| format!("{fault:?}"))?;
    let (wide, narrow) = mma.operand_registers();
    let registers = |count: usize| -> Vec<[u32; 32]> {
        let bytes = operand(128 * count, ty);
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| bytes[4 * i + j]));
        (0..count)
            .map(|r| std::array::from_fn(|lane| word(32 * r + lane)))
            .collect()
    };
    let (a, b) = (registers(wide), registers(narrow));
    let c = vec![[0; 32]; mma.accumulator_registers(d)];
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        const TIMES: u32 = 1000;
        for _ in 0..TIMES {
            black_box(multiply.execute(black_box(&a), black_box(&b), black_box(&c)));
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(TIMES));
    }
    Ok(2.0 * 16.0 * 8.0 * f64::from(k) / best / 1e9)
}

fn main() -> Result<(), Box<dyn Error>> {
    use MmaTy::{BF16, E4M3, E5M2, F16, F32, S8, S32, TF32};
    for level in Level::available() {
        for (d, ty) in [
            (F32, E4M3),
            (F32, E5M2),
            (F16, E4M3),
            (F32, F16),
            (F16, F16),
            (F32, BF16),
            (F32, TF32),
            (S32, S8),
        ] {
            let rates = [64, 128, 256].map(|n| rate(level, (d, ty), n));
            let [a, b, c] = rates;
            println!(
                "{level:?} {d:?} {ty:?} m64 n64 {:.1} n128 {:.1} n256 {:.1} GFLOP/s",
                a?, b?, c?
            );
        }
    }
    for (d, ty, k) in [
        (F32, F16, 16),
        (F16, F16, 16),
        (F32, BF16, 16),
        (F32, TF32, 8),
        (F32, E4M3, 32),
        (S32, S8, 32),
    ] {
        println!(
            "mma.sync {d:?} {ty:?} k{k}: {:.1} GFLOP/s",
            warp_rate(d, ty, k)?
        );
    }
    Ok(())
}
