//! Tensor cores and tensor memory: numerics, wgmma tiles, operand layouts, tensor maps.

pub mod convert;
pub mod format;
pub mod model;

#[cfg(test)]
mod vectors_test;
