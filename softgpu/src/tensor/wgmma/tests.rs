//! Fast tiles against the model, bit for bit, at every level that the CPU has.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "test values are small, or wrap on purpose"
)]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::integer::{self, Integers};
use super::reference::Place;
use super::simd::Level;
use super::{A_BYTES, Accumulators, Addend, K_BYTES, Kind, M, Tile, fast, pack_a, reference};
use crate::error::FaultKind;
use crate::exec::regs::{RegFile, Slot};
use crate::ir::{MmaTy, Wgmma};

/// Registers of a warpgroup, D in scattered slots.
struct Registers {
    files: [RegFile; 4],
    slots: Vec<u32>,
}

impl Registers {
    fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap();
        Self {
            files: std::array::from_fn(|_| RegFile::new(2 * count + 3, 0, &[])),
            slots: (0..count).map(|r| 2 * (count - r) + 1).collect(),
        }
    }

    fn accumulators(&mut self) -> Accumulators<'_> {
        Accumulators::new(self.files.each_mut(), &self.slots).unwrap()
    }
}

impl Clone for Registers {
    fn clone(&self) -> Self {
        Self {
            files: self.files.clone(),
            slots: self.slots.clone(),
        }
    }
}

/// What operands look like.
#[derive(Debug, Clone, Copy)]
enum Values {
    /// Any bits: exponents all over the place, NaN now and then.
    Any,
    /// Any bits, but no infinity or NaN.
    Finite,
    /// Near one, as in practice.
    Near,
    /// Mostly zero, the rest subnormal or smallest.
    Small,
    /// Largest finite values of one sign.
    Largest,
}

#[derive(Debug, Clone)]
struct Case {
    wgmma: Wgmma,
    a: Values,
    b: Values,
    c: u8,
    seed: u64,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let x = (self.0 >> 29) ^ self.0;
        u32::from_be_bytes(x.to_be_bytes()[..4].try_into().unwrap())
    }

    fn operand(&mut self, ty: MmaTy, values: Values, rows: usize) -> Vec<u8> {
        // Bits, exponent bits and fraction bits.
        let (bits, exponent, fraction) = match ty {
            MmaTy::E4M3 => (8, 4, 3),
            MmaTy::E5M2 => (8, 5, 2),
            MmaTy::F16 => (16, 5, 10),
            MmaTy::BF16 => (16, 8, 7),
            _ => (32, 8, 23),
        };
        let top: u32 = (1 << exponent) - 1;
        let sign = 1u32 << (bits - 1);
        let element = |random: &mut Self| {
            let x = random.next();
            let e4m3 = ty == MmaTy::E4M3;
            let magnitude = match values {
                Values::Any => x,
                Values::Finite => loop {
                    let x = random.next() & (sign - 1);
                    let special = if e4m3 {
                        x == 0x7F
                    } else {
                        x >> fraction == top
                    };
                    if !special {
                        break x;
                    }
                },
                Values::Near => ((top / 2 - random.next() % 6) << fraction) | (x % (1 << fraction)),
                Values::Small if x.is_multiple_of(4) => (x >> 8) & ((2 << fraction) - 1),
                Values::Small => 0,
                Values::Largest if e4m3 => return 0x7E,
                Values::Largest => return (top << fraction) - 1,
            };
            (magnitude & (sign - 1))
                | if random.next().is_multiple_of(2) {
                    sign
                } else {
                    0
                }
        };
        let bytes = bits / 8;
        let words = (0..rows * K_BYTES / bytes).map(|_| element(self));
        words
            .flat_map(|word| word.to_le_bytes()[..bytes].to_vec())
            .collect()
    }

    fn half_accumulator(&mut self, kind: u8) -> u32 {
        let x = self.next();
        match kind {
            // Near one.
            0 => (x & 0x83FF) | (12 + self.next() % 8) << 10,
            1 => x & 0x8000,
            // Any exponent, no infinity or NaN.
            2 => (x & 0x83FF) | (self.next() % 31) << 10,
            // Subnormal.
            3 => x & 0x83FF,
            // Huge.
            4 => (x & 0x83FF) | (28 + self.next() % 3) << 10,
            // Infinities and NaN among others.
            _ => (x & 0x83FF & !(self.next() % 2 * 0x3FF)) | (x % 3 + 29).min(31) << 10,
        }
    }

    fn accumulator(&mut self, kind: u8) -> u32 {
        let x = self.next();
        match kind {
            // Near one.
            0 => (x & 0x807F_FFFF) | (124 + self.next() % 8) << 23,
            1 => x & 0x8000_0000,
            // Any exponent, no infinity or NaN.
            2 => (x & 0x807F_FFFF) | (self.next() % 255) << 23,
            // Subnormal.
            3 => x & 0x803F_FFFF,
            // Huge.
            4 => (x & 0x807F_FFFF) | (240 + self.next() % 15) << 23,
            // Infinities and NaN among others.
            _ => (x & 0x807F_FFFF & !(self.next() % 2 * 0x7F_FFFF)) | (x % 3 + 253).min(255) << 23,
        }
    }
}

