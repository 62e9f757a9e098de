//! Memory that graphs allocate. Its address is fixed when the node is made, and its pages are held
//! as long as a graph or an instance of it could run; nodes only begin and end its life.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::status::{Result, Status};
use crate::mem::{AddressSpace, Region};

/// Memory of an allocation node.
#[derive(Debug)]
pub struct GraphMemory {
    /// Where it is.
    pub region: Region,
    /// The device asked for.
    pub device: u32,
    live: AtomicBool,
}

static KNOWN: Mutex<Option<HashMap<u64, Weak<GraphMemory>>>> = Mutex::new(None);

impl GraphMemory {
    /// Takes `bytes` of a device.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for zero bytes, `OUT_OF_MEMORY`.
    pub fn new(device: u32, bytes: u64) -> Result<Arc<Self>> {
        let region = AddressSpace::global().alloc_device(device, bytes)?;
        let memory = Arc::new(Self {
            region,
            device,
            live: AtomicBool::new(false),
        });
        let mut known = KNOWN.lock();
        let entry = Arc::downgrade(&memory);
        known.get_or_insert_default().insert(region.base, entry);
        Ok(memory)
    }

    /// The graph memory that begins at an address.
    #[must_use]
    pub fn at(base: u64) -> Option<Arc<Self>> {
        KNOWN.lock().as_ref()?.get(&base)?.upgrade()
    }

    /// Begins its life.
    pub fn begin(&self) {
        self.live.store(true, Ordering::Release);
    }

    /// Ends its life.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` if it is not live.
    pub fn end(&self) -> Result<()> {
        if self.live.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        Err(Status::INVALID_VALUE)
    }

    /// Whether it was allocated and not freed since.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        if let Some(known) = KNOWN.lock().as_mut() {
            known.remove(&self.region.base);
        }
        let _ = AddressSpace::global().free(self.region.base);
    }
}

/// Bytes that graphs hold of a device.
#[must_use]
pub fn usage(device: u32) -> u64 {
    let known = KNOWN.lock();
    let all = known.iter().flat_map(HashMap::values);
    // Dropping an upgraded reference may need the lock that is held here.
    let held: Vec<Arc<GraphMemory>> = all.filter_map(Weak::upgrade).collect();
    drop(known);
    let mine = held.iter().filter(|m| m.device == device);
    mine.map(|m| m.region.bytes).sum()
}
