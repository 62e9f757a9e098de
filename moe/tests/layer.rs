//! The layer as an engine uses it: several ranks in one process, captured decode, overlap, and refusals.
#![expect(
    unsafe_code,
    reason = "launches a graph, and asks the driver for the memory in use"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "test data: values are small"
)]

use hadal::device::{Buffer, Context, Stream};
use hadal::memory::Bootstrap;
use hadal_moe::checkpoint::Checkpoint;
use hadal_moe::config::{Config, WeightFormat};
use hadal_moe::error::Error;
use hadal_moe::family::{Family, Routing};
use hadal_moe::layer::timeline::{Lane, Span};
use hadal_moe::layer::{LayerDesc, MoeLayer, Output};
use hadal_moe::seeded;
use half::bf16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HIDDEN: usize = 256;

fn config() -> Config {
    Config {
        family: Family::DeepseekV3,
        hidden: HIDDEN,
        intermediate: 128,
        experts: 16,
        shared: 1,
        top_k: 4,
        routing: Routing {
            groups: 4,
            top_groups: 2,
            ..Family::DeepseekV3.routing()
        },
        weights: WeightFormat::Fp8,
    }
}

/// Rows that differ by seed.
fn rows(seed: usize, count: usize) -> Vec<bf16> {
    let value = |i: usize| (((i * 7919 + seed * 104_729) % 8191) as f32 / 4096.0 - 1.0) * 1.7;
    (0..count * HIDDEN)
        .map(|i| bf16::from_f32(value(i)))
        .collect()
}

/// A rank's side of a test.
struct Rank {
    rank: usize,
    context: Arc<Context>,
    stream: Stream,
    layer: MoeLayer,
    side: Bootstrap,
}

