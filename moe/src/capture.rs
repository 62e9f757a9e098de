//! What the stages of a forward pass left on their devices, copied to the host for checking.

use half::bf16;
use std::ops::Range;

/// A matrix of activations as a GEMM reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Activations {
    /// Rows in use.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `[rows, columns]`.
    pub values: ActivationValues,
}

/// How activations are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum ActivationValues {
    /// E4M3 with one scale per row and 128 columns.
    Fp8 {
        /// The codes.
        codes: Vec<u8>,
        /// As on the device.
        scales: Scales,
    },
    /// BF16.
    Bf16(Vec<bf16>),
}

/// Scales in one of the two layouts.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// `[rows, columns / 128]`.
    RowMajor(Vec<f32>),
    /// `[columns / 128, stride]` with `stride` ≥ rows.
    MMajor {
        /// Values.
        values: Vec<f32>,
        /// Distance of two blocks of columns.
        stride: usize,
    },
}

/// One row; equal to another if all bits are.
#[derive(Debug, Clone, PartialEq)]
pub enum Row<'a> {
    /// Codes and scales.
    Fp8(&'a [u8], Vec<f32>),
    /// BF16 bits.
    Bf16(&'a [u16]),
}

impl Activations {
    /// A row.
    #[must_use]
    pub fn row(&self, row: usize) -> Row<'_> {
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.values {
            ActivationValues::Bf16(values) => Row::Bf16(bytemuck::cast_slice(&values[range])),
            ActivationValues::Fp8 { codes, scales } => {
                let blocks = self.columns / crate::config::BLOCK;
                let scales = match scales {
                    Scales::RowMajor(values) => values[row * blocks..][..blocks].to_vec(),
                    Scales::MMajor { values, stride } => (0..blocks)
                        .map(|block| values[block * stride + row])
                        .collect(),
                };
                Row::Fp8(&codes[range], scales)
            }
        }
    }
}

/// Where a received row came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Rank of the token.
    pub rank: usize,
    /// Token within that rank.
    pub token: usize,
    /// Which of the token's choices.
    pub k: usize,
}

/// The three stages of an expert.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpCapture {
    /// Its input `[rows, hidden]`.
    pub x: Activations,
    /// BF16 `[rows, 2·intermediate]`.
    pub gate_up: Vec<bf16>,
    /// `[rows, intermediate]`.
    pub activated: Activations,
    /// BF16 `[rows, hidden]`.
    pub down: Vec<bf16>,
}

/// A routed expert on its rank.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertCapture {
    /// Global number.
    pub expert: usize,
    /// Source of every received row.
    pub sources: Vec<Source>,
    /// The received rows and what became of them.
    pub mlp: MlpCapture,
}

/// One rank.
#[derive(Debug, Clone, PartialEq)]
pub struct RankCapture {
    /// Which tokens of the batch it had.
    pub tokens: Range<usize>,
    /// `[tokens, top_k]`.
    pub topk_indices: Vec<i32>,
    /// `[tokens, top_k]`.
    pub topk_weights: Vec<f32>,
    /// Its tokens as they are dispatched.
    pub x: Activations,
    /// Its experts.
    pub experts: Vec<ExpertCapture>,
    /// The shared expert on its tokens.
    pub shared: Option<MlpCapture>,
}

/// All ranks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerCapture {
    /// By rank.
    pub ranks: Vec<RankCapture>,
}
