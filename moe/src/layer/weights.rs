//! Weights on a device.

use crate::checkpoint::{ExpertWeights, Projection, RouterValues, WeightValues};
use crate::error::{Error, Result};
use crate::layer::size;
use hadal::device::{Buffer, Stream};
use hadal::gemm::{Arithmetic, Format, Matrix, Shape};
use hadal::moe::RouterWeight;
use half::bf16;

/// Weights of a stack of equal projections, `[experts, rows, columns]`.
#[derive(Debug)]
pub(crate) struct Projections {
    values: Values,
    pub(crate) shape: Shape,
}

#[derive(Debug)]
enum Values {
    Fp8 {
        codes: Buffer<u8>,
        scales: Buffer<f32>,
    },
    Bf16(Buffer<bf16>),
}

impl Projections {
    fn upload(stream: &Stream, projections: &[&Projection]) -> Result<Self> {
        let Some(first) = projections.first() else {
            return Err(Error::device(UPLOAD)("no expert"));
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
        let fail = || Error::device(UPLOAD);
        let values = match first.values {
            WeightValues::Fp8 { .. } => Values::Fp8 {
                codes: Buffer::from_slice(stream, &all_codes).map_err(fail())?,
                scales: Buffer::from_slice(stream, &all_scales).map_err(fail())?,
            },
            WeightValues::Bf16(_) => {
                Values::Bf16(Buffer::from_slice(stream, &all_values).map_err(fail())?)
            }
        };
        Ok(Self { values, shape })
    }

    pub(crate) fn view(&self) -> Result<Matrix<'_>> {
        match &self.values {
            Values::Fp8 { codes, scales } => {
                Matrix::fp8_blocks(Format::E4m3, codes, scales, self.shape)
            }
            Values::Bf16(values) => Matrix::bf16(values, self.shape),
        }
        .map_err(Error::device("weights"))
    }

    pub(crate) fn arithmetic(&self) -> Arithmetic {
        match self.values {
            Values::Fp8 { .. } => Arithmetic::E4M3_1D2D,
            Values::Bf16(_) => Arithmetic::Bf16,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match &self.values {
            Values::Fp8 { codes, scales } => codes.bytes() + scales.bytes(),
            Values::Bf16(values) => values.bytes(),
        };
        bytes as u64
    }
}

const UPLOAD: &str = "upload of weights";

/// A stack of experts.
#[derive(Debug)]
pub(crate) struct Experts {
    /// `[experts, 2·intermediate, hidden]`: gate rows, then up rows.
    pub(crate) gate_up: Projections,
    /// `[experts, hidden, intermediate]`.
    pub(crate) down: Projections,
}

impl Experts {
    /// `None` where there are none.
    pub(crate) fn upload(stream: &Stream, experts: &[ExpertWeights]) -> Result<Option<Self>> {
        if experts.is_empty() {
            return Ok(None);
        }
        let pick = |f: fn(&ExpertWeights) -> &Projection| -> Vec<&Projection> {
            experts.iter().map(f).collect()
        };
        Ok(Some(Self {
            gate_up: Projections::upload(stream, &pick(|e| &e.gate_up))?,
            down: Projections::upload(stream, &pick(|e| &e.down))?,
        }))
    }

    pub(crate) fn count(&self) -> u32 {
        self.gate_up.shape.slots
    }
}

/// The router's weight.
#[derive(Debug)]
pub(crate) enum Router {
    Bf16(Buffer<bf16>),
    F32(Buffer<f32>),
}

impl Router {
    pub(crate) fn upload(stream: &Stream, values: &RouterValues) -> Result<Self> {
        let fail = || Error::device(UPLOAD);
        Ok(match values {
            RouterValues::Bf16(values) => {
                Self::Bf16(Buffer::from_slice(stream, values).map_err(fail())?)
            }
            RouterValues::F32(values) => {
                Self::F32(Buffer::from_slice(stream, values).map_err(fail())?)
            }
        })
    }

    pub(crate) fn view(&self) -> RouterWeight<'_> {
        match self {
            Self::Bf16(values) => RouterWeight::Bf16(values),
            Self::F32(values) => RouterWeight::F32(values),
        }
    }
}
