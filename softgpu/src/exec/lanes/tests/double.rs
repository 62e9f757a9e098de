//! Directed rounding of f64 against `rustc_apfloat`, and the gross approximations.

use rustc_apfloat::ieee::Double;
use rustc_apfloat::{Float, Round};

use super::float::{DIRECTIONS, F64, value};
use super::{Shape, product, random};
use crate::ir::{Class, FloatBin, FloatMod, FloatUn, Op, Rounding, Ty};

fn modifiers(rounding: Rounding) -> FloatMod {
    FloatMod {
        rounding,
        ..FloatMod::default()
    }
}

fn shape(op: Op, sources: usize) -> Shape {
    Shape::new(op, &[Class::B64], &vec![Class::B64; sources])
}

/// Values whose sums, products and quotients are near each other, near the subnormals and near
/// the top.
fn near(seed: u64, operands: usize) -> Vec<Vec<u64>> {
    let exponents = [
        1u64, 2, 3, 30, 60, 500, 971, 1021, 1022, 1023, 1024, 1075, 1076, 2045, 2046,
    ];
    random(4096, operands, seed)
        .into_iter()
        .map(|case| {
            let shaped = |x: u64| {
                let pick = usize::try_from(x >> 20 & 0xf).expect("small") % exponents.len();
                // Few significant bits in half of the cases, so that ties and exact results occur.
                let fraction = if x & 1 == 0 {
                    x & 0xfff0_0000_0000_0000 >> 12
                } else {
                    x >> 12
                };
                x & 1 << 63 | exponents[pick] << 52 | fraction & 0xf_ffff_ffff_ffff
            };
            case.into_iter().map(shaped).collect()
        })
        .collect()
}

fn cases(operands: usize, seed: u64) -> Vec<Vec<u64>> {
    let edges = F64.edges();
    let few: Vec<u64> = edges.iter().copied().step_by(3).collect();
    let mut all = match operands {
        1 => product(&[&edges]),
        2 => product(&[&edges, &edges]),
        _ => product(&[&edges, &few, &edges]),
    };
    all.extend(random(2048, operands, seed));
    all.extend(near(seed + 1, operands));
    all
}

#[test]
fn two_operands() {
    for (rounding, round) in DIRECTIONS {
        for op in [FloatBin::Add, FloatBin::Sub, FloatBin::Mul, FloatBin::Div] {
            let mut all = cases(2, 91);
            // Neighbours: sums that cancel.
            let close = random(1024, 1, 92).into_iter();
            all.extend(close.map(|c| vec![c[0], c[0] ^ 1 << 63 ^ (c[0] >> 60)]));
            shape(Op::Float(op, Ty::F64, modifiers(rounding)), 2).check(64, all, |case| {
                let (a, b) = (value::<Double>(case[0]), value::<Double>(case[1]));
                F64.result(match op {
                    FloatBin::Add => a.add_r(b, round).value,
                    FloatBin::Sub => a.sub_r(b, round).value,
                    FloatBin::Mul => a.mul_r(b, round).value,
                    FloatBin::Div => a.div_r(b, round).value,
                })
            });
        }
    }
}

#[test]
fn fused() {
    for (rounding, round) in DIRECTIONS {
        let mut all = cases(3, 93);
        let close = random(4096, 2, 94).into_iter();
        all.extend(close.map(|case| {
            let [a, b] = [0, 1].map(|i| value::<Double>(case[i]));
            let product = a.mul_r(b, Round::NearestTiesToEven).value;
            let bits = u64::try_from(product.to_bits()).expect("64 bits");
            vec![case[0], case[1], bits ^ 1 << 63 ^ (case[0] >> 60)]
        }));
        shape(Op::Fma(Ty::F64, modifiers(rounding), false), 3).check(64, all, |case| {
            let [a, b, c] = [0, 1, 2].map(|i| value::<Double>(case[i]));
            F64.result(a.mul_add_r(b, c, round).value)
        });
    }
}

#[test]
fn reciprocals() {
    for (rounding, round) in DIRECTIONS {
        let op = Op::FloatUnary(FloatUn::Rcp, Ty::F64, modifiers(rounding));
        shape(op, 1).check(64, cases(1, 95), |case| {
            let one = value::<Double>(1f64.to_bits());
            F64.result(one.div_r(value(case[0]), round).value)
        });
    }
}

