//! Contexts and peer access.

#![expect(unsafe_code, reason = "exported C functions")]

use super::pointers::{In, Out};
use crate::driver::context::{self, by_handle, current, healthy};
use crate::driver::machine::driver;
use crate::driver::status::{Result, Status};
use crate::exec::device::services;
use crate::mem::{AddressSpace, Peer};

/// `CUctx_flags`: everything that 13.0 knows.
const KNOWN_FLAGS: u32 = 0xFF;
/// Bytes of L2 that may be set aside.
const MAX_PERSISTING_L2: usize = 32_768_000;

fn create(handle: Out<u64>, flags: u32, device: i32) -> Result<()> {
    let device = driver().device(device)?;
    if handle.is_null() || flags & !KNOWN_FLAGS != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let created = driver().create_context(device, flags);
    context::push_current(created);
    handle.set(created)
}

fn destroy(handle: u64) -> Result<()> {
    driver().destroy_context(handle)?;
    if context::current_handle() == handle {
        context::pop_current()?;
    }
    Ok(())
}

fn push(handle: u64) -> Result<()> {
    by_handle(handle)?;
    context::push_current(handle);
    Ok(())
}

fn pop(handle: Out<u64>) -> Result<()> {
    let popped = context::pop_current()?;
    handle.set_if(popped);
    Ok(())
}

fn set_primary_flags(device: i32, flags: u32) -> Result<()> {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Status::INVALID_VALUE);
    }
    driver().set_primary_flags(driver().device(device)?, flags)
}

/// The limit's default, `None` if softgpu does not know it.
fn default_limit(limit: u32) -> Option<usize> {
    Some(match limit {
        0 => 1024,
        1 => 1 << 20,
        2 => 8 << 20,
        4 => 2048,
        5 => 128,
        6 => 0,
        _ => return None,
    })
}

