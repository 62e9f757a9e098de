//! Allocations of contexts, host memory, what pointers tell, memory pools.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::capture;
use super::context::Context;
use super::graph_memory::GraphMemory;
use super::machine::driver;
use super::module;
use super::status::{Result, Status};
use super::stream::{Op, Stream};
use super::task::Task;
use super::transfer::Mode;
use crate::mem::{Access, AddressSpace, ArenaFile, Location, Permission, Region, RegionKind};

/// Allocates device memory that dies with the context.
///
/// # Errors
///
/// `INVALID_VALUE` for zero bytes, `OUT_OF_MEMORY`.
pub fn alloc(context: &Context, bytes: u64) -> Result<u64> {
    capture::refuse_unsafe()?;
    let region = AddressSpace::global().alloc_device(context.device, bytes)?;
    context.adopt(&region);
    Ok(region.base)
}

/// Frees device or managed memory, after the work of the context is done, as real drivers do.
///
/// # Errors
///
/// `INVALID_VALUE` if it is not the start of such memory.
pub fn free(context: &Context, base: u64) -> Result<()> {
    let region = AddressSpace::global().lookup(base);
    match region.map(|r| (r.base, r.kind)) {
        Some((at, RegionKind::Device(_) | RegionKind::Managed)) if at == base => {}
        _ => return Err(Status::INVALID_VALUE),
    }
    if region.is_some_and(|region| module::holds_variable(&region)) {
        return Err(Status::INVALID_VALUE);
    }
    capture::refuse_unsafe()?;
    context.finish()?;
    if let Some(memory) = GraphMemory::at(base) {
        return memory.end();
    }
    if AddressSpace::global().is_import(base) {
        return end_import(base);
    }
    AddressSpace::global().free(base)?;
    region.iter().for_each(settle);
    Ok(())
}

/// Allocates pinned or managed host memory that dies with the context.
///
/// # Errors
///
/// `INVALID_VALUE` for zero bytes, `OUT_OF_MEMORY`.
pub fn alloc_host(context: &Context, bytes: u64, kind: RegionKind) -> Result<u64> {
    capture::refuse_unsafe()?;
    let region = AddressSpace::global().alloc_host(bytes, kind)?;
    context.adopt(&region);
    Ok(region.base)
}

/// Frees pinned host memory, after the work of the context is done.
///
/// # Errors
///
/// `INVALID_VALUE` if it is not the start of such memory.
pub fn free_host(context: &Context, base: u64) -> Result<()> {
    let region = AddressSpace::global().lookup(base);
    let whole = region.filter(|r| r.base == base && r.kind == RegionKind::Host);
    whole.ok_or(Status::INVALID_VALUE)?;
    capture::refuse_unsafe()?;
    context.finish()?;
    AddressSpace::global().free(base)?;
    Ok(())
}

/// What `cuPointerGetAttribute` can answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointerValue {
    /// A 32-bit value.
    Word(u32),
    /// A 64-bit value or pointer.
    Wide(u64),
    /// A C++ `bool`.
    Flag(bool),
}

/// The owner of memory.
fn location(kind: RegionKind) -> Location {
    match kind {
        RegionKind::Device(device) => Location::Device(device),
        RegionKind::Mapped(location) => location,
        RegionKind::Host | RegionKind::Managed | RegionKind::Registered => Location::Host,
    }
}

/// What the context's device may do at an address, as `CUmemAccess_flags`; everything without a
/// context.
fn access_flags(context: u64, address: u64) -> u32 {
    let Some(context) = driver().contexts.get(context) else {
        return 3;
    };
    let space = AddressSpace::global();
    let may = |access| {
        space
            .translate(context.device, address, 1, access)
            .is_some()
    };
    match (may(Access::Read), may(Access::Write)) {
        (_, true) => 3,
        (true, false) => 1,
        (false, false) => 0,
    }
}

