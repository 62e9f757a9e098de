//! `wgmma.mma_async` as arithmetic: `D = A·B (+ D)` for one warpgroup and one instruction.
//!
//! A is 64 and B is n packed rows of 32 bytes (see [`super::operand::gather`] and [`pack_a`]); D
//! stands in the registers of four warps as the hardware lays it out: in 32-bit registers, register
//! `4j + i` of lane `l` of warp `w` is row `16w + 8·(i/2) + l/4`, column `8j + 2·(l%4) + i%2`; with
//! an f16 accumulator, register `2j + i` holds row `16w + 8·i + l/4`, columns `8j + 2·(l%4)` (low
//! half) and the next one.
//!
//! Results are those of [`super::model::dot`], bit for bit; integers are exact.

mod decode;
pub(in crate::tensor) mod fast;
pub(in crate::tensor) mod integer;
mod reference;
pub(in crate::tensor) mod simd;

#[cfg(test)]
mod tests;

use self::integer::Integers;
pub use self::simd::Level;
use super::format::Format;
use super::model::{Accumulator, Family, Mma};
use super::operand::K_BYTES;
use crate::error::FaultKind;
use crate::exec::regs::{RegFile, Slot};
use crate::ir::{MmaTy, Wgmma};

/// Rows of A and D.
pub const M: usize = 64;
/// Bytes of packed A.
pub const A_BYTES: usize = M * K_BYTES;
/// Most bytes of packed B.
pub const MAX_B_BYTES: usize = 256 * K_BYTES;

/// What is added to the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addend {
    /// `scale-d` is false: D is only written.
    Zero,
    /// D is read and written.
    Accumulator,
}

/// Arithmetic of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float(Mma),
    Int { kind: Integers, saturate: bool },
}

/// A validated wgmma instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    n: usize,
    kind: Kind,
    element_bytes: usize,
    negate: bool,
}

impl Tile {
    /// Checks shape and types.
    ///
    /// # Errors
    /// `IllegalInstruction` for what the PTX ISA does not define, `Unsupported` for the rest.
    pub fn new(wgmma: &Wgmma) -> Result<Self, FaultKind> {
        let illegal = |rule: &str| FaultKind::IllegalInstruction {
            what: format!("wgmma m64n{}k{} {wgmma:?}: {rule}", wgmma.n, wgmma.k),
        };
        let kind = kind(wgmma).ok_or_else(|| illegal("no such combination of types"))?;
        let element_bytes = match wgmma.a {
            MmaTy::F16 | MmaTy::BF16 => 2,
            MmaTy::TF32 => 4,
            _ => 1,
        };
        let k_bits = if wgmma.a == MmaTy::B1 {
            1
        } else {
            8 * element_bytes
        };
        if !(8..=256).contains(&wgmma.n) || !wgmma.n.is_multiple_of(8) {
            return Err(illegal("n is a multiple of 8 from 8 to 256"));
        }
        if usize::from(wgmma.k) * k_bits != 8 * K_BYTES {
            return Err(illegal("k times the element size is 32 bytes"));
        }
        if (wgmma.transpose_a || wgmma.transpose_b) && element_bytes != 2 {
            return Err(illegal("only 16-bit elements can be transposed"));
        }
        if matches!(kind, Kind::Int { .. }) && (wgmma.negate_a || wgmma.negate_b) {
            return Err(illegal("integer operands have no negation"));
        }
        Ok(Self {
            n: wgmma.n.into(),
            kind,
            element_bytes,
            negate: wgmma.negate_a != wgmma.negate_b,
        })
    }

    /// Columns of D, rows of packed B.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.n
    }

    /// Bytes of one element of A and B.
    #[must_use]
    pub const fn element_bytes(&self) -> usize {
        self.element_bytes
    }

    /// Bytes of packed B.
    #[must_use]
    pub const fn b_bytes(&self) -> usize {
        self.n * K_BYTES
    }

    /// Registers of D per thread.
    #[must_use]
    pub const fn registers(&self) -> usize {
        match self.kind {
            Kind::Float(Mma {
                d: Accumulator::F16,
                ..
            }) => self.n / 4,
            _ => self.n / 2,
        }
    }

    /// `D = A·B` or `D = A·B + D`.
    ///
    /// # Errors
    /// `IllegalInstruction` when the operands do not have the sizes of this tile.
    pub fn multiply_add(
        &self,
        a: &[u8],
        b: &[u8],
        d: &mut Accumulators<'_>,
        addend: Addend,
    ) -> Result<(), FaultKind> {
        self.multiply_add_at(Level::best(), (a, b), d, addend)
    }

    /// [`Self::multiply_add`] with given vector extensions.
    ///
    /// # Errors
    /// As there.
    pub fn multiply_add_at(
        &self,
        level: Level,
        (a, b): (&[u8], &[u8]),
        d: &mut Accumulators<'_>,
        addend: Addend,
    ) -> Result<(), FaultKind> {
        if a.len() != A_BYTES || b.len() != self.b_bytes() || d.registers() != self.registers() {
            return Err(FaultKind::IllegalInstruction {
                what: format!(
                    "wgmma n{}: A has {} bytes, B {}, D {} registers; expected {A_BYTES}, {}, {}",
                    self.n,
                    a.len(),
                    b.len(),
                    d.registers(),
                    self.b_bytes(),
                    self.registers()
                ),
            });
        }
        match self.kind {
            Kind::Float(mma) => {
                let task = fast::Task {
                    mma,
                    n: self.n,
                    negate: self.negate,
                    a,
                    b,
                    addend,
                };
                fast::multiply_add(level, &task, d);
            }
            Kind::Int { kind, saturate } => {
                let task = integer::Task {
                    kind,
                    saturate,
                    n: self.n,
                    a,
                    b,
                    addend,
                };
                integer::multiply_add(level, &task, d);
            }
        }
        Ok(())
    }
}

