//! Arithmetic against `rustc_apfloat`.
#![expect(
    clippy::fn_params_excessive_bools,
    reason = "modifiers of instructions, named where they are passed"
)]

use std::cmp::Ordering;

use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, Round};

use super::{Shape, product, random};
use crate::ir::{Class, FloatBin, FloatMod, FloatUn, Op, Rounding, Ty};

/// A format: its PTX type, bits, canonical NaN, largest subnormal.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) ty: Ty,
    pub(super) class: Class,
    pub(super) bits: u32,
    nan: u64,
    largest_subnormal: u64,
}

pub(super) const F32: Format = Format {
    ty: Ty::F32,
    class: Class::B32,
    bits: 32,
    nan: 0x7fff_ffff,
    largest_subnormal: 0x7f_ffff,
};
pub(super) const F16: Format = Format {
    ty: Ty::F16,
    class: Class::B32,
    bits: 16,
    nan: 0x7fff,
    largest_subnormal: 0x3ff,
};
pub(super) const BF16: Format = Format {
    ty: Ty::BF16,
    class: Class::B32,
    bits: 16,
    nan: 0x7fff,
    largest_subnormal: 0x7f,
};
pub(super) const F64: Format = Format {
    ty: Ty::F64,
    class: Class::B64,
    bits: 64,
    nan: 0xfff8_0000_0000_0000,
    largest_subnormal: 0xf_ffff_ffff_ffff,
};

impl Format {
    pub(super) fn sign(self) -> u64 {
        1 << (self.bits - 1)
    }

    fn is_subnormal(self, x: u64) -> bool {
        let magnitude = x & (self.sign() - 1);
        magnitude != 0 && magnitude <= self.largest_subnormal
    }

    /// Flushes if asked to.
    fn flushed(self, x: u64, ftz: bool) -> u64 {
        if ftz && self.is_subnormal(x) {
            x & self.sign()
        } else {
            x
        }
    }

    /// A result, NaN made canonical.
    pub(super) fn result<F: Float>(self, x: F) -> u64 {
        if x.is_nan() { self.nan } else { bits(x) }
    }

    /// Zero, the ends of the subnormals, one and around, the largest, infinity, NaN; both signs.
    pub(super) fn edges(self) -> Vec<u64> {
        let subnormal = self.largest_subnormal;
        let one = match self.bits {
            64 => 1f64.to_bits(),
            32 => u64::from(1f32.to_bits()),
            _ if self.ty == Ty::F16 => 0x3c00,
            _ => 0x3f80,
        };
        let infinity = (self.sign() - 1) & !subnormal;
        let near = [
            one - 1,
            one,
            one + 1,
            one + subnormal.div_ceil(2),
            one + subnormal + 1,
        ];
        let ends = [0, 1, 2, subnormal, subnormal + 1, subnormal + 2];
        let top = [infinity - 1, infinity, infinity + 1, self.sign() - 1];
        let all = ends.into_iter().chain(near).chain(top);
        all.flat_map(|x| [x, x | self.sign()]).collect()
    }
}

fn bits<F: Float>(x: F) -> u64 {
    u64::try_from(x.to_bits()).expect("at most 64 bits")
}

pub(super) fn value<F: Float>(x: u64) -> F {
    let mask = if F::BITS == 64 {
        u64::MAX
    } else {
        (1 << F::BITS) - 1
    };
    F::from_bits(u128::from(x & mask))
}

pub(super) const DIRECTIONS: [(Rounding, Round); 4] = [
    (Rounding::Rn, Round::NearestTiesToEven),
    (Rounding::Rz, Round::TowardZero),
    (Rounding::Rm, Round::TowardNegative),
    (Rounding::Rp, Round::TowardPositive),
];

fn modifiers(rounding: Rounding, ftz: bool) -> FloatMod {
    FloatMod {
        rounding,
        ftz,
        sat: false,
    }
}

fn two<F: Float>(op: FloatBin, a: F, b: F, round: Round) -> F {
    match op {
        FloatBin::Add => a.add_r(b, round),
        FloatBin::Sub => a.sub_r(b, round),
        FloatBin::Mul => a.mul_r(b, round),
        FloatBin::Div => a.div_r(b, round),
    }
    .value
}

fn check_two<F: Float>(format: Format, op: FloatBin, direction: (Rounding, Round), ftz: bool) {
    let op_ir = Op::Float(op, format.ty, modifiers(direction.0, ftz));
    let shape = Shape::new(op_ir, &[format.class], &[format.class; 2]);
    let edges = format.edges();
    let mut cases = product(&[&edges, &edges]);
    cases.extend(random(640, 2, 11));
    // Neighbouring magnitudes, where sums cancel.
    cases.extend(
        random(640, 1, 12)
            .into_iter()
            .map(|c| vec![c[0], c[0] ^ format.sign() ^ 5]),
    );
    shape.check(format.bits, cases, |case| {
        let operand = |i: usize| value::<F>(format.flushed(case[i] & mask(format), ftz));
        let result = two(op, operand(0), operand(1), direction.1);
        format.flushed(format.result(result), ftz)
    });
}

