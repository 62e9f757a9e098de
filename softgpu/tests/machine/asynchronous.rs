//! Bulk copies, `cp.async`, commit groups: late completion, waits, what a missing wait shows.

use softgpu::error::FaultKind;
use softgpu::exec::POISON;

use crate::harness::{Words, assert_words, kernel, launch, run, run_seeds};

/// A producer warp copies tiles into two stages; a consumer warp adds them up.
const PIPELINE: &str = r"
        .shared .align 128 .b8 tiles[2048];
        .shared .align 8 .b8 full[16];
        .shared .align 8 .b8 empty[16];
        .reg .b32 %r<32>; .reg .b64 %rd<8>; .reg .pred %p<8>;
        ld.param.u64 %rd1, [p0];
        ld.param.u64 %rd2, [p1];
        mov.u32 %r1, %tid.x;
        mov.u32 %r20, full; mov.u32 %r21, empty; mov.u32 %r22, tiles;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra I;
        mbarrier.init.shared::cta.b64 [%r20], 1;
        mbarrier.init.shared::cta.b64 [%r20+8], 1;
        mbarrier.init.shared::cta.b64 [%r21], 32;
        mbarrier.init.shared::cta.b64 [%r21+8], 32;
        fence.mbarrier_init.release.cluster;
    I:  bar.sync 0;
        mov.u32 %r2, 0;
        setp.ge.u32 %p2, %r1, 32;
        @%p2 bra C;
        @%p1 bra X;
    P:  and.b32 %r3, %r2, 1;
        shl.b32 %r4, %r3, 3;
        add.u32 %r5, %r21, %r4;
        shr.u32 %r6, %r2, 1;
        and.b32 %r6, %r6, 1;
        xor.b32 %r6, %r6, 1;
    E:  mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r5], %r6;
        @!%p3 bra E;
        add.u32 %r7, %r20, %r4;
        shl.b32 %r8, %r3, 10;
        add.u32 %r8, %r22, %r8;
        mul.wide.u32 %rd3, %r2, 1024;
        add.u64 %rd4, %rd1, %rd3;
        mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r7], 1024;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r8], [%rd4], 1024, [%r7];
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p4, %r2, 40;
        @%p4 bra P;
    X:  ret;
    C:  mov.u32 %r10, 0;
        and.b32 %r11, %r1, 31;
        shl.b32 %r11, %r11, 2;
    N:  and.b32 %r3, %r2, 1;
        shl.b32 %r4, %r3, 3;
        add.u32 %r5, %r20, %r4;
        shr.u32 %r6, %r2, 1;
        and.b32 %r6, %r6, 1;
    F:  mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r5], %r6;
        @!%p3 bra F;
        shl.b32 %r8, %r3, 10;
        add.u32 %r8, %r22, %r8;
        add.u32 %r8, %r8, %r11;
        ld.shared.u32 %r12, [%r8];
        ld.shared.u32 %r13, [%r8+896];
        add.u32 %r10, %r10, %r12;
        add.u32 %r10, %r10, %r13;
        add.u32 %r7, %r21, %r4;
        mbarrier.arrive.shared::cta.b64 _, [%r7];
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p4, %r2, 40;
        @%p4 bra N;
        cvt.u64.u32 %rd5, %r11;
        add.u64 %rd6, %rd2, %rd5;
        st.global.u32 [%rd6], %r10;
        ret;";

#[test]
fn producer_and_consumer_share_a_ring() {
    let k = kernel(2, PIPELINE);
    let input = Words::on(0, 40 * 256);
    let values: Vec<u32> = (0..40 * 256)
        .map(|i: u32| i.wrapping_mul(2_654_435_761))
        .collect();
    input.write(&values);
    let out = Words::on(0, 32);
    let expected = |lane: usize| {
        let tile = |t: usize| values[t * 256 + lane].wrapping_add(values[t * 256 + 224 + lane]);
        (0..40).map(tile).fold(0, u32::wrapping_add)
    };
    run_seeds(&launch(&k, 1, 64, &[input.address, out.address]), || {
        assert_words(&out.read(), expected);
        out.write(&[0; 32]);
    });
}

