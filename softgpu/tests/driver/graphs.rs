//! Graphs made by hand, and their instances.

#![expect(unsafe_code, reason = "callbacks and parameter structures")]

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUgraphNode, CUresult};

use crate::support::{BASIC, Context, alloc, download, function, module, stream};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

fn graph() -> CUgraph {
    let mut graph = null_mut();
    cu!(cuGraphCreate(&mut graph, 0));
    graph
}

pub(crate) fn instance(graph: CUgraph) -> CUgraphExec {
    let mut exec = null_mut();
    cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

/// `write_at(at, value)` as node parameters; the values are copied when a node is made.
fn write_at(f: sys::CUfunction, params: &mut [*mut c_void; 2]) -> sys::CUDA_KERNEL_NODE_PARAMS {
    sys::CUDA_KERNEL_NODE_PARAMS {
        func: f,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: params.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    }
}

fn add_write(
    graph: CUgraph,
    after: &[CUgraphNode],
    f: sys::CUfunction,
    (at, value): (u64, u32),
) -> CUgraphNode {
    let mut node = null_mut();
    let mut params = [
        (&raw const at).cast_mut().cast(),
        (&raw const value).cast_mut().cast(),
    ];
    let params = write_at(f, &mut params);
    cu!(cuGraphAddKernelNode_v2(
        &mut node,
        graph,
        after.as_ptr(),
        after.len(),
        &params
    ));
    node
}

fn memset(at: u64, value: u32, words: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS {
        dst: at,
        pitch: 0,
        value,
        elementSize: 4,
        width: words,
        height: 1,
    }
}

fn copy(dst: u64, src: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
    let mut made = std::mem::MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
    let at = made.as_mut_ptr();
    // SAFETY: a field of live memory.
    unsafe { (*at).srcMemoryType = device };
    // SAFETY: as above.
    unsafe { (*at).dstMemoryType = device };
    // SAFETY: zeros are valid for everything but the two kinds, which are set.
    let mut copy = unsafe { made.assume_init() };
    copy.srcDevice = src;
    copy.dstDevice = dst;
    copy.WidthInBytes = bytes;
    copy.Height = 1;
    copy.Depth = 1;
    copy
}

#[test]
fn nodes_run_in_the_order_of_their_edges() {
    /// # Safety
    /// `data` is an `AtomicU32`.
    unsafe extern "C" fn count(data: *mut c_void) {
        // SAFETY: the test passes a counter that outlives the graph.
        unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::AcqRel);
    }
    let context = Context::new(0);
    let f = function(module(BASIC), "write_at");
    let words = alloc::<u32>(8);
    let counter = AtomicU32::new(0);
    let g = graph();
    // memset all → write [1] → copy [0..2] to [4..6] → host; and an independent empty node.
    let (mut clear, mut moved, mut called, mut empty) =
        (null_mut(), null_mut(), null_mut(), null_mut());
    cu!(cuGraphAddMemsetNode(
        &mut clear,
        g,
        null(),
        0,
        &memset(words, 7, 8),
        context.0
    ));
    let write = add_write(g, &[clear], f, (words + 4, 99));
    cu!(cuGraphAddMemcpyNode(
        &mut moved,
        g,
        &write,
        1,
        &copy(words + 16, words, 8),
        context.0
    ));
    let host = sys::CUDA_HOST_NODE_PARAMS {
        fn_: Some(count),
        userData: (&raw const counter).cast_mut().cast(),
    };
    cu!(cuGraphAddHostNode(&mut called, g, &moved, 1, &host));
    cu!(cuGraphAddEmptyNode(&mut empty, g, null(), 0));
    let exec = instance(g);
    let s = stream(1);
    for round in 1..=3 {
        cu!(cuGraphLaunch(exec, s));
        cu!(cuStreamSynchronize(s));
        assert_eq!(download::<u32>(words, 8), [7, 99, 7, 7, 7, 99, 7, 7]);
        assert_eq!(counter.load(Ordering::Acquire), round);
    }
    let mut count = 0;
    cu!(cuGraphGetNodes(g, null_mut(), &mut count));
    assert_eq!(count, 5);
    let mut roots = [null_mut(); 4];
    let mut count = 4;
    cu!(cuGraphGetRootNodes(g, roots.as_mut_ptr(), &mut count));
    assert_eq!(
        (count, &roots),
        (2, &[clear, empty, null_mut(), null_mut()])
    );
    let (mut from, mut to, mut count) = ([null_mut(); 3], [null_mut(); 3], 3);
    cu!(cuGraphGetEdges_v2(
        g,
        from.as_mut_ptr(),
        to.as_mut_ptr(),
        null_mut(),
        &mut count
    ));
    assert_eq!((from, to), ([clear, write, moved], [write, moved, called]));
    let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
    cu!(cuGraphNodeGetType(moved, &mut kind));
    assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMCPY);
    cu!(cuGraphExecDestroy(exec));
    cu!(cuGraphDestroy(g));
    assert_eq!(code!(cuGraphDestroy(g)), INVALID);
    assert_eq!(code!(cuGraphNodeGetType(moved, &mut kind)), INVALID);
}

