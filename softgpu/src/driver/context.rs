//! Contexts, primary contexts and the stack of current contexts of a thread.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem::ManuallyDrop;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::capture;
use super::machine::driver;
use super::output;
use super::status::{Result, Status};
use super::stream::{After, Health, Op, Stream, StreamKind};
use crate::mem::{AddressSpace, Peer, Region};

thread_local! {
    /// Nothing to drop, so that it still answers while a thread ends: destructors of a client's
    /// static objects call the driver, too. Only a stack that is left deep leaks.
    static STACK: ManuallyDrop<RefCell<SmallVec<[u64; 8]>>> =
        ManuallyDrop::new(RefCell::new(SmallVec::new()));
    static OWN_STREAMS: RefCell<OwnStreams> = RefCell::default();
}

/// Per-thread default streams by context; they end with the thread.
#[derive(Default)]
struct OwnStreams(HashMap<u64, Arc<Stream>>);

impl Drop for OwnStreams {
    fn drop(&mut self) {
        for stream in self.0.values() {
            match driver().contexts.get(stream.context) {
                Some(context) => context.destroy_stream(stream),
                None => drop(driver().streams.remove(stream.handle)),
            }
        }
    }
}

/// A context: what belongs to one client on one device.
#[derive(Debug)]
pub struct Context {
    /// Its handle.
    pub handle: u64,
    /// Device ordinal.
    pub device: u32,
    /// Primary or not.
    pub kind: ContextKind,
    /// Creation flags.
    pub flags: Mutex<u32>,
    /// Values of `cuCtxSetLimit`.
    pub limits: Mutex<HashMap<u32, usize>>,
    /// What `cuCtxSetCacheConfig` said.
    pub cache_config: Mutex<u32>,
    /// Devices whose memory this context may access.
    pub peers: Mutex<HashSet<u32>>,
    /// Sticky fault.
    pub health: Arc<Health>,
    /// The allocations that die with it: first address and identity.
    allocations: Mutex<HashMap<u64, u64>>,
    /// Guards the order of tickets between streams.
    order: Mutex<()>,
    legacy: Arc<Stream>,
    blocking: Mutex<Vec<Arc<Stream>>>,
    others: Mutex<Vec<Arc<Stream>>>,
}

/// How a context came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextKind {
    /// The primary context of its device.
    Primary,
    /// Made by `cuCtxCreate`.
    Created,
}

/// Which stream a null handle means: `_ptsz` entry points say the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultStream {
    /// The legacy default stream.
    Legacy,
    /// The per-thread default stream.
    PerThread,
}

impl Context {
    /// A healthy context without resources, not yet known under its handle.
    #[must_use]
    pub fn new(handle: u64, device: u32, flags: u32, kind: ContextKind) -> Self {
        let health = Arc::<Health>::default();
        let own = (driver().streams.reserve(), handle);
        let legacy = Stream::new(own, StreamKind::Legacy, 0, Arc::clone(&health));
        Self {
            handle,
            device,
            kind,
            flags: Mutex::new(flags),
            limits: Mutex::default(),
            cache_config: Mutex::default(),
            peers: Mutex::default(),
            health,
            allocations: Mutex::default(),
            order: Mutex::default(),
            legacy: Arc::new(legacy),
            blocking: Mutex::default(),
            others: Mutex::default(),
        }
    }

    /// Creates a stream.
    pub fn create_stream(&self, kind: StreamKind, priority: i32) -> Arc<Stream> {
        let handle = driver().streams.reserve();
        let health = Arc::clone(&self.health);
        let stream = Arc::new(Stream::new((handle, self.handle), kind, priority, health));
        let list = match kind {
            StreamKind::NonBlocking => &self.others,
            StreamKind::Legacy | StreamKind::Blocking => &self.blocking,
        };
        let mut list = list.lock();
        list.retain(|s| driver().streams.get(s.handle).is_some() || !s.end().is_reached());
        list.push(Arc::clone(&stream));
        driver().streams.insert(handle, Arc::clone(&stream));
        stream
    }

    /// Forgets a stream; its queued work still runs.
    pub fn destroy_stream(&self, stream: &Stream) {
        driver().streams.remove(stream.handle);
        for list in [&self.blocking, &self.others] {
            // Work that is still queued must stay visible to synchronisation.
            list.lock()
                .retain(|s| s.handle != stream.handle || !s.end().is_reached());
        }
    }

