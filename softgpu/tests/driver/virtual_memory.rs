//! Virtual memory management.

use cudarc::driver::sys::{self, CUmemAccess_flags_enum as Access, CUresult};

use crate::support::{Context, assert_same, download};

pub(crate) const MIB: usize = 1 << 20;

/// Allocation properties for a device, exportable as a file descriptor.
pub(crate) fn properties(device: i32) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes:
            sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        location: location(device),
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

fn location(device: i32) -> sys::CUmemLocation {
    sys::CUmemLocation {
        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    }
}

/// Lets a device read and write a mapped range.
pub(crate) fn allow(at: u64, bytes: usize, device: i32) {
    let desc = sys::CUmemAccessDesc {
        location: location(device),
        flags: Access::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    cu!(cuMemSetAccess(at, bytes, &desc, 1));
}

#[test]
fn exported_memory_is_shared_between_mappings() {
    let _context = Context::new(2);
    let mut granularity = 0;
    let option = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    cu!(cuMemGetAllocationGranularity(
        &mut granularity,
        &properties(2),
        option
    ));
    assert_eq!(granularity, 2 * MIB);
    let bytes = 4 * MIB;
    let (mut first, mut second, mut fd) = (0, 0, -1);
    cu!(cuMemCreate(&mut first, bytes, &properties(2), 0));
    let fd_type = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    cu!(cuMemExportToShareableHandle(
        (&raw mut fd).cast::<i32>().cast(),
        first,
        fd_type,
        0
    ));
    let as_pointer = std::ptr::without_provenance_mut(usize::try_from(fd).unwrap());
    cu!(cuMemImportFromShareableHandle(
        &mut second,
        as_pointer,
        fd_type
    ));
    let mut at = 0;
    cu!(cuMemAddressReserve(&mut at, 2 * bytes, 0, 0, 0));
    cu!(cuMemMap(at, bytes, 0, first, 0));
    cu!(cuMemMap(at + bytes as u64, bytes, 0, second, 0));
    allow(at, 2 * bytes, 2);
    cu!(cuMemsetD32_v2(at + 4096, 0xABCD, 100));
    assert_same(
        &download::<u32>(at + bytes as u64 + 4096, 100),
        &[0xABCD; 100],
    );
    // The handles may go; the mappings keep the memory.
    cu!(cuMemRelease(first));
    cu!(cuMemRelease(second));
    assert_eq!(
        code!(cuMemRelease(first)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    let mut again = 0;
    let inside = std::ptr::without_provenance_mut(usize::try_from(at + 77).unwrap());
    cu!(cuMemRetainAllocationHandle(&mut again, inside));
    let mut found = properties(0);
    cu!(cuMemGetAllocationPropertiesFromHandle(&mut found, again));
    assert_eq!(found.location.id, 2);
    cu!(cuMemRelease(again));
    cu!(cuMemUnmap(at, 2 * bytes));
    cu!(cuMemAddressFree(at, 2 * bytes));
    assert_eq!(
        code!(cuMemAddressFree(at, 2 * bytes)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn misuse_is_refused() {
    let _context = Context::new(2);
    let mut handle = 0;
    let odd = code!(cuMemCreate(&mut handle, MIB, &properties(2), 0));
    assert_eq!(odd, CUresult::CUDA_ERROR_INVALID_VALUE);
    let nowhere = code!(cuMemCreate(&mut handle, 2 * MIB, &properties(99), 0));
    assert_eq!(nowhere, CUresult::CUDA_ERROR_INVALID_DEVICE);
    let mut at = 0;
    cu!(cuMemAddressReserve(&mut at, 2 * MIB, 0, 0, 0));
    let unmapped = code!(cuMemUnmap(at, 2 * MIB));
    assert_eq!(unmapped, CUresult::CUDA_ERROR_INVALID_VALUE);
    let no_handle = code!(cuMemMap(at, 2 * MIB, 0, 1234, 0));
    assert_eq!(no_handle, CUresult::CUDA_ERROR_INVALID_VALUE);
    cu!(cuMemAddressFree(at, 2 * MIB));
}

#[test]
fn copies_and_fills_respect_access_rights() {
    let _context = Context::new(2);
    let bytes = 2 * MIB;
    let (mut handle, mut at) = (0, 0);
    cu!(cuMemCreate(&mut handle, bytes, &properties(2), 0));
    cu!(cuMemAddressReserve(&mut at, bytes, 0, 0, 0));
    cu!(cuMemMap(at, bytes, 0, handle, 0));
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    let mut word = 0u32;
    let to = (&raw mut word).cast::<std::ffi::c_void>();
    // Mapped, but accessible to nobody.
    assert_eq!(code!(cuMemsetD32_v2(at, 1, 1)), invalid);
    assert_eq!(code!(cuMemcpyDtoH_v2(to, at, 4)), invalid);
    let desc = sys::CUmemAccessDesc {
        location: location(2),
        flags: Access::CU_MEM_ACCESS_FLAGS_PROT_READ,
    };
    cu!(cuMemSetAccess(at, bytes, &desc, 1));
    assert_eq!(code!(cuMemsetD32_v2(at, 1, 1)), invalid);
    assert_eq!(code!(cuMemcpyHtoD_v2(at, to.cast_const(), 4)), invalid);
    cu!(cuMemcpyDtoH_v2(to, at, 4));
    allow(at, bytes, 2);
    cu!(cuMemsetD32_v2(at, 77, 1));
    assert_same(&download::<u32>(at, 1), &[77]);
}
