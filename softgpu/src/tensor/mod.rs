//! Tensor cores and tensor memory: numerics, wgmma tiles, operand layouts, tensor maps.
//!
//! Everything here is a pure function over values and byte slices; the executor decides when it
//! runs and translates addresses. Entry points:
//!
//! | instruction | calls |
//! |---|---|
//! | `wgmma.mma_async` | [`wgmma::Tile::new`] once; [`operand::Descriptor::decode`] + [`operand::gather`] (or [`wgmma::pack_a`]) per operand; [`wgmma::Tile::multiply_add`] |
//! | `cvt` | [`convert`] |
//! | `mma.sync` | [`model::dot`] per element |
//!
//! Errors are [`crate::error::FaultKind`] where guest code is at fault.

pub mod convert;
pub mod format;
pub mod model;
pub mod operand;
pub mod swizzle;
pub mod wgmma;

#[cfg(test)]
mod operand_test;
#[cfg(test)]
mod vectors_test;