#[test]
fn a_load_without_a_wait_reads_poison() {
    let k = kernel(
        2,
        r"
        .shared .align 128 .b8 tile[64];
        .shared .align 8 .b64 bar;
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        ld.param.u64 %rd2, [p1];
        mov.u32 %r1, bar; mov.u32 %r2, tile;
        mbarrier.init.shared::cta.b64 [%r1], 1;
        mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 64, [%r1];
        ld.shared.u32 %r3, [%r2];
        st.global.u32 [%rd2], %r3;
    W:  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
        @!%p1 bra W;
        ld.shared.u32 %r3, [%r2];
        st.global.u32 [%rd2+4], %r3;
        ret;",
    );
    let input = Words::on(0, 16);
    input.write(&[5; 16]);
    let out = Words::on(0, 2);
    run(launch(&k, 1, 1, &[input.address, out.address])).unwrap();
    assert_eq!(out.read(), [POISON, 5]);
}

/// Stores a tile, overwrites it after a wait (or none), stores again.
fn stores(wait: &str) -> Vec<u32> {
    let body = format!(
        r"
        .shared .align 128 .b8 tile[64];
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r2, tile;
        mov.u32 %r1, 0;
    L:  add.u32 %r4, %r1, 1;
        st.shared.u32 [%r2], %r4;
        fence.proxy.async.shared::cta;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 64;
        cp.async.bulk.commit_group;
        {wait}
        add.u64 %rd1, %rd1, 64;
        add.u32 %r1, %r1, 1;
        setp.lt.u32 %p1, %r1, 4;
        @%p1 bra L;
        ret;"
    );
    let k = kernel(1, &body);
    let out = Words::on(0, 64);
    run(launch(&k, 1, 1, &[out.address])).unwrap();
    out.read().into_iter().step_by(16).collect()
}

#[test]
fn stores_read_their_source_late() {
    assert_eq!(stores("cp.async.bulk.wait_group.read 0;"), [1, 2, 3, 4]);
    assert_eq!(stores("cp.async.bulk.wait_group 0;"), [1, 2, 3, 4]);
    // One store may stay unread: each reads what the next round has written.
    assert_eq!(stores("cp.async.bulk.wait_group.read 1;"), [2, 3, 4, 4]);
    // Without a wait all read after the kernel has ended, yet before its memory is gone.
    assert_eq!(stores(""), [4, 4, 4, 4]);
}

#[test]
fn copies_complete_by_group_and_by_mbarrier() {
    let k = kernel(
        2,
        r"
        .shared .align 16 .b8 tile[1024];
        .shared .align 8 .b64 bar;
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        ld.param.u64 %rd2, [p1];
        mov.u32 %r1, %tid.x;
        mov.u32 %r2, bar; mov.u32 %r3, tile;
        setp.eq.u32 %p1, %r1, 0;
        @!%p1 bra I;
        mbarrier.init.shared::cta.b64 [%r2], 32;
    I:  bar.warp.sync -1;
        mul.wide.u32 %rd3, %r1, 16;
        add.u64 %rd4, %rd1, %rd3;
        shl.b32 %r4, %r1, 4;
        add.u32 %r5, %r3, %r4;
        cp.async.cg.shared.global [%r5], [%rd4], 16;
        cp.async.commit_group;
        cp.async.cg.shared.global [%r5+512], [%rd4+512], 16, 8;
        cp.async.commit_group;
        cp.async.wait_group 1;
        ld.shared.u32 %r6, [%r5];
        cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2];
    W:  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0;
        @!%p2 bra W;
        ld.shared.v4.u32 {%r4, %r5, %r7, %r1}, [%r5+512];
        add.u32 %r6, %r6, %r5;
        add.u32 %r6, %r6, %r1;
        shr.u64 %rd3, %rd3, 2;
        add.u64 %rd4, %rd2, %rd3;
        st.global.u32 [%rd4], %r6;
        ret;",
    );
    let input = Words::on(0, 256);
    let values: Vec<u32> = (1..257).collect();
    input.write(&values);
    let out = Words::on(0, 32);
    run_seeds(&launch(&k, 1, 32, &[input.address, out.address]), || {
        assert_words(&out.read(), |lane| {
            values[lane * 4] + values[128 + lane * 4 + 1]
        });
        out.write(&[0; 32]);
    });
}

