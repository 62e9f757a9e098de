//! A GEMM problem on the host: random operands, and what D has to be.

use hadal::gemm::{Arithmetic, BLOCK, Form, Format, GemmDesc, Output, scale_stride};
use hadal_reference::compare::{Bounded, Comparison};
use hadal_reference::gemm::{
    self as reference, Codes, Operand, Scales, gemm_bounded, gemm_in_order,
};
use half::bf16;

/// What unused memory is filled with: a NaN that no kernel produces.
pub(crate) const UNWRITTEN: u32 = 0x7fa5_7fa5;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// A finite code: one in eight subnormal or zero, one in eight of the top binade.
    fn code(&mut self, format: Format) -> u16 {
        let sign = self.below(2) as u16;
        let class = self.below(8);
        match (format, class) {
            (Format::E4m3, 0) => sign << 7 | self.below(8) as u16,
            (Format::E4m3, 1) => sign << 7 | (0x78 + self.below(7) as u16),
            (Format::E4m3, _) => sign << 7 | self.below(0x7f) as u16,
            (Format::E5m2, 0) => sign << 7 | self.below(4) as u16,
            (Format::E5m2, 1) => sign << 7 | (0x78 + self.below(4) as u16),
            (Format::E5m2, _) => sign << 7 | self.below(0x7c) as u16,
            // Between 2^-8 and 2^8, or zero.
            (Format::Bf16, 0) => sign << 15,
            (Format::Bf16, _) => (sign << 15) | ((119 << 7) + self.below(16 << 7) as u16),
        }
    }

    /// Positive scales over twelve binades, with full significands.
    fn scales(&mut self, len: usize) -> Vec<f32> {
        let mut scale = || {
            let significand = 1.0 + self.below(1 << 23) as f32 / (1 << 23) as f32;
            significand * 2f32.powi(self.below(12) as i32 - 10)
        };
        (0..len).map(|_| scale()).collect()
    }
}

/// Scales of one side, row-major where they are per block.
#[derive(Debug, Clone)]
pub(crate) enum SideScales {
    None,
    Rows(Vec<f32>),
    Blocks(Vec<f32>),
    Channel(Vec<f32>),
}

/// A or B: a stack of matrices with K as columns.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) format: Format,
    pub(crate) slots: usize,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    /// Codes, or bits of BF16.
    pub(crate) codes: Vec<u16>,
    pub(crate) scales: SideScales,
}

impl Side {
    fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK as usize)
    }

    /// Scales of blocks as the kernels take those of `Rows`: M-major, NaN as padding.
    pub(crate) fn m_major(&self, values: &[f32]) -> Vec<f32> {
        let (blocks, stride) = (self.blocks(), scale_stride(self.rows as u32) as usize);
        let mut scales = vec![f32::NAN; self.slots * blocks * stride];
        for row in 0..self.slots * self.rows {
            for block in 0..blocks {
                let line = row / self.rows * blocks + block;
                scales[line * stride + row % self.rows] = values[row * blocks + block];
            }
        }
        scales
    }

    /// Rows `rows` of the whole stack, columns `columns`, as operands of the reference.
    fn part(&self, rows: &[usize], columns: &std::ops::Range<usize>) -> Part {
        let (k, blocks) = (self.k, self.blocks());
        let codes = rows
            .iter()
            .flat_map(|&row| &self.codes[row * k + columns.start..row * k + columns.end])
            .copied()
            .collect();
        let first = columns.start / BLOCK as usize;
        let count = columns.len().div_ceil(BLOCK as usize);
        let of_block =
            |line: usize, values: &[f32]| values[line * blocks + first..][..count].to_vec();
        let scales = match &self.scales {
            SideScales::None => Vec::new(),
            SideScales::Rows(values) => {
                rows.iter().flat_map(|&row| of_block(row, values)).collect()
            }
            SideScales::Blocks(values) => {
                let lines = self.rows.div_ceil(BLOCK as usize);
                let slot = rows.first().map_or(0, |row| row / self.rows);
                let range = slot * lines..(slot + 1) * lines;
                range.flat_map(|line| of_block(line, values)).collect()
            }
            SideScales::Channel(values) if values.len() == 1 => values.clone(),
            SideScales::Channel(values) => rows.iter().map(|&row| values[row]).collect(),
        };
        Part {
            rows: rows.len(),
            codes,
            scales,
        }
    }

    fn operand<'a>(&self, part: &'a Part, bytes: &'a [u8]) -> Operand<'a> {
        let values = &part.scales[..];
        Operand {
            codes: match self.format {
                Format::E4m3 => Codes::E4m3(bytes),
                Format::E5m2 => Codes::E5m2(bytes),
                Format::Bf16 => Codes::Bf16(&part.codes),
            },
            scales: match &self.scales {
                SideScales::None => Scales::None,
                SideScales::Rows(_) => Scales::Blocks { values, rows: 1 },
                SideScales::Blocks(_) => Scales::Blocks {
                    values,
                    rows: BLOCK as usize,
                },
                SideScales::Channel(_) => Scales::Channel(values),
            },
            rows: part.rows,
        }
    }
}

