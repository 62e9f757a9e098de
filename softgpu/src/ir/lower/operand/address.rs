//! Operands that are addresses, with and without tensor coordinates.

use smallvec::smallvec;

use super::Gather;
use crate::error::PtxError;
use crate::ir::lower::VReg;
use crate::ir::lower::names::Binding;
use crate::ir::{Class, Instr, IntOp, Op, Operand as Value, Space, Ty};
use crate::ptx::ast::{Base, Operand};

impl Gather<'_, '_, '_> {
    /// Pushes the base of an address and returns its offset.
    pub(super) fn address(&mut self, operand: &Operand, space: Space) -> Result<i64, PtxError> {
        let (Operand::Address(base, offset) | Operand::Tensor(base, offset, _)) = operand else {
            return Err(self.pos.syntax("an address is wanted"));
        };
        let space = if space == Space::Param && self.builder.in_call() {
            Space::Local
        } else {
            space
        };
        let class = match space {
            Space::Shared | Space::SharedCluster => Class::B32,
            _ => Class::B64,
        };
        let mut actual = space;
        let mut offset = *offset;
        let value = match base {
            Base::Absolute(address) => Value::Imm(*address),
            Base::Name(sym) => match self.builder.names.get(*sym) {
                Some(Binding::Reg(_)) => {
                    let (reg, vreg) = self.register(*sym)?;
                    let small = matches!(space, Space::Local | Space::Param);
                    let short = (class == Class::B32 || small) && vreg == VReg::of(Ty::B32);
                    if !short && vreg != VReg::of(Ty::B64) {
                        return Err(self.width_error(*sym, vreg, Ty::B64));
                    }
                    Value::Reg(self.narrowed(reg, class))
                }
                Some(Binding::Variable { space, address }) => {
                    actual = space;
                    if space == Space::Local {
                        let (base, more) = self.builder.frame_address(address);
                        offset = offset.wrapping_add(more);
                        base
                    } else {
                        Value::Imm(address)
                    }
                }
                Some(Binding::Global(space)) => {
                    actual = space;
                    Value::Imm(self.global(*sym)?)
                }
                _ => {
                    let word = self.word(*sym);
                    return Err(self.pos.syntax(format!("`{word}` is not declared")));
                }
            },
        };
        self.check_space(space, actual)?;
        if self.fixed.space.is_none() && space != actual && space == Space::Param {
            self.fixed.space = Some(actual);
        } else if self.fixed.space.is_none() && self.builder.in_call() && actual == Space::Local {
            self.fixed.space = Some(Space::Local);
        }
        self.src.push(value);
        Ok(offset)
    }

    /// Whether a symbol of one space may be addressed by an instruction for another.
    fn check_space(&self, instruction: Space, symbol: Space) -> Result<(), PtxError> {
        let ok = match (instruction, symbol) {
            _ if instruction == symbol => true,
            (Space::SharedCluster, Space::Shared)
            // A `.param` variable of a call, which lives in the frame.
            | (Space::Param, Space::Local)
            | (Space::Generic, Space::Global | Space::Const) => true,
            _ => false,
        };
        if ok {
            return Ok(());
        }
        Err(self.pos.syntax(format!(
            "address of a variable in {symbol:?} space used as {instruction:?}"
        )))
    }

    /// Pushes an address with its offset added.
    pub(super) fn folded(&mut self, operand: &Operand, space: Space) -> Result<(), PtxError> {
        let offset = self.address(operand, space)?;
        if offset == 0 {
            return Ok(());
        }
        let Some(value) = self.src.pop() else {
            return Ok(());
        };
        let folded = match value {
            Value::Imm(address) => Value::Imm(address.wrapping_add_signed(offset)),
            other => {
                let wide = matches!(other, Value::Reg(reg) if reg.class == Class::B64);
                let ty = if wide { Ty::U64 } else { Ty::U32 };
                let bits = offset.cast_unsigned() & if wide { u64::MAX } else { 0xffff_ffff };
                let sum = self.temporary(ty);
                self.before.push(Instr {
                    op: Op::Int(IntOp::Add, ty),
                    guard: None,
                    dst: smallvec![sum],
                    src: smallvec![other, Value::Imm(bits)],
                    line: self.pos.line,
                });
                Value::Reg(sum)
            }
        };
        self.src.push(folded);
        Ok(())
    }

    pub(super) fn tensor(&mut self, operand: &Operand) -> Result<(), PtxError> {
        self.folded(operand, Space::Generic)?;
        let Operand::Tensor(_, _, coordinates) = operand else {
            return Ok(());
        };
        if coordinates.len() != usize::from(self.mods.rank) {
            return Err(self.pos.syntax(format!(
                "{} coordinates for a tensor of rank {}",
                coordinates.len(),
                self.mods.rank
            )));
        }
        coordinates
            .iter()
            .try_for_each(|item| self.source(item, Ty::S32))
    }
}
