//! From typed instructions to handlers.
//!
//! A register whose class does not fit the instruction's types makes the instruction unsupported,
//! except where PTX allows wider registers (`cvt`, `ld`, `st`).

mod float;
mod integer;
mod memory;
mod other;
mod rare;

use super::isa::{AluBody, Isa, MemBody, alu, mem};
use super::map::{Lanewise, Map};
use super::value::{Raw, Value};
use crate::exec::inst::{Code, ConstBank, Inst};
use crate::exec::regs::{PredSlot, Slot};
use crate::ir::{Class, Instr, Op, Operand};

/// Decodes an instruction for this host; `None` if it is the machine's to execute or unsupported.
#[must_use]
pub fn encode(instr: &Instr, consts: &mut ConstBank) -> Option<Inst> {
    encode_for(Isa::detect(), instr, consts)
}

/// [`encode`] for given vector extensions, which the host must have.
#[must_use]
pub fn encode_for(isa: Isa, instr: &Instr, consts: &mut ConstBank) -> Option<Inst> {
    let mut encoder = Encoder { isa, instr, consts };
    encoder.consts.guard(instr.guard);
    match &instr.op {
        Op::Mov | Op::Pack { .. } | Op::Unpack { .. } => encoder.moves(),
        Op::Int(op, ty) => encoder.int(*op, *ty),
        Op::IntUnary(op, ty) => encoder.int_unary(*op, *ty),
        Op::Mad(op, ty) => encoder.mad(*op, *ty),
        Op::Carry { .. } => encoder.carry(),
        Op::Shf { .. } | Op::Bfe(_) | Op::Bfi(_) | Op::Prmt(_) | Op::Lop3(_) | Op::Dp4a(..) => {
            encoder.bits()
        }
        Op::Float(op, ty, modifiers) => encoder.float(*op, *ty, *modifiers),
        Op::Fma(..) => encoder.fma(),
        Op::FMinMax { .. } => encoder.min_max(),
        Op::FloatUnary(op, ty, modifiers) => encoder.float_unary(*op, *ty, *modifiers),
        Op::Copysign(ty) => encoder.copysign(*ty),
        Op::Cvt { .. } => encoder.convert(),
        Op::Setp { .. } | Op::Set { .. } | Op::Selp(_) | Op::Slct { .. } => encoder.compare(),
        Op::Arith(op) => encoder.rare(*op),
        Op::Cvta { .. } | Op::Mapa { .. } | Op::Isspacep(_) | Op::Getctarank { .. } => {
            encoder.windows()
        }
        Op::Ld(access) => encoder.load(*access),
        Op::St(access) => encoder.store(*access),
        Op::Atom(op, access) => encoder.atomic(*op, *access),
        _ => None,
    }
}

/// What encoding one instruction needs.
struct Encoder<'a> {
    isa: Isa,
    instr: &'a Instr,
    consts: &'a mut ConstBank,
}

impl Encoder<'_> {
    /// An instruction with no operands yet.
    fn blank(&self, code: Code, imm: u64) -> Inst {
        let mut inst = Inst::new(code, self.instr.guard, self.instr.line);
        inst.imm = imm;
        inst
    }

    /// A register-only instruction with no operands yet.
    fn body<B: AluBody>(&self, imm: u64) -> Inst {
        self.blank(alu::<B>(self.isa), imm)
    }

    /// A memory instruction with no operands yet.
    fn mem_body<B: MemBody>(&self, imm: u64) -> Inst {
        self.blank(mem::<B>(self.isa), imm)
    }

    /// A lane-wise function with its operands in PTX order.
    fn map<M: Map>(&mut self, imm: u64) -> Option<Inst> {
        let mut inst = self.body::<Lanewise<M>>(imm);
        inst.dst = self.target(0, <M::D as Value>::Raw::CLASS?)?;
        inst.a = self.value::<M::A>(0)?;
        inst.b = self.value::<M::B>(1)?;
        inst.c = self.value::<M::C>(2)?;
        Some(inst)
    }

    /// The slot of a source as a value of a type; [`Slot::NONE`] for `()`.
    fn value<V: Value>(&mut self, index: usize) -> Option<Slot> {
        match V::Raw::CLASS {
            None => Some(Slot::NONE),
            Some(class) => self.source(index, class),
        }
    }

    /// The slot of a source of a class.
    fn source(&mut self, index: usize, class: Class) -> Option<Slot> {
        let operand = self.instr.src.get(index)?;
        match operand {
            Operand::Reg(reg) if reg.class == class => {}
            Operand::Imm(_) => {}
            _ => return None,
        }
        Some(self.consts.operand(operand, class))
    }

    /// A source that is a predicate.
    fn predicate(&mut self, index: usize) -> Option<PredSlot> {
        let operand = self.instr.src.get(index)?;
        match operand {
            Operand::Reg(reg) if reg.class != Class::Pred => None,
            _ => Some(self.consts.pred_operand(operand)),
        }
    }

    /// The slot of a destination of a class.
    fn target(&mut self, index: usize, class: Class) -> Option<Slot> {
        let reg = self.instr.dst.get(index)?;
        (reg.class == class).then(|| self.consts.register(*reg))
    }

    /// The class of a destination.
    fn target_class(&self, index: usize) -> Option<Class> {
        Some(self.instr.dst.get(index)?.class)
    }

    /// The class of a source, if it is a register.
    fn source_class(&self, index: usize) -> Option<Class> {
        match self.instr.src.get(index)? {
            Operand::Reg(reg) | Operand::NotPred(reg) => Some(reg.class),
            Operand::Imm(_) => None,
        }
    }
}

/// Chooses a Rust type for an integer type.
macro_rules! by_type {
    ($ty:expr, $T:ident: {$($($variant:ident)|+ => $rust:ty),* $(,)?} => $body:expr) => {
        match $ty {
            $($(crate::ir::Ty::$variant)|+ => {
                type $T = $rust;
                $body
            })*
            _ => None,
        }
    };
}
use by_type;
