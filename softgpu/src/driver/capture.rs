//! Stream capture: streams that record their work into a graph instead of doing it.
//!
//! A capture begins on one stream; others join by waiting for an event that was recorded in it,
//! and must have been joined back when it ends. For each stream the capture knows the nodes that
//! its next work comes after.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

use parking_lot::Mutex;

use super::context::Context;
use super::graph::{Edge, Graph};
use super::status::{Result, Status};
use super::stream::{Stream, StreamKind};
use super::task::Task;
use super::transfer::Mode;

/// `CUstreamCaptureMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureMode {
    /// Unsafe calls are forbidden to every thread.
    Global,
    /// Unsafe calls are forbidden to this thread.
    ThreadLocal,
    /// Everything is allowed.
    Relaxed,
}

impl CaptureMode {
    /// From its number.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE`.
    pub fn from_number(number: u32) -> Result<Self> {
        Ok(match number {
            0 => Self::Global,
            1 => Self::ThreadLocal,
            2 => Self::Relaxed,
            _ => return Err(Status::INVALID_VALUE),
        })
    }
}

thread_local! {
    static THREAD_MODE: Cell<CaptureMode> = const { Cell::new(CaptureMode::Global) };
}

/// Captures under way; a call looks here first, so that captures cost nothing when there are none.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
static CAPTURES: Mutex<Vec<Weak<Capture>>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Where the next work of a stream goes: node handles and the data of the edges from them.
#[derive(Debug, Clone, Default)]
pub struct Frontier {
    /// Node handles.
    pub nodes: Vec<u64>,
    /// Data of the edges.
    pub edges: Vec<Edge>,
}

impl Frontier {
    fn of(nodes: Vec<u64>) -> Self {
        let edges = vec![Edge::default(); nodes.len()];
        Self { nodes, edges }
    }

    fn pairs(&self) -> BTreeMap<u64, Edge> {
        let edges = self.edges.iter().copied();
        self.nodes.iter().copied().zip(edges).collect()
    }

    fn join(&mut self, more: &BTreeMap<u64, Edge>) {
        let mut all = self.pairs();
        all.extend(more);
        self.nodes = all.keys().copied().collect();
        self.edges = all.into_values().collect();
    }
}

#[derive(Debug, Default)]
struct State {
    is_invalid: bool,
    streams: Vec<Weak<Stream>>,
    frontiers: HashMap<u64, Frontier>,
}

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    /// Unique in the process.
    pub id: u64,
    /// What grows.
    pub graph: Arc<Graph>,
    mode: CaptureMode,
    origin: u64,
    context: u64,
    thread: ThreadId,
    /// Blocking streams take part.
    is_blocking: bool,
    /// The graph was there before and stays if the capture fails.
    is_foreign: bool,
    state: Mutex<State>,
}

/// What an event that was recorded in a capture names.
#[derive(Debug, Clone)]
pub struct Point {
    capture: Weak<Capture>,
    nodes: BTreeMap<u64, Edge>,
}

/// Whether work on a stream would be recorded.
#[derive(Debug, Clone)]
pub enum CaptureStatus {
    /// It would run.
    None,
    /// It is recorded.
    Active(Arc<Capture>),
    /// An error has ended the recording, the capture has yet to be ended.
    Invalidated,
}

impl Capture {
    fn invalidate(&self) {
        self.state.lock().is_invalid = true;
    }

    fn check(&self) -> Result<()> {
        if self.state.lock().is_invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(())
    }

    fn add(&self, stream: &Stream, task: Task) -> Result<()> {
        self.check()?;
        let mut state = self.state.lock();
        let frontier = state.frontiers.entry(stream.handle).or_default();
        let after: Vec<(u64, Edge)> = frontier.pairs().into_iter().collect();
        let node = self.graph.add(task, &after)?;
        *frontier = Frontier::of(vec![node]);
        Ok(())
    }

    /// Where the stream's next work goes: pointers to the handles, to the edge data, and their
    /// number. They stay valid until the next call that concerns the stream.
    #[must_use]
    pub fn frontier(&self, stream: &Stream) -> (u64, u64, u64) {
        let mut state = self.state.lock();
        let frontier = state.frontiers.entry(stream.handle).or_default();
        let nodes = frontier.nodes.as_ptr().expose_provenance() as u64;
        let edges = frontier.edges.as_ptr().expose_provenance() as u64;
        (nodes, edges, frontier.nodes.len() as u64)
    }

    /// Replaces or adds to what the stream's next work comes after.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for nodes of other graphs, `STREAM_CAPTURE_INVALIDATED`.
    pub fn set_frontier(&self, stream: &Stream, nodes: &[(u64, Edge)], add: Adding) -> Result<()> {
        self.check()?;
        let known = self.graph.handles();
        if nodes.iter().any(|(node, _)| !known.contains(node)) {
            return Err(Status::INVALID_VALUE);
        }
        let mut state = self.state.lock();
        let frontier = state.frontiers.entry(stream.handle).or_default();
        if add == Adding::Replace {
            *frontier = Frontier::default();
        }
        frontier.join(&nodes.iter().copied().collect());
        Ok(())
    }

