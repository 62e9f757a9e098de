//! The order in which a rank launches its kernels: the calls that all ranks make, and what a rank makes of them
//! that drops a handle ("Abandoned rounds").

/// A kernel of a round. In throughput mode `Send` is the count and the send together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Send,
    Receive,
    Return,
    Sum,
}

use Phase::{Receive, Return, Send, Sum};

/// A launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) phase: Phase,
    pub(crate) epoch: u8,
    pub(crate) abandoned: bool,
}

/// When an abandoned round waits for the peers' results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// As late as its own rank's next launches allow.
    Late,
    /// At once: a planted error.
    AtOnce,
}

pub(crate) const ROUNDS: u8 = 4;

fn call(phase: Phase, epoch: u8) -> Call {
    Call {
        phase,
        epoch,
        abandoned: false,
    }
}

/// One round after another.
pub(crate) fn in_turn() -> Vec<Call> {
    (1..=ROUNDS)
        .flat_map(|epoch| [Send, Receive, Return, Sum].map(|phase| call(phase, epoch)))
        .collect()
}

/// Two rounds open at a time: the next is dispatched before the last is combined.
pub(crate) fn overlapped() -> Vec<Call> {
    let mut calls = vec![call(Send, 1), call(Receive, 1)];
    for epoch in 1..=ROUNDS {
        if epoch < ROUNDS {
            calls.extend([call(Send, epoch + 1), call(Receive, epoch + 1)]);
        }
        calls.extend([call(Return, epoch), call(Sum, epoch)]);
    }
    calls
}

/// The halves as far apart as they may be.
pub(crate) fn halves() -> Vec<Call> {
    let pair = |first: u8| {
        [Send, Receive, Return, Sum]
            .into_iter()
            .flat_map(move |phase| [call(phase, first), call(phase, first + 1)])
    };
    (1..=ROUNDS).step_by(2).flat_map(pair).collect()
}

/// Three rounds open at a time, which the hosts refuse.
pub(crate) fn three_open() -> Vec<Call> {
    let combined = |epoch| [call(Return, epoch), call(Sum, epoch)];
    let mut calls = vec![call(Send, 1), call(Send, 2), call(Receive, 1)];
    calls.extend([call(Send, 3), call(Receive, 2)]);
    calls.extend(combined(1));
    calls.extend([call(Send, 4), call(Receive, 3), call(Receive, 4)]);
    calls.extend((2..=ROUNDS).flat_map(combined));
    calls
}

/// `calls` of a rank that drops the handle of `dropped` once it has made `at` of them.
pub(crate) fn dropping(calls: &[Call], dropped: u8, at: usize, owed: Owed) -> Vec<Call> {
    let mut made: Vec<Call> = calls[..at].to_vec();
    owe(&mut made, dropped, owed);
    for &next in &calls[at..] {
        if next.epoch == dropped {
            continue;
        }
        // A buffer cannot be used again, nor a younger round summed, before the round has ended.
        let ends = (next.phase == Sum && next.epoch > dropped)
            || (next.phase == Send && next.epoch >= dropped + 2);
        if ends && !has(&made, Sum, dropped) {
            made.push(abandoned(Sum, dropped));
        }
        made.push(next);
        owe(&mut made, dropped, owed);
    }
    made
}

fn abandoned(phase: Phase, epoch: u8) -> Call {
    Call {
        phase,
        epoch,
        abandoned: true,
    }
}

fn has(made: &[Call], phase: Phase, epoch: u8) -> bool {
    made.iter()
        .any(|call| (call.phase, call.epoch) == (phase, epoch))
}

/// Launches what the dropped round owes, as far as older rounds have come.
fn owe(made: &mut Vec<Call>, dropped: u8, owed: Owed) {
    let phases: &[Phase] = match owed {
        Owed::Late => &[Receive, Return],
        Owed::AtOnce => &[Receive, Return, Sum],
    };
    for &phase in phases {
        let older = (1..dropped).all(|epoch| has(made, phase, epoch));
        if older && has(made, Send, dropped) && !has(made, phase, dropped) {
            made.push(abandoned(phase, dropped));
        }
    }
}

#[test]
fn a_dropped_round_is_ended_late() {
    let made = dropping(&overlapped(), 1, 2, Owed::Late);
    let made: Vec<_> = made
        .iter()
        .map(|c| (c.phase, c.epoch, c.abandoned))
        .collect();
    assert_eq!(
        made[..9],
        [
            (Send, 1, false),
            (Receive, 1, false),
            (Return, 1, true),
            (Send, 2, false),
            (Receive, 2, false),
            (Sum, 1, true),
            (Send, 3, false),
            (Receive, 3, false),
            (Return, 2, false),
        ]
    );
}
