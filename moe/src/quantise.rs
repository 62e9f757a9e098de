//! BF16 experts to FP8 at load, on a device: E4M3 codes with one scale per 128×128 block, as published FP8 checkpoints have.

use crate::checkpoint::{ExpertWeights, LayerWeights, Projection, WeightValues};
use crate::config::{BLOCK, Config, WeightFormat};
use crate::error::{Error, Result};
use crate::layer::{memory, size};
use hadal::device::{Buffer, Stream};
use hadal::gemm::{Format, Shape};
use hadal::quant::{Quantise128x128, Quantise128x128Desc, Quantise128x128Plan, Scaling};

impl Config {
    /// The same layer with FP8 experts.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] where a width is no multiple of 128.
    pub fn with_fp8_experts(&self) -> Result<Self> {
        for (what, width) in [
            ("the width of a token", self.hidden),
            ("the width of an expert", self.intermediate),
        ] {
            if !width.is_multiple_of(BLOCK) {
                return Err(Error::Request {
                    what,
                    found: width.to_string(),
                    expected: "a multiple of 128 for FP8 experts".into(),
                });
            }
        }
        Ok(Self {
            weights: WeightFormat::Fp8,
            ..self.clone()
        })
    }
}

/// The experts, the shared one too, quantised on the stream's device; those that are FP8 stay.
///
/// # Errors
///
/// [`Error::Plan`] for widths that cannot be quantised, [`Error::Device`] for a failure of the device.
pub fn quantise(weights: &LayerWeights, stream: &Stream) -> Result<LayerWeights> {
    let expert = |expert: &ExpertWeights| {
        Ok(ExpertWeights {
            gate_up: projection(&expert.gate_up, stream)?,
            down: projection(&expert.down, stream)?,
        })
    };
    Ok(LayerWeights {
        layer: weights.layer,
        router: weights.router.clone(),
        bias: weights.bias.clone(),
        first_expert: weights.first_expert,
        experts: weights.experts.iter().map(expert).collect::<Result<_>>()?,
        shared: weights.shared.as_ref().map(expert).transpose()?,
    })
}

fn projection(projection: &Projection, stream: &Stream) -> Result<Projection> {
    let WeightValues::Bf16(values) = &projection.values else {
        return Ok(projection.clone());
    };
    let context = stream.context();
    let sms = context
        .multiprocessors()
        .map_err(Error::device("device attributes"))?;
    let plan = Quantise128x128Plan::new(Quantise128x128Desc {
        shape: Shape::matrix(size(projection.rows)?, size(projection.columns)?),
        format: Format::E4m3,
        scaling: Scaling::Exact,
        sms,
    });
    let plan = plan.map_err(Error::plan("plan of the quantisation of weights"))?;
    let count = usize::try_from(plan.scales).map_err(memory())?;
    let from = Buffer::from_slice(stream, values).map_err(memory())?;
    let mut codes = Buffer::<u8>::alloc(context, values.len()).map_err(memory())?;
    let mut scales = Buffer::<f32>::alloc(context, count).map_err(memory())?;
    Quantise128x128::new(context, plan)
        .and_then(|kernel| {
            let (codes, scales) = ((&mut codes).into(), (&mut scales).into());
            kernel.run(stream, (&from).into(), codes, scales)
        })
        .map_err(Error::device("quantisation of weights"))?;
    let fail = || Error::device("copy of quantised weights");
    Ok(Projection {
        rows: projection.rows,
        columns: projection.columns,
        values: WeightValues::Fp8 {
            codes: codes.to_vec(stream).map_err(fail())?,
            scales: scales.to_vec(stream).map_err(fail())?,
        },
    })
}
