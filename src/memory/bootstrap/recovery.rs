//! The members' agreement on who is left, after a meeting or an exchange has failed (`docs/protocol.md`, "Membership").
//!
//! A rank proposes, for an epoch, the ranks that it takes to be alive, at most once per epoch, and tells everyone. It
//! decides when every rank of its proposal has made the same one for the same epoch. Otherwise it goes on at a
//! later epoch with the ranks that all proposals had in common and that answered. A rank that finds itself left out of a
//! proposal is masked: it decides nothing.

use std::time::{Duration, Instant};

use super::link::LinkError;
use super::members::Members;
use super::{Bootstrap, Said};
use crate::memory::MemoryError;

const RECOVER: &str = "recover";

/// What a peer proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proposal {
    epoch: u64,
    live: u64,
}

/// How a round of proposals ended.
enum Round {
    Decided,
    /// Try again, so.
    Next(Proposal),
}

impl Bootstrap {
    /// Agrees with the ranks that are alive on who they are, at a new membership epoch; meetings are then held among them.
    /// All of them call it, once a meeting failed or a kernel of any of them reported a fault. A rank
    /// that does not within the deadline, or has left, is masked.
    ///
    /// Ranks that succeed with the same epoch have the same members, themselves among them, whoever else fails or comes too late
    /// meanwhile. It takes at most the deadline for each rank that is lost, and one more. Where the network
    /// falls into parts for longer than the deadline, each part goes on alone.
    ///
    /// # Errors
    /// [`MemoryError::Masked`] on a rank that the others have left out: it comes back by a bootstrap of its own
    /// (`rejoin`).
    pub fn recover(&mut self) -> Result<Members, MemoryError> {
        self.broken = true;
        let mut own = Proposal {
            epoch: self.members.epoch + 1,
            live: self.members.live,
        };
        while let Round::Next(next) = self.propose(own)? {
            own = next;
        }
        self.members = Members {
            epoch: own.epoch,
            live: own.live,
        };
        self.held = 0;
        self.broken = false;
        Ok(self.members)
    }

    fn propose(&mut self, own: Proposal) -> Result<Round, MemoryError> {
        // Those that it leaves out learn it as well.
        self.tell(&Said::Proposal {
            epoch: own.epoch,
            live: own.live,
        });
        let start = Instant::now();
        let mut next = Proposal {
            epoch: own.epoch + 1,
            live: own.live,
        };
        let mut alike = true;
        for peer in self.peers().filter(|&peer| own.live >> peer & 1 == 1) {
            let left = self.deadline.saturating_sub(start.elapsed());
            match self.proposal(peer, own.epoch, left) {
                Err(_) => next.live &= !(1 << peer),
                Ok(found) => {
                    self.not_masked(peer, found)?;
                    next.live &= found.live;
                    next.epoch = next.epoch.max(found.epoch);
                    if found == own {
                        continue;
                    }
                }
            }
            alike = false;
        }
        // A peer that did not hear everyone may have gone on already.
        if alike && !self.gone_on(own)? {
            return Ok(Round::Decided);
        }
        Ok(Round::Next(next))
    }

