//! Arithmetic, logic and comparison within a thread; conversions are in `rows_misc`.
//! Source: PTX ISA 9.0, "Integer Arithmetic" to "Logic and Shift".

use super::modifiers::Mods;
use super::{Fixed, Row, row};
use crate::ir::{
    Arith, BoolOp, Cmp, FloatBin as FB, FloatClass, FloatMod, FloatUn as FU, IntOp as I,
    IntUn as U, Op, Rounding, Ty,
};

pub(crate) fn float_mod(m: &Mods) -> FloatMod {
    FloatMod {
        rounding: m.rounding,
        ftz: m.has("ftz"),
        sat: m.has("sat"),
    }
}

fn int(op: I, m: &Mods) -> Option<Op> {
    Some(Op::Int(op, m.ty(0)))
}

fn unary(op: U, m: &Mods) -> Option<Op> {
    Some(Op::IntUnary(op, m.ty(0)))
}

/// f16 and bf16 round to nearest only; the other directions exist for f32 and f64.
fn ieee_rounding(m: &Mods) -> bool {
    match m.rounding {
        Rounding::Rn => true,
        Rounding::Rz | Rounding::Rm | Rounding::Rp => matches!(m.ty(0), Ty::F32 | Ty::F64),
        _ => false,
    }
}

fn fast(m: &Mods) -> bool {
    m.rounding == Rounding::Approx && m.ty(0) == Ty::F32
}

/// bf16 arithmetic has neither `.ftz` nor `.sat`.
fn brain(m: &Mods) -> bool {
    let plain = !m.has("ftz") && !m.has("sat");
    plain || !matches!(m.ty(0), Ty::BF16 | Ty::BF16x2)
}

fn float(op: FB, m: &Mods) -> Option<Op> {
    (brain(m) && (m.rounding == Rounding::Default || ieee_rounding(m)))
        .then(|| Op::Float(op, m.ty(0), float_mod(m)))
}

fn fma(m: &Mods) -> Option<Op> {
    (brain(m) && ieee_rounding(m)).then(|| Op::Fma(m.ty(0), float_mod(m), m.has("relu")))
}

fn divide(m: &Mods) -> Option<Op> {
    let full = m.rounding == Rounding::Full && m.ty(0) == Ty::F32;
    (full || fast(m) || ieee_rounding(m)).then(|| Op::Float(FB::Div, m.ty(0), float_mod(m)))
}

/// `rcp` and `sqrt`: exact or approximate. `.ftz` is not for f64, but for `rcp.approx.ftz.f64`,
/// which has to have it.
fn root(op: FU, m: &Mods) -> Option<Op> {
    let exact = ieee_rounding(m) && !(m.ty(0) == Ty::F64 && m.has("ftz"));
    let gross = op == FU::Rcp && m.rounding == Rounding::Approx && m.has("ftz");
    (fast(m) || exact || gross).then(|| Op::FloatUnary(op, m.ty(0), float_mod(m)))
}

fn float_unary(op: FU, m: &Mods) -> Option<Op> {
    Some(Op::FloatUnary(op, m.ty(0), float_mod(m)))
}

fn approx(op: FU, m: &Mods) -> Option<Op> {
    (m.rounding == Rounding::Approx).then(|| Op::FloatUnary(op, m.ty(0), float_mod(m)))
}

/// Which end `min` and `max` take.
#[derive(PartialEq, Eq)]
enum End {
    Min,
    Max,
}

fn extremum(end: End, m: &Mods) -> Option<Op> {
    (brain(m) && m.has("xorsign") == m.has("abs")).then(|| Op::FMinMax {
        max: end == End::Max,
        ty: m.ty(0),
        ftz: m.has("ftz"),
        nan: m.has("NaN"),
        xorsign: m.has("xorsign"),
    })
}

fn half_of(m: &Mods) -> Option<I> {
    Some(if m.has("lo") {
        I::MulLo
    } else if m.has("hi") {
        I::MulHi
    } else {
        I::MulWide
    })
}

/// The first of a carry chain, or a later one, which reads the carry.
#[derive(PartialEq, Eq)]
enum Link {
    First,
    Later,
}

