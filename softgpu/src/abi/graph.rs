//! Graphs: nodes and edges, clones, user objects, the dot print.

#![expect(
    unsafe_code,
    reason = "exported C functions; callbacks into the client"
)]

use std::ffi::{c_char, c_void};
use std::fmt::Write;

use super::pointers::{In, Out};
use super::stream::HostFn;
use crate::driver::graph::{Copying, Edge, Graph, graph_of};
use crate::driver::report;
use crate::driver::status::{Result, Status};
use crate::driver::task::Task;
use crate::driver::user_object::UserObject;

/// Nodes that something comes after, with the data of the edges; `most` is how many there can be.
/// A wrong count must not decide how much is read or allocated.
pub(super) fn dependencies(
    nodes: In<u64>,
    edges: In<Edge>,
    count: u64,
    most: usize,
) -> Result<Vec<(u64, Edge)>> {
    let count = usize::try_from(count).ok().filter(|count| *count <= most);
    let pair = |i| {
        let plain = edges.is_null();
        let edge = if plain {
            Ok(Edge::default())
        } else {
            edges.get_at(i)
        };
        Ok((nodes.get_at(i)?, edge?))
    };
    let pairs: Vec<_> = (0..count.ok_or(Status::INVALID_VALUE)?)
        .map(pair)
        .collect::<Result<_>>()?;
    if pairs.iter().all(|(_, edge)| is_valid(edge)) {
        Ok(pairs)
    } else {
        Err(Status::INVALID_VALUE)
    }
}

/// Ports of kernels (0 to 2), no port to, kind 0 or 1, nothing reserved.
fn is_valid(edge: &Edge) -> bool {
    matches!(edge, [0..=2, 0, 0..=1, 0, 0, 0, 0, 0])
}

/// Writes a list as the API's queries do: the count alone without a buffer, else as many as the
/// count that came in says, zeros behind the last.
fn give(list: &[u64], out: Out<u64>, count: Out<u64>) -> Result<()> {
    let room = In::<u64>::at(count.address()).get()?;
    if out.is_null() {
        return count.set(list.len() as u64);
    }
    let room = usize::try_from(room).map_err(|_| Status::INVALID_VALUE)?;
    let padded = list.iter().copied().chain(std::iter::repeat(0));
    out.set_all(padded.take(room))?;
    count.set(list.len().min(room) as u64)
}

/// A list of nodes with edge data; without a place for the data, it must be plain.
fn give_edges(
    list: &[(u64, Edge)],
    (nodes, edges): (Out<u64>, Out<Edge>),
    count: Out<u64>,
) -> Result<()> {
    let room = In::<u64>::at(count.address()).get()?;
    let handles: Vec<u64> = list.iter().map(|(node, _)| *node).collect();
    if nodes.is_null() {
        return count.set(list.len() as u64);
    }
    give_data(list.iter().map(|(_, edge)| *edge), edges, room)?;
    give(&handles, nodes, count)
}

fn give_data(data: impl Iterator<Item = Edge>, out: Out<Edge>, room: u64) -> Result<()> {
    let data: Vec<Edge> = data.collect();
    let room = usize::try_from(room).map_err(|_| Status::INVALID_VALUE)?;
    if !out.is_null() {
        return out.set_all(data.into_iter().take(room));
    }
    if data.iter().all(|edge| *edge == Edge::default()) {
        Ok(())
    } else {
        Err(Status::LOSSY_QUERY)
    }
}

fn before(node: u64) -> Result<Vec<(u64, Edge)>> {
    graph_of(node)?.with(node, |n| n.after.iter().map(|(&h, &e)| (h, e)).collect())
}

fn behind(node: u64) -> Result<Vec<(u64, Edge)>> {
    let edges = graph_of(node)?.edges();
    let mine = edges.into_iter().filter(|&(from, ..)| from == node);
    Ok(mine.map(|(_, to, edge)| (to, edge)).collect())
}

