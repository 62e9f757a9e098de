//! The operating-system calls behind guest memory: the address window, memfds and their mappings.
//!
//! # Safety
//!
//! Every mapping made here lies inside a window that [`reserve_window`] obtained from the system
//! with `MAP_FIXED_NOREPLACE`, so `MAP_FIXED` replaces nothing but our own pages. Nothing is ever
//! unmapped from a window: freed parts are covered by scrap pages, so that a host thread that
//! still holds a translated address touches scrap memory rather than crashing the process.

#![expect(
    unsafe_code,
    reason = "mmap, memfd and raw descriptors have no safe interface"
)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use super::MemError;
use super::sharing::User;

fn os_error(operation: &'static str) -> MemError {
    MemError::Os {
        operation,
        errno: io::Error::last_os_error().raw_os_error().unwrap_or(0),
    }
}

fn to_len(bytes: u64, operation: &'static str) -> Result<usize, MemError> {
    usize::try_from(bytes).map_err(|_| MemError::OutOfMemory { operation, bytes })
}

/// Reserves `len` bytes of address space at exactly `base`, without access and without memory.
pub(super) fn reserve_window(base: u64, len: u64) -> Result<(), MemError> {
    let operation = "reserve the guest address window";
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let wanted = std::ptr::without_provenance_mut(to_len(base, operation)?);
    // SAFETY: MAP_FIXED_NOREPLACE replaces no existing mapping.
    let got = unsafe {
        libc::mmap(
            wanted,
            to_len(len, operation)?,
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(os_error(operation));
    }
    if got != wanted {
        // An old kernel takes the flag for a hint. SAFETY: the mapping was made just above.
        unsafe { libc::munmap(got, to_len(len, operation)?) };
        return Err(MemError::OutOfMemory {
            operation,
            bytes: len,
        });
    }
    Ok(())
}

/// Anonymous zeroed memory of `len` bytes, committed when touched; lives as long as the process.
pub(super) fn lazy_zeroed(len: u64) -> Result<*mut u8, MemError> {
    let operation = "allocate the page table";
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping wherever the system likes.
    let got = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            to_len(len, operation)?,
            prot,
            flags,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(os_error(operation));
    }
    Ok(got.cast())
}

/// Covers `[address, address + len)` of a window with scrap pages.
pub(super) fn map_scrap(address: u64, len: u64) -> Result<(), MemError> {
    let operation = "unmap guest memory";
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let at = std::ptr::without_provenance_mut(to_len(address, operation)?);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the range lies inside a window of ours (module header).
    let got = unsafe { libc::mmap(at, to_len(len, operation)?, prot, flags, -1, 0) };
    if got == libc::MAP_FAILED {
        return Err(os_error(operation));
    }
    Ok(())
}

/// A memory file: sparse, shareable between processes through its descriptor. Whatever comes from
/// another process or may go to one passes through `duplicate`, `open`, `lend` or `export`.
#[derive(Debug)]
pub(super) struct MemFile {
    fd: OwnedFd,
    user: OnceLock<Option<Arc<User>>>,
}

/// A lock of the whole file of this kind, as fcntl takes it.
fn fcntl_lock(kind: libc::c_int) -> libc::flock {
    // SAFETY: zeros are valid for every field; they mean all bytes, from `SEEK_SET`, 0.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "kinds are 0 to 2")]
    let kind = kind as libc::c_short;
    lock.l_type = kind;
    lock
}

