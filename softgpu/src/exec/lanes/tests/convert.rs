//! Conversions against `rustc_apfloat` and integer arithmetic.
#![expect(
    clippy::fn_params_excessive_bools,
    reason = "modifiers of instructions, named where they are passed"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "two's complement"
)]

use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

use super::float::{BF16, DIRECTIONS, F16, F32, F64, Format, value};
use super::{Shape, product, random};
use crate::ir::{Class, FloatMod, Op, Rounding, Ty};

const INTEGERS: [Ty; 8] = [
    Ty::U8,
    Ty::S8,
    Ty::U16,
    Ty::S16,
    Ty::U32,
    Ty::S32,
    Ty::U64,
    Ty::S64,
];

fn class(ty: Ty) -> Class {
    if ty.bytes() == 8 {
        Class::B64
    } else {
        Class::B32
    }
}

fn cvt(to: Ty, from: Ty, rounding: Rounding) -> Op {
    let modifiers = FloatMod {
        rounding,
        ..FloatMod::default()
    };
    Op::Cvt {
        to,
        from,
        modifiers,
        satfinite: false,
        relu: false,
    }
}

/// The number in the low bits of a register.
fn number(ty: Ty, raw: u64) -> i128 {
    let shift = 128 - ty.bytes() * 8;
    if ty.is_signed() {
        (raw as i128) << shift >> shift
    } else {
        ((raw as u128) << shift >> shift) as i128
    }
}

fn limits(ty: Ty) -> (i128, i128) {
    let half = 1i128 << (ty.bytes() * 8 - 1);
    if ty.is_signed() {
        (-half, half - 1)
    } else {
        (0, 2 * half - 1)
    }
}

/// Every value of 16 bits.
fn all16() -> impl Iterator<Item = Vec<u64>> {
    (0..0x1_0000).map(|x| vec![x])
}

/// Cases for a source: every value of the narrow types, where the result may be inexact.
fn integers_of(ty: Ty, to: Format) -> Vec<Vec<u64>> {
    let mut cases = integers();
    if ty.bytes() <= 2 && to.bits == 16 {
        cases.extend(all16());
    }
    cases
}

fn integers() -> Vec<Vec<u64>> {
    let mut cases = random(160, 1, 21);
    for bit in 0..64 {
        let power = 1u64 << bit;
        for near in [
            power - 1,
            power,
            power + 1,
            power | power >> 24,
            power | power >> 11,
        ] {
            cases.push(vec![near]);
            cases.push(vec![near.wrapping_neg()]);
        }
    }
    cases
}

/// Also into and from registers wider than the type.
#[test]
fn integers_to_integers() {
    for from in INTEGERS {
        for to in INTEGERS {
            for (target, source) in [(class(to), class(from)), (Class::B64, Class::B64)] {
                let shape = Shape::new(cvt(to, from, Rounding::Default), &[target], &[source]);
                let bits = if target == Class::B64 { 64 } else { 32 };
                shape.check(bits, integers(), |case| {
                    number(to, number(from, case[0]) as u64) as u64
                });
                let Op::Cvt { mut modifiers, .. } = shape.op else {
                    unreachable!("made above")
                };
                modifiers.sat = true;
                let sat = Op::Cvt {
                    to,
                    from,
                    modifiers,
                    satfinite: false,
                    relu: false,
                };
                Shape::new(sat, &[target], &[source]).check(bits, integers(), |case| {
                    let (min, max) = limits(to);
                    number(from, case[0]).clamp(min, max) as u64
                });
            }
        }
    }
}

fn integers_to<F: Float>(format: Format) {
    for from in INTEGERS {
        for (rounding, round) in DIRECTIONS {
            let shape = Shape::new(
                cvt(format.ty, from, rounding),
                &[format.class],
                &[class(from)],
            );
            shape.check(format.bits, integers_of(from, format), |case| {
                let number = number(from, case[0]);
                format.result(F::from_i128_r(number, round).value)
            });
        }
    }
}

#[test]
fn integers_to_floats() {
    integers_to::<Half>(F16);
    integers_to::<Single>(F32);
    integers_to::<Double>(F64);
    integers_to::<BFloat>(BF16);
}

