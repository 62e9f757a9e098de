//! Counters that look at the addresses of each access: bank conflicts, and whose memory was touched.
//!
//! They cost time, so only launches keep them that begin while somebody asks for them
//! (`SOFTGPU_COUNTERS`, `softgpuCountTraffic`). Accesses count as they are issued: a store that fault
//! injection drops went out as well.
//!
//! *Bank conflicts* are modelled. Shared memory has 32 banks of 4 bytes. A warp's access goes through
//! them in passes of at most 128 bytes: 32 lanes, 16 lanes of 8 bytes, 8 lanes of 16 bytes, or the
//! rows of one matrix of `ldmatrix` and `stmatrix`. A pass is repeated as often as some bank has further words
//! to give; each repetition is one conflict. Lanes that name one word share it. Bulk copies, `wgmma`
//! and fragments of `wmma` pass no banks here, nor does memory of other CTAs.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::access::{MemCtx, SHARED_OFFSET_MASK, shared_rank, window};
use super::config::Tools;
use super::held::Owners;
use super::kernel::{AccessInfo, AccessKind};
use crate::ir::Space;

const BANKS: usize = 32;
const PASS_BYTES: u32 = 128;

/// What was done to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Read,
    Write,
    /// Read and written in one step, or combined with what was there.
    Atomic,
}

impl From<AccessKind> for Deed {
    fn from(kind: AccessKind) -> Self {
        match kind {
            AccessKind::Load => Self::Read,
            AccessKind::Store => Self::Write,
            AccessKind::Red | AccessKind::Atom => Self::Atomic,
        }
    }
}

/// Bytes of global memory by what was done to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Read.
    pub read: u64,
    /// Written.
    pub written: u64,
    /// Changed by atomic operations and reductions.
    pub atomic: u64,
}

impl Moved {
    fn add(&mut self, deed: Deed, bytes: u64) {
        match deed {
            Deed::Read => self.read += bytes,
            Deed::Write => self.written += bytes,
            Deed::Atomic => self.atomic += bytes,
        }
    }
}

/// Bytes of loads, stores and atomics by the space that the address lies in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlaceBytes {
    /// Global memory, also of peers and of the host, and constants.
    pub global: u64,
    /// Shared memory of the CTA.
    pub shared: u64,
    /// Shared memory of another CTA of the cluster.
    pub dsmem: u64,
    /// Local memory.
    pub local: u64,
    /// Parameters.
    pub param: u64,
}

/// The device that executes, and the one whose memory it is; `None` is memory of the host.
pub type Link = (u32, Option<u32>);

/// What a launch did to memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Passes of warps through the banks of shared memory, repetitions included.
    pub shared_passes: u64,
    /// Repetitions.
    pub bank_conflicts: u64,
    /// Bytes of loads, stores and atomics.
    pub bytes: PlaceBytes,
    /// Bytes of global memory, asynchronous operations and `multimem` included.
    pub links: BTreeMap<Link, Moved>,
}

impl AddAssign<&Self> for Traffic {
    fn add_assign(&mut self, other: &Self) {
        self.shared_passes += other.shared_passes;
        self.bank_conflicts += other.bank_conflicts;
        let (sum, more) = (&mut self.bytes, &other.bytes);
        sum.global += more.global;
        sum.shared += more.shared;
        sum.dsmem += more.dsmem;
        sum.local += more.local;
        sum.param += more.param;
        for (link, more) in &other.links {
            let sum = self.links.entry(*link).or_default();
            sum.read += more.read;
            sum.written += more.written;
            sum.atomic += more.atomic;
        }
    }
}

fn flag() -> &'static AtomicBool {
    static WANTED: OnceLock<AtomicBool> = OnceLock::new();
    WANTED.get_or_init(|| AtomicBool::new(Tools::global().counters.is_some()))
}

/// Whether launches that begin now keep these counters.
pub(super) fn is_wanted() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Asks for these counters from the next launch on.
pub fn begin() {
    flag().store(true, Ordering::Relaxed);
}

/// Launches from the next on do without.
pub fn end() {
    flag().store(false, Ordering::Relaxed);
}

/// Where a lane's address leads.
enum Place {
    Global,
    /// Own shared memory, at an offset.
    Shared(u32),
    Dsmem,
    Local,
    Param,
}

fn place(space: Space, address: u64, own: u32) -> Place {
    match space {
        Space::Generic => match window(address) {
            Some(space) => place(space, address, own),
            None => Place::Global,
        },
        Space::Global | Space::Const => Place::Global,
        Space::Shared | Space::SharedCluster => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "shared addresses are 32 bits"
            )]
            let address = address as u32;
            if shared_rank(address, own) == own {
                Place::Shared(address & SHARED_OFFSET_MASK)
            } else {
                Place::Dsmem
            }
        }
        Space::Local => Place::Local,
        Space::Param => Place::Param,
    }
}

