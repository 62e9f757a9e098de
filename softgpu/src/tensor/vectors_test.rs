//! The model against every vector recorded on an H100 (`testdata/tensor-core`, see its README).

use std::path::PathBuf;

use super::convert;
use super::format::Format;
use super::model::{Accumulator, Family, Mma, Order, Rounding, Schedule, dot_with};
use super::wgmma::{A_BYTES, Accumulators, Addend, Tile};
use crate::exec::regs::{RegFile, Slot};
use crate::ir::{MmaTy, Wgmma};

/// One recorded set: operands of every row, and what the GPU returned.
struct Set {
    name: &'static str,
    mma: Mma,
    rows: Vec<Row>,
}

struct Row {
    a: Vec<u32>,
    b: Vec<u32>,
    c: u32,
    d: u32,
}

fn read(folder: &str, file: &str) -> Vec<String> {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "testdata/tensor-core/H100",
        folder,
        file,
    ]
    .iter()
    .collect();
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

/// f32 words of an operand row as codes of `format`; the recorded values are all representable.
fn operands(format: Format, line: &str) -> Vec<u32> {
    let code = |word: &str| {
        let bits = u32::from_str_radix(word, 16).unwrap();
        let value = f32::from_bits(bits);
        let (code, back) = match format {
            Format::E4M3 => {
                let code = convert::e4m3_from_f32(value);
                (code.into(), convert::f32_from_e4m3(code).to_bits())
            }
            Format::E5M2 => {
                let code = convert::e5m2_from_f32(value);
                (code.into(), convert::f32_from_e5m2(code).to_bits())
            }
            Format::F16 => {
                let code = convert::f16_from_f32(value);
                (code.into(), convert::f32_from_f16(code).to_bits())
            }
            Format::BF16 => (bits >> 16, bits & 0xFFFF_0000),
            Format::Tf32 | Format::F32 => (bits, bits),
        };
        assert_eq!(back, bits, "{word} is not a {format:?}");
        code
    };
    line.split_whitespace().map(code).collect()
}

fn binary(line: &str) -> f32 {
    f32::from_bits(u32::from_str_radix(line.trim(), 2).unwrap())
}

fn load(folder: &'static str, mma: Mma, name: &'static str) -> Set {
    let (d_file, ignore_c) = match (mma.d, mma.family) {
        (Accumulator::F32, family) => ("d_H100_fp32.txt", family == Family::Wgmma),
        (Accumulator::F16, _) => ("d_H100_fp16.txt", false),
    };
    let a = read(folder, &format!("a_H100_{folder}.txt"));
    let b = read(folder, &format!("b_H100_{folder}.txt"));
    let c = read(folder, "c_H100_fp32.txt");
    let d = read(folder, d_file);
    assert_eq!([a.len(), b.len(), c.len(), d.len()], [600; 4], "{name}");
    let bits = |value: f32| match mma.d {
        Accumulator::F32 => value.to_bits(),
        Accumulator::F16 => convert::f16_from_f32(value).into(),
    };
    let rows = (0..600).map(|i| Row {
        a: operands(mma.a, &a[i]),
        b: operands(mma.b, &b[i]),
        c: if ignore_c { 0 } else { bits(binary(&c[i])) },
        d: bits(binary(&d[i])),
    });
    Set {
        name,
        mma,
        rows: rows.collect(),
    }
}

fn sets() -> Vec<Set> {
    let mma = |family, format, d| Mma {
        family,
        a: format,
        b: format,
        d,
    };
    use Accumulator::{F16, F32};
    use Family::{MmaSync, Wgmma};
    vec![
        load("E4M3", mma(Wgmma, Format::E4M3, F32), "wgmma e4m3 f32"),
        load("E4M3", mma(MmaSync, Format::E4M3, F16), "mma.sync e4m3 f16"),
        load("E5M2", mma(Wgmma, Format::E5M2, F32), "wgmma e5m2 f32"),
        load("E5M2", mma(MmaSync, Format::E5M2, F16), "mma.sync e5m2 f16"),
        load("fp16", mma(MmaSync, Format::F16, F32), "mma.sync f16 f32"),
        load("fp16", mma(MmaSync, Format::F16, F16), "mma.sync f16 f16"),
        load("bf16", mma(MmaSync, Format::BF16, F32), "mma.sync bf16 f32"),
        load("tf32", mma(MmaSync, Format::Tf32, F32), "mma.sync tf32 f32"),
    ]
}