#[test]
fn parameters_are_copies_and_can_be_changed() {
    let context = Context::new(0);
    let f = function(module(BASIC), "write_at");
    let words = alloc::<u32>(4);
    cu!(cuMemsetD32_v2(words, 0, 4));
    let g = graph();
    let node = add_write(g, &[], f, (words, 5));
    // What the graph tells leads to its own copies.
    // SAFETY: filled by the call.
    let mut told: sys::CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
    cu!(cuGraphKernelNodeGetParams_v2(node, &mut told));
    assert_eq!((told.func, told.gridDimX, told.blockDimZ), (f, 1, 1));
    // SAFETY: there are two parameters.
    let second = unsafe { told.kernelParams.add(1) };
    // SAFETY: as above.
    let second = unsafe { second.read() };
    // SAFETY: the second is a 32-bit value.
    let value = unsafe { second.cast::<u32>().read() };
    assert_eq!(value, 5);
    let exec = instance(g);
    let s = stream(1);
    // A change in the graph does not reach the instance, one in the instance not the graph.
    let (at, six, seven) = (words + 4, 6u32, 7u32);
    let mut params = [
        (&raw const at).cast_mut().cast(),
        (&raw const six).cast_mut().cast(),
    ];
    cu!(cuGraphKernelNodeSetParams_v2(
        node,
        &write_at(f, &mut params)
    ));
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [5, 0, 0, 0]);
    let at = words + 8;
    let mut params = [
        (&raw const at).cast_mut().cast(),
        (&raw const seven).cast_mut().cast(),
    ];
    cu!(cuGraphExecKernelNodeSetParams_v2(
        exec,
        node,
        &write_at(f, &mut params)
    ));
    cu!(cuMemsetD32_v2(words, 0, 4));
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [0, 0, 7, 0]);
    // An update takes the graph's parameters over; another structure is refused.
    // SAFETY: filled by the call.
    let mut info: sys::CUgraphExecUpdateResultInfo = unsafe { std::mem::zeroed() };
    cu!(cuGraphExecUpdate_v2(exec, g, &mut info));
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [0, 6, 7, 0]);
    let mut extra = null_mut();
    cu!(cuGraphAddEmptyNode(&mut extra, g, &node, 1));
    assert_eq!(
        code!(cuGraphExecUpdate_v2(exec, g, &mut info)),
        CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
    );
    let changed = sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    assert_eq!((info.result, info.errorNode), (changed, extra));
    // Switched off, a node only orders others.
    cu!(cuGraphNodeSetEnabled(exec, node, 0));
    cu!(cuMemsetD32_v2(words, 0, 4));
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [0; 4]);
    drop(context);
}

