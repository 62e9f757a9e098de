//! Fabric handles: memory named by bytes.

#![expect(unsafe_code, reason = "calls whose results are compared")]

use cudarc::driver::sys::{self, CUresult};

use crate::processes::{BYTES, Peer, hex, map, tell, unhex};
use crate::support::{Context, assert_same, download};
use crate::virtual_memory::{MIB, allow, properties};

const FABRIC: sys::CUmemAllocationHandleType =
    sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_FABRIC;

/// The same, as a fabric handle too.
fn fabric_properties(device: i32) -> sys::CUmemAllocationProp {
    let file = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    let mut properties = properties(device);
    properties.requestedHandleTypes = sys::CUmemAllocationHandleType(file.0 | FABRIC.0);
    properties
}

fn export_fabric(handle: u64) -> sys::CUmemFabricHandle {
    let mut fabric = sys::CUmemFabricHandle { data: [0; 64] };
    let place = (&raw mut fabric).cast();
    cu!(cuMemExportToShareableHandle(place, handle, FABRIC, 0));
    fabric
}

fn import_fabric(mut fabric: sys::CUmemFabricHandle) -> (CUresult, u64) {
    let mut handle = 0;
    let place = (&raw mut fabric).cast();
    // SAFETY: both places are valid.
    let result = unsafe { sys::cuMemImportFromShareableHandle(&mut handle, place, FABRIC) };
    (result, handle)
}

#[test]
fn fabric_handles_name_memory() {
    let _context = Context::new(2);
    let bytes = 2 * MIB;
    let mut plain = 0;
    cu!(cuMemCreate(&mut plain, bytes, &properties(2), 0));
    let mut fabric = sys::CUmemFabricHandle { data: [0; 64] };
    let place = (&raw mut fabric).cast();
    // SAFETY: the place is valid.
    let refused = unsafe { sys::cuMemExportToShareableHandle(place, plain, FABRIC, 0) };
    assert_eq!(
        refused,
        CUresult::CUDA_ERROR_INVALID_VALUE,
        "not created for it"
    );
    cu!(cuMemRelease(plain));
    assert_eq!(
        import_fabric(fabric).0,
        CUresult::CUDA_ERROR_INVALID_VALUE,
        "zeros"
    );

    let mut first = 0;
    cu!(cuMemCreate(&mut first, bytes, &fabric_properties(2), 0));
    let fabric = export_fabric(first);
    let (result, second) = import_fabric(fabric);
    assert_eq!(result, CUresult::CUDA_SUCCESS);
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
    cu!(cuMemUnmap(at, 2 * bytes));
    cu!(cuMemAddressFree(at, 2 * bytes));
    cu!(cuMemRelease(first));
    cu!(cuMemRelease(second));
    assert_eq!(
        import_fabric(fabric).0,
        CUresult::CUDA_ERROR_INVALID_VALUE,
        "gone"
    );
}

pub(crate) fn partner(text: &str) {
    let _context = Context::new(3);
    let data = unhex(text);
    let (result, handle) = import_fabric(sys::CUmemFabricHandle { data });
    assert_eq!(result, CUresult::CUDA_SUCCESS);
    cu!(cuMemsetD32_v2(map(handle, 3), 7, 4));
    cu!(cuCtxSynchronize());
    tell("done");
}

#[test]
fn fabric_handles_cross_processes() {
    let _context = Context::new(2);
    let mut handle = 0;
    cu!(cuMemCreate(&mut handle, BYTES, &fabric_properties(2), 0));
    let at = map(handle, 2);
    cu!(cuMemsetD32_v2(at, 0, 8));
    let bytes = export_fabric(handle).data;
    let mut peer = Peer::start(&format!("fabric {}", hex(&bytes)));
    assert_eq!(peer.hear(), "done");
    peer.end();
    assert_eq!(download::<u32>(at, 5), [7, 7, 7, 7, 0]);
}