fn mask(format: Format) -> u64 {
    format.sign() | (format.sign() - 1)
}

fn check_fma<F: Float>(format: Format, direction: (Rounding, Round), ftz: bool) {
    let op = Op::Fma(format.ty, modifiers(direction.0, ftz), false);
    let shape = Shape::new(op, &[format.class], &[format.class; 3]);
    let edges = format.edges();
    let few: Vec<u64> = edges.iter().copied().step_by(3).collect();
    let mut cases = product(&[&edges, &few, &edges]);
    cases.extend(random(1280, 3, 13));
    // Products that the third operand nearly cancels.
    let near = random(1280, 2, 14).into_iter().map(|case| {
        let product = value::<F>(case[0])
            .mul_r(value(case[1]), Round::NearestTiesToEven)
            .value;
        vec![
            case[0],
            case[1],
            bits(product) ^ format.sign() ^ (case[0] >> 60),
        ]
    });
    cases.extend(near);
    shape.check(format.bits, cases, |case| {
        let operand = |i: usize| value::<F>(format.flushed(case[i] & mask(format), ftz));
        let result = operand(0)
            .mul_add_r(operand(1), operand(2), direction.1)
            .value;
        format.flushed(format.result(result), ftz)
    });
}

#[test]
fn single_precision() {
    for direction in DIRECTIONS {
        for ftz in [false, true] {
            for op in [FloatBin::Add, FloatBin::Sub, FloatBin::Mul, FloatBin::Div] {
                check_two::<Single>(F32, op, direction, ftz);
            }
            check_fma::<Single>(F32, direction, ftz);
        }
    }
}

#[test]
fn double_precision() {
    let nearest = DIRECTIONS[0];
    for op in [FloatBin::Add, FloatBin::Sub, FloatBin::Mul, FloatBin::Div] {
        check_two::<Double>(F64, op, nearest, false);
    }
    check_fma::<Double>(F64, nearest, false);
}

#[test]
fn sixteen_bits_round_once() {
    let nearest = DIRECTIONS[0];
    for op in [FloatBin::Add, FloatBin::Sub, FloatBin::Mul] {
        check_two::<Half>(F16, op, nearest, false);
        check_two::<Half>(F16, op, nearest, true);
        check_two::<BFloat>(BF16, op, nearest, false);
    }
    check_fma::<Half>(F16, nearest, false);
    check_fma::<Half>(F16, nearest, true);
    check_fma::<BFloat>(BF16, nearest, false);
}

#[test]
fn pairs_are_two_of_each() {
    for (ty, format) in [(Ty::F16x2, F16), (Ty::BF16x2, BF16)] {
        let nearest = modifiers(Rounding::Rn, false);
        let shape = Shape::new(Op::Fma(ty, nearest, false), &[Class::B32], &[Class::B32; 3]);
        shape.check(32, random(2560, 3, 15), |case| {
            let half = |shift: u32| {
                let fma = |case: [u64; 3]| match format.ty {
                    Ty::F16 => fused::<Half>(format, case),
                    _ => fused::<BFloat>(format, case),
                };
                fma(std::array::from_fn(|i| case[i] >> shift)) << shift
            };
            half(0) | half(16)
        });
    }
}

fn fused<F: Float>(format: Format, case: [u64; 3]) -> u64 {
    let [a, b, c] = case.map(value::<F>);
    format.result(a.mul_add_r(b, c, Round::NearestTiesToEven).value)
}

#[test]
fn saturation_and_relu() {
    let one = 1f32.to_bits();
    let sat = FloatMod {
        rounding: Rounding::Rn,
        ftz: false,
        sat: true,
    };
    let op = Op::Float(FloatBin::Add, Ty::F32, sat);
    let shape = Shape::new(op, &[Class::B32], &[Class::B32; 2]);
    let edges = F32.edges();
    shape.check(32, product(&[&edges, &edges]), |case| {
        let sum = two(
            FloatBin::Add,
            value::<Single>(case[0]),
            value(case[1]),
            DIRECTIONS[0].1,
        );
        let sum = f32::from_bits(u32::try_from(bits(sum)).expect("32 bits"));
        u64::from(if sum > 0.0 { sum.to_bits().min(one) } else { 0 })
    });
    let op = Op::Fma(Ty::F16, modifiers(Rounding::Rn, false), true);
    let shape = Shape::new(op, &[Class::B32], &[Class::B32; 3]);
    shape.check(16, random(1280, 3, 16), |case| {
        let exact = fused::<Half>(F16, [case[0], case[1], case[2]]);
        if exact & 0x8000 != 0 { 0 } else { exact }
    });
}

