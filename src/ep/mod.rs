//! Expert all-to-all: every token's row travels to the ranks of its experts (*dispatch*) and the experts'
//! results travel back and are summed (*combine*).
//!
//! Protocol: `docs/protocol.md`. [`latency`] mode is for decoding, [`throughput`] mode for prefill and training.

pub mod latency;
pub mod throughput;

mod cap;
mod ctas;
mod endpoint;
mod error;
mod fault;
mod ledger;
mod stats;

pub use error::{EpError, Fault, FaultKind, Operation, Phase};
pub use stats::{EpStats, PeerStats, Sent, Span};
