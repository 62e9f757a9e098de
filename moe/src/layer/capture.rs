//! What the stages of a forward pass left on their devices, copied to the host for checking.

use super::MoeLayer;
use super::activations::{Input, copy};
use super::mlp::Mlp;
use crate::config::BLOCK;
use crate::error::{Error, Result};
use hadal::device::{Buffer, Stream};
use hadal::params::EpSource;
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
        /// `[rows, columns / 128]`.
        scales: Vec<f32>,
    },
    /// BF16.
    Bf16(Vec<bf16>),
}

/// One row; equal to another if all bits are.
#[derive(Debug, Clone, PartialEq)]
pub enum Row<'a> {
    /// Codes and scales.
    Fp8(&'a [u8], &'a [f32]),
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
                let blocks = self.columns / BLOCK;
                let scales = &scales[row * blocks..][..blocks];
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
    /// Token within that rank's micro-batch.
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

/// A routed expert on its rank, in one micro-batch.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertCapture {
    /// Global number.
    pub expert: usize,
    /// The micro-batch.
    pub part: usize,
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
    /// Its tokens by micro-batch, counted from its first.
    pub parts: Vec<Range<usize>>,
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

/// Copies, on the device, of what the calls since [`MoeLayer::keep_intermediates`] left.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The rank's tokens by micro-batch.
    pub(crate) parts: Vec<Range<u32>>,
    /// What its experts left, by micro-batch; none where it owns none.
    pub(crate) rounds: Vec<Round>,
}

/// One micro-batch.
#[derive(Debug)]
pub(crate) struct Round {
    /// Rows of each expert.
    pub(crate) counts: Buffer<i32>,
    /// Where the experts' rows begin; `None`: in slots.
    pub(crate) offsets: Option<Buffer<i32>>,
    pub(crate) source: Buffer<EpSource>,
    pub(crate) mlp: KeptMlp,
}

/// The three stages.
#[derive(Debug)]
pub(crate) struct KeptMlp {
    x: super::activations::Activations,
    gate_up: Buffer<bf16>,
    activated: super::activations::Activations,
    down: Buffer<bf16>,
}

impl KeptMlp {
    /// Enqueues copies of what the last run used and left, in one of its outputs.
    pub(crate) fn new(stream: &Stream, x: Input<'_>, mlp: &Mlp, output: usize) -> Result<Self> {
        Ok(Self {
            x: x.copy(stream)?,
            gate_up: copy(stream, &mlp.gate_up_out)?,
            activated: mlp.activated.input().copy(stream)?,
            down: copy(stream, &mlp.outputs[output])?,
        })
    }

    fn download(&self, stream: &Stream) -> Result<HostMlp> {
        Ok(HostMlp {
            x: Stack::download(stream, self.x.input())?,
            gate_up: download(stream, &self.gate_up)?,
            activated: Stack::download(stream, self.activated.input())?,
            down: download(stream, &self.down)?,
        })
    }
}

/// The same on the host.
struct HostMlp {
    x: Stack,
    gate_up: Vec<bf16>,
    activated: Stack,
    down: Vec<bf16>,
}

/// A stack of matrices; scales M-major.
enum Stack {
    Fp8(Vec<u8>, Vec<f32>),
    Bf16(Vec<bf16>),
}

/// Rows of one matrix of a stack of matrices of `height` rows.
#[derive(Clone, Copy)]
struct Place {
    matrix: usize,
    height: usize,
    first: usize,
    rows: usize,
}

impl Place {
    /// The rows in a buffer of the whole stack.
    fn range(self, columns: usize) -> Range<usize> {
        let first = (self.matrix * self.height + self.first) * columns;
        first..first + self.rows * columns
    }
}

impl Stack {
    fn download(stream: &Stream, input: Input<'_>) -> Result<Self> {
        Ok(match input {
            Input::Fp8 { codes, scales } => {
                Self::Fp8(download(stream, codes)?, download(stream, scales)?)
            }
            Input::Bf16(values) => Self::Bf16(download(stream, values)?),
        })
    }

    fn part(&self, place: Place, columns: usize) -> Activations {
        let values = match self {
            Self::Bf16(values) => ActivationValues::Bf16(values[place.range(columns)].to_vec()),
            Self::Fp8(codes, scales) => {
                let blocks = columns / BLOCK;
                let stride = place.height.next_multiple_of(4);
                let scale = |row: usize, block: usize| {
                    scales[(place.matrix * blocks + block) * stride + place.first + row]
                };
                let row = |row: usize| (0..blocks).map(move |block| scale(row, block));
                ActivationValues::Fp8 {
                    codes: codes[place.range(columns)].to_vec(),
                    scales: (0..place.rows).flat_map(row).collect(),
                }
            }
        };
        Activations {
            rows: place.rows,
            columns,
            values,
        }
    }
}

