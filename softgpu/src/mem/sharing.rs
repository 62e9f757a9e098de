//! Whether another process could still change memory that this one waits for.
//!
//! A process that lends a memory file to others or borrows one holds a lock on it, through an open
//! file description of its own: the system takes the lock away when the process ends, however it
//! ends. A borrower also marks the file until it gives it back; lending takes the mark away.
//!
//! Rule: another process may help while it has a lock on a file that this process uses, or while a
//! file that this process lends has no mark, since borrowers may be yet to come. A borrower that
//! ends without giving back leaves its mark, but no lock. Where the system gives no locks,
//! others may always help. Source: fcntl(2), "Open file description locks".

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::sys::{self, MemFile};

/// The mark: the sticky bit, which means nothing for a memory file.
const MARK: u32 = 0o1000;

/// Files in use, by identity: one lock a file, since locks of one process hinder each other too.
static USERS: Mutex<BTreeMap<(u64, u64), Weak<User>>> = Mutex::new(BTreeMap::new());
/// A file is shared without a lock.
static IS_BLIND: AtomicBool = AtomicBool::new(false);

/// This process as a user of a file that others may use.
#[derive(Debug)]
pub(super) struct User {
    locked: File,
    lends: AtomicBool,
}

impl User {
    /// This process lends a file.
    pub(super) fn lender(file: &MemFile) -> Option<Arc<Self>> {
        let user = Self::of(file)?;
        user.lends.store(true, Ordering::Relaxed);
        user.mark(0);
        Some(user)
    }

    /// This process borrows a file, unless it is its own.
    pub(super) fn borrower(file: &MemFile) -> Option<Arc<Self>> {
        let user = Self::of(file)?;
        if !user.lends.load(Ordering::Relaxed) {
            user.mark(MARK);
        }
        Some(user)
    }

    fn of(file: &MemFile) -> Option<Arc<Self>> {
        let user = Self::find(file);
        if user.is_none() {
            IS_BLIND.store(true, Ordering::Relaxed);
        }
        user
    }

    fn find(file: &MemFile) -> Option<Arc<Self>> {
        let (identity, _) = file.identity().ok()?;
        let mut users = USERS.lock();
        if let Some(known) = users.get(&identity).and_then(Weak::upgrade) {
            return Some(known);
        }
        let locked = File::open(format!("/proc/self/fd/{}", file.fd().as_raw_fd())).ok()?;
        sys::lock(&locked).ok()?;
        users.retain(|_, user| user.strong_count() > 0);
        let lends = AtomicBool::new(false);
        let user = Arc::new(Self { locked, lends });
        users.insert(identity, Arc::downgrade(&user));
        Some(user)
    }

    /// Sets or takes away the mark. A failure costs the report of a deadlock, no more.
    fn mark(&self, mark: u32) {
        if let Ok(meta) = self.locked.metadata() {
            let mode = meta.mode() & !MARK | mark;
            let _ = self.locked.set_permissions(Permissions::from_mode(mode));
        }
    }

    fn may_others_help(&self) -> io::Result<bool> {
        let awaits =
            self.lends.load(Ordering::Relaxed) && self.locked.metadata()?.mode() & MARK == 0;
        Ok(awaits || sys::is_locked_by_others(&self.locked)?)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if !self.lends.load(Ordering::Relaxed) {
            self.mark(0);
        }
    }
}

/// Whether another process could change memory of this one.
pub fn may_others_help() -> bool {
    let users: Vec<_> = USERS.lock().values().filter_map(Weak::upgrade).collect();
    IS_BLIND.load(Ordering::Relaxed)
        || users
            .iter()
            .any(|user| user.may_others_help().unwrap_or(true))
}
