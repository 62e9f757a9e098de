//! The run queue of the machine: which cluster runs next, and when everything only polls.
//!
//! All resident clusters of all running grids of all devices are in one queue. Clusters that have
//! begun go round robin; new ones begin when those only wait, and every now and then regardless, so
//! that CTAs which have nothing to say to each other run one after the other in warm caches while
//! every resident CTA still makes progress.
//!
//! Clusters that only poll words of global memory are parked and get no turns ([`super::watch`]):
//! when a worker looks for work it compares the words with memory, all of them when there is nothing
//! else to run, else some in rotation. Clusters that watch the same are compared once
//! ([`super::parking`]).
//!
//! A round in which every cluster was idle makes the machine idle: one worker then sleeps for a while
//! (longer and longer, up to a millisecond) while the others wait for it, and time passes as the
//! module on the clock says.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::cluster::{Cluster, Outcome, Site};
use super::config::{self, Config};
use super::counters::Counters;
use super::cta::{LaunchState, Position};
use super::engine::{Done, launch_fault};
use super::hosts::Sample;
use super::inject;
use super::parking::{Parking, Reason};
use super::report;
use super::residency::{Need, Residency};
use super::seed::Choice;
use crate::error::{Fault, FaultKind};

/// Every so many turns a new cluster begins although begun ones have work.
const FRESH_TURN: u64 = 64;

const SHORTEST_SLEEP: Duration = Duration::from_micros(10);
const LONGEST_SLEEP: Duration = Duration::from_micros(500);
/// After so many rounds that were idle it is [`PATIENT_SLEEP`].
const PATIENT_ROUNDS: u32 = 1000;
const PATIENT_SLEEP: Duration = Duration::from_millis(1);
/// While another worker is busy.
const WATCHING: Duration = Duration::from_micros(100);

/// Lots of parked clusters looked at before each turn while there is other work.
const GLANCE: usize = 32;

/// Limits of idleness that loops may take which read a clock, and so may end by themselves.
const TIMED_LIMITS: u64 = 12;

/// Since when nothing has happened.
struct Quiet {
    since: u64,
    hosts: Sample,
}

/// A cluster in the queue.
pub(super) struct Entry {
    pub(super) work: Work,
    /// It did nothing in its last turn.
    idle: bool,
    /// Time alone makes it run: since when.
    timed: Option<Instant>,
}

/// A cluster, or what it takes to make one.
pub(super) enum Work {
    Begun(Box<Cluster>),
    Fresh {
        launch: Arc<LaunchState>,
        site: Site,
        number: u64,
    },
}

impl Entry {
    pub(super) fn launch(&self) -> &Arc<LaunchState> {
        match &self.work {
            Work::Begun(cluster) => cluster.launch(),
            Work::Fresh { launch, .. } => launch,
        }
    }
}

/// A grid that is being executed.
struct Grid {
    launch: Arc<LaunchState>,
    need: Need,
    /// Clusters in all, and those that have been made resident.
    total: u64,
    next: u64,
    /// Resident clusters.
    resident: u64,
    done: Option<Done>,
}

impl Grid {
    fn finish(self) -> Option<Finished> {
        let fault = self.launch.fault.lock().take();
        self.launch.dependence.finish();
        let counters = || Ok(self.launch.counters.lock().clone());
        Some(Finished {
            done: self.done?,
            result: fault.map_or_else(counters, Err),
            launch: self.launch,
        })
    }
}

/// A launch that is over.
pub(super) struct Finished {
    pub(super) done: Done,
    pub(super) result: Result<Counters, Fault>,
    pub(super) launch: Arc<LaunchState>,
}

impl Finished {
    /// Tells whoever launched.
    pub(super) fn announce(self) {
        super::engine::release_workspace(&self.launch);
        (self.done)(self.result);
    }
}

#[derive(Debug)]
struct Device {
    residency: Residency,
    /// Grids that have clusters to place, in the order of submission.
    waiting: VecDeque<u64>,
}

/// What a worker should do.
pub(super) enum Next {
    Run(Box<Entry>),
    Sleep(Duration),
    /// There is no cluster at all.
    Wait,
}

