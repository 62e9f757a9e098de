//! Instances of graphs.

#![expect(unsafe_code, reason = "exported C functions")]

use std::ffi::c_char;

use super::graph_nodes::{batch, child, generic, host, keep_attributes, kernel, memcpy, memset};
use super::graph_types::{
    BatchParams, HostParams, InstantiateParams, KernelParams, KernelParamsV1, MemsetParams,
    UpdateInfo,
};
use super::pointers::{In, Out};
use super::types::Memcpy3d;
use crate::driver::context::{DefaultStream, by_handle, stream};
use crate::driver::event::Event;
use crate::driver::graph::Graph;
use crate::driver::graph_exec::GraphExec;
use crate::driver::machine::driver;
use crate::driver::status::{Result, Status};
use crate::driver::task::Task;

const INVALID_STRUCTURE: u32 = 2;
const NOT_POSSIBLE: u32 = 3;

fn instantiate(exec: Out<u64>, graph: u64, flags: u64) -> Result<()> {
    if exec.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    exec.set(GraphExec::create(&*Graph::get(graph)?, flags)?.handle)
}

fn instantiate_with_params(
    exec: Out<u64>,
    graph: u64,
    params: Out<InstantiateParams>,
    default: DefaultStream,
) -> Result<()> {
    const UPLOAD: u64 = 2;
    let mut asked = In::<InstantiateParams>::at(params.address()).get()?;
    if asked.flags & UPLOAD != 0 {
        stream(asked.stream, default)?;
    }
    let made = instantiate(exec, graph, asked.flags);
    asked.node = 0;
    asked.result = match made {
        Ok(()) => 0,
        Err(Status::NOT_SUPPORTED) => NOT_POSSIBLE,
        Err(Status::INVALID_VALUE) => INVALID_STRUCTURE,
        Err(_) => 1,
    };
    params.set(asked)?;
    made
}

/// Replaces the task of a node of an instance.
fn replace(exec: u64, node: u64, task: Task) -> Result<()> {
    let exec = GraphExec::get(exec)?;
    exec.with(node, |n| {
        match (&n.task, &task) {
            (Task::Kernel(old), Task::Kernel(new))
                if old.function.context != new.function.context =>
            {
                return Err(Status::INVALID_VALUE);
            }
            (old, new) if old.kind() != new.kind() => return Err(Status::INVALID_VALUE),
            _ => {}
        }
        let task = keep_attributes(&n.task, task);
        if let Task::Kernel(kernel) = &task {
            kernel.request.check(&kernel.function)?;
        }
        n.set_task(task);
        Ok(())
    })?
}

fn update(exec: u64, graph: u64) -> Result<(UpdateInfo, Result<()>)> {
    let done = GraphExec::get(exec)?.update(&*Graph::get(graph)?);
    let (result, node, from) = done.err().map_or((0, 0, 0), |m| (m.result, m.node, m.from));
    let status = done.map_err(|_| Status::GRAPH_EXEC_UPDATE_FAILURE);
    Ok((UpdateInfo { result, node, from }, status))
}

fn launch(exec: u64, on: u64, default: DefaultStream) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    GraphExec::get(exec)?.launch(&context, &stream)
}

/// `CUgraphMem_attribute`: used, its high-water mark, reserved, its high-water mark.
fn memory_attribute(device: i32, attribute: u32) -> Result<()> {
    driver().device(device)?;
    if attribute <= 3 {
        Ok(())
    } else {
        Err(Status::INVALID_VALUE)
    }
}

