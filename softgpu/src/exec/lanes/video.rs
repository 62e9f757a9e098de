//! Handlers of the video instructions. All intermediate results are exact in 64 or 128 bits.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "parts of words, two's complement"
)]

use super::isa::AluBody;
use super::value::{Raw, Value};
use crate::exec::inst::Inst;
use crate::exec::regs::{RegFile, Slot};
use crate::ir::{Cmp, Second, Video, VideoOp};

/// A video instruction as words, which travel as slots of the decoded instruction's list.
pub(crate) fn words(video: Video) -> [Slot; 5] {
    let bytes = |b: [u8; 4]| Slot(u32::from_le_bytes(b));
    let flags = u8::from(video.signed[0])
        | u8::from(video.signed[1]) << 1
        | u8::from(video.signed[2]) << 2
        | u8::from(video.sat) << 3;
    let second = match video.second {
        None => 0,
        Some(Second::Add) => 1,
        Some(Second::Min) => 2,
        Some(Second::Max) => 3,
    };
    let [d, a, b] = video.width;
    [
        bytes(operation(video.op)),
        bytes([video.lanes, flags, second, video.mask]),
        bytes([d, a, b, video.at]),
        bytes(video.a),
        bytes(video.b),
    ]
}

fn operation(op: VideoOp) -> [u8; 4] {
    match op {
        VideoOp::Add => [0, 0, 0, 0],
        VideoOp::Sub => [1, 0, 0, 0],
        VideoOp::Absdiff => [2, 0, 0, 0],
        VideoOp::Min => [3, 0, 0, 0],
        VideoOp::Max => [4, 0, 0, 0],
        VideoOp::Avrg => [5, 0, 0, 0],
        VideoOp::Shl { wrap } => [6, u8::from(wrap), 0, 0],
        VideoOp::Shr { wrap } => [7, u8::from(wrap), 0, 0],
        VideoOp::Set(cmp) => {
            let code = match cmp {
                Cmp::Eq => 0b010,
                Cmp::Ne => 0b101,
                Cmp::Lt => 0b001,
                Cmp::Le => 0b011,
                Cmp::Gt => 0b100,
                _ => 0b110,
            };
            [8, code, 0, 0]
        }
        VideoOp::Mad {
            po,
            negate,
            negate_c,
            shift,
        } => {
            let flags = u8::from(po) | u8::from(negate) << 1 | u8::from(negate_c) << 2;
            [9, flags, shift, 0]
        }
    }
}

/// A video instruction as the handler sees it.
struct Form {
    op: u8,
    /// Wrap, comparison or flags of `vmad`.
    detail: u8,
    shift: u8,
    lanes: u8,
    signed: [bool; 3],
    sat: bool,
    second: u8,
    mask: u8,
    width: [u8; 3],
    at: u8,
    a: [u8; 4],
    b: [u8; 4],
}

impl Form {
    fn read(list: &[Slot]) -> Option<Self> {
        let &[op, form, widths, a, b] = list else {
            return None;
        };
        let [op, detail, shift, _] = op.0.to_le_bytes();
        let [lanes, flags, second, mask] = form.0.to_le_bytes();
        let [d_width, a_width, b_width, at] = widths.0.to_le_bytes();
        Some(Self {
            op,
            detail,
            shift,
            lanes,
            signed: [0, 1, 2].map(|bit| flags >> bit & 1 != 0),
            sat: flags >> 3 & 1 != 0,
            second,
            mask,
            width: [d_width, a_width, b_width],
            at,
            a: a.0.to_le_bytes(),
            b: b.0.to_le_bytes(),
        })
    }

    /// The result of one lane, not yet in its place.
    fn lane(&self, both: u64, index: usize) -> i64 {
        let a = part(both, self.a[index], self.width[1], self.signs(1));
        let b = part(both, self.b[index], self.width[2], self.signs(2));
        let exact = match self.op {
            0 => a + b,
            1 => a - b,
            2 => (a - b).abs(),
            3 => a.min(b),
            4 => a.max(b),
            // Halves round away from zero for sums that are not negative.
            5 => (a + b + i64::from(a + b >= 0)) >> 1,
            6 => return self.clamped(i128::from(a) << self.count(b)),
            7 => a >> self.count(b),
            _ => i64::from(self.detail >> (a.cmp(&b) as i8 + 1) & 1),
        };
        self.clamped(i128::from(exact))
    }

