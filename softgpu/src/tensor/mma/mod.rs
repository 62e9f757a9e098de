//! `mma.sync` and `wmma.mma` as arithmetic over the registers of one warp.
//!
//! Floating-point products with f16, bf16 and tf32 operands and all integer ones are tiles of 16
//! rows of the engine in [`super::wgmma`]; operands shorter than its 32 bytes of K are padded with
//! zeros, which take no part in a sum. What `ptxas` 13.0 makes of the rest for `sm_90a` is what is
//! done here:
//!
//! * FP8: operands are unpacked to f16, the low and then the high byte pairs are multiplied as f16
//!   from zero, the second product with the first as its addend; C is added last, to nearest even.
//! * m8n8k4 with f16: no tensor core; sums of `f32` multiplications and fused multiply-adds (see
//!   [`quad`]).
//! * f64: fused multiply-adds over k = 0, 1, …, each rounded as the instruction says.
//!
//! An f32 C with an f16 D is rounded to f16 first.

mod layout;
mod quad;

#[cfg(test)]
mod tests;

use super::convert;
use super::model::{self, Accumulator, Family};
use super::wgmma::fast;
use super::wgmma::integer::{self, Integers};
use super::wgmma::simd::Level;
use super::wgmma::{Accumulators, Addend};
use crate::error::FaultKind;
use crate::exec::lanes::double::fused;
use crate::exec::lanes::round::Mode;
use crate::ir::{BitOp, Mma, MmaTy};
use crate::tensor::format::Format;

pub(crate) use layout::{load, memory_lines, store};

/// Registers of a warp, 32 lanes each.
type Registers = Vec<[u32; 32]>;

/// Bytes of K of the engine's tiles.
const K_BYTES: usize = super::operand::K_BYTES;

/// What computes an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float(model::Mma),
    /// FP8 by way of f16.
    Fp8(model::Mma),
    Integer(Integers),
    Quad,
    F64,
}

/// A validated instruction.
#[derive(Debug, Clone, Copy)]
pub struct Multiply {
    mma: Mma,
    kind: Kind,
}

impl Multiply {
    /// Finds out what computes an instruction.
    ///
    /// # Errors
    /// `IllegalInstruction` for types that do not go together.
    pub fn new(mma: &Mma) -> Result<Self, FaultKind> {
        use MmaTy::{B1, BF16, E4M3, E5M2, F16, F32, F64, S4, S8, TF32, U4, U8};
        let float = |format| {
            let d = accumulator(mma.d)?;
            Some(model::Mma {
                family: Family::MmaSync,
                a: format,
                b: format,
                d,
            })
        };
        let kind = match (mma.a, mma.b) {
            _ if mma.is_quad() => Some(Kind::Quad),
            (F16, F16) => float(Format::F16).map(Kind::Float),
            (BF16, BF16) => float(Format::BF16).map(Kind::Float),
            (TF32, TF32) => float(Format::Tf32).map(Kind::Float),
            (E4M3 | E5M2, E4M3 | E5M2) => float(Format::F16).map(Kind::Fp8),
            (S8 | U8, S8 | U8) => Some(Kind::Integer(Integers::Bytes {
                a_signed: mma.a == S8,
                b_signed: mma.b == S8,
            })),
            (S4 | U4, S4 | U4) => Some(Kind::Integer(Integers::Nibbles {
                a_signed: mma.a == S4,
                b_signed: mma.b == S4,
            })),
            (B1, B1) => Some(Kind::Integer(Integers::Bits {
                and: mma.bits == Some(BitOp::And),
            })),
            (F64, F64) => Some(Kind::F64),
            _ => None,
        };
        let accumulators = matches!(mma.c, F16 | F32) == matches!(mma.d, F16 | F32);
        match kind.filter(|_| accumulators) {
            Some(kind) => Ok(Self { mma: *mma, kind }),
            None => Err(FaultKind::IllegalInstruction {
                what: format!("mma {mma:?}: no such combination of types"),
            }),
        }
    }

