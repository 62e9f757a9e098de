//! Faults become typed errors on every rank that can know of them, in time, and the contexts stay usable.

use std::time::{Duration, Instant};

use hadal::ep::latency::{LatencyDesc, LatencyPlan, Payload};
use hadal::ep::{EpError, Fault, FaultKind, Operation, Phase};

use super::harness::Rank;
use super::model::{Case, Routing};
use crate::ranks::on_ranks;

const DEADLINE: Duration = Duration::from_millis(300);

fn case(ranks: u32) -> Case {
    Case {
        ranks,
        experts: 6,
        topk: 2,
        hidden: 128,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        routing: Routing::Spread,
        tokens: vec![4; ranks as usize],
        rounds: 1,
        seed: 3,
        tight: false,
    }
}

fn plan(case: &Case) -> LatencyPlan {
    let desc = LatencyDesc {
        timeout: DEADLINE,
        ..case.desc()
    };
    LatencyPlan::new(desc).unwrap()
}

fn fault(result: Result<(), EpError>) -> Fault {
    match result {
        Err(EpError::Fault(fault)) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

/// Runs whole rounds on the same devices with a new communicator.
fn the_devices_still_work(ranks: u32) {
    let case = Case {
        rounds: 2,
        seed: 11,
        ..case(ranks)
    };
    on_ranks(ranks, |mut side| {
        let rank = Rank::new(&case, &mut side);
        for round in 0..case.rounds {
            rank.checked_round(round);
        }
    });
}

#[test]
fn a_rank_that_never_dispatches_is_a_timeout_on_the_others() {
    let case = case(3);
    let faults = on_ranks(3, |mut side| {
        let rank = Rank::with_plan(&case, &plan(&case), &mut side);
        let mut fault_here = None;
        if rank.rank != 1 {
            let start = Instant::now();
            let mut round = rank.round(0);
            let handle = round.dispatch().unwrap();
            let found = fault(rank.buffers.synchronize(&rank.stream));
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{:?}",
                start.elapsed()
            );
            // Whatever follows on this communicator says the same; nothing is read from the experts.
            let counts = handle.received().counts.to_vec(&rank.stream).unwrap();
            assert_eq!(counts, vec![0; counts.len()], "rank {}", rank.rank);
            assert_eq!(
                round.combine(handle).unwrap_err(),
                EpError::Fault(found.clone())
            );
            assert_eq!(round.dispatch().unwrap_err(), EpError::Fault(found.clone()));
            round.check_sums_untouched();
            fault_here = Some(found);
        }
        // The silent rank keeps its side until the others are through.
        side.barrier("end").unwrap();
        fault_here
    });
    let faults: Vec<_> = faults.into_iter().flatten().collect();
    assert_eq!(faults.len(), 2);
    assert!(
        faults.iter().any(|fault| fault.kind == FaultKind::Timeout),
        "{faults:?}"
    );
    for fault in &faults {
        assert_eq!((fault.operation, fault.epoch), (Operation::DispatchRecv, 1));
        assert_eq!(fault.phase, Phase::DispatchSignal);
        if fault.kind == FaultKind::Timeout {
            assert_eq!(
                (fault.peer, fault.expected, fault.seen),
                (1, 1, 0),
                "{fault}"
            );
            assert!(fault.waited >= DEADLINE, "{fault}");
        } else {
            assert_eq!(fault.kind, FaultKind::Poisoned, "{fault}");
        }
    }
    the_devices_still_work(3);
}

#[test]
fn a_rank_that_never_combines_is_a_timeout_on_the_others() {
    let case = case(2);
    on_ranks(2, |mut side| {
        let rank = Rank::with_plan(&case, &plan(&case), &mut side);
        let mut round = rank.round(0);
        let handle = round.dispatch().unwrap();
        rank.synchronize();
        if rank.rank == 0 {
            round.combine(handle).unwrap();
            let found = fault(rank.buffers.synchronize(&rank.stream));
            let what = (found.kind, found.operation, found.phase, found.peer);
            let silent = (
                FaultKind::Timeout,
                Operation::CombineRecv,
                Phase::CombineSignal,
                1,
            );
            assert_eq!(what, silent, "{found}");
            // Rank 1 owns experts 3 to 5.
            assert!((3..6).contains(&found.slot), "{found}");
            side.barrier("end").unwrap();
        } else {
            side.barrier("end").unwrap();
            // Only now; the peer is gone by then, and dropping must not hang here either.
            drop(handle);
        }
    });
    the_devices_still_work(2);
}

#[test]
fn credits_are_waited_for_at_most_the_deadline() {
    // Rank 1 runs two rounds' dispatches but consumes nothing: rank 0 cannot send a third.
    let case = Case {
        rounds: 3,
        ..case(2)
    };
    on_ranks(2, |mut side| {
        let rank = Rank::with_plan(&case, &plan(&case), &mut side);
        let rounds: Vec<_> = (0..3).map(|round| rank.round(round)).collect();
        if rank.rank == 0 {
            let open: Vec<_> = rounds[..2].iter().map(|round| round.dispatch()).collect();
            // Dropping both makes room here, and owes the combines of rounds that rank 1 never combines.
            drop(open);
            let found = fault(rank.buffers.synchronize(&rank.stream));
            assert_eq!((found.kind, found.peer), (FaultKind::Timeout, 1), "{found}");
        }
        side.barrier("end").unwrap();
    });
    the_devices_still_work(2);
}

#[test]
fn a_routing_entry_out_of_range_or_repeated_is_named_and_poisons_the_peers() {
    let case = Case {
        tokens: vec![4, 0],
        ..case(2)
    };
    // Entry 5 is the second of its token.
    for entry in [6, -2, i32::MIN, case.routing(0, 0)[4]] {
        let faults = on_ranks(2, |mut side| {
            let rank = Rank::with_plan(&case, &plan(&case), &mut side);
            let mut round = rank.round(0);
            if rank.rank == 0 {
                let mut routing = case.routing(0, 0);
                routing[5] = entry;
                round.set_routing(&routing);
            }
            let _handle = round.dispatch().unwrap();
            let found = fault(rank.buffers.synchronize(&rank.stream));
            side.barrier("end").unwrap();
            found
        });
        let [own, told] = faults.try_into().unwrap();
        assert_eq!(
            (own.kind, own.phase, own.slot),
            (FaultKind::Index, Phase::Routing, 5),
            "{own}"
        );
        assert_eq!((own.expected, own.seen), (6, i64::from(entry)), "{own}");
        assert_eq!((told.kind, told.peer), (FaultKind::Poisoned, 0), "{told}");
    }
    the_devices_still_work(2);
}

#[test]
fn too_many_rows_are_refused_by_whoever_sees_them() {
    let case = Case {
        tokens: vec![4, 4],
        routing: Routing::One(1),
        ..case(2)
    };
    // Four rows of each rank for expert 1, which rank 0 owns.
    let desc = LatencyDesc {
        timeout: DEADLINE,
        max_rows: Some(7),
        ..case.desc()
    };
    let faults = on_ranks(2, |mut side| {
        let rank = Rank::with_plan(&case, &LatencyPlan::new(desc).unwrap(), &mut side);
        let round = rank.round(0);
        let _handle = round.dispatch().unwrap();
        let result = rank.buffers.synchronize(&rank.stream);
        side.barrier("end").unwrap();
        result
    });
    let own = faults.into_iter().filter_map(|result| match result {
        Err(EpError::Fault(fault)) if fault.kind == FaultKind::Rows => Some(fault),
        _ => None,
    });
    let own: Vec<_> = own.collect();
    assert!(!own.is_empty(), "nobody saw it");
    for fault in own {
        let found = (fault.expected, fault.seen, fault.slot);
        assert_eq!(found, (7, 8, 1), "{fault}");
    }
    the_devices_still_work(2);
}

/// Lanes of one warp wait for different ranks, and one of them in vain: all must leave together.
#[test]
fn one_silent_rank_of_eight() {
    for silent in 0..8 {
        let case = Case {
            seed: u64::from(silent),
            experts: 24,
            topk: 8,
            tokens: vec![3, 1, 0, 2, 5, 0, 1, 4],
            ..case(8)
        };
        let desc = LatencyDesc {
            timeout: Duration::from_millis(30),
            ..case.desc()
        };
        let plan = LatencyPlan::new(desc).unwrap();
        let faults = on_ranks(8, |mut side| {
            let rank = Rank::with_plan(&case, &plan, &mut side);
            let found = (rank.rank != silent).then(|| {
                let round = rank.round(0);
                let handle = round.dispatch();
                let found = fault(rank.buffers.synchronize(&rank.stream));
                drop(handle);
                found
            });
            side.barrier("end").unwrap();
            found
        });
        let faults: Vec<_> = faults.into_iter().flatten().collect();
        assert_eq!(faults.len(), 7);
        let named = |fault: &Fault| fault.kind == FaultKind::Timeout && fault.peer == silent;
        assert!(
            faults.iter().any(named),
            "rank {silent} is silent: {faults:?}"
        );
    }
    the_devices_still_work(8);
}
