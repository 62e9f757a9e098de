//! Dispatch and combine, bit for bit.

use hadal::ep::latency::{LatencyPlan, Payload};
use hadal::memory::Bootstrap;

use super::harness::Rank;
use super::model::{Case, Routing};
use crate::cases::{self, Written};
use crate::ranks::on_ranks;

pub(crate) fn small() -> Case {
    Case {
        ranks: 2,
        experts: 8,
        topk: 4,
        hidden: 256,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        routing: Routing::Spread,
        tokens: vec![5, 3],
        rounds: 1,
        seed: 7,
        tight: false,
    }
}

pub(crate) fn run(case: &Case) {
    on_ranks(case.ranks, |mut side| {
        let rank = Rank::new(case, &mut side);
        for round in 0..case.rounds {
            rank.checked_round(round);
        }
    });
}

/// Two rounds of either payload, forth and back: the first is summed in F32, the second in BF16.
pub(crate) fn run_written(side: &mut Bootstrap, seed: u64, written: &Written) {
    for payload in [Payload::Fp8, Payload::Bf16] {
        let case = Case {
            ranks: written.tokens.len() as u32,
            experts: written.experts,
            topk: written.topk,
            hidden: written.hidden,
            payload,
            combine: payload,
            routing: match written.routing {
                cases::Routing::Random => Routing::Spread,
                cases::Routing::AllToOne => Routing::One(written.experts - 1),
                cases::Routing::Zipf => Routing::Zipf,
                cases::Routing::Drops => Routing::Holes,
            },
            tokens: written.tokens.clone(),
            rounds: 2,
            seed,
            tight: true,
        };
        let rank = Rank::new(&case, side);
        for round in 0..case.rounds {
            rank.checked_round(round);
        }
    }
}

#[test]
fn one_rank() {
    for payload in [Payload::Fp8, Payload::Bf16] {
        run(&Case {
            ranks: 1,
            tokens: vec![7],
            payload,
            rounds: 2,
            ..small()
        });
    }
}

#[test]
fn two_ranks_every_topk() {
    for topk in 1..=8 {
        run(&Case {
            topk,
            seed: u64::from(topk),
            hidden: 128,
            ..small()
        });
    }
}

#[test]
fn three_ranks_uneven_experts_and_tokens() {
    let tokens = vec![0, 1, 9];
    for (experts, payload) in [(7, Payload::Fp8), (8, Payload::Bf16)] {
        run(&Case {
            ranks: 3,
            experts,
            payload,
            tokens: tokens.clone(),
            rounds: 4,
            ..small()
        });
    }
}

#[test]
fn four_ranks_with_dropped_entries() {
    let tokens = vec![6, 0, 33, 2];
    run(&Case {
        ranks: 4,
        routing: Routing::Holes,
        tokens,
        rounds: 3,
        hidden: 128,
        ..small()
    });
}

#[test]
fn eight_ranks_fewer_experts_than_ranks() {
    let tokens = vec![3, 1, 0, 2, 5, 0, 1, 4];
    for (experts, topk) in [(5, 2), (24, 8)] {
        run(&Case {
            ranks: 8,
            experts,
            topk,
            hidden: 128,
            tokens: tokens.clone(),
            rounds: 2,
            ..small()
        });
    }
}

#[test]
fn all_tokens_to_one_expert() {
    for expert in [0, 7] {
        let tokens = vec![9, 16, 1];
        run(&Case {
            ranks: 3,
            routing: Routing::One(expert),
            tokens,
            ..small()
        });
    }
}

#[test]
fn nobody_sends_anything() {
    run(&Case {
        routing: Routing::Nothing,
        rounds: 3,
        ..small()
    });
    run(&Case {
        tokens: vec![0, 0],
        rounds: 3,
        ..small()
    });
}

#[test]
fn rows_of_every_odd_length() {
    // One vector, a tail of a batch, more than a batch; scales that do not fill 16 bytes; no full group.
    for hidden in [16, 48, 128, 144, 528, 2064] {
        run(&Case {
            hidden,
            combine: Payload::Fp8,
            tokens: vec![3, 2],
            seed: u64::from(hidden),
            ..small()
        });
    }
    for hidden in [8, 24, 72, 264] {
        run(&Case {
            hidden,
            payload: Payload::Bf16,
            combine: if hidden % 16 == 0 {
                Payload::Bf16
            } else {
                Payload::Fp8
            },
            tokens: vec![3, 2],
            ..small()
        });
    }
}

