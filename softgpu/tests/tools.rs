//! Entry points beyond CUDA. They speak for the whole process, so this test has one of its own.

#[macro_use]
#[path = "driver/support.rs"]
#[expect(dead_code, reason = "the driver tests use the rest of it")]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod support;

use cudarc::driver::sys::CUresult;
use support::{
    BASIC, Context, DEFAULT, HOPPER, alloc, download, function, module, text_of, upload,
};

#[test]
fn launches_and_faults_are_told() {
    let log = || text_of(b"softgpuLaunchLog");
    let context = Context::new(0);
    let add = function(module(BASIC), "vector_add");
    assert_eq!(
        (log().as_str(), text_of(b"softgpuLastFault").as_str()),
        ("", "")
    );
    let (a, out) = (upload(&[1.5f32; 64]), alloc::<f32>(64));
    for _ in 0..3 {
        let go = launch!(add, [2, 1, 1], [32, 1, 1], 0, DEFAULT, [a, a, out, 64i32]);
        assert_eq!(go, CUresult::CUDA_SUCCESS);
    }
    assert_eq!(download::<f32>(out, 64), [3.0; 64]);
    let ranks = function(module(HOPPER), "cluster_ranks");
    let go = launch!(ranks, [2, 1, 1], [32, 1, 1], 0, DEFAULT, [out]);
    assert_eq!(go, CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    let text = log();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    let names: Vec<&str> = lines.iter().map(|fields| fields[0]).collect();
    assert_eq!(names, ["cluster_ranks", "vector_add"]);
    assert!(
        lines[1].contains(&"launches=3") && lines[1].contains(&"ctas=6"),
        "{text}"
    );
    // Two loads and a store of four bytes per element and launch.
    assert!(lines[1].contains(&"global_bytes=2304"), "{text}");

    let write = function(module(BASIC), "write_at");
    let go = launch!(write, [1; 3], [1; 3], 0, DEFAULT, [0x2000u64, 7i32]);
    assert_eq!(go, CUresult::CUDA_SUCCESS);
    assert_eq!(
        code!(cuCtxSynchronize()),
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
    );
    let fault = text_of(b"softgpuLastFault");
    assert!(
        fault.contains("write_at") && fault.contains("0x2000"),
        "{fault}"
    );
    drop(context);
}
