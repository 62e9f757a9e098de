//! `docs/protocol.md` as a model: every interleaving of three ranks with two buffers, up to two rounds open,
//! dropped handles and one fault, in both modes, and of the NVLink primitives. Nobody hangs, nobody reads a row of another round, nobody sees a
//! signal from the future; and the same search finds what is planted.
//!
//! The model follows the page, not the kernels.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a model of a few bytes, and a failure is a failed test"
)]

mod agreement;
mod calls;
mod machine;
mod modes;
mod nvlink;

use calls::{Call, Owed, Phase, dropping, halves, in_turn, overlapped, three_open};
use machine::{RANKS, System, Wrong};
use modes::{Mode, Mutant, system};

const MODES: [Mode; 2] = [Mode::Latency, Mode::Throughput];

fn orders() -> [(&'static str, Vec<Call>); 3] {
    [
        ("in turn", in_turn()),
        ("overlapped", overlapped()),
        ("halves", halves()),
    ]
}

fn all(calls: &[Call]) -> [Vec<Call>; RANKS] {
    [(); RANKS].map(|()| calls.to_vec())
}

#[track_caller]
fn ends_well(what: &str, system: &System) -> usize {
    match system.search() {
        Ok(states) => states,
        Err(found) => panic!("{what}: {found}"),
    }
}

#[test]
fn every_order_of_calls_ends_well() {
    for mode in MODES {
        for (name, calls) in orders() {
            let system = system(mode, all(&calls), Mutant::None);
            let states = ends_well(&format!("{mode:?}, {name}"), &system);
            assert!(states > 50_000, "{mode:?}, {name}: only {states} states");
        }
    }
}

/// Rank 0 drops the handle of round 1 or 2 after each of its calls.
#[test]
fn a_dropped_handle_stops_nobody() {
    for mode in MODES {
        for (name, calls) in [("in turn", in_turn()), ("overlapped", overlapped())] {
            for (dropped, at) in drops(&calls) {
                let mut ranks = all(&calls);
                ranks[0] = dropping(&calls, dropped, at, Owed::Late);
                let what = format!("{mode:?}, {name}, round {dropped} dropped after {at} calls");
                ends_well(&what, &system(mode, ranks, Mutant::None));
            }
        }
    }
}

/// Every epoch that buffers are used again after, with every number of calls after which its handle exists.
fn drops(calls: &[Call]) -> Vec<(u8, usize)> {
    let position = |phase, epoch| {
        let found = calls
            .iter()
            .position(|call| (call.phase, call.epoch) == (phase, epoch));
        found.expect("every round has every call") + 1
    };
    (1..=2)
        .flat_map(|epoch| {
            let open = position(Phase::Send, epoch)..position(Phase::Sum, epoch);
            open.map(move |at| (epoch, at))
        })
        .collect()
}

/// Rank 0 or another one faults, or vanishes, anywhere; with and without a handle that rank 0 drops.
#[test]
fn one_fault_ends_every_rank() {
    for mode in MODES {
        for (name, calls) in [("in turn", in_turn()), ("overlapped", overlapped())] {
            for victim in [0, 1] {
                let mut ranks = all(&calls);
                if victim == 1 {
                    ranks[0] = dropping(&calls, 1, 2, Owed::Late);
                }
                let system = System {
                    victims: vec![victim],
                    ..system(mode, ranks, Mutant::None)
                };
                ends_well(
                    &format!("{mode:?}, {name}, fault of rank {victim}"),
                    &system,
                );
            }
        }
    }
}

/// What the search must find, or it proves nothing. In latency mode the hosts' limit of two open rounds
/// already implies the credits, so they are judged with three.
#[test]
fn planted_errors_are_found() {
    ends_well(
        "three rounds open",
        &system(Mode::Latency, all(&three_open()), Mutant::None),
    );
    for mode in MODES {
        for mutant in [Mutant::NoCredit, Mutant::EarlyCredit, Mutant::ParityOnly] {
            let found = [overlapped(), three_open()].into_iter().find_map(|calls| {
                let system = system(mode, all(&calls), mutant);
                system.search().err()
            });
            let found = found.unwrap_or_else(|| panic!("{mode:?}: {mutant:?} was not found"));
            assert_ne!(
                found.wrong,
                Wrong::Deadlock,
                "{mode:?}, {mutant:?}: {found}"
            );
        }
    }
}

/// A round that is dropped early must not wait for peers that still have a younger one to dispatch.
#[test]
fn an_abandoned_round_that_waits_at_once_is_a_deadlock() {
    for mode in MODES {
        let calls = overlapped();
        let mut ranks = all(&calls);
        ranks[0] = dropping(&calls, 1, 2, Owed::AtOnce);
        let found = system(mode, ranks, Mutant::None).search().err();
        let wrong = found.map(|found| found.wrong);
        assert_eq!(wrong, Some(Wrong::Deadlock), "{mode:?}");
    }
}

/// Why the order of calls is part of the contract.
#[test]
fn ranks_that_call_in_different_orders_wait_for_each_other() {
    for mode in MODES {
        let mut ranks = all(&overlapped());
        ranks[0] = in_turn();
        let found = system(mode, ranks, Mutant::None).search().err();
        let wrong = found.map(|found| found.wrong);
        assert_eq!(wrong, Some(Wrong::Deadlock), "{mode:?}");
    }
}
