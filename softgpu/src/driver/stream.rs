//! Streams: queues of work with their own progress.
//!
//! Every stream has a host thread, started when there is work and ended when idle, that runs the
//! queued operations in order. A *ticket* numbers the operations of a stream; its *timeline* says
//! how far it has come. Legacy default-stream semantics are tickets too: an operation carries the
//! (timeline, ticket) pairs that must be reached before it starts.
//!
//! Once a context has faulted, its kernels are ended, its device work is skipped and its waits end,
//! so every timeline still reaches its end.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::capture::Capture;
use super::overlap::Kernel;
use super::status::{Result, Status};
use crate::exec::{Engine, hosts, settle};

/// How long a stream's thread waits for more work before it ends.
const IDLE: Duration = Duration::from_millis(500);
/// How often blocked operations look whether their context has faulted.
const RECHECK: Duration = Duration::from_millis(20);

/// The state of a context that work looks at: sticky fault, destruction.
#[derive(Debug, Default)]
pub struct Health {
    fault: AtomicU32,
    destroyed: AtomicBool,
    /// Launches that the engine is executing.
    running: Mutex<HashSet<u64>>,
}

impl Health {
    /// The sticky fault, if there is one.
    ///
    /// # Errors
    ///
    /// The fault.
    pub fn check(&self) -> Result<()> {
        match self.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Status(code)),
        }
    }

    /// Makes a fault sticky (the first one stays) and ends what is running.
    pub fn fault(&self, status: Status) {
        let _ = self
            .fault
            .compare_exchange(0, status.0, Ordering::AcqRel, Ordering::Relaxed);
        self.abort_running();
    }

    /// Notes a launch that the engine executes; ends it if the context is over already.
    pub fn begin(&self, launch: u64) {
        self.running.lock().insert(launch);
        if self.is_over() {
            Engine::global().abort(launch);
        }
    }

    /// Forgets a launch.
    pub fn end(&self, launch: u64) {
        self.running.lock().remove(&launch);
    }

    fn abort_running(&self) {
        let running = self.running.lock().clone();
        for launch in running {
            Engine::global().abort(launch);
        }
    }

    /// Marks the context as destroyed: waits and kernels end, device work is skipped.
    pub fn destroy(&self) {
        self.destroyed.store(true, Ordering::Release);
        self.abort_running();
    }

    /// Whether device work is to be skipped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.check().is_err() || self.destroyed.load(Ordering::Acquire)
    }
}

/// How far a stream has come.
#[derive(Debug, Default)]
pub struct Timeline {
    done: Mutex<u64>,
    changed: Condvar,
}

impl Timeline {
    fn reached(&self, ticket: u64) -> bool {
        *self.done.lock() >= ticket
    }

    fn wait(&self, ticket: u64) {
        let mut done = self.done.lock();
        while *done < ticket {
            self.changed.wait(&mut done);
        }
    }

    /// Waits at most `time`; whether the ticket is reached.
    fn wait_for(&self, ticket: u64, time: Duration) -> bool {
        let mut done = self.done.lock();
        if *done < ticket {
            self.changed.wait_for(&mut done, time);
        }
        *done >= ticket
    }

    pub(super) fn advance(&self, ticket: u64) {
        *self.done.lock() = ticket;
        self.changed.notify_all();
    }
}

/// A point in a stream that events name. It is reached exactly when the stream's timeline is, so
/// that an event and its stream never disagree.
#[derive(Debug, Default)]
pub struct Marker {
    point: OnceLock<After>,
    time: Mutex<Option<Instant>>,
}

impl Marker {
    /// When the stream came here; `None` if it has not yet.
    #[must_use]
    pub fn when(&self) -> Option<Instant> {
        let reached = self.point.get().is_some_and(After::is_reached);
        reached.then(|| *self.time.lock()).flatten()
    }

    /// Waits until the stream comes here.
    pub fn wait(&self) {
        if let Some(point) = self.point.get() {
            point.wait();
        }
    }

    /// Waits until the stream comes here or the context is over.
    pub fn wait_while_healthy(&self, health: &Health) {
        if let Some(point) = self.point.get() {
            while !point.timeline.wait_for(point.ticket, RECHECK) && !health.is_over() {}
        }
    }
}

