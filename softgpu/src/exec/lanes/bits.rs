//! Bit fields, funnel shifts, byte permutes, three-input logic, dot products.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes and halves of words"
)]

use std::marker::PhantomData;

use super::isa::AluBody;
use super::map::maps;
use super::value::{Raw, Value};
use crate::exec::inst::Inst;
use crate::exec::regs::RegFile;

/// The low `n` bits set.
#[inline(always)]
fn low64(n: u32) -> u64 {
    if n >= 64 {
        u64::MAX
    } else {
        (1u64 << (n % 64)).wrapping_sub(1)
    }
}

/// `bfe` on a value of `WIDTH` bits, zero-extended to 64.
#[inline(always)]
fn extract<const WIDTH: u32, const SIGNED: bool>(value: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let inside = pos < WIDTH;
    let room = if inside { WIDTH.wrapping_sub(pos) } else { 0 };
    let taken = if len < room { len } else { room };
    let field = if inside { value >> (pos % 64) } else { 0 } & low64(taken);
    if !SIGNED {
        return field;
    }
    let end = pos.wrapping_add(len).wrapping_sub(1);
    let sign_at = if end < WIDTH { end } else { WIDTH - 1 };
    let negative = len != 0 && value >> (sign_at % 64) & 1 != 0;
    field | if negative { !low64(taken) } else { 0 }
}

/// `bfi` on values of `width` bits.
#[inline(always)]
fn insert(field: u64, base: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let mask = if pos < 64 {
        low64(len) << (pos % 64)
    } else {
        0
    };
    let moved = if pos < 64 { field << (pos % 64) } else { 0 };
    base & !mask | moved & mask
}

/// Bytes of the selector's nibbles out of `b:a`; bit 3 of a nibble asks for the byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut result = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (nibble & 7))) as u32 & 0xff;
        let sign = (byte >> 7).wrapping_neg() & 0xff;
        let chosen = if nibble & 8 != 0 { sign } else { byte };
        result |= chosen << (8 * i);
    }
    result
}

/// Selectors of the `prmt` modes f4e, b4e, rc8, ecl, ecr, rc16, for control values 0 to 3.
pub(crate) const PRMT_SELECTORS: [[u16; 4]; 6] = [
    [0x3210, 0x4321, 0x5432, 0x6543],
    [0x5670, 0x6701, 0x7012, 0x0123],
    [0x0000, 0x1111, 0x2222, 0x3333],
    [0x3210, 0x3211, 0x3222, 0x3333],
    [0x0000, 0x1110, 0x2210, 0x3210],
    [0x1010, 0x3232, 0x1010, 0x3232],
];

/// Byte `i` of a word, extended by its sign if `signed` is not zero.
#[inline(always)]
fn byte(word: u32, i: u32, signed: u64) -> i32 {
    let byte = word >> (8 * i);
    if signed != 0 {
        i32::from(byte as i8)
    } else {
        i32::from(byte as u8)
    }
}

maps! {
    BfeU32(a: u32, b: u32, c: u32) -> u32 { extract::<32, false>(u64::from(a), b, c) as u32 }
    BfeS32(a: u32, b: u32, c: u32) -> u32 { extract::<32, true>(u64::from(a), b, c) as u32 }
    BfeU64(a: u64, b: u32, c: u32) -> u64 { extract::<64, false>(a, b, c) }
    BfeS64(a: u64, b: u32, c: u32) -> u64 { extract::<64, true>(a, b, c) }
    ShfLWrap(a: u32, b: u32, c: u32) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        (both << (c & 31) >> 32) as u32
    }
    ShfRWrap(a: u32, b: u32, c: u32) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        (both >> (c & 31)) as u32
    }
    ShfLClamp(a: u32, b: u32, c: u32) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        (both << if c < 32 { c } else { 32 } >> 32) as u32
    }
    ShfRClamp(a: u32, b: u32, c: u32) -> u32 {
        let both = u64::from(b) << 32 | u64::from(a);
        (both >> if c < 32 { c } else { 32 }) as u32
    }
    Prmt(a: u32, b: u32, c: u32) -> u32 { permute(a, b, c) }
    /// The immediate holds the mode's four selectors.
    PrmtMode(a: u32, b: u32, c: u32) [imm] -> u32 {
        permute(a, b, (imm >> (16 * (c & 3))) as u32 & 0xffff)
    }
    /// The immediate is the truth table: bit `4 a + 2 b + c`.
    Lop3(a: u32, b: u32, c: u32) [imm] -> u32 {
        let row = |i: u32| ((imm >> i) as u32 & 1).wrapping_neg();
        let low = |i: u32| !c & row(i) | c & row(i + 1);
        let pair = |i: u32| !b & low(i) | b & low(i + 2);
        !a & pair(0) | a & pair(4)
    }
    /// Immediate: bit 0 = bytes of `a` are signed, bit 1 = bytes of `b`.
    Dp4a(a: u32, b: u32, c: u32) [imm] -> u32 {
        let product = |i| byte(a, i, imm & 1).wrapping_mul(byte(b, i, imm & 2));
        let low = product(0).wrapping_add(product(1));
        let sum = low.wrapping_add(product(2)).wrapping_add(product(3));
        c.wrapping_add(sum as u32)
    }
}

/// `bfi`: the length is the first operand of the list.
pub(crate) struct Bfi<T>(PhantomData<T>);

/// Widths of bit fields.
pub(crate) trait Word: Value {
    /// Zero-extends.
    fn wide(self) -> u64;
    /// Truncates.
    fn narrow(wide: u64) -> Self;
}

impl Word for u32 {
    #[inline(always)]
    fn wide(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn narrow(wide: u64) -> Self {
        wide as Self
    }
}

impl Word for u64 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self
    }
    #[inline(always)]
    fn narrow(wide: u64) -> Self {
        wide
    }
}

impl<T: Word> AluBody for Bfi<T> {
    #[inline(always)]
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst) {
        let Some(&[len]) = inst.list.as_deref() else {
            return;
        };
        let (a, b) = (regs.source(inst.a), regs.source(inst.b));
        let (pos, len) = (regs.source(inst.c), regs.source(len));
        let mut out = [T::Raw::default(); 32];
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            let a = unsafe { T::get(a, lane) };
            // SAFETY: as above.
            let b = unsafe { T::get(b, lane) };
            // SAFETY: as above.
            let pos = unsafe { u32::get(pos, lane) };
            // SAFETY: as above.
            let len = unsafe { u32::get(len, lane) };
            *out = T::narrow(insert(a.wide(), b.wide(), pos, len)).into_raw();
        }
        let target = regs.target(inst.dst);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
    }
}
