//! Moves, packing, predicates, comparisons, selections, carries, address windows.

use super::float::{BF16, F16, F32, F64, value};
use super::{Shape, product, random};
use crate::exec::access::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ir::{BoolOp, Class, Cmp, IntOp, IntUn, Op, Space, Ty};
use rustc_apfloat::Float;
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};

#[test]
fn moves() {
    for class in [Class::Pred, Class::B32, Class::B64, Class::B128] {
        let bits = match class {
            Class::Pred => 1,
            Class::B32 => 32,
            _ => 64,
        };
        Shape::new(Op::Mov, &[class], &[class]).check(bits, random(64, 1, 41), |case| case[0]);
    }
}

/// Every width of parts: pack from parts, unpack to each.
#[test]
fn packing() {
    for (whole, bits, part, count) in [
        (Class::B32, 32, Ty::B16, 2),
        (Class::B32, 32, Ty::B8, 4),
        (Class::B64, 64, Ty::B32, 2),
        (Class::B64, 64, Ty::B16, 4),
        (Class::B64, 64, Ty::B8, 8),
    ] {
        let width = part.bytes() * 8;
        let low = (1u64 << width) - 1;
        let pack = Shape::new(Op::Pack { part }, &[whole], &vec![Class::B32; count]);
        pack.check(bits, random(64, count, 42), |case| {
            (0..count)
                .map(|i| (case[i] & low) << (width as usize * i))
                .sum()
        });
        for kept in 0..count {
            let sink = u8::try_from(((1u32 << count) - 1) & !(1 << kept)).expect("8 parts");
            let unpack = Op::Unpack { part, sink };
            let unpack = Shape::new(unpack, &[Class::B32], &[whole]);
            unpack.check(32, random(64, 1, 43), |case| {
                case[0] >> (width as usize * kept) & low
            });
        }
    }
    let shape = Shape::new(Op::Pack { part: Ty::B64 }, &[Class::B128], &[Class::B64; 2]);
    shape.check(64, random(64, 2, 44), |case| case[0]);
}

#[test]
fn predicate_logic() {
    let cases = || product(&[&[0, 1], &[0, 1]]);
    for (op, table) in [
        (IntOp::And, 0b1000),
        (IntOp::Or, 0b1110),
        (IntOp::Xor, 0b0110),
    ] {
        let shape = Shape::new(Op::Int(op, Ty::Pred), &[Class::Pred], &[Class::Pred; 2]);
        shape.check(1, cases(), |case| table >> (case[0] * 2 + case[1]));
    }
    let not = Op::IntUnary(IntUn::Not, Ty::Pred);
    Shape::new(not, &[Class::Pred], &[Class::Pred]).check(1, cases(), |case| 1 - case[0]);
}

/// When a comparison holds, given how the operands compare.
type Rule = fn(Option<std::cmp::Ordering>) -> bool;

const ORDERED: [(Cmp, Rule); 14] = {
    use std::cmp::Ordering::{Equal, Greater, Less};
    [
        (Cmp::Eq, |o| o == Some(Equal)),
        (Cmp::Ne, |o| matches!(o, Some(Less | Greater))),
        (Cmp::Lt, |o| o == Some(Less)),
        (Cmp::Le, |o| matches!(o, Some(Less | Equal))),
        (Cmp::Gt, |o| o == Some(Greater)),
        (Cmp::Ge, |o| matches!(o, Some(Greater | Equal))),
        (Cmp::Equ, |o| matches!(o, None | Some(Equal))),
        (Cmp::Neu, |o| o != Some(Equal)),
        (Cmp::Ltu, |o| matches!(o, None | Some(Less))),
        (Cmp::Leu, |o| o != Some(Greater)),
        (Cmp::Gtu, |o| matches!(o, None | Some(Greater))),
        (Cmp::Geu, |o| o != Some(Less)),
        (Cmp::Num, |o| o.is_some()),
        (Cmp::Nan, |o| o.is_none()),
    ]
};

fn setp(cmp: Cmp, ty: Ty, combine: Option<BoolOp>) -> Op {
    Op::Setp {
        cmp,
        ty,
        combine,
        ftz: false,
    }
}

fn compare_floats<F: Float>(format: super::float::Format) {
    for (cmp, rule) in ORDERED {
        let shape = Shape::new(
            setp(cmp, format.ty, None),
            &[Class::Pred],
            &[format.class; 2],
        );
        let edges = format.edges();
        shape.check(1, product(&[&edges, &edges]), |case| {
            u64::from(rule(value::<F>(case[0]).partial_cmp(&value::<F>(case[1]))))
        });
    }
}

#[test]
fn float_comparisons() {
    compare_floats::<Single>(F32);
    compare_floats::<Double>(F64);
    compare_floats::<Half>(F16);
    compare_floats::<BFloat>(BF16);
}

