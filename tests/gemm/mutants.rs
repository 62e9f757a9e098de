//! One changed instruction of the kernel is found: wrong arithmetic by the comparison, a broken
//! pipeline by the comparison or by the device. So every wait of the protocol is seen to be needed,
//! not only to do no harm.
//!
//! A fault ends its process's device context, so each mutant runs in a process of its own: the test
//! executable calls itself for one ignored test.

use std::process::Command;

use hadal::gemm::{Arithmetic, Form, GemmDesc, GemmPlan, Output, Tile};

use crate::device::Device;
use crate::problem::Problem;

const NAME: &str = "gemm_1d2d_e4m3_64x128";
const TRY_WAIT: &str = "mbarrier.try_wait.parity.shared::cta.b64";
const NO_WAIT: &str = "setp.eq.u32 complete, 0, 0; //";
const VARIABLE: &str = "GEMM_TEST_MUTANT";
const SEEDS: std::ops::RangeInclusive<u32> = 1..=20;

/// Every occurrence.
const ALL: usize = usize::MAX;

/// What is changed: a name, a text of the kernel, its replacement, and which occurrence from 0. The
/// loop over stages has a body for the odd one and two for pairs; boxes come in F32 and BF16.
const MUTANTS: [(&str, &str, &str, usize); 18] = [
    ("scale of the low rows added", "mul.f32", "add.f32", 0),
    ("scale of the high rows added", "mul.f32", "add.f32", 1),
    ("scale of a pair's block added", "mul.f32", "add.f32", 2),
    (
        "first step accumulates",
        "setp.ne.b32 accumulate",
        "setp.eq.b32 accumulate",
        0,
    ),
    (
        "second step starts anew",
        "setp.ne.b32 accumulate",
        "setp.eq.b32 accumulate",
        1,
    ),
    (
        "last step starts anew",
        "setp.ne.b32 accumulate",
        "setp.eq.b32 accumulate",
        3,
    ),
    (
        "products not waited for",
        "wgmma.wait_group.sync.aligned 0",
        "wgmma.wait_group.sync.aligned 1",
        0,
    ),
    (
        "products of a pair not waited for",
        "wgmma.wait_group.sync.aligned 0",
        "wgmma.wait_group.sync.aligned 1",
        1,
    ),
    ("stage overwritten while read", TRY_WAIT, NO_WAIT, 0),
    ("odd stage read before it is full", TRY_WAIT, NO_WAIT, 1),
    ("first stage of a pair read early", TRY_WAIT, NO_WAIT, 2),
    ("second stage of a pair read early", TRY_WAIT, NO_WAIT, 3),
    (
        "a part of the output not staged",
        "stmatrix.sync.aligned.m8n8.x4",
        "// ",
        3,
    ),
    (
        "first box not stored",
        "cp.async.bulk.tensor.2d.global",
        "// ",
        1,
    ),
    (
        "second box not stored",
        "cp.async.bulk.tensor.2d.global",
        "// ",
        3,
    ),
    ("partial boxes not stored", "st.global.v4.u32", "// ", ALL),
    (
        "a box filled while it is read",
        "cp.async.bulk.wait_group.read 1",
        "// ",
        ALL,
    ),
    (
        "stage never freed",
        "mbarrier.arrive.shared::cluster.b64",
        "// ",
        0,
    ),
];

fn mutate((_, from, to, nth): (&str, &str, &str, usize)) -> String {
    let text = hadal::kernels::find(NAME).expect("compiled in").ptx;
    assert!(text.contains(from), "the kernel has no {from}");
    if nth == ALL {
        return text.replace(from, to);
    }
    let found = text.match_indices(from).nth(nth);
    let (at, _) = found.unwrap_or_else(|| panic!("the kernel has no {from} number {nth}"));
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

/// Tiles on one CTA, one of them stored row by row, with more K blocks than stages and with one:
/// every wait has something to wait for.
fn compute(text: Option<String>) {
    let device = Device::open();
    if let Some(text) = text {
        device.context.replace_ptx(NAME, text).expect("known");
    }
    for k in [2944, 128] {
        let desc = GemmDesc {
            form: Form::Dense { rows: 67 },
            n: 256,
            k,
            arithmetic: Arithmetic::E4M3_1D2D,
            output: Output::Bf16,
            sms: 1,
        };
        let tile = Tile::ALL.into_iter().find(|tile| tile.kernel == NAME);
        let plan = GemmPlan::with_tile(desc, tile.expect("a tile"), [1, 1]).expect("a plan");
        let problem = Problem::new(desc, &[], 3);
        problem.check("mutant", &device.run(&problem, plan));
    }
}

#[test]
#[ignore = "called by every_mutant_is_found in a process of its own"]
fn child() {
    let index = std::env::var(VARIABLE).expect("the parent names a mutant");
    let index: usize = index.parse().expect("a number");
    compute(MUTANTS.get(index).map(|&mutant| mutate(mutant)));
}

/// Whether the mutant computes the right thing under a seed of the software GPU's schedule.
fn child_passes(index: usize, seed: u32) -> bool {
    let this = std::env::current_exe().expect("the test executable");
    let mut command = Command::new(this);
    command.args(["mutants::child", "--exact", "--ignored", "--test-threads=1"]);
    let output = command
        .env(VARIABLE, index.to_string())
        .env("SOFTGPU_SEED", seed.to_string())
        .env("SOFTGPU_DEADLOCK_SECONDS", "1")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("running 1 test"),
        "the child did not run: {text}"
    );
    // A text that does not load proves nothing.
    assert!(
        !text.contains("a kernel: "),
        "mutant {index} does not load: {text}"
    );
    output.status.success()
}

#[test]
fn every_mutant_is_found() {
    for seed in SEEDS.take(3) {
        assert!(
            child_passes(MUTANTS.len(), seed),
            "the kernel as it is does not pass seed {seed}"
        );
    }
    let unnoticed: Vec<&str> = (0..MUTANTS.len())
        .filter(|&index| SEEDS.into_iter().all(|seed| child_passes(index, seed)))
        .map(|index| MUTANTS[index].0)
        .collect();
    assert!(unnoticed.is_empty(), "unnoticed: {unnoticed:?}");
}
