//! Guest memory: one address space for all devices and the host.
//!
//! A window of addresses is reserved once at a fixed place. It holds one *arena* per device and
//! one for the host (each a sparse memory file, mapped whole, committed when touched) and a range
//! for virtual memory management, where physical allocations (memory files of their own) are
//! mapped. A guest address is the host address of the same byte. What a device may touch is
//! decided by the permission table alone ([`AddressSpace::translate`]): one word per 64 KiB page.
//!
//! Freed and unmapped addresses lose their permissions first and stay backed by *some* page, so a
//! device thread that translated just before reads or writes scrap and nothing crashes.
//!
//! The table also says which bytes of a page belong to an allocation, and an unmapped page follows
//! each allocation: whatever reaches beyond the bytes that were asked for faults, and so does what
//! begins before them.

mod alloc;
mod ipc;
mod multicast;
mod pages;
mod ranges;
mod sharing;
mod span;
mod sys;
#[cfg(test)]
mod tests;
mod vmm;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};

use crate::exec::Config;
pub use alloc::Peer;
pub use ipc::{ArenaFile, Part, Process, SharedPage};
pub use multicast::{Replica, Unicast};
use pages::{PAGE_BITS, Page, PageTable};
use ranges::Ranges;
pub use sharing::may_others_help;
pub use span::{Span, Width};
pub use vmm::{Access, Location, Permission, Physical};

/// Most devices that a machine can have (width of the permission fields).
pub const MAX_DEVICES: u32 = 16;
/// Bytes of memory that a device has by default: what an H100 SXM5 80 GB reports.
pub const DEVICE_BYTES: u64 = 85_029_158_912;
/// Allocation granularity of virtual memory management.
pub const GRANULARITY: u64 = 2 << 20;
/// Alignment of device allocations.
pub const ALLOC_ALIGN: u64 = 512;

const PAGE: u64 = 1 << PAGE_BITS;
const WINDOW_BASE: u64 = 0x0200_0000_0000;
const WINDOW_BYTES: u64 = 16 << 40;
const SMALLEST_WINDOW: u64 = 256 << 30;
const ALL_DEVICES: u32 = 0xFFFF;
/// Index of the host's arena.
const HOST_ARENA: u32 = MAX_DEVICES;

/// What can go wrong with guest memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemError {
    /// No room.
    #[error("{operation}: no room for {bytes} bytes")]
    OutOfMemory {
        /// What was tried.
        operation: &'static str,
        /// Size asked for.
        bytes: u64,
    },
    /// An argument is wrong.
    #[error("{operation}: {value:#x}: expected {expected}")]
    Invalid {
        /// What was tried.
        operation: &'static str,
        /// The offending value.
        value: u64,
        /// What would have been right.
        expected: &'static str,
    },
    /// The operating system refused.
    #[error("{operation}: OS error {errno}")]
    Os {
        /// What was tried.
        operation: &'static str,
        /// `errno`.
        errno: i32,
    },
}

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    /// `cuMemAlloc` on this device.
    Device(u32),
    /// `cuMemAllocHost` and the like.
    Host,
    /// `cuMemAllocManaged`.
    Managed,
    /// `cuMemHostRegister`.
    Registered,
    /// Mapped by virtual memory management.
    Mapped(Location),
}

/// An allocation, a registered range or a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Bytes, as asked for.
    pub bytes: u64,
    /// What it is.
    pub kind: RegionKind,
    /// Unique in the process.
    pub id: u64,
}

impl Region {
    /// The device whose memory it is.
    #[must_use]
    pub fn device(&self) -> Option<u32> {
        match self.kind {
            RegionKind::Device(device) | RegionKind::Mapped(Location::Device(device)) => {
                Some(device)
            }
            _ => None,
        }
    }

    /// Whether `[address, address + bytes)` lies inside.
    #[must_use]
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        address >= self.base
            && address
                .checked_add(bytes)
                .is_some_and(|end| end <= self.base + self.bytes)
    }
}

/// Bytes in use per device; shared with physical allocations, which settle when dropped.
#[derive(Debug, Default)]
struct Usage([AtomicU64; MAX_DEVICES as usize]);

impl Usage {
    fn device(&self, device: u32) -> Option<&AtomicU64> {
        self.0.get(device as usize)
    }

    /// Books `bytes` of a device if it has them.
    fn charge(&self, device: u32, bytes: u64, total: u64) -> bool {
        self.device(device).is_some_and(|used| {
            let fits = |u: u64| u.checked_add(bytes).filter(|&sum| sum <= total);
            used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
                .is_ok()
        })
    }

