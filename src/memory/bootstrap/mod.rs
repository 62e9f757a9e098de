//! How ranks meet: each brings a value and gets everyone's.
//!
//! Every pair of ranks is connected: by a channel where ranks are threads of one process
//! ([`Bootstrap::in_process`]), by a socket where they are processes ([`Rendezvous`]).
//!
//! All members hold the same sequence of meetings. A meeting has a deadline; a rank that left, that gave up an earlier meeting, or that
//! is at another one, is an error on all others. After a failed meeting no further one succeeds, since the ranks may
//! disagree about how far they came, until they have agreed on who is left ([`Bootstrap::recover`]).

mod door;
mod environment;
mod link;
mod members;
mod proof;
mod recovery;
mod rendezvous;

use std::collections::VecDeque;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::members::Members;
pub use self::rendezvous::Rendezvous;

use self::link::{Frame, Link, LinkError};
pub(crate) use self::members::MOST_RANKS;
use super::MemoryError;

/// How long a meeting waits for its ranks unless told otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);

/// One rank's side of the meetings.
#[derive(Debug)]
pub struct Bootstrap {
    rank: u32,
    /// One per rank, none to itself.
    peers: Vec<Option<Peer>>,
    ranks: u32,
    members: Members,
    /// A meeting of these members failed.
    broken: bool,
    /// Meetings that these members have held.
    held: u64,
    deadline: Duration,
}

/// Another rank.
#[derive(Debug)]
struct Peer {
    link: Link,
    /// What it said, and was looked at but not taken.
    unread: VecDeque<Message>,
}

/// What a rank said, with the file that came with it.
#[derive(Debug)]
struct Message {
    said: Said,
    file: Option<Arc<OwnedFd>>,
}

/// What ranks say.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// In a meeting of the members of an epoch.
    Here {
        epoch: u64,
        meeting: u64,
        operation: String,
        value: serde_json::Value,
    },
    /// A meeting of the members of this epoch failed, so that this rank comes to none of them any more.
    GaveUp { epoch: u64 },
    /// These ranks should be the members from this epoch on.
    Proposal { epoch: u64, live: u64 },
    /// Nothing that this version understands.
    #[serde(skip)]
    Unknown(String),
}

/// A value of one rank, with the file that came with it.
pub(super) struct Brought<T> {
    pub(super) rank: u32,
    pub(super) value: T,
    pub(super) file: Option<Arc<OwnedFd>>,
}

