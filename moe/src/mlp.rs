//! One or several experts' MLPs on a device: gate+up GEMM, SwiGLU with quantisation, down GEMM, each
//! for all experts at once.

use crate::capture::{ActivationValues, Activations, MlpCapture, Scales};
use crate::checkpoint::{ExpertWeights, Projection, WeightValues};
use crate::config::BLOCK;
use crate::error::{Error, Result};
use crate::timer::Timer;
use hadal::device::{Buffer, Stream};
use hadal::gemm::{
    Arithmetic, Form, Format, Gemm, GemmDesc, GemmPlan, Groups, Matrix, MatrixMut, OperandError,
    Operands, Output, Shape, scale_stride,
};
use hadal::moe::{SwigluDesc, SwigluFormat, SwigluOperands, SwigluOutput, SwigluPlan};
use hadal::quant::Scaling;
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
    values: WeightBuffers,
    shape: Shape,
}

#[derive(Debug)]
enum WeightBuffers {
    Fp8 {
        codes: Buffer<u8>,
        scales: Buffer<f32>,
    },
    Bf16(Buffer<bf16>),
}

impl Weights {
    fn upload(stream: &Stream, projections: &[&Projection]) -> Result<Self> {
        let fail = || Error::device("upload of weights");
        let Some(first) = projections.first() else {
            return Err(Error::device("upload of weights")("no expert"));
        };
        let shape = Shape {
            slots: size(projections.len())?,
            rows: size(first.rows)?,
            columns: size(first.columns)?,
        };
        let (mut all_codes, mut all_scales, mut all_values) = (Vec::new(), Vec::new(), Vec::new());
        for projection in projections {
            match &projection.values {
                WeightValues::Fp8 { codes, scales } => {
                    all_codes.extend_from_slice(codes);
                    all_scales.extend_from_slice(scales);
                }
                WeightValues::Bf16(values) => all_values.extend_from_slice(values),
            }
        }
        let values = match first.values {
            WeightValues::Fp8 { .. } => WeightBuffers::Fp8 {
                codes: Buffer::from_slice(stream, &all_codes).map_err(fail())?,
                scales: Buffer::from_slice(stream, &all_scales).map_err(fail())?,
            },
            WeightValues::Bf16(_) => {
                WeightBuffers::Bf16(Buffer::from_slice(stream, &all_values).map_err(fail())?)
            }
        };
        Ok(Self { values, shape })
    }

    fn view(&self) -> Result<Matrix<'_>> {
        match &self.values {
            WeightBuffers::Fp8 { codes, scales } => {
                Matrix::fp8_blocks(Format::E4m3, codes, scales, self.shape)
            }
            WeightBuffers::Bf16(values) => Matrix::bf16(values, self.shape),
        }
        .map_err(Error::device("weights"))
    }

    fn arithmetic(&self) -> Arithmetic {
        match self.values {
            WeightBuffers::Fp8 { .. } => Arithmetic::E4M3_1D2D,
            WeightBuffers::Bf16(_) => Arithmetic::Bf16,
        }
    }

    fn bytes(&self) -> u64 {
        let bytes = match &self.values {
            WeightBuffers::Fp8 { codes, scales } => codes.bytes() + scales.bytes(),
            WeightBuffers::Bf16(values) => values.bytes(),
        };
        bytes as u64
    }
}

/// Rows of a stack of matrices on the device: E4M3 with M-major scales, or BF16.
#[derive(Debug)]
pub(crate) enum Activated {
    Fp8 {
        codes: Buffer<u8>,
        scales: Buffer<f32>,
    },
    Bf16(Buffer<bf16>),
}

/// The same, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    Fp8 {
        codes: &'a Buffer<u8>,
        scales: &'a Buffer<f32>,
    },
    Bf16(&'a Buffer<bf16>),
}

impl Activated {
    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Fp8 { codes, scales } => Input::Fp8 { codes, scales },
            Self::Bf16(values) => Input::Bf16(values),
        }
    }

    fn output(&mut self) -> SwigluOutput<'_> {
        match self {
            Self::Fp8 { codes, scales } => SwigluOutput::Fp8 { codes, scales },
            Self::Bf16(values) => SwigluOutput::Bf16(values),
        }
    }
}

