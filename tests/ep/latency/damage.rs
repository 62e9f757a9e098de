//! Stores of a round that are damaged on their way, one after another: whatever is not the payload of a row becomes a
//! fault; no count and no origin of a row is silently wrong. Each damage is a process of its own, because the software GPU
//! reads it once.

use std::process::Command;
use std::time::Duration;

use hadal::ep::latency::{LatencyDesc, LatencyPlan, Payload};
use hadal::ep::{EpError, FaultKind};

use super::harness::Rank;
use super::model::{Case, Routing};
use crate::ranks::on_ranks;

const VARIABLE: &str = "EP_TEST_DAMAGE";
/// More stores than rank 0 sends to rank 1: three a row, a signal, a credit.
const STORES: usize = 16;

fn case() -> Case {
    Case {
        ranks: 2,
        experts: 2,
        topk: 1,
        hidden: 128,
        payload: Payload::Fp8,
        combine: Payload::Bf16,
        routing: Routing::Spread,
        tokens: vec![5, 3],
        rounds: 1,
        seed: 3,
        tight: false,
    }
}

/// Faults, or receives what was sent apart from payloads.
#[test]
#[ignore = "called by the test below in a process of its own"]
fn child() {
    assert!(std::env::var_os(VARIABLE).is_some(), "called by the parent");
    let case = case();
    let timeout = Duration::from_millis(500);
    let plan = LatencyPlan::new(LatencyDesc {
        timeout,
        ..case.desc()
    })
    .unwrap();
    let faulted = on_ranks(2, |mut side| {
        let rank = Rank::with_plan(&case, &plan, &mut side);
        let mut data = rank.round(0);
        let handle = data.dispatch();
        let dispatched = rank.buffers.synchronize(&rank.stream);
        // So that the first stores behind the launch of a later kernel are that kernel's.
        side.barrier("dispatched").unwrap();
        let ended = match dispatched {
            Ok(()) => {
                let received = case.received(0, rank.rank);
                let (found, plan) = (handle.as_ref().unwrap().received(), rank.buffers.plan());
                let counts = found.counts.to_vec(&rank.stream).unwrap();
                let source = found.source.to_vec(&rank.stream).unwrap();
                for (expert, rows) in received.iter().enumerate() {
                    assert_eq!(
                        usize::try_from(counts[expert]),
                        Ok(rows.len()),
                        "rank {}",
                        rank.rank
                    );
                    let slot = expert * plan.max_rows as usize;
                    for (origin, found) in rows.iter().zip(&source[slot..]) {
                        let found = (u32::from(found.rank), found.token, u32::from(found.k));
                        assert_eq!(found, (origin.rank, origin.token, origin.k));
                    }
                }
                let combined = data.combine(handle.unwrap());
                combined.and_then(|()| rank.buffers.synchronize(&rank.stream))
            }
            Err(error) => Err(error),
        };
        let faulted = match ended {
            Ok(()) => false,
            Err(EpError::Fault(fault)) => fault.kind == FaultKind::Protocol,
            Err(error) => panic!("{error}"),
        };
        side.barrier("end").unwrap();
        faulted
    });
    // The parent counts them.
    std::process::exit(if faulted.contains(&true) { 3 } else { 4 });
}

#[test]
fn damaged_headers_and_counts_are_protocol_faults() {
    // An odd number of rows more or less, and four of them.
    let faulted = damages("ep_dispatch_send", 0) + damages("ep_dispatch_send", 2);
    let rows = case().received(0, 1).concat();
    let rows = rows.iter().filter(|origin| origin.rank == 0).count();
    assert!(rows >= 4, "{rows}");
    // The header of each row, and the signal.
    assert_eq!(faulted, 2 * (rows + 1));
}

#[test]
fn damaged_signals_of_results_are_protocol_faults() {
    // Rank 0 has one expert.
    assert_eq!(damages("ep_combine_send", 0), 1);
}

/// How many of the stores from a launch on become faults when this bit of theirs is wrong.
fn damages(kernel: &str, bit: u32) -> usize {
    let this = std::env::current_exe().expect("the test executable");
    let mut faulted = 0;
    for skip in 0..STORES {
        let fault = format!("corrupt 0->1 skip={skip} n=1 bit={bit} @launch={kernel}");
        let output = Command::new(&this)
            .args(["latency::damage::child", "--exact", "--ignored"])
            .env(VARIABLE, "1")
            .env("SOFTGPU_FAULT", &fault)
            .output()
            .expect("it runs");
        match output.status.code() {
            Some(3) => faulted += 1,
            Some(4) => {}
            other => panic!(
                "{fault}: {other:?}\n{}",
                String::from_utf8_lossy(&output.stdout)
            ),
        }
    }
    faulted
}