#[test]
fn counts_beyond_the_nodes_are_refused() {
    let _context = Context::new(0);
    let (g, s) = (graph(), stream(1));
    let (mut a, mut b) = (null_mut(), null_mut());
    cu!(cuGraphAddEmptyNode(&mut a, g, null(), 0));
    cu!(cuGraphAddEmptyNode(&mut b, g, null(), 0));
    let (two, none) = ([a, b], null());
    for (nodes, count) in [
        (two.as_ptr(), 1 << 40),
        (two.as_ptr(), usize::MAX),
        (none, 1),
        (none, 1 << 40),
    ] {
        let mut c = null_mut();
        let added = code!(cuGraphAddEmptyNode(&mut c, g, nodes, count));
        assert_eq!(added, INVALID, "{count}");
        for (from, to) in [(nodes, two.as_ptr()), (two.as_ptr(), nodes)] {
            let connected = code!(cuGraphAddDependencies_v2(g, from, to, null(), count));
            assert_eq!(connected, INVALID, "{count}");
            let cut = code!(cuGraphRemoveDependencies_v2(g, from, to, null(), count));
            assert_eq!(cut, INVALID, "{count}");
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let begun = code!(cuStreamBeginCaptureToGraph(
            s,
            g,
            nodes,
            null(),
            count,
            mode
        ));
        assert_eq!(begun, INVALID, "{count}");
        cu!(cuStreamBeginCapture_v2(s, mode));
        let nodes = nodes.cast_mut();
        let updated = code!(cuStreamUpdateCaptureDependencies_v2(
            s,
            nodes,
            null(),
            count,
            0
        ));
        assert_eq!(updated, INVALID, "{count}");
        let mut captured = null_mut();
        cu!(cuStreamEndCapture(s, &mut captured));
        cu!(cuGraphDestroy(captured));
    }
    let mut edges = 0;
    cu!(cuGraphGetEdges_v2(
        g,
        null_mut(),
        null_mut(),
        null_mut(),
        &mut edges
    ));
    assert_eq!(edges, 0);
}

#[test]
fn cycles_and_foreign_nodes_are_refused() {
    let _context = Context::new(0);
    let (g, other) = (graph(), graph());
    let (mut a, mut b, mut c) = (null_mut(), null_mut(), null_mut());
    cu!(cuGraphAddEmptyNode(&mut a, g, null(), 0));
    cu!(cuGraphAddEmptyNode(&mut b, g, &a, 1));
    assert_eq!(code!(cuGraphAddEmptyNode(&mut c, other, &a, 1)), INVALID);
    assert_eq!(
        code!(cuGraphAddEmptyNode(&mut c, g, [a, a].as_ptr(), 2)),
        INVALID
    );
    assert_eq!(
        code!(cuGraphAddDependencies_v2(g, &a, &b, null(), 1)),
        INVALID
    );
    cu!(cuGraphAddDependencies_v2(g, &b, &a, null(), 1));
    let mut exec = null_mut();
    assert_eq!(code!(cuGraphInstantiateWithFlags(&mut exec, g, 0)), INVALID);
    cu!(cuGraphRemoveDependencies_v2(g, &b, &a, null(), 1));
    assert_eq!(
        code!(cuGraphRemoveDependencies_v2(g, &b, &a, null(), 1)),
        INVALID
    );
    // Freeing on launch and launches from the device exclude each other; other bits have no meaning.
    for flags in [1 | 4, 1 << 20] {
        let refused = code!(cuGraphInstantiateWithFlags(&mut exec, g, flags));
        assert_eq!(refused, INVALID, "flags {flags}");
    }
    cu!(cuGraphInstantiateWithFlags(&mut exec, g, 0));
    // A clone has nodes of its own that know where they come from.
    let mut clone = null_mut();
    cu!(cuGraphClone(&mut clone, g));
    cu!(cuGraphNodeFindInClone(&mut c, b, clone));
    assert_ne!(c, b);
    let mut count = 1;
    let mut before = null_mut();
    cu!(cuGraphNodeGetDependencies_v2(
        c,
        &mut before,
        null_mut(),
        &mut count
    ));
    cu!(cuGraphNodeFindInClone(&mut c, a, clone));
    assert_eq!((count, before), (1, c));
    // A child is a copy as well.
    let mut child = null_mut();
    cu!(cuGraphAddChildGraphNode(&mut child, other, null(), 0, g));
    let mut inner = null_mut();
    cu!(cuGraphChildGraphNodeGetGraph(child, &mut inner));
    assert_ne!(inner, g);
    cu!(cuGraphDestroyNode(b));
    let mut count = 0;
    cu!(cuGraphGetNodes(inner, null_mut(), &mut count));
    assert_eq!(count, 2);
    cu!(cuGraphGetNodes(g, null_mut(), &mut count));
    assert_eq!(count, 1);
}

#[test]
fn children_and_branches_run_and_instances_run_side_by_side() {
    let _context = Context::new(0);
    let m = module(BASIC);
    let (write, answer) = (function(m, "write_at"), function(m, "answer"));
    let words = alloc::<u32>(4);
    cu!(cuMemsetD32_v2(words, 0, 4));
    let inner = graph();
    let first = add_write(inner, &[], write, (words, 1));
    add_write(inner, &[first], write, (words + 4, 2));
    let outer = graph();
    let mut child = null_mut();
    cu!(cuGraphAddChildGraphNode(
        &mut child,
        outer,
        null(),
        0,
        inner
    ));
    add_write(outer, &[child], write, (words + 4, 3));
    let exec = instance(outer);
    let s = stream(1);
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [1, 3, 0, 0]);
    // Two branches that wait for each other: [3] answers [2], which the other branch writes.
    cu!(cuMemsetD32_v2(words, 0, 4));
    let both = graph();
    let (flag, value, reply) = (words + 8, 41u32, words + 12);
    let mut params = [
        (&raw const flag).cast_mut().cast(),
        (&raw const value).cast_mut().cast(),
        (&raw const reply).cast_mut().cast(),
    ];
    let mut waiting = write_at(answer, &mut [null_mut(); 2]);
    waiting.kernelParams = params.as_mut_ptr();
    let mut node = null_mut();
    cu!(cuGraphAddKernelNode_v2(
        &mut node,
        both,
        null(),
        0,
        &waiting
    ));
    add_write(both, &[], write, (words + 8, 41));
    let exec = instance(both);
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [0, 0, 41, 42]);
    // A waiting graph in one stream does not hold another instance up in another stream.
    cu!(cuMemsetD32_v2(words, 0, 4));
    let (only_wait, only_write) = (graph(), graph());
    cu!(cuGraphAddKernelNode_v2(
        &mut node,
        only_wait,
        null(),
        0,
        &waiting
    ));
    add_write(only_write, &[], write, (words + 8, 41));
    let t = stream(1);
    cu!(cuGraphLaunch(instance(only_wait), s));
    assert_eq!(code!(cuStreamQuery(s)), CUresult::CUDA_ERROR_NOT_READY);
    cu!(cuGraphLaunch(instance(only_write), t));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [0, 0, 41, 42]);
}

