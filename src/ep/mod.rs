//! Expert all-to-all: every token's row travels to the ranks of its experts (*dispatch*) and the experts'
//! results travel back and are summed (*combine*).
//!
//! Protocol: `docs/protocol.md`. So far there is the latency mode, for decoding.

pub mod latency;

mod error;

pub use error::{EpError, Fault, FaultKind, Operation, Phase};