#[test]
fn deepseek_v3_rows() {
    run(&Case {
        hidden: 7168,
        topk: 8,
        experts: 16,
        tokens: vec![4, 3],
        ..small()
    });
}

#[test]
fn back_to_back_rounds() {
    overlapping(&[5, 2, 0, 7]);
}

/// Five rounds without a host synchronisation, two of them open at a time.
pub(crate) fn overlapping(tokens: &[u32]) {
    let case = Case {
        ranks: tokens.len() as u32,
        tokens: tokens.to_vec(),
        rounds: 5,
        hidden: 128,
        ..small()
    };
    on_ranks(case.ranks, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let mut rounds: Vec<_> = (0..case.rounds).map(|round| rank.round(round)).collect();
        let mut open = Some(rounds[0].dispatch().unwrap());
        for next in 1..=rounds.len() {
            let younger = rounds.get(next).map(|round| round.dispatch().unwrap());
            rounds[next - 1].combine(open.take().unwrap()).unwrap();
            open = younger;
        }
        rank.synchronize();
        for round in &rounds {
            round.check_sums(|_| true);
        }
    });
}

/// A rank that enqueues late must not find its slots overwritten by ranks that are ahead.
#[test]
fn a_slow_rank_is_waited_for() {
    let case = Case {
        ranks: 2,
        tokens: vec![4, 4],
        rounds: 6,
        hidden: 128,
        ..small()
    };
    on_ranks(case.ranks, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let mut rounds: Vec<_> = (0..case.rounds).map(|round| rank.round(round)).collect();
        for round in &mut rounds {
            if rank.rank == 1 {
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
            let handle = round.dispatch().unwrap();
            if rank.rank == 1 {
                rank.synchronize();
                round.check_received(&handle);
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
            round.combine(handle).unwrap();
        }
        rank.synchronize();
        for round in &rounds {
            round.check_sums(|_| true);
        }
    });
}

/// The halves apart, on two streams: the communicator keeps their order itself.
#[test]
fn halves_on_two_streams() {
    let case = Case {
        rounds: 4,
        ..small()
    };
    on_ranks(case.ranks, |mut side| {
        let rank = Rank::new(&case, &mut side);
        let other = hadal::device::Stream::new(rank.stream.context()).unwrap();
        for round in 0..case.rounds {
            let mut data = rank.round(round);
            let flying = rank.buffers.dispatch_begin(&other, &data.input()).unwrap();
            let handle = flying.finish(&rank.stream).unwrap();
            rank.synchronize();
            data.check_received(&handle);
            data.combine(handle).unwrap();
            rank.synchronize();
            data.check_sums(|_| true);
        }
    });
}

/// The same tokens on 1, 2 and 4 ranks give the same sums, bit for bit.
#[test]
fn bits_do_not_depend_on_the_number_of_ranks() {
    // One batch of 8 tokens, cut into equal parts; the model numbers tokens by rank, so the answers are
    // made from the token's place in the batch.
    let batch = Case {
        ranks: 1,
        tokens: vec![8],
        hidden: 128,
        ..small()
    };
    let whole = super::harness::sums_of_batch(&batch, 1);
    for ranks in [2, 4] {
        let parts = super::harness::sums_of_batch(&batch, ranks);
        crate::compare::same(&format!("{ranks} ranks"), "sum", &parts, &whole);
    }
}

#[test]
fn fewer_rows_than_the_worst_case_suffice_when_they_do() {
    let case = Case {
        tokens: vec![4, 4],
        ..small()
    };
    let most = (0..2)
        .flat_map(|rank| case.received(0, rank))
        .map(|rows| rows.len())
        .max();
    let mut desc = case.desc();
    desc.max_rows = most.map(|rows| rows as u32);
    let plan = LatencyPlan::new(desc).unwrap();
    assert!(
        plan.max_rows < 8,
        "the case is to be tighter than the worst case"
    );
    on_ranks(2, |mut side| {
        Rank::with_plan(&case, &plan, &mut side).checked_round(0)
    });
}
