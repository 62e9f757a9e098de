//! Integer arithmetic and logic.
//!
//! Where PTX leaves a result open, it is what the hardware delivers: division and remainder by
//! zero give all ones, and the most negative number divided by -1 wraps.
#![expect(
    clippy::cast_sign_loss,
    reason = "two's complement arithmetic in wider types"
)]

use super::map::maps;
use super::value::Value;

/// Integer types of instructions; all operations wrap.
pub(crate) trait Int: Value {
    /// The type of twice the width.
    type Wide: Value;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The upper half of the product.
    fn mul_high(self, other: Self) -> Self;
    /// The whole product.
    fn mul_wide(self, other: Self) -> Self::Wide;
    fn add_wide(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn div(self, other: Self) -> Self;
    fn rem(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// Zero from the type's width on.
    fn shl(self, count: u32) -> Self;
    /// All sign bits, or zero, from the type's width on.
    fn shr(self, count: u32) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn is_zero(self) -> bool;
    fn one() -> Self;
    fn zero() -> Self;
    fn popc(self) -> u32;
    fn clz(self) -> u32;
    fn brev(self) -> Self;
    /// Position of the most significant bit that differs from the sign; all ones if there is none.
    fn bfind(self) -> u32;
    fn width() -> u32;
    fn eq(self, other: Self) -> bool;
    fn lt(self, other: Self) -> bool;
    fn le(self, other: Self) -> bool;
}

macro_rules! ints {
    ($($ty:ident $wide:ident $bits:literal $ones:expr, |$v:ident| $abs:expr, $magnitude:expr;)*) => {$(
        impl Int for $ty {
            type Wide = $wide;
            #[inline(always)]
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline(always)]
            fn mul_high(self, other: Self) -> Self {
                ($wide::from(self).wrapping_mul($wide::from(other)) >> $bits) as $ty
            }
            #[inline(always)]
            fn mul_wide(self, other: Self) -> $wide {
                $wide::from(self).wrapping_mul($wide::from(other))
            }
            #[inline(always)]
            fn add_wide(a: $wide, b: $wide) -> $wide { a.wrapping_add(b) }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                if other == 0 { $ones } else { self.wrapping_div(other) }
            }
            #[inline(always)]
            fn rem(self, other: Self) -> Self {
                if other == 0 { $ones } else { self.wrapping_rem(other) }
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self { if other < self { other } else { self } }
            #[inline(always)]
            fn max(self, other: Self) -> Self { if other > self { other } else { self } }
            #[inline(always)]
            fn shl(self, count: u32) -> Self {
                if count < $bits { self << (count % $bits) } else { 0 }
            }
            #[inline(always)]
            fn shr(self, count: u32) -> Self {
                // One bit short of the width and then one more: arithmetic for signed types.
                let most = if count < $bits { count } else { $bits - 1 };
                let shifted = self >> (most % $bits);
                if count < $bits { shifted } else { shifted >> 1 }
            }
            #[inline(always)]
            fn neg(self) -> Self { self.wrapping_neg() }
            #[inline(always)]
            fn abs(self) -> Self { let $v = self; $abs }
            #[inline(always)]
            fn is_zero(self) -> bool { self == 0 }
            #[inline(always)]
            fn one() -> Self { 1 }
            #[inline(always)]
            fn zero() -> Self { 0 }
            #[inline(always)]
            fn popc(self) -> u32 { self.count_ones() }
            #[inline(always)]
            fn clz(self) -> u32 { self.leading_zeros() }
            #[inline(always)]
            fn brev(self) -> Self { self.reverse_bits() }
            #[inline(always)]
            fn bfind(self) -> u32 {
                let $v = self;
                let magnitude = $magnitude;
                (u32::wrapping_sub($bits - 1, magnitude.leading_zeros())) as u32
            }
            #[inline(always)]
            fn width() -> u32 { $bits }
            #[inline(always)]
            fn eq(self, other: Self) -> bool { self == other }
            #[inline(always)]
            fn lt(self, other: Self) -> bool { self < other }
            #[inline(always)]
            fn le(self, other: Self) -> bool { self <= other }
        }
    )*};
}
ints! {
    u16 u32 16 u16::MAX, |v| v, v;
    i16 i32 16 -1, |v| v.wrapping_abs(), (if v < 0 { !v } else { v }) as u16;
    u32 u64 32 u32::MAX, |v| v, v;
    i32 i64 32 -1, |v| v.wrapping_abs(), (if v < 0 { !v } else { v }) as u32;
    u64 u128 64 u64::MAX, |v| v, v;
    i64 i128 64 -1, |v| v.wrapping_abs(), (if v < 0 { !v } else { v }) as u64;
}

maps! {
    Add<T: Int>(a: T, b: T) -> T { a.add(b) }
    Sub<T: Int>(a: T, b: T) -> T { a.sub(b) }
    MulLo<T: Int>(a: T, b: T) -> T { a.mul(b) }
    MulHi<T: Int>(a: T, b: T) -> T { a.mul_high(b) }
    MulWide<T: Int>(a: T, b: T) -> T::Wide { a.mul_wide(b) }
    MadLo<T: Int>(a: T, b: T, c: T) -> T { a.mul(b).add(c) }
    MadHi<T: Int>(a: T, b: T, c: T) -> T { a.mul_high(b).add(c) }
    MadWide<T: Int>(a: T, b: T, c: T::Wide) -> T::Wide { T::add_wide(a.mul_wide(b), c) }
    Div<T: Int>(a: T, b: T) -> T { a.div(b) }
    Rem<T: Int>(a: T, b: T) -> T { a.rem(b) }
    Min<T: Int>(a: T, b: T) -> T { a.min(b) }
    Max<T: Int>(a: T, b: T) -> T { a.max(b) }
    Shl<T: Int>(a: T, b: u32) -> T { a.shl(b) }
    Shr<T: Int>(a: T, b: u32) -> T { a.shr(b) }
    Neg<T: Int>(a: T) -> T { a.neg() }
    Abs<T: Int>(a: T) -> T { a.abs() }
    Cnot<T: Int>(a: T) -> T { if a.is_zero() { T::one() } else { T::zero() } }
    Popc<T: Int>(a: T) -> u32 { a.popc() }
    Clz<T: Int>(a: T) -> u32 { a.clz() }
    Brev<T: Int>(a: T) -> T { a.brev() }
    Bfind<T: Int>(a: T) -> u32 { a.bfind() }
    /// The shift that would move the found bit to the top.
    BfindShift<T: Int>(a: T) -> u32 {
        let found = a.bfind();
        if found == u32::MAX { found } else { T::width().wrapping_sub(1).wrapping_sub(found) }
    }
    AddSat(a: i32, b: i32) -> i32 { a.saturating_add(b) }
    SubSat(a: i32, b: i32) -> i32 { a.saturating_sub(b) }
    And32(a: u32, b: u32) -> u32 { a & b }
    Or32(a: u32, b: u32) -> u32 { a | b }
    Xor32(a: u32, b: u32) -> u32 { a ^ b }
    Not32(a: u32) -> u32 { !a }
    And64(a: u64, b: u64) -> u64 { a & b }
    Or64(a: u64, b: u64) -> u64 { a | b }
    Xor64(a: u64, b: u64) -> u64 { a ^ b }
    Not64(a: u64) -> u64 { !a }
    AddU16x2(a: [u16; 2], b: [u16; 2]) -> [u16; 2] {
        [a[0].wrapping_add(b[0]), a[1].wrapping_add(b[1])]
    }
    MinU16x2(a: [u16; 2], b: [u16; 2]) -> [u16; 2] { [Int::min(a[0], b[0]), Int::min(a[1], b[1])] }
    MaxU16x2(a: [u16; 2], b: [u16; 2]) -> [u16; 2] { [Int::max(a[0], b[0]), Int::max(a[1], b[1])] }
    MinS16x2(a: [i16; 2], b: [i16; 2]) -> [i16; 2] { [Int::min(a[0], b[0]), Int::min(a[1], b[1])] }
    MaxS16x2(a: [i16; 2], b: [i16; 2]) -> [i16; 2] { [Int::max(a[0], b[0]), Int::max(a[1], b[1])] }
}
