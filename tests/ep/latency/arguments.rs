//! What is refused before anything is launched.

use hadal::device::{Buffer, Context, Stream};
use hadal::ep::EpError;
use hadal::ep::latency::{
    CombineInput, DispatchInput, LatencyBuffers, LatencyPlan, Output, Payload, Rows,
};
use hadal::memory::MemoryError;

use super::harness::Rank;
use super::model::{Case, Routing};
use crate::ranks::{context, on_ranks};

fn case() -> Case {
    Case {
        ranks: 1,
        experts: 4,
        topk: 2,
        hidden: 128,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        routing: Routing::Spread,
        tokens: vec![3],
        rounds: 1,
        seed: 9,
        tight: false,
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, EpError>) -> &'static str {
    match result {
        Err(EpError::Argument { what, .. }) => what,
        other => panic!("expected a refused argument, got {other:?}"),
    }
}

#[test]
fn dispatch_names_the_argument_and_begins_nothing() {
    let case = case();
    on_ranks(1, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let (stream, buffers) = (&rank.stream, &rank.buffers);
        let codes = Buffer::<u8>::zeroed(stream, 3 * 128).unwrap();
        let scales = Buffer::<f32>::zeroed(stream, 3).unwrap();
        let values = Buffer::zeroed(stream, 3 * 128).unwrap();
        let topk_idx = Buffer::<i32>::zeroed(stream, 6).unwrap();
        let short = Buffer::<i32>::zeroed(stream, 5).unwrap();
        let rows = Rows::Fp8 {
            codes: &codes,
            scales: &scales,
        };
        let good = DispatchInput {
            first: 0,
            tokens: 3,
            rows,
            topk_idx: &topk_idx,
        };
        let dispatch = |input| refused(buffers.dispatch(stream, &input));
        assert_eq!(dispatch(DispatchInput { tokens: 4, ..good }), "tokens");
        assert_eq!(
            dispatch(DispatchInput {
                rows: Rows::Bf16(&values),
                ..good
            }),
            "rows"
        );
        assert_eq!(
            dispatch(DispatchInput {
                topk_idx: &short,
                ..good
            }),
            "topk_idx"
        );
        let other = Context::new(0).unwrap();
        let foreign = Buffer::<f32>::alloc(&other, 3).unwrap();
        let rows = Rows::Fp8 {
            codes: &codes,
            scales: &foreign,
        };
        assert_eq!(dispatch(DispatchInput { rows, ..good }), "scales");
        rank.checked_round(0);
    });
}

#[test]
fn a_third_open_round_is_refused_and_combine_keeps_the_order() {
    let case = case();
    on_ranks(1, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let (first, mut second) = (rank.round(0), rank.round(1));
        let older = first.dispatch().unwrap();
        let younger = second.dispatch().unwrap();
        let busy = rank.round(2).dispatch().unwrap_err();
        assert_eq!(busy, EpError::Busy { open: vec![1, 2] });
        match second.combine(younger) {
            Err(EpError::OutOfOrder {
                epoch: 2, next: 1, ..
            }) => {}
            other => panic!("{other:?}"),
        }
        drop(older);
        // Both were abandoned: all is in step again.
        rank.synchronize();
        rank.checked_round(2);
    });
}

#[test]
fn combine_wants_the_routing_of_its_dispatch_and_room() {
    let case = case();
    on_ranks(1, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let stream = &rank.stream;
        let weights = Buffer::<f32>::zeroed(stream, 6).unwrap();
        let mut out = Buffer::<f32>::zeroed(stream, 3 * 128).unwrap();
        let mut small = Buffer::<f32>::zeroed(stream, 3 * 128 - 1).unwrap();
        let routing = Buffer::from_slice(stream, &case.routing(0, 0)).unwrap();
        let other = Buffer::from_slice(stream, &case.routing(0, 0)).unwrap();
        let round = rank.round(0);
        let dispatch = || {
            let input = DispatchInput {
                topk_idx: &routing,
                ..round.input()
            };
            rank.buffers.dispatch(stream, &input).unwrap()
        };
        let input = |topk_idx| CombineInput {
            topk_idx,
            weights: &weights,
        };
        let to = Output::F32(&mut out);
        assert_eq!(
            refused(dispatch().combine(stream, round.y(), &input(&other), to)),
            "topk_idx"
        );
        let to = Output::F32(&mut small);
        assert_eq!(
            refused(dispatch().combine(stream, round.y(), &input(&routing), to)),
            "output"
        );
        let y = Buffer::zeroed(stream, 1).unwrap();
        assert_eq!(refused(dispatch().combine_begin(stream, &y)), "y");
        rank.synchronize();
        rank.checked_round(0);
    });
}

#[test]
fn ranks_must_agree() {
    let case = Case {
        ranks: 2,
        tokens: vec![3, 3],
        ..case()
    };
    let errors = on_ranks(2, |mut side| {
        let mut desc = case.desc();
        desc.max_tokens += side.rank();
        let plan = LatencyPlan::new(desc).unwrap();
        let context = context(side.rank());
        LatencyBuffers::new(&plan, &mut side, &context).unwrap_err()
    });
    for (rank, error) in (0u32..).zip(errors) {
        match error {
            EpError::Memory(MemoryError::Disagreement { rank: other, .. }) => {
                assert_eq!(other, 1 - rank);
            }
            other => panic!("{other:?}"),
        }
    }
    let plan = LatencyPlan::new(case.desc()).unwrap();
    let error = on_ranks(1, |mut side| {
        LatencyBuffers::new(&plan, &mut side, &context(0)).unwrap_err()
    });
    assert!(
        matches!(error[0], EpError::Desc { field: "ranks", .. }),
        "{error:?}"
    );
}

#[test]
fn a_stream_of_another_context_is_refused() {
    let case = case();
    on_ranks(1, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let round = rank.round(0);
        let other = Context::new(0).unwrap();
        let stream = Stream::new(&other).unwrap();
        let error = rank.buffers.dispatch(&stream, &round.input()).unwrap_err();
        assert!(matches!(error, EpError::Device(_)), "{error}");
    });
}