fn floats_to_integers<F: Float>(format: Format) {
    let integral = [Rounding::Rni, Rounding::Rzi, Rounding::Rmi, Rounding::Rpi];
    for to in INTEGERS {
        for (rounding, (_, round)) in integral.into_iter().zip(DIRECTIONS) {
            let shape = Shape::new(cvt(to, format.ty, rounding), &[class(to)], &[format.class]);
            let mut cases = product(&[&format.edges()]);
            cases.extend(random(320, 1, 22));
            cases.extend((0..400u64).map(|i| {
                let quarter = F::from_u128(u128::from(i)).value;
                let scaled = quarter.scalbn(-2 + (i % 64) as i32 / 4);
                let sign = if i % 2 == 0 { 0 } else { format.sign() };
                vec![format.result(scaled) | sign]
            }));
            // Of the types that differ in nothing but their limits a few are enough.
            if format.bits == 16 && matches!(to, Ty::S8 | Ty::U16 | Ty::S32 | Ty::U64) {
                cases.extend(all16());
            }
            shape.check(to.bytes() * 8, cases, |case| {
                let x = value::<F>(case[0]);
                if x.is_nan() {
                    let wide = format.ty == Ty::F64 || to.bytes() == 8;
                    return if wide { 1 << (to.bytes() * 8 - 1) } else { 0 };
                }
                let (min, max) = limits(to);
                // Saturates on its own, in 128 bits.
                x.to_i128_r(128, round, &mut false).value.clamp(min, max) as u64
            });
        }
    }
}

#[test]
fn floats_to_integers_clamp() {
    floats_to_integers::<Half>(F16);
    floats_to_integers::<BFloat>(BF16);
    floats_to_integers::<Single>(F32);
    floats_to_integers::<Double>(F64);
}

fn between<A: Float + FloatConvert<B>, B: Float>(from: Format, to: Format) {
    for (rounding, round) in DIRECTIONS {
        let shape = Shape::new(cvt(to.ty, from.ty, rounding), &[to.class], &[from.class]);
        let mut cases = product(&[&from.edges()]);
        cases.extend(random(3200, 1, 23));
        cases.extend(around::<A>(from));
        if from.bits == 16 {
            cases.extend(all16());
        }
        shape.check(to.bits, cases, |case| {
            let x = value::<A>(case[0]);
            if (from.ty, to.ty) == (Ty::BF16, Ty::F32) && x.is_nan() {
                // A shift: the payload stays.
                return case[0] << 16;
            }
            to.result(FloatConvert::<B>::convert_r(x, round, &mut false).value)
        });
    }
}

/// Values near the ends of the narrow formats, ties among them.
fn around<A: Float>(from: Format) -> Vec<Vec<u64>> {
    let mut cases = vec![];
    for exponent in [
        -150, -149, -134, -133, -127, -126, -25, -24, -15, -14, -10, -7, 0, 8, 15, 127,
    ] {
        for eighths in 8u128..72 {
            let x = A::from_u128(eighths).value.scalbn(exponent - 5);
            cases.push(vec![from.result(x)]);
            cases.push(vec![from.result(x) ^ from.sign()]);
        }
    }
    cases
}

#[test]
fn floats_to_floats() {
    between::<Single, Half>(F32, F16);
    between::<Single, BFloat>(F32, BF16);
    between::<Single, Double>(F32, F64);
    between::<Double, Single>(F64, F32);
    between::<Double, Half>(F64, F16);
    between::<Double, BFloat>(F64, BF16);
    between::<Half, Single>(F16, F32);
    between::<Half, Double>(F16, F64);
    between::<Half, BFloat>(F16, BF16);
    between::<BFloat, Single>(BF16, F32);
    between::<BFloat, Half>(BF16, F16);
}

fn integral<F: Float>(format: Format) {
    let integral = [Rounding::Rni, Rounding::Rzi, Rounding::Rmi, Rounding::Rpi];
    for (rounding, (_, round)) in integral.into_iter().zip(DIRECTIONS) {
        let op = cvt(format.ty, format.ty, rounding);
        let shape = Shape::new(op, &[format.class], &[format.class]);
        let mut cases = product(&[&format.edges()]);
        cases.extend(random(640, 1, 24));
        cases.extend(around::<F>(format));
        shape.check(format.bits, cases, |case| {
            format.result(value::<F>(case[0]).round_to_integral(round).value)
        });
    }
}

