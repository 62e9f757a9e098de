//! Integer arithmetic, bit operations.

use super::{Encoder, by_type};
use crate::exec::inst::Inst;
use crate::exec::lanes::bits::{self, PRMT_SELECTORS};
use crate::exec::lanes::carry::{self, CARRY_IN, CARRY_OUT, Carrying};
use crate::exec::lanes::int;
use crate::exec::lanes::moves::{And, NotFirst, Or, PredLogic, Xor};
use crate::exec::regs::Slot;
use crate::ir::{Class, IntOp, IntUn, Op, Ty};

/// Types on which a wrapping operation does not depend on the sign.
macro_rules! unsigned {
    ($ty:expr, $T:ident => $body:expr) => {
        by_type!($ty, $T: {
            U16 | S16 | B16 => u16,
            U32 | S32 | B32 => u32,
            U64 | S64 | B64 => u64,
        } => $body)
    };
}

/// All integer types.
macro_rules! integer {
    ($ty:expr, $T:ident => $body:expr) => {
        by_type!($ty, $T: {
            U16 | B16 => u16, S16 => i16,
            U32 | B32 => u32, S32 => i32,
            U64 | B64 => u64, S64 => i64,
        } => $body)
    };
}

/// Bit patterns by register class.
macro_rules! logic {
    ($self:ident, $ty:expr, $narrow:ty, $wide:ty, $pred:ty) => {
        match $ty {
            Ty::Pred => $self.pred_logic::<$pred>(),
            ty if ty.bytes() == 8 => $self.map::<$wide>(0),
            ty if ty.bytes() <= 4 => $self.map::<$narrow>(0),
            _ => None,
        }
    };
}

