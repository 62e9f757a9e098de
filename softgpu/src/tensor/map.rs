//! Tensor maps: what `cuTensorMapEncodeTiled` makes and TMA instructions read.
//!
//! The real layout of a `CUtensorMap` is not public; softgpu has its own. It lives in 128 bytes of
//! plain memory, so maps may be copied, passed as kernel parameters and edited by
//! `tensormap.replace` ([`replace`]). All numbers are little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0–7 | magic |
//! | 8–13 | data type, rank, interleave, swizzle, L2 promotion, out-of-bounds fill (driver enums) |
//! | 16–23 | global address |
//! | 24–63 | five dimensions, innermost first |
//! | 64–95 | four strides in bytes, of dimensions 1 to 4 |
//! | 96–105 | five box dimensions |
//! | 106–110 | five element strides |
//!
//! Rules: CUDA driver API, `cuTensorMapEncodeTiled`. One documented sentence is not enforced, that
//! each stride is a multiple of the one before: transposed views break it and real drivers take them.

use super::swizzle::Swizzle;

/// Bytes of an encoded map.
pub const BYTES: usize = 128;

const MAGIC: [u8; 8] = *b"softgTM1";

/// Dimensions of a tensor at most.
pub const MAX_RANK: usize = 5;

/// Element type (`CUtensorMapDataType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the types")]
pub enum DataType {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    BF16,
    F32Ftz,
    TF32,
    TF32Ftz,
}

impl DataType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::S32,
        Self::U64,
        Self::S64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::BF16,
        Self::F32Ftz,
        Self::TF32,
        Self::TF32Ftz,
    ];

    /// The types in the order in which `tensormap.replace` numbers them.
    const BY_ELEMTYPE: [Self; 13] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::S32,
        Self::U64,
        Self::S64,
        Self::F16,
        Self::F32,
        Self::F32Ftz,
        Self::F64,
        Self::BF16,
        Self::TF32,
        Self::TF32Ftz,
    ];

    /// The driver's number of this type.
    fn raw(self) -> u64 {
        let index = Self::ALL.iter().position(|&ty| ty == self);
        index.unwrap_or(0) as u64
    }

    fn from_raw(raw: u32) -> Result<Self, TensorMapError> {
        let unsupported = |what| Err(TensorMapError::Unsupported { what });
        match raw {
            0..=12 => Ok(Self::ALL[raw as usize]),
            13..=15 => unsupported("packed 4- and 6-bit data types"),
            _ => Err(TensorMapError::Enum {
                name: "data type",
                value: raw,
            }),
        }
    }

    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::S32 | Self::F32 | Self::F32Ftz | Self::TF32 | Self::TF32Ftz => 4,
            Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }

    /// Whether values are floating-point numbers.
    #[must_use]
    pub const fn is_float(self) -> bool {
        !matches!(
            self,
            Self::U8 | Self::U16 | Self::U32 | Self::S32 | Self::U64 | Self::S64
        )
    }

    /// What a load delivers for the bits of one element in memory, or `None` if they stay.
    ///
    /// The `_FTZ` types flush subnormals, keeping the sign. The TF32 types round to a mantissa of
    /// 10 bits, to nearest even; the documentation names the conversion and not its rounding.
    #[must_use]
    pub const fn converts(self) -> Option<fn(u32) -> u32> {
        match self {
            Self::F32Ftz => Some(flush),
            Self::TF32 => Some(round_tf32),
            Self::TF32Ftz => Some(|bits| round_tf32(flush(bits))),
            _ => None,
        }
    }
}

const fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

const fn round_tf32(bits: u32) -> u32 {
    const LOW: u32 = (1 << 13) - 1;
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        // Infinities stay; a NaN stays one although its low bits go.
        let quiet = if bits & 0x007f_ffff == 0 {
            0
        } else {
            0x0040_0000
        };
        return (bits | quiet) & !LOW;
    }
    let half_less_one = LOW / 2 + (bits >> 13 & 1);
    bits.wrapping_add(half_less_one) & !LOW
}

/// What elements outside of the tensor read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zero.
    Zero,
    /// NaN (the driver's `NAN_REQUEST_ZERO_FMA`).
    Nan,
}

