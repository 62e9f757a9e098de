//! The kernels that prepare operands of the GEMM, bit for bit: every operation in them is exact or
//! rounded once, so the oracles have no tolerance. Outputs lie between guards and are compared as a
//! whole.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    reason = "test sizes are small; helpers of tests, outside of test functions"
)]

mod dequantise;
mod harness;
mod quantise_128x128;
mod quantise_1x128;
mod refusals;
mod transpose_quantise;
mod transpose_scales;
mod ue8m0;
mod weight_gradient;
