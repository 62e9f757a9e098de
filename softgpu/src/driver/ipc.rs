//! Handles that other processes open: 64 bytes that say which process has which memory file.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::context::Context;
use super::status::{Result, Status};
use crate::mem::{AddressSpace, ArenaFile, MemError, Part, Process, SharedPage};

/// A handle as it travels.
pub type Handle = [u8; 64];

const MEMORY: u32 = 0x6d67_7073;
const EVENT: u32 = 0x6567_7073;
const POINTER: u32 = 0x7067_7073;

/// The words of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Words {
    kind: u32,
    process: u32,
    fd: u32,
    device: u32,
    rest: [u64; 6],
}

impl Words {
    fn encode(self) -> Handle {
        let mut bytes = [0; 64];
        let short = [self.kind, self.process, self.fd, self.device];
        let short = short.iter().flat_map(|w| w.to_le_bytes());
        let long = self.rest.iter().flat_map(|w| w.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(short.chain(long)) {
            *to = from;
        }
        bytes
    }

    fn decode(handle: &Handle) -> Self {
        let (short, long) = handle.split_at(16);
        let mut words = short.chunks_exact(4).map(|c| {
            let word = c.try_into().unwrap_or_default();
            u32::from_le_bytes(word)
        });
        let mut next = || words.next().unwrap_or(0);
        let mut made = Self {
            kind: next(),
            process: next(),
            fd: next(),
            device: next(),
            rest: [0; 6],
        };
        for (to, from) in made.rest.iter_mut().zip(long.chunks_exact(8)) {
            *to = u64::from_le_bytes(from.try_into().unwrap_or_default());
        }
        made
    }

    fn process(&self) -> Process {
        Process {
            id: self.process,
            started: self.rest[0],
        }
    }

    fn fd(&self) -> Result<RawFd> {
        RawFd::try_from(self.fd).map_err(|_| Status::INVALID_VALUE)
    }

    /// Of a descriptor of this process, for others.
    fn of(kind: u32, fd: RawFd) -> Result<Self> {
        let own = Process::own();
        Ok(Self {
            kind,
            process: own.id,
            fd: u32::try_from(fd).map_err(|_| Status::UNKNOWN)?,
            device: 0,
            rest: [own.started, 0, 0, 0, 0, 0],
        })
    }

    fn with_part(mut self, part: &Part) -> Self {
        self.device = part.device;
        for (to, from) in
            self.rest
                .iter_mut()
                .skip(1)
                .zip([part.offset, part.len, part.lead, part.bytes])
        {
            *to = from;
        }
        self
    }

    fn part(&self) -> Part {
        let [_, offset, len, lead, bytes, _] = self.rest;
        Part {
            device: self.device,
            offset,
            len,
            lead,
            bytes,
        }
    }
}

fn unreachable_memory(error: MemError) -> Status {
    super::report::note(&error);
    match error {
        MemError::OutOfMemory { .. } => Status::OUT_OF_MEMORY,
        MemError::Os { .. } | MemError::Invalid { .. } => Status::MAP_FAILED,
    }
}

/// The handle of the allocation that an address is in.
///
/// # Errors
///
/// `INVALID_VALUE` if that is not `cuMemAlloc` memory of this process.
pub fn memory_handle(address: u64) -> Result<Handle> {
    let (part, fd) = AddressSpace::global().share(address)?;
    Ok(Words::of(MEMORY, fd)?.with_part(&part).encode())
}

/// Addresses opened by handle. Others may be imports from pools, which end differently.
static OPENED: Mutex<Option<HashMap<u64, u32>>> = Mutex::new(None);

/// Maps memory of another process.
///
/// # Errors
///
/// `INVALID_VALUE` for something else than a memory handle, `INVALID_CONTEXT` for one of this
/// process, `MAP_FAILED` if the process or the memory is gone.
pub fn open_memory(context: &Context, handle: &Handle) -> Result<u64> {
    let words = Words::decode(handle);
    if words.kind != MEMORY {
        return Err(Status::INVALID_VALUE);
    }
    if words.process() == Process::own() {
        return Err(Status::INVALID_CONTEXT);
    }
    let arena = ArenaFile::of_process(words.process(), words.fd()?, words.device);
    let arena = arena.map_err(unreachable_memory)?;
    let space = AddressSpace::global();
    let region = space.import(&arena, &words.part(), context.device);
    let region = region.map_err(unreachable_memory)?;
    let mut opened = OPENED.lock();
    *opened
        .get_or_insert_default()
        .entry(region.base)
        .or_insert(0) += 1;
    Ok(region.base)
}

/// Whether an address was opened by handle.
pub fn is_opened(address: u64) -> bool {
    let opened = OPENED.lock();
    opened.as_ref().is_some_and(|o| o.contains_key(&address))
}

/// Ends one [`open_memory`].
///
/// # Errors
///
/// `INVALID_VALUE` if the address does not come from there.
pub fn close_memory(address: u64) -> Result<()> {
    let mut opened = OPENED.lock();
    let opened = opened.get_or_insert_default();
    let count = opened.get_mut(&address).ok_or(Status::INVALID_VALUE)?;
    *count -= 1;
    if *count == 0 {
        opened.remove(&address);
    }
    Ok(AddressSpace::global().close_import(address)?)
}

/// What another process with the same pool needs to map an allocation.
///
/// # Errors
///
/// As [`memory_handle`].
pub fn pool_pointer(address: u64) -> Result<Handle> {
    let (part, fd) = AddressSpace::global().share(address)?;
    Ok(Words::of(POINTER, fd)?.with_part(&part).encode())
}

/// Maps an allocation of an imported pool.
///
/// # Errors
///
/// `INVALID_VALUE` for data that is not of this pool.
pub fn import_pool_pointer(arena: &ArenaFile, from: u32, data: &Handle) -> Result<u64> {
    let words = Words::decode(data);
    if words.kind != POINTER || words.device != arena.device() {
        return Err(Status::INVALID_VALUE);
    }
    let region = AddressSpace::global().import(arena, &words.part(), from)?;
    Ok(region.base)
}

/// What processes share about an event: how often it was recorded, and the last record that its
/// stream has reached. Another process waits for the number that it sees when it asks.
#[derive(Debug)]
pub struct SharedEvent {
    page: SharedPage,
}

const RECORDED: usize = 0;
const REACHED: usize = 1;
const RECORDER: usize = 2;
const RECORDER_STARTED: usize = 3;

impl SharedEvent {
    /// A new event.
    ///
    /// # Errors
    ///
    /// `OUT_OF_MEMORY` if the operating system refuses.
    pub fn create() -> Result<Arc<Self>> {
        let page = SharedPage::create()?;
        Ok(Arc::new(Self { page }))
    }

