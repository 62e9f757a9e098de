//! Multicast objects: memory of several devices behind one range of addresses.
//!
//! What is bound to an object stands in a page that all processes with the object share: for each
//! part the device, the place, and which memory file of which process holds it. Every process maps
//! the bound memory itself and keeps its windows up to date: when it maps the object, and before it
//! launches a kernel after the page has changed.

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::machine::driver;
use super::status::{Result, Status};
use super::virtual_memory::{self as vm, HANDLE_POSIX_FD};
use crate::mem::{
    AddressSpace, GRANULARITY, Location, Permission, Physical, Process, Replica, SharedPage,
};

/// Counters of the page.
const MAGIC: usize = 0;
const TEAM: usize = 1;
const SIZE: usize = 2;
const DEVICES: usize = 3;
const CHANGES: usize = 4;
/// First counter of the entries, and counters of an entry.
const ENTRIES: usize = 16;
const ENTRY: usize = 8;
const ENTRY_COUNT: usize = 62;

const IS_MULTICAST: u64 = 0x6d63_6173_7467_7075;

/// States of an entry.
const FREE: u64 = 0;
const WRITING: u64 = 1;
const BOUND: u64 = 2;

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Binding {
    device: u32,
    offset: u64,
    bytes: u64,
    process: Process,
    fd: RawFd,
    memory_offset: u64,
}

/// A part as this process sees it.
#[derive(Debug)]
struct Mapped {
    binding: Binding,
    address: u64,
    /// Keeps a binding of this process, and its descriptor, alive.
    _physical: Arc<Physical>,
}

#[derive(Debug)]
struct Window {
    base: u64,
    bytes: u64,
    offset: u64,
    allowed: u32,
}

#[derive(Debug, Default)]
struct State {
    seen: u64,
    parts: Vec<Mapped>,
    windows: Vec<Window>,
}

/// A multicast object.
#[derive(Debug)]
pub struct Multicast {
    /// Shareable handle types asked for.
    pub handle_types: u32,
    page: SharedPage,
    references: Mutex<u32>,
    state: Mutex<State>,
}

/// Objects that have windows in this process.
static WINDOWED: Mutex<Vec<Arc<Multicast>>> = Mutex::new(Vec::new());
static WINDOWED_COUNT: AtomicUsize = AtomicUsize::new(0);

fn granular(values: &[u64]) -> Result<()> {
    if values.iter().all(|v| v.is_multiple_of(GRANULARITY)) {
        return Ok(());
    }
    Err(Status::INVALID_VALUE)
}

/// Creates an object for `devices` devices and returns its handle.
///
/// # Errors
///
/// `INVALID_VALUE` for sizes that are not granular or more devices than there are,
/// `NOT_SUPPORTED` for handle types other than a file descriptor.
pub fn create(devices: u32, bytes: u64, handle_types: u64) -> Result<u64> {
    if devices == 0 || devices > crate::exec::Config::global().devices || bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    granular(&[bytes])?;
    if handle_types & !u64::from(HANDLE_POSIX_FD) != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    let page = SharedPage::create()?;
    page.counter(TEAM).store(devices.into(), Ordering::Relaxed);
    page.counter(SIZE).store(bytes, Ordering::Relaxed);
    page.counter(MAGIC).store(IS_MULTICAST, Ordering::Release);
    let handle_types = u32::try_from(handle_types).unwrap_or(0);
    Ok(register(page, handle_types))
}

fn register(page: SharedPage, handle_types: u32) -> u64 {
    let handle = driver().multicasts.reserve();
    let object = Multicast {
        handle_types,
        page,
        references: Mutex::new(1),
        state: Mutex::default(),
    };
    driver().multicasts.insert(handle, Arc::new(object));
    handle
}

/// An object by handle.
///
/// # Errors
///
/// `INVALID_VALUE`.
pub fn get(handle: u64) -> Result<Arc<Multicast>> {
    driver().multicasts.get(handle).ok_or(Status::INVALID_VALUE)
}

/// Imports a descriptor if it is one of a multicast object.
#[must_use]
pub fn import(fd: RawFd) -> Option<u64> {
    let page = SharedPage::of_descriptor(fd).ok()?;
    let is_ours = page.counter(MAGIC).load(Ordering::Acquire) == IS_MULTICAST;
    is_ours.then(|| register(page, HANDLE_POSIX_FD))
}

