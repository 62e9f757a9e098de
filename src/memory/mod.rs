//! Memory that several ranks share: physical allocations, address reservations and the symmetric heap.
//!
//! A *rank* is one participant with one device. Ranks are threads of one process or processes, and meet
//! through a [`Bootstrap`]. A [`SymmetricHeap`] is one allocation per rank of which every rank maps all, at a fixed
//! stride in an address range of its own. What peers may write is only ever an address here, never a
//! slice: kernels read it under a protocol (`docs/protocol.md`).

mod bootstrap;
mod error;
mod heap;
mod host;
mod layout;
mod multicast;
mod vmm;

pub use bootstrap::{Bootstrap, Members, Rendezvous};
pub use error::MemoryError;
pub use heap::SymmetricHeap;
pub use host::MappedHost;
pub use layout::{Layout, Region};
pub use vmm::{FabricHandle, Physical, Reservation};