entries! { call:
    fn cuDevicePrimaryCtxRetain(handle: Out<u64>, device: i32) {
        let device = driver().device(device)?;
        if handle.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        handle.set(driver().retain_primary(device)?)
    }
    fn cuDevicePrimaryCtxRelease(device: i32) {
        driver().release_primary(driver().device(device)?)
    }
    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        driver().release_primary(driver().device(device)?)
    }
    fn cuDevicePrimaryCtxReset(device: i32) {
        driver().reset_primary(driver().device(device)?)
    }
    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        driver().reset_primary(driver().device(device)?)
    }
    fn cuDevicePrimaryCtxSetFlags(device: i32, flags: u32) {
        set_primary_flags(device, flags)
    }
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        set_primary_flags(device, flags)
    }
    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let (set, is_active) = driver().primary_state(driver().device(device)?)?;
        flags.set_if(set);
        active.set_if(i32::from(is_active));
        Ok(())
    }
    fn cuCtxCreate(handle: Out<u64>, flags: u32, device: i32) {
        create(handle, flags, device)
    }
    fn cuCtxCreate_v2(handle: Out<u64>, flags: u32, device: i32) {
        create(handle, flags, device)
    }
    fn cuCtxCreate_v3(handle: Out<u64>, affinity: In<u64>, count: i32, flags: u32, device: i32) {
        if count != 0 && !affinity.is_null() {
            return Err(Status::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(handle, flags, device)
    }
    fn cuCtxCreate_v4(handle: Out<u64>, params: In<[u64; 3]>, flags: u32, device: i32) {
        // Execution affinity, how many of them, sharing with a graphics client.
        match params.get() {
            Err(_) | Ok([0, _, 0]) => {}
            Ok([_, _, 0]) => return Err(Status::UNSUPPORTED_EXEC_AFFINITY),
            Ok(_) => return Err(Status::NOT_SUPPORTED),
        }
        create(handle, flags, device)
    }
    fn cuCtxDestroy(handle: u64) {
        destroy(handle)
    }
    fn cuCtxDestroy_v2(handle: u64) {
        destroy(handle)
    }
    fn cuCtxPushCurrent(handle: u64) {
        push(handle)
    }
    fn cuCtxPushCurrent_v2(handle: u64) {
        push(handle)
    }
    fn cuCtxPopCurrent(handle: Out<u64>) {
        pop(handle)
    }
    fn cuCtxPopCurrent_v2(handle: Out<u64>) {
        pop(handle)
    }
    fn cuCtxSetCurrent(handle: u64) {
        if handle != 0 {
            by_handle(handle)?;
        }
        context::set_current(handle);
        Ok(())
    }
    fn cuCtxGetCurrent(handle: Out<u64>) {
        handle.set(context::current_handle())
    }
    fn cuCtxGetDevice(device: Out<i32>) {
        device.set(i32::try_from(current()?.device).map_err(|_| Status::UNKNOWN)?)
    }
    fn cuCtxGetDevice_v2(device: Out<i32>, handle: u64) {
        device.set(i32::try_from(by_handle(handle)?.device).map_err(|_| Status::UNKNOWN)?)
    }
    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(*current()?.flags.lock())
    }
    fn cuCtxSetFlags(flags: u32) {
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        *current()?.flags.lock() = flags;
        Ok(())
    }
    fn cuCtxGetId(handle: u64, id: Out<u64>) {
        id.set(by_handle(handle)?.handle)
    }
    fn cuCtxSynchronize() {
        current()?.synchronize()
    }
    fn cuCtxSynchronize_v2(handle: u64) {
        by_handle(handle)?.synchronize()
    }
    fn cuCtxGetApiVersion(handle: u64, version: Out<u32>) {
        by_handle(handle)?;
        version.set(3020)
    }
    fn cuCtxSetLimit(limit: u32, value: u64) {
        let context = healthy()?;
        default_limit(limit).ok_or(Status::UNSUPPORTED_LIMIT)?;
        let value = usize::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
        let value = if limit == 6 { value.min(MAX_PERSISTING_L2) } else { value };
        context.limits.lock().insert(limit, value);
        let services = services(context.device);
        match limit {
            0 => services.set_stack_bytes(value),
            1 => services.set_printf_bytes(value),
            2 => services.set_heap_bytes(value),
            _ => {}
        }
        Ok(())
    }
    fn cuCtxGetLimit(value: Out<u64>, limit: u32) {
        let context = healthy()?;
        let default = default_limit(limit).ok_or(Status::UNSUPPORTED_LIMIT)?;
        let set = context.limits.lock().get(&limit).copied();
        value.set(set.unwrap_or(default) as u64)
    }
    fn cuCtxGetCacheConfig(config: Out<u32>) {
        let set = *current()?.cache_config.lock();
        config.set(set)
    }
    fn cuCtxSetCacheConfig(config: u32) {
        let context = current()?;
        if config > 3 {
            return Err(Status::INVALID_VALUE);
        }
        *context.cache_config.lock() = config;
        Ok(())
    }
    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        current()?;
        config.set(1)
    }
    fn cuCtxSetSharedMemConfig(config: u32) {
        current()?;
        if config > 2 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }
    fn cuCtxResetPersistingL2Cache() {
        healthy().map(drop)
    }
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if(0);
        greatest.set_if(super::stream::GREATEST_PRIORITY);
        Ok(())
    }
    fn cuCtxEnablePeerAccess(peer: u64, flags: u32) {
        let (context, peer) = (healthy()?, by_handle(peer)?);
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if peer.handle == context.handle {
            return Err(Status::INVALID_CONTEXT);
        }
        if peer.device == context.device {
            return Err(Status::PEER_ACCESS_UNSUPPORTED);
        }
        if !context.peers.lock().insert(peer.device) {
            return Err(Status::PEER_ACCESS_ALREADY_ENABLED);
        }
        let space = AddressSpace::global();
        Ok(space.set_peer(peer.device, context.device, Peer::Enabled)?)
    }
    fn cuCtxDisablePeerAccess(peer: u64) {
        let (context, peer) = (healthy()?, by_handle(peer)?);
        if !context.peers.lock().remove(&peer.device) {
            return Err(Status::PEER_ACCESS_NOT_ENABLED);
        }
        let space = AddressSpace::global();
        Ok(space.set_peer(peer.device, context.device, Peer::Disabled)?)
    }
}
