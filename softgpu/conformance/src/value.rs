//! Element types, literals and generated contents.

use half::{bf16, f16};

/// Type of a buffer's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// Unsigned or untyped, of so many bytes.
    Unsigned(u8),
    /// Signed, of so many bytes.
    Signed(u8),
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "u8" | "b8" => Self::Unsigned(1),
            "u16" | "b16" => Self::Unsigned(2),
            "u32" | "b32" => Self::Unsigned(4),
            "u64" | "b64" => Self::Unsigned(8),
            "s8" => Self::Signed(1),
            "s16" => Self::Signed(2),
            "s32" => Self::Signed(4),
            "s64" => Self::Signed(8),
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return Err(format!("no element type `{name}`")),
        })
    }

    /// Bytes of an element.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) => usize::from(bytes),
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    fn is_float(self) -> bool {
        !matches!(self, Self::Unsigned(_) | Self::Signed(_))
    }

    /// The bits of a literal: `0x…` are bits of any type.
    pub(crate) fn literal(self, text: &str) -> Result<u64, String> {
        let wrong = || format!("`{text}` is not a {self:?} literal");
        if let Some(hex) = text.strip_prefix("0x") {
            let bits = u64::from_str_radix(&hex.replace('_', ""), 16).map_err(|_| wrong())?;
            return (bits <= self.mask()).then_some(bits).ok_or_else(wrong);
        }
        if self.is_float() {
            return self.float(text).ok_or_else(wrong);
        }
        let value: i128 = text.parse().map_err(|_| wrong())?;
        let low = -(i128::from(self.mask() / 2) + 1);
        if value < low || value > i128::from(self.mask()) {
            return Err(wrong());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "two's complement, checked above"
        )]
        Ok(value as u64 & self.mask())
    }

    fn float(self, text: &str) -> Option<u64> {
        Some(match self {
            Self::F32 => u64::from(text.parse::<f32>().ok()?.to_bits()),
            Self::F64 => text.parse::<f64>().ok()?.to_bits(),
            Self::F16 => u64::from(f16::from_f64(text.parse().ok()?).to_bits()),
            _ => u64::from(bf16::from_f64(text.parse().ok()?).to_bits()),
        })
    }

    /// The bits of an integer converted to this type.
    fn number(self, value: i64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "generated numbers are small; rounding is the documented meaning"
        )]
        let float = value as f64;
        match self {
            Self::Unsigned(_) | Self::Signed(_) => value.cast_unsigned() & self.mask(),
            Self::F16 => u64::from(f16::from_f64(float).to_bits()),
            Self::Bf16 => u64::from(bf16::from_f64(float).to_bits()),
            #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
            Self::F32 => u64::from((float as f32).to_bits()),
            Self::F64 => float.to_bits(),
        }
    }

    /// The value of float bits.
    fn value(self, bits: u64) -> f64 {
        let half = u16::try_from(bits & 0xFFFF).unwrap_or_default();
        let single = u32::try_from(bits & 0xFFFF_FFFF).unwrap_or_default();
        match self {
            Self::F16 => f16::from_bits(half).to_f64(),
            Self::Bf16 => bf16::from_bits(half).to_f64(),
            Self::F32 => f64::from(f32::from_bits(single)),
            _ => f64::from_bits(bits),
        }
    }

    /// Whether float bits are a NaN.
    pub(crate) fn is_nan(self, bits: u64) -> bool {
        self.is_float() && self.value(bits).is_nan()
    }

    /// Distance in units of the last place; `None` for NaN.
    pub(crate) fn ulps(self, a: u64, b: u64) -> Option<u64> {
        if self.is_nan(a) || self.is_nan(b) {
            return None;
        }
        let half = self.mask() / 2 + 1;
        let ordered = |bits: u64| {
            let magnitude = i128::from(bits & (half - 1));
            if bits & half == 0 {
                magnitude
            } else {
                -magnitude
            }
        };
        u64::try_from(ordered(a).abs_diff(ordered(b))).ok()
    }

    /// The shortest literal that has these bits, as blessed files have it.
    pub(crate) fn show(self, bits: u64) -> String {
        let value = self.value(bits);
        if self.is_float() {
            let text = match self {
                Self::F64 => format!("{value:?}"),
                Self::F32 => {
                    #[expect(clippy::cast_possible_truncation, reason = "it came from an f32")]
                    let single = value as f32;
                    format!("{single:?}")
                }
                _ => format!("{value:?}"),
            };
            let same = self.literal(&text) == Ok(bits);
            return if same && !value.is_nan() {
                text
            } else {
                format!("0x{bits:0width$x}", width = 2 * self.bytes())
            };
        }
        if let Self::Signed(bytes) = self {
            let shift = 64 - 8 * u32::from(bytes);
            return ((bits << shift).cast_signed() >> shift).to_string();
        }
        if bits < 1000 {
            bits.to_string()
        } else {
            format!("0x{bits:x}")
        }
    }

    /// Reads the elements of a byte string.
    pub(crate) fn split(self, bytes: &[u8]) -> Vec<u64> {
        bytes
            .chunks_exact(self.bytes())
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect()
    }

    /// The inverse of [`Type::split`].
    pub(crate) fn join(self, elements: &[u64]) -> Vec<u8> {
        let bytes = self.bytes();
        elements
            .iter()
            .flat_map(|e| e.to_le_bytes().into_iter().take(bytes))
            .collect()
    }
}

