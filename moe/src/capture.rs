//! What the stages of a forward pass left on their devices, copied to the host for checking.

use half::bf16;
use std::ops::Range;

/// A quantised matrix: E4M3 codes with one scale per row and 128 columns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quantised {
    /// Rows in use.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `[rows, columns]`.
    pub codes: Vec<u8>,
    /// As on the device.
    pub scales: Scales,
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

impl Default for Scales {
    fn default() -> Self {
        Self::RowMajor(Vec::new())
    }
}

impl Quantised {
    /// Codes and scales of a row.
    #[must_use]
    pub fn row(&self, row: usize) -> (&[u8], Vec<f32>) {
        let blocks = self.columns / crate::config::BLOCK;
        let scales = match &self.scales {
            Scales::RowMajor(values) => values[row * blocks..][..blocks].to_vec(),
            Scales::MMajor { values, stride } => (0..blocks)
                .map(|block| values[block * stride + row])
                .collect(),
        };
        (&self.codes[row * self.columns..][..self.columns], scales)
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
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MlpCapture {
    /// Its input `[rows, hidden]`.
    pub x: Quantised,
    /// BF16 `[rows, 2·intermediate]`.
    pub gate_up: Vec<bf16>,
    /// `[rows, intermediate]`.
    pub activated: Quantised,
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
    /// Its quantised tokens.
    pub x: Quantised,
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
