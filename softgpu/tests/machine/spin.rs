//! What a machine costs whose CTAs all poll a flag that the host sets at last.
//!
//! It is measured in a process of its own, in processor time: other tests and programs do not count.
#![expect(unsafe_code, reason = "processor time is asked for in C")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]
#![expect(clippy::print_stderr, reason = "figures of interest with --nocapture")]

use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::harness::{Words, kernel, launch};
use crate::ring::{CTAS, DEVICES, machine};

/// Set in the process that measures.
const CHILD: &str = "SOFTGPU_TEST_SPIN";

/// Most of a core that a machine may cost which only spins.
const MOST: f64 = if cfg!(debug_assertions) { 0.1 } else { 0.05 };

/// Ways to wait until the word at `%rd1` is not zero. `%r3` is the thread; `bar` and `seen` are in
/// shared memory.
const FORMS: &[&str] = &[
    "W: ld.acquire.sys.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "W: ld.volatile.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    // A load of a compiler that knows nothing of other threads, and one that counts its attempts.
    "W: ld.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "mov.u32 %r7, 0;
     W: add.u32 %r7, %r7, 1; ld.relaxed.gpu.global.u32 %r6, [%rd1];
     setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "W: atom.acquire.sys.global.cas.b32 %r6, [%rd1], 1, 1; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "W: atom.global.add.u32 %r6, [%rd1], 0; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "mov.u32 %r7, 8;
     W: ld.relaxed.sys.global.u32 %r6, [%rd1]; nanosleep.u32 %r7;
     shl.b32 %r7, %r7, 1; min.u32 %r7, %r7, 1024; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "mov.u64 %rd7, %clock64;
     W: mov.u64 %rd6, %clock64; sub.u64 %rd6, %rd6, %rd7;
     setp.gt.u64 %p1, %rd6, 200000000000; @%p1 trap;
     ld.acquire.sys.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    // Each lane has a flag of its own.
    "and.b32 %r7, %r3, 31; mul.wide.u32 %rd6, %r7, 4; add.u64 %rd6, %rd6, %rd1;
     W: ld.volatile.global.u32 %r6, [%rd6]; setp.ne.u32 %p1, %r6, 0;
     vote.sync.any.pred %p1, %p1, 0xffffffff; @!%p1 bra W;",
    // The first warp polls; the others wait for what it does then.
    "setp.eq.u32 %p1, %r3, 0; @%p1 mbarrier.init.shared.b64 [bar], 32; bar.sync 0;
     setp.gt.u32 %p1, %r3, 31; @%p1 bra T;
     W: ld.acquire.sys.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;
     mbarrier.arrive.shared.b64 _, [bar];
     T: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra T;",
    // Thread 0 polls, and all learn what it saw through shared memory.
    "setp.ne.u32 %p2, %r3, 0;
     W: @%p2 bra J; ld.acquire.sys.global.u32 %r6, [%rd1]; st.shared.u32 [seen], %r6;
     J: bar.sync 0; ld.shared.u32 %r6, [seen]; bar.sync 0; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    // The same with a deadline, and with a weak load.
    "setp.ne.u32 %p2, %r3, 0; mov.u64 %rd7, %globaltimer;
     W: @%p2 bra J; ld.acquire.sys.global.u32 %r6, [%rd1]; st.shared.u32 [seen], %r6;
     mov.u64 %rd6, %globaltimer; sub.u64 %rd6, %rd6, %rd7;
     setp.gt.u64 %p1, %rd6, 200000000000; @%p1 trap;
     J: bar.sync 0; ld.shared.u32 %r6, [seen]; bar.sync 0; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "W: bar.sync 0; ld.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    // A back-off, which shared memory holds as well.
    "setp.ne.u32 %p2, %r3, 0; mov.u32 %r7, 32;
     W: @%p2 bra J; ld.relaxed.gpu.global.u32 %r6, [%rd1]; st.shared.u32 [seen], %r6;
     nanosleep.u32 %r7; shl.b32 %r7, %r7, 1; min.u32 %r7, %r7, 256;
     J: barrier.sync 0; ld.shared.u32 %r6, [seen]; barrier.sync 0;
     setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    // `__syncthreads_or` of what each thread sees.
    "W: ld.volatile.global.u32 %r6, [%rd1]; setp.ne.u32 %p1, %r6, 0;
     bar.red.or.pred %p1, 0, %p1; @!%p1 bra W;",
    // A barrier of the cluster.
    "W: barrier.cluster.arrive.release; ld.acquire.sys.global.u32 %r6, [%rd1];
     barrier.cluster.wait.acquire; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    // The first CTA of the cluster tells the others, which test an mbarrier meanwhile.
    "mov.u32 %r7, %cluster_ctarank; setp.eq.u32 %p1, %r3, 0;
     @%p1 mbarrier.init.shared.b64 [bar], 1;
     barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
     setp.ne.u32 %p2, %r7, 0; @%p2 bra T; setp.ne.u32 %p2, %r3, 0; @%p2 bra T;
     W: ld.acquire.sys.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;
     mov.u32 %r8, bar; mapa.shared::cluster.u32 %r6, %r8, 0;
     mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
     mapa.shared::cluster.u32 %r6, %r8, 1;
     mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
     T: mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra T;
     barrier.cluster.arrive.release; barrier.cluster.wait.acquire;",
    // The barrier of a grid as cooperative groups have it.
    "bar.sync 0; setp.ne.u32 %p2, %r3, 0; @%p2 bra J;
     atom.add.release.gpu.global.u32 %r6, [%rd1+64], 1;
     W: ld.acquire.gpu.global.u32 %r6, [%rd1]; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;
     J: bar.sync 0;",
    // Lanes that meet in the loop.
    "W: ld.volatile.global.u32 %r6, [%rd1]; bar.warp.sync 0xffffffff;
     shfl.sync.idx.b32 %r6, %r6, 0, 31, 0xffffffff; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
    "and.b32 %r7, %r3, 31; setp.ne.u32 %p2, %r7, 0;
     W: @%p2 bra J; ld.acquire.sys.global.u32 %r6, [%rd1];
     J: bar.warp.sync 0xffffffff;
     shfl.sync.idx.b32 %r6, %r6, 0, 31, 0xffffffff; setp.eq.u32 %p1, %r6, 0; @%p1 bra W;",
];

