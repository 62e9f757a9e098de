//! What a plan says that it takes is what the device gives.
#![expect(unsafe_code, reason = "asks the driver for the memory in use")]

use std::sync::Arc;

use cudarc::driver::sys;
use hadal::device::{Context, Stream};
use hadal::ep::latency::{LatencyBuffers, LatencyDesc, LatencyPlan};
use hadal::ep::throughput::{Payload, Reduce, ThroughputBuffers, ThroughputDesc, ThroughputPlan};

use crate::ranks::{context, on_ranks};

/// The software GPU gives device memory in pages of this, and windows in granules.
const PAGE: u64 = 64 << 10;
const GRANULE: u64 = 2 << 20;
/// More buffers than any mode has.
const BUFFERS: u64 = 24;

/// Bytes of the device's memory in use.
pub(crate) fn used(context: &Arc<Context>) -> u64 {
    // Waits, so that the context is this thread's current one.
    Stream::new(context).unwrap().synchronize().unwrap();
    let (mut free, mut total) = (0, 0);
    // SAFETY: two valid places for the answers.
    let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
    (total - free) as u64
}

/// `taken` is `private` in some buffers and a window of `heap`.
fn check(taken: u64, private: u64, heap: u64) {
    let window = heap.next_multiple_of(GRANULE);
    let least = private + window;
    assert!(
        (least..least + BUFFERS * PAGE).contains(&taken),
        "{taken} bytes are taken, {private} and a window of {heap} planned"
    );
}

#[test]
fn plans_tell_what_is_allocated() {
    let shape = [2, 9, 4];
    let (hidden, tokens) = (2048, 300);
    let latency = LatencyPlan::new(LatencyDesc {
        ranks: 2,
        experts: 9,
        topk: 4,
        hidden,
        max_tokens: tokens,
        payload: Payload::Fp8,
        combine: Payload::Fp8,
        max_rows: Some(400),
        ctas: Some(4),
        timeout: LatencyDesc::DEFAULT_TIMEOUT,
    })
    .unwrap();
    let (payload, reduce) = (Payload::Fp8, Reduce::PerExpert);
    let desc = ThroughputDesc::new(shape, hidden, tokens, payload, reduce);
    let throughput = ThroughputPlan::new(desc).unwrap();
    on_ranks(2, |mut side| {
        let rank = side.rank();
        let context = context(rank);
        // Kernels and the stream's own memory are there afterwards.
        drop(LatencyBuffers::new(&latency, &mut side, &context).unwrap());
        drop(ThroughputBuffers::new(&throughput, &mut side, &context).unwrap());
        side.barrier("warm").unwrap();
        let before = used(&context);
        side.barrier("before").unwrap();
        let buffers = LatencyBuffers::new(&latency, &mut side, &context).unwrap();
        let taken = used(&context) - before;
        check(taken, latency.private_bytes(rank), latency.heap.bytes);
        side.barrier("looked").unwrap();
        drop(buffers);
        side.barrier("dropped").unwrap();
        assert_eq!(used(&context), before, "rank {rank}");
        let buffers = ThroughputBuffers::new(&throughput, &mut side, &context).unwrap();
        let taken = used(&context) - before;
        check(taken, throughput.private_bytes(rank), throughput.heap.bytes);
        side.barrier("looked again").unwrap();
        drop(buffers);
        side.barrier("dropped again").unwrap();
        assert_eq!(used(&context), before, "rank {rank}");
    });
}
