//! Guest faults: which code, when, and for how long.

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
use cudarc::driver::sys::CUresult;

use crate::support::{BASIC, Context, DEFAULT, alloc, download, function, module, stream};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const ILLEGAL: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

#[test]
fn an_illegal_address_stays_until_the_context_is_destroyed() {
    let context = Context::new(7);
    let write = function(module(BASIC), "write_at");
    let word = alloc::<u32>(1);
    assert_eq!(
        launch!(write, [1; 3], [1; 3], 0, DEFAULT, [0x1000u64, 1i32]),
        OK
    );
    assert_eq!(code!(cuCtxSynchronize()), ILLEGAL);
    assert_eq!(
        launch!(write, [1; 3], [1; 3], 0, DEFAULT, [word, 1i32]),
        ILLEGAL
    );
    assert_eq!(code!(cuMemAlloc_v2(&mut 0, 4)), ILLEGAL);
    assert_eq!(code!(cuStreamSynchronize(DEFAULT)), ILLEGAL);
    drop(context);
    let _context = Context::new(7);
    let (write, word) = (function(module(BASIC), "write_at"), alloc::<u32>(1));
    assert_eq!(launch!(write, [1; 3], [1; 3], 0, DEFAULT, [word, 1i32]), OK);
    assert_eq!(download::<u32>(word, 1), [1]);
}

#[test]
fn an_overrun_by_one_page_is_caught() {
    let _context = Context::new(7);
    let write = function(module(BASIC), "write_at");
    let buffer = alloc::<u8>(1 << 20);
    assert_eq!(
        launch!(
            write,
            [1; 3],
            [1; 3],
            0,
            DEFAULT,
            [buffer + (1 << 20), 1i32]
        ),
        OK
    );
    assert_eq!(code!(cuCtxSynchronize()), ILLEGAL);
}

#[test]
fn other_faults_have_their_codes() {
    let fault = |name: &str, at: u64| {
        let _context = Context::new(7);
        let f = function(module(BASIC), name);
        let at = if at == 0 { 0 } else { alloc::<u32>(2) + at };
        assert_eq!(launch!(f, [1; 3], [1; 3], 0, DEFAULT, [at, 1i32]), OK);
        code!(cuCtxSynchronize())
    };
    assert_eq!(
        fault("write_at", 2),
        CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
    );
    assert_eq!(fault("stop", 0), CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn work_queued_behind_a_fault_is_dropped() {
    let _context = Context::new(7);
    let write = function(module(BASIC), "write_at");
    let (s, t) = (stream(1), stream(1));
    let mut event = std::ptr::null_mut();
    cu!(cuEventCreate(&mut event, 0));
    assert_eq!(launch!(write, [1; 3], [1; 3], 0, s, [8u64, 1i32]), OK);
    let recorded = code!(cuEventRecord(event, s));
    assert!(recorded == OK || recorded == ILLEGAL);
    let waiting = code!(cuStreamWaitEvent(t, event, 0));
    assert!(waiting == OK || waiting == ILLEGAL);
    assert_eq!(code!(cuStreamSynchronize(s)), ILLEGAL);
    assert_eq!(code!(cuStreamSynchronize(t)), ILLEGAL);
    assert_eq!(code!(cuEventQuery(event)), ILLEGAL);
}

/// A kernel that waits for ever ends with its context, whatever ends that.
#[test]
fn endless_kernels_end_with_their_context() {
    let endless = |blocks: u32| {
        let context = Context::new(6);
        let wait = function(module(BASIC), "answer");
        let words = alloc::<u32>(2);
        let s = stream(1);
        cu!(cuFuncSetAttribute(wait, LIMIT, 200_000));
        // With so much shared memory, one block fits into one of the 132 multiprocessors.
        let (grid, shared) = ([blocks, 1, 1], 200_000);
        let go = launch!(wait, grid, [32, 1, 1], shared, s, [words, 5u32, words + 4]);
        assert_eq!(go, OK);
        (context, s)
    };
    let (faulty, s) = endless(20);
    let write = function(module(BASIC), "write_at");
    assert_eq!(
        launch!(write, [1; 3], [1; 3], 0, stream(1), [8u64, 1i32]),
        OK
    );
    assert_eq!(code!(cuStreamSynchronize(s)), ILLEGAL);
    drop(faulty);
    // More blocks than fit, so some never begin.
    let (destroyed, _) = endless(140);
    drop(destroyed);
}

#[test]
fn resetting_the_primary_context_recovers_from_a_fault() {
    let _other = Context::new(6);
    let mut primary = std::ptr::null_mut();
    cu!(cuDevicePrimaryCtxRetain(&mut primary, 5));
    cu!(cuCtxPushCurrent_v2(primary));
    let write = function(module(BASIC), "write_at");
    assert_eq!(launch!(write, [1; 3], [1; 3], 0, DEFAULT, [8u64, 1i32]), OK);
    assert_eq!(code!(cuCtxSynchronize()), ILLEGAL);
    assert_eq!(code!(cuMemAlloc_v2(&mut 0, 4)), ILLEGAL);
    cu!(cuDevicePrimaryCtxReset_v2(5));
    let (mut flags, mut active) = (0, 0);
    cu!(cuDevicePrimaryCtxGetState(5, &mut flags, &mut active));
    assert_eq!((flags, active), (0, 1));
    // What the context had is gone; the context itself works again.
    assert_eq!(
        launch!(write, [1; 3], [1; 3], 0, DEFAULT, [8u64, 1i32]),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
    let (write, word) = (function(module(BASIC), "write_at"), alloc::<u32>(1));
    assert_eq!(launch!(write, [1; 3], [1; 3], 0, DEFAULT, [word, 3i32]), OK);
    assert_eq!(download::<u32>(word, 1), [3]);
    let mut popped = std::ptr::null_mut();
    cu!(cuCtxPopCurrent_v2(&mut popped));
    assert_eq!(popped, primary);
    cu!(cuDevicePrimaryCtxRelease_v2(5));
    assert_eq!(
        code!(cuDevicePrimaryCtxRelease_v2(5)),
        CUresult::CUDA_ERROR_INVALID_CONTEXT
    );
}