/// The pool that an allocation comes from, or 0.
fn pool_of(base: u64) -> u64 {
    let pooled = POOLED.lock();
    let entry = pooled.as_ref().and_then(|p| p.get(&base));
    entry.map_or(0, |(pool, _)| *pool)
}

/// An attribute of a pointer, by its `CUpointer_attribute` number.
///
/// # Errors
///
/// `INVALID_VALUE` for memory that the driver does not know or an attribute that does not apply;
/// `NOT_SUPPORTED` for attributes that softgpu lacks.
pub fn pointer_attribute(context: u64, attribute: u32, address: u64) -> Result<PointerValue> {
    use PointerValue::{Flag, Wide, Word};
    let region = AddressSpace::global().lookup(address);
    let region = region.ok_or(Status::INVALID_VALUE)?;
    let owner = location(region.kind);
    let managed = region.kind == RegionKind::Managed;
    let ordinal = match owner {
        Location::Device(device) => device,
        Location::Host => 0,
    };
    Ok(match attribute {
        1 => Wide(context),
        2 if matches!(owner, Location::Device(_)) || managed => Word(2),
        2 => Word(1),
        3 => Wide(address),
        4 if owner == Location::Host => Wide(address),
        4 => return Err(Status::INVALID_VALUE),
        6 => Flag(false),
        7 | 20 => Wide(region.id),
        8 => Flag(managed),
        9 => Word(ordinal),
        10 => Flag(matches!(region.kind, RegionKind::Device(_))),
        11 | 19 => Wide(region.base),
        12 | 18 => Wide(region.bytes),
        13 => Flag(true),
        14 if matches!(region.kind, RegionKind::Mapped(_)) => Wide(1),
        14 => Wide(0),
        15 => Flag(matches!(owner, Location::Device(_))),
        16 => Word(access_flags(context, address)),
        17 => Wide(pool_of(region.base)),
        21 => Flag(false),
        _ => return Err(Status::NOT_SUPPORTED),
    })
}

/// A pool for stream-ordered allocation. Memory is had at the call and given back in stream
/// order; nothing is kept.
#[derive(Debug)]
pub struct Pool {
    /// Its handle.
    pub handle: u64,
    /// Device ordinal.
    pub device: u32,
    /// Handle types asked for at creation.
    pub handle_types: u32,
    /// The memory of another process that the pool stands for.
    pub imported: Option<ArenaFile>,
    used: AtomicU64,
    high: AtomicU64,
    settings: Mutex<HashMap<u32, u64>>,
    /// What devices other than the owner may do.
    access: Mutex<HashMap<u32, Permission>>,
}

