//! The pipeline under many schedules: orders of warps and CTAs, copies and products that complete
//! early, late and out of order, stores that become visible late. Each seed is a process of its own,
//! because the software GPU reads it once.

use std::process::Command;

use hadal::gemm::{Arithmetic, Form, Format, GemmDesc, GemmPlan, Output, Tile};

use crate::device::Device;
use crate::problem::Problem;

const VARIABLE: &str = "GEMM_TEST_SEEDS";
const SEEDS: u32 = 20;

/// Every tile, with more stages than the ring has, in pairs and alone, on few CTAs.
fn compute() {
    let device = Device::open();
    for tile in Tile::ALL {
        for cluster in [[1, 1], [2, 1], [1, 2]] {
            let desc = GemmDesc {
                form: Form::Offsets {
                    rows: 2 * tile.m + 3,
                    groups: 2,
                },
                n: tile.n + 16,
                k: tile.arithmetic.stage_k() * (tile.stages + 2),
                arithmetic: tile.arithmetic,
                output: Output::Bf16,
                sms: 2,
            };
            if GemmPlan::with_tile(desc, tile, cluster).is_ok() {
                let rows = desc.form.rows() as i32;
                let problem = Problem::new(desc, &[0, tile.m as i32 + 1, rows], 5);
                device.check_tile(&problem, tile, cluster);
            }
        }
    }
    let desc = GemmDesc {
        form: Form::KGrouped {
            rows: 70,
            groups: 3,
        },
        n: 144,
        k: 1024,
        arithmetic: Arithmetic::Fp8Block1d1d { a: Format::E5m2 },
        output: Output::AddF32,
        sms: 2,
    };
    device.check(&Problem::new(desc, &[0, 128, 128, 1024], 5));
}

#[test]
#[ignore = "called by every_seed_computes_the_same in a process of its own"]
fn child() {
    assert!(std::env::var_os(VARIABLE).is_some(), "called by the parent");
    compute();
}

#[test]
fn every_seed_computes_the_same() {
    let this = std::env::current_exe().expect("the test executable");
    for seed in 1..=SEEDS {
        let output = Command::new(&this)
            .args(["seeds::child", "--exact", "--ignored"])
            .env(VARIABLE, "1")
            .env("SOFTGPU_SEED", seed.to_string())
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && text.contains("1 passed");
        assert!(passed, "SOFTGPU_SEED={seed}:\n{text}");
    }
}