/// A rule that makes contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Generator {
    /// `iota(start, step)`.
    Iota(i64, i64),
    /// `random(seed)`: uniform bits.
    Random(u64),
    /// `uniform(seed)`: floats in [-1, 1), multiples of 2^-7 for f16 and bf16, of 2^-23 else.
    Uniform(u64),
    /// `wide(seed, mantissa bits, low, high)`: bits of a float with a random sign and mantissa and a
    /// biased exponent from low to high.
    Wide(u64, u64, u64, u64),
    /// `pick(seed, values…)`: one of the values.
    Pick(u64, Vec<u64>),
}

impl Generator {
    /// Element `index`.
    pub(crate) fn element(&self, ty: Type, index: usize) -> u64 {
        let i = index as u64;
        match *self {
            Self::Iota(start, step) => {
                ty.number(start.wrapping_add(step.wrapping_mul(i.cast_signed())))
            }
            Self::Random(seed) => mixed(seed, i) & ty.mask(),
            Self::Wide(seed, mantissa, low, high) => {
                let bits = mixed(seed, i);
                let exponent = low + (bits >> 32) % (high.saturating_sub(low) + 1);
                let fraction = bits & ((1 << mantissa.min(31)) - 1);
                let sign = (bits >> 63) << (8 * ty.bytes() - 1);
                (sign | exponent << mantissa.min(31) | fraction) & ty.mask()
            }
            Self::Pick(seed, ref values) => {
                let some = mixed(seed, i) % (values.len() as u64).max(1);
                let some = usize::try_from(some).ok().and_then(|some| values.get(some));
                some.copied().unwrap_or_default()
            }
            Self::Uniform(seed) => {
                let bits = if ty.bytes() == 2 { 8 } else { 24 };
                let integer = (mixed(seed, i) >> (64 - bits)).cast_signed() - (1 << (bits - 1));
                let scale = f64::from(1u32 << (bits - 1));
                #[expect(clippy::cast_precision_loss, reason = "24 bits")]
                let value = integer as f64 / scale;
                ty.float(&format!("{value:e}")).unwrap_or(0)
            }
        }
    }
}

/// Value `index` of a splitmix64 stream (Steele, Lea, Flood).
fn mixed(seed: u64, index: u64) -> u64 {
    let value = seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        let types = ["u8", "u32", "s16", "s64", "f16", "bf16", "f32", "f64"];
        for ty in types.map(|name| Type::parse(name).unwrap()) {
            for index in 0..2000 {
                let bits = Generator::Random(5).element(ty, index);
                assert_eq!(ty.literal(&ty.show(bits)), Ok(bits), "{ty:?} {bits:#x}");
            }
            let bytes = ty.join(&[1, ty.mask()]);
            assert_eq!(
                (bytes.len(), ty.split(&bytes)),
                (2 * ty.bytes(), vec![1, ty.mask()])
            );
        }
    }

    #[test]
    fn distances_count_representable_values() {
        let ty = Type::F32;
        let of = |value: f32| u64::from(value.to_bits());
        assert_eq!(ty.ulps(of(1.0), of(1.0 + f32::EPSILON)), Some(1));
        assert_eq!(ty.ulps(of(0.0), of(-0.0)), Some(0));
        assert_eq!(ty.ulps(1, 0x8000_0001), Some(2));
        assert_eq!(ty.ulps(of(f32::NAN), of(1.0)), None);
        assert_eq!(Type::F16.ulps(0x3c00, 0x3bff), Some(1));
    }
}
