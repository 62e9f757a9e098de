//! The machine: devices, primary contexts, and the registries of everything with a handle.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::context::{Context, ContextKind};
use super::event::Event;
use super::graph::{Graph, NodeRef};
use super::graph_exec::GraphExec;
use super::handles::{Kind, Registry};
use super::library::{KernelRef, Library};
use super::link::Link;
use super::memory::Pool;
use super::module::{Function, Module};
use super::multicast::Multicast;
use super::status::{Result, Status};
use super::stream::Stream;
use super::user_object::UserObject;
use super::virtual_memory::PhysicalHandle;
use crate::exec::Config;

/// A device's primary context.
#[derive(Debug)]
struct Primary {
    handle: u64,
    references: u32,
    flags: u32,
}

/// The state of the driver.
#[derive(Debug)]
pub struct Driver {
    /// Live contexts.
    pub contexts: Registry<Context>,
    /// Live streams, default streams excepted.
    pub streams: Registry<Stream>,
    /// Live events.
    pub events: Registry<Event>,
    /// Loaded modules.
    pub modules: Registry<Module>,
    /// Functions of loaded modules.
    pub functions: Registry<Function>,
    /// Loaded libraries.
    pub libraries: Registry<Library>,
    /// Kernels of loaded libraries.
    pub kernels: Registry<KernelRef>,
    /// Links in progress.
    pub links: Registry<Link>,
    /// Memory pools, default pools included.
    pub pools: Registry<Pool>,
    /// Handles of physical memory.
    pub physicals: Registry<PhysicalHandle>,
    /// Multicast objects.
    pub multicasts: Registry<Multicast>,
    /// Graphs, child graphs of nodes included.
    pub graphs: Registry<Graph>,
    /// Nodes of graphs.
    pub nodes: Registry<NodeRef>,
    /// Instantiated graphs.
    pub graph_execs: Registry<GraphExec>,
    /// Client objects that graphs may own.
    pub user_objects: Registry<UserObject>,
    /// Default and current pool of each device.
    pub device_pools: Vec<(u64, Mutex<u64>)>,
    primaries: Vec<Mutex<Primary>>,
}

/// The driver of this process.
pub fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(Driver::new)
}

impl Driver {
    fn new() -> Self {
        let contexts = Registry::new(Kind::Context);
        let pools = Registry::new(Kind::Pool);
        let primary = |_| {
            Mutex::new(Primary {
                handle: contexts.reserve(),
                references: 0,
                flags: 0,
            })
        };
        let pool = |device| {
            let handle = pools.reserve();
            pools.insert(handle, Arc::new(Pool::new(handle, device, 0)));
            (handle, Mutex::new(handle))
        };
        let devices = Config::global().devices;
        Self {
            primaries: (0..devices).map(primary).collect(),
            device_pools: (0..devices).map(pool).collect(),
            contexts,
            pools,
            streams: Registry::new(Kind::Stream),
            events: Registry::new(Kind::Event),
            modules: Registry::new(Kind::Module),
            functions: Registry::new(Kind::Function),
            libraries: Registry::new(Kind::Library),
            kernels: Registry::new(Kind::Kernel),
            links: Registry::new(Kind::Link),
            physicals: Registry::new(Kind::Physical),
            multicasts: Registry::new(Kind::Multicast),
            graphs: Registry::new(Kind::Graph),
            nodes: Registry::new(Kind::Node),
            graph_execs: Registry::new(Kind::GraphExec),
            user_objects: Registry::new(Kind::UserObject),
        }
    }

    /// Checks a device ordinal.
    ///
    /// # Errors
    ///
    /// `INVALID_DEVICE`.
    pub fn device(&self, ordinal: i32) -> Result<u32> {
        let device = u32::try_from(ordinal).ok();
        device
            .filter(|&d| d < Config::global().devices)
            .ok_or(Status::INVALID_DEVICE)
    }

    fn primary(&self, device: u32) -> Result<&Mutex<Primary>> {
        self.primaries
            .get(device as usize)
            .ok_or(Status::INVALID_DEVICE)
    }

    /// Retains the primary context of a device, creating it if need be, and returns its handle.
    ///
    /// # Errors
    ///
    /// `INVALID_DEVICE`.
    pub fn retain_primary(&self, device: u32) -> Result<u64> {
        let mut primary = self.primary(device)?.lock();
        if self.contexts.get(primary.handle).is_none() {
            let context = Context::new(primary.handle, device, primary.flags, ContextKind::Primary);
            self.contexts.insert(primary.handle, Arc::new(context));
        }
        primary.references += 1;
        Ok(primary.handle)
    }

    /// Releases the primary context; the last release destroys it.
    ///
    /// # Errors
    ///
    /// `INVALID_CONTEXT` if it is not retained.
    pub fn release_primary(&self, device: u32) -> Result<()> {
        let mut primary = self.primary(device)?.lock();
        if primary.references == 0 {
            return Err(Status::INVALID_CONTEXT);
        }
        primary.references -= 1;
        if primary.references == 0 {
            self.end_context(primary.handle);
        }
        Ok(())
    }

    /// Destroys the resources and the fault of a primary context. It stays retained.
    ///
    /// # Errors
    ///
    /// `INVALID_DEVICE`.
    pub fn reset_primary(&self, device: u32) -> Result<()> {
        let primary = self.primary(device)?.lock();
        self.end_context(primary.handle);
        if primary.references > 0 {
            let context = Context::new(primary.handle, device, primary.flags, ContextKind::Primary);
            self.contexts.insert(primary.handle, Arc::new(context));
        }
        Ok(())
    }

    /// Flags and whether the primary context is active.
    ///
    /// # Errors
    ///
    /// `INVALID_DEVICE`.
    pub fn primary_state(&self, device: u32) -> Result<(u32, bool)> {
        let primary = self.primary(device)?.lock();
        Ok((primary.flags, primary.references > 0))
    }

    /// Sets the flags of the primary context.
    ///
    /// # Errors
    ///
    /// `INVALID_DEVICE`.
    pub fn set_primary_flags(&self, device: u32, flags: u32) -> Result<()> {
        let mut primary = self.primary(device)?.lock();
        primary.flags = flags;
        if let Some(context) = self.contexts.get(primary.handle) {
            *context.flags.lock() = flags;
        }
        Ok(())
    }

    /// Creates a context and returns its handle.
    pub fn create_context(&self, device: u32, flags: u32) -> u64 {
        let handle = self.contexts.reserve();
        let context = Context::new(handle, device, flags, ContextKind::Created);
        self.contexts.insert(handle, Arc::new(context));
        handle
    }

    /// Destroys a context made by [`Self::create_context`].
    ///
    /// # Errors
    ///
    /// `INVALID_CONTEXT` if it is not one.
    pub fn destroy_context(&self, handle: u64) -> Result<()> {
        let context = self.contexts.get(handle).ok_or(Status::INVALID_CONTEXT)?;
        if context.kind == ContextKind::Primary {
            return Err(Status::INVALID_CONTEXT);
        }
        self.end_context(handle);
        Ok(())
    }

    fn end_context(&self, handle: u64) {
        if let Some(context) = self.contexts.get(handle) {
            context.destroy();
            self.contexts.remove(handle);
        }
    }
}
