//! A machine full of CTAs that wait for flags of each other.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]
#![expect(clippy::print_stderr, reason = "figures of interest with --nocapture")]

use std::sync::mpsc;
use std::time::Instant;

use softgpu::exec::{Config, Engine};
use softgpu::mem::{AddressSpace, Peer};

use crate::harness::{Words, kernel, launch};

pub(crate) const DEVICES: u32 = 8;
pub(crate) const CTAS: u32 = 132;
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

pub(crate) fn machine(devices: u32, seed: Option<u64>) -> Engine {
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
        device_bytes: softgpu::mem::DEVICE_BYTES,
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
