//! The rarer integer instructions, bit by bit or in wider integers.
#![expect(
    clippy::fn_params_excessive_bools,
    reason = "properties of types, named where they are passed"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "two's complement"
)]

use rustc_apfloat::ieee::{Double, Single};
use rustc_apfloat::{Category, Float};

use super::float::{F32, F64, Format, value};
use super::{Shape, product, random};
use crate::ir::{Arith, BoolOp, Class, FloatClass, Op, Ty};

const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0x7fff,
    0x8000,
    0xffff,
    0x7f_ffff,
    0x80_0000,
    0xff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1234_5678,
];

const COUNTS: [u64; 12] = [0, 1, 7, 8, 15, 30, 31, 32, 33, 63, 64, 0xffff_ffff];

fn shape(op: Arith, sources: usize) -> Shape {
    Shape::new(Op::Arith(op), &[Class::B32], &vec![Class::B32; sources])
}

fn cases(operands: usize, seed: u64) -> Vec<Vec<u64>> {
    let lists: Vec<&[u64]> = (0..operands).map(|_| EDGES.as_slice()).collect();
    let mut all = product(&lists);
    all.extend(random(640, operands, seed));
    all
}

/// The low `bits` bits as a number.
fn number(raw: u64, bits: u32, signed: bool) -> i128 {
    let shift = 128 - bits;
    if signed {
        (raw as i128) << shift >> shift
    } else {
        ((raw as u128) << shift >> shift) as i128
    }
}

fn clamp32(x: i128) -> u64 {
    x.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64
}

#[test]
fn sums_of_absolute_differences() {
    for ty in [Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let class = if ty.bytes() == 8 {
            Class::B64
        } else {
            Class::B32
        };
        let bits = ty.bytes() * 8;
        let sad = Shape::new(Op::Arith(Arith::Sad(ty)), &[class], &[class; 3]);
        let mut all = cases(3, 71);
        all.extend(product(&[&[0, 1 << 63, u64::MAX], &[1, 1 << 63], &[5]]));
        sad.check(bits, all, |case| {
            let [a, b] = [0, 1].map(|i| number(case[i], bits, ty.is_signed()));
            ((a - b).abs() + number(case[2], bits, false)) as u64
        });
    }
}

#[test]
fn products_of_24_bits() {
    for ty in [Ty::U32, Ty::S32] {
        for hi in [false, true] {
            let exact = |case: &[u64]| {
                let [a, b] = [0, 1].map(|i| number(case[i], 24, ty.is_signed()));
                number(((a * b) >> if hi { 16 } else { 0 }) as u64, 32, true)
            };
            shape(Arith::Mul24 { ty, hi }, 2).check(32, cases(2, 72), |case| exact(case) as u64);
            let mad = Arith::Mad24 { ty, hi, sat: false };
            shape(mad, 3).check(32, cases(3, 73), |case| {
                (exact(case) as u64).wrapping_add(case[2])
            });
        }
    }
    let mad = Arith::Mad24 {
        ty: Ty::S32,
        hi: true,
        sat: true,
    };
    shape(mad, 3).check(32, cases(3, 74), |case| {
        let [a, b] = [0, 1].map(|i| number(case[i], 24, true));
        clamp32(((a * b) >> 16) + number(case[2], 32, true))
    });
}

#[test]
fn saturated_multiply_add() {
    shape(Arith::MadHiSat, 3).check(32, cases(3, 75), |case| {
        let [a, b, c] = [0, 1, 2].map(|i| number(case[i], 32, true));
        clamp32(((a * b) >> 32) + c)
    });
}

#[test]
fn extrema_above_zero() {
    for max in [false, true] {
        let pick = |a: i128, b: i128| if max { a.max(b) } else { a.min(b) }.max(0);
        let ty = Ty::S32;
        shape(Arith::MinMaxRelu { ty, max }, 2).check(32, cases(2, 76), |case| {
            pick(number(case[0], 32, true), number(case[1], 32, true)) as u64
        });
        let ty = Ty::S16x2;
        shape(Arith::MinMaxRelu { ty, max }, 2).check(32, cases(2, 77), |case| {
            let half = |shift: u32| {
                let [a, b] = [0, 1].map(|i| number(case[i] >> shift, 16, true));
                (pick(a, b) as u64) << shift
            };
            half(0) | half(16)
        });
    }
}

#[test]
fn masks() {
    for clamp in [false, true] {
        let bmsk = shape(Arith::Bmsk { clamp }, 2);
        bmsk.check(32, product(&[&COUNTS, &COUNTS]), |case| {
            let [start, width] = [0, 1].map(|i| {
                let count = case[i] & 0xffff_ffff;
                if clamp { count.min(32) } else { count % 32 }
            });
            (0..32)
                .filter(|i| (start..start + width).contains(i))
                .map(|i| 1 << i)
                .sum()
        });
    }
}

#[test]
fn sign_extension_from_any_width() {
    for clamp in [false, true] {
        for signed in [false, true] {
            let szext = shape(Arith::Szext { clamp, signed }, 2);
            let all = product(&[&EDGES, &COUNTS]).into_iter();
            szext.check(32, all.chain(random(640, 2, 78)), |case| {
                let count = case[1] & 0xffff_ffff;
                let width = if clamp { count.min(32) } else { count % 32 };
                match width {
                    0 => 0,
                    width => number(case[0], width as u32, signed) as u64,
                }
            });
        }
    }
}

