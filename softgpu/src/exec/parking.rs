//! Where parked clusters stand.
//!
//! Clusters that watch the same words with the same values share a lot, so that looking at them costs
//! one look however many they are: a grid whose CTAs all wait for one flag is one comparison.
//!
//! Clusters that have to run now and then for the sake of a clock or a count get their turns in small
//! batches. After a batch the machine rests for many times as long as the batch took, so that a
//! machine which only spins stays nearly free whatever its loops do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cta::LaunchState;
use super::scheduler::Entry;
use super::warp::stir;
use super::watch::{Watch, Word};

/// Clusters that time alone makes run, at a time.
const BATCH: usize = 32;

/// How many times as long as such turns took none is given.
const REST: u32 = 64;

/// A turn that took longer was interrupted.
const LONGEST_TURN: Duration = Duration::from_millis(2);

/// Why a parked cluster runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Changed,
    Time,
}

/// A parked cluster.
struct Member {
    entry: Box<Entry>,
    until: Option<u64>,
    launch: Option<Arc<LaunchState>>,
}

impl Member {
    fn due(&self, now: u64) -> Option<Reason> {
        let over = |launch: &Arc<LaunchState>| launch.dependence.is_over();
        if self.launch.as_ref().is_some_and(over) {
            return Some(Reason::Changed);
        }
        let late = self.until.is_some_and(|until| until <= now);
        late.then_some(Reason::Time)
    }
}

/// Clusters that watch the same.
struct Lot {
    hash: u64,
    words: Vec<Word>,
    members: Vec<Member>,
    /// The first time at which one has to run; a bound from below.
    soonest: u64,
    /// One watches the end of a launch.
    dependent: bool,
}

/// All parked clusters.
#[derive(Default)]
pub(super) struct Parking {
    lots: Vec<Lot>,
    /// Lots by the hash of their words.
    index: HashMap<u64, usize>,
    count: usize,
    /// Where the next glance begins.
    glance: usize,
    rest_until: Option<Instant>,
}

impl Parking {
    /// Clusters in it.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Lots, each of which is looked at on its own.
    pub(super) fn lots(&self) -> usize {
        self.lots.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let members = self.lots.iter().flat_map(|lot| &lot.members);
        members.map(|member| &*member.entry)
    }

    /// Whether a clock or a count may end the wait of one.
    pub(super) fn is_timed(&self) -> bool {
        self.lots.iter().any(|lot| lot.soonest != u64::MAX)
    }

    /// Adds a cluster.
    pub(super) fn park(&mut self, entry: Box<Entry>, watch: Watch) {
        let Watch {
            words,
            until,
            launch,
        } = watch;
        let hash = words
            .iter()
            .fold(0, |hash, word| stir(stir(hash, word.address), word.value));
        let known = self.index.get(&hash).copied();
        let known = known.filter(|&at| self.lots[at].words == words);
        let at = known.unwrap_or_else(|| {
            let at = self.lots.len();
            self.index.insert(hash, at);
            self.lots.push(Lot {
                hash,
                words,
                members: Vec::new(),
                soonest: u64::MAX,
                dependent: false,
            });
            at
        });
        let lot = &mut self.lots[at];
        lot.soonest = lot.soonest.min(until.unwrap_or(u64::MAX));
        lot.dependent |= launch.is_some();
        lot.members.push(Member {
            entry,
            until,
            launch,
        });
        self.count += 1;
    }

    /// Looks at `count` lots in rotation; takes out those clusters that have to run at `now`.
    pub(super) fn look(&mut self, now: u64, count: usize) -> Vec<(Box<Entry>, Reason)> {
        let mut due = Vec::new();
        let mut room = match self.rest_until {
            Some(until) if Instant::now() < until => 0,
            _ => BATCH,
        };
        for _ in 0..count.min(self.lots.len()) {
            if self.glance >= self.lots.len() {
                self.glance = 0;
            }
            let lot = &mut self.lots[self.glance];
            if lot.words.iter().any(Word::changed) {
                let members = std::mem::take(&mut lot.members);
                due.extend(members.into_iter().map(|m| (m.entry, Reason::Changed)));
            } else if lot.dependent || lot.soonest <= now && room > 0 {
                lot.take_due(now, &mut room, &mut due);
            }
            if self.lots[self.glance].members.is_empty() {
                self.close(self.glance);
            } else {
                self.glance += 1;
            }
        }
        self.count -= due.len();
        due
    }

    /// Takes out the clusters of some launches.
    #[expect(clippy::vec_box, reason = "they go back into a queue of boxes")]
    pub(super) fn release(&mut self, of: impl Fn(&LaunchState) -> bool) -> Vec<Box<Entry>> {
        let mut released = Vec::new();
        for at in (0..self.lots.len()).rev() {
            let lot = &mut self.lots[at];
            let members = std::mem::take(&mut lot.members);
            for member in members {
                if of(member.entry.launch()) {
                    released.push(member.entry);
                } else {
                    lot.members.push(member);
                }
            }
            if lot.members.is_empty() {
                self.close(at);
            }
        }
        self.count -= released.len();
        released
    }

    /// Notes how long a turn has taken that only time was the reason for.
    pub(super) fn charge(&mut self, turn: Duration) {
        let now = Instant::now();
        let from = self.rest_until.filter(|&until| until > now).unwrap_or(now);
        self.rest_until = Some(from + turn.min(LONGEST_TURN) * REST);
    }

    /// Something happened: what comes now is no idle turn.
    pub(super) fn rested(&mut self) {
        self.rest_until = None;
    }

    fn close(&mut self, at: usize) {
        let lot = self.lots.swap_remove(at);
        if self.index.get(&lot.hash) == Some(&at) {
            self.index.remove(&lot.hash);
        }
        if let Some(moved) = self.lots.get(at) {
            let last = self.lots.len();
            if let Some(place) = self.index.get_mut(&moved.hash).filter(|p| **p == last) {
                *place = at;
            }
        }
    }
}

impl Lot {
    /// Takes out members that have to run, of those that time alone makes run at most `room`.
    fn take_due(&mut self, now: u64, room: &mut usize, due: &mut Vec<(Box<Entry>, Reason)>) {
        self.soonest = u64::MAX;
        let members = std::mem::take(&mut self.members);
        for member in members {
            let reason = member.due(now);
            let reason = reason.filter(|&reason| reason != Reason::Time || *room > 0);
            if let Some(reason) = reason {
                *room -= usize::from(reason == Reason::Time);
                due.push((member.entry, reason));
            } else {
                self.soonest = self.soonest.min(member.until.unwrap_or(u64::MAX));
                self.members.push(member);
            }
        }
    }
}
