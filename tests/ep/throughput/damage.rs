//! Stores that are damaged or lost on their way: protocol faults, never silently wrong rows. Each damage is a process of
//! its own, because the software GPU reads it once.

use std::process::Command;

use hadal::ep::throughput::ThroughputPlan;
use hadal::ep::{EpError, Fault, FaultKind, Phase};

use super::cases::small;
use super::harness::Rank;
use crate::ranks::on_ranks;

const VARIABLE: &str = "EP_TEST_PHASE";

/// Rank 1 finds what rank 0's stores have become; the others hear of it.
#[test]
#[ignore = "called by the tests below in a process of its own"]
fn child() {
    let phase = match std::env::var(VARIABLE).as_deref() {
        Ok("counts") => Phase::Counts,
        Ok("placement") => Phase::Placement,
        other => panic!("called by the parent, found {other:?}"),
    };
    let case = small();
    let case = super::model::Case {
        tokens: vec![9, 5, 4],
        ..case
    };
    let plan = ThroughputPlan::new(case.desc()).unwrap();
    let faults: Vec<Fault> = on_ranks(3, |mut side| {
        let rank = Rank::new(&plan, &mut side);
        let mut round = rank.round(&case);
        // Combining as well, so that those who received all meet the fault there; it may be known before.
        let combined = match round.dispatch() {
            Ok(handle) => round.combine(handle),
            Err(error) => Err(error),
        };
        let found = match rank.buffers.synchronize(&rank.stream) {
            Err(EpError::Fault(fault)) => fault,
            other => panic!("rank {}: {other:?}, {combined:?}", rank.rank),
        };
        side.barrier("end").unwrap();
        found
    });
    let found = &faults[1];
    let what = (found.kind, found.phase, found.peer);
    assert_eq!(what, (FaultKind::Protocol, phase, 0), "{found}");
    // Of rank 1 itself or of the other one, whichever was waited for first.
    for fault in [&faults[0], &faults[2]] {
        assert_eq!(fault.kind, FaultKind::Poisoned, "{fault}");
    }
}

fn damaged(fault: &str, phase: &str) {
    let this = std::env::current_exe().expect("the test executable");
    let output = Command::new(&this)
        .args(["throughput::damage::child", "--exact", "--ignored"])
        .env(VARIABLE, phase)
        .env("SOFTGPU_FAULT", fault)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && text.contains("1 passed");
    assert!(passed, "SOFTGPU_FAULT={fault:?}:\n{text}");
}

#[test]
fn a_corrupted_count_is_a_protocol_fault() {
    damaged("corrupt 0->1", "counts");
    damaged("drop 0->1 n=1", "counts");
}

#[test]
fn a_lost_header_is_a_protocol_fault() {
    // The three stores before are the counts, their checksum and their epoch.
    damaged("drop 0->1 skip=3 n=1", "placement");
}