    fn settle(&self, device: u32, bytes: u64) {
        if let Some(used) = self.device(device) {
            used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// A block of an arena: the pages taken for it, guard page included.
#[derive(Debug, Clone, Copy)]
struct Block {
    region: Region,
    pages_at: u64,
    pages_len: u64,
}

#[derive(Debug)]
struct Arena {
    file: sys::MemFile,
    start: u64,
    free: Ranges,
}

#[derive(Debug)]
struct Mapping {
    region: Region,
    physical: Arc<Physical>,
    /// First byte of the physical memory that is mapped.
    offset: u64,
}

#[derive(Debug)]
struct State {
    arenas: HashMap<u32, Arena>,
    blocks: BTreeMap<u64, Block>,
    /// Bit `e` of entry `d`: device `e` may access the arena of device `d`.
    peers: [u32; MAX_DEVICES as usize],
    free_virtual: Ranges,
    reservations: BTreeMap<u64, u64>,
    mappings: BTreeMap<u64, Mapping>,
    /// Memory of other processes, by first address.
    imports: BTreeMap<u64, ipc::Import>,
    physicals: HashMap<(u64, u64), Weak<Physical>>,
}

/// The address space of a machine. See the module header.
#[derive(Debug)]
pub struct AddressSpace {
    base: u64,
    window: u64,
    device_bytes: u64,
    pages: PageTable,
    usage: Arc<Usage>,
    next_id: AtomicU64,
    registered: RwLock<BTreeMap<u64, Region>>,
    multicast: multicast::Windows,
    state: Mutex<State>,
}

impl AddressSpace {
    /// The address space of the process. Falls back to smaller windows where the system refuses
    /// the usual one.
    ///
    /// # Panics
    ///
    /// If not even the smallest window can be reserved at its place.
    #[must_use]
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<AddressSpace> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            let mut window = WINDOW_BYTES;
            let device_bytes = Config::global().device_bytes;
            loop {
                match Self::new(WINDOW_BASE, window, device_bytes) {
                    Ok(space) => return space,
                    Err(_) if window > SMALLEST_WINDOW => window /= 2,
                    Err(error) => panic!("no guest address space: {error}"),
                }
            }
        })
    }

    /// Reserves `window` bytes (a power of two, at least 64 pages of 64 KiB) at `base` for devices
    /// with `device_bytes` of memory each.
    ///
    /// # Errors
    ///
    /// [`MemError::Os`] or [`MemError::OutOfMemory`] when the range cannot be had.
    pub fn new(base: u64, window: u64, device_bytes: u64) -> Result<Self, MemError> {
        sys::reserve_window(base, window)?;
        let arenas = (u64::from(MAX_DEVICES) + 1) * (window / 64);
        let mut peers = [0; MAX_DEVICES as usize];
        for (device, mask) in peers.iter_mut().enumerate() {
            *mask = 1 << device;
        }
        Ok(Self {
            base,
            window,
            device_bytes,
            pages: PageTable::new(window)?,
            usage: Arc::default(),
            next_id: AtomicU64::new(1),
            registered: RwLock::default(),
            multicast: multicast::Windows::default(),
            state: Mutex::new(State {
                arenas: HashMap::new(),
                blocks: BTreeMap::new(),
                peers,
                free_virtual: Ranges::new(base + arenas, window - arenas),
                reservations: BTreeMap::new(),
                mappings: BTreeMap::new(),
                imports: BTreeMap::new(),
                physicals: HashMap::new(),
            }),
        })
    }

    /// The host address of `[address, address + bytes)` if `device` may access all of it, else
    /// `None`. The memory stays valid to touch even if it is freed meanwhile (module header).
    #[inline]
    #[must_use]
    pub fn translate(
        &self,
        device: u32,
        address: u64,
        bytes: u64,
        access: Access,
    ) -> Option<*mut u8> {
        let bit = device
            + if matches!(access, Access::Write) {
                16
            } else {
                0
            };
        let first = address.wrapping_sub(self.base);
        let last = first.wrapping_add(bytes.max(1) - 1);
        if first <= last && last < self.window {
            let (head, tail) = (first >> PAGE_BITS, last >> PAGE_BITS);
            let page = self.pages.get(head);
            let mut inside = page.allows(bit) && first & (PAGE - 1) >= page.first();
            if head == tail {
                inside &= last & (PAGE - 1) <= page.last();
            } else {
                inside &= page.last() == PAGE - 1 && self.continues(head + 1..tail, bit);
                let page = self.pages.get(tail);
                inside &= page.allows(bit) && page.first() == 0;
                inside &= last & (PAGE - 1) <= page.last();
            }
            return inside.then(|| std::ptr::with_exposed_provenance_mut(to_usize(address)));
        }
        self.translate_registered(address, bytes)
    }