/// Locks a file that others may lock too, as long as it is open.
pub(super) fn lock(file: &File) -> io::Result<()> {
    let mut lock = fcntl_lock(libc::F_RDLCK);
    // SAFETY: the descriptor is open, `lock` lives.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a file is locked through another open file description.
pub(super) fn is_locked_by_others(file: &File) -> io::Result<bool> {
    let mut lock = fcntl_lock(libc::F_WRLCK);
    // SAFETY: the descriptor is open, `lock` lives.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

impl MemFile {
    fn new(fd: OwnedFd) -> Self {
        let user = OnceLock::new();
        Self { fd, user }
    }

    /// A file that another process may own.
    fn foreign(fd: OwnedFd) -> Self {
        let file = Self::new(fd);
        // Others are not ours to lock and mark: whoever imports looks at the name.
        if file.name().is_some_and(|name| name.starts_with("softgpu:")) {
            file.user.get_or_init(|| User::borrower(&file));
        }
        file
    }

    /// This process as a user of a file that is shared; keeps it a user.
    pub(super) fn user(&self) -> Option<Arc<User>> {
        self.user.get().cloned().flatten()
    }

    /// Creates a file of `bytes` zero bytes; `name` shows in `/proc/self/fd`.
    pub(super) fn create(name: &str, bytes: u64) -> Result<Self, MemError> {
        let operation = "create a memory file";
        let name = CString::new(name).map_err(|_| MemError::Os {
            operation,
            errno: libc::EINVAL,
        })?;
        // SAFETY: `name` is a valid C string for the duration of the call.
        let raw = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(os_error(operation));
        }
        // SAFETY: the descriptor was just returned and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let length =
            libc::off_t::try_from(bytes).map_err(|_| MemError::OutOfMemory { operation, bytes })?;
        // SAFETY: `fd` is open.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), length) } != 0 {
            return Err(os_error(operation));
        }
        Ok(Self::new(fd))
    }

    /// Takes a duplicate of a descriptor that somebody else owns.
    pub(super) fn duplicate(raw: RawFd) -> Result<Self, MemError> {
        let operation = "import a memory file";
        // SAFETY: the call answers EBADF for a number that is not an open descriptor.
        let copy = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return Err(os_error(operation));
        }
        // SAFETY: the descriptor was just returned and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(copy) };
        Ok(Self::foreign(fd))
    }

    /// Opens the file that a path in `/proc` leads to.
    pub(super) fn open(path: &str) -> Result<Self, MemError> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path);
        let file = file.map_err(|e| MemError::Os {
            operation: "open the memory of another process",
            errno: e.raw_os_error().unwrap_or(0),
        })?;
        Ok(Self::foreign(file.into()))
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Maps the first page somewhere outside of windows.
    pub(super) fn map_page(&self) -> Result<Page, MemError> {
        let operation = "map a shared page";
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let len = to_len(Page::BYTES, operation)?;
        let fd = self.fd.as_raw_fd();
        // SAFETY: a fresh mapping wherever the system likes.
        let got = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0) };
        if got == libc::MAP_FAILED {
            return Err(os_error(operation));
        }
        Ok(Page(got.cast::<AtomicU64>().cast_const()))
    }

    /// The descriptor, for other processes to open.
    pub(super) fn lend(&self) -> RawFd {
        let lender = User::lender(self);
        self.user.get_or_init(|| lender);
        self.fd.as_raw_fd()
    }

    /// A duplicate for export; the caller owns and closes it.
    pub(super) fn export(&self) -> Result<OwnedFd, MemError> {
        self.lend();
        self.fd.try_clone().map_err(|e| MemError::Os {
            operation: "export a memory file",
            errno: e.raw_os_error().unwrap_or(0),
        })
    }

    /// Name given at creation, as far as `/proc` tells it.
    pub(super) fn name(&self) -> Option<String> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).ok()?;
        let text = link.to_str()?.strip_prefix("/memfd:")?;
        Some(text.trim_end_matches(" (deleted)").to_owned())
    }

    /// Identity (device and inode number) and size of the file.
    pub(super) fn identity(&self) -> Result<((u64, u64), u64), MemError> {
        use std::os::unix::fs::MetadataExt;
        let fail = |e: io::Error| MemError::Os {
            operation: "inspect a memory file",
            errno: e.raw_os_error().unwrap_or(0),
        };
        let file = File::from(self.fd.try_clone().map_err(fail)?);
        let meta = file.metadata().map_err(fail)?;
        Ok(((meta.dev(), meta.ino()), meta.len()))
    }

    /// Maps `[offset, offset + len)` of the file at `address` inside a window of ours.
    pub(super) fn map_at(&self, address: u64, len: u64, offset: u64) -> Result<(), MemError> {
        let operation = "map guest memory";
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let at = std::ptr::without_provenance_mut(to_len(address, operation)?);
        let offset = libc::off_t::try_from(offset).map_err(|_| MemError::OutOfMemory {
            operation,
            bytes: offset,
        })?;
        let fd = self.fd.as_raw_fd();
        // SAFETY: the range lies inside a window of ours (module header) and `fd` is open.
        let got = unsafe { libc::mmap(at, to_len(len, operation)?, prot, flags, fd, offset) };
        if got == libc::MAP_FAILED {
            return Err(os_error(operation));
        }
        Ok(())
    }

    /// Gives the pages of `[offset, offset + len)` back to the system; they read as zero again.
    pub(super) fn discard(&self, offset: u64, len: u64) -> Result<(), MemError> {
        let operation = "discard guest memory";
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let convert = |v: u64| {
            libc::off_t::try_from(v).map_err(|_| MemError::OutOfMemory {
                operation,
                bytes: v,
            })
        };
        let (offset, len) = (convert(offset)?, convert(len)?);
        // SAFETY: `fd` is open.
        if unsafe { libc::fallocate(self.fd.as_raw_fd(), mode, offset, len) } != 0 {
            return Err(os_error(operation));
        }
        Ok(())
    }
}

/// A page of counters shared between processes; mapped as long as this object lives.
#[derive(Debug)]
pub(super) struct Page(*const AtomicU64);

// SAFETY: the page holds atomics only and stays mapped until dropped.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Size of a page.
    pub(super) const BYTES: u64 = 4096;
    const COUNTERS: usize = 512;

    /// A counter; indices wrap.
    pub(super) fn counter(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the page has so many counters.
        let counter = unsafe { self.0.add(index % Self::COUNTERS) };
        // SAFETY: in bounds, aligned, mapped as long as `self`; zeros are valid.
        unsafe { &*counter }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let at = self.0.cast_mut().cast();
        // SAFETY: the mapping was made by `map_page` and nothing refers to it any more.
        unsafe { libc::munmap(at, Self::COUNTERS * 8) };
    }
}
