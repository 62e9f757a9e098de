//! Conversions between element formats, as `cvt` makes them: scalar, branch-light functions that the
//! compiler can turn into vector code.
//!
//! Rounding is to nearest even unless the name says otherwise. `satfinite` conversions turn
//! infinities and anything too large into the largest finite value. Every NaN becomes the canonical
//! NaN of the result format: 0x7F (E4M3 and E5M2), 0x7FFF (f16, bf16), 0x7FFFFFFF (f32, tf32).
//! Source: PTX ISA, `cvt`; NaN rules as in the host code of CUDA's `cuda_fp8.hpp`.
#![expect(
    clippy::cast_possible_truncation,
    reason = "every cast takes the low bits of a value that was shifted or masked to fit"
)]

use half::f16;

const ABS: u32 = 0x7FFF_FFFF;
const INF: u32 = 0x7F80_0000;
const NAN: u32 = 0x7FFF_FFFF;

/// Rounds `x` to a format of 8 bits whose largest finite value is `largest`.
#[inline(always)]
fn to_fp8<const FRACTION: u32, const BIAS: u32>(x: f32, largest: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & ABS;
    let clamped = abs.min(largest.to_bits());
    let shift = 23 - FRACTION;
    let odd = (clamped >> shift) & 1;
    let rounded = (clamped + (1 << (shift - 1)) - 1 + odd) >> shift;
    let normal = rounded.wrapping_sub((127 - BIAS) << FRACTION);
    // Adding 2^23 units of the last subnormal digit lets the host's addition do the rounding.
    let magic = f32::from_bits((127 + 23 + 1 - BIAS - FRACTION) << 23);
    let subnormal = (f32::from_bits(clamped) + magic).to_bits() - magic.to_bits();
    let smallest_normal = (128 - BIAS) << 23;
    let code = if clamped < smallest_normal {
        subnormal
    } else {
        normal
    };
    let signed = code | ((bits >> 24) & 0x80);
    (if abs > INF { 0x7F } else { signed }) as u8
}

/// `cvt.rn.satfinite.e4m3.f32`.
#[inline(always)]
#[must_use]
pub fn e4m3_from_f32(x: f32) -> u8 {
    to_fp8::<3, 7>(x, 448.0)
}

/// `cvt.rn.satfinite.e5m2.f32`.
#[inline(always)]
#[must_use]
pub fn e5m2_from_f32(x: f32) -> u8 {
    to_fp8::<2, 15>(x, 57344.0)
}

/// `cvt.rn.satfinite.e4m3.f16` (bits of an f16).
#[inline(always)]
#[must_use]
pub fn e4m3_from_f16(x: u16) -> u8 {
    e4m3_from_f32(f32_from_f16(x))
}

/// `cvt.rn.satfinite.e5m2.f16` (bits of an f16).
#[inline(always)]
#[must_use]
pub fn e5m2_from_f16(x: u16) -> u8 {
    e5m2_from_f32(f32_from_f16(x))
}

/// The value of an E4M3 code.
#[inline(always)]
#[must_use]
pub fn f32_from_e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7F);
    // The fields are in place; scaling by 2^(127-7) corrects the bias, exactly for subnormals too.
    let value = f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23);
    let signed = value.to_bits() | u32::from(code & 0x80) << 24;
    f32::from_bits(if magnitude == 0x7F { NAN } else { signed })
}

/// The value of an E5M2 code.
#[inline(always)]
#[must_use]
pub fn f32_from_e5m2(code: u8) -> f32 {
    f32_from_f16(u16::from(code) << 8)
}

/// `cvt.rn.f16.e4m3` (exact; bits of an f16).
#[inline(always)]
#[must_use]
pub fn f16_from_e4m3(code: u8) -> u16 {
    f16_from_f32(f32_from_e4m3(code))
}

/// `cvt.rn.f16.e5m2` (exact; bits of an f16).
#[inline(always)]
#[must_use]
pub fn f16_from_e5m2(code: u8) -> u16 {
    let bits = u16::from(code) << 8;
    if bits & 0x7FFF > 0x7C00 { 0x7FFF } else { bits }
}

