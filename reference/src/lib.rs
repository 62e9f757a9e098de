//! Plain Rust oracles: obvious rather than fast, no GPU code.
//!
//! Each function computes one *stage* in f64 from the operands that the stage really used (captured
//! from the device), so an error cannot hide behind an earlier stage's rounding. Arithmetic stages
//! come with a bound per element that is derived, not tuned; quantising stages are judged as codes,
//! routing as index sets, and communication bitwise.

pub mod blocks;
pub mod combine;
pub mod compare;
pub mod fp8;
pub mod gemm;
pub mod layer;
pub mod quantise;
pub mod route;
pub mod swiglu;
