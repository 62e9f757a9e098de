//! Three ranks whose kernels are lists of steps, and a search through every interleaving of them.
//!
//! A kernel is a row of stages; a stage has one lane per peer, and lanes of a stage interleave freely, as CTAs
//! do. Kernels of one rank run one after another, as launches of a communicator do. Memory is sequentially
//! consistent: the kernels' release and acquire pairs are what makes it look so.

use std::collections::HashMap;
use std::fmt;

pub(crate) const RANKS: usize = 3;

/// Index of a word or slot in a table of all of them.
pub(crate) type Place = u8;

/// What a waiting lane accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Exactly this epoch; a later one breaks the protocol.
    Signal(u8),
    /// This epoch or a later one.
    Credit(u8),
    /// Any epoch of the same parity: a planted error.
    Parity(u8),
}

/// One indivisible step of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Waits for a word that `peer` writes.
    Wait {
        word: Place,
        until: Until,
        peer: usize,
    },
    /// Stores a word: an epoch and whether its round is abandoned.
    Set {
        word: Place,
        epoch: u8,
        abandoned: bool,
    },
    /// Stores a row of an epoch.
    Write { slot: Place, epoch: u8 },
    /// Loads a row, which must be that of this epoch unless `word` says that its writer abandoned the round.
    Read {
        slot: Place,
        epoch: u8,
        unless: Option<Place>,
    },
}

pub(crate) type Lane = Vec<Step>;

/// A launch.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) stages: Vec<Vec<Lane>>,
}

/// All that the ranks will launch.
#[derive(Debug, Clone)]
pub(crate) struct System {
    pub(crate) words: usize,
    pub(crate) slots: usize,
    pub(crate) programs: [Vec<Kernel>; RANKS],
    /// Ranks that may fault or vanish, one of them once, anywhere.
    pub(crate) victims: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Status {
    Running,
    /// The abort flag is set and the peers are poisoned; lanes under way may go on for a while.
    Aborted,
    /// All kernels have returned.
    Ended,
    /// Gone without a word.
    Vanished,
}

/// Lanes of a stage, at most.
const LANES: usize = RANKS - 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    status: [Status; RANKS],
    kernel: [u8; RANKS],
    stage: [u8; RANKS],
    lane: [[u8; LANES]; RANKS],
    injected: bool,
    /// `epoch << 1 | abandoned`.
    words: Box<[u8]>,
    slots: Box<[u8]>,
}

/// What a search found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Nobody can go on, and somebody has not ended.
    Deadlock,
    /// A row was not the one that was waited for.
    OtherRow,
    /// A signal of a later epoch than can be.
    Future,
}

