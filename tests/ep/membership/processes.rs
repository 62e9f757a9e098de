//! Ranks as processes: one is killed, stopped, slowed or damaged at every phase of a round; the others get the
//! right fault in time, go on without it, and it, or a new process in its place, comes back.
//!
//! A generation is the time between two rejoins. Parent and ranks talk through files in a folder: `port-G` says where the
//! ranks of generation G meet, `last-G` that nothing more will happen to them, `ready-G-RANK` that a rank
//! is there, `recovered-G-RANK` that it goes on without the one that was lost.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hadal::ep::latency::Payload;
use hadal::ep::throughput::Reduce;
use hadal::ep::{EpError, Fault, FaultKind};
use hadal::memory::{Bootstrap, MemoryError, Rendezvous};

use super::communicator::{Communicator, Mode, RANKS, Until};
use crate::plans::used;
use crate::process::{Process, SECRET, port};
use crate::ranks::context;

const CHILD: &str = "membership::processes::child";
/// How long a rank waits for a peer where something is to fail.
const DEADLINE: Duration = Duration::from_secs(1);
/// Where nothing is.
const LONG: Duration = Duration::from_secs(60);
/// One test at a time, so that deadlines are the machine's only concern.
static ALONE: Mutex<()> = Mutex::new(());
/// Rounds of the last generation.
const LAST_ROUNDS: u64 = 3;

/// What a rank's process is told, in variables.
struct Task {
    folder: PathBuf,
    rank: u32,
    /// Its communicators, which take turns.
    modes: Vec<Mode>,
    /// The first generation that it takes part in.
    generation: u64,
    /// Its first round that may fail; `None`: any.
    fails: Option<u64>,
    /// Who fails; `None`: anybody.
    lost: Option<u32>,
    /// What the others see of it.
    kind: FaultKind,
    /// For how long its stores may still come once the others go on.
    late: Duration,
}

const VARIABLES: [&str; 7] = [
    "EP_FOLDER",
    "EP_MODE",
    "EP_GENERATION",
    "EP_FAILS",
    "EP_LOST",
    "EP_KIND",
    "EP_LATE",
];

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl Task {
    fn variables(&self) -> [String; 7] {
        let index = |mode: &Mode| Mode::ALL.iter().position(|m| m == mode).unwrap();
        let modes = self.modes.iter().map(|mode| index(mode).to_string());
        [
            self.folder.to_str().unwrap().to_owned(),
            modes.collect::<Vec<_>>().join(","),
            self.generation.to_string(),
            number(self.fails),
            number(self.lost.map(u64::from)),
            u8::from(self.kind == FaultKind::Protocol).to_string(),
            self.late.as_secs().to_string(),
        ]
    }

    fn read() -> Self {
        let text = VARIABLES.map(|name| std::env::var(name).expect("called by the parent"));
        let [folder, modes, generation, fails, lost, kind, late] = text;
        Self {
            folder: folder.into(),
            rank: std::env::var("RANK").unwrap().parse().unwrap(),
            modes: modes
                .split(',')
                .map(|mode| Mode::ALL[mode.parse::<usize>().unwrap()])
                .collect(),
            generation: generation.parse().unwrap(),
            fails: fails.parse().ok(),
            lost: lost.parse().ok(),
            kind: if kind == "1" {
                FaultKind::Protocol
            } else {
                FaultKind::Timeout
            },
            late: Duration::from_secs(late.parse().unwrap()),
        }
    }

    fn start(&self, fault: Option<&str>) -> Process {
        let values = self.variables();
        let mut all: Vec<[&str; 2]> = Vec::new();
        all.extend(
            VARIABLES
                .iter()
                .zip(&values)
                .map(|(name, value)| [*name, value.as_str()]),
        );
        all.extend(fault.map(|fault| ["SOFTGPU_FAULT", fault]));
        Process::start_with(CHILD, &all, [self.rank, RANKS], 0)
    }

    fn mark(&self, what: &str, generation: u64) {
        let name = format!("{what}-{generation}-{}", self.rank);
        std::fs::write(self.folder.join(name), "").unwrap();
    }

    /// The others' mark.
    fn wait_for_others(&self, what: &str, generation: u64) {
        for rank in (0..RANKS).filter(|&rank| rank != self.rank) {
            wait_for(&self.folder.join(format!("{what}-{generation}-{rank}")));
        }
    }
}

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(
            start.elapsed() < 2 * LONG,
            "{} does not appear",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A file that is complete when it appears.
fn publish(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, path).unwrap();
}

