//! A guard against the interpreter's loop becoming slow, far below what it does when optimised.
#![expect(
    clippy::print_stdout,
    reason = "the figure is of interest with --nocapture"
)]

use std::time::Instant;

use crate::harness::{Words, kernel, launch, run};

#[test]
fn an_fma_loop_is_not_slow() {
    let k = kernel(
        1,
        r"
        .reg .b32 %r<4>; .reg .f32 %f<16>; .reg .b64 %rd<4>; .reg .pred %p<2>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, 0;
        mov.f32 %f1, 0f3F800001; mov.f32 %f2, 0f3F000000;
        mov.f32 %f3, 0f00000000; mov.f32 %f4, 0f00000000;
        mov.f32 %f5, 0f00000000; mov.f32 %f6, 0f00000000;
    L:  fma.rn.f32 %f3, %f3, %f1, %f2;
        fma.rn.f32 %f4, %f4, %f1, %f2;
        fma.rn.f32 %f5, %f5, %f1, %f2;
        fma.rn.f32 %f6, %f6, %f1, %f2;
        fma.rn.f32 %f3, %f3, %f1, %f2;
        fma.rn.f32 %f4, %f4, %f1, %f2;
        fma.rn.f32 %f5, %f5, %f1, %f2;
        fma.rn.f32 %f6, %f6, %f1, %f2;
        add.u32 %r1, %r1, 1;
        setp.lt.u32 %p1, %r1, 500000;
        @%p1 bra L;
        add.f32 %f3, %f3, %f4;
        add.f32 %f5, %f5, %f6;
        add.f32 %f3, %f3, %f5;
        st.global.f32 [%rd1], %f3;
        ret;",
    );
    let out = Words::on(0, 1);
    let start = Instant::now();
    let counters = run(launch(&k, 1, 32, &[out.address])).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let rate = counters.lane_instructions as f64 / seconds;
    println!(
        "{:.2} G lane instructions/s on one core, {:.2} ns per warp instruction",
        rate / 1e9,
        seconds * 1e9 / counters.instructions() as f64
    );
    assert!(rate > 0.2e9, "{rate} lane instructions per second");
}
