//! The NVLink primitives as steps: all-gathers over two slots, barriers of teams around rows that others write and read,
//! and puts whose signal is answered.

use crate::machine::{Kernel, Lane, Place, RANKS, Step, System, Until, Wrong};

/// A planted error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// Writers do not wait until their record was copied out.
    NoCredit,
    /// A barrier tells the others, and waits for nobody.
    NoWait,
    /// A signal goes ahead of its row.
    EarlySignal,
    /// A barrier counts all its barriers, not those with each peer.
    OneCount,
}

/// Tables of words: `[window][rank]`, of the all-gather's signals one per slot.
const BARRIER: usize = 0;
const CREDIT: usize = 1;
const SIGNAL: usize = 2;
const WORDS: usize = 4 * RANKS * RANKS;
/// Tables of rows: two slots of the all-gather, and what the caller puts.
const DATA: usize = 2;
const SLOTS: usize = 3 * RANKS * RANKS;

fn at(table: usize, window: usize, rank: usize) -> Place {
    Place::try_from((table * RANKS + window) * RANKS + rank).expect("a small table")
}

fn set(word: Place, epoch: u8) -> Step {
    Step::Set {
        word,
        epoch,
        abandoned: false,
    }
}

fn read(slot: Place, epoch: u8) -> Step {
    Step::Read {
        slot,
        epoch,
        unless: None,
    }
}

fn kernel(name: &str, stages: Vec<Vec<Lane>>) -> Kernel {
    Kernel {
        name: name.to_owned(),
        stages,
    }
}

fn others(rank: usize) -> impl Iterator<Item = usize> {
    (0..RANKS).filter(move |&peer| peer != rank)
}

/// One all-gather: per peer a record, then per source its record and the credit for it.
fn gather(rank: usize, epoch: u8, mutant: Mutant) -> Kernel {
    let slot = usize::from(epoch % 2);
    let send = |peer: usize| {
        let credit = Step::Wait {
            word: at(CREDIT, rank, peer),
            until: Until::Credit(epoch.saturating_sub(2)),
            peer,
        };
        let wait = (epoch > 2 && mutant != Mutant::NoCredit).then_some(credit);
        let row = Step::Write {
            slot: at(slot, peer, rank),
            epoch,
        };
        let signal = set(at(SIGNAL + slot, peer, rank), epoch);
        let send = if mutant == Mutant::EarlySignal {
            [signal, row]
        } else {
            [row, signal]
        };
        wait.into_iter().chain(send).collect()
    };
    let receive = |source: usize| {
        vec![
            Step::Wait {
                word: at(SIGNAL + slot, rank, source),
                until: Until::Signal(epoch),
                peer: source,
            },
            read(at(slot, rank, source), epoch),
            set(at(CREDIT, source, rank), epoch),
        ]
    };
    let stages = vec![
        others(rank).map(send).collect(),
        others(rank).map(receive).collect(),
    ];
    kernel(&format!("all-gather {epoch}"), stages)
}

fn gathers(mutant: Mutant) -> System {
    let program = |rank| (1..=4).map(|epoch| gather(rank, epoch, mutant)).collect();
    System {
        words: WORDS,
        slots: SLOTS,
        programs: [0, 1, 2].map(program),
        victims: Vec::new(),
    }
}

/// What a rank's barriers have counted, by peer.
struct Barriers {
    rank: usize,
    mutant: Mutant,
    counts: [u8; RANKS],
}

impl Barriers {
    fn new(rank: usize, mutant: Mutant) -> Self {
        Self {
            rank,
            mutant,
            counts: [0; RANKS],
        }
    }

    fn enter(&mut self, team: &[usize]) -> Kernel {
        let rank = self.rank;
        let members: Vec<usize> = team.iter().copied().filter(|&peer| peer != rank).collect();
        if self.mutant == Mutant::OneCount {
            let next = self.counts.iter().max().map_or(1, |most| most + 1);
            self.counts = [next; RANKS];
        } else {
            members.iter().for_each(|&peer| self.counts[peer] += 1);
        }
        let tell = |&peer: &usize| vec![set(at(BARRIER, peer, rank), self.counts[peer])];
        let wait = |&peer: &usize| {
            vec![Step::Wait {
                word: at(BARRIER, rank, peer),
                until: Until::Credit(self.counts[peer]),
                peer,
            }]
        };
        let mut stages = vec![members.iter().map(tell).collect()];
        if self.mutant != Mutant::NoWait {
            stages.push(members.iter().map(wait).collect());
        }
        kernel(&format!("barrier of {team:?}"), stages)
    }
}

/// Rows to everyone between barriers of all, read between the next two.
fn exchanges(mutant: Mutant) -> System {
    let program = |rank: usize| {
        let mut barriers = Barriers::new(rank, mutant);
        let mut kernels = Vec::new();
        for epoch in 1..=2 {
            let put = |peer: usize| {
                vec![Step::Write {
                    slot: at(DATA, peer, rank),
                    epoch,
                }]
            };
            let get = |peer: usize| vec![read(at(DATA, rank, peer), epoch)];
            kernels.push(kernel("put", vec![others(rank).map(put).collect()]));
            kernels.push(barriers.enter(&[0, 1, 2]));
            kernels.push(kernel("get", vec![others(rank).map(get).collect()]));
            kernels.push(barriers.enter(&[0, 1, 2]));
        }
        kernels
    };
    System {
        words: WORDS,
        slots: SLOTS,
        programs: [0, 1, 2].map(program),
        victims: Vec::new(),
    }
}

