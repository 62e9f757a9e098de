//! Sizes worked out by hand, and the rules of the description.

use super::*;

fn desc() -> LatencyDesc {
    LatencyDesc {
        ranks: 4,
        experts: 10,
        topk: 3,
        hidden: 256,
        max_tokens: 5,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        max_rows: None,
        ctas: Some(2),
        timeout: LatencyDesc::DEFAULT_TIMEOUT,
    }
}

#[test]
fn sizes_of_a_small_plan() {
    let plan = LatencyPlan::new(desc()).unwrap();
    // 16 header + 256 codes + 2 scales of 4 bytes, rounded up to 16.
    assert_eq!((plan.scales, plan.slot_bytes), (2, 288));
    assert_eq!((plan.max_local_experts, plan.max_rows), (3, 20));
    assert_eq!(plan.scale_rows, 20);
    let heap = &plan.heap;
    assert_eq!(
        (heap.dispatch_signal.offset, heap.dispatch_signal.bytes),
        (0, 2 * 3 * 4 * 8)
    );
    assert_eq!(
        (heap.dispatch_credit.offset, heap.dispatch_credit.bytes),
        (256, 80)
    );
    assert_eq!(
        (heap.combine_signal.offset, heap.combine_signal.bytes),
        (384, 160)
    );
    assert_eq!(
        (heap.combine_credit.offset, heap.combine_credit.bytes),
        (640, 32)
    );
    assert_eq!((heap.poison.offset, heap.poison.bytes), (768, 32));
    assert_eq!(
        (heap.dispatch_slots.offset, heap.dispatch_slots.bytes),
        (896, 2 * 3 * 4 * 5 * 288)
    );
    assert_eq!(heap.combine_slots.offset, 35456);
    assert_eq!(heap.combine_slots.bytes, 2 * 5 * 3 * 512);
    assert_eq!(
        heap.bytes,
        heap.combine_slots.offset + heap.combine_slots.bytes
    );
    assert_eq!((plan.dispatch_send_ctas, plan.expert_ctas), (2, 2));
    assert_eq!(
        (plan.combine_recv_ctas(0), plan.combine_recv_ctas(5)),
        (1, 1)
    );
    assert_eq!(plan.combine_recv_ctas(5000), 2);
    // Rank 3 owns 2 experts: codes, scales, counts, sources, twice; and the state.
    assert_eq!(
        plan.private_bytes(3),
        2 * (2 * 20 * 256 + 2 * 2 * 20 * 4 + 2 * 4 + 40 * 8) + 8288
    );
}

#[test]
fn experts_are_split_as_evenly_as_they_go() {
    for (ranks, experts) in [(1, 1), (4, 10), (8, 3), (3, 256), (16, 17)] {
        let desc = LatencyDesc {
            ranks,
            experts,
            ..desc()
        };
        let mut next = 0;
        for rank in 0..ranks {
            assert_eq!(desc.first_expert(rank), next, "{ranks} ranks, rank {rank}");
            let own = desc.local_experts(rank);
            assert!(own.abs_diff(experts / ranks) <= 1);
            next += own;
        }
        assert_eq!(next, experts, "{ranks} ranks");
    }
}

#[test]
fn each_rule_names_its_field() {
    let ok = desc();
    let broken = [
        ("ranks", LatencyDesc { ranks: 0, ..ok }),
        ("ranks", LatencyDesc { ranks: 17, ..ok }),
        ("experts", LatencyDesc { experts: 0, ..ok }),
        ("topk", LatencyDesc { topk: 17, ..ok }),
        ("hidden", LatencyDesc { hidden: 0, ..ok }),
        ("hidden", LatencyDesc { hidden: 136, ..ok }),
        (
            "hidden",
            LatencyDesc {
                hidden: 132,
                payload: Payload::Bf16,
                ..ok
            },
        ),
        (
            "max_tokens",
            LatencyDesc {
                max_tokens: 0,
                ..ok
            },
        ),
        (
            "max_rows",
            LatencyDesc {
                max_rows: Some(0),
                ..ok
            },
        ),
        (
            "ctas",
            LatencyDesc {
                ctas: Some(0),
                ..ok
            },
        ),
        (
            "timeout",
            LatencyDesc {
                timeout: Duration::ZERO,
                ..ok
            },
        ),
        (
            "timeout",
            LatencyDesc {
                timeout: Duration::MAX,
                ..ok
            },
        ),
    ];
    for (expected, desc) in broken {
        match LatencyPlan::new(desc) {
            Err(EpError::Desc { field, .. }) => assert_eq!(field, expected, "{desc:?}"),
            other => panic!("{desc:?}: {other:?}"),
        }
    }
    // 136 elements are a multiple of 16 bytes in BF16.
    LatencyPlan::new(LatencyDesc {
        hidden: 136,
        payload: Payload::Bf16,
        ..ok
    })
    .unwrap();
}