impl Encoder<'_> {
    pub(super) fn int(&mut self, op: IntOp, ty: Ty) -> Option<Inst> {
        match op {
            IntOp::Add if matches!(ty, Ty::U16x2 | Ty::S16x2) => self.map::<int::AddU16x2>(0),
            IntOp::Add => unsigned!(ty, T => self.map::<int::Add<T>>(0)),
            IntOp::Sub => unsigned!(ty, T => self.map::<int::Sub<T>>(0)),
            IntOp::MulLo => unsigned!(ty, T => self.map::<int::MulLo<T>>(0)),
            IntOp::MulHi => integer!(ty, T => self.map::<int::MulHi<T>>(0)),
            IntOp::MulWide => by_type!(ty, T: {
                U16 => u16, S16 => i16, U32 => u32, S32 => i32,
            } => self.map::<int::MulWide<T>>(0)),
            IntOp::Div => integer!(ty, T => self.map::<int::Div<T>>(0)),
            IntOp::Rem => integer!(ty, T => self.map::<int::Rem<T>>(0)),
            IntOp::Min | IntOp::Max => self.int_min_max(op, ty),
            IntOp::And => logic!(self, ty, int::And32, int::And64, And),
            IntOp::Or => logic!(self, ty, int::Or32, int::Or64, Or),
            IntOp::Xor => logic!(self, ty, int::Xor32, int::Xor64, Xor),
            IntOp::Shl => unsigned!(ty, T => self.map::<int::Shl<T>>(0)),
            IntOp::Shr => integer!(ty, T => self.map::<int::Shr<T>>(0)),
            IntOp::AddSat if ty == Ty::S32 => self.map::<int::AddSat>(0),
            IntOp::SubSat if ty == Ty::S32 => self.map::<int::SubSat>(0),
            IntOp::AddSat | IntOp::SubSat => None,
        }
    }

    fn int_min_max(&mut self, op: IntOp, ty: Ty) -> Option<Inst> {
        match (op, ty) {
            (IntOp::Min, Ty::U16x2) => self.map::<int::MinU16x2>(0),
            (IntOp::Max, Ty::U16x2) => self.map::<int::MaxU16x2>(0),
            (IntOp::Min, Ty::S16x2) => self.map::<int::MinS16x2>(0),
            (IntOp::Max, Ty::S16x2) => self.map::<int::MaxS16x2>(0),
            (IntOp::Min, _) => integer!(ty, T => self.map::<int::Min<T>>(0)),
            _ => integer!(ty, T => self.map::<int::Max<T>>(0)),
        }
    }

    /// Logic on one or two predicates.
    pub(super) fn pred_logic<O: crate::exec::lanes::moves::MaskOp>(&mut self) -> Option<Inst> {
        let mut inst = self.body::<PredLogic<O>>(0);
        inst.dst = self.target(0, Class::Pred)?;
        inst.a = Slot(self.predicate(0)?.0);
        let second = if self.instr.src.len() > 1 { 1 } else { 0 };
        inst.b = Slot(self.predicate(second)?.0);
        Some(inst)
    }

    pub(super) fn int_unary(&mut self, op: IntUn, ty: Ty) -> Option<Inst> {
        match op {
            IntUn::Neg => unsigned!(ty, T => self.map::<int::Neg<T>>(0)),
            IntUn::Abs => by_type!(ty, T: {
                S16 => i16, S32 => i32, S64 => i64,
            } => self.map::<int::Abs<T>>(0)),
            IntUn::Not => logic!(self, ty, int::Not32, int::Not64, NotFirst),
            IntUn::Cnot => unsigned!(ty, T => self.map::<int::Cnot<T>>(0)),
            IntUn::Popc => self.words(ty, IntUn::Popc),
            IntUn::Clz => self.words(ty, IntUn::Clz),
            IntUn::Brev => self.words(ty, IntUn::Brev),
            IntUn::Bfind => by_type!(ty, T: {
                U32 | B32 => u32, S32 => i32, U64 | B64 => u64, S64 => i64,
            } => self.map::<int::Bfind<T>>(0)),
            IntUn::BfindShiftamt => by_type!(ty, T: {
                U32 | B32 => u32, S32 => i32, U64 | B64 => u64, S64 => i64,
            } => self.map::<int::BfindShift<T>>(0)),
        }
    }

    fn words(&mut self, ty: Ty, op: IntUn) -> Option<Inst> {
        by_type!(ty, T: { B32 | U32 | S32 => u32, B64 | U64 | S64 => u64 } => match op {
            IntUn::Popc => self.map::<int::Popc<T>>(0),
            IntUn::Clz => self.map::<int::Clz<T>>(0),
            _ => self.map::<int::Brev<T>>(0),
        })
    }

    pub(super) fn mad(&mut self, op: IntOp, ty: Ty) -> Option<Inst> {
        match op {
            IntOp::MulLo => unsigned!(ty, T => self.map::<int::MadLo<T>>(0)),
            IntOp::MulHi => integer!(ty, T => self.map::<int::MadHi<T>>(0)),
            IntOp::MulWide => by_type!(ty, T: {
                U16 => u16, S16 => i16, U32 => u32, S32 => i32,
            } => self.map::<int::MadWide<T>>(0)),
            _ => None,
        }
    }

    pub(super) fn carry(&mut self) -> Option<Inst> {
        let Op::Carry {
            op,
            ty,
            carry_in,
            carry_out,
        } = self.instr.op
        else {
            return None;
        };
        let taken = if carry_in { CARRY_IN } else { 0 };
        let imm = taken | if carry_out { CARRY_OUT } else { 0 };
        let mut inst = match op {
            IntOp::MulHi => by_type!(ty, T: {
                U32 | B32 => u32, S32 => i32, U64 | B64 => u64, S64 => i64,
            } => Some(self.body::<Carrying<carry::MadHi<T>>>(imm))),
            _ => by_type!(ty, T: {
                U32 | S32 | B32 => u32, U64 | S64 | B64 => u64,
            } => match op {
                IntOp::Add => Some(self.body::<Carrying<carry::Add<T>>>(imm)),
                IntOp::Sub => Some(self.body::<Carrying<carry::Sub<T>>>(imm)),
                IntOp::MulLo => Some(self.body::<Carrying<carry::MadLo<T>>>(imm)),
                _ => None,
            }),
        }?;
        let class = if ty.bytes() == 8 {
            Class::B64
        } else {
            Class::B32
        };
        inst.dst = self.target(0, class)?;
        inst.a = self.source(0, class)?;
        inst.b = self.source(1, class)?;
        if matches!(op, IntOp::MulLo | IntOp::MulHi) {
            inst.c = self.source(2, class)?;
        }
        Some(inst)
    }

    pub(super) fn bits(&mut self) -> Option<Inst> {
        match self.instr.op {
            Op::Shf { right, clamp } => match (right, clamp) {
                (false, false) => self.map::<bits::ShfLWrap>(0),
                (true, false) => self.map::<bits::ShfRWrap>(0),
                (false, true) => self.map::<bits::ShfLClamp>(0),
                (true, true) => self.map::<bits::ShfRClamp>(0),
            },
            Op::Bfe(ty) => match ty {
                Ty::U32 | Ty::B32 => self.map::<bits::BfeU32>(0),
                Ty::S32 => self.map::<bits::BfeS32>(0),
                Ty::U64 | Ty::B64 => self.map::<bits::BfeU64>(0),
                Ty::S64 => self.map::<bits::BfeS64>(0),
                _ => None,
            },
            Op::Bfi(ty) => self.bfi(ty),
            Op::Prmt(0) => self.map::<bits::Prmt>(0),
            Op::Prmt(mode) => {
                let selectors = PRMT_SELECTORS.get(usize::from(mode) - 1)?;
                let table = |i: usize| u64::from(selectors[i]) << (16 * i);
                self.map::<bits::PrmtMode>(table(0) | table(1) | table(2) | table(3))
            }
            Op::Lop3(table) => self.map::<bits::Lop3>(u64::from(table)),
            Op::Dp4a(a, b) => {
                let signed = |ty: Ty| match ty {
                    Ty::S32 => Some(1),
                    Ty::U32 => Some(0),
                    _ => None,
                };
                self.map::<bits::Dp4a>(signed(a)? | signed(b)? << 1)
            }
            _ => None,
        }
    }

    fn bfi(&mut self, ty: Ty) -> Option<Inst> {
        let (mut inst, class) = match ty.bytes() {
            4 => (self.body::<bits::Bfi<u32>>(0), Class::B32),
            8 => (self.body::<bits::Bfi<u64>>(0), Class::B64),
            _ => return None,
        };
        inst.dst = self.target(0, class)?;
        inst.a = self.source(0, class)?;
        inst.b = self.source(1, class)?;
        inst.c = self.source(2, Class::B32)?;
        inst.list = Some([self.source(3, Class::B32)?].into());
        Some(inst)
    }
}
