//! The rounds of one rank as its host knows them: which are open, whose turn it is, what abandoned ones
//! still owe. Pure; the launches follow it.
//!
//! Every kernel is launched once per round and in the order of the rounds, since the device counts its
//! launches to know the epoch.

use std::collections::VecDeque;

use crate::ep::{EpError, Operation};

/// Rounds that can be open at once.
pub(in crate::ep) const BUFFERS: u64 = 2;

/// A round that has not run its last kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    epoch: u64,
    /// The kernel that is to run next.
    next: Operation,
    abandoned: bool,
    /// The capture that it is part of. Its kernels have not run, and run as often as the graph is launched.
    capture: Option<u64>,
}

#[derive(Debug, Default)]
pub(in crate::ep) struct Ledger {
    /// Epoch of the last round begun.
    begun: u64,
    /// Oldest first; at most two.
    open: VecDeque<Round>,
}

impl Ledger {
    /// The epoch that a new round would have.
    pub(in crate::ep) fn next_epoch(&self) -> Result<u64, EpError> {
        if (self.open.len() as u64) < BUFFERS {
            return Ok(self.begun + 1);
        }
        Err(EpError::Busy {
            open: self.open.iter().map(|round| round.epoch).collect(),
        })
    }

    /// Notes that `dispatch send` of a new round was launched.
    pub(in crate::ep) fn begin(&mut self, capture: Option<u64>) {
        self.begun += 1;
        self.open.push_back(Round {
            epoch: self.begun,
            next: Operation::DispatchRecv,
            abandoned: false,
            capture,
        });
    }

    /// Refuses `operation` of `epoch` while an older round has not run it.
    pub(in crate::ep) fn turn(&self, operation: Operation, epoch: u64) -> Result<(), EpError> {
        let older = self.open.iter().take_while(|round| round.epoch < epoch);
        let waiting = older
            .into_iter()
            .find(|round| !has_run(round.next, operation));
        match waiting {
            None => Ok(()),
            Some(round) => Err(EpError::OutOfOrder {
                operation,
                epoch,
                next: round.epoch,
            }),
        }
    }

    /// Notes that `operation` of `epoch` was launched. A round ends with its last one.
    pub(in crate::ep) fn launched(&mut self, operation: Operation, epoch: u64) {
        if let Some(round) = self.open.iter_mut().find(|round| round.epoch == epoch) {
            round.next = match operation {
                Operation::Count | Operation::DispatchSend => Operation::DispatchRecv,
                Operation::DispatchRecv => Operation::CombineSend,
                Operation::CombineSend | Operation::CombineRecv => Operation::CombineRecv,
            };
        }
        if operation == Operation::CombineRecv {
            self.open.retain(|round| round.epoch != epoch);
        }
    }

    /// The capture that `epoch` is part of.
    pub(in crate::ep) fn capture(&self, epoch: u64) -> Option<u64> {
        let mut open = self.open.iter();
        open.find(|round| round.epoch == epoch)?.capture
    }

    /// Notes that nobody will call the rest of `epoch`; nothing if it has ended. A captured round owes
    /// nothing: none of it has run.
    pub(in crate::ep) fn abandon(&mut self, epoch: u64) {
        self.open
            .retain(|round| round.epoch != epoch || round.capture.is_none());
        if let Some(round) = self.open.iter_mut().find(|round| round.epoch == epoch) {
            round.abandoned = true;
        }
    }

    /// What is to be launched now for an abandoned round: all but its last kernel, as far as older rounds have
    /// come.
    pub(in crate::ep) fn owed(&self) -> Option<(Operation, u64)> {
        let owed = self.open.iter().find(|round| {
            round.abandoned
                && round.next != Operation::CombineRecv
                && self.turn(round.next, round.epoch).is_ok()
        })?;
        Some((owed.next, owed.epoch))
    }

