//! Memory of other processes.
//!
//! Device memory lies in memory files. Another process of the same user opens such a file through
//! `/proc` (or is sent its descriptor), and maps the part that an allocation takes somewhere in its
//! own window. The pages are the same, so stores and atomics of kernels in both processes meet as
//! on one machine. A mapping outlives the process that allocated the memory.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::{
    AddressSpace, GRANULARITY, HOST_ARENA, MAX_DEVICES, MemError, PAGE, Region, RegionKind,
    read_write, sharing::User, sys,
};

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Number.
    pub id: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self::running(std::process::id()).unwrap_or(Self {
            id: std::process::id(),
            started: 0,
        })
    }

    /// The process that has a number now.
    #[must_use]
    pub fn running(id: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name, field 2, may hold anything; what follows its closing parenthesis does not.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { id, started })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::running(self.id) == Some(self)
    }
}

/// Where an allocation is, in terms that other processes understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Device that owns the memory.
    pub device: u32,
    /// First byte of the pages in the arena's file.
    pub offset: u64,
    /// Bytes of the pages.
    pub len: u64,
    /// First byte of the allocation in the pages.
    pub lead: u64,
    /// Bytes of the allocation.
    pub bytes: u64,
}

/// The memory file of a device's arena, of this or another process.
#[derive(Debug, Clone)]
pub struct ArenaFile {
    file: Arc<sys::MemFile>,
    device: u32,
}

/// Memory of another process, mapped here.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) region: Region,
    at: u64,
    len: u64,
    identity: (u64, u64),
    offset: u64,
    references: u32,
    _user: Option<Arc<User>>,
}

fn foreign(value: u64) -> MemError {
    MemError::Invalid {
        operation: "import memory",
        value,
        expected: "memory that a process of this machine shares",
    }
}

impl ArenaFile {
    /// Opens a descriptor of another process.
    ///
    /// # Errors
    ///
    /// [`MemError::Os`] if the process is gone or may not be looked into.
    pub fn of_process(process: Process, fd: RawFd, device: u32) -> Result<Self, MemError> {
        if !process.is_alive() {
            return Err(foreign(process.id.into()));
        }
        let file = sys::MemFile::open(&format!("/proc/{}/fd/{fd}", process.id))?;
        Self::checked(file, device)
    }

    /// Takes a duplicate of a descriptor of this process.
    ///
    /// # Errors
    ///
    /// Not a descriptor of an arena.
    pub fn of_descriptor(fd: RawFd) -> Result<Self, MemError> {
        let file = sys::MemFile::duplicate(fd)?;
        let value = u64::try_from(fd).unwrap_or(u64::MAX);
        let name = file.name().ok_or_else(|| foreign(value))?;
        let device = name.strip_prefix(ARENA_NAME).and_then(|d| d.parse().ok());
        let device = device.filter(|d| *d < MAX_DEVICES);
        Self::checked(file, device.ok_or_else(|| foreign(value))?)
    }

    fn checked(file: sys::MemFile, device: u32) -> Result<Self, MemError> {
        let name = file.name().ok_or_else(|| foreign(0))?;
        if device >= MAX_DEVICES || !name.starts_with(ARENA_NAME) {
            return Err(foreign(device.into()));
        }
        let file = Arc::new(file);
        Ok(Self { file, device })
    }

    /// Device whose memory it is.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.device
    }

    /// A duplicate for another process; the caller owns it.
    ///
    /// # Errors
    ///
    /// [`MemError::Os`] when the process has no descriptor left.
    pub fn export(&self) -> Result<std::os::fd::OwnedFd, MemError> {
        self.file.export()
    }
}

/// Start of the names of arenas' memory files; the device's number follows.
pub(super) const ARENA_NAME: &str = "softgpu:arena:";

impl AddressSpace {
    /// Where a live allocation of device memory is, with its arena's file for others to open.
    ///
    /// # Errors
    ///
    /// `address` is not in device memory of this process.
    pub fn share(&self, address: u64) -> Result<(Part, RawFd), MemError> {
        let mut state = self.state.lock();
        let block = state.blocks.range(..=address).next_back();
        let block = block.map(|(_, b)| *b);
        let block = block.filter(|b| b.region.contains(address, 1));
        let (block, device) = match block.map(|b| (b, b.region.kind)) {
            Some((block, RegionKind::Device(device))) => (block, device),
            _ => return Err(foreign(address)),
        };
        let arena = self.arena(&mut state, device)?;
        let part = Part {
            device,
            offset: block.pages_at - arena.start,
            len: block.pages_len - PAGE,
            lead: block.region.base - block.pages_at,
            bytes: block.region.bytes,
        };
        Ok((part, arena.file.lend()))
    }

    /// The file of a device's arena of this process, for others.
    ///
    /// # Errors
    ///
    /// An unknown device, or the operating system refuses.
    pub fn arena_file(&self, device: u32) -> Result<ArenaFile, MemError> {
        if device >= HOST_ARENA {
            return Err(foreign(device.into()));
        }
        let fd = {
            let mut state = self.state.lock();
            self.arena(&mut state, device)?.file.lend()
        };
        ArenaFile::checked(sys::MemFile::duplicate(fd)?, device)
    }

