//! The symmetric heap: one window per rank, and every window mapped by every rank.
//!
//! Window `p` lies at `address() + p * stride()` in each rank's own address range, so an offset names
//! the same place on all ranks. All windows have the same size. The heap starts zeroed, and creation ends with a
//! meeting: nobody can reach a window that its rank has not zeroed yet.

use std::sync::Arc;

use super::{Bootstrap, MemoryError, Physical, Reservation};
use crate::device::{Context, Stream};
use crate::memory::vmm;

/// One rank's view of the heap. Dropping it unmaps all windows here; a window's memory lives until
/// every rank has done so, in any order. Kernels that were given an address must have ended.
#[derive(Debug)]
pub struct SymmetricHeap {
    reservation: Reservation,
    rank: u32,
    ranks: u32,
    stride: u64,
}

/// What a rank brings to the first meeting, or why it cannot.
type Offer = Result<Arc<Physical>, String>;

impl SymmetricHeap {
    /// Allocates this rank's window of at least `bytes` and maps everyone's. All ranks call it together.
    ///
    /// # Errors
    /// A driver error; the same failure on a peer ([`MemoryError::Peer`]); different sizes
    /// ([`MemoryError::Disagreement`]); or a failed meeting. Nothing stays allocated.
    pub fn new(
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
        bytes: u64,
    ) -> Result<Self, MemoryError> {
        // A rank that fails still comes to the meeting, so that its peers learn why.
        let own = Physical::new(context, bytes).map(Arc::new);
        let offer: Offer = own.as_ref().map(Arc::clone).map_err(ToString::to_string);
        let offers = bootstrap.all_gather("symmetric heap: allocate", offer)?;
        let own = own?;
        let windows = accept(&offers, own.bytes())?;
        let mapped = Self::map(context, bootstrap.rank(), &windows);
        bootstrap.agree("symmetric heap: map", mapped)
    }

    fn map(
        context: &Arc<Context>,
        rank: u32,
        windows: &[Arc<Physical>],
    ) -> Result<Self, MemoryError> {
        let ranks = u32::try_from(windows.len()).unwrap_or(u32::MAX);
        let own = &windows[rank as usize];
        let stride = vmm::round_to_granularity(context, own.bytes())?;
        let bytes = stride.checked_mul(u64::from(ranks));
        let bytes = bytes.ok_or(MemoryError::TooLarge {
            what: "symmetric heap",
            bytes: u64::MAX,
        })?;
        let mut reservation = Reservation::new(context, bytes)?;
        for (peer, window) in (0u64..).zip(windows) {
            reservation.map(peer * stride, window)?;
        }
        let own = reservation.address() + u64::from(rank) * stride;
        let stream = Stream::new(context)?;
        reservation.zero(&stream, own)?;
        stream.synchronize()?;
        Ok(Self {
            reservation,
            rank,
            ranks,
            stride,
        })
    }

    /// Address of window 0 on this rank.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.reservation.address()
    }

    /// Bytes from one window to the next.
    #[must_use]
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// Address, on this rank, of the window of `rank`.
    #[must_use]
    pub fn window(&self, rank: u32) -> u64 {
        self.address() + u64::from(rank) * self.stride
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// All ranks.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks
    }
}

/// Everyone's window, if all have one of `bytes`.
fn accept(offers: &[Arc<Offer>], bytes: u64) -> Result<Vec<Arc<Physical>>, MemoryError> {
    let mut windows = Vec::with_capacity(offers.len());
    for (rank, offer) in (0u32..).zip(offers) {
        match offer.as_ref() {
            Ok(window) if window.bytes() == bytes => windows.push(Arc::clone(window)),
            Ok(window) => {
                return Err(MemoryError::Disagreement {
                    what: "size of a window",
                    rank,
                    found: window.bytes().to_string(),
                    expected: bytes.to_string(),
                });
            }
            Err(message) => {
                return Err(MemoryError::Peer {
                    operation: "symmetric heap: allocate",
                    rank,
                    message: message.clone(),
                });
            }
        }
    }
    Ok(windows)
}
