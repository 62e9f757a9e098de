//! Functions, their attributes, occupancy.

#![expect(
    unsafe_code,
    reason = "exported C functions; callbacks into the client"
)]

use std::ffi::c_char;
use std::sync::Arc;

use super::pointers::{In, Out};
use super::types::LaunchConfig;
use crate::driver::context::healthy;
use crate::driver::library::{KernelRef, function};
use crate::driver::machine::driver;
use crate::driver::module::Function;
use crate::driver::occupancy;
use crate::driver::status::{Result, Status};

/// `CUoccupancyB2DSize`: dynamic shared memory for a block size.
type SharedFor = Option<unsafe extern "C" fn(threads: i32) -> u64>;

fn natural(value: i32) -> Result<u32> {
    u32::try_from(value).map_err(|_| Status::INVALID_VALUE)
}

fn whole(value: u64) -> Result<i32> {
    i32::try_from(value).map_err(|_| Status::INVALID_VALUE)
}

fn param_info(function: &Function, index: u64, offset: Out<u64>, bytes: Out<u64>) -> Result<()> {
    let index = usize::try_from(index).map_err(|_| Status::INVALID_VALUE)?;
    let param = function.kernel.function().params.get(index);
    let param = param.ok_or(Status::INVALID_VALUE)?;
    bytes.set_if(u64::from(param.size));
    offset.set(u64::from(param.offset))
}

/// The kernel as loaded into the primary context of a device.
fn on_device(kernel: u64, device: i32) -> Result<Arc<Function>> {
    let (kernel, device) = (KernelRef::get(kernel)?, driver().device(device)?);
    let context = healthy()?;
    if context.device != device {
        return Err(Status::INVALID_DEVICE);
    }
    kernel.function(&context)
}

fn active_blocks(count: Out<i32>, handle: u64, threads: i32, dynamic: u64) -> Result<()> {
    let blocks = occupancy::blocks_per_sm(&*function(handle)?, natural(threads)?, dynamic)?;
    count.set(whole(u64::from(blocks))?)
}

/// The block size, a multiple of 32, that fills most of a multiprocessor; the largest such.
fn best_block(
    (min_grid, block): (Out<i32>, Out<i32>),
    handle: u64,
    shared_for: SharedFor,
    dynamic: u64,
    limit: i32,
) -> Result<()> {
    let function = function(handle)?;
    let limit = match natural(limit)? {
        0 => function.max_threads(),
        limit => limit.min(function.max_threads()),
    };
    let mut best = (0, 0, 0);
    for threads in (1..=limit.div_ceil(32)).map(|warps| (warps * 32).min(limit)) {
        let dynamic = match shared_for {
            // SAFETY: the client vouches for its function.
            Some(f) => unsafe { f(whole(u64::from(threads))?) },
            None => dynamic,
        };
        let blocks = occupancy::blocks_per_sm(&function, threads, dynamic)?;
        if blocks * threads >= best.0 && blocks > 0 {
            best = (blocks * threads, threads, blocks);
        }
    }
    let sms = u64::from(crate::exec::Config::global().sms);
    min_grid.set(whole(u64::from(best.2) * sms)?)?;
    block.set(whole(u64::from(best.1))?)
}

fn cluster_of(config: &LaunchConfig, function: &Function) -> Result<[u32; 3]> {
    let asked = super::launch::attributes(config)?.cluster;
    Ok(asked.or(function.required_cluster()).unwrap_or([1; 3]))
}

entries! { call:
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, handle: u64) {
        value.set(function(handle)?.attribute(attribute)?)
    }
    fn cuFuncSetAttribute(handle: u64, attribute: u32, value: i32) {
        function(handle)?.set_attribute(attribute, value)
    }
    fn cuFuncSetCacheConfig(handle: u64, config: u32) {
        function(handle)?;
        if config > 3 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }
    fn cuFuncSetSharedMemConfig(handle: u64, config: u32) {
        function(handle)?;
        if config > 2 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }
    fn cuFuncGetModule(module: Out<u64>, handle: u64) {
        module.set(function(handle)?.module)
    }
    fn cuFuncGetName(name: Out<*const c_char>, handle: u64) {
        name.set(function(handle)?.c_name.as_ptr())
    }
    fn cuFuncGetParamInfo(handle: u64, index: u64, offset: Out<u64>, bytes: Out<u64>) {
        param_info(&*function(handle)?, index, offset, bytes)
    }
    fn cuFuncIsLoaded(state: Out<u32>, handle: u64) {
        const LOADED: u32 = 1;
        function(handle)?;
        state.set(LOADED)
    }
    fn cuFuncLoad(handle: u64) {
        function(handle).map(drop)
    }
    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: u64, device: i32) {
        value.set(on_device(kernel, device)?.attribute(attribute)?)
    }
    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: u64, device: i32) {
        let (known, ordinal) = (KernelRef::get(kernel)?, driver().device(device)?);
        if let Ok(loaded) = on_device(kernel, device) {
            loaded.set_attribute(attribute, value)?;
        }
        known.set_attribute(ordinal, attribute, value);
        Ok(())
    }
    fn cuKernelSetCacheConfig(kernel: u64, config: u32, device: i32) {
        driver().device(device)?;
        KernelRef::get(kernel)?;
        if config > 3 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }
    fn cuKernelGetParamInfo(kernel: u64, index: u64, offset: Out<u64>, bytes: Out<u64>) {
        param_info(&*function(kernel)?, index, offset, bytes)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        count: Out<i32>, handle: u64, threads: i32, dynamic: u64
    ) {
        active_blocks(count, handle, threads, dynamic)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: Out<i32>, handle: u64, threads: i32, dynamic: u64, flags: u32
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        active_blocks(count, handle, threads, dynamic)
    }
    fn cuOccupancyMaxPotentialBlockSize(
        min_grid: Out<i32>, block: Out<i32>, handle: u64, shared_for: SharedFor,
        dynamic: u64, limit: i32
    ) {
        best_block((min_grid, block), handle, shared_for, dynamic, limit)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        min_grid: Out<i32>, block: Out<i32>, handle: u64, shared_for: SharedFor,
        dynamic: u64, limit: i32, flags: u32
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        best_block((min_grid, block), handle, shared_for, dynamic, limit)
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<u64>, handle: u64, blocks: i32, threads: i32
    ) {
        let function = function(handle)?;
        let (blocks, threads) = (natural(blocks)?, natural(threads)?);
        bytes.set(occupancy::available_dynamic_shared(&function, blocks, threads)?)
    }
    fn cuOccupancyMaxPotentialClusterSize(size: Out<i32>, handle: u64, config: In<LaunchConfig>) {
        config.get()?;
        let wide = function(handle)?.settings.lock().non_portable_cluster;
        size.set(if wide { 16 } else { 8 })
    }
    fn cuOccupancyMaxActiveClusters(count: Out<i32>, handle: u64, config: In<LaunchConfig>) {
        let (function, config) = (function(handle)?, config.get()?);
        let cluster: u32 = cluster_of(&config, &function)?.iter().product();
        let threads: u32 = config.block.iter().product();
        let dynamic = u64::from(config.shared_bytes);
        let blocks = occupancy::blocks_per_device(&function, threads, dynamic)?;
        count.set(whole(blocks / u64::from(cluster.max(1)))?)
    }
}
