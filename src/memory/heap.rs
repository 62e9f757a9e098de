//! The symmetric heap: one window per rank, and every window mapped by every rank.
//!
//! Window `p` lies at `address() + p * stride()` in each rank's own address range, so an offset names
//! the same place on all ranks. All windows have the same size. A window is handed to ranks of the same host as a file, to
//! those of other hosts in the NVLink domain as a fabric handle. The heap starts zeroed, and creation ends with a
//! meeting: nobody can reach a window that its rank has not zeroed yet.
//!
//! Windows of ranks that are no members of the bootstrap are not mapped. After the members have changed,
//! [`SymmetricHeap::renew`] puts new memory at the same addresses: a rank that was left out and still runs writes into
//! memory that nobody reads.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bootstrap::Brought;
use super::multicast::Multicast;
use super::vmm::FabricHandle;
use super::{Bootstrap, MemoryError, Physical, Reservation};
use crate::device::{Context, Stream};
use crate::memory::vmm;

const ALLOCATE: &str = "symmetric heap: allocate";
const MAP: &str = "symmetric heap: map";

/// The members' windows, by rank.
type Windows = Vec<(u32, Arc<Physical>)>;

/// One rank's view of the heap. Dropping it unmaps all windows here; a window's memory lives until
/// every rank has done so, in any order. Kernels that were given an address must have ended.
#[derive(Debug)]
pub struct SymmetricHeap {
    /// All windows at once, or why there is no such address.
    multicast: Result<Multicast, String>,
    reservation: Reservation,
    own: Arc<Physical>,
    rank: u32,
    ranks: u32,
    stride: u64,
}

/// What a rank brings to the first meeting, beside the file of its window, or why there is none.
type Offer = Result<Window, String>;

/// A window as other ranks learn of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Window {
    bytes: u64,
    /// For ranks of other hosts.
    fabric: Option<FabricHandle>,
}