/// `cvt.rn.f16.f32` (bits of an f16).
#[inline(always)]
#[must_use]
pub fn f16_from_f32(x: f32) -> u16 {
    if x.is_nan() {
        0x7FFF
    } else {
        f16::from_f32(x).to_bits()
    }
}

/// `cvt.f32.f16` (bits of an f16).
#[inline(always)]
#[must_use]
pub fn f32_from_f16(x: u16) -> f32 {
    let magnitude = u32::from(x & 0x7FFF);
    let value = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    // Exponent field 31: an infinity or a NaN.
    let special = if magnitude == 0x7C00 { INF } else { NAN };
    let bits = if magnitude >= 0x7C00 {
        special
    } else {
        value.to_bits()
    };
    let sign = if magnitude > 0x7C00 {
        0
    } else {
        u32::from(x & 0x8000) << 16
    };
    f32::from_bits(bits | sign)
}

/// `cvt.rn.bf16.f32` (bits of a bf16).
#[inline(always)]
#[must_use]
pub fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if bits & ABS > INF {
        0x7FFF
    } else {
        rounded as u16
    }
}

/// `cvt.rz.bf16.f32` (bits of a bf16).
#[inline(always)]
#[must_use]
pub fn bf16_from_f32_rz(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & ABS > INF {
        0x7FFF
    } else {
        (bits >> 16) as u16
    }
}

/// `cvt.f32.bf16` (bits of a bf16).
#[inline(always)]
#[must_use]
pub fn f32_from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Rounds to 10 mantissa bits; `half` is added to the 13 bits that go away.
#[inline(always)]
fn to_tf32(bits: u32, half: u32) -> u32 {
    let rounded = bits.wrapping_add(half) & !0x1FFF;
    if bits & ABS > INF { NAN } else { rounded }
}

/// `cvt.rna.tf32.f32`: to nearest, ties away from zero; an `f32` word whose low 13 bits are zero.
#[inline(always)]
#[must_use]
pub fn tf32_from_f32_rna(x: f32) -> u32 {
    to_tf32(x.to_bits(), 0x1000)
}

