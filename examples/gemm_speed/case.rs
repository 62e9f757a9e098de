//! Problems, their operands, and a check of what comes out.

use hadal::device::{Buffer, Stream};
use hadal::gemm::{
    Arithmetic, BLOCK, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
    Output, Shape, scale_stride,
};
use half::bf16;

use crate::Result;

/// A shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) form: Form,
    pub(crate) n: u32,
    pub(crate) k: u32,
    /// What is published about another kernel.
    pub(crate) published: &'static str,
}

const fn case(form: Form, [n, k]: [u32; 2], published: &'static str) -> Case {
    Case {
        form,
        n,
        k,
        published,
    }
}

const fn dense(rows: u32) -> Form {
    Form::Dense { rows }
}

const fn contiguous(rows: u32, groups: u32) -> Form {
    Form::Contiguous { rows, groups }
}

const fn masked(slot_rows: u32, groups: u32) -> Form {
    Form::Masked {
        slot_rows,
        groups,
        expected_rows: slot_rows,
    }
}

/// The figures are those of DeepGEMM (github.com/deepseek-ai/DeepGEMM, README and the issues named).
pub(crate) const PUBLISHED: [Case; 6] = [
    case(
        dense(4096),
        [7168, 16384],
        "1484 TFLOPS on H800 (README, #168)",
    ),
    case(dense(4096), [7168, 2048], "1204 TFLOPS on H800 (#74)"),
    case(
        dense(64),
        [7168, 16384],
        "51 us on H100 (#136), 46 us on GH200 (#68)",
    ),
    case(
        contiguous(8192, 4),
        [4096, 7168],
        "1381 TFLOPS on H800 (#74)",
    ),
    case(
        contiguous(8192, 4),
        [7168, 2048],
        "1262 TFLOPS on H800 (#74)",
    ),
    case(masked(1024, 1), [4096, 7168], "920 TFLOPS on H800 (#193)"),
];

/// One of each form, small.
pub(crate) const TOYS: [Case; 4] = [
    case(dense(200), [256, 384], ""),
    case(dense(8), [256, 384], ""),
    case(contiguous(256, 2), [256, 256], ""),
    case(masked(128, 1), [256, 256], ""),
];

impl Case {
    pub(crate) fn flops(&self) -> f64 {
        let rows = f64::from(self.form.a_slots()) * f64::from(self.form.rows());
        2.0 * rows * f64::from(self.n) * f64::from(self.k)
    }

    /// Bytes of every operand and of D, once.
    pub(crate) fn bytes(&self) -> f64 {
        let rows = f64::from(self.form.a_slots()) * f64::from(self.form.rows());
        let b_rows = f64::from(self.form.b_slots()) * f64::from(self.n);
        let (k, block) = (f64::from(self.k), f64::from(BLOCK));
        let scales = (rows + b_rows / block) * (k / block) * 4.0;
        (rows + b_rows) * k + scales + rows * f64::from(self.n) * 2.0
    }
}

/// A case in device memory.
pub(crate) struct Problem {
    gemm: Gemm,
    shapes: [Shape; 3],
    codes: [Vec<u8>; 2],
    a: Buffer<u8>,
    b: Buffer<u8>,
    scales: [Buffer<f32>; 2],
    groups: Buffer<i32>,
    d: Buffer<bf16>,
}

fn elements(shape: Shape) -> usize {
    shape.slots as usize * shape.rows as usize * shape.columns as usize
}

