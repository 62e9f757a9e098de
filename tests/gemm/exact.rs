//! Operands of small whole numbers with powers of two as scales: every sum is exact, so D is that of
//! whole-number arithmetic, which shares nothing with the modelled order of summation. Any form, tile,
//! cluster and number of SMs, with K around whole turns of the tile's ring of stages.

use hadal::gemm::{
    Arithmetic, BLOCK, Form, Format, GROUP_ALIGNMENT, GemmDesc, GemmPlan, Output, Tile,
};

use crate::device::Device;
use crate::problem::{Problem, Random, Side, SideScales};

const CASES: u64 = 400;
/// Multiply-adds of one case at most; larger ones are left out, and so are those that a tile cannot
/// compute.
const MOST: u64 = 30_000_000;

/// The code of a whole number from -2 to 2.
fn code(format: Format, value: i64) -> u16 {
    let (sign, one, two) = match format {
        Format::E4m3 => (0x80, 0x38, 0x40),
        Format::E5m2 => (0x80, 0x3c, 0x40),
        Format::Bf16 => (0x8000, 0x3f80, 0x4000),
    };
    let magnitude = [0, one, two][value.unsigned_abs() as usize];
    if value < 0 {
        sign | magnitude
    } else {
        magnitude
    }
}

/// A whole number per element, a power of two per scale.
struct Whole {
    values: Vec<i64>,
    scales: Vec<i64>,
}

impl Whole {
    fn new(random: &mut Random, elements: usize, scales: usize) -> Self {
        Self {
            values: (0..elements).map(|_| random.below(5) as i64 - 2).collect(),
            scales: (0..scales).map(|_| 1 << random.below(4)).collect(),
        }
    }

    fn f32s(&self) -> Vec<f32> {
        self.scales.iter().map(|&scale| scale as f32).collect()
    }
}

/// Of a row (counted over all slots) and a block of K: which scale.
type ScaleOf = fn(row: usize, block: usize, rows: usize, blocks: usize) -> usize;

fn of_rows(row: usize, block: usize, _: usize, blocks: usize) -> usize {
    row * blocks + block
}

fn of_blocks(row: usize, block: usize, rows: usize, blocks: usize) -> usize {
    (row / rows * rows.div_ceil(128) + row % rows / 128) * blocks + block
}

fn of_channel(row: usize, _: usize, _: usize, _: usize) -> usize {
    row
}

fn of_all(_: usize, _: usize, _: usize, _: usize) -> usize {
    0
}

/// Gives a side of a problem whole numbers and scales of its kind; half of those that are per channel
/// become one in all.
fn fill(random: &mut Random, side: &mut Side) -> (Whole, ScaleOf) {
    let tensor = random.below(2) == 0;
    let (len, of): (usize, ScaleOf) = match &side.scales {
        SideScales::None => (1, of_all),
        SideScales::Rows(values) => (values.len(), of_rows),
        SideScales::Blocks(values) => (values.len(), of_blocks),
        SideScales::Channel(_) if tensor => (1, of_all),
        SideScales::Channel(values) => (values.len(), of_channel),
    };
    let mut whole = Whole::new(random, side.codes.len(), len);
    side.codes = whole.values.iter().map(|&v| code(side.format, v)).collect();
    side.scales = match &side.scales {
        SideScales::None => {
            whole.scales = vec![1];
            SideScales::None
        }
        SideScales::Rows(_) => SideScales::Rows(whole.f32s()),
        SideScales::Blocks(_) => SideScales::Blocks(whole.f32s()),
        SideScales::Channel(_) => SideScales::Channel(whole.f32s()),
    };
    (whole, of)
}

/// Rows of D of a group, with the row of A, the B and the columns of K that they come from.
struct Part {
    d_row: usize,
    a_row: usize,
    b_slot: usize,
    k: std::ops::Range<usize>,
}

