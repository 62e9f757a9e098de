//! Processes that wait for each other longer than a device may be idle on its own.

#![expect(unsafe_code, reason = "handles are C structures")]

use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{null_mut, without_provenance_mut};
use std::time::Duration;

use cudarc::driver::sys::{self, CUresult};

use crate::processes::{
    BYTES, FD, Peer, RING, export, handle_of, hex, import, listen, map, tell, try_open, unhex,
};
use crate::support::{Context, function, module, upload};
use crate::virtual_memory::properties;

/// A pool of a device for other processes, and its descriptor.
pub(crate) fn shared_pool(device: i32) -> (sys::CUmemoryPool, RawFd) {
    let mut props = std::mem::MaybeUninit::<sys::CUmemPoolProps>::zeroed();
    // SAFETY: zeros are valid for every field.
    let props = unsafe { props.assume_init_mut() };
    props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    props.handleTypes = FD;
    props.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    props.location.id = device;
    let mut pool = null_mut();
    cu!(cuMemPoolCreate(&mut pool, props));
    let mut fd: RawFd = -1;
    cu!(cuMemPoolExportToShareableHandle(
        (&raw mut fd).cast(),
        pool,
        FD,
        0
    ));
    (pool, fd)
}

/// A descriptor of this process, as others can open it.
fn path(fd: RawFd) -> String {
    format!("/proc/{}/fd/{fd}", std::process::id())
}

/// A word of zeros, and what another process needs to reach it.
fn lend(kind: &str) -> (u64, String) {
    match kind {
        "handle" => {
            let word = upload(&[0u32]);
            (word, handle_of(word))
        }
        "memory" => {
            let mut handle = 0;
            cu!(cuMemCreate(&mut handle, BYTES, &properties(1), 0));
            let fd = export(handle);
            let word = map(handle, 1);
            cu!(cuMemsetD32_v2(word, 0, 1));
            (word, path(fd))
        }
        _ => {
            let (pool, fd) = shared_pool(1);
            let mut word = 0;
            cu!(cuMemAllocFromPoolAsync(&mut word, 4, pool, null_mut()));
            cu!(cuMemsetD32_v2(word, 0, 1));
            let mut data = sys::CUmemPoolPtrExportData { reserved: [0; 64] };
            cu!(cuMemPoolExportPointer(&mut data, word));
            (word, format!("{} {}", path(fd), hex(&data.reserved)))
        }
    }
}

/// The word that another process lends.
fn borrow(kind: &str, from: &str) -> u64 {
    if kind == "handle" {
        return try_open(from).unwrap();
    }
    let mut words = from.split(' ');
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(words.next().unwrap())
        .unwrap();
    if kind == "memory" {
        return map(import(file.as_raw_fd()), 1);
    }
    let number = without_provenance_mut(usize::try_from(file.as_raw_fd()).unwrap());
    let mut pool = null_mut();
    cu!(cuMemPoolImportFromShareableHandle(&mut pool, number, FD, 0));
    let mut data = sys::CUmemPoolPtrExportData {
        reserved: unhex(words.next().unwrap()),
    };
    let mut word = 0;
    cu!(cuMemPoolImportPointer(&mut word, pool, &mut data));
    word
}

/// The other process: waits for a word of its own or of another process.
pub(crate) fn patient(role: &str, kind: &str) {
    // A wait that nothing ends is a failure.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(60));
        std::process::exit(1);
    });
    let _context = Context::new(1);
    let word = match role {
        "lends" => {
            let (word, how) = lend(kind);
            tell(&how);
            word
        }
        _ => borrow(kind, &listen()),
    };
    if role == "looks" {
        cu!(cuIpcCloseMemHandle(word));
        return tell("closed");
    }
    let f = function(module(RING), "spin");
    let launched = launch!(f, [1; 3], [1; 3], 0, null_mut(), [word]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    tell("spinning");
    tell(&format!("{:?}", code!(cuCtxSynchronize())));
}

/// Two processes that wait for a word of the first one.
fn pair(kind: &str) -> [Peer; 2] {
    let mut peers = ["lends", "borrows"].map(|role| Peer::start(&format!("patient {role} {kind}")));
    let how = peers[0].hear();
    peers[1].say(&how);
    for peer in &mut peers {
        assert_eq!(peer.hear(), "spinning");
    }
    peers
}

#[test]
fn a_process_that_takes_its_time_is_no_deadlock() {
    let _context = Context::new(0);
    let own = upload(&[0u32]);
    let mut peers = ["lends", "borrows"].map(|role| Peer::start(&format!("patient {role} handle")));
    let handle = peers[0].hear();
    peers[1].say(&handle_of(own));
    for peer in &mut peers {
        assert_eq!(peer.hear(), "spinning");
    }
    std::thread::sleep(Duration::from_secs(4));
    let lent = try_open(&handle).unwrap();
    for (mut peer, words) in peers.into_iter().zip([lent, own]) {
        cu!(cuMemsetD32_v2(words, u32::MAX, 1));
        assert_eq!(peer.hear(), "CUDA_SUCCESS");
        peer.end();
    }
}

#[test]
fn a_process_does_not_wait_for_a_dead_one() {
    for kind in ["handle", "memory", "pool"] {
        let (mut first, mut second) = (pair(kind), pair(kind));
        first[0].kill();
        second[1].kill();
        let [_, borrower] = first;
        let [lender, _] = second;
        for mut survivor in [borrower, lender] {
            assert_eq!(survivor.hear(), "CUDA_ERROR_LAUNCH_FAILED", "{kind}");
            survivor.end();
        }
    }
}

#[test]
fn memory_that_was_given_back_may_be_lent_again() {
    let [mut lender, mut borrower] =
        ["lends", "looks"].map(|role| Peer::start(&format!("patient {role} handle")));
    let handle = lender.hear();
    assert_eq!(lender.hear(), "spinning");
    borrower.say(&handle);
    assert_eq!(borrower.hear(), "closed");
    borrower.end();
    std::thread::sleep(Duration::from_secs(4));
    let _context = Context::new(0);
    let word = try_open(&handle).unwrap();
    cu!(cuMemsetD32_v2(word, u32::MAX, 1));
    assert_eq!(lender.hear(), "CUDA_SUCCESS");
    lender.end();
}
