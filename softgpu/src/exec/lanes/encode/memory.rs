//! Loads, stores, atomics.

use super::Encoder;
use super::other::class_of;
use crate::exec::access::atomic::{self, Atom, Atomic, op_code};
use crate::exec::access::element::wide;
use crate::exec::access::transfer::{Load, Mode, Store};
use crate::exec::inst::Inst;
use crate::exec::regs::Slot;
use crate::ir::{Access, Class, Operand, Order, RmwOp, Ty};

/// A load or store handler for a vector length.
macro_rules! by_length {
    ($self:ident, $body:ident<$ty:ty, $raw:ty>, $vec:expr, [$($length:literal)*]) => {
        match $vec {
            $($length => Some($self.mem_body::<$body<$ty, $raw, $length>>(0)),)*
            _ => None,
        }
    };
}

/// A load or store handler for an element type and the class of the registers.
macro_rules! transfer {
    ($self:ident, $body:ident, $ty:expr, $class:expr, $vec:expr) => {
        match ($ty.bytes(), $class) {
            (1, Class::B32) => by_length!($self, $body<u8, u32>, $vec, [1 2 4 8]),
            (2, Class::B32) => by_length!($self, $body<u16, u32>, $vec, [1 2 4 8]),
            (4, Class::B32) => by_length!($self, $body<u32, u32>, $vec, [1 2 4 8]),
            (1, Class::B64) => by_length!($self, $body<u8, u64>, $vec, [1]),
            (2, Class::B64) => by_length!($self, $body<u16, u64>, $vec, [1]),
            (4, Class::B64) => by_length!($self, $body<u32, u64>, $vec, [1]),
            (8, Class::B64) => by_length!($self, $body<u64, u64>, $vec, [1 2 4]),
            (16, Class::B128) => by_length!($self, $body<u128, u128>, $vec, [1 2]),
            _ => None,
        }
    };
}