/// The state behind the engine's lock.
pub(super) struct Scheduler {
    begun: VecDeque<Box<Entry>>,
    fresh: VecDeque<Box<Entry>>,
    parked: Parking,
    /// The worker that sleeps until something changes: one is enough, the others wait for it.
    watching: Option<u32>,
    /// Clusters of devices that fault injection has stopped.
    #[expect(clippy::vec_box, reason = "they go back into a queue of boxes")]
    stopped: Vec<Box<Entry>>,
    grids: HashMap<u64, Grid>,
    /// Launches that have not arrived yet: device, stream, id.
    coming: Vec<(u32, u64, u64)>,
    /// Launches that have.
    arrived: u64,
    devices: Vec<Device>,
    /// Entries that workers are running, and those of them that were not idle before.
    running: usize,
    busy: usize,
    /// Turns in a row that were idle.
    idle_turns: u64,
    /// Rounds in a row in which every turn was idle.
    idle_rounds: u32,
    idle_since: Option<Instant>,
    turns: u64,
    /// Hash of all turns so far.
    trace: u64,
    choice: Choice,
    quiet: Option<Quiet>,
    /// Clock ticks of idleness after which the machine is searched for a deadlock.
    limit: Option<u64>,
    /// Schedules replay, so time is not taken from the wall.
    seeded: bool,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("begun", &self.begun.len())
            .field("fresh", &self.fresh.len())
            .field("parked", &self.parked.len())
            .field("grids", &self.grids.len())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    pub(super) fn new(config: &Config) -> Self {
        let device = |_| Device {
            residency: Residency::new(config.sms),
            waiting: VecDeque::new(),
        };
        Self {
            begun: VecDeque::new(),
            fresh: VecDeque::new(),
            parked: Parking::default(),
            watching: None,
            stopped: Vec::new(),
            grids: HashMap::new(),
            coming: Vec::new(),
            arrived: 0,
            devices: (0..config.devices).map(device).collect(),
            running: 0,
            busy: 0,
            idle_turns: 0,
            idle_rounds: 0,
            idle_since: None,
            turns: 0,
            trace: 0,
            choice: Choice::new(config.seed, u64::MAX),
            quiet: None,
            limit: config::Tools::global().deadlock.map(Clock::ticks_of),
            seeded: config.seed.is_some(),
        }
    }

    /// Clusters that are resident.
    pub(super) fn clusters(&self) -> u64 {
        (self.begun.len() + self.fresh.len() + self.parked.len() + self.running) as u64
    }

    /// Adds a grid; it runs when it has arrived.
    pub(super) fn add(&mut self, launch: Arc<LaunchState>, need: Need, done: Done) {
        let (id, device) = (launch.id, launch.device);
        let clusters = launch.clusters();
        let total = clusters.iter().map(|&n| u64::from(n)).product();
        let grid = Grid {
            launch,
            need,
            total,
            next: 0,
            resident: 0,
            done: Some(done),
        };
        self.grids.insert(id, grid);
        self.coming.push((device, super::settle::stream(), id));
    }

    /// Makes the grids that have been added arrive.
    pub(super) fn arrive(&mut self) {
        let mut coming = std::mem::take(&mut self.coming);
        // Threads of several streams add theirs in any order.
        coming.sort_by_key(|&(device, stream, _)| (device, stream));
        for (device, _, id) in coming {
            let Some(grid) = self.grids.get(&id) else {
                continue;
            };
            self.arrived += 1;
            grid.launch.number.store(self.arrived, Ordering::Relaxed);
            self.watching = None;
            self.devices[device as usize].waiting.push_back(id);
            self.admit(device);
        }
    }

