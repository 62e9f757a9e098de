//! A ring of puts with signals under many schedules, and with one instruction of a kernel weakened, which some
//! schedule must notice. Each seed is a process of its own, because the software GPU reads
//! it once.

use std::process::Command;

use hadal::device::Buffer;
use hadal::transfer::nvlink::{
    CollectivePlan, CopyPlan, Desc, Element, Form, Path, Place, Source, Team,
};

use crate::collectives::{Numbers, operand, summed};
use crate::harness::{Rank, assert_same, context, on_ranks, pattern};

const SEEDS: std::ops::RangeInclusive<u32> = 1..=20;
const MUTANT: &str = "NVLINK_TEST_MUTANT";
/// Each CTA of a bulk copy uses each of its stages more than once, and bytes are left over.
const BYTES: usize = 100_003;

const DESC: Desc = Desc {
    bytes: 2 * BYTES as u64,
    signals: 2,
    record_bytes: 256,
    timeout: std::time::Duration::from_secs(5),
    multicast: true,
};

/// What is changed: a kernel, a text of it, its replacement. Only what the software GPU can tell apart: a CTA that
/// ends completes what it has under way, so too early a signal right before the end goes unnoticed.
const MUTANTS: [(&str, &str, &str); 3] = [
    (
        "nvlink_copy_vector",
        "atom.acq_rel.gpu.global.add.u32",
        "atom.relaxed.gpu.global.add.u32",
    ),
    ("nvlink_copy_bulk", "cp.async.bulk.wait_group.read 1", "// "),
    (
        "nvlink_all_gather",
        "st.release.sys.global.u64",
        "st.relaxed.sys.global.u64",
    ),
];

/// Both forms on several CTAs, then an all-gather, round by round; a signal gives the slot back.
fn compute(mutant: Option<usize>) {
    let ranks = 2;
    if let Some(&(kernel, from, to)) = mutant.and_then(|index| MUTANTS.get(index)) {
        let text = hadal::kernels::find(kernel).unwrap().ptx;
        assert!(text.contains(from), "{kernel} has no {from}");
        for rank in 0..ranks {
            context(rank)
                .replace_ptx(kernel, text.replace(from, to))
                .unwrap();
        }
    }
    on_ranks(ranks, DESC, |mut at| {
        for round in 0..6u64 {
            let form = [Form::Vector, Form::Bulk][round as usize % 2];
            let plan = CopyPlan::new(form, 0).with_ctas(3);
            let data = pattern(at.rank, round, BYTES);
            let data = Buffer::from_slice(&at.stream, &data).unwrap();
            let to = Place {
                rank: at.right(),
                offset: 16 * round,
            };
            let own = Place {
                rank: at.rank,
                offset: 16 * round,
            };
            at.put_signal(Source::buffer(&data), to, plan, 0);
            at.wait_next(at.left(), 0);
            // The kernel that reads lies behind the wait on the same stream: the host orders nothing.
            let mut got = Buffer::<u8>::alloc(&context(at.rank), BYTES).unwrap();
            let plan = CopyPlan::new(Form::Vector, BYTES as u64);
            at.endpoint
                .get(&at.stream, own, (&mut got).into(), plan)
                .unwrap();
            let record = Buffer::from_slice(&at.stream, &pattern(at.rank, round, 200)).unwrap();
            let mut records = Buffer::<u8>::zeroed(&at.stream, 400).unwrap();
            at.endpoint
                .all_gather(&at.stream, &record, &mut records)
                .unwrap();
            let change = hadal::transfer::nvlink::Change::Add(1);
            at.endpoint
                .signal(&at.stream, (at.left(), 1), change)
                .unwrap();
            at.wait_next(at.right(), 1);
            at.synchronize();
            let found = got.to_vec(&at.stream).unwrap();
            assert_same("ring", &found, &pattern(at.left(), round, BYTES));
            let both = [pattern(0, round, 200), pattern(1, round, 200)].concat();
            assert_same("records", &records.to_vec(&at.stream).unwrap(), &both);
            all_reduce(&at, round);
        }
        at.endpoint
            .barrier(&at.stream, Team::all(ranks).unwrap())
            .unwrap();
        at.synchronize();
        at.side.barrier("end").unwrap();
    });
}

/// Sums what both ranks have behind the ring's bytes, and lets one of them send a copy to both.
fn all_reduce(at: &Rank, round: u64) {
    const BEGIN: u64 = 1 << 17;
    const BYTES: u64 = 4000;
    let path = [Path::Peer, Path::Multicast][round as usize % 2];
    let plan = CollectivePlan::new(0).with_ctas(2).with_path(path);
    let own = |offset| Place {
        rank: at.rank,
        offset,
    };
    let data = operand(Element::F32, at.rank, BYTES / 4, Numbers::Exact);
    let data = Buffer::from_slice(&at.stream, &data).unwrap();
    let copy = CopyPlan::new(Form::Vector, BYTES);
    let endpoint = &at.endpoint;
    endpoint
        .put(&at.stream, Source::buffer(&data), own(BEGIN), copy)
        .unwrap();
    let range = BEGIN..BEGIN + BYTES;
    endpoint
        .all_reduce(&at.stream, Element::F32, range.clone(), plan)
        .unwrap();
    if u64::from(at.rank) == round % 2 {
        endpoint
            .broadcast(&at.stream, Source::window(range), BEGIN + BYTES, plan)
            .unwrap();
    }
    let all = Team::all(at.ranks).unwrap();
    endpoint.barrier(&at.stream, all).unwrap();
    let mut got = Buffer::<u8>::alloc(&context(at.rank), 2 * BYTES as usize).unwrap();
    endpoint
        .get(&at.stream, own(BEGIN), (&mut got).into(), copy)
        .unwrap();
    endpoint.barrier(&at.stream, all).unwrap();
    at.synchronize();
    let expected = summed(Element::F32, at.ranks, BYTES / 4, Numbers::Exact).repeat(2);
    let found = got.to_vec(&at.stream).unwrap();
    assert_same("sums and their copy", &found, &expected);
}

#[test]
#[ignore = "called by the tests below in a process of its own"]
fn child() {
    let index = std::env::var(MUTANT).expect("called by a parent");
    // The rank that finds a difference does not wait for the others to find theirs.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    compute(index.parse().ok());
}

/// Whether the ring passes a seed, and what it says.
fn child_passes(mutant: Option<usize>, seed: u32) -> (bool, String) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["seeds::child", "--exact", "--ignored", "--test-threads=1"]);
    let mutant = mutant.map_or_else(|| "none".to_owned(), |index| index.to_string());
    let output = command
        .env(MUTANT, mutant)
        .env("SOFTGPU_SEED", seed.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "no child: {text}");
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), format!("{text}\n{errors}"))
}

#[test]
fn every_seed_transfers_the_same() {
    for seed in SEEDS {
        let (passed, text) = child_passes(None, seed);
        assert!(passed, "SOFTGPU_SEED={seed}:\n{text}");
    }
}

#[test]
fn every_mutant_is_found() {
    let mut unnoticed = Vec::new();
    for (index, (kernel, text, _)) in MUTANTS.iter().enumerate() {
        let outcomes = SEEDS.map(|seed| child_passes(Some(index), seed));
        let Some((_, said)) = { outcomes }.find(|(passed, _)| !passed) else {
            unnoticed.push((kernel, text));
            continue;
        };
        // A text that does not load proves nothing.
        let loaded = !said.contains("cuModuleLoadData");
        assert!(loaded, "mutant {index} does not load: {said}");
    }
    assert!(unnoticed.is_empty(), "unnoticed: {unnoticed:?}");
}