#[test]
fn events_in_graphs_are_recorded_and_waited_for() {
    let _context = Context::new(0);
    let f = function(module(BASIC), "write_at");
    let words = alloc::<u32>(2);
    cu!(cuMemsetD32_v2(words, 0, 2));
    let mut gate = null_mut();
    cu!(cuMemHostAlloc(&mut gate, 4, 0));
    let (mut start, mut end) = (null_mut(), null_mut());
    cu!(cuEventCreate(&mut start, 0));
    cu!(cuEventCreate(&mut end, 0));
    let (s, t) = (stream(1), stream(1));
    cu!(cuStreamWaitValue32_v2(t, gate.addr() as u64, 1, 1));
    cu!(cuEventRecord(start, t));
    let g = graph();
    let (mut wait, mut record) = (null_mut(), null_mut());
    cu!(cuGraphAddEventWaitNode(&mut wait, g, null(), 0, start));
    let write = add_write(g, &[wait], f, (words, 8));
    cu!(cuGraphAddEventRecordNode(&mut record, g, &write, 1, end));
    let mut told = null_mut();
    cu!(cuGraphEventRecordNodeGetEvent(record, &mut told));
    assert_eq!(told, end);
    cu!(cuGraphLaunch(instance(g), s));
    assert_eq!(code!(cuEventQuery(end)), CUresult::CUDA_ERROR_NOT_READY);
    // SAFETY: four bytes of pinned memory.
    unsafe { &*gate.cast::<AtomicU32>() }.store(1, Ordering::Release);
    cu!(cuEventSynchronize(end));
    assert_eq!(download::<u32>(words, 2), [8, 0]);
}