fn carry(op: I, m: &Mods, link: Link) -> Option<Op> {
    Some(Op::Carry {
        op,
        ty: m.ty(0),
        carry_in: link == Link::Later,
        carry_out: m.has("cc"),
    })
}

/// Which comparisons a type has.
pub(crate) fn comparable(cmp: Cmp, ty: Ty) -> bool {
    use Cmp::{Eq, Ge, Gt, Hi, Hs, Le, Lo, Ls, Lt, Ne};
    match ty {
        Ty::B16 | Ty::B32 | Ty::B64 => matches!(cmp, Eq | Ne),
        Ty::S16 | Ty::S32 | Ty::S64 => matches!(cmp, Eq | Ne | Lt | Le | Gt | Ge),
        Ty::U16 | Ty::U32 | Ty::U64 => {
            matches!(cmp, Eq | Ne | Lt | Le | Gt | Ge | Lo | Ls | Hi | Hs)
        }
        _ => !matches!(cmp, Lo | Ls | Hi | Hs),
    }
}

/// `.ftz` is for f32 and f16.
fn flushable(ty: Ty, m: &Mods) -> bool {
    !m.has("ftz") || matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2)
}

fn setp(m: &Mods) -> Option<Op> {
    let cmp = m.cmp?;
    (comparable(cmp, m.ty(0)) && flushable(m.ty(0), m)).then(|| Op::Setp {
        cmp,
        ty: m.ty(0),
        combine: m.combine,
        ftz: m.has("ftz"),
    })
}

fn set(m: &Mods) -> Option<Op> {
    let (cmp, to, ty) = (m.cmp?, m.ty(0), m.ty(1));
    let half = matches!(ty, Ty::F16 | Ty::BF16);
    let exists = match to {
        Ty::F16x2 | Ty::BF16x2 => to == ty,
        Ty::U16 | Ty::S16 => half,
        Ty::F16 | Ty::BF16 | Ty::F32 => !matches!(ty, Ty::F16x2 | Ty::BF16x2),
        _ => true,
    };
    let exists = exists && !(to == Ty::F32 && half) && flushable(ty, m);
    (exists && comparable(cmp, ty)).then(|| Op::Set {
        cmp,
        to,
        ty,
        combine: m.combine,
        ftz: m.has("ftz"),
    })
}

fn slct(m: &Mods) -> Option<Op> {
    Some(Op::Slct {
        ty: m.ty(0),
        by: m.ty(1),
        ftz: m.has("ftz"),
    })
}

fn rare(op: Arith) -> Option<Op> {
    Some(Op::Arith(op))
}

fn dp2a(m: &Mods) -> Option<Op> {
    rare(Arith::Dp2a {
        a: m.ty(0),
        b: m.ty(1),
        hi: m.has("hi"),
    })
}

fn mad24(m: &Mods) -> Option<Op> {
    rare(Arith::Mad24 {
        ty: m.ty(0),
        hi: m.has("hi"),
        sat: m.has("sat"),
    })
}

fn lop3(m: &Mods, f: &Fixed) -> Option<Op> {
    let table = u8::try_from(f.imm(0)).ok()?;
    match m.combine {
        Some(BoolOp::Xor) => None,
        Some(combine) => rare(Arith::Lop3Pred { table, combine }),
        None => Some(Op::Lop3(table)),
    }
}

fn testp(m: &Mods) -> Option<Op> {
    let class = [
        ("finite", FloatClass::Finite),
        ("infinite", FloatClass::Infinite),
        ("number", FloatClass::Number),
        ("notanumber", FloatClass::NotANumber),
        ("normal", FloatClass::Normal),
        ("subnormal", FloatClass::Subnormal),
    ]
    .into_iter()
    .find_map(|(name, class)| m.has(name).then_some(class))?;
    rare(Arith::Testp(class, m.ty(0)))
}

