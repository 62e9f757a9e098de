//! Moves, comparisons, address windows.

use super::{Encoder, by_type};
use crate::exec::access::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, query};
use crate::exec::inst::Inst;
use crate::exec::lanes::compare::{
    self, Comparison, Condition, Selp, Set, SetPair, Setp, SetpPair,
};
use crate::exec::lanes::moves::{self, First, Mov, Pack, Unpack};
use crate::exec::lanes::round::FTZ;
use crate::exec::lanes::value::{Bf16, F16};
use crate::exec::regs::Slot;
use crate::ir::{Class, Op, Space, Ty};

/// Conditions for an operand type.
macro_rules! with_test {
    ($condition:expr, $ty:expr, $Test:ident => $body:expr) => {
        match $condition {
            Condition::Equal => by_type!($ty, $Test: {
                U16 | S16 | B16 => compare::Equal<u16>,
                U32 | S32 | B32 => compare::Equal<u32>,
                U64 | S64 | B64 => compare::Equal<u64>,
                F16 => compare::FloatEqual<F16>, BF16 => compare::FloatEqual<Bf16>,
                F32 => compare::FloatEqual<f32>, F64 => compare::FloatEqual<f64>,
            } => $body),
            Condition::Less => by_type!($ty, $Test: {
                U16 | B16 => compare::Less<u16>, S16 => compare::Less<i16>,
                U32 | B32 => compare::Less<u32>, S32 => compare::Less<i32>,
                U64 | B64 => compare::Less<u64>, S64 => compare::Less<i64>,
                F16 => compare::FloatLess<F16>, BF16 => compare::FloatLess<Bf16>,
                F32 => compare::FloatLess<f32>, F64 => compare::FloatLess<f64>,
            } => $body),
            Condition::LessEqual => by_type!($ty, $Test: {
                U16 | B16 => compare::LessEqual<u16>, S16 => compare::LessEqual<i16>,
                U32 | B32 => compare::LessEqual<u32>, S32 => compare::LessEqual<i32>,
                U64 | B64 => compare::LessEqual<u64>, S64 => compare::LessEqual<i64>,
                F16 => compare::FloatLessEqual<F16>, BF16 => compare::FloatLessEqual<Bf16>,
                F32 => compare::FloatLessEqual<f32>, F64 => compare::FloatLessEqual<f64>,
            } => $body),
            Condition::Differ => by_type!($ty, $Test: {
                F16 => compare::FloatDiffer<F16>, BF16 => compare::FloatDiffer<Bf16>,
                F32 => compare::FloatDiffer<f32>, F64 => compare::FloatDiffer<f64>,
            } => $body),
            Condition::Ordered => by_type!($ty, $Test: {
                F16 => compare::FloatOrdered<F16>, BF16 => compare::FloatOrdered<Bf16>,
                F32 => compare::FloatOrdered<f32>, F64 => compare::FloatOrdered<f64>,
            } => $body),
        }
    };
}

/// Conditions for a packed operand type.
macro_rules! with_pair_test {
    ($condition:expr, $ty:expr, $Test:ident => $body:expr) => {
        match $condition {
            Condition::Equal => by_type!($ty, $Test: {
                F16x2 => compare::FloatEqual<F16>, BF16x2 => compare::FloatEqual<Bf16>,
            } => $body),
            Condition::Less => by_type!($ty, $Test: {
                F16x2 => compare::FloatLess<F16>, BF16x2 => compare::FloatLess<Bf16>,
            } => $body),
            Condition::LessEqual => by_type!($ty, $Test: {
                F16x2 => compare::FloatLessEqual<F16>, BF16x2 => compare::FloatLessEqual<Bf16>,
            } => $body),
            Condition::Differ => by_type!($ty, $Test: {
                F16x2 => compare::FloatDiffer<F16>, BF16x2 => compare::FloatDiffer<Bf16>,
            } => $body),
            Condition::Ordered => by_type!($ty, $Test: {
                F16x2 => compare::FloatOrdered<F16>, BF16x2 => compare::FloatOrdered<Bf16>,
            } => $body),
        }
    };
}

