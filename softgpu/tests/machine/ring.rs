//! Machines full of CTAs that wait for flags of each other, or for nothing that ever comes.
#![expect(unsafe_code, reason = "processor time is asked for in C")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]
#![expect(clippy::print_stderr, reason = "figures of interest with --nocapture")]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use softgpu::exec::{Config, Engine};
use softgpu::mem::{AddressSpace, Peer};

use crate::harness::{Words, kernel, launch};

const DEVICES: u32 = 8;
const CTAS: u32 = 132;
const ROUNDS: u32 = 10;

/// Thread 0 of a CTA waits until its flag has the round's number, then sets the next CTA's flag;
/// the last CTA of the ring begins the next round.
const RING: &str = r"
        .reg .b32 %r<10>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        ld.param.u64 %rd2, [p1];
        ld.param.u64 %rd3, [p2];
        cvt.u32.u64 %r7, %rd3;
        mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; mov.u32 %r3, %tid.x;
        add.u32 %r4, %r1, 1;
        mul.wide.u32 %rd4, %r1, 4;
        add.u64 %rd5, %rd1, %rd4;
        add.u64 %rd6, %rd5, 4;
        setp.eq.u32 %p1, %r4, %r2;
        @%p1 mov.u64 %rd6, %rd2;
        mov.u32 %r5, 1;
    L:  setp.ne.u32 %p2, %r3, 0;
        @%p2 bra J;
    W:  ld.acquire.sys.global.u32 %r6, [%rd5];
        setp.lt.u32 %p3, %r6, %r5;
        @%p3 bra W;
        mov.u32 %r8, %r5;
        @!%p1 bra S;
        add.u32 %r8, %r5, %r7;
    S:  st.release.sys.global.u32 [%rd6], %r8;
    J:  bar.sync 0;
        add.u32 %r5, %r5, 1;
        setp.le.u32 %p3, %r5, 10;
        @%p3 bra L;
        ret;";

fn machine(devices: u32, seed: Option<u64>) -> Engine {
    let space = AddressSpace::global();
    for owner in 0..devices {
        for from in (0..devices).filter(|&from| from != owner) {
            // Another test may have done so already.
            let _ = space.set_peer(owner, from, Peer::Enabled);
        }
    }
    Engine::new(Config {
        devices,
        sms: CTAS,
        host_threads: 2,
        seed,
    })
}

fn ring(seed: Option<u64>) {
    let k = kernel(3, RING);
    let machine = machine(DEVICES, seed);
    let flags: Vec<_> = (0..DEVICES).map(|d| Words::on(d, CTAS as usize)).collect();
    flags[0].write(&[1]);
    let (sender, receiver) = mpsc::channel();
    for device in 0..DEVICES {
        let next = (device + 1) % DEVICES;
        let own = flags[device as usize].address;
        let other = flags[next as usize].address;
        let mut shape = launch(&k, CTAS, 128, &[own, other, u64::from(next == 0)]);
        shape.device = device;
        let sender = sender.clone();
        machine.submit(shape, Box::new(move |result| sender.send(result).unwrap()));
    }
    for _ in 0..DEVICES {
        let counters = receiver.recv().unwrap().unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(counters.ctas, u64::from(CTAS));
    }
    for (device, flags) in flags.iter().enumerate() {
        for (cta, flag) in flags.read().into_iter().enumerate() {
            let first = u32::from((device, cta) == (0, 0));
            assert_eq!(flag, ROUNDS + first, "device {device}, CTA {cta}");
        }
    }
}

#[test]
fn all_ctas_of_eight_devices_pass_a_flag_ten_times_round() {
    let start = Instant::now();
    ring(None);
    eprintln!("ring: {:?}", start.elapsed());
}

#[test]
fn the_ring_goes_round_under_a_seed() {
    ring(Some(3));
}

/// Processor time of this process.
fn processor_time() -> Duration {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live object of the type.
    assert_eq!(
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) },
        0
    );
    let part = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs())
            + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

fn spin(poll: &str) {
    let body = format!(
        r"
        .reg .b32 %r<10>; .reg .b64 %rd<8>; .reg .pred %p<4>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r3, %tid.x;
        mov.u64 %rd7, %clock64;
        setp.ne.u32 %p2, %r3, 0;
        @%p2 bra J;
    W:  {poll}
        setp.eq.u32 %p3, %r6, 0;
        @%p3 bra W;
    J:  bar.sync 0;
        ret;"
    );
    let k = kernel(1, &body);
    let machine = machine(DEVICES, None);
    let flag = Words::on(0, 1);
    let (sender, receiver) = mpsc::channel();
    for device in 0..DEVICES {
        let mut shape = launch(&k, CTAS, 128, &[flag.address]);
        shape.device = device;
        let sender = sender.clone();
        machine.submit(shape, Box::new(move |result| sender.send(result).unwrap()));
    }
    std::thread::sleep(Duration::from_secs(1));
    let (wall, cpu) = (Instant::now(), processor_time());
    std::thread::sleep(Duration::from_secs(2));
    let share = (processor_time() - cpu).as_secs_f64() / wall.elapsed().as_secs_f64();
    eprintln!("{poll}: {:.1} % of a core", share * 100.0);
    // Optimised it is under 1 %; without optimisation and on a busy machine a margin is needed.
    let most = if cfg!(debug_assertions) { 0.5 } else { 0.05 };
    assert!(share < most, "{poll}: {share} of a core");
    flag.write(&[1]);
    for _ in 0..DEVICES {
        receiver.recv().unwrap().unwrap_or_else(|f| panic!("{f}"));
    }
}

#[test]
fn a_machine_that_only_spins_is_nearly_free() {
    spin("ld.acquire.sys.global.u32 %r6, [%rd1];");
    spin("ld.volatile.global.u32 %r6, [%rd1];");
    spin("ld.global.u32 %r6, [%rd1];");
    spin("ld.relaxed.sys.global.u32 %r6, [%rd1]; nanosleep.u32 100;");
    spin(
        "mov.u64 %rd6, %clock64; sub.u64 %rd6, %rd6, %rd7; setp.gt.u64 %p1, %rd6, 200000000000; @%p1 trap; ld.acquire.sys.global.u32 %r6, [%rd1];",
    );
    spin("atom.acquire.sys.global.cas.b32 %r6, [%rd1], 1, 1;");
}
