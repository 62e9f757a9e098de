//! Allocations, host memory, pointer queries.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::{In, Out};
use super::types::MemLocation;
use crate::driver::capture;
use crate::driver::context::{DefaultStream, current_handle, healthy, stream};
use crate::driver::machine::driver;
use crate::driver::memory::{self, PointerValue};
use crate::driver::status::{Result, Status};
use crate::mem::{AddressSpace, MemError, RegionKind};

/// Row pitch that `cuMemAllocPitch` rounds to.
const PITCH: u64 = 512;

fn alloc_host(pointer: Out<u64>, bytes: u64) -> Result<()> {
    let context = healthy()?;
    if pointer.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    pointer.set(memory::alloc_host(&context, bytes, RegionKind::Host)?)
}

fn register(address: u64, bytes: u64, flags: u32) -> Result<()> {
    healthy()?;
    if flags & !0xF != 0 {
        return Err(Status::INVALID_VALUE);
    }
    match AddressSpace::global().register_host(address, bytes) {
        Ok(_) => Ok(()),
        Err(MemError::Invalid { expected, .. }) if expected.contains("not registered") => {
            Err(Status::HOST_MEMORY_ALREADY_REGISTERED)
        }
        Err(error) => Err(error.into()),
    }
}

/// Bytes of an attribute's value where it has none.
fn zero(attribute: u32) -> PointerValue {
    match attribute {
        2 | 9 | 16 => PointerValue::Word(0),
        6 | 8 | 10 | 13 | 15 | 21 => PointerValue::Flag(false),
        _ => PointerValue::Wide(0),
    }
}

fn put(data: Out<u8>, value: PointerValue) -> Result<()> {
    match value {
        PointerValue::Word(word) => data.cast().set(word),
        PointerValue::Wide(wide) => data.cast().set(wide),
        PointerValue::Flag(flag) => data.set(u8::from(flag)),
    }
}

/// Managed memory, whole.
fn managed(pointer: u64, bytes: u64) -> Result<()> {
    let region = AddressSpace::global().lookup(pointer);
    let managed = region.filter(|r| r.kind == RegionKind::Managed && r.contains(pointer, bytes));
    managed
        .filter(|_| bytes > 0)
        .map(drop)
        .ok_or(Status::INVALID_VALUE)
}

/// A prefetch of managed memory moves nothing: there is one memory.
fn prefetch((pointer, bytes): (u64, u64), on: u64, default: DefaultStream) -> Result<()> {
    stream(on, default)?.0.health.check()?;
    managed(pointer, bytes)
}

fn advise((pointer, bytes): (u64, u64), advice: u32) -> Result<()> {
    healthy()?;
    managed(pointer, bytes)?;
    if (1..=6).contains(&advice) {
        Ok(())
    } else {
        Err(Status::INVALID_VALUE)
    }
}

/// A device, or -1 for the host.
fn device_or_host(device: i32) -> Result<()> {
    const HOST: i32 = -1;
    if device == HOST {
        return Ok(());
    }
    driver().device(device).map(drop)
}

