//! Streams and events. Every wait has a deadline: on expiry the work stays queued, the wait returns
//! [`DeviceError::Timeout`], and the context remains usable.
//!
//! # Safety
//! Handles belong to their owner here and are destroyed once, in its drop; the driver itself keeps
//! a destroyed stream's remaining work alive.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUevent, CUresult, CUstream};

use super::driver::{call, check};
use super::{Context, DeviceError};

/// How long a wait without a deadline of its own lasts at most. Generous, as a software GPU is some
/// thousand times slower than a GPU.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(600);

/// A queue of device work that executes in order.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    handle: CUstream,
}

// SAFETY: driver streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; enqueuing is synchronised by the driver.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new stream that does not synchronise with the legacy default stream.
    ///
    /// # Errors
    /// A driver error.
    pub fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a valid place for the answer.
        unsafe { call!(cuStreamCreate(&raw mut handle, flags)) }?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    /// The context that the stream belongs to.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The driver's handle (`CUstream`), for work beside this library's. It is valid while `self`
    /// lives and stays this value's to destroy.
    #[must_use]
    pub fn as_raw(&self) -> *mut std::ffi::c_void {
        self.handle.cast()
    }

    /// The driver's handle, valid while `self` lives.
    pub(crate) fn handle(&self) -> CUstream {
        self.handle
    }

    /// Whether all work has completed.
    ///
    /// # Errors
    /// The error of the work itself, such as an illegal access.
    pub fn is_idle(&self) -> Result<bool, DeviceError> {
        self.context.bind()?;
        // SAFETY: the handle is live.
        let code = unsafe { sys::cuStreamQuery(self.handle) };
        ready("cuStreamQuery", code)
    }

    /// Waits for all work, at most [`DEFAULT_WAIT`].
    ///
    /// # Errors
    /// [`DeviceError::Timeout`], or the error of the work itself.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.synchronize_within(DEFAULT_WAIT)
    }

    /// Waits for all work, at most `limit`.
    ///
    /// # Errors
    /// [`DeviceError::Timeout`], or the error of the work itself.
    pub fn synchronize_within(&self, limit: Duration) -> Result<(), DeviceError> {
        wait("stream synchronisation", limit, || self.is_idle())
    }

    /// The capture that work enqueued now becomes part of, if the stream is being captured.
    pub(crate) fn capture_id(&self) -> Result<Option<u64>, DeviceError> {
        self.context.bind()?;
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let mut id = 0;
        // SAFETY: valid places for the first two answers; the others are not asked for.
        unsafe {
            call!(cuStreamGetCaptureInfo_v3(
                self.handle,
                &raw mut status,
                &raw mut id,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut()
            ))
        }?;
        let captured = status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
        Ok(captured.then_some(id))
    }

    /// Makes later work wait for `event`.
    ///
    /// # Errors
    /// A driver error.
    pub fn wait_event(&self, event: &Event) -> Result<(), DeviceError> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        unsafe { call!(cuStreamWaitEvent(self.handle, event.handle, 0)) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let result = self.context.bind().and_then(|()| {
            // SAFETY: created in `new`, destroyed once.
            unsafe { call!(cuStreamDestroy_v2(self.handle)) }
        });
        self.context.defer(result);
    }
}

/// A point in a stream's work, with a time stamp.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    handle: CUevent,
}

// SAFETY: driver events may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// A new event; complete until it is recorded.
    ///
    /// # Errors
    /// A driver error.
    pub fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: a valid place for the answer.
        unsafe { call!(cuEventCreate(&raw mut handle, flags)) }?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
        })
    }

    /// Marks the end of the work that `stream` holds now.
    ///
    /// # Errors
    /// The stream belongs to another context, or a driver error.
    pub fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        if !Arc::ptr_eq(&self.context, &stream.context) {
            return Err(DeviceError::WrongContext {
                operation: "event record",
                what: "stream",
            });
        }
        self.context.bind()?;
        // SAFETY: both handles are live and of one context.
        unsafe { call!(cuEventRecord(self.handle, stream.handle)) }
    }

    /// Whether the recorded work has completed.
    ///
    /// # Errors
    /// The error of the work itself.
    pub fn is_complete(&self) -> Result<bool, DeviceError> {
        self.context.bind()?;
        // SAFETY: the handle is live.
        let code = unsafe { sys::cuEventQuery(self.handle) };
        ready("cuEventQuery", code)
    }

    /// Waits for the recorded work, at most `limit`.
    ///
    /// # Errors
    /// [`DeviceError::Timeout`], or the error of the work itself.
    pub fn synchronize_within(&self, limit: Duration) -> Result<(), DeviceError> {
        wait("event synchronisation", limit, || self.is_complete())
    }

    /// Time from `start` to this event; both must be complete.
    ///
    /// # Errors
    /// A driver error, such as an event that was not recorded.
    pub fn elapsed_since(&self, start: &Self) -> Result<Duration, DeviceError> {
        self.context.bind()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: both handles are live, and a valid place for the answer.
        unsafe {
            call!(cuEventElapsedTime_v2(
                &raw mut milliseconds,
                start.handle,
                self.handle
            ))
        }?;
        Ok(Duration::from_secs_f64(
            (f64::from(milliseconds) / 1e3).max(0.0),
        ))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let result = self.context.bind().and_then(|()| {
            // SAFETY: created in `new`, destroyed once.
            unsafe { call!(cuEventDestroy_v2(self.handle)) }
        });
        self.context.defer(result);
    }
}

fn ready(operation: &'static str, code: CUresult) -> Result<bool, DeviceError> {
    if code == CUresult::CUDA_ERROR_NOT_READY {
        return Ok(false);
    }
    check(operation, code).map(|()| true)
}

/// Polls `done`, first often, then every millisecond.
fn wait(
    operation: &'static str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool, DeviceError>,
) -> Result<(), DeviceError> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(5);
    while !done()? {
        let waited = start.elapsed();
        if waited >= limit {
            return Err(DeviceError::Timeout { operation, waited });
        }
        std::thread::sleep(pause.min(limit - waited));
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end_at_the_deadline_with_the_time_waited() {
        let limit = Duration::from_millis(20);
        let error = wait("test", limit, || Ok(false)).unwrap_err();
        let DeviceError::Timeout {
            operation: "test",
            waited,
        } = error
        else {
            panic!("{error}")
        };
        assert!(waited >= limit && waited < limit * 50, "{waited:?}");
    }

    #[test]
    fn waits_poll_until_done_and_pass_errors_on() {
        let mut polls = 0;
        wait("test", DEFAULT_WAIT, || {
            polls += 1;
            Ok(polls == 4)
        })
        .unwrap();
        assert_eq!(polls, 4);
        let failed = DeviceError::Nul { what: "x" };
        assert_eq!(
            wait("test", DEFAULT_WAIT, || Err(failed.clone())),
            Err(failed)
        );
    }
}