impl Encoder<'_> {
    pub(super) fn load(&mut self, access: Access) -> Option<Inst> {
        let class = self.target_class(0)?;
        let mut inst = match (access.ty, class) {
            (Ty::S8, Class::B32) => by_length!(self, Load<i8, u32>, access.vec, [1 2 4 8]),
            (Ty::S16, Class::B32) => by_length!(self, Load<i16, u32>, access.vec, [1 2 4 8]),
            (Ty::S8, Class::B64) => by_length!(self, Load<i8, u64>, access.vec, [1]),
            (Ty::S16, Class::B64) => by_length!(self, Load<i16, u64>, access.vec, [1]),
            (Ty::S32, Class::B64) => by_length!(self, Load<i32, u64>, access.vec, [1]),
            (ty, _) => transfer!(self, Load, ty, class, access.vec),
        }?;
        self.address(&mut inst, access)?;
        let registers = (0..self.instr.dst.len()).map(|i| self.target(i, class));
        inst.list = Some(registers.collect::<Option<Vec<Slot>>>()?.into());
        (self.instr.dst.len() == usize::from(access.vec)).then_some(inst)
    }

    pub(super) fn store(&mut self, access: Access) -> Option<Inst> {
        let operands = self.instr.src.get(1..)?;
        let class = operands
            .iter()
            .find_map(|operand| match operand {
                Operand::Reg(reg) => Some(reg.class),
                _ => None,
            })
            .unwrap_or(class_of(access.ty));
        let mut inst = transfer!(self, Store, access.ty, class, access.vec)?;
        self.address(&mut inst, access)?;
        let values = (1..self.instr.src.len()).map(|i| self.source(i, class));
        inst.list = Some(values.collect::<Option<Vec<Slot>>>()?.into());
        (operands.len() == usize::from(access.vec)).then_some(inst)
    }

    /// The address operand and the [`Mode`] of an access.
    fn address(&mut self, inst: &mut Inst, access: Access) -> Option<()> {
        let strong = !matches!(access.order, Order::Weak);
        if strong && access.ty.bytes() == 16 && !wide::available() {
            return None;
        }
        let strong = if strong { Mode::STRONG } else { 0 };
        let mut mode = Mode::space_code(access.space) | strong;
        inst.imm = access.offset.cast_unsigned();
        match self.instr.src.first()? {
            Operand::Imm(base) => {
                let address = base.wrapping_add(inst.imm);
                inst.imm = 0;
                inst.a = self.consts.constant(Class::B64, address);
                mode |= Mode::WIDE;
            }
            Operand::Reg(reg) if matches!(reg.class, Class::B32 | Class::B64) => {
                inst.a = self.consts.register(*reg);
                mode |= if reg.class == Class::B64 {
                    Mode::WIDE
                } else {
                    0
                };
            }
            _ => return None,
        }
        inst.c = Slot(mode);
        Some(())
    }

    pub(super) fn atomic(&mut self, op: RmwOp, access: Access) -> Option<Inst> {
        match access.ty {
            Ty::U32 | Ty::B32 => self.atom::<atomic::U32>(op, access, Class::B32),
            Ty::S32 => self.atom::<atomic::S32>(op, access, Class::B32),
            Ty::U64 | Ty::B64 => self.atom::<atomic::U64>(op, access, Class::B64),
            Ty::S64 => self.atom::<atomic::S64>(op, access, Class::B64),
            Ty::B16 | Ty::U16 => self.atom::<atomic::B16>(op, access, Class::B32),
            Ty::B128 => self.atom::<atomic::B128>(op, access, Class::B128),
            Ty::F32 => self.atom_vector::<atomic::F32>(op, access),
            Ty::F64 => self.atom::<atomic::F64>(op, access, Class::B64),
            Ty::F16 => self.atom_vector::<atomic::Half>(op, access),
            Ty::BF16 => self.atom_vector::<atomic::Brain>(op, access),
            Ty::F16x2 => self.atom_vector::<atomic::HalfPair>(op, access),
            Ty::BF16x2 => self.atom_vector::<atomic::BrainPair>(op, access),
            _ => None,
        }
    }

    fn atom<T: Atomic>(&mut self, op: RmwOp, access: Access, class: Class) -> Option<Inst> {
        if !T::has(op) || access.vec != 1 {
            return None;
        }
        let inst = self.mem_body::<Atom<T, 1>>(0);
        self.atom_operands(inst, op, access, class)
    }

    /// Vectors exist of floats only.
    fn atom_vector<T: Atomic>(&mut self, op: RmwOp, access: Access) -> Option<Inst> {
        if !T::has(op) {
            return None;
        }
        let inst = match access.vec {
            1 => self.mem_body::<Atom<T, 1>>(0),
            2 => self.mem_body::<Atom<T, 2>>(0),
            4 => self.mem_body::<Atom<T, 4>>(0),
            8 if T::BYTES == 2 => self.mem_body::<Atom<T, 8>>(0),
            _ => return None,
        };
        self.atom_operands(inst, op, access, Class::B32)
    }

    fn atom_operands(
        &mut self,
        mut inst: Inst,
        op: RmwOp,
        access: Access,
        class: Class,
    ) -> Option<Inst> {
        self.address(&mut inst, access)?;
        inst.c.0 |= op_code(op) << Mode::OP_SHIFT;
        let vec = usize::from(access.vec);
        let operands = vec + usize::from(op == RmwOp::Cas);
        if self.instr.src.len() != 1 + operands {
            return None;
        }
        let mut list = if self.instr.dst.is_empty() {
            vec![Slot::NONE; vec]
        } else {
            let registers = (0..vec).map(|i| self.target(i, class));
            registers.collect::<Option<Vec<Slot>>>()?
        };
        for index in 1..=operands {
            list.push(self.source(index, class)?);
        }
        inst.list = Some(list.into());
        Some(inst)
    }
}
