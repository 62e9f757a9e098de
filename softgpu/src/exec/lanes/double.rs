//! Directed rounding of f64 arithmetic, and the approximations of f64.
//!
//! Rounding to nearest is the host's own. In the other directions finite operands are taken apart
//! into integers and the exact result is kept in 128 bits *rounded to odd* (truncated, with the
//! last bit set if anything was cut off), which one final rounding to 53 bits or to the subnormal
//! grid turns into the right value. Operands that are zero, infinite or NaN give results that need
//! no rounding: those come from the host.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "bit fields of f64"
)]

use super::half::canonical64;
use super::map::maps;
use super::round::Mode;

maps! {
    AddDirected(a: f64, b: f64) [imm] -> f64 { sum(a, b, Mode::of(imm)) }
    SubDirected(a: f64, b: f64) [imm] -> f64 { sum(a, -b, Mode::of(imm)) }
    MulDirected(a: f64, b: f64) [imm] -> f64 { product(a, b, Mode::of(imm)) }
    DivDirected(a: f64, b: f64) [imm] -> f64 { quotient(a, b, Mode::of(imm)) }
    FmaDirected(a: f64, b: f64, c: f64) [imm] -> f64 { fused(a, b, c, Mode::of(imm)) }
    RcpDirected(a: f64) [imm] -> f64 { quotient(1.0, a, Mode::of(imm)) }
    SqrtDirected(a: f64) [imm] -> f64 { root(a, Mode::of(imm)) }
    /// `rcp.approx.ftz.f64`: of the upper word, into the upper word.
    RcpApproxF64(a: f64) -> f64 { upper_word(1.0 / upper_input(a)) }
    /// `rsqrt.approx.ftz.f64`.
    RsqrtApproxFtzF64(a: f64) -> f64 { upper_word(1.0 / upper_input(a).sqrt()) }
    /// `rsqrt.approx.f64`, to within two units of the last place.
    RsqrtApproxF64(a: f64) -> f64 { canonical64(1.0 / a.sqrt()) }
}

/// A finite value other than zero: `(-1)^negative * significand * 2^exponent`, the significand's
/// top bit being bit 126.
#[derive(Clone, Copy)]
struct Exact {
    negative: bool,
    exponent: i32,
    significand: u128,
}

/// Top bit of a normalised significand; one above it is free for a carry.
const TOP: u32 = 126;

impl Exact {
    /// Moves the top bit of a significand other than zero to its place. Bits that go away (at most
    /// one, after a carry) are kept as the last one.
    fn normalised(self) -> Self {
        let shift = self.significand.leading_zeros() as i32 - (127 - TOP as i32);
        let significand = if shift < 0 {
            self.significand >> 1 | self.significand & 1
        } else {
            self.significand << shift
        };
        Self {
            exponent: self.exponent - shift,
            significand,
            ..self
        }
    }

    /// `None` for zero, infinities and NaN.
    fn of(x: f64) -> Option<Self> {
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        if field == 0x7ff || x == 0.0 {
            return None;
        }
        let hidden = if field == 0 { 0 } else { 1 << 52 };
        let exponent = field.max(1) - 1075;
        let exact = Self {
            negative: x.is_sign_negative(),
            exponent,
            significand: u128::from(fraction | hidden),
        };
        Some(exact.normalised())
    }

    /// The 53 leading bits of a value made by [`of`](Self::of).
    fn short(self) -> u128 {
        self.significand >> (TOP - 52)
    }

    /// The exponent that belongs to [`short`](Self::short).
    fn short_exponent(self) -> i32 {
        self.exponent + (TOP as i32 - 52)
    }

    /// The product of two values made by [`of`](Self::of).
    fn times(self, other: Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            exponent: self.short_exponent() + other.short_exponent(),
            significand: self.short() * other.short(),
        }
        .normalised()
    }

    /// The sum, rounded to odd; `None` if it is zero. Both have at most 106 significant bits, so
    /// either nothing of the smaller is cut off or at most one leading bit cancels.
    fn plus(self, other: Self) -> Option<Self> {
        let (large, small) =
            if (self.exponent, self.significand) >= (other.exponent, other.significand) {
                (self, other)
            } else {
                (other, self)
            };
        let moved = shift_right_odd(small.significand, (large.exponent - small.exponent) as u32);
        let significand = if large.negative == small.negative {
            large.significand + moved
        } else {
            large.significand - moved
        };
        let sum = Self {
            significand,
            ..large
        };
        (significand != 0).then(|| sum.normalised())
    }

    /// Rounds to f64 in a direction.
    fn rounded(self, mode: Mode) -> f64 {
        // Weight of the last place of the result, which may be a subnormal.
        let last = (self.exponent + TOP as i32 - 52).max(-1074);
        let cut = (last - self.exponent) as u32;
        let (kept, rest) = if cut > TOP {
            (0, 1)
        } else {
            let kept = self.significand >> cut;
            (kept as u64, self.significand ^ kept << cut)
        };
        let half = if cut > TOP { u128::MAX } else { 1 << (cut - 1) };
        let up = match mode {
            Mode::Nearest => rest > half || rest == half && kept & 1 != 0,
            Mode::Away => rest >= half,
            Mode::Zero => false,
            Mode::Down => self.negative && rest != 0,
            Mode::Up => !self.negative && rest != 0,
        };
        let magnitude = kept + u64::from(up);
        let field = if magnitude >> 52 == 0 { 0 } else { last + 1075 };
        let infinity = 0x7ff_u64 << 52;
        let bits = if field >= 0x7ff {
            infinity
        } else {
            // A carry out of 53 bits moves into the exponent.
            ((field.max(1) as u64 - 1) << 52) + magnitude
        };
        let bits = bits.min(infinity);
        let inward = match mode {
            Mode::Nearest | Mode::Away => false,
            Mode::Zero => true,
            Mode::Down => !self.negative,
            Mode::Up => self.negative,
        };
        let bits = if bits == infinity && inward {
            infinity - 1
        } else {
            bits
        };
        f64::from_bits(bits | u64::from(self.negative) << 63)
    }
}