/// Brings the windows of this process up to date with what other processes have bound.
pub fn refresh() {
    if WINDOWED_COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    let objects = WINDOWED.lock().clone();
    for object in objects {
        object.sync();
    }
}

/// Does something to the object that has a window at an address.
fn with_window<T>(base: u64, act: impl Fn(&Arc<Multicast>) -> Option<T>) -> Option<T> {
    if WINDOWED_COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    let objects = WINDOWED.lock().clone();
    let has = |o: &&Arc<Multicast>| o.state.lock().windows.iter().any(|w| w.base == base);
    let found = objects.iter().find(has)?;
    act(found)
}

/// Ends the window at an address; `None` if there is none.
pub fn unmap(base: u64, bytes: u64) -> Option<Result<()>> {
    with_window(base, |object| Some(object.unmap(base, bytes)))
}

/// Sets what a device may do with the window at an address; `None` if there is none.
pub fn set_access(
    base: u64,
    bytes: u64,
    device: u32,
    permission: Permission,
) -> Option<Result<()>> {
    with_window(base, |object| {
        Some(object.allow((base, bytes), device, permission))
    })
}

impl Multicast {
    fn counter(&self, index: usize) -> &AtomicU64 {
        self.page.counter(index)
    }

    /// Bytes of the object.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counter(SIZE).load(Ordering::Relaxed)
    }

    fn team(&self) -> u32 {
        u32::try_from(self.counter(DEVICES).load(Ordering::Acquire)).unwrap_or(0)
    }

    fn is_complete(&self) -> bool {
        u64::from(self.team().count_ones()) == self.counter(TEAM).load(Ordering::Relaxed)
    }

    /// Adds a device to the team.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it is in the team already or the team is complete.
    pub fn add_device(&self, device: u32) -> Result<()> {
        let wanted = self.counter(TEAM).load(Ordering::Relaxed);
        let join = |team: u64| {
            let new = team | 1 << device;
            (new != team && u64::from(new.count_ones()) <= wanted).then_some(new)
        };
        let devices = self.counter(DEVICES);
        let joined = devices.fetch_update(Ordering::AcqRel, Ordering::Acquire, join);
        joined.map(drop).map_err(|_| Status::INVALID_VALUE)
    }

    /// Binds a part of physical memory to a part of the object.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for parts that are not granular, beyond an end or bound already, or if the
    /// team is not complete; `INVALID_DEVICE` for memory of a device outside of the team.
    pub fn bind(
        &self,
        offset: u64,
        (physical, memory_offset): (&Arc<Physical>, u64),
        bytes: u64,
    ) -> Result<()> {
        granular(&[offset, memory_offset, bytes])?;
        let within = |start: u64, all: u64| start.checked_add(bytes).is_some_and(|e| e <= all);
        let fits = within(offset, self.bytes()) && within(memory_offset, physical.bytes());
        if bytes == 0 || !fits || !self.is_complete() {
            return Err(Status::INVALID_VALUE);
        }
        let Location::Device(device) = physical.location() else {
            return Err(Status::INVALID_VALUE);
        };
        if self.team() >> device & 1 == 0 {
            return Err(Status::INVALID_DEVICE);
        }
        self.sync();
        let overlaps = |m: &Mapped| {
            let b = &m.binding;
            b.device == device && b.offset < offset + bytes && offset < b.offset + b.bytes
        };
        let mut state = self.state.lock();
        if state.parts.iter().any(overlaps) {
            return Err(Status::INVALID_VALUE);
        }
        let binding = Binding {
            device,
            offset,
            bytes,
            process: Process::own(),
            fd: physical.lend(),
            memory_offset,
        };
        let part = map_part(binding, Arc::clone(physical))?;
        self.publish(&binding)?;
        state.parts.push(part);
        drop(state);
        self.apply();
        Ok(())
    }

    fn publish(&self, binding: &Binding) -> Result<()> {
        let starts = (0..ENTRY_COUNT).map(|i| ENTRIES + i * ENTRY);
        let claim = |start: &usize| {
            let state = self.counter(*start);
            let claimed =
                state.compare_exchange(FREE, WRITING, Ordering::AcqRel, Ordering::Relaxed);
            claimed.is_ok()
        };
        let start = { starts }.find(claim).ok_or(Status::OUT_OF_MEMORY)?;
        let fd = u64::try_from(binding.fd).unwrap_or(0);
        let words = [
            u64::from(binding.process.id) << 32 | fd,
            binding.process.started,
            binding.device.into(),
            binding.offset,
            binding.bytes,
            binding.memory_offset,
        ];
        for (i, word) in words.into_iter().enumerate() {
            self.counter(start + 1 + i).store(word, Ordering::Relaxed);
        }
        self.counter(start).store(BOUND, Ordering::Release);
        self.counter(CHANGES).fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn entry(&self, index: usize) -> Option<Binding> {
        let start = ENTRIES + index * ENTRY;
        if self.counter(start).load(Ordering::Acquire) != BOUND {
            return None;
        }
        let word = |i: usize| self.counter(start + 1 + i).load(Ordering::Relaxed);
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).ok();
        Some(Binding {
            process: Process {
                id: low(word(0) >> 32)?,
                started: word(1),
            },
            fd: RawFd::try_from(low(word(0))?).ok()?,
            device: low(word(2))?,
            offset: word(3),
            bytes: word(4),
            memory_offset: word(5),
        })
    }

    /// Takes over what has changed in the page.
    fn sync(&self) {
        let changes = self.counter(CHANGES).load(Ordering::Acquire);
        let mut state = self.state.lock();
        if state.seen == changes {
            return;
        }
        state.seen = changes;
        let bound: Vec<Binding> = (0..ENTRY_COUNT).filter_map(|i| self.entry(i)).collect();
        state.parts.retain(|part| {
            let stays = bound.contains(&part.binding);
            if !stays {
                unmap_part(part);
            }
            stays
        });
        for binding in bound {
            if state.parts.iter().all(|part| part.binding != binding)
                && let Some(part) = foreign_part(binding)
            {
                state.parts.push(part);
            }
        }
        drop(state);
        self.apply();
    }

    /// Makes the windows agree with the parts.
    fn apply(&self) {
        let space = AddressSpace::global();
        let state = self.state.lock();
        for window in &state.windows {
            // Rebuilt as a whole: bindings change rarely, and nothing runs over them meanwhile.
            let _ = space.remove_multicast(window.base);
            if space.add_multicast(window.base, window.bytes).is_err() {
                continue;
            }
            let _ = space.allow_multicast(window.base, window.allowed);
            for part in &state.parts {
                if let Some(replica) = visible(&part.binding, part.address, window) {
                    let _ = space.bind_multicast(window.base, replica);
                }
            }
        }
    }

    /// Ends the binding of a part of a device's.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if nothing is bound there.
    pub fn unbind(&self, device: u32, offset: u64, bytes: u64) -> Result<()> {
        granular(&[offset, bytes])?;
        self.sync();
        let end = offset.saturating_add(bytes);
        let mut found = false;
        for index in 0..ENTRY_COUNT {
            let gone = self.entry(index).is_some_and(|b| {
                b.device == device && b.offset >= offset && b.offset + b.bytes <= end
            });
            if gone {
                found = true;
                let start = ENTRIES + index * ENTRY;
                self.counter(start).store(FREE, Ordering::Release);
                self.counter(CHANGES).fetch_add(1, Ordering::AcqRel);
            }
        }
        self.sync();
        if found {
            Ok(())
        } else {
            Err(Status::INVALID_VALUE)
        }
    }

    /// Maps a part of the object at reserved addresses, without access for anyone.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for parts that are not granular or beyond the end, addresses that are not
    /// reserved or taken, or if the team is not complete.
    pub fn map(self: &Arc<Self>, base: u64, bytes: u64, offset: u64) -> Result<()> {
        granular(&[base, bytes, offset])?;
        let fits = offset.checked_add(bytes).is_some_and(|e| e <= self.bytes());
        if !fits || bytes == 0 || !self.is_complete() {
            return Err(Status::INVALID_VALUE);
        }
        let space = AddressSpace::global();
        if !space.is_free_reservation(base, bytes) {
            return Err(Status::INVALID_VALUE);
        }
        space.add_multicast(base, bytes)?;
        let window = Window {
            base,
            bytes,
            offset,
            allowed: 0,
        };
        self.state.lock().windows.push(window);
        let mut objects = WINDOWED.lock();
        if objects.iter().all(|o| !Arc::ptr_eq(o, self)) {
            objects.push(Arc::clone(self));
        }
        WINDOWED_COUNT.store(objects.len(), Ordering::Release);
        drop(objects);
        self.sync();
        self.apply();
        Ok(())
    }

    fn unmap(self: &Arc<Self>, base: u64, bytes: u64) -> Result<()> {
        let mut state = self.state.lock();
        let before = state.windows.len();
        state.windows.retain(|w| w.base != base || w.bytes != bytes);
        if state.windows.len() == before {
            return Err(Status::INVALID_VALUE);
        }
        AddressSpace::global().remove_multicast(base)?;
        let is_last = state.windows.is_empty();
        drop(state);
        if is_last {
            let mut objects = WINDOWED.lock();
            objects.retain(|o| !Arc::ptr_eq(o, self));
            WINDOWED_COUNT.store(objects.len(), Ordering::Release);
        }
        Ok(())
    }

    fn allow(&self, range: (u64, u64), device: u32, permission: Permission) -> Result<()> {
        let mut state = self.state.lock();
        let mut windows = state.windows.iter_mut();
        let window = windows.find(|w| (w.base, w.bytes) == range);
        let window = window.ok_or(Status::INVALID_VALUE)?;
        if permission == Permission::None {
            window.allowed &= !(1 << device);
        } else {
            window.allowed |= 1 << device;
        }
        Ok(AddressSpace::global().allow_multicast(window.base, window.allowed)?)
    }

    /// A descriptor for another process; the caller owns it.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for an object that was not made for export.
    pub fn export(&self) -> Result<RawFd> {
        if self.handle_types & HANDLE_POSIX_FD == 0 {
            return Err(Status::INVALID_VALUE);
        }
        Ok(self.page.export()?.into_raw_fd())
    }

    /// Gives a reference to the handle back.
    pub fn release(&self, handle: u64) {
        let mut references = self.references.lock();
        *references = references.saturating_sub(1);
        if *references == 0 {
            driver().multicasts.remove(handle);
        }
    }
}

