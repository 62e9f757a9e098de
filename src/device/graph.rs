//! Captured work: what was enqueued once, launched any number of times at the cost of one call.
//!
//! # Safety
//! Handles belong to their owner here and are destroyed once, in its drop. What the captured work
//! accesses is not known here, so that launching it is the caller's contract.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::sync::Arc;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::driver::call;
use super::{Context, DeviceError, Stream};

/// Work of a stream that was captured instead of executed (driver API, "Graph Management").
///
/// ```
/// # use hadal::device::{Buffer, Context, DeviceError, Stream};
/// # use hadal::transfer::fill_words;
/// # fn main() -> Result<(), DeviceError> {
/// let stream = Stream::new(&Context::new(0)?)?;
/// let mut words = Buffer::<u32>::zeroed(&stream, 1024)?;
/// fill_words(&stream, &mut words, 1)?; // once outside: a kernel's first use loads it
/// let graph = stream.capture(|stream| fill_words(stream, &mut words, 7))?;
/// for _ in 0..2 {
///     // SAFETY: `words` outlives both launches, and nothing else uses it.
///     unsafe { graph.launch(&stream) }?;
/// }
/// assert_eq!(words.to_vec(&stream)?, [7; 1024]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    handle: CUgraphExec,
}

// SAFETY: driver graphs may be used from any thread.
unsafe impl Send for Graph {}
// SAFETY: as above; launches are synchronised by the driver.
unsafe impl Sync for Graph {}

impl Stream {
    /// Captures what `enqueue` puts on this stream. Nothing of it is executed now; addresses and all
    /// other parameters are those of the moment.
    ///
    /// Meanwhile the calling thread can neither allocate, free nor wait: the driver answers with an
    /// error, and so does a wait for this stream. What other threads put on the stream is captured
    /// too.
    ///
    /// # Errors
    /// The error of `enqueue`, or a driver error. Either way the capture has ended.
    pub fn capture<E: From<DeviceError>>(
        &self,
        enqueue: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<Graph, E> {
        let capture = Capture::begin(self)?;
        enqueue(self)?;
        let template = capture.end()?;
        self.context().bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a valid place for the answer, and a graph that was captured above.
        unsafe {
            call!(cuGraphInstantiateWithFlags(
                &raw mut handle,
                template.graph,
                0
            ))
        }?;
        Ok(Graph {
            context: Arc::clone(self.context()),
            handle,
        })
    }
}

impl Graph {
    /// Enqueues the captured work on `stream`, which may be another one than it was captured on, and
    /// returns.
    ///
    /// # Errors
    /// [`DeviceError::WrongContext`], or a driver error. Errors of the execution appear at a later
    /// synchronisation.
    ///
    /// # Safety
    /// What every captured call demands holds again, for each launch until the stream is past it:
    /// the memory that the call was given is still allocated, and nothing else accesses it except as
    /// the call allows.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), DeviceError> {
        if !Arc::ptr_eq(&self.context, stream.context()) {
            return Err(DeviceError::WrongContext {
                operation: "graph launch",
                what: "stream",
            });
        }
        self.context.bind()?;
        // SAFETY: both handles are live; the rest is this function's contract.
        unsafe { call!(cuGraphLaunch(self.handle, stream.handle())) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let result = self.context.bind().and_then(|()| {
            // SAFETY: instantiated in `capture`, destroyed once; launches that are still under way
            // go on.
            unsafe { call!(cuGraphExecDestroy(self.handle)) }
        });
        self.context.defer(result);
    }
}

/// A capture that has begun, and ends with this value.
struct Capture<'a> {
    stream: &'a Stream,
}

impl<'a> Capture<'a> {
    fn begin(stream: &'a Stream) -> Result<Self, DeviceError> {
        stream.context().bind()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the handle is live.
        unsafe { call!(cuStreamBeginCapture_v2(stream.handle(), mode)) }?;
        Ok(Self { stream })
    }

    fn end(self) -> Result<Template, DeviceError> {
        let template = self.finish();
        std::mem::forget(self);
        template
    }

    fn finish(&self) -> Result<Template, DeviceError> {
        self.stream.context().bind()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: a valid place for the answer, and a live handle.
        let result = unsafe { call!(cuStreamEndCapture(self.stream.handle(), &raw mut graph)) };
        let context = Arc::clone(self.stream.context());
        // A capture that failed leaves no graph.
        let template = Template { context, graph };
        result.map(|()| template)
    }
}

impl Drop for Capture<'_> {
    /// After an error or a panic of what was captured, which is what the caller hears of.
    fn drop(&mut self) {
        drop(self.finish());
    }
}

/// What was captured, until it is instantiated.
struct Template {
    context: Arc<Context>,
    graph: CUgraph,
}

impl Drop for Template {
    fn drop(&mut self) {
        if self.graph.is_null() {
            return;
        }
        let result = self.context.bind().and_then(|()| {
            // SAFETY: made by the capture, destroyed once; instances do not need it.
            unsafe { call!(cuGraphDestroy(self.graph)) }
        });
        self.context.defer(result);
    }
}