/// A broken rule of `cuTensorMapEncodeTiled` or of the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TensorMapError {
    /// The bytes do not hold a tensor map made by softgpu.
    #[error("not a tensor map: it was not made by cuTensorMapEncodeTiled of this library")]
    NotATensorMap,
    /// softgpu lacks this.
    #[error("unsupported: tensor map with {what}")]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// An enumeration has no such value.
    #[error("tensor map: no {name} has the value {value}")]
    Enum {
        /// The enumeration.
        name: &'static str,
        /// The value given.
        value: u32,
    },
    /// The rank is not 1 to 5, or an array is shorter than the rank asks for.
    #[error("tensor map: rank {rank} is not between 1 and 5, or an array is too short for it")]
    Rank {
        /// The rank given.
        rank: u32,
    },
    /// The global address is not a multiple of 16, or of 32 where the interleave is of 32 bytes.
    #[error("tensor map: global address {address:#x} is not a multiple of {align}")]
    Address {
        /// The address given.
        address: u64,
        /// The alignment wanted.
        align: u64,
    },
    /// An interleaved tensor of fewer than three dimensions, or the interleave of 32 bytes without
    /// the swizzle of 32 bytes.
    #[error("tensor map: no interleave of {bytes} bytes with rank {rank} and swizzle {swizzle}")]
    Interleave {
        /// Bytes of a slice.
        bytes: u64,
        /// The rank given.
        rank: u32,
        /// The swizzle given, as the driver numbers it.
        swizzle: u32,
    },
    /// A dimension is not 1 to 2^32.
    #[error("tensor map: dimension {index} is {value}, not between 1 and 2^32")]
    Dimension {
        /// Which dimension, 0 innermost.
        index: usize,
        /// The value given.
        value: u64,
    },
    /// A stride is not a multiple of 16 below 2^40, or of 32 where the interleave is of 32 bytes.
    #[error(
        "tensor map: stride {index} is {value} bytes, not a multiple of 16 (of 32 with an interleave of 32 bytes) below 2^40"
    )]
    Stride {
        /// Which stride; 0 is that of dimension 1.
        index: usize,
        /// The value given.
        value: u64,
    },
    /// A box dimension is not 1 to 256.
    #[error("tensor map: box dimension {index} is {value}, not between 1 and 256")]
    BoxDimension {
        /// Which dimension, 0 innermost.
        index: usize,
        /// The value given.
        value: u32,
    },
    /// The inner extent of the box is not a multiple of 16 bytes.
    #[error("tensor map: inner box extent of {bytes} bytes is not a multiple of 16")]
    InnerExtent {
        /// Box dimension 0 times the element size.
        bytes: usize,
    },
    /// The inner extent of the box exceeds the swizzle.
    #[error("tensor map: inner box extent of {bytes} bytes exceeds the {width}-byte swizzle")]
    SwizzleExtent {
        /// Box dimension 0 times the element size.
        bytes: usize,
        /// Swizzle width.
        width: u32,
    },
    /// An element stride is not 1 to 8.
    #[error("tensor map: element stride {index} is {value}, not between 1 and 8")]
    ElementStride {
        /// Which dimension, 0 innermost.
        index: usize,
        /// The value given.
        value: u32,
    },
    /// `tensormap.replace` with a value that the field cannot have, or of a field that is none.
    #[error("tensor map: the field cannot be {value:#x}")]
    Value {
        /// The value given.
        value: u64,
    },
    /// NaN fill of an integer tensor.
    #[error("tensor map: NaN fill needs a floating-point data type")]
    NanFill,
}

/// The arguments of `cuTensorMapEncodeTiled`, enumerations as the driver numbers them.
#[derive(Debug, Clone, Copy)]
pub struct TiledArguments<'a> {
    /// `CUtensorMapDataType`.
    pub data_type: u32,
    /// Number of dimensions.
    pub rank: u32,
    /// Global address of element 0.
    pub address: u64,
    /// Dimensions in elements, innermost first; at least `rank`.
    pub dims: &'a [u64],
    /// Strides in bytes of dimensions 1 and up; at least `rank - 1`.
    pub strides: &'a [u64],
    /// Box in elements; at least `rank`.
    pub box_dims: &'a [u32],
    /// Traversal strides; at least `rank`.
    pub element_strides: &'a [u32],
    /// `CUtensorMapInterleave`.
    pub interleave: u32,
    /// `CUtensorMapSwizzle`.
    pub swizzle: u32,
    /// `CUtensorMapL2promotion`.
    pub l2_promotion: u32,
    /// `CUtensorMapFloatOOBfill`.
    pub fill: u32,
}

