//! One changed instruction of the kernel is found: wrong arithmetic by the comparison, a broken
//! pipeline by the comparison or by the device. So every wait of the protocol is seen to be needed,
//! not only to do no harm.
//!
//! A fault ends its process's device context, so each mutant runs in a process of its own: the test
//! executable calls itself for one ignored test.

use std::process::Command;

use hadal::gemm::{Arithmetic, Form, GemmDesc, GemmPlan, Output, Tile};

use crate::dependent;
use crate::device::Device;
use crate::problem::Problem;

const NAME: &str = "gemm_1d2d_e4m3_64x128";
const TRY_WAIT: &str = "mbarrier.try_wait.parity.shared::cta.b64";
const NO_WAIT: &str = "setp.eq.u32 complete, 0, 0; //";
const VARIABLE: &str = "GEMM_TEST_MUTANT";
const SEEDS: std::ops::RangeInclusive<u32> = 1..=20;

/// Every occurrence.
const ALL: usize = usize::MAX;

/// What is changed: a name, a text of the kernel, its replacement, and which occurrence from 0. A turn
/// of the ring has a body for each of the eight stages, and a ninth is for blocks of K that fill no
/// turn; boxes come in F32 and BF16.
const MUTANTS: [(&str, &str, &str, usize); 23] = [
    ("scale of the low rows added", "mul.f32", "add.f32", 0),
    ("scale of the high rows added", "mul.f32", "add.f32", 1),
    ("scale of the second stage added", "mul.f32", "add.f32", 2),
    ("scale of a single block added", "mul.f32", "add.f32", 17),
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
        "products of the second stage not waited for",
        "wgmma.wait_group.sync.aligned 0",
        "wgmma.wait_group.sync.aligned 1",
        1,
    ),
    (
        "products of a single block not waited for",
        "wgmma.wait_group.sync.aligned 0",
        "wgmma.wait_group.sync.aligned 1",
        8,
    ),
    ("stage overwritten while read", TRY_WAIT, NO_WAIT, 0),
    ("first stage read before it is full", TRY_WAIT, NO_WAIT, 1),
    ("second stage read early", TRY_WAIT, NO_WAIT, 2),
    ("third stage read early", TRY_WAIT, NO_WAIT, 3),
    ("stage of a single block read early", TRY_WAIT, NO_WAIT, 9),
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
        "first stage never freed",
        "mbarrier.arrive.shared::cluster.b64",
        "// ",
        0,
    ),
    (
        "last stage of a turn never freed",
        "mbarrier.arrive.shared::cluster.b64",
        "// ",
        7,
    ),
    (
        "stage of a single block never freed",
        "mbarrier.arrive.shared::cluster.b64",
        "// ",
        8,
    ),
];

/// Of the kernel whose calls depend on each other.
const OVERLAPS: [(&str, &str, &str, usize); 1] = [(
    "memory touched before the last kernel has ended",
    "griddepcontrol.wait",
    "// ",
    ALL,
)];

fn mutate(kernel: &str, (_, from, to, nth): (&str, &str, &str, usize)) -> String {
    let text = hadal::kernels::find(kernel).expect("compiled in").ptx;
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

/// Which mutant a child is for.
fn index() -> usize {
    let index = std::env::var(VARIABLE).expect("the parent names a mutant");
    index.parse().expect("a number")
}

#[test]
#[ignore = "called by every_mutant_is_found in a process of its own"]
fn child() {
    compute(MUTANTS.get(index()).map(|&mutant| mutate(NAME, mutant)));
}

#[test]
#[ignore = "called by a_kernel_that_overtakes_is_found in a process of its own"]
fn overlapping_child() {
    let device = Device::open();
    if let Some(&mutant) = OVERLAPS.get(index()) {
        let text = mutate(dependent::NAME, mutant);
        let replaced = device.context.replace_ptx(dependent::NAME, text);
        replaced.expect("known");
    }
    dependent::check(&device, [1, 1]);
}

/// Whether the mutant computes the right thing under a seed of the software GPU's schedule.
fn child_passes(child: &str, index: usize, seed: u32) -> bool {
    let this = std::env::current_exe().expect("the test executable");
    let mut command = Command::new(this);
    let child = format!("mutants::{child}");
    command.args([&child, "--exact", "--ignored", "--test-threads=1"]);
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

fn find_all(child: &str, mutants: &[(&str, &str, &str, usize)]) {
    for seed in SEEDS.take(3) {
        assert!(
            child_passes(child, mutants.len(), seed),
            "the kernel as it is does not pass seed {seed}"
        );
    }
    let unnoticed: Vec<&str> = (0..mutants.len())
        .filter(|&index| {
            SEEDS
                .into_iter()
                .all(|seed| child_passes(child, index, seed))
        })
        .map(|index| mutants[index].0)
        .collect();
    assert!(unnoticed.is_empty(), "unnoticed: {unnoticed:?}");
}

#[test]
fn every_mutant_is_found() {
    find_all("child", &MUTANTS);
}

#[test]
fn a_kernel_that_overtakes_is_found() {
    find_all("overlapping_child", &OVERLAPS);
}
