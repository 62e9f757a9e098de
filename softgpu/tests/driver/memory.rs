//! Allocations, copies, fills, pointer queries, pools.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUmemorytype, CUpointer_attribute, CUresult};

use crate::support::{Context, DEFAULT, alloc, assert_same, download, upload};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

#[test]
fn copies_move_the_bytes_asked_for() {
    let _context = Context::new(0);
    let values: Vec<u32> = (0..1000).collect();
    let a = upload(&values);
    let b = alloc::<u32>(1000);
    cu!(cuMemsetD32_v2(b, 7, 1000));
    cu!(cuMemcpyDtoD_v2(b + 40, a, 400));
    let expected: Vec<u32> = (0..1000)
        .map(|i| if (10..110).contains(&i) { i - 10 } else { 7 })
        .collect();
    assert_same(&download::<u32>(b, 1000), &expected);
    cu!(cuMemcpy(a, b, 4000));
    assert_same(&download::<u32>(a, 1000), &expected);
    // Beyond the allocation, or nothing at all.
    assert_eq!(code!(cuMemcpyDtoD_v2(b + 512, a, 4000)), INVALID);
    assert_eq!(code!(cuMemcpyDtoD_v2(0, a, 4)), INVALID);
    cu!(cuMemFree_v2(a));
    assert_eq!(code!(cuMemFree_v2(a)), INVALID);
    assert_eq!(code!(cuMemcpyDtoD_v2(b, a, 4)), INVALID);
}

#[test]
fn memsets_fill_by_element_and_row() {
    let _context = Context::new(0);
    let at = alloc::<u8>(64);
    cu!(cuMemsetD8_v2(at, 0, 64));
    cu!(cuMemsetD16_v2(at + 2, 0x1234, 3));
    cu!(cuMemsetD2D8_v2(at + 16, 16, 9, 2, 3));
    let mut expected = vec![0u8; 64];
    expected[2..8].copy_from_slice(&[0x34, 0x12, 0x34, 0x12, 0x34, 0x12]);
    for row in [16, 32, 48] {
        expected[row] = 9;
        expected[row + 1] = 9;
    }
    assert_same(&download::<u8>(at, 64), &expected);
    assert_eq!(code!(cuMemsetD32_v2(at + 2, 0, 1)), INVALID);
}

#[test]
fn two_dimensional_copies_respect_pitch_and_offset() {
    let _context = Context::new(0);
    let host: Vec<u8> = (0..80).collect();
    let device = alloc::<u8>(256);
    cu!(cuMemsetD8_v2(device, 0xEE, 256));
    let copy = sys::CUDA_MEMCPY2D_st {
        srcXInBytes: 3,
        srcY: 1,
        srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: host.as_ptr().cast(),
        srcDevice: 0,
        srcArray: std::ptr::null_mut(),
        srcPitch: 10,
        dstXInBytes: 5,
        dstY: 2,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: std::ptr::null_mut(),
        dstDevice: device,
        dstArray: std::ptr::null_mut(),
        dstPitch: 32,
        WidthInBytes: 6,
        Height: 4,
    };
    cu!(cuMemcpy2D_v2(&copy));
    let mut expected = vec![0xEEu8; 256];
    for row in 0..4 {
        for column in 0..6 {
            expected[(row + 2) * 32 + 5 + column] = host[(row + 1) * 10 + 3 + column];
        }
    }
    assert_same(&download::<u8>(device, 256), &expected);
    let too_narrow = sys::CUDA_MEMCPY2D_st {
        dstPitch: 5,
        ..copy
    };
    assert_eq!(code!(cuMemcpy2D_v2(&too_narrow)), INVALID);
}

#[test]
fn asynchronous_copies_stage_pageable_memory() {
    let _context = Context::new(0);
    let device = alloc::<u64>(4096);
    let mut host: Vec<u64> = (0..4096).collect();
    cu!(cuMemcpyHtoDAsync_v2(
        device,
        host.as_ptr().cast::<c_void>(),
        32_768,
        DEFAULT
    ));
    // The source may be reused at once.
    host.fill(0);
    cu!(cuMemcpyDtoHAsync_v2(
        host.as_mut_ptr().cast::<c_void>(),
        device,
        32_768,
        DEFAULT
    ));
    // A pageable destination is complete when the call returns.
    let expected: Vec<u64> = (0..4096).collect();
    assert_same(&host, &expected);
}