/// A valid tensor map in tiled mode. Unused dimensions are 1, unused strides 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    data_type: DataType,
    rank: usize,
    address: u64,
    dims: [u64; MAX_RANK],
    strides: [u64; MAX_RANK - 1],
    box_dims: [u32; MAX_RANK],
    element_strides: [u32; MAX_RANK],
    swizzle: Swizzle,
    l2_promotion: u8,
    fill: Fill,
}

impl TensorMap {
    /// Checks the arguments of `cuTensorMapEncodeTiled`.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn tiled(args: &TiledArguments<'_>) -> Result<Self, TensorMapError> {
        let rank = args.rank as usize;
        let lengths = [
            args.dims.len(),
            args.box_dims.len(),
            args.element_strides.len(),
        ];
        if !(1..=MAX_RANK).contains(&rank)
            || lengths.iter().any(|&length| length < rank)
            || args.strides.len() < rank - 1
        {
            return Err(TensorMapError::Rank { rank: args.rank });
        }
        let slice = check_interleave(args)?;
        if !args.address.is_multiple_of(slice) {
            return Err(TensorMapError::Address {
                address: args.address,
                align: slice,
            });
        }
        let mut map = Self {
            data_type: DataType::from_raw(args.data_type)?,
            rank,
            address: args.address,
            dims: [1; MAX_RANK],
            strides: [0; MAX_RANK - 1],
            box_dims: [1; MAX_RANK],
            element_strides: [1; MAX_RANK],
            swizzle: swizzle(args.swizzle)?,
            l2_promotion: enumeration("L2 promotion", args.l2_promotion, 3)?,
            fill: match enumeration("out-of-bounds fill", args.fill, 1)? {
                0 => Fill::Zero,
                _ => Fill::Nan,
            },
        };
        map.dims[..rank].copy_from_slice(&args.dims[..rank]);
        map.strides[..rank - 1].copy_from_slice(&args.strides[..rank - 1]);
        map.box_dims[..rank].copy_from_slice(&args.box_dims[..rank]);
        map.element_strides[..rank].copy_from_slice(&args.element_strides[..rank]);
        // Without interleave the element stride of dimension 0 is documented to be ignored.
        map.element_strides[0] = 1;
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), TensorMapError> {
        for (index, &value) in self.dims.iter().enumerate() {
            if !(1..=1 << 32).contains(&value) {
                return Err(TensorMapError::Dimension { index, value });
            }
        }
        for (index, &value) in self.strides.iter().enumerate() {
            if !value.is_multiple_of(16) || value >= 1 << 40 {
                return Err(TensorMapError::Stride { index, value });
            }
        }
        for (index, &value) in self.box_dims.iter().enumerate() {
            if !(1..=256).contains(&value) {
                return Err(TensorMapError::BoxDimension { index, value });
            }
        }
        for (index, &value) in self.element_strides.iter().enumerate() {
            if !(1..=8).contains(&value) {
                return Err(TensorMapError::ElementStride { index, value });
            }
        }
        let bytes = self.inner_bytes();
        if !bytes.is_multiple_of(16) {
            return Err(TensorMapError::InnerExtent { bytes });
        }
        let width = self.swizzle.width();
        if self.swizzle != Swizzle::None && bytes > width as usize {
            return Err(TensorMapError::SwizzleExtent { bytes, width });
        }
        if self.fill == Fill::Nan && !self.data_type.is_float() {
            return Err(TensorMapError::NanFill);
        }
        Ok(())
    }

    /// The map as 128 bytes of guest memory.
    #[must_use]
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = low_byte(self.data_type.raw());
        bytes[9] = low_byte(self.rank as u64);
        bytes[11] = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        bytes[12] = self.l2_promotion;
        bytes[13] = u8::from(self.fill == Fill::Nan);
        let mut set = |field, value| write_field(&mut bytes, field, value);
        set(Field::Address, self.address);
        for i in 0..MAX_RANK {
            set(Field::Dimension(i), self.dims[i]);
            set(Field::BoxDimension(i), self.box_dims[i].into());
            set(Field::ElementStride(i), self.element_strides[i].into());
        }
        for i in 0..MAX_RANK - 1 {
            set(Field::Stride(i), self.strides[i]);
        }
        bytes
    }

    /// The map that `bytes` hold. All rules are checked again, as guest code may have edited them.
    ///
    /// # Errors
    /// `NotATensorMap`, or the first broken rule.
    pub fn decode(bytes: &[u8; BYTES]) -> Result<Self, TensorMapError> {
        if bytes[..8] != MAGIC {
            return Err(TensorMapError::NotATensorMap);
        }
        let get = |field| read_field(bytes, field);
        let word = |field| u32::try_from(get(field)).unwrap_or(u32::MAX);
        Self::tiled(&TiledArguments {
            data_type: bytes[8].into(),
            rank: bytes[9].into(),
            address: get(Field::Address),
            dims: &std::array::from_fn::<u64, MAX_RANK, _>(|i| get(Field::Dimension(i))),
            strides: &std::array::from_fn::<u64, 4, _>(|i| get(Field::Stride(i))),
            box_dims: &std::array::from_fn::<u32, MAX_RANK, _>(|i| word(Field::BoxDimension(i))),
            element_strides: &std::array::from_fn::<u32, MAX_RANK, _>(|i| {
                word(Field::ElementStride(i))
            }),
            interleave: bytes[10].into(),
            swizzle: bytes[11].into(),
            l2_promotion: bytes[12].into(),
            fill: bytes[13].into(),
        })
    }

    /// The same map at another address (`cuTensorMapReplaceAddress`).
    ///
    /// # Errors
    /// `Address` when it is not a multiple of 16.
    pub fn with_address(self, address: u64) -> Result<Self, TensorMapError> {
        if !address.is_multiple_of(16) {
            return Err(TensorMapError::Address { address, align: 16 });
        }
        Ok(Self { address, ..self })
    }

    /// Element type.
    #[must_use]
    pub const fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Number of dimensions.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// Global address of element 0.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Dimensions in elements, innermost first.
    #[must_use]
    pub const fn dims(&self) -> &[u64; MAX_RANK] {
        &self.dims
    }

    /// Bytes between neighbours of dimensions 1 to 4.
    #[must_use]
    pub const fn strides(&self) -> &[u64; MAX_RANK - 1] {
        &self.strides
    }

    /// Traversal stride of each dimension.
    #[must_use]
    pub const fn element_strides(&self) -> &[u32; MAX_RANK] {
        &self.element_strides
    }

    /// Swizzle of the box in shared memory.
    #[must_use]
    pub const fn swizzle(&self) -> Swizzle {
        self.swizzle
    }

    /// What elements outside of the tensor read as.
    #[must_use]
    pub const fn fill(&self) -> Fill {
        self.fill
    }

    /// Elements copied along each dimension: box over traversal stride, rounded up.
    #[must_use]
    pub fn counts(&self) -> [usize; MAX_RANK] {
        std::array::from_fn(|i| self.box_dims[i].div_ceil(self.element_strides[i]) as usize)
    }

    /// Bytes of one row of the box along dimension 0.
    #[must_use]
    pub fn inner_bytes(&self) -> usize {
        self.box_dims[0] as usize * self.data_type.bytes()
    }

    /// Bytes of the full box: its space in shared memory and its `complete_tx` count.
    #[must_use]
    pub fn box_bytes(&self) -> usize {
        self.counts().iter().product::<usize>() * self.data_type.bytes()
    }
}

