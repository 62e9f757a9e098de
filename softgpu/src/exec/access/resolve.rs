//! From guest addresses to host addresses.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a shared address is the low half of a generic one"
)]

use super::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_OFFSET_MASK, SHARED_WINDOW, shared_rank};
use crate::error::FaultKind;
use crate::exec::inst::LaneFault;
use crate::ir::Space;
use crate::mem::{Access, AddressSpace};

/// The address space checks the first and the last page of a range, so a range must not be longer
/// than one of its pages.
const PAGE: u64 = 1 << 16;

/// The shared memory of one CTA.
#[derive(Debug, Clone, Copy)]
pub struct SharedMemory {
    /// First byte; aligned to 1024.
    pub base: *mut u8,
    /// Bytes.
    pub len: u32,
}

/// The local memory of the threads of a CTA, one run of bytes per thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalMemory {
    /// First byte of thread 0 of the CTA; aligned to 16.
    pub base: *mut u8,
    /// Bytes per thread; a multiple of 16.
    pub bytes: u32,
    /// Index in the CTA of lane 0 of the executing warp.
    pub first_thread: u32,
}

/// What memory handlers know of the warp that executes.
///
/// Invariant: every pointer is valid, for reads and writes, for the length that stands beside it
/// (`local`: for all threads of the warp), as long as the context lives.
#[derive(Debug, Clone, Copy)]
pub struct MemCtx<'a> {
    /// Global memory.
    pub space: &'a AddressSpace,
    /// The executing device.
    pub device: u32,
    /// Shared memory of the CTAs of the cluster, by rank.
    pub shared: &'a [SharedMemory],
    /// The executing CTA's rank in its cluster.
    pub rank: u32,
    /// Local memory.
    pub local: LocalMemory,
    /// The parameter buffer.
    pub params: &'a [u8],
}

/// Host addresses of the lanes of an access; those of inactive lanes are meaningless.
pub type Resolved = [u64; 32];

/// The shape of an access as far as resolving goes.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Bytes per lane.
    pub bytes: u64,
    /// Required alignment.
    pub align: u64,
    /// Load, or store and atomic.
    pub access: Access,
}

