use super::*;
use crate::ep::throughput::Payload;

fn deepseek_v3() -> ThroughputDesc {
    ThroughputDesc {
        alignment: 128,
        ..ThroughputDesc::new([8, 256, 8], 7168, 4096, Payload::Fp8, Reduce::PerExpert)
    }
}

#[test]
fn deepseek_v3_prefill_on_8_ranks() {
    let plan = ThroughputPlan::new(deepseek_v3()).unwrap();
    // 7168 codes, 16 + 8 * 8 header, 56 scales of 4 bytes.
    assert_eq!(plan.slot_bytes, 7472);
    assert_eq!(plan.max_recv_rows, 8 * 4096);
    assert_eq!(plan.max_rows, 8 * 4096 * 8 + 32 * 127);
    assert_eq!(plan.heap.counts.bytes, 2 * 8 * 264 * 4);
    assert_eq!(plan.heap.rows.bytes, 2 * 32768 * 7472);
    assert_eq!(plan.heap.results.bytes, 2 * 4096 * 8 * 14336);
    assert_eq!(
        plan.heap.bytes,
        plan.heap.results.offset + plan.heap.results.bytes
    );
    let ctas = Ctas {
        dispatch: 15,
        combine_send: 13,
        combine_recv: 52,
    };
    assert_eq!(plan.ctas, ctas);
    assert_eq!((plan.chunk_tokens, plan.chunks(4096)), (35, 118));
    assert_eq!((plan.count_ctas(4096), plan.count_ctas(0)), (15, 1));
    assert_eq!((plan.dispatch_ctas(4096), plan.dispatch_ctas(9)), (15, 2));
    assert_eq!(plan.combine_send_ctas(), 13);
    assert_eq!(plan.combine_recv_ctas(4096), 52);
    let told = ThroughputDesc {
        ctas: Some(24),
        ..deepseek_v3()
    };
    let plan = ThroughputPlan::new(told).unwrap();
    assert_eq!(
        (plan.dispatch_ctas(4096), plan.combine_send_ctas()),
        (24, 24)
    );
    assert_eq!(plan.combine_recv_ctas(4096), 24);
}

#[test]
fn a_result_per_rank_needs_fewer_places() {
    let desc = ThroughputDesc {
        reduce: Reduce::PerRank,
        ranks: 4,
        ..deepseek_v3()
    };
    let plan = ThroughputPlan::new(desc).unwrap();
    assert_eq!(plan.results, 4);
    // 2.22 entries per row that crosses, a vector at a time.
    assert_eq!(plan.ctas.combine_send, 115);
    assert_eq!(plan.heap.results.bytes, 2 * 4096 * 4 * 14336);
}

#[test]
fn private_bytes_are_those_of_the_buffers() {
    let shape = [2, 3, 2];
    let desc = ThroughputDesc {
        max_rows: Some(10),
        ..ThroughputDesc::new(shape, 256, 5, Payload::Fp8, Reduce::PerExpert)
    };
    let plan = ThroughputPlan::new(desc).unwrap();
    // Codes, scales of 12 rows, offsets and counts of 2 experts, index, source, weight.
    let received = 10 * 256 + 12 * 2 * 4 + 5 * 4 + 10 * 16;
    // Copies, places of entries and rows, five chunks and their totals of five columns.
    let routing = 5 * 2 * 8 + 5 * 2 * 4 + 5 * 2 * 4 + 6 * 5 * 4;
    assert_eq!(plan.routing_bytes(), routing);
    assert_eq!(plan.private_bytes(0), 2 * (received + routing) + 8288);
}

#[test]
fn each_rule_names_its_field() {
    let ok = deepseek_v3();
    let broken = [
        ("ranks", ThroughputDesc { ranks: 17, ..ok }),
        (
            "experts",
            ThroughputDesc {
                experts: 1025,
                ..ok
            },
        ),
        ("topk", ThroughputDesc { topk: 17, ..ok }),
        ("hidden", ThroughputDesc { hidden: 136, ..ok }),
        (
            "max_tokens",
            ThroughputDesc {
                max_tokens: 0,
                ..ok
            },
        ),
        ("alignment", ThroughputDesc { alignment: 0, ..ok }),
        (
            "ctas",
            ThroughputDesc {
                ctas: Some(0),
                ..ok
            },
        ),
    ];
    for (expected, desc) in broken {
        match ThroughputPlan::new(desc) {
            Err(EpError::Desc { field, .. }) => assert_eq!(field, expected, "{desc:?}"),
            other => panic!("{desc:?}: {other:?}"),
        }
    }
    for (expected, max_rows, max_recv_rows) in [
        ("max_rows", Some(0), None),
        ("max_recv_rows", None, Some(0)),
    ] {
        let desc = ThroughputDesc {
            max_rows,
            max_recv_rows,
            ..ok
        };
        match ThroughputPlan::new(desc) {
            Err(EpError::Desc { field, .. }) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cap_makes_rounds_smaller_or_is_refused() {
    let desc = deepseek_v3();
    let whole = ThroughputPlan::new(desc).unwrap();
    assert_eq!(ThroughputPlan::within(desc, whole.bytes()).unwrap(), whole);
    for part in [2, 7, 50] {
        let cap = whole.bytes() / part;
        let plan = ThroughputPlan::within(desc, cap).unwrap();
        assert!(plan.bytes() <= cap, "{cap}: {plan:?}");
        // The cap is used, but for what cutting the tokens into chunks rounds up.
        let max_tokens = plan.desc.max_tokens + plan.desc.max_tokens / 50 + 2;
        let larger = ThroughputPlan::new(ThroughputDesc { max_tokens, ..desc }).unwrap();
        assert!(larger.bytes() > cap, "{cap}: {plan:?}");
    }
    let refused = ThroughputPlan::within(desc, 1000).unwrap_err().to_string();
    assert!(refused.contains("1000 bytes"), "{refused}");
}
