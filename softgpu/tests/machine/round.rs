//! Loops that look as if they waited for ever, and do not: parked by mistake, they would be reported
//! as deadlocks here. And loops that do wait, in which several warps take part.
//!
//! All of them read a word, at `%rd1`, that stays what it is; at `%rd1 + 4` stands the result.

use std::sync::mpsc;
use std::time::Duration;

use softgpu::error::FaultKind;
use softgpu::exec::Launch;

use crate::harness::{Words, kernel, launch, machine};

const ROUNDS: u32 = 100_000;

/// A launch of a kernel with that body, in which `ROUNDS` stands for the number of rounds.
fn shape(body: &str, (grid, block, cluster): (u32, u32, u32), words: &Words) -> Launch {
    let body = format!(
        r"
        .reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .pred %p<8>;
        .shared .align 8 .b64 bar; .shared .align 4 .b32 seen; .shared .align 4 .b32 count;
        .local .align 4 .b32 private;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        setp.ne.u32 %p7, %r1, 0;
        @%p7 bra B; st.shared.u32 [seen], 0; st.shared.u32 [count], 0;
        mbarrier.init.shared.b64 [bar], {ROUNDS};
     B: st.local.u32 [private], 0;
        mov.u32 %r2, 0;
        bar.sync 0;
        {body}
        ret;"
    );
    let k = kernel(1, &body.replace("ROUNDS", &ROUNDS.to_string()));
    let mut shape = launch(&k, grid, block, &[words.address]);
    shape.cluster = [cluster, 1, 1];
    shape
}

/// Runs a body that must end by itself; the result.
fn ends(body: &str, extent: (u32, u32, u32)) -> u32 {
    let words = Words::on(0, 2);
    for seed in [None, Some(1)] {
        words.write(&[0, 0]);
        let machine = machine(132, seed);
        machine.set_deadlock_limit(Some(Duration::from_secs(2)));
        machine
            .run(shape(body, extent, &words))
            .unwrap_or_else(|fault| panic!("seed {seed:?}: {fault}\n{body}"));
        assert_eq!(words.read()[0], 0);
    }
    words.read()[1]
}

#[test]
fn rounds_that_count_end() {
    let counters = [
        // In shared memory, in a register, in a register of one lane of another warp, in local
        // memory, in the phase of an mbarrier.
        "W: bar.sync 0; ld.acquire.sys.global.u32 %r6, [%rd1]; @%p7 bra J;
         ld.shared.u32 %r2, [count]; add.u32 %r2, %r2, 1; st.shared.u32 [count], %r2;
         J: bar.sync 0; ld.shared.u32 %r2, [count]; setp.lt.u32 %p1, %r2, ROUNDS; @%p1 bra W;",
        "W: bar.sync 0; ld.acquire.sys.global.u32 %r6, [%rd1]; add.u32 %r2, %r2, 1;
         bar.sync 0; setp.lt.u32 %p1, %r2, ROUNDS; @%p1 bra W;",
        "setp.eq.u32 %p3, %r1, 77;
         W: bar.sync 0; ld.acquire.sys.global.u32 %r6, [%rd1]; @%p3 add.u32 %r2, %r2, 1;
         setp.ge.u32 %p1, %r2, ROUNDS; bar.red.or.pred %p1, 0, %p1; @!%p1 bra W;
         mov.u32 %r2, ROUNDS;",
        "W: bar.sync 0; ld.acquire.sys.global.u32 %r6, [%rd1];
         ld.local.u32 %r2, [private]; add.u32 %r2, %r2, 1; st.local.u32 [private], %r2;
         bar.sync 0; mov.u32 %r3, 0; setp.lt.u32 %p1, %r2, ROUNDS; mov.u32 %r2, 0; @%p1 bra W;
         ld.local.u32 %r2, [private];",
        "W: bar.sync 0; ld.acquire.sys.global.u32 %r6, [%rd1]; @%p7 bra J;
         mbarrier.arrive.shared.b64 _, [bar];
         J: bar.sync 0; mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra W;
         mov.u32 %r2, ROUNDS;",
    ];
    for counter in counters {
        let body = format!("{counter} @%p7 bra X; st.global.u32 [%rd1+4], %r2; X:");
        assert_eq!(ends(&body, (1, 128, 1)), ROUNDS, "{counter}");
        assert_eq!(ends(&body, (2, 96, 2)), ROUNDS, "{counter}");
    }
}

