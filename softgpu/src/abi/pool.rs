//! Memory pools and stream-ordered allocation.

#![expect(unsafe_code, reason = "exported C functions")]

use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::pointers::{In, Out};
use super::types::{AccessDesc, MemLocation, PoolProps};
use super::virtual_memory::{location, permission};
use crate::driver::capture;
use crate::driver::context::{Context, DefaultStream, healthy, stream};
use crate::driver::graph_memory::GraphMemory;
use crate::driver::ipc;
use crate::driver::machine::driver;
use crate::driver::memory::{self, Pool};
use crate::driver::status::{Result, Status};
use crate::driver::stream::Stream;
use crate::driver::task::Task;
use crate::driver::transfer::Mode;
use crate::mem::{AddressSpace, ArenaFile, Location, Permission};

fn pool(handle: u64) -> Result<Arc<Pool>> {
    driver().pools.get(handle).ok_or(Status::INVALID_VALUE)
}

/// Default pool and current pool of a device.
fn of_device(device: i32) -> Result<&'static (u64, Mutex<u64>)> {
    let device = driver().device(device)?;
    let pools = driver().device_pools.get(device as usize);
    pools.ok_or(Status::INVALID_DEVICE)
}

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const POSIX_FD: u32 = 1;

fn device_of(at: MemLocation) -> Result<u32> {
    match location(at)? {
        Location::Device(device) => Ok(device),
        Location::Host => Err(Status::INVALID_VALUE),
    }
}

/// What a pool of a device looks like.
pub(super) fn device_props(device: u32) -> Result<PoolProps> {
    const PINNED: u32 = 1;
    const DEVICE: u32 = 1;
    Ok(PoolProps {
        kind: PINNED,
        handle_types: 0,
        location: MemLocation {
            kind: DEVICE,
            id: i32::try_from(device).map_err(|_| Status::UNKNOWN)?,
        },
        win32: 0,
        max_size: 0,
        usage: 0,
        reserved: [0; 54],
    })
}

/// In a stream that is being captured: a node whose memory lives while the graph runs.
fn captured(context: &Context, stream: &Stream, bytes: u64) -> Result<Option<u64>> {
    if stream.capture.lock().is_none() {
        return Ok(None);
    }
    let memory = GraphMemory::new(context.device, bytes)?;
    let base = memory.region.base;
    capture::intercept(context, stream, Mode::Async, &Task::Alloc(memory))?;
    Ok(Some(base))
}

fn alloc(
    pointer: Out<u64>,
    bytes: u64,
    from: Option<u64>,
    (on, default): (u64, DefaultStream),
) -> Result<()> {
    let (context, stream) = stream(on, default)?;
    if pointer.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    if let Some(base) = captured(&context, &stream, bytes)? {
        return pointer.set(base);
    }
    let handle = match from {
        Some(handle) => handle,
        None => {
            let device = i32::try_from(context.device).map_err(|_| Status::UNKNOWN)?;
            *of_device(device)?.1.lock()
        }
    };
    pointer.set(pool(handle)?.alloc(&context, bytes)?)
}

