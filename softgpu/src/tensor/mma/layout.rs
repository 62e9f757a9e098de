//! Where the elements of a matrix stand in the registers of a warp.
//!
//! All fragments of `mma.sync` but those of m8n8k4 with f16 follow one scheme (PTX ISA, "Matrix
//! fragments for mma.m…"). With K in words of 32 bits, word w of row r of A is in lane
//! `4·(r%8) + w%4`, register `2·(w/4) + r/8` (`w/4` if A has eight rows); word w of column c of B is
//! in lane `4·c + w%4`, register `w/4`. Row r, column c of a 32-bit accumulator is in lane
//! `4·(r%8) + c%8/2`, register `2·(r/8) + c%2`; an f16 accumulator has both columns of a pair in one.
//!
//! The fragments of `wmma` are opaque to programs. Here they are those of `mma.sync` for blocks of
//! 16 rows and 8 columns, one after the other, and where PTX has more registers than that (f16
//! operands) the last ones are copies: *modelled*.

use super::{K_BYTES, Registers};
use crate::ir::{Layout, MmaTy, WmmaAccess, WmmaMatrix};
use crate::tensor::convert;

/// Register and lane of word `w` of row `row` of A with `m` rows of `words` words.
fn place_a(m: usize, words: usize, row: usize, w: usize) -> (usize, usize) {
    let lane = 4 * (row % 8) + w % 4;
    if m == 8 {
        return (w / 4, lane);
    }
    (row / 16 * (words / 2) + w / 4 * 2 + row % 16 / 8, lane)
}

/// Register and lane of word `w` of column `column` of B with columns of `words` words.
fn place_b(words: usize, column: usize, w: usize) -> (usize, usize) {
    (column / 8 * (words / 4) + w / 4, 4 * (column % 8) + w % 4)
}

/// Register and lane of an element of a 32-bit accumulator of `m` rows and `n` columns.
fn place_c(m: usize, n: usize, row: usize, column: usize) -> (usize, usize) {
    let lane = 4 * (row % 8) + column % 8 / 2;
    if m == 8 {
        return (column / 8 * 2 + column % 2, lane);
    }
    let block = row / 16 * (n / 2);
    (block + column / 8 * 4 + row % 16 / 8 * 2 + column % 2, lane)
}

/// The 16 rows of block `block` of A, packed and padded with zeros.
pub(super) fn pack_a(
    a: &[[u32; 32]],
    m: usize,
    (block, words): (usize, usize),
) -> [u8; 16 * K_BYTES] {
    let mut packed = [0; 16 * K_BYTES];
    for row in 0..m.min(16) {
        for w in 0..words {
            let (register, lane) = place_a(m, words, 16 * block + row, w);
            let to = row * K_BYTES + 4 * w;
            packed[to..to + 4].copy_from_slice(&a[register][lane].to_le_bytes());
        }
    }
    packed
}

/// The columns of B, packed and padded with zeros.
pub(super) fn pack_b(b: &[[u32; 32]], n: usize, words: usize) -> Vec<u8> {
    let mut packed = vec![0; n * K_BYTES];
    for column in 0..n {
        for w in 0..words {
            let (register, lane) = place_b(words, column, w);
            let to = column * K_BYTES + 4 * w;
            packed[to..to + 4].copy_from_slice(&b[register][lane].to_le_bytes());
        }
    }
    packed
}

/// Accumulators of 16 rows from those of `m`: the registers of rows 8 to 15 come after those of
/// rows 0 to 7 for each eight columns.
pub(super) fn widen(c: &[[u32; 32]], m: usize) -> Registers {
    if m != 8 {
        return c.to_vec();
    }
    let per = per_columns(c.len());
    c.chunks(per)
        .flat_map(|upper| {
            let lower = std::iter::repeat_n([0; 32], per);
            upper.iter().copied().chain(lower)
        })
        .collect()
}

/// The inverse of [`widen`].
pub(super) fn narrow(d: &[[u32; 32]], m: usize) -> Registers {
    if m != 8 {
        return d.to_vec();
    }
    let per = per_columns(d.len() / 2);
    d.chunks(2 * per)
        .flat_map(|both| both[..per].iter().copied())
        .collect()
}

/// Registers for eight columns of eight rows: m8n8 has 2 of 32 bits; m8n32 has 8, or 4 of f16 pairs.
const fn per_columns(registers: usize) -> usize {
    if registers == 4 { 1 } else { 2 }
}