#[test]
fn rounds_in_which_shared_memory_has_a_period_end() {
    // Only the last warp counts, and only when the state of period `P` comes round.
    for period in [2, 3, 7] {
        let body = format!(
            "W: bar.sync 0; ld.acquire.sys.global.u32 %r6, [%rd1]; @%p7 bra J;
             ld.shared.u32 %r3, [seen]; add.u32 %r3, %r3, 1; rem.u32 %r3, %r3, {period};
             st.shared.u32 [seen], %r3;
             J: bar.sync 0; ld.shared.u32 %r3, [seen];
             setp.eq.u32 %p1, %r3, 0; setp.ge.and.u32 %p1, %r1, 96, %p1;
             @%p1 add.u32 %r2, %r2, 1;
             setp.ge.u32 %p1, %r2, 10000; bar.red.or.pred %p1, 0, %p1; @!%p1 bra W;
             setp.ne.u32 %p1, %r1, 100; @%p1 bra X; st.global.u32 [%rd1+4], %r2; X:"
        );
        assert_eq!(ends(&body, (1, 128, 1)), 10_000, "{period}");
    }
}

#[test]
fn warps_that_take_turns_end() {
    // Warps pass a number round, through shared or global memory, by stores or by atomics whose
    // results nobody would take for effects.
    let pass = |take: &str, give: &str| {
        format!(
            "shr.u32 %r4, %r1, 5; add.u32 %r5, %r4, 1; rem.u32 %r5, %r5, 3;
             and.b32 %r3, %r1, 31; setp.ne.u32 %p1, %r3, 0; @%p1 bra X;
             W: {take} setp.ne.u32 %p1, %r3, %r4; @%p1 bra W; {give}
             add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 20000; @%p1 bra W;
             setp.ne.u32 %p1, %r4, 2; @%p1 bra X; st.global.u32 [%rd1+4], %r2; X:"
        )
    };
    let ways = [
        (
            "ld.volatile.shared.u32 %r3, [seen];",
            "st.volatile.shared.u32 [seen], %r5;",
        ),
        (
            "atom.shared.cas.b32 %r3, [seen], %r4, %r5;",
            "mov.u32 %r3, 0;",
        ),
        (
            "atom.global.cas.b32 %r3, [%rd1], %r4, %r5;",
            "mov.u32 %r3, 0;",
        ),
    ];
    for (take, give) in ways {
        let body = pass(take, give);
        assert_eq!(ends(&body, (1, 96, 1)), 20_000, "{take}");
    }
}

#[test]
fn a_value_that_is_there_for_a_moment_is_seen() {
    // Two warps go round and show 5 in between, for which the third waits.
    let body = "setp.ge.u32 %p1, %r1, 64; @%p1 bra S;
         W: @%p7 bra J; st.volatile.shared.u32 [seen], 5;
         J: bar.sync 1, 64; @%p7 bra K; st.volatile.shared.u32 [seen], 0;
         K: ld.acquire.sys.global.u32 %r6, [%rd1];
         bar.sync 1, 64; ld.volatile.shared.u32 %r3, [count]; bar.sync 1, 64;
         setp.eq.u32 %p1, %r3, 0; @%p1 bra W; bra X;
         S: ld.volatile.shared.u32 %r3, [seen]; setp.ne.u32 %p1, %r3, 5; @%p1 bra S;
         st.volatile.shared.u32 [count], 1;
         st.global.u32 [%rd1+4], 9; X:";
    assert_eq!(ends(body, (1, 96, 1)), 9);
}