#[test]
fn graphs_allocate_and_free() {
    let context = Context::new(0);
    let f = function(module(BASIC), "write_at");
    let g = graph();
    // SAFETY: plain data.
    let mut params: sys::CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { std::mem::zeroed() };
    params.poolProps.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    params.poolProps.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    params.bytesize = 4096;
    let (mut made, mut freed) = (null_mut(), null_mut());
    cu!(cuGraphAddMemAllocNode(&mut made, g, null(), 0, &mut params));
    let write = add_write(g, &[made], f, (params.dptr, 77));
    let exec = instance(g);
    let s = stream(1);
    cu!(cuGraphLaunch(exec, s));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(params.dptr, 1), [77]);
    // Not again before it is freed.
    assert_eq!(code!(cuGraphLaunch(exec, s)), INVALID);
    cu!(cuMemFreeAsync(params.dptr, s));
    cu!(cuStreamSynchronize(s));
    cu!(cuGraphLaunch(exec, s));
    cu!(cuMemFreeAsync(params.dptr, s));
    cu!(cuGraphAddMemFreeNode(&mut freed, g, &write, 1, params.dptr));
    let exec = instance(g);
    for _ in 0..3 {
        cu!(cuGraphLaunch(exec, s));
        cu!(cuStreamSynchronize(s));
    }
    let mut clone = null_mut();
    assert_eq!(
        code!(cuGraphClone(&mut clone, g)),
        CUresult::CUDA_ERROR_NOT_SUPPORTED
    );
    drop(context);
}

#[test]
fn generic_nodes_objects_and_the_dot_print() {
    /// # Safety
    /// `data` is an `AtomicU32`.
    unsafe extern "C" fn destroyed(data: *mut c_void) {
        // SAFETY: the test passes a counter that outlives the object.
        unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::AcqRel);
    }
    let _context = Context::new(0);
    let words = alloc::<u32>(4);
    let g = graph();
    // SAFETY: plain data.
    let mut params: sys::CUgraphNodeParams = unsafe { std::mem::zeroed() };
    params.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET;
    params.__bindgen_anon_1.memset = sys::CUDA_MEMSET_NODE_PARAMS_v2 {
        dst: words,
        pitch: 0,
        value: 3,
        elementSize: 4,
        width: 4,
        height: 1,
        ctx: null_mut(),
    };
    let mut node = null_mut();
    cu!(cuGraphAddNode_v2(
        &mut node,
        g,
        null(),
        null(),
        0,
        &mut params
    ));
    let counter = AtomicU32::new(0);
    let mut object = null_mut();
    cu!(cuUserObjectCreate(
        &mut object,
        (&raw const counter).cast_mut().cast(),
        Some(destroyed),
        1,
        1
    ));
    cu!(cuGraphRetainUserObject(g, object, 1, 1));
    let exec = instance(g);
    cu!(cuGraphLaunch(exec, stream(1)));
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(words, 4), [3; 4]);
    let path = std::env::temp_dir().join(format!("softgpu-graph-{}.dot", std::process::id()));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    cu!(cuGraphDebugDotPrint(g, name.as_ptr(), 0));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(
        text.starts_with("digraph") && text.contains("memset"),
        "{text}"
    );
    assert_eq!(counter.load(Ordering::Acquire), 0);
    cu!(cuGraphDestroy(g));
    assert_eq!(counter.load(Ordering::Acquire), 1);
}