/// A part of a side.
struct Part {
    rows: usize,
    codes: Vec<u16>,
    scales: Vec<f32>,
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        self.codes.iter().map(|&code| code as u8).collect()
    }
}

/// Rows of A that meet one B.
struct Group {
    a_rows: Vec<usize>,
    d_rows: Vec<usize>,
    b_slot: usize,
    columns: std::ops::Range<usize>,
}

/// A problem with its operands.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) desc: GemmDesc,
    /// What the form reads on the device.
    pub(crate) groups: Vec<i32>,
    pub(crate) a: Side,
    pub(crate) b: Side,
    /// What is in D before.
    pub(crate) before: Vec<u32>,
}

impl Problem {
    /// Random operands. Rows of A that no group owns, and their scales, are NaN.
    pub(crate) fn new(desc: GemmDesc, groups: &[i32], seed: u64) -> Self {
        let mut random = Random(seed);
        let form = desc.form;
        let size = |slots: u32, rows: u32| (slots as usize, rows as usize);
        let (a_slots, a_rows) = size(form.a_slots(), form.rows());
        let (b_slots, b_rows) = size(form.b_slots(), desc.n);
        let blocks = desc.k.div_ceil(BLOCK) as usize;
        let (scales_a, scales_b) = match desc.arithmetic {
            Arithmetic::Bf16 => (SideScales::None, SideScales::None),
            Arithmetic::Fp8Channel { .. } => (
                SideScales::Channel(random.scales(a_slots * a_rows)),
                SideScales::Channel(random.scales(b_slots * b_rows)),
            ),
            Arithmetic::Fp8Block1d1d { .. } => (
                SideScales::Rows(random.scales(a_slots * a_rows * blocks)),
                SideScales::Rows(random.scales(b_slots * b_rows * blocks)),
            ),
            Arithmetic::Fp8Block1d2d { .. } => (
                SideScales::Rows(random.scales(a_slots * a_rows * blocks)),
                SideScales::Blocks(
                    random.scales(b_slots * b_rows.div_ceil(BLOCK as usize) * blocks),
                ),
            ),
        };
        let mut side = |format, slots, rows, scales| Side {
            format,
            slots,
            rows,
            k: desc.k as usize,
            codes: (0..slots * rows * desc.k as usize)
                .map(|_| random.code(format))
                .collect(),
            scales,
        };
        let a = side(desc.arithmetic.a(), a_slots, a_rows, scales_a);
        let b = side(desc.arithmetic.b(), b_slots, b_rows, scales_b);
        let elements = form.d_slots() as usize * a_rows * b_rows;
        let before = (0..elements)
            .map(|i| match desc.output {
                Output::AddF32 => (i as f32 * 0.37 - 5.0).to_bits(),
                Output::F32 => UNWRITTEN,
                Output::Bf16 => UNWRITTEN & 0xffff,
            })
            .collect();
        let groups = groups.to_vec();
        let mut problem = Self {
            desc,
            groups,
            a,
            b,
            before,
        };
        problem.spoil_unowned();
        problem
    }

    fn spoil_unowned(&mut self) {
        if matches!(self.desc.form, Form::KGrouped { .. }) {
            return;
        }
        let mut owned = vec![false; self.a.slots * self.a.rows];
        for group in self.groups() {
            group.a_rows.iter().for_each(|&row| owned[row] = true);
        }
        let nan = match self.a.format {
            Format::Bf16 => 0x7fc0,
            _ => 0x7f,
        };
        let (k, blocks) = (self.a.k, self.a.blocks());
        for row in (0..owned.len()).filter(|&row| !owned[row]) {
            self.a.codes[row * k..][..k].fill(nan);
            match &mut self.a.scales {
                SideScales::Rows(values) => values[row * blocks..][..blocks].fill(f32::NAN),
                SideScales::Channel(values) if values.len() > 1 => values[row] = f32::NAN,
                _ => {}
            }
        }
    }