/// Shifts right; what is cut off sets the last bit.
fn shift_right_odd(x: u128, count: u32) -> u128 {
    if count > 127 {
        return u128::from(x != 0);
    }
    let kept = x >> count;
    kept | u128::from(kept << count != x)
}

/// The zero of a sum that cancels.
fn cancelled(mode: Mode) -> f64 {
    if mode == Mode::Down { -0.0 } else { 0.0 }
}

fn sum(a: f64, b: f64, mode: Mode) -> f64 {
    match (Exact::of(a), Exact::of(b)) {
        (Some(x), Some(y)) => x.plus(y).map_or(cancelled(mode), |sum| sum.rounded(mode)),
        // Zeros of unlike sign.
        _ if a == 0.0 && b == 0.0 && a.is_sign_negative() != b.is_sign_negative() => {
            cancelled(mode)
        }
        _ => canonical64(a + b),
    }
}

fn product(a: f64, b: f64, mode: Mode) -> f64 {
    match (Exact::of(a), Exact::of(b)) {
        (Some(a), Some(b)) => a.times(b).rounded(mode),
        _ => canonical64(a * b),
    }
}

pub(crate) fn fused(a: f64, b: f64, c: f64, mode: Mode) -> f64 {
    match (Exact::of(a), Exact::of(b), Exact::of(c)) {
        (Some(a), Some(b), Some(c)) => {
            let sum = a.times(b).plus(c);
            sum.map_or(cancelled(mode), |sum| sum.rounded(mode))
        }
        (Some(a), Some(b), None) if c == 0.0 => a.times(b).rounded(mode),
        (Some(_), Some(_), None) => canonical64(c),
        // The product is zero, infinite or NaN.
        _ => sum(a * b, c, mode),
    }
}

fn quotient(a: f64, b: f64, mode: Mode) -> f64 {
    let (Some(x), Some(y)) = (Exact::of(a), Exact::of(b)) else {
        return canonical64(a / b);
    };
    let divisor = y.short();
    let whole = x.significand / divisor;
    let odd = u128::from(x.significand % divisor != 0);
    // 74 or 75 bits: room for the odd one below the last place.
    let exact = Exact {
        negative: x.negative != y.negative,
        exponent: x.exponent - y.short_exponent() - 1,
        significand: whole << 1 | odd,
    };
    exact.normalised().rounded(mode)
}

fn root(a: f64, mode: Mode) -> f64 {
    let Some(x) = Exact::of(a) else {
        return canonical64(a.sqrt());
    };
    if x.negative {
        return canonical64(f64::NAN);
    }
    let odd_exponent = x.exponent & 1;
    let (radicand, exponent) = (x.significand << odd_exponent, x.exponent - odd_exponent);
    let whole = radicand.isqrt();
    let odd = u128::from(whole * whole != radicand);
    let exact = Exact {
        negative: false,
        exponent: exponent / 2 - 1,
        significand: whole << 1 | odd,
    };
    exact.normalised().rounded(mode)
}

/// The upper word of an operand, subnormals flushed.
fn upper_input(x: f64) -> f64 {
    let x = f64::from_bits(x.to_bits() >> 32 << 32);
    if x.abs() < f64::MIN_POSITIVE {
        0.0f64.copysign(x)
    } else {
        x
    }
}

/// Rounds to the 20 fraction bits of the upper word, subnormals flushed.
fn upper_word(x: f64) -> f64 {
    let bits = canonical64(x).to_bits();
    let finite = x.is_finite();
    let rounded = (bits + if finite { 0x8000_0000 } else { 0 }) >> 32 << 32;
    let rounded = f64::from_bits(rounded);
    if rounded.abs() < f64::MIN_POSITIVE {
        0.0f64.copysign(x)
    } else {
        rounded
    }
}