    /// Makes clusters resident while there is room, grids in order.
    fn admit(&mut self, device: u32) {
        while let Some(&id) = self.devices[device as usize].waiting.front() {
            let Some(grid) = self.grids.get_mut(&id) else {
                self.devices[device as usize].waiting.pop_front();
                continue;
            };
            let residency = &mut self.devices[device as usize].residency;
            let launch = &grid.launch;
            let whole = launch.cooperative && grid.next == 0;
            let ctas = u64::from(launch.cluster_size());
            let wanted = if whole { grid.total * ctas } else { ctas };
            let over = launch.aborted.load(Ordering::Relaxed);
            if !over && !residency.has_room(grid.need, wanted) {
                return;
            }
            if over || grid.next == grid.total {
                self.devices[device as usize].waiting.pop_front();
                continue;
            }
            let positions = place(residency, grid.need, launch, grid.next);
            let site = Site {
                cluster_id: split(grid.next, launch.clusters()),
                positions,
            };
            let work = Work::Fresh {
                launch: launch.clone(),
                site,
                number: grid.next,
            };
            grid.next += 1;
            grid.resident += 1;
            self.fresh.push_back(Box::new(Entry {
                work,
                idle: false,
                timed: None,
            }));
        }
    }

    /// A launch that is not over.
    pub(super) fn launch(&self, id: u64) -> Option<Arc<LaunchState>> {
        self.grids.get(&id).map(|grid| grid.launch.clone())
    }

    /// Makes the clusters of a grid end at their next turns; the grid itself if none has begun.
    pub(super) fn abort(&mut self, id: u64) -> Option<Finished> {
        let grid = self.grids.get(&id)?;
        grid.launch.aborted.store(true, Ordering::Relaxed);
        let unbegun = grid.resident == 0;
        self.stir();
        self.release(|launch| launch.id == id);
        let grid = unbegun.then(|| self.grids.remove(&id)).flatten();
        grid.and_then(Grid::finish)
    }

    /// Whether there is work for another worker too.
    pub(super) fn has_more(&self) -> bool {
        self.begun.len() + self.fresh.len() > 0 && self.idle_turns == 0
    }

    /// What a worker does next.
    pub(super) fn next(&mut self, clock: &Clock, worker: u32) -> Next {
        if self.watching.is_some_and(|watcher| watcher != worker) {
            return Next::Wait;
        }
        self.watching = None;
        self.look_at_parked(clock.now());
        self.look_at_stopped();
        loop {
            match self.choose(clock, worker) {
                Next::Run(entry) if is_stopped(&entry) => self.stopped.push(entry),
                Next::Run(entry) => {
                    self.running += 1;
                    self.busy += usize::from(!entry.idle);
                    return Next::Run(entry);
                }
                other => return other,
            }
        }
    }

    /// Puts clusters back into the queue whose devices are stopped no more, or whose launches are to
    /// end.
    fn look_at_stopped(&mut self) {
        if self.stopped.is_empty() {
            return;
        }
        for entry in std::mem::take(&mut self.stopped) {
            if is_stopped(&entry) {
                self.stopped.push(entry);
            } else {
                self.stir();
                self.begun.push_back(entry);
            }
        }
    }

    /// The cluster whose turn it is.
    fn choose(&mut self, clock: &Clock, worker: u32) -> Next {
        let waiting = self.begun.len() as u64;
        let all_idle = self.fresh.is_empty() && self.idle_turns >= waiting;
        // Clusters of stopped devices poll nothing, but they may be what everyone waits for.
        let still = self.parked.len() + self.stopped.len();
        if waiting + still as u64 > 0 && all_idle {
            // Everyone gets another turn before the machine sleeps again.
            self.idle_turns = 0;
            self.idle_rounds += 1;
            if self.running == 0 {
                self.search_deadlock(clock.now());
            }
            self.watching = Some(worker);
            return Next::Sleep(self.pass_idle_time(clock));
        }
        if self.begun.is_empty() && self.fresh.is_empty() {
            return Next::Wait;
        }
        let begin = self.turns.is_multiple_of(FRESH_TURN)
            || self.idle_turns >= waiting
            || self.choice.below(4, 1) == 0;
        self.turns += 1;
        let queue = if self.begun.is_empty() || begin && !self.fresh.is_empty() {
            &mut self.fresh
        } else {
            &mut self.begun
        };
        let index = self.choice.below(queue.len().max(1) as u64, 0);
        let index = usize::try_from(index).unwrap_or(0);
        let Some(mut entry) = queue.remove(index) else {
            return Next::Wait;
        };
        if let Some(since) = &mut entry.timed {
            *since = Instant::now();
        }
        Next::Run(entry)
    }

