//! The members' agreement on who is left (`docs/protocol.md`, "Membership"): every interleaving of three ranks of which some
//! crash at any point, in the middle of telling the others too, and one is wrongly given up by another.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

const RANKS: usize = 3;
const ALL: u8 = (1 << RANKS) - 1;

/// What a rank proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Proposal {
    epoch: u8,
    live: u8,
}

/// A planted error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// Decides once all have answered, whatever they proposed.
    Majority,
    /// Does not mind being left out.
    Stubborn,
    /// Tries the same epoch again.
    SameEpoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Status {
    /// Has not noticed that anything failed.
    Idle,
    /// Tells peer after peer.
    Telling(u8),
    /// Reads peer after peer.
    Reading(u8),
    Decided,
    Masked,
    Crashed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rank {
    status: Status,
    own: Proposal,
    next: Proposal,
    alike: bool,
    /// Of its last decision.
    members: Proposal,
    /// From each peer, oldest first.
    inbox: [Vec<Proposal>; RANKS],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    ranks: [Rank; RANKS],
    crashes: u8,
    /// Peers that may still be given up though they are alive.
    suspicions: u8,
    /// By epoch, the members that somebody decided on.
    decided: Vec<Option<u8>>,
}

fn contains(live: u8, rank: usize) -> bool {
    live >> rank & 1 == 1
}

impl State {
    fn new(crashes: u8, suspicions: u8) -> Self {
        let members = Proposal {
            epoch: 1,
            live: ALL,
        };
        let rank = Rank {
            status: Status::Idle,
            own: members,
            next: members,
            alike: true,
            members,
            inbox: [const { Vec::new() }; RANKS],
        };
        Self {
            ranks: [(); RANKS].map(|()| rank.clone()),
            crashes,
            suspicions,
            decided: Vec::new(),
        }
    }

    /// Whether nothing of `peer` comes any more.
    fn gone(&self, peer: usize) -> bool {
        matches!(self.ranks[peer].status, Status::Crashed | Status::Masked)
    }

    fn propose(&mut self, rank: usize, own: Proposal) {
        let it = &mut self.ranks[rank];
        it.own = own;
        it.next = Proposal {
            epoch: own.epoch + 1,
            live: own.live,
        };
        it.alike = true;
        let members = it.members.live;
        self.ranks[rank].status = Status::Telling(self.peer(rank, 0, members));
        self.end_of_telling(rank);
    }

    fn end_of_telling(&mut self, rank: usize) {
        if self.ranks[rank].status == Status::Telling(RANKS as u8) {
            let first = self.peer(rank, 0, self.ranks[rank].own.live);
            self.ranks[rank].status = Status::Reading(first);
        }
    }

    /// The states that one step of `rank` leads to; an error where it breaks the agreement.
    fn steps(&self, rank: usize, mutant: Mutant) -> Result<Vec<Self>, String> {
        let mut after = Vec::new();
        let it = &self.ranks[rank];
        // A crash while it reads is one before it tells what follows.
        let reads = matches!(it.status, Status::Reading(_));
        if !self.gone(rank) && !reads && self.crashes > 0 {
            let mut state = self.clone();
            state.crashes -= 1;
            state.ranks[rank].status = Status::Crashed;
            after.push(state);
        }
        match it.status {
            Status::Crashed | Status::Masked => {}
            Status::Idle => {
                let mut state = self.clone();
                state.propose(
                    rank,
                    Proposal {
                        epoch: 2,
                        live: ALL,
                    },
                );
                after.push(state);
            }
            Status::Telling(peer) => after.push(self.tell(rank, peer.into())),
            Status::Reading(peer) => {
                for state in self.read(rank, peer.into(), mutant) {
                    // What only concerns the rank itself happens at once.
                    let done = state.ranks[rank].status == Status::Reading(RANKS as u8);
                    after.push(if done {
                        state.conclude(rank, mutant)?
                    } else {
                        state
                    });
                }
            }
            Status::Decided => after.extend(self.meet(rank)),
        }
        Ok(after)
    }

    /// The first peer from `from` on that a rank has to do with, or their number.
    fn peer(&self, rank: usize, from: usize, of: u8) -> u8 {
        let concerned = |&peer: &usize| peer != rank && contains(of, peer);
        (from..RANKS).find(concerned).unwrap_or(RANKS) as u8
    }

    fn tell(&self, rank: usize, peer: usize) -> Self {
        let mut state = self.clone();
        let own = state.ranks[rank].own;
        if !state.gone(peer) {
            state.ranks[peer].inbox[rank].push(own);
        }
        let members = state.ranks[rank].members.live;
        state.ranks[rank].status = Status::Telling(state.peer(rank, peer + 1, members));
        state.end_of_telling(rank);
        state
    }

    fn read(&self, rank: usize, peer: usize, mutant: Mutant) -> Vec<Self> {
        let mut after = Vec::new();
        let mut state = self.clone();
        if peer == RANKS {
            return vec![state];
        }
        let suspicions = state.suspicions;
        let gone = state.gone(peer);
        let then = Status::Reading(state.peer(rank, peer + 1, state.ranks[rank].own.live));
        let it = &mut state.ranks[rank];
        it.inbox[peer].retain(|found| found.epoch >= it.own.epoch);
        it.status = then;
        match it.inbox[peer].first().copied() {
            Some(found) => {
                if found.epoch == it.own.epoch {
                    it.inbox[peer].remove(0);
                }
                if !contains(found.live, rank) && mutant != Mutant::Stubborn {
                    it.status = Status::Masked;
                }
                it.next.live &= found.live | 1 << rank;
                it.next.epoch = it.next.epoch.max(found.epoch);
                it.alike &= found == it.own || mutant == Mutant::Majority;
                after.push(state);
            }
            None if gone || suspicions > 0 => {
                it.next.live &= !(1 << peer);
                it.alike = false;
                state.suspicions -= u8::from(!gone);
                after.push(state);
            }
            None => {}
        }
        after
    }

    /// Decides, or tries again.
    fn conclude(&self, rank: usize, mutant: Mutant) -> Result<Self, String> {
        let mut state = self.clone();
        let it = &mut state.ranks[rank];
        let (own, next) = (it.own, it.next);
        let latest = |peer: &usize| it.inbox[*peer].last().copied();
        let later = (0..RANKS).filter(|&peer| contains(own.live, peer));
        let later = later
            .filter_map(|peer| latest(&peer))
            .find(|found| found.epoch > own.epoch);
        if later.is_some_and(|found| it.alike && !contains(found.live, rank))
            && mutant != Mutant::Stubborn
        {
            it.status = Status::Masked;
            return Ok(state);
        }
        if !it.alike || later.is_some() {
            let epoch = if mutant == Mutant::SameEpoch {
                own.epoch
            } else {
                next.epoch
            };
            state.propose(
                rank,
                Proposal {
                    epoch,
                    live: next.live,
                },
            );
            return Ok(state);
        }
        it.status = Status::Decided;
        it.members = own;
        let epoch = usize::from(own.epoch);
        if state.decided.len() <= epoch {
            state.decided.resize(epoch + 1, None);
        }
        match state.decided[epoch] {
            Some(other) if other != own.live => {
                Err(format!("rank {rank} decides {own:?}, another {other:#b}"))
            }
            _ if !contains(own.live, rank) => {
                Err(format!("rank {rank} decides {own:?}, without itself"))
            }
            _ => {
                state.decided[epoch] = Some(own.live);
                Ok(state)
            }
        }
    }

    /// A meeting after the agreement: it fails where a member is gone or recovers.
    fn meet(&self, rank: usize) -> Option<Self> {
        let it = &self.ranks[rank];
        let fails = (0..RANKS)
            .filter(|&peer| peer != rank && contains(it.members.live, peer))
            .any(|peer| {
                let newer = it.inbox[peer]
                    .iter()
                    .any(|found| found.epoch > it.members.epoch);
                newer || self.gone(peer)
            });
        fails.then(|| {
            let mut state = self.clone();
            let Proposal { epoch, live } = it.members;
            state.propose(
                rank,
                Proposal {
                    epoch: epoch + 1,
                    live,
                },
            );
            state
        })
    }

    /// What is wrong with a state in which nothing happens any more.
    fn end(&self, suspicions: u8) -> Option<String> {
        let of = |status| (0..RANKS).filter(move |&rank| self.ranks[rank].status == status);
        let live = of(Status::Decided).fold(0, |live, rank| live | 1 << rank);
        let stuck =
            (0..RANKS).find(|&rank| !self.gone(rank) && self.ranks[rank].status != Status::Decided);
        if let Some(rank) = stuck {
            return Some(format!("rank {rank} waits for ever"));
        }
        let first = of(Status::Decided)
            .next()
            .map(|rank| self.ranks[rank].members);
        if of(Status::Decided).any(|rank| {
            Some(self.ranks[rank].members) != first || first.is_some_and(|m| m.live != live)
        }) {
            return Some(format!("the ranks {live:#b} disagree"));
        }
        let nobody_was_late = self.suspicions == suspicions;
        (nobody_was_late && of(Status::Masked).next().is_some())
            .then(|| "a rank in time is masked".to_owned())
    }
}

/// Every state; their number, or what is wrong and where it began.
fn search(crashes: u8, suspicions: u8, mutant: Mutant) -> Result<usize, String> {
    let start = State::new(crashes, suspicions);
    let keys = RandomState::new();
    let more = RandomState::new();
    let digest = |state: &State| (keys.hash_one(state), more.hash_one(state));
    let mut seen = HashSet::from([digest(&start)]);
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        let mut ends = true;
        for rank in 0..RANKS {
            let idle = state.ranks[rank].status == Status::Decided;
            for after in state
                .steps(rank, mutant)
                .map_err(|wrong| format!("{wrong}: {state:?}"))?
            {
                let crash = after.crashes < state.crashes;
                ends &= crash || idle && after == state;
                let endless = |rank: &Rank| rank.inbox.iter().any(|inbox| inbox.len() > 9);
                if after.ranks.iter().any(endless) {
                    return Err(format!("it does not end: {state:?}"));
                }
                if seen.insert(digest(&after)) {
                    open.push(after);
                }
            }
        }
        if ends && let Some(wrong) = state.end(suspicions) {
            return Err(format!("{wrong}: {state:?}"));
        }
    }
    Ok(seen.len())
}

#[test]
fn ranks_agree_whoever_crashes_or_is_given_up() {
    for (crashes, suspicions, least) in [
        (0, 0, 100),
        (1, 0, 2_000),
        (2, 0, 8_000),
        (0, 1, 300),
        (1, 1, 10_000),
        (2, 1, 100_000),
    ] {
        let what = format!("{crashes} crashes, {suspicions} suspicions");
        let states = search(crashes, suspicions, Mutant::None);
        let states = states.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        assert!(states > least, "{what}: only {states} states");
    }
}

#[test]
fn the_search_finds_planted_errors() {
    for (mutant, crashes, suspicions) in [
        (Mutant::Majority, 1, 1),
        (Mutant::Stubborn, 0, 1),
        (Mutant::SameEpoch, 1, 0),
    ] {
        let found = search(crashes, suspicions, mutant);
        assert!(found.is_err(), "{mutant:?}: {found:?}");
    }
}