    /// Whether `[address, address + bytes)` lies within one page of the window and `device` may access
    /// it, so that [`Self::translate`] answers `address`.
    #[inline(always)]
    pub(crate) fn allows_within_page(
        &self,
        device: u32,
        address: u64,
        bytes: u64,
        access: Access,
    ) -> bool {
        let bit = match access {
            Access::Write => device + 16,
            Access::Read => device,
        };
        let first = address.wrapping_sub(self.base);
        let page = self.pages.get(first >> PAGE_BITS);
        let offset = first & (PAGE - 1);
        page.allows(bit) && offset >= page.first() && offset + bytes.max(1) - 1 <= page.last()
    }

    /// Whether for every page of a range some device may access it so.
    #[must_use]
    pub fn any_access(&self, address: u64, bytes: u64, access: Access) -> bool {
        let first = address.wrapping_sub(self.base);
        let last = first.wrapping_add(bytes.max(1) - 1);
        if first > last || last >= self.window {
            return self.translate_registered(address, bytes).is_some();
        }
        let mask = match access {
            Access::Read => ALL_DEVICES,
            Access::Write => ALL_DEVICES << 16,
        };
        (first >> PAGE_BITS..=last >> PAGE_BITS).all(|page| self.pages.get(page).permits(mask))
    }

    /// Whether pages are in use from their first to their last byte.
    fn continues(&self, mut pages: std::ops::Range<u64>, bit: u32) -> bool {
        pages.all(|page| {
            let page = self.pages.get(page);
            page.allows(bit) && page.first() == 0 && page.last() == PAGE - 1
        })
    }

    #[cold]
    fn translate_registered(&self, address: u64, bytes: u64) -> Option<*mut u8> {
        let registered = self.registered.read();
        let (_, region) = registered.range(..=address).next_back()?;
        region
            .contains(address, bytes)
            .then(|| std::ptr::with_exposed_provenance_mut(to_usize(address)))
    }

    /// Whether an address lies in the window, whatever is there.
    #[must_use]
    pub fn in_window(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.window
    }

    /// What `address` belongs to: `cuMemGetAddressRange`, `cuPointerGetAttribute`.
    #[must_use]
    pub fn lookup(&self, address: u64) -> Option<Region> {
        let holding = |region: &Region| region.contains(address, 1).then_some(*region);
        if !self.in_window(address) {
            let registered = self.registered.read();
            return holding(registered.range(..=address).next_back()?.1);
        }
        let state = self.state.lock();
        let block = state.blocks.range(..=address).next_back();
        let mapping = state.mappings.range(..=address).next_back();
        let import = state.imports.range(..=address).next_back();
        block
            .and_then(|(_, b)| holding(&b.region))
            .or_else(|| mapping.and_then(|(_, m)| holding(&m.region)))
            .or_else(|| import.and_then(|(_, i)| holding(&i.region)))
    }

    /// Whether every byte of a range belongs to some region (neighbouring ones count together).
    #[must_use]
    pub fn is_allocated(&self, address: u64, bytes: u64) -> bool {
        let Some(end) = address.checked_add(bytes) else {
            return false;
        };
        let mut at = address;
        while at < end {
            match self.lookup(at) {
                Some(region) => at = region.base + region.bytes,
                None => return false,
            }
        }
        true
    }

    /// Free and total bytes of a device.
    #[must_use]
    pub fn memory_info(&self, device: u32) -> (u64, u64) {
        let used = self.usage.device(device);
        let used = used.map_or(0, |u| u.load(Ordering::Relaxed));
        (self.device_bytes - used, self.device_bytes)
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Replaces the permissions of a page-aligned range of the window, all of it in use.
    fn set_pages(&self, address: u64, bytes: u64, word: u32) {
        self.set_used(address, bytes, (word, 0..bytes));
    }

    /// Replaces the permissions of a page-aligned range of the window, of which only the bytes of
    /// `used` belong to an allocation.
    fn set_used(&self, address: u64, bytes: u64, (word, used): (u32, std::ops::Range<u64>)) {
        let first = (address - self.base) >> PAGE_BITS;
        for page in 0..bytes >> PAGE_BITS {
            let start = page << PAGE_BITS;
            let (from, to) = (used.start.max(start), used.end.min(start + PAGE));
            let word = match (from, to) {
                _ if to <= from => Page::whole(0),
                _ => Page::new(word, from - start..to - start),
            };
            self.pages.set(first + page, word);
        }
    }

    fn update_pages(&self, address: u64, bytes: u64, (clear, set): (u32, u32)) {
        let first = (address - self.base) >> PAGE_BITS;
        self.pages.update(first, bytes >> PAGE_BITS, clear, set);
    }
}

/// Read and write permission for the devices of a 16-bit mask.
const fn read_write(devices: u32) -> u32 {
    devices | devices << 16
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "guest addresses are host addresses; hosts are 64-bit"
)]
fn to_usize(address: u64) -> usize {
    address as usize
}
