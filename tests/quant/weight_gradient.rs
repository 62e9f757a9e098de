//! A weight gradient from end to end: both operands transposed and quantised, multiplied group by
//! group, against the exact product of the quantised operands and against that of the BF16 values.
//! All of it is captured once and launched with groups and values that come later.
#![expect(unsafe_code, reason = "launches a graph")]

use hadal::device::Buffer;
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmError, GemmPlan, Groups, Matrix, MatrixMut,
    Operands, Output, Shape, View,
};
use hadal::quant::{
    PadOffsets, PadOffsetsDesc, Scaling, TransposeQuantise, TransposeQuantiseDesc,
    TransposeQuantiseOperands, TransposeQuantisePlan,
};
use hadal_reference::compare::Comparison;
use hadal_reference::gemm::{self as reference, Codes, Operand, gemm_bounded};
use half::bf16;

use crate::harness::Device;

const ROWS: u32 = 430;
const M: u32 = 80;
const N: u32 = 144;
const GROUPS: u32 = 5;
const D: Shape = Shape {
    slots: GROUPS,
    rows: M,
    columns: N,
};

type Offsets = [i32; GROUPS as usize + 1];

/// Empty groups, odd ones, one of one row, larger ones, all rows in one.
const TABLES: [Offsets; 3] = [
    [0, 131, 131, 132, 132, 430],
    [0, 0, 0, 430, 430, 430],
    [7, 8, 135, 263, 264, 391],
];

/// Between −2 and 2, in 1/64: the noise of SplitMix64.
fn values(columns: u32, seed: u64) -> Vec<bf16> {
    let noise = |i: u32| {
        let z = (u64::from(i) + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) & 255
    };
    (0..ROWS * columns)
        .map(|i| bf16::from_f32((noise(i) as f32 - 128.0) / 64.0))
        .collect()
}

/// One operand, and what it is made from.
struct Transposed {
    kernel: TransposeQuantise,
    values: Buffer<bf16>,
    codes: Buffer<u8>,
    scales: Buffer<f32>,
}

impl Transposed {
    fn new(device: &Device, columns: u32, format: Format) -> Self {
        let plan = TransposeQuantisePlan::new(TransposeQuantiseDesc {
            rows: ROWS,
            columns,
            groups: GROUPS,
            input: Format::Bf16,
            format,
            scaling: Scaling::Exact,
            sms: 4,
        });
        let plan = plan.expect("a plan");
        let elements = (columns * plan.k) as usize;
        Self {
            kernel: TransposeQuantise::new(&device.context, plan).expect("a kernel"),
            values: device.upload(&vec![bf16::NAN; (ROWS * columns) as usize]),
            // Unused memory holds NaN: the product shows if it is read.
            codes: device.upload(&vec![0x7fu8; elements]),
            scales: device.upload(&vec![f32::NAN; plan.scales as usize]),
        }
    }

    fn enqueue(&mut self, device: &Device, tables: [&Buffer<i32>; 2]) -> Result<(), GemmError> {
        let shape = Shape::matrix(ROWS, self.kernel.plan().desc.columns);
        let operands = TransposeQuantiseOperands {
            input: Matrix::bf16(&self.values, shape)?,
            offsets: View::from(tables[0]),
            padded: View::from(tables[1]),
            codes: (&mut self.codes).into(),
            scales: (&mut self.scales).into(),
        };
        self.kernel.run(&device.stream, operands)
    }

    fn matrix(&self) -> Matrix<'_> {
        let plan = self.kernel.plan();
        let (format, shape) = (plan.desc.format, plan.output());
        Matrix::fp8_rows(format, &self.codes, &self.scales, shape).expect("an operand")
    }

    /// Codes and row-major scales of the columns of one group.
    fn part(&self, device: &Device, columns: &std::ops::Range<usize>) -> (Vec<u8>, Vec<f32>) {
        let shape = self.kernel.plan().output();
        let (rows, k) = (shape.rows as usize, shape.columns as usize);
        let codes = self.codes.to_vec(&device.stream).expect("executed");
        let scales = self.scales.to_vec(&device.stream).expect("executed");
        let lines = columns.start / 128..columns.end / 128;
        let codes = (0..rows).flat_map(|row| codes[row * k..][columns.clone()].to_vec());
        let scales = (0..rows).flat_map(|row| {
            let scales = &scales;
            lines.clone().map(move |line| scales[line * rows + row])
        });
        (codes.collect(), scales.collect())
    }
}

/// The whole chain.
struct Gradient {
    format: Format,
    pad: PadOffsets,
    gemm: Gemm,
    offsets: Buffer<i32>,
    padded: Buffer<i32>,
    dy: Transposed,
    x: Transposed,
    d: Buffer<f32>,
}

impl Gradient {
    fn new(device: &Device, format: Format) -> Self {
        let desc = PadOffsetsDesc {
            rows: ROWS,
            groups: GROUPS,
        };
        let pad = PadOffsets::new(&device.context, desc).expect("a kernel");
        let dy = Transposed::new(device, M, format);
        let plan = GemmPlan::new(GemmDesc {
            form: Form::KGrouped {
                rows: M,
                groups: GROUPS,
            },
            n: N,
            k: dy.kernel.plan().k,
            arithmetic: Arithmetic::Fp8Block1d1d { a: format },
            output: Output::F32,
            sms: 4,
        });
        Self {
            format,
            pad,
            gemm: Gemm::new(&device.context, plan.expect("a plan")).expect("a kernel"),
            offsets: device.upload(&[0; GROUPS as usize + 1]),
            padded: device.upload(&[-1; GROUPS as usize + 1]),
            dy,
            x: Transposed::new(device, N, Format::E4m3),
            d: device.upload(&vec![f32::NAN; (GROUPS * M * N) as usize]),
        }
    }

