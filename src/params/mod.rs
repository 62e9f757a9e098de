//! Kernel parameter structs, generated from `csrc/params/*.h` by `cargo xtask bless params`.
//!
//! The C headers are the source: the kernels include them, and sizes and offsets are asserted on
//! both sides. A launch also compares the struct's name and size with those of the compiled kernel.

#[expect(
    missing_docs,
    reason = "field comments come from the headers, where there are any"
)]
#[expect(
    clippy::identity_op,
    reason = "generated layout assertions subtract an expected offset of 0"
)]
mod generated;

pub use generated::*;

/// The one parameter of a kernel.
///
/// Implemented by the generated structs whose C name ends in `_params`.
pub trait KernelParams: Copy + Send + 'static {
    /// Name of the struct in `csrc/params/`.
    const NAME: &'static str;
}