entries! { call:
    fn cuDeviceGetDefaultMemPool(handle: Out<u64>, device: i32) {
        handle.set(of_device(device)?.0)
    }
    fn cuDeviceGetMemPool(handle: Out<u64>, device: i32) {
        let current = *of_device(device)?.1.lock();
        handle.set(current)
    }
    fn cuDeviceSetMemPool(device: i32, handle: u64) {
        let pools = of_device(device)?;
        if i32::try_from(pool(handle)?.device) != Ok(device) {
            return Err(Status::INVALID_VALUE);
        }
        *pools.1.lock() = handle;
        Ok(())
    }
    fn cuMemPoolCreate(handle: Out<u64>, props: In<PoolProps>) {
        const PINNED: u32 = 1;
        const DEVICE: u32 = 1;
        let props = props.get()?;
        if handle.is_null() || props.kind != PINNED || props.location.kind == 0 {
            return Err(Status::INVALID_VALUE);
        }
        if props.handle_types & !POSIX_FD != 0 || props.location.kind != DEVICE {
            return Err(Status::NOT_SUPPORTED);
        }
        let device = driver().device(props.location.id)?;
        let new = driver().pools.reserve();
        driver().pools.insert(new, Arc::new(Pool::new(new, device, props.handle_types)));
        handle.set(new)
    }
    fn cuMemPoolDestroy(handle: u64) {
        pool(handle)?;
        if driver().device_pools.iter().any(|(default, _)| *default == handle) {
            return Err(Status::INVALID_VALUE);
        }
        for (default, current) in &driver().device_pools {
            let mut current = current.lock();
            if *current == handle {
                *current = *default;
            }
        }
        driver().pools.remove(handle);
        Ok(())
    }
    fn cuMemPoolTrimTo(handle: u64, _keep: u64) {
        pool(handle).map(drop)
    }
    fn cuMemPoolSetAccess(handle: u64, list: In<AccessDesc>, count: u64) {
        let pool = pool(handle)?;
        let count = usize::try_from(count).map_err(|_| Status::INVALID_VALUE)?;
        for desc in list.all(count)? {
            pool.set_access(device_of(desc.location)?, permission(desc.flags)?)?;
        }
        Ok(())
    }
    fn cuMemPoolGetAccess(flags: Out<u32>, handle: u64, at: In<MemLocation>) {
        let device = device_of(at.get()?)?;
        flags.set(match pool(handle)?.access(device) {
            Permission::None => 0,
            Permission::Read => 1,
            Permission::ReadWrite => 3,
        })
    }
    fn cuMemPoolExportToShareableHandle(out: Out<u8>, handle: u64, kind: u32, flags: u64) {
        let pool = pool(handle)?;
        if out.is_null() || flags != 0 || kind != POSIX_FD || pool.handle_types & POSIX_FD == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let arena = AddressSpace::global().arena_file(pool.device)?;
        out.cast::<RawFd>().set(arena.export()?.into_raw_fd())
    }
    fn cuMemPoolImportFromShareableHandle(
        handle: Out<u64>, shared: u64, kind: u32, flags: u64
    ) {
        if handle.is_null() || flags != 0 || kind != POSIX_FD {
            return Err(Status::INVALID_VALUE);
        }
        // For a descriptor, the pointer argument *is* the number.
        let fd = RawFd::try_from(shared).map_err(|_| Status::INVALID_VALUE)?;
        let arena = ArenaFile::of_descriptor(fd).map_err(|_| Status::INVALID_VALUE)?;
        let new = driver().pools.reserve();
        driver().pools.insert(new, Arc::new(Pool::import(new, arena)));
        handle.set(new)
    }
    fn cuMemPoolExportPointer(data: Out<ipc::Handle>, pointer: u64) {
        data.set(ipc::pool_pointer(pointer)?)
    }
    fn cuMemPoolImportPointer(pointer: Out<u64>, handle: u64, data: In<ipc::Handle>) {
        let (context, pool) = (healthy()?, pool(handle)?);
        let arena = pool.imported.as_ref().ok_or(Status::INVALID_VALUE)?;
        if pointer.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        pointer.set(ipc::import_pool_pointer(arena, context.device, &data.get()?)?)
    }
    fn cuMemPoolGetAttribute(handle: u64, attribute: u32, value: Out<u8>) {
        match pool(handle)?.attribute(attribute)? {
            (word, 4) => value.cast().set(u32::try_from(word).map_err(|_| Status::UNKNOWN)?),
            (wide, _) => value.cast().set(wide),
        }
    }
    fn cuMemPoolSetAttribute(handle: u64, attribute: u32, value: In<u8>) {
        let given = match attribute {
            1..=3 => u64::from(In::<u32>::at(value.address()).get()?),
            _ => In::<u64>::at(value.address()).get()?,
        };
        pool(handle)?.set_attribute(attribute, given)
    }
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz, default (pointer: Out<u64>, bytes: u64, on: u64) {
        alloc(pointer, bytes, None, (on, default))
    }
    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz, default (
        pointer: Out<u64>, bytes: u64, handle: u64, on: u64
    ) {
        alloc(pointer, bytes, Some(handle), (on, default))
    }
    fn cuMemFreeAsync | cuMemFreeAsync_ptsz, default (pointer: u64, on: u64) {
        let (context, stream) = stream(on, default)?;
        memory::free_async(&context, &stream, pointer)
    }
}
