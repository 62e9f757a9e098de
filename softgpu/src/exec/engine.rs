//! The engine: worker threads that run clusters, and the way in for launches.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};

use parking_lot::{Condvar, Mutex};

use super::clock::Clock;
use super::cluster::{Cluster, Outcome};
use super::config::Config;
use super::counters::Counters;
use super::cta::LaunchState;
use super::dependents::{Dependence, Trigger};
use super::kernel::Kernel;
use super::residency::{Need, Residency};
use super::scheduler::{Entry, Next, Scheduler, Work};
use super::seed::Choice;
use super::settle::Settling;
use crate::error::{Fault, FaultKind};
use crate::mem::{AddressSpace, RegionKind};

/// Warp instructions per turn of a cluster.
const QUANTUM: u64 = 100_000;

/// Bytes of the workspace of a cooperative launch.
const WORKSPACE: u64 = 64;

/// Called once when a launch is over.
pub type Done = Box<dyn FnOnce(Result<Counters, Fault>) + Send>;

/// A grid to execute.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Device, below [`Config::devices`].
    pub device: u32,
    /// Kernel.
    pub kernel: Arc<Kernel>,
    /// CTAs along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a CTA along x, y, z.
    pub block: [u32; 3],
    /// CTAs of a cluster along x, y, z; ones without clusters.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter buffer, laid out as [`Kernel::params`] says.
    pub params: Vec<u8>,
    /// All CTAs must be resident at once.
    pub cooperative: bool,
}

/// The neighbours of a launch in its stream, under programmatic dependent launch.
#[derive(Default)]
pub struct Chain {
    /// The launch that it may overlap with; its `griddepcontrol.wait` waits for that one.
    pub predecessor: Option<u64>,
    /// Called, on some other thread, once all its CTAs have let successors start or have ended.
    pub trigger: Option<Trigger>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("predecessor", &self.predecessor)
            .finish_non_exhaustive()
    }
}

/// Executes launches.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    workers: Once,
}

/// When launches arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    AtOnce,
    /// When the host has settled ([`super::settle`]).
    Settled,
}

struct Shared {
    config: Config,
    clock: Clock,
    scheduler: Mutex<Scheduler>,
    work: Condvar,
    /// Launches so far.
    launches: AtomicU64,
    stop: AtomicBool,
    arrival: Arrival,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("scheduler", &self.scheduler)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// The engine of the process, with the configuration of its environment.
    pub fn global() -> &'static Self {
        static ENGINE: OnceLock<Engine> = OnceLock::new();
        ENGINE.get_or_init(|| {
            let config = *Config::global();
            let arrival = match config.seed {
                Some(_) => Arrival::Settled,
                None => Arrival::AtOnce,
            };
            Self::with(config, arrival)
        })
    }

    /// An engine of its own. Its worker threads start with the first launch.
    #[must_use]
    pub fn new(config: Config) -> Self {
        // Threads that have to do with other engines are none of its business.
        Self::with(config, Arrival::AtOnce)
    }

    fn with(config: Config, arrival: Arrival) -> Self {
        let shared = Shared {
            config,
            clock: Clock::default(),
            scheduler: Mutex::new(Scheduler::new(&config)),
            work: Condvar::new(),
            launches: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            arrival,
        };
        Self {
            shared: Arc::new(shared),
            workers: Once::new(),
        }
    }

    /// Starts a launch. `done` is called on some other thread, or at once if the launch breaks a
    /// rule, with the counters or the first fault.
    ///
    /// Returns a number for [`Self::abort`].
    pub fn submit(&self, launch: Launch, done: Done) -> u64 {
        self.submit_after(launch, Chain::default(), done)
    }

    /// Starts a launch that may overlap with its neighbours in a stream.
    pub fn submit_after(&self, launch: Launch, chain: Chain, done: Done) -> u64 {
        super::hosts::attend();
        super::inject::launching(launch.kernel.name(), launch.device);
        let shared = &self.shared;
        let checked = check(&shared.config, &launch);
        let ready = checked.and_then(|need| Ok((prepare(shared, launch, chain)?, need)));
        let (state, need) = match ready {
            Ok(ready) => ready,
            Err(fault) => {
                done(Err(fault));
                return 0;
            }
        };
        self.workers.call_once(|| {
            // Two workers would race, and no seed replays a race.
            let threads = shared.config.seed.map_or(shared.config.host_threads, |_| 1);
            for index in 0..threads {
                let shared = shared.clone();
                let name = format!("softgpu-{index}");
                // Without even one thread launches would never end; that is worth a panic.
                let spawned = std::thread::Builder::new()
                    .name(name)
                    .spawn(move || work(&shared, index));
                assert!(
                    spawned.is_ok() || index > 0,
                    "no worker thread: {spawned:?}"
                );
            }
        });
        if launch_is_empty(&state) {
            done(Ok(Counters::default()));
            return 0;
        }
        let id = state.id;
        super::settle::disturb();
        let mut scheduler = shared.scheduler.lock();
        scheduler.add(state, need, done);
        if shared.arrival == Arrival::AtOnce {
            scheduler.arrive();
        }
        drop(scheduler);
        shared.work.notify_all();
        id
    }

    /// Ends a launch early, as the loss of its context does: its clusters stop at their next
    /// turns, and it counts as done. Nothing happens if it is over already.
    pub fn abort(&self, launch: u64) {
        let finished = self.shared.scheduler.lock().abort(launch);
        self.shared.work.notify_all();
        if let Some(finished) = finished {
            finished.announce();
        }
    }

    /// How long (in device time) nothing may happen before the machine is searched for a deadlock;
    /// never with `None`. At first it is what `SOFTGPU_DEADLOCK_SECONDS` says.
    pub fn set_deadlock_limit(&self, limit: Option<std::time::Duration>) {
        self.shared.scheduler.lock().set_limit(limit);
    }

    /// Executes a launch and waits for its end.
    ///
    /// # Errors
    /// The first fault.
    pub fn run(&self, launch: Launch) -> Result<Counters, Fault> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = move |result| {
            let _ = sender.send(result);
        };
        let name = launch.kernel.name().to_owned();
        self.submit(launch, Box::new(done));
        super::hosts::waiting(|| receiver.recv()).unwrap_or_else(|_| {
            let what = "the launch was dropped".to_owned();
            Err(launch_fault(name, FaultKind::Internal { what }))
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.work.notify_all();
    }
}

