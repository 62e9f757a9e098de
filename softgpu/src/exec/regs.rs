//! The register file of a warp.

/// A bank of 32 lanes × 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct Lanes(pub [u32; 32]);

/// Operand encoding in decoded instructions: a slot of the warp's file, or, with the top bit set,
/// of the kernel's constant bank (immediates broadcast over 32 lanes; 64-bit ones take two slots).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// Marks slots of the constant bank.
    pub const CONST: u32 = 1 << 31;
    /// A slot that is not used.
    pub const NONE: Self = Self(u32::MAX);
}
