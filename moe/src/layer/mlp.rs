//! The MLPs of a stack of experts: gate+up GEMM, SwiGLU, down GEMM, each for all experts at once.

use crate::config::{BLOCK, WeightFormat};
use crate::error::{Error, Result};
use crate::layer::activations::{Activations, Input};
use crate::layer::memory;
use crate::layer::weights::{Experts, Projections};
use hadal::device::{Buffer, Stream};
use hadal::gemm::{
    Arithmetic, Form, Gemm, GemmDesc, GemmPlan, Groups, MatrixMut, Operands, Output, Shape, View,
    ViewMut, scale_stride,
};
use hadal::moe::{SwigluDesc, SwigluFormat, SwigluOperands, SwigluPlan};
use hadal::quant::Scaling;
use half::bf16;
use std::sync::Arc;

/// How the rows of the experts lie.
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
    /// All experts' rows one after another in so many; offsets on the device say where each begins.
    Offsets(u32),
}

impl Rows {
    const fn of_slot(self) -> u32 {
        match self {
            Self::Dense(rows) | Self::Masked { slot: rows, .. } | Self::Offsets(rows) => rows,
        }
    }

    /// Matrices of activations of so many experts.
    const fn slots(self, experts: u32) -> u32 {
        match self {
            Self::Masked { .. } => experts,
            Self::Dense(_) | Self::Offsets(_) => 1,
        }
    }

    const fn form(self, groups: u32) -> Form {
        match self {
            Self::Dense(rows) => Form::Dense { rows },
            Self::Masked { slot, expected } => Form::Masked {
                slot_rows: slot,
                groups,
                expected_rows: expected,
            },
            Self::Offsets(rows) => Form::Offsets { rows, groups },
        }
    }
}

/// Which rows are in use.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Used<'a> {
    /// All of them.
    All,
    /// Of each slot.
    Counts(&'a Buffer<i32>),
    /// Where each expert begins, and where the last one ends.
    Offsets(&'a Buffer<i32>),
}

impl<'a> Used<'a> {
    fn groups(self) -> Groups<'a> {
        match self {
            Self::All => Groups::None,
            Self::Counts(counts) => Groups::Counts(counts.into()),
            Self::Offsets(offsets) => Groups::Offsets(offsets.into()),
        }
    }

    /// Rows in use of each matrix of activations.
    fn counts(self) -> Result<Option<View<'a, i32>>> {
        Ok(match self {
            Self::All => None,
            Self::Counts(counts) => Some(counts.into()),
            Self::Offsets(offsets) => {
                let last = offsets.len() - 1;
                let end = View::from(offsets).slice(last..last + 1);
                Some(end.map_err(Error::device("offsets of experts"))?)
            }
        })
    }
}

/// Elements of the buffers of a stack of MLPs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    format: WeightFormat,
    gate_up: usize,
    activated: usize,
    /// Scales of the activated rows.
    scales: usize,
    output: usize,
}

impl Sizes {
    pub(crate) fn new(
        rows: Rows,
        experts: u32,
        [hidden, intermediate]: [usize; 2],
        format: WeightFormat,
    ) -> Self {
        let slots = rows.slots(experts) as usize;
        let all = slots * rows.of_slot() as usize;
        let stride = scale_stride(rows.of_slot()) as usize;
        Self {
            format,
            gate_up: 2 * all * intermediate,
            activated: all * intermediate,
            scales: slots * (intermediate / BLOCK) * stride,
            output: all * hidden,
        }
    }

    /// Bytes with so many outputs.
    pub(crate) fn bytes(&self, outputs: u32) -> u64 {
        let activated = match self.format {
            WeightFormat::Fp8 => self.activated + 4 * self.scales,
            WeightFormat::Bf16 => 2 * self.activated,
        };
        (2 * self.gate_up + activated + 2 * self.output * outputs as usize) as u64
    }
}