    /// The first proposal of `peer` for `epoch` or later. One for a later epoch is found again.
    fn proposal(&mut self, peer: u32, epoch: u64, limit: Duration) -> Result<Proposal, LinkError> {
        let start = Instant::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let message = self.receive(peer, left)?;
            let Said::Proposal { epoch: found, live } = message.said else {
                continue;
            };
            if found > epoch {
                self.unread(peer, message);
            }
            if found >= epoch {
                return Ok(Proposal { epoch: found, live });
            }
        }
    }

    /// Whether a peer has proposed something later than `own` by now.
    fn gone_on(&mut self, own: Proposal) -> Result<bool, MemoryError> {
        for peer in self.peers().filter(|&peer| own.live >> peer & 1 == 1) {
            if let Some(&Said::Proposal { epoch, live }) = self.peek(peer)
                && epoch > own.epoch
            {
                self.not_masked(peer, Proposal { epoch, live })?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn not_masked(&self, rank: u32, proposal: Proposal) -> Result<(), MemoryError> {
        if proposal.live >> self.rank & 1 == 1 {
            return Ok(());
        }
        Err(MemoryError::Masked {
            operation: RECOVER,
            epoch: proposal.epoch,
            rank,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const DEADLINE: Duration = Duration::from_millis(300);

    /// Runs every rank on a thread of its own.
    fn on_ranks<T: Send>(ranks: u32, body: impl Fn(Bootstrap) -> T + Sync) -> Vec<T> {
        let sides = Bootstrap::in_process(ranks).unwrap();
        std::thread::scope(|scope| {
            let start = |mut side: Bootstrap| {
                let body = &body;
                side.set_deadline(DEADLINE);
                scope.spawn(move || body(side))
            };
            let threads: Vec<_> = sides.into_iter().map(start).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    fn members(epoch: u64, ranks: &[u32]) -> Members {
        let live = ranks.iter().fold(0, |mask, rank| mask | 1 << rank);
        Members { epoch, live }
    }

    #[test]
    fn a_rank_that_left_is_masked_and_meetings_go_on() {
        let seen = on_ranks(4, |mut side| {
            let rank = side.rank();
            if rank == 2 {
                return None;
            }
            side.barrier("first").unwrap_err();
            let agreed = side.recover().unwrap();
            let met = side.all_gather("second", rank * 10).unwrap();
            side.barrier("third").unwrap();
            Some((agreed, met))
        });
        for (rank, seen) in seen.into_iter().enumerate() {
            let agreed = members(2, &[0, 1, 3]);
            // Those that had heard of the failure late may have needed one more epoch, all of them alike.
            let expected = (rank != 2).then(|| vec![(0, 0), (1, 10), (3, 30)]);
            assert_eq!(seen.as_ref().map(|(_, met)| met.clone()), expected);
            assert!(seen.is_none_or(|(found, _)| found.live == agreed.live));
        }
    }

    #[test]
    fn a_rank_that_is_late_is_masked_and_told() {
        let (late, wait) = channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let results = on_ranks(3, |mut side| {
            if side.rank() == 1 {
                // Until the others have ended.
                let waited = wait.lock().unwrap().recv_timeout(10 * DEADLINE);
                waited.unwrap();
                return (side.recover(), Duration::ZERO);
            }
            let start = Instant::now();
            let result = side.recover();
            let took = start.elapsed();
            if side.rank() == 0 {
                side.barrier("both are done").unwrap();
                late.send(()).unwrap();
            } else {
                side.barrier("both are done").unwrap();
            }
            (result, took)
        });
        let [first, masked, last] = &results[..] else {
            unreachable!()
        };
        assert_eq!(first.0, last.0);
        assert_eq!(first.0.as_ref().map(|m| m.live), Ok(0b101));
        for (_, took) in [first, last] {
            assert!(*took < 3 * DEADLINE, "{took:?}");
        }
        let masked = masked.0.as_ref().unwrap_err();
        assert!(
            matches!(masked, MemoryError::Masked { epoch: 2.., .. }),
            "{masked}"
        );
    }

    #[test]
    fn a_rank_that_leaves_during_the_agreement_is_masked_for_all_or_none() {
        for round in 0..40u64 {
            let results = on_ranks(4, |mut side| {
                if side.rank() == 3 {
                    // Says its part to some of the others only.
                    let said = Said::Proposal {
                        epoch: 2,
                        live: 0b1111,
                    };
                    let frame = said.frame(None).unwrap();
                    for rank in 0..(round % 4) as u32 {
                        let _ = side.peer(rank).map(|peer| peer.link.send(&frame));
                    }
                    std::thread::sleep(Duration::from_micros(round * 37 % 400));
                    return None;
                }
                let mut agreed = side.recover().unwrap();
                // Some may have agreed with the rank that left; then the next meeting fails.
                while side.barrier("meet").is_err() {
                    agreed = side.recover().unwrap();
                }
                Some(agreed)
            });
            let first = results[0].unwrap();
            assert_eq!(first.live, 0b111, "round {round}");
            assert!(
                results[..3].iter().all(|r| *r == Some(first)),
                "round {round}: {results:?}"
            );
        }
    }

    #[test]
    fn ranks_that_stay_alone_go_on_alone() {
        let results = on_ranks(3, |mut side| {
            (side.rank() == 1).then(|| {
                let agreed = side.recover().unwrap();
                side.barrier("alone").unwrap();
                agreed
            })
        });
        assert_eq!(results[1].map(|m| m.live), Some(0b010));
    }

    #[test]
    fn what_was_said_before_is_not_taken_for_the_present() {
        let results = on_ranks(2, |mut side| {
            // Rank 1 is at another meeting: both fail, at different times.
            let operation = if side.rank() == 0 { "left" } else { "right" };
            side.barrier(operation).unwrap_err();
            let agreed = side.recover().unwrap();
            let seen: Vec<_> = (0..5u32)
                .map(|i| side.all_gather("after", i).unwrap())
                .collect();
            (agreed, seen)
        });
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0].0.count(), 2);
        for (i, seen) in (0u32..).zip(&results[0].1) {
            assert_eq!(*seen, [(0, i), (1, i)]);
        }
    }
}
