//! The rarer register-only instructions: one variant of [`Op`](super::Op) for all of them.

use super::{BoolOp, Ty, Video};

/// A register-only instruction off the beaten track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arith {
    /// `sad`: |a - b| + c.
    Sad(Ty),
    /// `mul24`: of the low 24 bits of each operand.
    Mul24 {
        /// `.u32` or `.s32`.
        ty: Ty,
        /// Bits 16 to 47 of the product rather than its low 32.
        hi: bool,
    },
    /// `mad24`.
    Mad24 {
        /// `.u32` or `.s32`.
        ty: Ty,
        /// As for `mul24`.
        hi: bool,
        /// `.sat`, of the sum.
        sat: bool,
    },
    /// `mad.hi.sat.s32`.
    MadHiSat,
    /// `min.relu` and `max.relu` of `.s32` or `.s16x2`.
    MinMaxRelu {
        /// Element type.
        ty: Ty,
        /// `max`.
        max: bool,
    },
    /// `bmsk.b32`: `src` = position, width.
    Bmsk {
        /// `.clamp` rather than `.wrap`.
        clamp: bool,
    },
    /// `szext`: `src` = value, width.
    Szext {
        /// `.clamp` rather than `.wrap`.
        clamp: bool,
        /// `.s32`: the value is extended by the sign of that width.
        signed: bool,
    },
    /// `fns.b32`: `src` = mask, base, offset.
    Fns,
    /// `dp2a`: `src` = two halves, four bytes, addend.
    Dp2a {
        /// Type of the halves.
        a: Ty,
        /// Type of the bytes.
        b: Ty,
        /// The upper two bytes.
        hi: bool,
    },
    /// `lop3` with a predicate: `dst` = d, p; `src` = a, b, c, q.
    Lop3Pred {
        /// Truth table.
        table: u8,
        /// How "d is not zero" combines with q.
        combine: BoolOp,
    },
    /// `testp`: `dst` = predicate.
    Testp(FloatClass, Ty),
    /// `cvt.pack.sat`: `src` = high part, low part [, what moves up].
    CvtPack {
        /// Width of a part: 2, 4, 8 or 16.
        bits: u8,
        /// Parts are signed.
        signed: bool,
    },
    /// Video instructions.
    Video(Video),
}

/// What `testp` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum FloatClass {
    Finite,
    Infinite,
    Number,
    NotANumber,
    /// Zero counts as normal.
    Normal,
    Subnormal,
}