/// Open files, and bytes of the device's memory in use.
fn in_use(rank: u32) -> (usize, u64) {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (files, used(&context(rank)))
}

#[test]
#[ignore = "called by the tests below in a process of its own"]
fn child() {
    let task = Task::read();
    let mut all: Vec<Communicator> = Vec::new();
    let mut at_first = None;
    for generation in task.generation.. {
        let port_file = task.folder.join(format!("port-{generation}"));
        wait_for(&port_file);
        let port = std::fs::read_to_string(port_file).unwrap().parse().unwrap();
        let place = Rendezvous::new([task.rank, RANKS], ("127.0.0.1", port), SECRET.as_bytes());
        let mut side = place.unwrap().with_deadline(LONG).connect().unwrap();
        if all.is_empty() {
            let open = |mode: &Mode| Communicator::open(*mode, LONG, &mut side);
            all = task.modes.iter().map(open).collect();
        } else {
            all.iter().for_each(|at| at.rejoin(&mut side).unwrap());
        }
        assert!(all.iter().all(|at| at.masked().is_empty()));
        if task.folder.join(format!("last-{generation}")).exists() {
            rounds(&all, 0..LAST_ROUNDS);
            side.barrier("end").unwrap();
            // What earlier generations had is gone.
            let now = in_use(task.rank);
            let kept = |(files, bytes): &(usize, u64)| now.0 <= *files && now.1 <= *bytes;
            assert!(
                at_first.as_ref().is_none_or(kept),
                "{at_first:?}, now {now:?}"
            );
            return;
        }
        at_first.get_or_insert_with(|| in_use(task.rank));
        task.mark("ready", generation);
        let (fault, took) = rounds_until_fault(&all, task.fails);
        if task.lost == Some(task.rank) {
            comes_late(&task, &all, &mut side, generation);
        } else {
            goes_on(&task, &all, &mut side, (generation, &fault, took));
        }
    }
}

/// Rounds that must not fail, of every communicator.
fn rounds(all: &[Communicator], seeds: std::ops::Range<u64>) {
    for at in all {
        at.set_timeout(LONG);
        for seed in seeds.clone() {
            at.round(seed, Until::Combined).unwrap();
        }
    }
}