    /// The legacy or this thread's default stream.
    #[must_use]
    pub fn default_stream(&self, which: DefaultStream) -> Arc<Stream> {
        match which {
            DefaultStream::Legacy => Arc::clone(&self.legacy),
            // A thread that ends has its stream no more; the legacy one comes after all work.
            DefaultStream::PerThread => OWN_STREAMS
                .try_with(|own| self.own_stream(&mut own.borrow_mut().0))
                .unwrap_or_else(|_| Arc::clone(&self.legacy)),
        }
    }

    fn own_stream(&self, own: &mut HashMap<u64, Arc<Stream>>) -> Arc<Stream> {
        let known = own.get(&self.handle);
        let usable = known.filter(|s| driver().streams.get(s.handle).is_some());
        if let Some(stream) = usable {
            return Arc::clone(stream);
        }
        let stream = self.create_stream(StreamKind::Blocking, 0);
        own.insert(self.handle, Arc::clone(&stream));
        stream
    }

    /// Queues an operation on a stream of this context, in the order that default-stream
    /// semantics demand.
    ///
    /// # Errors
    ///
    /// The sticky fault of the context, or no thread for the stream.
    pub fn enqueue(&self, stream: &Stream, op: Op) -> Result<After> {
        self.enqueue_after(stream, op, Vec::new())
    }

    /// As [`Self::enqueue`], behind more points than the stream's own.
    ///
    /// # Errors
    ///
    /// As [`Self::enqueue`].
    pub fn enqueue_after(&self, stream: &Stream, op: Op, mut after: Vec<After>) -> Result<After> {
        self.health.check()?;
        capture::refuse_implicit(self, stream)?;
        let _order = self.order.lock();
        match stream.kind {
            StreamKind::NonBlocking => {}
            StreamKind::Blocking => after.push(self.legacy.end()),
            StreamKind::Legacy => after.extend(self.blocking.lock().iter().map(|s| s.end())),
        }
        stream.push(op, after)
    }

    /// Waits for the work of a stream.
    ///
    /// # Errors
    ///
    /// The sticky fault of the context; errors of captures.
    pub fn synchronize_stream(&self, stream: &Stream) -> Result<()> {
        capture::refuse_waiting(stream)?;
        capture::refuse_implicit(self, stream)?;
        self.end_of(stream).iter().for_each(After::wait);
        output::flush(self.device);
        self.health.check()
    }

    /// Whether the work of a stream is done.
    ///
    /// # Errors
    ///
    /// `NOT_READY` if it is not, or the sticky fault of the context.
    pub fn query_stream(&self, stream: &Stream) -> Result<()> {
        self.health.check()?;
        capture::refuse_waiting(stream)?;
        capture::refuse_implicit(self, stream)?;
        if self.end_of(stream).iter().all(After::is_reached) {
            return self.health.check();
        }
        Err(Status::NOT_READY)
    }

    fn end_of(&self, stream: &Stream) -> Vec<After> {
        let _order = self.order.lock();
        let mut ends = vec![stream.end()];
        if stream.kind == StreamKind::Legacy {
            ends.extend(self.blocking.lock().iter().map(|s| s.end()));
        }
        ends
    }

    /// Waits for all work of the context.
    ///
    /// # Errors
    ///
    /// The sticky fault of the context.
    pub fn synchronize(&self) -> Result<()> {
        capture::refuse_context_wait(self.handle)?;
        self.finish()
    }

    /// The same for calls that wait without being asked to, such as those that free memory: a capture
    /// forbids them where its mode says so, not everywhere.
    ///
    /// # Errors
    ///
    /// The sticky fault of the context.
    pub fn finish(&self) -> Result<()> {
        self.drain();
        self.health.check()
    }

    fn drain(&self) {
        let mut ends = self.end_of(&self.legacy);
        ends.extend(self.others.lock().iter().map(|s| s.end()));
        ends.iter().for_each(After::wait);
        output::flush(self.device);
    }

    /// Notes an allocation that dies with the context.
    pub fn adopt(&self, region: &Region) {
        self.allocations.lock().insert(region.base, region.id);
    }

