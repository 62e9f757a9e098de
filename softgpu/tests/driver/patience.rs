//! Processes that wait for each other longer than a device may be idle on its own.

use std::ptr::null_mut;
use std::time::Duration;

use cudarc::driver::sys::CUresult;

use crate::processes::{Peer, RING, handle_of, listen, tell, try_open};
use crate::support::{Context, function, module, upload};

/// The other process: waits for a word of its own or of the first process.
pub(crate) fn patient(role: &str) {
    let _context = Context::new(1);
    let words = if role == "lends" {
        let words = upload(&[0u32]);
        tell(&handle_of(words));
        words
    } else {
        try_open(&listen()).unwrap()
    };
    let f = function(module(RING), "spin");
    let launched = launch!(f, [1; 3], [1; 3], 0, null_mut(), [words]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    tell("spinning");
    tell(&format!("{:?}", code!(cuCtxSynchronize())));
}

#[test]
fn a_process_that_takes_its_time_is_no_deadlock() {
    let _context = Context::new(0);
    let own = upload(&[0u32]);
    let mut peers = [Peer::start("patient lends"), Peer::start("patient borrows")];
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
