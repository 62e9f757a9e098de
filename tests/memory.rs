//! The symmetric heap on every number of ranks: zeroed, shared, and released in any order.
#![expect(unsafe_code, reason = "looks at device memory by address")]
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::sync::Arc;

use cudarc::driver::sys;
use hadal::device::Context;
use hadal::memory::{Bootstrap, MappedHost, MemoryError, Physical, Reservation, SymmetricHeap};

/// Runs `body` once per rank, together.
fn on_ranks<T: Send>(ranks: u32, body: impl Fn(Bootstrap, Arc<Context>) -> T + Sync) -> Vec<T> {
    let sides = Bootstrap::in_process(ranks).unwrap();
    std::thread::scope(|scope| {
        let body = &body;
        let run = |side: Bootstrap| {
            let context = Context::new(side.rank()).unwrap();
            body(side, context)
        };
        let threads: Vec<_> = sides
            .into_iter()
            .map(|side| scope.spawn(move || run(side)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Makes the context current on this thread, as every call of the library does.
fn bind(context: &Arc<Context>) {
    drop(hadal::device::Stream::new(context).unwrap());
}

fn write(context: &Arc<Context>, address: u64, value: u64) {
    bind(context);
    // SAFETY: the address is mapped on this context's device, and 8 bytes are given.
    let result = unsafe { sys::cuMemcpyHtoD_v2(address, (&raw const value).cast(), 8) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

fn read(context: &Arc<Context>, address: u64) -> u64 {
    bind(context);
    let mut value = 0u64;
    // SAFETY: the address is mapped on this context's device, and 8 bytes are writable.
    let result = unsafe { sys::cuMemcpyDtoH_v2((&raw mut value).cast(), address, 8) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
    value
}

#[test]
fn what_one_rank_writes_all_ranks_read() {
    for ranks in [1, 2, 3, 8] {
        on_ranks(ranks, |mut side, context| {
            let heap = SymmetricHeap::new(&mut side, &context, 1 << 16).unwrap();
            let end = (1 << 16) - 8;
            assert_eq!((heap.rank(), heap.ranks()), (side.rank(), ranks));
            for peer in 0..ranks {
                assert_eq!(
                    read(&context, heap.window(peer) + end),
                    0,
                    "window {peer} is zeroed"
                );
            }
            side.barrier("looked").unwrap();
            // Every rank leaves a word in every window.
            for peer in 0..ranks {
                let word = heap.window(peer) + u64::from(side.rank()) * 8;
                write(&context, word, u64::from(side.rank() * 100 + peer + 1));
            }
            side.barrier("written").unwrap();
            for window in 0..ranks {
                for writer in 0..ranks {
                    let found = read(&context, heap.window(window) + u64::from(writer) * 8);
                    let expected = u64::from(writer * 100 + window + 1);
                    assert_eq!(
                        found, expected,
                        "window {window}, writer {writer}, of {ranks}"
                    );
                }
            }
            side.barrier("read").unwrap();
        });
    }
}

#[test]
fn a_window_outlives_its_rank() {
    on_ranks(3, |mut side, context| {
        let heap = SymmetricHeap::new(&mut side, &context, 8).unwrap();
        write(
            &context,
            heap.window(side.rank()),
            0xfeed + u64::from(side.rank()),
        );
        side.barrier("written").unwrap();
        // Ranks leave one after another, rank 1 first.
        for leaver in [1, 0] {
            if side.rank() == leaver {
                drop(heap);
                side.barrier("left").unwrap();
                if leaver == 1 {
                    side.barrier("left").unwrap();
                }
                assert!(context.take_deferred_errors().is_empty());
                return;
            }
            side.barrier("left").unwrap();
            let found = read(&context, heap.window(leaver));
            assert_eq!(found, 0xfeed + u64::from(leaver), "rank {}", side.rank());
            let own_word = heap.window(leaver) + 8 * u64::from(side.rank() + 1);
            write(&context, own_word, 1);
            assert_eq!(read(&context, own_word), 1);
        }
        drop(heap);
        assert!(context.take_deferred_errors().is_empty());
    });
}

#[test]
fn heaps_come_and_go_without_leaking() {
    on_ranks(2, |mut side, context| {
        for _ in 0..64 {
            let mut heap = SymmetricHeap::new(&mut side, &context, 1 << 20).unwrap();
            heap.share_multicast(&mut side, &context).unwrap();
            assert!(heap.multicast().is_ok());
            drop(heap);
        }
        let used = |context: &Arc<Context>| {
            bind(context);
            let (mut free, mut total) = (0, 0);
            // SAFETY: two valid places for the answers.
            let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
            assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
            total - free
        };
        side.barrier("all dropped").unwrap();
        let before = used(&context);
        side.barrier("measured").unwrap();
        for _ in 0..8 {
            let mut heap = SymmetricHeap::new(&mut side, &context, 1 << 20).unwrap();
            heap.share_multicast(&mut side, &context).unwrap();
        }
        side.barrier("dropped again").unwrap();
        assert_eq!(used(&context), before, "rank {}", side.rank());
        side.barrier("end").unwrap();
    });
}

#[test]
fn one_rank_has_no_multicast_and_knows_why() {
    on_ranks(1, |mut side, context| {
        let mut heap = SymmetricHeap::new(&mut side, &context, 8).unwrap();
        assert!(heap.multicast().is_err());
        heap.share_multicast(&mut side, &context).unwrap();
        assert_eq!(heap.multicast(), Err("rank 0: there is one rank"));
    });
}

#[test]
fn sizes_must_agree() {
    let errors = on_ranks(2, |mut side, context| {
        let bytes = (1u64 << 20) << (side.rank() * 4);
        SymmetricHeap::new(&mut side, &context, bytes).unwrap_err()
    });
    for (rank, error) in (0u32..).zip(errors) {
        match error {
            MemoryError::Disagreement { rank: other, .. } => assert_eq!(other, 1 - rank),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_rank_without_memory_fails_on_all_and_leaves_nothing() {
    let errors = on_ranks(3, |mut side, context| {
        let bytes = if side.rank() == 2 { 1 << 50 } else { 1 << 20 };
        let error = SymmetricHeap::new(&mut side, &context, bytes).unwrap_err();
        assert!(context.take_deferred_errors().is_empty());
        // The meetings are still in step.
        SymmetricHeap::new(&mut side, &context, 1 << 20).unwrap();
        error
    });
    assert!(matches!(errors[2], MemoryError::Device(_)), "{}", errors[2]);
    for error in &errors[..2] {
        match error {
            MemoryError::Peer {
                rank: 2, message, ..
            } => {
                assert_eq!(*message, errors[2].to_string());
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn mappings_stay_inside_their_reservation() {
    let context = Context::new(0).unwrap();
    let physical = Arc::new(Physical::new(&context, 1).unwrap());
    let unit = physical.bytes();
    let mut range = Reservation::new(&context, 2 * unit).unwrap();
    let first = range.map(0, &physical).unwrap();
    assert_eq!(first, range.address());
    assert!(range.map(0, &physical).is_err(), "mapped already");
    let outside = range.map(2 * unit, &physical).unwrap_err();
    assert!(matches!(outside, MemoryError::TooLarge { .. }), "{outside}");
    // The same memory at a second address.
    let second = range.map(unit, &physical).unwrap();
    write(&context, first + 16, 77);
    assert_eq!(read(&context, second + 16), 77);
    let stream = hadal::device::Stream::new(&context).unwrap();
    range.zero(&stream, second).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(read(&context, first + 16), 0);
    let error = range.zero(&stream, second + 8).unwrap_err();
    assert_eq!(
        error,
        MemoryError::NotMapped {
            address: second + 8
        }
    );
    drop(range);
    drop(physical);
    assert!(context.take_deferred_errors().is_empty());
}

#[test]
fn host_memory_is_seen_from_both_sides() {
    let context = Context::new(0).unwrap();
    let record = MappedHost::zeroed(&context, 24).unwrap();
    assert_eq!(record.load_u64(16).unwrap(), 0);
    write(&context, record.address() + 8, 0x1122_3344_5566_7788);
    assert_eq!(record.load_u64(8).unwrap(), 0x1122_3344_5566_7788);
    assert_eq!(record.load_u32(12).unwrap(), 0x1122_3344);
    for (offset, bytes) in [(24, 8), (12, 8), (usize::MAX - 7, 8)] {
        let error = record.load_u64(offset).unwrap_err();
        assert_eq!(
            error,
            MemoryError::Range {
                offset,
                bytes,
                size: 24
            }
        );
    }
}

#[test]
fn fabric_handles_share_memory() {
    let [owner, peer] = [0, 1].map(|device| Context::new(device).unwrap());
    let physical = Arc::new(Physical::new(&owner, 1).unwrap());
    let handle = physical.export_fabric().unwrap().unwrap();
    let bytes = physical.bytes();
    let there = Arc::new(Physical::import_fabric(&peer, &handle, bytes).unwrap());
    let mut mine = Reservation::new(&owner, bytes).unwrap();
    let mut theirs = Reservation::new(&peer, bytes).unwrap();
    let at = mine.map(0, &physical).unwrap();
    let seen = theirs.map(0, &there).unwrap();
    write(&owner, at + 8, 0xfab);
    assert_eq!(read(&peer, seen + 8), 0xfab);
}
