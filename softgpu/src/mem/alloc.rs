//! Allocations in arenas, host memory, registered ranges and peer access.

use super::{
    ALL_DEVICES, ALLOC_ALIGN, AddressSpace, Arena, Block, HOST_ARENA, MAX_DEVICES, MemError, PAGE,
    Permission, Ranges, Region, RegionKind, State, read_write, sys,
};

impl AddressSpace {
    /// Allocates zeroed device memory at a multiple of 512.
    ///
    /// # Errors
    ///
    /// Zero bytes, an unknown device, or no room.
    pub fn alloc_device(&self, device: u32, bytes: u64) -> Result<Region, MemError> {
        let operation = "allocate device memory";
        check_device(operation, device)?;
        let charged = check_size(operation, bytes)?;
        if !self.usage.charge(device, charged, self.device_bytes) {
            return Err(MemError::OutOfMemory { operation, bytes });
        }
        let region = self.alloc(device, bytes, RegionKind::Device(device));
        if region.is_err() {
            self.usage.settle(device, charged);
        }
        region
    }

    /// Allocates zeroed host memory that every device may access, at a multiple of 64 KiB. With
    /// `managed`, as managed memory.
    ///
    /// # Errors
    ///
    /// Zero bytes, a kind other than `Host` and `Managed`, or no room.
    pub fn alloc_host(&self, bytes: u64, kind: RegionKind) -> Result<Region, MemError> {
        let operation = "allocate host memory";
        check_size(operation, bytes)?;
        match kind {
            RegionKind::Host | RegionKind::Managed => self.alloc(HOST_ARENA, bytes, kind),
            _ => Err(MemError::Invalid {
                operation,
                value: 0,
                expected: "host or managed memory",
            }),
        }
    }

    fn alloc(&self, arena: u32, bytes: u64, kind: RegionKind) -> Result<Region, MemError> {
        let operation = "allocate guest memory";
        let full = MemError::OutOfMemory { operation, bytes };
        let pages_len = bytes
            .checked_next_multiple_of(PAGE)
            .and_then(|len| len.checked_add(PAGE))
            .ok_or_else(|| full.clone())?;
        let mut state = self.state.lock();
        let pages_at = self.arena(&mut state, arena)?.free.take(pages_len, PAGE);
        let pages_at = pages_at.ok_or(full)?;
        let usable = pages_len - PAGE;
        let (base, word) = if arena == HOST_ARENA {
            (pages_at, read_write(ALL_DEVICES))
        } else {
            let used = bytes.next_multiple_of(ALLOC_ALIGN);
            let peers = state.peers.get(arena as usize).copied().unwrap_or(0);
            (pages_at + usable - used, read_write(peers))
        };
        let region = Region {
            base,
            bytes,
            kind,
            id: self.new_id(),
        };
        let block = Block {
            region,
            pages_at,
            pages_len,
        };
        state.blocks.insert(base, block);
        let from = base - pages_at;
        self.set_used(pages_at, usable, (word, from..from + bytes));
        Ok(region)
    }