fn enumeration(name: &'static str, value: u32, last: u32) -> Result<u8, TensorMapError> {
    if value > last {
        return Err(TensorMapError::Enum { name, value });
    }
    Ok(low_byte(value.into()))
}

/// Checks the rules of the interleave; the alignment of the address, a slice of channels.
///
/// A map that keeps them is refused all the same: no public text says where the elements of a box
/// go that reaches over several slices.
fn check_interleave(args: &TiledArguments<'_>) -> Result<u64, TensorMapError> {
    const SWIZZLE_32B: u32 = 1;
    let bytes = match args.interleave {
        0 => return Ok(16),
        1 => 16,
        2 => 32,
        value => {
            let name = "interleave";
            return Err(TensorMapError::Enum { name, value });
        }
    };
    let (rank, swizzle) = (args.rank, args.swizzle);
    if rank < 3 || bytes == 32 && swizzle != SWIZZLE_32B {
        return Err(TensorMapError::Interleave {
            bytes,
            rank,
            swizzle,
        });
    }
    if !args.address.is_multiple_of(bytes) {
        return Err(TensorMapError::Address {
            address: args.address,
            align: bytes,
        });
    }
    let strides = args.strides.iter().take(rank as usize - 1).enumerate();
    for (index, &value) in strides {
        if !value.is_multiple_of(bytes) {
            return Err(TensorMapError::Stride { index, value });
        }
    }
    Err(TensorMapError::Unsupported { what: "interleave" })
}