/// Types of D, A and B.
fn types() -> impl Strategy<Value = (MmaTy, MmaTy, MmaTy)> {
    use MmaTy::{BF16, E4M3, E5M2, F16, F32, TF32};
    prop_oneof![
        3 => Just((F32, E4M3, E4M3)),
        1 => Just((F32, E4M3, E5M2)),
        1 => Just((F32, E5M2, E4M3)),
        2 => Just((F32, E5M2, E5M2)),
        2 => Just((F16, E4M3, E4M3)),
        1 => Just((F16, E4M3, E5M2)),
        1 => Just((F16, E5M2, E4M3)),
        1 => Just((F16, E5M2, E5M2)),
        2 => Just((F32, F16, F16)),
        3 => Just((F16, F16, F16)),
        2 => Just((F32, BF16, BF16)),
        2 => Just((F32, TF32, TF32)),
    ]
}

fn values() -> impl Strategy<Value = Values> {
    prop_oneof![
        1 => Just(Values::Any),
        1 => Just(Values::Finite),
        3 => Just(Values::Near),
        1 => Just(Values::Small),
        1 => Just(Values::Largest),
    ]
}

fn wgmma((d, a, b): (MmaTy, MmaTy, MmaTy), n: u16) -> Wgmma {
    Wgmma {
        n,
        k: 256 / a.bits() as u16,
        d,
        a,
        b,
        a_regs: false,
        negate_a: false,
        negate_b: false,
        transpose_a: false,
        transpose_b: false,
        saturate: false,
    }
}

fn case() -> impl Strategy<Value = Case> {
    (
        types(),
        1u16..=6,
        values(),
        values(),
        0u8..6,
        any::<(u64, bool, bool)>(),
    )
        .prop_map(|(types, n, a, b, c, (seed, negate_a, negate_b))| Case {
            wgmma: Wgmma {
                negate_a,
                negate_b,
                ..wgmma(types, 8 * n)
            },
            a,
            b,
            c,
            seed,
        })
}

fn float(tile: &Tile) -> super::Mma {
    match tile.kind {
        Kind::Float(mma) => mma,
        Kind::Int { .. } => panic!("not a float tile"),
    }
}

fn task<'a>(case: &Case, (a, b): (&'a [u8], &'a [u8]), addend: Addend) -> fast::Task<'a> {
    let tile = Tile::new(&case.wgmma).unwrap();
    fast::Task {
        mma: float(&tile),
        n: tile.n,
        negate: tile.negate,
        a,
        b,
        addend,
    }
}

