//! Device data of one round, and comparisons that name the first difference.

use hadal::device::{Buffer, Stream};
use hadal::ep::EpError;
use hadal::ep::throughput::{
    DispatchHandle, DispatchInput, Output, Payload, ReceivedRows, Routing, Rows, ThroughputBuffers,
    ThroughputPlan,
};
use hadal::memory::Bootstrap;
use half::bf16;

use super::model::{Case, Origin};
use crate::compare::same;
use crate::ranks::context;

/// Elements behind the output that must keep their pattern: a NaN that no sum produces.
const GUARD: usize = 64;
const GUARD_F32: u32 = 0x7fc5_a5a5;
const GUARD_BF16: u16 = 0x7fc5;

/// One rank.
pub(crate) struct Rank {
    pub(crate) rank: u32,
    pub(crate) stream: Stream,
    pub(crate) buffers: ThroughputBuffers,
}

impl Rank {
    pub(crate) fn new(plan: &ThroughputPlan, side: &mut Bootstrap) -> Self {
        let rank = side.rank();
        let context = context(rank);
        Self {
            rank,
            stream: Stream::new(&context).unwrap(),
            buffers: ThroughputBuffers::new(plan, side, &context).unwrap(),
        }
    }

    /// The device data of a round of `case`.
    pub(crate) fn round<'a>(&'a self, case: &'a Case) -> Round<'a> {
        Round::new(self, case)
    }

    /// Dispatches, checks what arrives, combines, checks the sums.
    pub(crate) fn checked_round(&self, case: &Case) {
        let mut data = self.round(case);
        let handle = data.dispatch().unwrap();
        self.synchronize(case);
        data.check_received(&handle);
        data.combine(handle).unwrap();
        self.synchronize(case);
        data.check_sums(|_| true);
    }

    pub(crate) fn synchronize(&self, case: &Case) {
        if let Err(error) = self.buffers.synchronize(&self.stream) {
            panic!("rank {}: {error}\n{case:?}", self.rank);
        }
    }
}

/// Inputs and outputs of one rank in one round.
pub(crate) struct Round<'a> {
    at: &'a Rank,
    case: &'a Case,
    codes: Buffer<u8>,
    values: Buffer<bf16>,
    scales: Buffer<f32>,
    topk_idx: Buffer<i32>,
    weights: Buffer<f32>,
    y: Buffer<bf16>,
    sums: Buffer<f32>,
    bf16_sums: Buffer<bf16>,
}