#[test]
fn rounds_of_a_cluster_end() {
    // The second CTA counts in the memory of the first; all see it after the barrier.
    let body = "mov.u32 %r4, count; mapa.shared::cluster.u32 %r4, %r4, 0;
         mov.u32 %r5, %cluster_ctarank; setp.ne.u32 %p2, %r5, 1; or.pred %p2, %p2, %p7;
         barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
         W: @%p2 bra J; ld.shared::cluster.u32 %r2, [%r4]; add.u32 %r2, %r2, 1;
         st.shared::cluster.u32 [%r4], %r2;
         J: barrier.cluster.arrive.release; ld.acquire.sys.global.u32 %r6, [%rd1];
         barrier.cluster.wait.acquire; ld.shared::cluster.u32 %r2, [%r4];
         barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
         setp.lt.u32 %p1, %r2, ROUNDS; @%p1 bra W;
         @%p2 bra X; st.global.u32 [%rd1+4], %r2; X:";
    assert_eq!(ends(body, (2, 64, 2)), ROUNDS);
}

#[test]
fn rounds_with_a_deadline_end() {
    // Among so many CTAs the clock stands nearly still.
    let body = "mov.u64 %rd2, %globaltimer;
         W: mov.u32 %r2, 0; @%p7 bra J; ld.acquire.sys.global.u32 %r6, [%rd1];
         mov.u64 %rd3, %globaltimer; sub.u64 %rd3, %rd3, %rd2;
         setp.ge.u64 %p1, %rd3, 2000000; selp.u32 %r2, 1, 0, %p1; st.shared.u32 [seen], %r2;
         J: bar.sync 0; ld.shared.u32 %r2, [seen]; bar.sync 0;
         setp.eq.u32 %p1, %r2, 0; @%p1 bra W;
         red.global.add.u32 [%rd1+4], 1;";
    let words = Words::on(0, 2);
    let machine = machine(132, None);
    machine.set_deadlock_limit(Some(Duration::from_secs(2)));
    machine
        .run(shape(body, (2000, 64, 1), &words))
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(words.read(), [0, 128_000]);
}

/// All threads go round until the word is 3, and count it then.
const ROUND: &str =
    "W: @%p7 bra J; ld.acquire.sys.global.u32 %r6, [%rd1]; st.shared.u32 [seen], %r6;
     J: bar.sync 0; ld.shared.u32 %r2, [seen]; bar.sync 0;
     setp.ne.u32 %p1, %r2, 3; @%p1 bra W;
     red.global.add.u32 [%rd1+4], 1;";

#[test]
fn every_change_is_looked_at() {
    let words = Words::on(0, 2);
    let machine = machine(132, None);
    let (sender, receiver) = mpsc::channel();
    machine.submit(
        shape(ROUND, (300, 128, 1), &words),
        Box::new(move |result| sender.send(result).unwrap()),
    );
    for value in 0..4 {
        assert!(receiver.try_recv().is_err());
        std::thread::sleep(Duration::from_millis(100));
        words.write(&[value]);
    }
    receiver.recv().unwrap().unwrap();
    assert_eq!(words.read(), [3, 300 * 128]);
}

#[test]
fn clusters_that_go_round_see_each_other() {
    // The last CTA counts to 3, each time after many rounds of its own.
    let body = format!(
        "mov.u32 %r4, %ctaid.x; setp.ne.u32 %p2, %r4, 6; @%p2 bra W;
         C: bar.sync 0; ld.global.u32 %r6, [%rd1]; add.u32 %r5, %r5, 1; bar.sync 0;
         rem.u32 %r3, %r5, 30000; setp.ne.u32 %p1, %r3, 0; or.pred %p1, %p1, %p7; @%p1 bra D;
         red.release.gpu.global.add.u32 [%rd1], 1;
         D: setp.lt.u32 %p1, %r5, 90000; @%p1 bra C;
         {ROUND}"
    );
    let words = Words::on(0, 2);
    machine(4, None)
        .run(shape(&body, (7, 64, 1), &words))
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(words.read(), [3, 7 * 64]);
}

#[test]
fn a_round_that_nobody_ends_is_a_deadlock() {
    let words = Words::on(0, 2);
    words.write(&[7]);
    let machine = machine(4, None);
    machine.set_deadlock_limit(Some(Duration::from_millis(300)));
    let fault = machine
        .run(shape(ROUND, (2, 64, 1), &words))
        .expect_err("nobody writes 3");
    let FaultKind::Deadlock { waits } = &fault.kind else {
        panic!("{fault}");
    };
    let read = format!("goes round, reads {:#x} and sees 0x7", words.address);
    assert!(waits.contains(&read), "{waits}");
}
