//! Rounds that use the routing of an earlier one again.

use hadal::ep::EpError;
use hadal::ep::throughput::{DispatchHandle, Payload, Reduce, Routing, ThroughputPlan};

use super::cases::small;
use super::harness::{Rank, Round};
use super::model::Case;
use crate::cases;
use crate::ranks::on_ranks;

/// A round of `case` whose buffers hold no usable routing.
fn unrouted<'a>(rank: &'a Rank, case: &'a Case) -> Round<'a> {
    let mut round = rank.round(case);
    let entries = case.tokens[rank.rank as usize] * case.topk;
    round.set_routing(&vec![i32::MAX; entries as usize]);
    round
}

fn finish(rank: &Rank, case: &Case, mut round: Round<'_>, handle: DispatchHandle) {
    rank.synchronize(case);
    round.check_received(&handle);
    round.combine(handle).unwrap();
    rank.synchronize(case);
    round.check_sums(|_| true);
}

/// The first round of `case`, combined after its routing was kept.
fn kept(rank: &Rank, case: &Case) -> Routing {
    let round = rank.round(case);
    let handle = round.dispatch().unwrap();
    let routing = handle.reuse().unwrap();
    finish(rank, case, round, handle);
    routing
}

/// Rank 0 counts anew each time, the others use their routing again, with rounds of another routing in between.
fn repeats(case: &Case) {
    let other = Case {
        seed: case.seed + 1,
        ..case.clone()
    };
    let plan = ThroughputPlan::new(case.desc()).unwrap();
    on_ranks(case.ranks(), |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let routing = kept(&rank, case);
        for others in [0, 1, 2] {
            for _ in 0..others {
                rank.checked_round(&other);
            }
            let again = unrouted(&rank, case);
            if rank.rank == 0 {
                rank.checked_round(case);
                continue;
            }
            let handle = again.dispatch_again(&routing).unwrap();
            finish(&rank, case, again, handle);
        }
    });
}

#[test]
fn a_routing_is_used_again() {
    for reduce in [Reduce::PerExpert, Reduce::PerRank] {
        let case = Case { reduce, ..small() };
        repeats(&case);
        repeats(&Case {
            payload: Payload::Bf16,
            routing: cases::Routing::Drops,
            tokens: vec![70, 3],
            ..case
        });
    }
    repeats(&Case {
        tokens: vec![0, 0, 0],
        ..small()
    });
}

/// Two rounds in flight with one routing, kept from a round that was itself such a round, and whose buffers are gone.
#[test]
fn a_routing_outlives_its_round_and_serves_two_at_once() {
    let case = small();
    let plan = ThroughputPlan::new(case.desc()).unwrap();
    on_ranks(case.ranks(), |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let first = kept(&rank, &case);
        let rounds = [(); 2].map(|()| unrouted(&rank, &case));
        let [mut one, mut two] = rounds;
        let handle = one.dispatch_again(&first).unwrap();
        let routing = handle.reuse().unwrap();
        drop(first);
        let second = two.dispatch_again(&routing).unwrap();
        one.combine(handle).unwrap();
        two.combine(second).unwrap();
        rank.synchronize(&case);
        one.check_sums(|_| true);
        two.check_sums(|_| true);
        // A dropped round owes the same as any.
        drop(one.dispatch_again(&routing).unwrap());
        rank.checked_round(&case);
        assert!(matches!(
            rank.buffers.check(),
            Ok(()) | Err(EpError::Abandoned { .. })
        ));
    });
}

#[test]
fn what_cannot_be_used_again_is_refused() {
    let case = small();
    let plan = ThroughputPlan::new(case.desc()).unwrap();
    on_ranks(case.ranks(), |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let routing = kept(&rank, &case);
        let other = Case {
            payload: Payload::Bf16,
            ..case.clone()
        };
        let refused = rank.round(&other).dispatch_again(&routing).unwrap_err();
        assert!(
            matches!(refused, EpError::Argument { what: "rows", .. }),
            "{refused}"
        );
        let round = rank.round(&case);
        let captured = rank.stream.capture(|_| {
            let handle = round.dispatch()?;
            let refused = handle.reuse().unwrap_err();
            assert!(
                matches!(
                    refused,
                    EpError::Argument {
                        operation: "reuse",
                        ..
                    }
                ),
                "{refused}"
            );
            Ok::<_, EpError>(())
        });
        drop(captured.unwrap());
        rank.checked_round(&case);
    });
}
