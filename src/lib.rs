//! FP8 GEMM, expert all-to-all and transfer primitives for Hopper GPUs, below the CUDA libraries.

pub mod kernels;
pub mod params;