#[test]
fn integer_comparisons() {
    let edges = [
        0,
        1,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        1 << 63,
        u64::MAX,
    ];
    for ty in [Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let class = if ty.bytes() == 8 {
            Class::B64
        } else {
            Class::B32
        };
        let number = |raw: u64| {
            let shift = 128 - ty.bytes() * 8;
            let high = i128::from(raw) << shift;
            // Unsigned values compare as if shifted down by half the range.
            if ty.is_signed() {
                high
            } else {
                high ^ i128::MIN
            }
        };
        for (cmp, rule) in &ORDERED[..6] {
            let shape = Shape::new(setp(*cmp, ty, None), &[Class::Pred], &[class; 2]);
            shape.check(1, product(&[&edges, &edges]), |case| {
                u64::from(rule(Some(number(case[0]).cmp(&number(case[1])))))
            });
        }
    }
}

#[test]
fn combined_comparisons_and_complement() {
    let values = [1, 2, 3];
    for (combine, table) in [
        (BoolOp::And, 0b1000),
        (BoolOp::Or, 0b1110),
        (BoolOp::Xor, 0b0110),
    ] {
        let src = [Class::B32, Class::B32, Class::Pred];
        let op = setp(Cmp::Lt, Ty::U32, Some(combine));
        let cases = product(&[&values, &values, &[0, 1]]);
        let shape = Shape::new(op, &[Class::Pred; 2], &src);
        let rule = |less: bool, other: u64| table >> (u64::from(less) * 2 + other) & 1;
        shape.check(1, cases.clone(), |case| rule(case[0] < case[1], case[2]));
        for chunk in cases.chunks(18) {
            let mut chunk = chunk.to_vec();
            chunk.resize(32, vec![1, 1, 0]);
            let results = shape.agree(&chunk);
            for (case, &q) in chunk.iter().zip(&results[1]) {
                assert_eq!(
                    q,
                    rule(case[0] >= case[1], case[2]),
                    "q of {combine:?} {case:?}"
                );
            }
        }
    }
}

fn halves_compared<F: Float>(format: super::float::Format, packed: Ty, one: u64) {
    let edges = format.edges();
    let pairs: Vec<Vec<u64>> = product(&[&edges, &edges]);
    let shifted = pairs.iter().cycle().skip(7);
    let cases: Vec<Vec<u64>> = pairs
        .iter()
        .zip(shifted)
        .enumerate()
        .map(|(i, (low, high))| vec![low[0] | high[0] << 16, low[1] | high[1] << 16, i as u64 & 1])
        .collect();
    for (cmp, rule) in ORDERED {
        let half = |case: &[u64], shift: u32| {
            let number = |i: usize| value::<F>(case[i] >> shift);
            rule(number(0).partial_cmp(&number(1)))
        };
        let op = setp(cmp, packed, None);
        let shape = Shape::new(op, &[Class::Pred; 2], &[Class::B32; 2]);
        for chunk in cases.chunks_exact(32) {
            let results = shape.agree(chunk);
            for (lane, case) in chunk.iter().enumerate() {
                let want = (u64::from(half(case, 0)), u64::from(half(case, 16)));
                let got = (results[0][lane], results[1][lane]);
                assert_eq!(got, want, "setp.{cmp:?}.{packed:?} {case:x?}");
            }
        }
        for (to, truth) in [(packed, one), (Ty::U32, 0xffff)] {
            let combine = Some(BoolOp::Xor);
            let op = Op::Set {
                cmp,
                to,
                ty: packed,
                combine,
                ftz: false,
            };
            let src = [Class::B32, Class::B32, Class::Pred];
            Shape::new(op, &[Class::B32], &src).check(32, cases.clone(), |case| {
                let half = |shift| {
                    let holds = half(case, shift) != (case[2] == 1);
                    if holds { truth << shift } else { 0 }
                };
                half(0) | half(16)
            });
        }
    }
}

#[test]
fn packed_comparisons() {
    halves_compared::<Half>(F16, Ty::F16x2, 0x3c00);
    halves_compared::<BFloat>(BF16, Ty::BF16x2, 0x3f80);
}

/// Every destination type, with and without a third operand.
#[test]
fn set_to_every_type() {
    for (to, truth, bits) in [
        (Ty::U16, 0xffff, 16),
        (Ty::S32, 0xffff_ffff, 32),
        (Ty::F16, 0x3c00, 16),
        (Ty::BF16, 0x3f80, 16),
    ] {
        for (combine, rule) in [
            (None, 0b1100),
            (Some(BoolOp::And), 0b1000),
            (Some(BoolOp::Or), 0b1110),
            (Some(BoolOp::Xor), 0b0110),
        ] {
            let edges = F16.edges();
            let op = Op::Set {
                cmp: Cmp::Ltu,
                to,
                ty: Ty::F16,
                combine,
                ftz: true,
            };
            let src = [Class::B32, Class::B32, Class::Pred];
            let shape = Shape::new(op, &[Class::B32], &src);
            shape.check(bits, product(&[&edges, &edges, &[0, 1]]), |case| {
                let flushed = |x: u64| if x & 0x7c00 == 0 { x & 0x8000 } else { x };
                let number = |i: usize| value::<Half>(flushed(case[i]));
                let less = !matches!(
                    number(0).partial_cmp(&number(1)),
                    Some(std::cmp::Ordering::Equal | std::cmp::Ordering::Greater)
                );
                if rule >> (u64::from(less) * 2 + case[2]) & 1 != 0 {
                    truth
                } else {
                    0
                }
            });
        }
    }
}

