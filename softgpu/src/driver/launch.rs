//! Kernel launches: checks as a real driver makes them, then work on a stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::context::Context;
use super::machine::driver;
use super::module::{Function, MAX_SHARED};
use super::occupancy;
use super::report;
use super::status::{Result, Status};
use super::stream::{Health, Stream};
use super::task::{KernelTask, Task};
use super::transfer::Mode;
use crate::error::Fault;
use crate::exec::{Chain, Counters, Engine, Launch};

/// A launch as a client asks for it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Blocks per cluster, if given by attribute.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// All blocks must run at the same time.
    pub cooperative: bool,
    /// The parameter buffer.
    pub params: Vec<u8>,
    /// Launch attributes as given, by number (6 is programmatic stream serialisation).
    pub attributes: BTreeMap<u32, [u32; 16]>,
}

fn reject(function: &Function, status: Status, why: &str) -> Status {
    report::complaint(&format!("launch of {}: {why}", function.kernel.name()));
    status
}

fn product(shape: [u32; 3]) -> u64 {
    shape.iter().map(|&n| u64::from(n)).product()
}

impl Request {
    fn check_shape(&self, function: &Function) -> Result<()> {
        let invalid = |why: &str| Err(reject(function, Status::INVALID_VALUE, why));
        let ([_, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        if product(self.grid) == 0 || product(self.block) == 0 {
            return invalid("a dimension is zero");
        }
        if self.grid[0] > i32::MAX.unsigned_abs() || gy > 65_535 || gz > 65_535 {
            return invalid("the grid is too large");
        }
        if bx > 1024 || by > 1024 || bz > 64 || product(self.block) > 1024 {
            return invalid("a block has at most 1024 threads (z at most 64)");
        }
        let f = function.kernel.function();
        if f.req_threads.is_some_and(|required| required != self.block) {
            return invalid("the block is not what .reqntid demands");
        }
        if product(self.block) > u64::from(function.max_threads()) {
            return invalid("the block has more threads than .maxntid allows");
        }
        Ok(())
    }

    fn check_shared(&self, function: &Function) -> Result<()> {
        let limit = function.settings.lock().max_dynamic_shared;
        let (_, total) = function
            .kernel
            .shared_layout(self.dynamic_shared.min(MAX_SHARED));
        if self.dynamic_shared > limit || total > MAX_SHARED {
            let why = format!(
                "{} bytes of dynamic shared memory, the function's limit is {limit}",
                self.dynamic_shared
            );
            return Err(reject(function, Status::INVALID_VALUE, &why));
        }
        Ok(())
    }

    /// The cluster shape in force.
    fn check_cluster(&self, function: &Function) -> Result<[u32; 3]> {
        let required = function.required_cluster();
        let cluster = match (self.cluster, required) {
            (Some(asked), Some(required)) if asked != required => {
                let why = "the cluster is not what the function demands";
                return Err(reject(function, Status::INVALID_VALUE, why));
            }
            (asked, required) => asked.or(required).unwrap_or([1; 3]),
        };
        let size = product(cluster);
        let allowed = if function.settings.lock().non_portable_cluster {
            16
        } else {
            8
        };
        if size == 0 || size > allowed {
            let why = format!("a cluster of {size} blocks, {allowed} are allowed");
            return Err(reject(function, Status::INVALID_CLUSTER_SIZE, &why));
        }
        let divides = |(&g, &c): (&u32, &u32)| g.is_multiple_of(c);
        if !self.grid.iter().zip(&cluster).all(divides) {
            let why = "the grid is not a multiple of the cluster";
            return Err(reject(function, Status::INVALID_VALUE, why));
        }
        Ok(cluster)
    }

    fn check_cooperative(&self, function: &Function) -> Result<()> {
        if !self.cooperative {
            return Ok(());
        }
        let threads = u32::try_from(product(self.block)).map_err(|_| Status::INVALID_VALUE)?;
        let dynamic = u64::from(self.dynamic_shared);
        let room = occupancy::blocks_per_device(function, threads, dynamic)?;
        if product(self.grid) > room {
            let why = format!("{} blocks at a time, room for {room}", product(self.grid));
            let status = Status::COOPERATIVE_LAUNCH_TOO_LARGE;
            return Err(reject(function, status, &why));
        }
        Ok(())
    }

    /// Checks the launch against the rules that a real driver enforces at the call.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE`, `INVALID_CLUSTER_SIZE`, `COOPERATIVE_LAUNCH_TOO_LARGE`.
    pub fn check(&self, function: &Function) -> Result<()> {
        self.check_shape(function)?;
        self.check_shared(function)?;
        self.check_cluster(function)?;
        self.check_cooperative(function)
    }

    /// The launch that the engine executes.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], of which the cluster's rules are checked again; `CONTEXT_IS_DESTROYED`.
    pub fn launch(self, function: &Function) -> Result<Launch> {
        super::multicast::refresh();
        let cluster = self.check_cluster(function)?;
        let context = driver().contexts.get(function.context);
        let context = context.ok_or(Status::CONTEXT_IS_DESTROYED)?;
        Ok(Launch {
            device: context.device,
            kernel: Arc::clone(&function.kernel),
            grid: self.grid,
            block: self.block,
            cluster,
            dynamic_shared: self.dynamic_shared,
            params: self.params,
            cooperative: self.cooperative,
        })
    }

    /// The launch as a task, checked.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub fn task(self, function: &Arc<Function>) -> Result<KernelTask> {
        self.check(function)?;
        let mut task = KernelTask {
            function: Arc::clone(function),
            request: self,
            pointers: Arc::default(),
        };
        task.point();
        Ok(task)
    }

    /// Checks the launch and queues it.
    ///
    /// # Errors
    ///
    /// As [`Self::check`]; `INVALID_HANDLE` if stream and function belong to different contexts;
    /// the sticky fault of the context; errors of captures.
    pub fn submit(
        self,
        context: &Context,
        stream: &Arc<Stream>,
        function: &Arc<Function>,
    ) -> Result<()> {
        context.health.check()?;
        if function.context != context.handle {
            let why = "the stream belongs to another context";
            return Err(reject(function, Status::INVALID_HANDLE, why));
        }
        let task = Task::Kernel(self.task(function)?);
        task.submit(context, stream, Mode::Async)
    }
}

impl KernelTask {
    /// Makes the pointers lead to the values of this task.
    pub fn point(&mut self) {
        let start = self.request.params.as_ptr().expose_provenance() as u64;
        let params = &self.function.kernel.function().params;
        self.pointers = params.iter().map(|p| start + u64::from(p.offset)).collect();
    }
}

type Outcome = std::result::Result<Counters, Fault>;

/// What links a launch and its end, whichever comes first.
#[derive(Debug, Default)]
struct Flight {
    id: u64,
    over: bool,
}

/// Starts a launch; `finished` is called when it is over, on any thread.
pub fn start(launch: Launch, health: &Arc<Health>, finished: Box<dyn FnOnce() + Send>) {
    start_after(launch, Chain::default(), health, finished);
}

/// As [`start`], for a launch that may overlap with its neighbours; its number in the engine.
pub fn start_after(
    launch: Launch,
    chain: Chain,
    health: &Arc<Health>,
    finished: Box<dyn FnOnce() + Send>,
) -> u64 {
    let name = launch.kernel.name().to_owned();
    let flight = Arc::new(Mutex::new(Flight::default()));
    let (mine, state) = (Arc::clone(&flight), Arc::clone(health));
    let finish = Box::new(move |outcome: Outcome| {
        let id = {
            let mut flight = mine.lock();
            flight.over = true;
            flight.id
        };
        state.end(id);
        conclude(outcome, &name, &state);
        finished();
    });
    let id = Engine::global().submit_after(launch, chain, finish);
    flight.lock().id = id;
    // The end may come at any time, also from within `begin`; whoever is second cleans up.
    health.begin(id);
    if flight.lock().over {
        health.end(id);
    }
    id
}

fn conclude(outcome: Outcome, name: &str, health: &Health) {
    match outcome {
        Ok(_) if health.is_over() => {}
        Ok(counters) => report::launched(name, &counters),
        Err(fault) => {
            report::fault(&fault);
            health.fault(Status::from(&fault));
        }
    }
}
