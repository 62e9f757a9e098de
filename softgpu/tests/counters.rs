//! Counters of small kernels against figures worked out by hand. They speak for the whole process,
//! so these tests have one of their own, and run one after the other.

#![expect(unsafe_code, reason = "softgpu's own entry points are C")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
#[path = "driver/support.rs"]
#[expect(dead_code, reason = "the driver tests use the rest of it")]
mod support;

use std::process::Command;

use cudarc::driver::sys::{
    self, CUfunction, CUresult, CUtensorMap, CUtensorMapDataType, CUtensorMapSwizzle,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Context, DEFAULT, alloc, function, library, module, text_of};

static ALONE: Mutex<()> = Mutex::new(());

fn traffic(on: i32) {
    type Switch = unsafe extern "C" fn(i32);
    // SAFETY: the signature is the library's.
    let switch = unsafe { library().get::<Switch>(b"softgpuCountTraffic") }.unwrap();
    // SAFETY: no pointers.
    unsafe { switch(on) };
}

fn reset() {
    // SAFETY: the signature is the library's.
    let reset = unsafe { library().get::<unsafe extern "C" fn()>(b"softgpuLaunchLogReset") };
    // SAFETY: no arguments.
    unsafe { reset.unwrap()() };
}

/// The counters of the only kernel since the last reset.
fn only() -> Value {
    cu!(cuCtxSynchronize());
    let all: Value = serde_json::from_str(&text_of(b"softgpuCounters")).unwrap();
    let [kernel] = all.as_array().unwrap().as_slice() else {
        panic!("one kernel expected: {all}");
    };
    kernel.clone()
}

/// The counters of one launch.
fn count(launch: impl FnOnce() -> CUresult) -> Value {
    traffic(1);
    reset();
    assert_eq!(launch(), CUresult::CUDA_SUCCESS);
    let counters = only();
    assert_eq!(counters["traffic"]["launches"], 1);
    counters
}

/// A kernel whose parameters are u64, also in the registers %x0, %x1, …; `%t` is the thread.
fn kernel(directives: &str, params: usize, body: &str) -> CUfunction {
    let list: Vec<_> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    let loads = (0..params).map(|i| format!("ld.param.u64 %x{i}, [p{i}];\n"));
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k({})\n{directives}\n{{
        .reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %t, %r<128>;\n.reg .b64 %x<8>;
        .reg .f64 %d<8>;\n.shared .align 1024 .b8 shared[16384];
        {}mov.u32 %t, %tid.x;\n{body}\nret;\n}}\n",
        list.join(", "),
        loads.collect::<String>()
    );
    function(module(&text), "k")
}

/// Passes, conflicts and bytes of shared memory.
fn banks(counters: &Value) -> (u64, u64, u64) {
    let traffic = &counters["traffic"];
    let number = |value: &Value| value.as_u64().unwrap();
    (
        number(&traffic["shared_passes"]),
        number(&traffic["bank_conflicts"]),
        number(&traffic["bytes"]["shared"]),
    )
}

#[test]
fn bank_conflicts_of_words() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let words = kernel(
        "",
        1,
        "cvt.u32.u64 %r0, %x0; mul.lo.u32 %r0, %r0, %t; mov.u32 %r1, shared; add.u32 %r0, %r0, %r1;
        st.shared.u32 [%r0], %t; ld.shared.u32 %r2, [%r0];",
    );
    // A store and a load of 32 words: each is one pass, plus its conflicts.
    for (stride, passes, conflicts) in [
        (0u64, 2, 0),
        (4, 2, 0),
        (8, 4, 2),
        (12, 2, 0),
        (16, 8, 6),
        (128, 64, 62),
    ] {
        let counters = count(|| launch!(words, [1; 3], [32, 1, 1], 0, DEFAULT, [stride]));
        let found = banks(&counters);
        assert_eq!(found, (passes, conflicts, 256), "stride {stride}");
        assert_eq!(counters["bytes"]["shared"], 256);
    }
    // Two warps of which the second has 8 lanes.
    let counters = count(|| launch!(words, [1; 3], [40, 1, 1], 0, DEFAULT, [128u64]));
    assert_eq!(banks(&counters), (80, 76, 320));
}