impl MemCtx<'_> {
    /// Resolves one address, as the machine's own instructions need it.
    ///
    /// # Errors
    /// Misaligned, not mapped, or out of the bounds of its space.
    pub fn resolve_one(
        &self,
        space: Space,
        address: u64,
        lane: u32,
        span: Span,
    ) -> Result<*mut u8, LaneFault> {
        let fault = |kind| LaneFault { lane, kind };
        if address & span.align.wrapping_sub(1) != 0 {
            let align = span.align;
            return Err(fault(FaultKind::MisalignedAddress { address, align }));
        }
        self.lookup(space, address, lane, span).ok_or_else(|| {
            fault(FaultKind::IllegalAddress {
                address,
                bytes: span.bytes,
                write: span.access == Access::Write,
            })
        })
    }

    fn lookup(&self, space: Space, address: u64, lane: u32, span: Span) -> Option<*mut u8> {
        match space {
            Space::Generic => match window(address) {
                Some(space) => self.lookup(space, address & 0xffff_ffff, lane, span),
                None => self.lookup(Space::Global, address, lane, span),
            },
            Space::Global | Space::Const => {
                self.space
                    .translate(self.device, address, span.bytes, span.access)
            }
            Space::Shared | Space::SharedCluster => {
                let address = address as u32;
                let rank = shared_rank(address, self.rank);
                let shared = self.shared.get(rank as usize)?;
                let offset = u64::from(address & SHARED_OFFSET_MASK);
                let fits = offset + span.bytes <= u64::from(shared.len);
                fits.then(|| shared.base.wrapping_add(offset as usize))
            }
            Space::Local => {
                let local = &self.local;
                let fits = address.checked_add(span.bytes)? <= u64::from(local.bytes);
                let thread = (local.first_thread + lane) as usize;
                let start = thread * local.bytes as usize;
                fits.then(|| local.base.wrapping_add(start + address as usize))
            }
            Space::Param => {
                let fits = address.checked_add(span.bytes)? <= self.params.len() as u64;
                let start = self.params.as_ptr().cast_mut();
                (fits && span.access == Access::Read).then(|| start.wrapping_add(address as usize))
            }
        }
    }

    /// Resolves addresses that do not lie in one piece of memory.
    ///
    /// # Errors
    /// The first lane whose address is misaligned, not mapped or out of bounds.
    #[inline(always)]
    pub(super) fn resolve_apart(
        &self,
        space: Space,
        (addresses, bounds): (&[u64; 32], &Bounds),
        mask: u32,
        span: Span,
    ) -> Result<Resolved, LaneFault> {
        if let Some((base, stride)) = self.common_local(space, bounds, span) {
            let start = |l: usize| base.wrapping_add((l as u64).wrapping_mul(stride));
            return Ok(std::array::from_fn(|l| start(l).wrapping_add(addresses[l])));
        }
        self.resolve_each(space, addresses, mask, span)
    }

    /// What must be added to every address if all of them lie in one contiguous piece of memory
    /// and are aligned.
    #[inline(always)]
    pub(super) fn common(&self, space: Space, bounds: &Bounds, span: Span) -> Option<u64> {
        if bounds.bits & span.align.wrapping_sub(1) != 0 {
            return None;
        }
        // Compared before the bytes of a lane are added, which may wrap around.
        let extent = bounds.high.wrapping_sub(bounds.low);
        if extent > PAGE - span.bytes {
            return None;
        }
        let bytes = extent + span.bytes;
        let whole = Span { bytes, ..span };
        let (space, low) = match space {
            Space::Generic if bounds.high >= SHARED_WINDOW => match window(bounds.low) {
                Some(Space::Local) | None => return None,
                Some(space) => (space, bounds.low & 0xffff_ffff),
            },
            Space::Generic => (Space::Global, bounds.low),
            Space::Local => return None,
            space => (space, bounds.low),
        };
        let host = match space {
            Space::Global => {
                let space = self.space;
                space.translate(self.device, low, bytes, span.access)?
            }
            _ => self.lookup(space, low, 0, whole)?,
        };
        Some((host.expose_provenance() as u64).wrapping_sub(bounds.low))
    }

    /// Host address of local address 0 of lane 0, and the distance between lanes, if all lanes
    /// address local memory within bounds.
    #[inline(always)]
    fn common_local(&self, space: Space, bounds: &Bounds, span: Span) -> Option<(u64, u64)> {
        let window = match space {
            Space::Local => 0,
            Space::Generic => LOCAL_WINDOW,
            _ => return None,
        };
        let local = &self.local;
        let stride = u64::from(local.bytes);
        let end = bounds.high.checked_sub(window)?.checked_add(span.bytes)?;
        if bounds.low < window || end > stride || bounds.bits & span.align.wrapping_sub(1) != 0 {
            return None;
        }
        let first = u64::from(local.first_thread) * stride;
        let base = local.base.expose_provenance() as u64;
        Some((base.wrapping_add(first).wrapping_sub(window), stride))
    }

    #[cold]
    fn resolve_each(
        &self,
        space: Space,
        addresses: &[u64; 32],
        mask: u32,
        span: Span,
    ) -> Result<Resolved, LaneFault> {
        let mut hosts = [0; 32];
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            left &= left - 1;
            let host = self.resolve_one(space, addresses[lane as usize], lane, span)?;
            hosts[lane as usize] = host.expose_provenance() as u64;
        }
        Ok(hosts)
    }
}

/// The special window that a generic address falls into.
#[inline]
#[must_use]
pub const fn window(address: u64) -> Option<Space> {
    match address & !0xffff_ffff {
        SHARED_WINDOW => Some(Space::SharedCluster),
        LOCAL_WINDOW => Some(Space::Local),
        PARAM_WINDOW => Some(Space::Param),
        _ => None,
    }
}

/// Extremes of the addresses of the active lanes.
pub(super) struct Bounds {
    pub(super) low: u64,
    pub(super) high: u64,
    /// All address bits that occur.
    bits: u64,
}

impl Bounds {
    /// Those of lanes whose addresses go from `first` over `extent` bytes in steps of the span.
    #[inline(always)]
    pub(super) const fn from(first: u64, extent: u64) -> Self {
        Self {
            low: first,
            high: first.wrapping_add(extent),
            // Steps are multiples of the alignment, so all addresses are aligned as the first is.
            bits: first,
        }
    }

    #[inline(always)]
    pub(super) fn of(addresses: &[u64; 32], mask: u32) -> Self {
        let mut bounds = Self {
            low: u64::MAX,
            high: 0,
            bits: 0,
        };
        for (lane, &address) in addresses.iter().enumerate() {
            // All ones for an inactive lane: arithmetic instead of branches vectorises.
            let gone = u64::from(mask >> lane & 1).wrapping_sub(1);
            bounds.low = bounds.low.min(address | gone);
            bounds.high = bounds.high.max(address & !gone);
            bounds.bits |= address & !gone;
        }
        bounds
    }
}
