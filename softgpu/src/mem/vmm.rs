//! Virtual memory management: address reservations, physical allocations, mappings, access.
//!
//! A physical allocation is a memory file of its own, named after its location, so that it can be
//! exported as a descriptor and recognised where it is imported. Handles and mappings both hold a
//! reference; its bytes are free again when the last one goes.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use super::{
    AddressSpace, GRANULARITY, MAX_DEVICES, Mapping, MemError, PAGE, Process, Region, RegionKind,
    State, Usage, sys,
};

/// How memory is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loads.
    Read,
    /// Stores and atomics.
    Write,
}

/// Where physical memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// Memory of a device.
    Device(u32),
    /// Memory of the host.
    Host,
}

/// A physical allocation.
#[derive(Debug)]
pub struct Physical {
    file: sys::MemFile,
    bytes: u64,
    location: Location,
    usage: Option<Arc<Usage>>,
}

impl Physical {
    /// Size in bytes, a multiple of [`GRANULARITY`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> Location {
        self.location
    }

    /// The descriptor for other processes to open, valid as long as this object.
    #[must_use]
    pub fn lend(&self) -> RawFd {
        self.file.lend()
    }

    /// Device and inode number of the memory file, which no later file has while this one lives.
    ///
    /// # Errors
    ///
    /// [`MemError::Os`].
    pub fn identity(&self) -> Result<(u64, u64), MemError> {
        Ok(self.file.identity()?.0)
    }

    /// A descriptor for another process (or this one) to import; the caller owns it.
    ///
    /// # Errors
    ///
    /// [`MemError::Os`] when the process has no descriptor left.
    pub fn export(&self) -> Result<OwnedFd, MemError> {
        self.file.export()
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        if let (Some(usage), Location::Device(device)) = (&self.usage, self.location) {
            usage.settle(device, self.bytes);
        }
    }
}

/// Permissions of `cuMemSetAccess`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// No access.
    None,
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

fn invalid(operation: &'static str, value: u64, expected: &'static str) -> MemError {
    MemError::Invalid {
        operation,
        value,
        expected,
    }
}

fn check_granular(operation: &'static str, value: u64) -> Result<(), MemError> {
    if value.is_multiple_of(GRANULARITY) {
        return Ok(());
    }
    Err(invalid(
        operation,
        value,
        "a multiple of the granularity (2 MiB)",
    ))
}

impl AddressSpace {
    /// Reserves `bytes` of addresses at a multiple of `align` (0 or a power of two), at `wanted`
    /// if that is free and not 0.
    ///
    /// # Errors
    ///
    /// Size not granular, alignment not a power of two, or no room.
    pub fn reserve(&self, bytes: u64, align: u64, wanted: u64) -> Result<u64, MemError> {
        let operation = "reserve addresses";
        check_granular(operation, bytes)?;
        if bytes == 0 {
            return Err(invalid(operation, 0, "at least one byte"));
        }
        if align != 0 && !align.is_power_of_two() {
            return Err(invalid(operation, align, "a power of two"));
        }
        let align = align.max(GRANULARITY);
        let mut state = self.state.lock();
        let hint = wanted != 0 && wanted.is_multiple_of(align);
        let base = if hint && state.free_virtual.take_at(wanted, bytes) {
            wanted
        } else {
            let taken = state.free_virtual.take(bytes, align);
            taken.ok_or(MemError::OutOfMemory { operation, bytes })?
        };
        state.reservations.insert(base, bytes);
        Ok(base)
    }

    /// Ends [`Self::reserve`].
    ///
    /// # Errors
    ///
    /// Not a whole reservation, or something is still mapped in it.
    pub fn release_reservation(&self, base: u64, bytes: u64) -> Result<(), MemError> {
        let operation = "free reserved addresses";
        let mut state = self.state.lock();
        if state.reservations.get(&base) != Some(&bytes) {
            return Err(invalid(operation, base, "a whole reservation"));
        }
        if state.mappings.range(base..base + bytes).next().is_some() {
            return Err(invalid(operation, base, "a reservation without mappings"));
        }
        state.reservations.remove(&base);
        state.free_virtual.give(base, bytes);
        Ok(())
    }

