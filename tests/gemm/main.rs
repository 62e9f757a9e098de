//! The GEMM kernels on a device (software or not): every element against the f64 oracle's bound and,
//! bit for bit, against the modelled order of summation.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    reason = "test sizes are small; helpers of tests, outside of test functions"
)]

mod cases;
mod dependent;
mod device;
mod exact;
mod forms;
mod graphs;
mod mutants;
mod operands;
mod plans;
mod problem;
mod seeds;
mod values;