/// Names of the three steps.
pub(crate) type Names = [&'static str; 3];

/// The MLPs of a stack of experts with everything they need on the device.
#[derive(Debug)]
pub(crate) struct Mlp {
    experts: Arc<Experts>,
    rows: Rows,
    /// SMs of the GEMMs.
    sms: u32,
    gate_up: Gemm,
    swiglu: SwigluPlan,
    down: Gemm,
    pub(crate) gate_up_out: Buffer<bf16>,
    pub(crate) activated: Activations,
    /// Results `[experts, rows, hidden]`, one for each call that may be in flight.
    pub(crate) outputs: Vec<Buffer<bf16>>,
}

impl Mlp {
    /// Allocates the intermediate results and `outputs` results.
    pub(crate) fn new(
        stream: &Stream,
        experts: &Arc<Experts>,
        rows: Rows,
        [outputs, sms]: [u32; 2],
    ) -> Result<Self> {
        let [hidden, intermediate] = [experts.down.shape.rows, experts.down.shape.columns];
        let format = match experts.down.arithmetic() {
            Arithmetic::Bf16 => WeightFormat::Bf16,
            _ => WeightFormat::Fp8,
        };
        let widths = [hidden as usize, intermediate as usize];
        let sizes = Sizes::new(rows, experts.count(), widths, format);
        let context = stream.context();
        let bf16s = |count| Buffer::<bf16>::alloc(context, count).map_err(memory());
        Ok(Self {
            gate_up: gemm(stream, &experts.gate_up, rows, sms)?,
            swiglu: swiglu(experts, rows)?,
            down: gemm(stream, &experts.down, rows, sms)?,
            gate_up_out: bf16s(sizes.gate_up)?,
            activated: match format {
                WeightFormat::Bf16 => Activations::Bf16(bf16s(sizes.activated)?),
                WeightFormat::Fp8 => Activations::Fp8 {
                    codes: Buffer::alloc(context, sizes.activated).map_err(memory())?,
                    scales: Buffer::zeroed(stream, sizes.scales).map_err(memory())?,
                },
            },
            outputs: (0..outputs)
                .map(|_| bf16s(sizes.output))
                .collect::<Result<_>>()?,
            experts: Arc::clone(experts),
            rows,
            sms,
        })
    }

    /// Takes another number of rows, at most those it was made for, from the next call on.
    pub(crate) fn set_rows(&mut self, stream: &Stream, rows: u32) -> Result<()> {
        let rows = Rows::Dense(rows);
        if self.rows != rows {
            self.gate_up = gemm(stream, &self.experts.gate_up, rows, self.sms)?;
            self.swiglu = swiglu(&self.experts, rows)?;
            self.down = gemm(stream, &self.experts.down, rows, self.sms)?;
            self.rows = rows;
        }
        Ok(())
    }

    fn slots(&self, columns: u32) -> Shape {
        Shape {
            slots: self.rows.slots(self.experts.count()),
            rows: self.rows.of_slot(),
            columns,
        }
    }

    /// Enqueues the gate+up GEMM.
    pub(crate) fn gate_up(&mut self, stream: &Stream, x: Input<'_>, used: Used<'_>) -> Result<()> {
        let weights = &self.experts.gate_up;
        let (inputs, outputs) = (weights.shape.columns, weights.shape.rows);
        let (x_shape, d_shape) = (self.slots(inputs), self.slots(outputs));
        let d = matrix_mut(&mut self.gate_up_out, d_shape)?;
        let mut operands = Operands {
            a: x.view(x_shape)
                .map_err(Error::device("input of the gate+up GEMM"))?,
            b: weights.view()?,
            groups: used.groups(),
            d,
        };
        self.gate_up
            .run(stream, &mut operands)
            .map_err(Error::device("gate+up GEMM"))
    }

    /// Enqueues SwiGLU.
    pub(crate) fn swiglu(&mut self, stream: &Stream, used: Used<'_>) -> Result<()> {
        let operands = SwigluOperands {
            gate_up: &self.gate_up_out,
            counts: used.counts()?,
            output: self.activated.output(),
        };
        self.swiglu
            .run(stream, operands)
            .map_err(Error::device("SwiGLU"))
    }

    /// Enqueues the down GEMM into one of the outputs.
    pub(crate) fn down(&mut self, stream: &Stream, used: Used<'_>, output: usize) -> Result<()> {
        let weights = &self.experts.down;
        let (inputs, outputs) = (weights.shape.columns, weights.shape.rows);
        let (x_shape, d_shape) = (self.slots(inputs), self.slots(outputs));
        let d = matrix_mut(&mut self.outputs[output], d_shape)?;
        let mut operands = Operands {
            a: (self.activated.input().view(x_shape))
                .map_err(Error::device("input of the down GEMM"))?,
            b: weights.view()?,
            groups: used.groups(),
            d,
        };
        self.down
            .run(stream, &mut operands)
            .map_err(Error::device("down GEMM"))
    }

    /// Bytes that the three steps touch when `rows` rows are in use.
    pub(crate) fn bytes(&self, rows: u64) -> [u64; 3] {
        let per_row = |columns: u32, width: u64| rows * u64::from(columns) * width;
        let width = self.activated.input().width();
        let (first, second) = (&self.experts.gate_up, &self.experts.down);
        let (inner, hidden) = (second.shape.columns, second.shape.rows);
        [
            per_row(hidden, width) + first.bytes() + per_row(2 * inner, 2),
            per_row(2 * inner, 2) + per_row(inner, width),
            per_row(inner, width) + second.bytes() + per_row(hidden, 2),
        ]
    }
}

fn gemm(stream: &Stream, weights: &Projections, rows: Rows, sms: u32) -> Result<Gemm> {
    let desc = GemmDesc {
        form: rows.form(weights.shape.slots),
        n: weights.shape.rows,
        k: weights.shape.columns,
        arithmetic: weights.arithmetic(),
        output: Output::Bf16,
        sms,
    };
    let plan = GemmPlan::new(desc).map_err(Error::plan("plan of a GEMM"))?;
    Gemm::new(stream.context(), plan).map_err(Error::device("loading a GEMM"))
}

fn swiglu(experts: &Experts, rows: Rows) -> Result<SwigluPlan> {
    let desc = SwigluDesc {
        groups: rows.slots(experts.count()) as usize,
        rows: rows.of_slot() as usize,
        intermediate: experts.down.shape.columns as usize,
        limit: None,
        format: match experts.down.arithmetic() {
            Arithmetic::Bf16 => SwigluFormat::Bf16,
            _ => SwigluFormat::Fp8 {
                scale_stride: scale_stride(rows.of_slot()) as usize,
                scaling: Scaling::Exact,
            },
        },
    };
    desc.plan().map_err(Error::plan("plan of SwiGLU"))
}

/// The first matrices of this shape.
fn matrix_mut(values: &mut Buffer<bf16>, shape: Shape) -> Result<MatrixMut<'_>> {
    let elements = [shape.slots, shape.rows, shape.columns].map(|n| n as usize);
    let view = ViewMut::from(values).slice(0..elements.iter().product());
    view.and_then(|view| MatrixMut::bf16(view, shape))
        .map_err(Error::device("output of a GEMM"))
}
