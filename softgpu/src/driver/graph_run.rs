//! Running a graph: the stream's thread starts what is ready and waits for what is under way.
//! Kernels and whatever may block overlap; short work is done in place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use super::graph::Nodes;
use super::launch;
use super::memory;
use super::status::{Result, Status};
use super::stream::{Health, Marker, Reach};
use super::task::{Task, perform_words};

/// What a graph does, flattened: child graphs become their nodes between two empty ones.
#[derive(Debug, Default)]
pub struct Plan {
    steps: Vec<(Task, Vec<usize>)>,
}

/// A plan whose tasks are ready to run once.
#[derive(Debug)]
pub struct Ready {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    task: Option<Act>,
    /// Steps that wait for this one.
    next: Vec<usize>,
    /// Steps that this one waits for.
    missing: usize,
}

/// A task with what is bound at the launch of the graph.
#[derive(Debug)]
enum Act {
    Task(Task),
    Launch(crate::exec::Launch),
    Wait(Option<Arc<Marker>>),
    Reach(Reach),
}

impl Plan {
    /// The plan of a graph.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if nodes wait for each other.
    pub fn new(nodes: &Nodes) -> Result<Self> {
        let mut plan = Self::default();
        plan.append(nodes, None)?;
        Ok(plan)
    }

    fn push(&mut self, task: Task, after: Vec<usize>) -> usize {
        self.steps.push((task, after));
        self.steps.len() - 1
    }

    /// Appends nodes behind a step; the steps that nothing waits for.
    fn append(&mut self, nodes: &Nodes, start: Option<usize>) -> Result<Vec<usize>> {
        let mut placed = BTreeMap::new();
        let mut inner = vec![];
        for handle in sorted(nodes)? {
            let Some(node) = nodes.get(&handle) else {
                continue;
            };
            let mut after: Vec<usize> = node
                .after
                .keys()
                .filter_map(|from| placed.get(from).copied())
                .collect();
            inner.extend_from_slice(&after);
            if after.is_empty() {
                after.extend(start);
            }
            let place = match &node.task {
                _ if !node.is_enabled => self.push(Task::Empty, after),
                Task::Child(child) => {
                    let enter = self.push(Task::Empty, after);
                    let ends = child.view(|inner| self.append(inner, Some(enter)))?;
                    let ends = if ends.is_empty() { vec![enter] } else { ends };
                    self.push(Task::Empty, ends)
                }
                task => self.push(task.clone(), after),
            };
            placed.insert(handle, place);
        }
        let ends = placed.into_values().filter(|p| !inner.contains(p));
        Ok(ends.collect())
    }

    /// Binds the plan to one launch: events are recorded as of now.
    ///
    /// # Errors
    ///
    /// `CONTEXT_IS_DESTROYED` if a kernel's context is gone.
    pub fn prepare(self) -> Result<Ready> {
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, (task, after)) in self.steps.into_iter().enumerate() {
            let act = match task {
                Task::Kernel(kernel) => Act::Launch(kernel.request.launch(&kernel.function)?),
                Task::Record(event) => {
                    let (marker, reach) = Marker::detached();
                    event.name(marker);
                    Act::Reach(reach)
                }
                Task::Wait(event) => Act::Wait(event.marker()),
                task => Act::Task(task),
            };
            let missing = after.len();
            for from in after {
                let from: Option<&mut Step> = steps.get_mut(from);
                from.ok_or(Status::UNKNOWN)?.next.push(index);
            }
            steps.push(Step {
                task: Some(act),
                next: Vec::new(),
                missing,
            });
        }
        Ok(Ready { steps })
    }
}

/// Handles so that every node comes after those that it waits for.
fn sorted(nodes: &Nodes) -> Result<Vec<u64>> {
    let mut missing: BTreeMap<u64, usize> =
        nodes.iter().map(|(&h, n)| (h, n.after.len())).collect();
    let mut followers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (&to, node) in nodes {
        for &from in node.after.keys() {
            followers.entry(from).or_default().push(to);
        }
    }
    let free = missing.iter().filter(|(_, n)| **n == 0);
    let mut open: VecDeque<u64> = free.map(|(&h, _)| h).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(node) = open.pop_front() {
        order.push(node);
        for follower in followers.get(&node).into_iter().flatten() {
            if let Some(count) = missing.get_mut(follower) {
                *count -= 1;
                if *count == 0 {
                    open.push_back(*follower);
                }
            }
        }
    }
    if order.len() == nodes.len() {
        Ok(order)
    } else {
        Err(Status::INVALID_VALUE)
    }
}