    /// The abandoned round whose last kernel must be launched before `operation` of `epoch`: before a younger
    /// round is summed, and before its buffer is used again. Not earlier: it waits for peers that may
    /// have younger rounds to dispatch first.
    pub(in crate::ep) fn owed_before(&self, operation: Operation, epoch: u64) -> Option<u64> {
        let ends = |round: &&Round| match operation {
            Operation::Count | Operation::DispatchSend => round.epoch + BUFFERS <= epoch,
            Operation::CombineRecv => round.epoch < epoch,
            Operation::DispatchRecv | Operation::CombineSend => false,
        };
        let oldest = self.open.front().filter(ends)?;
        (oldest.abandoned && oldest.next == Operation::CombineRecv).then_some(oldest.epoch)
    }

    /// The epoch that a new round would have if what is owed before it were launched.
    pub(in crate::ep) fn coming_epoch(&self) -> u64 {
        self.begun + 1
    }
}

/// Whether a round whose next kernel is `next` has run `operation`.
fn has_run(next: Operation, operation: Operation) -> bool {
    (operation as u8) < (next as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{CombineRecv, CombineSend, DispatchRecv, DispatchSend};

    #[test]
    fn two_rounds_may_be_open_and_halves_keep_their_order() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.next_epoch(), Ok(1));
        ledger.begin(None);
        ledger.begin(None);
        assert_eq!(ledger.next_epoch(), Err(EpError::Busy { open: vec![1, 2] }));
        let out_of_order = |operation, next| {
            Err(EpError::OutOfOrder {
                operation,
                epoch: 2,
                next,
            })
        };
        assert_eq!(ledger.turn(DispatchRecv, 2), out_of_order(DispatchRecv, 1));
        ledger.launched(DispatchRecv, 1);
        assert_eq!(ledger.turn(DispatchRecv, 2), Ok(()));
        ledger.launched(DispatchRecv, 2);
        assert_eq!(ledger.turn(CombineSend, 2), out_of_order(CombineSend, 1));
        ledger.launched(CombineSend, 1);
        assert_eq!(ledger.turn(CombineSend, 2), Ok(()));
        assert_eq!(ledger.turn(CombineRecv, 2), out_of_order(CombineRecv, 1));
        ledger.launched(CombineRecv, 1);
        assert_eq!(ledger.next_epoch(), Ok(3));
        assert_eq!(ledger.turn(CombineRecv, 2), Ok(()));
    }

    #[test]
    fn an_abandoned_round_keeps_behind_older_ones() {
        let mut ledger = Ledger::default();
        ledger.begin(None);
        ledger.begin(None);
        ledger.abandon(2);
        assert_eq!(ledger.owed(), None, "round 1 is older and alive");
        for operation in [DispatchRecv, CombineSend] {
            ledger.launched(operation, 1);
            assert_eq!(ledger.owed(), Some((operation, 2)));
            ledger.launched(operation, 2);
        }
        assert_eq!(ledger.owed(), None);
        assert_eq!(ledger.owed_before(DispatchSend, 3), None, "round 1 is open");
        ledger.launched(CombineRecv, 1);
        assert_eq!(
            ledger.owed_before(DispatchSend, 3),
            None,
            "a buffer is free"
        );
        ledger.begin(None);
        assert_eq!(ledger.owed_before(CombineRecv, 3), Some(2));
        assert_eq!(ledger.owed_before(DispatchSend, 4), Some(2));
        ledger.launched(CombineRecv, 2);
        assert_eq!(ledger.owed_before(DispatchSend, 4), None);
        ledger.abandon(2);
        assert_eq!(ledger.owed(), None, "a round that ended owes nothing");
    }

    #[test]
    fn a_captured_round_that_is_dropped_owes_nothing() {
        let mut ledger = Ledger::default();
        ledger.begin(None);
        ledger.begin(Some(7));
        assert_eq!((ledger.capture(1), ledger.capture(2)), (None, Some(7)));
        ledger.launched(DispatchRecv, 1);
        ledger.abandon(2);
        assert_eq!(ledger.owed(), None);
        assert_eq!(ledger.next_epoch(), Ok(3));
    }

    #[test]
    fn a_round_abandoned_between_the_halves_of_combine_owes_only_the_second() {
        let mut ledger = Ledger::default();
        ledger.begin(None);
        ledger.launched(DispatchRecv, 1);
        ledger.launched(CombineSend, 1);
        ledger.abandon(1);
        assert_eq!(ledger.owed(), None);
        assert_eq!(ledger.owed_before(CombineRecv, 2), Some(1));
    }
}
