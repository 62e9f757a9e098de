//! A dropped handle: peers neither hang nor get silently wrong sums, and later rounds work.

use hadal::ep::EpError;
use hadal::ep::latency::Payload;

use super::harness::Rank;
use super::model::{Case, Routing};
use crate::ranks::on_ranks;

fn case() -> Case {
    Case {
        ranks: 3,
        experts: 7,
        topk: 3,
        hidden: 128,
        payload: Payload::Bf16,
        combine: Payload::Bf16,
        routing: Routing::Spread,
        tokens: vec![4, 2, 5],
        rounds: 1,
        seed: 5,
        tight: false,
    }
}

#[test]
fn all_ranks_drop_and_the_next_round_works() {
    let case = case();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let dropped = rank.round(0);
        drop(dropped.dispatch().unwrap());
        for round in 1..4 {
            rank.checked_round(round);
        }
    });
}

#[test]
fn the_peers_of_a_rank_that_drops_are_told_and_sum_without_it() {
    let case = case();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let mut round = rank.round(0);
        let handle = round.dispatch().unwrap();
        if rank.rank == 1 {
            drop(handle);
        } else {
            round.combine(handle).unwrap();
            let error = rank.buffers.synchronize(&rank.stream).unwrap_err();
            let expected = EpError::Abandoned {
                epoch: 1,
                ranks: vec![1],
            };
            assert_eq!(error, expected, "rank {}", rank.rank);
            rank.buffers.check().unwrap();
            // Rank 1 owns experts 3 and 4.
            round.check_sums(|expert| !(3..5).contains(&expert));
        }
        for round in 1..3 {
            rank.checked_round(round);
        }
    });
}

#[test]
fn dropping_between_the_halves_works_too() {
    let case = case();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let first = rank.round(0);
        drop(
            rank.buffers
                .dispatch_begin(&rank.stream, &first.input())
                .unwrap(),
        );
        let second = rank.round(1);
        let handle = second.dispatch().unwrap();
        drop(handle.combine_begin(&rank.stream, second.y()).unwrap());
        rank.synchronize();
        for round in 2..4 {
            rank.checked_round(round);
        }
    });
}

#[test]
fn a_younger_round_dropped_first_waits_for_the_older_one() {
    let case = case();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let (mut older, younger) = (rank.round(0), rank.round(1));
        let open = older.dispatch().unwrap();
        drop(younger.dispatch().unwrap());
        older.combine(open).unwrap();
        rank.synchronize();
        older.check_sums(|_| true);
        rank.checked_round(2);
        rank.checked_round(3);
    });
}

#[test]
fn buffers_may_be_dropped_before_their_open_round() {
    let case = case();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let handle = {
            let round = rank.round(0);
            round.dispatch().unwrap()
        };
        drop(rank);
        assert_eq!(handle.epoch(), 1);
    });
}

/// A round that is dropped at once must not hold up the next one, which the peers dispatch before they
/// combine the dropped one.
#[test]
fn an_early_drop_does_not_wait_for_peers_with_two_rounds_open() {
    let case = case();
    on_ranks(3, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let (mut older, mut younger) = (rank.round(0), rank.round(1));
        let first = older.dispatch().unwrap();
        if rank.rank == 1 {
            drop(first);
            let second = younger.dispatch().unwrap();
            younger.combine(second).unwrap();
            rank.synchronize();
        } else {
            let second = younger.dispatch().unwrap();
            older.combine(first).unwrap();
            younger.combine(second).unwrap();
            let error = rank.buffers.synchronize(&rank.stream).unwrap_err();
            let ranks = vec![1];
            assert_eq!(error, EpError::Abandoned { epoch: 1, ranks });
            older.check_sums(|expert| !(3..5).contains(&expert));
        }
        younger.check_sums(|_| true);
        rank.checked_round(2);
        rank.checked_round(3);
    });
}