#[test]
fn host_memory_is_visible_under_its_own_address() {
    let _context = Context::new(1);
    let mut pinned = std::ptr::null_mut();
    cu!(cuMemHostAlloc(&mut pinned, 4096, 2));
    let mut device = 0;
    cu!(cuMemHostGetDevicePointer_v2(&mut device, pinned, 0));
    assert_eq!(device, pinned.addr() as u64);
    cu!(cuMemsetD32_v2(device, 5, 1024));
    assert_same(&download::<u32>(device, 1024), &[5; 1024]);
    cu!(cuMemFreeHost(pinned));
    let mut own = vec![1u32; 100];
    cu!(cuMemHostRegister_v2(own.as_mut_ptr().cast(), 400, 0));
    let again = code!(cuMemHostRegister_v2(own.as_mut_ptr().cast(), 400, 0));
    assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    cu!(cuMemHostUnregister(own.as_mut_ptr().cast()));
    let gone = code!(cuMemHostUnregister(own.as_mut_ptr().cast()));
    assert_eq!(gone, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

#[test]
fn pointers_tell_where_they_belong() {
    let _context = Context::new(3);
    let at = alloc::<u8>(1000);
    let attribute = |which, pointer| {
        let mut value = 0u64;
        let result = code!(cuPointerGetAttribute(
            (&raw mut value).cast(),
            which,
            pointer
        ));
        (result, value)
    };
    use CUpointer_attribute::*;
    let ok = |value| (CUresult::CUDA_SUCCESS, value);
    assert_eq!(attribute(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at + 5), ok(2));
    assert_eq!(
        attribute(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, at + 5),
        ok(3)
    );
    assert_eq!(
        attribute(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, at + 999),
        ok(at)
    );
    assert_eq!(attribute(CU_POINTER_ATTRIBUTE_RANGE_SIZE, at), ok(1000));
    assert_eq!(attribute(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 4096).0, INVALID);
    let (mut base, mut bytes) = (0, 0);
    cu!(cuMemGetAddressRange_v2(&mut base, &mut bytes, at + 500));
    assert_eq!((base, bytes), (at, 1000));
    let (mut free, mut total) = (0, 0);
    cu!(cuMemGetInfo_v2(&mut free, &mut total));
    assert!(free < total && free > total - (1 << 30));
    assert_eq!(
        code!(cuMemAlloc_v2(&mut 0, total + 1)),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
    );
}

#[test]
fn pools_count_what_is_in_use() {
    let _context = Context::new(5);
    let mut pool = std::ptr::null_mut();
    cu!(cuDeviceGetDefaultMemPool(&mut pool, 5));
    let used = || {
        let mut value = 0u64;
        let which = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        cu!(cuMemPoolGetAttribute(pool, which, (&raw mut value).cast()));
        value
    };
    let mut at = 0;
    cu!(cuMemAllocAsync(&mut at, 5000, DEFAULT));
    assert_eq!(used(), 5000);
    cu!(cuMemsetD8Async(at, 1, 5000, DEFAULT));
    cu!(cuMemFreeAsync(at, DEFAULT));
    cu!(cuStreamSynchronize(DEFAULT));
    assert_eq!(used(), 0);
    assert_eq!(code!(cuMemFreeAsync(at, DEFAULT)), INVALID);
}

#[test]
fn a_destroyed_context_frees_its_memory() {
    let at = {
        let _context = Context::new(6);
        alloc::<u8>(100)
    };
    let _context = Context::new(6);
    assert_eq!(code!(cuMemsetD8_v2(at, 0, 1)), INVALID);
}

#[test]
fn managed_memory_takes_advice_and_nothing_else_does() {
    let _context = Context::new(0);
    let mut managed = 0;
    cu!(cuMemAllocManaged(&mut managed, 8192, 1));
    let other = alloc::<u32>(1);
    let device = sys::CUmemLocation {
        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: 0,
    };
    let advice = sys::CUmem_advise::CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    cu!(cuMemAdvise_v2(managed, 4096, advice, device));
    cu!(cuMemPrefetchAsync_v2(managed, 8192, device, 0, DEFAULT));
    assert_eq!(code!(cuMemAdvise_v2(other, 4, advice, device)), invalid);
    assert_eq!(
        code!(cuMemPrefetchAsync_v2(other, 4, device, 0, DEFAULT)),
        invalid
    );
    assert_eq!(
        code!(cuMemPrefetchAsync_v2(managed, 8193, device, 0, DEFAULT)),
        invalid
    );
    let nowhere = sys::CUmemLocation { id: 99, ..device };
    assert_eq!(
        code!(cuMemPrefetchAsync_v2(managed, 4, nowhere, 0, DEFAULT)),
        CUresult::CUDA_ERROR_INVALID_DEVICE
    );
    let mut last = 7i32;
    cu!(cuMemRangeGetAttribute(
        (&raw mut last).cast(),
        4,
        sys::CUmem_range_attribute::CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION,
        managed,
        8192
    ));
    assert_eq!(last, -2);
    cu!(cuMemFree_v2(managed));
}

#[test]
fn pointers_tell_their_pool() {
    let _context = Context::new(0);
    let (mut pool, mut pointer) = (std::ptr::null_mut(), 0);
    cu!(cuDeviceGetDefaultMemPool(&mut pool, 0));
    cu!(cuMemAllocAsync(&mut pointer, 64, DEFAULT));
    let pool_of = |pointer: u64| {
        let mut found: sys::CUmemoryPool = std::ptr::null_mut();
        cu!(cuPointerGetAttribute(
            (&raw mut found).cast(),
            CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE,
            pointer
        ));
        found
    };
    assert_eq!(pool_of(pointer), pool);
    assert!(pool_of(alloc::<u32>(1)).is_null());
    cu!(cuMemFreeAsync(pointer, DEFAULT));
    cu!(cuCtxSynchronize());
}

/// Zeroing ends at its edges, whatever their alignment, in memory that was written before.
#[test]
fn large_zeroing_clears_just_its_range() {
    let _context = Context::new(1);
    let bytes = 6usize << 20;
    let at = alloc::<u8>(bytes);
    for (start, len) in [
        (0, bytes),
        (1, bytes - 2),
        (4097, 3 << 20),
        ((1 << 20) + 5, (2 << 20) + 1),
        (bytes - (2 << 20), 2 << 20),
    ] {
        cu!(cuMemsetD8_v2(at, 0xA5, bytes));
        cu!(cuMemsetD8_v2(at + start as u64, 0, len));
        let found = download::<u8>(at, bytes);
        let expected = |i: usize| {
            if (start..start + len).contains(&i) {
                0
            } else {
                0xA5
            }
        };
        let wrong = (0..bytes).find(|&i| found[i] != expected(i));
        assert_eq!(wrong, None, "zeroing {len} bytes at {start}");
    }
    cu!(cuMemFree_v2(at));
}
