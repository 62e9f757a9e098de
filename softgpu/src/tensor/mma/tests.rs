//! Fragments against the tables of the PTX ISA, arithmetic against the model, exact integers and
//! sequential fused multiply-adds.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test values are small, or wrap on purpose"
)]

use super::{Multiply, load, memory_lines, store};
use crate::ir::{BitOp, Fragments, Layout, Mma, MmaTy, Space, WmmaAccess, WmmaMatrix};
use crate::tensor::format::Format;
use crate::tensor::model::{self, Accumulator, Family};
use MmaTy::{B1, BF16, E4M3, E5M2, F16, F32, F64, S4, S8, S32, TF32, U4, U8};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32 ^ (self.0 >> 13) as u32
    }

    /// Bits of an element: mostly near one, sometimes anything.
    fn element(&mut self, ty: MmaTy) -> u32 {
        let x = self.next();
        if self.next().is_multiple_of(16) {
            return x;
        }
        match ty {
            F16 => (x & 0x83FF) | (10 + self.next() % 10) << 10,
            BF16 => (x & 0x807F) | (120 + self.next() % 10) << 7,
            TF32 | F32 => (x & 0x807F_FFFF) | (120 + self.next() % 10) << 23,
            // No NaN.
            E4M3 if x & 0x7F == 0x7F => x ^ 1,
            E5M2 => x & 0xBF,
            _ => x,
        }
    }

    fn registers(&mut self, count: usize, ty: MmaTy) -> Vec<[u32; 32]> {
        let bits = ty.bits().min(32);
        let word = |random: &mut Self| {
            let low = |x: u32| if bits == 32 { x } else { x & ((1 << bits) - 1) };
            (0..32 / bits).fold(0, |word, i| word | low(random.element(ty)) << (i * bits))
        };
        (0..count)
            .map(|_| std::array::from_fn(|_| word(self)))
            .collect()
    }
}

