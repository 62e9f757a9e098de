//! A GEMM problem on the host, its run on the device, and the comparison with the oracle.
//!
//! D lies between guard rows; guards and D start out as one NaN pattern, so a row that must not be
//! written, and a write that must not happen, show as bits. Padding of the M-major scales is NaN:
//! whoever reads it loses the row.

use std::sync::Arc;

use hadal::device::{Buffer, Context, Stream};
use hadal::gemm::{
    BLOCK, Bf16Matrix, Form, Fp8Gemm, Fp8Matrix, Fp8Weights, GemmDesc, GemmPlan, Groups, Operands,
    Shape, Tile, ViewMut, scale_stride,
};
use hadal_reference::compare::{Bounded, Comparison};
use hadal_reference::gemm::{Operand, Output, fp8_gemm_1d2d};
use half::bf16;

/// What D is filled with: a NaN that no kernel produces.
pub(crate) const UNWRITTEN: u16 = 0x7fa5;
const GUARD_ROWS: usize = 3;

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

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// A finite E4M3 code: one in eight subnormal or zero, one in eight of the top binade.
    pub(crate) fn code(&mut self) -> u8 {
        let sign = (self.below(2) as u8) << 7;
        sign | match self.below(8) {
            0 => self.below(8) as u8,
            1 => 0x78 + self.below(7) as u8,
            _ => self.below(0x7f) as u8,
        }
    }

    pub(crate) fn codes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.code()).collect()
    }

    /// Positive scales over twelve binades, with full significands.
    pub(crate) fn scales(&mut self, len: usize) -> Vec<f32> {
        let mut scale = || {
            let significand = 1.0 + self.below(1 << 23) as f32 / (1 << 23) as f32;
            significand * 2f32.powi(self.below(12) as i32 - 10)
        };
        (0..len).map(|_| scale()).collect()
    }
}

/// Rows of A with their scales, row-major `[rows, k / 128]`.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) k: usize,
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
}

impl Rows {
    pub(crate) fn random(rows: usize, k: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            k,
            codes: random.codes(rows * k),
            scales: random.scales(rows * k / BLOCK as usize),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.codes.len() / self.k
    }

    /// The rows of `order`; `None` gives a row of NaN codes and scales.
    pub(crate) fn gather(&self, order: impl Iterator<Item = Option<usize>>) -> Self {
        let blocks = self.k / BLOCK as usize;
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in order {
            match row {
                Some(row) => {
                    codes.extend_from_slice(&self.codes[row * self.k..][..self.k]);
                    scales.extend_from_slice(&self.scales[row * blocks..][..blocks]);
                }
                None => {
                    codes.resize(codes.len() + self.k, 0x7f);
                    scales.resize(scales.len() + blocks, f32::NAN);
                }
            }
        }
        Self {
            k: self.k,
            codes,
            scales,
        }
    }

    /// Scales of `slots` equal parts, each M-major with NaN padding.
    fn m_major(&self, slots: usize) -> Vec<f32> {
        let (rows, blocks) = (self.len() / slots.max(1), self.k / BLOCK as usize);
        let stride = scale_stride(rows as u32) as usize;
        let mut scales = vec![f32::NAN; slots * blocks * stride];
        for row in 0..rows * slots {
            for block in 0..blocks {
                let line = row / rows * blocks + block;
                scales[line * stride + row % rows] = self.scales[row * blocks + block];
            }
        }
        scales
    }
}

/// B of several groups.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) groups: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) codes: Vec<u8>,
    pub(crate) scales: Vec<f32>,
}

impl Weights {
    pub(crate) fn random(groups: usize, n: usize, k: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            groups,
            n,
            k,
            codes: random.codes(groups * n * k),
            scales: random.scales(groups * (n / BLOCK as usize) * (k / BLOCK as usize)),
        }
    }

    /// The oracle's expectation of `rows` under the weights of `group`.
    pub(crate) fn expected(&self, group: usize, rows: &Rows) -> Vec<Bounded> {
        let (size, blocks) = (
            self.n * self.k,
            self.n / BLOCK as usize * (self.k / BLOCK as usize),
        );
        let a = Operand {
            codes: &rows.codes,
            scales: &rows.scales,
            rows: rows.len(),
            row_block: 1,
        };
        let b = Operand {
            codes: &self.codes[group * size..][..size],
            scales: &self.scales[group * blocks..][..blocks],
            rows: self.n,
            row_block: BLOCK as usize,
        };
        fp8_gemm_1d2d(a, b, self.k, Output::Bf16)
    }

    /// Compares written rows (bits, as [`Device::run`] returns them) with the oracle.
    pub(crate) fn check(&self, what: &str, group: usize, rows: &Rows, bits: &[u16]) {
        let expected = self.expected(group, rows);
        let got = bits.iter().map(|&b| f64::from(bf16::from_bits(b).to_f32()));
        assert_eq!(bits.len(), expected.len(), "{what}: elements");
        let result = Comparison::of(&expected, got, self.n);
        if let Some(mismatch) = result.first_mismatch {
            panic!("{what}, group {group}: {mismatch}");
        }
        assert!(
            result.bound_over_out <= 0.02,
            "{what}: bound {} of the output",
            result.bound_over_out
        );
    }
}

