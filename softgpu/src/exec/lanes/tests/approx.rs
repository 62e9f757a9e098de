//! The `.approx` functions against f64, within the bounds of the PTX ISA.
#![expect(clippy::cast_possible_truncation, reason = "lanes hold 32 bits")]

use super::float::F32;
use super::{Shape, product, random};
use crate::ir::{Class, FloatBin, FloatMod, FloatUn, Op, Rounding, Ty};

const APPROX: FloatMod = FloatMod {
    rounding: Rounding::Approx,
    ftz: false,
    sat: false,
};

fn single(raw: u64) -> f32 {
    f32::from_bits(raw as u32)
}

/// Edges, random bits, and a sweep of [-200, 200].
fn cases() -> Vec<Vec<u64>> {
    let mut cases = product(&[&F32.edges()]);
    cases.extend(random(6400, 1, 31));
    let sweep = (-20_000..=20_000i16).map(|i| vec![u64::from((f32::from(i) * 0.01).to_bits())]);
    cases.extend(sweep);
    let near_one = (-2000..2000i16).map(|i| 1.0 + f32::from(i) * f32::EPSILON);
    cases.extend(near_one.map(|x| vec![u64::from(x.to_bits())]));
    cases
}

/// What a bound measures.
#[derive(Clone, Copy)]
enum Bound {
    Relative(f64),
    Absolute(f64),
}

fn close(got: f64, want: f64, bound: Bound) -> bool {
    if want.is_nan() || got.is_nan() {
        return want.is_nan() && got.is_nan();
    }
    if want.is_infinite() || got.is_infinite() {
        return want == got;
    }
    let error = (got - want).abs();
    match bound {
        // Below the normal range half a unit of the last place is all that there is.
        Bound::Relative(bound) => error <= bound * want.abs() || error <= 2f64.powi(-150),
        Bound::Absolute(bound) => error <= bound,
    }
}

fn check(op: FloatUn, bound: impl Fn(f64) -> Bound, f: impl Fn(f64) -> f64) {
    let shape = Shape::new(
        Op::FloatUnary(op, Ty::F32, APPROX),
        &[Class::B32],
        &[Class::B32],
    );
    shape.check_with(cases(), |case, got| {
        let x = f64::from(single(case[0]));
        let exact = f(x);
        // The format's own overflow.
        let over = exact.abs() >= 2f64.powi(128) * (1.0 - 2f64.powi(-25));
        let want = if over {
            f64::INFINITY.copysign(exact)
        } else {
            exact
        };
        let got = f64::from(single(got));
        if close(got, want, bound(x)) {
            Ok(())
        } else {
            Err(format!("{want} of {x}, not {got}"))
        }
    });
}

#[test]
fn exponential_and_logarithm() {
    check(
        FloatUn::Ex2,
        |_| Bound::Relative(2f64.powf(-22.5)),
        f64::exp2,
    );
    let bound = |x: f64| {
        if (0.5..2.0).contains(&x) {
            Bound::Absolute(2f64.powi(-22))
        } else {
            Bound::Relative(2f64.powi(-22))
        }
    };
    check(FloatUn::Lg2, bound, f64::log2);
}

#[test]
fn reciprocal_and_roots() {
    check(
        FloatUn::Rcp,
        |_| Bound::Relative(2f64.powi(-23)),
        |x| 1.0 / x,
    );
    check(
        FloatUn::Rsqrt,
        |_| Bound::Relative(2f64.powf(-22.9)),
        |x| 1.0 / x.sqrt(),
    );
    check(
        FloatUn::Sqrt,
        |_| Bound::Relative(2f64.powi(-23)),
        f64::sqrt,
    );
}

#[test]
fn trigonometry() {
    let limit = 100.0 * std::f64::consts::PI;
    let bound = |x: f64| {
        if x.abs() <= std::f64::consts::TAU {
            Bound::Absolute(2f64.powf(-20.5))
        } else if x.abs() <= limit {
            Bound::Absolute(2f64.powf(-14.7))
        } else {
            // No bound is given; at least the range holds.
            Bound::Absolute(2.0)
        }
    };
    check(FloatUn::Sin, bound, |x| {
        if x.is_finite() { x.sin() } else { f64::NAN }
    });
    check(FloatUn::Cos, bound, |x| {
        if x.is_finite() { x.cos() } else { f64::NAN }
    });
}

#[test]
fn hyperbolic_tangent() {
    check(
        FloatUn::Tanh,
        |_| Bound::Relative(2f64.powi(-11)),
        f64::tanh,
    );
}

#[test]
fn zeros_keep_their_sign() {
    for (op, want) in [
        (FloatUn::Tanh, 0x8000_0000),
        (FloatUn::Sin, 0x8000_0000),
        (FloatUn::Rcp, 0xff80_0000),
        (FloatUn::Sqrt, 0x8000_0000),
        (FloatUn::Rsqrt, 0xff80_0000),
        (FloatUn::Lg2, 0xff80_0000u64),
    ] {
        let shape = Shape::new(
            Op::FloatUnary(op, Ty::F32, APPROX),
            &[Class::B32],
            &[Class::B32],
        );
        shape.check(32, [vec![0x8000_0000]], |_| want);
    }
}

