//! Barriers over all ranks and over teams, with puts that they publish.

use hadal::device::Buffer;
use hadal::transfer::nvlink::{CopyPlan, Desc, Form, Place, Source, Team};

use crate::harness::{Rank, assert_same, on_ranks, pattern};

const BYTES: usize = 700;
const DESC: Desc = Desc {
    bytes: 8 * BYTES as u64,
    signals: 0,
    record_bytes: 0,
    timeout: std::time::Duration::from_secs(120),
    multicast: false,
};

/// Every member writes its part of every member's window; after the barrier all parts are there.
fn exchange(at: &Rank, members: &[u32], round: u64) {
    let team = Team::of(members).unwrap();
    let data = pattern(at.rank, round, BYTES);
    let data = Buffer::from_slice(&at.stream, &data).unwrap();
    let plan = CopyPlan::new(Form::Vector, 0).with_ctas(2);
    for &rank in members {
        let offset = u64::from(at.rank) * BYTES as u64;
        let to = Place { rank, offset };
        at.endpoint
            .put(&at.stream, Source::buffer(&data), to, plan)
            .unwrap();
    }
    at.endpoint.barrier(&at.stream, team).unwrap();
    for &source in members {
        let offset = u64::from(source) * BYTES as u64;
        let found = at.read(
            Place {
                rank: at.rank,
                offset,
            },
            BYTES,
        );
        let what = format!("round {round}, from {source} to {}", at.rank);
        assert_same(&what, &found, &pattern(source, round, BYTES));
    }
    // Nobody writes the next round before all have read this one.
    at.endpoint.barrier(&at.stream, team).unwrap();
}

#[test]
fn a_barrier_publishes_what_every_rank_did_before() {
    for ranks in [1, 2, 3, 8] {
        on_ranks(ranks, DESC, |mut at| {
            let all: Vec<u32> = (0..ranks).collect();
            for round in 0..4 {
                exchange(&at, &all, round);
            }
            at.synchronize();
            at.side.barrier("end").unwrap();
        });
    }
}

#[test]
fn teams_overlap_and_change() {
    let teams: [&[u32]; 6] = [&[0, 1], &[1, 2], &[0, 2, 3], &[3], &[3, 1], &[0, 1, 2, 3]];
    on_ranks(4, DESC, |mut at| {
        for round in 0..12 {
            let members = teams[round as usize % teams.len()];
            if members.contains(&at.rank) {
                exchange(&at, members, round);
            }
        }
        at.synchronize();
        at.side.barrier("end").unwrap();
    });
}