#[test]
fn bank_conflicts_of_vectors_and_matrices() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let place = "cvt.u32.u64 %r0, %x0; mul.lo.u32 %r0, %r0, %t; mov.u32 %r1, shared;
        add.u32 %r0, %r0, %r1; cvt.u64.u32 %x1, %r0; cvta.shared.u64 %x1, %x1;";
    for (instruction, stride, expected) in [
        // A warp of vectors of 16 bytes goes in four passes of 8 lanes; generic addresses as well.
        (
            "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r0];",
            16u64,
            (4, 0, 512),
        ),
        ("ld.v4.u32 {%r2, %r3, %r4, %r5}, [%x1];", 128, (32, 28, 512)),
        ("st.shared.u64 [%r0], %x0;", 8, (2, 0, 256)),
        // 16 lanes, all at even banks: each has two words for a pass.
        ("st.shared.u64 [%r0], %x0;", 16, (4, 2, 256)),
        ("red.shared.add.u32 [%r0], 1;", 64, (16, 15, 128)),
        ("@%p0 st.shared.u32 [%r0], 1;", 4, (0, 0, 0)),
        (
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r2, %r3, %r4, %r5}, [%r0];",
            16,
            (4, 0, 512),
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r2, %r3, %r4, %r5}, [%r0];",
            128,
            (32, 28, 512),
        ),
        // Rows of padded tiles, 80 bytes apart.
        (
            "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r0], {%r2, %r3};",
            80,
            (2, 0, 256),
        ),
    ] {
        let kernel = kernel(
            "",
            1,
            &format!("{place} setp.eq.u32 %p0, %t, 99; {instruction}"),
        );
        let counters = count(|| launch!(kernel, [1; 3], [32, 1, 1], 0, DEFAULT, [stride]));
        assert_eq!(banks(&counters), expected, "{instruction} stride {stride}");
    }
}

#[test]
fn bytes_by_the_space_that_an_address_lies_in() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let spaces = kernel(
        ".reqnctapercluster 2, 1, 1",
        1,
        ".local .align 8 .b8 frame[8];
        cvta.param.u64 %x1, p0; ld.u64 %x1, [%x1];
        mov.u64 %x2, frame; cvta.local.u64 %x2, %x2; st.u32 [%x2], %t; ld.local.u16 %h0, [frame];
        mov.u32 %r0, %cluster_ctarank; xor.b32 %r0, %r0, 1;
        mov.u32 %r1, shared; mapa.shared::cluster.u32 %r1, %r1, %r0;
        barrier.cluster.arrive; barrier.cluster.wait;
        st.shared::cluster.u32 [%r1], %t;
        st.u64 [%x0], %x2;
        barrier.cluster.arrive; barrier.cluster.wait;",
    );
    let out = alloc::<u64>(1);
    let counters = count(|| launch!(spaces, [2, 1, 1], [4, 1, 1], 0, DEFAULT, [out]));
    // 8 threads: 8 bytes of parameters twice, 4 + 2 of the frame, 4 of the peer, 8 of memory.
    let expected = json!({"global": 64, "shared": 0, "dsmem": 32, "local": 48, "param": 128});
    assert_eq!(counters["traffic"]["bytes"], expected);
    let named = json!({"generic": 160, "global": 0, "shared": 32, "local": 16, "param": 64});
    assert_eq!(counters["bytes"], named);
    assert_eq!(counters["traffic"]["bank_conflicts"], 0);
}

#[test]
fn bytes_by_peer() {
    let _alone = ALONE.lock();
    let contexts = [Context::new(0), Context::new(1)];
    cu!(cuCtxSetCurrent(contexts[1].0));
    let peer = alloc::<u64>(64);
    cu!(cuCtxSetCurrent(contexts[0].0));
    cu!(cuCtxEnablePeerAccess(contexts[1].0, 0));
    let own = alloc::<u64>(64);
    let mut host = std::ptr::null_mut();
    cu!(cuMemAllocHost_v2(&mut host, 64));
    let host = host.expose_provenance() as u64;
    let kernel = kernel(
        "",
        3,
        "mul.wide.u32 %x3, %t, 8; add.u64 %x0, %x0, %x3; add.u64 %x1, %x1, %x3;
        ld.global.u32 %r0, [%x1]; ld.global.u64 %x4, [%x1]; st.global.u16 [%x1], %h0;
        atom.global.add.u32 %r1, [%x1], 1; red.global.add.u64 [%x1], 1;
        setp.lt.u32 %p0, %t, 10; selp.u64 %x5, %x0, %x1, %p0;
        st.u64 [%x5], %x4;
        setp.eq.u32 %p1, %t, 0; @%p1 ld.u32 %r2, [%x2]; @%p1 st.u8 [%x2], %r2;",
    );
    let go = || launch!(kernel, [1; 3], [32, 1, 1], 0, DEFAULT, [own, peer, host]);
    let counters = count(go);
    let expected = json!({
        // Of the mixed store, 10 lanes go to own memory.
        "0->host": {"read": 4, "written": 1, "atomic": 0},
        "0->0": {"read": 0, "written": 80, "atomic": 0},
        "0->1": {"read": 32 * 12, "written": 32 * 2 + 22 * 8, "atomic": 32 * 12},
    });
    assert_eq!(counters["traffic"]["links"], expected);
    let all = 32 * (12 + 2 + 12 + 8) + 5;
    assert_eq!(counters["traffic"]["bytes"]["global"], all);
}