/// The root r of a is right if the squares of its neighbours, exact by a fused step, bracket a.
#[test]
fn square_roots() {
    for (rounding, _) in DIRECTIONS {
        let op = Op::FloatUnary(FloatUn::Sqrt, Ty::F64, modifiers(rounding));
        let mut all = cases(1, 96);
        all.extend((1u32..200).map(|i| vec![f64::from(i * i).to_bits()]));
        shape(op, 1).check_with(all, |case, got| {
            let (a, r) = (f64::from_bits(case[0]), f64::from_bits(got));
            let right = if a.is_nan() || a < 0.0 {
                got == 0xfff8_0000_0000_0000
            } else if a == 0.0 || a.is_infinite() {
                got == case[0]
            } else {
                is_root(a, r, rounding)
            };
            if right {
                Ok(())
            } else {
                Err(format!("sqrt {a:e} {rounding:?}"))
            }
        });
    }
}

/// Compares squares in 128-bit integers: a = m 2^(2k), r = s 2^k, with s of 53 bits.
fn is_root(a: f64, r: f64, rounding: Rounding) -> bool {
    let parts = |x: f64| {
        let bits = x.to_bits();
        let field = i32::try_from(bits >> 52 & 0x7ff).expect("11 bits");
        let hidden = u128::from(field != 0) << 52;
        (
            u128::from(bits & 0xf_ffff_ffff_ffff) | hidden,
            field.max(1) - 1075,
        )
    };
    let ((m, e), (s, k)) = (parts(a), parts(r));
    // a in units of (2^k / 2)^2; roots of normal results have s >= 2^52.
    let shift = u32::try_from(e - 2 * k + 2).expect("a has fewer bits than its root's square");
    let a = m << shift;
    let square = |halves: u128| halves * halves;
    let exact = square(2 * s) == a;
    exact
        || match rounding {
            Rounding::Rz | Rounding::Rm => square(2 * s) < a && a < square(2 * s + 2),
            Rounding::Rp => square(2 * s - 2) < a && a < square(2 * s),
            _ => square(2 * s - 1) < a && a < square(2 * s + 1),
        }
}

/// The ISA computes these from the upper word, to 20 fraction bits in the upper word: the error
/// here is at most 2^-20, and what the lower words hold is ignored and zero.
#[test]
fn gross_approximations() {
    let approx = |ftz| FloatMod {
        rounding: Rounding::Approx,
        ftz,
        sat: false,
    };
    for (op, exact) in [
        (FloatUn::Rcp, (|x: f64| 1.0 / x) as fn(f64) -> f64),
        (FloatUn::Rsqrt, |x| 1.0 / x.sqrt()),
    ] {
        let op = Op::FloatUnary(op, Ty::F64, approx(true));
        shape(op, 1).check_with(cases(1, 97), |case, got| {
            let x = f64::from_bits(case[0] & !0xffff_ffff);
            let x = if x.is_subnormal() {
                0.0f64.copysign(x)
            } else {
                x
            };
            let want = exact(x);
            let got_value = f64::from_bits(got);
            let right = match want {
                _ if want.is_nan() => got_value.is_nan(),
                _ if want == 0.0 || want.is_infinite() => got == want.to_bits(),
                _ if want.abs() < f64::MIN_POSITIVE => got_value == 0.0,
                _ => ((got_value - want) / want).abs() <= 2f64.powi(-20),
            };
            if right && got & 0xffff_ffff == 0 {
                Ok(())
            } else {
                Err(format!("{want:e}"))
            }
        });
    }
    let op = Op::FloatUnary(FloatUn::Rsqrt, Ty::F64, approx(false));
    shape(op, 1).check_with(cases(1, 98), |case, got| {
        let x = f64::from_bits(case[0]);
        let got = f64::from_bits(got);
        let right = if x.is_nan() || x < 0.0 {
            got.is_nan()
        } else if x == 0.0 {
            got == 1.0 / x
        } else if x.is_infinite() {
            got == 0.0
        } else {
            // |x r^2 - 1| is twice the relative error; the residue of r^2 is exact. Scaled, as the
            // square would overflow.
            let up = if x < 1e-200 { 2f64.powi(200) } else { 1.0 };
            let (x, got) = (x * up, got / up.sqrt());
            let square = got * got;
            let low = got.mul_add(got, -square);
            (x.mul_add(square, -1.0) + x * low).abs() <= 2f64.powi(-50)
        };
        if right {
            Ok(())
        } else {
            Err(format!("rsqrt {x:e}, not {got:e}"))
        }
    });
}