    /// The arena, created and mapped when first needed.
    pub(super) fn arena<'s>(
        &self,
        state: &'s mut State,
        index: u32,
    ) -> Result<&'s mut Arena, MemError> {
        use std::collections::hash_map::Entry;
        match state.arenas.entry(index) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let len = self.window / 64;
                let start = self.base + u64::from(index) * len;
                let file =
                    sys::MemFile::create(&format!("{}{index}", super::ipc::ARENA_NAME), len)?;
                file.map_at(start, len, 0)?;
                Ok(entry.insert(Arena {
                    file,
                    start,
                    free: Ranges::new(start, len),
                }))
            }
        }
    }

    /// Frees what [`Self::alloc_device`] or [`Self::alloc_host`] returned.
    ///
    /// # Errors
    ///
    /// `base` is not the first address of a live allocation.
    pub fn free(&self, base: u64) -> Result<Region, MemError> {
        let mut state = self.state.lock();
        let block = state.blocks.remove(&base).ok_or(MemError::Invalid {
            operation: "free guest memory",
            value: base,
            expected: "the first address of a live allocation",
        })?;
        let (at, len) = (block.pages_at, block.pages_len);
        self.set_pages(at, len, 0);
        let index = match block.region.kind {
            RegionKind::Device(device) => device,
            _ => HOST_ARENA,
        };
        let arena = self.arena(&mut state, index)?;
        let discarded = arena.file.discard(at - arena.start, len);
        arena.free.give(at, len);
        drop(state);
        if let RegionKind::Device(device) = block.region.kind {
            let charged = block.region.bytes.next_multiple_of(ALLOC_ALIGN);
            self.usage.settle(device, charged);
        }
        discarded.map(|()| block.region)
    }

    /// Sets what a device may do with one allocation of device memory.
    ///
    /// # Errors
    ///
    /// An unknown device, or `base` is not the first address of a live allocation.
    pub fn grant(&self, base: u64, device: u32, permission: Permission) -> Result<(), MemError> {
        let operation = "grant access";
        check_device(operation, device)?;
        let state = self.state.lock();
        let block = state.blocks.get(&base).ok_or(MemError::Invalid {
            operation,
            value: base,
            expected: "the first address of a live allocation",
        })?;
        let (read, write) = (1u32 << device, 1u32 << (16 + device));
        let set = match permission {
            Permission::None => 0,
            Permission::Read => read,
            Permission::ReadWrite => read | write,
        };
        self.update_pages(block.pages_at, block.pages_len - PAGE, (read | write, set));
        Ok(())
    }

    /// Makes host memory outside the window accessible to every device.
    ///
    /// # Errors
    ///
    /// Zero bytes, an address in the window, or overlap with a registered range.
    pub fn register_host(&self, base: u64, bytes: u64) -> Result<Region, MemError> {
        let operation = "register host memory";
        check_size(operation, bytes)?;
        let end = base.checked_add(bytes).filter(|_| base != 0);
        let end = end.ok_or(MemError::Invalid {
            operation,
            value: base,
            expected: "a host range",
        })?;
        if self.in_window(base) || self.in_window(end - 1) {
            return Err(MemError::Invalid {
                operation,
                value: base,
                expected: "host memory that is not managed by the driver",
            });
        }
        let mut registered = self.registered.write();
        let before = registered.range(..end).next_back();
        if before.is_some_and(|(_, r)| r.base + r.bytes > base) {
            return Err(MemError::Invalid {
                operation,
                value: base,
                expected: "memory that is not registered yet",
            });
        }
        let region = Region {
            base,
            bytes,
            kind: RegionKind::Registered,
            id: self.new_id(),
        };
        registered.insert(base, region);
        Ok(region)
    }

    /// Ends [`Self::register_host`].
    ///
    /// # Errors
    ///
    /// `base` is not the first address of a registered range.
    pub fn unregister_host(&self, base: u64) -> Result<(), MemError> {
        let removed = self.registered.write().remove(&base);
        removed.map(drop).ok_or(MemError::Invalid {
            operation: "unregister host memory",
            value: base,
            expected: "the first address of a registered range",
        })
    }

    /// Lets device `from` access present and future `cuMemAlloc` memory of device `owner`, or
    /// takes that away again.
    ///
    /// # Errors
    ///
    /// An unknown device.
    pub fn set_peer(&self, owner: u32, from: u32, peer: Peer) -> Result<(), MemError> {
        let operation = "set peer access";
        check_device(operation, from)?;
        check_device(operation, owner)?;
        let mut state = self.state.lock();
        let bit = 1u32 << from;
        let change = match peer {
            Peer::Enabled => (0, read_write(bit)),
            Peer::Disabled => (read_write(bit), 0),
        };
        if let Some(mask) = state.peers.get_mut(owner as usize) {
            *mask = (*mask & !(change.0 & ALL_DEVICES)) | (change.1 & ALL_DEVICES);
        }
        let owned = |b: &&Block| b.region.kind == RegionKind::Device(owner);
        for block in state.blocks.values().filter(owned) {
            self.update_pages(block.pages_at, block.pages_len - PAGE, change);
        }
        Ok(())
    }
}

/// Whether a device may access another's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It may.
    Enabled,
    /// It may not.
    Disabled,
}

fn check_device(operation: &'static str, device: u32) -> Result<(), MemError> {
    if device < MAX_DEVICES {
        return Ok(());
    }
    Err(MemError::Invalid {
        operation,
        value: u64::from(device),
        expected: "a device below 16",
    })
}

/// The size rounded up to the allocation unit.
fn check_size(operation: &'static str, bytes: u64) -> Result<u64, MemError> {
    if bytes == 0 {
        return Err(MemError::Invalid {
            operation,
            value: 0,
            expected: "at least one byte",
        });
    }
    bytes
        .checked_next_multiple_of(ALLOC_ALIGN)
        .ok_or(MemError::OutOfMemory { operation, bytes })
}
