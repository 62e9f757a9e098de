//! Barriers, mbarriers, clocks.

use std::time::Duration;

use softgpu::error::FaultKind;

use crate::harness::{Words, assert_words, kernel, launch, machine, run, run_seeds};

#[test]
fn a_barrier_orders_shared_memory() {
    // Each round every thread adds its neighbour's value, over all 8 warps.
    let k = kernel(
        1,
        r"
        .shared .align 4 .b8 a[1024];
        .reg .b32 %r<12>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        mov.u32 %r9, a;
        shl.b32 %r2, %r1, 2;
        add.u32 %r3, %r9, %r2;
        st.shared.u32 [%r3], %r1;
        add.u32 %r4, %r2, 4;
        and.b32 %r4, %r4, 1023;
        add.u32 %r4, %r9, %r4;
        mov.u32 %r5, 0;
    L:  bar.sync 0;
        ld.shared.u32 %r6, [%r4];
        bar.sync 0;
        st.shared.u32 [%r3], %r6;
        add.u32 %r5, %r5, 1;
        setp.lt.u32 %p1, %r5, 100;
        @%p1 bra L;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r6;
        ret;",
    );
    let out = Words::on(0, 256);
    run_seeds(&launch(&k, 1, 256, &[out.address]), || {
        assert_words(&out.read(), |i| u32::try_from((i + 100) % 256).unwrap());
        out.write(&[0; 256]);
    });
}

#[test]
fn named_barriers_count_only_their_warps() {
    // Warps 0 and 1 meet at barrier r (from a register), warp 2 only arrives at barrier 3, where
    // warp 3 waits.
    let k = kernel(
        1,
        r"
        .shared .align 4 .u32 v;
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        shr.u32 %r2, %r1, 5;
        setp.ge.u32 %p1, %r2, 2;
        @%p1 bra H;
        mov.u32 %r3, 7; mov.u32 %r4, 64;
        bar.sync %r3, %r4;
        bar.red.popc.u32 %r5, 8, 64, 1;
        bra O;
    H:  setp.eq.u32 %p2, %r2, 3;
        @%p2 bra T;
        st.shared.u32 [v], 77;
        bar.arrive 3, 64;
        mov.u32 %r5, 1;
        bra O;
    T:  bar.sync 3, 64;
        ld.shared.u32 %r5, [v];
    O:  mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r5;
        ret;",
    );
    let out = Words::on(0, 128);
    run_seeds(&launch(&k, 1, 128, &[out.address]), || {
        assert_words(&out.read(), |i| [64, 64, 1, 77][i / 32]);
        out.write(&[0; 128]);
    });
}

#[test]
fn a_barrier_that_cannot_complete_is_a_deadlock() {
    let k = kernel(
        0,
        r"
        .reg .b32 %r<4>; .reg .pred %p<2>;
        mov.u32 %r1, %tid.x;
        setp.ge.u32 %p1, %r1, 32;
        @%p1 bra X;
        bar.sync 5, 64;
    X:  ret;",
    );
    let fault = run(launch(&k, 1, 64, &[])).unwrap_err();
    let FaultKind::Deadlock { waits } = &fault.kind else {
        panic!("{fault}");
    };
    assert!(waits.contains("barrier 5: 32 of 64"), "{waits}");
    assert_eq!((fault.warp, fault.line), (0, 11), "{fault}");
}

#[test]
fn an_mbarrier_that_nobody_arrives_at_is_a_deadlock() {
    let k = kernel(
        0,
        r"
        .shared .align 8 .b64 bar;
        .reg .b32 %r<4>; .reg .pred %p<2>;
        mov.u32 %r1, bar;
        mbarrier.init.shared::cta.b64 [%r1], 2;
    W:  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0, 10000000;
        @!%p1 bra W;
        ret;",
    );
    let fault = run(launch(&k, 1, 1, &[])).unwrap_err();
    let FaultKind::Deadlock { waits } = &fault.kind else {
        panic!("{fault}");
    };
    assert!(waits.contains("2 of 2 arrivals"), "{waits}");
}

#[test]
fn a_wait_with_a_deadline_ends_by_itself() {
    // Nobody arrives; the loop reads the timer and gives up after 2 ms of virtual time.
    let k = kernel(
        1,
        r"
        .shared .align 8 .b64 bar;
        .reg .b32 %r<4>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, bar;
        mbarrier.init.shared::cta.b64 [%r1], 1;
        mov.u64 %rd2, %globaltimer;
    W:  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
        @%p1 bra F;
        mov.u64 %rd3, %globaltimer;
        sub.u64 %rd4, %rd3, %rd2;
        setp.lt.u64 %p2, %rd4, 2000000;
        @%p2 bra W;
        st.global.u32 [%rd1], 1;
        ret;
    F:  st.global.u32 [%rd1], 2;
        ret;",
    );
    let out = Words::on(0, 1);
    run_seeds(&launch(&k, 1, 1, &[out.address]), || {
        assert_eq!(out.read(), [1]);
        out.write(&[0]);
    });
}

#[test]
fn polls_with_a_deadline_end_however_slowly_the_clock_advances() {
    // Among so many CTAs an iteration takes less than the clock can show, so that loops which read
    // it come round to the same registers. They wait for time all the same.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<4>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u64 %rd2, %globaltimer;
    W:  ld.acquire.sys.global.u32 %r1, [%rd1];
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra F;
        mov.u64 %rd3, %globaltimer;
        sub.u64 %rd4, %rd3, %rd2;
        setp.lt.u64 %p2, %rd4, 2000000;
        @%p2 bra W;
        red.global.add.u32 [%rd1+4], 1;
    F:  ret;",
    );
    let out = Words::on(0, 2);
    let machine = machine(132, None);
    machine.set_deadlock_limit(Some(Duration::from_secs(2)));
    machine
        .run(launch(&k, 2000, 32, &[out.address]))
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(out.read(), [0, 64_000]);
}

#[test]
fn work_does_not_use_up_deadlines() {
    // 20 million warp instructions take long on the host, but little virtual time: one warp of one
    // CTA at one instruction a cycle, 11.4 ms.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<4>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u64 %rd2, %globaltimer;
        mov.u32 %r1, 0;
    L:  add.u32 %r1, %r1, 1;
        setp.lt.u32 %p1, %r1, 6666666;
        @%p1 bra L;
        mov.u64 %rd3, %globaltimer;
        sub.u64 %rd4, %rd3, %rd2;
        cvt.u32.u64 %r2, %rd4;
        st.global.u32 [%rd1], %r2;
        ret;",
    );
    let out = Words::on(0, 1);
    run(launch(&k, 1, 32, &[out.address])).unwrap();
    let nanoseconds = out.read()[0];
    assert!(
        (11_000_000..12_000_000).contains(&nanoseconds),
        "{nanoseconds} ns"
    );
}

#[test]
fn nanosleep_and_polling_end() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra S;
    P:  nanosleep.u32 1000;
        ld.acquire.gpu.global.u32 %r2, [%rd1];
        setp.ne.u32 %p2, %r2, 3;
        @%p2 bra P;
        st.global.u32 [%rd1+4], 9;
        ret;
    S:  red.release.gpu.global.add.u32 [%rd1], 1;
        ret;",
    );
    let out = Words::on(0, 2);
    run_seeds(&launch(&k, 4, 1, &[out.address]), || {
        assert_eq!(out.read(), [3, 9]);
        out.write(&[0, 0]);
    });
}