    fn enrol(self: &Arc<Self>, stream: &Arc<Stream>, frontier: Frontier) {
        let mut state = self.state.lock();
        state.streams.push(Arc::downgrade(stream));
        state.frontiers.insert(stream.handle, frontier);
        *stream.capture.lock() = Some(Arc::clone(self));
    }

    /// Releases all streams.
    fn close(&self) {
        for stream in self.state.lock().streams.drain(..) {
            if let Some(stream) = stream.upgrade() {
                *stream.capture.lock() = None;
            }
        }
        let mut captures = CAPTURES.lock();
        captures.retain(|c| c.upgrade().is_some_and(|c| c.id != self.id));
        ACTIVE.store(captures.len(), Ordering::Release);
    }

    fn is_joined(&self) -> bool {
        let state = self.state.lock();
        let none = Frontier::default();
        let end = state.frontiers.get(&self.origin).unwrap_or(&none);
        let done = self.graph.ancestors(&end.nodes);
        let ends = state.frontiers.values();
        ends.flat_map(|f| &f.nodes).all(|node| done.contains(node))
    }
}

/// How dependencies are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adding {
    /// To what is there.
    Add,
    /// Instead of what is there.
    Replace,
}

/// A graph that a capture continues, and the nodes that it comes after.
pub type Continued = (Arc<Graph>, Vec<(u64, Edge)>);

/// Begins a capture, into a new graph or behind nodes of one that is there.
///
/// # Errors
///
/// `STREAM_CAPTURE_UNSUPPORTED` on the legacy stream, `ILLEGAL_STATE` on a stream that is being
/// captured, `INVALID_VALUE` for nodes of other graphs.
pub fn begin(
    context: &Context,
    stream: &Arc<Stream>,
    mode: CaptureMode,
    into: Option<Continued>,
) -> Result<()> {
    context.health.check()?;
    if stream.kind == StreamKind::Legacy {
        return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
    }
    if stream.capture.lock().is_some() {
        return Err(Status::ILLEGAL_STATE);
    }
    let is_foreign = into.is_some();
    let (graph, after) = into.unwrap_or_else(|| (Graph::create(), Vec::new()));
    let capture = Arc::new(Capture {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        graph,
        mode,
        origin: stream.handle,
        context: context.handle,
        thread: std::thread::current().id(),
        is_blocking: stream.kind == StreamKind::Blocking,
        is_foreign,
        state: Mutex::default(),
    });
    capture.enrol(stream, Frontier::default());
    capture
        .set_frontier(stream, &after, Adding::Replace)
        .inspect_err(|_| capture.close())?;
    let mut captures = CAPTURES.lock();
    captures.push(Arc::downgrade(&capture));
    ACTIVE.store(captures.len(), Ordering::Release);
    Ok(())
}

