//! Work in the form in which clients ask for it: what a stream runs at once, a capture records, and
//! a graph node holds.

use std::sync::Arc;

use super::context::Context;
use super::event::Event;
use super::graph::Graph;
use super::graph_memory::GraphMemory;
use super::launch::Request;
use super::module::Function;
use super::overlap::{Kernel, Serialization};
use super::status::{Result, Status};
use super::stream::{After, Health, Op, Stream, poll};
use super::transfer::{Fill, Mode, Rect};
use super::words::WordOp;
use crate::exec::hosts;

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`.
const PROGRAMMATIC_STREAM_SERIALIZATION: u32 = 6;

/// A kernel with everything that a launch needs. It has been checked.
#[derive(Debug, Clone)]
pub struct KernelTask {
    /// The function.
    pub function: Arc<Function>,
    /// The launch, parameter values included.
    pub request: Request,
    /// Where each parameter's value lies in the parameter buffer, as clients are told.
    pub pointers: Arc<[u64]>,
}

/// A host function of the client's.
#[derive(Clone)]
pub struct HostCall {
    /// Calls it.
    pub call: Arc<dyn Fn() + Send + Sync>,
    /// Its address.
    pub function: u64,
    /// Its argument.
    pub data: u64,
}

impl std::fmt::Debug for HostCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostCall({:#x}, {:#x})", self.function, self.data)
    }
}

/// A piece of work.
#[derive(Debug, Clone)]
pub enum Task {
    /// Nothing; orders others.
    Empty,
    /// A launch.
    Kernel(KernelTask),
    /// A copy.
    Copy(Rect),
    /// A fill.
    Fill(Fill),
    /// A host function.
    Host(HostCall),
    /// All nodes of another graph.
    Child(Arc<Graph>),
    /// Records an event.
    Record(Arc<Event>),
    /// Waits for what an event names when the work starts.
    Wait(Arc<Event>),
    /// Makes memory of the graph live.
    Alloc(Arc<GraphMemory>),
    /// Ends the life of memory.
    Free(u64),
    /// Writes of and waits for words of memory.
    Words(Vec<WordOp>),
}

impl Task {
    /// `CUgraphNodeType`.
    #[must_use]
    pub fn kind(&self) -> u32 {
        match self {
            Self::Kernel(_) => 0,
            Self::Copy(_) => 1,
            Self::Fill(_) => 2,
            Self::Host(_) => 3,
            Self::Child(_) => 4,
            Self::Empty => 5,
            Self::Wait(_) => 6,
            Self::Record(_) => 7,
            Self::Alloc(_) => 10,
            Self::Free(_) => 11,
            Self::Words(_) => 12,
        }
    }

    /// Queues the work on a stream, or records it if the stream is being captured. In synchronous
    /// mode waits for it.
    ///
    /// # Errors
    ///
    /// The sticky fault of the context, errors of captures.
    pub fn submit(self, context: &Context, stream: &Arc<Stream>, mode: Mode) -> Result<()> {
        context.health.check()?;
        if super::capture::intercept(context, stream, mode, &self)? {
            return Ok(());
        }
        let done = context.enqueue(stream, self.into_op(context)?)?;
        if mode == Mode::Sync {
            done.wait();
            return context.health.check();
        }
        Ok(())
    }

    /// The operation of a stream that does this alone.
    fn into_op(self, context: &Context) -> Result<Op> {
        let health = Arc::clone(&context.health);
        Ok(match self {
            Self::Kernel(kernel) => {
                let programmatic = kernel
                    .request
                    .attributes
                    .get(&PROGRAMMATIC_STREAM_SERIALIZATION);
                let serialization = if programmatic.is_some_and(|words| words[0] != 0) {
                    Serialization::Programmatic
                } else {
                    Serialization::Full
                };
                let launch = kernel.request.launch(&kernel.function)?;
                Op::Kernel(Box::new(Kernel {
                    launch,
                    serialization,
                }))
            }
            Self::Copy(rect) => Op::Quick(Box::new(move || rect.perform())),
            Self::Fill(fill) => Op::Quick(Box::new(move || fill.perform())),
            Self::Host(host) => Op::Work(Box::new(move || {
                hosts::attend();
                (host.call)();
            })),
            Self::Words(ops) => {
                if ops.iter().any(WordOp::may_wait) {
                    Op::Work(Box::new(move || perform_words(&ops, &health)))
                } else {
                    Op::Quick(Box::new(move || perform_words(&ops, &health)))
                }
            }
            // Events, allocations and graphs have entries of their own into streams.
            Self::Empty | Self::Child(_) | Self::Record(_) | Self::Wait(_) => {
                return Err(Status::NOT_SUPPORTED);
            }
            Self::Alloc(_) | Self::Free(_) => return Err(Status::NOT_SUPPORTED),
        })
    }
}

/// Does the operations one after another.
pub fn perform_words(ops: &[WordOp], health: &Health) {
    for op in ops {
        poll(health, || op.attempt());
    }
}

/// The points of several streams, together.
pub fn wait_all(points: &[After]) {
    points.iter().for_each(After::wait);
}
