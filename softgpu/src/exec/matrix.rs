//! Matrix instructions of one warp: `mma.sync`, `wmma`, `ldmatrix`, `stmatrix`, `movmatrix`.
#![expect(
    unsafe_code,
    reason = "matrix rows are read and written through guest pointers"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lanes are below 32; halves of words are cut off on purpose"
)]

use smallvec::SmallVec;

use super::access::{MemCtx, SHARED_WINDOW, Span, window};
use super::counters::Counters;
use super::inst::LaneFault;
use super::regs::Slot;
use super::system::read_bytes;
use super::traffic::Deed;
use super::warp::Warp;
use super::warpops::words;
use crate::error::FaultKind;
use crate::ir::{self, Instr, Op, Operand, Reg, Space, WmmaAccess, WmmaMatrix};
use crate::mem::Access;
use crate::tensor::mma::{self, Multiply};

/// Whether rows and columns change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transposed {
    No,
    Yes,
}

impl From<bool> for Transposed {
    /// From the flag `.trans`.
    fn from(trans: bool) -> Self {
        if trans { Self::Yes } else { Self::No }
    }
}

/// A generic address of an instruction that only takes shared memory.
fn generic_shared(address: u64) -> (Space, u64) {
    match window(address) {
        Some(Space::Shared | Space::SharedCluster) => (Space::Shared, address - SHARED_WINDOW),
        // Any other space is refused with this address.
        _ => (Space::Shared, address),
    }
}

impl Warp {
    /// Executes a matrix instruction; all live lanes are here.
    pub(super) fn matrix(&mut self, ctx: &MemCtx<'_>, instr: &Instr) -> Result<(), LaneFault> {
        match instr.op {
            Op::Ldmatrix {
                num,
                trans,
                space,
                offset,
            } => self.load_matrix(ctx, instr, (num, trans.into()), (space, offset)),
            Op::Stmatrix {
                num,
                trans,
                space,
                offset,
            } => self.store_matrix(ctx, instr, (num, trans.into()), (space, offset)),
            Op::Movmatrix => {
                self.transpose(instr);
                Ok(())
            }
            Op::Mma(shape) => self.multiply(instr, &shape),
            Op::WmmaLoad(access) => self.wmma_load(ctx, instr, &access),
            Op::WmmaStore(access) => self.wmma_store(ctx, instr, &access),
            _ => Ok(()),
        }
    }

    fn multiply(&mut self, instr: &Instr, shape: &ir::Mma) -> Result<(), LaneFault> {
        let fault = |kind| LaneFault { lane: 0, kind };
        let multiply = Multiply::new(shape).map_err(fault)?;
        let (a, b) = shape.operand_registers();
        if shape.d == ir::MmaTy::F64 {
            let value = |operand: &Operand| -> [f64; 32] {
                std::array::from_fn(|lane| {
                    f64::from_bits(self.regs.operand_u64(operand, lane as u32))
                })
            };
            let operands: SmallVec<[_; 16]> = instr.src.iter().map(value).collect();
            let (a, rest) = operands.split_at(a);
            let (b, c) = rest.split_at(b);
            let d = multiply.execute_f64(a, b, c);
            for (reg, lanes) in instr.dst.iter().zip(d) {
                let bits = lanes.map(f64::to_bits);
                self.regs.write64(Slot(reg.slot), self.live, &bits);
            }
            return Ok(());
        }
        let operands: SmallVec<[_; 24]> =
            (instr.src.iter().map(|operand| words(&self.regs, operand))).collect();
        let (a, rest) = operands.split_at(a);
        let (b, c) = rest.split_at(b);
        let d = multiply.execute(a, b, c);
        for (reg, lanes) in instr.dst.iter().zip(&d) {
            self.regs.write32(Slot(reg.slot), self.live, lanes);
        }
        Ok(())
    }

