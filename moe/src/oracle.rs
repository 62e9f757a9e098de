//! The layer in full precision, from a checkpoint's weights and BF16 tokens.

use crate::checkpoint::{ExpertWeights, LayerWeights, Projection, WeightValues};
use crate::config::Config;
use hadal::moe::{GroupWorth, Scores};
use hadal_reference::layer::{self, Expert, Weight};
use hadal_reference::route::{Choice, Router};
use half::bf16;

/// Full-precision result.
#[derive(Debug, Clone)]
pub struct FullPrecision {
    /// `[tokens, hidden]`.
    pub output: Vec<f32>,
    /// Routing per token.
    pub choices: Vec<Choice>,
}

/// The routing rule of a configuration.
#[must_use]
pub fn router(config: &Config) -> Router {
    let routing = config.routing;
    Router {
        experts: config.experts,
        top_k: config.top_k,
        groups: routing.groups,
        top_groups: routing.top_groups,
        softmax: routing.scores == Scores::Softmax,
        group_best: routing.group_worth == GroupWorth::Best,
        normalise: routing.normalise,
        scaling: f64::from(routing.scaling),
    }
}

/// The correction bias, zero where there is none.
#[must_use]
pub fn bias(config: &Config, weights: &LayerWeights) -> Vec<f64> {
    match &weights.bias {
        Some(bias) => bias.iter().map(|&b| b.into()).collect(),
        None => vec![0.0; config.experts],
    }
}

/// Runs the layer with dequantised weights and unquantised activations.
#[must_use]
pub fn full_precision(config: &Config, weights: &LayerWeights, input: &[bf16]) -> FullPrecision {
    let tokens: Vec<Vec<f32>> = input
        .chunks_exact(config.hidden)
        .map(|row| row.iter().map(|v| v.to_f32()).collect())
        .collect();
    let router_weight = weights.router.to_f32();
    let bias = bias(config, weights);
    let experts: Vec<Expert> = weights.experts.iter().map(dequantise).collect();
    let shared = weights.shared.as_ref().map(dequantise);
    let routing = (&router(config), router_weight.as_slice(), bias.as_slice());
    let results = layer::forward(&tokens, routing, &experts, shared.as_ref());
    let (choices, outputs): (Vec<Choice>, Vec<Vec<f32>>) = results.into_iter().unzip();
    FullPrecision {
        output: outputs.concat(),
        choices,
    }
}

fn dequantise(expert: &ExpertWeights) -> Expert {
    let weight = |p: &Projection| match &p.values {
        WeightValues::Fp8 { codes, scales } => Weight::from_fp8(codes, scales, p.rows, p.columns),
        WeightValues::Bf16(values) => Weight {
            rows: p.rows,
            columns: p.columns,
            values: values.iter().map(|v| v.to_f32()).collect(),
        },
    };
    let mut gate = weight(&expert.gate_up);
    let up = gate.values.split_off(gate.values.len() / 2);
    gate.rows /= 2;
    let up = Weight {
        rows: gate.rows,
        columns: gate.columns,
        values: up,
    };
    Expert {
        gate,
        up,
        down: weight(&expert.down),
    }
}
