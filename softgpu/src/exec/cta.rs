//! What the warps of a cluster share: its fixed surroundings ([`Env`]) and its state ([`State`]).
//!
//! A cluster is the unit of scheduling: one host thread owns it at a time, so the memory, barriers
//! and asynchronous operations of its CTAs need no locks. Global memory is shared with everyone.
#![expect(
    unsafe_code,
    reason = "surroundings hold pointers into memory that they own"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::access::{LocalMemory, MemCtx, SharedMemory};
use super::barrier::{BARRIERS, ClusterBarrier, NamedBarrier};
use super::block::Block;
use super::clock::Share;
use super::counters::{CLOCKS, Counters, EFFECTS, POLLS, Tally};
use super::dependents::Dependence;
use super::held::Held;
use super::inflight::InFlight;
use super::kernel::Kernel;
use super::mbar::Lives;
use super::seed::Choice;
use super::split::Wait;
use super::visibility::LateStores;
use super::watch::{Recorder, Recording};
use super::wgmma::Warpgroup;
use crate::error::{Fault, FaultKind};
use crate::mem::AddressSpace;

/// A launch as its clusters see it.
#[derive(Debug)]
pub(super) struct LaunchState {
    pub(super) kernel: Arc<Kernel>,
    pub(super) device: u32,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) cluster: [u32; 3],
    pub(super) dynamic_shared: u32,
    pub(super) params: Vec<u8>,
    pub(super) cooperative: bool,
    /// Unique in the engine.
    pub(super) id: u64,
    /// The place among the launches in the order in which they arrived; 0 before.
    pub(super) number: AtomicU64,
    /// Device address of the workspace of a cooperative launch, or 0: `%envreg1`, `%envreg2`.
    pub(super) workspace: u64,
    pub(super) sms: u32,
    /// A fault has been reported, so the other clusters stop.
    pub(super) aborted: AtomicBool,
    pub(super) fault: Mutex<Option<Fault>>,
    pub(super) counters: Mutex<Counters>,
    /// Its clusters keep [`Counters::traffic`].
    pub(super) traffic: bool,
    /// Predecessor and successors in the stream.
    pub(super) dependence: Dependence,
}

impl LaunchState {
    /// The number of the launch, also the seed's stream: `%gridid`.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Threads per CTA.
    pub(super) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Clusters along x, y, z.
    pub(super) fn clusters(&self) -> [u32; 3] {
        std::array::from_fn(|i| self.grid[i] / self.cluster[i])
    }

    /// CTAs per cluster.
    pub(super) fn cluster_size(&self) -> u32 {
        self.cluster.iter().product()
    }
}

/// `%tid` of 32 threads in a row, of which `first` is the first. Divides once: CTAs may run for less
/// time than 96 divisions take.
pub(super) fn thread_indices(block: [u32; 3], first: u32) -> [[u32; 32]; 3] {
    let [x, y, _] = block;
    let mut at = [first % x, first / x % y, first / x / y];
    let mut indices = [[0; 32]; 3];
    for lane in 0..32 {
        for (axis, index) in indices.iter_mut().zip(at) {
            axis[lane] = index;
        }
        at[0] += 1;
        if at[0] == x {
            at = [0, at[1] + 1, at[2]];
        }
        if at[1] == y {
            at = [at[0], 0, at[2] + 1];
        }
    }
    indices
}

/// Where a CTA is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// `%ctaid`.
    pub(super) cta: [u32; 3],
    /// `%smid`.
    pub(super) sm: u32,
}

/// A thread, for fault reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) rank: u32,
    pub(super) warp: u32,
    pub(super) lane: u32,
    pub(super) line: u32,
}

/// The last arrival at a barrier, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) rank: u32,
    pub(super) warp: u32,
    pub(super) line: u32,
}

/// mbarriers whose last arrival a CTA remembers; more share the places.
const ARRIVALS: usize = 32;

fn arrival_slot(offset: u32) -> usize {
    offset as usize / 8 % ARRIVALS
}

/// What does not change while a cluster runs.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) launch: Arc<LaunchState>,
    pub(super) positions: Vec<Position>,
    /// Shared memory of the CTAs by rank.
    pub(super) shared: Vec<SharedMemory>,
    /// Local memory of the CTAs by rank.
    pub(super) locals: Vec<LocalMemory>,
    /// What `shared` and `locals` point into.
    pub(super) blocks: Vec<Block>,
    /// `%clusterid`.
    pub(super) cluster_id: [u32; 3],
}

// SAFETY: the pointers lead into `blocks`, which the value owns. Only the thread that runs the
// cluster reads or writes through them.
unsafe impl Send for Env {}
// SAFETY: as above.
unsafe impl Sync for Env {}