    /// Lets time pass while everything polls; how long to sleep.
    fn pass_idle_time(&mut self, clock: &Clock) -> Duration {
        let doublings = self.idle_rounds.min(8);
        let longest = if self.idle_rounds < PATIENT_ROUNDS {
            LONGEST_SLEEP
        } else {
            PATIENT_SLEEP
        };
        let sleep = SHORTEST_SLEEP.saturating_mul(1 << doublings).min(longest);
        if self.busy > 0 {
            self.idle_since = None;
            return WATCHING;
        }
        if self.seeded {
            clock.add_nanoseconds(nanoseconds(sleep));
            return sleep;
        }
        let now = Instant::now();
        if let Some(since) = self.idle_since.replace(now) {
            clock.add_nanoseconds(nanoseconds(now - since));
        }
        sleep
    }

    /// Puts parked clusters back into the queue that have to run.
    fn look_at_parked(&mut self, now: u64) {
        let nothing_else = self.fresh.is_empty() && self.idle_turns >= self.begun.len() as u64;
        let count = if nothing_else {
            self.parked.lots()
        } else {
            GLANCE
        };
        for (mut entry, reason) in self.parked.look(now, count) {
            entry.idle = reason == Reason::Time;
            // Under a seed how long a turn takes must not matter.
            entry.timed = (entry.idle && !self.seeded).then(Instant::now);
            if reason == Reason::Changed {
                self.stir();
            }
            self.idle_turns = 0;
            self.begun.push_back(entry);
        }
    }

    /// Puts the parked clusters of some launches back into the queue.
    fn release(&mut self, of: impl Fn(&LaunchState) -> bool) {
        self.watching = None;
        for mut entry in self.parked.release(of) {
            entry.idle = false;
            self.begun.push_back(entry);
        }
    }

    /// Something happened: the machine is not idle.
    fn stir(&mut self) {
        self.idle_turns = 0;
        self.idle_rounds = 0;
        self.idle_since = None;
        self.quiet = None;
        self.watching = None;
        self.parked.rested();
    }