/// How the rows of A are grouped.
#[derive(Clone, Copy)]
pub(crate) enum Grouping<'a> {
    Dense,
    /// Group of each row.
    OfRows(&'a [i32]),
    /// Rows in use of each slot.
    Counts(&'a [i32]),
}

/// One device with a stream.
pub(crate) struct Device {
    pub(crate) context: Arc<Context>,
    pub(crate) stream: Stream,
}

impl Device {
    pub(crate) fn open() -> Self {
        let context = Context::new(0).expect("a device");
        let stream = Stream::new(&context).expect("a stream");
        Self { context, stream }
    }

    /// D as bits `[rows, n]`; guards are checked here.
    pub(crate) fn run(
        &self,
        a: &Rows,
        b: &Weights,
        grouping: Grouping<'_>,
        (tile, sms): (Tile, u32),
    ) -> Vec<u16> {
        let slots = match grouping {
            Grouping::Counts(counts) => counts.len(),
            _ => 1,
        };
        let (groups, slot_rows) = (b.groups as u32, (a.len() / slots) as u32);
        let form = match grouping {
            Grouping::Dense => Form::Dense { rows: slot_rows },
            Grouping::OfRows(_) => Form::Contiguous {
                rows: slot_rows,
                groups,
            },
            Grouping::Counts(_) => Form::Masked {
                slot_rows,
                groups,
                expected_rows: slot_rows,
            },
        };
        let (n, k) = (b.n as u32, b.k as u32);
        let desc = GemmDesc { form, n, k, sms };
        let plan = GemmPlan::with_tile(desc, tile).expect("a plan");
        let mut gemm = Fp8Gemm::new(&self.context, plan).expect("a kernel");

        let codes = self.upload(&a.codes);
        let scales = self.upload(&a.m_major(slots));
        let (b_codes, b_scales) = (self.upload(&b.codes), self.upload(&b.scales));
        let indices = match grouping {
            Grouping::Dense => self.upload(&[0]),
            Grouping::OfRows(list) | Grouping::Counts(list) => self.upload(list),
        };
        let guard = GUARD_ROWS * b.n;
        let elements = a.len() * b.n;
        let mut d = self.upload(&vec![bf16::from_bits(UNWRITTEN); elements + 2 * guard]);

        let a_shape = Shape {
            slots: slots as u32,
            rows: slot_rows,
            columns: k,
        };
        let b_shape = Shape {
            slots: groups,
            rows: n,
            columns: k,
        };
        let view = ViewMut::from(&mut d)
            .slice(guard..guard + elements)
            .expect("inside");
        let mut operands = Operands {
            a: Fp8Matrix::new(&codes, &scales, a_shape).expect("A"),
            b: Fp8Weights::new(&b_codes, &b_scales, b_shape).expect("B"),
            groups: match grouping {
                Grouping::Dense => Groups::None,
                Grouping::OfRows(_) => Groups::OfRows((&indices).into()),
                Grouping::Counts(_) => Groups::Counts((&indices).into()),
            },
            d: Bf16Matrix::new(
                view,
                Shape {
                    columns: n,
                    ..a_shape
                },
            )
            .expect("D"),
        };
        gemm.run(&self.stream, &mut operands).expect("launched");
        let all = d.to_vec(&self.stream).expect("executed");
        let bits: Vec<u16> = all.iter().map(|v| v.to_bits()).collect();
        let (before, rest) = bits.split_at(guard);
        let (inside, after) = rest.split_at(elements);
        unwritten("guard before D", before, b.n);
        unwritten("guard after D", after, b.n);
        inside.to_vec()
    }

    pub(crate) fn upload<T: bytemuck::Pod>(&self, data: &[T]) -> Buffer<T> {
        Buffer::from_slice(&self.stream, data).expect("device memory")
    }
}

/// Every element still is what D was filled with.
pub(crate) fn unwritten(what: &str, bits: &[u16], columns: usize) {
    if let Some(at) = bits.iter().position(|&b| b != UNWRITTEN) {
        let (row, column) = (at / columns, at % columns);
        panic!("{what}: [{row}, {column}] was written: {:#06x}", bits[at]);
    }
}

/// The first difference between two rows of bits, with its column.
pub(crate) fn same_bits(what: &str, got: &[u16], expected: &[u16]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    if let Some(column) = (0..got.len()).find(|&i| got[i] != expected[i]) {
        let (got, expected) = (got[column], expected[column]);
        panic!("{what}, column {column}: {got:#06x}, expected {expected:#06x}");
    }
}