    /// Maps a part of an arena for device `from`; mapping it again counts and gives the same
    /// address.
    ///
    /// # Errors
    ///
    /// A part that the file does not have, no room, or the operating system refuses.
    pub fn import(&self, arena: &ArenaFile, part: &Part, from: u32) -> Result<Region, MemError> {
        let (identity, size) = arena.file.identity()?;
        let fits = part.offset.checked_add(part.len).is_some_and(|e| e <= size)
            && part
                .lead
                .checked_add(part.bytes)
                .is_some_and(|e| e <= part.len)
            && part.offset.is_multiple_of(PAGE)
            && part.len.is_multiple_of(PAGE)
            && part.bytes > 0
            && from < MAX_DEVICES;
        if !fits {
            return Err(foreign(part.offset));
        }
        let permissions = read_write(1 << arena.device | 1 << from);
        let mut state = self.state.lock();
        let same = |i: &&mut Import| i.identity == identity && i.offset == part.offset;
        if let Some(known) = state.imports.values_mut().find(same) {
            if known.region.bytes != part.bytes {
                return Err(foreign(part.bytes));
            }
            known.references += 1;
            let (at, len, region) = (known.at, known.len, known.region);
            self.update_pages(at, len, (0, permissions));
            return Ok(region);
        }
        let room = part.len.next_multiple_of(GRANULARITY);
        let at = state.free_virtual.take(room, GRANULARITY);
        let at = at.ok_or(MemError::OutOfMemory {
            operation: "import memory",
            bytes: part.len,
        })?;
        if let Err(error) = arena.file.map_at(at, part.len, part.offset) {
            state.free_virtual.give(at, room);
            return Err(error);
        }
        let region = Region {
            base: at + part.lead,
            bytes: part.bytes,
            kind: RegionKind::Device(arena.device),
            id: self.new_id(),
        };
        let import = Import {
            region,
            at,
            len: part.len,
            identity,
            offset: part.offset,
            references: 1,
            _user: arena.file.user(),
        };
        state.imports.insert(region.base, import);
        let used = part.lead..part.lead.saturating_add(part.bytes);
        self.set_used(at, part.len, (permissions, used));
        Ok(region)
    }

    /// Ends one [`Self::import`]; the last one unmaps.
    ///
    /// # Errors
    ///
    /// `base` is not the first byte of an import.
    pub fn close_import(&self, base: u64) -> Result<(), MemError> {
        let mut state = self.state.lock();
        let import = state.imports.get_mut(&base).ok_or_else(|| foreign(base))?;
        import.references -= 1;
        if import.references > 0 {
            return Ok(());
        }
        let (at, len) = (import.at, import.len);
        state.imports.remove(&base);
        self.set_pages(at, len, 0);
        sys::map_scrap(at, len)?;
        state
            .free_virtual
            .give(at, len.next_multiple_of(GRANULARITY));
        Ok(())
    }

    /// Whether an address is in memory of another process.
    #[must_use]
    pub fn is_import(&self, address: u64) -> bool {
        let state = self.state.lock();
        let import = state.imports.range(..=address).next_back();
        import.is_some_and(|(_, i)| i.region.contains(address, 1))
    }
}

/// A page of counters that several processes see.
#[derive(Debug)]
pub struct SharedPage {
    file: sys::MemFile,
    page: sys::Page,
}

/// Name of the memory files behind shared pages.
const PAGE_NAME: &str = "softgpu:page";

impl SharedPage {
    /// A page of zeros.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn create() -> Result<Self, MemError> {
        let file = sys::MemFile::create(PAGE_NAME, sys::Page::BYTES)?;
        let page = file.map_page()?;
        Ok(Self { file, page })
    }

    /// A page of another process.
    ///
    /// # Errors
    ///
    /// The process is gone, or the descriptor is of something else.
    pub fn of_process(process: Process, fd: RawFd) -> Result<Self, MemError> {
        if !process.is_alive() {
            return Err(foreign(process.id.into()));
        }
        let file = sys::MemFile::open(&format!("/proc/{}/fd/{fd}", process.id))?;
        if file.name().as_deref() != Some(PAGE_NAME) || file.identity()?.1 != sys::Page::BYTES {
            return Err(foreign(process.id.into()));
        }
        let page = file.map_page()?;
        Ok(Self { file, page })
    }

    /// A page by a descriptor of this process, which stays the caller's.
    ///
    /// # Errors
    ///
    /// The descriptor is of something else.
    pub fn of_descriptor(fd: RawFd) -> Result<Self, MemError> {
        let file = sys::MemFile::duplicate(fd)?;
        if file.name().as_deref() != Some(PAGE_NAME) || file.identity()?.1 != sys::Page::BYTES {
            return Err(foreign(u64::try_from(fd).unwrap_or(u64::MAX)));
        }
        let page = file.map_page()?;
        Ok(Self { file, page })
    }

    /// A duplicate of the descriptor for another process; the caller owns it.
    ///
    /// # Errors
    ///
    /// [`MemError::Os`] when the process has no descriptor left.
    pub fn export(&self) -> Result<std::os::fd::OwnedFd, MemError> {
        self.file.export()
    }

    /// The descriptor for other processes to open, valid as long as this object.
    #[must_use]
    pub fn lend(&self) -> RawFd {
        self.file.lend()
    }

    /// A counter by index, below 512.
    #[must_use]
    pub fn counter(&self, index: usize) -> &std::sync::atomic::AtomicU64 {
        self.page.counter(index)
    }
}

#[cfg(test)]
mod tests {
    use super::Process;

    #[test]
    fn processes_are_told_apart() {
        let own = Process::own();
        assert!(own.is_alive() && own.started > 0);
        let later = Process {
            started: own.started + 1,
            ..own
        };
        assert!(!later.is_alive());
        let nobody = Process { id: 0, started: 0 };
        assert!(!nobody.is_alive());
    }
}
