//! The FP8 GEMM kernels on a device (software or not), every element against the f64 oracle.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test sizes are small"
)]

mod bits;
mod case;
mod dense;
mod grouped;
mod mutants;
mod operands;
