//! Time of `GemmPlan::new` over the GEMMs of DeepSeek-V3.

use std::hint::black_box;
use std::time::Instant;

use criterion::Criterion;
use hadal::gemm::{Arithmetic, Form, GemmDesc, GemmPlan, OperandError, Output};

use crate::median;

const ROUNDS: usize = 200;

/// N and K of its attention, dense layers and experts (DeepSeek-V3 technical report, arXiv
/// 2412.19437, section 4.2), with few rows and with many; of the experts the grouped forms too.
fn descs() -> Vec<GemmDesc> {
    let desc = |form, [n, k]: [u32; 2]| GemmDesc {
        form,
        n,
        k,
        arithmetic: Arithmetic::E4M3_1D2D,
        output: Output::Bf16,
        sms: 132,
    };
    let dense = [
        [2112, 7168],
        [24576, 1536],
        [32768, 512],
        [7168, 16384],
        [36864, 7168],
        [7168, 18432],
    ];
    let experts = [[4096, 7168], [7168, 2048]];
    let mut all = Vec::new();
    for rows in [1, 64, 128, 4096] {
        for shape in dense {
            all.push(desc(Form::Dense { rows }, shape));
        }
        for shape in experts {
            let groups = 32;
            let masked = Form::Masked {
                slot_rows: 1024,
                groups,
                expected_rows: rows.div_ceil(groups),
            };
            all.push(desc(Form::Offsets { rows, groups }, shape));
            all.push(desc(Form::Contiguous { rows, groups }, shape));
            all.push(desc(masked, shape));
        }
    }
    all
}

fn plan_all(descs: &[GemmDesc]) -> Result<(), OperandError> {
    for desc in descs {
        black_box(GemmPlan::new(*black_box(desc))?);
    }
    Ok(())
}

/// Nanoseconds of one plan: the median round over all shapes, divided by their number.
pub(crate) fn nanoseconds() -> crate::Result<f64> {
    let descs = descs();
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        plan_all(&descs)?;
        rounds.push(start.elapsed().as_secs_f64() * 1e9 / descs.len() as f64);
    }
    Ok(median(rounds))
}

pub(crate) fn criterion(criterion: &mut Criterion) {
    let descs = descs();
    let name = format!("{} plans", descs.len());
    criterion.bench_function(&name, |bencher| bencher.iter(|| plan_all(&descs)));
}
