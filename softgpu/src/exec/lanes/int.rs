//! Integer arithmetic and logic.

use super::map::maps;
use super::value::Value;

/// Integer types of instructions.
pub(crate) trait Int: Value {
    /// Wrapping sum.
    fn add(self, other: Self) -> Self;
    /// Wrapping difference.
    fn sub(self, other: Self) -> Self;
}

macro_rules! ints {
    ($($ty:ident)*) => {$(
        impl Int for $ty {
            #[inline(always)]
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline(always)]
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
        }
    )*};
}
ints!(u16 i16 u32 i32 u64 i64);

maps! {
    Add<T: Int>(a: T, b: T) -> T { a.add(b) }
    Sub<T: Int>(a: T, b: T) -> T { a.sub(b) }
}
