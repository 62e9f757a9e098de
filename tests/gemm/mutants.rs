//! One changed instruction of the kernel is found: wrong arithmetic by the comparison, a broken
//! pipeline by the comparison or by the device. So every wait of the protocol is seen to be needed,
//! not only to do no harm.
//!
//! A fault ends its process's device context, so each mutant runs in a process of its own: the test
//! executable calls itself for one ignored test.

use std::process::Command;

use hadal::gemm::Tile;

use crate::case::{Device, Grouping, Rows, Weights};

const NAME: &str = "fp8_gemm_1d2d_dense_64x128";
const TRY_WAIT: &str = "mbarrier.try_wait.parity.shared::cta.b64";
const VARIABLE: &str = "GEMM_TEST_MUTANT";

/// What is changed: a name, a text of the kernel, its replacement, and which occurrence from 0.
const MUTANTS: [(&str, &str, &str, usize); 11] = [
    ("scale of the low rows added", "mul.f32", "add.f32", 0),
    ("scale of the high rows added", "mul.f32", "add.f32", 1),
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
        "wait_group.sync.aligned 0",
        "wait_group.sync.aligned 1",
        0,
    ),
    (
        "stage overwritten while read",
        TRY_WAIT,
        "setp.eq.u32 complete, 0, 0; //",
        0,
    ),
    (
        "stage read before it is full",
        TRY_WAIT,
        "setp.eq.u32 complete, 0, 0; //",
        1,
    ),
    (
        "a part of the output not staged",
        "stmatrix.sync.aligned.m8n8.x4",
        "// ",
        3,
    ),
    (
        "a part of the output not stored",
        "st.global.v4.u32",
        "// ",
        7,
    ),
    (
        "stage never freed",
        "mbarrier.arrive.shared::cta.b64",
        "// ",
        0,
    ),
];

fn mutate((_, from, to, nth): (&str, &str, &str, usize)) -> String {
    let text = hadal::kernels::find(NAME).expect("compiled in").ptx;
    let found = text.match_indices(from).nth(nth);
    let (at, _) = found.unwrap_or_else(|| panic!("the kernel has no {from} number {nth}"));
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

/// Two tiles on one CTA and more K blocks than stages: every wait has something to wait for.
fn compute(text: Option<String>) {
    let device = Device::open();
    if let Some(text) = text {
        device.context.replace_ptx(NAME, text).expect("known");
    }
    let (a, b) = (Rows::random(64, 1280, 3), Weights::random(1, 256, 1280, 4));
    let d = device.run(&a, &b, Grouping::Dense, (Tile::M64, 1));
    b.check("mutant", 0, &a, &d);
}

#[test]
#[ignore = "called by every_mutant_is_found in a process of its own"]
fn child() {
    let index = std::env::var(VARIABLE).expect("the parent names a mutant");
    let index: usize = index.parse().expect("a number");
    compute(MUTANTS.get(index).map(|&mutant| mutate(mutant)));
}

fn child_passes(index: usize) -> bool {
    let this = std::env::current_exe().expect("the test executable");
    let mut command = Command::new(this);
    command.args(["mutants::child", "--exact", "--ignored", "--test-threads=1"]);
    let output = command
        .env(VARIABLE, index.to_string())
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
    assert!(
        child_passes(MUTANTS.len()),
        "the kernel as it is does not pass"
    );
    let unnoticed: Vec<&str> = (0..MUTANTS.len())
        .filter(|&index| child_passes(index))
        .map(|index| MUTANTS[index].0)
        .collect();
    assert!(unnoticed.is_empty(), "unnoticed: {unnoticed:?}");
}