fn kind(wgmma: &Wgmma) -> Option<Kind> {
    use MmaTy::{B1, BF16, E4M3, E5M2, F16, F32, S8, S32, TF32, U8};
    let format = |ty| match ty {
        E4M3 => Format::E4M3,
        E5M2 => Format::E5M2,
        F16 => Format::F16,
        BF16 => Format::BF16,
        _ => Format::Tf32,
    };
    let float = |d| {
        Kind::Float(Mma {
            family: Family::Wgmma,
            a: format(wgmma.a),
            b: format(wgmma.b),
            d,
        })
    };
    Some(match (wgmma.a, wgmma.b, wgmma.d) {
        (F16, F16, F32) | (BF16, BF16, F32) | (TF32, TF32, F32) => float(Accumulator::F32),
        (E4M3 | E5M2, E4M3 | E5M2, F32) => float(Accumulator::F32),
        (F16, F16, F16) => float(Accumulator::F16),
        (E4M3 | E5M2, E4M3 | E5M2, F16) => float(Accumulator::F16),
        (S8 | U8, S8 | U8, S32) => Kind::Int {
            kind: Integers::Bytes {
                a_signed: wgmma.a == S8,
                b_signed: wgmma.b == S8,
            },
            saturate: wgmma.saturate,
        },
        (B1, B1, S32) => Kind::Int {
            kind: Integers::Bits { and: true },
            saturate: false,
        },
        _ => return None,
    })
}

/// The accumulator registers of a warpgroup, or of one warp.
#[derive(Debug)]
pub struct Accumulators<'a> {
    storage: Storage<'a>,
}

#[derive(Debug)]
enum Storage<'a> {
    Files {
        files: [&'a mut RegFile; 4],
        slots: &'a [u32],
    },
    /// The registers of one warp.
    Warp(&'a mut [[u32; 32]]),
}

impl<'a> Accumulators<'a> {
    /// `files` are the register files of the four warps, `slots` the slots of registers 0, 1, … of
    /// D, the same in each warp.
    ///
    /// # Errors
    /// `IllegalInstruction` when a slot is outside of a file.
    pub fn new(files: [&'a mut RegFile; 4], slots: &'a [u32]) -> Result<Self, FaultKind> {
        let have = files.iter().map(|file| file.slots()).min().unwrap_or(0);
        match slots.iter().find(|&&slot| slot >= have) {
            Some(slot) => Err(FaultKind::IllegalInstruction {
                what: format!("wgmma accumulator slot {slot} of {have}"),
            }),
            None => Ok(Self {
                storage: Storage::Files { files, slots },
            }),
        }
    }

    /// The registers of one warp.
    pub(in crate::tensor) fn of_warp(registers: &'a mut [[u32; 32]]) -> Self {
        Self {
            storage: Storage::Warp(registers),
        }
    }

    /// Registers of D per thread.
    #[inline]
    fn registers(&self) -> usize {
        match &self.storage {
            Storage::Files { slots, .. } => slots.len(),
            Storage::Warp(registers) => registers.len(),
        }
    }

    /// The 32 lanes of register `register` of warp `warp`.
    #[inline]
    fn lanes(&self, warp: usize, register: usize) -> &[u32; 32] {
        match &self.storage {
            Storage::Files { files, slots } => files[warp].lanes32(Slot(slots[register])),
            Storage::Warp(registers) => &registers[register],
        }
    }

    #[inline]
    fn lanes_mut(&mut self, warp: usize, register: usize) -> &mut [u32; 32] {
        match &mut self.storage {
            Storage::Files { files, slots } => files[warp].lanes32_mut(Slot(slots[register])),
            Storage::Warp(registers) => &mut registers[register],
        }
    }
}

/// A from registers: the four fragments of each warp, as packed rows.
///
/// Register 0 of lane `l` holds bytes `4·(l%4)..+4` of row `16w + l/4`, register 1 the row eight
/// below, registers 2 and 3 the same rows 16 bytes further along K; for every element type.
pub fn pack_a(files: [&RegFile; 4], slots: [Slot; 4], packed: &mut [u8; A_BYTES]) {
    for (warp, file) in files.into_iter().enumerate() {
        for (register, slot) in slots.into_iter().enumerate() {
            for (lane, word) in file.lanes32(slot).iter().enumerate() {
                let row = 16 * warp + 8 * (register % 2) + lane / 4;
                let byte = 16 * (register / 2) + 4 * (lane % 4);
                let at = row * K_BYTES + byte;
                packed[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
}
