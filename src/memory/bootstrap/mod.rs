//! How ranks meet: each brings a value and gets everyone's.
//!
//! Every pair of ranks is connected: by a channel where ranks are threads of one process
//! ([`Bootstrap::in_process`]), by a socket where they are processes ([`Rendezvous`]).
//!
//! All ranks hold the same sequence of meetings. A meeting has a deadline; a rank that left, or that is at
//! another meeting, is an error on all others. A rank whose meeting failed leaves: no further one succeeds,
//! since the ranks may disagree about how far they came.

mod door;
mod environment;
mod link;
mod proof;
mod rendezvous;

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::rendezvous::Rendezvous;

use self::link::{Frame, Link, LinkError};
use super::MemoryError;

/// How long a meeting waits for its ranks unless told otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);

/// One rank's side of the meetings.
#[derive(Debug)]
pub struct Bootstrap {
    rank: u32,
    /// One per rank, none to itself; none at all after a failure.
    links: Vec<Option<Link>>,
    ranks: u32,
    /// Meetings that this rank has held.
    held: u64,
    deadline: Duration,
}

/// What is said in a meeting.
#[derive(Serialize, Deserialize)]
struct Contribution<T> {
    meeting: u64,
    operation: String,
    value: T,
}

/// A value of one rank, with the file that came with it.
pub(super) struct Brought<T> {
    pub(super) value: T,
    pub(super) file: Option<Arc<OwnedFd>>,
}

impl Bootstrap {
    /// The sides of `ranks` ranks of this process, in order of rank.
    ///
    /// # Errors
    /// [`MemoryError::Ranks`] for none.
    pub fn in_process(ranks: u32) -> Result<Vec<Self>, MemoryError> {
        if ranks == 0 {
            return Err(MemoryError::Ranks { rank: 0, ranks });
        }
        let mut links: Vec<Vec<Option<Link>>> = Vec::new();
        for _ in 0..ranks {
            let mut own = Vec::new();
            for earlier in &mut links {
                let [left, right] = Link::pair();
                earlier.push(Some(left));
                own.push(Some(right));
            }
            own.push(None);
            links.push(own);
        }
        let side = |(rank, links)| Self::of(rank, links, DEFAULT_DEADLINE);
        Ok((0..).zip(links).map(side).collect())
    }

