//! The executor on hand-written PTX: scheduling within warps, barriers, asynchronous operations,
//! clusters, several devices, faults. Expected values are computed here from the launch's shape.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

mod asynchronous;
mod cluster;
mod deadlock;
mod engine;
mod harness;
mod multimem;
mod ring;
mod round;
mod seeds;
mod source;
mod spin;
mod sync;
mod warp;
