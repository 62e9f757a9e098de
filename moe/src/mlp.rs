//! One or several experts' MLPs on a device: gate+up GEMM, SwiGLU with quantisation, down GEMM, each
//! for all experts at once.

use crate::capture::{MlpCapture, Quantised, Scales};
use crate::checkpoint::{ExpertWeights, Projection};
use crate::config::BLOCK;
use crate::error::{Error, Result};
use crate::timer::Timer;
use hadal::device::{Buffer, Stream};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, Operands,
    Output, Shape, scale_stride,
};
use hadal::moe::{SwigluDesc, SwigluOperands, SwigluPlan};
use half::bf16;

/// Rows an MLP works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// One expert, all rows in use.
    Dense(u32),
    /// Every expert has a slot of so many rows, of which a count on the device is in use.
    Masked {
        /// Rows of a slot.
        slot: u32,
        /// Rows that are expected to be in use.
        expected: u32,
    },
}

impl Rows {
    pub(crate) fn of_slot(self) -> u32 {
        match self {
            Self::Dense(rows) | Self::Masked { slot: rows, .. } => rows,
        }
    }

    fn form(self, groups: u32) -> Form {
        match self {
            Self::Dense(rows) => Form::Dense { rows },
            Self::Masked { slot, expected } => Form::Masked {
                slot_rows: slot,
                groups,
                expected_rows: expected,
            },
        }
    }
}

/// Weights of a stack of equal projections.
#[derive(Debug)]
struct Weights {
    codes: Buffer<u8>,
    scales: Buffer<f32>,
    shape: Shape,
}

impl Weights {
    fn upload(stream: &Stream, projections: &[&Projection]) -> Result<Self> {
        let Some(first) = projections.first() else {
            return Err(Error::device("upload of weights")("no expert"));
        };
        let shape = Shape {
            slots: size(projections.len())?,
            rows: size(first.rows)?,
            columns: size(first.columns)?,
        };
        let codes: Vec<u8> = projections.iter().flat_map(|p| &p.codes).copied().collect();
        let scales: Vec<f32> = projections
            .iter()
            .flat_map(|p| &p.scales)
            .copied()
            .collect();
        let fail = || Error::device("upload of weights");
        Ok(Self {
            codes: Buffer::from_slice(stream, &codes).map_err(fail())?,
            scales: Buffer::from_slice(stream, &scales).map_err(fail())?,
            shape,
        })
    }

    fn view(&self) -> Result<Matrix<'_>> {
        Matrix::fp8_blocks(Format::E4m3, &self.codes, &self.scales, self.shape)
            .map_err(Error::device("weights"))
    }
}

/// A size as the kernels take it.
pub(crate) fn size(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Request {
        what: "a size",
        found: value.to_string(),
        expected: "at most 4294967295".into(),
    })
}

/// The MLPs of a stack of experts with everything they need on the device.
#[derive(Debug)]
pub(crate) struct Mlp {
    rows: Rows,
    gate_up_weights: Weights,
    down_weights: Weights,
    gate_up: Gemm,
    swiglu: SwigluPlan,
    down: Gemm,
    gate_up_out: Buffer<bf16>,
    codes: Buffer<u8>,
    scales: Buffer<f32>,
    down_out: Buffer<bf16>,
}

/// Names of the three phases in reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhaseNames(pub(crate) [&'static str; 3]);

impl Mlp {
    /// Uploads the weights and allocates the intermediate results.
    pub(crate) fn new(stream: &Stream, experts: &[&ExpertWeights], rows: Rows) -> Result<Self> {
        let pick = |f: fn(&ExpertWeights) -> &Projection| -> Vec<&Projection> {
            experts.iter().map(|e| f(e)).collect()
        };
        let gate_up_weights = Weights::upload(stream, &pick(|e| &e.gate_up))?;
        let down_weights = Weights::upload(stream, &pick(|e| &e.down))?;
        let context = stream.context();
        let sms = context
            .multiprocessors()
            .map_err(Error::device("device attributes"))?;
        let gemm = |shape: Shape| {
            let form = rows.form(shape.slots);
            let desc = GemmDesc {
                form,
                n: shape.rows,
                k: shape.columns,
                arithmetic: Arithmetic::E4M3_1D2D,
                output: Output::Bf16,
                sms,
            };
            let plan = GemmPlan::new(desc).map_err(Error::device("plan of a GEMM"))?;
            Gemm::new(context, plan).map_err(Error::device("loading a GEMM"))
        };
        let (groups, slot) = (
            gate_up_weights.shape.slots as usize,
            rows.of_slot() as usize,
        );
        let intermediate = down_weights.shape.columns as usize;
        let stride = scale_stride(rows.of_slot()) as usize;
        let elements = groups * slot * intermediate;
        let fail = || Error::device("allocation of an expert's results");
        let swiglu = SwigluDesc {
            groups,
            rows: slot,
            intermediate,
            scale_stride: stride,
        };
        let hidden = down_weights.shape.rows as usize;
        Ok(Self {
            rows,
            gate_up: gemm(gate_up_weights.shape)?,
            swiglu: swiglu.plan().map_err(Error::device("plan of SwiGLU"))?,
            down: gemm(down_weights.shape)?,
            gate_up_out: Buffer::alloc(context, 2 * elements).map_err(fail())?,
            codes: Buffer::alloc(context, elements).map_err(fail())?,
            scales: Buffer::zeroed(stream, groups * (intermediate / BLOCK) * stride)
                .map_err(fail())?,
            down_out: Buffer::alloc(context, groups * slot * hidden).map_err(fail())?,
            gate_up_weights,
            down_weights,
        })
    }

