//! Operands that are lists of registers of a matrix.

use super::Gather;
use crate::error::PtxError;
use crate::ir::{MmaTy, Ty};
use crate::ptx::ast::Operand;

impl Gather<'_, '_, '_> {
    pub(super) fn matrices(&self) -> usize {
        match (self.mods.has("x4"), self.mods.has("x2")) {
            (true, _) => 4,
            (_, true) => 2,
            _ => 1,
        }
    }

    /// A list of registers of a matrix.
    pub(super) fn fragment(
        &mut self,
        operand: &Operand,
        each: fn(&mut Self, &Operand, Ty) -> Result<(), PtxError>,
    ) -> Result<(), PtxError> {
        let ty = match self.mods.mma.first() {
            Some(MmaTy::F64) => Ty::B64,
            _ => Ty::B32,
        };
        let Operand::Vector(items) = operand else {
            return Err(self.pos.syntax("a `{}` list is wanted"));
        };
        items.iter().try_for_each(|item| each(self, item, ty))
    }

    /// A list of 32-bit registers.
    pub(super) fn registers(
        &mut self,
        operand: &Operand,
        wanted: Option<usize>,
        each: fn(&mut Self, &Operand, Ty) -> Result<(), PtxError>,
    ) -> Result<(), PtxError> {
        let Operand::Vector(items) = operand else {
            return Err(self.pos.syntax("a `{}` list is wanted"));
        };
        if wanted.is_some_and(|wanted| wanted != items.len()) {
            return Err(self
                .pos
                .syntax(format!("wrong number of registers: {}", items.len())));
        }
        items.iter().try_for_each(|item| each(self, item, Ty::B32))
    }

    pub(super) fn wgmma_a(&mut self, operand: &Operand) -> Result<(), PtxError> {
        if let Operand::Vector(_) = operand {
            self.fixed.a_regs = true;
            return self.registers(operand, Some(4), Self::source);
        }
        self.source(operand, Ty::U64)
    }
}