    /// D from the registers of A, B and C, as many as [`Mma::operand_registers`] and
    /// [`Mma::accumulator_registers`] say; not for f64.
    #[must_use]
    pub fn execute(&self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Registers {
        if self.kind == Kind::Quad {
            return quad::multiply(&self.mma, a, b, c);
        }
        let (m, n, k) = self.mma.shape;
        let (m, n, k) = (usize::from(m), usize::from(n), usize::from(k));
        let words = k * self.mma.a.bits() / 32;
        let c = self.converted(c);
        let b = layout::pack_b(b, n, words);
        let per_block = c.len() / m.div_ceil(16);
        let mut d = Registers::with_capacity(c.len());
        for (block, c) in c.chunks(per_block).enumerate() {
            let a = layout::pack_a(a, m, (block, words));
            let mut tile = layout::widen(c, m);
            self.tile(&a, &b, (n, k), &mut tile);
            d.extend(layout::narrow(&tile, m));
        }
        d
    }

    /// C in the type of D.
    fn converted(&self, c: &[[u32; 32]]) -> Registers {
        match (self.mma.c, self.mma.d) {
            (MmaTy::F16, MmaTy::F32) => c
                .chunks_exact(1)
                .flat_map(|pair| {
                    let half = |shift: u32| {
                        pair[0].map(|word| {
                            let [low, high, ..] = (word >> shift).to_le_bytes();
                            convert::f32_from_f16(u16::from_le_bytes([low, high])).to_bits()
                        })
                    };
                    [half(0), half(16)]
                })
                .collect(),
            (MmaTy::F32, MmaTy::F16) => c
                .chunks_exact(2)
                .map(|pair| {
                    let half = |bits: u32| u32::from(convert::f16_from_f32(f32::from_bits(bits)));
                    std::array::from_fn(|lane| half(pair[0][lane]) | half(pair[1][lane]) << 16)
                })
                .collect(),
            _ => c.to_vec(),
        }
    }

    /// 16 rows of D, which hold C before.
    fn tile(&self, a: &[u8], b: &[u8], (n, k): (usize, usize), d: &mut [[u32; 32]]) {
        let level = if n == 8 {
            Level::narrow()
        } else {
            Level::best()
        };
        let float = |mma, a: &[u8], b: &[u8], addend, d: &mut [[u32; 32]]| {
            let task = fast::Task {
                mma,
                n,
                negate: false,
                a,
                b,
                addend,
            };
            fast::multiply_add(level, &task, &mut Accumulators::of_warp(d));
        };
        match self.kind {
            Kind::Float(mma) => float(mma, a, b, Addend::Accumulator, d),
            Kind::Fp8(mma) => {
                let unpack = |rows: &[u8], ty, high| layout::unpack_fp8(rows, (ty, k), high);
                let mut product = vec![[0; 32]; d.len()];
                for (high, addend) in [(0, Addend::Zero), (1, Addend::Accumulator)] {
                    let a = unpack(a, self.mma.a, high);
                    let b = unpack(b, self.mma.b, high);
                    float(mma, &a, &b, addend, &mut product);
                }
                for (d, product) in d.iter_mut().zip(&product) {
                    for (d, &product) in d.iter_mut().zip(product) {
                        *d = added(mma.d, *d, product);
                    }
                }
            }
            Kind::Integer(kind) => {
                let task = integer::Task {
                    kind,
                    saturate: self.mma.saturate,
                    n,
                    a,
                    b,
                    addend: Addend::Accumulator,
                };
                integer::multiply_add(level, &task, &mut Accumulators::of_warp(d));
            }
            Kind::Quad | Kind::F64 => {}
        }
    }

    /// [`Self::execute`] for f64.
    #[must_use]
    pub fn execute_f64(&self, a: &[[f64; 32]], b: &[[f64; 32]], c: &[[f64; 32]]) -> Vec<[f64; 32]> {
        let (m, _, k) = self.mma.shape;
        let (m, k) = (usize::from(m), usize::from(k));
        let per_k = m / 8;
        let rows: Vec<f64> = (0..m * k)
            .map(|i| {
                let (row, k) = (i / k, i % k);
                a[k / 4 * per_k + row / 8][row % 8 * 4 + k % 4]
            })
            .collect();
        let columns: Vec<f64> = (0..8 * k)
            .map(|i| b[i % k / 4][i / k * 4 + i % k % 4])
            .collect();
        let place =
            |row: usize, column: usize| (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2);
        let mut d: Vec<f64> = (0..m * 8)
            .map(|i| {
                let (register, lane) = place(i / 8, i % 8);
                c[register][lane]
            })
            .collect();
        match Mode::written(self.mma.rounding) {
            None | Some(Mode::Nearest) => Level::narrow().double(&mut d, &rows, &columns, k),
            Some(mode) => {
                for (i, value) in d.iter_mut().enumerate() {
                    let (row, column) = (&rows[i / 8 * k..][..k], &columns[i % 8 * k..][..k]);
                    let pairs = row.iter().zip(column);
                    *value = pairs.fold(*value, |sum, (&a, &b)| fused(a, b, sum, mode));
                }
            }
        }
        let mut out = vec![[0.0; 32]; c.len()];
        for (i, value) in d.into_iter().enumerate() {
            let (register, lane) = place(i / 8, i % 8);
            out[register][lane] = value;
        }
        out
    }
}

const fn accumulator(ty: MmaTy) -> Option<Accumulator> {
    match ty {
        MmaTy::F16 => Some(Accumulator::F16),
        MmaTy::F32 => Some(Accumulator::F32),
        _ => None,
    }
}

/// Ordinary additions of C and a product, in one register.
fn added(d: Accumulator, c: u32, product: u32) -> u32 {
    match d {
        Accumulator::F32 => {
            let sum = f32::from_bits(c) + f32::from_bits(product);
            if sum.is_nan() { d.nan() } else { sum.to_bits() }
        }
        Accumulator::F16 => {
            let half = |c: u32, product: u32| {
                let value = |bits: u32| {
                    let [low, high, ..] = bits.to_le_bytes();
                    convert::f32_from_f16(u16::from_le_bytes([low, high]))
                };
                // The sum of two f16 is exact in f32.
                let sum = value(c) + value(product);
                let bits = if sum.is_nan() {
                    0x7FFF
                } else {
                    convert::f16_from_f32(sum)
                };
                u32::from(bits)
            };
            half(c, product) | half(c >> 16, product >> 16) << 16
        }
    }
}
