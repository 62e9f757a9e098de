//! Clusters: distributed shared memory, remote arrivals, multicast, the cluster barrier.

use crate::harness::{Words, assert_words, kernel, launch, run, run_seeds};

#[test]
fn peers_write_each_other_and_meet_at_the_barrier() {
    let k = kernel(
        1,
        r"
        .shared .align 4 .b8 slots[16];
        .reg .b32 %r<12>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %cluster_ctarank;
        mov.u32 %r2, %tid.x;
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        setp.ge.u32 %p1, %r2, 4;
        @%p1 bra M;
        mov.u32 %r3, slots;
        shl.b32 %r4, %r1, 2;
        add.u32 %r3, %r3, %r4;
        mapa.shared::cluster.u32 %r5, %r3, %r2;
        mad.lo.u32 %r6, %r1, 10, %r2;
        st.shared::cluster.u32 [%r5], %r6;
    M:  barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        @%p1 bra X;
        mov.u32 %r3, slots;
        shl.b32 %r4, %r2, 2;
        add.u32 %r3, %r3, %r4;
        ld.shared.u32 %r7, [%r3];
        mov.u32 %r8, %ctaid.x;
        mad.lo.u32 %r8, %r8, 4, %r2;
        mul.wide.u32 %rd2, %r8, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3], %r7;
    X:  ret;",
    );
    let out = Words::on(0, 32);
    let mut shape = launch(&k, 8, 64, &[out.address]);
    shape.cluster = [4, 1, 1];
    run_seeds(&shape, || {
        assert_words(&out.read(), |i| {
            u32::try_from(i % 4 * 10 + i / 4 % 4).unwrap()
        });
        out.write(&[0; 32]);
    });
}

#[test]
fn multicast_reaches_every_cta_of_the_mask() {
    // CTA 0 loads for both; CTA 1 expects its own bytes and tells CTA 0 when it is done.
    let k = kernel(
        2,
        r"
        .shared .align 128 .b8 tile[512];
        .shared .align 8 .b64 full;
        .shared .align 8 .b64 done;
        .reg .b32 %r<12>; .reg .b16 %h<2>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        ld.param.u64 %rd2, [p1];
        mov.u32 %r1, full; mov.u32 %r2, done; mov.u32 %r3, tile;
        mov.u32 %r4, %cluster_ctarank;
        mbarrier.init.shared::cta.b64 [%r1], 1;
        mbarrier.init.shared::cta.b64 [%r2], 2;
        fence.mbarrier_init.release.cluster;
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        setp.ne.u32 %p1, %r4, 0;
        @%p1 bra E;
        mov.u16 %h1, 3;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r3], [%rd1], 512, [%r1], %h1;
    E:  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 512;
    W:  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;
        @!%p2 bra W;
        ld.shared.u32 %r5, [%r3+508];
        mul.wide.u32 %rd3, %r4, 4;
        add.u64 %rd2, %rd2, %rd3;
        st.global.u32 [%rd2], %r5;
        mov.u32 %r6, 0;
        mapa.shared::cluster.u32 %r7, %r2, %r6;
        mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];
        @%p1 bra X;
    V:  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r2], 0;
        @!%p2 bra V;
        st.global.u32 [%rd2+8], 1;
    X:  ret;",
    );
    let input = Words::on(0, 128);
    input.write(&(100..228).collect::<Vec<_>>());
    let out = Words::on(0, 3);
    let mut shape = launch(&k, 2, 1, &[input.address, out.address]);
    shape.cluster = [2, 1, 1];
    run_seeds(&shape, || {
        assert_eq!(out.read(), [227, 227, 1]);
        out.write(&[0; 3]);
    });
}

#[test]
fn a_cta_may_end_while_peers_still_arrive() {
    // Odd CTAs exit at once and count as arrived; even ones pass the barrier.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %cluster_ctarank;
        and.b32 %r2, %r1, 1;
        setp.ne.u32 %p1, %r2, 0;
        @%p1 exit;
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        red.global.add.u32 [%rd1], 1;
        ret;",
    );
    let out = Words::on(0, 1);
    let mut shape = launch(&k, 8, 32, &[out.address]);
    shape.cluster = [8, 1, 1];
    run(shape).unwrap();
    assert_eq!(out.read(), [128]);
}
