//! Rounds under many schedules, orders of completion and visibilities of stores. Each seed is a process of its own,
//! because the software GPU reads it once.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use hadal::ep::throughput::{Payload, Reduce};

use crate::cases::Routing;
use crate::throughput::model::Case;
use crate::{latency, throughput};

const VARIABLE: &str = "EP_TEST_SEEDS";
const SEEDS: u32 = 200;

/// Each mode with one round at a time, and with two in flight.
#[test]
#[ignore = "called by every_seed_computes_the_same in a process of its own"]
fn child() {
    assert!(std::env::var_os(VARIABLE).is_some(), "called by the parent");
    throughput::cases::overlapping(Reduce::PerExpert);
    throughput::cases::run(&Case {
        payload: Payload::Bf16,
        reduce: Reduce::PerRank,
        routing: Routing::Drops,
        tokens: vec![70, 3],
        ..throughput::cases::small()
    });
    latency::rounds::overlapping(&[5, 2, 7]);
    latency::rounds::run(&latency::rounds::small());
}

fn passes(seed: u32) {
    let this = std::env::current_exe().expect("the test executable");
    let output = Command::new(this)
        .args(["seeds::child", "--exact", "--ignored"])
        .env(VARIABLE, "1")
        .env("SOFTGPU_SEED", seed.to_string())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && text.contains("1 passed");
    assert!(passed, "SOFTGPU_SEED={seed}:\n{text}");
}

#[test]
fn every_seed_computes_the_same() {
    let next = AtomicU32::new(1);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let seed @ ..=SEEDS = next.fetch_add(1, Ordering::Relaxed) {
                    passes(seed);
                }
            });
        }
    });
}