impl<'a> Input<'a> {
    fn view(self, shape: Shape) -> std::result::Result<Matrix<'a>, OperandError> {
        match self {
            Self::Fp8 { codes, scales } => Matrix::fp8_rows(Format::E4m3, codes, scales, shape),
            Self::Bf16(values) => Matrix::bf16(values, shape),
        }
    }

    /// Bytes of a value.
    fn width(self) -> u64 {
        match self {
            Self::Fp8 { .. } => 1,
            Self::Bf16(_) => 2,
        }
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
    activated: Activated,
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
        let gemm = |weights: &Weights| {
            let shape = weights.shape;
            let form = rows.form(shape.slots);
            let desc = GemmDesc {
                form,
                n: shape.rows,
                k: shape.columns,
                arithmetic: weights.arithmetic(),
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
        let (format, activated) = match gate_up_weights.values {
            WeightBuffers::Fp8 { .. } => (
                SwigluFormat::Fp8 {
                    scale_stride: stride,
                    scaling: Scaling::Exact,
                },
                Activated::Fp8 {
                    codes: Buffer::alloc(context, elements).map_err(fail())?,
                    scales: Buffer::zeroed(stream, groups * (intermediate / BLOCK) * stride)
                        .map_err(fail())?,
                },
            ),
            WeightBuffers::Bf16(_) => {
                let values = Buffer::alloc(context, elements).map_err(fail())?;
                (SwigluFormat::Bf16, Activated::Bf16(values))
            }
        };
        let swiglu = SwigluDesc {
            groups,
            rows: slot,
            intermediate,
            limit: None,
            format,
        };
        let hidden = down_weights.shape.rows as usize;
        Ok(Self {
            rows,
            gate_up: gemm(&gate_up_weights)?,
            swiglu: swiglu.plan().map_err(Error::device("plan of SwiGLU"))?,
            down: gemm(&down_weights)?,
            gate_up_out: Buffer::alloc(context, 2 * elements).map_err(fail())?,
            activated,
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
        x: Input<'_>,
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

        let a = x.view(slots(first, first.columns));
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
            output: self.activated.output(),
        };
        self.swiglu
            .run(stream, operands)
            .map_err(Error::device(swiglu))?;
        timer.mark(stream, swiglu)?;

        let a = self.activated.input().view(slots(second, second.columns));
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
        let width = self.activated.input().width();
        let (first, second) = (self.gate_up_weights.shape, self.down_weights.shape);
        [
            per_row(first.columns, width) + self.gate_up_weights.bytes() + per_row(first.rows, 2),
            per_row(first.rows, 2) + per_row(second.columns, width),
            per_row(second.columns, width) + self.down_weights.bytes() + per_row(second.rows, 2),
        ]
    }

    /// Copies what the last run used and produced; `rows` of each expert, `x` its input.
    pub(crate) fn capture(
        &self,
        stream: &Stream,
        x: Input<'_>,
        rows: &[usize],
    ) -> Result<Vec<MlpCapture>> {
        let fail = || Error::device("copy of an expert's results to the host");
        let slot = self.rows.of_slot() as usize;
        let (first, second) = (self.gate_up_weights.shape, self.down_weights.shape);
        let x = HostCopy::new(stream, x, slot)?;
        let activated = HostCopy::new(stream, self.activated.input(), slot)?;
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
                x: x.slot(expert, rows, first.columns as usize),
                gate_up: part(&gate_up, expert, rows, first.rows),
                activated: activated.slot(expert, rows, second.columns as usize),
                down: part(&down, expert, rows, second.rows),
            })
            .collect())
    }
}

/// A stack of matrices of activations on the host.
struct HostCopy {
    values: ActivationValues,
    /// Rows of a slot.
    slot_rows: usize,
}

impl HostCopy {
    fn new(stream: &Stream, input: Input<'_>, slot_rows: usize) -> Result<Self> {
        let fail = || Error::device("copy of an expert's results to the host");
        let values = match input {
            Input::Bf16(values) => ActivationValues::Bf16(values.to_vec(stream).map_err(fail())?),
            Input::Fp8 { codes, scales } => ActivationValues::Fp8 {
                codes: codes.to_vec(stream).map_err(fail())?,
                scales: Scales::MMajor {
                    values: scales.to_vec(stream).map_err(fail())?,
                    stride: slot_rows.next_multiple_of(4),
                },
            },
        };
        Ok(Self { values, slot_rows })
    }

    /// The rows in use of one slot.
    fn slot(&self, expert: usize, rows: usize, columns: usize) -> Activations {
        let range = expert * self.slot_rows * columns..(expert * self.slot_rows + rows) * columns;
        let values = match &self.values {
            ActivationValues::Bf16(values) => ActivationValues::Bf16(values[range].to_vec()),
            ActivationValues::Fp8 { codes, scales } => ActivationValues::Fp8 {
                codes: codes[range].to_vec(),
                scales: match scales {
                    Scales::RowMajor(values) => Scales::RowMajor(values.clone()),
                    Scales::MMajor { values, stride } => {
                        let count = columns / BLOCK * stride;
                        Scales::MMajor {
                            values: values[expert * count..][..count].to_vec(),
                            stride: *stride,
                        }
                    }
                },
            },
        };
        Activations {
            rows,
            columns,
            values,
        }
    }
}