impl Env {
    /// The memory that a warp sees.
    pub(super) fn context(&self, rank: u32, first_thread: u32) -> MemCtx<'_> {
        MemCtx {
            space: AddressSpace::global(),
            device: self.launch.device,
            shared: &self.shared,
            rank,
            local: LocalMemory {
                first_thread,
                ..self.locals[rank as usize]
            },
            params: &self.launch.params,
        }
    }

    /// A PTX line, with the place in the program that it comes from.
    pub(super) fn place(&self, line: u32) -> String {
        let source = self.launch.kernel.function().sources.at(line);
        crate::error::place(line, source.as_deref())
    }

    /// A fault of this cluster.
    pub(super) fn fault(&self, origin: Origin, kind: FaultKind) -> Fault {
        let position = self.positions.get(origin.rank as usize);
        Fault {
            kind,
            kernel: self.launch.kernel.name().to_owned(),
            cta: position.map_or([0; 3], |position| position.cta),
            warp: origin.warp,
            lane: origin.lane,
            line: origin.line,
            source: self.launch.kernel.function().sources.at(origin.line),
        }
    }
}

/// Why a warp may have to look at its waits again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// A named barrier completed.
    Barrier,
    /// A phase of an mbarrier completed.
    Mbarrier,
    /// The cluster barrier completed.
    Cluster,
    /// An asynchronous operation completed.
    Async,
    /// Time passed.
    Time,
}

const EVENTS: usize = 5;

/// The events that can end a wait.
pub(super) fn events(wait: Wait) -> &'static [Event] {
    match wait {
        Wait::Run | Wait::Converge | Wait::WarpBarrier { .. } => &[],
        Wait::Barrier { .. } => &[Event::Barrier],
        Wait::Cluster { .. } => &[Event::Cluster],
        Wait::Mbarrier { .. } => &[Event::Mbarrier, Event::Time],
        Wait::Bulk { .. } | Wait::CpAsync { .. } | Wait::Wgmma { .. } | Wait::WgmmaDone { .. } => {
            &[Event::Async]
        }
        Wait::Sleep { .. } | Wait::Grid => &[Event::Time],
    }
}

/// State of one CTA. Sets of warps are bit masks: a CTA has at most 32.
#[derive(Debug)]
pub(super) struct Cta {
    pub(super) barriers: [NamedBarrier; BARRIERS],
    /// Threads that have not exited.
    pub(super) live: u32,
    /// Warps that can run.
    pub(super) ready: u32,
    /// Warps that only spin; they run when nothing else can.
    pub(super) spinning: u32,
    /// `griddepcontrol.launch_dependents` has been executed.
    pub(super) triggered: bool,
    /// Warps that wait, by event.
    waiting: [u32; EVENTS],
    pub(super) warpgroups: Vec<Warpgroup>,
    pub(super) mbarriers: Lives,
    pub(super) last_at_barrier: [Option<Arrived>; BARRIERS],
    last_at_mbarrier: [Option<(u32, Arrived)>; ARRIVALS],
}

impl Cta {
    pub(super) fn new(threads: u32) -> Self {
        let warps = threads.div_ceil(32);
        Self {
            barriers: Default::default(),
            live: threads,
            ready: u32::MAX >> (32 - warps.clamp(1, 32)),
            spinning: 0,
            triggered: false,
            waiting: [0; EVENTS],
            warpgroups: (0..warps.div_ceil(4))
                .map(|_| Warpgroup::default())
                .collect(),
            mbarriers: Lives::default(),
            last_at_barrier: [None; BARRIERS],
            last_at_mbarrier: [None; ARRIVALS],
        }
    }

    /// Notes an arrival at the mbarrier at an offset.
    pub(super) fn note_arrival(&mut self, offset: u32, arrived: Arrived) {
        self.last_at_mbarrier[arrival_slot(offset)] = Some((offset, arrived));
    }

    /// The last arrival at the mbarrier at an offset.
    pub(super) fn last_at_mbarrier(&self, offset: u32) -> Option<Arrived> {
        let last = self.last_at_mbarrier[arrival_slot(offset)];
        last.filter(|(at, _)| *at == offset)
            .map(|(_, arrived)| arrived)
    }

    pub(super) fn wake(&mut self, event: Event) {
        self.ready |= self.waiting[event as usize];
    }

    /// Notes that a warp waits for an event.
    pub(super) fn sleep(&mut self, warp: u32, event: Event) {
        self.waiting[event as usize] |= 1 << warp;
    }

    /// Forgets what a warp waits for.
    pub(super) fn rouse(&mut self, warp: u32) {
        for waiting in &mut self.waiting {
            *waiting &= !(1 << warp);
        }
    }
}