    fn of(rank: u32, links: Vec<Option<Link>>, deadline: Duration) -> Self {
        let ranks = u32::try_from(links.len()).unwrap_or(u32::MAX);
        Self {
            rank,
            links,
            ranks,
            held: 0,
            deadline,
        }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// All ranks.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Sets how long later meetings wait for their ranks.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Brings `value` and returns everyone's, in order of rank.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], [`MemoryError::Gone`], [`MemoryError::OutOfStep`],
    /// [`MemoryError::Broken`], or [`MemoryError::Message`] for a value of another type.
    pub fn all_gather<T: Serialize + DeserializeOwned>(
        &mut self,
        operation: &'static str,
        value: T,
    ) -> Result<Vec<T>, MemoryError> {
        let brought = self.all_gather_files(operation, value, None)?;
        Ok(brought.into_iter().map(|b| b.value).collect())
    }

    /// [`Self::all_gather`], with an open file of each rank. A file reaches only ranks of one host.
    pub(super) fn all_gather_files<T: Serialize + DeserializeOwned>(
        &mut self,
        operation: &'static str,
        value: T,
        file: Option<OwnedFd>,
    ) -> Result<Vec<Brought<T>>, MemoryError> {
        let result = self.meet(operation, value, file.map(Arc::new));
        if result.is_err() {
            // Peers that wait for this rank learn that it is gone.
            self.links.clear();
        }
        result
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    pub fn barrier(&mut self, operation: &'static str) -> Result<(), MemoryError> {
        self.all_gather(operation, ()).map(drop)
    }

    /// Waits until all ranks are here; every rank succeeds, or every rank fails.
    ///
    /// # Errors
    /// The error of `result` on this rank; [`MemoryError::Peer`] for that of another; a failed meeting.
    pub fn agree<T, E: From<MemoryError> + Display>(
        &mut self,
        operation: &'static str,
        result: Result<T, E>,
    ) -> Result<T, E> {
        let message = result.as_ref().err().map(ToString::to_string);
        let reports = self.all_gather(operation, message)?;
        let value = result?;
        for (rank, report) in (0u32..).zip(reports) {
            if let Some(message) = report {
                return Err(E::from(MemoryError::Peer {
                    operation,
                    rank,
                    message,
                }));
            }
        }
        Ok(value)
    }

    fn meet<T: Serialize + DeserializeOwned>(
        &mut self,
        operation: &'static str,
        value: T,
        file: Option<Arc<OwnedFd>>,
    ) -> Result<Vec<Brought<T>>, MemoryError> {
        if self.links.is_empty() {
            return Err(MemoryError::Broken { operation });
        }
        let meeting = self.held;
        self.held += 1;
        let contribution = Contribution {
            meeting,
            operation: operation.to_owned(),
            value,
        };
        let unreadable = |rank, e: serde_json::Error| MemoryError::Message {
            operation,
            rank,
            message: e.to_string(),
        };
        let body = serde_json::to_vec(&contribution).map_err(|e| unreadable(self.rank, e))?;
        let frame = Frame { body, file };
        for link in self.links.iter_mut().flatten() {
            // That a rank is gone is said below, after what it may have sent before.
            let _ = link.send(&frame);
        }
        let mut own = Some(Brought {
            value: contribution.value,
            file: frame.file,
        });
        let start = Instant::now();
        let mut all = Vec::with_capacity(self.links.len());
        for (rank, link) in (0u32..).zip(&self.links) {
            let Some(link) = link else {
                all.extend(own.take());
                continue;
            };
            let frame = self.receive(link, (operation, rank), start)?;
            let said: Contribution<serde_json::Value> =
                serde_json::from_slice(&frame.body).map_err(|e| unreadable(rank, e))?;
            if said.operation != operation || said.meeting != meeting {
                return Err(MemoryError::OutOfStep {
                    operation,
                    rank,
                    found: said.operation,
                });
            }
            all.push(Brought {
                value: serde_json::from_value(said.value).map_err(|e| unreadable(rank, e))?,
                file: frame.file,
            });
        }
        Ok(all)
    }

    fn receive(
        &self,
        link: &Link,
        (operation, rank): (&'static str, u32),
        start: Instant,
    ) -> Result<Frame, MemoryError> {
        let left = self.deadline.saturating_sub(start.elapsed());
        link.receive(left).map_err(|e| match e {
            LinkError::Closed => MemoryError::Gone { operation, rank },
            LinkError::Timeout => MemoryError::Timeout {
                operation,
                missing: self.missing(rank),
                waited: start.elapsed(),
            },
        })
    }

    /// Ranks from `first` on of which nothing has come.
    fn missing(&self, first: u32) -> Vec<u32> {
        let after = (0u32..).zip(&self.links).skip(first as usize + 1);
        let silent = after.filter(|(_, link)| {
            let received = link.as_ref().map(|link| link.receive(Duration::ZERO));
            matches!(received, Some(Err(_)))
        });
        std::iter::once(first)
            .chain(silent.map(|(rank, _)| rank))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_ranks<T: Send>(ranks: u32, body: impl Fn(Bootstrap) -> T + Sync) -> Vec<T> {
        let sides = Bootstrap::in_process(ranks).unwrap();
        std::thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> = sides
                .into_iter()
                .map(|side| scope.spawn(move || body(side)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn everyone_gets_everything_in_order_of_rank_meeting_after_meeting() {
        let seen = on_ranks(5, |mut side| {
            let rank = u64::from(side.rank());
            let mut seen = Vec::new();
            for meeting in 0..50u64 {
                let values = side.all_gather("values", rank * 1000 + meeting).unwrap();
                seen.push(values);
            }
            side.barrier("end").unwrap();
            seen
        });
        for (rank, seen) in seen.iter().enumerate() {
            for (meeting, values) in (0u64..).zip(seen) {
                let expected: Vec<u64> = (0..5).map(|r| r * 1000 + meeting).collect();
                assert_eq!(values, &expected, "rank {rank}, meeting {meeting}");
            }
        }
    }

    #[test]
    fn a_rank_that_left_is_named_and_nothing_works_afterwards() {
        let errors = on_ranks(3, |mut side| {
            if side.rank() == 1 {
                return None;
            }
            let first = side.barrier("first").unwrap_err();
            Some((first, side.barrier("second").unwrap_err()))
        });
        for (rank, errors) in errors.iter().enumerate() {
            let Some((first, second)) = errors else {
                continue;
            };
            // Rank 0 may have left, after it had learned, before rank 2 looked for rank 1.
            let gone = |rank| MemoryError::Gone {
                operation: "first",
                rank,
            };
            assert!(
                *first == gone(1) || rank == 2 && *first == gone(0),
                "{first}"
            );
            let broken = MemoryError::Broken {
                operation: "second",
            };
            assert_eq!(*second, broken);
        }
    }

    #[test]
    fn a_rank_that_does_not_come_is_a_timeout_that_names_it() {
        let mut sides = Bootstrap::in_process(2).unwrap();
        let absent = sides.pop().unwrap();
        let mut side = sides.pop().unwrap();
        side.set_deadline(Duration::from_millis(30));
        let error = side.barrier("meet").unwrap_err();
        let MemoryError::Timeout {
            operation: "meet",
            missing,
            waited,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(missing, [absent.rank()]);
        assert!(waited >= Duration::from_millis(30), "{waited:?}");
    }

    #[test]
    fn all_ranks_agree_or_all_fail() {
        let results = on_ranks(3, |mut side| {
            let rank = side.rank();
            let first = side.agree::<_, MemoryError>("first", Ok(rank));
            let own = if rank == 2 {
                Err(MemoryError::Ranks { rank: 2, ranks: 77 })
            } else {
                Ok(rank)
            };
            (first, side.agree("second", own))
        });
        for (rank, (first, second)) in (0u32..).zip(results) {
            assert_eq!(first, Ok(rank));
            let told = MemoryError::Peer {
                operation: "second",
                rank: 2,
                message: MemoryError::Ranks { rank: 2, ranks: 77 }.to_string(),
            };
            let own = MemoryError::Ranks { rank: 2, ranks: 77 };
            assert_eq!(second, Err(if rank == 2 { own } else { told }));
        }
    }

    #[test]
    fn ranks_at_different_meetings_are_told() {
        let errors = on_ranks(2, |mut side| {
            let operation = if side.rank() == 0 { "left" } else { "right" };
            side.barrier(operation).unwrap_err()
        });
        assert!(
            errors
                .iter()
                .any(|e| matches!(e, MemoryError::OutOfStep { .. })),
            "{errors:?}"
        );
        let error = Bootstrap::in_process(0).unwrap_err();
        assert_eq!(error, MemoryError::Ranks { rank: 0, ranks: 0 });
    }
}
