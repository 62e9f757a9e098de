//! Peers that never come are typed errors in time; the contexts stay usable.

use std::time::{Duration, Instant};

use hadal::device::Buffer;
use hadal::params::{HADAL_NVLINK_FAULT_TIMEOUT, NvlinkOutcome};
use hadal::transfer::nvlink::{
    Change, CollectivePlan, CopyPlan, Desc, Element, Fault, FaultKind, Form, NvLinkError,
    Operation, Path, Place, Source, Team, Until, Wait,
};

use crate::harness::{Rank, assert_same, on_ranks, pattern};

const DEADLINE: Duration = Duration::from_millis(300);
/// What a wait may take beyond its limit.
const GRACE: Duration = Duration::from_secs(1);

const DESC: Desc = Desc {
    bytes: 4096,
    signals: 4,
    record_bytes: 16,
    timeout: DEADLINE,
    multicast: false,
};

fn fault(result: Result<(), NvLinkError>) -> Fault {
    match result {
        Err(NvLinkError::Fault(fault)) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

/// The fault that ends what is enqueued, in time.
fn faults_in_time(at: &Rank) -> Fault {
    let start = Instant::now();
    let fault = fault(at.endpoint.synchronize(&at.stream));
    let took = start.elapsed();
    assert!(took < DEADLINE + GRACE, "{took:?}: {fault}");
    fault
}

/// New endpoints on the same devices.
fn the_devices_still_work(ranks: u32) {
    let timeout = Duration::from_secs(60);
    on_ranks(ranks, Desc { timeout, ..DESC }, |mut at| {
        let data = pattern(at.rank, 9, 1000);
        let data = Buffer::from_slice(&at.stream, &data).unwrap();
        let to = Place {
            rank: at.right(),
            offset: 1,
        };
        at.put_signal(Source::buffer(&data), to, CopyPlan::new(Form::Vector, 0), 0);
        at.wait_next(at.left(), 0);
        let found = at.read(
            Place {
                rank: at.rank,
                offset: 1,
            },
            1000,
        );
        assert_same("afterwards", &found, &pattern(at.left(), 9, 1000));
        at.endpoint
            .barrier(&at.stream, Team::all(ranks).unwrap())
            .unwrap();
        at.synchronize();
        at.side.barrier("end").unwrap();
    });
}

#[test]
fn a_signal_that_never_comes_is_a_timeout_and_stops_what_follows() {
    on_ranks(2, DESC, |mut at| {
        let data = Buffer::from_slice(&at.stream, &[1u8; 64]).unwrap();
        let mut outcome = Buffer::<NvlinkOutcome>::zeroed(&at.stream, 1).unwrap();
        if at.rank == 1 {
            at.endpoint
                .signal(&at.stream, (0, 3), Change::Set(4))
                .unwrap();
            at.synchronize();
        }
        at.side.barrier("signalled").unwrap();
        if at.rank == 0 {
            let wait = Wait {
                peer: 1,
                signal: 3,
                until: Until::AtLeast(5),
                limit: None,
            };
            at.endpoint
                .wait_recorded(&at.stream, wait, &mut outcome)
                .unwrap();
            let (to, plan) = (
                Place { rank: 1, offset: 0 },
                CopyPlan::new(Form::Vector, 64),
            );
            at.put_signal(Source::buffer(&data), to, plan, 0);
            at.endpoint
                .signal(&at.stream, (1, 0), Change::Add(1))
                .unwrap();
            let fault = faults_in_time(&at);
            let found = (
                fault.kind,
                fault.operation,
                fault.rank,
                fault.peer,
                fault.slot,
            );
            assert_eq!(found, (FaultKind::Timeout, Operation::Wait, 0, 1, 3));
            assert_eq!((fault.expected, fault.seen), (5, 4));
            assert!(
                fault.waited >= DEADLINE && fault.waited < DEADLINE + GRACE,
                "{fault}"
            );
            let outcome = outcome.to_vec(&at.stream).unwrap()[0];
            assert_eq!((outcome.expired, outcome.seen), (1, 4));
            assert_eq!(outcome.fault, HADAL_NVLINK_FAULT_TIMEOUT);
            assert_eq!(u128::from(outcome.waited_ns), fault.waited.as_nanos());
            // Later calls are refused with the same fault.
            let refused = at.endpoint.signal(&at.stream, (1, 0), Change::Add(1));
            assert_eq!(refused, Err(fault.into()));
        }
        at.side.barrier("expired").unwrap();
        if at.rank == 1 {
            // The put behind the wait has left no trace, nor its signal; the peer is known to have a fault.
            assert_same(
                "untouched",
                &at.read(Place { rank: 1, offset: 0 }, 64),
                &[0; 64],
            );
            at.wait(0, 0, Until::AtLeast(1)).unwrap();
            let fault = faults_in_time(&at);
            assert_eq!(
                (fault.kind, fault.peer, fault.seen),
                (FaultKind::Poisoned, 0, 0)
            );
        }
        at.side.barrier("end").unwrap();
    });
    the_devices_still_work(2);
}

#[test]
fn a_rank_that_misses_a_barrier_is_named() {
    let faults = on_ranks(3, DESC, |mut at| {
        let team = Team::all(3).unwrap();
        at.endpoint.barrier(&at.stream, team).unwrap();
        at.synchronize();
        at.side.barrier("together").unwrap();
        let fault = (at.rank != 1).then(|| {
            at.endpoint.barrier(&at.stream, team).unwrap();
            faults_in_time(&at)
        });
        at.side.barrier("end").unwrap();
        fault
    });
    assert!(faults[1].is_none());
    for (rank, fault) in [(0, &faults[0]), (2, &faults[2])] {
        let fault = fault.as_ref().unwrap();
        let found = (fault.kind, fault.operation, fault.rank, fault.peer);
        assert_eq!(
            found,
            (FaultKind::Timeout, Operation::Barrier, rank, 1),
            "{fault}"
        );
        assert_eq!((fault.expected, fault.seen), (2, 1), "{fault}");
    }
    the_devices_still_work(3);
}

#[test]
fn a_rank_that_misses_an_all_gather_is_named() {
    let faults = on_ranks(3, DESC, |mut at| {
        let fault = (at.rank != 2).then(|| {
            let record = Buffer::from_slice(&at.stream, &[1u8; 16]).unwrap();
            let mut output = Buffer::<u8>::zeroed(&at.stream, 48).unwrap();
            at.endpoint
                .all_gather(&at.stream, &record, &mut output)
                .unwrap();
            faults_in_time(&at)
        });
        at.side.barrier("end").unwrap();
        fault
    });
    for fault in faults.iter().take(2) {
        let fault = fault.as_ref().unwrap();
        let found = (fault.kind, fault.operation, fault.peer);
        assert_eq!(
            found,
            (FaultKind::Timeout, Operation::GatherSignal, 2),
            "{fault}"
        );
        assert_eq!((fault.expected, fault.seen), (1, 0), "{fault}");
    }
    the_devices_still_work(3);
}

/// Nobody sums before all are there: what the others have stays as it was.
#[test]
fn a_rank_that_misses_an_all_reduce_is_named_and_nothing_is_summed() {
    let multicast = true;
    for path in [Path::Peer, Path::Multicast] {
        let faults = on_ranks(3, Desc { multicast, ..DESC }, |mut at| {
            let data = pattern(at.rank, 4, 1024);
            let data = Buffer::from_slice(&at.stream, &data).unwrap();
            let own = Place {
                rank: at.rank,
                offset: 0,
            };
            let copy = CopyPlan::new(Form::Vector, 1024);
            at.endpoint
                .put(&at.stream, Source::buffer(&data), own, copy)
                .unwrap();
            at.synchronize();
            at.side.barrier("written").unwrap();
            let fault = (at.rank != 0).then(|| {
                let plan = CollectivePlan::new(1024).with_path(path);
                at.endpoint
                    .all_reduce(&at.stream, Element::F32, 0..1024, plan)
                    .unwrap();
                faults_in_time(&at)
            });
            at.side.barrier("expired").unwrap();
            if at.rank == 0 {
                for rank in 0..3 {
                    let found = at.read(Place { rank, offset: 0 }, 1024);
                    assert_same("untouched", &found, &pattern(rank, 4, 1024));
                }
            }
            at.side.barrier("end").unwrap();
            fault
        });
        for fault in faults.iter().skip(1) {
            let fault = fault.as_ref().unwrap();
            let found = (fault.kind, fault.operation, fault.peer);
            let expected = (FaultKind::Timeout, Operation::Barrier, 0);
            assert_eq!(found, expected, "{path:?}: {fault}");
        }
    }
    the_devices_still_work(3);
}