#[test]
fn fp8_halves_what_travels_back() {
    let plan = LatencyPlan::new(LatencyDesc {
        hidden: 144,
        combine: Payload::Fp8,
        ..desc()
    })
    .unwrap();
    // 144 codes and two scales, rounded up to 16.
    assert_eq!((plan.combine_scales, plan.combine_slot_bytes), (2, 160));
    assert_eq!(plan.heap.combine_slots.bytes, 2 * 5 * 3 * 160);
}

/// The least that two buffers of all slots take; a result per entry.
#[test]
fn buffers_are_little_more_than_two_of_each_slot() {
    for combine in [Payload::Bf16, Payload::Fp8] {
        let desc = LatencyDesc {
            ranks: 8,
            experts: 256,
            topk: 8,
            hidden: 7168,
            max_tokens: 128,
            combine,
            ..desc()
        };
        let (row, scales) = (7168, 56 * 4);
        let back = match combine {
            Payload::Bf16 => row * 2,
            Payload::Fp8 => row + scales,
        };
        let least = 2 * (32 * 8 * 128 * (row + scales) + 128 * 8 * back);
        let bytes = LatencyPlan::new(desc).unwrap().heap.bytes;
        assert!(
            bytes >= least && bytes * 10 <= least * 11,
            "{bytes}, {least}"
        );
    }
}

#[test]
fn deepseek_v3_decoding_on_8_ranks() {
    let plan = LatencyPlan::new(LatencyDesc {
        ranks: 8,
        experts: 256,
        topk: 8,
        hidden: 7168,
        max_tokens: 128,
        ctas: None,
        ..desc()
    })
    .unwrap();
    assert_eq!(plan.slot_bytes, 16 + 7168 + 56 * 4);
    assert_eq!(plan.heap.dispatch_slots.bytes, 2 * 32 * 8 * 128 * 7408);
    assert_eq!(plan.heap.combine_slots.bytes, 2 * 128 * 8 * 14336);
    assert_eq!((plan.dispatch_send_ctas, plan.expert_ctas), (132, 32));
    assert_eq!(plan.combine_recv_ctas(128), 132);
}

#[test]
fn a_cap_makes_rounds_smaller_or_is_refused() {
    let desc = LatencyDesc {
        max_tokens: 100,
        ..desc()
    };
    let whole = LatencyPlan::new(desc).unwrap();
    let same = LatencyPlan::within(desc, whole.bytes()).unwrap();
    assert_eq!(same, whole);
    assert_eq!(
        (whole.rounds(0), whole.rounds(100), whole.rounds(101)),
        (1, 1, 2)
    );
    for cap in [whole.bytes() - 1, whole.bytes() / 2, whole.bytes() / 50] {
        let plan = LatencyPlan::within(desc, cap).unwrap();
        let max_tokens = plan.desc.max_tokens + 1;
        let larger = LatencyPlan::new(LatencyDesc { max_tokens, ..desc }).unwrap();
        assert!(
            plan.bytes() <= cap && larger.bytes() > cap,
            "{cap}: {plan:?}"
        );
    }
    let one = LatencyPlan::new(LatencyDesc {
        max_tokens: 1,
        ..desc
    });
    let least = one.unwrap().bytes();
    assert_eq!(LatencyPlan::within(desc, least).unwrap().desc.max_tokens, 1);
    let refused = LatencyPlan::within(desc, least - 1)
        .unwrap_err()
        .to_string();
    assert!(refused.contains(&format!("at least {least}")), "{refused}");
}