/// The loop by which the ISA defines `fns`.
#[test]
fn nth_set_bit() {
    let offsets: Vec<u64> = (-34i64..=34).map(|x| x as u64 & 0xffff_ffff).collect();
    let bases: Vec<u64> = (0..32).collect();
    let masks = [0, 1, 0x8000_0000, 0xffff_ffff, 0x9e37_79b9, 0xaaaa_aaaa];
    shape(Arith::Fns, 3).check(32, product(&[&masks, &bases, &offsets]), |case| {
        let (mask, offset) = (case[0], case[2] as i32);
        let set = |i: i64| mask >> i & 1 != 0;
        let base = case[1] as i64;
        if offset == 0 {
            return if set(base) { case[1] } else { u64::MAX };
        }
        let (mut at, mut count) = (base, offset.abs() - 1);
        while (0..32).contains(&at) {
            if set(at) {
                if count == 0 {
                    return at as u64;
                }
                count -= 1;
            }
            at += i64::from(offset.signum());
        }
        u64::MAX
    });
}

#[test]
fn dot_products_of_two() {
    for (a, b) in [
        (Ty::U32, Ty::U32),
        (Ty::S32, Ty::U32),
        (Ty::U32, Ty::S32),
        (Ty::S32, Ty::S32),
    ] {
        for hi in [false, true] {
            shape(Arith::Dp2a { a, b, hi }, 3).check(32, cases(3, 79), |case| {
                let first = if hi { 2 } else { 0 };
                let sum: i128 = (0..2)
                    .map(|i| {
                        number(case[0] >> (16 * i), 16, a.is_signed())
                            * number(case[1] >> (8 * (first + i)), 8, b.is_signed())
                    })
                    .sum();
                case[2].wrapping_add(sum as u64)
            });
        }
    }
}

#[test]
fn packing_conversions() {
    for bits in [2u8, 4, 8, 16] {
        for signed in [false, true] {
            let width = u32::from(bits);
            let half = 1i128 << (width - 1);
            let (min, max) = if signed {
                (-half, half - 1)
            } else {
                (0, 2 * half - 1)
            };
            let part = |x: u64| {
                let clamped = number(x, 32, true).clamp(min, max);
                clamped as u64 & ((1 << width) - 1)
            };
            let sources = if bits == 16 { 2 } else { 3 };
            let mut all = cases(sources, 80);
            let small: Vec<u64> = (-20i64..20).map(|x| x as u64 & 0xffff_ffff).collect();
            let few: &[u64] = &[0, 0xdead_beef];
            all.extend(product(&[&small, &small, few][..sources]));
            shape(Arith::CvtPack { bits, signed }, sources).check(32, all, |case| {
                let above = if bits == 16 { 0 } else { case[2] };
                above << (2 * width) | part(case[0]) << width | part(case[1])
            });
        }
    }
}

#[test]
fn logic_with_a_predicate() {
    for (combine, rule) in [
        (BoolOp::And, 0b1000),
        (BoolOp::Or, 0b1110),
        (BoolOp::Xor, 0b0110),
    ] {
        for table in [0x96u8, 0x80, 0, 0xff] {
            let op = Op::Arith(Arith::Lop3Pred { table, combine });
            let src = [Class::B32, Class::B32, Class::B32, Class::Pred];
            let shape = Shape::new(op, &[Class::B32, Class::Pred], &src);
            let mut all = product(&[&[0, 5], &[0, 5], &[0, 5], &[0, 1]]);
            all.extend(random(16, 4, 81).into_iter().map(|mut case| {
                case[3] &= 1;
                case
            }));
            let results = shape.agree(&all);
            for (lane, case) in all.iter().enumerate() {
                let row = |i: u32| (0..3).fold(0, |row, k| row << 1 | (case[k] >> i & 1));
                let d: u64 = (0..32).map(|i| u64::from(table >> row(i) & 1) << i).sum();
                let p = rule >> (u64::from(d != 0) * 2 + case[3]) & 1;
                let got = (results[0][lane], results[1][lane]);
                assert_eq!(got, (d, p), "{combine:?} {table:#x} {case:x?}");
            }
        }
    }
}

/// Whether a value belongs to a class.
type Rule<F> = fn(F) -> bool;

fn classes<F: Float>(format: Format) {
    use FloatClass::{Finite, Infinite, Normal, NotANumber, Number, Subnormal};
    let rules: [(FloatClass, Rule<F>); 6] = [
        (Finite, |x| x.is_finite()),
        (Infinite, |x| x.is_infinite()),
        (Number, |x| !x.is_nan()),
        (NotANumber, |x| x.is_nan()),
        (Normal, |x| {
            x.category() == Category::Zero || x.is_finite() && !x.is_denormal()
        }),
        (Subnormal, |x| x.is_denormal()),
    ];
    for (class, rule) in rules {
        let op = Op::Arith(Arith::Testp(class, format.ty));
        let shape = Shape::new(op, &[Class::Pred], &[format.class]);
        let all = product(&[&format.edges()])
            .into_iter()
            .chain(random(320, 1, 82));
        shape.check(1, all, |case| u64::from(rule(value::<F>(case[0]))));
    }
}

#[test]
fn float_classes() {
    classes::<Single>(F32);
    classes::<Double>(F64);
}
