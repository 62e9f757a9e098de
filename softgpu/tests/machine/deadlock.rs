//! Deadlocks: found at once inside a cluster, after a while across the machine, and not at all
//! while somebody could still act. Reports say who waits for what.

use std::sync::mpsc;
use std::time::Duration;

use softgpu::error::FaultKind;

use crate::harness::{Words, kernel, launch, machine};

fn waits(kind: &FaultKind) -> &str {
    match kind {
        FaultKind::Deadlock { waits } => waits,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flag_that_nobody_sets_is_named_with_its_value() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        setp.ne.u32 %p1, %r1, 32;
        @%p1 bra J;
    W:  ld.acquire.sys.global.u32 %r2, [%rd1+4];
        setp.ne.u32 %p2, %r2, 9;
        @%p2 bra W;
    J:  bar.sync 3;
        ret;",
    );
    let flag = Words::on(0, 2);
    flag.write(&[0, 5]);
    let machine = machine(2, None);
    machine.set_deadlock_limit(Some(Duration::from_millis(300)));
    let fault = machine.run(launch(&k, 2, 96, &[flag.address])).unwrap_err();
    let text = waits(&fault.kind);
    let polled = format!("polls {:#x} and sees 0x5 at PTX line 12", flag.address + 4);
    assert!(text.contains(&polled), "{text}");
    assert!(text.contains("CTA (1,0,0) warp 1"), "{text}");
    // Warps 0 and 2 have arrived; lanes of warp 1 wait for their spinning sister.
    assert!(
        text.contains("barrier 3: 64 of 96 threads arrived"),
        "{text}"
    );
    assert!(text.contains("last arrival by rank 0 warp "), "{text}");
}

#[test]
fn two_kernels_that_wait_for_each_other_both_end() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
    W:  ld.global.u32 %r2, [%rd1];
        setp.eq.u32 %p2, %r2, 0;
        @%p2 bra W;
        ret;",
    );
    let flag = Words::on(0, 1);
    let machine = machine(2, None);
    machine.set_deadlock_limit(Some(Duration::from_millis(200)));
    let (sender, receiver) = mpsc::channel();
    machine.submit(
        launch(&k, 3, 32, &[flag.address]),
        Box::new(move |result| sender.send(result).unwrap()),
    );
    let mut other = launch(&k, 1, 32, &[flag.address]);
    other.device = 1;
    let second = machine.run(other).unwrap_err();
    let first = receiver.recv().unwrap().unwrap_err();
    assert!(waits(&first.kind).contains("device 1"), "{first}");
    assert!(waits(&second.kind).contains("CTA (2,0,0)"), "{second}");
}

#[test]
fn a_thread_that_could_still_act_prevents_a_report() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
    W:  ld.volatile.global.u32 %r2, [%rd1];
        setp.eq.u32 %p2, %r2, 0;
        @%p2 bra W;
        ret;",
    );
    let flag = Words::on(0, 1);
    let machine = machine(2, None);
    machine.set_deadlock_limit(Some(Duration::from_millis(100)));
    let (sender, receiver) = mpsc::channel();
    machine.submit(
        launch(&k, 1, 32, &[flag.address]),
        Box::new(move |result| sender.send(result).unwrap()),
    );
    // This thread is at work meanwhile.
    for _ in 0..80 {
        std::thread::sleep(Duration::from_millis(10));
    }
    flag.write(&[1]);
    receiver.recv().unwrap().unwrap();
}

#[test]
fn an_mbarrier_that_misses_bytes_and_arrivals_says_so() {
    let k = kernel(
        0,
        r"
        .shared .align 8 .b64 bar;
        .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        mov.u32 %r1, %tid.x;
        mov.u32 %r2, bar;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra J;
        mbarrier.init.shared.b64 [%r2], 2;
        mbarrier.arrive.expect_tx.shared.b64 %rd1, [%r2], 256;
    J:  bar.sync 0;
    W:  mbarrier.try_wait.parity.shared.b64 %p2, [%r2], 0;
        @!%p2 bra W;
        ret;",
    );
    let fault = machine(2, None).run(launch(&k, 1, 32, &[])).unwrap_err();
    let text = waits(&fault.kind);
    let state = "1 of 2 arrivals and 256 bytes pending";
    assert!(text.contains(state), "{text}");
    let last = "last arrival by rank 0 warp 0 at PTX line 14";
    assert!(text.contains(last), "{text}");
}