    /// Changes how long the machine must be idle before it is searched for a deadlock.
    pub(super) fn set_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit.map(Clock::ticks_of);
    }

    /// Ends launches that nothing can bring forward, after a long time in which nothing happened.
    fn search_deadlock(&mut self, now: u64) {
        let Some(limit) = self.limit else { return };
        let quiet = self.quiet.get_or_insert_with(|| Quiet {
            since: now,
            hosts: Sample::take(),
        });
        let timed = !self.begun.is_empty() || self.parked.is_timed();
        let factor = if timed { TIMED_LIMITS } else { 1 };
        if now.saturating_sub(quiet.since) < limit.saturating_mul(factor) {
            return;
        }
        if quiet.hosts.is_helpless() {
            self.end_deadlock();
        } else {
            self.quiet = None;
        }
    }

    fn end_deadlock(&mut self) {
        let begun = self.begun.iter().map(|entry| &**entry);
        let waiting: Vec<_> = begun.chain(self.parked.entries()).collect();
        let stopped = self.stopped.iter().map(|entry| &**entry);
        let text = self.explain(&waiting);
        for entry in waiting.into_iter().chain(stopped) {
            let launch = entry.launch();
            let mut fault = launch.fault.lock();
            if fault.is_none() {
                let kind = FaultKind::Deadlock {
                    waits: text.clone(),
                };
                *fault = Some(match &entry.work {
                    Work::Begun(cluster) => cluster.stuck(kind),
                    Work::Fresh { .. } => launch_fault(launch.kernel.name().to_owned(), kind),
                });
            }
            launch.aborted.store(true, Ordering::Relaxed);
        }
        self.release(|_| true);
        self.stir();
    }

    /// Who waits for what.
    fn explain(&self, waiting: &[&Entry]) -> String {
        let stopped = self.stopped.iter().map(|entry| {
            let cta = match &entry.work {
                Work::Begun(cluster) => cluster.positions().first(),
                Work::Fresh { site, .. } => site.positions.first(),
            };
            (
                &**entry.launch(),
                cta.map_or([0; 3], |position| position.cta),
            )
        });
        let clusters = waiting.iter().filter_map(|entry| match &entry.work {
            Work::Begun(cluster) => Some(cluster),
            Work::Fresh { .. } => None,
        });
        let waits: Vec<_> = clusters.flat_map(|cluster| cluster.waits()).collect();
        let mut parts = report::stopped(stopped);
        parts.extend((!waits.is_empty()).then(|| report::join(&waits)));
        for grid in self.grids.values() {
            if grid.next < grid.total {
                let (left, name) = (grid.total - grid.next, grid.launch.kernel.name());
                let id = grid.launch.number();
                parts.push(format!(
                    "kernel {name} launch {id}: {left} clusters wait for room"
                ));
            }
        }
        parts.join("; ")
    }

    /// Takes an entry back after its turn.
    pub(super) fn after(&mut self, mut entry: Box<Entry>, outcome: Outcome) {
        self.note_turn(&entry);
        self.running -= 1;
        self.busy -= usize::from(!entry.idle);
        entry.idle = outcome == Outcome::Idle;
        if let Some(since) = entry.timed.take() {
            self.parked.charge(since.elapsed());
        }
        if !entry.idle {
            self.stir();
        } else if let Work::Begun(cluster) = &mut entry.work
            && let Some(watch) = cluster.take_watch()
            && !cluster.launch().aborted.load(Ordering::Relaxed)
        {
            self.parked.park(entry, watch);
            return;
        } else {
            self.idle_turns += 1;
        }
        self.begun.push_back(entry);
    }

    /// A cluster is over; its launch, if that is over too.
    pub(super) fn finish(&mut self, entry: &Entry, launch: &LaunchState) -> Option<Finished> {
        self.note_turn(entry);
        self.running -= 1;
        self.busy -= usize::from(!entry.idle);
        self.stir();
        let positions = match &entry.work {
            Work::Begun(cluster) => cluster.positions(),
            Work::Fresh { site, .. } => &site.positions,
        };
        if launch.aborted.load(Ordering::Relaxed) {
            self.release(|other| other.id == launch.id);
        }
        let grid = self.grids.get_mut(&launch.id)?;
        let device = &mut self.devices[launch.device as usize];
        device.residency.give(positions, grid.need);
        grid.resident -= 1;
        let aborted = launch.aborted.load(Ordering::Relaxed);
        let over = grid.resident == 0 && (aborted || grid.next == grid.total);
        let finished = over.then(|| self.grids.remove(&launch.id)).flatten();
        self.admit(launch.device);
        if let Some(grid) = &finished {
            grid.launch.counters.lock().schedule = self.trace.max(1);
        }
        finished.and_then(Grid::finish)
    }

    /// Adds a turn to the hash of the schedule.
    fn note_turn(&mut self, entry: &Entry) {
        let Work::Begun(cluster) = &entry.work else {
            return;
        };
        let [x, y, z] = cluster.positions().first().map_or([0; 3], |p| p.cta);
        let place = u64::from(x) | u64::from(y) << 32 | u64::from(z) << 48;
        for value in [cluster.launch().number(), place, cluster.work()] {
            self.trace = super::warp::stir(self.trace, value);
        }
    }
}

/// Whether fault injection has stopped the device of a cluster, so that it gets no turns. A launch
/// that its client has given up ends all the same.
fn is_stopped(entry: &Entry) -> bool {
    let launch = entry.launch();
    inject::is_stopped(launch.device) && !launch.aborted.load(Ordering::Relaxed)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Coordinates of a linear index, x fastest.
fn split(index: u64, extent: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extent.map(u64::from);
    let part = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    [part(index % x), part(index / x % y), part(index / x / y)]
}

/// Takes room for the CTAs of a cluster and says where they are.
fn place(
    residency: &mut Residency,
    need: Need,
    launch: &LaunchState,
    number: u64,
) -> Vec<Position> {
    let corner = split(number, launch.clusters());
    let ranks = 0..launch.cluster_size();
    ranks
        .map(|rank| {
            let inside = split(rank.into(), launch.cluster);
            Position {
                cta: std::array::from_fn(|i| corner[i] * launch.cluster[i] + inside[i]),
                sm: residency.take(need).unwrap_or(0),
            }
        })
        .collect()
}
