//! The rounds of one rank as its host knows them: which are open, whose turn it is, what abandoned ones
//! still owe. Pure; the launches follow it.
//!
//! Every kernel is launched once per round and in the order of the rounds, since the device counts its
//! launches to know the epoch.

use std::collections::VecDeque;

use super::plan::BUFFERS;
use crate::ep::{EpError, Operation};

/// A round that has not run its last kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    epoch: u64,
    /// The kernel that is to run next.
    next: Operation,
    abandoned: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Epoch of the last round begun.
    begun: u64,
    /// Oldest first; at most two.
    open: VecDeque<Round>,
}

impl Ledger {
    /// The epoch that a new round would have.
    pub(super) fn next_epoch(&self) -> Result<u64, EpError> {
        if (self.open.len() as u64) < BUFFERS {
            return Ok(self.begun + 1);
        }
        Err(EpError::Busy {
            open: self.open.iter().map(|round| round.epoch).collect(),
        })
    }

    /// Notes that `dispatch send` of a new round was launched.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
        self.open.push_back(Round {
            epoch: self.begun,
            next: Operation::DispatchRecv,
            abandoned: false,
        });
    }

    /// Refuses `operation` of `epoch` while an older round has not run it.
    pub(super) fn turn(&self, operation: Operation, epoch: u64) -> Result<(), EpError> {
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
    pub(super) fn launched(&mut self, operation: Operation, epoch: u64) {
        if let Some(round) = self.open.iter_mut().find(|round| round.epoch == epoch) {
            round.next = match operation {
                Operation::DispatchSend => Operation::DispatchRecv,
                Operation::DispatchRecv => Operation::CombineSend,
                Operation::CombineSend | Operation::CombineRecv => Operation::CombineRecv,
            };
        }
        if operation == Operation::CombineRecv {
            self.open.retain(|round| round.epoch != epoch);
        }
    }

    /// Notes that nobody will call the rest of `epoch`; nothing if it has ended.
    pub(super) fn abandon(&mut self, epoch: u64) {
        if let Some(round) = self.open.iter_mut().find(|round| round.epoch == epoch) {
            round.abandoned = true;
        }
    }

    /// What is to be launched now for an abandoned round: only the oldest round can be.
    pub(super) fn owed(&self) -> Option<(Operation, u64)> {
        let oldest = self.open.front().filter(|round| round.abandoned)?;
        Some((oldest.next, oldest.epoch))
    }
}

/// Whether a round whose next kernel is `next` has run `operation`.
fn has_run(next: Operation, operation: Operation) -> bool {
    (operation as u8) < (next as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{CombineRecv, CombineSend, DispatchRecv};

    #[test]
    fn two_rounds_may_be_open_and_halves_keep_their_order() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.next_epoch(), Ok(1));
        ledger.begin();
        ledger.begin();
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
    fn an_abandoned_round_owes_its_rest_once_it_is_the_oldest() {
        let mut ledger = Ledger::default();
        ledger.begin();
        ledger.begin();
        ledger.abandon(2);
        assert_eq!(ledger.owed(), None, "round 1 is older and alive");
        for operation in [DispatchRecv, CombineSend, CombineRecv] {
            ledger.launched(operation, 1);
        }
        for operation in [DispatchRecv, CombineSend, CombineRecv] {
            assert_eq!(ledger.owed(), Some((operation, 2)));
            ledger.launched(operation, 2);
        }
        assert_eq!(ledger.owed(), None);
        ledger.abandon(2);
        assert_eq!(ledger.owed(), None, "a round that ended owes nothing");
    }

    #[test]
    fn a_round_abandoned_between_the_halves_of_combine_owes_only_the_second() {
        let mut ledger = Ledger::default();
        ledger.begin();
        ledger.launched(DispatchRecv, 1);
        ledger.launched(CombineSend, 1);
        ledger.abandon(1);
        assert_eq!(ledger.owed(), Some((CombineRecv, 1)));
    }
}
