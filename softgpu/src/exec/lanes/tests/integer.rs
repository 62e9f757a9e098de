//! Integer operations against Rust's integers in wider types.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "two's complement"
)]

use super::{Shape, product, random};
use crate::ir::{Class, IntOp, IntUn, Op, Ty};

/// Values at the edges of all widths.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    7,
    0x7f,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
    0x1234_5678_9abc_def0,
];

const COUNTS: [u64; 12] = [0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 255, 0xffff_ffff];

const TYPES: [Ty; 6] = [Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64];

fn class(ty: Ty) -> Class {
    if ty.bytes() == 8 {
        Class::B64
    } else {
        Class::B32
    }
}

fn bits(ty: Ty) -> u32 {
    ty.bytes() * 8
}

/// The number that a register holds.
fn number(ty: Ty, raw: u64) -> i128 {
    let shift = 128 - bits(ty);
    if ty.is_signed() {
        (raw as i128) << shift >> shift
    } else {
        ((raw as u128) << shift >> shift) as i128
    }
}

fn limits(ty: Ty) -> (i128, i128) {
    let half = 1i128 << (bits(ty) - 1);
    if ty.is_signed() {
        (-half, half - 1)
    } else {
        (0, 2 * half - 1)
    }
}

fn binary(op: IntOp, ty: Ty, a: i128, b: i128) -> i128 {
    let (min, max) = limits(ty);
    match op {
        IntOp::Add => a + b,
        IntOp::Sub => a - b,
        IntOp::MulLo | IntOp::MulWide => a.wrapping_mul(b),
        IntOp::MulHi if ty == Ty::U64 => ((a as u128 * b as u128) >> 64) as i128,
        IntOp::MulHi => (a * b) >> bits(ty),
        IntOp::Div | IntOp::Rem if b == 0 => -1,
        IntOp::Div => a / b,
        IntOp::Rem => a % b,
        IntOp::Min => a.min(b),
        IntOp::Max => a.max(b),
        IntOp::And => a & b,
        IntOp::Or => a | b,
        IntOp::Xor => a ^ b,
        IntOp::AddSat => (a + b).clamp(min, max),
        IntOp::SubSat => (a - b).clamp(min, max),
        IntOp::Shl | IntOp::Shr => unreachable!("counts are tested apart"),
    }
}

fn pairs() -> Vec<Vec<u64>> {
    let mut cases = product(&[&EDGES, &EDGES]);
    cases.extend(random(320, 2, 1));
    cases
}

#[test]
fn two_operands() {
    use IntOp::{Add, And, Div, Max, Min, MulHi, MulLo, Or, Rem, Sub, Xor};
    for ty in TYPES {
        for op in [Add, Sub, MulLo, MulHi, Div, Rem, Min, Max, And, Or, Xor] {
            let shape = Shape::new(Op::Int(op, ty), &[class(ty)], &[class(ty); 2]);
            shape.check(bits(ty), pairs(), |case| {
                binary(op, ty, number(ty, case[0]), number(ty, case[1])) as u64
            });
        }
    }
    for op in [IntOp::AddSat, IntOp::SubSat] {
        let shape = Shape::new(Op::Int(op, Ty::S32), &[Class::B32], &[Class::B32; 2]);
        shape.check(32, pairs(), |case| {
            binary(
                op,
                Ty::S32,
                number(Ty::S32, case[0]),
                number(Ty::S32, case[1]),
            ) as u64
        });
    }
}

#[test]
fn wide_products() {
    for ty in [Ty::U16, Ty::S16, Ty::U32, Ty::S32] {
        let wide = if ty.bytes() == 4 {
            Class::B64
        } else {
            Class::B32
        };
        let product_of = |case: &[u64]| number(ty, case[0]) * number(ty, case[1]);
        let mul = Shape::new(Op::Int(IntOp::MulWide, ty), &[wide], &[class(ty); 2]);
        mul.check(bits(ty) * 2, pairs(), |case| product_of(case) as u64);
        let mad = Op::Mad(IntOp::MulWide, ty);
        let mad = Shape::new(mad, &[wide], &[class(ty), class(ty), wide]);
        mad.check(bits(ty) * 2, random(640, 3, 2), |case| {
            (product_of(case) as u64).wrapping_add(case[2])
        });
    }
}

#[test]
fn multiply_add() {
    for ty in TYPES {
        for op in [IntOp::MulLo, IntOp::MulHi] {
            let shape = Shape::new(Op::Mad(op, ty), &[class(ty)], &[class(ty); 3]);
            let mut cases = product(&[&EDGES, &EDGES, &[0, 1, u64::MAX]]);
            cases.extend(random(320, 3, 3));
            shape.check(bits(ty), cases, |case| {
                let product = binary(op, ty, number(ty, case[0]), number(ty, case[1]));
                (product as u64).wrapping_add(case[2])
            });
        }
    }
}