    fn groups(&self) -> Vec<Group> {
        let form = self.desc.form;
        let rows = form.rows() as usize;
        let k = self.desc.k as usize;
        let of_rows = |range: std::ops::Range<usize>, b_slot| Group {
            a_rows: range.clone().collect(),
            d_rows: range.collect(),
            b_slot,
            columns: 0..k,
        };
        let clamp = |value: i32, most: usize| (value.max(0) as usize).min(most);
        let count = form.groups() as usize;
        match form {
            Form::Dense { .. } => vec![of_rows(0..rows, 0)],
            Form::Batched { .. } => (0..count)
                .map(|g| of_rows(g * rows..(g + 1) * rows, g))
                .collect(),
            Form::Masked { .. } => (0..count)
                .map(|g| of_rows(g * rows..g * rows + clamp(self.groups[g], rows), g))
                .collect(),
            Form::Contiguous { .. } => (0..count)
                .map(|g| {
                    let mut group = of_rows(0..0, g);
                    let mine = (0..rows).filter(|&row| self.groups[row] == g as i32);
                    group.a_rows = mine.clone().collect();
                    group.d_rows = mine.collect();
                    group
                })
                .collect(),
            Form::Offsets { .. } => (0..count)
                .map(|g| {
                    let begin = clamp(self.groups[g], rows);
                    of_rows(begin..clamp(self.groups[g + 1], rows).max(begin), g)
                })
                .collect(),
            Form::KGrouped { .. } => (0..count)
                .map(|g| {
                    let begin = clamp(self.groups[g], k);
                    Group {
                        a_rows: (0..rows).collect(),
                        d_rows: (g * rows..(g + 1) * rows).collect(),
                        b_slot: 0,
                        columns: begin..clamp(self.groups[g + 1], k).max(begin),
                    }
                })
                .collect(),
        }
    }

    /// Compares all of D, as bits of its elements: rows of groups with the oracle's bound and with
    /// the modelled order bit for bit, the others with what was there before.
    pub(crate) fn check(&self, what: &str, d: &[u32]) {
        let n = self.desc.n as usize;
        assert_eq!(d.len(), self.before.len(), "{what}: elements");
        let mut owned = vec![false; d.len() / n];
        for (index, group) in self.groups().iter().enumerate() {
            group.d_rows.iter().for_each(|&row| owned[row] = true);
            self.check_group(&format!("{what}, group {index}"), group, d);
        }
        for row in (0..owned.len()).filter(|&row| !owned[row]) {
            same_bits(
                &format!("{what}, row {row} of no group"),
                &d[row * n..][..n],
                &self.before[row * n..][..n],
            );
        }
    }

    fn check_group(&self, what: &str, group: &Group, d: &[u32]) {
        let n = self.desc.n as usize;
        let b_rows: Vec<usize> = (group.b_slot * n..(group.b_slot + 1) * n).collect();
        let a = self.a.part(&group.a_rows, &group.columns);
        let b = self.b.part(&b_rows, &group.columns);
        let (a_bytes, b_bytes) = (a.bytes(), b.bytes());
        let (a, b) = (self.a.operand(&a, &a_bytes), self.b.operand(&b, &b_bytes));
        let k = group.columns.len();
        let ordered = gemm_in_order(&a, &b, k);
        let rows = |i: usize| &d[group.d_rows[i] * n..][..n];
        let before = |i: usize, column: usize| self.before[group.d_rows[i] * n + column];
        for i in 0..group.d_rows.len() {
            let expected: Vec<u32> = ordered[i * n..][..n]
                .iter()
                .enumerate()
                .map(|(column, &value)| match self.desc.output {
                    Output::Bf16 => u32::from(bf16::from_f32(value).to_bits()),
                    Output::F32 => value.to_bits(),
                    _ => (f32::from_bits(before(i, column)) + value).to_bits(),
                })
                .collect();
            same_bits(
                &format!("{what}, row {}", group.d_rows[i]),
                rows(i),
                &expected,
            );
        }
        if self.desc.output == Output::AddF32 {
            return;
        }
        let format = match self.desc.output {
            Output::Bf16 => reference::Output::Bf16,
            _ => reference::Output::F32,
        };
        let bounded: Vec<Bounded> = gemm_bounded(&a, &b, k, format);
        let got = (0..group.d_rows.len()).flat_map(rows).map(|&bits| {
            f64::from(match self.desc.output {
                Output::Bf16 => f32::from_bits(bits << 16),
                _ => f32::from_bits(bits),
            })
        });
        let result = Comparison::of(&bounded, got, n);
        if let Some(mismatch) = result.first_mismatch {
            panic!("{what}: {mismatch}");
        }
        assert!(
            result.bound_over_out <= 0.1,
            "{what}: bound {} of the output",
            result.bound_over_out
        );
    }
}

/// Panics at the first difference, with its column.
pub(crate) fn same_bits(what: &str, got: &[u32], expected: &[u32]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let differs = |&i: &usize| got[i] != expected[i] && !both_nan(got[i], expected[i]);
    if let Some(column) = (0..got.len()).find(differs) {
        let (got, expected) = (got[column], expected[column]);
        panic!("{what}, column {column}: {got:#010x}, expected {expected:#010x}");
    }
}

/// NaN of either width, neither the filling.
fn both_nan(a: u32, b: u32) -> bool {
    let nan = |bits: u32| {
        let wide = if bits >> 16 == 0 { bits << 16 } else { bits };
        f32::from_bits(wide).is_nan() && bits != UNWRITTEN && bits != UNWRITTEN >> 16
    };
    nan(a) && nan(b)
}