fn launch_is_empty(launch: &LaunchState) -> bool {
    launch.grid.contains(&0)
}

pub(super) fn launch_fault(kernel: String, kind: FaultKind) -> Fault {
    Fault {
        kind,
        kernel,
        cta: [0; 3],
        warp: 0,
        lane: 0,
        line: 0,
        source: None,
    }
}

/// Checks the rules of a launch; what a CTA needs.
fn check(config: &Config, launch: &Launch) -> Result<Need, Fault> {
    let kernel = &launch.kernel;
    let illegal = |what: String| {
        let what = format!("launch: {what}");
        Err(launch_fault(
            kernel.name().to_owned(),
            FaultKind::IllegalInstruction { what },
        ))
    };
    let product = |extent: [u32; 3]| extent.iter().map(|&n| u64::from(n)).product::<u64>();
    let threads = product(launch.block);
    if launch.device >= config.devices {
        return illegal(format!("device {} of {}", launch.device, config.devices));
    }
    if threads == 0 || threads > 1024 {
        return illegal(format!("{threads} threads in a block"));
    }
    if launch.params.len() < kernel.param_bytes() as usize {
        let (given, wanted) = (launch.params.len(), kernel.param_bytes());
        return illegal(format!(
            "{given} bytes of parameters, the kernel has {wanted}"
        ));
    }
    let cluster = product(launch.cluster);
    let divides = |(&grid, &cluster): (&u32, &u32)| cluster != 0 && grid.is_multiple_of(cluster);
    if cluster == 0 || cluster > 16 || !launch.grid.iter().zip(&launch.cluster).all(divides) {
        let (grid, cluster) = (launch.grid, launch.cluster);
        return illegal(format!("grid {grid:?} in clusters of {cluster:?}"));
    }
    let dynamic = launch.dynamic_shared.min(u32::MAX >> 1);
    let (_, shared) = kernel.shared_layout(dynamic);
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    let need = Need::new(shared, threads, kernel.function().registers);
    let room = Residency::new(config.sms).room(need);
    if shared > 227 << 10 || room < cluster {
        return illegal(format!(
            "a cluster of {cluster} with {shared} bytes each does not fit"
        ));
    }
    let grid = product(launch.grid);
    if launch.cooperative && room < grid {
        return illegal(format!(
            "a cooperative grid of {grid} where {room} can be resident"
        ));
    }
    Ok(need)
}

