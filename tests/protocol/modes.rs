//! Both modes of the all-to-all as steps: one expert and one token per rank, one slot for each pair of
//! ranks and buffer, and one combine slot per token and buffer, which another rank writes every time it is used
//! again (as the ranks of a token's k-th expert differ from round to round).

use crate::calls::{Call, Phase};
use crate::machine::{Kernel, Lane, Place, RANKS, Step, System, Until};

/// A planted error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// Producers do not wait for credits.
    NoCredit,
    /// Consumers give credit before they have waited for the signals.
    EarlyCredit,
    /// Signals are told apart by their parity only.
    ParityOnly,
}

/// Tables of words and slots: `[buffer][window][index]` of the first kinds, `[window][index]` of credits.
const PAIRS: usize = 2 * RANKS * RANKS;

fn exchanged(table: usize, epoch: u8, window: usize, index: usize) -> Place {
    let at = table * PAIRS + (usize::from(epoch % 2) * RANKS + window) * RANKS + index;
    Place::try_from(at).expect("a small table")
}

const DISPATCH_SIGNAL: usize = 0;
const COMBINE_SIGNAL: usize = 1;
/// Latency mode: buffer 0 is the dispatch credit, buffer 1 the combine credit.
const CREDIT: usize = 2;
/// Throughput mode.
const COUNTS_SIGNAL: usize = 2;

const ROWS: usize = 0;
const RESULTS: usize = 1;
const COUNTS: usize = 2;

const TABLES: usize = 3;

fn dispatch_credit(window: usize, index: usize) -> Place {
    exchanged(CREDIT, 0, window, index)
}

fn combine_credit(window: usize, index: usize) -> Place {
    exchanged(CREDIT, 1, window, index)
}

/// The slot of the token of `rank`.
fn result(epoch: u8, rank: usize) -> Place {
    exchanged(RESULTS, epoch, rank, 0)
}

/// The rank that owns the expert of the token of `rank`: another one when a buffer is used again.
fn expert_of(epoch: u8, rank: usize) -> usize {
    (rank + 1 + usize::from(epoch / 2 % 2)) % RANKS
}

/// The other ranks.
fn peers(rank: usize) -> impl Iterator<Item = usize> {
    (0..RANKS).filter(move |&peer| peer != rank)
}

fn set(word: Place, epoch: u8) -> Step {
    Step::Set {
        word,
        epoch,
        abandoned: false,
    }
}

/// One rank's view of one round.
struct Round {
    rank: usize,
    call: Call,
    mutant: Mutant,
}

impl Round {
    fn signal(&self, table: usize, peer: usize) -> Step {
        let epoch = self.call.epoch;
        Step::Wait {
            word: exchanged(table, epoch, self.rank, peer),
            until: match self.mutant {
                Mutant::ParityOnly => Until::Parity(epoch),
                _ => Until::Signal(epoch),
            },
            peer,
        }
    }

    /// Nothing where there is no earlier use of the buffer.
    fn credit(&self, word: Place, peer: usize) -> Option<Step> {
        let needed = self.call.epoch.checked_sub(2).filter(|&epoch| epoch > 0)?;
        let until = Until::Credit(needed);
        (self.mutant != Mutant::NoCredit).then_some(Step::Wait { word, until, peer })
    }

    /// An abandoned round waits, but reads nothing.
    fn read(&self, slot: Place, unless: Option<Place>) -> Option<Step> {
        let epoch = self.call.epoch;
        (!self.call.abandoned).then_some(Step::Read {
            slot,
            epoch,
            unless,
        })
    }

    fn lanes(&self, lane: impl Fn(usize) -> Lane) -> Vec<Lane> {
        peers(self.rank).map(lane).collect()
    }

    /// The row for the token of `peer`, if its expert is here and the round is not abandoned.
    fn result_row(&self, peer: usize) -> Option<Step> {
        let epoch = self.call.epoch;
        let sends = expert_of(epoch, peer) == self.rank && !self.call.abandoned;
        sends.then_some(Step::Write {
            slot: result(epoch, peer),
            epoch,
        })
    }

    fn combine_signal(&self, peer: usize) -> Step {
        Step::Set {
            word: exchanged(COMBINE_SIGNAL, self.call.epoch, peer, self.rank),
            epoch: self.call.epoch,
            abandoned: self.call.abandoned,
        }
    }

    /// Waits for everyone's results, then reads the own token's.
    fn sum(&self) -> Vec<Vec<Lane>> {
        let expert = expert_of(self.call.epoch, self.rank);
        let signal = exchanged(COMBINE_SIGNAL, self.call.epoch, self.rank, expert);
        let read = self.read(result(self.call.epoch, self.rank), Some(signal));
        let waits = self.lanes(|peer| vec![self.signal(COMBINE_SIGNAL, peer)]);
        vec![waits, vec![read.into_iter().collect()]]
    }

