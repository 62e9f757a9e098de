//! The video instructions: integer operations on bytes and halves of words, scalar and SIMD.
//! Source: PTX ISA 9.0, "Video Instructions".

use super::Cmp;

/// A video instruction; `src` = a, b [, c].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Video {
    /// Operation.
    pub op: VideoOp,
    /// 1 (scalar), 2 or 4.
    pub lanes: u8,
    /// Signedness of d, a and b.
    pub signed: [bool; 3],
    /// `.sat`.
    pub sat: bool,
    /// The secondary operation with c.
    pub second: Option<Second>,
    /// Width in bytes of a part of d, a and b.
    pub width: [u8; 3],
    /// Where the parts of a begin, in bytes of the 64-bit value b:a.
    pub a: [u8; 4],
    /// Where the parts of b begin, likewise.
    pub b: [u8; 4],
    /// Where a scalar result begins, in bytes of d; the rest of d comes from c.
    pub at: u8,
    /// The lanes of d that are written; the others come from c.
    pub mask: u8,
}

/// What a video instruction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum VideoOp {
    Add,
    Sub,
    Absdiff,
    Min,
    Max,
    Avrg,
    Shl {
        wrap: bool,
    },
    Shr {
        wrap: bool,
    },
    Set(Cmp),
    Mad {
        /// Plus one.
        po: bool,
        /// The product is negated.
        negate: bool,
        /// c is negated.
        negate_c: bool,
        /// 0, 7 or 15.
        shift: u8,
    },
}

/// The secondary operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Second {
    Add,
    Min,
    Max,
}
