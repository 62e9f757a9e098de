//! `cuGetProcAddress`: names to symbols.
//!
//! A client asks for a base name, a CUDA version and a kind of default stream. The answer is the
//! newest symbol of that name that existed in that version: the n-th version of a function is
//! exported as `name_vN` (the first as `name`). Versions are those of `cudaTypedefs.h` 13.0.

#![expect(
    unsafe_code,
    reason = "exported C functions; the library looks itself up"
)]

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use super::pointers::{In, Out};
use crate::driver::status::{Result, Status};

/// Functions with several versions, and when each appeared (1000 × major + 10 × minor).
const VERSIONS: &[(&str, &[i32])] = &[
    ("cuArray3DCreate", &[2000, 3020]),
    ("cuArray3DGetDescriptor", &[2000, 3020]),
    ("cuArrayCreate", &[2000, 3020]),
    ("cuArrayGetDescriptor", &[2000, 3020]),
    ("cuCtxCreate", &[2000, 3020, 11040, 12050]),
    ("cuCtxDestroy", &[2000, 4000]),
    ("cuCtxGetDevice", &[2000, 13000]),
    ("cuCtxPopCurrent", &[2000, 4000]),
    ("cuCtxPushCurrent", &[2000, 4000]),
    ("cuCtxSynchronize", &[2000, 13000]),
    ("cuDeviceGetUuid", &[9020, 11040]),
    ("cuDevicePrimaryCtxRelease", &[7000, 11000]),
    ("cuDevicePrimaryCtxReset", &[7000, 11000]),
    ("cuDevicePrimaryCtxSetFlags", &[7000, 11000]),
    ("cuDeviceTotalMem", &[2000, 3020]),
    ("cuEventDestroy", &[2000, 4000]),
    ("cuEventElapsedTime", &[2000, 12080]),
    ("cuGetProcAddress", &[11030, 12000]),
    ("cuGraphAddDependencies", &[10000, 12030]),
    ("cuGraphAddKernelNode", &[10000, 12000]),
    ("cuGraphAddNode", &[12020, 12030]),
    ("cuGraphExecKernelNodeSetParams", &[10010, 12000]),
    ("cuGraphExecUpdate", &[10020, 12000]),
    ("cuGraphGetEdges", &[10000, 12030]),
    ("cuGraphInstantiate", &[10000, 11000]),
    ("cuGraphKernelNodeGetParams", &[10000, 12000]),
    ("cuGraphKernelNodeSetParams", &[10000, 12000]),
    ("cuGraphNodeGetDependencies", &[10000, 12030]),
    ("cuGraphNodeGetDependentNodes", &[10000, 12030]),
    ("cuGraphRemoveDependencies", &[10000, 12030]),
    ("cuGraphicsResourceGetMappedPointer", &[3000, 3020]),
    ("cuGraphicsResourceSetMapFlags", &[3000, 6050]),
    ("cuIpcOpenMemHandle", &[4010, 11000]),
    ("cuLinkAddData", &[5050, 6050]),
    ("cuLinkAddFile", &[5050, 6050]),
    ("cuLinkCreate", &[5050, 6050]),
    ("cuMemAdvise", &[8000, 12020]),
    ("cuMemAlloc", &[2000, 3020]),
    ("cuMemAllocHost", &[2000, 3020]),
    ("cuMemAllocPitch", &[2000, 3020]),
    ("cuMemFree", &[2000, 3020]),
    ("cuMemGetAddressRange", &[2000, 3020]),
    ("cuMemGetInfo", &[2000, 3020]),
    ("cuMemHostGetDevicePointer", &[2020, 3020]),
    ("cuMemHostRegister", &[4000, 6050]),
    ("cuMemPrefetchAsync", &[8000, 12020]),
    ("cuMemcpy2D", &[2000, 3020]),
    ("cuMemcpy2DAsync", &[2000, 3020]),
    ("cuMemcpy2DUnaligned", &[2000, 3020]),
    ("cuMemcpy3D", &[2000, 3020]),
    ("cuMemcpy3DAsync", &[2000, 3020]),
    ("cuMemcpy3DBatchAsync", &[12080, 13000]),
    ("cuMemcpyAtoA", &[2000, 3020]),
    ("cuMemcpyAtoD", &[2000, 3020]),
    ("cuMemcpyAtoH", &[2000, 3020]),
    ("cuMemcpyAtoHAsync", &[2000, 3020]),
    ("cuMemcpyBatchAsync", &[12080, 13000]),
    ("cuMemcpyDtoA", &[2000, 3020]),
    ("cuMemcpyDtoD", &[2000, 3020]),
    ("cuMemcpyDtoDAsync", &[3000, 3020]),
    ("cuMemcpyDtoH", &[2000, 3020]),
    ("cuMemcpyDtoHAsync", &[2000, 3020]),
    ("cuMemcpyHtoA", &[2000, 3020]),
    ("cuMemcpyHtoAAsync", &[2000, 3020]),
    ("cuMemcpyHtoD", &[2000, 3020]),
    ("cuMemcpyHtoDAsync", &[2000, 3020]),
    ("cuMemsetD16", &[2000, 3020]),
    ("cuMemsetD2D16", &[2000, 3020]),
    ("cuMemsetD2D32", &[2000, 3020]),
    ("cuMemsetD2D8", &[2000, 3020]),
    ("cuMemsetD32", &[2000, 3020]),
    ("cuMemsetD8", &[2000, 3020]),
    ("cuModuleGetGlobal", &[2000, 3020]),
    ("cuStreamBatchMemOp", &[8000, 11070]),
    ("cuStreamBeginCapture", &[10000, 10010]),
    ("cuStreamDestroy", &[2000, 4000]),
    ("cuStreamGetCaptureInfo", &[10010, 11030, 12030]),
    ("cuStreamGetCtx", &[9020, 12050]),
    ("cuStreamUpdateCaptureDependencies", &[11030, 12030]),
    ("cuStreamWaitValue32", &[8000, 11070]),
    ("cuStreamWaitValue64", &[9000, 11070]),
    ("cuStreamWriteValue32", &[8000, 11070]),
    ("cuStreamWriteValue64", &[9000, 11070]),
    ("cuTexRefGetAddress", &[2000, 3020]),
    ("cuTexRefSetAddress", &[2000, 3020]),
    ("cuTexRefSetAddress2D", &[2020, 3020, 4010]),
];

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

/// `CUdriverProcAddressQueryResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Query {
    Found = 0,
    SymbolNotFound = 1,
    VersionNotSufficient = 2,
}

/// The symbols that answer to a name, best first, or why there are none.
fn symbols(name: &str, version: i32, flags: u64) -> std::result::Result<Vec<String>, Query> {
    let known = VERSIONS.binary_search_by_key(&name, |&(n, _)| n).ok();
    let versions = known.and_then(|i| VERSIONS.get(i)).map(|&(_, v)| v);
    let symbol = match versions {
        None => name.to_owned(),
        Some(versions) => match versions.iter().filter(|&&v| v <= version).count() {
            0 => return Err(Query::VersionNotSufficient),
            1 => name.to_owned(),
            n => format!("{name}_v{n}"),
        },
    };
    if flags & PER_THREAD == 0 {
        return Ok(vec![symbol]);
    }
    let [thread_stream, thread_default] = ["_ptsz", "_ptds"].map(|s| format!("{symbol}{s}"));
    Ok(vec![thread_stream, thread_default, symbol])
}

/// A handle of this library for `dlsym`; 0 is the program itself.
fn own_handle() -> usize {
    static HANDLE: OnceLock<usize> = OnceLock::new();
    *HANDLE.get_or_init(|| {
        let here = own_handle as *const c_void;
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: `info` is writable.
        let found = unsafe { libc::dladdr(here, info.as_mut_ptr()) };
        // SAFETY: all-zero is a valid Dl_info.
        let info = unsafe { info.assume_init() };
        if found == 0 || info.dli_fname.is_null() {
            return 0;
        }
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD;
        // SAFETY: the name is a C string that lives as long as the library.
        let handle = unsafe { libc::dlopen(info.dli_fname, flags) };
        handle.expose_provenance()
    })
}

fn find(symbol: &str) -> Option<*mut c_void> {
    if !symbol.starts_with("cu") {
        return None;
    }
    let name = CString::new(symbol).ok()?;
    let handle = std::ptr::with_exposed_provenance_mut(own_handle());
    // SAFETY: the handle is this library's, or RTLD_DEFAULT (null); the name is a C string.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

fn query(name: &str, version: i32, flags: u64) -> (Query, *mut c_void) {
    match symbols(name, version, flags) {
        Err(why) => (why, std::ptr::null_mut()),
        Ok(candidates) => match candidates.iter().find_map(|s| find(s)) {
            Some(address) => (Query::Found, address),
            None => (Query::SymbolNotFound, std::ptr::null_mut()),
        },
    }
}

fn answer(
    name: In<c_char>,
    address: Out<*mut c_void>,
    (version, flags): (i32, u64),
    status: Out<u32>,
) -> Result<()> {
    let name = name.text()?;
    if flags & !3 != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let (result, found) = query(&name, version, flags);
    address.set(found)?;
    status.set_if(result as u32);
    if result == Query::Found {
        Ok(())
    } else {
        Err(Status::NOT_FOUND)
    }
}

entries! { call_any:
    fn cuGetProcAddress(name: In<c_char>, address: Out<*mut c_void>, version: i32, flags: u64) {
        answer(name, address, (version, flags), Out::at(0))
    }
    fn cuGetProcAddress_v2(
        name: In<c_char>, address: Out<*mut c_void>, version: i32, flags: u64, status: Out<u32>
    ) {
        answer(name, address, (version, flags), status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requested_version_decides() {
        let first = |name, version, flags| symbols(name, version, flags).unwrap().remove(0);
        assert_eq!(first("cuMemAlloc", 12_000, 0), "cuMemAlloc_v2");
        assert_eq!(first("cuMemAlloc", 3010, 0), "cuMemAlloc");
        assert_eq!(first("cuCtxCreate", 11_040, 0), "cuCtxCreate_v3");
        assert_eq!(first("cuCtxCreate", 13_000, 0), "cuCtxCreate_v4");
        assert_eq!(first("cuLaunchKernel", 13_000, 0), "cuLaunchKernel");
        assert_eq!(
            first("cuLaunchKernel", 13_000, PER_THREAD),
            "cuLaunchKernel_ptsz"
        );
        assert_eq!(
            symbols("cuDeviceGetUuid", 9010, 0),
            Err(Query::VersionNotSufficient)
        );
        assert!(VERSIONS.is_sorted());
    }
}
