//! Initialisation, errors, devices.

#![expect(unsafe_code, reason = "exported C functions; fork handler")]

use std::ffi::c_char;

use super::entry;
use super::pointers::{In, Out};
use super::types::DeviceProp;
use crate::driver::attributes;
use crate::driver::machine::driver;
use crate::driver::report;
use crate::driver::status::Status;
use crate::exec::{Config, inject};
use crate::mem::AddressSpace;

/// The version of the API: CUDA 13.0.
const VERSION: i32 = 13_000;

entries! { call_any:
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        Config::check_environment().map_err(|why| report::mistake(&why))?;
        if Config::global().devices == 0 {
            return Err(Status::NO_DEVICE);
        }
        inject::from_environment().map_err(|why| report::mistake(&why))?;
        entry::initialise(|handler| {
            // SAFETY: the handler only stores to an atomic.
            unsafe { libc::pthread_atfork(None, None, Some(handler)) };
        })
    }
    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }
    fn cuGetErrorString(error: u32, text: Out<*const c_char>) {
        let found = Status(error).text();
        text.set(found.map_or(std::ptr::null(), |t| t.as_ptr()))?;
        found.map(drop).ok_or(Status::INVALID_VALUE)
    }
    fn cuGetErrorName(error: u32, text: Out<*const c_char>) {
        let found = Status(error).name();
        text.set(found.map_or(std::ptr::null(), |t| t.as_ptr()))?;
        found.map(drop).ok_or(Status::INVALID_VALUE)
    }
}

fn attribute(device: u32, number: u32) -> i32 {
    attributes::device_attribute(device, number).unwrap_or(0)
}

fn properties(device: u32) -> DeviceProp {
    let a = |number| attribute(device, number);
    DeviceProp {
        max_threads_per_block: a(1),
        max_threads_dim: [a(2), a(3), a(4)],
        max_grid_size: [a(5), a(6), a(7)],
        shared_per_block: a(8),
        constant_memory: a(9),
        warp_size: a(10),
        max_pitch: a(11),
        registers_per_block: a(12),
        clock_rate: a(13),
        texture_align: a(14),
    }
}

entries! { call:
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        driver().device(ordinal)?;
        device.set(ordinal)
    }
    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(i32::try_from(Config::global().devices).map_err(|_| Status::UNKNOWN)?)
    }
    fn cuDeviceGetName(name: Out<u8>, len: i32, device: i32) {
        driver().device(device)?;
        let len = usize::try_from(len).map_err(|_| Status::INVALID_VALUE)?;
        if name.is_null() || len == 0 {
            return Err(Status::INVALID_VALUE);
        }
        name.set_text(attributes::NAME.as_bytes(), len);
        Ok(())
    }
    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) {
        uuid.set(attributes::uuid(driver().device(device)?))
    }
    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        uuid.set(attributes::uuid(driver().device(device)?))
    }
    fn cuDeviceTotalMem_v2(bytes: Out<u64>, device: i32) {
        let device = driver().device(device)?;
        bytes.set(AddressSpace::global().memory_info(device).1)
    }
    fn cuDeviceGetAttribute(value: Out<i32>, number: u32, device: i32) {
        let device = driver().device(device)?;
        value.set(attributes::device_attribute(device, number)?)
    }
    fn cuDeviceGetProperties(prop: Out<DeviceProp>, device: i32) {
        prop.set(properties(driver().device(device)?))
    }
    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let device = driver().device(device)?;
        major.set(attribute(device, 75))?;
        minor.set(attribute(device, 76))
    }
    fn cuDeviceGetPCIBusId(text: Out<u8>, len: i32, device: i32) {
        let id = attributes::pci_bus_id(driver().device(device)?);
        let len = usize::try_from(len).map_err(|_| Status::INVALID_VALUE)?;
        if text.is_null() || len <= id.len() {
            return Err(Status::INVALID_VALUE);
        }
        text.set_text(id.as_bytes(), len);
        Ok(())
    }
    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: In<c_char>) {
        let id = id.text()?.to_ascii_uppercase();
        let full = if id.matches(':').count() == 1 { format!("0000:{id}") } else { id };
        let known = (0..Config::global().devices).find(|&d| {
            let ours = attributes::pci_bus_id(d);
            ours == full || ours.strip_suffix(".0") == Some(&full)
        });
        let known = known.ok_or(Status::INVALID_DEVICE)?;
        device.set(i32::try_from(known).map_err(|_| Status::UNKNOWN)?)
    }
    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        let (device, peer) = (driver().device(device)?, driver().device(peer)?);
        can.set(i32::from(device != peer))
    }
    fn cuDeviceGetP2PAttribute(value: Out<i32>, number: u32, source: i32, target: i32) {
        let (source, target) = (driver().device(source)?, driver().device(target)?);
        if source == target {
            return Err(Status::INVALID_DEVICE);
        }
        match number {
            2 | 3 => value.set(1),
            1 | 4 | 5 => value.set(0),
            _ => Err(Status::INVALID_VALUE),
        }
    }
    fn cuProfilerStart() {
        Ok(())
    }
    fn cuProfilerStop() {
        Ok(())
    }
}
