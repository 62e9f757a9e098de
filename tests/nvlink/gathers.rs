//! All-gathers of small records: every length, more rounds than buffers, ranks that run ahead.

use hadal::device::Buffer;
use hadal::transfer::nvlink::Desc;

use crate::harness::{assert_same, on_ranks, pattern};

const DESC: Desc = Desc {
    bytes: 0,
    signals: 0,
    record_bytes: 4095,
    timeout: std::time::Duration::from_secs(120),
    multicast: false,
};

#[test]
fn every_record_reaches_every_rank() {
    for ranks in [1, 2, 3, 8] {
        on_ranks(ranks, DESC, |mut at| {
            for (round, length) in (0u64..).zip([16, 0, 1, 15, 17, 4095]) {
                let record = pattern(at.rank, round, length);
                let record = Buffer::from_slice(&at.stream, &record).unwrap();
                let all = length * ranks as usize;
                let mut output = Buffer::<u8>::zeroed(&at.stream, all).unwrap();
                let gathered = at.endpoint.all_gather(&at.stream, &record, &mut output);
                gathered.unwrap();
                at.synchronize();
                let expected: Vec<u8> = (0..ranks)
                    .flat_map(|rank| pattern(rank, round, length))
                    .collect();
                let what = format!("{length} bytes, rank {} of {ranks}", at.rank);
                assert_same(&what, &output.to_vec(&at.stream).unwrap(), &expected);
            }
            at.side.barrier("end").unwrap();
        });
    }
}

/// All rounds are enqueued at once: fast ranks run into the credits of slow ones.
#[test]
fn rounds_follow_each_other_without_the_host() {
    let (ranks, rounds) = (3u32, 16u64);
    on_ranks(ranks, DESC, |mut at| {
        let records: Vec<Buffer<u64>> = (0..rounds)
            .map(|round| [u64::from(at.rank) << 32 | round, !round])
            .map(|record| Buffer::from_slice(&at.stream, &record).unwrap())
            .collect();
        let mut outputs: Vec<Buffer<u64>> = (0..rounds)
            .map(|_| Buffer::zeroed(&at.stream, 2 * ranks as usize).unwrap())
            .collect();
        for (record, output) in records.iter().zip(&mut outputs) {
            at.endpoint.all_gather(&at.stream, record, output).unwrap();
        }
        at.synchronize();
        for (round, output) in (0..rounds).zip(&outputs) {
            let expected: Vec<u64> = (0..u64::from(ranks))
                .flat_map(|rank| [rank << 32 | round, !round])
                .collect();
            let found = output.to_vec(&at.stream).unwrap();
            assert_eq!(found, expected, "round {round}, rank {}", at.rank);
        }
        at.side.barrier("end").unwrap();
    });
}