/// A map over f32 rows of 20 elements, boxes of 16 × 4.
fn map(at: u64) -> CUtensorMap {
    let mut map = CUtensorMap { opaque: [0; 16] };
    cu!(cuTensorMapEncodeTiled(
        &mut map,
        CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        2,
        std::ptr::without_provenance_mut(usize::try_from(at).unwrap()),
        [20, 6].as_ptr(),
        [80].as_ptr(),
        [16, 4].as_ptr(),
        [1, 1].as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
        sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    ));
    map
}

/// The asynchronous bytes by way, and the links.
fn moved(counters: &Value) -> (Value, Value) {
    let mut ways = counters["async"].clone();
    let total: u64 = ways
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(counters["async_bytes"], total);
    ways.as_object_mut().unwrap().retain(|_, bytes| *bytes != 0);
    (ways, counters["traffic"]["links"].clone())
}

/// Thread 0 sets up an mbarrier for `bytes` bytes, and waits for them after `body`.
fn loading(bytes: u32, body: &str) -> String {
    format!(
        ".shared .align 8 .b64 bar; .reg .b32 %bar, %dst;
        mov.u32 %bar, bar; mov.u32 %dst, shared;
        setp.ne.u32 %p0, %t, 0;
        @%p0 bra ready;
        mbarrier.init.shared.b64 [%bar], 1;
        mbarrier.arrive.expect_tx.shared.b64 %x7, [%bar], {bytes};
        ready: fence.mbarrier_init.release.cluster;
        barrier.cluster.arrive; barrier.cluster.wait;
        mov.u32 %r9, %cluster_ctarank;
        {body}
        wait: mbarrier.try_wait.parity.shared.b64 %p1, [%bar], 0;
        @!%p1 bra wait;
        barrier.cluster.arrive; barrier.cluster.wait;"
    )
}

#[test]
fn bulk_and_tensor_loads() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let at = alloc::<u32>(1024);
    let one = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    let load = kernel(
        "",
        1,
        &loading(1024, &format!("{one} [%dst], [%x0], 1024, [%bar];")),
    );
    let (ways, links) = moved(&count(|| launch!(load, [1; 3], [1; 3], 0, DEFAULT, [at])));
    assert_eq!(ways, json!({"load": 1024}));
    assert_eq!(
        links,
        json!({"0->0": {"read": 1024, "written": 0, "atomic": 0}})
    );

    // One CTA of two loads for both.
    let both = format!(
        "setp.eq.u32 %p2, %r9, 0; mov.u16 %h0, 3;
        @%p2 {one}.multicast::cluster [%dst], [%x0], 512, [%bar], %h0;"
    );
    let both = kernel(".reqnctapercluster 2, 1, 1", 1, &loading(512, &both));
    let go = || launch!(both, [2, 1, 1], [1; 3], 0, DEFAULT, [at]);
    let (ways, links) = moved(&count(go));
    assert_eq!(ways, json!({"multicast": 1024}));
    assert_eq!(
        links,
        json!({"0->0": {"read": 512, "written": 0, "atomic": 0}})
    );

    // A box at the edge: 4 rows of 4 elements are inside, 4 × 16 arrive.
    let edge = "mov.u64 %x1, p0; cvta.param.u64 %x1, %x1; mov.u32 %r0, 16; mov.u32 %r1, 2;
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
        [%dst], [%x1, {%r0, %r1}], [%bar];";
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64
        .visible .entry k(.param .align 128 .b8 p0[128])\n{{
        .reg .pred %p<4>;\n.reg .b32 %t, %r<16>;\n.reg .b64 %x<8>;
        .shared .align 1024 .b8 shared[16384];\nmov.u32 %t, %tid.x;\n{}\nret;\n}}",
        loading(256, edge)
    );
    let edge = function(module(&text), "k");
    let map = map(at);
    let (ways, links) = moved(&count(|| launch!(edge, [1; 3], [1; 3], 0, DEFAULT, [map])));
    assert_eq!(ways, json!({"load": 256}));
    assert_eq!(
        links,
        json!({"0->0": {"read": 64, "written": 0, "atomic": 0}})
    );
}

