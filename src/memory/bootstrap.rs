//! How ranks meet: each brings a value and gets everyone's. In-process, ranks being threads.
//!
//! All ranks hold the same sequence of meetings. A meeting has a deadline; a rank that left, or that is at
//! another meeting, is an error on all others. After a failed meeting no further one succeeds, since the
//! ranks may disagree about how far they came.

use std::any::Any;
use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::MemoryError;

/// How long a meeting waits for its ranks unless told otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(120);

/// One rank's side of the meetings.
#[derive(Debug)]
pub struct Bootstrap {
    rank: u32,
    shared: Arc<Shared>,
    /// Meetings that this rank has held.
    held: u64,
    deadline: Duration,
}

#[derive(Debug)]
struct Shared {
    room: Mutex<Room>,
    changed: Condvar,
}

#[derive(Debug)]
struct Room {
    /// The meeting that is open.
    meeting: u64,
    brought: Vec<Option<Brought>>,
    /// Ranks that have taken the values of the open meeting.
    taken: usize,
    gone: Vec<bool>,
    broken: bool,
}

#[derive(Debug, Clone)]
struct Brought {
    operation: &'static str,
    value: Arc<dyn Any + Send + Sync>,
}

impl Bootstrap {
    /// The sides of `ranks` ranks of this process, in order of rank.
    ///
    /// # Errors
    /// [`MemoryError::Ranks`] for none.
    pub fn in_process(ranks: u32) -> Result<Vec<Self>, MemoryError> {
        if ranks == 0 {
            return Err(MemoryError::Ranks { ranks });
        }
        let count = ranks as usize;
        let shared = Arc::new(Shared {
            room: Mutex::new(Room {
                meeting: 0,
                brought: vec![None; count],
                taken: 0,
                gone: vec![false; count],
                broken: false,
            }),
            changed: Condvar::new(),
        });
        let side = |rank| Self {
            rank,
            shared: Arc::clone(&shared),
            held: 0,
            deadline: DEFAULT_DEADLINE,
        };
        Ok((0..ranks).map(side).collect())
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// All ranks.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.shared.lock().gone.len().try_into().unwrap_or(u32::MAX)
    }

    /// Sets how long later meetings wait for their ranks.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Brings `value` and returns everyone's, in order of rank.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], [`MemoryError::Gone`], [`MemoryError::OutOfStep`], [`MemoryError::Broken`].
    pub fn all_gather<T: Any + Send + Sync>(
        &mut self,
        operation: &'static str,
        value: T,
    ) -> Result<Vec<Arc<T>>, MemoryError> {
        let meeting = self.held;
        self.held += 1;
        let brought = Brought {
            operation,
            value: Arc::new(value),
        };
        let result = self.meet(meeting, brought);
        if result.is_err() {
            self.shared.lock().broken = true;
        }
        self.shared.changed.notify_all();
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
        for (rank, report) in (0u32..).zip(&reports) {
            if let Some(message) = report.as_ref() {
                return Err(E::from(MemoryError::Peer {
                    operation,
                    rank,
                    message: message.clone(),
                }));
            }
        }
        Ok(value)
    }

    fn meet<T: Any + Send + Sync>(
        &self,
        meeting: u64,
        brought: Brought,
    ) -> Result<Vec<Arc<T>>, MemoryError> {
        let operation = brought.operation;
        // Slow ranks may still be taking the values of the previous meeting.
        let room = self.shared.lock();
        let open = |room: &Room| room.meeting == meeting;
        let mut room = self.wait(room, operation, open, |_| Vec::new())?;
        room.brought[self.rank as usize] = Some(brought);
        self.shared.changed.notify_all();
        let missing = |room: &Room| {
            let absent = (0u32..).zip(&room.brought).filter(|(_, b)| b.is_none());
            absent.map(|(rank, _)| rank).collect::<Vec<_>>()
        };
        let complete = |room: &Room| room.brought.iter().all(Option::is_some);
        let mut room = self.wait(room, operation, complete, missing)?;
        let values = take(&room, operation)?;
        room.taken += 1;
        if room.taken == room.brought.len() {
            room.taken = 0;
            room.meeting += 1;
            room.brought.fill(None);
        }
        Ok(values)
    }

    /// Waits for `done`; `missing` tells, in case it never is, whose turn it was.
    fn wait<'a>(
        &'a self,
        mut room: MutexGuard<'a, Room>,
        operation: &'static str,
        done: impl Fn(&Room) -> bool,
        missing: impl Fn(&Room) -> Vec<u32>,
    ) -> Result<MutexGuard<'a, Room>, MemoryError> {
        let start = Instant::now();
        while !done(&room) {
            if room.broken {
                return Err(MemoryError::Broken { operation });
            }
            let missing = missing(&room);
            if let Some(&rank) = missing.iter().find(|&&rank| room.gone[rank as usize]) {
                return Err(MemoryError::Gone { operation, rank });
            }
            let waited = start.elapsed();
            let Some(left) = self.deadline.checked_sub(waited).filter(|l| !l.is_zero()) else {
                return Err(MemoryError::Timeout {
                    operation,
                    missing,
                    waited,
                });
            };
            let changed = self.shared.changed.wait_timeout(room, left);
            room = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(room)
    }
}

/// The values of the open meeting, checked to be of this operation.
fn take<T: Any + Send + Sync>(
    room: &Room,
    operation: &'static str,
) -> Result<Vec<Arc<T>>, MemoryError> {
    let mut values = Vec::with_capacity(room.brought.len());
    for (rank, brought) in (0u32..).zip(room.brought.iter().flatten()) {
        let out_of_step = MemoryError::OutOfStep {
            operation,
            rank,
            found: brought.operation,
        };
        if brought.operation != operation {
            return Err(out_of_step);
        }
        let value = Arc::clone(&brought.value).downcast();
        values.push(value.map_err(|_| out_of_step)?);
    }
    Ok(values)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Room> {
        // A rank that panicked is seen as gone; the room itself is valid after any panic.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        self.shared.lock().gone[self.rank as usize] = true;
        self.shared.changed.notify_all();
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
                seen.push(values.iter().map(|v| **v).collect::<Vec<_>>());
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
        for (first, second) in errors.iter().flatten() {
            let named = MemoryError::Gone {
                operation: "first",
                rank: 1,
            };
            let told = MemoryError::Broken { operation: "first" };
            assert!(*first == named || *first == told, "{first}");
            assert!(errors.iter().flatten().any(|(first, _)| *first == named));
            assert!(
                matches!(
                    second,
                    MemoryError::Broken { .. } | MemoryError::Gone { .. }
                ),
                "{second}"
            );
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
                Err(MemoryError::Ranks { ranks: 77 })
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
                message: MemoryError::Ranks { ranks: 77 }.to_string(),
            };
            let own = MemoryError::Ranks { ranks: 77 };
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
        assert_eq!(error, MemoryError::Ranks { ranks: 0 });
    }
}