/// Which pool an allocation came from: first address to pool handle, region identity and bytes.
static POOLED: Mutex<Option<HashMap<u64, (u64, Region)>>> = Mutex::new(None);

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(handle: u64, device: u32, handle_types: u32) -> Self {
        Self {
            handle,
            device,
            handle_types,
            imported: None,
            access: Mutex::default(),
            used: AtomicU64::new(0),
            high: AtomicU64::new(0),
            settings: Mutex::default(),
        }
    }

    /// Allocates from the pool; usable at once.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for zero bytes, `OUT_OF_MEMORY`, the sticky fault of the context.
    pub fn alloc(&self, context: &Context, bytes: u64) -> Result<u64> {
        context.health.check()?;
        if self.imported.is_some() {
            return Err(Status::INVALID_VALUE);
        }
        let space = AddressSpace::global();
        let region = space.alloc_device(self.device, bytes)?;
        for (&device, &permission) in &*self.access.lock() {
            space.grant(region.base, device, permission)?;
        }
        context.adopt(&region);
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.high.fetch_max(used, Ordering::Relaxed);
        let mut pooled = POOLED.lock();
        let entry = (self.handle, region);
        pooled.get_or_insert_default().insert(region.base, entry);
        Ok(region.base)
    }

    /// A pool over the memory of another process.
    #[must_use]
    pub fn import(handle: u64, arena: ArenaFile) -> Self {
        let mut pool = Self::new(handle, arena.device(), 0);
        pool.imported = Some(arena);
        pool
    }

    /// What a device may do with memory of the pool.
    #[must_use]
    pub fn access(&self, device: u32) -> Permission {
        if device == self.device {
            return Permission::ReadWrite;
        }
        let set = self.access.lock().get(&device).copied();
        set.unwrap_or(Permission::None)
    }

    /// Sets what a device may do with present and future memory of the pool.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for taking the owner's access away.
    pub fn set_access(&self, device: u32, permission: Permission) -> Result<()> {
        if device == self.device {
            let allowed = permission == Permission::ReadWrite;
            return if allowed {
                Ok(())
            } else {
                Err(Status::INVALID_VALUE)
            };
        }
        self.access.lock().insert(device, permission);
        let mut pooled = POOLED.lock();
        for (pool, region) in pooled.get_or_insert_default().values() {
            if *pool == self.handle {
                AddressSpace::global().grant(region.base, device, permission)?;
            }
        }
        Ok(())
    }

    /// The value of a pool attribute, by its `CUmemPool_attribute` number, and its width in bytes.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for an unknown attribute.
    pub fn attribute(&self, attribute: u32) -> Result<(u64, u32)> {
        let set = self.settings.lock().get(&attribute).copied();
        Ok(match attribute {
            1..=3 => (set.unwrap_or(1), 4),
            4 => (set.unwrap_or(0), 8),
            5 | 7 => (self.used.load(Ordering::Relaxed), 8),
            6 | 8 => (self.high.load(Ordering::Relaxed), 8),
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    /// Sets a pool attribute.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for one that cannot be set, or a high-water mark set to other than zero.
    pub fn set_attribute(&self, attribute: u32, value: u64) -> Result<()> {
        match attribute {
            1..=4 => {
                self.settings.lock().insert(attribute, value);
                Ok(())
            }
            6 | 8 if value == 0 => {
                let used = self.used.load(Ordering::Relaxed);
                self.high.store(used, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

/// Frees memory in stream order. Any device allocation will do.
///
/// # Errors
///
/// `INVALID_VALUE` if it is not the start of an allocation; the sticky fault of the context.
pub fn free_async(context: &Context, stream: &Stream, base: u64) -> Result<()> {
    if capture::intercept(context, stream, Mode::Async, &Task::Free(base))? {
        return Ok(());
    }
    let space = AddressSpace::global();
    let region = space.lookup(base).filter(|r| r.base == base);
    let region = region.ok_or(Status::INVALID_VALUE)?;
    if !matches!(region.kind, RegionKind::Device(_)) || module::holds_variable(&region) {
        return Err(Status::INVALID_VALUE);
    }
    let work = Box::new(move || {
        if space.lookup(base).is_some_and(|r| r.id == region.id) {
            give_back(base);
        }
    });
    context.enqueue(stream, Op::Quick(work)).map(drop)
}

/// Frees an allocation of an imported pool; memory opened by handle is closed instead.
fn end_import(base: u64) -> Result<()> {
    if super::ipc::is_opened(base) {
        return Err(Status::INVALID_VALUE);
    }
    Ok(AddressSpace::global().close_import(base)?)
}

/// Frees memory now, wherever it comes from.
pub fn give_back(base: u64) {
    if let Some(memory) = GraphMemory::at(base) {
        let _ = memory.end();
    } else if AddressSpace::global().is_import(base) {
        let _ = end_import(base);
    } else if let Ok(region) = AddressSpace::global().free(base) {
        settle(&region);
    }
}

fn settle(region: &Region) {
    let mut pooled = POOLED.lock();
    let Some(pooled) = pooled.as_mut() else {
        return;
    };
    if pooled
        .get(&region.base)
        .is_some_and(|(_, r)| r.id == region.id)
        && let Some((pool, _)) = pooled.remove(&region.base)
        && let Some(pool) = driver().pools.get(pool)
    {
        pool.used.fetch_sub(region.bytes, Ordering::Relaxed);
    }
}
