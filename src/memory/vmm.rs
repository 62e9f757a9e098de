//! Physical memory and address ranges as separate objects (the driver's virtual memory management).
//!
//! # Safety
//! A [`Physical`] handle is released once, in its drop; a [`Reservation`] unmaps what it mapped and frees
//! its range once, in its drop. The driver keeps physical memory until its last mapping is gone,
//! and every mapping here holds its `Physical`, so owners may be dropped in any order.
#![expect(unsafe_code, reason = "calls the CUDA driver")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes were checked to fit isize when they were rounded up"
)]

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use cudarc::driver::sys::{
    CUdevice_attribute, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1,
    CUmemAllocationType, CUmemFabricHandle, CUmemGenericAllocationHandle, CUmemLocation,
    CUmemLocationType,
};
use serde::{Deserialize, Serialize};

use super::MemoryError;
use crate::device::driver::call;
use crate::device::{Context, DeviceError, Stream};

/// How memory is handed to other ranks of this host.
const FILE: CUmemAllocationHandleType =
    CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
/// How memory is handed to ranks of other hosts in the same NVLink domain.
const FABRIC: CUmemAllocationHandleType = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC;

fn location(context: &Context) -> CUmemLocation {
    CUmemLocation {
        type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: i32::try_from(context.ordinal()).unwrap_or(i32::MAX),
    }
}

fn properties(context: &Context, handles: CUmemAllocationHandleType) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: handles,
        location: location(context),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

/// `bytes` rounded up to what the device maps at once; at least one such unit.
pub(super) fn round_to_granularity(context: &Context, bytes: u64) -> Result<u64, MemoryError> {
    context.bind()?;
    let mut unit = 0;
    let properties = properties(context, FILE);
    let option = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
    // SAFETY: a valid place for the answer and valid properties.
    unsafe {
        call!(cuMemGetAllocationGranularity(
            &raw mut unit,
            &raw const properties,
            option
        ))
    }?;
    bytes
        .max(1)
        .checked_next_multiple_of(unit.max(1) as u64)
        .filter(|&rounded| isize::try_from(rounded).is_ok())
        .ok_or(MemoryError::TooLarge {
            what: "allocation",
            bytes,
        })
}

/// What names physical memory to any rank of the NVLink domain, also on other hosts, while somebody holds
/// the memory. Plain bytes: they can be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricHandle(Vec<u8>);

/// Physical memory of one device, without an address. It lives as long as any rank holds or maps it.
#[derive(Debug)]
pub struct Physical {
    context: Arc<Context>,
    handle: CUmemGenericAllocationHandle,
    bytes: u64,
    fabric: bool,
}

impl Physical {
    /// Allocates at least `bytes`, rounded up to the device's granularity. The contents are undefined.
    ///
    /// # Errors
    /// A driver error, such as out of memory.
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Self, MemoryError> {
        let bytes = round_to_granularity(context, bytes)?;
        let supported = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED;
        if context.attribute(supported)? != 0 {
            // A device may offer fabric handles on a host that is not set up for them. If memory
            // is short, the second try says so too.
            let both = CUmemAllocationHandleType(FILE.0 | FABRIC.0);
            if let Ok(physical) = Self::create(context, bytes, both) {
                return Ok(physical);
            }
        }
        Self::create(context, bytes, FILE)
    }

    fn create(
        context: &Arc<Context>,
        bytes: u64,
        handles: CUmemAllocationHandleType,
    ) -> Result<Self, MemoryError> {
        let properties = properties(context, handles);
        let mut handle = 0;
        let size = bytes as usize;
        // SAFETY: a valid place for the answer and valid properties.
        unsafe { call!(cuMemCreate(&raw mut handle, size, &raw const properties, 0)) }?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
            bytes,
            fabric: handles != FILE,
        })
    }

    /// A handle for ranks of other hosts, if this host and device offer one.
    ///
    /// # Errors
    /// A driver error.
    pub fn export_fabric(&self) -> Result<Option<FabricHandle>, MemoryError> {
        if !self.fabric {
            return Ok(None);
        }
        self.context.bind()?;
        let mut fabric = CUmemFabricHandle { data: [0; 64] };
        let place = (&raw mut fabric).cast();
        // SAFETY: the handle is alive and was created for this type, whose answer are these bytes.
        unsafe { call!(cuMemExportToShareableHandle(place, self.handle, FABRIC, 0)) }?;
        Ok(Some(FabricHandle(fabric.data.to_vec())))
    }

    /// The memory of `bytes` that a rank, maybe of another host, exported as `fabric`.
    ///
    /// # Errors
    /// A driver error, such as memory that is gone or out of reach.
    pub fn import_fabric(
        context: &Arc<Context>,
        fabric: &FabricHandle,
        bytes: u64,
    ) -> Result<Self, MemoryError> {
        context.bind()?;
        // Bytes of another length come from no rank; then the driver refuses what is left of them.
        let mut data = [0; 64];
        for (to, from) in data.iter_mut().zip(&fabric.0) {
            *to = *from;
        }
        let mut named = CUmemFabricHandle { data };
        let mut handle = 0;
        // SAFETY: a valid place for the answer, and 64 readable bytes.
        unsafe {
            call!(cuMemImportFromShareableHandle(
                &raw mut handle,
                (&raw mut named).cast(),
                FABRIC
            ))
        }?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
            bytes,
            fabric: true,
        })
    }

    /// Takes over a handle of `bytes` that the driver has just given, for ranks of this host.
    pub(super) fn from_handle(
        context: &Arc<Context>,
        handle: CUmemGenericAllocationHandle,
        bytes: u64,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            handle,
            bytes,
            fabric: false,
        }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn handle(&self) -> CUmemGenericAllocationHandle {
        self.handle
    }

    /// A file that stands for the memory, in this process or another that is given it.
    ///
    /// # Errors
    /// A driver error.
    pub fn export(&self) -> Result<OwnedFd, MemoryError> {
        self.context.bind()?;
        let mut file: RawFd = -1;
        let place = (&raw mut file).cast();
        // SAFETY: the handle is alive and was created for this type, whose answer is a descriptor.
        unsafe { call!(cuMemExportToShareableHandle(place, self.handle, FILE, 0)) }?;
        // SAFETY: the driver has just opened it for the caller.
        Ok(unsafe { OwnedFd::from_raw_fd(file) })
    }

    /// The memory of `bytes` that another rank exported as `file`.
    ///
    /// # Errors
    /// A driver error, such as a file that stands for no memory.
    pub fn import(
        context: &Arc<Context>,
        file: BorrowedFd<'_>,
        bytes: u64,
    ) -> Result<Self, MemoryError> {
        context.bind()?;
        let mut handle = 0;
        // The driver takes the number of a descriptor in the place of a pointer.
        let number = file.as_raw_fd().cast_unsigned() as usize as *mut c_void;
        // SAFETY: a valid place for the answer; the descriptor is open and stays the caller's.
        unsafe {
            call!(cuMemImportFromShareableHandle(
                &raw mut handle,
                number,
                FILE
            ))
        }?;
        Ok(Self::from_handle(context, handle, bytes))
    }

    /// Bytes, a multiple of the device's granularity.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        let result = self.context.bind().and_then(|()| {
            // SAFETY: created in `new`, released once.
            unsafe { call!(cuMemRelease(self.handle)) }
        });
        self.context.defer(result);
    }
}

