//! Events: named points in streams.

use std::sync::Arc;

use parking_lot::Mutex;

use super::context::{self, Context};
use super::machine::driver;
use super::output;
use super::status::{Result, Status};
use super::stream::{Marker, Op, Stream};

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its handle.
    pub handle: u64,
    /// Handle of its context.
    pub context: u64,
    flags: u32,
    latest: Mutex<Option<Arc<Marker>>>,
}

impl Event {
    /// Creates an event in a context and returns its handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for unknown flags; `NOT_SUPPORTED` for interprocess events.
    pub fn create(context: &Context, flags: u32) -> Result<u64> {
        const KNOWN: u32 = 7;
        const INTERPROCESS: u32 = 4;
        if flags & !KNOWN != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let handle = driver().events.reserve();
        let event = Self {
            handle,
            context: context.handle,
            flags,
            latest: Mutex::default(),
        };
        driver().events.insert(handle, Arc::new(event));
        Ok(handle)
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
    pub fn record(&self, context: &Context, stream: &Stream) -> Result<()> {
        if self.context != context.handle {
            return Err(Status::INVALID_HANDLE);
        }
        let marker = Arc::<Marker>::default();
        context.enqueue(stream, Op::Mark(Arc::clone(&marker)))?;
        *self.latest.lock() = Some(marker);
        Ok(())
    }

    /// Makes a stream wait for the point that the event names now.
    ///
    /// # Errors
    ///
    /// The sticky fault of the stream's context.
    pub fn hold(&self, context: &Context, stream: &Stream) -> Result<()> {
        let marker = self.latest.lock().clone();
        match marker {
            Some(marker) => context.enqueue(stream, Op::Wait(marker)).map(drop),
            None => context.health.check(),
        }
    }

    fn check_context(&self) -> Result<()> {
        context::by_handle(self.context)?.health.check()
    }

    /// Whether the point is reached; an event that was never recorded counts as reached.
    ///
    /// # Errors
    ///
    /// `NOT_READY`, or the sticky fault of the event's context.
    pub fn query(&self) -> Result<()> {
        self.check_context()?;
        let marker = self.latest.lock().clone();
        if marker.is_none_or(|m| m.when().is_some()) {
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
        let marker = self.latest.lock().clone();
        if let Some(marker) = marker {
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
