//! Graphs: work with its order, to be run as a whole.
//!
//! A graph owns copies of everything that its nodes need. Handles of nodes rise with the order of
//! creation; instances of a graph keep the handles of the nodes that they were made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::machine::driver;
use super::status::{Result, Status};
use super::task::Task;
use super::user_object::UserObject;

/// `CUgraphEdgeData`: ports and kind of a dependency; zeros for a plain one.
pub type Edge = [u8; 8];

/// A node of a graph.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it does.
    pub task: Task,
    /// What must be done before: node handles.
    pub after: BTreeMap<u64, Edge>,
    /// In a clone, the node that this one was made of.
    pub origin: Option<u64>,
    /// Nodes of an instance can be switched off.
    pub is_enabled: bool,
}

impl Node {
    fn new(task: Task) -> Self {
        let mut node = Self {
            task,
            after: BTreeMap::new(),
            origin: None,
            is_enabled: true,
        };
        node.own_params();
        node
    }

    /// Makes the parameter pointers of a kernel lead to this node's own values.
    fn own_params(&mut self) {
        if let Task::Kernel(kernel) = &mut self.task {
            kernel.point();
        }
    }

    /// Replaces what it does.
    pub fn set_task(&mut self, task: Task) {
        self.task = task;
        self.own_params();
    }
}

/// Nodes by handle.
pub type Nodes = BTreeMap<u64, Node>;

/// A graph.
#[derive(Debug)]
pub struct Graph {
    /// Its handle.
    pub handle: u64,
    nodes: Mutex<Nodes>,
    objects: Mutex<Vec<(Arc<UserObject>, u32)>>,
}

/// Where a node is.
#[derive(Debug)]
pub struct NodeRef {
    graph: Weak<Graph>,
}

/// How a graph is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// Nodes keep their handles: an instance.
    Instance,
    /// Nodes get handles of their own and remember their origins.
    Clone,
}

fn invalid<T>() -> Result<T> {
    Err(Status::INVALID_VALUE)
}

/// The graph of a node.
///
/// # Errors
///
/// `INVALID_VALUE` if there is no such node.
pub fn graph_of(node: u64) -> Result<Arc<Graph>> {
    let found = driver().nodes.get(node);
    let graph = found.and_then(|node| node.graph.upgrade());
    graph.ok_or(Status::INVALID_VALUE)
}

impl Graph {
    /// An empty graph with a handle.
    pub fn create() -> Arc<Self> {
        let graph = Self::unlisted(Nodes::new());
        driver().graphs.insert(graph.handle, Arc::clone(&graph));
        graph
    }

    /// A graph that cannot be found by its handle.
    fn unlisted(nodes: Nodes) -> Arc<Self> {
        Arc::new(Self {
            handle: driver().graphs.reserve(),
            nodes: Mutex::new(nodes),
            objects: Mutex::default(),
        })
    }

    /// A graph with copies of an instance's nodes, as a child of another graph.
    ///
    /// # Errors
    ///
    /// As [`Self::copy_nodes`].
    pub fn from_nodes(nodes: &Nodes) -> Result<Arc<Self>> {
        Self::unlisted(nodes.clone()).copy(Copying::Clone)
    }

    /// A graph by handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE`.
    pub fn get(handle: u64) -> Result<Arc<Self>> {
        driver().graphs.get(handle).ok_or(Status::INVALID_VALUE)
    }

    /// Forgets a graph. Instances of it are not affected.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it is not there.
    pub fn destroy(handle: u64) -> Result<()> {
        let gone = driver().graphs.remove(handle);
        gone.map(drop).ok_or(Status::INVALID_VALUE)
    }

    /// Adds a node behind others and returns its handle.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if one of the others is not in the graph or named twice.
    pub fn add(self: &Arc<Self>, task: Task, after: &[(u64, Edge)]) -> Result<u64> {
        let mut nodes = self.nodes.lock();
        let mut node = Node::new(task);
        for &(other, edge) in after {
            if !nodes.contains_key(&other) || node.after.insert(other, edge).is_some() {
                return invalid();
            }
        }
        let handle = driver().nodes.reserve();
        nodes.insert(handle, node);
        self.list(handle);
        Ok(handle)
    }

    fn list(self: &Arc<Self>, node: u64) {
        let graph = Arc::downgrade(self);
        driver().nodes.insert(node, Arc::new(NodeRef { graph }));
    }

    /// Removes a node and its edges.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it is not in the graph.
    pub fn remove(&self, node: u64) -> Result<()> {
        let mut nodes = self.nodes.lock();
        if nodes.remove(&node).is_none() {
            return invalid();
        }
        for other in nodes.values_mut() {
            other.after.remove(&node);
        }
        driver().nodes.remove(node);
        Ok(())
    }

    /// Looks at a node.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it is not in the graph.
    pub fn with<T>(&self, node: u64, look: impl FnOnce(&mut Node) -> T) -> Result<T> {
        let mut nodes = self.nodes.lock();
        nodes.get_mut(&node).map(look).ok_or(Status::INVALID_VALUE)
    }

    /// Handles of all nodes, in order of creation.
    #[must_use]
    pub fn handles(&self) -> Vec<u64> {
        self.nodes.lock().keys().copied().collect()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.lock().len()
    }

    /// Handles of the nodes that wait for nothing.
    #[must_use]
    pub fn roots(&self) -> Vec<u64> {
        let nodes = self.nodes.lock();
        let roots = nodes.iter().filter(|(_, node)| node.after.is_empty());
        roots.map(|(&handle, _)| handle).collect()
    }