/// The low (`high` 0) or high byte pairs of packed FP8 rows, as f16: 4-byte words of a row become
/// two elements each.
pub(super) fn unpack_fp8(rows: &[u8], (ty, k): (MmaTy, usize), high: usize) -> Vec<u8> {
    let mut out = vec![0; rows.len()];
    let unpack = |code: u8| match ty {
        MmaTy::E4M3 => convert::f16_from_e4m3(code),
        _ => convert::f16_from_e5m2(code),
    };
    for (from, to) in rows
        .chunks_exact(K_BYTES)
        .zip(out.chunks_exact_mut(K_BYTES))
    {
        for (word, to) in from[..k].chunks_exact(4).zip(to.chunks_exact_mut(4)) {
            for (half, &code) in to.chunks_exact_mut(2).zip(&word[2 * high..]) {
                half.copy_from_slice(&unpack(code).to_le_bytes());
            }
        }
    }
    out
}

/// Lines of a `wmma` matrix in memory, and elements of each.
pub(crate) fn memory_lines(access: &WmmaAccess) -> (usize, usize) {
    let (rows, columns) = access.extent();
    match access.layout {
        Layout::Row => (rows, columns),
        Layout::Col => (columns, rows),
    }
}

/// Register, lane and first bit of an element of a fragment, all as 32-bit registers.
fn place(access: &WmmaAccess, row: usize, column: usize) -> (usize, usize, usize) {
    let (m, n, k) = access.shape;
    let (m, n, k) = (usize::from(m), usize::from(n), usize::from(k));
    let bits = access.ty.bits();
    if access.ty == MmaTy::F64 {
        let (register, lane) = match access.matrix {
            WmmaMatrix::A => (0, 4 * row + column),
            WmmaMatrix::B => (0, 4 * column + row),
            WmmaMatrix::C => place_c(m, n, row, column),
        };
        return (2 * register, lane, 0);
    }
    let words = k * bits / 32;
    let (register, lane, bit) = match access.matrix {
        WmmaMatrix::A => {
            let (register, lane) = place_a(m, words, row, column * bits / 32);
            (register, lane, column * bits % 32)
        }
        WmmaMatrix::B => {
            let (register, lane) = place_b(words, column, row * bits / 32);
            (register, lane, row * bits % 32)
        }
        WmmaMatrix::C if bits == 16 => {
            let (register, lane) = place_c(m, n, row, column);
            // The registers of a pair of columns become one.
            (register / 2, lane, 16 * (column % 2))
        }
        WmmaMatrix::C => {
            let (register, lane) = place_c(m, n, row, column);
            (register, lane, 0)
        }
    };
    (register, lane, bit)
}

/// Calls `f(element in memory, place)` for every element.
fn elements(access: &WmmaAccess, mut f: impl FnMut(usize, (usize, usize, usize))) {
    let (lines, length) = memory_lines(access);
    for line in 0..lines {
        for i in 0..length {
            let (row, column) = match access.layout {
                Layout::Row => (line, i),
                Layout::Col => (i, line),
            };
            f(line * length + i, place(access, row, column));
        }
    }
}

/// The low `bits` bits of a word.
const fn low(word: u32, bits: usize) -> u32 {
    if bits >= 32 {
        word
    } else {
        word & ((1 << bits) - 1)
    }
}

/// A fragment from the lines of a matrix, one after the other; f64 takes two words a register.
pub(crate) fn load(access: &WmmaAccess, memory: &[u8]) -> Registers {
    let bits = access.ty.bits();
    let wide = usize::from(bits == 64);
    let mut fragment = vec![[0; 32]; access.registers() << wide];
    elements(access, |element, (register, lane, bit)| {
        let at = element * bits;
        for half in 0..=wide {
            let mut word = [0; 4];
            let bytes = bits.div_ceil(8).min(4);
            word[..bytes].copy_from_slice(&memory[at / 8 + 4 * half..][..bytes]);
            let value = low(u32::from_le_bytes(word) >> (at % 8), bits);
            fragment[register + half][lane] |= value << bit;
        }
    });
    if access.matrix != WmmaMatrix::C && access.ty == MmaTy::F16 {
        let (rows, columns) = access.extent();
        let distinct = (rows * columns / 64).max(1);
        for register in distinct..fragment.len() {
            fragment[register] = fragment[register % distinct];
        }
    }
    fragment
}

/// The lines of a matrix from a fragment of an accumulator, whose elements are whole bytes.
pub(crate) fn store(access: &WmmaAccess, fragment: &[[u32; 32]]) -> Vec<u8> {
    let (rows, columns) = access.extent();
    let bytes = access.ty.bits() / 8;
    let mut memory = vec![0; rows * columns * bytes];
    elements(access, |element, (register, lane, bit)| {
        let to = &mut memory[element * bytes..][..bytes];
        for (half, to) in to.chunks_mut(4).enumerate() {
            let word = (fragment[register + half][lane] >> bit).to_le_bytes();
            to.copy_from_slice(&word[..to.len()]);
        }
    });
    memory
}
