//! Stream capture: what is recorded, how streams join, what is forbidden meanwhile.

use std::ptr::null_mut;

use cudarc::driver::sys::{
    self, CUgraph, CUresult, CUstream, CUstreamCaptureMode_enum as Capture,
    CUstreamCaptureStatus_enum as Status,
};

use crate::graphs::instance;
use crate::support::{BASIC, Context, DEFAULT, alloc, download, function, module, stream};

fn begin(s: CUstream) {
    cu!(cuStreamBeginCapture_v2(
        s,
        Capture::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    ));
}

fn end(s: CUstream) -> Result<CUgraph, CUresult> {
    let mut graph = null_mut();
    match code!(cuStreamEndCapture(s, &mut graph)) {
        CUresult::CUDA_SUCCESS => Ok(graph),
        error => {
            assert!(graph.is_null());
            Err(error)
        }
    }
}

fn event() -> sys::CUevent {
    let mut event = null_mut();
    cu!(cuEventCreate(&mut event, 2));
    event
}

fn status(s: CUstream) -> Status {
    let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
    cu!(cuStreamIsCapturing(s, &mut status));
    status
}

fn nodes(graph: CUgraph) -> usize {
    let mut count = 0;
    cu!(cuGraphGetNodes(graph, null_mut(), &mut count));
    count
}

#[test]
fn work_is_recorded_and_runs_when_launched() {
    let _context = Context::new(0);
    let f = function(module(BASIC), "write_at");
    let words = alloc::<u32>(4);
    cu!(cuMemsetD32_v2(words, 0, 4));
    let s = stream(1);
    begin(s);
    assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    cu!(cuMemsetD32Async(words, 1, 4, s));
    assert_eq!(
        launch!(f, [1; 3], [1; 3], 0, s, [words + 4, 2u32]),
        CUresult::CUDA_SUCCESS
    );
    cu!(cuMemcpyDtoDAsync_v2(words + 12, words + 4, 4, s));
    let graph = end(s).unwrap();
    assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_NONE);
    assert_eq!(nodes(graph), 3);
    assert_eq!(download::<u32>(words, 4), [0; 4]);
    let exec = instance(graph);
    cu!(cuGraphDestroy(graph));
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [1, 2, 1, 2]);
}