    /// Result of the last run: `[experts, rows, hidden]`.
    pub(crate) fn output(&self) -> &Buffer<bf16> {
        &self.down_out
    }

    /// Enqueues the three phases.
    pub(crate) fn run(
        &mut self,
        stream: &Stream,
        (codes, scales): (&Buffer<u8>, &Buffer<f32>),
        counts: Option<&Buffer<i32>>,
        (timer, names): (&mut Timer, PhaseNames),
    ) -> Result<()> {
        let PhaseNames([gate_up, swiglu, down]) = names;
        let groups = || counts.map_or(Groups::None, |c| Groups::Counts(c.into()));
        let slots = |shape: Shape, columns| Shape {
            rows: self.rows.of_slot(),
            columns,
            ..shape
        };
        let (first, second) = (self.gate_up_weights.shape, self.down_weights.shape);

        let a = Matrix::fp8_rows(Format::E4m3, codes, scales, slots(first, first.columns));
        let d = MatrixMut::bf16(&mut self.gate_up_out, slots(first, first.rows));
        let mut operands = Operands {
            a: a.map_err(Error::device("input of the gate+up GEMM"))?,
            b: self.gate_up_weights.view()?,
            groups: groups(),
            d: d.map_err(Error::device("output of the gate+up GEMM"))?,
        };
        self.gate_up
            .run(stream, &mut operands)
            .map_err(Error::device(gate_up))?;
        timer.mark(stream, gate_up)?;

        let operands = SwigluOperands {
            gate_up: &self.gate_up_out,
            counts,
            codes: &mut self.codes,
            scales: &mut self.scales,
        };
        self.swiglu
            .run(stream, operands)
            .map_err(Error::device(swiglu))?;
        timer.mark(stream, swiglu)?;

        let a = Matrix::fp8_rows(
            Format::E4m3,
            &self.codes,
            &self.scales,
            slots(second, second.columns),
        );
        let d = MatrixMut::bf16(&mut self.down_out, slots(second, second.rows));
        let mut operands = Operands {
            a: a.map_err(Error::device("input of the down GEMM"))?,
            b: self.down_weights.view()?,
            groups: groups(),
            d: d.map_err(Error::device("output of the down GEMM"))?,
        };
        self.down
            .run(stream, &mut operands)
            .map_err(Error::device(down))?;
        timer.mark(stream, down)
    }

    /// Bytes that the phases touch when `rows` rows are in use.
    pub(crate) fn bytes(&self, rows: u64) -> [u64; 3] {
        let per_row = |columns: u32, width: u64| rows * u64::from(columns) * width;
        let weights = |w: &Weights| (w.codes.bytes() + w.scales.bytes()) as u64;
        let (first, second) = (self.gate_up_weights.shape, self.down_weights.shape);
        [
            per_row(first.columns, 1) + weights(&self.gate_up_weights) + per_row(first.rows, 2),
            per_row(first.rows, 2) + per_row(second.columns, 1),
            per_row(second.columns, 1) + weights(&self.down_weights) + per_row(second.rows, 2),
        ]
    }

    /// Copies what the last run used and produced; `rows` of each expert, `x` its input.
    pub(crate) fn capture(
        &self,
        stream: &Stream,
        (codes, scales): (&Buffer<u8>, &Buffer<f32>),
        rows: &[usize],
    ) -> Result<Vec<MlpCapture>> {
        let fail = || Error::device("copy of an expert's results to the host");
        let slot = self.rows.of_slot() as usize;
        let (first, second) = (self.gate_up_weights.shape, self.down_weights.shape);
        let x = (
            codes.to_vec(stream).map_err(fail())?,
            scales.to_vec(stream).map_err(fail())?,
        );
        let activated = (
            self.codes.to_vec(stream).map_err(fail())?,
            self.scales.to_vec(stream).map_err(fail())?,
        );
        let gate_up = self.gate_up_out.to_vec(stream).map_err(fail())?;
        let down = self.down_out.to_vec(stream).map_err(fail())?;
        let part = |values: &[bf16], expert: usize, rows: usize, columns: u32| {
            let columns = columns as usize;
            values[expert * slot * columns..][..rows * columns].to_vec()
        };
        Ok(rows
            .iter()
            .enumerate()
            .map(|(expert, &rows)| MlpCapture {
                x: quantised(&x, (expert, slot), rows, first.columns as usize),
                gate_up: part(&gate_up, expert, rows, first.rows),
                activated: quantised(&activated, (expert, slot), rows, second.columns as usize),
                down: part(&down, expert, rows, second.rows),
            })
            .collect())
    }
}

/// One expert's slot of a stack of quantised matrices with M-major scales.
fn quantised(
    (codes, scales): &(Vec<u8>, Vec<f32>),
    (expert, slot): (usize, usize),
    rows: usize,
    columns: usize,
) -> Quantised {
    let stride = slot.next_multiple_of(4);
    let values = columns / BLOCK * stride;
    Quantised {
        rows,
        columns,
        codes: codes[expert * slot * columns..][..rows * columns].to_vec(),
        scales: Scales::MMajor {
            values: scales[expert * values..][..values].to_vec(),
            stride,
        },
    }
}
