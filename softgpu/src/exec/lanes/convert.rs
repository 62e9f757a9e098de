//! `cvt`.
//!
//! Floats convert through f64 with one rounding. Integers are taken from their container
//! (a 32- or 64-bit lane) by shifts that the immediate describes, so a source register may be
//! wider than the source type, and a destination register wider than the destination type: it then
//! gets the extension.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "conversions"
)]

use std::marker::PhantomData;

use super::half::{Float, canonical64};
use super::map::{Map, maps};
use super::round::{FTZ, Format, Mode, RELU, SAT, SATFINITE, Tf32};
use super::round::{finish, input, round_to, saturate};
use super::value::{Bf16, F16, Value};
use crate::ir::Ty;
use crate::tensor::convert::{e4m3_from_f32, e5m2_from_f32, f32_from_e4m3, f32_from_e5m2};

/// Immediate bits of an integer source: bits of the type, minus one, and signedness.
const SOURCE_SHIFT: u32 = 16;
/// Immediate bits of an integer destination.
const TARGET_SHIFT: u32 = 24;
/// Bit of the above fields: signed.
const SIGNED: u64 = 1 << 7;
/// Immediate bit: NaN becomes the integer with only the top bit set, rather than 0.
const NAN_TOP: u64 = 1 << 32;

/// Immediate bit: round to an integral value.
pub(crate) const INTEGRAL: u64 = 1 << 33;

/// The immediate bits that describe integer types on either side.
pub(crate) fn integer_fields(to: Ty, from: Ty) -> u64 {
    let field = |ty: Ty| {
        let bits = u64::from(ty.bytes()) * 8 - 1;
        bits | if ty.is_signed() { SIGNED } else { 0 }
    };
    let wide = |ty| matches!(ty, Ty::U64 | Ty::S64);
    let nan_top = if from == Ty::F64 || wide(to) {
        NAN_TOP
    } else {
        0
    };
    field(from) << SOURCE_SHIFT | field(to) << TARGET_SHIFT | nan_top
}

/// An integer's container.
pub(crate) trait Container: Value {
    /// Zero-extends.
    fn wide(self) -> u64;
    /// Truncates.
    fn narrow(wide: u64) -> Self;
}
impl Container for u32 {
    #[inline(always)]
    fn wide(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn narrow(wide: u64) -> Self {
        wide as Self
    }
}
impl Container for u64 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self
    }
    #[inline(always)]
    fn narrow(wide: u64) -> Self {
        wide
    }
}

/// The low bits that a field names, extended to 64 bits as it says.
#[inline(always)]
fn extend(value: u64, field: u64) -> u64 {
    let shift = 63 - (field & 63);
    let up = value << shift;
    if field & SIGNED != 0 {
        (up as i64 >> shift) as u64
    } else {
        up >> shift
    }
}

/// The least and greatest value of the destination type, as far as i128 arithmetic is avoided:
/// of an unsigned 64-bit type the greatest is given as u64.
#[inline(always)]
fn limits(field: u64) -> (i64, u64) {
    let bits = field & 63;
    if field & SIGNED != 0 {
        let max = (1u64 << bits).wrapping_sub(1);
        (!(max as i64), max)
    } else {
        (0, u64::MAX >> (63 - bits))
    }
}

/// Integer to integer.
pub(crate) struct IntToInt<A, D>(PhantomData<(A, D)>);

impl<A: Container, D: Container> Map for IntToInt<A, D> {
    type A = A;
    type B = ();
    type C = ();
    type D = D;
    const PLAIN: bool = false;
    #[inline(always)]
    fn eval(a: A, _: (), _: (), imm: u64) -> D {
        let (from, to) = (imm >> SOURCE_SHIFT & 0xff, imm >> TARGET_SHIFT & 0xff);
        let value = extend(a.wide(), from);
        let (min, max) = limits(to);
        let negative = from & SIGNED != 0 && (value as i64) < 0;
        let above = if value > max { max } else { value };
        let below = if (value as i64) < min {
            min as u64
        } else {
            value
        };
        let clamped = if negative { below } else { above };
        let value = if imm & SAT != 0 { clamped } else { value };
        D::narrow(extend(value, to))
    }
}

/// Integer to float.
pub(crate) struct IntToFloat<A, D>(PhantomData<(A, D)>);

/// An integer as f64, rounded to odd; the field tells the sign.
#[inline(always)]
fn integer_to_f64(value: u64, field: u64) -> f64 {
    let negative = (field & SIGNED != 0) & ((value as i64) < 0);
    let magnitude = if negative {
        value.wrapping_neg()
    } else {
        value
    };
    let large = magnitude >> 53 != 0;
    let sticky = (magnitude >> 11 | u64::from(magnitude & 0x7ff != 0)) << 11;
    let kept = (if large { sticky } else { magnitude }) as f64;
    if negative { -kept } else { kept }
}

