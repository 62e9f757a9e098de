//! Launches: grids larger than the device, CTAs and devices that wait for each other, faults,
//! cooperative grids, replay.

use std::sync::{Arc, mpsc};

use smallvec::SmallVec;
use softgpu::error::FaultKind;
use softgpu::exec::Kernel;
use softgpu::ir::{Block, Calls, Function, Instr, Op};

use crate::harness::{Words, assert_words, kernel, launch, machine, run, run_seeds};

#[test]
fn a_grid_larger_than_the_device_runs() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        red.global.add.u32 [%rd3], %r1;
        ret;",
    );
    let out = Words::on(0, 1000);
    let counters = run(launch(&k, 1000, 64, &[out.address])).unwrap();
    assert_eq!(counters.ctas, 1000);
    assert_words(&out.read(), |i| u32::try_from(i * 64).unwrap());
}

#[test]
fn resident_ctas_wait_for_each_other() {
    // A chain against the order of launch: CTA i waits for CTA i + 1.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x;
        add.u32 %r3, %r1, 1;
        mul.wide.u32 %rd2, %r1, 4;
        add.u64 %rd3, %rd1, %rd2;
        setp.eq.u32 %p1, %r3, %r2;
        mov.u32 %r4, 0;
        @%p1 bra S;
    P:  ld.acquire.gpu.global.u32 %r4, [%rd3+4];
        setp.eq.u32 %p2, %r4, 0;
        @%p2 bra P;
    S:  add.u32 %r4, %r4, 1;
        st.release.gpu.global.u32 [%rd3], %r4;
        ret;",
    );
    let out = Words::on(0, 64);
    run_seeds(&launch(&k, 64, 32, &[out.address]), || {
        assert_words(&out.read(), |i| u32::try_from(64 - i).unwrap());
        out.write(&[0; 64]);
    });
}

#[test]
fn two_devices_play_ping_pong() {
    let k = kernel(
        3,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        ld.param.u64 %rd2, [p1];
        ld.param.u64 %rd3, [p2];
        cvt.u32.u64 %r1, %rd3;
        mov.u32 %r2, 0;
    L:  setp.ne.u32 %p1, %r1, 0;
        @%p1 bra W;
        add.u32 %r3, %r2, 1;
        st.release.sys.global.u32 [%rd2], %r3;
    W:  ld.acquire.sys.global.u32 %r4, [%rd1];
        setp.le.u32 %p2, %r4, %r2;
        @%p2 bra W;
        add.u32 %r2, %r2, 1;
        @!%p1 bra N;
        st.release.sys.global.u32 [%rd2], %r2;
    N:  setp.lt.u32 %p3, %r2, 200;
        @%p3 bra L;
        ret;",
    );
    let machine = machine(2, None);
    let (a, b) = (Words::on(0, 1), Words::on(1, 1));
    let (sender, receiver) = mpsc::channel();
    for (device, mine, theirs) in [(0u32, &a, &b), (1, &b, &a)] {
        let mut shape = launch(&k, 1, 1, &[mine.address, theirs.address, device.into()]);
        shape.device = device;
        let sender = sender.clone();
        machine.submit(shape, Box::new(move |result| sender.send(result).unwrap()));
    }
    for _ in 0..2 {
        receiver.recv().unwrap().unwrap();
    }
    assert_eq!((a.read(), b.read()), (vec![200], vec![200]));
}

#[test]
fn a_cooperative_grid_meets_at_its_barrier() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %nctaid.x;
        mov.u32 %r2, %tid.x;
        mov.u32 %r5, %envreg2; mov.u32 %r6, %envreg1;
        mov.b64 %rd2, {%r5, %r6};
        red.global.add.u32 [%rd1], 1;
        bar.sync 0;
        setp.ne.u32 %p1, %r2, 0;
        @%p1 bra J;
        atom.add.release.gpu.u32 %r3, [%rd2+4], 1;
    P:  ld.acquire.gpu.u32 %r3, [%rd2+4];
        setp.lt.u32 %p2, %r3, %r1;
        @%p2 bra P;
    J:  bar.sync 0;
        ld.relaxed.gpu.global.u32 %r4, [%rd1];
        setp.eq.u32 %p3, %r4, 1024;
        @!%p3 trap;
        ret;",
    );
    let out = Words::on(0, 1);
    let mut shape = launch(&k, 16, 64, &[out.address]);
    shape.cooperative = true;
    run_seeds(&shape, || {
        assert_eq!(out.read(), [1024]);
        out.write(&[0]);
    });
    shape.grid = [1000, 1, 1];
    let fault = run(shape).unwrap_err();
    assert!(
        fault.to_string().contains("cooperative grid of 1000"),
        "{fault}"
    );
}

