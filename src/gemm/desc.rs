//! What is to be computed: forms, formats, sizes.

use super::error::{OperandError, multiple, range};

/// Edge of the scale blocks.
pub const BLOCK: u32 = 128;

/// Rows at multiples of which groups begin in the contiguous form: a multiple of the tiles that are
/// used there.
pub const GROUP_ALIGNMENT: u32 = 128;

/// Scales per line of M-major storage: `rows` rounded up so that lines begin at multiples of 16
/// bytes. (For more than 2^32 − 4 rows, more than any operand may have, `u32::MAX`.)
#[must_use]
pub const fn scale_stride(rows: u32) -> u32 {
    rows.div_ceil(4).saturating_mul(4)
}

/// What the rows of A mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// One matrix: `D[rows, n] = A[rows, k] · B[n, k]ᵀ`.
    Dense {
        /// Rows of A; 0 is allowed.
        rows: u32,
    },
    /// Equal matrices: `D[i] = A[i] · B[i]ᵀ`.
    Batched {
        /// Rows of each A; 0 is allowed.
        rows: u32,
        /// Matrices.
        batch: u32,
    },
    /// The rows of all groups one after another. Each group begins at a multiple of
    /// [`GROUP_ALIGNMENT`]; rows of group −1 are padding and stay unwritten.
    Contiguous {
        /// Rows of A, padding included; 0 is allowed.
        rows: u32,
        /// Groups (experts).
        groups: u32,
    },
    /// The rows of all groups one after another without padding; where they begin is read on the
    /// device.
    Offsets {
        /// Rows of A; 0 is allowed.
        rows: u32,
        /// Groups (experts).
        groups: u32,
    },
    /// A slot of equal size per group, of which the first rows are in use; how many is read on the
    /// device.
    Masked {
        /// Rows of one slot; 0 is allowed.
        slot_rows: u32,
        /// Groups (experts).
        groups: u32,
        /// Rows in use that a group is expected to have: a hint for the tile, no bound.
        expected_rows: u32,
    },
    /// A D per group from columns of K: `D[g] = A[:, K of g] · B[:, K of g]ᵀ`, as in weight
    /// gradients, where K counts tokens. Where groups begin is read on the device, in multiples of
    /// [`BLOCK`]; an empty group's D is zero (or has zero added to it). Scales are those of
    /// [`Arithmetic::Fp8Block1d1d`].
    KGrouped {
        /// Rows of A and of each D; 0 is allowed.
        rows: u32,
        /// Groups (experts).
        groups: u32,
    },
}

impl Form {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::Batched { .. } => "batched",
            Self::Contiguous { .. } => "contiguous",
            Self::Offsets { .. } => "offsets",
            Self::Masked { .. } => "masked",
            Self::KGrouped { .. } => "K-grouped",
        }
    }

    /// Groups; one in the dense form.
    #[must_use]
    pub const fn groups(self) -> u32 {
        match self {
            Self::Dense { .. } => 1,
            Self::Batched { batch, .. } => batch,
            Self::Contiguous { groups, .. }
            | Self::Offsets { groups, .. }
            | Self::Masked { groups, .. }
            | Self::KGrouped { groups, .. } => groups,
        }
    }

    /// Rows of A: of one matrix or slot, where there are several.
    #[must_use]
    pub const fn rows(self) -> u32 {
        match self {
            Self::Dense { rows }
            | Self::Batched { rows, .. }
            | Self::Contiguous { rows, .. }
            | Self::Offsets { rows, .. }
            | Self::KGrouped { rows, .. } => rows,
            Self::Masked { slot_rows, .. } => slot_rows,
        }
    }

    /// Matrices that A consists of.
    #[must_use]
    pub const fn a_slots(self) -> u32 {
        match self {
            Self::Batched { .. } | Self::Masked { .. } => self.groups(),
            _ => 1,
        }
    }

    /// Matrices that B consists of.
    #[must_use]
    pub const fn b_slots(self) -> u32 {
        match self {
            Self::KGrouped { .. } => 1,
            _ => self.groups(),
        }
    }

    /// Matrices that D consists of.
    #[must_use]
    pub const fn d_slots(self) -> u32 {
        match self {
            Self::KGrouped { .. } => self.groups(),
            _ => self.a_slots(),
        }
    }
}