#[test]
fn floats_to_integral_floats() {
    integral::<Single>(F32);
    integral::<Half>(F16);
    integral::<Double>(F64);
}

#[test]
fn tf32_rounds_ties_away() {
    let shape = Shape::new(
        cvt(Ty::TF32, Ty::F32, Rounding::Rna),
        &[Class::B32],
        &[Class::B32],
    );
    let mut cases = product(&[&F32.edges()]);
    cases.extend(random(3200, 1, 25));
    cases.extend(
        random(640, 1, 26)
            .into_iter()
            .map(|c| vec![c[0] & !0xfff | 0x1000]),
    );
    shape.check(32, cases, |case| {
        let x = case[0] & 0xffff_ffff;
        // Adding half of the last kept place to the magnitude, in integers.
        let magnitude = x & 0x7fff_ffff;
        match magnitude {
            0..0x7f80_0000 => x & 0x8000_0000 | (magnitude + 0x1000) & !0x1fff,
            0x7f80_0000 => x,
            _ => 0x7fff_ffff,
        }
    });
}

fn packed(to: Ty, rounding: Rounding, satfinite: bool, relu: bool) -> Shape {
    let modifiers = FloatMod {
        rounding,
        ..FloatMod::default()
    };
    let op = Op::Cvt {
        to,
        from: Ty::F32,
        modifiers,
        satfinite,
        relu,
    };
    Shape::new(op, &[Class::B32], &[Class::B32; 2])
}

/// One item of a packed conversion.
fn item<F: Float>(x: u64, nan: u64, satfinite: bool, relu: bool) -> u64
where
    Single: FloatConvert<F>,
{
    let x = value::<Single>(x);
    let bits = |x: F| x.to_bits() as u64;
    if x.is_nan() {
        return nan;
    }
    if relu && (x.is_negative() || x.is_zero()) {
        return 0;
    }
    let result: F = x.convert_r(Round::NearestTiesToEven, &mut false).value;
    let fits = result.is_finite();
    let largest = if x.is_negative() {
        -F::largest()
    } else {
        F::largest()
    };
    bits(if satfinite && !fits { largest } else { result })
}

#[test]
fn pairs_of_halves() {
    for satfinite in [false, true] {
        for relu in [false, true] {
            let edges = F32.edges();
            let mut cases = product(&[&edges, &edges]);
            cases.extend(random(1280, 2, 27));
            let shape = packed(Ty::F16x2, Rounding::Rn, satfinite, relu);
            shape.check(32, cases.clone(), |case| {
                let item = |i: usize| item::<Half>(case[i], 0x7fff, satfinite, relu);
                item(0) << 16 | item(1)
            });
            let shape = packed(Ty::BF16x2, Rounding::Rn, satfinite, relu);
            shape.check(32, cases, |case| {
                let item = |i: usize| item::<BFloat>(case[i], 0x7fff, satfinite, relu);
                item(0) << 16 | item(1)
            });
        }
    }
}

#[test]
fn pairs_of_fp8() {
    let mut cases = random(1280, 2, 28);
    let near: Vec<u64> = around::<Single>(F32)
        .into_iter()
        .map(|case| case[0])
        .collect();
    cases.extend(near.chunks(2).map(<[u64]>::to_vec));
    let edges = F32.edges();
    cases.extend(product(&[&edges, &edges]));
    for relu in [false, true] {
        let shape = packed(Ty::E4M3x2, Rounding::Rn, true, relu);
        shape.check(16, cases.clone(), |case| {
            // What overflows is not infinite but NaN in this format; both saturate.
            let code = |i: usize| item::<Float8E4M3FN>(case[i], 0x7f, true, relu);
            code(0) << 8 | code(1)
        });
        let shape = packed(Ty::E5M2x2, Rounding::Rn, true, relu);
        shape.check(16, cases.clone(), |case| {
            let code = |i: usize| item::<Float8E5M2>(case[i], 0x7f, true, relu);
            code(0) << 8 | code(1)
        });
    }
}

