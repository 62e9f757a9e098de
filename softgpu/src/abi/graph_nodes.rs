//! Nodes of graphs: making them, their parameters, their attributes.

#![expect(unsafe_code, reason = "exported C functions")]

use std::sync::Arc;

use super::copy::{raw_3d, rect_3d};
use super::graph::dependencies;
use super::graph_types::{
    AllocParams, BatchParams, HostParams, KernelParams, KernelParamsV1, MemcpyParams, MemsetParams,
    NODE_PARAMS,
};
use super::launch::{parameters, set_attribute};
use super::pointers::{In, Out};
use super::stream::{HostFn, host_call};
use super::stream_value::operations;
use super::types::{BatchMemOp, LaunchAttribute, Memcpy3d};
use crate::driver::context::by_handle;
use crate::driver::event::Event;
use crate::driver::graph::{Copying, Edge, Graph, graph_of};
use crate::driver::graph_memory::GraphMemory;
use crate::driver::launch::Request;
use crate::driver::library::function;
use crate::driver::machine::driver;
use crate::driver::report;
use crate::driver::status::{Result, Status};
use crate::driver::task::Task;
use crate::driver::transfer::Fill;

/// The task of a kernel node.
pub(super) fn kernel(params: &KernelParams) -> Result<Task> {
    let handle = if params.function == 0 {
        params.kernel
    } else {
        params.function
    };
    let function = function(handle)?;
    let request = Request {
        grid: params.grid,
        block: params.block,
        dynamic_shared: params.shared_bytes,
        params: parameters(&function, In::at(params.pointers), In::at(params.extra))?,
        ..Request::default()
    };
    Ok(Task::Kernel(request.task(&function)?))
}

fn kernel_params(task: &Task) -> Result<KernelParams> {
    let Task::Kernel(kernel) = task else {
        return Err(Status::INVALID_VALUE);
    };
    Ok(KernelParams {
        function: kernel.function.handle,
        grid: kernel.request.grid,
        block: kernel.request.block,
        shared_bytes: kernel.request.dynamic_shared,
        pointers: kernel.pointers.as_ptr().expose_provenance() as u64,
        extra: 0,
        kernel: 0,
        context: kernel.function.context,
    })
}

/// The task of a copy node.
pub(super) fn memcpy(params: In<Memcpy3d>) -> Result<Task> {
    let rect = rect_3d(params)?;
    rect.check()?;
    Ok(Task::Copy(rect))
}

/// The task of a fill node.
pub(super) fn memset(params: &MemsetParams) -> Result<Task> {
    let pattern = match params.element {
        1 => params.value.to_le_bytes().get(..1).map(<[u8]>::to_vec),
        2 => params.value.to_le_bytes().get(..2).map(<[u8]>::to_vec),
        4 => Some(params.value.to_le_bytes().to_vec()),
        _ => None,
    };
    let width = params.width.checked_mul(u64::from(params.element));
    let fill = Fill {
        address: params.dst,
        pitch: params.pitch,
        pattern: pattern.ok_or(Status::INVALID_VALUE)?,
        width: width.ok_or(Status::INVALID_VALUE)?,
        height: params.height,
    };
    fill.check()?;
    Ok(Task::Fill(fill))
}

fn memset_params(task: &Task) -> Result<MemsetParams> {
    let Task::Fill(fill) = task else {
        return Err(Status::INVALID_VALUE);
    };
    let mut value = [0; 4];
    for (to, from) in value.iter_mut().zip(&fill.pattern) {
        *to = *from;
    }
    let element = fill.pattern.len().max(1);
    Ok(MemsetParams {
        dst: fill.address,
        pitch: fill.pitch,
        value: u32::from_le_bytes(value),
        element: u32::try_from(element).unwrap_or(1),
        width: fill.width / element as u64,
        height: fill.height,
    })
}

/// The task of a host node.
pub(super) fn host(params: In<HostParams>) -> Result<Task> {
    let [_, data] = params.get()?;
    // The first field is the function: the same bytes as a nullable function pointer.
    let function = In::<HostFn>::at(params.address()).get()?;
    let function = function.ok_or(Status::INVALID_VALUE)?;
    let data = Out::<u8>::at(data).raw().cast();
    Ok(Task::Host(host_call(function, data)))
}