/// `cvt.rn.tf32.f32`: an `f32` word whose low 13 bits are zero.
#[inline(always)]
#[must_use]
pub fn tf32_from_f32(x: f32) -> u32 {
    let bits = x.to_bits();
    to_tf32(bits, 0xFFF + ((bits >> 13) & 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use float8::{F8E4M3, F8E5M2};
    use half::bf16;

    /// f32 words in which every rounding decision of an 8- or 16-bit result occurs: all upper
    /// halves, and in the lower half nothing, the least, and either side of half and of one.
    fn words() -> impl Iterator<Item = u32> {
        const LOW: [u32; 8] = [0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0xFFFF];
        (0..=0xFFFFu32).flat_map(|high| LOW.map(|low| high << 16 | low))
    }

    fn expect(word: u32, oracle: u32, ours: u32) {
        assert_eq!(oracle, ours, "input {word:#010x}: {oracle:#x} != {ours:#x}");
    }

    #[test]
    fn f32_to_fp8_agrees_with_float8() {
        for word in words() {
            let x = f32::from_bits(word);
            let oracle = if x.is_nan() { f32::NAN.abs() } else { x };
            expect(
                word,
                F8E4M3::from_f32(oracle).to_bits().into(),
                e4m3_from_f32(x).into(),
            );
            let e5m2 = if x.is_nan() {
                0x7F
            } else {
                F8E5M2::from_f32(oracle).to_bits()
            };
            expect(word, e5m2.into(), e5m2_from_f32(x).into());
        }
    }

    #[test]
    fn every_rounding_boundary_of_fp8() {
        for code in 0..0x7Eu8 {
            let (low, high) = (f32_from_e4m3(code), f32_from_e4m3(code + 1));
            let middle = f32::midpoint(low, high);
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!(e4m3_from_f32(middle), even, "tie above {code:#x}");
            assert_eq!(e4m3_from_f32(middle.next_down()), code);
            assert_eq!(e4m3_from_f32(-middle.next_up()), (code + 1) | 0x80);
        }
        for code in 0..0x7Bu8 {
            let (low, high) = (f32_from_e5m2(code), f32_from_e5m2(code + 1));
            let middle = f32::midpoint(low, high);
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!(e5m2_from_f32(middle), even, "tie above {code:#x}");
            assert_eq!(e5m2_from_f32(middle.next_down()), code);
            assert_eq!(e5m2_from_f32(-middle.next_up()), (code + 1) | 0x80);
        }
        assert_eq!(e4m3_from_f32(f32::INFINITY), 0x7E);
        assert_eq!(e5m2_from_f32(f32::NEG_INFINITY), 0xFB);
    }

    #[test]
    fn fp8_to_wider_agrees_with_float8() {
        for code in 0..=0xFFu8 {
            let (e4m3, e5m2) = (F8E4M3::from_bits(code), F8E5M2::from_bits(code));
            let canonical = |x: f32| if x.is_nan() { NAN } else { x.to_bits() };
            expect(
                code.into(),
                canonical(e4m3.to_f32()),
                f32_from_e4m3(code).to_bits(),
            );
            expect(
                code.into(),
                canonical(e5m2.to_f32()),
                f32_from_e5m2(code).to_bits(),
            );
            expect(
                code.into(),
                e4m3.to_f16().to_bits().into(),
                f16_from_e4m3(code).into(),
            );
            expect(
                code.into(),
                e5m2.to_f16().to_bits().into(),
                f16_from_e5m2(code).into(),
            );
        }
    }

    #[test]
    fn f16_agrees_with_half() {
        for bits in 0..=0xFFFFu16 {
            let value = f16::from_bits(bits).to_f32();
            let oracle = if value.is_nan() { NAN } else { value.to_bits() };
            expect(bits.into(), oracle, f32_from_f16(bits).to_bits());
            let fp8 = if value.is_nan() {
                0x7F
            } else {
                F8E4M3::from_f32(value).to_bits()
            };
            expect(bits.into(), fp8.into(), e4m3_from_f16(bits).into());
            let fp8 = if value.is_nan() {
                0x7F
            } else {
                F8E5M2::from_f32(value).to_bits()
            };
            expect(bits.into(), fp8.into(), e5m2_from_f16(bits).into());
        }
    }

    #[test]
    fn sixteen_bit_results_agree_with_half() {
        for word in words() {
            let x = f32::from_bits(word);
            let nan = |bits: u16| if x.is_nan() { 0x7FFF } else { bits };
            expect(
                word,
                nan(f16::from_f32(x).to_bits()).into(),
                f16_from_f32(x).into(),
            );
            expect(
                word,
                nan(bf16::from_f32(x).to_bits()).into(),
                bf16_from_f32(x).into(),
            );
            expect(
                word,
                nan((word >> 16) as u16).into(),
                bf16_from_f32_rz(x).into(),
            );
            if !x.is_nan() {
                assert_eq!(
                    f32_from_bf16((word >> 16) as u16).to_bits(),
                    word & 0xFFFF_0000
                );
            }
        }
    }

    #[test]
    fn tf32_rounds_to_ten_bits() {
        for word in words() {
            let x = f32::from_bits(word);
            let (rna, rn) = (tf32_from_f32_rna(x), tf32_from_f32(x));
            if x.is_nan() {
                assert_eq!((rna, rn), (NAN, NAN));
                continue;
            }
            if x.is_infinite() {
                assert_eq!((rna, rn), (word, word));
                continue;
            }
            // Distances in f64 are exact here; units of the last kept digit.
            let (below, rest) = (word & !0x1FFF, word & 0x1FFF);
            let above = below + 0x2000;
            let away = if rest >= 0x1000 { above } else { below };
            let even = if below & 0x2000 == 0 { below } else { above };
            let nearest = match rest.cmp(&0x1000) {
                std::cmp::Ordering::Less => below,
                std::cmp::Ordering::Greater => above,
                std::cmp::Ordering::Equal => even,
            };
            expect(word, away, rna);
            expect(word, nearest, rn);
        }
    }
}