    fn latency(&self) -> Vec<Vec<Lane>> {
        let (rank, epoch) = (self.rank, self.call.epoch);
        match self.call.phase {
            Phase::Send => vec![self.lanes(|peer| {
                let slot = exchanged(ROWS, epoch, peer, rank);
                let signal = exchanged(DISPATCH_SIGNAL, epoch, peer, rank);
                let credit = self.credit(dispatch_credit(rank, peer), peer);
                let row = Step::Write { slot, epoch };
                credit
                    .into_iter()
                    .chain([row, set(signal, epoch)])
                    .collect()
            })],
            Phase::Receive => vec![self.lanes(|peer| {
                let wait = self.signal(DISPATCH_SIGNAL, peer);
                let read = self.read(exchanged(ROWS, epoch, rank, peer), None);
                let credit = set(dispatch_credit(peer, rank), epoch);
                self.consume(wait, read.into_iter().collect(), credit)
            })],
            Phase::Return => vec![self.lanes(|peer| {
                let credit = self.credit(combine_credit(rank, peer), peer);
                let steps = credit.into_iter().chain(self.result_row(peer));
                steps.chain([self.combine_signal(peer)]).collect()
            })],
            Phase::Sum => {
                let credits = self.lanes(|peer| vec![set(combine_credit(peer, rank), epoch)]);
                let mut stages = self.sum();
                let early = self.mutant == Mutant::EarlyCredit;
                stages.insert(if early { 0 } else { stages.len() }, credits);
                stages
            }
        }
    }

    fn consume(&self, wait: Step, read: Lane, credit: Step) -> Lane {
        let early = self.mutant == Mutant::EarlyCredit;
        let steps = [vec![wait], read].concat();
        let credits = vec![credit];
        if early {
            [credits, steps].concat()
        } else {
            [steps, credits].concat()
        }
    }

    /// Count and send are two launches.
    fn throughput(&self) -> Vec<Vec<Vec<Lane>>> {
        match self.call.phase {
            Phase::Send => vec![self.count(), self.send_counted()],
            Phase::Receive => vec![self.receive_counted()],
            Phase::Return => vec![self.return_counted()],
            Phase::Sum => vec![self.sum()],
        }
    }

    fn count(&self) -> Vec<Vec<Lane>> {
        let (rank, epoch) = (self.rank, self.call.epoch);
        vec![self.lanes(|peer| {
            let slot = exchanged(COUNTS, epoch, peer, rank);
            let signal = exchanged(COUNTS_SIGNAL, epoch, peer, rank);
            vec![Step::Write { slot, epoch }, set(signal, epoch)]
        })]
    }

    fn send_counted(&self) -> Vec<Vec<Lane>> {
        let (rank, epoch) = (self.rank, self.call.epoch);
        let counts = self.lanes(|peer| {
            let read = Step::Read {
                slot: exchanged(COUNTS, epoch, rank, peer),
                epoch,
                unless: None,
            };
            vec![self.signal(COUNTS_SIGNAL, peer), read]
        });
        let rows = self.lanes(|peer| {
            let slot = exchanged(ROWS, epoch, peer, rank);
            vec![Step::Write { slot, epoch }]
        });
        let signals =
            self.lanes(|peer| vec![set(exchanged(DISPATCH_SIGNAL, epoch, peer, rank), epoch)]);
        match self.mutant {
            // As if a rank could know the others' counts without waiting for them.
            Mutant::NoCredit => vec![rows, signals],
            _ => vec![counts, rows, signals],
        }
    }

    fn receive_counted(&self) -> Vec<Vec<Lane>> {
        let (rank, epoch) = (self.rank, self.call.epoch);
        vec![self.lanes(|peer| {
            let counts = self.read(exchanged(COUNTS, epoch, rank, peer), None);
            let row = self.read(exchanged(ROWS, epoch, rank, peer), None);
            let wait = self.signal(DISPATCH_SIGNAL, peer);
            [wait].into_iter().chain(counts).chain(row).collect()
        })]
    }

    fn return_counted(&self) -> Vec<Vec<Lane>> {
        let rows = self.lanes(|peer| {
            let header = self.read(exchanged(ROWS, self.call.epoch, self.rank, peer), None);
            header.into_iter().chain(self.result_row(peer)).collect()
        });
        vec![rows, self.lanes(|peer| vec![self.combine_signal(peer)])]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Latency,
    Throughput,
}

/// The ranks' calls as a system without faults.
pub(crate) fn system(mode: Mode, calls: [Vec<Call>; RANKS], mutant: Mutant) -> System {
    let mut rank = 0;
    let programs = calls.map(|calls| {
        let calls = match (mode, mutant) {
            (Mode::Throughput, Mutant::EarlyCredit) => counted_early(calls),
            _ => calls,
        };
        let kernels = calls.into_iter().flat_map(|call| {
            let round = Round { rank, call, mutant };
            let launches = match mode {
                Mode::Latency => vec![round.latency()],
                Mode::Throughput => round.throughput(),
            };
            let name = format!("{:?} {}", call.phase, call.epoch);
            launches.into_iter().map(move |stages| Kernel {
                name: name.clone(),
                stages,
            })
        });
        let kernels = kernels.collect();
        rank += 1;
        kernels
    });
    System {
        words: TABLES * PAIRS,
        slots: TABLES * PAIRS,
        programs,
        victims: Vec::new(),
    }
}

/// A planted error of throughput mode: the next use of a buffer is begun before its last round is summed.
fn counted_early(mut calls: Vec<Call>) -> Vec<Call> {
    for at in (1..calls.len()).rev() {
        let [before, call] = [calls[at - 1], calls[at]];
        if call.phase == Phase::Send && before.phase == Phase::Sum {
            calls.swap(at - 1, at);
        }
    }
    calls
}
