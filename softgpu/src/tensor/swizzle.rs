//! Swizzles of shared memory. They permute the 16-byte chunks of a row by the row's number within
//! a repeating pattern, both read off the *absolute* shared address, so that TMA (which writes) and
//! wgmma (which reads) agree. Source: PTX ISA, "swizzling modes".

/// A swizzle mode; the name is the width of a row in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Addresses stay as they are.
    None,
    /// Address bit 4 ^= bit 7.
    B32,
    /// Address bits 4–5 ^= bits 7–8.
    B64,
    /// Address bits 4–6 ^= bits 7–9.
    B128,
}

impl Swizzle {
    /// Bytes after which every pattern repeats.
    pub(super) const PERIOD: u32 = 1024;

    /// Bytes of a swizzled row; 16, a chunk, without a swizzle.
    #[must_use]
    pub const fn width(self) -> u32 {
        match self {
            Self::None => 16,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }

    /// Where the byte of an unswizzled shared address lies.
    #[inline]
    #[must_use]
    pub const fn apply(self, address: u32) -> u32 {
        address ^ ((address >> 3) & (self.width() - 16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bit movements as the PTX ISA tables show them, one bit at a time.
    #[test]
    fn moves_the_documented_bits() {
        let cases: [(Swizzle, &[(u32, u32)]); 4] = [
            (Swizzle::None, &[]),
            (Swizzle::B32, &[(4, 7)]),
            (Swizzle::B64, &[(4, 7), (5, 8)]),
            (Swizzle::B128, &[(4, 7), (5, 8), (6, 9)]),
        ];
        for (swizzle, bits) in cases {
            for address in 0..4096 {
                let flips = bits.iter().map(|&(to, from)| (address >> from & 1) << to);
                assert_eq!(
                    swizzle.apply(address),
                    address ^ flips.sum::<u32>(),
                    "{swizzle:?}"
                );
            }
        }
    }
}
