//! Seeds: runs replay, differ between seeds, and show what missing fences allow.

use softgpu::exec::Counters;

use crate::harness::{Words, assert_words, kernel, launch, machine};

/// CTA 0 writes data, then a flag; CTA 1 waits for the flag and passes on what it finds.
fn message(fence: &str, flag: &str) -> String {
    format!(
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra W;
        mov.u32 %r2, 77;
        st.global.u32 [%rd1+512], %r2;
        {fence}
        mov.u32 %r3, 1;
        {flag}.global.u32 [%rd1], %r3;
        ret;
    W:  ld.acquire.gpu.global.u32 %r4, [%rd1];
        setp.eq.u32 %p2, %r4, 0;
        @%p2 bra W;
        ld.relaxed.gpu.global.u32 %r5, [%rd1+512];
        st.global.u32 [%rd1+256], %r5;
        ret;"
    )
}

/// Seeds under which the message arrives late.
fn late(fence: &str, flag: &str) -> Vec<u64> {
    let k = kernel(1, &message(fence, flag));
    let words = Words::on(0, 256);
    let arrives_late = |&seed: &u64| {
        words.write(&[0; 256]);
        let shape = launch(&k, 2, 1, &[words.address]);
        machine(2, Some(seed)).run(shape).unwrap();
        let found = words.read();
        assert_eq!((found[0], found[128]), (1, 77), "seed {seed}");
        assert!(found[64] == 77 || found[64] == 0, "{}", found[64]);
        found[64] == 0
    };
    (0..48).filter(arrives_late).collect()
}

#[test]
fn a_message_without_a_fence_may_arrive_late() {
    let seeds = late("", "st.relaxed.gpu");
    assert!(!seeds.is_empty(), "48 seeds show nothing");
    assert!(seeds.len() < 48, "every seed shows it");
    assert_eq!(seeds, late("", "st.relaxed.gpu"), "seeds replay");
    let narrow = late("fence.acq_rel.cta;", "st.relaxed.gpu");
    assert!(!narrow.is_empty(), "a fence of the CTA orders nothing here");
}

#[test]
fn a_message_with_a_fence_never_arrives_late() {
    assert_eq!(late("fence.acq_rel.gpu;", "st.relaxed.gpu"), []);
    assert_eq!(late("membar.sys;", "st.volatile"), []);
    assert_eq!(late("", "st.release.gpu"), []);
}

#[test]
fn threads_of_a_cluster_see_their_stores_in_order() {
    // Every thread writes, reads back, overwrites with other widths, and reads its neighbour's
    // word behind a barrier; atomics meet plain stores.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<10>; .reg .b64 %rd<8>; .reg .pred %p<4>; .reg .b16 %h<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        mov.u32 %r2, 0;
    L:  st.global.u32 [%rd3], %r2;
        mov.b16 %h1, 258;
        st.global.u16 [%rd3+2], %h1;
        ld.global.u32 %r3, [%rd3];
        and.b32 %r4, %r3, 0xffff;
        setp.ne.u32 %p1, %r4, %r2;
        @%p1 trap;
        atom.global.add.u32 %r5, [%rd3], 1;
        setp.ne.u32 %p1, %r5, %r3;
        @%p1 trap;
        st.global.u32 [%rd3], %r1;
        bar.sync 0;
        xor.b32 %r6, %r1, 77;
        mul.wide.u32 %rd4, %r6, 4;
        add.u64 %rd5, %rd1, %rd4;
        ld.global.u32 %r7, [%rd5];
        setp.ne.u32 %p1, %r7, %r6;
        @%p1 trap;
        bar.sync 0;
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 40;
        @%p1 bra L;
        ret;",
    );
    let words = Words::on(0, 128);
    for seed in 0..24 {
        machine(2, Some(seed))
            .run(launch(&k, 1, 128, &[words.address]))
            .unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        assert_words(&words.read(), |i| u32::try_from(i).unwrap());
    }
}

#[test]
fn clocks_counts_and_schedules_replay() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x; mov.u32 %r5, %tid.x;
        mad.lo.u32 %r5, %r1, 64, %r5;
        mov.u32 %r2, 0;
    L:  atom.global.add.u32 %r3, [%rd1], 1;
        and.b32 %r4, %r3, 7;
        setp.eq.u32 %p1, %r4, 3;
        @%p1 nanosleep.u32 50;
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 20;
        @%p1 bra L;
        mov.u64 %rd4, %clock64;
        mov.u64 %rd5, %globaltimer;
        xor.b64 %rd4, %rd4, %rd5;
        mul.wide.u32 %rd2, %r5, 8;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u64 [%rd3+8], %rd4;
        ret;",
    );
    let words = Words::on(0, 2 + 2 * 8 * 64);
    let run = |seed| -> (Counters, Vec<u32>) {
        words.write(&[0; 2 + 2 * 8 * 64]);
        let shape = launch(&k, 8, 64, &[words.address]);
        let counters = machine(4, Some(seed)).run(shape).unwrap();
        (counters, words.read())
    };
    let (counters, found) = run(11);
    assert_eq!((counters.clone(), found), run(11));
    assert_ne!(counters.schedule, run(12).0.schedule);
}