impl Traffic {
    /// Counts a load, store or atomic of the lanes of `mask`.
    pub(super) fn access(
        &mut self,
        ctx: &MemCtx<'_>,
        (info, mask): (AccessInfo, u32),
        (space, addresses): (Space, &[u64; 32]),
    ) {
        let bytes = u64::from(info.bytes);
        let mut offsets = [None; 32];
        let mut owners = Owners::default();
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let address = addresses[lane];
            let count = match place(space, address, ctx.rank) {
                Place::Global => {
                    let link = (ctx.device, owners.of(address));
                    self.links
                        .entry(link)
                        .or_default()
                        .add(info.kind.into(), bytes);
                    &mut self.bytes.global
                }
                Place::Shared(offset) => {
                    offsets[lane] = Some(offset);
                    &mut self.bytes.shared
                }
                Place::Dsmem => &mut self.bytes.dsmem,
                Place::Local => &mut self.bytes.local,
                Place::Param => &mut self.bytes.param,
            };
            *count += bytes;
        }
        self.banks(&offsets, info.bytes);
    }

    /// Counts the rows of matrices, 16 bytes at each of the generic or shared addresses.
    pub(super) fn matrix_rows(&mut self, own: u32, addresses: &[u64]) {
        let mut offsets = [None; 32];
        for (offset, &address) in offsets.iter_mut().zip(addresses) {
            if let Place::Shared(at) = place(Space::Shared, address, own) {
                *offset = Some(at);
                self.bytes.shared += 16;
            } else {
                self.bytes.dsmem += 16;
            }
        }
        self.banks(&offsets, 16);
    }

    /// Counts bytes of loads and stores that pass no banks.
    pub(super) fn unbanked(
        &mut self,
        ctx: &MemCtx<'_>,
        (space, address): (Space, u64),
        (deed, bytes): (Deed, u64),
    ) {
        match place(space, address, ctx.rank) {
            Place::Global => {
                self.bytes.global += bytes;
                self.global(ctx.device, address, (deed, bytes));
            }
            Place::Shared(_) => self.bytes.shared += bytes,
            Place::Dsmem => self.bytes.dsmem += bytes,
            Place::Local => self.bytes.local += bytes,
            Place::Param => self.bytes.param += bytes,
        }
    }

    /// Counts bytes of global memory.
    pub(super) fn global(&mut self, device: u32, address: u64, (deed, bytes): (Deed, u64)) {
        let owner = Owners::default().of(address);
        self.link((device, owner), (deed, bytes));
    }

    /// Counts bytes on a link.
    pub(super) fn link(&mut self, link: Link, (deed, bytes): (Deed, u64)) {
        self.links.entry(link).or_default().add(deed, bytes);
    }

    /// Counts the passes of lanes at offsets in shared memory.
    fn banks(&mut self, offsets: &[Option<u32>; 32], bytes: u32) {
        let lanes = PASS_BYTES / bytes.clamp(4, PASS_BYTES);
        for pass in offsets.chunks(lanes as usize) {
            let needed = passes(pass, bytes);
            self.shared_passes += needed;
            self.bank_conflicts += needed.saturating_sub(1);
        }
    }
}

/// How often the banks must be asked for what the lanes of one pass name.
fn passes(offsets: &[Option<u32>], bytes: u32) -> u64 {
    let offsets = offsets.iter().flatten();
    let mut words: SmallVec<[u32; BANKS]> = offsets
        .flat_map(|at| at / 4..(at + bytes).div_ceil(4))
        .collect();
    words.sort_unstable();
    words.dedup();
    let mut banks = [0; BANKS];
    for word in words {
        banks[word as usize % BANKS] += 1;
    }
    banks.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Traffic;

    /// Passes and conflicts of 32 lanes.
    fn count(bytes: u32, offset: impl Fn(u32) -> Option<u32>) -> (u64, u64) {
        let mut traffic = Traffic::default();
        let lanes: Vec<_> = (0..32).map(offset).collect();
        traffic.banks(&lanes.try_into().unwrap(), bytes);
        (traffic.shared_passes, traffic.bank_conflicts)
    }

    #[test]
    fn banks_serve_one_word_at_a_time() {
        assert_eq!(count(4, |lane| Some(4 * lane)), (1, 0), "side by side");
        assert_eq!(count(4, |lane| Some(4 * (31 - lane))), (1, 0), "backwards");
        assert_eq!(count(4, |_| Some(64)), (1, 0), "broadcast");
        assert_eq!(count(1, Some), (1, 0), "bytes of eight words");
        assert_eq!(count(4, |lane| Some(8 * lane)), (2, 1), "every second word");
        assert_eq!(count(4, |lane| Some(128 * lane)), (32, 31), "one bank");
        assert_eq!(count(4, |lane| Some(132 * lane)), (1, 0), "padded rows");
        assert_eq!(count(4, |lane| (lane < 3).then_some(128 * lane)), (3, 2));
        assert_eq!(count(4, |_| None), (0, 0));
    }

    #[test]
    fn wide_lanes_take_several_passes() {
        assert_eq!(count(8, |lane| Some(8 * lane)), (2, 0));
        assert_eq!(count(16, |lane| Some(16 * lane)), (4, 0));
        assert_eq!(
            count(16, |lane| Some(32 * lane)),
            (8, 4),
            "every second 16 bytes"
        );
        assert_eq!(
            count(16, |lane| Some(128 * lane)),
            (32, 28),
            "rows of a tile"
        );
        // Rows of 128 bytes with their 16-byte chunks swizzled.
        let swizzled = |lane| Some(128 * lane + 16 * (lane % 8));
        assert_eq!(count(16, swizzled), (4, 0));
        assert_eq!(count(8, |lane| (lane < 16).then_some(8 * lane)), (1, 0));
    }
}
