//! Tensor maps: what the TMA unit needs to know about a tensor in global memory.
//!
//! The rules that the driver only answers with "invalid value" are checked here first, so that the
//! error names the field (CUDA driver API, `cuTensorMapEncodeTiled`).
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::fmt::Display;

use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use super::driver::call;
use super::{DeviceError, library};
use crate::params::TensorMap;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// One byte: FP8 of either kind too.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
}

impl Element {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::Bf16 | Self::F16 => 2,
            Self::U32 | Self::F32 => 4,
        }
    }

    const fn raw(self) -> CUtensorMapDataType {
        match self {
            Self::U8 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            Self::U16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            Self::U32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            Self::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Self::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Self::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        }
    }
}

/// Permutation of 16-byte units in shared memory that avoids bank conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// Rows as they are.
    None,
    /// Within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl Swizzle {
    /// Bytes that the innermost box dimension may span; `None` when any.
    const fn span(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::B32 => Some(32),
            Self::B64 => Some(64),
            Self::B128 => Some(128),
        }
    }

    const fn raw(self) -> CUtensorMapSwizzle {
        match self {
            Self::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Self::B32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            Self::B64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            Self::B128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        }
    }
}

/// Most dimensions that a tensor map has.
pub const MAX_RANK: usize = 5;

/// A tiled tensor of 1 to [`MAX_RANK`] dimensions, the innermost (contiguous) first. Elements outside
/// the tensor read as zero and are not written. Of the arrays the first `rank` entries count (of
/// `strides` one less), so that describing and encoding a tensor allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMapDesc {
    /// Element type.
    pub element: Element,
    /// Device address of element 0; a multiple of 16.
    pub address: u64,
    /// Dimensions, 1 to [`MAX_RANK`].
    pub rank: usize,
    /// Elements per dimension, 1 to 2^32.
    pub dims: [u64; MAX_RANK],
    /// Bytes from one index to the next of every dimension but the innermost; multiples of 16 below
    /// 2^40.
    pub strides: [u64; MAX_RANK - 1],
    /// Elements per dimension of the box that one copy moves, 1 to 256.
    pub box_dims: [u32; MAX_RANK],
    /// Layout of the box in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMapDesc {
    /// A row-major matrix: `rows` rows of `columns` contiguous elements, `pitch` bytes apart.
    #[must_use]
    pub const fn matrix(
        element: Element,
        address: u64,
        [rows, columns]: [u64; 2],
        pitch: u64,
        [box_rows, box_columns]: [u32; 2],
        swizzle: Swizzle,
    ) -> Self {
        Self {
            element,
            address,
            rank: 2,
            dims: [columns, rows, 1, 1, 1],
            strides: [pitch, 0, 0, 0],
            box_dims: [box_columns, box_rows, 1, 1, 1],
            swizzle,
        }
    }

    /// Encodes the map as a kernel parameter.
    ///
    /// # Errors
    /// [`DeviceError::TensorMap`] naming the field that breaks a rule, or a driver error.
    pub fn encode(&self) -> Result<TensorMap, DeviceError> {
        self.check()?;
        library::selected()?;
        let mut map = CUtensorMap { opaque: [0; 16] };
        let steps = [1u32; MAX_RANK];
        let rank = u32::try_from(self.rank).unwrap_or(0);
        // SAFETY: every array has at least `rank` elements, which is at most MAX_RANK (checked
        // above); the driver reads them and writes `map` before it returns.
        unsafe {
            call!(cuTensorMapEncodeTiled(
                &raw mut map,
                self.element.raw(),
                rank,
                self.address as *mut core::ffi::c_void,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                self.box_dims.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                self.swizzle.raw(),
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            ))
        }?;
        Ok(TensorMap { opaque: map.opaque })
    }

    fn check(&self) -> Result<(), DeviceError> {
        let rank = self.rank;
        if !(1..=MAX_RANK).contains(&rank) {
            return fail("rank", rank, "1 to 5");
        }
        if self.address == 0 || !self.address.is_multiple_of(16) {
            let address = format_args!("{:#x}", self.address);
            return fail("address", address, "a multiple of 16, not 0");
        }
        if let Some(n) = self.dims[..rank].iter().find(|&&n| n == 0 || n > 1 << 32) {
            return fail("a dimension", n, "1 to 2^32");
        }
        let strides = &self.strides[..rank - 1];
        let valid = |n: u64| n < 1 << 40 && n.is_multiple_of(16);
        if let Some(n) = strides.iter().find(|&&n| !valid(n)) {
            return fail("a stride", n, "a multiple of 16 below 2^40");
        }
        let boxes = &self.box_dims[..rank];
        if let Some(n) = boxes.iter().find(|&&n| n == 0 || n > 256) {
            return fail("a box dimension", n, "1 to 256");
        }
        let inner = u64::from(self.box_dims[0]) * u64::from(self.element.bytes());
        let (field, bytes) = ("the box's inner extent", format_args!("{inner} bytes"));
        if !inner.is_multiple_of(16) {
            return fail(field, bytes, "a multiple of 16");
        }
        match self.swizzle.span() {
            Some(span) if inner > span => {
                fail(field, bytes, &format!("at most the swizzle's {span}"))
            }
            _ => Ok(()),
        }
    }
}

#[cold]
fn fail(field: &'static str, value: impl Display, expected: &str) -> Result<(), DeviceError> {
    Err(DeviceError::TensorMap {
        field,
        value: value.to_string(),
        expected: expected.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut TensorMapDesc);

    fn valid() -> TensorMapDesc {
        TensorMapDesc::matrix(
            Element::U8,
            0x1000,
            [64, 256],
            256,
            [64, 128],
            Swizzle::B128,
        )
    }

    #[test]
    fn matrices_put_the_contiguous_dimension_first() {
        let map = valid();
        assert_eq!(
            (map.rank, &map.dims[..2], &map.box_dims[..2]),
            (2, &[256, 64][..], &[128, 64][..])
        );
        map.check().unwrap();
    }

    #[test]
    fn each_broken_rule_names_its_field_and_value() {
        let cases: [(Spoil, &str); 11] = [
            (|m| m.rank = 0, "rank is 0, expected 1 to 5"),
            (|m| m.rank = 6, "rank is 6, expected 1 to 5"),
            (|m| m.address = 0, "address is 0x0"),
            (|m| m.address = 0x1008, "address is 0x1008"),
            (|m| m.dims[1] = 0, "a dimension is 0"),
            (
                |m| m.dims[1] = (1 << 32) + 1,
                "a dimension is 4294967297, expected 1 to 2^32",
            ),
            (|m| m.strides[0] = 250, "a stride is 250"),
            (|m| m.strides[0] = 1 << 40, "a stride is 1099511627776"),
            (|m| m.box_dims[1] = 257, "a box dimension is 257"),
            (|m| m.box_dims[0] = 120, "inner extent is 120 bytes"),
            (
                |m| m.box_dims[0] = 144,
                "inner extent is 144 bytes, expected at most the swizzle's 128",
            ),
        ];
        for (spoil, expected) in cases {
            let mut map = valid();
            spoil(&mut map);
            let error = map.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