#[test]
fn reductions_add_in_global_memory() {
    let k = kernel(
        1,
        r"
        .shared .align 128 .b8 tile[64];
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r2, tile;
        mov.u32 %r1, 0;
    L:  shl.b32 %r3, %r1, 2;
        add.u32 %r4, %r2, %r3;
        st.shared.u32 [%r4], %r1;
        add.u32 %r1, %r1, 1;
        setp.lt.u32 %p1, %r1, 16;
        @%p1 bra L;
        fence.proxy.async.shared::cta;
        cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r2], 64;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        ret;",
    );
    let out = Words::on(0, 16);
    run(launch(&k, 50, 1, &[out.address])).unwrap();
    assert_words(&out.read(), |i| u32::try_from(i * 50).unwrap());
}

#[test]
fn faults_of_copies_name_the_instruction() {
    let k = kernel(
        1,
        r"
        .shared .align 128 .b8 tile[64];
        .reg .b32 %r<8>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r2, tile;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 64;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        ret;",
    );
    let fault = run(launch(&k, 1, 1, &[16])).unwrap_err();
    let illegal = FaultKind::IllegalAddress {
        address: 16,
        bytes: 64,
        write: true,
    };
    assert_eq!((fault.kind, fault.line), (illegal, 11));
}

/// A kernel that issues a wgmma of ones on accumulators %f1 to %f4 of 5, and then `rest`; %rd4 is
/// where the thread's eight results go, %rd2 the descriptor, and WGMMA(a) another such wgmma.
fn in_flight(rest: &str, seed: Option<u64>) -> Result<Vec<u32>, softgpu::error::Fault> {
    let wgmma = |list: &str| {
        format!(
            "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {{{list}}}, %rd2, %rd2, %p1, 1, 1;"
        )
    };
    let first = wgmma("%f1, %f2, %f3, %f4");
    let second = wgmma("%f5, %f6, %f7, %f8");
    let rest = rest.replace("AGAIN;", &first).replace("OTHER;", &second);
    let k = kernel(
        1,
        &format!(
            r"
        .shared .align 1024 .b8 tiles[4096];
        .reg .b32 %r<12>; .reg .f32 %f<12>; .reg .b64 %rd<12>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        mov.u32 %r2, tiles;
        shl.b32 %r3, %r1, 5;
        add.u32 %r3, %r2, %r3;
        mov.u32 %r4, 0x38383838;
        st.shared.v4.u32 [%r3], {{%r4, %r4, %r4, %r4}};
        st.shared.v4.u32 [%r3+16], {{%r4, %r4, %r4, %r4}};
        shl.b32 %r6, %r1, 4;
        cvt.u64.u32 %rd3, %r6;
        add.u64 %rd4, %rd1, %rd3;
        fence.proxy.async.shared::cta;
        bar.sync 0;
        shr.u32 %r5, %r2, 4;
        or.b32 %r5, %r5, 0x00080000;
        mov.b64 %rd2, {{%r5, 16}};
        mov.f32 %f1, 0f40A00000; mov.f32 %f2, 0f40A00000;
        mov.f32 %f3, 0f40A00000; mov.f32 %f4, 0f40A00000;
        mov.f32 %f5, 0f40A00000; mov.f32 %f6, 0f40A00000;
        mov.f32 %f7, 0f40A00000; mov.f32 %f8, 0f40A00000;
        setp.eq.u32 %p1, %r2, %r2;
        wgmma.fence.sync.aligned;
        {first}
        wgmma.commit_group.sync.aligned;
        {rest}
        ret;"
        ),
    );
    let out = Words::on(0, 512);
    let machine = crate::harness::machine(1, seed);
    machine.run(launch(&k, 1, 128, &[out.address]))?;
    Ok(out.read())
}

const SEEDS: [Option<u64>; 5] = [None, Some(0), Some(1), Some(2), Some(3)];

/// Runs under several seeds and expects one value in all results.
fn accumulates(rest: &str, value: f32) {
    for seed in SEEDS {
        let words =
            in_flight(rest, seed).unwrap_or_else(|fault| panic!("{seed:?} {rest}: {fault}"));
        assert_words(&words, |_| value.to_bits());
    }
}