impl Marker {
    /// A marker outside any stream: passed when the second value is dropped.
    #[must_use]
    pub fn detached() -> (Arc<Self>, Reach) {
        let marker = Arc::new(Self::default());
        let timeline = Arc::<Timeline>::default();
        let point = After {
            timeline: Arc::clone(&timeline),
            ticket: 1,
        };
        let _ = marker.point.set(point);
        let reach = Reach {
            marker: Arc::clone(&marker),
            timeline,
        };
        (marker, reach)
    }
}

/// The duty to pass a detached marker; done when dropped, so that nobody waits for ever.
#[derive(Debug)]
pub struct Reach {
    marker: Arc<Marker>,
    timeline: Arc<Timeline>,
}

impl Drop for Reach {
    fn drop(&mut self) {
        *self.marker.time.lock() = Some(Instant::now());
        self.timeline.advance(1);
    }
}

/// What a stream can do.
pub enum Op {
    /// Device work or a host function: runs on the stream's thread, skipped after a fault.
    Work(Box<dyn FnOnce() + Send>),
    /// A kernel, which may overlap with the one before it.
    Kernel(Box<Kernel>),
    /// Short device work that may run on the calling thread if the stream is idle.
    Quick(Box<dyn FnOnce() + Send>),
    /// Passes a marker, in any state of the context.
    Mark(Arc<Marker>),
    /// Waits for another stream's marker.
    Wait(Arc<Marker>),
    /// Asked again and again until it answers `true`.
    Poll(Box<dyn FnMut() -> bool + Send>),
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Work(_) => "Work",
            Self::Kernel(_) => "Kernel",
            Self::Quick(_) => "Quick",
            Self::Mark(_) => "Mark",
            Self::Wait(_) => "Wait",
            Self::Poll(_) => "Poll",
        })
    }
}

impl Op {
    fn run(self, health: &Health) {
        match self {
            Self::Mark(marker) => *marker.time.lock() = Some(Instant::now()),
            _ if health.is_over() => {}
            Self::Work(work) | Self::Quick(work) => work(),
            Self::Wait(marker) => marker.wait_while_healthy(health),
            Self::Poll(done) => poll(health, done),
            // The stream's thread runs it, not this.
            Self::Kernel(_) => {}
        }
    }

    fn may_run_inline(&self) -> bool {
        match self {
            Self::Quick(_) | Self::Mark(_) => true,
            Self::Wait(marker) => marker.when().is_some(),
            Self::Work(_) | Self::Kernel(_) | Self::Poll(_) => false,
        }
    }
}

/// Asks until the answer is `true` or the context is over.
pub fn poll(health: &Health, mut done: impl FnMut() -> bool) {
    let mut pause = Duration::from_micros(1);
    while !health.is_over() && !done() {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}

/// A point that must be reached before an operation starts.
#[derive(Debug, Clone)]
pub struct After {
    timeline: Arc<Timeline>,
    ticket: u64,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) ticket: u64,
    pub(super) after: Vec<After>,
    pub(super) op: Op,
}

#[derive(Debug, Default)]
struct State {
    ops: VecDeque<Queued>,
    issued: u64,
    has_thread: bool,
    /// The stream is gone: its thread ends with the last operation.
    closed: bool,
}

/// The operations of a stream, and how far it has come.
#[derive(Debug)]
pub(super) struct Queue {
    /// Handle of the stream.
    handle: u64,
    state: Mutex<State>,
    more: Condvar,
    pub(super) timeline: Arc<Timeline>,
    pub(super) health: Arc<Health>,
}

impl Queue {
    /// Makes the stream's thread look again.
    pub(super) fn nudge(&self) {
        // Whoever waits holds the lock between looking and waiting.
        drop(self.state.lock());
        self.more.notify_all();
    }

