//! The rarer register-only instructions.

use super::{Encoder, by_type};
use crate::exec::inst::Inst;
use crate::exec::lanes::compare::combination;
use crate::exec::lanes::rare::{
    self, A_SIGNED, B_SIGNED, CLAMP, HIGH, Lop3Pred, SATURATE, SIGNED_PARTS, Testp,
};
use crate::exec::lanes::video::{self, VideoBody};
use crate::exec::regs::Slot;
use crate::ir::{Arith, BoolOp, Class, FloatClass, Ty, Video};

/// The bits whose conditions hold.
fn flags<const N: usize>(list: [(bool, u64); N]) -> u64 {
    list.into_iter()
        .filter_map(|(on, bit)| on.then_some(bit))
        .sum()
}

impl Encoder<'_> {
    pub(super) fn rare(&mut self, op: Arith) -> Option<Inst> {
        match op {
            Arith::Sad(ty) => by_type!(ty, T: {
                U16 => u16, S16 => i16, U32 => u32, S32 => i32, U64 => u64, S64 => i64,
            } => self.map::<rare::Sad<T>>(0)),
            Arith::Mul24 { ty, hi } => {
                self.map::<rare::Mul24>(flags([(ty.is_signed(), A_SIGNED), (hi, HIGH)]))
            }
            Arith::Mad24 { ty, hi, sat } => {
                let form = [(ty.is_signed(), A_SIGNED), (hi, HIGH), (sat, SATURATE)];
                self.map::<rare::Mad24>(flags(form))
            }
            Arith::MadHiSat => self.map::<rare::MadHiSat>(0),
            Arith::MinMaxRelu { ty, max } => match (ty, max) {
                (Ty::S32, false) => self.map::<rare::MinRelu>(0),
                (Ty::S32, true) => self.map::<rare::MaxRelu>(0),
                (Ty::S16x2, false) => self.map::<rare::MinReluS16x2>(0),
                (Ty::S16x2, true) => self.map::<rare::MaxReluS16x2>(0),
                _ => None,
            },
            Arith::Bmsk { clamp } => self.map::<rare::Bmsk>(flags([(clamp, CLAMP)])),
            Arith::Szext { clamp, signed } => {
                self.map::<rare::Szext>(flags([(clamp, CLAMP), (signed, A_SIGNED)]))
            }
            Arith::Fns => self.map::<rare::Fns>(0),
            Arith::Dp2a { a, b, hi } => {
                let signs = [
                    (a.is_signed(), A_SIGNED),
                    (b.is_signed(), B_SIGNED),
                    (hi, HIGH),
                ];
                self.map::<rare::Dp2a>(flags(signs))
            }
            Arith::Lop3Pred { table, combine } => self.lop3_pred(table, combine),
            Arith::Testp(class, ty) => self.testp(class, ty),
            Arith::Video(form) => self.video(form),
            Arith::CvtPack { bits, signed } => {
                let imm = u64::from(bits) | flags([(signed, SIGNED_PARTS)]);
                match self.instr.src.len() {
                    2 => self.map::<rare::CvtPackTwo>(imm),
                    _ => self.map::<rare::CvtPack>(imm),
                }
            }
        }
    }

    fn lop3_pred(&mut self, table: u8, combine: BoolOp) -> Option<Inst> {
        let imm = u64::from(table) | combination(Some(combine)) << 8;
        let mut inst = self.body::<Lop3Pred>(imm);
        inst.dst = self.target(0, Class::B32)?;
        inst.a = self.source(0, Class::B32)?;
        inst.b = self.source(1, Class::B32)?;
        inst.c = self.source(2, Class::B32)?;
        let (p, q) = (self.target(1, Class::Pred)?, self.predicate(3)?);
        inst.list = Some([p, Slot(q.0)].into());
        Some(inst)
    }

    fn video(&mut self, form: Video) -> Option<Inst> {
        let mut inst = self.body::<VideoBody>(0);
        inst.dst = self.target(0, Class::B32)?;
        inst.a = self.source(0, Class::B32)?;
        inst.b = self.source(1, Class::B32)?;
        let third = if self.instr.src.len() > 2 { 2 } else { 0 };
        inst.c = self.source(third, Class::B32)?;
        inst.list = Some(video::words(form).into());
        Some(inst)
    }

    fn testp(&mut self, class: FloatClass, ty: Ty) -> Option<Inst> {
        let (mut inst, width) = match ty {
            Ty::F32 => (self.body::<Testp<u32>>(class as u64), Class::B32),
            Ty::F64 => (self.body::<Testp<u64>>(class as u64), Class::B64),
            _ => return None,
        };
        inst.dst = self.target(0, Class::Pred)?;
        inst.a = self.source(0, width)?;
        Some(inst)
    }
}