/// What advice and prefetches of managed memory have left behind. Here they change nothing: there is
/// no preferred location, nobody was told of, and nothing was prefetched.
fn range_attribute(
    data: Out<u8>,
    size: u64,
    attribute: u32,
    (pointer, bytes): (u64, u64),
) -> Result<()> {
    const INVALID_DEVICE: i32 = -2;
    const READ_MOSTLY: u32 = 1;
    const ACCESSED_BY: u32 = 3;
    if data.is_null() || bytes == 0 || size == 0 || !size.is_multiple_of(4) {
        return Err(Status::INVALID_VALUE);
    }
    managed(pointer, bytes)?;
    let words = usize::try_from(size / 4).map_err(|_| Status::INVALID_VALUE)?;
    match attribute {
        READ_MOSTLY => data.cast().set(0i32),
        ACCESSED_BY => data
            .cast()
            .set_all(std::iter::repeat_n(INVALID_DEVICE, words)),
        2 | 4 => data.cast().set(INVALID_DEVICE),
        // Location types: invalid.
        5 | 7 => data.cast().set(0i32),
        6 | 8 => data.cast().set(INVALID_DEVICE),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn known(address: u64, bytes: u64) -> Result<()> {
    if AddressSpace::global().is_allocated(address, bytes) {
        return Ok(());
    }
    Err(Status::INVALID_VALUE)
}

entries! { call:
    fn cuMemAlloc_v2(pointer: Out<u64>, bytes: u64) {
        let context = healthy()?;
        if pointer.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        pointer.set(memory::alloc(&context, bytes)?)
    }
    fn cuMemAllocPitch_v2(
        pointer: Out<u64>, pitch: Out<u64>, width: u64, height: u64, element: u32
    ) {
        let context = healthy()?;
        if pointer.is_null() || pitch.is_null() || !matches!(element, 4 | 8 | 16) {
            return Err(Status::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Status::OUT_OF_MEMORY)?;
        let bytes = row.checked_mul(height).ok_or(Status::OUT_OF_MEMORY)?;
        pitch.set(row)?;
        pointer.set(memory::alloc(&context, bytes)?)
    }
    fn cuMemFree_v2(pointer: u64) {
        let context = healthy()?;
        if pointer == 0 {
            return Ok(());
        }
        memory::free(&context, pointer)
    }
    fn cuMemGetInfo_v2(free: Out<u64>, total: Out<u64>) {
        let (unused, all) = AddressSpace::global().memory_info(healthy()?.device);
        free.set_if(unused);
        total.set_if(all);
        Ok(())
    }
    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<u64>, pointer: u64) {
        healthy()?;
        let region = AddressSpace::global().lookup(pointer).ok_or(Status::NOT_FOUND)?;
        base.set_if(region.base);
        bytes.set_if(region.bytes);
        Ok(())
    }
    fn cuMemAllocHost(pointer: Out<u64>, bytes: u64) {
        alloc_host(pointer, bytes)
    }
    fn cuMemAllocHost_v2(pointer: Out<u64>, bytes: u64) {
        alloc_host(pointer, bytes)
    }
    fn cuMemHostAlloc(pointer: Out<u64>, bytes: u64, flags: u32) {
        if flags & !7 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        alloc_host(pointer, bytes)
    }
    fn cuMemFreeHost(pointer: u64) {
        memory::free_host(&*healthy()?, pointer)
    }
    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, pointer: u64, flags: u32) {
        healthy()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        known(pointer, 1)?;
        device.set(pointer)
    }
    fn cuMemHostGetFlags(flags: Out<u32>, pointer: u64) {
        const DEVICE_MAP: u32 = 2;
        healthy()?;
        let region = AddressSpace::global().lookup(pointer);
        match region.map(|r| r.kind) {
            Some(RegionKind::Host | RegionKind::Registered) => flags.set(DEVICE_MAP),
            _ => Err(Status::INVALID_VALUE),
        }
    }
    fn cuMemHostRegister(pointer: u64, bytes: u64, flags: u32) {
        register(pointer, bytes, flags)
    }
    fn cuMemHostRegister_v2(pointer: u64, bytes: u64, flags: u32) {
        register(pointer, bytes, flags)
    }
    fn cuMemHostUnregister(pointer: u64) {
        let context = healthy()?;
        capture::refuse_unsafe()?;
        context.finish()?;
        let done = AddressSpace::global().unregister_host(pointer);
        done.map_err(|_| Status::HOST_MEMORY_NOT_REGISTERED)
    }
    fn cuMemAllocManaged(pointer: Out<u64>, bytes: u64, flags: u32) {
        let context = healthy()?;
        if pointer.is_null() || !matches!(flags, 1 | 2) {
            return Err(Status::INVALID_VALUE);
        }
        pointer.set(memory::alloc_host(&context, bytes, RegionKind::Managed)?)
    }
    fn cuMemPrefetchAsync_v2 | cuMemPrefetchAsync_v2_ptsz, default (
        pointer: u64, bytes: u64, location: MemLocation, flags: u32, on: u64
    ) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        super::virtual_memory::location(location)?;
        prefetch((pointer, bytes), on, default)
    }
    fn cuMemPrefetchAsync | cuMemPrefetchAsync_ptsz, default (
        pointer: u64, bytes: u64, device: i32, on: u64
    ) {
        device_or_host(device)?;
        prefetch((pointer, bytes), on, default)
    }
    fn cuMemAdvise_v2(pointer: u64, bytes: u64, advice: u32, location: MemLocation) {
        const PREFERRED_LOCATION: u32 = 3;
        const NOT_ACCESSED: u32 = 6;
        if (PREFERRED_LOCATION..=NOT_ACCESSED).contains(&advice) && advice != 4 {
            super::virtual_memory::location(location)?;
        }
        advise((pointer, bytes), advice)
    }
    fn cuMemAdvise(pointer: u64, bytes: u64, advice: u32, device: i32) {
        device_or_host(device)?;
        advise((pointer, bytes), advice)
    }
    fn cuMemRangeGetAttribute(
        data: Out<u8>, size: u64, attribute: u32, pointer: u64, bytes: u64
    ) {
        healthy()?;
        range_attribute(data, size, attribute, (pointer, bytes))
    }
    fn cuMemRangeGetAttributes(
        data: In<u64>, sizes: In<u64>, attributes: In<u32>, count: u64, pointer: u64, bytes: u64
    ) {
        healthy()?;
        for i in 0..usize::try_from(count).map_err(|_| Status::INVALID_VALUE)? {
            let to = Out::at(data.get_at(i)?);
            range_attribute(to, sizes.get_at(i)?, attributes.get_at(i)?, (pointer, bytes))?;
        }
        Ok(())
    }
    fn cuStreamAttachMemAsync | cuStreamAttachMemAsync_ptsz, default (
        on: u64, pointer: u64, _bytes: u64, _flags: u32
    ) {
        stream(on, default)?.0.health.check()?;
        known(pointer, 1)
    }
    fn cuPointerGetAttribute(data: Out<u8>, attribute: u32, pointer: u64) {
        put(data, memory::pointer_attribute(current_handle(), attribute, pointer)?)
    }
    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, data: In<u64>, pointer: u64) {
        for i in 0..count as usize {
            let (attribute, at) = (attributes.get_at(i)?, data.get_at(i)?);
            let value = memory::pointer_attribute(current_handle(), attribute, pointer);
            put(Out::at(at), value.unwrap_or_else(|_| zero(attribute)))?;
        }
        Ok(())
    }
    fn cuPointerSetAttribute(value: In<u32>, attribute: u32, pointer: u64) {
        const SYNC_MEMOPS: u32 = 6;
        value.get()?;
        known(pointer, 1)?;
        if attribute == SYNC_MEMOPS { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
}