    /// All edges: from, to, data.
    #[must_use]
    pub fn edges(&self) -> Vec<(u64, u64, Edge)> {
        let nodes = self.nodes.lock();
        let all = nodes.iter().flat_map(|(&to, node)| {
            let from = node.after.iter();
            from.map(move |(&from, &edge)| (from, to, edge))
        });
        all.collect()
    }

    /// Adds an edge.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if a node is not in the graph, the edge is there already, or leads from a
    /// node to itself.
    pub fn connect(&self, from: u64, to: u64, edge: Edge) -> Result<()> {
        let mut nodes = self.nodes.lock();
        if from == to || !nodes.contains_key(&from) {
            return invalid();
        }
        let node = nodes.get_mut(&to).ok_or(Status::INVALID_VALUE)?;
        match node.after.insert(from, edge) {
            None => Ok(()),
            Some(old) => {
                node.after.insert(from, old);
                invalid()
            }
        }
    }

    /// Removes an edge.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if there is no such edge.
    pub fn disconnect(&self, from: u64, to: u64) -> Result<()> {
        let mut nodes = self.nodes.lock();
        let node = nodes.get_mut(&to).ok_or(Status::INVALID_VALUE)?;
        node.after
            .remove(&from)
            .map(drop)
            .ok_or(Status::INVALID_VALUE)
    }

    /// The nodes that must be done before any of `ends` is, those included.
    #[must_use]
    pub fn ancestors(&self, ends: &[u64]) -> BTreeSet<u64> {
        let nodes = self.nodes.lock();
        let mut found = BTreeSet::new();
        let mut open = ends.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node)
                && let Some(node) = nodes.get(&node)
            {
                open.extend(node.after.keys());
            }
        }
        found
    }

    /// Copies the nodes, child graphs included.
    ///
    /// # Errors
    ///
    /// `NOT_SUPPORTED` for a clone of a graph that allocates or frees memory.
    pub fn copy_nodes(&self, copying: Copying) -> Result<Nodes> {
        let nodes = self.nodes.lock();
        let allocates = |n: &Node| matches!(n.task, Task::Alloc(_) | Task::Free(_));
        if copying == Copying::Clone && nodes.values().any(allocates) {
            return Err(Status::NOT_SUPPORTED);
        }
        let rename: BTreeMap<u64, u64> = match copying {
            Copying::Instance => nodes.keys().map(|&old| (old, old)).collect(),
            Copying::Clone => {
                let new = |&old| (old, driver().nodes.reserve());
                nodes.keys().map(new).collect()
            }
        };
        let mut copies = Nodes::new();
        for (old, node) in &*nodes {
            let mut copy = Node::new(match &node.task {
                Task::Child(child) => Task::Child(child.copy(copying)?),
                task => task.clone(),
            });
            let renamed = |(old, &edge)| Some((*rename.get(old)?, edge));
            copy.after = node.after.iter().filter_map(renamed).collect();
            copy.is_enabled = node.is_enabled;
            copy.origin = (copying == Copying::Clone).then_some(*old);
            copies.insert(rename.get(old).copied().unwrap_or(*old), copy);
        }
        Ok(copies)
    }

    /// A copy of the graph; clones can be found by their handles.
    ///
    /// # Errors
    ///
    /// As [`Self::copy_nodes`].
    pub fn copy(&self, copying: Copying) -> Result<Arc<Self>> {
        let graph = Self::unlisted(self.copy_nodes(copying)?);
        if copying == Copying::Clone {
            for node in graph.handles() {
                graph.list(node);
            }
            driver().graphs.insert(graph.handle, Arc::clone(&graph));
        }
        Ok(graph)
    }

    /// The copy of a node in a clone.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if there is none.
    pub fn find_copy(&self, original: u64) -> Result<u64> {
        let nodes = self.nodes.lock();
        let copy = nodes.iter().find(|(_, n)| n.origin == Some(original));
        copy.map(|(&handle, _)| handle).ok_or(Status::INVALID_VALUE)
    }

    /// Takes over or adds references to a client object; they go with the graph.
    pub fn hold(&self, object: Arc<UserObject>, references: u32) {
        self.objects.lock().push((object, references));
    }

    /// Gives references back that the graph holds.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it holds fewer.
    pub fn release(&self, object: &UserObject, references: u32) -> Result<()> {
        let mut objects = self.objects.lock();
        let held = objects
            .iter_mut()
            .find(|(o, n)| o.handle == object.handle && *n >= references);
        held.ok_or(Status::INVALID_VALUE)?.1 -= references;
        objects.retain(|(_, n)| *n > 0);
        drop(objects);
        object.release(u64::from(references))
    }

    /// Runs `look` over the nodes.
    pub fn view<T>(&self, look: impl FnOnce(&mut Nodes) -> T) -> T {
        look(&mut self.nodes.lock())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let d = driver();
        for (node, content) in self.nodes.get_mut() {
            // Instances share handles with the graph that they were made of.
            let mine = |r: &Arc<NodeRef>| r.graph.upgrade().is_none();
            if d.nodes.get(*node).is_some_and(|r| mine(&r)) {
                d.nodes.remove(*node);
            }
            if let Task::Child(child) = &content.task {
                d.graphs.remove(child.handle);
            }
        }
        for (object, references) in self.objects.get_mut().drain(..) {
            let _ = object.release(u64::from(references));
        }
    }
}