    /// Waits, on the stream's thread, until a look at the queue has a result.
    pub(super) fn wait_for<T>(
        &self,
        mut look: impl FnMut(&mut VecDeque<Queued>) -> Option<T>,
    ) -> T {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = look(&mut state.ops) {
                return result;
            }
            self.more.wait(&mut state);
        }
    }

    fn run(self: &Arc<Self>) {
        settle::serve(self.handle);
        loop {
            let mut state = self.state.lock();
            while state.ops.is_empty() {
                let idle = state.closed || self.more.wait_for(&mut state, IDLE).timed_out();
                if idle && state.ops.is_empty() {
                    state.has_thread = false;
                    return;
                }
            }
            let next = state.ops.pop_front();
            drop(state);
            if let Some(Queued { ticket, after, op }) = next {
                for point in after {
                    point.timeline.wait(point.ticket);
                }
                match op {
                    Op::Kernel(kernel) if !self.health.is_over() => {
                        self.run_kernels(*kernel, ticket);
                    }
                    op => {
                        op.run(&self.health);
                        self.timeline.advance(ticket);
                    }
                }
            }
        }
    }
}

/// How a stream relates to the legacy default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The legacy default stream itself.
    Legacy,
    /// Synchronises with it.
    Blocking,
    /// `CU_STREAM_NON_BLOCKING`.
    NonBlocking,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Its handle.
    pub handle: u64,
    /// Handle of its context.
    pub context: u64,
    /// Relation to the legacy default stream.
    pub kind: StreamKind,
    /// Priority, clamped to the range of the device.
    pub priority: i32,
    /// Launch attributes set on the stream, by number.
    pub attributes: Mutex<BTreeMap<u32, [u32; 16]>>,
    /// The capture that the stream takes part in.
    pub capture: Mutex<Option<Arc<Capture>>>,
    queue: Arc<Queue>,
}

impl Stream {
    /// A stream without work.
    #[must_use]
    pub fn new(
        (handle, context): (u64, u64),
        kind: StreamKind,
        priority: i32,
        health: Arc<Health>,
    ) -> Self {
        Self {
            handle,
            context,
            kind,
            priority,
            attributes: Mutex::default(),
            capture: Mutex::default(),
            queue: Arc::new(Queue {
                handle,
                state: Mutex::default(),
                more: Condvar::new(),
                timeline: Arc::default(),
                health,
            }),
        }
    }

    /// Queues an operation behind `after`, and returns the point where it is done. The caller
    /// holds the context's order lock, so that `after` is complete.
    ///
    /// # Errors
    ///
    /// `OPERATING_SYSTEM` if no thread can be started.
    pub(super) fn push(&self, op: Op, mut after: Vec<After>) -> Result<After> {
        after.retain(|point| !point.timeline.reached(point.ticket));
        let mut state = self.queue.state.lock();
        state.issued += 1;
        let ticket = state.issued;
        let timeline = Arc::clone(&self.queue.timeline);
        let point = After {
            timeline: Arc::clone(&timeline),
            ticket,
        };
        if let Op::Mark(marker) = &op {
            // A marker is new when it is queued, so this is its only point.
            let _ = marker.point.set(point.clone());
        }
        let idle = timeline.reached(ticket - 1) && after.is_empty();
        if idle && op.may_run_inline() {
            op.run(&self.queue.health);
            timeline.advance(ticket);
            return Ok(point);
        }
        state.ops.push_back(Queued { ticket, after, op });
        if state.has_thread {
            self.queue.more.notify_one();
        } else {
            let queue = Arc::clone(&self.queue);
            let spawned = std::thread::Builder::new()
                .name("softgpu-stream".to_owned())
                .spawn(move || queue.run());
            if spawned.is_err() {
                state.ops.pop_back();
                state.issued -= 1;
                return Err(Status::OPERATING_SYSTEM);
            }
            state.has_thread = true;
        }
        Ok(point)
    }

    /// The point where everything queued so far is done.
    #[must_use]
    pub fn end(&self) -> After {
        After {
            timeline: Arc::clone(&self.queue.timeline),
            ticket: self.queue.state.lock().issued,
        }
    }
}

impl Drop for Stream {
    /// Queued work still runs; an idle thread need not wait for more.
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.more.notify_one();
    }
}

impl After {
    /// Waits until the point is reached.
    pub fn wait(&self) {
        hosts::waiting(|| self.timeline.wait(self.ticket));
    }

    /// Whether the point is reached.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.timeline.reached(self.ticket)
    }
}
