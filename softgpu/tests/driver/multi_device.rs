//! Several devices at work at the same time.

use cudarc::driver::sys::CUresult;

use crate::support::{BASIC, Context, DEFAULT, alloc, download, function, module, stream};
use crate::virtual_memory::{allow, properties};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const BOX: usize = 2 << 20;

/// Eight kernels, one per device, pass a token round through memory that every device maps.
#[test]
fn kernels_of_eight_devices_wait_for_each_other() {
    const RANKS: u32 = 8;
    const ROUNDS: u32 = 20;
    let mut base = 0;
    let contexts: Vec<Context> = (0..8).map(Context::new).collect();
    cu!(cuMemAddressReserve(&mut base, 8 * BOX, 0, 0, 0));
    let inbox = |rank: u32| base + u64::from(rank % RANKS) * BOX as u64;
    for rank in 0..RANKS {
        let mut handle = 0;
        let device = i32::try_from(rank).unwrap();
        cu!(cuMemCreate(&mut handle, BOX, &properties(device), 0));
        cu!(cuMemMap(inbox(rank), BOX, 0, handle, 0));
        cu!(cuMemRelease(handle));
        allow(inbox(rank), BOX, device);
        allow(inbox(rank), BOX, (device + 7) % 8);
        cu!(cuMemsetD32_v2(inbox(rank), u32::MAX, 1));
    }
    for (rank, context) in (0..RANKS).zip(&contexts) {
        cu!(cuCtxSetCurrent(context.0));
        let ring = function(module(BASIC), "ring");
        let (own, next) = (inbox(rank), inbox(rank + 1));
        let go = launch!(
            ring,
            [1; 3],
            [1; 3],
            0,
            DEFAULT,
            [own, next, rank, RANKS, ROUNDS]
        );
        assert_eq!(go, OK);
    }
    // The token that starts it all.
    cu!(cuMemsetD32Async(inbox(0), 0, 1, stream(1)));
    for context in &contexts {
        cu!(cuCtxSetCurrent(context.0));
        cu!(cuCtxSynchronize());
    }
    assert_eq!(download::<u32>(inbox(0), 1), [RANKS * ROUNDS]);
    cu!(cuMemUnmap(base, 8 * BOX));
    cu!(cuMemAddressFree(base, 8 * BOX));
}

#[test]
fn memory_of_a_peer_needs_peer_access() {
    let mut can = 0;
    let owner = Context::new(4);
    cu!(cuDeviceCanAccessPeer(&mut can, 5, 4));
    assert_eq!(can, 1);
    let word = alloc::<u32>(1);
    {
        let _faulting = Context::new(5);
        let write = function(module(BASIC), "write_at");
        assert_eq!(launch!(write, [1; 3], [1; 3], 0, DEFAULT, [word, 5i32]), OK);
        assert_eq!(
            code!(cuCtxSynchronize()),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
    }
    let _context = Context::new(5);
    cu!(cuCtxEnablePeerAccess(owner.0, 0));
    let again = code!(cuCtxEnablePeerAccess(owner.0, 0));
    assert_eq!(again, CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    let write = function(module(BASIC), "write_at");
    assert_eq!(launch!(write, [1; 3], [1; 3], 0, DEFAULT, [word, 6i32]), OK);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(word, 1), [6]);
    cu!(cuCtxDisablePeerAccess(owner.0));
}
