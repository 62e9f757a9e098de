//! Device data of one round, and comparisons that name the first difference.

use hadal::device::{Buffer, Stream};
use hadal::ep::EpError;
use hadal::ep::latency::{
    CombineInput, DispatchHandle, DispatchInput, LatencyBuffers, LatencyPlan, Output, Payload,
    ReceivedRows, Rows,
};
use hadal::memory::Bootstrap;
use half::bf16;

use super::model::{Case, Origin};
use crate::compare::same;
use crate::ranks::{context, on_ranks};

/// Elements behind every output that must keep their pattern.
const GUARD: usize = 64;
/// A NaN that no sum produces.
const GUARD_F32: u32 = 0x7fc5_a5a5;
const GUARD_BF16: u16 = 0x7fc5;

/// One rank in a case.
pub(crate) struct Rank<'a> {
    pub(crate) case: &'a Case,
    pub(crate) rank: u32,
    pub(crate) stream: Stream,
    pub(crate) buffers: LatencyBuffers,
}

impl<'a> Rank<'a> {
    pub(crate) fn new(case: &'a Case, bootstrap: &mut Bootstrap) -> Self {
        Self::with_plan(case, &LatencyPlan::new(case.desc()).unwrap(), bootstrap)
    }

    pub(crate) fn with_plan(case: &'a Case, plan: &LatencyPlan, side: &mut Bootstrap) -> Self {
        let rank = side.rank();
        let context = context(rank);
        Self {
            case,
            rank,
            stream: Stream::new(&context).unwrap(),
            buffers: LatencyBuffers::new(plan, side, &context).unwrap(),
        }
    }

    /// The device data of `round`.
    pub(crate) fn round(&self, round: u64) -> Round<'_> {
        Round::new(self, self.case, round)
    }

    /// The device data of the first round of a case of the same shape.
    pub(crate) fn round_of<'b>(&'b self, case: &'b Case) -> Round<'b> {
        Round::new(self, case, 0)
    }

    /// Dispatches, checks what arrives, combines, checks the sums.
    pub(crate) fn checked_round(&self, round: u64) {
        let mut data = self.round(round);
        let handle = data.dispatch().unwrap();
        self.synchronize();
        data.check_received(&handle);
        data.combine(handle).unwrap();
        self.synchronize();
        data.check_sums(|_| true);
    }

    pub(crate) fn synchronize(&self) {
        if let Err(error) = self.buffers.synchronize(&self.stream) {
            panic!("rank {}: {error}\n{:?}", self.rank, self.case);
        }
    }
}

/// Inputs and outputs of one rank in one round.
pub(crate) struct Round<'a> {
    at: &'a Rank<'a>,
    case: &'a Case,
    round: u64,
    codes: Buffer<u8>,
    values: Buffer<bf16>,
    scales: Buffer<f32>,
    topk_idx: Buffer<i32>,
    weights: Buffer<f32>,
    y: Buffer<bf16>,
    pub(crate) f32_sums: Buffer<f32>,
    bf16_sums: Buffer<bf16>,
}