/// Rows whose result differs, with expected and computed bits.
fn mismatches(set: &Set, schedule: &Schedule) -> Vec<(usize, u32, u32)> {
    let rows = set.rows.iter().enumerate().filter_map(|(i, row)| {
        let d = dot_with(schedule, set.mma, &row.a, &row.b, row.c);
        (d != row.d).then_some((i, row.d, d))
    });
    rows.collect()
}

#[test]
fn every_recorded_row_agrees() {
    for set in sets() {
        let wrong = mismatches(&set, &Schedule::of(set.mma));
        if let Some((row, expected, got)) = wrong.first() {
            panic!(
                "{}: {} of 600 rows differ, first row {row}: H100 {expected:#010x}, model {got:#010x}",
                set.name,
                wrong.len()
            );
        }
    }
}

/// Whether this many wrong rows show that a parameter is off.
fn assert_visible(set: &Set, what: &str, mutate: impl Fn(&mut Schedule)) {
    let mut schedule = Schedule::of(set.mma);
    mutate(&mut schedule);
    let wrong = mismatches(set, &schedule).len();
    assert!(
        wrong >= 15,
        "{}: {what}: only {wrong} of 600 rows differ",
        set.name
    );
}

/// A parameter that is off by one step must show, or the vectors would prove nothing. (F = 25 is
/// far below the last digit of an f16 result, so there only the width and the grouping can show.)
#[test]
fn wrong_parameters_disagree() {
    for set in sets() {
        let k = set.rows[0].a.len();
        assert_visible(&set, "one result bit fewer", |s| s.sum.result_bits -= 1);
        assert_visible(&set, "half the group", |s| s.group = s.group.min(k) / 2);
        assert_visible(&set, "the other rounding", |s| {
            s.sum.rounding = match s.sum.rounding {
                Rounding::TowardZero => Rounding::NearestEven,
                Rounding::NearestEven => Rounding::TowardZero,
            };
        });
        if set.mma.d == Accumulator::F32 {
            assert_visible(&set, "F - 1", |s| s.sum.aligned_bits -= 1);
            assert_visible(&set, "F + 1", |s| s.sum.aligned_bits += 1);
        }
        if Schedule::of(set.mma).order == Order::BytePairs {
            assert_visible(&set, "ascending order", |s| s.order = Order::Ascending);
            assert_visible(&set, "C first", |s| s.add_c_last = false);
            assert_visible(&set, "one group", |s| s.group = k);
        }
    }
}

/// The same rows through whole tiles: row i of A against column i of B, so the diagonal of D.
#[test]
fn recorded_rows_agree_through_wgmma_tiles() {
    for (folder, ty) in [("E4M3", MmaTy::E4M3), ("E5M2", MmaTy::E5M2)] {
        let format = if ty == MmaTy::E4M3 {
            Format::E4M3
        } else {
            Format::E5M2
        };
        let mma = Mma {
            family: Family::Wgmma,
            a: format,
            b: format,
            d: Accumulator::F32,
        };
        let set = load(folder, mma, "wgmma tiles");
        let instruction = Wgmma {
            n: 64,
            k: 32,
            d: MmaTy::F32,
            a: ty,
            b: ty,
            a_regs: false,
            negate_a: false,
            negate_b: false,
            transpose_a: false,
            transpose_b: false,
            saturate: false,
        };
        let tile = Tile::new(&instruction).unwrap();
        let slots: Vec<u32> = (0..32).collect();
        let mut checked = 0;
        for rows in set.rows.chunks(64) {
            let pack = |row: &[u32]| {
                row.iter()
                    .map(|code| code.to_le_bytes()[0])
                    .collect::<Vec<_>>()
            };
            let mut a: Vec<u8> = rows.iter().flat_map(|row| pack(&row.a)).collect();
            let mut b: Vec<u8> = rows.iter().flat_map(|row| pack(&row.b)).collect();
            a.resize(A_BYTES, 0);
            b.resize(A_BYTES, 0);
            let mut files: [RegFile; 4] = std::array::from_fn(|_| RegFile::new(32, 0, &[]));
            let mut d = Accumulators::new(files.each_mut(), &slots).unwrap();
            tile.multiply_add(&a, &b, &mut d, Addend::Zero).unwrap();
            for (i, row) in rows.iter().enumerate() {
                // Register and lane of (i, i).
                let register = 4 * (i / 8) + 2 * (i / 8 % 2) + i % 2;
                let lane = 4 * (i % 8) + i % 8 / 2;
                let slot = Slot(u32::try_from(register).unwrap());
                let got = files[i / 16].lanes32(slot)[lane];
                assert_eq!(got, row.d, "{folder} row {}", checked + i);
            }
            checked += rows.len();
        }
        assert_eq!(checked, 600);
    }
}