#[test]
fn bytes_into_the_cluster() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    // Each CTA of two sends the other 256 bytes, then 4 + 8, and adds 4.
    let body = "xor.b32 %r9, %r9, 1; mapa.shared::cluster.u32 %r0, %dst, %r9;
        mapa.shared::cluster.u32 %r1, %bar, %r9; add.u32 %r2, %dst, 1024;
        cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r0], [%r2], 256, [%r1];
        st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r0+512], %t, [%r1];
        st.async.shared::cluster.mbarrier::complete_tx::bytes.u64 [%r0+520], %x0, [%r1];
        red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32
        [%r0+528], %t, [%r1];";
    let kernel = kernel(".reqnctapercluster 2, 1, 1", 1, &loading(272, body));
    let go = || launch!(kernel, [2, 1, 1], [1; 3], 0, DEFAULT, [0u64]);
    let (ways, links) = moved(&count(go));
    assert_eq!(ways, json!({"cluster": 544}));
    assert_eq!(links, json!({}));
}

#[test]
fn bulk_and_tensor_stores_and_cp_async() {
    let _alone = ALONE.lock();
    let contexts = [Context::new(0), Context::new(1)];
    cu!(cuCtxSetCurrent(contexts[1].0));
    let peer = alloc::<u32>(1024);
    cu!(cuCtxSetCurrent(contexts[0].0));
    cu!(cuCtxEnablePeerAccess(contexts[1].0, 0));
    let own = alloc::<u32>(1024);
    let done = "cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    let linear = kernel(
        "",
        2,
        &format!(
            "cp.async.bulk.global.shared::cta.bulk_group [%x1], [shared], 512;
            cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%x1], [shared], 64;
            cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%x0], [shared], 128; {done}"
        ),
    );
    let go = || launch!(linear, [1; 3], [1; 3], 0, DEFAULT, [own, peer]);
    let (ways, links) = moved(&count(go));
    assert_eq!(ways, json!({"store": 512, "reduce": 192}));
    let expected = json!({
        "0->0": {"read": 0, "written": 0, "atomic": 128},
        "0->1": {"read": 0, "written": 512, "atomic": 64},
    });
    assert_eq!(links, expected);

    // Boxes at the edge: 2 rows of 16 elements are inside, and 4 rows of 4.
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64
        .visible .entry k(.param .align 128 .b8 p0[128])\n{{
        .reg .b32 %r<4>;\n.reg .b64 %x<2>;\n.shared .align 1024 .b8 shared[1024];
        mov.u64 %x1, p0; cvta.param.u64 %x1, %x1; mov.u32 %r0, 0; mov.u32 %r1, 4;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%x1, {{%r0, %r1}}], [shared];
        mov.u32 %r0, 16; mov.u32 %r1, 0;
        cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group
        [%x1, {{%r0, %r1}}], [shared]; {done}\nret;\n}}"
    );
    let tensor = function(module(&text), "k");
    let map = map(peer);
    let (ways, links) = moved(&count(|| {
        launch!(tensor, [1; 3], [1; 3], 0, DEFAULT, [map])
    }));
    assert_eq!(ways, json!({"store": 128, "reduce": 64}));
    assert_eq!(
        links,
        json!({"0->1": {"read": 0, "written": 128, "atomic": 64}})
    );

    // 32 lanes of 16 bytes, of which 12 are read.
    let small = "mul.wide.u32 %x3, %t, 16; add.u64 %x1, %x1, %x3; mul.lo.u32 %r0, %t, 16;
        mov.u32 %r1, shared; add.u32 %r0, %r0, %r1; cp.async.cg.shared.global [%r0], [%x1], 16, 12;
        cp.async.commit_group; cp.async.wait_group 0;";
    let small = kernel("", 2, small);
    let go = || launch!(small, [1; 3], [32, 1, 1], 0, DEFAULT, [own, peer]);
    let (ways, links) = moved(&count(go));
    assert_eq!(ways, json!({"cp_async": 512}));
    assert_eq!(
        links,
        json!({"0->1": {"read": 384, "written": 0, "atomic": 0}})
    );
}