#[test]
fn flushing() {
    let ftz = FloatMod {
        ftz: true,
        ..APPROX
    };
    let op = Op::FloatUnary(FloatUn::Ex2, Ty::F32, ftz);
    let cases = [
        vec![u64::from((-127f32).to_bits())],
        vec![1],
        vec![0x8000_0001],
    ];
    let one = u64::from(1f32.to_bits());
    Shape::new(op, &[Class::B32], &[Class::B32]).check(32, cases, |case| {
        if case[0] & 0x7fff_ffff == 1 { one } else { 0 }
    });
    let op = Op::FloatUnary(FloatUn::Rcp, Ty::F32, ftz);
    let cases = [vec![0x8000_0001], vec![u64::from(2f32.powi(127).to_bits())]];
    Shape::new(op, &[Class::B32], &[Class::B32]).check(32, cases, |case| {
        if case[0] == 0x8000_0001 {
            0xff80_0000
        } else {
            0
        }
    });
}

#[test]
fn division() {
    let full = FloatMod {
        rounding: Rounding::Full,
        ..APPROX
    };
    for modifiers in [APPROX, full] {
        let op = Op::Float(FloatBin::Div, Ty::F32, modifiers);
        let shape = Shape::new(op, &[Class::B32], &[Class::B32; 2]);
        let edges = F32.edges();
        let mut cases = product(&[&edges, &edges]);
        cases.extend(random(6400, 2, 32));
        shape.check_with(cases, |case, got| {
            let (a, b) = (f64::from(single(case[0])), f64::from(single(case[1])));
            let huge = b.abs() > 2f64.powi(126) && b.is_finite();
            let exact = match (modifiers.rounding, huge, a.is_infinite()) {
                (Rounding::Approx, true, true) => f64::NAN,
                (Rounding::Approx, true, false) => a * 0.0f64.copysign(b),
                _ => a / b,
            };
            let over = exact.abs() >= 2f64.powi(128) * (1.0 - 2f64.powi(-25));
            let want = if over {
                f64::INFINITY.copysign(exact)
            } else {
                exact
            };
            let got = f64::from(single(got));
            // 2 ulp are at least 2^-22 relative.
            if close(got, want, Bound::Relative(2f64.powi(-22))) {
                Ok(())
            } else {
                Err(format!("{want}, not {got}"))
            }
        });
    }
}

/// The bounds of the ISA for the 16-bit formats: `ex2` relative 2^-9.9 (f16) and 2^-7 (bf16), `tanh`
/// absolute 2^-10.987 (f16) and 2^-8 (bf16). Below the normal range of f16 half a unit is all that
/// there is; subnormal bf16 are flushed by `ex2`.
#[test]
fn every_value_of_sixteen_bits() {
    let half = |raw: u64| half::f16::from_bits(raw as u16).to_f64();
    let brain = |raw: u64| half::bf16::from_bits(raw as u16).to_f64();
    let ex2 = |value: &dyn Fn(u64) -> f64, bound: f64, limits: (f64, f64), case: u64, got: u64| {
        let exact = value(case).exp2();
        let want = if exact >= limits.1 {
            f64::INFINITY
        } else {
            exact
        };
        // bf16 flushes what f16 has to the half unit.
        let unit = limits.0 * 2f64.powi(-11);
        let zero = limits.0 < 2f64.powi(-100) && got == 0;
        let tiny = exact < limits.0 && ((value(got) - exact).abs() <= unit || zero);
        close(value(got), want, Bound::Relative(bound)) || tiny
    };
    let tanh = |value: &dyn Fn(u64) -> f64, bound: f64, case: u64, got: u64| {
        close(value(got), value(case).tanh(), Bound::Absolute(bound))
    };
    let half_limits = (2f64.powi(-14), 65520.0);
    let brain_limits = (2f64.powi(-126), 2f64.powi(128) * (1.0 - 2f64.powi(-9)));
    for (op, ty, pair) in [
        (FloatUn::Ex2, Ty::F16, Ty::F16x2),
        (FloatUn::Ex2, Ty::BF16, Ty::BF16x2),
        (FloatUn::Tanh, Ty::F16, Ty::F16x2),
        (FloatUn::Tanh, Ty::BF16, Ty::BF16x2),
    ] {
        let right = |case: u64, got: u64| match (op, ty) {
            (FloatUn::Ex2, Ty::F16) => ex2(&half, 2f64.powf(-9.9), half_limits, case, got),
            (FloatUn::Ex2, _) => ex2(&brain, 2f64.powi(-7), brain_limits, case, got),
            (_, Ty::F16) => tanh(&half, 2f64.powf(-10.987), case, got),
            _ => tanh(&brain, 2f64.powi(-8), case, got),
        };
        let judge = |case: u64, got: u64| {
            if right(case, got) {
                Ok(())
            } else {
                Err(format!("within the bound for {case:#x}"))
            }
        };
        let modifiers = FloatMod {
            ftz: op == FloatUn::Ex2 && ty == Ty::BF16,
            ..APPROX
        };
        let one = Shape::new(
            Op::FloatUnary(op, ty, modifiers),
            &[Class::B32],
            &[Class::B32],
        );
        one.check_with((0..0x1_0000).map(|x| vec![x]), |case, got| {
            judge(case[0], got)
        });
        let two = Shape::new(
            Op::FloatUnary(op, pair, modifiers),
            &[Class::B32],
            &[Class::B32],
        );
        let pairs = (0..0x1_0000u64).map(|x| vec![x | (x.wrapping_mul(40503) & 0xffff) << 16]);
        two.check_with(pairs, |case, got| {
            judge(case[0] & 0xffff, got & 0xffff)?;
            judge(case[0] >> 16, got >> 16)
        });
    }
}
