//! FP8 GEMM, expert all-to-all and transfer primitives for Hopper GPUs, below the CUDA libraries.
//!
//! Kernels are CUDA C++ and PTX, compiled by the build script and embedded ([`kernels`]); this crate
//! wraps them safely. They execute on a GPU, or on the software GPU where there is none
//! ([`device::selected`]).

pub mod device;
pub mod env;
pub mod ep;
mod error;
pub mod gemm;
pub mod kernels;
pub mod memory;
pub mod moe;
pub mod params;
pub mod quant;
pub mod transfer;

pub use error::Error;
