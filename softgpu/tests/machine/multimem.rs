//! `multimem` on memory of two devices behind one multicast window.

use softgpu::error::FaultKind;
use softgpu::exec::traffic::{self, Moved};
use softgpu::mem::{AddressSpace, GRANULARITY, Replica};

use crate::harness::{Words, assert_words, kernel, launch, run};

/// A window over one allocation of each of two devices; device 0 may access it.
struct Window {
    base: u64,
    words: [Words; 2],
}

impl Window {
    fn new(words: [Words; 2], bytes: u64) -> Self {
        let space = AddressSpace::global();
        let base = space.reserve(GRANULARITY, 0, 0).unwrap();
        space.add_multicast(base, GRANULARITY).unwrap();
        for (device, memory) in (0..).zip(&words) {
            let replica = Replica {
                device,
                offset: 0,
                bytes,
                address: memory.address,
            };
            space.bind_multicast(base, replica).unwrap();
        }
        space.allow_multicast(base, 1).unwrap();
        Self { base, words }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let space = AddressSpace::global();
        space.remove_multicast(self.base).unwrap();
        space.release_reservation(self.base, GRANULARITY).unwrap();
    }
}

fn window(a: &[u32], b: &[u32]) -> Window {
    let words = [Words::on(0, a.len()), Words::on(1, b.len())];
    words[0].write(a);
    words[1].write(b);
    Window::new(words, a.len() as u64 * 4)
}

const REGISTERS: &str = "
    .reg .pred %p<2>;
    .reg .b16 %h<10>;
    .reg .b32 %r<10>;
    .reg .b64 %x<10>;
    .reg .f32 %f<10>;
    .reg .f64 %d<4>;
    ld.param.u64 %x0, [p0];
    ld.param.u64 %x1, [p1];
";

/// A load of each form from the window, its result stored at the same offset.
fn ld_reduce_forms() -> String {
    format!(
        "{REGISTERS}
        multimem.ld_reduce.relaxed.sys.global.add.v4.f32 {{%f0, %f1, %f2, %f3}}, [%x0];
        st.global.v4.f32 [%x1], {{%f0, %f1, %f2, %f3}};
        multimem.ld_reduce.weak.global.add.f64 %d0, [%x0+16];
        st.global.f64 [%x1+16], %d0;
        multimem.ld_reduce.global.add.f16x2 %r0, [%x0+24];
        st.global.u32 [%x1+24], %r0;
        multimem.ld_reduce.acquire.gpu.global.min.s32 %r1, [%x0+28];
        st.global.u32 [%x1+28], %r1;
        multimem.ld_reduce.and.b32 %r2, [%x0+32];
        st.global.u32 [%x1+32], %r2;
        multimem.ld_reduce.global.add.acc::f32.f16x2 %r3, [%x0+36];
        st.global.u32 [%x1+36], %r3;
        multimem.ld_reduce.global.add.u64 %x2, [%x0+40];
        st.global.u64 [%x1+40], %x2;
        multimem.ld_reduce.global.max.v2.f16 {{%h0, %h1}}, [%x0+36];
        mov.b32 %r4, {{%h0, %h1}};
        st.global.u32 [%x1+48], %r4;
        ret;"
    )
}