/// Rounds until one fails: why, and how long it took.
fn rounds_until_fault(all: &[Communicator], fails: Option<u64>) -> (Fault, Duration) {
    let set_timeout = |timeout| all.iter().for_each(|at| at.set_timeout(timeout));
    set_timeout(if fails.is_some() { LONG } else { DEADLINE });
    for (round, at) in (0..).zip(all.iter().cycle()) {
        if fails == Some(round) {
            set_timeout(DEADLINE);
        }
        let start = Instant::now();
        match at.round(round, Until::Combined) {
            // A rank that is lost behind its last store is missed in the next round.
            Ok(()) => assert!(
                fails.is_none_or(|first| round <= first),
                "round {round} did not fail"
            ),
            Err(EpError::Fault(fault)) => return (fault, start.elapsed()),
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    unreachable!("rounds do not end by themselves")
}

/// A rank that was damaged or slow, when the others have gone on.
fn comes_late(task: &Task, all: &[Communicator], side: &mut Bootstrap, generation: u64) {
    task.wait_for_others("recovered", generation);
    let error = all[0].recover(side).unwrap_err();
    let masked = matches!(error, EpError::Memory(MemoryError::Masked { .. }));
    assert!(masked, "{error}");
}

fn goes_on(
    task: &Task,
    all: &[Communicator],
    side: &mut Bootstrap,
    (generation, fault, took): (u64, &Fault, Duration),
) {
    assert!(
        took < DEADLINE + Duration::from_secs(1),
        "rank {}: {fault}: {took:?}",
        task.rank
    );
    let named = fault.kind == task.kind && task.lost.is_none_or(|lost| fault.peer == lost);
    assert!(
        named || fault.kind == FaultKind::Poisoned,
        "rank {}: {fault}",
        task.rank
    );
    side.set_deadline(DEADLINE);
    all.iter().for_each(|at| at.recover(side).unwrap());
    let masked = all[0].masked();
    assert_eq!(masked.len(), 1);
    assert!(task.lost.is_none_or(|lost| masked == [lost]), "{masked:?}");
    side.set_deadline(LONG);
    rounds(all, 100..102);
    task.mark("recovered", generation);
    std::thread::sleep(task.late);
    rounds(all, 102..103);
    task.mark("done", generation);
}

/// What happens to the lost rank afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is dead, or killed; a new process takes its place.
    Replaced,
    /// It learns that it is masked, and rejoins.
    Returns,
}

/// One generation that ends by `fault` at rank 1, and a last one.
fn loses_one(mode: Mode, fault: &str, (kind, late): (FaultKind, Duration), then: Then) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let lost = 1;
    let task = |rank, generation| Task {
        folder: folder.path().to_path_buf(),
        rank,
        modes: vec![mode],
        generation,
        fails: Some(2),
        lost: Some(lost),
        kind,
        late,
    };
    let at = |name: &str| folder.path().join(name);
    publish(&at("port-0"), &port().to_string());
    let mut ranks: Vec<Process> = (0..RANKS)
        .map(|rank| task(rank, 0).start((rank == lost).then_some(fault)))
        .collect();
    for rank in (0..RANKS).filter(|&rank| rank != lost) {
        let recovered = at(&format!("done-0-{rank}"));
        let start = Instant::now();
        while !recovered.exists() {
            let ended = ranks[rank as usize].0.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > 2 * LONG {
                // Its output is the panic's message.
                ranks.swap_remove(rank as usize).finish();
                panic!("{mode:?}, {fault}: rank {rank} ended well, without recovering");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    std::fs::write(at("last-1"), "").unwrap();
    if then == Then::Replaced {
        // The old process is killed here, if it is not dead.
        ranks[lost as usize] = task(lost, 1).start(None);
    }
    publish(&at("port-1"), &port().to_string());
    // The lost one first: where it fails, the others fail by it.
    ranks.swap(0, lost as usize);
    ranks.into_iter().for_each(Process::finish);
}

const LATENCY: [&str; 4] = [
    "ep_dispatch_send",
    "ep_dispatch_recv",
    "ep_combine_send",
    "ep_combine_recv",
];
const THROUGHPUT: [&str; 5] = [
    "ep_tp_count",
    "ep_tp_dispatch_send",
    "ep_tp_dispatch_recv",
    "ep_tp_combine_send",
    "ep_tp_combine_recv",
];

/// `what` at the third launch of every kernel.
fn at_every_phase(what: &str) {
    let modes = [
        (Mode::Latency(Payload::Bf16), &LATENCY[..]),
        (Mode::Throughput(Reduce::PerExpert), &THROUGHPUT[..]),
    ];
    for (mode, kernels) in modes {
        for kernel in kernels {
            let fault = format!("{what} @launch={kernel}#3");
            loses_one(
                mode,
                &fault,
                (FaultKind::Timeout, Duration::ZERO),
                Then::Replaced,
            );
        }
    }
}

#[test]
fn a_process_killed_at_any_phase() {
    at_every_phase("kill");
}

#[test]
fn a_rank_stopped_at_any_phase() {
    at_every_phase("stop 1");
}

/// They come while the others, who have long masked the rank, are in their rounds.
#[test]
fn stores_delayed_past_the_deadline() {
    for (mode, kernel) in [
        (Mode::Latency(Payload::Bf16), "ep_dispatch_send"),
        (Mode::Latency(Payload::Fp8), "ep_combine_send"),
        (Mode::Throughput(Reduce::PerExpert), "ep_tp_count"),
        (Mode::Throughput(Reduce::PerRank), "ep_tp_combine_send"),
    ] {
        let fault = format!("delay 1->* ns=4000000000 @launch={kernel}#3");
        let late = (FaultKind::Timeout, Duration::from_secs(4));
        loses_one(mode, &fault, late, Then::Replaced);
    }
}

#[test]
fn corrupted_counts_and_headers() {
    for (mode, fault) in [
        // The first store of a dispatch is a header, or a count.
        (
            Mode::Latency(Payload::Bf16),
            "corrupt 1->* n=1 bit=1 @launch=ep_dispatch_send#3",
        ),
        (
            Mode::Throughput(Reduce::PerExpert),
            "corrupt 1->* n=1 @launch=ep_tp_count#3",
        ),
        (
            Mode::Throughput(Reduce::PerRank),
            "corrupt 1->* n=1 bit=3 @launch=ep_tp_dispatch_send#3",
        ),
    ] {
        loses_one(
            mode,
            fault,
            (FaultKind::Protocol, Duration::ZERO),
            Then::Returns,
        );
    }
}

/// Processes are killed one after another at random moments of their rounds, each replaced by a new one; the others
/// live through all of it. Returns how many were.
fn kills(count: u64, seed: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let task = |rank, generation| Task {
        folder: folder.path().to_path_buf(),
        rank,
        modes: vec![
            Mode::Latency(Payload::Bf16),
            Mode::Throughput(Reduce::PerExpert),
        ],
        generation,
        fails: None,
        lost: None,
        kind: FaultKind::Timeout,
        late: Duration::ZERO,
    };
    let open = |generation: u64| {
        if generation == count {
            std::fs::write(folder.path().join(format!("last-{generation}")), "").unwrap();
        }
        let path = folder.path().join(format!("port-{generation}"));
        publish(&path, &port().to_string());
    };
    let mut random = seed;
    let mut below = |limit: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let mut ranks: Vec<Process> = (0..RANKS).map(|rank| task(rank, 0).start(None)).collect();
    open(0);
    for generation in 0..count {
        if !arrive(&mut ranks, folder.path(), &format!("ready-{generation}")) {
            return generation;
        }
        std::thread::sleep(Duration::from_micros(below(60_000)));
        let lost = below(RANKS.into()) as u32;
        // The old process is killed by the assignment at the latest; this is the moment.
        let _ = ranks[lost as usize].0.kill();
        ranks[lost as usize] = task(lost, generation + 1).start(None);
        open(generation + 1);
    }
    ranks.into_iter().for_each(Process::finish);
    count
}

/// Waits for the mark of every rank; false where one has ended without it, after its output.
fn arrive(ranks: &mut Vec<Process>, folder: &Path, mark: &str) -> bool {
    for rank in 0..RANKS {
        let path = folder.join(format!("{mark}-{rank}"));
        while !path.exists() {
            if ranks[rank as usize].0.try_wait().unwrap().is_some() {
                ranks.swap_remove(rank as usize).finish();
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    true
}

#[test]
fn a_few_kills() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(kills(4, 5), 4);
}

#[test]
#[ignore = "minutes: the sweep runs it"]
#[expect(clippy::print_stdout, reason = "what the sweep tells")]
fn a_hundred_kills() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, seed) = (100, 1);
    let passed = kills(count, seed);
    let failed = count - passed;
    println!("{passed} passed, {failed} failed");
    println!(r#"{{"sweep":"faults","kills":{count},"passed":{passed},"failed":{failed}}}"#);
    assert_eq!(failed, 0, "seed {seed}");
}
