//! A device's primary context: owner of loaded kernels and collector of deferred errors.
//!
//! # Safety
//! Driver handles in this file come from the driver and live until the context is dropped, which
//! happens after every stream, buffer and kernel, as each of those holds the context.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute};

use super::driver::call;
use super::kernel::Loaded;
use super::{DeviceError, library};

/// A device with its primary context. Shared by `Arc`; usable from any thread.
#[derive(Debug)]
pub struct Context {
    ordinal: u32,
    device: CUdevice,
    handle: CUcontext,
    pub(super) loaded: Mutex<HashMap<&'static str, Arc<Loaded>>>,
    pub(super) replaced: Mutex<HashMap<&'static str, String>>,
    deferred: Mutex<Vec<DeviceError>>,
}

// SAFETY: driver contexts may be used from any thread; the rest is behind locks.
unsafe impl Send for Context {}
// SAFETY: as above; no method changes unlocked state.
unsafe impl Sync for Context {}

/// Ignores poisoning: the maps are valid after any panic of a holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of devices and name of the first, straight from the driver.
pub(super) fn describe() -> Result<(u32, String), DeviceError> {
    // SAFETY: flags must be 0.
    unsafe { call!(cuInit(0)) }?;
    let mut devices = 0;
    // SAFETY: a valid place for the answer.
    unsafe { call!(cuDeviceGetCount(&raw mut devices)) }?;
    Ok((
        u32::try_from(devices).unwrap_or(0),
        name(device_handle(0)?)?,
    ))
}

pub(super) fn device_handle(ordinal: u32) -> Result<CUdevice, DeviceError> {
    let mut device = 0;
    let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
    // SAFETY: a valid place for the answer.
    unsafe { call!(cuDeviceGet(&raw mut device, ordinal)) }?;
    Ok(device)
}

pub(super) fn name(device: CUdevice) -> Result<String, DeviceError> {
    let mut bytes = [0u8; 256];
    // SAFETY: the driver writes at most 256 bytes with a final NUL.
    unsafe { call!(cuDeviceGetName(bytes.as_mut_ptr().cast(), 256, device)) }?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Number of devices of the chosen library.
///
/// # Errors
/// As [`library::selected`].
pub fn device_count() -> Result<u32, DeviceError> {
    Ok(library::selected()?.devices)
}

impl Context {
    /// Retains the primary context of device `ordinal`.
    ///
    /// # Errors
    /// No device library, an ordinal that is not below [`device_count`], or a driver error.
    pub fn new(ordinal: u32) -> Result<Arc<Self>, DeviceError> {
        library::selected()?;
        let device = device_handle(ordinal)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a valid place for the answer and a device of this driver.
        unsafe { call!(cuDevicePrimaryCtxRetain(&raw mut handle, device)) }?;
        Ok(Arc::new(Self {
            ordinal,
            device,
            handle,
            loaded: Mutex::default(),
            replaced: Mutex::default(),
            deferred: Mutex::default(),
        }))
    }

    /// Index of the device.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Name of the device.
    ///
    /// # Errors
    /// A driver error.
    pub fn name(&self) -> Result<String, DeviceError> {
        name(self.device)
    }

    /// Streaming multiprocessors.
    ///
    /// # Errors
    /// A driver error.
    pub fn multiprocessors(&self) -> Result<u32, DeviceError> {
        self.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
    }

    pub(crate) fn device(&self) -> CUdevice {
        self.device
    }

    /// A device attribute that is a count.
    pub(crate) fn attribute(&self, which: CUdevice_attribute) -> Result<u32, DeviceError> {
        let mut value = 0;
        // SAFETY: a valid place for the answer and a device of this driver.
        unsafe { call!(cuDeviceGetAttribute(&raw mut value, which, self.device)) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Makes this context current on the calling thread; every operation begins with it.
    pub(crate) fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { call!(cuCtxSetCurrent(self.handle)) }
    }

    /// Records an error of a `drop`, which cannot return it.
    pub(crate) fn defer(&self, result: Result<(), DeviceError>) {
        if let Err(error) = result {
            lock(&self.deferred).push(error);
        }
    }

    /// Errors of drops since the last call.
    pub fn take_deferred_errors(&self) -> Vec<DeviceError> {
        std::mem::take(&mut lock(&self.deferred))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Nothing remains that could report these: the primary context is released anyway.
        if self.bind().is_err() {
            return;
        }
        for (_, loaded) in lock(&self.loaded).drain() {
            // SAFETY: kernels hold the context, so none of this module's is left.
            let _ = unsafe { sys::cuModuleUnload(loaded.module) };
        }
        // SAFETY: retained once in `new`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
