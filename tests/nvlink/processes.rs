//! Ranks as processes: they meet by TCP, and their windows are files.

use std::time::{Duration, Instant};

use hadal::device::{Buffer, Context};
use hadal::memory::Rendezvous;
use hadal::transfer::fill_words;
use hadal::transfer::nvlink::{
    CollectivePlan, CopyPlan, Desc, Element, FaultKind, Form, NvLinkError, Operation, Path, Place,
    Source, Team,
};

use crate::collectives::{Numbers, operand, summed};
use crate::harness::{Rank, assert_same, pattern};
use crate::process::{Process, port};

const VARIABLE: &str = "NVLINK_TEST_RANK";
const BYTES: usize = 70_001;
const DESC: Desc = Desc {
    bytes: 3 * BYTES as u64,
    signals: 1,
    record_bytes: 8,
    timeout: Duration::from_secs(60),
    multicast: true,
};

/// A rank that meets the others; the process was started by a test here.
fn rank(desc: &Desc) -> Rank {
    assert!(std::env::var_os(VARIABLE).is_some(), "started by a parent");
    let deadline = Duration::from_secs(60);
    let place = Rendezvous::from_env().unwrap().with_deadline(deadline);
    let side = place.connect().unwrap();
    let context = Context::new(side.rank()).unwrap();
    Rank::new(desc, side, &context)
}

fn start(body: &str, ranks: u32) -> Vec<Process> {
    let port = port();
    (0..ranks)
        .map(|rank| Process::start(body, [VARIABLE, "1"], [rank, ranks], port))
        .collect()
}

#[test]
fn processes_transfer_as_threads_do() {
    for ranks in [2, 3] {
        for process in start("processes::child", ranks) {
            process.finish();
        }
    }
}

/// One process is killed between two barriers.
#[test]
fn a_killed_process_is_a_fault_of_those_who_wait_for_it() {
    let mut processes = start("processes::survivor", 3);
    let mut killed = processes.remove(1);
    killed.0.wait().unwrap();
    for process in processes {
        process.finish();
    }
}

#[test]
#[ignore = "a rank of a_killed_process_is_a_fault_of_those_who_wait_for_it, in a process of its own"]
fn survivor() {
    let timeout = Duration::from_secs(1);
    let mut at = rank(&Desc { timeout, ..DESC });
    let all = Team::all(at.ranks).unwrap();
    at.side.barrier("together").unwrap();
    at.endpoint.barrier(&at.stream, all).unwrap();
    at.synchronize();
    if at.rank == 1 {
        std::process::abort();
    }
    let start = Instant::now();
    at.endpoint.barrier(&at.stream, all).unwrap();
    let fault = match at.endpoint.synchronize(&at.stream) {
        Err(NvLinkError::Fault(fault)) => fault,
        other => panic!("rank {}: {other:?}", at.rank),
    };
    let took = start.elapsed();
    assert!(took < timeout + Duration::from_secs(1), "{took:?}: {fault}");
    // Whoever of the two gives up first may be the other's reason.
    let kinds = [(FaultKind::Timeout, 1), (FaultKind::Poisoned, 2 - at.rank)];
    assert!(kinds.contains(&(fault.kind, fault.peer)), "{fault}");
    assert_eq!(fault.operation, Operation::Barrier, "{fault}");
    let mut words = Buffer::<u32>::zeroed(&at.stream, 1000).unwrap();
    fill_words(&at.stream, &mut words, 7).unwrap();
    assert_eq!(words.to_vec(&at.stream).unwrap(), [7; 1000], "{fault}");
}

#[test]
#[ignore = "a rank of processes_transfer_as_threads_do, in a process of its own"]
fn child() {
    let mut at = rank(&DESC);
    let all = Team::all(at.ranks).unwrap();
    for round in 0..4u64 {
        let form = if round % 2 == 0 {
            Form::Vector
        } else {
            Form::Bulk
        };
        let plan = CopyPlan::new(form, 0).with_ctas(3);
        let data = pattern(at.rank, round, BYTES);
        let data = Buffer::from_slice(&at.stream, &data).unwrap();
        let to = Place {
            rank: at.right(),
            offset: round,
        };
        at.put_signal(Source::buffer(&data), to, plan, 0);
        at.wait_next(at.left(), 0);
        let found = at.read(
            Place {
                rank: at.rank,
                offset: round,
            },
            BYTES,
        );
        assert_same("put", &found, &pattern(at.left(), round, BYTES));
        let record = Buffer::from_slice(&at.stream, &[round << 8 | u64::from(at.rank)]).unwrap();
        let mut records = Buffer::<u64>::zeroed(&at.stream, at.ranks as usize).unwrap();
        at.endpoint
            .all_gather(&at.stream, &record, &mut records)
            .unwrap();
        let expected: Vec<u64> = (0..u64::from(at.ranks)).map(|r| round << 8 | r).collect();
        assert_eq!(records.to_vec(&at.stream).unwrap(), expected);
        at.endpoint.barrier(&at.stream, all).unwrap();
        all_reduce(&at, [Path::Multicast, Path::Peer][round as usize % 2]);
    }
    at.synchronize();
    at.side.barrier("end").unwrap();
}

/// Behind what the left rank may already put for the next round.
fn all_reduce(at: &Rank, path: Path) {
    const ELEMENTS: u64 = 4100;
    const BEGIN: u64 = 1 << 17;
    let plan = CollectivePlan::new(4 * ELEMENTS).with_path(path);
    let data = operand(Element::F32, at.rank, ELEMENTS, Numbers::Exact);
    let data = Buffer::from_slice(&at.stream, &data).unwrap();
    let own = Place {
        rank: at.rank,
        offset: BEGIN,
    };
    let copy = CopyPlan::new(Form::Vector, 4 * ELEMENTS);
    at.endpoint
        .put(&at.stream, Source::buffer(&data), own, copy)
        .unwrap();
    at.endpoint
        .all_reduce(&at.stream, Element::F32, BEGIN..BEGIN + 4 * ELEMENTS, plan)
        .unwrap();
    let expected = summed(Element::F32, at.ranks, ELEMENTS, Numbers::Exact);
    let found = at.read(own, 4 * ELEMENTS as usize);
    assert_same(&format!("{path:?}"), &found, &expected);
}
