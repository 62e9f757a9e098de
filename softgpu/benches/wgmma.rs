//! Rate of the bare wgmma tiles on one core, all operands packed: `cargo bench -p softgpu --bench wgmma`.
#![expect(clippy::print_stdout, reason = "it reports")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use softgpu::exec::regs::RegFile;
use softgpu::ir::{MmaTy, Wgmma};
use softgpu::tensor::wgmma::{A_BYTES, Accumulators, Addend, Tile};

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
        MmaTy::BF16 => vec![low, 0x3F | (high & 0x80)],
        _ => vec![0, low, low, 0x3F | (high & 0x80)],
    };
    std::iter::repeat_with(|| element(next()))
        .flatten()
        .take(bytes)
        .collect()
}

fn rate(ty: MmaTy, k: u16, n: u16) -> Result<f64, Box<dyn std::error::Error>> {
    let tile = Tile::new(&Wgmma {
        n,
        k,
        d: MmaTy::F32,
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
    let slots: Vec<u32> = (0..u32::from(n) / 2).collect();
    let mut files: [RegFile; 4] =
        std::array::from_fn(|_| RegFile::new(u32::from(n) / 2, 0, Arc::new([])));
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        const TIMES: u32 = 200;
        for step in 0..TIMES {
            let mut d = Accumulators::new(files.each_mut(), &slots)
                .map_err(|fault| format!("{fault:?}"))?;
            // As a GEMM with promotion every fourth step does.
            let addend = if step % 4 == 0 {
                Addend::Zero
            } else {
                Addend::Accumulator
            };
            tile.multiply_add(black_box(&a), black_box(&b), &mut d, addend)
                .map_err(|fault| format!("{fault:?}"))?;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(TIMES));
    }
    Ok(2.0 * 64.0 * f64::from(n) * f64::from(k) / best / 1e9)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let types = [
        (MmaTy::E4M3, 32),
        (MmaTy::E5M2, 32),
        (MmaTy::F16, 16),
        (MmaTy::BF16, 16),
        (MmaTy::TF32, 8),
    ];
    for (ty, k) in types {
        for n in [64, 128, 256] {
            println!("{ty:?} m64n{n}k{k}: {:.1} GFLOP/s", rate(ty, k, n)?);
        }
    }
    Ok(())
}
