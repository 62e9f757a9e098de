//! Tensor cores and tensor memory: numerics, wgmma tiles, operand layouts, tensor maps.
//!
//! Everything here is a pure function over values and byte slices; the executor decides when it
//! runs and translates addresses. Entry points:
//!
//! | instruction | calls |
//! |---|---|
//! | `wgmma.mma_async` | [`wgmma::Tile::new`] once; [`operand::Descriptor::decode`] + [`operand::gather`] (or [`wgmma::pack_a`]) per operand; [`wgmma::Tile::multiply_add`] |
//! | `cuTensorMapEncodeTiled`, `cuTensorMapReplaceAddress` | [`map::TensorMap::tiled`], [`map::TensorMap::with_address`], [`map::TensorMap::encode`] |
//! | `tensormap.replace` | [`map::replace`] on the 128 bytes |
//! | `cp.async.bulk.tensor` | [`map::TensorMap::decode`], then [`copy::load`] or [`copy::store`] over a [`copy::Global`] |
//! | `cp.reduce.async.bulk.tensor` | [`reduce::Reduction::new`], then [`copy::reduce`] |
//! | `cvt` | [`convert`] |
//! | `mma.sync`, `wmma` | `mma::Multiply`; [`model::dot`] is its reference |
//!
//! Errors are [`crate::error::FaultKind`] where guest code is at fault.

pub mod convert;
pub mod copy;
pub mod format;
pub mod map;
pub mod mma;
pub mod model;
pub mod operand;
pub mod reduce;
pub mod swizzle;
pub mod wgmma;

#[cfg(test)]
mod copy_test;
#[cfg(test)]
mod map_test;
#[cfg(test)]
mod operand_test;
#[cfg(test)]
mod vectors_test;
