//! A batch in several rounds, under a cap of memory: the bits are those of one round.

use hadal::device::{Buffer, Stream};
use hadal::ep::{latency, throughput};
use half::bf16;

use crate::cases::Routing;
use crate::compare::same;
use crate::latency::model as latency_model;
use crate::ranks::{context, on_ranks};
use crate::throughput::model as throughput_model;

/// Tokens of a rank that come after row `first`, in a round of `most`.
fn chunk(tokens: u32, first: u32, most: u32) -> u32 {
    tokens.saturating_sub(first).min(most)
}

/// The experts' answers to what a round has received, `before` tokens of each rank ahead of it.
fn latency_answers(
    case: &latency_model::Case,
    (rank, handle): (u32, &latency::DispatchHandle),
    stream: &Stream,
    before: u32,
) -> Vec<bf16> {
    let counts = handle.received().counts.to_vec(stream).unwrap();
    let source = handle.received().source.to_vec(stream).unwrap();
    let (hidden, max_rows) = (case.hidden as usize, handle.plan().max_rows as usize);
    let mut y = vec![bf16::NAN; counts.len() * max_rows * hidden];
    let first_expert = case.desc().first_expert(rank);
    for (expert, &count) in counts.iter().enumerate() {
        let first = expert * max_rows;
        for slot in first..first + count.unsigned_abs() as usize {
            let from = latency_model::Origin {
                rank: source[slot].rank.into(),
                token: source[slot].token + before,
                k: source[slot].k.into(),
            };
            let answer = case.answer(0, first_expert + expert as u32, from);
            y[slot * hidden..(slot + 1) * hidden].copy_from_slice(&answer);
        }
    }
    y
}

/// The same in throughput mode.
fn throughput_answers(
    case: &throughput_model::Case,
    (rank, handle): (u32, &throughput::DispatchHandle),
    stream: &Stream,
    before: u32,
) -> Vec<bf16> {
    let index = handle.received().index.to_vec(stream).unwrap();
    let source = handle.received().source.to_vec(stream).unwrap();
    let hidden = case.hidden as usize;
    let mut y = vec![bf16::NAN; index.len() * hidden];
    let first_expert = case.desc().first_expert(rank);
    for (row, &local) in index.iter().enumerate() {
        let Ok(local) = u32::try_from(local) else {
            continue;
        };
        let from = throughput_model::Origin {
            rank: source[row].rank.into(),
            token: source[row].token + before,
            k: source[row].k.into(),
        };
        let answer = case.answer(first_expert + local, from);
        y[row * hidden..(row + 1) * hidden].copy_from_slice(&answer);
    }
    y
}

#[test]
fn latency_mode_under_a_cap() {
    use latency::{CombineInput, DispatchInput, LatencyBuffers, LatencyPlan, Output, Rows};
    use latency_model::{Case, Routing};
    let case = Case {
        ranks: 3,
        experts: 7,
        topk: 3,
        hidden: 144,
        payload: latency::Payload::Fp8,
        combine: latency::Payload::Fp8,
        routing: Routing::Holes,
        tokens: vec![23, 4, 0],
        rounds: 1,
        seed: 31,
        tight: false,
    };
    let whole = LatencyPlan::new(case.desc()).unwrap();
    let plan = LatencyPlan::within(case.desc(), whole.bytes() / 4).unwrap();
    let rounds = plan.rounds(23);
    assert!(rounds >= 4, "{plan:?}");
    on_ranks(case.ranks, |mut side| {
        let rank = side.rank();
        let context = context(rank);
        let stream = Stream::new(&context).unwrap();
        let buffers = LatencyBuffers::new(&plan, &mut side, &context).unwrap();
        let codes = Buffer::from_slice(&stream, &case.rows(0, rank)).unwrap();
        let scales = Buffer::from_slice(&stream, &case.scales(0, rank)).unwrap();
        let topk_idx = Buffer::from_slice(&stream, &case.routing(0, rank)).unwrap();
        let weights = Buffer::from_slice(&stream, &case.weights(0, rank)).unwrap();
        let len = (case.tokens[rank as usize] * case.hidden) as usize;
        let mut sums = Buffer::<f32>::zeroed(&stream, len).unwrap();
        for round in 0..rounds {
            let first = (round * plan.desc.max_tokens).min(case.tokens[rank as usize]);
            let input = DispatchInput {
                first,
                tokens: chunk(case.tokens[rank as usize], first, plan.desc.max_tokens),
                rows: Rows::Fp8 {
                    codes: &codes,
                    scales: &scales,
                },
                topk_idx: &topk_idx,
            };
            let handle = buffers.dispatch(&stream, &input).unwrap();
            buffers.synchronize(&stream).unwrap();
            let before = round * plan.desc.max_tokens;
            let y = latency_answers(&case, (rank, &handle), &stream, before);
            let y = Buffer::from_slice(&stream, &y).unwrap();
            let input = CombineInput {
                topk_idx: &topk_idx,
                weights: &weights,
            };
            let output = Output::F32(&mut sums);
            handle.combine(&stream, &y, &input, output).unwrap();
            buffers.synchronize(&stream).unwrap();
        }
        let found = sums.to_vec(&stream).unwrap();
        let expected = case.sums(0, rank, |_| true);
        let bits = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        same(
            &format!("rank {rank}"),
            "sum",
            &bits(&found),
            &bits(&expected),
        );
    });
}

