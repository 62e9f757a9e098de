//! Handles of physical memory, over [`crate::mem`].

use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::machine::driver;
use super::multicast;
use super::status::{Result, Status};
use crate::mem::{AddressSpace, Location, Physical, Process};

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
pub const HANDLE_POSIX_FD: u32 = 1;
/// `CU_MEM_HANDLE_TYPE_FABRIC`.
pub const HANDLE_FABRIC: u32 = 8;
/// Bytes of `CUmemFabricHandle`.
pub const FABRIC_BYTES: usize = 64;

/// What a fabric handle says: words in the machine's order, behind a mark.
type Fabric = [u64; FABRIC_BYTES / 8];
const FABRIC_MARK: u64 = u64::from_le_bytes(*b"softgpuF");

/// A handle of physical memory; several may name the same memory.
#[derive(Debug)]
pub struct PhysicalHandle {
    /// The memory.
    pub physical: Arc<Physical>,
    /// What the creator asked for.
    pub request: Request,
    references: Mutex<u32>,
}

/// What was asked for at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Shareable handle types.
    pub handle_types: u32,
    /// `gpuDirectRDMACapable`.
    pub rdma: u8,
}

/// Of a handle that nobody asked for here: it can be handed on in any way.
const IMPORTED: Request = Request {
    handle_types: HANDLE_POSIX_FD | HANDLE_FABRIC,
    rdma: 0,
};

fn register(physical: Arc<Physical>, request: Request) -> u64 {
    let handle = driver().physicals.reserve();
    let object = PhysicalHandle {
        physical,
        request,
        references: Mutex::new(1),
    };
    driver().physicals.insert(handle, Arc::new(object));
    handle
}

/// Creates physical memory and returns its handle.
///
/// # Errors
///
/// `INVALID_VALUE` for a size that is not granular, `NOT_SUPPORTED` for handle types other than a
/// file descriptor and a fabric handle, `OUT_OF_MEMORY`.
pub fn create(location: Location, bytes: u64, request: Request) -> Result<u64> {
    if request.handle_types & !(HANDLE_POSIX_FD | HANDLE_FABRIC) != 0 {
        return Err(Status::NOT_SUPPORTED);
    }
    let physical = AddressSpace::global().create_physical(location, bytes)?;
    Ok(register(physical, request))
}

/// A handle's memory.
///
/// # Errors
///
/// `INVALID_VALUE` if there is no such handle.
pub fn get(handle: u64) -> Result<Arc<PhysicalHandle>> {
    driver().physicals.get(handle).ok_or(Status::INVALID_VALUE)
}

/// Gives one reference to a handle back.
///
/// # Errors
///
/// `INVALID_VALUE` if there is no such handle.
pub fn release(handle: u64) -> Result<()> {
    if let Ok(object) = multicast::get(handle) {
        object.release(handle);
        return Ok(());
    }
    let object = get(handle)?;
    let mut references = object.references.lock();
    *references = references.saturating_sub(1);
    if *references == 0 {
        driver().physicals.remove(handle);
    }
    Ok(())
}

/// The handle of the memory mapped at an address, with one more reference.
///
/// # Errors
///
/// `INVALID_VALUE` if nothing is mapped there.
pub fn retain(address: u64) -> Result<u64> {
    let physical = AddressSpace::global().physical_at(address);
    let physical = physical.ok_or(Status::INVALID_VALUE)?;
    let same = |o: &PhysicalHandle| Arc::ptr_eq(&o.physical, &physical);
    if let Some((handle, object)) = driver().physicals.find(same) {
        let mut references = object.references.lock();
        if *references > 0 {
            *references += 1;
            return Ok(handle);
        }
    }
    Ok(register(physical, IMPORTED))
}

/// Exports a handle as a file descriptor that the caller owns.
///
/// # Errors
///
/// `INVALID_VALUE` for an unknown handle or one not created for export, `NOT_SUPPORTED` for other
/// handle types.
pub fn export(handle: u64, handle_type: u32) -> Result<RawFd> {
    if handle_type != HANDLE_POSIX_FD {
        return Err(Status::NOT_SUPPORTED);
    }
    if let Ok(object) = multicast::get(handle) {
        return object.export();
    }
    let object = get(handle)?;
    if object.request.handle_types & HANDLE_POSIX_FD == 0 {
        return Err(Status::INVALID_VALUE);
    }
    Ok(object.physical.export()?.into_raw_fd())
}

/// Exports a handle as bytes that another process of this machine imports while this one holds the
/// memory. (Of a GPU: any process in the NVLink domain.)
///
/// # Errors
///
/// `INVALID_VALUE` for an unknown handle or one not created for this, `NOT_SUPPORTED` for a
/// multicast object.
pub fn export_fabric(handle: u64) -> Result<Fabric> {
    if multicast::get(handle).is_ok() {
        return Err(Status::NOT_SUPPORTED);
    }
    let object = get(handle)?;
    if object.request.handle_types & HANDLE_FABRIC == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let process = Process::own();
    let (device, inode) = object.physical.identity()?;
    let fd = u64::try_from(object.physical.lend()).map_err(|_| Status::UNKNOWN)?;
    let id = u64::from(process.id);
    Ok([FABRIC_MARK, id, process.started, fd, device, inode, 0, 0])
}

/// Imports what [`export_fabric`] gave.
///
/// # Errors
///
/// `INVALID_VALUE` if it is no such handle, or its memory is gone.
pub fn import_fabric(words: Fabric) -> Result<u64> {
    let [mark, id, started, fd, device, inode, ..] = words;
    let narrow = |value| u32::try_from(value).map_err(|_| Status::INVALID_VALUE);
    if mark != FABRIC_MARK {
        return Err(Status::INVALID_VALUE);
    }
    let process = Process {
        id: narrow(id)?,
        started,
    };
    let fd = RawFd::try_from(fd).map_err(|_| Status::INVALID_VALUE)?;
    let space = AddressSpace::global();
    let physical = space.open_physical(process, fd);
    let physical = physical.map_err(|_| Status::INVALID_VALUE)?;
    if physical.identity()? != (device, inode) {
        return Err(Status::INVALID_VALUE);
    }
    register_import(physical)
}

/// Imports a file descriptor; it stays the caller's.
///
/// # Errors
///
/// `INVALID_VALUE` if it is not one of physical memory, `NOT_SUPPORTED` for other handle types.
pub fn import(fd: RawFd, handle_type: u32) -> Result<u64> {
    if handle_type != HANDLE_POSIX_FD {
        return Err(Status::NOT_SUPPORTED);
    }
    if let Some(handle) = multicast::import(fd) {
        return Ok(handle);
    }
    register_import(AddressSpace::global().import_physical(fd)?)
}

fn register_import(physical: Arc<Physical>) -> Result<u64> {
    if let Location::Device(device) = physical.location() {
        let ordinal = i32::try_from(device).map_err(|_| Status::INVALID_VALUE)?;
        driver().device(ordinal)?;
    }
    Ok(register(physical, IMPORTED))
}
