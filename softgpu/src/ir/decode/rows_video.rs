//! Video instructions. Source: PTX ISA 9.0, "Video Instructions".

use super::modifiers::Mods;
use super::{Fixed, Lane, Row, row};
use crate::ir::{Arith, Cmp, Op, Second, Ty, Video, VideoOp as V};

fn second(m: &Mods) -> Option<Second> {
    [
        ("add", Second::Add),
        ("min", Second::Min),
        ("max", Second::Max),
    ]
    .into_iter()
    .find_map(|(name, op)| m.has(name).then_some(op))
}

/// Comparisons of `vset` have no unsigned names.
fn compares(op: V) -> bool {
    use Cmp::{Eq, Ge, Gt, Le, Lt, Ne};
    match op {
        V::Set(cmp) => matches!(cmp, Eq | Ne | Lt | Le | Gt | Ge),
        _ => true,
    }
}

/// Types of d, a and b; a comparison gives an unsigned result.
fn signs(op: V, m: &Mods) -> [bool; 3] {
    let signed = |index| m.ty(index) == Ty::S32;
    match op {
        V::Set(_) => [false, signed(0), signed(1)],
        _ => [signed(0), signed(1), signed(2)],
    }
}

/// Width in bytes and first byte of a scalar operand.
fn part(lane: &Lane) -> Option<(u8, u8)> {
    match (lane.count, lane.halves, lane.index[0]) {
        (0, ..) => Some((4, 0)),
        (1, true, half @ 0..=1) => Some((2, half * 2)),
        (1, false, byte @ 0..=3) => Some((1, byte)),
        _ => None,
    }
}

fn scalar(op: V, m: &Mods, f: &Fixed) -> Option<Op> {
    let [d, a, b, rest @ ..] = f.lanes.as_slice() else {
        return None;
    };
    let mad = matches!(op, V::Mad { .. });
    let negated = [d, a, b].iter().any(|lane| lane.negated);
    if negated && !mad || rest.iter().any(|c| c.count != 0) {
        return None;
    }
    let ((d_width, at), (a_width, a), (b_width, b)) = (part(d)?, part(a)?, part(b)?);
    let (second, signed, sat) = (second(m), signs(op, m), m.has("sat"));
    let merges = d_width != 4;
    // c is there for one of three reasons.
    let reasons = u8::from(mad) + u8::from(merges) + u8::from(second.is_some());
    if reasons > 1 || (reasons == 1) != (f.sources == 3) || !compares(op) {
        return None;
    }
    // The ISA compares an intermediate of 33 bits, ptxas one of 32: only where they agree.
    let exact = match op {
        V::Min | V::Max => sat || signed[0] == signed[1] && signed[1] == signed[2],
        V::Set(_) => true,
        _ => sat,
    };
    if matches!(second, Some(Second::Min | Second::Max)) && !exact {
        return None;
    }
    Some(Op::Arith(Arith::Video(Video {
        op,
        lanes: 1,
        signed,
        sat,
        second,
        width: [d_width, a_width, b_width],
        a: [a, 0, 0, 0],
        b: [b + 4, 0, 0, 0],
        at,
        mask: 1,
    })))
}

fn shift(wrapping: V, clamping: V, m: &Mods, f: &Fixed) -> Option<Op> {
    scalar(if m.has("wrap") { wrapping } else { clamping }, m, f)
}

fn mad(m: &Mods, f: &Fixed) -> Option<Op> {
    let negated = |index: usize| f.lanes.get(index).is_some_and(|lane| lane.negated);
    let negate = negated(1) != negated(2);
    let (po, negate_c) = (m.has("po"), negated(3));
    if negate && negate_c || po && (negated(1) || negated(2) || negate_c) {
        return None;
    }
    let shift = match (m.has("shr7"), m.has("shr15")) {
        (true, _) => 7,
        (_, true) => 15,
        _ => 0,
    };
    let op = V::Mad {
        po,
        negate,
        negate_c,
        shift,
    };
    scalar(op, m, f)
}

/// The lanes of an operand, or those that it has when nothing is written.
fn chosen(lane: &Lane, lanes: u8, default: u8) -> Option<[u8; 4]> {
    if lane.count == 0 {
        return Some([0, 1, 2, 3].map(|i| default + i));
    }
    let fits = lane.count == lanes && lane.halves == (lanes == 2);
    let inside = lane.index.iter().all(|&index| index < 2 * lanes);
    (fits && inside && !lane.negated).then_some(lane.index)
}