/// How an element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// FP8 with 4 exponent and 3 significand bits; largest value 448.
    E4m3,
    /// FP8 with 5 exponent and 2 significand bits; largest value 57 344.
    E5m2,
    /// bfloat16.
    Bf16,
}

impl Format {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::E4m3 => "E4M3",
            Self::E5m2 => "E5M2",
            Self::Bf16 => "BF16",
        }
    }
}

/// How products become values of D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// FP8 with scales of A per 1×128 and of B per 128×128; B is E4M3.
    Fp8Block1d2d {
        /// Format of A.
        a: Format,
    },
    /// FP8 with scales of A and of B per 1×128; B is E4M3.
    Fp8Block1d1d {
        /// Format of A.
        a: Format,
    },
    /// FP8 with scales of A and of B per row or per operand, applied at the end; B is E4M3.
    Fp8Channel {
        /// Format of A.
        a: Format,
    },
    /// BF16, no scales.
    Bf16,
}

impl Arithmetic {
    /// E4M3 with scales per 1×128 and 128×128.
    pub const E4M3_1D2D: Self = Self::Fp8Block1d2d { a: Format::E4m3 };

    /// Format of A.
    #[must_use]
    pub const fn a(self) -> Format {
        match self {
            Self::Fp8Block1d2d { a } | Self::Fp8Block1d1d { a } | Self::Fp8Channel { a } => a,
            Self::Bf16 => Format::Bf16,
        }
    }

    /// Format of B.
    #[must_use]
    pub const fn b(self) -> Format {
        match self {
            Self::Bf16 => Format::Bf16,
            _ => Format::E4m3,
        }
    }

    /// Bytes of an element of A and of B.
    pub(crate) const fn element_bytes(self) -> u32 {
        match self {
            Self::Bf16 => 2,
            _ => 1,
        }
    }

    /// Columns of K of one pipeline stage: 128 bytes.
    #[must_use]
    pub const fn stage_k(self) -> u32 {
        BLOCK / self.element_bytes()
    }
}

/// What D is, and what becomes of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// BF16, overwritten.
    Bf16,
    /// F32, overwritten.
    F32,
    /// F32, added to.
    AddF32,
}

/// A problem: `D[rows, n] = A[rows, k] · B[group, n, k]ᵀ`. All sizes are in elements.
///
/// Beyond what the fields say, rows of D, groups × N and groups × K blocks are each at most
/// 2^31 − 1025, as coordinates of the tensor maps are signed 32-bit numbers;
/// [`GemmPlan::new`](super::GemmPlan::new) checks all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmDesc {
    /// Rows and groups.
    pub form: Form,
    /// Columns of D: a positive multiple of 16.
    pub n: u32,
    /// Inner dimension, of all groups together in the K-grouped form: a positive multiple of 16
    /// (of 128 when grouped).
    pub k: u32,
    /// Formats and scales.
    pub arithmetic: Arithmetic,
    /// What D is.
    pub output: Output,
    /// Most SMs to use, at least 1: the device's, or fewer to leave room for communication.
    pub sms: u32,
}

/// Coordinates of the tensor maps are signed 32-bit numbers, and tiles may reach past the last row.
pub(crate) const MOST: u64 = (i32::MAX as u64) - 1024;

impl GemmDesc {
    /// Blocks of K of one stage, the last perhaps partial.
    pub(crate) const fn k_blocks(&self) -> u32 {
        self.k.div_ceil(self.arithmetic.stage_k())
    }

    pub(crate) fn check(&self) -> Result<(), OperandError> {
        let Self {
            form, n, k, sms, ..
        } = *self;
        let grouped_k = matches!(form, Form::KGrouped { .. });
        multiple("N", n.into(), 16)?;
        multiple("K", k.into(), if grouped_k { BLOCK.into() } else { 16 })?;
        range("N", n.into(), [16, MOST])?;
        range("K", k.into(), [16, MOST])?;
        range("SMs", sms.into(), [1, MOST])?;
        range("groups", form.groups().into(), [1, MOST])?;
        let wide = u64::from;
        let rows = wide(form.d_slots()) * wide(form.rows());
        range("rows of D", rows, [0, MOST])?;
        range("groups x N", wide(form.b_slots()) * wide(n), [0, MOST])?;
        let blocks = wide(form.groups()) * wide(self.k_blocks());
        range("groups x K blocks", blocks, [0, MOST])
    }
}
