//! A software GPU: the CUDA driver API (`libcuda.so.1`) over an interpreter that executes PTX.
//!
//! The layers, from the outside in: [`abi`] (C symbols), [`driver`] (contexts, streams, modules),
//! [`exec`] (warps, CTAs, clusters, scheduling), [`ir`] (typed instructions), [`ptx`] (text),
//! [`mem`] (guest memory) and [`tensor`] (tensor-core numerics).

pub mod abi;
pub mod coverage;
pub mod driver;
pub mod error;
pub mod exec;
pub mod ir;
pub mod mem;
pub mod ptx;
pub mod tensor;
