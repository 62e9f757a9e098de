//! The floating-point formats of the tensor cores, taken apart into sign, significand, exponent.
//!
//! Sources: OCP 8-bit floating point specification (E4M3, E5M2), IEEE 754 (binary16, binary32),
//! PTX ISA "alternate floating-point data formats" (bf16, tf32).

/// Element format of a tensor-core operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 exponent bits, 3 mantissa bits, no infinity, NaN is `S.1111.111`.
    E4M3,
    /// 5 exponent bits, 2 mantissa bits, IEEE-like.
    E5M2,
    /// IEEE binary16.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// An `f32` word of which only the upper 19 bits are read.
    Tf32,
    /// IEEE binary32 (addends and results; not an operand format).
    F32,
}

/// A non-zero finite value: `(-1)^negative * significand * 2^(exponent - fraction_bits)`.
///
/// `exponent` is `floor(log2|x|)`, but at least the smallest normal exponent of the format, so a
/// subnormal has a significand below `2^fraction_bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finite {
    /// Sign.
    pub negative: bool,
    /// Integer significand, `1 .. 2^(fraction_bits + 1)`.
    pub significand: u32,
    /// Exponent of the leading bit of a normal value.
    pub exponent: i32,
    /// Binary digits of `significand` after the point.
    pub fraction_bits: u32,
}

/// What a bit pattern means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Zero of either sign.
    Zero,
    /// A non-zero finite number.
    Finite(Finite),
    /// An infinity.
    Infinite {
        /// Sign.
        negative: bool,
    },
    /// Not a number.
    Nan,
}

impl Format {
    /// Bytes that one element takes in memory.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::E4M3 | Self::E5M2 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::Tf32 | Self::F32 => 4,
        }
    }

    /// Bits of the mantissa field that carry meaning.
    #[must_use]
    pub const fn fraction_bits(self) -> u32 {
        match self {
            Self::E4M3 => 3,
            Self::E5M2 => 2,
            Self::F16 | Self::Tf32 => 10,
            Self::BF16 => 7,
            Self::F32 => 23,
        }
    }

    /// Bits of the exponent field.
    #[must_use]
    pub const fn exponent_bits(self) -> u32 {
        match self {
            Self::E4M3 => 4,
            Self::E5M2 | Self::F16 => 5,
            Self::BF16 | Self::Tf32 | Self::F32 => 8,
        }
    }

    /// Smallest exponent of a normal value.
    #[must_use]
    pub const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits() - 1))
    }

    /// Takes the low bits of `bits` apart. Tf32 reads a 32-bit word and drops its low 13 bits.
    #[must_use]
    pub const fn value(self, bits: u32) -> Value {
        let bits = match self {
            Self::Tf32 => bits >> 13,
            _ => bits,
        };
        let fraction_bits = self.fraction_bits();
        let fraction = bits & ((1 << fraction_bits) - 1);
        let top = (1 << self.exponent_bits()) - 1;
        let field = (bits >> fraction_bits) & top;
        let negative = (bits >> (fraction_bits + self.exponent_bits())) & 1 != 0;
        let special = match self {
            Self::E4M3 => field == top && fraction == 7,
            _ => field == top,
        };
        if special {
            return if fraction == 0 {
                Value::Infinite { negative }
            } else {
                Value::Nan
            };
        }
        let (significand, biased) = if field == 0 {
            (fraction, 1)
        } else {
            (fraction | 1 << fraction_bits, field)
        };
        if significand == 0 {
            return Value::Zero;
        }
        Value::Finite(Finite {
            negative,
            significand,
            exponent: biased.cast_signed() - 1 + self.min_exponent(),
            fraction_bits,
        })
    }
}