fn compare(case: &Case, addend: Addend) {
    let tile = Tile::new(&case.wgmma).unwrap();
    let mut random = Random(case.seed);
    let a = random.operand(case.wgmma.a, case.a, M);
    let b = random.operand(case.wgmma.b, case.b, tile.n);
    let half = case.wgmma.d == MmaTy::F16;
    let mut before = Registers::new(tile.registers());
    for file in &mut before.files {
        for &slot in &before.slots {
            file.lanes32_mut(Slot(slot)).fill_with(|| {
                if half {
                    random.half_accumulator(case.c) | random.half_accumulator(case.c) << 16
                } else {
                    random.accumulator(case.c)
                }
            });
        }
    }
    let mut expected = before.clone();
    let task = task(case, (&a, &b), addend);
    reference::multiply_add(&task, &mut expected.accumulators());
    let places = (0..M).flat_map(|row| (0..tile.n).map(move |column| (row, column)));
    let bits = if half { 16 } else { 32 };
    for level in Level::available() {
        let mut got = before.clone();
        fast::multiply_add(level, &task, &mut got.accumulators());
        for (row, column) in places.clone() {
            let place = Place::of(row, column, bits);
            let want = expected.accumulators().get(place);
            let have = got.accumulators().get(place);
            assert_eq!(
                want,
                have,
                "{level:?} {addend:?} row {row} column {column}: model {want:#010x}, fast \
                 {have:#010x}, C {:#010x}; {case:?}",
                before.accumulators().get(place)
            );
        }
        assert_only_d_changed(&before, &got);
    }
}

fn assert_only_d_changed(before: &Registers, got: &Registers) {
    for (warp, file) in got.files.iter().enumerate() {
        for slot in (0..file.slots()).filter(|slot| !before.slots.contains(slot)) {
            assert_eq!(
                file.lanes32(Slot(slot)),
                before.files[warp].lanes32(Slot(slot))
            );
        }
    }
}

