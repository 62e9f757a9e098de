//! Multicast objects.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::{In, Out};
use super::types::MulticastProp;
use crate::driver::machine::driver;
use crate::driver::multicast;
use crate::driver::status::{Result, Status};
use crate::mem::GRANULARITY;

fn checked(prop: In<MulticastProp>) -> Result<MulticastProp> {
    let prop = prop.get()?;
    if prop.flags == 0 {
        Ok(prop)
    } else {
        Err(Status::INVALID_VALUE)
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
    fn cuMulticastCreate(handle: Out<u64>, prop: In<MulticastProp>) {
        let prop = checked(prop)?;
        if handle.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        handle.set(multicast::create(prop.devices, prop.size, prop.handle_types)?)
    }
    fn cuMulticastAddDevice(handle: u64, device: i32) {
        multicast::get(handle)?.add_device(driver().device(device)?)
    }
    fn cuMulticastBindMem(
        handle: u64, offset: u64, memory: u64, memory_offset: u64, bytes: u64, flags: u64
    ) {
        unflagged(flags)?;
        let object = multicast::get(handle)?;
        let memory = multicast::memory_of(memory)?;
        object.bind(offset, (&memory, memory_offset), bytes)
    }
    fn cuMulticastBindAddr(handle: u64, offset: u64, pointer: u64, bytes: u64, flags: u64) {
        unflagged(flags)?;
        let object = multicast::get(handle)?;
        let (memory, memory_offset) = multicast::memory_at(pointer)?;
        object.bind(offset, (&memory, memory_offset), bytes)
    }
    fn cuMulticastUnbind(handle: u64, device: i32, offset: u64, bytes: u64) {
        let device = driver().device(device)?;
        multicast::get(handle)?.unbind(device, offset, bytes)
    }
    fn cuMulticastGetGranularity(bytes: Out<u64>, prop: In<MulticastProp>, option: u32) {
        checked(prop)?;
        if option > 1 {
            return Err(Status::INVALID_VALUE);
        }
        bytes.set(GRANULARITY)
    }
}