/// Registers `%r0` to `%r{count - 1}`.
fn registers(count: usize) -> String {
    let names: Vec<_> = (0..count).map(|i| format!("%r{i}")).collect();
    names.join(", ")
}

#[test]
fn macs_of_wgmma() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    for (kind, registers_of_d, tail, macs) in [
        ("m64n8k16.f32.f16.f16", 4, "1, 1, 0, 0", 8192),
        ("m64n8k16.f16.f16.f16", 2, "1, 1, 0, 0", 8192),
        ("m64n256k16.f32.bf16.bf16", 128, "1, 1, 0, 0", 262_144),
        ("m64n8k8.f32.tf32.tf32", 4, "1, 1", 4096),
        ("m64n16k32.f32.e4m3.e5m2", 8, "1, 1", 32768),
        ("m64n8k32.s32.s8.u8", 4, "", 16384),
        ("m64n8k256.s32.b1.b1.and.popc", 4, "", 131_072),
    ] {
        let tail = if tail.is_empty() {
            String::new()
        } else {
            format!(", {tail}")
        };
        let d = registers(registers_of_d);
        let kernel = kernel(
            "",
            0,
            &format!(
                "st.shared.u32 [shared], %t; wgmma.fence.sync.aligned; mov.u64 %x0, 0; setp.eq.u32 %p0, %t, 999;
                wgmma.mma_async.sync.aligned.{kind} {{{d}}}, %x0, %x0, %p0{tail};
                wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
            ),
        );
        let counters = count(|| launch!(kernel, [1; 3], [128, 1, 1], 0, DEFAULT, []));
        let found = (&counters["wgmma_macs"], &counters["mma_macs"]);
        assert_eq!(found, (&json!(macs), &json!(0)), "{kind}");
    }
}

#[test]
fn macs_of_mma() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    for (kind, operands, macs) in [
        ("m16n8k16.row.col.f32.f16.f16.f32", [4, 4, 2, 4], 2048),
        ("m16n8k8.row.col.f16.f16.f16.f16", [2, 2, 1, 2], 1024),
        ("m16n8k16.row.col.f32.bf16.bf16.f32", [4, 4, 2, 4], 2048),
        ("m16n8k4.row.col.f32.tf32.tf32.f32", [4, 2, 1, 4], 512),
        ("m16n8k32.row.col.f32.e4m3.e5m2.f32", [4, 4, 2, 4], 4096),
        ("m8n8k16.row.col.s32.s8.s8.s32", [2, 1, 1, 2], 1024),
        ("m16n8k64.row.col.s32.u4.s4.s32", [4, 4, 2, 4], 8192),
        (
            "m16n8k256.row.col.s32.b1.b1.s32.xor.popc",
            [4, 4, 2, 4],
            32768,
        ),
        // Four products of 8 × 8 × 4.
        ("m8n8k4.row.col.f32.f16.f16.f32", [8, 2, 2, 8], 1024),
    ] {
        let [d, a, b, c] = operands.map(registers);
        let body = format!("mma.sync.aligned.{kind} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};");
        check_macs(&body, macs);
    }
    let doubles = "{%d0, %d1}, {%d3}, {%d2}, {%d0, %d1}";
    let body = format!("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {doubles};");
    check_macs(&body, 256);
    let [d, a] = [registers(4), registers(8)];
    let wmma = format!(
        "wmma.mma.sync.aligned.row.col.m16n16k16.f16.f16 {{{d}}}, {{{a}}}, {{{a}}}, {{{d}}};"
    );
    check_macs(&wmma, 4096);
}

fn check_macs(body: &str, macs: u64) {
    let kernel = kernel("", 0, body);
    let counters = count(|| launch!(kernel, [2, 1, 1], [64, 1, 1], 0, DEFAULT, []));
    // Two CTAs of two warps.
    let found = (&counters["wgmma_macs"], &counters["mma_macs"]);
    assert_eq!(found, (&json!(0), &json!(4 * macs)), "{body}");
}