fn parts(desc: &GemmDesc, groups: &[i32]) -> Vec<Part> {
    let (rows, k) = (desc.form.rows() as usize, desc.k as usize);
    let part = |d_row, b_slot| Part {
        d_row,
        a_row: d_row,
        b_slot,
        k: 0..k,
    };
    let at = |i: usize| groups[i] as usize;
    let of_group = |g: usize| -> Vec<Part> {
        match desc.form {
            Form::Dense { .. } => (0..rows).map(|row| part(row, 0)).collect(),
            Form::Batched { .. } => (g * rows..(g + 1) * rows).map(|row| part(row, g)).collect(),
            Form::Masked { .. } => (g * rows..g * rows + at(g))
                .map(|row| part(row, g))
                .collect(),
            Form::Offsets { .. } => (at(g)..at(g + 1)).map(|row| part(row, g)).collect(),
            Form::Contiguous { .. } => (0..rows)
                .filter(|&row| groups[row] == g as i32)
                .map(|row| part(row, g))
                .collect(),
            Form::KGrouped { .. } => (0..rows)
                .map(|row| Part {
                    d_row: g * rows + row,
                    a_row: row,
                    b_slot: 0,
                    k: at(g)..at(g + 1),
                })
                .collect(),
        }
    };
    (0..desc.form.groups() as usize)
        .flat_map(of_group)
        .collect()
}

/// What D is, as values; `None` where nothing is written.
fn expected(
    desc: &GemmDesc,
    groups: &[i32],
    (a, scale_a): &(Whole, ScaleOf),
    (b, scale_b): &(Whole, ScaleOf),
) -> Vec<Option<i64>> {
    let (n, k, rows) = (desc.n as usize, desc.k as usize, desc.form.rows() as usize);
    let blocks = k.div_ceil(128);
    let mut d = vec![None; desc.form.d_slots() as usize * rows * n];
    for part in parts(desc, groups) {
        for column in 0..n {
            let b_row = part.b_slot * n + column;
            let mut sum = 0;
            for first in part.k.clone().step_by(128) {
                let width = 128.min(part.k.end - first);
                let a_values = &a.values[part.a_row * k + first..][..width];
                let b_values = &b.values[b_row * k + first..][..width];
                let product: i64 = a_values.iter().zip(b_values).map(|(a, b)| a * b).sum();
                sum += product
                    * a.scales[scale_a(part.a_row, first / 128, rows, blocks)]
                    * b.scales[scale_b(b_row, first / 128, n, blocks)];
            }
            d[part.d_row * n + column] = Some(sum);
        }
    }
    d
}

/// Sizes that add up to `all`, most of them none, and one with most of it.
fn split(random: &mut Random, all: u32, groups: u32) -> Vec<u32> {
    let mut sizes = vec![0; groups as usize];
    let mut left = all;
    for _ in 0..3.min(groups) {
        let size = random.below(u64::from(left / 2) + 1) as u32;
        sizes[random.below(groups.into()) as usize] += size;
        left -= size;
    }
    sizes[random.below(groups.into()) as usize] += left;
    sizes
}

/// Where they begin, after a gap.
fn offsets(sizes: &[u32], gap: u32, unit: u32) -> Vec<i32> {
    let mut at = gap;
    let mut offsets = vec![(at * unit) as i32];
    for size in sizes {
        at += size;
        offsets.push((at * unit) as i32);
    }
    offsets
}

/// A form with `rows` rows, its groups, and K.
fn form(random: &mut Random, which: u64, rows: u32, k: u32) -> (Form, Vec<i32>, u32) {
    let groups = [1, 2, 5, 256][random.below(4) as usize];
    match which {
        0 => (Form::Dense { rows }, vec![], k),
        1 => (
            Form::Batched {
                rows,
                batch: groups.min(3),
            },
            vec![],
            k,
        ),
        2 => {
            let groups = groups.min(6);
            let counts = (0..groups).map(|_| random.below(u64::from(rows) + 1) as i32);
            let counts = counts.collect();
            let form = Form::Masked {
                slot_rows: rows,
                groups,
                expected_rows: 1,
            };
            (form, counts, k)
        }
        3 => {
            let gaps = [random.below(4) as u32, random.below(4) as u32];
            let sizes = split(random, rows, groups);
            let rows = rows + gaps[0] + gaps[1];
            (
                Form::Offsets { rows, groups },
                offsets(&sizes, gaps[0], 1),
                k,
            )
        }
        4 => {
            let mut index = Vec::new();
            for (group, &size) in split(random, rows, groups).iter().enumerate() {
                index.resize(index.len() + size as usize, group as i32);
                index.resize(index.len().next_multiple_of(GROUP_ALIGNMENT as usize), -1);
            }
            let rows = index.len() as u32;
            (Form::Contiguous { rows, groups }, index, k)
        }
        _ => {
            let blocks = k.div_ceil(BLOCK);
            let gap = random.below(2) as u32;
            let sizes = split(random, blocks, groups);
            let groups = groups.min(5) as usize;
            let offsets = offsets(&sizes[..groups], gap, BLOCK);
            let form = Form::KGrouped {
                rows,
                groups: groups as u32,
            };
            (form, offsets, (blocks + 1) * BLOCK)
        }
    }
}