/// Runs under several seeds and expects a complaint about a register in flight.
fn is_refused(rest: &str) {
    for seed in SEEDS {
        let Err(fault) = in_flight(rest, seed) else {
            panic!("{seed:?} {rest}: no fault");
        };
        let FaultKind::IllegalInstruction { what } = &fault.kind else {
            panic!("{seed:?} {rest}: {fault}");
        };
        assert!(what.contains("no wait_group has covered"), "{rest}: {what}");
    }
}

const STORE: &str = "st.global.v4.f32 [%rd4], {%f1, %f2, %f3, %f4};";
const STORE_OTHER: &str = "st.global.v4.f32 [%rd4], {%f5, %f6, %f7, %f8};";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;";

#[test]
fn accumulators_belong_to_a_wgmma_until_the_wait() {
    accumulates(&format!("{WAIT} {STORE}"), 37.0);
    // More wgmmas on the same accumulators, and others, need no wait.
    accumulates(&format!("AGAIN; {COMMIT} {WAIT} {STORE}"), 69.0);
    accumulates(
        &format!("AGAIN; AGAIN; OTHER; {COMMIT} {WAIT} {STORE}"),
        101.0,
    );
    // A wait for all but the youngest group covers the older ones.
    let partial = "wgmma.wait_group.sync.aligned 1;";
    accumulates(&format!("OTHER; {COMMIT} {partial} {STORE} {WAIT}"), 37.0);
    is_refused(&format!("OTHER; {COMMIT} {partial} {STORE_OTHER} {WAIT}"));
    is_refused(&format!("AGAIN; {COMMIT} {partial} {STORE} {WAIT}"));
    // Reads and writes, also of some lanes, and waits for nothing.
    is_refused(&format!("{STORE} {WAIT}"));
    is_refused(&format!(
        "add.f32 %f9, %f1, %f1; {WAIT} st.global.f32 [%rd4], %f9;"
    ));
    is_refused(&format!("ld.global.f32 %f2, [%rd4]; {WAIT} {STORE}"));
    is_refused(&format!(
        "setp.eq.u32 %p2, %r1, 70; @%p2 mul.f32 %f3, %f1, %f1; {WAIT} {STORE}"
    ));
    is_refused(&format!("AGAIN; {WAIT} {STORE} {COMMIT} {WAIT}"));
    // An instruction that no lane executes touches nothing.
    accumulates(
        &format!("setp.eq.u32 %p2, %r1, 700; @%p2 add.f32 %f3, %f9, %f9; {WAIT} {STORE}"),
        37.0,
    );
}

/// Compilers carry accumulators from name to name between wgmmas.
#[test]
fn copies_of_accumulators_in_flight_wait() {
    let copy = "mov.f32 %f5, %f1; mov.f32 %f6, %f2; mov.f32 %f7, %f3; mov.f32 %f8, %f4;";
    accumulates(
        &format!("{copy} OTHER; {COMMIT} {WAIT} {STORE_OTHER}"),
        69.0,
    );
    accumulates(
        &format!(
            "{copy} OTHER; {COMMIT} {WAIT} add.f32 %f5, %f5, %f1; add.f32 %f6, %f6, %f2;
            add.f32 %f7, %f7, %f3; add.f32 %f8, %f8, %f4; {STORE_OTHER}"
        ),
        69.0 + 37.0,
    );
}

#[test]
fn a_missing_warp_holds_up_the_warpgroup() {
    let k = kernel(
        0,
        r"
        .shared .align 1024 .b8 tiles[4096];
        .reg .b32 %r<12>; .reg .f32 %f<12>; .reg .b64 %rd<12>; .reg .pred %p<4>;
        mov.u32 %r1, %tid.x;
        setp.ge.u32 %p1, %r1, 96;
        @%p1 bra X;
        mov.b64 %rd2, {0, 0};
        mov.f32 %f1, 0f00000000; mov.f32 %f2, 0f00000000;
        mov.f32 %f3, 0f00000000; mov.f32 %f4, 0f00000000;
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%f1, %f2, %f3, %f4}, %rd2, %rd2, %p1, 1, 1;
        wgmma.commit_group.sync.aligned;
        wgmma.wait_group.sync.aligned 0;
    X:  ret;",
    );
    let fault = run(launch(&k, 1, 128, &[])).unwrap_err();
    let FaultKind::Deadlock { waits } = &fault.kind else {
        panic!("{fault}");
    };
    assert!(waits.contains("wgmma groups, at most 0"), "{waits}");
}