    /// All ones if an operand is signed.
    fn signs(&self, operand: usize) -> u64 {
        if self.signed[operand] { u64::MAX } else { 0 }
    }

    fn count(&self, b: i64) -> u32 {
        let count = b as u64;
        (if self.detail != 0 {
            count & 31
        } else {
            count.min(32)
        }) as u32
    }

    /// `.sat` to the part of d that is written.
    fn clamped(&self, x: i128) -> i64 {
        if !self.sat {
            return x as i64;
        }
        let bits = u32::from(self.width[0]) * 8;
        let (min, max) = if self.signed[0] {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        x.clamp(min, max) as i64
    }

    /// `vmad`: the product is negated as ~p + 1, and so is c.
    fn multiply_add(&self, both: u64, c: u32) -> u32 {
        let (po, negate) = (self.detail & 1 != 0, self.detail & 2 != 0);
        let negate_c = self.detail & 4 != 0;
        let signed = self.signed[1] || self.signed[2] || negate || negate_c;
        let a = part(both, self.a[0], self.width[1], self.signs(1));
        let b = part(both, self.b[0], self.width[2], self.signs(2));
        let product = i128::from(a) * i128::from(b);
        let product = if negate { -product } else { product };
        let c = if negate_c { !c } else { c };
        let addend = if signed {
            i128::from(c as i32)
        } else {
            i128::from(c)
        };
        let sum = (product + addend + i128::from(po || negate_c)) >> self.shift;
        let (min, max) = if signed {
            (i128::from(i32::MIN), i128::from(i32::MAX))
        } else {
            (0, i128::from(u32::MAX))
        };
        (if self.sat { sum.clamp(min, max) } else { sum }) as u32
    }

    fn eval(&self, a: u32, b: u32, c: u32) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        if self.op == 9 {
            return self.multiply_add(both, c);
        }
        if self.lanes == 1 {
            let result = self.lane(both, 0);
            return match self.second {
                0 => insert(c, result, self.at, self.width[0]),
                1 => c.wrapping_add(result as u32),
                extremum => self.extremum(extremum, result, c),
            };
        }
        let lanes = 0..self.lanes.min(4);
        let written = lanes.filter(|lane| self.mask >> lane & 1 != 0);
        written.fold(c, |d, lane| {
            let result = self.lane(both, usize::from(lane));
            if self.second != 0 {
                d.wrapping_add(result as u32)
            } else {
                insert(d, result, lane * self.width[0], self.width[0])
            }
        })
    }

    /// The smaller or larger of a result and c, as values of d's type.
    fn extremum(&self, which: u8, result: i64, c: u32) -> u32 {
        let c = if self.signed[0] {
            i64::from(c as i32)
        } else {
            i64::from(c)
        };
        (if which == 2 {
            result.min(c)
        } else {
            result.max(c)
        }) as u32
    }
}

/// `width` bytes from `start` on, extended by their sign where `signs` is set.
fn part(both: u64, start: u8, width: u8, signs: u64) -> i64 {
    let up = (both >> (8 * u32::from(start & 7))) << (64 - 8 * u32::from(width.clamp(1, 4)));
    let down = 64 - 8 * u32::from(width.clamp(1, 4));
    let signed = up.cast_signed() >> down;
    if signs != 0 {
        signed
    } else {
        (up >> down).cast_signed()
    }
}

/// Puts the low `width` bytes of a result at byte `at`.
fn insert(word: u32, result: i64, at: u8, width: u8) -> u32 {
    if width >= 4 {
        return result as u32;
    }
    let shift = 8 * u32::from(at & 3);
    let mask = ((1u32 << (8 * u32::from(width))) - 1) << shift;
    word & !mask | (result as u32) << shift & mask
}

/// Handler body; `c` is a if the instruction has no third operand.
pub(crate) struct VideoBody;

impl AluBody for VideoBody {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let Some(form) = inst.list.as_deref().and_then(Form::read) else {
            return;
        };
        let (a, b) = (regs.source(inst.a), regs.source(inst.b));
        let c = regs.source(inst.c);
        let mut out = [0u32; 32];
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            let a = unsafe { u32::get(a, lane) };
            // SAFETY: as above.
            let b = unsafe { u32::get(b, lane) };
            // SAFETY: as above.
            let c = unsafe { u32::get(c, lane) };
            *out = form.eval(a, b, c);
        }
        let target = regs.target(inst.dst);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
    }
}
