//! Throughput mode: each row crosses once to every rank of its experts and is expanded there into a buffer in which the
//! rows of an expert lie together, as the contiguous and offsets forms of the grouped GEMM read them.
//!
//! [`ThroughputDesc`] says what is wanted, [`ThroughputPlan`] what it takes (pure, exact), [`ThroughputBuffers`]
//! binds a plan to a rank. A round is [`ThroughputBuffers::dispatch`] and [`DispatchHandle::combine`]; all ranks
//! make the same sequence of calls. Each step is consumed by the next; dropping one abandons the
//! round, and peers do not hang (`docs/protocol.md`). Calls only enqueue work. A fault on the device is reported by
//! [`ThroughputBuffers::check`] and by every later call.
//!
//! ```
//! # use hadal::ep::throughput::{Payload, Reduce, ThroughputDesc, ThroughputPlan};
//! let plan = ThroughputPlan::new(ThroughputDesc {
//!     alignment: 128,
//!     max_rows: Some(40_960),
//!     ..ThroughputDesc::new([8, 256, 8], 7168, 4096, Payload::Fp8, Reduce::PerExpert)
//! })?;
//! println!("{} bytes of every peer's device", plan.heap.bytes);
//! # Ok::<(), hadal::ep::EpError>(())
//! ```
//!
//! A routing that repeats, as that of a forward pass does in the backward one, is kept by [`DispatchHandle::reuse`].
//!
//! Whole rounds can be captured ([`Stream::capture`](crate::device::Stream::capture)); every launch of the graph is
//! a round, with the contents that the buffers then have. The communicator's other rounds must be on the graph's stream, or
//! have ended.

mod buffers;
mod desc;
mod launch;
mod plan;
mod round;

pub use super::latency::{Output, Payload, ReceivedRows, Rows};
pub use buffers::{Received, ThroughputBuffers};
pub use desc::{Reduce, ThroughputDesc};
pub use plan::{Ctas, HeapLayout, ThroughputPlan};
pub use round::{CombineInFlight, DispatchHandle, DispatchInFlight, DispatchInput, Routing};