fn swizzle(swizzle: u32) -> Result<Swizzle, TensorMapError> {
    match swizzle {
        0 => Ok(Swizzle::None),
        1 => Ok(Swizzle::B32),
        2 => Ok(Swizzle::B64),
        3 => Ok(Swizzle::B128),
        // The atom variants came with later architectures.
        4..=6 => Err(TensorMapError::Unsupported {
            what: "a 128-byte swizzle of wider atoms",
        }),
        value => Err(TensorMapError::Enum {
            name: "swizzle",
            value,
        }),
    }
}

const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// A field that `tensormap.replace` can set; indices count dimensions from the innermost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// `.global_address`.
    Address,
    /// `.global_dim`, index 0 to 4.
    Dimension(usize),
    /// `.global_stride`, index 0 to 3 (that of dimension 1 to 4), in bytes.
    Stride(usize),
    /// `.box_dim`, index 0 to 4.
    BoxDimension(usize),
    /// `.element_stride`, index 0 to 4.
    ElementStride(usize),
    /// `.rank`; the value is the rank less one.
    Rank,
    /// `.elemtype`, numbered as in PTX.
    DataType,
    /// `.interleave_layout`.
    Interleave,
    /// `.swizzle_mode`.
    Swizzle,
    /// `.fill_mode`.
    Fill,
}

impl Field {
    /// First byte and size; `None` for an index outside of the map.
    const fn place(self) -> Option<(usize, usize)> {
        match self {
            Self::Address => Some((16, 8)),
            Self::Dimension(i) if i < 5 => Some((24 + 8 * i, 8)),
            Self::Stride(i) if i < 4 => Some((64 + 8 * i, 8)),
            Self::BoxDimension(i) if i < 5 => Some((96 + 2 * i, 2)),
            Self::ElementStride(i) if i < 5 => Some((106 + i, 1)),
            Self::DataType => Some((8, 1)),
            Self::Rank => Some((9, 1)),
            Self::Interleave => Some((10, 1)),
            Self::Swizzle => Some((11, 1)),
            Self::Fill => Some((13, 1)),
            _ => None,
        }
    }

    /// What the encoding stores for a value of `tensormap.replace`.
    fn stored(self, value: u64) -> Option<u64> {
        match self {
            Self::Rank => value.checked_add(1).filter(|&rank| rank <= MAX_RANK as u64),
            Self::DataType => {
                let index = usize::try_from(value).ok()?;
                // The packed types keep their number, and are refused where the map is used.
                let known = DataType::BY_ELEMTYPE.get(index);
                known.map(|ty| ty.raw()).or((index < 16).then_some(value))
            }
            Self::Interleave => Some(value).filter(|&v| v <= 2),
            Self::Swizzle => Some(value).filter(|&v| v <= 3),
            Self::Fill => Some(value).filter(|&v| v <= 1),
            _ => Some(value),
        }
    }
}

/// `tensormap.replace`: sets one field of an encoded map. Values are checked when the map is used,
/// since a sequence of replacements may pass through an invalid one.
///
/// Zeros are a map of rank 1 whose fields have their lowest values, from which programs build
/// others.
///
/// # Errors
/// `NotATensorMap` when `bytes` hold no map, `Value` when there is no such field or the value does
/// not fit it.
pub fn replace(bytes: &mut [u8; BYTES], field: Field, value: u64) -> Result<(), TensorMapError> {
    let is_zero = *bytes == [0; BYTES];
    if bytes[..8] != MAGIC && !is_zero {
        return Err(TensorMapError::NotATensorMap);
    }
    let stored = field.stored(value);
    let fits = |value: &u64| match field.place() {
        Some((_, size)) => size == 8 || value >> (8 * size) == 0,
        None => false,
    };
    let stored = stored.filter(fits).ok_or(TensorMapError::Value { value })?;
    if is_zero {
        bytes[..8].copy_from_slice(&MAGIC);
        write_field(bytes, Field::Rank, 1);
    }
    write_field(bytes, field, stored);
    Ok(())
}

fn write_field(bytes: &mut [u8; BYTES], field: Field, value: u64) {
    if let Some((at, size)) = field.place() {
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

fn read_field(bytes: &[u8; BYTES], field: Field) -> u64 {
    let mut value = [0; 8];
    if let Some((at, size)) = field.place() {
        value[..size].copy_from_slice(&bytes[at..at + size]);
    }
    u64::from_le_bytes(value)
}