impl<'a> Round<'a> {
    fn new(at: &'a Rank<'a>, case: &'a Case, round: u64) -> Self {
        let (rank, stream) = (at.rank, &at.stream);
        let rows = case.rows(round, rank);
        let values: Vec<bf16> = match case.payload {
            Payload::Fp8 => Vec::new(),
            Payload::Bf16 => rows
                .chunks(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]))
                .collect(),
        };
        let sums = case.tokens(round, rank) as usize * case.hidden as usize + GUARD;
        let upload = |data: &[f32]| Buffer::from_slice(stream, data).unwrap();
        Self {
            at,
            case,
            round,
            codes: Buffer::from_slice(stream, &rows).unwrap(),
            values: Buffer::from_slice(stream, &values).unwrap(),
            scales: upload(&case.scales(round, rank)),
            topk_idx: Buffer::from_slice(stream, &case.routing(round, rank)).unwrap(),
            weights: upload(&case.weights(round, rank)),
            y: Buffer::from_slice(stream, &Self::answers(at, case, round)).unwrap(),
            f32_sums: upload(&vec![f32::from_bits(GUARD_F32); sums]),
            bf16_sums: Buffer::from_slice(stream, &vec![bf16::from_bits(GUARD_BF16); sums])
                .unwrap(),
        }
    }

    /// The experts' answers in the received layout; NaN where no row is.
    fn answers(at: &Rank<'_>, case: &Case, round: u64) -> Vec<bf16> {
        let plan = at.buffers.plan();
        let (hidden, max_rows) = (case.hidden as usize, plan.max_rows as usize);
        let received = case.received(round, at.rank);
        let mut y = vec![bf16::NAN; received.len() * max_rows * hidden];
        let first = case.desc().first_expert(at.rank);
        for (expert, rows) in (0u32..).zip(&received) {
            for (row, &origin) in rows.iter().take(max_rows).enumerate() {
                let start = (expert as usize * max_rows + row) * hidden;
                let answer = case.answer(round, first + expert, origin);
                y[start..start + hidden].copy_from_slice(&answer);
            }
        }
        y
    }

    pub(crate) fn input(&self) -> DispatchInput<'_> {
        let rows = match self.case.payload {
            Payload::Fp8 => Rows::Fp8 {
                codes: &self.codes,
                scales: &self.scales,
            },
            Payload::Bf16 => Rows::Bf16(&self.values),
        };
        DispatchInput {
            first: 0,
            tokens: self.case.tokens(self.round, self.at.rank),
            rows,
            topk_idx: &self.topk_idx,
        }
    }

    pub(crate) fn set_routing(&mut self, entries: &[i32]) {
        self.topk_idx.copy_from(&self.at.stream, entries).unwrap();
    }

    /// Has the experts answer what they receive in the first round of `case`.
    pub(crate) fn answer_as(&mut self, case: &Case) {
        let answers = Self::answers(self.at, case, 0);
        self.y.copy_from(&self.at.stream, &answers).unwrap();
    }

    pub(crate) fn y(&self) -> &Buffer<bf16> {
        &self.y
    }

    pub(crate) fn dispatch(&self) -> Result<DispatchHandle, EpError> {
        self.at.buffers.dispatch(&self.at.stream, &self.input())
    }

    /// Combines into F32 in even rounds, into BF16 in odd ones.
    pub(crate) fn combine(&mut self, handle: DispatchHandle) -> Result<(), EpError> {
        self.combine_on(&self.at.stream, handle)
    }

    pub(crate) fn combine_on(
        &mut self,
        stream: &Stream,
        handle: DispatchHandle,
    ) -> Result<(), EpError> {
        let input = CombineInput {
            topk_idx: &self.topk_idx,
            weights: &self.weights,
        };
        let output = if self.round.is_multiple_of(2) {
            Output::F32(&mut self.f32_sums)
        } else {
            Output::Bf16(&mut self.bf16_sums)
        };
        handle.combine(stream, &self.y, &input, output)
    }

    pub(crate) fn place(&self) -> String {
        format!("rank {}, round {}", self.at.rank, self.round)
    }

    pub(crate) fn check_received(&self, handle: &DispatchHandle) {
        let (case, plan, stream) = (self.case, handle.plan(), &self.at.stream);
        let expected = case.received(self.round, self.at.rank);
        let received = handle.received();
        let counts: Vec<i32> = expected.iter().map(|rows| rows.len() as i32).collect();
        same(
            &self.place(),
            "counts",
            &received.counts.to_vec(stream).unwrap(),
            &counts,
        );
        let bytes: Vec<u8> = match &received.rows {
            ReceivedRows::Fp8(codes) => codes.to_vec(stream).unwrap(),
            ReceivedRows::Bf16(values) => {
                let values = values.to_vec(stream).unwrap();
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        };
        let scales = received.scales.to_vec(stream).unwrap();
        let source = received.source.to_vec(stream).unwrap();
        let row_bytes = plan.payload_bytes as usize;
        let inputs: Vec<_> = (0..case.ranks)
            .map(|r| (case.rows(self.round, r), case.scales(self.round, r)))
            .collect();
        for (expert, rows) in expected.iter().enumerate() {
            for (row, origin) in rows.iter().enumerate() {
                let what = format!("{}, local expert {expert}, row {row}", self.place());
                let slot = expert * plan.max_rows as usize + row;
                let found = source[slot];
                let found = (u32::from(found.rank), found.token, u32::from(found.k));
                assert_eq!(
                    found,
                    (origin.rank, origin.token, origin.k),
                    "{what}: source\n{case:?}"
                );
                let (sent, sent_scales) = &inputs[origin.rank as usize];
                let from = origin.token as usize * row_bytes;
                let found = &bytes[slot * row_bytes..(slot + 1) * row_bytes];
                same(&what, "byte", found, &sent[from..from + row_bytes]);
                let columns = plan.scales as usize;
                for column in 0..columns {
                    let at = (expert * columns + column) * plan.scale_rows as usize + row;
                    let sent = sent_scales[origin.token as usize * columns + column];
                    assert_eq!(
                        scales[at].to_bits(),
                        sent.to_bits(),
                        "{what}: scale {column}"
                    );
                }
            }
        }
    }

    /// Compares the sums over the experts that `counts` accepts, and the guard behind them.
    pub(crate) fn check_sums(&self, counts: impl Fn(u32) -> bool) {
        let (case, stream) = (self.case, &self.at.stream);
        let mut expected = case.sums(self.round, self.at.rank, counts);
        let what = format!("sum [token][{}]", case.hidden);
        if self.round.is_multiple_of(2) {
            let guarded = expected.len() + GUARD;
            expected.resize(guarded, f32::from_bits(GUARD_F32));
            let expected: Vec<u32> = expected.iter().map(|v| v.to_bits()).collect();
            let found = self.f32_sums.to_vec(stream).unwrap();
            let found: Vec<u32> = found.iter().map(|v| v.to_bits()).collect();
            same(&self.place(), &what, &found, &expected);
        } else {
            let rounded = expected.iter().map(|v| bf16::from_f32(*v).to_bits());
            let mut expected: Vec<u16> = rounded.collect();
            expected.resize(expected.len() + GUARD, GUARD_BF16);
            let found = self.bf16_sums.to_vec(stream).unwrap();
            let found: Vec<u16> = found.iter().map(|v| v.to_bits()).collect();
            same(&self.place(), &what, &found, &expected);
        }
    }

    /// Nothing was written to the sums.
    pub(crate) fn check_sums_untouched(&self) {
        let found = self.f32_sums.to_vec(&self.at.stream).unwrap();
        let found: Vec<u32> = found.iter().map(|v| v.to_bits()).collect();
        same(
            &self.place(),
            "untouched sum",
            &found,
            &vec![GUARD_F32; found.len()],
        );
    }
}

