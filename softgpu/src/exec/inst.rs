//! Decoded instructions: what a warp executes.
//!
//! [`encode`](super::lanes::encode) turns an [`ir::Instr`](crate::ir::Instr) into an [`Inst`]: a
//! function pointer chosen once for the instruction's types and the host's vector extensions, and
//! operand slots. Instructions that only touch registers have a handler of type [`AluFn`], those
//! that touch memory a [`MemFn`]; everything else is the machine's and carries an index.

use std::collections::HashMap;
use std::sync::Arc;

use super::access::MemCtx;
use super::regs::{Lanes, PredSlot, RegFile, Slot};
use crate::error::FaultKind;
use crate::ir::{Class, Guard, Operand, Reg};

/// Executes a register-only instruction for the lanes of `mask`.
///
/// # Safety
/// The host has the vector extensions for which the handler was compiled, and every slot of the
/// instruction lies in the file (see [`ConstBank::slots`] and [`ConstBank::preds`]) and, for
/// constant slots, in the bank it was encoded with.
pub type AluFn = unsafe fn(&mut RegFile, mask: u32, &Inst);

/// Executes a memory instruction for the lanes of `mask`. After a fault the destination registers
/// and the memory of other lanes are unspecified.
///
/// # Safety
/// As for [`AluFn`]; the pointers in [`MemCtx`] are valid for the lengths stated there.
pub type MemFn =
    unsafe fn(&mut RegFile, mask: u32, &Inst, &mut MemCtx<'_>) -> Result<(), Box<LaneFault>>;

/// When the machine must look at an access: [`Code::Mem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// Only if someone wants to know of every access.
    Never,
    /// While weak loads count as polls.
    Armed,
    /// Each time it executes.
    Always,
}

/// Who executes an instruction, and how.
#[derive(Debug, Clone, Copy)]
pub enum Code {
    /// Registers only.
    Alu(AluFn),
    /// Registers and memory.
    Mem(MemFn, Notice),
    /// The machine: index into the kernel's table of [`ir::Instr`](crate::ir::Instr).
    Sys(u32),
}

/// A fault in one lane of a memory instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneFault {
    /// The first lane concerned.
    pub lane: u32,
    /// What happened.
    pub kind: FaultKind,
}

/// A decoded instruction; 64 bytes.
#[derive(Debug, Clone)]
pub struct Inst {
    /// Handler.
    pub code: Code,
    /// Immediate: address offset, truth table or modifiers, as the handler defines.
    pub imm: u64,
    /// Operands beyond the four below: vector elements, parts of a pack.
    pub list: Option<Box<[Slot]>>,
    /// `@p`; [`PredSlot::TRUE`] if unguarded.
    pub guard: PredSlot,
    /// Destination.
    pub dst: Slot,
    /// First source.
    pub a: Slot,
    /// Second source.
    pub b: Slot,
    /// Third source.
    pub c: Slot,
    /// 1-based line in the PTX text.
    pub line: u32,
}

impl Inst {
    /// An instruction with no operands.
    #[must_use]
    pub fn new(code: Code, guard: Option<Guard>, line: u32) -> Self {
        let guard = guard.map_or(PredSlot::TRUE, |g| {
            PredSlot::register(g.slot, u32::from(g.negated))
        });
        Self {
            code,
            imm: 0,
            list: None,
            guard,
            dst: Slot::NONE,
            a: Slot::NONE,
            b: Slot::NONE,
            c: Slot::NONE,
            line,
        }
    }
}

/// Collects the immediates of a kernel, each broadcast over 32 lanes and stored once, and the
/// extent of the register file that its instructions use.
#[derive(Debug, Clone, Default)]
pub struct ConstBank {
    /// From the end of the bank to its beginning, without [`Slot::NONE`].
    banks: Vec<Lanes>,
    known: HashMap<(Class, u64), Slot>,
    slots: u32,
    preds: u32,
}

impl ConstBank {
    /// An empty bank.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The slot of an immediate of class `B32` or `B64` (a `B128` immediate is zero-extended).
    pub fn constant(&mut self, class: Class, value: u64) -> Slot {
        if let Some(&slot) = self.known.get(&(class, value)) {
            return slot;
        }
        let words = [value & 0xffff_ffff, value >> 32, 0, 0]
            .map(|word| u32::try_from(word).unwrap_or(u32::MAX));
        let period = match class {
            Class::B64 => 2,
            Class::B128 => 4,
            Class::B32 | Class::Pred => 1,
        };
        let lanes = Lanes(std::array::from_fn(|i| words[i % period]));
        self.banks.extend(std::iter::repeat_n(lanes, period));
        let slot = Slot(!u32::try_from(self.banks.len()).unwrap_or(u32::MAX >> 1));
        self.known.insert((class, value), slot);
        slot
    }

    /// The slot of a register, whose extent is noted.
    pub fn register(&mut self, reg: Reg) -> Slot {
        let width = match reg.class {
            Class::Pred => {
                self.preds = self.preds.max(reg.slot.saturating_add(1));
                return Slot(reg.slot);
            }
            Class::B32 => 1,
            Class::B64 => 2,
            Class::B128 => 4,
        };
        self.slots = self.slots.max(reg.slot.saturating_add(width));
        Slot(reg.slot)
    }

    /// The slot of a non-predicate operand; immediates get the class given.
    pub fn operand(&mut self, operand: &Operand, class: Class) -> Slot {
        match operand {
            Operand::Imm(value) => self.constant(class, *value),
            Operand::Reg(reg) | Operand::NotPred(reg) => self.register(*reg),
        }
    }

    /// A predicate operand.
    pub fn pred_operand(&mut self, operand: &Operand) -> PredSlot {
        match operand {
            Operand::Imm(0) => PredSlot::FALSE,
            Operand::Imm(_) => PredSlot::TRUE,
            Operand::Reg(reg) => PredSlot::register(self.register(*reg).0, 0),
            Operand::NotPred(reg) => PredSlot::register(self.register(*reg).0, 1),
        }
    }

    /// Notes a guard.
    pub fn guard(&mut self, guard: Option<Guard>) {
        if let Some(guard) = guard {
            self.preds = self.preds.max(guard.slot.saturating_add(1));
        }
    }

    /// Slots that a file must have for the instructions encoded so far.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Predicates that a file must have for the instructions encoded so far.
    #[must_use]
    pub fn preds(&self) -> u32 {
        self.preds
    }

    /// The finished bank.
    #[must_use]
    pub fn finish(self) -> Arc<[Lanes]> {
        let banks = self.banks.into_iter().rev();
        banks.chain([Lanes::ZERO]).collect()
    }
}