#[test]
fn streams_join_through_events_and_must_be_joined_back() {
    let _context = Context::new(0);
    let words = alloc::<u32>(2);
    let (s, t) = (stream(1), stream(1));
    let (fork, join) = (event(), event());
    begin(s);
    cu!(cuEventRecord(fork, s));
    cu!(cuStreamWaitEvent(t, fork, 0));
    assert_eq!(status(t), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    cu!(cuMemsetD32Async(words, 1, 1, s));
    cu!(cuMemsetD32Async(words + 4, 2, 1, t));
    assert_eq!(
        code!(cuEventQuery(fork)),
        CUresult::CUDA_ERROR_CAPTURED_EVENT
    );
    // The capture is ended where it began.
    cu!(cuEventRecord(join, t));
    cu!(cuStreamWaitEvent(s, join, 0));
    let graph = end(s).unwrap();
    assert_eq!(status(t), Status::CU_STREAM_CAPTURE_STATUS_NONE);
    let mut roots = 0;
    cu!(cuGraphGetRootNodes(graph, null_mut(), &mut roots));
    assert_eq!((nodes(graph), roots), (2, 2));
    cu!(cuGraphLaunch(instance(graph), s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 2), [1, 2]);
    // Not joined back.
    begin(s);
    cu!(cuEventRecord(fork, s));
    cu!(cuStreamWaitEvent(t, fork, 0));
    cu!(cuMemsetD32Async(words, 1, 1, t));
    assert_eq!(end(s), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
    // Ended on the wrong stream: the right one then says that it is spoilt.
    begin(s);
    cu!(cuEventRecord(fork, s));
    cu!(cuStreamWaitEvent(t, fork, 0));
    assert_eq!(end(t), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED));
    assert_eq!(end(s), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    assert_eq!(end(s), Err(CUresult::CUDA_ERROR_ILLEGAL_STATE));
}

#[test]
fn crossings_are_errors() {
    let _context = Context::new(0);
    let (s, t, u) = (stream(1), stream(1), stream(0));
    let (outside, inside) = (event(), event());
    cu!(cuEventRecord(outside, t));
    begin(s);
    assert_eq!(
        code!(cuStreamWaitEvent(s, outside, 0)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
    );
    assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    assert_eq!(end(s), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    // An event of the outside world may be a node of its own.
    begin(s);
    cu!(cuStreamWaitEvent(s, outside, 1));
    cu!(cuEventRecordWithFlags(inside, s, 1));
    let graph = end(s).unwrap();
    assert_eq!(nodes(graph), 2);
    // Two captures cannot become one.
    begin(s);
    begin(t);
    cu!(cuEventRecord(inside, s));
    assert_eq!(
        code!(cuStreamWaitEvent(t, inside, 0)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE
    );
    assert_eq!(end(s), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    assert_eq!(end(t), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    // The legacy stream would have to wait for a blocking stream's capture.
    let words = alloc::<u32>(1);
    begin(u);
    assert_eq!(
        code!(cuMemsetD32Async(words, 1, 1, DEFAULT)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
    );
    assert_eq!(end(u), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    assert_eq!(
        code!(cuStreamBeginCapture_v2(
            DEFAULT,
            Capture::CU_STREAM_CAPTURE_MODE_RELAXED
        )),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
}

#[test]
fn waiting_and_unsafe_calls_spoil_a_capture() {
    let _context = Context::new(0);
    let s = stream(1);
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let spoilt = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    begin(s);
    assert_eq!(code!(cuStreamSynchronize(s)), unsupported);
    assert_eq!(end(s), spoilt);
    begin(s);
    assert_eq!(code!(cuStreamQuery(s)), unsupported);
    assert_eq!(end(s), spoilt);
    begin(s);
    assert_eq!(code!(cuCtxSynchronize()), unsupported);
    assert_eq!(end(s), spoilt);
    let mut pointer = 0;
    begin(s);
    assert_eq!(code!(cuMemAlloc_v2(&mut pointer, 4)), unsupported);
    assert_eq!(end(s), spoilt);
    // A thread can declare that it knows what it does.
    begin(s);
    let mut mode = Capture::CU_STREAM_CAPTURE_MODE_RELAXED;
    cu!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, Capture::CU_STREAM_CAPTURE_MODE_GLOBAL);
    cu!(cuMemAlloc_v2(&mut pointer, 4));
    cu!(cuThreadExchangeStreamCaptureMode(&mut mode));
    let graph = end(s).unwrap();
    assert_eq!(nodes(graph), 0);
    cu!(cuGraphLaunch(instance(graph), s));
    cu!(cuStreamSynchronize(s));
}

/// A capture forbids its own thread to free and to unload; the others may.
#[test]
fn other_threads_free_during_a_capture() {
    let context = Context::new(0);
    let words = alloc::<u32>(4);
    let (spare, lost) = (alloc::<u32>(4), alloc::<u32>(4));
    let s = stream(1);
    begin(s);
    cu!(cuMemsetD32Async(words, 7, 4, s));
    let handle = context.0 as usize;
    let other = move || {
        cu!(cuCtxSetCurrent(handle as sys::CUcontext));
        let loaded = module(BASIC);
        cu!(cuMemFree_v2(spare));
        cu!(cuMemFree_v2(alloc::<u32>(4)));
        cu!(cuModuleUnload(loaded));
    };
    std::thread::spawn(other).join().unwrap();
    assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    let graph = end(s).unwrap();
    cu!(cuGraphLaunch(instance(graph), s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [7; 4]);
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let spoilt = Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    begin(s);
    assert_eq!(code!(cuMemFree_v2(lost)), unsupported);
    assert_eq!(end(s), spoilt);
    let loaded = module(BASIC);
    begin(s);
    assert_eq!(code!(cuModuleUnload(loaded)), unsupported);
    assert_eq!(end(s), spoilt);
    let mut page = vec![0u8; 8192];
    let registered = page.as_mut_ptr().cast();
    cu!(cuMemHostRegister_v2(registered, 8192, 0));
    begin(s);
    assert_eq!(code!(cuMemHostUnregister(registered)), unsupported);
    assert_eq!(end(s), spoilt);
    // Nothing has gone.
    cu!(cuMemFree_v2(lost));
    cu!(cuMemHostUnregister(registered));
    cu!(cuModuleUnload(loaded));
}

#[test]
fn dependencies_can_be_seen_and_set() {
    let _context = Context::new(0);
    let words = alloc::<u32>(4);
    let s = stream(1);
    begin(s);
    cu!(cuMemsetD32Async(words, 1, 4, s));
    let info = || {
        let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph, mut list, mut count) = (0, null_mut(), std::ptr::null(), 0);
        cu!(cuStreamGetCaptureInfo_v3(
            s,
            &mut status,
            &mut id,
            &mut graph,
            &mut list,
            null_mut(),
            &mut count
        ));
        assert_eq!(
            (status, count),
            (Status::CU_STREAM_CAPTURE_STATUS_ACTIVE, 1)
        );
        assert!(id != 0);
        #[expect(unsafe_code, reason = "the list belongs to the capture")]
        // SAFETY: one element, valid until the next call for the stream.
        let node = unsafe { list.read() };
        (graph, node)
    };
    let (graph, first) = info();
    // A node put in by hand becomes part of the capture.
    let mut empty = null_mut();
    cu!(cuGraphAddEmptyNode(&mut empty, graph, &first, 1));
    let replace = 1;
    cu!(cuStreamUpdateCaptureDependencies_v2(
        s,
        &mut empty,
        std::ptr::null(),
        1,
        replace
    ));
    cu!(cuMemsetD32Async(words + 4, 2, 1, s));
    let (_, last) = info();
    let (mut before, mut count) = (null_mut(), 1);
    cu!(cuGraphNodeGetDependencies_v2(
        last,
        &mut before,
        null_mut(),
        &mut count
    ));
    assert_eq!((before, count), (empty, 1));
    assert_eq!(end(s), Ok(graph));
    // A capture may also continue a graph.
    cu!(cuStreamBeginCaptureToGraph(
        s,
        graph,
        &last,
        std::ptr::null(),
        1,
        Capture::CU_STREAM_CAPTURE_MODE_RELAXED
    ));
    cu!(cuMemsetD32Async(words + 8, 3, 1, s));
    assert_eq!(end(s), Ok(graph));
    cu!(cuGraphLaunch(instance(graph), s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [1, 2, 3, 1]);
}

#[test]
fn stream_ordered_memory_and_graphs_are_captured() {
    let _context = Context::new(0);
    let words = alloc::<u32>(2);
    let s = stream(1);
    begin(s);
    let mut memory = 0;
    cu!(cuMemAllocAsync(&mut memory, 4096, s));
    cu!(cuMemsetD32Async(memory, 9, 4, s));
    cu!(cuMemcpyDtoDAsync_v2(words, memory, 8, s));
    cu!(cuMemFreeAsync(memory, s));
    let exec = instance(end(s).unwrap());
    for _ in 0..2 {
        cu!(cuMemsetD32_v2(words, 0, 2));
        cu!(cuGraphLaunch(exec, s));
        cu!(cuStreamSynchronize(s));
        assert_eq!(download::<u32>(words, 2), [9, 9]);
    }
    begin(s);
    cu!(cuMemsetD32Async(words, 5, 2, s));
    let inner = instance(end(s).unwrap());
    begin(s);
    cu!(cuGraphLaunch(inner, s));
    cu!(cuMemsetD32Async(words, 6, 1, s));
    let outer = end(s).unwrap();
    assert_eq!(nodes(outer), 2);
    cu!(cuGraphLaunch(instance(outer), s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 2), [6, 5]);
}
