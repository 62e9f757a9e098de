//! Latency mode: one slot per (local expert, source rank, row), no count exchange ahead of the data, and
//! no host synchronisation.
//!
//! [`LatencyDesc`] says what is wanted, [`LatencyPlan`] what it takes (pure, exact), [`LatencyBuffers`] binds
//! a plan to a rank. A round is [`LatencyBuffers::dispatch`] and [`DispatchHandle::combine`]; each has
//! two halves, which can be called apart to put other work between them. All ranks make the same rounds.
//!
//! ```text
//! dispatch_begin -> DispatchInFlight -> finish -> DispatchHandle -> combine_begin -> CombineInFlight -> finish
//! ```
//!
//! Each step is consumed by the next; dropping one abandons the round, and peers do not hang
//! (`docs/protocol.md`, "Abandoned rounds"). Calls only enqueue work. A fault on the device is reported by
//! [`LatencyBuffers::check`] and by every later call.
//!
//! Whole rounds can be captured ([`Stream::capture`](crate::device::Stream::capture)); every launch of the graph is
//! a round, with the contents that the buffers then have. The communicator's other rounds must be on the graph's stream, or
//! have ended.

mod buffers;
mod desc;
mod launch;
mod plan;
mod round;

pub use buffers::{LatencyBuffers, Received, ReceivedRows};
pub use desc::{LatencyDesc, Payload};
pub use plan::{HeapLayout, LatencyPlan};
pub use round::{
    CombineInFlight, CombineInput, DispatchHandle, DispatchInFlight, DispatchInput, Output, Rows,
};