impl Bootstrap {
    /// The sides of `ranks` ranks of this process, in order of rank.
    ///
    /// # Errors
    /// [`MemoryError::Ranks`] for none, or more than 64.
    pub fn in_process(ranks: u32) -> Result<Vec<Self>, MemoryError> {
        if !(1..=MOST_RANKS).contains(&ranks) {
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
        let peer = |link| Peer {
            link,
            unread: VecDeque::new(),
        };
        Self {
            rank,
            peers: links.into_iter().map(|link| link.map(peer)).collect(),
            ranks,
            members: Members::all(ranks),
            broken: false,
            held: 0,
            deadline,
        }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// All ranks, those that are masked included.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// The ranks that meet.
    #[must_use]
    pub fn members(&self) -> Members {
        self.members
    }

    /// Whether a meeting of these members failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Counts memberships on from what the ranks had before this bootstrap; the same on all of them.
    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.members.epoch = epoch;
        self.held = 0;
    }

    /// Sets how long later meetings wait for their ranks.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Brings `value` and returns every member's, in order of rank.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], [`MemoryError::Gone`], [`MemoryError::GaveUp`], [`MemoryError::OutOfStep`],
    /// [`MemoryError::Broken`], or [`MemoryError::Message`] for a value of another type.
    pub fn all_gather<T: Serialize + DeserializeOwned>(
        &mut self,
        operation: &'static str,
        value: T,
    ) -> Result<Vec<(u32, T)>, MemoryError> {
        let brought = self.all_gather_files(operation, value, None)?;
        Ok(brought.into_iter().map(|b| (b.rank, b.value)).collect())
    }

    /// [`Self::all_gather`], with an open file of each rank. A file reaches only ranks of one host.
    pub(super) fn all_gather_files<T: Serialize + DeserializeOwned>(
        &mut self,
        operation: &'static str,
        value: T,
        file: Option<OwnedFd>,
    ) -> Result<Vec<Brought<T>>, MemoryError> {
        if self.broken {
            return Err(MemoryError::Broken { operation });
        }
        let result = self.meet(operation, value, file.map(Arc::new));
        if result.is_err() {
            self.broken = true;
            // Peers that wait for this rank learn that it does not come.
            self.tell(&Said::GaveUp {
                epoch: self.members.epoch,
            });
        }
        result
    }

    /// Waits until all members are here.
    ///
    /// # Errors
    /// As [`Self::all_gather`].
    pub fn barrier(&mut self, operation: &'static str) -> Result<(), MemoryError> {
        self.all_gather(operation, ()).map(drop)
    }

    /// Waits until all members are here; every one succeeds, or every one fails.
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
        for (rank, report) in reports {
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
        let (epoch, meeting) = (self.members.epoch, self.held);
        self.held += 1;
        let unreadable = |rank, message: String| MemoryError::Message {
            operation,
            rank,
            message,
        };
        let said = Said::Here {
            epoch,
            meeting,
            operation: operation.to_owned(),
            value: serde_json::to_value(&value)
                .map_err(|e| unreadable(self.rank, e.to_string()))?,
        };
        let frame = said.frame(file).map_err(|e| unreadable(self.rank, e))?;
        self.send(&frame);
        let mut own = Some(Brought {
            rank: self.rank,
            value,
            file: frame.file,
        });
        let start = Instant::now();
        let mut all = Vec::with_capacity(self.peers.len());
        for rank in self.members.ranks() {
            if rank == self.rank {
                all.extend(own.take());
                continue;
            }
            let Message { said, file } = self.next_here((operation, rank), start)?;
            match said {
                Said::Here {
                    operation: found,
                    meeting: at,
                    value,
                    ..
                } if found == operation && at == meeting => {
                    let value = serde_json::from_value(value);
                    let value = value.map_err(|e| unreadable(rank, e.to_string()))?;
                    all.push(Brought { rank, value, file });
                }
                Said::Here {
                    operation: found, ..
                } => {
                    return Err(MemoryError::OutOfStep {
                        operation,
                        rank,
                        found,
                    });
                }
                Said::Unknown(message) => return Err(unreadable(rank, message)),
                Said::GaveUp { .. } | Said::Proposal { .. } => {
                    return Err(MemoryError::GaveUp { operation, rank });
                }
            }
        }
        Ok(all)
    }

    /// What `rank` says to a meeting of these members; what it said to earlier ones is dropped.
    fn next_here(
        &mut self,
        (operation, rank): (&'static str, u32),
        start: Instant,
    ) -> Result<Message, MemoryError> {
        let current = self.members.epoch;
        loop {
            let left = self.deadline.saturating_sub(start.elapsed());
            let message = self.receive(rank, left).map_err(|e| match e {
                LinkError::Closed => MemoryError::Gone { operation, rank },
                LinkError::Timeout => MemoryError::Timeout {
                    operation,
                    missing: self.missing(rank),
                    waited: start.elapsed(),
                },
            })?;
            match message.said {
                Said::Here { epoch, .. } | Said::GaveUp { epoch } if epoch < current => {}
                Said::Proposal { epoch, .. } if epoch <= current => {}
                // `recover` reads it again.
                Said::Proposal { .. } => {
                    self.unread(rank, message);
                    return Err(MemoryError::GaveUp { operation, rank });
                }
                _ => return Ok(message),
            }
        }
    }

    /// Ranks of the members other than this one.
    fn peers(&self) -> impl Iterator<Item = u32> + use<> {
        let own = self.rank;
        self.members.ranks().filter(move |&rank| rank != own)
    }

    fn peer(&mut self, rank: u32) -> Option<&mut Peer> {
        self.peers.get_mut(rank as usize)?.as_mut()
    }

    /// Sends to every member. That one is gone is noticed where something of it is waited for.
    fn send(&mut self, frame: &Frame) {
        for rank in self.peers() {
            let _ = self.peer(rank).map(|peer| peer.link.send(frame));
        }
    }

    fn tell(&mut self, said: &Said) {
        // Numbers always serialise.
        if let Ok(frame) = said.frame(None) {
            self.send(&frame);
        }
    }

    fn receive(&mut self, rank: u32, limit: Duration) -> Result<Message, LinkError> {
        let peer = self.peer(rank).ok_or(LinkError::Closed)?;
        match peer.unread.pop_front() {
            Some(message) => Ok(message),
            None => peer.link.receive(limit).map(Message::read),
        }
    }

    /// Puts a message back.
    fn unread(&mut self, rank: u32, message: Message) {
        if let Some(peer) = self.peer(rank) {
            peer.unread.push_front(message);
        }
    }

    /// The latest message of `rank` so far.
    fn peek(&mut self, rank: u32) -> Option<&Said> {
        let peer = self.peer(rank)?;
        while let Ok(frame) = peer.link.receive(Duration::ZERO) {
            peer.unread.push_back(Message::read(frame));
        }
        peer.unread.back().map(|message| &message.said)
    }

    /// Members from `first` on of which nothing has come.
    fn missing(&mut self, first: u32) -> Vec<u32> {
        let after = self.peers().filter(|&rank| rank > first);
        let mut missing = vec![first];
        for rank in after.collect::<Vec<_>>() {
            if self.peek(rank).is_none() {
                missing.push(rank);
            }
        }
        missing
    }
}

impl Said {
    fn frame(&self, file: Option<Arc<OwnedFd>>) -> Result<Frame, String> {
        let body = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        Ok(Frame { body, file })
    }
}

impl Message {
    fn read(frame: Frame) -> Self {
        let said = serde_json::from_slice(&frame.body);
        Self {
            said: said.unwrap_or_else(|e| Said::Unknown(e.to_string())),
            file: frame.file,
        }
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
                let values = side.all_gather("values", rank * 1000 + meeting);
                seen.push(values.unwrap());
            }
            side.barrier("end").unwrap();
            seen
        });
        for (rank, seen) in seen.iter().enumerate() {
            for (meeting, values) in (0u64..).zip(seen) {
                let expected: Vec<(u32, u64)> = (0..5u32)
                    .map(|r| (r, u64::from(r) * 1000 + meeting))
                    .collect();
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
            let operation = "first";
            let gone = MemoryError::Gone { operation, rank: 1 };
            // Rank 0 may have said so before rank 2 looked for rank 1.
            let told = MemoryError::GaveUp { operation, rank: 0 };
            let left = MemoryError::Gone { operation, rank: 0 };
            assert!(
                *first == gone || rank == 2 && (*first == told || *first == left),
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