    fn enqueue(&mut self, device: &Device) -> Result<(), GemmError> {
        let offsets = View::from(&self.offsets);
        self.pad
            .run(&device.stream, offsets, (&mut self.padded).into())?;
        self.dy.enqueue(device, [&self.offsets, &self.padded])?;
        self.x.enqueue(device, [&self.offsets, &self.padded])?;
        let mut operands = Operands {
            a: self.dy.matrix(),
            b: self.x.matrix(),
            groups: Groups::Offsets(View::from(&self.padded)),
            d: MatrixMut::f32(&mut self.d, D)?,
        };
        self.gemm.run(&device.stream, &mut operands)
    }

    fn check(&self, device: &Device, offsets: &Offsets, dy: &[bf16], x: &[bf16]) {
        let d = self.d.to_vec(&device.stream).expect("executed");
        let padded = self.padded.to_vec(&device.stream).expect("executed");
        // A code is within half a unit of its last place of the value: 2^-4 of it for E4M3, 2^-3 for
        // E5M2, or of the smallest normal number, which is less than 2^-6 of the largest value here.
        // The tensor cores' own rounding adds 2^-9 of the sum of magnitudes at most.
        let e5m2 = self.format == Format::E5m2;
        let unit = if e5m2 { 0.125 } else { 0.0625 };
        for (group, own) in d.chunks((M * N) as usize).enumerate() {
            let columns = padded[group] as usize..padded[group + 1] as usize;
            let (a_codes, a_scales) = self.dy.part(device, &columns);
            let (b_codes, b_scales) = self.x.part(device, &columns);
            let a = Operand {
                codes: if e5m2 {
                    Codes::E5m2(&a_codes)
                } else {
                    Codes::E4m3(&a_codes)
                },
                ..Operand::e4m3(&a_codes, &a_scales, M as usize, 1)
            };
            let b = Operand::e4m3(&b_codes, &b_scales, N as usize, 1);
            let rows = offsets[group] as usize..offsets[group + 1] as usize;
            let exact = |m: usize, n: usize| {
                rows.clone().fold((0.0, 0.0), |(sum, bound), row| {
                    let y = dy[row * M as usize + m].to_f64();
                    let x = x[row * N as usize + n].to_f64();
                    let (dy, dx) = (unit * y.abs() + 1e-3, 0.0625 * x.abs() + 1e-3);
                    let error = dy * x.abs() + dx * y.abs() + dy * dx;
                    (sum + y * x, bound + error + (y * x).abs() / 512.0)
                })
            };
            let what = format!("{:?}, {offsets:?}, group {group}", self.format);
            check_group(&what, (&a, &b), columns.len(), own, exact);
            let zero = own.iter().all(|&value| value == 0.0);
            assert_eq!(zero, rows.is_empty(), "{what}: only an empty group is zero");
        }
    }
}

/// Compares one group's product with the bound of the quantised operands, and with the product of
/// what was quantised.
fn check_group(
    what: &str,
    (a, b): (&Operand<'_>, &Operand<'_>),
    k: usize,
    d: &[f32],
    exact: impl Fn(usize, usize) -> (f64, f64),
) {
    let n = N as usize;
    let bounded = gemm_bounded(a, b, k, reference::Output::F32);
    let got = d.iter().map(|&value| f64::from(value));
    let comparison = Comparison::of(&bounded, got, n);
    if let Some(mismatch) = comparison.first_mismatch {
        panic!("{what}: {mismatch}");
    }
    let (mut errors, mut sums) = (0.0, 0.0);
    for (i, &value) in d.iter().enumerate() {
        let at = [i / n, i % n];
        let (sum, bound) = exact(at[0], at[1]);
        let error = f64::from(value) - sum;
        let near = error.abs() <= bound;
        assert!(near, "{what}: {at:?}: {value}, expected {sum} ± {bound}");
        errors += error * error;
        sums += sum * sum;
    }
    // Errors of different products are as good as independent, so that most of the bound is never
    // used: of the whole group, they are a few per cent, by the root of the mean square of half a
    // unit.
    let ratio = (errors / sums).sqrt();
    assert!(
        sums == 0.0 || ratio < 0.08,
        "{what}: error {ratio} of the whole"
    );
}

#[test]
fn products_of_groups() {
    let device = Device::open();
    for format in [Format::E4m3, Format::E5m2] {
        let mut gradient = Gradient::new(&device, format);
        // Once outside: a kernel's first use loads it.
        gradient.enqueue(&device).expect("launched");
        let stream = &device.stream;
        let graph = stream.capture(|_| gradient.enqueue(&device));
        let graph = graph.expect("captured");
        for (seed, offsets) in (1..).zip(TABLES) {
            let (dy, x) = (values(M, seed), values(N, seed + 10));
            let Gradient { offsets: table, .. } = &mut gradient;
            table.copy_from(stream, &offsets).expect("copied");
            gradient.dy.values.copy_from(stream, &dy).expect("copied");
            gradient.x.values.copy_from(stream, &x).expect("copied");
            // SAFETY: what was captured works on the buffers of `gradient`, which nothing else uses
            // before the results are read.
            unsafe { graph.launch(stream) }.expect("launched");
            gradient.check(&device, &offsets, &dy, &x);
        }
    }
}