/// Processor time of this process.
fn processor_time() -> Duration {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live object of the type.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(done, 0);
    let part = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs())
            + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

/// The part of a core that the machine costs, in the first second in which it is nearly free, or in
/// the tenth: it has just been given work, and this host may be busy.
fn share() -> f64 {
    let second = || {
        let (wall, before) = (Instant::now(), processor_time());
        std::thread::sleep(Duration::from_secs(1));
        (processor_time() - before).as_secs_f64() / wall.elapsed().as_secs_f64()
    };
    std::thread::sleep(Duration::from_secs(1));
    let mut shares = std::iter::repeat_with(second).take(10);
    shares.find(|&share| share < MOST).unwrap_or(MOST)
}

fn spin(form: &str) {
    let body = format!(
        r"
        .reg .b32 %r<10>; .reg .b64 %rd<8>; .reg .pred %p<4>; .shared .align 8 .b64 bar;
        .shared .align 4 .b32 seen;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r3, %tid.x;
        {form}
        ret;"
    );
    let k = kernel(1, &body);
    let machine = machine(DEVICES, None);
    let flag = Words::on(0, 32);
    let (sender, receiver) = mpsc::channel();
    for device in 0..DEVICES {
        let mut shape = launch(&k, CTAS, 128, &[flag.address]);
        shape.device = device;
        shape.cluster = [2, 1, 1];
        let sender = sender.clone();
        machine.submit(shape, Box::new(move |result| sender.send(result).unwrap()));
    }
    let share = share();
    let released = Instant::now();
    flag.write(&[1; 32]);
    for _ in 0..DEVICES {
        receiver.recv().unwrap().unwrap_or_else(|f| panic!("{f}"));
    }
    let latency = released.elapsed();
    eprintln!(
        "{:.1} % of a core, {latency:?} to end: {form}",
        share * 100.0
    );
    assert!(share < MOST, "{form}");
}

#[test]
fn a_machine_that_only_spins_is_nearly_free() {
    if std::env::var_os(CHILD).is_some() {
        return FORMS.iter().for_each(|form| spin(form));
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["spin::a_machine_that_only_spins_is_nearly_free", "--exact"])
        .arg("--nocapture")
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