fn host_params(task: &Task) -> Result<HostParams> {
    match task {
        Task::Host(host) => Ok([host.function, host.data]),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// The task of a batch node.
pub(super) fn batch(params: &BatchParams) -> Result<Task> {
    if params.flags != 0 {
        return Err(Status::INVALID_VALUE);
    }
    Ok(Task::Words(operations(
        params.count,
        In::<BatchMemOp>::at(params.ops),
    )?))
}

fn batch_params(task: &Task) -> Result<BatchParams> {
    let Task::Words(ops) = task else {
        return Err(Status::INVALID_VALUE);
    };
    let raw: Vec<[u64; 6]> = ops.iter().map(|op| op.raw).collect();
    // The client is told where the node's own copy is; it lives as long as the process.
    let raw: &'static [[u64; 6]] = raw.leak();
    Ok(BatchParams {
        context: 0,
        count: u32::try_from(raw.len()).unwrap_or(u32::MAX),
        ops: raw.as_ptr().expose_provenance() as u64,
        flags: 0,
    })
}

/// The task of a child node: a copy of the graph.
pub(super) fn child(graph: u64) -> Result<Task> {
    Ok(Task::Child(Graph::get(graph)?.copy(Copying::Clone)?))
}

/// The task of an allocation node, and where the memory is.
fn alloc(params: In<AllocParams>) -> Result<(Task, u64)> {
    const DEVICE: u32 = 1;
    let asked = params.get()?;
    if asked.pool.location.kind != DEVICE || asked.pool.handle_types != 0 || asked.bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let device = driver().device(asked.pool.location.id)?;
    let memory = GraphMemory::new(device, asked.bytes)?;
    let base = memory.region.base;
    Ok((Task::Alloc(memory), base))
}

fn free(pointer: u64) -> Result<Task> {
    let known = crate::mem::AddressSpace::global().lookup(pointer);
    known
        .filter(|r| r.base == pointer)
        .ok_or(Status::INVALID_VALUE)?;
    Ok(Task::Free(pointer))
}

fn event_of(node: u64, wanted: fn(&Task) -> Option<u64>) -> Result<u64> {
    let event = graph_of(node)?.with(node, |n| wanted(&n.task))?;
    event.ok_or(Status::INVALID_VALUE)
}

/// Where a new node goes: graph, nodes that it comes after, their number.
struct Place(u64, In<u64>, u64);

impl Place {
    fn add(self, node: Out<u64>, task: Task) -> Result<()> {
        self.add_with(In::at(0), node, task)
    }

    fn add_with(self, edges: In<Edge>, node: Out<u64>, task: Task) -> Result<()> {
        if node.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let graph = Graph::get(self.0)?;
        let after = dependencies(self.1, edges, self.2, graph.node_count())?;
        node.set(graph.add(task, &after)?)
    }
}

/// Replaces the task of a node by one of the same kind.
fn replace(node: u64, task: Task) -> Result<()> {
    let changed = graph_of(node)?.with(node, |n| {
        let fits = n.task.kind() == task.kind();
        if fits {
            n.set_task(keep_attributes(&n.task, task));
        }
        fits
    })?;
    if changed {
        Ok(())
    } else {
        Err(Status::INVALID_VALUE)
    }
}

/// Attributes of a kernel node outlive new parameters.
pub(super) fn keep_attributes(old: &Task, mut new: Task) -> Task {
    if let (Task::Kernel(old), Task::Kernel(new)) = (old, &mut new) {
        new.request.cluster = old.request.cluster;
        new.request.cooperative = old.request.cooperative;
        new.request.attributes.clone_from(&old.request.attributes);
    }
    new
}

fn look<T>(node: u64, get: impl FnOnce(&Task) -> Result<T>) -> Result<T> {
    graph_of(node)?.with(node, |n| get(&n.task))?
}

/// The task that a `CUgraphNodeParams` describes; for an allocation, also writes its address back.
pub(super) fn generic(params: Out<u8>) -> Result<Task> {
    let at = params.address();
    let kind = In::<u32>::at(at).get()?;
    let inner = at + NODE_PARAMS;
    match kind {
        0 => kernel(&In::<KernelParams>::at(inner).get()?),
        1 => {
            const COPY: u64 = 16;
            memcpy(In::at(inner + COPY))
        }
        2 => memset(&In::<MemsetParams>::at(inner).get()?),
        3 => host(In::at(inner)),
        4 => child(In::<u64>::at(inner).get()?),
        5 => Ok(Task::Empty),
        6 => Ok(Task::Wait(Event::get(In::<u64>::at(inner).get()?)?)),
        7 => Ok(Task::Record(Event::get(In::<u64>::at(inner).get()?)?)),
        10 => {
            let (task, base) = alloc(In::at(inner))?;
            let offset = std::mem::offset_of!(AllocParams, pointer) as u64;
            Out::<u64>::at(inner + offset).set(base)?;
            Ok(task)
        }
        11 => free(In::<u64>::at(inner).get()?),
        12 => batch(&In::<BatchParams>::at(inner).get()?),
        8 | 9 | 13 => {
            report::complaint(&format!("unsupported: graph nodes of type {kind}"));
            Err(Status::NOT_SUPPORTED)
        }
        _ => Err(Status::INVALID_VALUE),
    }
}

fn copy_attributes(dst: u64, src: u64) -> Result<()> {
    let from = look(src, |task| match task {
        Task::Kernel(_) => Ok(task.clone()),
        _ => Err(Status::INVALID_VALUE),
    })?;
    let done = graph_of(dst)?.with(dst, |n| {
        let fits = matches!(n.task, Task::Kernel(_));
        n.set_task(keep_attributes(&from, n.task.clone()));
        fits
    })?;
    if done {
        Ok(())
    } else {
        Err(Status::INVALID_VALUE)
    }
}

entries! { call:
    fn cuGraphAddKernelNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: In<KernelParamsV1>
    ) {
        Place(graph, after, count).add(node, kernel(&params.get()?.widen())?)
    }
    fn cuGraphAddKernelNode_v2(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: In<KernelParams>
    ) {
        Place(graph, after, count).add(node, kernel(&params.get()?)?)
    }
    fn cuGraphKernelNodeGetParams(node: u64, params: Out<KernelParamsV1>) {
        params.set(KernelParamsV1::narrow(look(node, kernel_params)?))
    }
    fn cuGraphKernelNodeGetParams_v2(node: u64, params: Out<KernelParams>) {
        params.set(look(node, kernel_params)?)
    }
    fn cuGraphKernelNodeSetParams(node: u64, params: In<KernelParamsV1>) {
        replace(node, kernel(&params.get()?.widen())?)
    }
    fn cuGraphKernelNodeSetParams_v2(node: u64, params: In<KernelParams>) {
        replace(node, kernel(&params.get()?)?)
    }
    fn cuGraphKernelNodeCopyAttributes(dst: u64, src: u64) {
        copy_attributes(dst, src)
    }
    fn cuGraphKernelNodeGetAttribute(node: u64, id: u32, value: Out<[u32; 16]>) {
        let words = look(node, |task| match task {
            Task::Kernel(kernel) => Ok(super::launch::attribute(&kernel.request, id)),
            _ => Err(Status::INVALID_VALUE),
        })?;
        value.set(words)
    }
    fn cuGraphKernelNodeSetAttribute(node: u64, id: u32, value: In<[u32; 16]>) {
        let attribute = LaunchAttribute { id, pad: 0, words: value.get()? };
        graph_of(node)?.with(node, |n| match &mut n.task {
            Task::Kernel(kernel) => {
                let mut request = kernel.request.clone();
                set_attribute(&mut request, &attribute)?;
                request.check(&kernel.function)?;
                kernel.request = request;
                kernel.point();
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE),
        })?
    }
    fn cuGraphAddMemcpyNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: In<Memcpy3d>, context: u64
    ) {
        by_handle(context)?;
        Place(graph, after, count).add(node, memcpy(params)?)
    }
    fn cuGraphMemcpyNodeGetParams(node: u64, params: Out<Memcpy3d>) {
        params.set(look(node, |task| match task {
            Task::Copy(rect) => Ok(raw_3d(rect)),
            _ => Err(Status::INVALID_VALUE),
        })?)
    }
    fn cuGraphMemcpyNodeSetParams(node: u64, params: In<Memcpy3d>) {
        replace(node, memcpy(params)?)
    }
    fn cuGraphAddMemsetNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: In<MemsetParams>,
        context: u64
    ) {
        by_handle(context)?;
        Place(graph, after, count).add(node, memset(&params.get()?)?)
    }
    fn cuGraphMemsetNodeGetParams(node: u64, params: Out<MemsetParams>) {
        params.set(look(node, memset_params)?)
    }
    fn cuGraphMemsetNodeSetParams(node: u64, params: In<MemsetParams>) {
        replace(node, memset(&params.get()?)?)
    }
    fn cuGraphAddHostNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: In<HostParams>
    ) {
        Place(graph, after, count).add(node, host(params)?)
    }
    fn cuGraphHostNodeGetParams(node: u64, params: Out<HostParams>) {
        params.set(look(node, host_params)?)
    }
    fn cuGraphHostNodeSetParams(node: u64, params: In<HostParams>) {
        replace(node, host(params)?)
    }
    fn cuGraphAddChildGraphNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, inner: u64
    ) {
        Place(graph, after, count).add(node, child(inner)?)
    }
    fn cuGraphChildGraphNodeGetGraph(node: u64, graph: Out<u64>) {
        graph.set(look(node, |task| match task {
            Task::Child(child) => Ok(child.handle),
            _ => Err(Status::INVALID_VALUE),
        })?)
    }
    fn cuGraphAddEmptyNode(node: Out<u64>, graph: u64, after: In<u64>, count: u64) {
        Place(graph, after, count).add(node, Task::Empty)
    }
    fn cuGraphAddEventRecordNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, event: u64
    ) {
        Place(graph, after, count).add(node, Task::Record(Event::get(event)?))
    }
    fn cuGraphEventRecordNodeGetEvent(node: u64, event: Out<u64>) {
        event.set(event_of(node, |task| match task {
            Task::Record(event) => Some(event.handle),
            _ => None,
        })?)
    }
    fn cuGraphEventRecordNodeSetEvent(node: u64, event: u64) {
        replace(node, Task::Record(Event::get(event)?))
    }
    fn cuGraphAddEventWaitNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, event: u64
    ) {
        Place(graph, after, count).add(node, Task::Wait(Event::get(event)?))
    }
    fn cuGraphEventWaitNodeGetEvent(node: u64, event: Out<u64>) {
        event.set(event_of(node, |task| match task {
            Task::Wait(event) => Some(event.handle),
            _ => None,
        })?)
    }
    fn cuGraphEventWaitNodeSetEvent(node: u64, event: u64) {
        replace(node, Task::Wait(Event::get(event)?))
    }
    fn cuGraphAddBatchMemOpNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: In<BatchParams>
    ) {
        Place(graph, after, count).add(node, batch(&params.get()?)?)
    }
    fn cuGraphBatchMemOpNodeGetParams(node: u64, params: Out<BatchParams>) {
        params.set(look(node, batch_params)?)
    }
    fn cuGraphBatchMemOpNodeSetParams(node: u64, params: In<BatchParams>) {
        replace(node, batch(&params.get()?)?)
    }
    fn cuGraphAddMemAllocNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: Out<AllocParams>
    ) {
        let wanted = In::<AllocParams>::at(params.address());
        let (task, pointer) = alloc(wanted)?;
        Place(graph, after, count).add(node, task)?;
        params.set(AllocParams { pointer, ..wanted.get()? })
    }
    fn cuGraphMemAllocNodeGetParams(node: u64, params: Out<AllocParams>) {
        let memory = look(node, |task| match task {
            Task::Alloc(memory) => Ok(Arc::clone(memory)),
            _ => Err(Status::INVALID_VALUE),
        })?;
        params.set(AllocParams {
            pool: super::pool::device_props(memory.device)?,
            access: 0,
            access_count: 0,
            bytes: memory.region.bytes,
            pointer: memory.region.base,
        })
    }
    fn cuGraphAddMemFreeNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, pointer: u64
    ) {
        Place(graph, after, count).add(node, free(pointer)?)
    }
    fn cuGraphMemFreeNodeGetParams(node: u64, pointer: Out<u64>) {
        pointer.set(look(node, |task| match task {
            Task::Free(base) => Ok(*base),
            _ => Err(Status::INVALID_VALUE),
        })?)
    }
    fn cuGraphAddNode(
        node: Out<u64>, graph: u64, after: In<u64>, count: u64, params: Out<u8>
    ) {
        Place(graph, after, count).add(node, generic(params)?)
    }
    fn cuGraphAddNode_v2(
        node: Out<u64>, graph: u64, after: In<u64>, edges: In<Edge>, count: u64, params: Out<u8>
    ) {
        Place(graph, after, count).add_with(edges, node, generic(params)?)
    }
    fn cuGraphNodeSetParams(node: u64, params: Out<u8>) {
        replace(node, generic(params)?)
    }
}

/// Size check: the copy inside `CUDA_MEMCPY_NODE_PARAMS` begins where [`generic`] says.
const _: () = assert!(std::mem::offset_of!(MemcpyParams, copy) == 16);
