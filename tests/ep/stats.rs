//! What the communicators tell of themselves, against the models.

use std::time::Duration;

use hadal::ep::throughput::{Payload, Reduce, ThroughputPlan};
use hadal::ep::{EpStats, Operation, Sent};

use crate::ranks::on_ranks;
use crate::{latency, throughput};

/// Rows of `origins` by source rank.
fn by_source(ranks: u32, origins: impl Iterator<Item = u32>) -> Vec<u64> {
    let mut rows = vec![0; ranks as usize];
    for rank in origins {
        rows[rank as usize] += 1;
    }
    rows
}

/// `sent[from][to]` of all ranks, and the bytes of a row.
fn check_sent(what: &str, found: &[Vec<Sent>], expected: &[Vec<u64>], bytes: u64) {
    for (from, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (to, (found, &rows)) in found.iter().zip(expected).enumerate() {
            let expected = Sent {
                rows,
                bytes: rows * bytes,
            };
            assert_eq!(*found, expected, "{what} from rank {from} to {to}");
        }
    }
}

fn of(stats: &[EpStats], which: impl Fn(&hadal::ep::PeerStats) -> Sent) -> Vec<Vec<Sent>> {
    let peers = |stats: &EpStats| stats.peers.iter().map(&which).collect();
    stats.iter().map(peers).collect()
}

/// Every rank has waited for every other, and `slow` has been waited for long.
fn check_waits(stats: &[EpStats], slow: u32) {
    for rank in stats {
        for peer in &rank.peers {
            let waits: u64 = peer.waits.iter().sum();
            assert!(
                waits > 0,
                "rank {} never waited for {}",
                rank.rank,
                peer.peer
            );
        }
        // 2^22 ns are 4 ms.
        let long: u64 = rank.peers[slow as usize].waits[22..].iter().sum();
        assert!(
            rank.rank == slow || long > 0,
            "rank {}: {:?}",
            rank.rank,
            rank.peers
        );
    }
}

/// Each kernel of each round, and no end before its begin.
fn check_spans(stats: &[EpStats], operations: &[Operation], rounds: u64) {
    for rank in stats {
        let found: Vec<_> = rank.spans.iter().map(|s| (s.operation, s.epoch)).collect();
        let all = operations.iter();
        let expected = all.flat_map(|&operation| (1..=rounds).map(move |epoch| (operation, epoch)));
        assert_eq!(found, expected.collect::<Vec<_>>(), "rank {}", rank.rank);
        assert!(rank.spans.iter().all(|span| span.begin <= span.end));
    }
    let trace: serde_json::Value = serde_json::from_str(&EpStats::trace(stats).unwrap()).unwrap();
    let events = trace.as_array().unwrap();
    assert_eq!(
        events.len(),
        stats.len() * operations.len() * rounds as usize
    );
    assert!(
        events
            .iter()
            .all(|event| event["ph"] == "X" && event["dur"].as_f64() >= Some(0.0))
    );
}

#[test]
fn latency_mode() {
    let case = latency::model::Case {
        ranks: 3,
        tokens: vec![5, 3, 8],
        combine: Payload::Fp8,
        rounds: 2,
        ..latency::rounds::small()
    };
    let stats = on_ranks(case.ranks, |mut side| {
        let rank = latency::harness::Rank::new(&case, &mut side);
        for round in 0..case.rounds {
            if rank.rank == 1 {
                std::thread::sleep(Duration::from_millis(30));
            }
            rank.checked_round(round);
        }
        rank.buffers.stats(&rank.stream).unwrap()
    });
    // Rows that `rank` received, by source, are those that the source sent to it.
    let mut received = vec![vec![0; 3]; 3];
    for round in 0..case.rounds {
        for rank in 0..3 {
            let rows = case.received(round, rank).into_iter().flatten();
            let rows = by_source(3, rows.map(|origin| origin.rank));
            for (sum, rows) in received[rank as usize].iter_mut().zip(rows) {
                *sum += rows;
            }
        }
    }
    let sent = |from: usize| (0..3).map(|to| received[to][from]).collect::<Vec<u64>>();
    let sent: Vec<_> = (0..3).map(sent).collect();
    let row = u64::from(case.hidden) + u64::from(case.hidden.div_ceil(128)) * 4;
    check_sent("dispatch", &of(&stats, |peer| peer.dispatched), &sent, row);
    check_sent("combine", &of(&stats, |peer| peer.combined), &received, row);
    check_waits(&stats, 1);
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<Vec<EpStats>>(&json).unwrap(), stats);
    let operations = [
        Operation::DispatchSend,
        Operation::DispatchRecv,
        Operation::CombineSend,
        Operation::CombineRecv,
    ];
    check_spans(&stats, &operations, case.rounds);
}

#[test]
fn throughput_mode() {
    for reduce in [Reduce::PerExpert, Reduce::PerRank] {
        let case = throughput::model::Case {
            payload: Payload::Bf16,
            reduce,
            ..throughput::cases::small()
        };
        let plan = ThroughputPlan::new(case.desc()).unwrap();
        let stats = on_ranks(3, |mut side| {
            let rank = throughput::harness::Rank::new(&plan, &mut side);
            if rank.rank == 2 {
                std::thread::sleep(Duration::from_millis(30));
            }
            rank.checked_round(&case);
            rank.buffers.stats(&rank.stream).unwrap()
        });
        // Entries, and different tokens, that a rank received by source.
        let entries = |rank: u32| {
            let rows = case.received(rank).into_iter().flatten();
            rows.map(|origin| (origin.rank, origin.token))
                .collect::<Vec<_>>()
        };
        let tokens = |rank: u32| {
            let mut all = entries(rank);
            all.sort_unstable();
            all.dedup();
            by_source(3, all.into_iter().map(|(source, _)| source))
        };
        let rows: Vec<_> = (0..3).map(tokens).collect();
        let results: Vec<_> = match reduce {
            Reduce::PerRank => rows.clone(),
            Reduce::PerExpert => {
                let sources = |rank| entries(rank).into_iter().map(|(source, _)| source);
                (0..3).map(|rank| by_source(3, sources(rank))).collect()
            }
        };
        let sent = |from: usize| (0..3).map(|to| rows[to][from]).collect::<Vec<u64>>();
        let sent: Vec<_> = (0..3).map(sent).collect();
        let row = u64::from(case.hidden) * 2;
        check_sent("dispatch", &of(&stats, |peer| peer.dispatched), &sent, row);
        check_sent("combine", &of(&stats, |peer| peer.combined), &results, row);
        check_waits(&stats, 2);
        let operations = [
            Operation::Count,
            Operation::DispatchSend,
            Operation::DispatchRecv,
            Operation::CombineSend,
            Operation::CombineRecv,
        ];
        check_spans(&stats, &operations, 1);
    }
}