/// What changes while a cluster runs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) ctas: Vec<Cta>,
    pub(super) inflight: InFlight,
    pub(super) barrier: ClusterBarrier,
    /// Threads of the cluster that have not exited.
    pub(super) live: u32,
    /// Warp instructions executed, or what took as long.
    pub(super) work: u64,
    pub(super) share: Share,
    /// Turns that the machine has given to the cluster.
    pub(super) turn: u64,
    pub(super) counters: Counters,
    pub(super) tally: Tally,
    /// Effects, polls and clock reads since the start, but for those in `tally`.
    pub(super) activity: u64,
    pub(super) choice: Choice,
    /// Waits that can time out do so now: nothing else can happen.
    pub(super) expire: bool,
    pub(super) recorder: Recorder,
    pub(super) late: LateStores,
    /// Stores that fault injection delays.
    pub(super) held: Held,
    /// Fault injection is about stores of this device.
    pub(super) injects: bool,
    /// Someone wants to know of accesses to memory before they happen.
    pub(super) hooked: bool,
}

impl State {
    /// `%clock64`; also the unit of [`Wait::Mbarrier`] and [`Wait::Sleep`].
    pub(super) fn cycles(&self) -> u64 {
        self.share.cycles(self.seen_work())
    }

    /// `%globaltimer`.
    pub(super) fn nanoseconds(&self) -> u64 {
        self.share.nanoseconds(self.seen_work())
    }

    /// The work that clocks show. They stand still while polls are recorded.
    fn seen_work(&self) -> u64 {
        if self.recorder.on {
            self.recorder.begin
        } else {
            self.work
        }
    }

    /// Begins or ends the recording of polls.
    pub(super) fn record(&mut self, recording: Recording) {
        match recording {
            Recording::On => self.recorder.start(self.work),
            Recording::Off => self.recorder.on = false,
        }
        self.hook();
    }

    /// Looks who wants to know of accesses.
    pub(super) fn hook(&mut self) {
        let counts = self.counters.traffic.is_some();
        self.hooked = self.recorder.on || self.late.on || self.injects || counts;
    }

    /// Looks whether faults are to be injected into the stores of a device. What is delayed arrives
    /// when there are none any more.
    pub(super) fn look_at_faults(&mut self, device: u32) {
        self.injects = super::inject::concerns(device);
        if !self.injects {
            self.held.hurry();
        }
        self.injects |= !self.held.is_empty();
        self.hook();
    }

    pub(super) fn wake(&mut self, rank: u32, event: Event) {
        self.ctas[rank as usize].wake(event);
    }

    pub(super) fn wake_all(&mut self, event: Event) {
        for cta in &mut self.ctas {
            cta.wake(event);
        }
    }

    /// Counts the instructions `start..end`, executed by `lanes` lanes.
    #[inline]
    pub(super) fn count(&mut self, kernel: &Kernel, start: u32, end: u32, lanes: u32) -> Tally {
        let (from, to) = (&kernel.prefix[start as usize], &kernel.prefix[end as usize]);
        let run: Tally = std::array::from_fn(|i| to[i].wrapping_sub(from[i]));
        for (sum, more) in self.tally.iter_mut().zip(run) {
            *sum = sum.wrapping_add(more);
        }
        let instructions = u64::from(end - start);
        self.work += instructions;
        self.counters.lane_instructions += instructions * u64::from(lanes);
        self.counters.bytes.add_run(&run, lanes.into());
        run
    }

    /// Moves the tally into the counters; effects, polls and clock reads since the start.
    pub(super) fn settle_tally(&mut self) -> u64 {
        let tally = std::mem::take(&mut self.tally);
        self.counters.add_tally(&tally);
        for column in [EFFECTS, POLLS, CLOCKS] {
            self.activity += u64::from(tally[column]);
        }
        self.activity
    }
}

#[cfg(test)]
mod tests {
    use super::thread_indices;

    #[test]
    fn threads_count_along_x_then_y_then_z() {
        for [x, y, z] in [[1024, 1, 1], [1, 7, 9], [5, 3, 4], [31, 2, 2], [1, 1, 64]] {
            let mut threads = (0..z).flat_map(|k| (0..y).map(move |j| (j, k)));
            let all: Vec<_> = threads
                .by_ref()
                .flat_map(|(j, k)| (0..x).map(move |i| [i, j, k]))
                .collect();
            for first in (0..x * y * z).step_by(32) {
                let indices = thread_indices([x, y, z], first);
                let lanes = all[first as usize..].iter().take(32).enumerate();
                for (lane, expected) in lanes {
                    assert_eq!(
                        indices.map(|axis| axis[lane]),
                        *expected,
                        "{first} + {lane}"
                    );
                }
            }
        }
    }
}
