//! Faults become typed errors on every rank that can know of them, in time; dropped handles stop nobody.

use std::time::{Duration, Instant};

use hadal::ep::throughput::{ThroughputDesc, ThroughputPlan};
use hadal::ep::{EpError, Fault, FaultKind, Phase};

use super::cases::{run, small};
use super::harness::Rank;
use super::model::Case;
use crate::cases::Routing;
use crate::ranks::on_ranks;

const DEADLINE: Duration = Duration::from_millis(300);

fn plan(desc: ThroughputDesc) -> ThroughputPlan {
    let timeout = DEADLINE;
    ThroughputPlan::new(ThroughputDesc { timeout, ..desc }).unwrap()
}

fn fault(result: Result<(), EpError>) -> Fault {
    match result {
        Err(EpError::Fault(fault)) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn a_rank_that_never_dispatches_is_a_timeout_on_the_others() {
    let case = small();
    let plan = plan(case.desc());
    let faults = on_ranks(3, |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let found = (rank.rank != 1).then(|| {
            let start = Instant::now();
            let mut round = rank.round(&case);
            let handle = round.dispatch().unwrap();
            let found = fault(rank.buffers.synchronize(&rank.stream));
            assert!(start.elapsed() < Duration::from_secs(30), "{found}");
            let counts = handle.received().counts.to_vec(&rank.stream).unwrap();
            assert_eq!(counts, vec![0; counts.len()], "rank {}", rank.rank);
            let index = handle.received().index.to_vec(&rank.stream).unwrap();
            assert_eq!(index, vec![-1; index.len()], "rank {}", rank.rank);
            let refused = EpError::Fault(found.clone());
            assert_eq!(round.combine(handle).unwrap_err(), refused);
            found
        });
        side.barrier("end").unwrap();
        found
    });
    let faults: Vec<_> = faults.into_iter().flatten().collect();
    let named = |fault: &&Fault| fault.kind == FaultKind::Timeout && fault.peer == 1;
    let named = faults.iter().find(named).expect("somebody names rank 1");
    assert_eq!(
        (named.phase, named.epoch, named.seen),
        (Phase::Counts, 1, 0)
    );
    assert!(named.waited >= DEADLINE, "{named}");
    run(&case);
}

#[test]
fn wrong_entries_and_repeated_experts_are_named() {
    let case = small();
    let plan = plan(case.desc());
    let repeated = case.routing(0)[3];
    for entry in [7, -2, repeated] {
        let faults = on_ranks(3, |mut side| {
            let rank = Rank::new(&plan, &mut side);
            let mut round = rank.round(&case);
            if rank.rank == 0 {
                let mut routing = case.routing(0);
                routing[5] = entry;
                round.set_routing(&routing);
            }
            let handle = round.dispatch();
            let found = fault(rank.buffers.synchronize(&rank.stream));
            drop(handle);
            side.barrier("end").unwrap();
            found
        });
        let own = &faults[0];
        let what = (own.kind, own.phase, own.slot, own.seen);
        let expected = (FaultKind::Index, Phase::Routing, 5, i64::from(entry));
        assert_eq!(what, expected, "{own}");
        assert!(
            faults[1..]
                .iter()
                .all(|fault| fault.kind == FaultKind::Poisoned)
        );
    }
    run(&case);
}

#[test]
fn an_overflow_is_a_fault_on_every_rank() {
    let case = Case {
        routing: Routing::AllToOne,
        ..small()
    };
    // 13 rows for the last expert, which rank 2 owns; the expert-contiguous buffer needs 16.
    let few_rows = ThroughputDesc {
        max_rows: Some(12),
        ..case.desc()
    };
    let few_received = ThroughputDesc {
        max_recv_rows: Some(12),
        ..case.desc()
    };
    for (desc, seen) in [(few_rows, 16), (few_received, 13)] {
        let plan = plan(desc);
        let faults = on_ranks(3, |mut side| {
            let rank = Rank::new(&plan, &mut side);
            let handle = rank.round(&case).dispatch();
            let found = fault(rank.buffers.synchronize(&rank.stream));
            drop(handle);
            side.barrier("end").unwrap();
            found
        });
        let named = |fault: &Fault| {
            fault.kind == FaultKind::Poisoned
                || (fault.kind, fault.peer, fault.expected, fault.seen)
                    == (FaultKind::Rows, 2, 12, seen)
        };
        assert!(faults.iter().all(named), "{faults:?}");
        assert!(faults.iter().any(|fault| fault.kind == FaultKind::Rows));
    }
    run(&case);
}

#[test]
fn a_dropped_handle_is_reported_and_stops_nobody() {
    let cases: Vec<_> = (0..4).map(|seed| Case { seed, ..small() }).collect();
    let plan = ThroughputPlan::new(cases[0].desc()).unwrap();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let (mut older, mut younger) = (rank.round(&cases[0]), rank.round(&cases[1]));
        let first = older.dispatch().unwrap();
        if rank.rank == 1 {
            // Before the peers combine it, and before it dispatches the round that they dispatch first.
            drop(first);
            let second = younger.dispatch().unwrap();
            younger.combine(second).unwrap();
            rank.synchronize(&cases[1]);
        } else {
            let second = younger.dispatch().unwrap();
            older.combine(first).unwrap();
            younger.combine(second).unwrap();
            let error = rank.buffers.synchronize(&rank.stream).unwrap_err();
            let ranks = vec![1];
            assert_eq!(error, EpError::Abandoned { epoch: 1, ranks });
            older.check_sums(|rank| rank != 1);
        }
        younger.check_sums(|_| true);
        for case in &cases[2..] {
            rank.checked_round(case);
        }
    });
}