/// A range of addresses, with physical memory mapped into parts of it for one device.
#[derive(Debug)]
pub struct Reservation {
    context: Arc<Context>,
    address: u64,
    bytes: u64,
    mapped: Vec<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    address: u64,
    physical: Arc<Physical>,
}

impl Reservation {
    /// Reserves `bytes` of addresses, rounded up to the granularity of the context's device.
    ///
    /// # Errors
    /// A driver error, such as no room for the range.
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Self, MemoryError> {
        let bytes = round_to_granularity(context, bytes)?;
        let mut address = 0;
        // SAFETY: a valid place for the answer; no address is asked for.
        unsafe {
            call!(cuMemAddressReserve(
                &raw mut address,
                bytes as usize,
                0,
                0,
                0
            ))
        }?;
        Ok(Self {
            context: Arc::clone(context),
            address,
            bytes,
            mapped: Vec::new(),
        })
    }

    /// First address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Maps all of `physical`, of whichever device, at `offset` and lets this context's device read
    /// and write it. Returns the address.
    ///
    /// # Errors
    /// The range is outside the reservation, is mapped already, or a driver error, such as a device that
    /// cannot reach the memory.
    pub fn map(&mut self, offset: u64, physical: &Arc<Physical>) -> Result<u64, MemoryError> {
        let bytes = physical.bytes();
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(MemoryError::TooLarge {
                what: "mapping",
                bytes: end.unwrap_or(u64::MAX),
            });
        }
        self.context.bind()?;
        let address = self.address + offset;
        let size = bytes as usize;
        // SAFETY: the range lies in the reservation, and the driver refuses one that is mapped.
        unsafe { call!(cuMemMap(address, size, 0, physical.handle, 0)) }?;
        // From here on the drop unmaps it.
        self.mapped.push(Mapped {
            address,
            physical: Arc::clone(physical),
        });
        let access = CUmemAccessDesc {
            location: location(&self.context),
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the range was mapped above, and one valid descriptor is given.
        unsafe { call!(cuMemSetAccess(address, size, &raw const access, 1)) }?;
        Ok(address)
    }

    /// Sets all of what is mapped at `address` to zero, in the order of `stream`.
    ///
    /// # Errors
    /// Nothing is mapped there, or a driver error.
    pub fn zero(&mut self, stream: &Stream, address: u64) -> Result<(), MemoryError> {
        let mapped = self.mapped.iter().find(|m| m.address == address);
        let bytes = mapped.map(|m| m.physical.bytes());
        let bytes = bytes.ok_or(MemoryError::NotMapped { address })?;
        stream.context().bind()?;
        // SAFETY: the range is mapped writable; unmapping waits, by contract, for the stream.
        unsafe { call!(cuMemsetD8Async(address, 0, bytes as usize, stream.handle())) }?;
        Ok(())
    }

    /// Unmaps everything; users of the memory are past it.
    pub(crate) fn unmap_all(&mut self) -> Result<(), DeviceError> {
        self.context.bind()?;
        let mut result = Ok(());
        for mapped in self.mapped.drain(..) {
            let size = mapped.physical.bytes() as usize;
            // SAFETY: mapped in `map`, unmapped once; users of the memory are past it by contract.
            let unmapped = unsafe { call!(cuMemUnmap(mapped.address, size)) };
            result = result.and(unmapped);
        }
        result
    }

    fn release(&mut self) -> Result<(), DeviceError> {
        let result = self.unmap_all();
        // SAFETY: reserved in `new`, freed once, and nothing is mapped any more.
        let freed = unsafe { call!(cuMemAddressFree(self.address, self.bytes as usize)) };
        result.and(freed)
    }
}

impl Drop for Reservation {
    /// Whoever handed an address to a kernel keeps the reservation until that kernel has ended.
    fn drop(&mut self) {
        let result = self.release();
        self.context.defer(result);
    }
}
