//! Reports name the place in the program, where the module tells it.

use std::time::Duration;

use crate::harness::{Words, compile, kernel, launch, machine, run};

/// What nvcc makes of `lineinfo.cu` with `-lineinfo`.
const LINEINFO: &str = include_str!("../../testdata/kernels/lineinfo.ptx");

#[test]
fn a_fault_names_the_line_of_the_program() {
    let place = compile(LINEINFO);
    for (which, expected) in [
        (
            1u64,
            "/tmp/program/lineinfo.cuh:3, inlined at /tmp/program/lineinfo.cu:8",
        ),
        (2, "/tmp/program/lineinfo.cu:11"),
    ] {
        let mut shape = launch(&place, 1, 1, &[0x10, which]);
        shape.params.truncate(12);
        let fault = run(shape).unwrap_err();
        assert_eq!(fault.source.as_deref(), Some(expected));
        let line = fault.line as usize - 1;
        let text = LINEINFO.lines().nth(line).unwrap();
        assert!(text.contains("st.global.u32"), "{text}");
        let said = fault.to_string();
        let said_place = format!("PTX line {} ({expected}): illegal write", fault.line);
        assert!(said.contains(&said_place), "{said}");
    }
}

#[test]
fn a_deadlock_report_names_the_lines_of_the_program() {
    let k = kernel(
        1,
        r#".file 4 "wait.cu"
        .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .pred %p<3>;
        ld.param.u64 %rd1, [p0];
        mov.u32 %r1, %tid.x;
        setp.ge.u32 %p1, %r1, 32;
        @%p1 bra J;
        .loc 4 20 0
    W:  ld.acquire.sys.global.u32 %r2, [%rd1];
        setp.eq.u32 %p2, %r2, 0;
        @%p2 bra W;
        .loc 4 30 2, function_name $n, inlined_at 4 40 1
    J:  bar.sync 0;
        ret;"#,
    );
    let flag = Words::on(0, 1);
    let machine = machine(2, None);
    machine.set_deadlock_limit(Some(Duration::from_millis(200)));
    let fault = machine.run(launch(&k, 1, 64, &[flag.address])).unwrap_err();
    let text = fault.to_string();
    for expected in [
        "and sees 0x0 at PTX line 13 (wait.cu:20)",
        "last arrival by rank 0 warp 1 at PTX line 17 (wait.cu:30, inlined at wait.cu:40)",
        "lanes 0xffffffff line 17 (wait.cu:30, inlined at wait.cu:40): barrier 0",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}