#[test]
fn set_to_all_ones_or_one() {
    let values = [0, 1, u64::MAX];
    for (to, truth) in [(Ty::U32, 0xffff_ffff), (Ty::F32, u64::from(1f32.to_bits()))] {
        let op = Op::Set {
            cmp: Cmp::Lt,
            to,
            ty: Ty::S32,
            combine: None,
            ftz: false,
        };
        let shape = Shape::new(op, &[Class::B32], &[Class::B32; 2]);
        let signed = |x: u64| {
            if x == u64::MAX {
                -1
            } else {
                i64::try_from(x).expect("small")
            }
        };
        shape.check(32, product(&[&values, &values]), |case| {
            if signed(case[0]) < signed(case[1]) {
                truth
            } else {
                0
            }
        });
    }
}

#[test]
fn selections() {
    for (ty, class, bits) in [(Ty::B32, Class::B32, 32), (Ty::B64, Class::B64, 64)] {
        let selp = Shape::new(Op::Selp(ty), &[class], &[class, class, Class::Pred]);
        let cases = random(64, 3, 45);
        let cases = cases
            .into_iter()
            .map(|case| vec![case[0], case[1], case[2] & 1]);
        selp.check(
            bits,
            cases,
            |case| if case[2] == 1 { case[0] } else { case[1] },
        );
        let slct = Shape::new(
            Op::Slct {
                ty,
                by: Ty::S32,
                ftz: false,
            },
            &[class],
            &[class, class, Class::B32],
        );
        slct.check(
            bits,
            product(&[&[5], &[6], &[0, 1, 0x7fff_ffff, 0x8000_0000]]),
            |case| {
                if case[2] < 0x8000_0000 { 5 } else { 6 }
            },
        );
        let slct = Shape::new(
            Op::Slct {
                ty,
                by: Ty::F32,
                ftz: false,
            },
            &[class],
            &[class, class, Class::B32],
        );
        let floats = [0.0f32, -0.0, 1.0, -1.0, f32::NAN].map(|x| u64::from(x.to_bits()));
        slct.check(bits, product(&[&[5], &[6], &floats]), |case| {
            let minus_one = u64::from((-1f32).to_bits());
            let nan = u64::from(f32::NAN.to_bits());
            if case[2] == minus_one || case[2] == nan {
                6
            } else {
                5
            }
        });
        for (ftz, chosen) in [(false, 6), (true, 5)] {
            let op = Op::Slct {
                ty,
                by: Ty::F32,
                ftz,
            };
            let slct = Shape::new(op, &[class], &[class, class, Class::B32]);
            slct.check(bits, [vec![5, 6, 0x8000_0001]], |_| chosen);
        }
    }
}

#[test]
fn address_windows() {
    let address = [0, 16, 0x0200_0010, 0x3_9000];
    for (space, base) in [
        (Space::Shared, SHARED_WINDOW),
        (Space::Local, LOCAL_WINDOW),
        (Space::Param, PARAM_WINDOW),
    ] {
        let to_generic = Op::Cvta {
            space,
            to_space: false,
        };
        let shape = Shape::new(to_generic.clone(), &[Class::B64], &[Class::B64]);
        shape.check(64, product(&[&address]), |case| base + case[0]);
        let shape = Shape::new(to_generic, &[Class::B64], &[Class::B32]);
        shape.check(64, product(&[&address]), |case| base + case[0]);
        let generic: Vec<u64> = address.iter().map(|a| base + a).collect();
        let from_generic = Op::Cvta {
            space,
            to_space: true,
        };
        let shape = Shape::new(from_generic, &[Class::B64], &[Class::B64]);
        shape.check(64, product(&[&generic]), |case| case[0] - base);
    }
    let global = Op::Cvta {
        space: Space::Global,
        to_space: true,
    };
    Shape::new(global, &[Class::B64], &[Class::B64]).check(64, random(32, 1, 46), |case| case[0]);
    let mapa = Shape::new(
        Op::Mapa {
            wide: false,
            generic: false,
        },
        &[Class::B32],
        &[Class::B32; 2],
    );
    mapa.check(32, product(&[&address, &[0, 1, 7]]), |case| {
        case[0] % 0x100_0000 + 0x100_0000 * (case[1] + 1)
    });
    let mapa = Op::Mapa {
        wide: true,
        generic: true,
    };
    let mapa = Shape::new(mapa, &[Class::B64], &[Class::B64, Class::B32]);
    mapa.check(64, product(&[&address, &[0, 1, 7]]), |case| {
        SHARED_WINDOW + case[0] % 0x100_0000 + 0x100_0000 * (case[1] + 1)
    });
}