    /// Ends the context: waits for its kernels, then frees what belongs to it.
    pub fn destroy(&self) {
        self.health.destroy();
        self.drain();
        let d = driver();
        let mine = self.handle;
        for stream in d.streams.remove_if(|s| s.context == mine) {
            stream.end().wait();
        }
        d.events.remove_if(|e| e.context == mine);
        d.functions.remove_if(|f| f.context == mine);
        d.modules.remove_if(|m| m.context == mine);
        for library in d.libraries.all() {
            library.forget_context(mine);
        }
        let space = AddressSpace::global();
        for (base, id) in self.allocations.lock().drain() {
            // It may be freed already, and its address used again.
            if space.lookup(base).is_some_and(|region| region.id == id) {
                let _ = space.free(base);
            }
        }
        for peer in self.peers.lock().drain() {
            let _ = space.set_peer(peer, self.device, Peer::Disabled);
        }
    }
}

/// The handle of the current context; 0 if there is none.
#[must_use]
pub fn current_handle() -> u64 {
    STACK.with(|stack| stack.borrow().last().copied().unwrap_or(0))
}

/// The current context.
///
/// # Errors
///
/// `INVALID_CONTEXT` if there is none, `CONTEXT_IS_DESTROYED` if it is gone.
pub fn current() -> Result<Arc<Context>> {
    match current_handle() {
        0 => Err(Status::INVALID_CONTEXT),
        handle => driver()
            .contexts
            .get(handle)
            .ok_or(Status::CONTEXT_IS_DESTROYED),
    }
}

/// The current context, without sticky fault.
///
/// # Errors
///
/// As [`current`], and the fault.
pub fn healthy() -> Result<Arc<Context>> {
    let context = current()?;
    context.health.check()?;
    Ok(context)
}

/// Replaces the top of the stack; 0 pops it.
pub fn set_current(handle: u64) {
    STACK.with(|stack| {
        let mut stack = stack.borrow_mut();
        stack.pop();
        if handle != 0 {
            stack.push(handle);
        }
    });
}

/// Pushes a context.
pub fn push_current(handle: u64) {
    STACK.with(|stack| stack.borrow_mut().push(handle));
}

/// Pops the current context.
///
/// # Errors
///
/// `INVALID_CONTEXT` if there is none.
pub fn pop_current() -> Result<u64> {
    STACK
        .with(|stack| stack.borrow_mut().pop())
        .ok_or(Status::INVALID_CONTEXT)
}

/// A context by handle; 0 means the current one.
///
/// # Errors
///
/// `INVALID_CONTEXT` if there is none.
pub fn by_handle(handle: u64) -> Result<Arc<Context>> {
    if handle == 0 {
        return current();
    }
    let context = driver().contexts.get(handle);
    context.ok_or(Status::INVALID_CONTEXT)
}

/// A stream by handle, with its context; `0`, `1` (`CU_STREAM_LEGACY`) and `2`
/// (`CU_STREAM_PER_THREAD`) are default streams of the current context.
///
/// # Errors
///
/// `INVALID_HANDLE`, or no current context.
pub fn stream(handle: u64, default: DefaultStream) -> Result<(Arc<Context>, Arc<Stream>)> {
    let which = match handle {
        0 => default,
        1 => DefaultStream::Legacy,
        2 => DefaultStream::PerThread,
        _ => {
            let stream = driver().streams.get(handle).ok_or(Status::INVALID_HANDLE)?;
            return Ok((by_handle(stream.context)?, stream));
        }
    };
    let context = current()?;
    let stream = context.default_stream(which);
    Ok((context, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_threads_end_with_them() {
        let handle = driver().contexts.reserve();
        let context = Arc::new(Context::new(handle, 0, 0, ContextKind::Created));
        driver().contexts.insert(handle, Arc::clone(&context));
        let streams = || {
            let all = driver().streams.all();
            all.iter().filter(|s| s.context == handle).count()
        };
        let before = streams();
        for _ in 0..3 {
            let context = Arc::clone(&context);
            let thread = std::thread::spawn(move || {
                let own = context.default_stream(DefaultStream::PerThread);
                driver().streams.get(own.handle).unwrap();
            });
            thread.join().unwrap();
        }
        assert_eq!(streams(), before);
        driver().contexts.remove(handle);
    }
}