#[test]
fn shifts_clamp() {
    for ty in TYPES {
        let shl = Op::Int(IntOp::Shl, ty);
        let shl = Shape::new(shl, &[class(ty)], &[class(ty), Class::B32]);
        shl.check(bits(ty), product(&[&EDGES, &COUNTS]), |case| {
            let count = case[1] as u32;
            if count >= bits(ty) {
                0
            } else {
                (number(ty, case[0]) << count) as u64
            }
        });
        let shr = Op::Int(IntOp::Shr, ty);
        let shr = Shape::new(shr, &[class(ty)], &[class(ty), Class::B32]);
        shr.check(bits(ty), product(&[&EDGES, &COUNTS]), |case| {
            (number(ty, case[0]) >> (case[1] as u32).min(100)) as u64
        });
    }
}

#[test]
fn one_operand() {
    let cases = || product(&[&EDGES]).into_iter().chain(random(64, 1, 4));
    for ty in [Ty::S16, Ty::S32, Ty::S64] {
        let neg = Shape::new(Op::IntUnary(IntUn::Neg, ty), &[class(ty)], &[class(ty)]);
        neg.check(bits(ty), cases(), |case| -number(ty, case[0]) as u64);
        let abs = Shape::new(Op::IntUnary(IntUn::Abs, ty), &[class(ty)], &[class(ty)]);
        abs.check(bits(ty), cases(), |case| {
            number(ty, case[0]).unsigned_abs() as u64
        });
    }
    for ty in [Ty::B16, Ty::B32, Ty::B64] {
        let not = Shape::new(Op::IntUnary(IntUn::Not, ty), &[class(ty)], &[class(ty)]);
        not.check(bits(ty), cases(), |case| !case[0]);
        let cnot = Shape::new(Op::IntUnary(IntUn::Cnot, ty), &[class(ty)], &[class(ty)]);
        cnot.check(bits(ty), cases(), |case| {
            u64::from(number(ty, case[0]) == 0)
        });
    }
}

#[test]
fn bit_counts() {
    let cases = || product(&[&EDGES]).into_iter().chain(random(64, 1, 5));
    for ty in [Ty::B32, Ty::B64] {
        let digits = move |case: &[u64]| -> Vec<bool> {
            (0..bits(ty)).map(|i| case[0] >> i & 1 != 0).collect()
        };
        let popc = Shape::new(Op::IntUnary(IntUn::Popc, ty), &[Class::B32], &[class(ty)]);
        popc.check(32, cases(), |case| {
            digits(case).iter().filter(|&&d| d).count() as u64
        });
        let clz = Shape::new(Op::IntUnary(IntUn::Clz, ty), &[Class::B32], &[class(ty)]);
        clz.check(32, cases(), |case| {
            digits(case).iter().rev().take_while(|&&d| !d).count() as u64
        });
        let brev = Shape::new(Op::IntUnary(IntUn::Brev, ty), &[class(ty)], &[class(ty)]);
        brev.check(bits(ty), cases(), |case| {
            digits(case)
                .iter()
                .fold(0, |sum, &d| sum << 1 | u64::from(d))
        });
    }
    for ty in [Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let top = bits(ty) as usize - 1;
        let find = move |case: &[u64]| {
            let sign = ty.is_signed() && case[0] >> top & 1 != 0;
            (0..=top).rev().find(|&i| (case[0] >> i & 1 != 0) != sign)
        };
        let bfind = Shape::new(Op::IntUnary(IntUn::Bfind, ty), &[Class::B32], &[class(ty)]);
        bfind.check(32, cases(), |case| {
            find(case).map_or(u64::MAX, |i| i as u64)
        });
        let shift = Op::IntUnary(IntUn::BfindShiftamt, ty);
        let shift = Shape::new(shift, &[Class::B32], &[class(ty)]);
        shift.check(32, cases(), |case| {
            find(case).map_or(u64::MAX, |i| (top - i) as u64)
        });
    }
}

/// Bit by bit, as the ISA defines it.
#[test]
fn bit_fields() {
    for ty in [Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let msb = bits(ty) - 1;
        let bfe = Shape::new(
            Op::Bfe(ty),
            &[class(ty)],
            &[class(ty), Class::B32, Class::B32],
        );
        bfe.check(bits(ty), product(&[&EDGES, &COUNTS, &COUNTS]), |case| {
            let (a, pos, len) = (case[0], case[1] as u32 & 0xff, case[2] as u32 & 0xff);
            let sign_at = msb.min((pos + len).wrapping_sub(1));
            let sign = ty.is_signed() && len != 0 && a >> sign_at & 1 != 0;
            let bit = |i: u32| {
                if i < len && pos + i <= msb {
                    a >> (pos + i) & 1 != 0
                } else {
                    sign
                }
            };
            (0..=msb).map(|i| u64::from(bit(i)) << i).sum()
        });
    }
    for ty in [Ty::B32, Ty::B64] {
        let msb = bits(ty) - 1;
        let src = [class(ty), class(ty), Class::B32, Class::B32];
        let bfi = Shape::new(Op::Bfi(ty), &[class(ty)], &src);
        let few = [0, u64::MAX, 0x1234_5678_9abc_def0];
        bfi.check(bits(ty), product(&[&few, &few, &COUNTS, &COUNTS]), |case| {
            let (pos, len) = (case[2] as u32 & 0xff, case[3] as u32 & 0xff);
            let inside = |i: u32| i >= pos && i < pos + len;
            let bit = |i| {
                if inside(i) {
                    case[0] >> (i - pos) & 1
                } else {
                    case[1] >> i & 1
                }
            };
            (0..=msb).map(|i| bit(i) << i).sum()
        });
    }
}