#[test]
fn the_first_fault_is_reported_with_its_place() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x;
        setp.eq.u32 %p1, %r2, 2;
        setp.eq.u32 %p2, %r1, 37;
        and.pred %p1, %p1, %p2;
        @%p1 mov.u64 %rd1, 64;
        st.global.u32 [%rd1], %r1;
        ret;",
    );
    let out = Words::on(0, 1);
    let fault = run(launch(&k, 4, 64, &[out.address])).unwrap_err();
    let kind = FaultKind::IllegalAddress {
        address: 64,
        bytes: 4,
        write: true,
    };
    assert_eq!(fault.kind, kind, "{fault}");
    assert_eq!(
        (fault.kernel.as_str(), fault.cta, fault.warp, fault.lane),
        ("k", [2, 0, 0], 1, 5)
    );
    assert_eq!(fault.line, 14);
}

#[test]
fn a_trap_ends_its_launch_and_no_other() {
    let trap = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x;
        setp.eq.u32 %p1, %r1, 3;
        @%p1 trap;
    P:  ld.volatile.global.u32 %r2, [%rd1];
        setp.eq.u32 %p1, %r2, 0;
        @%p1 bra P;
        ret;",
    );
    let good = kernel(
        1,
        r"
        .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [p0];
        red.global.add.u32 [%rd1], 1;
        ret;",
    );
    let machine = machine(2, None);
    let (never, out) = (Words::on(0, 1), Words::on(0, 1));
    let (sender, receiver) = mpsc::channel();
    let done = move |result| sender.send(result).unwrap();
    machine.submit(launch(&trap, 4, 32, &[never.address]), Box::new(done));
    machine.run(launch(&good, 8, 32, &[out.address])).unwrap();
    let fault = receiver.recv().unwrap().unwrap_err();
    assert_eq!((fault.kind, fault.cta), (FaultKind::Trap, [3, 0, 0]));
    assert_eq!(out.read(), [256]);
}

#[test]
fn a_seed_replays() {
    // The order in which CTAs draw tickets depends on the schedule, and on nothing else.
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %ctaid.x; mov.u32 %r5, %tid.x;
        mov.u32 %r2, 0;
        mad.lo.u32 %r5, %r1, 64, %r5;
    L:  atom.global.add.u32 %r3, [%rd1], 1;
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 20;
        @%p1 bra L;
        mul.wide.u32 %rd2, %r5, 4;
        add.u64 %rd3, %rd1, %rd2;
        st.global.u32 [%rd3+4], %r3;
        ret;",
    );
    let out = Words::on(0, 1 + 8 * 64);
    let tickets = |seed| {
        let machine = softgpu::exec::Engine::new(softgpu::exec::Config {
            devices: 1,
            sms: 4,
            device_bytes: softgpu::mem::DEVICE_BYTES,
            host_threads: 1,
            seed: Some(seed),
        });
        out.write(&[0; 1 + 8 * 64]);
        machine.run(launch(&k, 8, 64, &[out.address])).unwrap();
        out.read()
    };
    let first = tickets(7);
    assert_eq!(first, tickets(7));
    assert_ne!(first, tickets(8), "another seed gives another schedule");
}

#[test]
fn a_bug_of_the_host_is_reported_and_survived() {
    // No front end makes an instruction without its destination.
    let instr = Instr {
        op: Op::Activemask,
        guard: None,
        dst: SmallVec::new(),
        src: SmallVec::new(),
        line: 1,
    };
    let function = Function {
        name: "broken".to_owned(),
        params: Vec::new(),
        blocks: vec![Block {
            instrs: vec![instr],
        }],
        slots: 0,
        preds: 0,
        local_bytes: 0,
        static_shared: 0,
        dynamic_align: 16,
        max_threads: None,
        req_threads: None,
        req_cluster: None,
        registers: 0,
        sources: Arc::default(),
        calls: Calls::default(),
    };
    let broken = Arc::new(Kernel::new(function).unwrap());
    let machine = machine(1, None);
    let fault = machine.run(launch(&broken, 4, 32, &[])).unwrap_err();
    assert!(matches!(fault.kind, FaultKind::Internal { .. }), "{fault}");
    assert_eq!(fault.kernel, "broken");
    let fine = kernel(0, "ret;");
    assert_eq!(machine.run(launch(&fine, 4, 32, &[])).unwrap().ctas, 4);
}
