//! Events: named points in streams.

use std::sync::Arc;

use parking_lot::Mutex;

use super::capture::{self, Point};
use super::context::{self, Context};
use super::ipc::{Handle, SharedEvent};
use super::machine::driver;
use super::output;
use super::status::{Result, Status};
use super::stream::{self, Marker, Op, Stream};
use super::task::Task;
use super::transfer::Mode;

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// Whether an event in a captured stream stands for a node of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It only orders nodes of the capture.
    Capture,
    /// It is recorded or waited for whenever the graph runs: `CU_EVENT_RECORD_EXTERNAL`.
    External,
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its handle.
    pub handle: u64,
    /// Handle of its context.
    pub context: u64,
    flags: u32,
    latest: Mutex<Option<Arc<Marker>>>,
    /// What other processes see of it.
    shared: Option<Arc<SharedEvent>>,
    /// What it names in a capture, if it was last recorded in one.
    captured: Mutex<Option<Point>>,
}

impl Event {
    /// Creates an event in a context and returns its handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for unknown flags and for interprocess events that time.
    pub fn create(context: &Context, flags: u32) -> Result<u64> {
        const KNOWN: u32 = 7;
        const INTERPROCESS: u32 = 4;
        if flags & !KNOWN != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & INTERPROCESS == 0 {
            return Ok(Self::insert(context, flags, None));
        }
        if flags & DISABLE_TIMING == 0 {
            return Err(Status::INVALID_VALUE);
        }
        Ok(Self::insert(context, flags, Some(SharedEvent::create()?)))
    }

    /// Opens an event of another process in a context and returns its handle.
    ///
    /// # Errors
    ///
    /// As [`SharedEvent::open`].
    pub fn open(context: &Context, handle: &Handle) -> Result<u64> {
        let shared = SharedEvent::open(handle)?;
        Ok(Self::insert(context, DISABLE_TIMING, Some(shared)))
    }

    fn insert(context: &Context, flags: u32, shared: Option<Arc<SharedEvent>>) -> u64 {
        let handle = driver().events.reserve();
        let event = Self {
            handle,
            context: context.handle,
            flags,
            shared,
            latest: Mutex::default(),
            captured: Mutex::default(),
        };
        driver().events.insert(handle, Arc::new(event));
        handle
    }

    /// Whether it takes times.
    #[must_use]
    pub fn times(&self) -> bool {
        self.flags & DISABLE_TIMING == 0
    }

    /// What other processes see of it; `None` for an ordinary event.
    #[must_use]
    pub fn shared(&self) -> Option<&Arc<SharedEvent>> {
        self.shared.as_ref()
    }

    /// An event by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        driver().events.get(handle).ok_or(Status::INVALID_HANDLE)
    }

    /// Makes the event name the end of what is queued in a stream.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE` if event and stream belong to different contexts; the sticky fault.
    pub fn record(
        self: &Arc<Self>,
        context: &Context,
        stream: &Stream,
        reach: Reach,
    ) -> Result<()> {
        if self.context != context.handle {
            return Err(Status::INVALID_HANDLE);
        }
        if let Some(point) = capture::point(stream)? {
            if reach == Reach::External {
                let task = Task::Record(Arc::clone(self));
                return capture::intercept(context, stream, Mode::Async, &task).map(drop);
            }
            *self.captured.lock() = Some(point);
            return Ok(());
        }
        if let Some(shared) = &self.shared {
            context.health.check()?;
            let record = shared.record();
            let pass = Box::new(move || drop(record));
            context.enqueue(stream, Op::Quick(pass))?;
        }
        let marker = Arc::<Marker>::default();
        context.enqueue(stream, Op::Mark(Arc::clone(&marker)))?;
        self.name(marker);
        Ok(())
    }

    /// Makes the event name a point.
    pub fn name(&self, marker: Arc<Marker>) {
        *self.captured.lock() = None;
        *self.latest.lock() = Some(marker);
    }

    /// The point that the event names; `None` if it was never recorded.
    #[must_use]
    pub fn marker(&self) -> Option<Arc<Marker>> {
        self.latest.lock().clone()
    }

    /// Makes a stream wait for the point that the event names now.
    ///
    /// # Errors
    ///
    /// The sticky fault of the stream's context.
    pub fn hold(
        self: &Arc<Self>,
        context: &Context,
        stream: &Arc<Stream>,
        reach: Reach,
    ) -> Result<()> {
        let captured = self.captured.lock().clone();
        if let Some(point) = captured {
            return capture::join(stream, &point);
        }
        if let Some(shared) = &self.shared {
            capture::refuse_outside(stream)?;
            let (shared, number) = (Arc::clone(shared), shared.latest());
            let reached = Box::new(move || shared.is_reached(number));
            return context.enqueue(stream, Op::Poll(reached)).map(drop);
        }
        let marker = self.marker();
        if reach == Reach::External && stream.capture.lock().is_some() {
            let task = Task::Wait(Arc::clone(self));
            return capture::intercept(context, stream, Mode::Async, &task).map(drop);
        }
        if marker.is_some() {
            capture::refuse_outside(stream)?;
        }
        match marker {
            Some(marker) => context.enqueue(stream, Op::Wait(marker)).map(drop),
            None => context.health.check(),
        }
    }

    fn check_context(&self) -> Result<()> {
        if self.captured.lock().is_some() {
            return Err(Status::CAPTURED_EVENT);
        }
        context::by_handle(self.context)?.health.check()
    }

    /// Whether the point is reached; an event that was never recorded counts as reached.
    ///
    /// # Errors
    ///
    /// `NOT_READY`, or the sticky fault of the event's context.
    pub fn query(&self) -> Result<()> {
        self.check_context()?;
        let reached = match &self.shared {
            Some(shared) => shared.is_reached(shared.latest()),
            None => self.marker().is_none_or(|m| m.when().is_some()),
        };
        if reached {
            return self.check_context();
        }
        Err(Status::NOT_READY)
    }

    /// Waits for the point.
    ///
    /// # Errors
    ///
    /// The sticky fault of the event's context.
    pub fn synchronize(&self) -> Result<()> {
        if self.captured.lock().is_some() {
            return Err(Status::CAPTURED_EVENT);
        }
        if let Some(shared) = &self.shared {
            let number = shared.latest();
            let health = Arc::clone(&context::by_handle(self.context)?.health);
            stream::poll(&health, || shared.is_reached(number));
        } else if let Some(marker) = self.marker() {
            marker.wait();
        }
        if let Some(context) = driver().contexts.get(self.context) {
            output::flush(context.device);
        }
        self.check_context()
    }

    /// Milliseconds from this event to another.
    ///
    /// # Errors
    ///
    /// `INVALID_HANDLE` if one was never recorded or does not time, `NOT_READY` if one is not
    /// reached.
    pub fn elapsed(&self, end: &Self) -> Result<f32> {
        if (self.flags | end.flags) & DISABLE_TIMING != 0 {
            return Err(Status::INVALID_HANDLE);
        }
        self.check_context()?;
        let when = |event: &Self| {
            let marker = event.latest.lock().clone().ok_or(Status::INVALID_HANDLE)?;
            marker.when().ok_or(Status::NOT_READY)
        };
        let (start, end) = (when(self)?, when(end)?);
        let forward = end.saturating_duration_since(start).as_secs_f32();
        let backward = start.saturating_duration_since(end).as_secs_f32();
        Ok((forward - backward) * 1e3)
    }
}
