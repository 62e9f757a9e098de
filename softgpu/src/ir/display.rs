//! A readable dump: one line per instruction, `b3:` before each block.
//!
//! Registers print as `p1` (predicate), `r5` (32 bits), `d6` (64 bits), `q8` (128 bits) with their
//! slots, constants in hexadecimal.

use std::fmt::{self, Display, Formatter};

use super::{Class, Function, Guard, Instr, Op, Operand, Reg};

impl Display for Reg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let letter = match self.class {
            Class::Pred => 'p',
            Class::B32 => 'r',
            Class::B64 => 'd',
            Class::B128 => 'q',
        };
        write!(f, "{letter}{}", self.slot)
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reg(reg) => write!(f, "{reg}"),
            Self::Imm(bits) => write!(f, "{bits:#x}"),
            Self::NotPred(reg) => write!(f, "!{reg}"),
        }
    }
}

impl Display for Guard {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "!" } else { "" };
        write!(f, "@{not}p{}", self.slot)
    }
}

fn list<T: Display>(f: &mut Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

impl Display for Instr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(guard) = self.guard {
            write!(f, "{guard} ")?;
        }
        if !self.dst.is_empty() {
            list(f, &self.dst)?;
            write!(f, " = ")?;
        }
        match &self.op {
            Op::Bra(target) => write!(f, "Bra b{target}")?,
            op => write!(f, "{op:?}")?,
        }
        if !self.src.is_empty() {
            write!(f, " ")?;
            list(f, &self.src)?;
        }
        Ok(())
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: slots {}, preds {}, local {}, shared {}, dynamic align {}",
            self.name,
            self.slots,
            self.preds,
            self.local_bytes,
            self.static_shared,
            self.dynamic_align
        )?;
        for param in &self.params {
            writeln!(
                f,
                "  param {} +{} align {}",
                param.offset, param.size, param.align
            )?;
        }
        for (index, block) in self.blocks.iter().enumerate() {
            writeln!(f, "b{index}:")?;
            for instr in &block.instrs {
                writeln!(f, "  {instr}  ;{}", instr.line)?;
            }
        }
        Ok(())
    }
}
