//! Handlers of register-only instructions.
//!
//! An instruction's meaning is a pure function over the values of one lane ([`map::Map`]), written
//! once per operation and generic over its types. A handler runs it over the 32 lanes in a loop
//! that the compiler vectorises; it is compiled three times, for AVX-512, AVX2 and the baseline
//! ([`isa`]), and [`mod@encode`] chooses one of them per instruction when a kernel is loaded.
//!
//! With a partial mask the function is evaluated for all lanes and the result blended, so the
//! functions are total: no input may panic.

mod approx;
mod bits;
mod carry;
mod compare;
mod convert;
pub(crate) mod double;
mod encode;
pub(crate) mod float;
mod half;
mod int;
pub(crate) mod isa;
mod map;
mod moves;
mod rare;
pub(crate) mod round;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod value;
mod video;

pub use encode::{encode, encode_for};
pub use isa::Isa;