fn simd(op: V, lanes: u8, m: &Mods, f: &Fixed) -> Option<Op> {
    let [d, a, b] = f.lanes.as_slice() else {
        return None;
    };
    let mask = match d.count {
        0 => (1 << lanes) - 1,
        count => {
            let inside = d.halves == (lanes == 2) && d.index.iter().all(|&index| index < lanes);
            let mask = (0..usize::from(count)).fold(0, |mask, i| mask | 1u8 << d.index[i]);
            (inside && !d.negated && mask.count_ones() == u32::from(count)).then_some(mask)?
        }
    };
    let (second, sat) = (second(m), m.has("sat"));
    if second.is_some() && sat || !compares(op) {
        return None;
    }
    let width = 4 / lanes;
    let start = |index: [u8; 4]| index.map(|index| index * width);
    Some(Op::Arith(Arith::Video(Video {
        op,
        lanes,
        signed: signs(op, m),
        sat,
        second,
        width: [width; 3],
        a: start(chosen(a, lanes, 0)?),
        b: start(chosen(b, lanes, lanes)?),
        at: 0,
        mask,
    })))
}

/// `.dtype.atype.btype` and what may follow.
const SCALAR: &str = ":u32|s32 :u32|s32 :u32|s32 .sat? .add|.min|.max?";
const SHIFT: &str = ":u32|s32 :u32|s32 :u32 .sat? .clamp|.wrap .add|.min|.max?";
const SIMD: &str = ":u32|s32 :u32|s32 :u32|s32 .sat? .add?";

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("vadd", SCALAR,                     "B,b,b,su?", |m, f| scalar(V::Add, m, f)),
    row("vsub", SCALAR,                     "B,b,b,su?", |m, f| scalar(V::Sub, m, f)),
    row("vabsdiff", SCALAR,                 "B,b,b,su?", |m, f| scalar(V::Absdiff, m, f)),
    row("vmin", SCALAR,                     "B,b,b,su?", |m, f| scalar(V::Min, m, f)),
    row("vmax", SCALAR,                     "B,b,b,su?", |m, f| scalar(V::Max, m, f)),
    row("vshl", SHIFT,                      "B,b,b,su?", |m, f| shift(V::Shl { wrap: true }, V::Shl { wrap: false }, m, f)),
    row("vshr", SHIFT,                      "B,b,b,su?", |m, f| shift(V::Shr { wrap: true }, V::Shr { wrap: false }, m, f)),
    row("vset", ":u32|s32 :u32|s32 @cmp .add|.min|.max?", "B,b,b,su?", |m, f| scalar(V::Set(m.cmp?), m, f)),
    row("vmad", ":u32|s32 :u32|s32 :u32|s32 .po? .sat? .shr7|.shr15?", "B,b,b,b", mad),

    row("vadd2", SIMD,                      "B,b,b,su", |m, f| simd(V::Add, 2, m, f)),
    row("vsub2", SIMD,                      "B,b,b,su", |m, f| simd(V::Sub, 2, m, f)),
    row("vavrg2", SIMD,                     "B,b,b,su", |m, f| simd(V::Avrg, 2, m, f)),
    row("vabsdiff2", SIMD,                  "B,b,b,su", |m, f| simd(V::Absdiff, 2, m, f)),
    row("vmin2", SIMD,                      "B,b,b,su", |m, f| simd(V::Min, 2, m, f)),
    row("vmax2", SIMD,                      "B,b,b,su", |m, f| simd(V::Max, 2, m, f)),
    row("vset2", ":u32|s32 :u32|s32 @cmp .add?", "B,b,b,su", |m, f| simd(V::Set(m.cmp?), 2, m, f)),
    row("vadd4", SIMD,                      "B,b,b,su", |m, f| simd(V::Add, 4, m, f)),
    row("vsub4", SIMD,                      "B,b,b,su", |m, f| simd(V::Sub, 4, m, f)),
    row("vavrg4", SIMD,                     "B,b,b,su", |m, f| simd(V::Avrg, 4, m, f)),
    row("vabsdiff4", SIMD,                  "B,b,b,su", |m, f| simd(V::Absdiff, 4, m, f)),
    row("vmin4", SIMD,                      "B,b,b,su", |m, f| simd(V::Min, 4, m, f)),
    row("vmax4", SIMD,                      "B,b,b,su", |m, f| simd(V::Max, 4, m, f)),
    row("vset4", ":u32|s32 :u32|s32 @cmp .add?", "B,b,b,su", |m, f| simd(V::Set(m.cmp?), 4, m, f)),
];