/// All codes, and back.
#[test]
fn fp8_to_halves_and_back() {
    let all: Vec<Vec<u64>> = all16().collect();
    let to_half = |x: u64, e4m3: bool| {
        let single = |x: u64| {
            let wide: (Half, bool) = if e4m3 {
                let x = value::<Float8E4M3FN>(x);
                (x.convert(&mut false).value, x.is_nan())
            } else {
                let x = value::<Float8E5M2>(x);
                (x.convert(&mut false).value, x.is_nan())
            };
            if wide.1 {
                0x7fff
            } else {
                wide.0.to_bits() as u64
            }
        };
        single(x)
    };
    for (ty, e4m3) in [(Ty::E4M3x2, true), (Ty::E5M2x2, false)] {
        let op = cvt(Ty::F16x2, ty, Rounding::Rn);
        let shape = Shape::new(op, &[Class::B32], &[Class::B32]);
        shape.check(32, all.clone(), |case| {
            to_half(case[0] >> 8, e4m3) << 16 | to_half(case[0] & 0xff, e4m3)
        });
        let back = Op::Cvt {
            to: ty,
            from: Ty::F16x2,
            modifiers: FloatMod::default(),
            satfinite: true,
            relu: false,
        };
        let halves = all
            .iter()
            .map(|case| vec![to_half(case[0] >> 8, e4m3) << 16 | to_half(case[0] & 0xff, e4m3)]);
        let back = Shape::new(back, &[Class::B32], &[Class::B32]);
        back.check_with(halves, |case, got| {
            let code = |half: u64| match half & 0x7fff {
                0x7c01.. => 0x7f,
                0x7c00 => u64::from(if e4m3 { 0x7eu8 } else { 0x7b }) | half >> 8 & 0x80,
                _ => return_code(half, e4m3),
            };
            let want = code(case[0] >> 16) << 8 | code(case[0] & 0xffff);
            if got == want {
                Ok(())
            } else {
                Err(format!("{want:#x}"))
            }
        });
    }
}

/// Every half in the low part, with another one above it, through f32.
#[test]
fn every_half_to_fp8() {
    let cases = || (0..0x1_0000u64).map(|x| vec![x | (x.wrapping_mul(40503) & 0xffff) << 16]);
    let single = |half: u64| {
        let wide: Single = value::<Half>(half).convert(&mut false).value;
        wide.to_bits() as u64
    };
    for relu in [false, true] {
        for (to, e4m3) in [(Ty::E4M3x2, true), (Ty::E5M2x2, false)] {
            let op = Op::Cvt {
                to,
                from: Ty::F16x2,
                modifiers: FloatMod::default(),
                satfinite: true,
                relu,
            };
            Shape::new(op, &[Class::B32], &[Class::B32]).check(16, cases(), |case| {
                let code = |half: u64| {
                    let x = single(half & 0xffff);
                    if e4m3 {
                        item::<Float8E4M3FN>(x, 0x7f, true, relu)
                    } else {
                        item::<Float8E5M2>(x, 0x7f, true, relu)
                    }
                };
                code(case[0] >> 16) << 8 | code(case[0])
            });
        }
    }
}

/// `.ftz` is for f32: what is subnormal as f16 stays.
#[test]
fn flushing_spares_halves() {
    let modifiers = FloatMod {
        ftz: true,
        ..FloatMod::default()
    };
    let op = |to, from| Op::Cvt {
        to,
        from,
        modifiers,
        satfinite: false,
        relu: false,
    };
    let widen = Shape::new(op(Ty::F32, Ty::F16), &[Class::B32], &[Class::B32]);
    widen.check(32, all16(), |case| {
        let wide: Single = value::<Half>(case[0]).convert(&mut false).value;
        F32.result(wide)
    });
    let narrow = Shape::new(op(Ty::F16, Ty::F32), &[Class::B32], &[Class::B32]);
    narrow.check(16, around::<Single>(F32), |case| {
        let x = value::<Single>(case[0]);
        let x = if x.is_denormal() {
            value::<Single>(case[0] & 0x8000_0000)
        } else {
            x
        };
        F16.result(FloatConvert::<Half>::convert(x, &mut false).value)
    });
}

/// The code whose value a half has, found among all codes.
fn return_code(half: u64, e4m3: bool) -> u64 {
    let matches = |code: &u64| {
        let value: Half = if e4m3 {
            value::<Float8E4M3FN>(*code).convert(&mut false).value
        } else {
            value::<Float8E5M2>(*code).convert(&mut false).value
        };
        value.to_bits() as u64 == half
    };
    (0..256).find(matches).expect("the half came from a code")
}
