//! Floating-point arithmetic and conversions.

use super::{Encoder, by_type};
use crate::exec::inst::Inst;
use crate::exec::lanes::value::{Bf16, F16};
use crate::exec::lanes::{approx, convert, double, float, round};
use crate::ir::{Class, FloatBin, FloatMod, FloatUn, Op, Rounding, Ty};
use round::Mode;

/// Formats that compute in f64.
macro_rules! formats {
    ($ty:expr, $T:ident => $body:expr) => {
        by_type!($ty, $T: {
            F32 => f32, F16 => F16, BF16 => Bf16, F16x2 => [F16; 2], BF16x2 => [Bf16; 2],
        } => $body)
    };
}

impl Encoder<'_> {
    pub(super) fn float(&mut self, op: FloatBin, ty: Ty, modifiers: FloatMod) -> Option<Inst> {
        if op == FloatBin::Div && ty == Ty::F32 {
            return self.divide(modifiers);
        }
        let imm = Mode::immediate(modifiers)?;
        match (ty, imm) {
            (Ty::F32, 0) => match op {
                FloatBin::Add => self.map::<float::AddF32>(0),
                FloatBin::Sub => self.map::<float::SubF32>(0),
                FloatBin::Mul => self.map::<float::MulF32>(0),
                FloatBin::Div => None,
            },
            (Ty::F64, 0) => match op {
                FloatBin::Add => self.map::<float::AddF64>(0),
                FloatBin::Sub => self.map::<float::SubF64>(0),
                FloatBin::Mul => self.map::<float::MulF64>(0),
                FloatBin::Div => self.map::<float::DivF64>(0),
            },
            (Ty::F64, imm) if imm & !7 == 0 => match op {
                FloatBin::Add => self.map::<double::AddDirected>(imm),
                FloatBin::Sub => self.map::<double::SubDirected>(imm),
                FloatBin::Mul => self.map::<double::MulDirected>(imm),
                FloatBin::Div => self.map::<double::DivDirected>(imm),
            },
            _ => formats!(ty, T => match op {
                FloatBin::Add => self.map::<float::Add<T>>(imm),
                FloatBin::Sub => self.map::<float::Sub<T>>(imm),
                FloatBin::Mul => self.map::<float::Mul<T>>(imm),
                FloatBin::Div => None,
            }),
        }
    }

    fn divide(&mut self, modifiers: FloatMod) -> Option<Inst> {
        let flags = round::flags(modifiers);
        match modifiers.rounding {
            Rounding::Approx => self.map::<approx::DivApprox>(flags),
            Rounding::Full => self.map::<approx::DivFull>(flags),
            _ => match Mode::immediate(modifiers)? {
                0 => self.map::<float::DivF32>(0),
                imm => self.map::<float::Div>(imm),
            },
        }
    }

    pub(super) fn fma(&mut self) -> Option<Inst> {
        let Op::Fma(ty, modifiers, relu) = self.instr.op else {
            return None;
        };
        let relu = if relu { round::RELU } else { 0 };
        match (ty, Mode::immediate(modifiers)? | relu) {
            (Ty::F32, 0) => self.map::<float::FmaF32>(0),
            (Ty::F64, 0) => self.map::<float::FmaF64>(0),
            (Ty::F64, imm) if imm & !7 == 0 => self.map::<double::FmaDirected>(imm),
            (_, imm) => formats!(ty, T => self.map::<float::Fma<T>>(imm)),
        }
    }

    pub(super) fn min_max(&mut self) -> Option<Inst> {
        let Op::FMinMax {
            max,
            ty,
            ftz,
            nan,
            xorsign,
        } = self.instr.op
        else {
            return None;
        };
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let imm = bit(ftz, round::FTZ) | bit(nan, float::NAN) | bit(xorsign, float::XORSIGN);
        match (ty, max) {
            (Ty::F64, false) => self.map::<float::MinF64>(imm),
            (Ty::F64, true) => self.map::<float::MaxF64>(imm),
            (_, false) => formats!(ty, T => self.map::<float::Min<T>>(imm)),
            (_, true) => formats!(ty, T => self.map::<float::Max<T>>(imm)),
        }
    }

    pub(super) fn float_unary(&mut self, op: FloatUn, ty: Ty, m: FloatMod) -> Option<Inst> {
        let flags = round::flags(m);
        match (op, ty) {
            (FloatUn::Neg, Ty::F64) => self.map::<float::NegF64>(0),
            (FloatUn::Abs, Ty::F64) => self.map::<float::AbsF64>(0),
            (FloatUn::Neg, _) => formats!(ty, T => self.map::<float::Neg<T>>(flags)),
            (FloatUn::Abs, _) => formats!(ty, T => self.map::<float::Abs<T>>(flags)),
            (_, Ty::F64) => self.double_unary(op, m),
            (FloatUn::Rcp, Ty::F32) if m.rounding == Rounding::Approx => {
                self.map::<approx::RcpApprox>(flags)
            }
            (FloatUn::Sqrt, Ty::F32) if m.rounding == Rounding::Approx => {
                self.map::<approx::SqrtApprox>(flags)
            }
            (FloatUn::Rcp, Ty::F32) => match Mode::immediate(m)? {
                0 => self.map::<float::RcpF32>(0),
                imm => self.map::<float::Rcp>(imm),
            },
            (FloatUn::Sqrt, Ty::F32) => match Mode::immediate(m)? {
                0 => self.map::<float::SqrtF32>(0),
                imm => self.map::<float::Sqrt>(imm),
            },
            (FloatUn::Rsqrt, Ty::F32) => self.map::<approx::RsqrtApprox>(flags),
            (FloatUn::Lg2, Ty::F32) => self.map::<approx::Lg2>(flags),
            (FloatUn::Sin, Ty::F32) => self.map::<approx::Sin>(flags),
            (FloatUn::Cos, Ty::F32) => self.map::<approx::Cos>(flags),
            (FloatUn::Ex2, Ty::F16x2) => self.map::<approx::Ex2F16x2>(flags),
            (FloatUn::Ex2, Ty::BF16x2) => self.map::<approx::Ex2Bf16x2>(flags),
            (FloatUn::Tanh, Ty::F16x2) => self.map::<approx::TanhF16x2>(flags),
            (FloatUn::Tanh, Ty::BF16x2) => self.map::<approx::TanhBf16x2>(flags),
            (FloatUn::Ex2, _) => by_type!(ty, T: { F32 => f32, F16 => F16, BF16 => Bf16 } => {
                self.map::<approx::Ex2<T>>(flags)
            }),
            (FloatUn::Tanh, _) => by_type!(ty, T: { F32 => f32, F16 => F16, BF16 => Bf16 } => {
                self.map::<approx::Tanh<T>>(flags)
            }),
            _ => None,
        }
    }

    fn double_unary(&mut self, op: FloatUn, m: FloatMod) -> Option<Inst> {
        if m.rounding == Rounding::Approx {
            return match (op, m.ftz) {
                (FloatUn::Rcp, true) => self.map::<double::RcpApproxF64>(0),
                (FloatUn::Rsqrt, true) => self.map::<double::RsqrtApproxFtzF64>(0),
                (FloatUn::Rsqrt, false) => self.map::<double::RsqrtApproxF64>(0),
                _ => None,
            };
        }
        match (op, Mode::immediate(m)?) {
            (FloatUn::Rcp, 0) => self.map::<float::RcpF64>(0),
            (FloatUn::Sqrt, 0) => self.map::<float::SqrtF64>(0),
            (FloatUn::Rcp, imm) if imm & !7 == 0 => self.map::<double::RcpDirected>(imm),
            (FloatUn::Sqrt, imm) if imm & !7 == 0 => self.map::<double::SqrtDirected>(imm),
            _ => None,
        }
    }

    pub(super) fn copysign(&mut self, ty: Ty) -> Option<Inst> {
        match ty {
            Ty::F32 => self.map::<float::CopysignF32>(0),
            Ty::F64 => self.map::<float::CopysignF64>(0),
            _ => None,
        }
    }

    pub(super) fn convert(&mut self) -> Option<Inst> {
        let Op::Cvt {
            to,
            from,
            modifiers,
            satfinite,
            relu,
        } = self.instr.op
        else {
            return None;
        };
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let extra = bit(satfinite, round::SATFINITE) | bit(relu, round::RELU);
        let imm = Mode::immediate(modifiers)? | extra;
        match (to, from) {
            (Ty::F32, Ty::BF16) if imm & !7 == 0 => self.map::<convert::Bf16ToF32>(0),
            (Ty::BF16, Ty::F32) if imm == 0 => self.map::<convert::F32ToBf16>(0),
            (Ty::BF16x2, Ty::F32) if imm == 0 => self.map::<convert::PairToBf16>(0),
            (Ty::BF16x2, Ty::F32) => self.map::<convert::PairBf16>(imm),
            (Ty::F16x2, Ty::F32) => self.map::<convert::PairF16>(imm),
            (Ty::E4M3x2 | Ty::E5M2x2, _) if imm & 7 != 0 || !satfinite => None,
            (Ty::E4M3x2, Ty::F32) => self.map::<convert::PairE4m3>(imm & round::RELU),
            (Ty::E5M2x2, Ty::F32) => self.map::<convert::PairE5m2>(imm & round::RELU),
            (Ty::E4M3x2, Ty::F16x2) => self.map::<convert::F16x2ToE4m3>(imm & round::RELU),
            (Ty::E5M2x2, Ty::F16x2) => self.map::<convert::F16x2ToE5m2>(imm & round::RELU),
            (Ty::F32, Ty::U32) if imm == 0 && !self.wide_source() => {
                self.map::<convert::U32ToF32>(0)
            }
            (Ty::F32, Ty::S32) if imm == 0 && !self.wide_source() => {
                self.map::<convert::S32ToF32>(0)
            }
            (Ty::U32, Ty::F32) if imm == Mode::Zero as u64 && !self.wide_target() => {
                self.map::<convert::F32ToU32>(0)
            }
            (Ty::S32, Ty::F32) if imm == Mode::Zero as u64 && !self.wide_target() => {
                self.map::<convert::F32ToS32>(0)
            }
            (Ty::F16x2, Ty::E4M3x2) => self.map::<convert::E4m3ToF16x2>(imm),
            (Ty::F16x2, Ty::E5M2x2) => self.map::<convert::E5m2ToF16x2>(imm),
            _ => self.convert_scalar(to, from, imm),
        }
    }

    /// The source register is wider than its type.
    fn wide_source(&self) -> bool {
        self.source_class(0) == Some(Class::B64)
    }

    /// The destination register is wider than its type.
    fn wide_target(&self) -> bool {
        self.target_class(0) == Some(Class::B64)
    }

    fn convert_scalar(&mut self, to: Ty, from: Ty, imm: u64) -> Option<Inst> {
        let integral = matches!(
            self.instr.op,
            Op::Cvt { modifiers: FloatMod { rounding, .. }, .. }
                if matches!(rounding, Rounding::Rni | Rounding::Rzi | Rounding::Rmi | Rounding::Rpi)
        );
        match (is_integer(to), is_integer(from)) {
            (true, true) => self.int_to_int(to, from, imm),
            (true, false) => {
                let imm = imm | convert::integer_fields(to, from);
                float_source!(from, A => self.float_to_int::<A>(imm))
            }
            (false, true) => {
                let imm = imm | convert::integer_fields(to, from);
                float_target!(to, D => match self.container(from)? {
                    Class::B64 => self.map::<convert::IntToFloat<u64, D>>(imm),
                    _ => self.map::<convert::IntToFloat<u32, D>>(imm),
                })
            }
            (false, false) => {
                let imm = if integral {
                    imm | convert::INTEGRAL
                } else {
                    imm
                };
                float_source!(from, A => float_target!(to, D => {
                    self.map::<convert::FloatToFloat<A, D>>(imm)
                }))
            }
        }
    }

    fn float_to_int<A: convert::Source>(&mut self, imm: u64) -> Option<Inst> {
        match self.target_class(0)? {
            Class::B64 => self.map::<convert::FloatToInt<A, u64>>(imm),
            _ => self.map::<convert::FloatToInt<A, u32>>(imm),
        }
    }

    /// The class of the source register, or of its type for an immediate.
    fn container(&self, ty: Ty) -> Option<Class> {
        let by_type = if ty.bytes() == 8 {
            Class::B64
        } else {
            Class::B32
        };
        Some(self.source_class(0).unwrap_or(by_type))
    }

    fn int_to_int(&mut self, to: Ty, from: Ty, imm: u64) -> Option<Inst> {
        let (source, target) = (self.container(from)?, self.target_class(0)?);
        let plain = imm & round::SAT == 0;
        match (source, target, from) {
            (Class::B32, Class::B64, Ty::U32 | Ty::B32) if plain && to.bytes() == 8 => {
                return self.map::<convert::Zext32>(0);
            }
            (Class::B32, Class::B64, Ty::S32) if plain && to.bytes() == 8 => {
                return self.map::<convert::Sext32>(0);
            }
            (Class::B64, Class::B32, _) if plain && from.bytes() == 8 && to.bytes() == 4 => {
                return self.map::<convert::Trunc64>(0);
            }
            _ => {}
        }
        let imm = imm | convert::integer_fields(to, from);
        match (source, target) {
            (Class::B32, Class::B32) => self.map::<convert::IntToInt<u32, u32>>(imm),
            (Class::B32, Class::B64) => self.map::<convert::IntToInt<u32, u64>>(imm),
            (Class::B64, Class::B32) => self.map::<convert::IntToInt<u64, u32>>(imm),
            (Class::B64, Class::B64) => self.map::<convert::IntToInt<u64, u64>>(imm),
            _ => None,
        }
    }
}

/// Types whose conversions are between integers.
fn is_integer(ty: Ty) -> bool {
    ty.is_signed() || matches!(ty, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64)
}

macro_rules! float_source {
    ($ty:expr, $T:ident => $body:expr) => {
        by_type!($ty, $T: { F16 => F16, BF16 => Bf16, F32 => f32, F64 => f64 } => $body)
    };
}
macro_rules! float_target {
    ($ty:expr, $T:ident => $body:expr) => {
        by_type!($ty, $T: {
            F16 => F16, BF16 => Bf16, F32 => f32, F64 => f64, TF32 => convert::Tf32Bits,
        } => $body)
    };
}
use {float_source, float_target};