/// Row and column of element `i` of A in a lane.
fn a_place(shape: (u16, u16, u16), bits: usize, lane: usize, i: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    let pick = |upper: bool| if upper { g } else { g + 8 };
    match (shape, bits) {
        ((8, 8, 4), 64) => (g, t),
        ((16, 8, 4), 64) => (pick(i == 0), t),
        ((16, 8, 8), 64) => (pick(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
        ((16, 8, 16), 64) if i.is_multiple_of(2) => (g, i * 2 + t),
        ((16, 8, 16), 64) => (g + 8, i * 2 - 2 + t),
        ((16, 8, 4), 32) => (pick(i == 0), t),
        ((16, 8, 8), 32) => (pick(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
        ((16, 8, 8), 16) => (pick(i < 2), t * 2 + (i & 1)),
        ((16, 8, 16), 16) => (
            pick(i < 2 || (4..6).contains(&i)),
            t * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
        ),
        ((8, 8, 16), 8) => (g, t * 4 + i),
        ((16, 8, 16), 8) => (pick(i < 4), t * 4 + (i & 3)),
        ((16, 8, 32), 8) => (
            pick(i < 4 || (8..12).contains(&i)),
            t * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
        ),
        ((8, 8, 32), 4) => (g, t * 8 + i),
        ((16, 8, 32), 4) => (pick(i < 8), t * 8 + (i & 7)),
        ((16, 8, 64), 4) => (
            pick(i < 8 || (16..24).contains(&i)),
            t * 8 + (i & 7) + if i < 16 { 0 } else { 32 },
        ),
        ((8, 8, 128), 1) => (g, t * 32 + i),
        ((16, 8, 128), 1) => (pick(i < 32), t * 32 + (i & 31)),
        ((16, 8, 256), 1) => (
            pick(i < 32 || (64..96).contains(&i)),
            t * 32 + (i & 31) + if i < 64 { 0 } else { 128 },
        ),
        other => panic!("no such shape: {other:?}"),
    }
}

/// Row (along K) and column of element `i` of B in a lane.
fn b_place(shape: (u16, u16, u16), bits: usize, lane: usize, i: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    let row = match (shape, bits) {
        ((8 | 16, 8, 4), 64 | 32) => t,
        ((16, 8, 8), 32 | 64) => t + 4 * i,
        ((16, 8, 16), 64) => i * 4 + t,
        ((16, 8, 8), 16) => t * 2 + i,
        ((16, 8, 16), 16) => t * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        ((8 | 16, 8, 16), 8) => t * 4 + i,
        ((16, 8, 32), 8) => t * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
        ((8 | 16, 8, 32), 4) => t * 8 + i,
        ((16, 8, 64), 4) => t * 8 + (i & 7) + if i < 8 { 0 } else { 32 },
        ((8 | 16, 8, 128), 1) => t * 32 + i,
        ((16, 8, 256), 1) => t * 32 + (i & 31) + if i < 32 { 0 } else { 128 },
        other => panic!("no such shape: {other:?}"),
    };
    (row, g)
}

/// Row and column of element `i` of C in a lane.
fn c_place(m: u16, lane: usize, i: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    let row = if m == 8 || i < 2 { g } else { g + 8 };
    (row, t * 2 + (i & 1))
}

/// Element `i` of a lane's registers.
fn element(registers: &[[u32; 32]], bits: usize, lane: usize, i: usize) -> u32 {
    let per = 32 / bits;
    let word = registers[i / per][lane] >> (i % per * bits);
    if bits == 32 {
        word
    } else {
        word & ((1 << bits) - 1)
    }
}

fn mma(shape: (u16, u16, u16), [d, a, b, c]: [MmaTy; 4]) -> Mma {
    Mma {
        shape,
        d,
        a,
        b,
        c,
        fragments: Fragments::Mma,
        layouts: (Layout::Row, Layout::Col),
        saturate: false,
        bits: None,
        rounding: crate::ir::Rounding::Default,
    }
}

type Matrix = Vec<Vec<u32>>;

/// A by rows and B by columns.
fn operands(mma: &Mma, a: &[[u32; 32]], b: &[[u32; 32]]) -> (Matrix, Matrix) {
    let (m, n, k) = mma.shape;
    let bits = mma.a.bits();
    let mut rows = vec![vec![u32::MAX; k.into()]; m.into()];
    let mut columns = vec![vec![u32::MAX; k.into()]; n.into()];
    for lane in 0..32 {
        for i in 0..a.len() * 32 / bits {
            let (row, k) = a_place(mma.shape, bits, lane, i);
            rows[row][k] = element(a, bits, lane, i);
        }
        for i in 0..b.len() * 32 / bits {
            let (k, column) = b_place(mma.shape, bits, lane, i);
            columns[column][k] = element(b, bits, lane, i);
        }
    }
    (rows, columns)
}

fn check(mma: &Mma, random: &mut Random, expected: impl Fn(&[u32], &[u32], u32) -> u32) {
    let (wide, narrow) = mma.operand_registers();
    let a = random.registers(wide, mma.a);
    let b = random.registers(narrow, mma.b);
    let c = random.registers(mma.accumulator_registers(mma.c), mma.c);
    let d = Multiply::new(mma).unwrap().execute(&a, &b, &c);
    assert_eq!(d.len(), mma.accumulator_registers(mma.d));
    let (rows, columns) = operands(mma, &a, &b);
    let bits = mma.d.bits();
    for lane in 0..32 {
        for i in 0..d.len() * 32 / bits {
            let (row, column) = c_place(mma.shape.0, lane, i);
            let before = element(&c, bits, lane, i);
            let want = expected(&rows[row], &columns[column], before);
            let have = element(&d, bits, lane, i);
            assert_eq!(
                have, want,
                "{mma:?} D[{row}, {column}]: {have:#x}, expected {want:#x}, C {before:#x}"
            );
        }
    }
}

#[test]
fn floating_point_is_the_model() {
    let mut random = Random(1);
    let format = |ty| match ty {
        F16 => Format::F16,
        BF16 => Format::BF16,
        TF32 => Format::Tf32,
        E4M3 => Format::E4M3,
        _ => Format::E5M2,
    };
    let mut cases = vec![
        ((16, 8, 8), F16, F16),
        ((16, 8, 16), F16, F16),
        ((16, 8, 8), BF16, BF16),
        ((16, 8, 16), BF16, BF16),
        ((16, 8, 4), TF32, TF32),
        ((16, 8, 8), TF32, TF32),
    ];
    for k in [16, 32] {
        for a in [E4M3, E5M2] {
            cases.extend([((16, 8, k), a, E4M3), ((16, 8, k), a, E5M2)]);
        }
    }
    for (shape, a, b) in cases {
        for d in [F32, F16] {
            if d == F16 && matches!(a, BF16 | TF32) {
                continue;
            }
            let model = model::Mma {
                family: Family::MmaSync,
                a: format(a),
                b: format(b),
                d: if d == F16 {
                    Accumulator::F16
                } else {
                    Accumulator::F32
                },
            };
            for _ in 0..10 {
                check(&mma(shape, [d, a, b, d]), &mut random, |a, b, c| {
                    model::dot(model, a, b, c)
                });
            }
        }
    }
}

/// An integer of `bits` bits.
fn integer(x: u32, ty: MmaTy) -> i64 {
    let (x, bits) = (i64::from(x), ty.bits());
    if matches!(ty, S8 | S4) && x >= 1 << (bits - 1) {
        x - (1 << bits)
    } else {
        x
    }
}

#[test]
fn integers_are_exact() {
    let mut random = Random(2);
    let mut cases = Vec::new();
    for (types, shapes) in [
        ([S8, U8], [(8, 8, 16), (16, 8, 16), (16, 8, 32)]),
        ([S4, U4], [(8, 8, 32), (16, 8, 32), (16, 8, 64)]),
    ] {
        for shape in shapes {
            for a in types {
                cases.extend(types.map(|b| (shape, a, b)));
            }
        }
    }
    for (shape, a, b) in cases {
        for saturate in [false, true] {
            let mma = Mma {
                saturate,
                ..mma(shape, [S32, a, b, S32])
            };
            check(&mma, &mut random, |x, y, c| {
                let c = i64::from(c.cast_signed());
                let products = x.iter().zip(y);
                let products = products.map(|(&x, &y)| integer(x, a) * integer(y, b));
                let sum = c + products.sum::<i64>();
                if saturate {
                    (sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32).cast_unsigned()
                } else {
                    sum as u32
                }
            });
        }
    }
}

#[test]
fn bits_are_counted() {
    let mut random = Random(3);
    for shape in [(8, 8, 128), (16, 8, 128), (16, 8, 256)] {
        for op in [BitOp::And, BitOp::Xor] {
            let mma = Mma {
                bits: Some(op),
                ..mma(shape, [S32, B1, B1, S32])
            };
            check(&mma, &mut random, |a, b, c| {
                let one = |(a, b): (&u32, &u32)| match op {
                    BitOp::And => a & b,
                    BitOp::Xor => a ^ b,
                };
                a.iter().zip(b).map(one).sum::<u32>().wrapping_add(c)
            });
        }
    }
}

#[test]
fn doubles_are_fused_in_order() {
    let mut random = Random(4);
    for shape in [(8, 8, 4), (16, 8, 4), (16, 8, 8), (16, 8, 16)] {
        let mma = mma(shape, [F64; 4]);
        let (wide, narrow) = mma.operand_registers();
        let mut lanes = |count: usize| -> Vec<[f64; 32]> {
            let value = |random: &mut Random| {
                let digits = f64::from(random.next().cast_signed()) * 2f64.powi(-31);
                (digits + 1.0 / f64::from(random.next() | 1)) * 2f64.powi(random.next() as i32 % 40)
            };
            (0..count)
                .map(|_| std::array::from_fn(|_| value(&mut random)))
                .collect()
        };
        let (a, b) = (lanes(wide), lanes(narrow));
        let c = lanes(mma.accumulator_registers(F64));
        let d = Multiply::new(&mma).unwrap().execute_f64(&a, &b, &c);
        let (m, k) = (usize::from(shape.0), usize::from(shape.2));
        let (mut rows, mut columns) = (vec![vec![0.0; k]; m], vec![vec![0.0; k]; 8]);
        for lane in 0..32 {
            for (i, a) in a.iter().enumerate() {
                let (row, k) = a_place(shape, 64, lane, i);
                rows[row][k] = a[lane];
            }
            for (i, b) in b.iter().enumerate() {
                let (k, column) = b_place(shape, 64, lane, i);
                columns[column][k] = b[lane];
            }
        }
        for lane in 0..32 {
            for i in 0..d.len() {
                let (row, column) = c_place(shape.0, lane, i);
                let products = rows[row].iter().zip(&columns[column]);
                let want = products.fold(c[i][lane], |sum, (a, b)| a.mul_add(*b, sum));
                let have = d[i][lane];
                assert_eq!(
                    have.to_bits(),
                    want.to_bits(),
                    "{shape:?} D[{row}, {column}]"
                );
            }
        }
    }
}

/// The group of eight lanes of a lane in m8n8k4, and the rows that its half begins with.
fn group(lane: usize) -> (usize, usize) {
    (lane % 16 / 4, if lane < 16 { 0 } else { 4 })
}

/// Row and column of element `i` of an accumulator of m8n8k4.
fn quad_place(ty: MmaTy, lane: usize, i: usize) -> (usize, usize) {
    let (_, upper) = group(lane);
    if ty == F16 {
        return (lane % 4 + upper, i);
    }
    let row = (lane & 1) + (i & 2) + upper;
    (row, (i & 4) + (lane & 2) + (i & 1))
}

fn half(value: i32) -> u32 {
    half::f16::from_f32(value as f32).to_bits().into()
}

/// `count` registers of pairs of f16.
fn halves(count: usize, f: impl Fn(usize, usize) -> i32) -> Vec<[u32; 32]> {
    let word = |r: usize, lane: usize| half(f(lane, 2 * r)) | half(f(lane, 2 * r + 1)) << 16;
    (0..count)
        .map(|r| std::array::from_fn(|lane| word(r, lane)))
        .collect()
}

/// m8n8k4 with small integers, where every order of the sum is exact, in all layouts.
#[test]
fn quads_lie_as_documented() {
    let mut random = Random(5);
    let both = [Layout::Row, Layout::Col];
    for layouts in both.into_iter().flat_map(|a| both.map(|b| (a, b))) {
        for (d, c) in [(F16, F16), (F32, F16), (F32, F32)] {
            quad(&mut random, layouts, (d, c));
        }
    }
}

fn quad(random: &mut Random, layouts: (Layout, Layout), (d, c): (MmaTy, MmaTy)) {
    let mma = Mma {
        layouts,
        ..mma((8, 8, 4), [d, F16, F16, c])
    };
    // Four products; indexed by group, row or k, k or column.
    let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<Vec<i32>>> {
        let mut row = || -> Vec<i32> { (0..columns).map(|_| random.next() as i32 % 9).collect() };
        (0..4).map(|_| (0..rows).map(|_| row()).collect()).collect()
    };
    let (a, b, before) = (matrix(8, 4), matrix(4, 8), matrix(8, 8));
    let registers_a = halves(2, |lane, i| {
        let (g, upper) = group(lane);
        match layouts.0 {
            Layout::Row => a[g][lane % 4 + upper][i],
            Layout::Col => a[g][i + upper][lane % 4],
        }
    });
    let registers_b = halves(2, |lane, i| {
        let (g, upper) = group(lane);
        match layouts.1 {
            Layout::Row => b[g][lane % 4][i + upper],
            Layout::Col => b[g][i][lane % 4 + upper],
        }
    });
    let value = |lane: usize, i: usize| {
        let (row, column) = quad_place(c, lane, i);
        before[group(lane).0][row][column]
    };
    let registers_c = if c == F16 {
        halves(4, value)
    } else {
        let wide = |lane, i| (value(lane, i) as f32).to_bits();
        (0..8)
            .map(|i| std::array::from_fn(|lane| wide(lane, i)))
            .collect()
    };
    let found = Multiply::new(&mma).unwrap();
    let found = found.execute(&registers_a, &registers_b, &registers_c);
    for (lane, i) in (0..32).flat_map(|lane| (0..8).map(move |i| (lane, i))) {
        let (row, column) = quad_place(d, lane, i);
        let g = group(lane).0;
        let products = (0..4).map(|k| a[g][row][k] * b[g][k][column]);
        let want = before[g][row][column] + products.sum::<i32>();
        let (have, want) = if d == F16 {
            (element(&found, 16, lane, i), half(want))
        } else {
            (found[i][lane], (want as f32).to_bits())
        };
        assert_eq!(have, want, "{mma:?} lane {lane} element {i}");
    }
}

/// Loads, multiplies and stores through memory, in all shapes, types and layouts, with small integers.
#[test]
fn wmma_multiplies_matrices_in_memory() {
    let mut random = Random(6);
    let cases = [
        (F16, vec![F16, F32]),
        (BF16, vec![F32]),
        (S8, vec![S32]),
        (U8, vec![S32]),
    ];
    let shapes = [(16, 16, 16), (8, 32, 16), (32, 8, 16)];
    let mut all = vec![
        ((16, 16, 8), TF32, F32),
        ((8, 8, 32), S4, S32),
        ((8, 8, 32), U4, S32),
        ((8, 8, 4), F64, F64),
    ];
    for (ty, results) in cases {
        for d in results {
            all.extend(shapes.map(|shape| (shape, ty, d)));
        }
    }
    for (shape, ty, d) in all {
        let only = ty.bits() < 8;
        for layouts in [0, 1, 2, 3] {
            let layout = |bit: u32| {
                if layouts >> bit & 1 == 0 {
                    Layout::Row
                } else {
                    Layout::Col
                }
            };
            let (la, lb) = if only {
                (Layout::Row, Layout::Col)
            } else {
                (layout(0), layout(1))
            };
            wmma(&mut random, (shape, ty, d), (la, lb));
        }
    }
}

fn encode(value: i32, ty: MmaTy) -> u64 {
    match ty {
        F16 => half::f16::from_f32(value as f32).to_bits().into(),
        BF16 => u64::from((value as f32).to_bits() >> 16),
        TF32 | F32 => (value as f32).to_bits().into(),
        F64 => f64::from(value).to_bits(),
        _ => u64::from(value.cast_unsigned()) & ((1 << ty.bits()) - 1),
    }
}

/// A matrix as the lines of its layout in memory.
fn memory(access: &WmmaAccess, value: impl Fn(usize, usize) -> i32) -> Vec<u8> {
    let (lines, length) = memory_lines(access);
    let bits = access.ty.bits();
    let mut bytes = vec![0u8; lines * length * bits / 8];
    for line in 0..lines {
        for i in 0..length {
            let (row, column) = match access.layout {
                Layout::Row => (line, i),
                Layout::Col => (i, line),
            };
            let at = (line * length + i) * bits;
            let code = encode(value(row, column), access.ty) << (at % 8);
            let count = bits.div_ceil(8);
            for (to, byte) in bytes[at / 8..at / 8 + count]
                .iter_mut()
                .zip(code.to_le_bytes())
            {
                *to |= byte;
            }
        }
    }
    bytes
}

fn wmma(
    random: &mut Random,
    (shape, ty, d): ((u16, u16, u16), MmaTy, MmaTy),
    (la, lb): (Layout, Layout),
) {
    let (m, n, k) = shape;
    let (m, n, k) = (usize::from(m), usize::from(n), usize::from(k));
    let access = |matrix, ty, layout| WmmaAccess {
        shape,
        matrix,
        ty,
        layout,
        space: Space::Global,
        offset: 0,
        stride: false,
    };
    let mut matrix = |rows: usize, columns: usize| -> Vec<Vec<i32>> {
        let value = |random: &mut Random| random.next() as i32 % 4;
        let unsigned = matches!(ty, U8 | U4);
        let entry = |random: &mut Random| {
            let x = value(random);
            if unsigned { x.abs() } else { x }
        };
        (0..rows)
            .map(|_| (0..columns).map(|_| entry(random)).collect())
            .collect()
    };
    let (a, b, c) = (matrix(m, k), matrix(k, n), matrix(m, n));
    let access_a = access(WmmaMatrix::A, ty, la);
    let access_b = access(WmmaMatrix::B, ty, lb);
    let access_c = access(WmmaMatrix::C, d, la);
    let access_d = access(WmmaMatrix::C, d, lb);
    let fa = load(&access_a, &memory(&access_a, |r, c| a[r][c]));
    let fb = load(&access_b, &memory(&access_b, |r, c| b[r][c]));
    let fc = load(&access_c, &memory(&access_c, |r, col| c[r][col]));
    let mma = Mma {
        fragments: Fragments::Wmma,
        layouts: (la, lb),
        ..mma(shape, [d, ty, ty, d])
    };
    let multiply = Multiply::new(&mma).unwrap();
    let fd = if ty == F64 {
        let wide = |words: &[[u32; 32]]| -> Vec<[f64; 32]> {
            let value = |pair: &[[u32; 32]], lane: usize| {
                f64::from_bits(u64::from(pair[0][lane]) | u64::from(pair[1][lane]) << 32)
            };
            words
                .chunks_exact(2)
                .map(|pair| std::array::from_fn(|lane| value(pair, lane)))
                .collect()
        };
        let d = multiply.execute_f64(&wide(&fa), &wide(&fb), &wide(&fc));
        d.iter()
            .flat_map(|lanes| {
                let bits = lanes.map(f64::to_bits);
                [bits.map(|b| b as u32), bits.map(|b| (b >> 32) as u32)]
            })
            .collect()
    } else {
        multiply.execute(&fa, &fb, &fc)
    };
    let want = memory(&access_d, |row, column| {
        c[row][column] + (0..k).map(|k| a[row][k] * b[k][column]).sum::<i32>()
    });
    let have = store(&access_d, &fd);
    assert_eq!(have, want, "{mma:?}");
}
