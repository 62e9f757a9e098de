//! The written cases in this mode, and what they do not say: rounds that overlap, odd rows, uneven experts.

use hadal::ep::throughput::{Payload, Reduce, ThroughputDesc, ThroughputPlan};
use hadal::memory::Bootstrap;

use super::harness::Rank;
use super::model::Case;
use crate::cases::{Routing, Written};
use crate::ranks::on_ranks;

pub(crate) fn run(case: &Case) {
    let plan = ThroughputPlan::new(case.desc()).unwrap();
    on_ranks(case.ranks(), |mut side| {
        Rank::new(&plan, &mut side).checked_round(case);
    });
}

/// FP8 with results by expert, groups aligned to the GEMM's tile; BF16 with results by rank, unaligned.
pub(crate) fn run_written(side: &mut Bootstrap, seed: u64, written: &Written) {
    let fp8 = Case {
        experts: written.experts,
        topk: written.topk,
        hidden: written.hidden,
        payload: Payload::Fp8,
        reduce: Reduce::PerExpert,
        routing: written.routing,
        alignment: 128,
        tokens: written.tokens.clone(),
        seed,
    };
    let bf16 = Case {
        payload: Payload::Bf16,
        reduce: Reduce::PerRank,
        alignment: 1,
        ..fp8.clone()
    };
    for case in [fp8, bf16] {
        // Room for what comes, not for the worst case: the largest case would take all memory.
        let rows = |rank| case.offsets(&case.received(rank)).last().copied();
        let most = (0..case.ranks()).filter_map(rows).max();
        let plan = ThroughputPlan::new(ThroughputDesc {
            max_rows: most.map(|rows| rows.max(1)),
            ..case.desc()
        });
        let plan = plan.unwrap();
        Rank::new(&plan, side).checked_round(&case);
    }
}

pub(crate) fn small() -> Case {
    Case {
        experts: 7,
        topk: 3,
        hidden: 144,
        payload: Payload::Fp8,
        reduce: Reduce::PerExpert,
        routing: Routing::Random,
        alignment: 4,
        tokens: vec![9, 0, 4],
        seed: 7,
    }
}

#[test]
fn rows_of_every_odd_length() {
    for hidden in [16, 48, 528, 2064] {
        run(&Case { hidden, ..small() });
    }
    for hidden in [8, 72, 264] {
        let (payload, reduce) = (Payload::Bf16, Reduce::PerRank);
        run(&Case {
            hidden,
            payload,
            reduce,
            ..small()
        });
    }
}

/// Five rounds without a host synchronisation, two of them open at a time.
pub(crate) fn overlapping(reduce: Reduce) {
    let case = |seed| Case {
        seed,
        reduce,
        ..small()
    };
    let cases: Vec<_> = (0..5).map(case).collect();
    let plan = ThroughputPlan::new(cases[0].desc()).unwrap();
    on_ranks(cases[0].ranks(), |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let mut rounds: Vec<_> = cases.iter().map(|case| rank.round(case)).collect();
        let mut open = Some(rounds[0].dispatch().unwrap());
        for next in 1..=rounds.len() {
            let younger = rounds.get(next).map(|round| round.dispatch().unwrap());
            rounds[next - 1].combine(open.take().unwrap()).unwrap();
            open = younger;
        }
        rank.synchronize(&cases[0]);
        for round in &rounds {
            round.check_sums(|_| true);
        }
    });
}

#[test]
fn overlapping_rounds() {
    overlapping(Reduce::PerExpert);
    overlapping(Reduce::PerRank);
}
