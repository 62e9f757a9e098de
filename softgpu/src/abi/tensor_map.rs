//! Tensor maps.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::{In, Out};
use crate::driver::report;
use crate::driver::status::{Result, Status};
use crate::tensor::map::{BYTES, MAX_RANK, TensorMap, TensorMapError, TiledArguments};

fn refuse(error: TensorMapError) -> Status {
    report::complaint(&error.to_string());
    match error {
        TensorMapError::Unsupported { .. } => Status::NOT_SUPPORTED,
        _ => Status::INVALID_VALUE,
    }
}

/// The client's tensor map must be aligned as `CUtensorMap` is.
fn check_place(address: u64) -> Result<()> {
    const ALIGN: u64 = 64;
    if address != 0 && address.is_multiple_of(ALIGN) {
        return Ok(());
    }
    report::complaint("the CUtensorMap is null or not aligned to 64 bytes");
    Err(Status::INVALID_VALUE)
}

/// As many elements of an argument array as the rank asks for.
fn some<T: Copy>(list: In<T>, count: u32) -> Result<Vec<T>> {
    let count = (count as usize).min(MAX_RANK);
    if count == 0 {
        Ok(Vec::new())
    } else {
        list.all(count)
    }
}

entries! { call:
    fn cuTensorMapEncodeTiled(
        map: Out<[u8; BYTES]>, data_type: u32, rank: u32, address: u64, dims: In<u64>,
        strides: In<u64>, box_dims: In<u32>, element_strides: In<u32>, interleave: u32,
        swizzle: u32, l2_promotion: u32, fill: u32
    ) {
        check_place(map.address())?;
        let arguments = TiledArguments {
            data_type,
            rank,
            address,
            dims: &some(dims, rank)?,
            strides: &some(strides, rank.saturating_sub(1))?,
            box_dims: &some(box_dims, rank)?,
            element_strides: &some(element_strides, rank)?,
            interleave,
            swizzle,
            l2_promotion,
            fill,
        };
        map.set(TensorMap::tiled(&arguments).map_err(refuse)?.encode())
    }
    fn cuTensorMapReplaceAddress(map: Out<[u8; BYTES]>, address: u64) {
        check_place(map.address())?;
        let old = In::<[u8; BYTES]>::at(map.address()).get()?;
        let new = TensorMap::decode(&old).and_then(|map| map.with_address(address));
        map.set(new.map_err(refuse)?.encode())
    }
}
