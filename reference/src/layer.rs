//! The whole layer in full precision: dequantised weights, unquantised activations.

use crate::fp8::e4m3_to_f64;
use crate::route::{Choice, Router};
use crate::swiglu::swiglu;
use rayon::prelude::*;

/// Edge of a weight's scale block.
const BLOCK: usize = 128;

/// Dequantised weight `[rows, columns]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub columns: usize,
    /// Values.
    pub values: Vec<f32>,
}

impl Weight {
    /// From E4M3 codes and 128×128 `weight_scale_inv` blocks, both row-major.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "E4M3 values are exact in f32"
    )]
    pub fn from_fp8(codes: &[u8], scales: &[f32], rows: usize, columns: usize) -> Self {
        let table: Vec<f32> = (0..=u8::MAX).map(|c| e4m3_to_f64(c) as f32).collect();
        let blocks = columns.div_ceil(BLOCK);
        let values = codes
            .iter()
            .enumerate()
            .map(|(i, &code)| {
                let (row, column) = (i / columns, i % columns);
                table[usize::from(code)] * scales[row / BLOCK * blocks + column / BLOCK]
            })
            .collect();
        Self {
            rows,
            columns,
            values,
        }
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        self.values
            .chunks_exact(self.columns)
            .map(|row| dot(row, x))
            .collect()
    }
}

/// f64 sum of f32 products in eight running sums.
#[expect(clippy::cast_possible_truncation, reason = "results are stored as f32")]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f64; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = (a_chunks.remainder().iter().zip(b_chunks.remainder()))
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    (sums.iter().sum::<f64>() + tail) as f32
}

/// Weights of one expert.
#[derive(Debug, Clone, PartialEq)]
pub struct Expert {
    /// `gate_proj`: [intermediate, hidden].
    pub gate: Weight,
    /// `up_proj`: [intermediate, hidden].
    pub up: Weight,
    /// `down_proj`: [hidden, intermediate].
    pub down: Weight,
}

impl Expert {
    /// Output for one token.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "activations are kept as f32"
    )]
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (gate, up) = (self.gate.apply(x), self.up.apply(x));
        let hidden: Vec<f32> = gate
            .iter()
            .zip(&up)
            .map(|(&g, &u)| swiglu(g.into(), u.into(), f64::INFINITY) as f32)
            .collect();
        self.down.apply(&hidden)
    }
}

/// Logits of a token: `router[e]·x`, f64 sums.
#[must_use]
pub fn logits(x: &[f32], router: &[f32], experts: usize) -> Vec<f64> {
    let hidden = x.len();
    (0..experts)
        .map(|e| {
            let row = &router[e * hidden..][..hidden];
            x.iter()
                .zip(row)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        })
        .collect()
}

/// The layer's output for every token: the routed experts' weighted sum plus the shared expert.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the published output is f32"
)]
pub fn forward(
    tokens: &[Vec<f32>],
    (router, router_weight, bias): (&Router, &[f32], &[f64]),
    experts: &[Expert],
    shared: Option<&Expert>,
) -> Vec<(Choice, Vec<f32>)> {
    tokens
        .par_iter()
        .map(|x| {
            let choice = router.choose(&logits(x, router_weight, router.experts), bias);
            let mut output = vec![0f64; x.len()];
            for (&expert, &weight) in choice.experts.iter().zip(&choice.weights) {
                for (o, y) in output.iter_mut().zip(experts[expert].apply(x)) {
                    *o += weight * f64::from(y);
                }
            }
            for (o, y) in output
                .iter_mut()
                .zip(shared.map(|s| s.apply(x)).unwrap_or_default())
            {
                *o += f64::from(y);
            }
            (choice, output.into_iter().map(|o| o as f32).collect())
        })
        .collect()
}
