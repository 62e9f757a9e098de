//! From typed instructions to handlers.

use super::int;
use super::isa::{Isa, alu};
use super::map::Lanewise;
use crate::exec::inst::{Code, ConstBank, Inst};
use crate::ir::{Class, Instr, IntOp, Op, Ty};

/// Decodes an instruction for this host; `None` if it is the machine's to execute or unsupported.
#[must_use]
pub fn encode(instr: &Instr, consts: &mut ConstBank) -> Option<Inst> {
    encode_for(Isa::detect(), instr, consts)
}

/// [`encode`] for given vector extensions, which the host must have.
#[must_use]
pub fn encode_for(isa: Isa, instr: &Instr, consts: &mut ConstBank) -> Option<Inst> {
    let code = match &instr.op {
        Op::Int(IntOp::Add, Ty::U32 | Ty::S32) => alu::<Lanewise<int::Add<u32>>>(isa),
        Op::Int(IntOp::Sub, Ty::U32 | Ty::S32) => alu::<Lanewise<int::Sub<u32>>>(isa),
        _ => return None,
    };
    Some(finish(code, instr, consts))
}

fn finish(code: Code, instr: &Instr, consts: &mut ConstBank) -> Inst {
    let mut inst = Inst::new(code, instr.guard, instr.line);
    consts.guard(instr.guard);
    inst.dst = consts.register(instr.dst[0]);
    inst.a = consts.operand(&instr.src[0], Class::B32);
    inst.b = consts.operand(&instr.src[1], Class::B32);
    inst
}