#[test]
fn funnel_shifts() {
    for (right, clamp) in [(false, false), (false, true), (true, false), (true, true)] {
        let shf = Shape::new(Op::Shf { right, clamp }, &[Class::B32], &[Class::B32; 3]);
        shf.check(32, product(&[&EDGES, &EDGES, &COUNTS]), |case| {
            let both = u128::from(case[1] & 0xffff_ffff) << 32 | u128::from(case[0] & 0xffff_ffff);
            let c = case[2] as u32;
            let count = if clamp { c.min(32) } else { c & 31 };
            (if right {
                both >> count
            } else {
                both << count >> 32
            }) as u64
        });
    }
}

#[test]
fn three_input_logic() {
    for table in [0u8, 0x80, 0x96, 0xe8, 0xca, 0xff, 0x1b, 0xc0, 0x3c, 0x5a] {
        let lop3 = Shape::new(Op::Lop3(table), &[Class::B32], &[Class::B32; 3]);
        lop3.check(32, random(64, 3, u64::from(table)), |case| {
            let row = |i: u32| (0..3).fold(0, |row, k| row << 1 | (case[k] >> i & 1));
            (0..32).map(|i| u64::from(table >> row(i) & 1) << i).sum()
        });
    }
}

#[test]
fn permutes() {
    let bytes = |case: &[u64]| -> Vec<u64> {
        let word = |k: usize| (0..4).map(move |i| case[k] >> (8 * i) & 0xff);
        word(0).chain(word(1)).collect()
    };
    let join = |chosen: [u64; 4]| (0..4).map(|i| chosen[i] << (8 * i)).sum::<u64>();
    let prmt = Shape::new(Op::Prmt(0), &[Class::B32], &[Class::B32; 3]);
    prmt.check(32, random(640, 3, 6), |case| {
        let bytes = bytes(case);
        join(std::array::from_fn(|i| {
            let nibble = (case[2] >> (4 * i) & 0xf) as usize;
            let byte = bytes[nibble & 7];
            match (nibble & 8 != 0, byte >= 0x80) {
                (false, _) => byte,
                (true, negative) => 0xff * u64::from(negative),
            }
        }))
    });
    // The rules behind the ISA's table of modes: result byte i for control value c.
    let rules: [fn(usize, usize) -> usize; 6] = [
        |c, i| c + i,
        |c, i| (c + 8 - i) % 8,
        |c, _| c,
        |c, i| i.max(c),
        |c, i| i.min(c),
        |c, i| (c & 1) * 2 + (i & 1),
    ];
    for (mode, rule) in rules.into_iter().enumerate() {
        let prmt = Shape::new(Op::Prmt(mode as u8 + 1), &[Class::B32], &[Class::B32; 3]);
        prmt.check(32, random(128, 3, 7), |case| {
            let bytes = bytes(case);
            join(std::array::from_fn(|i| {
                bytes[rule(case[2] as usize & 3, i)]
            }))
        });
    }
}

#[test]
fn dot_products() {
    for (a, b) in [
        (Ty::U32, Ty::U32),
        (Ty::S32, Ty::U32),
        (Ty::U32, Ty::S32),
        (Ty::S32, Ty::S32),
    ] {
        let byte = |ty: Ty, word: u64, i: usize| {
            let byte = (word >> (8 * i)) as u8;
            if ty.is_signed() {
                i64::from(byte as i8)
            } else {
                i64::from(byte)
            }
        };
        let dp4a = Shape::new(Op::Dp4a(a, b), &[Class::B32], &[Class::B32; 3]);
        let mut cases = random(64, 3, 8);
        cases.extend(product(&[
            &[0, 0x8080_8080, u64::MAX],
            &[0x7f80_ff01, u64::MAX],
            &[7],
        ]));
        dp4a.check(32, cases, |case| {
            let sum: i64 = (0..4)
                .map(|i| byte(a, case[0], i) * byte(b, case[1], i))
                .sum();
            case[2].wrapping_add(sum as u64)
        });
    }
}

#[test]
fn packed_halves() {
    for (op, ty) in [
        (IntOp::Add, Ty::U16x2),
        (IntOp::Min, Ty::U16x2),
        (IntOp::Max, Ty::U16x2),
        (IntOp::Min, Ty::S16x2),
        (IntOp::Max, Ty::S16x2),
    ] {
        let item = if ty == Ty::S16x2 { Ty::S16 } else { Ty::U16 };
        let shape = Shape::new(Op::Int(op, ty), &[Class::B32], &[Class::B32; 2]);
        shape.check(32, pairs(), |case| {
            let half = |shift: u32| {
                let (a, b) = (
                    number(item, case[0] >> shift),
                    number(item, case[1] >> shift),
                );
                (binary(op, item, a, b) as u64 & 0xffff) << shift
            };
            half(0) | half(16)
        });
    }
}
