//! Constant propagation and removal of dead instructions, both per register rather than per path.
//!
//! A register whose only definition is an unguarded `mov` of a constant holds that constant
//! wherever its value is defined, and may hold anything elsewhere: its readers take the constant.
//! Integer operations on two constants are computed; those with a neutral element become copies.
//! An instruction without side effects whose results nobody reads is dropped.

use smallvec::smallvec;

use crate::ir::{Block, Instr, IntOp, Op, Operand, Reg, Space, Ty};

use super::{VReg, is_volatile};

pub(super) fn simplify(blocks: &mut [Block], registers: &mut [VReg]) {
    // Each round may turn further instructions into constants; chains are short.
    for _ in 0..4 {
        if !propagate(blocks, registers.len()) {
            break;
        }
    }
    remove_dead(blocks, registers.len());
}

/// One round; returns whether anything became a constant or a copy.
fn propagate(blocks: &mut [Block], registers: usize) -> bool {
    let mut definitions = vec![0u32; registers];
    let mut constant: Vec<Option<u64>> = vec![None; registers];
    for instr in instructions(blocks) {
        for dst in &instr.dst {
            definitions[dst.slot as usize] += 1;
            if let (Op::Mov, None, [Operand::Imm(bits)]) =
                (&instr.op, instr.guard, instr.src.as_slice())
            {
                constant[dst.slot as usize] = Some(*bits);
            }
        }
    }
    let mut folded = false;
    for block in blocks {
        for instr in &mut block.instrs {
            if !takes_constants(&instr.op) {
                continue;
            }
            for src in &mut instr.src {
                let (Operand::Reg(reg) | Operand::NotPred(reg)) = *src else {
                    continue;
                };
                let slot = reg.slot as usize;
                if let (1, Some(bits)) = (definitions[slot], constant[slot]) {
                    *src = match src {
                        Operand::NotPred(_) => Operand::Imm(bits ^ 1),
                        _ => Operand::Imm(bits),
                    };
                }
            }
            folded |= fold(instr);
        }
    }
    folded
}

/// Turns an integer operation with a known result into a `mov`.
fn fold(instr: &mut Instr) -> bool {
    let Op::Int(op, ty) = instr.op else {
        return false;
    };
    let mask = match ty.bytes() {
        4 if ty != Ty::Pred => 0xffff_ffff,
        8 => u64::MAX,
        _ => return false,
    };
    let value = match (op, instr.src.as_slice()) {
        (op, [Operand::Imm(a), Operand::Imm(b)]) => match op {
            IntOp::Add => Operand::Imm(a.wrapping_add(*b) & mask),
            IntOp::Sub => Operand::Imm(a.wrapping_sub(*b) & mask),
            IntOp::And => Operand::Imm(a & b),
            IntOp::Or => Operand::Imm(a | b),
            IntOp::Xor => Operand::Imm(a ^ b),
            _ => return false,
        },
        (
            IntOp::Add | IntOp::Or | IntOp::Xor,
            [other, Operand::Imm(0)] | [Operand::Imm(0), other],
        )
        | (IntOp::Sub | IntOp::Shl | IntOp::Shr, [other, Operand::Imm(0)]) => *other,
        _ => return false,
    };
    instr.op = Op::Mov;
    instr.src = smallvec![value];
    true
}

fn instructions(blocks: &[Block]) -> impl Iterator<Item = &Instr> {
    blocks.iter().flat_map(|block| &block.instrs)
}

/// Lane-wise arithmetic, whose sources may all be constants.
fn takes_constants(op: &Op) -> bool {
    matches!(
        op,
        Op::Mov
            | Op::Int(..)
            | Op::Mad(..)
            | Op::Float(..)
            | Op::Fma(..)
            | Op::FMinMax { .. }
            | Op::Setp { .. }
            | Op::Selp(_)
            | Op::Shf { .. }
            | Op::Bfe(_)
            | Op::Bfi(_)
            | Op::Prmt(_)
            | Op::Lop3(_)
            | Op::Pack { .. }
    )
}

/// Whether an instruction does nothing but write its destinations.
pub(super) fn is_pure(op: &Op) -> bool {
    match op {
        Op::Special(special) => !is_volatile(*special),
        // The carry flag is a result as well.
        Op::Carry { carry_out, .. } => !carry_out,
        Op::Ld(access) => access.space == Space::Param,
        Op::Mov
        | Op::Frame
        | Op::Pack { .. }
        | Op::Unpack { .. }
        | Op::Int(..)
        | Op::IntUnary(..)
        | Op::Mad(..)
        | Op::Float(..)
        | Op::Fma(..)
        | Op::FMinMax { .. }
        | Op::FloatUnary(..)
        | Op::Copysign(_)
        | Op::Cvt { .. }
        | Op::Setp { .. }
        | Op::Set { .. }
        | Op::Selp(_)
        | Op::Slct { .. }
        | Op::Arith(_)
        | Op::Shf { .. }
        | Op::Bfe(_)
        | Op::Bfi(_)
        | Op::Prmt(_)
        | Op::Lop3(_)
        | Op::Dp4a(..)
        | Op::Cvta { .. }
        | Op::Isspacep(_)
        | Op::Mapa { .. }
        | Op::Getctarank { .. } => true,
        _ => false,
    }
}

fn used(instr: &Instr) -> impl Iterator<Item = usize> + '_ {
    let sources = instr.src.iter().filter_map(|src| match src {
        Operand::Reg(reg) | Operand::NotPred(reg) => Some(reg.slot as usize),
        Operand::Imm(_) => None,
    });
    let guard = instr.guard.map(|guard| guard.slot as usize);
    sources.chain(guard)
}

fn remove_dead(blocks: &mut [Block], registers: usize) {
    let mut uses = vec![0u32; registers];
    let mut definers: Vec<Vec<(u32, u32)>> = vec![Vec::new(); registers];
    for (b, block) in (0..).zip(blocks.iter()) {
        for (i, instr) in (0..).zip(&block.instrs) {
            used(instr).for_each(|reg| uses[reg] += 1);
            for dst in &instr.dst {
                definers[dst.slot as usize].push((b, i));
            }
        }
    }
    let mut dead: Vec<Vec<bool>> = blocks.iter().map(|b| vec![false; b.instrs.len()]).collect();
    let mut work: Vec<usize> = (0..registers).filter(|&reg| uses[reg] == 0).collect();
    while let Some(reg) = work.pop() {
        for &(b, i) in &definers[reg] {
            let instr = &blocks[b as usize].instrs[i as usize];
            let unread = |dst: &Reg| uses[dst.slot as usize] == 0;
            if dead[b as usize][i as usize] || !is_pure(&instr.op) || !instr.dst.iter().all(unread)
            {
                continue;
            }
            dead[b as usize][i as usize] = true;
            for source in used(instr) {
                uses[source] -= 1;
                if uses[source] == 0 {
                    work.push(source);
                }
            }
        }
    }
    for (block, dead) in blocks.iter_mut().zip(&dead) {
        let mut dead = dead.iter();
        block.instrs.retain(|_| dead.next() != Some(&true));
    }
}