    /// The handle for other processes.
    ///
    /// # Errors
    ///
    /// `UNKNOWN` for a descriptor that does not fit.
    pub fn handle(&self) -> Result<Handle> {
        Ok(Words::of(EVENT, self.page.lend())?.encode())
    }

    /// The event of another process.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for something else than an event handle, `INVALID_CONTEXT` for one of this
    /// process, `MAP_FAILED` if the process or the event is gone.
    pub fn open(handle: &Handle) -> Result<Arc<Self>> {
        let words = Words::decode(handle);
        if words.kind != EVENT {
            return Err(Status::INVALID_VALUE);
        }
        if words.process() == Process::own() {
            return Err(Status::INVALID_CONTEXT);
        }
        let page = SharedPage::of_process(words.process(), words.fd()?);
        let page = page.map_err(unreachable_memory)?;
        Ok(Arc::new(Self { page }))
    }

    fn counter(&self, index: usize) -> &AtomicU64 {
        self.page.counter(index)
    }

    /// Begins a record; the record's number is passed when the second value is dropped.
    pub fn record(self: &Arc<Self>) -> SharedRecord {
        let own = Process::own();
        let id = u64::from(own.id);
        self.counter(RECORDER_STARTED)
            .store(own.started, Ordering::Relaxed);
        self.counter(RECORDER).store(id, Ordering::Relaxed);
        let number = self.counter(RECORDED).fetch_add(1, Ordering::AcqRel) + 1;
        SharedRecord {
            event: Arc::clone(self),
            number,
        }
    }

    /// The latest record.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.counter(RECORDED).load(Ordering::Acquire)
    }

    /// Whether a record is reached. What a process leaves behind when it dies counts as reached.
    #[must_use]
    pub fn is_reached(&self, number: u64) -> bool {
        if self.counter(REACHED).load(Ordering::Acquire) >= number {
            return true;
        }
        let id = self.counter(RECORDER).load(Ordering::Relaxed);
        let started = self.counter(RECORDER_STARTED).load(Ordering::Relaxed);
        let id = u32::try_from(id).unwrap_or(0);
        id != std::process::id() && !Process { id, started }.is_alive()
    }
}

/// The duty to say that a record is reached; done when dropped.
#[derive(Debug)]
pub struct SharedRecord {
    event: Arc<SharedEvent>,
    number: u64,
}

impl Drop for SharedRecord {
    fn drop(&mut self) {
        let reached = self.event.counter(REACHED);
        reached.fetch_max(self.number, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_round_trip() {
        let part = Part {
            device: 3,
            offset: 65_536,
            len: 131_072,
            lead: 512,
            bytes: 1000,
        };
        let words = Words::of(MEMORY, 17).unwrap().with_part(&part);
        let back = Words::decode(&words.encode());
        assert_eq!(back, words);
        assert_eq!(
            (back.part(), back.fd(), back.process()),
            (part, Ok(17), Process::own())
        );
    }

    #[test]
    fn records_are_reached_when_dropped() {
        let event = SharedEvent::create().unwrap();
        assert!(event.is_reached(event.latest()));
        let (first, second) = (event.record(), event.record());
        assert!(!event.is_reached(1) && !event.is_reached(2));
        drop(first);
        assert!(event.is_reached(1) && !event.is_reached(event.latest()));
        drop(second);
        assert!(event.is_reached(2));
    }
}