/// E4M3 codes without a pattern, finite.
fn codes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [code, ..] = state.to_le_bytes();
        // 0x7f and 0xff are NaN.
        if code & 0x7f == 0x7f { 0 } else { code }
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The value of an E4M3 code.
fn value(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match exponent {
        0 => fraction / 8.0 * 2f64.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

impl Problem {
    pub(crate) fn new(stream: &Stream, case: Case) -> Result<Self> {
        let context = stream.context();
        let Case { form, n, k, .. } = case;
        let desc = GemmDesc {
            form,
            n,
            k,
            arithmetic: Arithmetic::E4M3_1D2D,
            output: Output::Bf16,
            sms: context.multiprocessors()?,
        };
        let shape = |slots, rows, columns| Shape {
            slots,
            rows,
            columns,
        };
        let a = shape(form.a_slots(), form.rows(), k);
        let b = shape(form.b_slots(), n, k);
        let d = shape(form.d_slots(), form.rows(), n);
        let codes = [
            codes(elements(a), 0x9e37_79b9),
            codes(elements(b), 0x85eb_ca6b),
        ];
        let blocks = k.div_ceil(BLOCK);
        let of_a = (a.slots * blocks * scale_stride(a.rows)) as usize;
        let of_b = (b.slots * b.rows.div_ceil(BLOCK) * blocks) as usize;
        let scales = |len| Buffer::from_slice(stream, &vec![1.0f32; len]);
        Ok(Self {
            gemm: Gemm::new(context, GemmPlan::new(desc)?)?,
            shapes: [a, b, d],
            a: Buffer::from_slice(stream, &codes[0])?,
            b: Buffer::from_slice(stream, &codes[1])?,
            codes,
            scales: [scales(of_a)?, scales(of_b)?],
            groups: Buffer::from_slice(stream, &groups(form)?)?,
            d: Buffer::zeroed(stream, elements(d))?,
        })
    }

    pub(crate) fn plan(&self) -> &GemmPlan {
        self.gemm.plan()
    }

    pub(crate) fn run(&mut self, stream: &Stream) -> Result<()> {
        let [a, b, d] = self.shapes;
        let [scales_a, scales_b] = &self.scales;
        let groups = (&self.groups).into();
        let mut operands = Operands {
            a: Matrix::fp8_rows(Format::E4m3, &self.a, scales_a, a)?,
            b: Matrix::fp8_blocks(Format::E4m3, &self.b, scales_b, b)?,
            groups: match self.gemm.plan().desc.form {
                Form::Contiguous { .. } => Groups::OfRows(groups),
                Form::Masked { .. } => Groups::Counts(groups),
                _ => Groups::None,
            },
            d: MatrixMut::bf16(&mut self.d, d)?,
        };
        Ok(self.gemm.run(stream, &mut operands)?)
    }

    /// Compares elements all over D with sums in f64: what is timed is the product. (How exact it is,
    /// is for the tests: here 2^-7 of what is summed.)
    pub(crate) fn check(&self, stream: &Stream) -> Result<()> {
        const SAMPLES: usize = 64;
        let [_, b, d] = self.shapes;
        let (n, k) = (d.columns as usize, b.columns as usize);
        let found = self.d.to_vec(stream)?;
        let form = self.gemm.plan().desc.form;
        let per_group = (d.slots * d.rows / form.groups()) as usize;
        for sample in 0..SAMPLES {
            let at = found.len() / SAMPLES * sample + sample % 7;
            let (row, column) = (at / n, at % n);
            let b_row = row / per_group * n + column;
            let a = &self.codes[0][row * k..][..k];
            let b = &self.codes[1][b_row * k..][..k];
            let terms = a.iter().zip(b).map(|(&a, &b)| value(a) * value(b));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                (sum + term, size + term.abs())
            });
            let value = found[at].to_f64();
            let error = (value - sum).abs();
            if error.is_nan() || error > size / 128.0 {
                return Err(
                    format!("{form:?}: D[{row}, {column}] = {value}, expected {sum}").into(),
                );
            }
        }
        Ok(())
    }
}

/// All rows in use, groups of equal size.
fn groups(form: Form) -> Result<Vec<i32>> {
    Ok(match form {
        Form::Contiguous { rows, groups } => {
            let each = i32::try_from(rows / groups)?;
            (0..i32::try_from(rows)?).map(|row| row / each).collect()
        }
        Form::Masked {
            slot_rows, groups, ..
        } => vec![i32::try_from(slot_rows)?; groups as usize],
        _ => Vec::new(),
    })
}
