//! Divergence, independent thread scheduling, warp-level operations.

use crate::harness::{Words, assert_words, kernel, launch, run, run_seeds};

#[test]
fn diverged_lanes_reconverge() {
    // Lanes loop `lane` times; afterwards all lanes must be active together.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %laneid;
        mov.u32 %r2, 0; mov.u32 %r3, 0;
    L:  setp.ge.u32 %p1, %r2, %r1;
        @%p1 bra D;
        add.u32 %r3, %r3, %r2;
        add.u32 %r2, %r2, 1;
        bra L;
    D:  activemask.b32 %r4;
        mul.wide.u32 %rd2, %r1, 8;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r3;
        st.global.u32 [%rd3+4], %r4;
        ret;",
    );
    let out = Words::on(0, 64);
    run(launch(&k, 1, 32, &[out.address])).unwrap();
    assert_words(&out.read(), |i| {
        let lane = u32::try_from(i / 2).unwrap();
        if i % 2 == 0 {
            lane * lane.saturating_sub(1) / 2
        } else {
            u32::MAX
        }
    });
}

#[test]
fn a_lock_passes_from_lane_to_lane() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [p0];
    A:  atom.global.acquire.gpu.cas.b32 %r1, [%rd1], 0, 1;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra A;
        ld.volatile.global.u32 %r2, [%rd1+4];
        add.u32 %r2, %r2, 1;
        st.volatile.global.u32 [%rd1+4], %r2;
        atom.global.release.gpu.exch.b32 %r3, [%rd1], 0;
        ret;",
    );
    let out = Words::on(0, 2);
    let launch = launch(&k, 4, 64, &[out.address]);
    run_seeds(&launch, || {
        assert_eq!(out.read(), [0, 256]);
        out.write(&[0, 0]);
    });
}

#[test]
fn an_elected_lane_spins_while_others_wait() {
    // Warp 1 sets the flag after some work; lane 0 of warp 0 spins, 31 lanes wait for it.
    let k = kernel(
        1,
        r"
        .shared .align 4 .u32 flag;
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra S;
        st.shared.u32 [flag], 0;
    S:  bar.sync 0;
        setp.ge.u32 %p1, %r1, 32;
        @%p1 bra W;
        elect.sync _|%p2, -1;
        @!%p2 bra J;
    P:  ld.volatile.shared.u32 %r2, [flag];
        setp.eq.u32 %p3, %r2, 0;
        @%p3 bra P;
    J:  bar.warp.sync -1;
        ld.volatile.shared.u32 %r2, [flag];
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r2;
        ret;
    W:  mov.u32 %r3, 0;
    C:  add.u32 %r3, %r3, 1;
        setp.lt.u32 %p3, %r3, 100000;
        @%p3 bra C;
        st.volatile.shared.u32 [flag], %r3;
        ret;",
    );
    let out = Words::on(0, 32);
    run_seeds(&launch(&k, 1, 64, &[out.address]), || {
        assert_words(&out.read(), |_| 100_000);
        out.write(&[0; 32]);
    });
}

#[test]
fn exited_lanes_do_not_hold_up_the_others() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        and.b32 %r2, %r1, 1;
        setp.eq.u32 %p1, %r2, 0;
        @%p1 exit;
        bar.warp.sync -1;
        vote.sync.ballot.b32 %r3, 1, -1;
        bar.sync 0;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r3;
        ret;",
    );
    let out = Words::on(0, 64);
    run(launch(&k, 1, 64, &[out.address])).unwrap();
    assert_words(&out.read(), |i| if i % 2 == 1 { 0xaaaa_aaaa } else { 0 });
}

#[test]
fn shuffles_votes_and_reductions() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<16>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %laneid;
        mul.wide.u32 %rd2, %r1, 32;
        add.u64 %rd3, %rd1, %rd2;
        shfl.sync.bfly.b32 %r2|%p1, %r1, 5, 0x1f, -1;
        st.global.u32 [%rd3], %r2;
        shfl.sync.up.b32 %r3|%p1, %r1, 3, 0, -1;
        selp.u32 %r4, 1, 0, %p1;
        st.global.u32 [%rd3+4], %r3;
        st.global.u32 [%rd3+8], %r4;
        shfl.sync.idx.b32 %r5, %r1, 2, 0x181f, -1;
        st.global.u32 [%rd3+12], %r5;
        redux.sync.add.u32 %r6, %r1, -1;
        st.global.u32 [%rd3+16], %r6;
        shr.u32 %r7, %r1, 3;
        match.any.sync.b32 %r8, %r7, -1;
        st.global.u32 [%rd3+20], %r8;
        redux.sync.max.s32 %r9, %r1, %r8;
        st.global.u32 [%rd3+24], %r9;
        setp.lt.u32 %p2, %r1, 7;
        vote.sync.ballot.b32 %r10, %p2, -1;
        st.global.u32 [%rd3+28], %r10;
        ret;",
    );
    let out = Words::on(0, 256);
    run(launch(&k, 1, 32, &[out.address])).unwrap();
    assert_words(&out.read(), |i| {
        let lane = u32::try_from(i / 8).unwrap();
        match i % 8 {
            0 => lane ^ 5,
            1 => {
                if lane < 3 {
                    lane
                } else {
                    lane - 3
                }
            }
            2 => u32::from(lane >= 3),
            3 => lane / 8 * 8 + 2,
            4 => 496,
            5 => 0xff << (lane / 8 * 8),
            6 => lane / 8 * 8 + 7,
            _ => 0x7f,
        }
    });
}

#[test]
fn special_registers_name_the_thread() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<16>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y;
        mov.u32 %r3, %nctaid.x; mov.u32 %r4, %tid.x; mov.u32 %r5, %tid.y; mov.u32 %r6, %tid.z;
        mov.u32 %r7, %ntid.x; mov.u32 %r8, %ntid.y;
        mad.lo.u32 %r9, %r2, %r3, %r1;
        mad.lo.u32 %r10, %r6, %r8, %r5;
        mad.lo.u32 %r10, %r10, %r7, %r4;
        mad.lo.u32 %r11, %r9, 60, %r10;
        mul.wide.u32 %rd2, %r11, 4;
        add.u64 %rd3, %rd1, %rd2;
        shl.b32 %r9, %r9, 16;
        or.b32 %r10, %r9, %r10;
        st.global.u32 [%rd3], %r10;
        ret;",
    );
    let out = Words::on(0, 360);
    let mut shape = launch(&k, 3, 5, &[out.address]);
    shape.grid = [3, 2, 1];
    shape.block = [5, 4, 3];
    let counters = run(shape).unwrap();
    assert_eq!(counters.ctas, 6);
    assert_words(&out.read(), |i| {
        u32::try_from(((i / 60) << 16) | (i % 60)).unwrap()
    });
}

#[test]
fn indexed_branches_take_their_targets() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<16>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %laneid;
        and.b32 %r2, %r1, 3;
    ts: .branchtargets A, B, C, D;
        brx.idx %r2, ts;
    A:  mov.u32 %r3, 10; bra E;
    B:  mov.u32 %r3, 20; bra E;
    C:  mov.u32 %r3, 30; bra E;
    D:  mov.u32 %r3, 40;
    E:  activemask.b32 %r4;
        and.b32 %r4, %r4, 0xff;
        add.u32 %r3, %r3, %r4;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r3;
        ret;",
    );
    let out = Words::on(0, 32);
    run(launch(&k, 1, 32, &[out.address])).unwrap();
    assert_words(&out.read(), |i| {
        u32::try_from(i % 4 * 10 + 10 + 255).unwrap()
    });
}