impl<A: Container, D: Target> Map for IntToFloat<A, D> {
    type A = A;
    type B = ();
    type C = ();
    type D = D;
    const PLAIN: bool = false;
    #[inline(always)]
    fn eval(a: A, _: (), _: (), imm: u64) -> D {
        let from = imm >> SOURCE_SHIFT & 0xff;
        D::from_integer(extend(a.wide(), from), from, imm)
    }
}

/// Float to integer.
pub(crate) struct FloatToInt<A, D>(PhantomData<(A, D)>);

impl<A: Source, D: Container> Map for FloatToInt<A, D> {
    type A = A;
    type B = ();
    type C = ();
    type D = D;
    const PLAIN: bool = false;
    #[inline(always)]
    fn eval(a: A, _: (), _: (), imm: u64) -> D {
        let to = imm >> TARGET_SHIFT & 0xff;
        let x = to_integral(a.exact(imm), Mode::of(imm));
        // Rust's float to integer conversions clamp.
        let bits = to & 63;
        let (min, max) = limits(to);
        let signed = x as i64;
        let low = if signed < min { min } else { signed };
        let clamped = if low > max as i64 { max as i64 } else { low } as u64;
        let unsigned = x as u64;
        let capped = if unsigned > max { max } else { unsigned };
        let value = if to & SIGNED != 0 { clamped } else { capped };
        let top = if imm & NAN_TOP != 0 { 1 << bits } else { 0 };
        D::narrow(extend(if x.is_nan() { top } else { value }, to))
    }
}

/// Rounds to an integral value.
#[inline(always)]
fn to_integral(x: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Nearest => x.round_ties_even(),
        Mode::Away => x.round(),
        Mode::Zero => x.trunc(),
        Mode::Down => x.floor(),
        Mode::Up => x.ceil(),
    }
}

/// Float types on the source side.
pub(crate) trait Source: Value {
    /// The value, flushed if the immediate says so.
    fn exact(self, imm: u64) -> f64;
}

impl<T: Float> Source for T {
    #[inline(always)]
    fn exact(self, imm: u64) -> f64 {
        input::<T::Format>(self.decode(), flushing::<T::Format>(imm))
    }
}

impl Source for f64 {
    #[inline(always)]
    fn exact(self, _: u64) -> f64 {
        self
    }
}

/// Float types on the destination side.
pub(crate) trait Target: Value {
    /// Rounds and encodes as the immediate says.
    fn convert(x: f64, imm: u64) -> Self;
    /// Of an integer that is extended to 64 bits as the field says.
    fn from_integer(value: u64, field: u64, imm: u64) -> Self;
}

/// `.ftz` of a conversion is for f32, and so for what has its exponents: the subnormals of f16 stay.
#[inline(always)]
fn flushing<F: Format>(imm: u64) -> u64 {
    if F::MIN_EXPONENT == -126 {
        imm
    } else {
        imm & !FTZ
    }
}

/// Rounding, saturation and `.relu` of a conversion.
#[inline(always)]
fn fit<F: Format>(x: f64, imm: u64) -> f64 {
    let limited = if imm & SATFINITE != 0 && x.abs() > F::MAX {
        F::MAX.copysign(x)
    } else {
        x
    };
    let rounded = round_to::<F>(limited, Mode::of(imm));
    finish::<F>(rounded, flushing::<F>(imm))
}

impl<T: Float> Target for T {
    #[inline(always)]
    fn convert(x: f64, imm: u64) -> Self {
        T::encode(fit::<T::Format>(x, imm))
    }
    #[inline(always)]
    fn from_integer(value: u64, field: u64, imm: u64) -> Self {
        Self::convert(integer_to_f64(value, field), imm)
    }
}

impl Target for f64 {
    #[inline(always)]
    fn convert(x: f64, imm: u64) -> Self {
        canonical64(if imm & SAT != 0 { saturate(x) } else { x })
    }
    #[inline(always)]
    fn from_integer(value: u64, field: u64, imm: u64) -> Self {
        let negative = (field & SIGNED != 0) & ((value as i64) < 0);
        let magnitude = if negative {
            value.wrapping_neg()
        } else {
            value
        };
        // Drop the bits that do not fit.
        let excess = 11
            - if magnitude >> 53 == 0 {
                11
            } else {
                magnitude.leading_zeros()
            };
        let kept = magnitude >> excess << excess;
        let below = kept as Self;
        let above = if kept == magnitude {
            below
        } else {
            below.next_up()
        };
        let chosen = match (Mode::of(imm), negative) {
            (Mode::Nearest | Mode::Away, _) => magnitude as Self,
            (Mode::Zero, _) | (Mode::Down, false) | (Mode::Up, true) => below,
            (Mode::Down, true) | (Mode::Up, false) => above,
        };
        Self::convert(if negative { -chosen } else { chosen }, imm)
    }
}