/// The F32 sums of a one-rank case whose batch is cut into `ranks` equal parts, in token order.
pub(crate) fn sums_of_batch(batch: &Case, ranks: u32) -> Vec<u32> {
    let part = batch.tokens[0] / ranks;
    let cut = Case {
        ranks,
        tokens: vec![part; ranks as usize],
        ..batch.clone()
    };
    let parts = on_ranks(ranks, |mut side| {
        let at = Rank::new(&cut, &mut side);
        let first = at.rank * part;
        let cut_of = |all: &[f32], columns: u32| {
            let start = (first * columns) as usize;
            all[start..start + (part * columns) as usize].to_vec()
        };
        let mut data = at.round(0);
        let routing = batch.routing(0, 0);
        let start = (first * batch.topk) as usize;
        data.set_routing(&routing[start..start + (part * batch.topk) as usize]);
        let weights = cut_of(&batch.weights(0, 0), batch.topk);
        data.weights.copy_from(&at.stream, &weights).unwrap();
        let handle = data.dispatch().unwrap();
        at.synchronize();
        // What each expert answers depends on the token's place in the batch only.
        let counts = handle.received().counts.to_vec(&at.stream).unwrap();
        let source = handle.received().source.to_vec(&at.stream).unwrap();
        let (hidden, max_rows) = (batch.hidden as usize, handle.plan().max_rows as usize);
        let mut y = vec![bf16::NAN; counts.len() * max_rows * hidden];
        let first_expert = cut.desc().first_expert(at.rank);
        for (expert, &count) in counts.iter().enumerate() {
            for row in 0..count.cast_unsigned() as usize {
                let slot = expert * max_rows + row;
                let origin = Origin {
                    rank: 0,
                    token: u32::from(source[slot].rank) * part + source[slot].token,
                    k: u32::from(source[slot].k),
                };
                let answer = batch.answer(0, first_expert + expert as u32, origin);
                y[slot * hidden..(slot + 1) * hidden].copy_from_slice(&answer);
            }
        }
        data.y.copy_from(&at.stream, &y).unwrap();
        data.combine(handle).unwrap();
        at.synchronize();
        let sums = data.f32_sums.to_vec(&at.stream).unwrap();
        let sums = &sums[..(part * batch.hidden) as usize];
        sums.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    });
    parts.concat()
}
