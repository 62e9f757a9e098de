//! Virtual memory management.

#![expect(unsafe_code, reason = "exported C functions")]

use std::os::fd::RawFd;

use super::pointers::{In, Out};
use super::types::{AccessDesc, AllocationProp, MemLocation};
use crate::driver::machine::driver;
use crate::driver::multicast;
use crate::driver::status::{Result, Status};
use crate::driver::virtual_memory::{self as vm, Request};
use crate::mem::{AddressSpace, GRANULARITY, Location, Permission};

const LOCATION_DEVICE: u32 = 1;
const LOCATION_HOST: u32 = 2;
const TYPE_PINNED: u32 = 1;

pub(super) fn location(at: MemLocation) -> Result<Location> {
    const HOST_NUMA: u32 = 3;
    const HOST_NUMA_CURRENT: u32 = 4;
    match at.kind {
        LOCATION_DEVICE => Ok(Location::Device(driver().device(at.id)?)),
        LOCATION_HOST | HOST_NUMA | HOST_NUMA_CURRENT => Ok(Location::Host),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn checked(prop: In<AllocationProp>) -> Result<(AllocationProp, Location)> {
    let prop = prop.get()?;
    if prop.kind != TYPE_PINNED {
        return Err(Status::INVALID_VALUE);
    }
    Ok((prop, location(prop.location)?))
}

pub(super) fn permission(flags: u32) -> Result<Permission> {
    match flags {
        0 => Ok(Permission::None),
        1 => Ok(Permission::Read),
        3 => Ok(Permission::ReadWrite),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn unflagged(flags: u64) -> Result<()> {
    if flags == 0 {
        Ok(())
    } else {
        Err(Status::INVALID_VALUE)
    }
}

entries! { call:
    fn cuMemAddressReserve(pointer: Out<u64>, bytes: u64, align: u64, wanted: u64, flags: u64) {
        unflagged(flags)?;
        if pointer.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        pointer.set(AddressSpace::global().reserve(bytes, align, wanted)?)
    }
    fn cuMemAddressFree(pointer: u64, bytes: u64) {
        Ok(AddressSpace::global().release_reservation(pointer, bytes)?)
    }
    fn cuMemCreate(handle: Out<u64>, bytes: u64, prop: In<AllocationProp>, flags: u64) {
        unflagged(flags)?;
        let (prop, location) = checked(prop)?;
        if handle.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let request = Request {
            handle_types: prop.handle_types,
            rdma: prop.rdma,
        };
        handle.set(vm::create(location, bytes, request)?)
    }
    fn cuMemRelease(handle: u64) {
        vm::release(handle)
    }
    fn cuMemMap(pointer: u64, bytes: u64, offset: u64, handle: u64, flags: u64) {
        unflagged(flags)?;
        if let Ok(object) = multicast::get(handle) {
            return object.map(pointer, bytes, offset);
        }
        unflagged(offset)?;
        let object = vm::get(handle)?;
        Ok(AddressSpace::global().map(pointer, bytes, &object.physical, 0)?)
    }
    fn cuMemUnmap(pointer: u64, bytes: u64) {
        if let Some(done) = multicast::unmap(pointer, bytes) {
            return done;
        }
        Ok(AddressSpace::global().unmap(pointer, bytes)?)
    }
    fn cuMemSetAccess(pointer: u64, bytes: u64, list: In<AccessDesc>, count: u64) {
        let count = usize::try_from(count).map_err(|_| Status::INVALID_VALUE)?;
        for desc in list.all(count)? {
            let permission = permission(desc.flags)?;
            // The host may always access what is mapped; only devices need permission.
            if let Location::Device(device) = location(desc.location)? {
                match multicast::set_access(pointer, bytes, device, permission) {
                    Some(done) => done?,
                    None => {
                        AddressSpace::global().set_access(pointer, bytes, device, permission)?;
                    }
                }
            }
        }
        Ok(())
    }
    fn cuMemGetAccess(flags: Out<u64>, at: In<MemLocation>, pointer: u64) {
        let Location::Device(device) = location(at.get()?)? else {
            return Err(Status::NOT_SUPPORTED);
        };
        flags.set(match AddressSpace::global().access(pointer, device)? {
            Permission::None => 0,
            Permission::Read => 1,
            Permission::ReadWrite => 3,
        })
    }
    fn cuMemExportToShareableHandle(out: Out<u8>, handle: u64, handle_type: u32, flags: u64) {
        unflagged(flags)?;
        if out.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        if handle_type == vm::HANDLE_FABRIC {
            return out.cast().set(vm::export_fabric(handle)?);
        }
        out.cast::<RawFd>().set(vm::export(handle, handle_type)?)
    }
    fn cuMemImportFromShareableHandle(handle: Out<u64>, shared: u64, handle_type: u32) {
        if handle.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        if handle_type == vm::HANDLE_FABRIC {
            return handle.set(vm::import_fabric(In::at(shared).get()?)?);
        }
        // For a descriptor, the pointer argument *is* the number.
        let fd = RawFd::try_from(shared).map_err(|_| Status::INVALID_VALUE)?;
        handle.set(vm::import(fd, handle_type)?)
    }
    fn cuMemGetAllocationGranularity(bytes: Out<u64>, prop: In<AllocationProp>, option: u32) {
        checked(prop)?;
        if option > 1 {
            return Err(Status::INVALID_VALUE);
        }
        bytes.set(GRANULARITY)
    }
    fn cuMemGetAllocationPropertiesFromHandle(prop: Out<AllocationProp>, handle: u64) {
        let object = vm::get(handle)?;
        let (kind, id) = match object.physical.location() {
            Location::Device(device) => {
                let id = i32::try_from(device).map_err(|_| Status::UNKNOWN)?;
                (LOCATION_DEVICE, id)
            }
            Location::Host => (LOCATION_HOST, 0),
        };
        prop.set(AllocationProp {
            kind: TYPE_PINNED,
            handle_types: object.request.handle_types,
            location: MemLocation { kind, id },
            win32: 0,
            compression: 0,
            rdma: object.request.rdma,
            usage: 0,
            reserved: [0; 4],
        })
    }
    fn cuMemRetainAllocationHandle(handle: Out<u64>, pointer: u64) {
        if handle.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        handle.set(vm::retain(pointer)?)
    }
}