/// Barriers of teams that overlap, with a row that crosses each.
fn teams(mutant: Mutant) -> System {
    let order: [&[usize]; 5] = [&[0, 1], &[1, 2], &[0, 1, 2], &[0, 2], &[0, 1]];
    let program = |rank: usize| {
        let mut barriers = Barriers::new(rank, mutant);
        let mut kernels = Vec::new();
        for (epoch, team) in (1..).zip(order) {
            if !team.contains(&rank) {
                continue;
            }
            let members = || team.iter().copied().filter(|&peer| peer != rank);
            let put = |peer: usize| {
                vec![Step::Write {
                    slot: at(DATA, peer, rank),
                    epoch,
                }]
            };
            let get = |peer: usize| vec![read(at(DATA, rank, peer), epoch)];
            kernels.push(kernel("put", vec![members().map(put).collect()]));
            kernels.push(barriers.enter(team));
            kernels.push(kernel("get", vec![members().map(get).collect()]));
            kernels.push(barriers.enter(team));
        }
        kernels
    };
    System {
        words: WORDS,
        slots: SLOTS,
        programs: [0, 1, 2].map(program),
        victims: Vec::new(),
    }
}

/// Each rank puts with a signal to the next one, which answers when it has read.
fn puts(mutant: Mutant) -> System {
    let program = |rank: usize| {
        let (next, last) = ((rank + 1) % RANKS, (rank + RANKS - 1) % RANKS);
        let round = |epoch: u8| {
            let wait = |word, until, peer| Step::Wait { word, until, peer };
            let answer = wait(at(CREDIT, rank, next), Until::Credit(epoch - 1), next);
            let row = Step::Write {
                slot: at(DATA, next, rank),
                epoch,
            };
            let signal = set(at(SIGNAL, next, rank), epoch);
            let mut put: Lane = Vec::new();
            put.extend((epoch > 1 && mutant != Mutant::NoCredit).then_some(answer));
            put.extend(if mutant == Mutant::EarlySignal {
                [signal, row]
            } else {
                [row, signal]
            });
            let take = vec![
                wait(at(SIGNAL, rank, last), Until::Signal(epoch), last),
                read(at(DATA, rank, last), epoch),
                set(at(CREDIT, last, rank), epoch),
            ];
            [
                kernel("put with signal", vec![vec![put]]),
                kernel("take", vec![vec![take]]),
            ]
        };
        (1..=4).flat_map(round).collect()
    };
    System {
        words: WORDS,
        slots: SLOTS,
        programs: [0, 1, 2].map(program),
        victims: Vec::new(),
    }
}

type Build = fn(Mutant) -> System;
const SYSTEMS: [(&str, Build); 4] = [
    ("all-gathers", gathers),
    ("exchanges", exchanges),
    ("teams", teams),
    ("puts", puts),
];

#[test]
fn primitives_end_well_with_and_without_a_fault() {
    for (what, build) in SYSTEMS {
        for victims in [vec![], vec![0], vec![1]] {
            let system = System {
                victims: victims.clone(),
                ..build(Mutant::None)
            };
            match system.search() {
                Ok(states) => assert!(states > 150, "{what}, {victims:?}: only {states} states"),
                Err(found) => panic!("{what}, {victims:?}: {found}"),
            }
        }
    }
}

#[test]
fn planted_errors_of_primitives_are_found() {
    let planted: [(Build, Mutant, Wrong); 6] = [
        (gathers, Mutant::EarlySignal, Wrong::OtherRow),
        (exchanges, Mutant::NoWait, Wrong::OtherRow),
        (teams, Mutant::NoWait, Wrong::OtherRow),
        (teams, Mutant::OneCount, Wrong::Deadlock),
        (puts, Mutant::NoCredit, Wrong::Future),
        (puts, Mutant::EarlySignal, Wrong::OtherRow),
    ];
    for (at, (build, mutant, wrong)) in planted.into_iter().enumerate() {
        let found = build(mutant).search().err();
        let found = found.unwrap_or_else(|| panic!("planted error {at}, {mutant:?}: not found"));
        assert!(
            found.wrong == wrong || found.wrong == Wrong::OtherRow,
            "planted error {at}, {mutant:?}: {found}"
        );
    }
}

/// A rank sends record `n + 1` only when it has everyone's `n`, and `n + 2` only when it has everyone's `n + 1`: so the credit for a
/// slot is implied as long as all-gathers of a rank follow each other. It stays: a slot's safety should not hang on that.
#[test]
fn the_credits_of_all_gathers_are_implied() {
    assert!(gathers(Mutant::NoCredit).search().is_ok());
}