/// Float to float of another type, or rounding to integral values.
pub(crate) struct FloatToFloat<A, D>(PhantomData<(A, D)>);

impl<A: Source, D: Target> Map for FloatToFloat<A, D> {
    type A = A;
    type B = ();
    type C = ();
    type D = D;
    const PLAIN: bool = true;
    #[inline(always)]
    fn eval(a: A, _: (), _: (), imm: u64) -> D {
        let x = a.exact(imm);
        let x = if imm & INTEGRAL != 0 {
            to_integral(x, Mode::of(imm))
        } else {
            x
        };
        D::convert(x, imm)
    }
}

/// A TF32 value: f32 with the low 13 bits zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tf32Bits(f32);

impl Value for Tf32Bits {
    type Raw = u32;
    #[inline(always)]
    fn from_raw(raw: u32) -> Self {
        Self(f32::from_bits(raw))
    }
    #[inline(always)]
    fn into_raw(self) -> u32 {
        self.0.to_bits()
    }
}

impl Float for Tf32Bits {
    type Format = Tf32;
    #[inline(always)]
    fn decode(self) -> f64 {
        f64::from(self.0)
    }
    #[inline(always)]
    fn encode(exact: f64) -> Self {
        Self(f32::encode(exact))
    }
}

/// Two values into one register: `a` goes to the high half.
#[inline(always)]
fn pair<T: Float>(a: f32, b: f32, imm: u64) -> [T; 2] {
    [T::convert(b.exact(imm), imm), T::convert(a.exact(imm), imm)]
}

/// Two FP8 codes, `high` first; `.relu` takes negative values to +0.
#[inline(always)]
fn pair8(high: f32, low: f32, imm: u64, encode: impl Fn(f32) -> u8) -> u16 {
    let relu = |x: f32| if imm & RELU != 0 && x <= 0.0 { 0.0 } else { x };
    u16::from(encode(relu(high))) << 8 | u16::from(encode(relu(low)))
}

/// Two halves as f32, low first; exact.
#[inline(always)]
fn singles(a: [F16; 2]) -> [f32; 2] {
    a.map(|half| half.decode() as f32)
}

/// Two FP8 codes as halves; exact.
#[inline(always)]
fn unpair8(codes: u16, imm: u64, decode: impl Fn(u8) -> f32) -> [F16; 2] {
    let half = |code: u16| F16::convert(f64::from(decode(code as u8)), imm);
    [half(codes), half(codes >> 8)]
}

/// The upper half of a f32, rounded to nearest even.
#[inline(always)]
fn upper_half(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fff } else { rounded }
}

maps! {
    /// `cvt.u64.u32`, the most frequent of all.
    Zext32(a: u32) -> u64 { u64::from(a) }
    Sext32(a: i32) -> i64 { i64::from(a) }
    Trunc64(a: u64) -> u32 { a as u32 }
    U32ToF32(a: u32) -> f32 { a as f32 }
    S32ToF32(a: i32) -> f32 { a as f32 }
    /// Toward zero, clamped, NaN to 0: Rust's conversion is that of PTX.
    F32ToU32(a: f32) -> u32 { a as u32 }
    F32ToS32(a: f32) -> i32 { a as i32 }
    /// A shift, as the hardware does it: NaN keeps its payload.
    Bf16ToF32(a: u16) -> u32 { u32::from(a) << 16 }
    /// `cvt.rn.bf16x2.f32`.
    PairToBf16(a: f32, b: f32) -> u32 { upper_half(a) << 16 | upper_half(b) }
    F32ToBf16(a: f32) -> u32 { upper_half(a) }
    PairF16(a: f32, b: f32) [imm plain] -> [F16; 2] { pair(a, b, imm) }
    PairBf16(a: f32, b: f32) [imm plain] -> [Bf16; 2] { pair(a, b, imm) }
    PairE4m3(a: f32, b: f32) [imm plain] -> u16 { pair8(a, b, imm, e4m3_from_f32) }
    PairE5m2(a: f32, b: f32) [imm plain] -> u16 { pair8(a, b, imm, e5m2_from_f32) }
    F16x2ToE4m3(a: [F16; 2]) [imm plain] -> u16 {
        let [low, high] = singles(a);
        pair8(high, low, imm, e4m3_from_f32)
    }
    F16x2ToE5m2(a: [F16; 2]) [imm plain] -> u16 {
        let [low, high] = singles(a);
        pair8(high, low, imm, e5m2_from_f32)
    }
    E4m3ToF16x2(a: u16) [imm plain] -> [F16; 2] { unpair8(a, imm, f32_from_e4m3) }
    E5m2ToF16x2(a: u16) [imm plain] -> [F16; 2] { unpair8(a, imm, f32_from_e5m2) }
}
