//! Exported names, look-up by version, structure layouts.

#![expect(unsafe_code, reason = "symbols are looked up by name")]

use std::ffi::{CStr, CString};

use cudarc::driver::sys::CUresult;

use crate::support::library;

const NAMES: &str = include_str!("../../testdata/cuda_13_0_symbols.txt");

fn address(name: &str) -> Option<usize> {
    // SAFETY: only the address is used.
    let symbol = unsafe { library().get::<unsafe extern "C" fn()>(name.as_bytes()) };
    symbol.ok().map(|s| *s as usize)
}

#[test]
fn every_name_of_the_header_is_exported() {
    let names: Vec<&str> = NAMES.lines().filter(|l| !l.starts_with('#')).collect();
    assert!(names.len() > 600);
    let missing: Vec<&&str> = names.iter().filter(|n| address(n).is_none()).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

fn look_up(name: &str, version: i32, flags: u64) -> (CUresult, usize, u32) {
    let name = CString::new(name).unwrap();
    let mut found = std::ptr::null_mut();
    let mut status =
        cudarc::driver::sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
    let result = code!(cuGetProcAddress_v2(
        name.as_ptr(),
        &mut found,
        version,
        flags,
        &mut status
    ));
    (result, found.addr(), status as u32)
}

#[test]
fn look_up_by_version_gives_the_exported_symbols() {
    let success = |name: &str| (CUresult::CUDA_SUCCESS, address(name).unwrap(), 0);
    assert_eq!(look_up("cuMemAlloc", 12_000, 0), success("cuMemAlloc_v2"));
    assert_eq!(look_up("cuCtxCreate", 13_000, 0), success("cuCtxCreate_v4"));
    assert_eq!(
        look_up("cuLaunchKernel", 13_000, 2),
        success("cuLaunchKernel_ptsz")
    );
    assert_eq!(
        look_up("cuMemcpyHtoD", 13_000, 2),
        success("cuMemcpyHtoD_v2_ptds")
    );
    assert_eq!(look_up("cuInit", 13_000, 2), success("cuInit"));
    let not_found = CUresult::CUDA_ERROR_NOT_FOUND;
    assert_eq!(look_up("cuNotYetInvented", 13_000, 0), (not_found, 0, 1));
    assert_eq!(look_up("cuDeviceGetUuid", 9000, 0), (not_found, 0, 2));
}

#[test]
fn what_is_not_implemented_answers_801() {
    let mut luid = [0; 8];
    let result = code!(cuTexRefCreate(luid.as_mut_ptr().cast()));
    assert_eq!(result, CUresult::CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn errors_have_names_and_texts() {
    let mut text = std::ptr::null();
    cu!(cuGetErrorName(
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        &mut text
    ));
    // SAFETY: a static C string.
    let name = unsafe { CStr::from_ptr(text) };
    assert_eq!(name, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    cu!(cuGetErrorString(
        CUresult::CUDA_ERROR_INVALID_VALUE,
        &mut text
    ));
    // SAFETY: a static C string.
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"invalid argument");
}

#[test]
fn devices_describe_an_h100() {
    use cudarc::driver::sys::CUdevice_attribute::*;
    let mut count = 0;
    cu!(cuDeviceGetCount(&mut count));
    assert_eq!(count, 8);
    let attribute = |which| {
        let mut value = 0;
        cu!(cuDeviceGetAttribute(&mut value, which, 7));
        value
    };
    assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
    assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH), 1);
    assert_eq!(
        attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
        232_448
    );
    let mut name = [1; 64];
    cu!(cuDeviceGetName(name.as_mut_ptr(), 64, 0));
    // SAFETY: NUL-terminated within 64 bytes, as checked by the success.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    assert_eq!(name, c"softgpu H100 80GB HBM3");
    let mut bytes = 0;
    cu!(cuDeviceTotalMem_v2(&mut bytes, 0));
    assert!((79 << 30..80 << 30).contains(&bytes));
    assert_eq!(
        code!(cuDeviceGet(&mut 0, 8)),
        CUresult::CUDA_ERROR_INVALID_DEVICE
    );
    assert_eq!(
        code!(cuDeviceGetCount(std::ptr::null_mut())),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn a_forked_child_is_not_initialised() {
    library();
    // SAFETY: the child calls only the driver's guard and _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = code!(cuCtxSynchronize()) as i32;
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(refused) };
    }
    let mut status = 0;
    // SAFETY: waits for the child forked above.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    let not_initialised = CUresult::CUDA_ERROR_NOT_INITIALIZED as i32;
    assert_eq!(
        (libc::WIFEXITED(status), libc::WEXITSTATUS(status)),
        (true, not_initialised)
    );
}
