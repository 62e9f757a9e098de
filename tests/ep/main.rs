//! The expert all-to-all, bit for bit against plain models, in both modes.
//!
//! The models know the routing of all ranks and say what each rank must receive and sum; they share no code with
//! the kernels. Ranks are threads ([`ranks`]), in the written cases ([`cases`]) processes as well.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data: values are small, and a failure is a failed test"
)]

mod cases;
mod chunks;
mod compare;
mod graphs;
mod latency;
mod membership;
mod plans;
#[path = "../support/process.rs"]
mod process;
mod ranks;
mod seeds;
mod stats;
mod throughput;