/// How a rank's window is reached.
#[derive(Debug, Clone, Copy)]
enum Reach<'a> {
    /// A rank of this host.
    File(BorrowedFd<'a>),
    /// A rank of another one.
    Fabric(&'a FabricHandle),
}

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
        let (rank, ranks) = (bootstrap.rank(), bootstrap.ranks());
        let (own, windows) = Self::exchange(bootstrap, context, bytes)?;
        let mapped = windows.and_then(|windows| {
            let mut reservation = Self::reserve(context, ranks, own.bytes())?;
            let stride = vmm::round_to_granularity(context, own.bytes())?;
            Self::map(&mut reservation, context, (rank, stride), &windows)?;
            Ok(Self {
                multicast: Err("nobody asked for multicast".to_owned()),
                reservation,
                own,
                rank,
                ranks,
                stride,
            })
        });
        bootstrap.agree(MAP, mapped)
    }

    /// Puts new memory, zeroed, in the place of all windows: of this rank's and of the other members' of `bootstrap`, which all call it
    /// together, or [`Self::new`] where one is new. Nothing is left at the windows of other ranks. Addresses stay. No kernel
    /// of this rank uses the heap.
    ///
    /// # Errors
    /// As [`Self::new`]. The heap is then unusable until this succeeds; where nothing is mapped, the device
    /// reports accesses as errors.
    pub(crate) fn renew(
        &mut self,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<(), MemoryError> {
        self.multicast = Err("the members have changed".to_owned());
        let bytes = self.own.bytes();
        let (own, windows) = Self::exchange(bootstrap, context, bytes)?;
        let place = (self.rank, self.stride);
        let mapped = windows.and_then(|windows| {
            self.reservation.unmap_all()?;
            Self::map(&mut self.reservation, context, place, &windows)
        });
        self.own = own;
        bootstrap.agree(MAP, mapped)
    }

    /// Allocates this rank's window, and imports the other members'. Fails on all ranks or on none; the import, on this one.
    fn exchange(
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
        bytes: u64,
    ) -> Result<(Arc<Physical>, Result<Windows, MemoryError>), MemoryError> {
        // A rank that fails still comes to the meeting, so that its peers learn why.
        let own = Physical::new(context, bytes).and_then(|own| {
            let (bytes, fabric) = (own.bytes(), own.export_fabric()?);
            Ok((own.export()?, Window { bytes, fabric }, own))
        });
        let (offer, file, own) = match own {
            Ok((file, window, own)) => (Ok(window), Some(file), Ok(own)),
            Err(error) => (Err(error.to_string()), None, Err(error)),
        };
        let offers = bootstrap.all_gather_files(ALLOCATE, offer, file)?;
        let own = Arc::new(own?);
        // All ranks have the same offers, and so refuse them together.
        let reaches = accept(&offers, own.bytes())?;
        let windows = import(context, (bootstrap.rank(), &own), &reaches);
        Ok((own, windows))
    }

    fn reserve(context: &Arc<Context>, ranks: u32, bytes: u64) -> Result<Reservation, MemoryError> {
        let stride = vmm::round_to_granularity(context, bytes)?;
        let bytes = stride.checked_mul(u64::from(ranks));
        let bytes = bytes.ok_or(MemoryError::TooLarge {
            what: "symmetric heap",
            bytes: u64::MAX,
        })?;
        Reservation::new(context, bytes)
    }

    /// Maps `windows`, and zeroes this rank's.
    fn map(
        reservation: &mut Reservation,
        context: &Arc<Context>,
        (rank, stride): (u32, u64),
        windows: &Windows,
    ) -> Result<(), MemoryError> {
        for (peer, window) in windows {
            reservation.map(u64::from(*peer) * stride, window)?;
        }
        let address = reservation.address() + u64::from(rank) * stride;
        let stream = Stream::new(context)?;
        reservation.zero(&stream, address)?;
        stream.synchronize()?;
        Ok(())
    }

    /// Maps all windows at one more address, for the `multimem` instructions, where devices and switch support it and all ranks are on one host;
    /// [`Self::multicast`] is the outcome. All ranks call it together, once, with the context of [`Self::new`].
    ///
    /// # Errors
    /// A failed meeting. That there is no multicast is none.
    pub fn share_multicast(
        &mut self,
        bootstrap: &mut Bootstrap,
        context: &Arc<Context>,
    ) -> Result<(), MemoryError> {
        self.multicast = Multicast::new(bootstrap, context, &self.own)?;
        Ok(())
    }

    /// Address of all windows at once, on this rank: what a `multimem` instruction does at an offset from there, it does at
    /// that offset of every window. Ordinary accesses there are illegal.
    ///
    /// # Errors
    /// Why there is no such address, the same on all ranks.
    pub fn multicast(&self) -> Result<u64, &str> {
        match &self.multicast {
            Ok(multicast) => Ok(multicast.address()),
            Err(reason) => Err(reason),
        }
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

/// How everyone is reached, if all have a window of `bytes`.
fn accept(offers: &[Brought<Offer>], bytes: u64) -> Result<Vec<(u32, Reach<'_>)>, MemoryError> {
    let mut reaches = Vec::with_capacity(offers.len());
    for offer in offers {
        let rank = offer.rank;
        let window = offer.value.as_ref().map_err(|message| MemoryError::Peer {
            operation: ALLOCATE,
            rank,
            message: message.clone(),
        })?;
        if window.bytes != bytes {
            return Err(MemoryError::Disagreement {
                what: "size of a window",
                rank,
                found: window.bytes.to_string(),
                expected: bytes.to_string(),
            });
        }
        let reach = match (&offer.file, &window.fabric) {
            (Some(file), _) => Reach::File(file.as_fd()),
            (None, Some(fabric)) => Reach::Fabric(fabric),
            (None, None) => {
                return Err(MemoryError::OtherHost {
                    what: "symmetric heap",
                    rank,
                });
            }
        };
        reaches.push((rank, reach));
    }
    Ok(reaches)
}

/// Everyone's window: `own`, and what the others' handles stand for.
fn import(
    context: &Arc<Context>,
    (rank, own): (u32, &Arc<Physical>),
    reaches: &[(u32, Reach<'_>)],
) -> Result<Windows, MemoryError> {
    let window = |&(peer, reach): &(u32, Reach<'_>)| {
        let window = match reach {
            _ if peer == rank => Arc::clone(own),
            Reach::File(file) => Arc::new(Physical::import(context, file, own.bytes())?),
            Reach::Fabric(fabric) => {
                Arc::new(Physical::import_fabric(context, fabric, own.bytes())?)
            }
        };
        Ok((peer, window))
    };
    reaches.iter().map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(rank: u32, value: Offer) -> Brought<Offer> {
        Brought {
            rank,
            value,
            file: None,
        }
    }

    #[test]
    fn ranks_without_a_file_are_reached_by_fabric_or_not_at_all() {
        let context = Context::new(0).unwrap();
        let own = Physical::new(&context, 1).unwrap();
        let (bytes, fabric) = (own.bytes(), own.export_fabric().unwrap());
        assert!(fabric.is_some(), "the software GPU offers fabric handles");
        let offers = [
            offer(0, Ok(Window { bytes, fabric })),
            offer(
                1,
                Ok(Window {
                    bytes,
                    fabric: None,
                }),
            ),
        ];
        let reaches = accept(&offers[..1], bytes).unwrap();
        assert!(
            matches!(reaches[..], [(0, Reach::Fabric(_))]),
            "{reaches:?}"
        );
        // As rank 1 would, to whom rank 0 is on another host.
        let other = Arc::new(Physical::new(&context, 1).unwrap());
        let windows = import(&context, (1, &other), &reaches).unwrap();
        let mut reservation = Reservation::new(&context, 2 * bytes).unwrap();
        reservation.map(0, &Arc::new(own)).unwrap();
        reservation.map(bytes, &windows[0].1).unwrap();
        let expected = MemoryError::OtherHost {
            what: "symmetric heap",
            rank: 1,
        };
        assert_eq!(accept(&offers, bytes).unwrap_err(), expected);
    }
}