impl Encoder<'_> {
    pub(super) fn moves(&mut self) -> Option<Inst> {
        match self.instr.op {
            Op::Mov => match self.target_class(0)? {
                Class::Pred => self.pred_logic::<First>(),
                Class::B32 => self.map::<Mov<u32>>(0),
                Class::B64 => self.map::<Mov<u64>>(0),
                Class::B128 => self.map::<Mov<u128>>(0),
            },
            Op::Pack { part } => self.pack(part),
            Op::Unpack { part, sink } => self.unpack(part, sink),
            _ => None,
        }
    }

    fn pack(&mut self, part: Ty) -> Option<Inst> {
        let whole = self.target_class(0)?;
        let mut inst = match (whole, part.bytes(), self.instr.src.len()) {
            (Class::B32, 1, 2) => self.body::<Pack<u16, u8>>(0),
            (Class::B32, 1, 4) => self.body::<Pack<u32, u8>>(0),
            (Class::B32, 2, 2) => self.body::<Pack<u32, u16>>(0),
            (Class::B64, 1, 8) => self.body::<Pack<u64, u8>>(0),
            (Class::B64, 2, 4) => self.body::<Pack<u64, u16>>(0),
            (Class::B64, 4, 2) => self.body::<Pack<u64, u32>>(0),
            (Class::B128, 4, 4) => self.body::<Pack<u128, u32>>(0),
            (Class::B128, 8, 2) => self.body::<Pack<u128, u64>>(0),
            _ => return None,
        };
        inst.dst = self.target(0, whole)?;
        let class = class_of(part);
        let parts: Option<Vec<Slot>> = (0..self.instr.src.len())
            .map(|i| self.source(i, class))
            .collect();
        inst.list = Some(parts?.into());
        Some(inst)
    }

    fn unpack(&mut self, part: Ty, sink: u8) -> Option<Inst> {
        let count = self.instr.dst.len() + sink.count_ones() as usize;
        let bytes = part.bytes() as usize * count;
        let mut inst = match (bytes, part.bytes()) {
            (2, 1) => self.body::<Unpack<u16, u8>>(0),
            (4, 1) => self.body::<Unpack<u32, u8>>(0),
            (4, 2) => self.body::<Unpack<u32, u16>>(0),
            (8, 1) => self.body::<Unpack<u64, u8>>(0),
            (8, 2) => self.body::<Unpack<u64, u16>>(0),
            (8, 4) => self.body::<Unpack<u64, u32>>(0),
            (16, 4) => self.body::<Unpack<u128, u32>>(0),
            (16, 8) => self.body::<Unpack<u128, u64>>(0),
            _ => return None,
        };
        let whole = match bytes {
            2 | 4 => Class::B32,
            8 => Class::B64,
            _ => Class::B128,
        };
        inst.a = self.source(0, whole)?;
        let mut slots = Vec::with_capacity(count);
        let mut next = 0;
        for index in 0..count {
            if sink >> index & 1 != 0 {
                slots.push(Slot::NONE);
                continue;
            }
            slots.push(self.target(next, class_of(part))?);
            next += 1;
        }
        inst.list = Some(slots.into());
        Some(inst)
    }

    pub(super) fn compare(&mut self) -> Option<Inst> {
        match self.instr.op {
            Op::Setp { .. } => self.setp(),
            Op::Set { .. } => self.set(),
            Op::Selp(ty) => {
                let (mut inst, class) = match ty.bytes() {
                    1..=4 => (self.body::<Selp<u32>>(0), Class::B32),
                    8 => (self.body::<Selp<u64>>(0), Class::B64),
                    _ => return None,
                };
                inst.dst = self.target(0, class)?;
                inst.a = self.source(0, class)?;
                inst.b = self.source(1, class)?;
                inst.c = Slot(self.predicate(2)?.0);
                Some(inst)
            }
            Op::Slct { ty, by, ftz } => {
                let imm = if ftz { FTZ } else { 0 };
                match (by, ty.bytes()) {
                    (Ty::S32, 1..=4) => self.map::<compare::SlctInt<u32>>(0),
                    (Ty::S32, 8) => self.map::<compare::SlctInt<u64>>(0),
                    (Ty::F32, 1..=4) => self.map::<compare::SlctFloat<u32>>(imm),
                    (Ty::F32, 8) => self.map::<compare::SlctFloat<u64>>(imm),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn setp(&mut self) -> Option<Inst> {
        let Op::Setp {
            cmp,
            ty,
            combine,
            ftz,
        } = self.instr.op
        else {
            return None;
        };
        let comparison = Comparison::of(cmp, ty)?;
        let imm = comparison.immediate(combine) | if ftz { FTZ } else { 0 };
        let mut inst = if is_pair(ty) {
            with_pair_test!(comparison.condition, ty, T => Some(self.body::<SetpPair<T>>(imm)))?
        } else {
            with_test!(comparison.condition, ty, T => Some(self.body::<Setp<T>>(imm)))?
        };
        self.compared(&mut inst, comparison, ty)?;
        if combine.is_some() {
            inst.c = Slot(self.predicate(2)?.0);
        }
        inst.dst = self.target(0, Class::Pred)?;
        if self.instr.dst.len() > 1 {
            inst.list = Some([self.target(1, Class::Pred)?].into());
        }
        Some(inst)
    }

    fn set(&mut self) -> Option<Inst> {
        let Op::Set {
            cmp,
            to,
            ty,
            combine,
            ftz,
        } = self.instr.op
        else {
            return None;
        };
        let truth = match to {
            Ty::F32 => u64::from(1.0f32.to_bits()),
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::BF16 | Ty::BF16x2 => 0x3f80,
            Ty::U16 | Ty::S16 => u64::from(u16::MAX),
            Ty::U32 | Ty::S32 | Ty::B32 => u64::from(u32::MAX),
            _ => return None,
        };
        let comparison = Comparison::of(cmp, ty)?;
        let imm = comparison.immediate(combine) | if ftz { FTZ } else { 0 };
        let mut inst = if is_pair(ty) {
            with_pair_test!(comparison.condition, ty, T => Some(self.body::<SetPair<T>>(imm)))?
        } else {
            with_test!(comparison.condition, ty, T => Some(self.body::<Set<T>>(imm)))?
        };
        self.compared(&mut inst, comparison, ty)?;
        if combine.is_some() {
            inst.list = Some([Slot(self.predicate(2)?.0)].into());
        }
        inst.c = self.consts.constant(Class::B32, truth);
        inst.dst = self.target(0, Class::B32)?;
        Some(inst)
    }

    /// The operands of a comparison, exchanged where it asks for that.
    fn compared(&mut self, inst: &mut Inst, comparison: Comparison, ty: Ty) -> Option<()> {
        let (first, second) = if comparison.swap { (1, 0) } else { (0, 1) };
        inst.a = self.source(first, class_of(ty))?;
        inst.b = self.source(second, class_of(ty))?;
        Some(())
    }

    pub(super) fn windows(&mut self) -> Option<Inst> {
        match self.instr.op {
            Op::Cvta { .. } => self.cvta(),
            Op::Mapa { wide: false, .. } => self.map::<moves::Mapa32>(0),
            Op::Mapa { generic, .. } => {
                self.map::<moves::Mapa64>(if generic { SHARED_WINDOW } else { 0 })
            }
            Op::Isspacep(space) => {
                let mut inst = match space {
                    Space::Global => self.mem_body::<query::IsGlobal>(0),
                    Space::Shared => self.mem_body::<query::IsShared>(0),
                    Space::SharedCluster => self.mem_body::<query::IsSharedCluster>(0),
                    Space::Local => self.mem_body::<query::IsLocal>(0),
                    Space::Param => self.mem_body::<query::IsParam>(0),
                    Space::Generic | Space::Const => return None,
                };
                inst.dst = self.target(0, Class::Pred)?;
                inst.a = self.source(0, Class::B64)?;
                Some(inst)
            }
            Op::Getctarank { wide } => {
                let (mut inst, class) = if wide {
                    (self.mem_body::<query::Rank<u64>>(0), Class::B64)
                } else {
                    (self.mem_body::<query::Rank<u32>>(0), Class::B32)
                };
                inst.dst = self.target(0, Class::B32)?;
                inst.a = self.source(0, class)?;
                Some(inst)
            }
            _ => None,
        }
    }

    fn cvta(&mut self) -> Option<Inst> {
        let Op::Cvta { space, to_space } = self.instr.op else {
            return None;
        };
        let base = match space {
            Space::Shared | Space::SharedCluster => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            Space::Global | Space::Const | Space::Generic => {
                return match self.target_class(0)? {
                    Class::B64 => self.map::<Mov<u64>>(0),
                    _ => None,
                };
            }
        };
        let wide_target = self.target_class(0)? == Class::B64;
        let wide_source = self.source_class(0) != Some(Class::B32);
        match (to_space, wide_source, wide_target) {
            (false, true, true) => self.map::<moves::ToGeneric>(base),
            (false, false, true) => self.map::<moves::ToGeneric32>(base),
            (true, true, true) => self.map::<moves::FromGeneric>(0),
            (true, true, false) => self.map::<moves::FromGeneric64To32>(0),
            _ => None,
        }
    }
}

/// Types that are compared half by half.
fn is_pair(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::BF16x2)
}

/// The class that holds one value of a type.
pub(super) fn class_of(ty: Ty) -> Class {
    match ty.bytes() {
        16 => Class::B128,
        8 => Class::B64,
        _ => Class::B32,
    }
}