/// One case, made from a number.
fn check(device: &Device, seed: u64) {
    let mut random = Random(seed);
    let tile = Tile::ALL[seed as usize % Tile::ALL.len()];
    let cluster = [[1, 1], [2, 1], [1, 2]][random.below(3) as usize];
    // Around so many turns.
    let stage = tile.arithmetic.stage_k();
    let turns = random.below(3) as u32 * tile.stages;
    let blocks = (turns + random.below(5) as u32).saturating_sub(2).max(1);
    let k = blocks * stage - 16 * random.below(u64::from(stage / 16)) as u32;
    let n = 16 * (1 + random.below(28) as u32);
    let edges = [1, tile.m - 1, tile.m, tile.m + 1, 2 * tile.m + 3, 333];
    let rows = edges[random.below(6) as usize].max(1);
    let forms = match tile.arithmetic {
        Arithmetic::Fp8Block1d1d { .. } => 6,
        _ => 5,
    };
    let which = random.below(forms);
    let (form, groups, k) = form(&mut random, which, rows, k);
    let desc = GemmDesc {
        form,
        n,
        k,
        arithmetic: tile.arithmetic,
        output: [Output::Bf16, Output::F32, Output::AddF32][random.below(3) as usize],
        sms: [2, 3, 7, 132][random.below(4) as usize],
    };
    let work = u64::from(form.d_slots()) * u64::from(form.rows()) * u64::from(n) * u64::from(k);
    if work > MOST || u64::from(form.b_slots()) * u64::from(n) * u64::from(k) > MOST {
        return;
    }
    let Ok(plan) = GemmPlan::with_tile(desc, tile, cluster) else {
        return;
    };
    let mut problem = Problem::new(desc, &groups, seed);
    let a = fill(&mut random, &mut problem.a);
    let b = fill(&mut random, &mut problem.b);
    if desc.output == Output::AddF32 {
        let whole = |i: usize| ((i % 1000) as f32 - 500.0).to_bits();
        problem.before = (0..problem.before.len()).map(whole).collect();
    }
    let got = device.run(&problem, plan);
    for (i, value) in expected(&desc, &groups, &a, &b).into_iter().enumerate() {
        let before = problem.before[i];
        let bits = value.map_or(before, |value| match desc.output {
            Output::Bf16 => half::bf16::from_f64(value as f64).to_bits().into(),
            Output::F32 => (value as f32).to_bits(),
            Output::AddF32 => (f32::from_bits(before) + value as f32).to_bits(),
        });
        let zero =
            |bits: u32| bits << 1 == 0 || (desc.output == Output::Bf16 && bits & 0x7fff == 0);
        let same = got[i] == bits || (zero(got[i]) && zero(bits));
        let [row, column] = [i / n as usize, i % n as usize];
        assert!(
            same,
            "seed {seed}: {desc:?} with {} in {cluster:?}, groups {groups:?}: D[{row}, {column}] = \
             {:#010x}, expected {bits:#010x}",
            tile.kernel, got[i]
        );
    }
}

#[test]
fn whole_numbers_give_whole_numbers() {
    let device = Device::open();
    for seed in 0..CASES {
        check(&device, seed);
    }
}