fn prepare(shared: &Shared, launch: Launch, chain: Chain) -> Result<Arc<LaunchState>, Fault> {
    let predecessor = chain
        .predecessor
        .and_then(|id| shared.scheduler.lock().launch(id));
    let ctas = launch.grid.iter().map(|&n| u64::from(n)).product();
    let workspace = if launch.cooperative {
        new_workspace(&launch)?
    } else {
        0
    };
    Ok(Arc::new(LaunchState {
        kernel: launch.kernel,
        device: launch.device,
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        dynamic_shared: launch.dynamic_shared,
        params: launch.params,
        cooperative: launch.cooperative,
        number: AtomicU64::new(0),
        id: shared.launches.fetch_add(1, Ordering::Relaxed) + 1,
        workspace,
        sms: shared.config.sms,
        aborted: AtomicBool::new(false),
        fault: Mutex::new(None),
        counters: Mutex::default(),
        traffic: super::traffic::is_wanted(),
        dependence: Dependence::new(predecessor, ctas, chain.trigger),
    }))
}

/// Zeroed device memory for the grid barrier of cooperative groups.
fn new_workspace(launch: &Launch) -> Result<u64, Fault> {
    let space = AddressSpace::global();
    let region = space
        .alloc_host(WORKSPACE, RegionKind::Host)
        .map_err(|error| {
            let what = format!("workspace of a cooperative launch: {error}");
            launch_fault(
                launch.kernel.name().to_owned(),
                FaultKind::Internal { what },
            )
        })?;
    super::transfer::zero(launch.device, region.base, WORKSPACE);
    Ok(region.base)
}

pub(super) fn release_workspace(launch: &LaunchState) {
    if launch.workspace != 0 {
        // It was allocated in `new_workspace`, so the only failure would be a double free.
        let _ = AddressSpace::global().free(launch.workspace);
    }
}

/// A worker thread.
fn work(shared: &Shared, worker: u32) {
    let mut settling = (shared.arrival == Arrival::Settled).then(Settling::new);
    while !shared.stop.load(Ordering::Relaxed) {
        let mut scheduler = shared.scheduler.lock();
        if let Some(settling) = &mut settling {
            if super::settle::is_disturbed() {
                drop(scheduler);
                settling.settle();
                scheduler = shared.scheduler.lock();
            }
            scheduler.arrive();
        }
        match scheduler.next(&shared.clock, worker) {
            Next::Wait => {
                let patience = std::time::Duration::from_millis(100);
                shared.work.wait_for(&mut scheduler, patience);
            }
            Next::Sleep(time) => {
                shared.work.wait_for(&mut scheduler, time);
            }
            Next::Run(entry) => {
                let clusters = scheduler.clusters();
                let more = scheduler.has_more();
                drop(scheduler);
                if more {
                    shared.work.notify_one();
                }
                turn(shared, entry, clusters);
            }
        }
    }
}

/// Gives a cluster its turn.
fn turn(shared: &Shared, mut entry: Box<Entry>, clusters: u64) {
    let launch = match &entry.work {
        Work::Begun(cluster) => cluster.launch().clone(),
        Work::Fresh { launch, .. } => launch.clone(),
    };
    let outcome = if launch.aborted.load(Ordering::Relaxed) {
        Outcome::Done
    } else {
        begin(shared, &mut entry);
        run(shared, &mut entry, &launch, clusters)
    };
    if outcome != Outcome::Done {
        shared.scheduler.lock().after(entry, outcome);
        return;
    }
    if let Work::Begun(cluster) = &mut entry.work {
        *launch.counters.lock() += cluster.counters();
        launch.dependence.release(cluster.untriggered());
    }
    let finished = shared.scheduler.lock().finish(&entry, &launch);
    if let Work::Begun(cluster) = entry.work {
        cluster.recycle();
    }
    shared.work.notify_all();
    if let Some(finished) = finished {
        super::settle::disturb();
        finished.announce();
    }
}

/// Makes the cluster if this is its first turn.
fn begin(shared: &Shared, entry: &mut Entry) {
    if let Work::Fresh {
        launch,
        site,
        number,
    } = &entry.work
    {
        let choice = Choice::new(shared.config.seed, launch.number() << 32 | number);
        let cluster = Cluster::new(launch.clone(), site.clone(), choice);
        entry.work = Work::Begun(Box::new(cluster));
    }
}

fn run(shared: &Shared, entry: &mut Entry, launch: &LaunchState, clusters: u64) -> Outcome {
    let Work::Begun(cluster) = &mut entry.work else {
        return Outcome::Done;
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        let outcome = cluster.run(&shared.clock, QUANTUM, clusters);
        shared.clock.add(cluster.ticks());
        outcome
    }));
    let fault = match result {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(fault)) => fault,
        Err(panic) => {
            let what = format!("panic: {}", message(&*panic));
            launch_fault(
                launch.kernel.name().to_owned(),
                FaultKind::Internal { what },
            )
        }
    };
    launch.fault.lock().get_or_insert(fault);
    launch.aborted.store(true, Ordering::Relaxed);
    Outcome::Done
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
