//! The latency-mode all-to-all, bit for bit against a plain model, on every number of ranks.

mod abandon;
mod arguments;
mod damage;
mod faults;
pub(crate) mod harness;
pub(crate) mod model;
pub(crate) mod rounds;