#[test]
fn throughput_mode_under_a_cap() {
    use throughput::{
        DispatchInput, Output, Payload, Reduce, Rows, ThroughputBuffers, ThroughputPlan,
    };
    use throughput_model::Case;
    let case = Case {
        experts: 7,
        topk: 3,
        hidden: 144,
        payload: Payload::Fp8,
        reduce: Reduce::PerRank,
        routing: Routing::Drops,
        alignment: 4,
        tokens: vec![0, 40, 9],
        seed: 32,
    };
    let whole = ThroughputPlan::new(case.desc()).unwrap();
    let plan = ThroughputPlan::within(case.desc(), whole.bytes() / 4).unwrap();
    let rounds = plan.rounds(40);
    assert!(rounds >= 4, "{plan:?}");
    on_ranks(case.ranks(), |mut side| {
        let rank = side.rank();
        let context = context(rank);
        let stream = Stream::new(&context).unwrap();
        let buffers = ThroughputBuffers::new(&plan, &mut side, &context).unwrap();
        let codes = Buffer::from_slice(&stream, &case.rows(rank)).unwrap();
        let scales = Buffer::from_slice(&stream, &case.scales(rank)).unwrap();
        let topk_idx = Buffer::from_slice(&stream, &case.routing(rank)).unwrap();
        let weights = Buffer::from_slice(&stream, &case.weights(rank)).unwrap();
        let len = (case.tokens[rank as usize] * case.hidden) as usize;
        let mut sums = Buffer::<f32>::zeroed(&stream, len).unwrap();
        for round in 0..rounds {
            let first = (round * plan.desc.max_tokens).min(case.tokens[rank as usize]);
            let input = DispatchInput {
                first,
                tokens: chunk(case.tokens[rank as usize], first, plan.desc.max_tokens),
                rows: Rows::Fp8 {
                    codes: &codes,
                    scales: &scales,
                },
                topk_idx: &topk_idx,
                weights: &weights,
            };
            let handle = buffers.dispatch(&stream, &input).unwrap();
            buffers.synchronize(&stream).unwrap();
            let before = round * plan.desc.max_tokens;
            let y = throughput_answers(&case, (rank, &handle), &stream, before);
            let y = Buffer::from_slice(&stream, &y).unwrap();
            handle.combine(&stream, &y, Output::F32(&mut sums)).unwrap();
            buffers.synchronize(&stream).unwrap();
        }
        let found = sums.to_vec(&stream).unwrap();
        let expected = case.sums(rank, |_| true);
        let bits = |all: &[f32]| all.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        same(
            &format!("rank {rank}"),
            "sum",
            &bits(&found),
            &bits(&expected),
        );
    });
}