    /// Creates a physical allocation.
    ///
    /// # Errors
    ///
    /// Size zero or not granular, unknown device, or no room.
    pub fn create_physical(
        &self,
        location: Location,
        bytes: u64,
    ) -> Result<Arc<Physical>, MemError> {
        let operation = "create physical memory";
        check_granular(operation, bytes)?;
        if bytes == 0 {
            return Err(invalid(operation, 0, "at least one byte"));
        }
        let name = match location {
            Location::Device(device) if device >= MAX_DEVICES => {
                return Err(invalid(operation, u64::from(device), "a device below 16"));
            }
            Location::Device(device) => format!("softgpu:device:{device}"),
            Location::Host => "softgpu:host".to_owned(),
        };
        if let Location::Device(device) = location
            && !self.usage.charge(device, bytes, self.device_bytes)
        {
            return Err(MemError::OutOfMemory { operation, bytes });
        }
        let file = sys::MemFile::create(&name, bytes).inspect_err(|_| {
            if let Location::Device(device) = location {
                self.usage.settle(device, bytes);
            }
        })?;
        let physical = Arc::new(Physical {
            file,
            bytes,
            location,
            usage: Some(Arc::clone(&self.usage)),
        });
        let (identity, _) = physical.file.identity()?;
        let known = Arc::downgrade(&physical);
        let mut state = self.state.lock();
        state.physicals.retain(|_, weak| weak.strong_count() > 0);
        state.physicals.insert(identity, known);
        Ok(physical)
    }

    /// Imports a descriptor made by [`Physical::export`], here or in another process. The
    /// descriptor stays the caller's.
    ///
    /// # Errors
    ///
    /// Not a descriptor, or not of a physical allocation.
    pub fn import_physical(&self, fd: RawFd) -> Result<Arc<Physical>, MemError> {
        let value = u64::try_from(fd).unwrap_or(u64::MAX);
        self.adopt_physical(sys::MemFile::duplicate(fd)?, value)
    }

    /// Opens the allocation that a process has lent ([`Physical::lend`]) as a descriptor.
    ///
    /// # Errors
    ///
    /// The process or the allocation is gone, or the descriptor is of something else.
    pub fn open_physical(&self, process: Process, fd: RawFd) -> Result<Arc<Physical>, MemError> {
        let value = u64::from(process.id);
        if !process.is_alive() {
            let expected = "a process that runs";
            return Err(invalid("import physical memory", value, expected));
        }
        let path = format!("/proc/{}/fd/{fd}", process.id);
        self.adopt_physical(sys::MemFile::open(&path)?, value)
    }

    fn adopt_physical(&self, file: sys::MemFile, value: u64) -> Result<Arc<Physical>, MemError> {
        let operation = "import physical memory";
        let (identity, bytes) = file.identity()?;
        let mut state = self.state.lock();
        if let Some(known) = state
            .physicals
            .get(&identity)
            .and_then(std::sync::Weak::upgrade)
        {
            return Ok(known);
        }
        let foreign = || invalid(operation, value, "a descriptor of physical memory");
        let name = file.name().ok_or_else(foreign)?;
        let location = match name.strip_prefix("softgpu:").ok_or_else(foreign)? {
            "host" => Location::Host,
            device => device
                .strip_prefix("device:")
                .and_then(|d| d.parse().ok())
                .filter(|&d: &u32| d < MAX_DEVICES)
                .map(Location::Device)
                .ok_or_else(foreign)?,
        };
        let physical = Arc::new(Physical {
            file,
            bytes,
            location,
            usage: None,
        });
        state.physicals.insert(identity, Arc::downgrade(&physical));
        Ok(physical)
    }

    /// Maps `bytes` of a physical allocation from `offset` at `base`, without access for anyone.
    ///
    /// # Errors
    ///
    /// Not granular, beyond the allocation, outside a reservation, or something is mapped there.
    pub fn map(
        &self,
        base: u64,
        bytes: u64,
        physical: &Arc<Physical>,
        offset: u64,
    ) -> Result<(), MemError> {
        let operation = "map physical memory";
        for value in [base, bytes, offset] {
            check_granular(operation, value)?;
        }
        let fits = offset
            .checked_add(bytes)
            .is_some_and(|e| e <= physical.bytes);
        if bytes == 0 || !fits {
            return Err(invalid(
                operation,
                bytes,
                "a part of the physical allocation",
            ));
        }
        let mut state = self.state.lock();
        if !reserved(&state, base, bytes) {
            return Err(invalid(operation, base, "a range inside one reservation"));
        }
        if overlapping(&state, base, bytes).next().is_some() {
            return Err(invalid(operation, base, "a range without mappings"));
        }
        physical.file.map_at(base, bytes, offset)?;
        let region = Region {
            base,
            bytes,
            kind: RegionKind::Mapped(physical.location),
            id: self.new_id(),
        };
        let physical = Arc::clone(physical);
        let mapping = Mapping {
            region,
            physical,
            offset,
        };
        state.mappings.insert(base, mapping);
        Ok(())
    }

