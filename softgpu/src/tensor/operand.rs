//! wgmma operands in shared memory: from a 64-bit descriptor to packed rows.
//!
//! Whatever the element type, K of one wgmma is 32 bytes. [`gather`] brings an operand into one
//! form: `rows` rows (M or N) of 32 bytes, K-major, without swizzle.
//!
//! Addresses, with r = row (M or N), b = byte along K, W = swizzle width, all before the swizzle:
//!
//! | layout | address |
//! |---|---|
//! | K-major, no swizzle | start + (r/8)·stride + (b/16)·leading + (r%8)·16 + b%16 |
//! | K-major, swizzled | start + (r/8)·stride + (r%8)·W + b |
//! | MN-major, no swizzle | start + (r/8)·stride + (k/8)·leading + (k%8)·16 + 2·(r%8) |
//! | MN-major, swizzled | start + (2r/W)·leading + (k/8)·stride + (k%8)·W + 2r%W |
//!
//! Sources: PTX ISA, "asynchronous warpgroup level matrix shared memory layout" and "matrix
//! descriptor format".

use super::swizzle::Swizzle;
use crate::error::FaultKind;

/// Bytes of K that one wgmma covers, for every element type.
pub const K_BYTES: usize = 32;

/// Which way an operand lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Major {
    /// Consecutive bytes run along K.
    K,
    /// Consecutive elements run along M or N (16-bit types only).
    Mn,
}

/// What an instruction says about an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// 64 for A, N for B; a multiple of 8.
    pub rows: usize,
    /// Bytes of one element: 1, 2 or 4.
    pub element_bytes: usize,
    /// Layout in shared memory.
    pub major: Major,
}

/// A matrix descriptor, decoded. All fields are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Shared address of the matrix.
    pub start: u32,
    /// Leading dimension byte offset.
    pub leading: u32,
    /// Stride dimension byte offset.
    pub stride: u32,
    /// Base offset, 0 to 7.
    pub base_offset: u32,
    /// Swizzle mode.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// Decodes the 64-bit operand of a wgmma.
    #[must_use]
    pub const fn decode(bits: u64) -> Self {
        const fn field(bits: u64, first: u32, count: u32) -> u32 {
            let [a, b, c, d, ..] = ((bits >> first) & ((1 << count) - 1)).to_le_bytes();
            u32::from_le_bytes([a, b, c, d])
        }
        Self {
            start: field(bits, 0, 14) << 4,
            leading: field(bits, 16, 14) << 4,
            stride: field(bits, 32, 14) << 4,
            base_offset: field(bits, 49, 3),
            swizzle: match field(bits, 62, 2) {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        }
    }
}

/// Copies an operand from shared memory into packed rows of [`K_BYTES`].
///
/// `shared` is the shared memory of the CTA, beginning at shared address 0; `packed` takes
/// `operand.rows * 32` bytes.
///
/// # Errors
/// `IllegalAddress` when an element lies outside of `shared`, `IllegalInstruction` for an operand
/// that no wgmma has.
pub fn gather(
    descriptor: Descriptor,
    operand: Operand,
    shared: &[u8],
    packed: &mut [u8],
) -> Result<(), FaultKind> {
    check(operand, packed)?;
    match operand.major {
        Major::K => {
            let groups = packed[..operand.rows * K_BYTES].chunks_exact_mut(8 * K_BYTES);
            let mut chunks = [0; 16];
            for (group, out) in (0u32..).zip(groups) {
                let base = descriptor.start + group * descriptor.stride;
                if group == 0 || !descriptor.stride.is_multiple_of(Swizzle::PERIOD) {
                    chunks = k_major_chunks(descriptor, base);
                }
                for (out, chunk) in out.as_chunks_mut::<16>().0.iter_mut().zip(chunks) {
                    copy_chunk(shared, base.wrapping_add(chunk), out)?;
                }
            }
        }
        Major::Mn => {
            let rows: &mut [u8] = packed;
            for group in 0..operand.rows / 8 {
                for k in 0..16 {
                    let mut chunk = [0; 16];
                    let address = mn_major_chunk(descriptor, group, k);
                    copy_chunk(shared, swizzled(descriptor, address), &mut chunk)?;
                    for (r, element) in chunk.chunks_exact(2).enumerate() {
                        let to = (group * 8 + r) * K_BYTES + 2 * k;
                        rows[to..to + 2].copy_from_slice(element);
                    }
                }
            }
        }
    }
    Ok(())
}

fn check(operand: Operand, packed: &[u8]) -> Result<(), FaultKind> {
    let illegal = |what: &str| {
        Err(FaultKind::IllegalInstruction {
            what: format!("wgmma operand {operand:?}: {what}"),
        })
    };
    if !operand.rows.is_multiple_of(8) || operand.rows > 256 {
        return illegal("rows are a multiple of 8, at most 256");
    }
    if packed.len() < operand.rows * K_BYTES {
        return illegal("the buffer for packed rows is too small");
    }
    if operand.major == Major::Mn && operand.element_bytes != 2 {
        return illegal("only 16-bit elements can be MN-major");
    }
    Ok(())
}

/// The address of a byte after the swizzle. A base offset says how many 128-byte lines after a multiple
/// of the pattern's size the pattern begins (PTX ISA, "matrix descriptor format"); *modelled*, as no
/// published program uses one.
fn swizzled(descriptor: Descriptor, address: u32) -> u32 {
    let line = address.wrapping_sub(128 * descriptor.base_offset);
    address ^ (descriptor.swizzle.apply(line) ^ line)
}

/// Where the two chunks of 16 bytes of eight K-major rows are, after the swizzle, from the address of
/// the first row before it. Groups at distances of [`Swizzle::PERIOD`] are alike.
fn k_major_chunks(descriptor: Descriptor, base: u32) -> [u32; 16] {
    let mut chunks = [0; 16];
    for (row, pair) in (0u32..).zip(chunks.as_chunks_mut::<2>().0) {
        let first = base.wrapping_add(row * descriptor.swizzle.width());
        let second = first.wrapping_add(k_major_chunk(descriptor));
        *pair = [first, second].map(|at| swizzled(descriptor, at).wrapping_sub(base));
    }
    chunks
}

/// From the first to the second 16 bytes of a K-major row.
fn k_major_chunk(descriptor: Descriptor) -> u32 {
    match descriptor.swizzle {
        Swizzle::None => descriptor.leading,
        _ => 16,
    }
}

/// Address of the eight elements of one k whose rows are `8 * group` and up, MN-major.
#[expect(
    clippy::cast_possible_truncation,
    reason = "group is below 32 and k below 16"
)]
fn mn_major_chunk(descriptor: Descriptor, group: usize, k: usize) -> u32 {
    let (group, k) = (group as u32, k as u32);
    let width = descriptor.swizzle.width();
    let within = descriptor.start + (k % 8) * width;
    if descriptor.swizzle == Swizzle::None {
        return within + group * descriptor.stride + (k / 8) * descriptor.leading;
    }
    let chunks = width / 16;
    within
        + (group / chunks) * descriptor.leading
        + (group % chunks) * 16
        + (k / 8) * descriptor.stride
}

#[inline]
fn copy_chunk(shared: &[u8], address: u32, out: &mut [u8; 16]) -> Result<(), FaultKind> {
    let from = shared.get(address as usize..);
    match from.and_then(|bytes| bytes.first_chunk()) {
        Some(bytes) => {
            *out = *bytes;
            Ok(())
        }
        None => Err(FaultKind::IllegalAddress {
            address: address.into(),
            bytes: 16,
            write: false,
        }),
    }
}