fn prmt_mode(m: &Mods) -> u8 {
    ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]
        .iter()
        .position(|mode| m.has(mode))
        .map_or(0, |index| u8::try_from(index + 1).unwrap_or(0))
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("add", ":int",                               "d0,s0,s0", |m, _| int(I::Add, m)),
    row("add", ":u16x2|s16x2",                       "d0,s0,s0", |m, _| int(I::Add, m)),
    row("add", ".sat :s32",                          "d0,s0,s0", |m, _| int(I::AddSat, m)),
    row("add", ".cc :u32|s32|u64|s64",               "d0,s0,s0", |m, _| carry(I::Add, m, Link::First)),
    row("addc", ".cc? :u32|s32|u64|s64",             "d0,s0,s0", |m, _| carry(I::Add, m, Link::Later)),
    row("add", "@rnd? .ftz? .sat? :f32",             "d0,s0,s0", |m, _| float(FB::Add, m)),
    row("add", "@rnd? :f64",                         "d0,s0,s0", |m, _| float(FB::Add, m)),
    row("add", "@rnd? .ftz? .sat? :half",            "d0,s0,s0", |m, _| float(FB::Add, m)),
    row("sub", ":int",                               "d0,s0,s0", |m, _| int(I::Sub, m)),
    row("sub", ".sat :s32",                          "d0,s0,s0", |m, _| int(I::SubSat, m)),
    row("sub", ".cc :u32|s32|u64|s64",               "d0,s0,s0", |m, _| carry(I::Sub, m, Link::First)),
    row("subc", ".cc? :u32|s32|u64|s64",             "d0,s0,s0", |m, _| carry(I::Sub, m, Link::Later)),
    row("sub", "@rnd? .ftz? .sat? :f32",             "d0,s0,s0", |m, _| float(FB::Sub, m)),
    row("sub", "@rnd? :f64",                         "d0,s0,s0", |m, _| float(FB::Sub, m)),
    row("sub", "@rnd? .ftz? .sat? :half",            "d0,s0,s0", |m, _| float(FB::Sub, m)),
    row("mul", ".lo|.hi :int",                       "d0,s0,s0", |m, _| int(half_of(m)?, m)),
    row("mul", ".wide :u16|s16|u32|s32",             "dw,s0,s0", |m, _| int(I::MulWide, m)),
    row("mul", "@rnd? .ftz? .sat? :f32",             "d0,s0,s0", |m, _| float(FB::Mul, m)),
    row("mul", "@rnd? :f64",                         "d0,s0,s0", |m, _| float(FB::Mul, m)),
    row("mul", "@rnd? .ftz? .sat? :half",            "d0,s0,s0", |m, _| float(FB::Mul, m)),
    row("mad", ".lo|.hi :int",                       "d0,s0,s0,s0", |m, _| Some(Op::Mad(half_of(m)?, m.ty(0)))),
    row("mad", ".hi .sat :s32",                      "d0,s0,s0,s0", |_, _| rare(Arith::MadHiSat)),
    row("mul24", ".lo|.hi :u32|s32",                 "d0,s0,s0", |m, _| rare(Arith::Mul24 { ty: m.ty(0), hi: m.has("hi") })),
    row("mad24", ".lo|.hi :u32|s32",                 "d0,s0,s0,s0", |m, _| mad24(m)),
    row("mad24", ".hi .sat :s32",                    "d0,s0,s0,s0", |m, _| mad24(m)),
    row("sad", ":int",                               "d0,s0,s0,s0", |m, _| rare(Arith::Sad(m.ty(0)))),
    row("mad", ".wide :u16|s16|u32|s32",             "dw,s0,s0,sw", |m, _| Some(Op::Mad(I::MulWide, m.ty(0)))),
    row("mad", ".lo|.hi .cc :u32|s32|u64|s64",       "d0,s0,s0,s0", |m, _| carry(half_of(m)?, m, Link::First)),
    row("madc", ".lo|.hi .cc? :u32|s32|u64|s64",     "d0,s0,s0,s0", |m, _| carry(half_of(m)?, m, Link::Later)),
    row("mad", "@rnd .ftz? .sat? :f32",              "d0,s0,s0,s0", |m, _| fma(m)),
    row("mad", "@rnd :f64",                          "d0,s0,s0,s0", |m, _| fma(m)),
    row("fma", "@rnd .ftz? .sat? :f32",              "d0,s0,s0,s0", |m, _| fma(m)),
    row("fma", "@rnd :f64",                          "d0,s0,s0,s0", |m, _| fma(m)),
    row("fma", "@rnd .ftz? .sat? .relu? :half",      "d0,s0,s0,s0", |m, _| fma(m)),
    row("div", ":int",                               "d0,s0,s0", |m, _| int(I::Div, m)),
    row("div", "@rnd .ftz? :f32",                    "d0,s0,s0", |m, _| divide(m)),
    row("div", "@rnd :f64",                          "d0,s0,s0", |m, _| divide(m)),
    row("rem", ":int",                               "d0,s0,s0", |m, _| int(I::Rem, m)),
    row("min", ":int",                               "d0,s0,s0", |m, _| int(I::Min, m)),
    row("max", ":int",                               "d0,s0,s0", |m, _| int(I::Max, m)),
    row("min", ":u16x2|s16x2",                       "d0,s0,s0", |m, _| int(I::Min, m)),
    row("max", ":u16x2|s16x2",                       "d0,s0,s0", |m, _| int(I::Max, m)),
    row("min", ".relu :s32|s16x2",                   "d0,s0,s0", |m, _| rare(Arith::MinMaxRelu { ty: m.ty(0), max: false })),
    row("max", ".relu :s32|s16x2",                   "d0,s0,s0", |m, _| rare(Arith::MinMaxRelu { ty: m.ty(0), max: true })),
    row("min", ".ftz? .NaN? .xorsign? .abs? :f32|f16|f16x2|bf16|bf16x2", "d0,s0,s0", |m, _| extremum(End::Min, m)),
    row("max", ".ftz? .NaN? .xorsign? .abs? :f32|f16|f16x2|bf16|bf16x2", "d0,s0,s0", |m, _| extremum(End::Max, m)),
    row("min", ":f64",                               "d0,s0,s0", |m, _| extremum(End::Min, m)),
    row("max", ":f64",                               "d0,s0,s0", |m, _| extremum(End::Max, m)),

    row("neg", ":s16|s32|s64",                       "d0,s0", |m, _| unary(U::Neg, m)),
    row("abs", ":s16|s32|s64",                       "d0,s0", |m, _| unary(U::Abs, m)),
    row("neg", ".ftz? :f32|f64|f16|f16x2|bf16|bf16x2", "d0,s0", |m, _| float_unary(FU::Neg, m)),
    row("abs", ".ftz? :f32|f64|f16|f16x2|bf16|bf16x2", "d0,s0", |m, _| float_unary(FU::Abs, m)),
    row("rcp", "@rnd .ftz? :f32|f64",                "d0,s0", |m, _| root(FU::Rcp, m)),
    row("sqrt", "@rnd .ftz? :f32|f64",               "d0,s0", |m, _| root(FU::Sqrt, m)),
    row("rsqrt", "@rnd .ftz? :f32|f64",                 "d0,s0", |m, _| approx(FU::Rsqrt, m)),
    row("ex2", "@rnd .ftz? :f32|f16|f16x2|bf16|bf16x2", "d0,s0", |m, _| approx(FU::Ex2, m)),
    row("lg2", "@rnd .ftz? :f32",                    "d0,s0", |m, _| approx(FU::Lg2, m)),
    row("sin", "@rnd .ftz? :f32",                    "d0,s0", |m, _| approx(FU::Sin, m)),
    row("cos", "@rnd .ftz? :f32",                    "d0,s0", |m, _| approx(FU::Cos, m)),
    row("tanh", "@rnd :f32|f16|f16x2|bf16|bf16x2",   "d0,s0", |m, _| approx(FU::Tanh, m)),
    row("testp", ".finite|.infinite|.number|.notanumber|.normal|.subnormal :f32|f64", "dp,s0", |m, _| testp(m)),
    row("copysign", ":f32|f64",                      "d0,s0,s0", |m, _| Some(Op::Copysign(m.ty(0)))),

    row("and", ":logic",                             "d0,s0,s0", |m, _| int(I::And, m)),
    row("or", ":logic",                              "d0,s0,s0", |m, _| int(I::Or, m)),
    row("xor", ":logic",                             "d0,s0,s0", |m, _| int(I::Xor, m)),
    row("not", ":logic",                             "d0,s0", |m, _| unary(U::Not, m)),
    row("cnot", ":bits",                             "d0,s0", |m, _| unary(U::Cnot, m)),
    row("shl", ":bits",                              "d0,s0,su", |m, _| int(I::Shl, m)),
    row("shr", ":b16|b32|b64|u16|u32|u64|s16|s32|s64", "d0,s0,su", |m, _| int(I::Shr, m)),
    row("shf", ".l|.r .wrap|.clamp :b32",            "d0,s0,s0,s0", |m, _| Some(Op::Shf { right: m.has("r"), clamp: m.has("clamp") })),
    row("popc", ":b32|b64",                          "du,s0", |m, _| unary(U::Popc, m)),
    row("clz", ":b32|b64",                           "du,s0", |m, _| unary(U::Clz, m)),
    row("brev", ":b32|b64",                          "d0,s0", |m, _| unary(U::Brev, m)),
    row("bfind", ":u32|s32|u64|s64",                 "du,s0", |m, _| unary(U::Bfind, m)),
    row("bfind", ".shiftamt :u32|s32|u64|s64",       "du,s0", |m, _| unary(U::BfindShiftamt, m)),
    row("bfe", ":u32|s32|u64|s64",                   "d0,s0,su,su", |m, _| Some(Op::Bfe(m.ty(0)))),
    row("bfi", ":b32|b64",                           "d0,s0,s0,su,su", |m, _| Some(Op::Bfi(m.ty(0)))),
    row("prmt", ":b32",                              "d0,s0,s0,s0", |m, _| Some(Op::Prmt(prmt_mode(m)))),
    row("prmt", ":b32 .f4e|.b4e|.rc8|.ecl|.ecr|.rc16", "d0,s0,s0,s0", |m, _| Some(Op::Prmt(prmt_mode(m)))),
    row("lop3", ":b32",                              "d0,s0,s0,s0,c", lop3),
    row("lop3", "@bool :b32",                        "d0/p,s0,s0,s0,c,sp", lop3),
    row("dp4a", ":u32|s32 :u32|s32",                 "du,s0,s1,su", |m, _| Some(Op::Dp4a(m.ty(0), m.ty(1)))),
    row("dp2a", ".lo|.hi :u32|s32 :u32|s32",         "du,s0,s1,su", |m, _| dp2a(m)),
    row("bmsk", ".clamp|.wrap :b32",                 "d0,su,su", |m, _| rare(Arith::Bmsk { clamp: m.has("clamp") })),
    row("szext", ".clamp|.wrap :u32|s32",            "d0,s0,su", |m, _| rare(Arith::Szext { clamp: m.has("clamp"), signed: m.ty(0) == Ty::S32 })),
    row("fns", ":b32",                               "d0,s0,s0,s0", |_, _| rare(Arith::Fns)),

    row("setp", "@cmp .ftz? :word",                  "dp/p,s0,s0", |m, _| setp(m)),
    row("setp", "@cmp .ftz? :f16|bf16",              "dp,s0,s0", |m, _| setp(m)),
    row("setp", "@cmp .ftz? :f16x2|bf16x2",          "dp/p,s0,s0", |m, _| setp(m)),
    row("setp", "@cmp @bool .ftz? :word",            "dp/p,s0,s0,sp", |m, _| setp(m)),
    row("setp", "@cmp @bool .ftz? :f16|bf16",        "dp,s0,s0,sp", |m, _| setp(m)),
    row("setp", "@cmp @bool .ftz? :f16x2|bf16x2",    "dp/p,s0,s0,sp", |m, _| setp(m)),
    row("set", "@cmp .ftz? :truth :word",            "d0,s1,s1", |m, _| set(m)),
    row("set", "@cmp .ftz? :truth :half",            "d0,s1,s1", |m, _| set(m)),
    row("set", "@cmp @bool .ftz? :truth :word",      "d0,s1,s1,sp", |m, _| set(m)),
    row("set", "@cmp @bool .ftz? :truth :half",      "d0,s1,s1,sp", |m, _| set(m)),
    row("selp", ":word",                             "d0,s0,s0,sp", |m, _| Some(Op::Selp(m.ty(0)))),
    row("slct", ":word :s32",                        "d0,s0,s0,s1", |m, _| slct(m)),
    row("slct", ".ftz? :word :f32",                  "d0,s0,s0,s1", |m, _| slct(m)),
];
