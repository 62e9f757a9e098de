//! Opaque handles: numbers that look like pointers but are only ever looked up, so that a stale
//! or forged handle is an error and nothing worse.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// What a handle stands for; the number goes into the handle, so kinds never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Context = 1,
    Stream = 2,
    Event = 3,
    Module = 4,
    Function = 5,
    Library = 6,
    Kernel = 7,
    Link = 8,
    Pool = 9,
    Physical = 10,
    Graph = 11,
    Node = 12,
    GraphExec = 13,
    UserObject = 14,
    Multicast = 15,
}

/// All live objects of one kind.
#[derive(Debug)]
pub struct Registry<T> {
    kind: Kind,
    next: AtomicU64,
    live: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Registry<T> {
    /// No objects yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            next: AtomicU64::new(1),
            live: RwLock::default(),
        }
    }

    /// A handle that was never given out.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        (0x5600 + self.kind as u64) << 32 | serial << 6
    }

    /// Makes `object` known under a reserved handle.
    pub fn insert(&self, handle: u64, object: Arc<T>) {
        self.live.write().insert(handle, object);
    }

    /// The object behind a handle.
    #[must_use]
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        self.live.read().get(&handle).cloned()
    }

    /// Forgets a handle.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.live.write().remove(&handle)
    }

    /// Forgets every object that `gone` says is gone, and returns those.
    pub fn remove_if(&self, gone: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut live = self.live.write();
        let doomed: Vec<u64> = live
            .iter()
            .filter(|(_, o)| gone(o))
            .map(|(&h, _)| h)
            .collect();
        doomed.iter().filter_map(|h| live.remove(h)).collect()
    }

    /// Some object for which `wanted` holds, with its handle.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(u64, Arc<T>)> {
        let live = self.live.read();
        let found = live.iter().find(|(_, object)| wanted(object))?;
        Some((*found.0, Arc::clone(found.1)))
    }

    /// All live objects.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        self.live.read().values().cloned().collect()
    }
}
