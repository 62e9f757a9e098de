//! Ranks as processes: they find each other, share a heap, and learn of each other's end.
#![expect(unsafe_code, reason = "looks at device memory by address")]
#![expect(clippy::unwrap_used, reason = "a failure is a failed test")]

#[path = "support/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use hadal::device::{Context, Stream};
use hadal::memory::{Bootstrap, MemoryError, Rendezvous, SymmetricHeap};
use process::{Process, port};

const ROLE: &str = "RENDEZVOUS_TEST_ROLE";
const SECRET: &[u8] = process::SECRET.as_bytes();
const DEADLINE: Duration = Duration::from_secs(60);

fn rendezvous(rank: u32, ranks: u32, port: u16, secret: &[u8]) -> Rendezvous {
    let place = Rendezvous::new([rank, ranks], ("127.0.0.1", port), secret);
    place.unwrap().with_deadline(DEADLINE)
}

/// The outcomes of `ranks` ranks, threads that meet as processes do.
fn on_ranks<T: Send>(
    ranks: u32,
    body: impl Fn(u32, u16) -> Result<T, MemoryError> + Sync,
) -> Vec<Result<T, MemoryError>> {
    let port = port();
    std::thread::scope(|scope| {
        let body = &body;
        let start = |rank| scope.spawn(move || body(rank, port));
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// One rank in a process of its own.
fn start(role: &str, rank: u32, ranks: u32, port: u16) -> Process {
    Process::start("child", [ROLE, role], [rank, ranks], port)
}

#[test]
#[ignore = "a rank of the other tests, in a process of its own"]
fn child() {
    let place = Rendezvous::from_env().unwrap().with_deadline(DEADLINE);
    match std::env::var(ROLE).unwrap().as_str() {
        "share" => share(&place),
        "wait" => wait(&place),
        other => panic!("no role {other}"),
    }
}

fn write(stream: &Stream, address: u64, value: u64) {
    // SAFETY: the address is mapped on the stream's device, and 8 bytes are given.
    let result = unsafe { sys::cuMemcpyHtoD_v2(address, (&raw const value).cast(), 8) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
    stream.synchronize().unwrap();
}

fn read(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the address is mapped on the current device, and 8 bytes are writable.
    let result = unsafe { sys::cuMemcpyDtoH_v2((&raw mut value).cast(), address, 8) };
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
    value
}

/// Every rank writes a word of every window, and reads its own window.
fn share(place: &Rendezvous) {
    let (rank, ranks) = (place.rank(), place.ranks());
    assert_eq!(place.local_rank(), Some(rank));
    let mut side = place.connect().unwrap();
    let context = Context::new(rank).unwrap();
    let stream = Stream::new(&context).unwrap();
    let heap = SymmetricHeap::new(&mut side, &context, 1 << 16).unwrap();
    for peer in 0..ranks {
        let word = heap.window(peer) + u64::from(rank) * 8;
        write(&stream, word, u64::from(100 * rank + peer + 1));
    }
    side.barrier("written").unwrap();
    for source in 0..ranks {
        let word = heap.window(rank) + u64::from(source) * 8;
        assert_eq!(read(word), u64::from(100 * source + rank + 1));
    }
    side.barrier("read").unwrap();
}

#[test]
fn processes_share_a_heap() {
    for ranks in [1, 2, 5] {
        let port = port();
        let start = |rank| start("share", rank, ranks, port);
        let processes: Vec<_> = (0..ranks).map(start).collect();
        processes.into_iter().for_each(Process::finish);
    }
}

/// Waits for a rank that is about to be killed.
#[expect(clippy::print_stdout, reason = "tells the test how far it is")]
fn wait(place: &Rendezvous) {
    let mut side = place.connect().unwrap();
    side.barrier("met").unwrap();
    println!("met");
    if place.rank() == 1 {
        std::thread::sleep(DEADLINE);
        return;
    }
    let start = Instant::now();
    let error = side.barrier("never").unwrap_err();
    assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
    // Rank 0 may have left after it learned.
    assert!(
        matches!(error, MemoryError::Gone { rank: 0 | 1, .. }),
        "{error}"
    );
}

#[test]
fn a_killed_process_is_missed_at_once() {
    let port = port();
    let start = |rank| start("wait", rank, 3, port);
    let [first, mut second, third] = [0, 1, 2].map(start);
    let mut output = second.0.stdout.take().unwrap();
    let mut text = String::new();
    while !text.contains("met") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{text}");
        text.push(byte[0].into());
    }
    drop(second);
    first.finish();
    third.finish();
}

#[test]
fn strangers_get_nothing_and_keep_nobody_waiting() {
    let results = on_ranks(3, |rank, port| {
        if rank == 0 {
            return rendezvous(0, 3, port, SECRET).connect().map(drop);
        }
        if rank == 1 {
            // Comes first, says nonsense, and reads what it is told: a greeting and a number.
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                    break stream;
                }
            };
            let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stranger.write_all(&[7; 200]).unwrap();
            let mut told = Vec::new();
            // The connection may be reset rather than closed.
            let _ = stranger.read_to_end(&mut told);
            assert_eq!(told.len(), 8 + 32, "{told:?}");
            return rendezvous(1, 3, port, SECRET).connect().map(drop);
        }
        std::thread::sleep(Duration::from_millis(100));
        rendezvous(2, 3, port, SECRET).connect().map(drop)
    });
    for result in results {
        assert_eq!(result, Ok(()));
    }
}

#[test]
fn another_secret_is_no_way_in() {
    let results = on_ranks(2, |rank, port| {
        let secret = if rank == 0 {
            SECRET
        } else {
            b"another secret is as long"
        };
        let place = rendezvous(rank, 2, port, secret);
        place
            .with_deadline(Duration::from_secs(1))
            .connect()
            .map(drop)
    });
    let waited =
        matches!(&results[0], Err(MemoryError::Timeout { missing, .. }) if *missing == [1]);
    assert!(waited, "{:?}", results[0]);
    let refused = matches!(
        &results[1],
        Err(MemoryError::Connect { .. } | MemoryError::Timeout { .. })
    );
    assert!(refused, "{:?}", results[1]);
}

#[test]
fn ranks_that_disagree_are_told() {
    let results = on_ranks(2, |rank, port| {
        rendezvous(rank, 2 + rank, port, SECRET).connect().map(drop)
    });
    let disagree = |what: &str| MemoryError::Disagreement {
        what: "number of ranks",
        rank: 1,
        found: what.into(),
        expected: "2".into(),
    };
    assert_eq!(results[0], Err(disagree("3")));
    assert!(results[1].is_err(), "{:?}", results[1]);

    let twice = on_ranks(3, |rank, port| {
        rendezvous(rank.min(1), 3, port, SECRET).connect().map(drop)
    });
    let twice_1 = matches!(twice[0], Err(MemoryError::Disagreement { rank: 1, .. }));
    assert!(twice_1, "{:?}", twice[0]);
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let new = |rank, ranks, secret: &[u8]| Rendezvous::new([rank, ranks], ("localhost", 1), secret);
    let none = new(0, 0, SECRET).unwrap_err();
    assert_eq!(none, MemoryError::Ranks { rank: 0, ranks: 0 });
    let outside = new(2, 2, SECRET).unwrap_err();
    assert_eq!(outside, MemoryError::Ranks { rank: 2, ranks: 2 });
    let short = new(0, 1, b"short").unwrap_err();
    assert_eq!(
        short,
        MemoryError::Secret {
            bytes: 5,
            least: 16
        }
    );
    let debug = format!("{:?}", new(0, 1, SECRET).unwrap());
    assert!(
        !debug.contains("sixteen"),
        "the secret stays secret: {debug}"
    );
}

/// Meetings over sockets are those of one process: in order, with values of any length.
#[test]
fn meetings_bring_everything() {
    let results = on_ranks(4, |rank, port| {
        let mut side: Bootstrap = rendezvous(rank, 4, port, SECRET).connect()?;
        for meeting in 0..20usize {
            let mine: Vec<u32> = vec![rank; meeting * 5000 * rank as usize];
            let all = side.all_gather("values", mine)?;
            for (peer, values) in all {
                assert_eq!(values, vec![peer; meeting * 5000 * peer as usize]);
            }
        }
        side.set_deadline(Duration::from_millis(200));
        if rank == 3 {
            std::thread::sleep(Duration::from_millis(600));
            return Ok(None);
        }
        Ok(side.barrier("without rank 3").err())
    });
    let missed = |error: &MemoryError| match error {
        MemoryError::Timeout { missing, .. } => missing.contains(&3),
        MemoryError::Gone { rank, .. } | MemoryError::GaveUp { rank, .. } => *rank != 3,
        _ => false,
    };
    for result in &results[..3] {
        let error = result.as_ref().unwrap().as_ref().unwrap();
        assert!(missed(error), "{error}");
    }
}
