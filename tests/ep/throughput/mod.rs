//! The throughput-mode all-to-all, bit for bit against a plain model, and with faults.

pub(crate) mod cases;
mod damage;
mod faults;
pub(crate) mod harness;
pub(crate) mod model;
mod reuse;