impl Drop for Multicast {
    fn drop(&mut self) {
        for part in self.state.get_mut().parts.drain(..) {
            unmap_part(&part);
        }
    }
}

/// The bytes of a part that a window shows.
fn visible(binding: &Binding, address: u64, window: &Window) -> Option<Replica> {
    let start = binding.offset.max(window.offset);
    let end = (binding.offset + binding.bytes).min(window.offset + window.bytes);
    (start < end).then(|| Replica {
        device: binding.device,
        offset: start - window.offset,
        bytes: end - start,
        address: address + (start - binding.offset),
    })
}

/// Maps bound memory where only its device may touch it.
fn map_part(binding: Binding, physical: Arc<Physical>) -> Result<Mapped> {
    let space = AddressSpace::global();
    let bytes = binding.bytes;
    let address = space.reserve(bytes, 0, 0)?;
    let mapped = space
        .map(address, bytes, &physical, binding.memory_offset)
        .and_then(|()| space.set_access(address, bytes, binding.device, Permission::ReadWrite));
    if let Err(error) = mapped {
        let _ = space.unmap(address, bytes);
        let _ = space.release_reservation(address, bytes);
        return Err(error.into());
    }
    Ok(Mapped {
        binding,
        address,
        _physical: physical,
    })
}

fn unmap_part(part: &Mapped) {
    let space = AddressSpace::global();
    let _ = space.unmap(part.address, part.binding.bytes);
    let _ = space.release_reservation(part.address, part.binding.bytes);
}

/// Memory that another process has bound; `None` if the process is gone.
fn foreign_part(binding: Binding) -> Option<Mapped> {
    if !binding.process.is_alive() {
        return None;
    }
    let path = format!("/proc/{}/fd/{}", binding.process.id, binding.fd);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .ok()?;
    let physical = AddressSpace::global()
        .import_physical(file.as_raw_fd())
        .ok()?;
    map_part(binding, physical).ok()
}

/// The memory of a mapping, as [`Multicast::bind`] takes it.
///
/// # Errors
///
/// `INVALID_VALUE` if nothing is mapped there.
pub fn memory_at(address: u64) -> Result<(Arc<Physical>, u64)> {
    let found = AddressSpace::global().physical_place(address);
    found.ok_or(Status::INVALID_VALUE)
}

/// The memory of a handle, as [`Multicast::bind`] takes it.
///
/// # Errors
///
/// `INVALID_VALUE` if there is no such handle.
pub fn memory_of(handle: u64) -> Result<Arc<Physical>> {
    Ok(Arc::clone(&vm::get(handle)?.physical))
}