#[test]
fn ld_reduce_combines_the_replicas() {
    let bits = |x: f32| x.to_bits();
    let [low, high] = [-3.5f64, 0.25].map(f64::to_bits);
    let halves = |x: u64| [(x & 0xffff_ffff) as u32, (x >> 32) as u32];
    let a = [
        // Sums of f32, then of f64; pairs of f16: 1 and 2048; minimum; bits.
        bits(1.5),
        bits(-2.0),
        bits(8.0),
        bits(0.0),
        halves(low)[0],
        halves(low)[1],
        0x6800_3c00,
        7,
        0xff00_ff00,
        0x3c00_6800,
        u32::MAX,
        0,
    ];
    let b = [
        bits(0.25),
        bits(2.0),
        bits(-1.0),
        bits(4.0),
        halves(high)[0],
        halves(high)[1],
        0x3c00_3c00,
        u32::MAX,
        0x0ff0_0ff0,
        0x6800_3c00,
        1,
        0,
    ];
    let memory = window(&a, &b);
    let out = Words::on(0, 16);
    run(launch(
        &kernel(2, &ld_reduce_forms()),
        1,
        1,
        &[memory.base, out.address],
    ))
    .unwrap();
    let sum = halves((-3.25f64).to_bits());
    let expected = [
        bits(1.75),
        bits(0.0),
        bits(7.0),
        bits(4.0),
        // 2048 + 1 rounds to 2048 in f16; 1 + 1 = 2.
        sum[0],
        sum[1],
        0x6800_4000,
        u32::MAX,
        0x0f00_0f00,
        0x6800_6800,
        0,
        1,
        0x6800_6800,
        0,
        0,
        0,
    ];
    assert_words(&out.read(), |index| expected[index]);
}

#[test]
fn st_and_red_reach_every_replica() {
    let memory = window(&[0, 5, 5, 0xf0, 1, 2, 3, 4], &[9, 6, 6, 0x0f, 1, 2, 3, 4]);
    let body = format!(
        "{REGISTERS}
        mov.u32 %r0, 7;
        multimem.st.release.sys.global.u32 [%x0], %r0;
        multimem.red.relaxed.gpu.global.add.u32 [%x0+4], %r0;
        multimem.red.global.min.u32 [%x0+8], %r0;
        mov.u32 %r1, 0xff;
        multimem.red.release.sys.global.xor.b32 [%x0+12], %r1;
        mov.f32 %f0, 0f3F800000;
        mov.f32 %f1, 0f40000000;
        multimem.st.weak.global.v2.f32 [%x0+16], {{%f0, %f1}};
        multimem.red.global.add.v2.f32 [%x0+16], {{%f0, %f1}};
        ret;"
    );
    traffic::begin();
    let counters = run(launch(&kernel(2, &body), 1, 1, &[memory.base, 0])).unwrap();
    // Stores of 4 and 8 bytes, reductions of 4, 4, 4 and 8, to each of two devices.
    let links = counters.traffic.unwrap().links;
    for link in [(0, Some(0)), (0, Some(1))] {
        let moved = Moved {
            read: 0,
            written: 12,
            atomic: 20,
        };
        assert_eq!(links[&link], moved, "{link:?}");
    }
    let tail = [2f32.to_bits(), 4f32.to_bits(), 3, 4];
    for (words, head) in memory
        .words
        .iter()
        .zip([[7, 12, 5, 0x0f], [7, 13, 6, 0xf0]])
    {
        let expected = [head, tail].concat();
        assert_words(&words.read(), |index| expected[index]);
    }
}

#[test]
fn other_addresses_fault() {
    let memory = window(&[0; 4], &[0; 4]);
    let body = format!("{REGISTERS}\n multimem.red.global.add.u32 [%x0], 1;\n ret;");
    let red = kernel(2, &body);
    for (address, what) in [
        (memory.base + 16, "beyond what is bound"),
        (memory.words[0].address, "a unicast address"),
    ] {
        let fault = run(launch(&red, 1, 1, &[address, 0])).unwrap_err();
        assert!(
            matches!(fault.kind, FaultKind::IllegalAddress { write: true, .. }),
            "{what}: {fault}"
        );
    }
    let fault = run(launch(&red, 1, 1, &[memory.base + 2, 0])).unwrap_err();
    assert!(
        matches!(fault.kind, FaultKind::MisalignedAddress { align: 4, .. }),
        "{fault}"
    );
    let plain =
        format!("{REGISTERS}\n ld.global.u32 %r0, [%x0];\n st.global.u32 [%x1], %r0;\n ret;");
    let fault = run(launch(&kernel(2, &plain), 1, 1, &[memory.base, 0])).unwrap_err();
    assert!(
        matches!(fault.kind, FaultKind::IllegalAddress { write: false, .. }),
        "{fault}"
    );
}