entries! { call:
    fn cuGraphInstantiate(
        exec: Out<u64>, graph: u64, node: Out<u64>, _log: Out<c_char>, _size: u64
    ) {
        node.set_if(0);
        instantiate(exec, graph, 0)
    }
    fn cuGraphInstantiate_v2(
        exec: Out<u64>, graph: u64, node: Out<u64>, _log: Out<c_char>, _size: u64
    ) {
        node.set_if(0);
        instantiate(exec, graph, 0)
    }
    fn cuGraphInstantiateWithFlags(exec: Out<u64>, graph: u64, flags: u64) {
        instantiate(exec, graph, flags)
    }
    fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz, default (
        exec: Out<u64>, graph: u64, params: Out<InstantiateParams>
    ) {
        instantiate_with_params(exec, graph, params, default)
    }
    fn cuGraphExecGetFlags(exec: u64, flags: Out<u64>) {
        flags.set(GraphExec::get(exec)?.flags)
    }
    fn cuGraphExecDestroy(exec: u64) {
        GraphExec::destroy(exec)
    }
    fn cuGraphUpload | cuGraphUpload_ptsz, default (exec: u64, on: u64) {
        let (context, _) = stream(on, default)?;
        GraphExec::get(exec)?;
        context.health.check()
    }
    fn cuGraphLaunch | cuGraphLaunch_ptsz, default (exec: u64, on: u64) {
        launch(exec, on, default)
    }
    fn cuGraphExecUpdate(exec: u64, graph: u64, node: Out<u64>, result: Out<u32>) {
        let (info, status) = update(exec, graph)?;
        node.set_if(info.node);
        result.set_if(info.result);
        status
    }
    fn cuGraphExecUpdate_v2(exec: u64, graph: u64, info: Out<UpdateInfo>) {
        let (told, status) = update(exec, graph)?;
        info.set_if(told);
        status
    }
    fn cuGraphExecKernelNodeSetParams(exec: u64, node: u64, params: In<KernelParamsV1>) {
        replace(exec, node, kernel(&params.get()?.widen())?)
    }
    fn cuGraphExecKernelNodeSetParams_v2(exec: u64, node: u64, params: In<KernelParams>) {
        replace(exec, node, kernel(&params.get()?)?)
    }
    fn cuGraphExecMemcpyNodeSetParams(exec: u64, node: u64, params: In<Memcpy3d>, context: u64) {
        by_handle(context)?;
        replace(exec, node, memcpy(params)?)
    }
    fn cuGraphExecMemsetNodeSetParams(
        exec: u64, node: u64, params: In<MemsetParams>, context: u64
    ) {
        by_handle(context)?;
        replace(exec, node, memset(&params.get()?)?)
    }
    fn cuGraphExecHostNodeSetParams(exec: u64, node: u64, params: In<HostParams>) {
        replace(exec, node, host(params)?)
    }
    fn cuGraphExecChildGraphNodeSetParams(exec: u64, node: u64, graph: u64) {
        replace(exec, node, child(graph)?)
    }
    fn cuGraphExecEventRecordNodeSetEvent(exec: u64, node: u64, event: u64) {
        replace(exec, node, Task::Record(Event::get(event)?))
    }
    fn cuGraphExecEventWaitNodeSetEvent(exec: u64, node: u64, event: u64) {
        replace(exec, node, Task::Wait(Event::get(event)?))
    }
    fn cuGraphExecBatchMemOpNodeSetParams(exec: u64, node: u64, params: In<BatchParams>) {
        replace(exec, node, batch(&params.get()?)?)
    }
    fn cuGraphExecNodeSetParams(exec: u64, node: u64, params: Out<u8>) {
        replace(exec, node, generic(params)?)
    }
    fn cuGraphNodeSetEnabled(exec: u64, node: u64, enabled: u32) {
        const LAST_SWITCHABLE: u32 = 2;
        GraphExec::get(exec)?.with(node, |n| {
            if n.task.kind() > LAST_SWITCHABLE {
                return Err(Status::INVALID_VALUE);
            }
            n.is_enabled = enabled != 0;
            Ok(())
        })?
    }
    fn cuGraphNodeGetEnabled(exec: u64, node: u64, enabled: Out<u32>) {
        enabled.set(GraphExec::get(exec)?.with(node, |n| u32::from(n.is_enabled))?)
    }
    fn cuDeviceGraphMemTrim(device: i32) {
        driver().device(device).map(drop)
    }
    fn cuDeviceGetGraphMemAttribute(device: i32, attribute: u32, value: Out<u64>) {
        memory_attribute(device, attribute)?;
        value.set(crate::driver::graph_memory::usage(driver().device(device)?))
    }
    fn cuDeviceSetGraphMemAttribute(device: i32, attribute: u32, value: In<u64>) {
        memory_attribute(device, attribute)?;
        if attribute % 2 == 1 && value.get()? == 0 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
}
