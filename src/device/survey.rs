//! What the devices can do.
//!
//! # Safety
//! Every call asks the driver about a device that it has just named, into a valid place for the answer.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use cudarc::driver::sys::{CUdevice, CUdevice_attribute as Attribute};

use super::context::{device_handle, name};
use super::driver::call;
use super::{DeviceError, library};

/// One device, as far as it decides which paths can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSurvey {
    /// Its index.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: [u32; 2],
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Its memory can be handed to processes of the host, as files.
    pub file_handles: bool,
    /// Its memory can be handed to other hosts of the NVLink domain.
    pub fabric_handles: bool,
    /// It can take part in multicast objects.
    pub multicast: bool,
    /// By device, whether it can reach that one's memory; its own, always.
    pub peers: Vec<bool>,
}

/// Looks at all devices of the chosen library, without taking hold of any.
///
/// # Errors
/// As [`selected`](super::selected), or a driver error.
pub fn survey() -> Result<Vec<DeviceSurvey>, DeviceError> {
    let count = library::selected()?.devices;
    let handles = (0..count).map(device_handle);
    let devices = handles.collect::<Result<Vec<_>, _>>()?;
    (0..count)
        .zip(&devices)
        .map(|(ordinal, &device)| look(ordinal, device, &devices))
        .collect()
}

fn look(ordinal: u32, device: CUdevice, all: &[CUdevice]) -> Result<DeviceSurvey, DeviceError> {
    let number = |which| attribute(device, which);
    let can = |which| number(which).map(|value| value != 0);
    let mut memory = 0;
    // SAFETY: as the header of this file says.
    unsafe { call!(cuDeviceTotalMem_v2(&raw mut memory, device)) }?;
    Ok(DeviceSurvey {
        ordinal,
        name: name(device)?,
        capability: [
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
        file_handles: can(
            Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
        )?,
        fabric_handles: can(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED)?,
        multicast: can(Attribute::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED)?,
        peers: all
            .iter()
            .map(|&peer| reaches(device, peer))
            .collect::<Result<_, _>>()?,
    })
}

fn attribute(device: CUdevice, which: Attribute) -> Result<u32, DeviceError> {
    let mut value = 0;
    // SAFETY: as the header of this file says.
    unsafe { call!(cuDeviceGetAttribute(&raw mut value, which, device)) }?;
    Ok(u32::try_from(value).unwrap_or(0))
}

fn reaches(device: CUdevice, peer: CUdevice) -> Result<bool, DeviceError> {
    if device == peer {
        return Ok(true);
    }
    let mut can = 0;
    // SAFETY: as the header of this file says.
    unsafe { call!(cuDeviceCanAccessPeer(&raw mut can, device, peer)) }?;
    Ok(can != 0)
}