#[test]
fn matrix_loads_count_bytes() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let kernel = kernel(
        "",
        1,
        &format!(
            "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {{{}}}, [%x0];
            wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [shared], {{{}}};",
            registers(8),
            registers(8)
        ),
    );
    let at = alloc::<u32>(256);
    let counters = count(|| launch!(kernel, [1; 3], [32, 1, 1], 0, DEFAULT, [at]));
    let expected = json!({"generic": 0, "global": 512, "shared": 1024, "local": 0, "param": 256});
    assert_eq!(counters["bytes"], expected);
    let links = &counters["traffic"]["links"];
    assert_eq!(
        links,
        &json!({"0->0": {"read": 512, "written": 0, "atomic": 0}})
    );
    assert_eq!(banks(&counters), (0, 0, 1024));
}

#[test]
fn instructions_and_waits_by_class() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let kernel = kernel(
        "",
        1,
        "setp.lt.u32 %p0, %t, 32; @%p0 bra first;
        atom.global.add.u32 %r0, [%x0], 1;
        bar.sync 0; bra last;
        first: add.u32 %r0, %t, 1; add.u32 %r0, %r0, 1; st.global.u32 [%x0+4], %r0;
        bar.sync 0;
        last: activemask.b32 %r1;",
    );
    let at = alloc::<u32>(2);
    let counters = count(|| launch!(kernel, [3, 1, 1], [64, 1, 1], 0, DEFAULT, [at]));
    // Per CTA: ld.param, mov (a special register), setp, bra in both warps; then the sides; then
    // activemask and ret. The first warp at the barrier waits.
    let expected = json!({
        "alu": 3 * (2 + 2), "load": 3 * 2, "store": 3, "atomic": 3, "control": 3 * (2 + 1 + 2),
        "warp": 3 * (2 + 2), "sync": 3 * 2, "async": 0,
    });
    assert_eq!(counters["instructions"], expected);
    assert_eq!(counters["warp_instructions"], 57);
    assert_eq!(counters["lane_instructions"], 57 * 32);
    assert_eq!(counters["ctas"], 3);
    assert_eq!(counters["barrier_waits"], 3);
}

#[test]
fn traffic_is_counted_when_asked_for() {
    let (_alone, _context) = (ALONE.lock(), Context::new(0));
    let store = kernel("", 1, "st.global.u32 [%x0], %t;");
    let at = alloc::<u32>(1);
    traffic(0);
    reset();
    let go = || launch!(store, [1; 3], [1; 3], 0, DEFAULT, [at]);
    assert_eq!(go(), CUresult::CUDA_SUCCESS);
    let counters = only();
    assert_eq!(counters.get("traffic"), None, "{counters}");
    assert_eq!(counters["bytes"]["global"], 4);
    traffic(1);
    assert_eq!(go(), CUresult::CUDA_SUCCESS);
    let counters = only();
    traffic(0);
    assert_eq!(counters["launches"], 2);
    assert_eq!(counters["traffic"]["launches"], 1);
    assert_eq!(counters["traffic"]["links"]["0->0"]["written"], 4);
}

const ROLE: &str = "SOFTGPU_TEST_ROLE";

/// The other process of the next test.
#[test]
fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let _context = Context::new(0);
    let store = kernel(
        "",
        1,
        "st.shared.u64 [shared], %x0; st.global.u32 [%x0], %t;",
    );
    let at = alloc::<u32>(1);
    for lanes in [32u32, 5] {
        let go = launch!(store, [1; 3], [lanes, 1, 1], 0, DEFAULT, [at]);
        assert_eq!(go, CUresult::CUDA_SUCCESS);
    }
    cu!(cuCtxSynchronize());
}

#[test]
fn a_file_gets_a_line_for_each_launch() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("counters-{}", std::process::id()));
    for seed in ["", "7"] {
        let _ = std::fs::remove_file(&file);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--test-threads", "1"])
            .env(ROLE, "work")
            .env("SOFTGPU_COUNTERS", &file)
            .env("SOFTGPU_SEED", seed)
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        for (line, lanes, passes) in [(&lines[0], 32, 2), (&lines[1], 5, 1)] {
            assert_eq!(line["kernel"], "k");
            assert_eq!((&line["launches"], &line["ctas"]), (&json!(1), &json!(1)));
            assert_eq!(line["bytes"]["global"], 4 * lanes);
            // All lanes write one place: half a warp in each pass.
            let traffic = &line["traffic"];
            assert_eq!(traffic["shared_passes"], passes);
            assert_eq!(traffic["bank_conflicts"], 0);
            assert_eq!(traffic["bytes"]["shared"], 8 * lanes);
            assert_eq!(traffic["links"]["0->0"]["written"], 4 * lanes);
        }
    }
    std::fs::remove_file(&file).unwrap();
}