/// Runs `test` on every rank of a layer, each on a thread of its own, and returns what they say.
fn on_ranks<T: Send>(desc: &LayerDesc, test: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    seeded::write(folder.path(), &desc.config, 0, 9).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("valid");
    let sides = Bootstrap::in_process(desc.ranks).expect("a bootstrap");
    std::thread::scope(|scope| {
        let start = |mut bootstrap: Bootstrap| {
            let (checkpoint, test) = (&checkpoint, &test);
            scope.spawn(move || {
                let context = Context::new(bootstrap.rank()).expect("a device");
                // Each rank reads its own experts only.
                let share = desc.experts(bootstrap.rank());
                let weights = checkpoint.read_share(0, share).expect("complete");
                let layer = MoeLayer::new(desc, &weights, &mut bootstrap, &context);
                test(Rank {
                    rank: bootstrap.rank() as usize,
                    stream: Stream::new(&context).expect("a stream"),
                    layer: layer.expect("a layer"),
                    context,
                    side: bootstrap,
                })
            })
        };
        let threads: Vec<_> = sides.into_iter().map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn a_captured_decode_replays_with_changing_tokens() {
    const TOKENS: usize = 6;
    let desc = LayerDesc::new(config(), 2, TOKENS as u32);
    on_ranks(&desc, |rank| {
        let Rank {
            rank,
            context,
            stream,
            mut layer,
            side: _side,
        } = rank;
        let mut x = Buffer::from_slice(&stream, &rows(rank, TOKENS)).expect("memory");
        let mut valid = Buffer::from_slice(&stream, &[TOKENS as u32]).expect("memory");
        let mut output = Buffer::<bf16>::zeroed(&stream, TOKENS * HIDDEN).expect("memory");
        let mut eager = Buffer::<bf16>::zeroed(&stream, TOKENS * HIDDEN).expect("memory");
        let graph = stream
            .capture(|stream| {
                let to = Output::Bf16(&mut output);
                layer.decode(stream, &x, (TOKENS as u32, Some(&valid)), to)
            })
            .expect("captured");
        for round in 0..100 {
            // Ranks with all, some and none of their tokens in use.
            let used = (round + 3 * rank) % (TOKENS + 1);
            let input = rows(1000 + 2 * round + rank, TOKENS);
            x.copy_from(&stream, &input).expect("copied");
            valid.copy_from(&stream, &[used as u32]).expect("copied");
            // SAFETY: everything that was captured lives on, and only this stream uses it.
            unsafe { graph.launch(&stream) }.expect("launched");
            let replayed = output.to_vec(&stream).expect("copied");
            layer
                .decode(
                    &stream,
                    &x,
                    (TOKENS as u32, Some(&valid)),
                    Output::Bf16(&mut eager),
                )
                .expect("enqueued");
            layer.synchronize(&stream).expect("no fault");
            let eager = eager.to_vec(&stream).expect("copied");
            assert_eq!(
                replayed[..used * HIDDEN],
                eager[..used * HIDDEN],
                "round {round}, rank {rank}"
            );
        }
        drop(context);
    });
}

/// With one micro-batch's rows on the wire while the experts work on the other's, on every rank.
#[test]
fn prefill_overlaps_the_all_to_all_with_the_experts() {
    const TOKENS: usize = 96;
    let desc = LayerDesc::new(config(), 4, TOKENS as u32);
    let all = on_ranks(&desc, |rank| {
        let Rank {
            rank,
            context,
            stream,
            mut layer,
            side: _side,
        } = rank;
        let x = Buffer::from_slice(&stream, &rows(rank, TOKENS)).expect("memory");
        let mut output = Buffer::<f32>::alloc(&context, TOKENS * HIDDEN).expect("memory");
        layer.record();
        layer
            .prefill(&stream, &x, TOKENS as u32, Output::F32(&mut output))
            .expect("enqueued");
        let timeline = layer.take_timeline().expect("recorded");
        layer.synchronize(&stream).expect("no fault");
        timeline.spans().expect("all steps have ended")
    });
    for (rank, spans) in all.iter().enumerate() {
        let of = |lane| {
            spans
                .iter()
                .filter(move |span: &&Span| span.step.lane == lane)
        };
        let gemm = |span: &&Span| {
            span.step.name.starts_with("expert") && !span.step.name.ends_with("SwiGLU")
        };
        let overlapped = of(Lane::Compute).filter(gemm).any(|gemm| {
            of(Lane::Communication).any(|other| {
                let apart = other.end <= gemm.begin || gemm.end <= other.begin;
                other.step.part != gemm.step.part && !apart
            })
        });
        assert!(overlapped, "rank {rank}: {spans:#?}");
    }
}

/// Output in BF16 is that in F32, rounded; a shared expert or none; other numbers of tokens than the layer was made for.
#[test]
fn outputs_round_to_bf16_for_any_number_of_tokens() {
    for shared in [0, 1] {
        let desc = LayerDesc::new(Config { shared, ..config() }, 2, 20);
        on_ranks(&desc, |rank| {
            let Rank {
                rank,
                context,
                stream,
                mut layer,
                side: _side,
            } = rank;
            for round in 0..4 {
                // Also none, and one.
                let count = [20, 0, 1, 13][(round + rank) % 4];
                let x = Buffer::from_slice(&stream, &rows(round, 20)).expect("memory");
                let mut wide = Buffer::<f32>::zeroed(&stream, 20 * HIDDEN).expect("memory");
                let mut narrow = Buffer::<bf16>::alloc(&context, 20 * HIDDEN).expect("memory");
                let to = Output::F32(&mut wide);
                layer.prefill(&stream, &x, count, to).expect("enqueued");
                let to = Output::Bf16(&mut narrow);
                layer
                    .decode(&stream, &x, (count, None), to)
                    .expect("enqueued");
                layer.synchronize(&stream).expect("no fault");
                let elements = count as usize * HIDDEN;
                let wide = wide.to_vec(&stream).expect("copied");
                let narrow = narrow.to_vec(&stream).expect("copied");
                let rounded: Vec<bf16> = wide.iter().map(|&v| bf16::from_f32(v)).collect();
                assert_eq!(
                    narrow[..elements],
                    rounded[..elements],
                    "round {round}, rank {rank}"
                );
                assert!(
                    wide[elements..].iter().all(|&v| v == 0.0),
                    "rows that were not asked for"
                );
            }
        });
    }
}

#[test]
fn what_does_not_fit_is_refused_and_the_layer_goes_on() {
    let desc = LayerDesc {
        decode_tokens: 0,
        ..LayerDesc::new(config(), 1, 4)
    };
    on_ranks(&desc, |rank| {
        let Rank {
            context,
            stream,
            mut layer,
            ..
        } = rank;
        let x = Buffer::from_slice(&stream, &rows(0, 5)).expect("memory");
        let mut output = Buffer::<f32>::alloc(&context, 5 * HIDDEN).expect("memory");
        let mut short = Buffer::<f32>::alloc(&context, HIDDEN).expect("memory");
        let refused = |result: Result<(), Error>, needle: &str| {
            let error = result.expect_err(needle);
            assert!(matches!(error, Error::Request { .. }), "{error}");
            assert!(error.to_string().contains(needle), "{error}");
        };
        refused(
            layer.prefill(&stream, &x, 5, Output::F32(&mut output)),
            "tokens is 5",
        );
        refused(
            layer.prefill(&stream, &x, 2, Output::F32(&mut short)),
            "output is",
        );
        let none = Buffer::<bf16>::alloc(&context, 0).expect("memory");
        refused(
            layer.prefill(&stream, &none, 1, Output::F32(&mut output)),
            "tokens is a buffer of 0",
        );
        refused(
            layer.decode(&stream, &x, (1, None), Output::F32(&mut output)),
            "decode_tokens",
        );
        layer
            .prefill(&stream, &x, 4, Output::F32(&mut output))
            .expect("enqueued");
        layer.synchronize(&stream).expect("no fault");
    });
}

/// A rank is lost: the others learn it by a typed error, go on without its experts and count what they lack, and have it back
/// later; the bits are those of before.
#[test]
fn a_lost_rank_is_done_without_and_comes_back() {
    const TOKENS: usize = 24;
    const DEADLINE: Duration = Duration::from_millis(500);
    let desc = LayerDesc {
        timeout: DEADLINE,
        ..LayerDesc::new(config(), 3, TOKENS as u32)
    };
    let again = Bootstrap::in_process(3).expect("a bootstrap");
    let again: Vec<_> = again
        .into_iter()
        .map(|side| Mutex::new(Some(side)))
        .collect();
    on_ranks(&desc, |rank| {
        let Rank {
            rank,
            context,
            stream,
            mut layer,
            mut side,
        } = rank;
        let x = Buffer::from_slice(&stream, &rows(rank, TOKENS)).expect("memory");
        let mut output = Buffer::<f32>::alloc(&context, TOKENS * HIDDEN).expect("memory");
        let mut forward = |layer: &mut MoeLayer, form: usize| {
            let (to, count) = (Output::F32(&mut output), TOKENS as u32);
            match form {
                0 => layer.prefill(&stream, &x, count, to)?,
                _ => layer.decode(&stream, &x, (count, None), to)?,
            }
            layer.synchronize(&stream)?;
            Ok::<_, Error>(output.to_vec(&stream).expect("copied"))
        };
        let before = forward(&mut layer, 0).expect("all ranks are there");
        assert_eq!(forward(&mut layer, 1).expect("all ranks are there"), before);
        assert_eq!(
            layer.lost_choices(&stream, TOKENS as u32).expect("counted"),
            0
        );
        if rank != 1 {
            let error = forward(&mut layer, 0).expect_err("rank 1 is lost");
            assert!(matches!(error, Error::Device { .. }), "{error}");
            side.set_deadline(DEADLINE);
            layer.recover(&mut side).expect("two ranks are left");
            let without = forward(&mut layer, 0).expect("without rank 1");
            assert_eq!(forward(&mut layer, 1).expect("without rank 1"), without);
            assert!(without != before && without.iter().all(|v| v.is_finite()));
            let lost = layer.lost_choices(&stream, TOKENS as u32).expect("counted");
            assert!(lost > 0 && lost < (TOKENS * 4) as u64, "{lost}");
        }
        let side = again[rank].lock().expect("no panic").take();
        layer
            .rejoin(&mut side.expect("its side"))
            .expect("all ranks are back");
        assert_eq!(forward(&mut layer, 0).expect("all ranks are back"), before);
        assert_eq!(forward(&mut layer, 1).expect("all ranks are back"), before);
    });
}

/// The plan's bytes are what the device gives, up to its pages.
#[test]
fn memory_is_planned() {
    for (weights, shared) in [(WeightFormat::Fp8, 1), (WeightFormat::Bf16, 0)] {
        let config = Config {
            weights,
            shared,
            experts: 5,
            top_k: 2,
            routing: Routing {
                groups: 1,
                top_groups: 1,
                ..Family::DeepseekV3.routing()
            },
            ..config()
        };
        let desc = LayerDesc {
            prefill_tokens: 300,
            decode_tokens: 40,
            ..LayerDesc::new(config, 3, 0)
        };
        on_ranks(&desc, |rank| {
            let Rank {
                rank,
                context,
                stream,
                layer,
                mut side,
            } = rank;
            stream.synchronize().expect("idle");
            side.barrier("all are there").expect("met");
            let with = used(&context);
            side.barrier("looked").expect("met");
            drop(layer);
            side.barrier("dropped").expect("met");
            let taken = with - used(&context);
            let planned = desc.memory(rank as u32).expect("planned").total();
            // A page of 64 KiB for each of some 60 buffers, and a granule of 2 MiB for each of two windows.
            let most = planned + 60 * (64 << 10) + 2 * (2 << 20);
            assert!(
                (planned..most).contains(&taken),
                "{taken} bytes are taken, {planned} planned"
            );
        });
    }
}

/// Bytes of the device's memory in use.
fn used(context: &Arc<Context>) -> u64 {
    Stream::new(context)
        .expect("a stream")
        .synchronize()
        .expect("idle");
    let (mut free, mut total) = (0, 0);
    // SAFETY: two valid places for the answers.
    let result = unsafe { cudarc::driver::sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
    assert_eq!(result, cudarc::driver::sys::CUresult::CUDA_SUCCESS);
    (total - free) as u64
}