fn all_edges(
    graph: u64,
    (from, to): (Out<u64>, Out<u64>),
    data: Out<Edge>,
    count: Out<u64>,
) -> Result<()> {
    let edges = Graph::get(graph)?.edges();
    let room = In::<u64>::at(count.address()).get()?;
    if from.is_null() != to.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    if from.is_null() {
        return count.set(edges.len() as u64);
    }
    give_data(edges.iter().map(|e| e.2), data, room)?;
    let sources: Vec<u64> = edges.iter().map(|e| e.0).collect();
    let targets: Vec<u64> = edges.iter().map(|e| e.1).collect();
    give(&sources, from, count)?;
    count.set(room)?;
    give(&targets, to, count)
}

/// Adds (or removes) all edges or none.
fn change_edges(
    graph: u64,
    (from, to): (In<u64>, In<u64>),
    edges: In<Edge>,
    count: u64,
    change: Change,
) -> Result<()> {
    let graph = Graph::get(graph)?;
    let nodes = graph.node_count();
    let most = nodes.saturating_mul(nodes);
    let sources = dependencies(from, edges, count, most)?;
    let targets = dependencies(to, In::at(0), count, most)?;
    let mut done: Vec<(u64, u64, Edge)> = Vec::new();
    for ((from, edge), (to, _)) in sources.into_iter().zip(targets) {
        let outcome = match change {
            Change::Connect => graph.connect(from, to, edge),
            Change::Disconnect => graph.disconnect(from, to),
        };
        if let Err(error) = outcome {
            for (from, to, edge) in done {
                let _ = match change {
                    Change::Connect => graph.disconnect(from, to),
                    Change::Disconnect => graph.connect(from, to, edge),
                };
            }
            return Err(error);
        }
        done.push((from, to, edge));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Change {
    Connect,
    Disconnect,
}

fn label(task: &Task) -> String {
    match task {
        Task::Kernel(kernel) => {
            let (grid, block) = (kernel.request.grid, kernel.request.block);
            format!(
                "kernel {} {grid:?} x {block:?}",
                kernel.function.kernel.name()
            )
        }
        Task::Copy(rect) => format!("memcpy {} x {} x {}", rect.width, rect.height, rect.depth),
        Task::Fill(fill) => format!("memset {} x {}", fill.width, fill.height),
        Task::Host(_) => "host".to_owned(),
        Task::Child(child) => format!("graph {:#x}", child.handle),
        Task::Empty => "empty".to_owned(),
        Task::Record(_) => "event record".to_owned(),
        Task::Wait(_) => "event wait".to_owned(),
        Task::Alloc(memory) => format!("alloc {}", memory.region.bytes),
        Task::Free(base) => format!("free {base:#x}"),
        Task::Words(ops) => format!("batch of {} memory operations", ops.len()),
    }
}

fn dot(graph: &Graph) -> String {
    let mut text = String::from("digraph dot {\n");
    for node in graph.handles() {
        let what = graph.with(node, |n| label(&n.task)).unwrap_or_default();
        let _ = writeln!(text, "  \"{node:#x}\" [label=\"{what}\"];");
    }
    for (from, to, _) in graph.edges() {
        let _ = writeln!(text, "  \"{from:#x}\" -> \"{to:#x}\";");
    }
    text.push_str("}\n");
    text
}

fn create_object(
    object: Out<u64>,
    (data, destroy): (*mut c_void, HostFn),
    references: u32,
    flags: u32,
) -> Result<()> {
    const NO_DESTRUCTOR_SYNC: u32 = 1;
    if object.is_null() || flags != NO_DESTRUCTOR_SYNC {
        return Err(Status::INVALID_VALUE);
    }
    let call = super::stream::host_call(destroy.ok_or(Status::INVALID_VALUE)?, data);
    object.set(UserObject::create(
        Box::new(move || (call.call)()),
        references,
    )?)
}

entries! { call:
    fn cuGraphCreate(graph: Out<u64>, flags: u32) {
        if graph.is_null() || flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        graph.set(Graph::create().handle)
    }
    fn cuGraphDestroy(graph: u64) {
        Graph::destroy(graph)
    }
    fn cuGraphDestroyNode(node: u64) {
        graph_of(node)?.remove(node)
    }
    fn cuGraphClone(clone: Out<u64>, original: u64) {
        if clone.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        clone.set(Graph::get(original)?.copy(Copying::Clone)?.handle)
    }
    fn cuGraphNodeFindInClone(node: Out<u64>, original: u64, clone: u64) {
        node.set(Graph::get(clone)?.find_copy(original)?)
    }
    fn cuGraphNodeGetType(node: u64, kind: Out<u32>) {
        kind.set(graph_of(node)?.with(node, |n| n.task.kind())?)
    }
    fn cuGraphGetNodes(graph: u64, nodes: Out<u64>, count: Out<u64>) {
        give(&Graph::get(graph)?.handles(), nodes, count)
    }
    fn cuGraphGetRootNodes(graph: u64, nodes: Out<u64>, count: Out<u64>) {
        give(&Graph::get(graph)?.roots(), nodes, count)
    }
    fn cuGraphGetEdges(graph: u64, from: Out<u64>, to: Out<u64>, count: Out<u64>) {
        all_edges(graph, (from, to), Out::at(0), count)
    }
    fn cuGraphGetEdges_v2(
        graph: u64, from: Out<u64>, to: Out<u64>, data: Out<Edge>, count: Out<u64>
    ) {
        all_edges(graph, (from, to), data, count)
    }
    fn cuGraphNodeGetDependencies(node: u64, nodes: Out<u64>, count: Out<u64>) {
        give_edges(&before(node)?, (nodes, Out::at(0)), count)
    }
    fn cuGraphNodeGetDependencies_v2(
        node: u64, nodes: Out<u64>, edges: Out<Edge>, count: Out<u64>
    ) {
        give_edges(&before(node)?, (nodes, edges), count)
    }
    fn cuGraphNodeGetDependentNodes(node: u64, nodes: Out<u64>, count: Out<u64>) {
        give_edges(&behind(node)?, (nodes, Out::at(0)), count)
    }
    fn cuGraphNodeGetDependentNodes_v2(
        node: u64, nodes: Out<u64>, edges: Out<Edge>, count: Out<u64>
    ) {
        give_edges(&behind(node)?, (nodes, edges), count)
    }
    fn cuGraphAddDependencies(graph: u64, from: In<u64>, to: In<u64>, count: u64) {
        change_edges(graph, (from, to), In::at(0), count, Change::Connect)
    }
    fn cuGraphAddDependencies_v2(
        graph: u64, from: In<u64>, to: In<u64>, edges: In<Edge>, count: u64
    ) {
        change_edges(graph, (from, to), edges, count, Change::Connect)
    }
    fn cuGraphRemoveDependencies(graph: u64, from: In<u64>, to: In<u64>, count: u64) {
        change_edges(graph, (from, to), In::at(0), count, Change::Disconnect)
    }
    fn cuGraphRemoveDependencies_v2(
        graph: u64, from: In<u64>, to: In<u64>, edges: In<Edge>, count: u64
    ) {
        change_edges(graph, (from, to), edges, count, Change::Disconnect)
    }
    fn cuGraphDebugDotPrint(graph: u64, path: In<c_char>, _flags: u32) {
        let path = path.text()?;
        std::fs::write(&path, dot(&*Graph::get(graph)?)).map_err(|error| {
            report::complaint(&format!("{path}: {error}"));
            Status::OPERATING_SYSTEM
        })
    }
    fn cuUserObjectCreate(
        object: Out<u64>, data: *mut c_void, destroy: HostFn, references: u32, flags: u32
    ) {
        create_object(object, (data, destroy), references, flags)
    }
    fn cuUserObjectRetain(object: u64, references: u32) {
        UserObject::get(object)?.retain(references)
    }
    fn cuUserObjectRelease(object: u64, references: u32) {
        UserObject::get(object)?.release(u64::from(references))
    }
    fn cuGraphRetainUserObject(graph: u64, object: u64, references: u32, flags: u32) {
        const MOVE: u32 = 1;
        let (graph, object) = (Graph::get(graph)?, UserObject::get(object)?);
        if references == 0 || flags & !MOVE != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & MOVE == 0 {
            object.retain(references)?;
        }
        graph.hold(object, references);
        Ok(())
    }
    fn cuGraphReleaseUserObject(graph: u64, object: u64, references: u32) {
        Graph::get(graph)?.release(&*UserObject::get(object)?, references)
    }
}