/// Steps under way and those that can start.
struct Run<'a> {
    health: &'a Arc<Health>,
    open: VecDeque<usize>,
    under_way: usize,
    sender: Sender<usize>,
}

impl Run<'_> {
    /// Starts an act; whether it is done already.
    fn start(&mut self, index: usize, act: Act) -> bool {
        if self.health.is_over() {
            return true;
        }
        match act {
            Act::Launch(kernel) => {
                let sender = self.sender.clone();
                self.under_way += 1;
                let finished = Box::new(move || {
                    let _ = sender.send(index);
                });
                launch::start(kernel, self.health, finished);
                false
            }
            Act::Wait(marker) => {
                let health = Arc::clone(self.health);
                self.blocking(index, move || {
                    if let Some(marker) = &marker {
                        marker.wait_while_healthy(&health);
                    }
                })
            }
            Act::Task(Task::Host(host)) => self.blocking(index, move || (host.call)()),
            Act::Task(Task::Words(ops)) if ops.iter().any(|op| op.may_wait()) => {
                let health = Arc::clone(self.health);
                self.blocking(index, move || perform_words(&ops, &health))
            }
            Act::Task(task) => {
                perform(task, self.health);
                true
            }
            Act::Reach(reach) => {
                drop(reach);
                true
            }
        }
    }

    /// Does what may block: in place if nothing else could go on meanwhile.
    fn blocking(&mut self, index: usize, work: impl FnOnce() + Send + 'static) -> bool {
        if self.open.is_empty() && self.under_way == 0 {
            work();
            return true;
        }
        let sender = self.sender.clone();
        let name = "softgpu-graph".to_owned();
        let work = Arc::new(parking_lot::Mutex::new(Some(work)));
        let theirs = Arc::clone(&work);
        let act = move || {
            if let Some(work) = theirs.lock().take() {
                work();
            }
            let _ = sender.send(index);
        };
        if std::thread::Builder::new().name(name).spawn(act).is_ok() {
            self.under_way += 1;
            return false;
        }
        if let Some(work) = work.lock().take() {
            work();
        }
        true
    }
}

fn perform(task: Task, health: &Arc<Health>) {
    match task {
        Task::Copy(rect) => rect.perform(),
        Task::Fill(fill) => fill.perform(),
        Task::Alloc(memory) => memory.begin(),
        Task::Free(base) => memory::give_back(base),
        Task::Words(ops) => perform_words(&ops, health),
        // The others are empty or have acts of their own.
        _ => {}
    }
}

impl Ready {
    /// Runs everything to its end.
    pub fn run(mut self, health: &Arc<Health>) {
        let (sender, receiver) = channel();
        let free = self.steps.iter().enumerate();
        let free = free.filter(|(_, step)| step.missing == 0).map(|(i, _)| i);
        let mut run = Run {
            health,
            open: free.collect(),
            under_way: 0,
            sender,
        };
        loop {
            while let Some(index) = run.open.pop_front() {
                let act = self.steps.get_mut(index).and_then(|s| s.task.take());
                if act.is_none_or(|act| run.start(index, act)) {
                    self.finish(index, &mut run.open);
                }
            }
            if run.under_way == 0 {
                return;
            }
            let Ok(index) = receiver.recv() else {
                return;
            };
            run.under_way -= 1;
            self.finish(index, &mut run.open);
        }
    }

    fn finish(&mut self, index: usize, open: &mut VecDeque<usize>) {
        let next = self
            .steps
            .get_mut(index)
            .map(|s| std::mem::take(&mut s.next));
        for follower in next.into_iter().flatten() {
            if let Some(step) = self.steps.get_mut(follower) {
                step.missing -= 1;
                if step.missing == 0 {
                    open.push_back(follower);
                }
            }
        }
    }
}