/// The end of a search that found something.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) wrong: Wrong,
    /// From the start, one line per step.
    pub(crate) path: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} after", self.wrong)?;
        self.path
            .iter()
            .try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A change of state: by whom, and what (a lane's step, or a fault).
#[derive(Debug, Clone, Copy)]
struct Move {
    rank: usize,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Lane(usize),
    Abort,
    Return,
    Vanish,
}

impl System {
    /// Visits every reachable state. The number of states, or the shortest way to something wrong.
    pub(crate) fn search(&self) -> Result<usize, Finding> {
        let mut known: HashMap<State, u32> = HashMap::new();
        let mut order: Vec<(State, u32, Option<Move>)> = Vec::new();
        let start = self.start();
        known.insert(start.clone(), 0);
        order.push((start, 0, None));
        let mut next = 0;
        while next < order.len() {
            let state = order[next].0.clone();
            let mut progress = false;
            for change in self.moves(&state) {
                progress |= !matches!(change.what, What::Vanish)
                    && (state.injected || !matches!(change.what, What::Abort));
                let after = self.apply(&state, change);
                let after =
                    after.map_err(|wrong| self.finding(wrong, &order, next, Some(change)))?;
                if !known.contains_key(&after) {
                    known.insert(after.clone(), order.len() as u32);
                    order.push((after, next as u32, Some(change)));
                }
            }
            let ended = (0..RANKS).all(|rank| self.ended(&state, rank));
            if !progress && !ended {
                return Err(self.finding(Wrong::Deadlock, &order, next, None));
            }
            next += 1;
        }
        Ok(order.len())
    }

    fn start(&self) -> State {
        let mut state = State {
            status: [Status::Running; RANKS],
            kernel: [0; RANKS],
            stage: [0; RANKS],
            lane: [[0; LANES]; RANKS],
            injected: false,
            words: vec![0; self.words].into(),
            slots: vec![0; self.slots].into(),
        };
        (0..RANKS).for_each(|rank| self.settle(&mut state, rank));
        state
    }

    fn ended(&self, state: &State, rank: usize) -> bool {
        matches!(state.status[rank], Status::Ended | Status::Vanished)
            || usize::from(state.kernel[rank]) == self.programs[rank].len()
    }

    /// The lanes of the stage that `rank` is in.
    fn lanes(&self, state: &State, rank: usize) -> &[Lane] {
        let kernel = &self.programs[rank][usize::from(state.kernel[rank])];
        &kernel.stages[usize::from(state.stage[rank])]
    }

    fn step(&self, state: &State, rank: usize, lane: usize) -> Option<Step> {
        let at = usize::from(state.lane[rank][lane]);
        self.lanes(state, rank).get(lane)?.get(at).copied()
    }

    /// Goes on to the next stage or kernel when all lanes have run. An aborted rank starts nothing new.
    fn settle(&self, state: &mut State, rank: usize) {
        while !self.ended(state, rank) {
            let lanes = self.lanes(state, rank);
            let at = &state.lane[rank];
            if (0..lanes.len()).any(|lane| usize::from(at[lane]) < lanes[lane].len()) {
                return;
            }
            if state.status[rank] == Status::Aborted {
                state.status[rank] = Status::Ended;
                return;
            }
            state.lane[rank] = [0; LANES];
            state.stage[rank] += 1;
            let kernel = &self.programs[rank][usize::from(state.kernel[rank])];
            if usize::from(state.stage[rank]) == kernel.stages.len() {
                state.stage[rank] = 0;
                state.kernel[rank] += 1;
            }
        }
    }

    fn moves(&self, state: &State) -> Vec<Move> {
        let mut moves = Vec::new();
        for rank in 0..RANKS {
            if self.ended(state, rank) {
                continue;
            }
            let mut add = |what| moves.push(Move { rank, what });
            let running = state.status[rank] == Status::Running;
            if !running {
                add(What::Return);
            } else if !state.injected && self.victims.contains(&rank) {
                add(What::Vanish);
                add(What::Abort);
            }
            for lane in 0..LANES {
                match self.step(state, rank, lane) {
                    None => {}
                    Some(Step::Wait { word, until, peer }) => {
                        let seen = state.words[usize::from(word)] >> 1;
                        if until.holds(seen) {
                            add(What::Lane(lane));
                        } else if running && state.status[peer] != Status::Running {
                            // Poison, or the deadline.
                            add(What::Abort);
                        }
                    }
                    Some(_) => add(What::Lane(lane)),
                }
            }
        }
        moves
    }

    fn apply(&self, state: &State, change: Move) -> Result<State, Wrong> {
        let mut after = state.clone();
        let rank = change.rank;
        let lane = match change.what {
            What::Lane(lane) => lane,
            What::Return => {
                after.status[rank] = Status::Ended;
                return Ok(after);
            }
            What::Abort => {
                after.status[rank] = Status::Aborted;
                after.injected = true;
                return Ok(after);
            }
            What::Vanish => {
                after.status[rank] = Status::Vanished;
                after.injected = true;
                return Ok(after);
            }
        };
        match self.step(state, rank, lane).expect("a step to take") {
            Step::Wait { word, until, .. } => {
                let seen = state.words[usize::from(word)] >> 1;
                if matches!(until, Until::Signal(epoch) if seen > epoch) {
                    return Err(Wrong::Future);
                }
            }
            Step::Set {
                word,
                epoch,
                abandoned,
            } => after.words[usize::from(word)] = epoch << 1 | u8::from(abandoned),
            Step::Write { slot, epoch } => after.slots[usize::from(slot)] = epoch,
            Step::Read {
                slot,
                epoch,
                unless,
            } => {
                let abandoned = unless.is_some_and(|word| state.words[usize::from(word)] & 1 == 1);
                if !abandoned && state.slots[usize::from(slot)] != epoch {
                    return Err(Wrong::OtherRow);
                }
            }
        }
        after.lane[rank][lane] += 1;
        self.settle(&mut after, rank);
        Ok(after)
    }

    fn finding(
        &self,
        wrong: Wrong,
        order: &[(State, u32, Option<Move>)],
        at: usize,
        last: Option<Move>,
    ) -> Finding {
        let mut path = Vec::new();
        let mut at = at;
        path.extend(last.map(|change| self.line(&order[at].0, change)));
        while let (_, parent, Some(change)) = &order[at] {
            let parent = *parent as usize;
            path.push(self.line(&order[parent].0, *change));
            at = parent;
        }
        path.reverse();
        Finding { wrong, path }
    }

    fn line(&self, state: &State, change: Move) -> String {
        let rank = change.rank;
        let kernel = &self.programs[rank][usize::from(state.kernel[rank])].name;
        match change.what {
            What::Lane(lane) => format!(
                "rank {rank}, {kernel}: {:?}",
                self.step(state, rank, lane).expect("a step was taken")
            ),
            other => format!("rank {rank}, {kernel}: {other:?}"),
        }
    }
}

impl Until {
    fn holds(self, seen: u8) -> bool {
        match self {
            Self::Signal(epoch) | Self::Credit(epoch) => seen >= epoch,
            Self::Parity(epoch) => seen > 0 && seen % 2 == epoch % 2,
        }
    }
}
