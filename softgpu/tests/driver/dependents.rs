//! Programmatic dependent launch: kernels of one stream that overlap.

use cudarc::driver::sys::{self, CUresult, CUstream};

use crate::support::{Context, alloc, download, function, module, stream};

/// `first` lets its successor start, waits for a word that only the successor writes, and leaves
/// its result. `second` writes that word, waits for `first` to end, and passes the result on.
/// `before` does not trigger; `after` notes whether the result was there when it began.
const TEXT: &str = r"
.version 8.3
.target sm_90a
.address_size 64
.visible .entry first(.param .u64 p0)
{
    .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>;
    ld.param.u64 %rd1, [p0];
    griddepcontrol.launch_dependents;
W:  ld.acquire.gpu.global.u32 %r1, [%rd1];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra W;
    red.global.add.u32 [%rd1+4], 7;
    ret;
}
.visible .entry second(.param .u64 p0)
{
    .reg .b32 %r<4>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [p0];
    st.release.gpu.global.u32 [%rd1], 1;
    griddepcontrol.wait;
    ld.global.u32 %r1, [%rd1+4];
    st.global.u32 [%rd1+8], %r1;
    ret;
}
.visible .entry before(.param .u64 p0)
{
    .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>;
    ld.param.u64 %rd1, [p0];
    mov.u32 %r1, 0;
L:  add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 30000;
    @%p1 bra L;
    st.global.u32 [%rd1], %r1;
    ret;
}
.visible .entry after(.param .u64 p0)
{
    .reg .b32 %r<4>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [p0];
    ld.global.u32 %r1, [%rd1];
    st.global.u32 [%rd1+8], %r1;
    griddepcontrol.wait;
    ret;
}";

pub(crate) fn launch_programmatic(
    f: sys::CUfunction,
    blocks: u32,
    on: CUstream,
    pointer: u64,
    value: i32,
) {
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue {
            programmaticStreamSerializationAllowed: value,
        },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: blocks,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: on,
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    let mut params = [std::ptr::from_ref(&pointer).cast_mut().cast()];
    cu!(cuLaunchKernelEx(
        &config,
        f,
        params.as_mut_ptr(),
        std::ptr::null_mut()
    ));
}

#[test]
fn a_successor_starts_when_every_cta_has_triggered() {
    let _context = Context::new(0);
    let m = module(TEXT);
    let (first, second) = (function(m, "first"), function(m, "second"));
    let words = alloc::<u32>(3);
    let s = stream(1);
    for _ in 0..5 {
        cu!(cuMemsetD32_v2(words, 0, 3));
        let go = launch!(first, [40, 1, 1], [32, 1, 1], 0, s, [words]);
        assert_eq!(go, CUresult::CUDA_SUCCESS);
        launch_programmatic(second, 3, s, words, 1);
        cu!(cuStreamSynchronize(s));
        let sum = 40 * 32 * 7;
        assert_eq!(download::<u32>(words, 3), [1, sum, sum]);
    }
}

#[test]
fn without_a_trigger_or_the_attribute_kernels_do_not_overlap() {
    let _context = Context::new(0);
    let m = module(TEXT);
    let (before, after) = (function(m, "before"), function(m, "after"));
    let words = alloc::<u32>(3);
    let s = stream(1);
    for value in [0, 1] {
        cu!(cuMemsetD32_v2(words, 0, 3));
        let go = launch!(before, [8, 1, 1], [32, 1, 1], 0, s, [words]);
        assert_eq!(go, CUresult::CUDA_SUCCESS);
        launch_programmatic(after, 2, s, words, value);
        cu!(cuStreamSynchronize(s));
        assert_eq!(download::<u32>(words, 3), [30_000, 0, 30_000]);
    }
}

#[test]
fn a_chain_of_dependents_ends_in_order() {
    let _context = Context::new(0);
    let m = module(TEXT);
    let second = function(m, "second");
    let words = alloc::<u32>(3);
    cu!(cuMemsetD32_v2(words, 5, 3));
    let s = stream(1);
    for _ in 0..20 {
        launch_programmatic(second, 150, s, words, 1);
    }
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 3), [1, 5, 5]);
}
