//! Ranks as threads: a rank stops, the others go on without it, and it comes back.

use std::time::{Duration, Instant};

use hadal::ep::throughput::Reduce;
use hadal::ep::{EpError, Fault, FaultKind, Operation};
use hadal::memory::{Bootstrap, MemoryError};

use super::communicator::{Communicator, Mode, RANKS, Until, latency_case, throughput_case};
use crate::ranks::on_ranks;

const DEADLINE: Duration = Duration::from_millis(400);
/// Of healthy rounds, and of meetings in which nobody is missing.
const LONG: Duration = Duration::from_secs(60);
/// The rank that is lost.
const LOST: u32 = 1;

/// A second bootstrap of the same ranks, whose sides wait for their threads.
fn second() -> Vec<std::sync::Mutex<Option<Bootstrap>>> {
    let sides = Bootstrap::in_process(RANKS).unwrap();
    sides
        .into_iter()
        .map(|side| std::sync::Mutex::new(Some(side)))
        .collect()
}

fn fault(result: Result<(), EpError>) -> Fault {
    match result {
        Err(EpError::Fault(fault)) => fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

/// Where the lost rank stops.
#[derive(Debug, Clone, Copy)]
enum Stops {
    BeforeDispatch,
    BeforeCombine,
}

fn loses_and_regains(mode: Mode, stops: Stops) {
    let again = second();
    on_ranks(RANKS, |mut side| {
        let rank = side.rank();
        side.set_deadline(LONG);
        let at = Communicator::open(mode, LONG, &mut side);
        for seed in 0..3 {
            at.round(seed, Until::Combined).unwrap();
        }
        let before = at.members();
        at.set_timeout(DEADLINE);
        let start = Instant::now();
        if rank == LOST {
            if matches!(stops, Stops::BeforeCombine) {
                at.round(3, Until::Dispatched).unwrap();
            }
        } else {
            let found = fault(at.round(3, Until::Combined));
            let took = start.elapsed();
            assert!(
                took < DEADLINE + Duration::from_secs(1),
                "{found}: {took:?}"
            );
            assert!(
                found.peer == LOST || found.kind == FaultKind::Poisoned,
                "{found}"
            );
            side.set_deadline(DEADLINE);
            at.recover(&mut side).unwrap();
            assert_eq!(at.masked(), [LOST], "{mode:?}");
            assert_eq!(at.members(), side.members());
            assert!(at.members().epoch() > before.epoch());
            at.set_timeout(LONG);
            side.set_deadline(LONG);
            for seed in 10..14 {
                at.round(seed, Until::Combined).unwrap();
            }
        }
        let mut side = again[rank as usize].lock().unwrap().take().unwrap();
        side.set_deadline(LONG);
        at.rejoin(&mut side).unwrap();
        assert!(at.masked().is_empty() && at.members().epoch() > before.epoch() + 1);
        assert_eq!(at.members(), side.members());
        at.set_timeout(LONG);
        for seed in 20..24 {
            at.round(seed, Until::Combined).unwrap();
        }
    });
}

#[test]
fn a_rank_that_stops_before_its_dispatch_is_masked_and_comes_back() {
    for mode in Mode::ALL {
        loses_and_regains(mode, Stops::BeforeDispatch);
    }
}

#[test]
fn a_rank_that_stops_before_its_combine_is_masked_and_comes_back() {
    for mode in Mode::ALL {
        loses_and_regains(mode, Stops::BeforeCombine);
    }
}

/// Two are lost one after the other; the last rank goes on alone.
#[test]
fn the_last_rank_goes_on_alone() {
    for mode in Mode::ALL {
        on_ranks(RANKS, |mut side| {
            let rank = side.rank();
            side.set_deadline(DEADLINE);
            let at = Communicator::open(mode, LONG, &mut side);
            for lost in [2, 0] {
                at.set_timeout(DEADLINE);
                if rank == lost {
                    return;
                }
                fault(at.round(u64::from(lost), Until::Combined));
                at.recover(&mut side).unwrap();
                at.set_timeout(LONG);
                at.round(7, Until::Combined).unwrap();
            }
            assert_eq!(at.masked(), [0, 2]);
        });
    }
}

/// A fault that no rank is lost by: all recover, nobody is masked.
#[test]
fn everybody_may_stay() {
    for mode in Mode::ALL {
        on_ranks(RANKS, |mut side| {
            side.set_deadline(LONG);
            let at = Communicator::open(mode, LONG, &mut side);
            at.round(0, Until::Combined).unwrap();
            at.set_timeout(DEADLINE);
            if side.rank() == LOST {
                // Late, but there.
                std::thread::sleep(2 * DEADLINE);
            }
            fault(at.round(1, Until::Combined));
            at.recover(&mut side).unwrap();
            assert!(at.masked().is_empty());
            at.set_timeout(LONG);
            for seed in 2..6 {
                at.round(seed, Until::Combined).unwrap();
            }
        });
    }
}

/// A rank that comes too late is told, and comes back by another bootstrap.
#[test]
fn a_late_rank_is_told_that_it_is_masked() {
    let again = second();
    let met = std::sync::Barrier::new(RANKS as usize);
    on_ranks(RANKS, |mut side| {
        let rank = side.rank();
        side.set_deadline(LONG);
        let at = Communicator::open(Mode::ALL[0], LONG, &mut side);
        at.set_timeout(DEADLINE);
        if rank == LOST {
            met.wait();
            let error = at.recover(&mut side).unwrap_err();
            let masked = matches!(error, EpError::Memory(MemoryError::Masked { .. }));
            assert!(masked, "{error}");
            // Nothing is possible before it is back.
            let refused = at.round(1, Until::Combined).unwrap_err();
            assert!(matches!(refused, EpError::Failed { .. }), "{refused}");
        } else {
            fault(at.round(0, Until::Combined));
            side.set_deadline(DEADLINE);
            at.recover(&mut side).unwrap();
            met.wait();
        }
        let mut side = again[rank as usize].lock().unwrap().take().unwrap();
        side.set_deadline(LONG);
        at.rejoin(&mut side).unwrap();
        at.set_timeout(LONG);
        at.round(2, Until::Combined).unwrap();
    });
}

/// Handles of rounds from before are refused, and dropping them disturbs nothing.
#[test]
fn rounds_from_before_are_over() {
    for mode in Mode::ALL {
        on_ranks(RANKS, |mut side| {
            side.set_deadline(LONG);
            let at = Communicator::open(mode, LONG, &mut side);
            let kept = at.begin(0);
            let dropped = at.begin(1);
            at.recover(&mut side).unwrap();
            let error = kept().unwrap_err();
            let over = matches!(
                error,
                EpError::Membership {
                    operation: Operation::CombineSend,
                    began: 1,
                    now: 2
                }
            );
            assert!(over, "{error}");
            at.round(2, Until::Combined).unwrap();
            drop(dropped);
            for seed in 3..6 {
                at.round(seed, Until::Combined).unwrap();
            }
            at.check().unwrap();
        });
    }
}

/// A kept routing is of the ranks that it was counted for.
#[test]
fn routings_from_before_are_over() {
    on_ranks(RANKS, |mut side| {
        side.set_deadline(LONG);
        let at = Communicator::open(Mode::Throughput(Reduce::PerExpert), LONG, &mut side);
        let Communicator::Throughput(_, rank) = &at else {
            unreachable!("opened above")
        };
        let case = throughput_case(Reduce::PerExpert, 0, &[]);
        let mut data = rank.round(case);
        let handle = data.dispatch().unwrap();
        let routing = handle.reuse().unwrap();
        data.combine(handle).unwrap();
        rank.synchronize(case);
        at.recover(&mut side).unwrap();
        let error = data.dispatch_again(&routing).unwrap_err();
        assert!(
            matches!(
                error,
                EpError::Membership {
                    began: 1,
                    now: 2,
                    ..
                }
            ),
            "{error}"
        );
        drop(routing);
        at.round(1, Until::Combined).unwrap();
    });
}

/// Two rounds open at once, without the masked rank.
#[test]
fn rounds_overlap_without_a_masked_rank() {
    for mode in Mode::ALL {
        on_ranks(RANKS, |mut side| {
            side.set_deadline(DEADLINE);
            if side.rank() == LOST {
                let _at = Communicator::open(mode, LONG, &mut side);
                return;
            }
            let at = Communicator::open(mode, LONG, &mut side);
            at.set_timeout(DEADLINE);
            fault(at.round(0, Until::Combined));
            at.recover(&mut side).unwrap();
            at.set_timeout(LONG);
            for seed in 0..4 {
                let first = at.begin(2 * seed);
                let second = at.begin(2 * seed + 1);
                first().unwrap();
                second().unwrap();
                at.synchronize();
            }
            at.round(9, Until::Combined).unwrap();
            assert_eq!(at.masked(), [LOST]);
            assert_eq!(at.stats_masked(), [LOST]);
        });
    }
}

/// A graph that was captured among all ranks is launched without one, and with it again.
#[test]
#[expect(unsafe_code, reason = "a graph's launch is its caller's contract")]
fn graphs_outlive_a_change_of_members() {
    let again = second();
    on_ranks(RANKS, |mut side| {
        let rank = side.rank();
        side.set_deadline(LONG);
        let at = Communicator::open(Mode::ALL[0], LONG, &mut side);
        let Communicator::Latency(combine, latency) = &at else {
            unreachable!("the first mode")
        };
        at.round(0, Until::Combined).unwrap();
        let all = latency_case(*combine, 1, &[]);
        let mut data = latency.round_of(all);
        let graph = latency.stream.capture(|stream| {
            let handle = latency.buffers.dispatch(stream, &data.input())?;
            data.combine_on(stream, handle)
        });
        let graph = graph.unwrap();
        let launch = || {
            // SAFETY: what was captured lives on, and only this stream uses it.
            unsafe { graph.launch(&latency.stream) }.unwrap();
            latency.buffers.synchronize(&latency.stream)
        };
        launch().unwrap();
        data.check_sums(|_| true);
        side.barrier("launched").unwrap();
        if rank != LOST {
            at.set_timeout(DEADLINE);
            fault(at.round(2, Until::Combined));
            side.set_deadline(DEADLINE);
            at.recover(&mut side).unwrap();
            // The lost rank's rows are not among those that the experts receive.
            data.answer_as(latency_case(*combine, 1, &[LOST]));
            launch().unwrap();
            // Experts 3 and 4 are the lost rank's.
            data.check_sums(|expert| !(3..5).contains(&expert));
            data.answer_as(all);
        }
        let mut side = again[rank as usize].lock().unwrap().take().unwrap();
        side.set_deadline(LONG);
        at.rejoin(&mut side).unwrap();
        launch().unwrap();
        data.check_sums(|_| true);
    });
}

/// A rank agrees, and is lost before the windows are there: the others agree once more.
#[test]
fn a_rank_lost_during_the_recovery_is_masked_too() {
    for mode in Mode::ALL {
        on_ranks(RANKS, |mut side| {
            side.set_deadline(LONG);
            let at = Communicator::open(mode, LONG, &mut side);
            match side.rank() {
                LOST => {
                    side.recover().unwrap();
                }
                _ => {
                    at.recover(&mut side).unwrap();
                    assert_eq!(at.masked(), [LOST]);
                    assert!(at.members().epoch() > 2);
                    at.round(0, Until::Combined).unwrap();
                }
            }
        });
    }
}

/// Faults and recoveries follow each other on one bootstrap.
#[test]
fn recovers_again_and_again() {
    for mode in [Mode::ALL[0], Mode::ALL[2]] {
        on_ranks(RANKS, |mut side| {
            side.set_deadline(LONG);
            let at = Communicator::open(mode, LONG, &mut side);
            for turn in 0..20 {
                at.recover(&mut side).unwrap();
                assert_eq!(at.members().epoch(), turn + 2);
                at.round(turn, Until::Combined).unwrap();
            }
        });
    }
}

/// A communicator of a bootstrap that has lost a rank already, and one that the rank joins later.
#[test]
fn communicators_are_made_without_a_rank() {
    for mode in Mode::ALL {
        let again = second();
        on_ranks(RANKS, |mut side| {
            let rank = side.rank();
            side.set_deadline(LONG);
            let before = (rank != LOST).then(|| {
                side.recover().unwrap();
                let at = Communicator::open(mode, LONG, &mut side);
                assert_eq!((at.masked(), at.members()), (vec![LOST], side.members()));
                at.round(0, Until::Combined).unwrap();
                at
            });
            drop(side);
            let mut side = again[rank as usize].lock().unwrap().take().unwrap();
            side.set_deadline(LONG);
            let at = match before {
                Some(at) => {
                    at.rejoin(&mut side).unwrap();
                    at
                }
                None => Communicator::open(mode, LONG, &mut side),
            };
            assert!(at.masked().is_empty());
            at.round(1, Until::Combined).unwrap();
        });
    }
}
