//! Transfers over NVLink on the symmetric heap: put, get, signals, barriers, all-gathers of small records, all-reduce and
//! broadcast, each an operation of a stream.
//!
//! An [`Endpoint`] is one rank's window and what its primitives need. The window has
//! [`Desc::bytes`] bytes for the caller and [`Desc::signals`] signal words, 64 bits each, which start at zero.
//! The same primitives are device functions for kernels of one's own (`csrc/transfer/nvlink/*.cuh`), which
//! [`Endpoint::params`] tells where everything lies. Calls only enqueue. What they order, who writes and who reads each word, and how often each may be called
//! stands in `docs/protocol.md`, "NVLink primitives", and with each method.
//!
//! Waits are bounded. One that expires becomes [`NvLinkError::Fault`] at the next call of
//! [`Endpoint::check`] or [`Endpoint::synchronize`]; the endpoint sends nothing more and is of no further use, its peers
//! learn of it in their own waits, and the context is unaffected.
//!
//! ```
//! # use hadal::device::{Buffer, Context, Stream};
//! # use hadal::memory::Bootstrap;
//! # use hadal::transfer::nvlink::{Change, CopyPlan, Desc, Endpoint, Form, Place, Source, Until, Wait};
//! /// What one rank does: sends 100 bytes to the other, and receives as many.
//! fn exchange(mut side: Bootstrap) -> Result<(), hadal::Error> {
//!     let (rank, peer) = (side.rank(), 1 - side.rank());
//!     let context = Context::new(rank)?;
//!     let stream = Stream::new(&context)?;
//!     let desc = Desc { bytes: 4096, signals: 1, ..Desc::default() };
//!     let endpoint = Endpoint::new(&desc, &mut side, &context)?;
//!     let data = Buffer::from_slice(&stream, &[rank as u8; 100])?;
//!     let to = Place { rank: peer, offset: 32 };
//!     let plan = CopyPlan::new(Form::Vector, 100);
//!     endpoint.put_signal(&stream, Source::buffer(&data), to, plan, (0, Change::Add(1)))?;
//!     endpoint.wait(&stream, Wait { peer, signal: 0, until: Until::Count(1), limit: None })?;
//!     let mut got = Buffer::<u8>::zeroed(&stream, 100)?;
//!     endpoint.get(&stream, Place { rank, offset: 32 }, (&mut got).into(), plan)?;
//!     endpoint.synchronize(&stream)?;
//!     assert_eq!(got.to_vec(&stream)?, [peer as u8; 100]);
//!     Ok(())
//! }
//! # fn main() -> Result<(), hadal::Error> {
//! let sides = Bootstrap::in_process(2)?;
//! std::thread::scope(|scope| {
//!     let ranks: Vec<_> = sides.into_iter().map(|side| scope.spawn(|| exchange(side))).collect();
//!     ranks.into_iter().try_for_each(|rank| rank.join().expect("no panic"))
//! })
//! # }
//! ```

mod collective;
mod copy;
mod desc;
mod endpoint;
mod error;
mod fault;
mod gather;
mod sync;

pub use collective::{CollectivePlan, Element, Path};
pub use copy::{CopyPlan, Form, Place, Source, Target};
pub use desc::{Desc, Layout};
pub use endpoint::Endpoint;
pub use error::{Fault, FaultKind, NvLinkError, Operation};
pub use sync::{Change, Team, Until, Wait};
