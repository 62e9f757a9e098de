//! Instances of graphs: what is launched.

use std::sync::Arc;

use parking_lot::Mutex;

use super::capture;
use super::context::Context;
use super::graph::{Copying, Graph, Node, Nodes};
use super::graph_run::Plan;
use super::machine::driver;
use super::status::{Result, Status};
use super::stream::{After, Op, Stream};
use super::task::Task;
use super::transfer::Mode;

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
pub const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const KNOWN_FLAGS: u64 = 0xF;

/// An instance of a graph.
#[derive(Debug)]
pub struct GraphExec {
    /// Its handle.
    pub handle: u64,
    /// How it was made.
    pub flags: u64,
    nodes: Mutex<Nodes>,
    /// The end of the last launch: launches of one instance never overlap.
    last: Mutex<Option<After>>,
}

/// Why an update is refused: `CUgraphExecUpdateResult`, then the nodes concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// The number.
    pub result: u32,
    /// The node in the new graph, or 0.
    pub node: u64,
    /// Where the offending edge comes from, or 0.
    pub from: u64,
}

impl GraphExec {
    /// Instantiates a graph.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for unknown flags, freeing with launches from the device, or a cycle;
    /// `NOT_SUPPORTED` for launches from the device.
    pub fn create(graph: &Graph, flags: u64) -> Result<Arc<Self>> {
        const EXCLUSIVE: u64 = AUTO_FREE | DEVICE_LAUNCH;
        if flags & !KNOWN_FLAGS != 0 || flags & EXCLUSIVE == EXCLUSIVE {
            return Err(Status::INVALID_VALUE);
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let nodes = graph.copy_nodes(Copying::Instance)?;
        Plan::new(&nodes)?;
        let exec = Arc::new(Self {
            handle: driver().graph_execs.reserve(),
            flags,
            nodes: Mutex::new(nodes),
            last: Mutex::default(),
        });
        driver().graph_execs.insert(exec.handle, Arc::clone(&exec));
        Ok(exec)
    }

    /// An instance by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        let exec = driver().graph_execs.get(handle);
        exec.ok_or(Status::INVALID_VALUE)
    }

    /// Forgets an instance; launches under way still finish.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it is not there.
    pub fn destroy(handle: u64) -> Result<()> {
        let gone = driver().graph_execs.remove(handle);
        gone.map(drop).ok_or(Status::INVALID_VALUE)
    }

    /// Looks at a node, those of child graphs included, by its handle in the original graph.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if there is no such node.
    pub fn with<T>(&self, node: u64, look: impl FnOnce(&mut Node) -> T) -> Result<T> {
        let mut look = Some(look);
        let mut nodes = self.nodes.lock();
        let found = find(&mut nodes, node, &mut |n| look.take().map(|look| look(n)));
        found.flatten().ok_or(Status::INVALID_VALUE)
    }

    /// Queues one run of the graph.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if memory that the graph allocates is still in use; the sticky fault of the
    /// context; errors of captures.
    pub fn launch(&self, context: &Context, stream: &Arc<Stream>) -> Result<()> {
        context.health.check()?;
        if stream.capture.lock().is_some() {
            let child = Task::Child(Graph::from_nodes(&self.nodes.lock())?);
            return capture::intercept(context, stream, Mode::Async, &child).map(drop);
        }
        let mut last = self.last.lock();
        let nodes = self.nodes.lock();
        self.check_memory(&nodes)?;
        let plan = Plan::new(&nodes)?;
        drop(nodes);
        let health = Arc::clone(&context.health);
        let ready = plan.prepare()?;
        let work = Op::Work(Box::new(move || ready.run(&health)));
        let before = last.take().into_iter().collect();
        *last = Some(context.enqueue_after(stream, work, before)?);
        Ok(())
    }

    fn check_memory(&self, nodes: &Nodes) -> Result<()> {
        let freed = |base: u64| {
            let frees = |n: &Node| matches!(n.task, Task::Free(at) if at == base);
            nodes.values().any(frees)
        };
        for node in nodes.values() {
            if let Task::Alloc(memory) = &node.task
                && memory.is_live()
                && !freed(memory.region.base)
            {
                if self.flags & AUTO_FREE == 0 {
                    return Err(Status::INVALID_VALUE);
                }
                memory.end()?;
            }
        }
        Ok(())
    }

    /// Takes the parameters of another graph over if its structure is the same.
    ///
    /// # Errors
    ///
    /// What differs first.
    pub fn update(&self, graph: &Graph) -> std::result::Result<(), Mismatch> {
        let generic = Mismatch {
            result: 1,
            node: 0,
            from: 0,
        };
        let new = graph.copy_nodes(Copying::Instance).map_err(|_| generic)?;
        let mut nodes = self.nodes.lock();
        compare(&nodes, &new)?;
        adopt(&mut nodes, new);
        Ok(())
    }
}

/// Calls `look` for a node, wherever it is.
fn find<T>(nodes: &mut Nodes, node: u64, look: &mut dyn FnMut(&mut Node) -> T) -> Option<T> {
    if let Some(found) = nodes.get_mut(&node) {
        return Some(look(found));
    }
    nodes.values().find_map(|n| match &n.task {
        Task::Child(child) => child.view(|inner| find(inner, node, look)),
        _ => None,
    })
}

fn compare(old: &Nodes, new: &Nodes) -> std::result::Result<(), Mismatch> {
    const TOPOLOGY: u32 = 2;
    const KIND: u32 = 3;
    const PARAMETERS: u32 = 5;
    const FUNCTION: u32 = 7;
    let wrong = |result, node, from| Err(Mismatch { result, node, from });
    let place = |nodes: &Nodes| -> std::collections::BTreeMap<u64, usize> {
        nodes.keys().copied().zip(0..).collect()
    };
    let (old_places, new_places) = (place(old), place(new));
    let mut pairs = old.values().zip(new);
    for (was, (&node, is)) in &mut pairs {
        if was.task.kind() != is.task.kind() {
            return wrong(KIND, node, 0);
        }
        let before = |n: &Node, places: &std::collections::BTreeMap<u64, usize>| {
            let before = n.after.keys().filter_map(|from| places.get(from).copied());
            before.collect::<Vec<usize>>()
        };
        if before(was, &old_places) != before(is, &new_places) {
            let from = is.after.keys().next().copied().unwrap_or(0);
            return wrong(TOPOLOGY, node, from);
        }
        match (&was.task, &is.task) {
            (Task::Kernel(was), Task::Kernel(is))
                if was.function.context != is.function.context =>
            {
                return wrong(FUNCTION, node, 0);
            }
            (Task::Child(was), Task::Child(is)) => {
                was.view(|was| is.view(|is| compare(was, is)))?;
            }
            (Task::Alloc(was), Task::Alloc(is)) if was.region.bytes != is.region.bytes => {
                return wrong(PARAMETERS, node, 0);
            }
            _ => {}
        }
    }
    if old.len() != new.len() {
        let extra = new.keys().nth(old.len()).copied().unwrap_or(0);
        return wrong(TOPOLOGY, extra, 0);
    }
    Ok(())
}

fn adopt(old: &mut Nodes, new: Nodes) {
    for (was, is) in old.values_mut().zip(new.into_values()) {
        match (&was.task, &is.task) {
            (Task::Child(was), Task::Child(is)) => {
                let inner = is.view(std::mem::take);
                was.view(|was| adopt(was, inner));
            }
            // Memory keeps its address.
            (Task::Alloc(_), _) => {}
            _ => was.set_task(is.task),
        }
    }
}