    /// Unmaps one or more whole neighbouring mappings.
    ///
    /// # Errors
    ///
    /// The range cuts a mapping or has holes.
    pub fn unmap(&self, base: u64, bytes: u64) -> Result<(), MemError> {
        let operation = "unmap physical memory";
        let mut state = self.state.lock();
        let bases = covering(&state, base, bytes)
            .ok_or_else(|| invalid(operation, base, "whole mappings without holes"))?;
        self.set_pages(base, bytes, 0);
        sys::map_scrap(base, bytes)?;
        for base in bases {
            state.mappings.remove(&base);
        }
        Ok(())
    }

    /// Sets what a device may do with a range of whole mappings.
    ///
    /// # Errors
    ///
    /// Unknown device, or the range is not mapped throughout.
    pub fn set_access(
        &self,
        base: u64,
        bytes: u64,
        device: u32,
        permission: Permission,
    ) -> Result<(), MemError> {
        let operation = "set access";
        check_granular(operation, base)?;
        check_granular(operation, bytes)?;
        if device >= MAX_DEVICES {
            return Err(invalid(operation, u64::from(device), "a device below 16"));
        }
        let state = self.state.lock();
        let mapped = overlapping(&state, base, bytes).map(|m| m.region);
        let end = base.saturating_add(bytes);
        let inside = |r: Region| (r.base + r.bytes).min(end) - r.base.max(base);
        if bytes == 0 || mapped.map(inside).sum::<u64>() != bytes {
            return Err(invalid(
                operation,
                base,
                "a range that is mapped throughout",
            ));
        }
        let (read, write) = (1u32 << device, 1u32 << (16 + device));
        let set = match permission {
            Permission::None => 0,
            Permission::Read => read,
            Permission::ReadWrite => read | write,
        };
        self.update_pages(base, bytes, (read | write, set));
        Ok(())
    }

    /// What a device may do at a mapped address.
    ///
    /// # Errors
    ///
    /// Nothing is mapped there.
    pub fn access(&self, address: u64, device: u32) -> Result<Permission, MemError> {
        if self.physical_at(address).is_none() {
            return Err(invalid("query access", address, "a mapped address"));
        }
        let page = self.pages.get((address - self.base) / PAGE);
        Ok(match (page.allows(device), page.allows(16 + device)) {
            (_, true) => Permission::ReadWrite,
            (true, _) => Permission::Read,
            _ => Permission::None,
        })
    }

    /// The physical allocation mapped at an address, and which of its bytes is there.
    #[must_use]
    pub fn physical_place(&self, address: u64) -> Option<(Arc<Physical>, u64)> {
        let state = self.state.lock();
        let (_, mapping) = state.mappings.range(..=address).next_back()?;
        let inside = mapping.region.contains(address, 1);
        let offset = mapping.offset + (address - mapping.region.base.min(address));
        inside.then(|| (Arc::clone(&mapping.physical), offset))
    }

    /// Whether a range lies in one reservation and nothing is mapped there.
    #[must_use]
    pub fn is_free_reservation(&self, base: u64, bytes: u64) -> bool {
        let state = self.state.lock();
        reserved(&state, base, bytes) && overlapping(&state, base, bytes).next().is_none()
    }

    /// The physical allocation mapped at an address: `cuMemRetainAllocationHandle`.
    #[must_use]
    pub fn physical_at(&self, address: u64) -> Option<Arc<Physical>> {
        let state = self.state.lock();
        let (_, mapping) = state.mappings.range(..=address).next_back()?;
        let inside = mapping.region.contains(address, 1);
        inside.then(|| Arc::clone(&mapping.physical))
    }
}

fn reserved(state: &State, base: u64, bytes: u64) -> bool {
    let holder = state.reservations.range(..=base).next_back();
    holder.is_some_and(|(&at, &len)| base.checked_add(bytes).is_some_and(|end| end <= at + len))
}

fn overlapping(state: &State, base: u64, bytes: u64) -> impl Iterator<Item = &Mapping> {
    let end = base.saturating_add(bytes);
    let first = state.mappings.range(..=base).next_back();
    let first = first.filter(move |(_, m)| m.region.base + m.region.bytes > base);
    let from = first.map_or(base, |(&at, _)| at);
    state.mappings.range(from..end.max(from)).map(|(_, m)| m)
}

/// The bases of the mappings that together make up exactly `[base, base + bytes)`.
fn covering(state: &State, base: u64, bytes: u64) -> Option<Vec<u64>> {
    let end = base.checked_add(bytes)?;
    let mut at = base;
    let mut bases = Vec::new();
    while at < end {
        let mapping = state.mappings.get(&at)?;
        bases.push(at);
        at += mapping.region.bytes;
    }
    (at == end && bytes > 0).then_some(bases)
}