impl HostMlp {
    fn part(&self, place: Place, [hidden, intermediate]: [usize; 2]) -> MlpCapture {
        MlpCapture {
            x: self.x.part(place, hidden),
            gate_up: self.gate_up[place.range(2 * intermediate)].to_vec(),
            activated: self.activated.part(place, intermediate),
            down: self.down[place.range(hidden)].to_vec(),
        }
    }
}

impl MoeLayer {
    /// The intermediate results of the last call, which had these `tokens` of a batch, with `x` as its input. The call must
    /// have been preceded by [`Self::keep_intermediates`] and have ended.
    ///
    /// # Errors
    /// [`Error::Device`]: a copy failed.
    pub fn take_capture(
        &mut self,
        stream: &Stream,
        x: &Buffer<bf16>,
        tokens: Range<usize>,
    ) -> Result<RankCapture> {
        let kept = self.kept.take().unwrap_or_default();
        let config = &self.desc.config;
        let (count, hidden) = (tokens.len(), config.hidden);
        let values = match &self.tokens.quantised {
            None => ActivationValues::Bf16(first(download(stream, x)?, count * hidden)),
            Some(quantised) => ActivationValues::Fp8 {
                codes: first(download(stream, &quantised.codes)?, count * hidden),
                scales: first(
                    download(stream, &quantised.row_major)?,
                    count * (hidden / BLOCK),
                ),
            },
        };
        let mut experts = Vec::new();
        for (part, round) in kept.rounds.iter().enumerate() {
            experts.extend(self.round(stream, part, round)?);
        }
        let parts = kept.parts.into_iter();
        let parts = parts.map(|part| part.start as usize..part.end as usize);
        let entries = count * config.top_k;
        Ok(RankCapture {
            topk_indices: first(download(stream, &self.tokens.topk_indices)?, entries),
            topk_weights: first(download(stream, &self.tokens.topk_weights)?, entries),
            x: Activations {
                rows: count,
                columns: hidden,
                values,
            },
            parts: parts.collect(),
            experts,
            shared: self.shared_capture(stream, x, count)?,
            tokens,
        })
    }

    fn round(&self, stream: &Stream, part: usize, round: &Round) -> Result<Vec<ExpertCapture>> {
        let config = &self.desc.config;
        let counts = download(stream, &round.counts)?;
        let offsets = match &round.offsets {
            Some(offsets) => Some(download(stream, offsets)?),
            None => None,
        };
        let sources = download(stream, &round.source)?;
        let mlp = round.mlp.download(stream)?;
        let height = match offsets {
            Some(_) => sources.len(),
            None => sources.len() / counts.len().max(1),
        };
        let own = self.desc.experts(self.rank);
        let number = |value: i32| usize::try_from(value).unwrap_or(0);
        let place = |local: usize| Place {
            matrix: if offsets.is_some() { 0 } else { local },
            first: offsets.as_ref().map_or(0, |offsets| number(offsets[local])),
            rows: number(counts[local]),
            height,
        };
        let expert = |(local, expert): (usize, usize)| ExpertCapture {
            expert,
            part,
            sources: sources[place(local).range(1)].iter().map(source).collect(),
            mlp: mlp.part(place(local), [config.hidden, config.intermediate]),
        };
        Ok(own.enumerate().map(expert).collect())
    }

    fn shared_capture(
        &self,
        stream: &Stream,
        x: &Buffer<bf16>,
        rows: usize,
    ) -> Result<Option<MlpCapture>> {
        let Some(shared) = &self.shared else {
            return Ok(None);
        };
        let config = &self.desc.config;
        let kept = KeptMlp::new(stream, self.tokens.shared_input(x), shared, 0)?;
        let place = Place {
            matrix: 0,
            height: rows,
            first: 0,
            rows,
        };
        let widths = [config.hidden, config.shared * config.intermediate];
        Ok(Some(kept.download(stream)?.part(place, widths)))
    }
}

fn first<T>(mut values: Vec<T>, count: usize) -> Vec<T> {
    values.truncate(count);
    values
}

fn source(source: &EpSource) -> Source {
    Source {
        rank: source.rank.into(),
        token: source.token as usize,
        k: source.k.into(),
    }
}

fn download<T: bytemuck::Pod>(stream: &Stream, buffer: &Buffer<T>) -> Result<Vec<T>> {
    let values = buffer.to_vec(stream);
    values.map_err(Error::device("copy of intermediate results to the host"))
}