/// Ends the capture that began on a stream; the graph.
///
/// # Errors
///
/// `ILLEGAL_STATE` if the stream is not being captured, `STREAM_CAPTURE_UNMATCHED` if the capture
/// began elsewhere, `STREAM_CAPTURE_WRONG_THREAD`, `STREAM_CAPTURE_INVALIDATED`,
/// `STREAM_CAPTURE_UNJOINED`.
pub fn end(stream: &Stream) -> Result<u64> {
    let capture = stream.capture.lock().clone();
    let capture = capture.ok_or(Status::ILLEGAL_STATE)?;
    if capture.origin != stream.handle {
        capture.invalidate();
        return Err(Status::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != CaptureMode::Relaxed && capture.thread != std::thread::current().id() {
        return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
    }
    let outcome = match capture.check() {
        Ok(()) if !capture.is_joined() => Err(Status::STREAM_CAPTURE_UNJOINED),
        checked => checked,
    };
    capture.close();
    if outcome.is_err() && !capture.is_foreign {
        let _ = Graph::destroy(capture.graph.handle);
    }
    outcome.map(|()| capture.graph.handle)
}

/// The capture that a stream takes part in.
#[must_use]
pub fn status(stream: &Stream) -> CaptureStatus {
    match stream.capture.lock().clone() {
        None => CaptureStatus::None,
        Some(capture) if capture.check().is_err() => CaptureStatus::Invalidated,
        Some(capture) => CaptureStatus::Active(capture),
    }
}

/// Records a task if the stream is being captured, and says whether it did.
///
/// # Errors
///
/// `STREAM_CAPTURE_INVALIDATED`; `STREAM_CAPTURE_UNSUPPORTED` for synchronous calls, which also
/// invalidate the capture.
pub fn intercept(context: &Context, stream: &Stream, mode: Mode, task: &Task) -> Result<bool> {
    let Some(capture) = stream.capture.lock().clone() else {
        return Ok(false);
    };
    context.health.check()?;
    capture.check()?;
    if mode == Mode::Sync {
        capture.invalidate();
        return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
    }
    capture.add(stream, task.clone())?;
    Ok(true)
}

/// Refuses to wait for or ask after a stream that is being captured.
///
/// # Errors
///
/// `STREAM_CAPTURE_UNSUPPORTED`; the capture is invalid then.
pub fn refuse_waiting(stream: &Stream) -> Result<()> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    match stream.capture.lock().clone() {
        None => Ok(()),
        Some(capture) => {
            capture.invalidate();
            Err(Status::STREAM_CAPTURE_UNSUPPORTED)
        }
    }
}

fn active() -> Vec<Arc<Capture>> {
    if ACTIVE.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    CAPTURES.lock().iter().filter_map(Weak::upgrade).collect()
}

/// Refuses work on the legacy stream that a captured blocking stream would have to wait for.
///
/// # Errors
///
/// `STREAM_CAPTURE_IMPLICIT`; the captures concerned are invalid then.
pub fn refuse_implicit(context: &Context, stream: &Stream) -> Result<()> {
    if stream.kind != StreamKind::Legacy {
        return Ok(());
    }
    let concerned = |c: &&Arc<Capture>| c.is_blocking && c.context == context.handle;
    let all = active();
    let concerned: Vec<_> = all.iter().filter(concerned).collect();
    concerned.iter().for_each(|c| c.invalidate());
    if concerned.is_empty() {
        Ok(())
    } else {
        Err(Status::STREAM_CAPTURE_IMPLICIT)
    }
}

/// Refuses calls that might synchronise or depend on captured work, as the capture modes say.
///
/// # Errors
///
/// `STREAM_CAPTURE_UNSUPPORTED`; the captures concerned are invalid then.
pub fn refuse_unsafe() -> Result<()> {
    let all = active();
    let thread = std::thread::current().id();
    let mode = THREAD_MODE.get();
    let concerned = |c: &&Arc<Capture>| match (mode, c.mode) {
        (CaptureMode::Relaxed, _) | (_, CaptureMode::Relaxed) => false,
        (CaptureMode::Global, CaptureMode::Global) => true,
        _ => c.thread == thread,
    };
    let concerned: Vec<_> = all.iter().filter(concerned).collect();
    concerned.iter().for_each(|c| c.invalidate());
    if concerned.is_empty() {
        Ok(())
    } else {
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }
}

/// Refuses to synchronise with a context some of whose streams are being captured.
///
/// # Errors
///
/// `STREAM_CAPTURE_UNSUPPORTED`; the captures concerned are invalid then.
pub fn refuse_context_wait(context: u64) -> Result<()> {
    let all = active();
    let mut refused = Ok(());
    for capture in all.iter().filter(|c| c.context == context) {
        capture.invalidate();
        refused = Err(Status::STREAM_CAPTURE_UNSUPPORTED);
    }
    refused
}

/// Replaces the mode in which unsafe calls of this thread are judged; the old one.
pub fn exchange_mode(mode: CaptureMode) -> CaptureMode {
    THREAD_MODE.replace(mode)
}

/// What an event names when it is recorded in a stream that is being captured.
///
/// # Errors
///
/// `STREAM_CAPTURE_INVALIDATED`.
pub fn point(stream: &Stream) -> Result<Option<Point>> {
    let Some(capture) = stream.capture.lock().clone() else {
        return Ok(None);
    };
    capture.check()?;
    let state = capture.state.lock();
    let frontier = state.frontiers.get(&stream.handle);
    Ok(Some(Point {
        capture: Arc::downgrade(&capture),
        nodes: frontier.map(Frontier::pairs).unwrap_or_default(),
    }))
}

/// Makes a stream wait for a point of a capture; the stream joins the capture if need be.
///
/// # Errors
///
/// `STREAM_CAPTURE_MERGE` if it takes part in another one, `STREAM_CAPTURE_IMPLICIT` for the legacy
/// stream; `CAPTURED_EVENT` if the capture is over; `STREAM_CAPTURE_INVALIDATED`.
pub fn join(stream: &Arc<Stream>, point: &Point) -> Result<()> {
    let capture = point.capture.upgrade().ok_or(Status::CAPTURED_EVENT)?;
    capture.check()?;
    if stream.kind == StreamKind::Legacy {
        capture.invalidate();
        return Err(Status::STREAM_CAPTURE_IMPLICIT);
    }
    let own = stream.capture.lock().clone();
    match own {
        None => {
            let mut frontier = Frontier::default();
            frontier.join(&point.nodes);
            capture.enrol(stream, frontier);
            Ok(())
        }
        Some(own) if own.id == capture.id => {
            let mut state = capture.state.lock();
            let frontier = state.frontiers.entry(stream.handle).or_default();
            frontier.join(&point.nodes);
            Ok(())
        }
        Some(own) => {
            own.invalidate();
            capture.invalidate();
            Err(Status::STREAM_CAPTURE_MERGE)
        }
    }
}

/// Refuses to make a captured stream wait for work outside the capture.
///
/// # Errors
///
/// `STREAM_CAPTURE_ISOLATION`; the capture is invalid then.
pub fn refuse_outside(stream: &Stream) -> Result<()> {
    match stream.capture.lock().clone() {
        None => Ok(()),
        Some(capture) => {
            capture.invalidate();
            Err(Status::STREAM_CAPTURE_ISOLATION)
        }
    }
}
