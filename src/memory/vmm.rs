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

use std::sync::Arc;

use cudarc::driver::sys::{
    CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1,
    CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType,
};

use super::MemoryError;
use crate::device::driver::call;
use crate::device::{Context, DeviceError, Stream};

fn location(context: &Context) -> CUmemLocation {
    CUmemLocation {
        type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: i32::try_from(context.ordinal()).unwrap_or(i32::MAX),
    }
}

fn properties(context: &Context) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        // Ranks are threads of one process and share the handle itself.
        requestedHandleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
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
    let properties = properties(context);
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

/// Physical memory of one device, without an address. Shared by `Arc`, also between ranks.
#[derive(Debug)]
pub struct Physical {
    context: Arc<Context>,
    handle: CUmemGenericAllocationHandle,
    bytes: u64,
}

impl Physical {
    /// Allocates at least `bytes`, rounded up to the device's granularity. The contents are undefined.
    ///
    /// # Errors
    /// A driver error, such as out of memory.
    pub fn new(context: &Arc<Context>, bytes: u64) -> Result<Self, MemoryError> {
        let bytes = round_to_granularity(context, bytes)?;
        let properties = properties(context);
        let mut handle = 0;
        let size = bytes as usize;
        // SAFETY: a valid place for the answer and valid properties.
        unsafe { call!(cuMemCreate(&raw mut handle, size, &raw const properties, 0)) }?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
            bytes,
        })
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

    fn release(&mut self) -> Result<(), DeviceError> {
        self.context.bind()?;
        let mut result = Ok(());
        for mapped in self.mapped.drain(..) {
            let size = mapped.physical.bytes() as usize;
            // SAFETY: mapped in `map`, unmapped once; users of the memory are past it by contract.
            let unmapped = unsafe { call!(cuMemUnmap(mapped.address, size)) };
            result = result.and(unmapped);
        }
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