    /// `movmatrix`.
    fn transpose(&mut self, instr: &Instr) {
        let from = words(&self.regs, &instr.src[0]);
        let element =
            |row: usize, column: usize| from[4 * row + column / 2] >> (16 * (column % 2)) & 0xFFFF;
        let values = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            element(column, row) | element(column + 1, row) << 16
        });
        let dst = Slot(instr.dst[0].slot);
        self.regs.write32(dst, self.live, &values);
    }

    /// The host addresses of the rows (or columns) of a matrix of `wmma`, and the bytes of each.
    fn wmma_lines(
        &self,
        ctx: &MemCtx<'_>,
        instr: &Instr,
        (access, kind): (&WmmaAccess, Access),
    ) -> Result<(Vec<*mut u8>, usize), LaneFault> {
        let uniform = |operand: &Operand, what: &str| {
            let value = self.regs.uniform_u64(operand, self.live);
            value.ok_or_else(|| LaneFault {
                lane: 0,
                kind: FaultKind::IllegalInstruction {
                    what: format!("wmma {what} differs between lanes"),
                },
            })
        };
        let (lines, length) = mma::memory_lines(access);
        let bits = access.ty.bits() as u64;
        let stride = match instr.src.last() {
            Some(operand) if access.stride => uniform(operand, "stride")? & 0xffff_ffff,
            _ => length as u64,
        };
        let base = uniform(&instr.src[0], "address")?.wrapping_add_signed(access.offset);
        let bytes = length as u64 * bits / 8;
        let mut pointers = Vec::with_capacity(lines);
        for line in 0..lines as u64 {
            let address = base.wrapping_add(line.wrapping_mul(stride) * bits / 8);
            let address = match access.space {
                Space::Shared => address & 0xffff_ffff,
                _ => address,
            };
            // Matrices begin at 32-byte boundaries and rows at 16-byte ones; fragments of small
            // rows are only as aligned as they are long.
            let span = Span {
                bytes,
                align: if line == 0 { 32 } else { bytes.min(16) },
                access: kind,
            };
            pointers.push(ctx.resolve_one(access.space, address, 0, span)?);
        }
        Ok((pointers, bytes as usize))
    }

    fn wmma_load(
        &mut self,
        ctx: &MemCtx<'_>,
        instr: &Instr,
        access: &WmmaAccess,
    ) -> Result<(), LaneFault> {
        let (lines, bytes) = self.wmma_lines(ctx, instr, (access, Access::Read))?;
        let mut memory = vec![0; lines.len() * bytes];
        for (line, to) in lines.into_iter().zip(memory.chunks_exact_mut(bytes)) {
            for (i, byte) in to.iter_mut().enumerate() {
                [*byte] = read_bytes(line.wrapping_add(i));
            }
        }
        let fragment = mma::load(access, &memory);
        self.write_fragment(&instr.dst, &fragment);
        Ok(())
    }

    /// Writes the words of a fragment: two for each 64-bit register.
    fn write_fragment(&mut self, dst: &[Reg], fragment: &[[u32; 32]]) {
        for (i, reg) in dst.iter().enumerate() {
            if reg.class == ir::Class::B64 {
                let (low, high) = (&fragment[2 * i], &fragment[2 * i + 1]);
                let values: [u64; 32] =
                    std::array::from_fn(|l| u64::from(low[l]) | u64::from(high[l]) << 32);
                self.regs.write64(Slot(reg.slot), self.live, &values);
            } else {
                self.regs.write32(Slot(reg.slot), self.live, &fragment[i]);
            }
        }
    }

    fn wmma_store(
        &mut self,
        ctx: &MemCtx<'_>,
        instr: &Instr,
        access: &WmmaAccess,
    ) -> Result<(), LaneFault> {
        let (lines, bytes) = self.wmma_lines(ctx, instr, (access, Access::Write))?;
        let mut fragment: Vec<[u32; 32]> = Vec::new();
        for operand in &instr.src[1..=access.registers()] {
            let wide: [u64; 32] =
                std::array::from_fn(|lane| self.regs.operand_u64(operand, lane as u32));
            fragment.push(wide.map(|value| value as u32));
            if access.ty == ir::MmaTy::F64 {
                fragment.push(wide.map(|value| (value >> 32) as u32));
            }
        }
        debug_assert_eq!(access.matrix, WmmaMatrix::C);
        let memory = mma::store(access, &fragment);
        for (line, from) in lines.into_iter().zip(memory.chunks_exact(bytes)) {
            // SAFETY: `wmma_lines` resolved as many writable bytes for every line.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), line, bytes) };
        }
        Ok(())
    }

    /// Counts what a matrix instruction computes and moves.
    pub(super) fn count_matrix(&self, counters: &mut Counters, ctx: &MemCtx<'_>, instr: &Instr) {
        let (space, offset, bytes, deed) = match &instr.op {
            Op::Mma(shape) => {
                counters.mma_macs += shape.macs();
                return;
            }
            Op::Ldmatrix {
                num, space, offset, ..
            } => (*space, *offset, 128 * u64::from(*num), Deed::Read),
            Op::Stmatrix {
                num, space, offset, ..
            } => (*space, *offset, 128 * u64::from(*num), Deed::Write),
            Op::WmmaLoad(access) => (access.space, access.offset, access.bytes(), Deed::Read),
            Op::WmmaStore(access) => (access.space, access.offset, access.bytes(), Deed::Write),
            _ => return,
        };
        counters.bytes.add(space, bytes);
        let Some(traffic) = &mut counters.traffic else {
            return;
        };
        let address = |lane| {
            let address = self.regs.operand_u64(&instr.src[0], lane);
            address.wrapping_add_signed(offset)
        };
        if let Op::WmmaLoad(_) | Op::WmmaStore(_) = &instr.op {
            traffic.unbanked(ctx, (space, address(0)), (deed, bytes));
        } else {
            let rows: SmallVec<[u64; 32]> = (0..bytes as u32 / 16).map(address).collect();
            traffic.matrix_rows(self.rank, &rows);
        }
    }

    /// The host addresses of the rows of `num` matrices, whose guest addresses lanes 0.. hold.
    fn matrix_rows(
        &self,
        ctx: &MemCtx<'_>,
        (instr, num): (&Instr, u8),
        (space, offset): (Space, i64),
        access: Access,
    ) -> Result<[*mut u8; 32], LaneFault> {
        let mut rows = [std::ptr::null_mut(); 32];
        let span = Span {
            bytes: 16,
            align: 16,
            access,
        };
        for lane in 0..u32::from(num) * 8 {
            let address = self.regs.operand_u64(&instr.src[0], lane);
            let address = address.wrapping_add_signed(offset);
            let (space, address) = match space {
                Space::Generic => generic_shared(address),
                _ => (Space::Shared, address & 0xffff_ffff),
            };
            rows[lane as usize] = ctx.resolve_one(space, address, lane, span)?;
        }
        Ok(rows)
    }

    fn load_matrix(
        &mut self,
        ctx: &MemCtx<'_>,
        instr: &Instr,
        (num, transposed): (u8, Transposed),
        place: (Space, i64),
    ) -> Result<(), LaneFault> {
        let rows = self.matrix_rows(ctx, (instr, num), place, Access::Read)?;
        for (matrix, dst) in instr.dst.iter().enumerate() {
            let rows: [[u8; 16]; 8] = std::array::from_fn(|row| read_bytes(rows[matrix * 8 + row]));
            let element = |row: usize, column: usize| {
                let (row, column) = if transposed == Transposed::Yes {
                    (column, row)
                } else {
                    (row, column)
                };
                u32::from(u16::from_le_bytes([
                    rows[row][2 * column],
                    rows[row][2 * column + 1],
                ]))
            };
            let values = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                element(row, column) | element(row, column + 1) << 16
            });
            self.regs.write32(Slot(dst.slot), self.live, &values);
        }
        Ok(())
    }

    fn store_matrix(
        &mut self,
        ctx: &MemCtx<'_>,
        instr: &Instr,
        (num, transposed): (u8, Transposed),
        place: (Space, i64),
    ) -> Result<(), LaneFault> {
        let rows = self.matrix_rows(ctx, (instr, num), place, Access::Write)?;
        for (matrix, source) in instr.src[1..].iter().enumerate() {
            let values = words(&self.regs, source);
            for (lane, value) in values.into_iter().enumerate() {
                for (half, bits) in [(0, value as u16), (1, (value >> 16) as u16)] {
                    let (row, column) = (lane / 4, lane % 4 * 2 + half);
                    let (row, column) = if transposed == Transposed::Yes {
                        (column, row)
                    } else {
                        (row, column)
                    };
                    let to = rows[matrix * 8 + row].wrapping_add(2 * column);
                    // SAFETY: `matrix_rows` resolved 16 writable bytes, and the column is below 8.
                    unsafe { to.cast::<[u8; 2]>().write(bits.to_le_bytes()) };
                }
            }
        }
        Ok(())
    }
}