/// The bracket around the root: r is right if no neighbour on the rounding's side is closer.
#[test]
fn square_roots() {
    for (rounding, _) in DIRECTIONS {
        let op = Op::FloatUnary(FloatUn::Sqrt, Ty::F32, modifiers(rounding, false));
        let shape = Shape::new(op, &[Class::B32], &[Class::B32]);
        let mut cases = product(&[&F32.edges()]);
        cases.extend(random(3200, 1, 17));
        cases.extend((1u64..200).map(|i| vec![u64::from(((i * i) as f32).to_bits())]));
        shape.check_with(cases, |case, got| {
            let single = |x: u64| f32::from_bits(u32::try_from(x & 0xffff_ffff).expect("32 bits"));
            let (a, r) = (single(case[0]), single(got));
            let right = match a.partial_cmp(&0.0) {
                None | Some(Ordering::Less) => got == F32.nan,
                Some(Ordering::Equal) => got == case[0] & 0xffff_ffff,
                _ if a.is_infinite() => r == a,
                _ => is_root(a, r, rounding),
            };
            if right {
                Ok(())
            } else {
                Err(format!("sqrt {a} {rounding:?}, not {r}"))
            }
        });
    }
}

/// Squares of 24-bit values, and of the midpoints between them, are exact in f64.
fn is_root(a: f32, r: f32, rounding: Rounding) -> bool {
    let square = |x: f64| x * x;
    let (a, r0) = (f64::from(a), f64::from(r));
    let (below, above) = (f64::from(r.next_down()), f64::from(r.next_up()));
    match rounding {
        Rounding::Rz | Rounding::Rm => square(r0) <= a && a < square(above),
        Rounding::Rp => square(below) < a && a <= square(r0),
        _ => square((below + r0) / 2.0) < a && a < square((r0 + above) / 2.0),
    }
}

#[test]
fn reciprocals() {
    for (rounding, round) in DIRECTIONS {
        let op = Op::FloatUnary(FloatUn::Rcp, Ty::F32, modifiers(rounding, false));
        let shape = Shape::new(op, &[Class::B32], &[Class::B32]);
        let mut cases = product(&[&F32.edges()]);
        cases.extend(random(3200, 1, 18));
        shape.check(32, cases, |case| {
            let one = value::<Single>(u64::from(1f32.to_bits()));
            F32.result(one.div_r(value(case[0]), round).value)
        });
    }
    let exact = modifiers(Rounding::Rn, false);
    let rcp = Op::FloatUnary(FloatUn::Rcp, Ty::F64, exact);
    let rcp = Shape::new(rcp, &[Class::B64], &[Class::B64]);
    rcp.check(64, random(640, 1, 19), |case| {
        let one = value::<Double>(1f64.to_bits());
        F64.result(one.div_r(value(case[0]), Round::NearestTiesToEven).value)
    });
}

#[test]
fn minimum_and_maximum() {
    for format in [F32, F64, F16, BF16] {
        for (max, nan, xorsign) in [
            (false, false, false),
            (true, false, false),
            (false, true, false),
            (true, true, false),
            (true, false, true),
            (false, true, true),
        ] {
            let op = Op::FMinMax {
                max,
                ty: format.ty,
                ftz: false,
                nan,
                xorsign,
            };
            let shape = Shape::new(op, &[format.class], &[format.class; 2]);
            let edges = format.edges();
            let infinity = (format.sign() - 1) & !format.largest_subnormal;
            shape.check(format.bits, product(&[&edges, &edges]), |case| {
                let magnitude = |x: u64| x & (format.sign() - 1);
                let is_nan = |x: u64| magnitude(x) > infinity;
                let sign = (case[0] ^ case[1]) & format.sign();
                let strip = |x: u64| if xorsign { magnitude(x) } else { x };
                let (a, b) = (strip(case[0]), strip(case[1]));
                // Sign and magnitude as an ordered integer; -0 below +0.
                let order = |x: u64| {
                    let m = i128::from(magnitude(x));
                    if x & format.sign() != 0 { -m - 1 } else { m }
                };
                let chosen = match (is_nan(a), is_nan(b)) {
                    (true, true) => return format.nan,
                    (true, false) | (false, true) if nan => return format.nan,
                    (true, false) => b,
                    (false, true) => a,
                    _ if (order(a) < order(b)) != max => a,
                    _ => b,
                };
                chosen | both(xorsign, sign)
            });
        }
    }
}

fn both(on: bool, bit: u64) -> u64 {
    if on { bit } else { 0 }
}

#[test]
fn sign_operations() {
    for format in [F32, F64, F16, BF16] {
        let finite: Vec<Vec<u64>> = product(&[&format.edges()])
            .into_iter()
            .filter(|case| {
                case[0] & (format.sign() - 1) < (format.sign() - 1) & !format.largest_subnormal
            })
            .collect();
        let exact = FloatMod::default();
        let neg = Op::FloatUnary(FloatUn::Neg, format.ty, exact);
        let neg = Shape::new(neg, &[format.class], &[format.class]);
        neg.check(format.bits, finite.clone(), |case| case[0] ^ format.sign());
        let abs = Op::FloatUnary(FloatUn::Abs, format.ty, exact);
        let abs = Shape::new(abs, &[format.class], &[format.class]);
        abs.check(format.bits, finite, |case| case[0] & !format.sign());
    }
    for format in [F32, F64] {
        let shape = Shape::new(Op::Copysign(format.ty), &[format.class], &[format.class; 2]);
        let edges = format.edges();
        shape.check(format.bits, product(&[&edges, &edges]), |case| {
            case[0] & format.sign() | case[1] & (format.sign() - 1)
        });
    }
}
