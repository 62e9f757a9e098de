//! Matrix instructions of one warp: `mma.sync`, and the older `wmma` with its loads and stores.

use super::{MmaTy, Rounding, Space};

/// How a matrix lies in memory, or in the fragments of m8n8k4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major.
    Row,
    /// Column-major.
    Col,
}

/// Whose register fragments an instruction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fragments {
    /// Those that the PTX ISA defines for `mma.sync`.
    Mma,
    /// The opaque ones of `wmma`.
    Wmma,
}

/// What stands for the product of one-bit elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum BitOp {
    And,
    Xor,
}

/// `mma.sync` and `wmma.mma`: `dst` = D, `src` = A, B, C registers in this order; 64-bit ones for
/// f64, else 32-bit ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mma {
    /// Rows of A and D, columns of B and D, and K.
    pub shape: (u16, u16, u16),
    /// Type of D.
    pub d: MmaTy,
    /// Element type of A.
    pub a: MmaTy,
    /// Element type of B.
    pub b: MmaTy,
    /// Type of C.
    pub c: MmaTy,
    /// Fragments.
    pub fragments: Fragments,
    /// Layouts of A and B, which only m8n8k4 of 16-bit floats has a choice of.
    pub layouts: (Layout, Layout),
    /// `.satfinite`.
    pub saturate: bool,
    /// `.and.popc` or `.xor.popc` for one-bit elements.
    pub bits: Option<BitOp>,
    /// Rounding of f64; the other types have none.
    pub rounding: Rounding,
}

/// Which matrix a `wmma` load or store moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum WmmaMatrix {
    A,
    B,
    C,
}

/// `wmma.load` (`dst` = fragment, `src` = address [, stride]) and `wmma.store` (`src` = address,
/// fragment [, stride]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WmmaAccess {
    /// Rows of A and D, columns of B and D, and K.
    pub shape: (u16, u16, u16),
    /// The matrix; a store has C.
    pub matrix: WmmaMatrix,
    /// Element type.
    pub ty: MmaTy,
    /// Layout in memory.
    pub layout: Layout,
    /// State space.
    pub space: Space,
    /// Added to the address.
    pub offset: i64,
    /// A stride operand, in elements, is the last source.
    pub stride: bool,
}

impl MmaTy {
    /// Bits of one element.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::B1 => 1,
            Self::S4 | Self::U4 => 4,
            Self::E4M3 | Self::E5M2 | Self::S8 | Self::U8 => 8,
            Self::F16 | Self::BF16 => 16,
            Self::TF32 | Self::F32 | Self::S32 => 32,
            Self::F64 => 64,
        }
    }
}

/// Registers of a fragment of `elements` elements: 64-bit ones for f64.
const fn registers(elements: usize, ty: MmaTy) -> usize {
    match ty {
        MmaTy::F64 => elements / 32,
        _ => elements * ty.bits() / 1024,
    }
}

impl Mma {
    /// Registers of A, B, and of an accumulator of a type.
    #[must_use]
    pub fn operand_registers(&self) -> (usize, usize) {
        let (m, n, k) = self.shape;
        let (m, n, k) = (usize::from(m), usize::from(n), usize::from(k));
        match self.fragments {
            // Four products, each in the registers of eight lanes.
            Fragments::Mma if self.is_quad() => (2, 2),
            Fragments::Wmma if matches!(self.a, MmaTy::F16) => (8, 8),
            _ => (registers(m * k, self.a), registers(n * k, self.b)),
        }
    }

    /// Registers of an accumulator of type `ty`.
    #[must_use]
    pub fn accumulator_registers(&self, ty: MmaTy) -> usize {
        let (m, n, _) = self.shape;
        let times = if self.is_quad() { 4 } else { 1 };
        times * registers(usize::from(m) * usize::from(n), ty)
    }

    /// Multiply-accumulates of one warp.
    #[must_use]
    pub fn macs(&self) -> u64 {
        let (m, n, k) = self.shape;
        let products = if self.is_quad() { 4 } else { 1 };
        products * u64::from(m) * u64::from(n) * u64::from(k)
    }

    /// m8n8k4 of f16, which computes four products, one for each eight lanes.
    #[must_use]
    pub fn is_quad(&self) -> bool {
        self.shape == (8, 8, 4) && self.a == MmaTy::F16 && self.fragments == Fragments::Mma
    }
}

impl WmmaAccess {
    /// Rows and columns of the matrix that is moved.
    #[must_use]
    pub fn extent(&self) -> (usize, usize) {
        let (m, n, k) = self.shape;
        let (rows, columns) = match self.matrix {
            WmmaMatrix::A => (m, k),
            WmmaMatrix::B => (k, n),
            WmmaMatrix::C => (m, n),
        };
        (rows.into(), columns.into())
    }

    /// Bytes of the matrix.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let (rows, columns) = self.extent();
        (rows * columns * self.ty.bits() / 8) as u64
    }

    /// Registers of the fragment.
    #[must_use]
    pub fn registers(&self) -> usize {
        if self.matrix != WmmaMatrix::C && self.ty == MmaTy::F16 {
            return 8;
        }
        let (rows, columns) = self.extent();
        registers(rows * columns, self.ty)
    }
}