impl<'a> Round<'a> {
    fn new(at: &'a Rank, case: &'a Case) -> Self {
        let (rank, stream) = (at.rank, &at.stream);
        let rows = case.rows(rank);
        let values = rows.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]));
        let values: Vec<bf16> = values.collect();
        let sums = case.tokens[rank as usize] as usize * case.hidden as usize + GUARD;
        let floats = |data: &[f32]| Buffer::from_slice(stream, data).unwrap();
        Self {
            at,
            case,
            codes: Buffer::from_slice(stream, &rows).unwrap(),
            values: Buffer::from_slice(stream, &values).unwrap(),
            scales: floats(&case.scales(rank)),
            topk_idx: Buffer::from_slice(stream, &case.routing(rank)).unwrap(),
            weights: floats(&case.weights(rank)),
            y: Buffer::from_slice(stream, &Self::answers(at, case)).unwrap(),
            sums: floats(&vec![f32::from_bits(GUARD_F32); sums]),
            bf16_sums: Buffer::from_slice(stream, &vec![bf16::from_bits(GUARD_BF16); sums])
                .unwrap(),
        }
    }

    /// The experts' answers in the received layout; NaN where no row is.
    fn answers(at: &Rank, case: &Case) -> Vec<bf16> {
        let hidden = case.hidden as usize;
        let received = case.received(at.rank);
        let mut y = vec![bf16::NAN; at.buffers.plan().max_rows as usize * hidden];
        let first = case.desc().first_expert(at.rank);
        let starts = case.offsets(&received);
        for ((expert, rows), &start) in (first..).zip(&received).zip(&starts) {
            for (row, &origin) in (start as usize..).zip(rows) {
                let Some(to) = y.get_mut(row * hidden..(row + 1) * hidden) else {
                    continue;
                };
                to.copy_from_slice(&case.answer(expert, origin));
            }
        }
        y
    }

    pub(crate) fn set_routing(&mut self, entries: &[i32]) {
        self.topk_idx.copy_from(&self.at.stream, entries).unwrap();
    }

    fn rows(&self) -> Rows<'_> {
        match self.case.payload {
            Payload::Fp8 => Rows::Fp8 {
                codes: &self.codes,
                scales: &self.scales,
            },
            Payload::Bf16 => Rows::Bf16(&self.values),
        }
    }

    /// Dispatches by the routing of an earlier round.
    pub(crate) fn dispatch_again(&self, routing: &Routing) -> Result<DispatchHandle, EpError> {
        routing.dispatch(&self.at.stream, self.rows())
    }

    pub(crate) fn dispatch(&self) -> Result<DispatchHandle, EpError> {
        let input = DispatchInput {
            first: 0,
            tokens: self.case.tokens[self.at.rank as usize],
            rows: self.rows(),
            topk_idx: &self.topk_idx,
            weights: &self.weights,
        };
        self.at.buffers.dispatch(&self.at.stream, &input)
    }

    /// Combines FP8 into F32, BF16 into BF16.
    pub(crate) fn combine(&mut self, handle: DispatchHandle) -> Result<(), EpError> {
        let output = match self.case.payload {
            Payload::Fp8 => Output::F32(&mut self.sums),
            Payload::Bf16 => Output::Bf16(&mut self.bf16_sums),
        };
        handle.combine(&self.at.stream, &self.y, output)
    }

    fn place(&self) -> String {
        format!("{:?}, rank {}", self.case, self.at.rank)
    }

    pub(crate) fn check_received(&self, handle: &DispatchHandle) {
        let expected = self.case.received(self.at.rank);
        let starts = self.case.offsets(&expected);
        self.check_groups(handle, &expected, &starts);
        self.check_rows(handle, &expected, &starts);
    }

    fn check_groups(&self, handle: &DispatchHandle, expected: &[Vec<Origin>], starts: &[u32]) {
        let (received, stream, place) = (handle.received(), &self.at.stream, self.place());
        let counts: Vec<i32> = expected.iter().map(|rows| rows.len() as i32).collect();
        same(
            &place,
            "count",
            &received.counts.to_vec(stream).unwrap(),
            &counts,
        );
        let offsets: Vec<i32> = starts.iter().map(|start| start.cast_signed()).collect();
        same(
            &place,
            "offset",
            &received.offsets.to_vec(stream).unwrap(),
            &offsets,
        );
        let mut index = vec![-1; handle.plan().max_rows as usize];
        for ((local, rows), &start) in (0i32..).zip(expected).zip(starts) {
            index[start as usize..start as usize + rows.len()].fill(local);
        }
        same(
            &place,
            "index",
            &received.index.to_vec(stream).unwrap(),
            &index,
        );
    }

    fn check_rows(&self, handle: &DispatchHandle, expected: &[Vec<Origin>], starts: &[u32]) {
        let (case, plan, stream) = (self.case, handle.plan(), &self.at.stream);
        let (received, place) = (handle.received(), self.place());
        let bytes: Vec<u8> = match &received.rows {
            ReceivedRows::Fp8(codes) => codes.to_vec(stream).unwrap(),
            ReceivedRows::Bf16(values) => {
                let values = values.to_vec(stream).unwrap();
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        };
        let scales = received.scales.to_vec(stream).unwrap();
        let source = received.source.to_vec(stream).unwrap();
        let weights = received.weights.to_vec(stream).unwrap();
        let row_bytes = plan.payload_bytes as usize;
        let columns = case.columns() as usize;
        let inputs = (0..case.ranks()).map(|r| (case.rows(r), case.scales(r), case.weights(r)));
        let inputs: Vec<_> = inputs.collect();
        for (rows, &start) in expected.iter().zip(starts) {
            for (row, origin) in (start as usize..).zip(rows) {
                let found = source[row];
                let found = (u32::from(found.rank), found.token, u32::from(found.k));
                let sent = (origin.rank, origin.token, origin.k);
                assert_eq!(found, sent, "{place}: source of row {row}");
                let what = || format!("{place}: row {row} from {origin:?}");
                let (codes, sent_scales, sent_weights) = &inputs[origin.rank as usize];
                let from = origin.token as usize * row_bytes;
                let found = &bytes[row * row_bytes..(row + 1) * row_bytes];
                let sent = &codes[from..from + row_bytes];
                if found != sent {
                    same(&what(), "byte", found, sent);
                }
                let entry = (origin.token * case.topk + origin.k) as usize;
                let (found, sent) = (weights[row].to_bits(), sent_weights[entry].to_bits());
                assert_eq!(found, sent, "{}: weight", what());
                for column in 0..columns {
                    let found = scales[column * plan.scale_rows as usize + row];
                    let sent = sent_scales[origin.token as usize * columns + column];
                    assert_eq!(
                        found.to_bits(),
                        sent.to_bits(),
                        "{}: scale {column}",
                        what()
                    );
                }
            }
        }
    }

    /// Compares the sums over the ranks that `counts` accepts, and the guard behind them.
    pub(crate) fn check_sums(&self, counts: impl Fn(u32) -> bool) {
        let (expected, stream) = (self.case.sums(self.at.rank, counts), &self.at.stream);
        match self.case.payload {
            Payload::Fp8 => {
                let mut expected: Vec<u32> = expected.iter().map(|v| v.to_bits()).collect();
                expected.resize(expected.len() + GUARD, GUARD_F32);
                let found = self.sums.to_vec(stream).unwrap();
                let found: Vec<u32> = found.iter().map(|v| v.to_bits()).collect();
                same(&self.place(), "sum", &found, &expected);
            }
            Payload::Bf16 => {
                let rounded = expected.iter().map(|v| bf16::from_f32(*v).to_bits());
                let mut expected: Vec<u16> = rounded.collect();
                expected.resize(expected.len() + GUARD, GUARD_BF16);
                let found = self.bf16_sums.to_vec(stream).unwrap();
                let found: Vec<u16> = found.iter().map(|v| v.to_bits()).collect();
                same(&self.place(), "rounded sum", &found, &expected);
            }
        }
    }
}
