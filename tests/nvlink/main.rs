//! NVLink primitives, bit for bit against plain Rust, on every number of ranks.
//!
//! Ranks are threads ([`harness`]), and processes in one test ([`processes`]) and under seeds ([`seeds`]).
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data: values are small, and a failure is a failed test"
)]

mod barriers;
mod collectives;
mod copies;
mod faults;
mod gathers;
mod graphs;
mod harness;
#[path = "../support/process.rs"]
mod process;
mod processes;
mod refusals;
mod seeds;
mod signals;