#[test]
fn fast_tiles_are_the_model() {
    let config = Config {
        cases: 400,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&case(), |case| {
        compare(&case, Addend::Accumulator);
        compare(&case, Addend::Zero);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn every_width_of_a_tile() {
    for n in (8..=256).step_by(8) {
        let case = Case {
            wgmma: wgmma((MmaTy::F32, MmaTy::E4M3, MmaTy::E4M3), n),
            a: Values::Near,
            b: Values::Near,
            c: 0,
            seed: n.into(),
        };
        compare(&case, Addend::Accumulator);
    }
}

/// Row and column of register `r` of lane `l` of warp `w`, as the PTX ISA's figures for the
/// accumulator of wgmma show them.
fn shown(w: usize, r: usize, l: usize) -> (usize, usize) {
    let row = 16 * w + l / 4 + if r % 4 >= 2 { 8 } else { 0 };
    (row, r / 4 * 8 + l % 4 * 2 + r % 2)
}

#[test]
fn accumulators_lie_as_documented() {
    // A is the unit matrix in its first rows, B counts, so D shows where everything goes: element
    // (i, j) of D is element k = i of column j of B.
    let tile = Tile::new(&wgmma((MmaTy::F32, MmaTy::F16, MmaTy::F16), 40)).unwrap();
    let mut a = vec![0; A_BYTES];
    let mut b = vec![0; tile.b_bytes()];
    for row in 0..M {
        let at = row * K_BYTES + 2 * (row % 16);
        a[at..at + 2].copy_from_slice(&0x3C00u16.to_le_bytes());
    }
    let value = |k: usize, column: usize| (k * 40 + column) as f32;
    for column in 0..40 {
        for k in 0..16 {
            let bits = half::f16::from_f32(value(k, column)).to_le_bytes();
            b[column * K_BYTES + 2 * k..][..2].copy_from_slice(&bits);
        }
    }
    let mut registers = Registers::new(tile.registers());
    tile.multiply_add(&a, &b, &mut registers.accumulators(), Addend::Zero)
        .unwrap();
    for w in 0..4 {
        for r in 0..tile.registers() {
            for l in 0..32 {
                let (row, column) = shown(w, r, l);
                let bits = registers.files[w].lanes32(Slot(registers.slots[r]))[l];
                let expected = value(row % 16, column);
                assert_eq!(f32::from_bits(bits), expected, "row {row}, column {column}");
            }
        }
    }
}

#[test]
fn f16_accumulators_lie_as_documented() {
    let types = wgmma((MmaTy::F16, MmaTy::F16, MmaTy::F16), 24);
    let tile = Tile::new(&types).unwrap();
    assert_eq!(tile.registers(), 6);
    let mut random = Random(3);
    let a = random.operand(MmaTy::F16, Values::Near, M);
    let b = random.operand(MmaTy::F16, Values::Near, 24);
    let mut registers = Registers::new(tile.registers());
    tile.multiply_add(&a, &b, &mut registers.accumulators(), Addend::Zero)
        .unwrap();
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes
            .chunks(2)
            .map(|x| u32::from(u16::from_le_bytes([x[0], x[1]])))
            .collect()
    };
    for w in 0..4 {
        for r in 0..6 {
            for l in 0..32 {
                let row = 16 * w + l / 4 + r % 2 * 8;
                let column = r / 2 * 8 + l % 4 * 2;
                let element = |column: usize| {
                    let a = words(&a[row * K_BYTES..][..K_BYTES]);
                    let b = words(&b[column * K_BYTES..][..K_BYTES]);
                    crate::tensor::model::dot(float(&tile), &a, &b, 0)
                };
                let expected = element(column) | element(column + 1) << 16;
                let bits = registers.files[w].lanes32(Slot(registers.slots[r]))[l];
                assert_eq!(bits, expected, "row {row}, column {column}");
            }
        }
    }
}

#[test]
fn every_width_of_other_types() {
    use MmaTy::{BF16, E5M2, F16, F32, TF32};
    let types = [
        (F32, BF16, BF16),
        (F16, F16, F16),
        (F16, E5M2, E5M2),
        (F32, TF32, TF32),
    ];
    for (i, n) in (8..=256).step_by(8).enumerate() {
        let case = Case {
            wgmma: wgmma(types[i % types.len()], n),
            a: Values::Near,
            b: Values::Near,
            c: 0,
            seed: n.into(),
        };
        compare(&case, Addend::Accumulator);
    }
}

#[test]
fn fast_integers_are_the_reference() {
    let mut random = Random(11);
    let signs = [(true, true), (true, false), (false, true), (false, false)];
    let bytes = signs.map(|(a_signed, b_signed)| Integers::Bytes { a_signed, b_signed });
    let nibbles = signs.map(|(a_signed, b_signed)| Integers::Nibbles { a_signed, b_signed });
    let bits = [false, true].map(|and| Integers::Bits { and });
    for kind in bytes.into_iter().chain(nibbles).chain(bits) {
        for (i, n) in [8usize, 16, 24, 40, 256].into_iter().enumerate() {
            let a = random.operand(MmaTy::U8, Values::Any, M);
            let b = random.operand(MmaTy::U8, Values::Any, n);
            let mut before = Registers::new(n / 2);
            for file in &mut before.files {
                for &slot in &before.slots {
                    // Near the ends, so that sums overflow, and anywhere.
                    file.lanes32_mut(Slot(slot)).fill_with(|| match i % 3 {
                        0 => i32::MAX as u32 - random.next() % 1000,
                        1 => i32::MIN as u32 + random.next() % 1000,
                        _ => random.next(),
                    });
                }
            }
            for (saturate, addend) in [
                (false, Addend::Accumulator),
                (true, Addend::Accumulator),
                (true, Addend::Zero),
            ] {
                let task = integer::Task {
                    kind,
                    saturate,
                    n,
                    a: &a,
                    b: &b,
                    addend,
                };
                let mut expected = before.clone();
                reference::multiply_add_integers(&task, &mut expected.accumulators());
                for level in Level::available() {
                    let mut got = before.clone();
                    integer::multiply_add(level, &task, &mut got.accumulators());
                    for (warp, file) in got.files.iter().enumerate() {
                        for slot in 0..file.slots() {
                            assert_eq!(
                                file.lanes32(Slot(slot)),
                                expected.files[warp].lanes32(Slot(slot)),
                                "{level:?} {kind:?} n {n} {saturate} {addend:?} slot {slot}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn integer_tiles_multiply() {
    let (mut random, n) = (Random(5), 16);
    for (ta, tb) in [
        (MmaTy::S8, MmaTy::U8),
        (MmaTy::U8, MmaTy::S8),
        (MmaTy::S8, MmaTy::S8),
    ] {
        let tile = Tile::new(&wgmma((MmaTy::S32, ta, tb), n)).unwrap();
        let a = random.operand(MmaTy::E4M3, Values::Any, M);
        let b = random.operand(MmaTy::E4M3, Values::Any, n.into());
        let mut registers = Registers::new(tile.registers());
        let start = i64::from(i32::MAX) - 1000;
        for w in 0..4 {
            for &slot in &registers.slots {
                registers.files[w]
                    .lanes32_mut(Slot(slot))
                    .fill(start as u32);
            }
        }
        tile.multiply_add(&a, &b, &mut registers.accumulators(), Addend::Accumulator)
            .unwrap();
        let value = |ty, x: u8| {
            if ty == MmaTy::S8 {
                i64::from(x as i8)
            } else {
                i64::from(x)
            }
        };
        for w in 0..4 {
            for r in 0..tile.registers() {
                for l in 0..32 {
                    let (row, column) = shown(w, r, l);
                    let products = (0..K_BYTES).map(|k| {
                        value(ta, a[row * K_BYTES + k]) * value(tb, b[column * K_BYTES + k])
                    });
                    let expected = (start + products.sum::<i64>()) as i32;
                    let bits = registers.files[w].lanes32(Slot(registers.slots[r]))[l];
                    assert_eq!(
                        bits as i32, expected,
                        "{ta:?} {tb:?} row {row}, column {column}"
                    );
                }
            }
        }
    }
}

/// Bytes of A by the PTX ISA's figures for A in registers: 4-byte words of a row, the lower half of
/// K in registers 0 and 1, the upper in 2 and 3.
#[test]
fn a_comes_from_registers_as_documented() {
    let mut files: [RegFile; 4] = std::array::from_fn(|_| RegFile::new(4, 0, &[]));
    let mut random = Random(9);
    for file in &mut files {
        for slot in 0..4 {
            file.lanes32_mut(Slot(slot)).fill_with(|| random.next());
        }
    }
    let slots = [3, 1, 0, 2].map(Slot);
    let mut packed = [0; A_BYTES];
    pack_a(files.each_ref(), slots, &mut packed);
    for row in 0..M {
        for byte in 0..K_BYTES {
            let (w, within) = (row / 16, row % 16);
            let register = within / 8 + 2 * (byte / 16);
            let lane = within % 8 * 4 + byte % 16 / 4;
            let word = files[w].lanes32(slots[register])[lane];
            let expected = word.to_le_bytes()[byte % 4];
            assert_eq!(
                packed[row * K_BYTES + byte],
                expected,
                "row {row}, byte {byte}"
            );
        }
    }
}

#[test]
fn malformed_instructions_are_refused() {
    let valid = wgmma((MmaTy::F32, MmaTy::E4M3, MmaTy::E4M3), 128);
    let refused = |change: fn(&mut Wgmma)| {
        let mut wgmma = valid;
        change(&mut wgmma);
        matches!(Tile::new(&wgmma), Err(FaultKind::IllegalInstruction { .. }))
    };
    assert!(refused(|w| w.n = 4));
    assert!(refused(|w| w.n = 264));
    assert!(refused(|w| w.n = 12));
    assert!(refused(|w| w.k = 16));
    assert!(refused(|w| w.b = MmaTy::F16));
    assert!(refused(|w| w.d = MmaTy::S32));
    assert!(refused(|w| w.transpose_b = true));
    assert!(refused(
        |w| (w.a, w.b, w.d, w.negate_a) = (MmaTy::S8, MmaTy::S8, MmaTy::S32, true)
    ));
    let tile = Tile::new(&valid).unwrap();
    let mut registers = Registers::new(tile.registers() - 1);
    let (a, b) = (vec![0; A_BYTES], vec![0; tile.b_bytes()]);
    let result = tile.multiply_add(&a, &b, &mut registers.accumulators(), Addend::Zero);
    assert!(matches!(result, Err(FaultKind::IllegalInstruction { .. })));
    let mut registers = Registers::new(tile.registers());
    registers.slots[7] = 1000;
    assert!(Accumulators::new(registers.files.each_mut(), &registers.slots).is_err());
}
