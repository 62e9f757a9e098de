//! Late stores: under a seed, weak and relaxed stores to global memory may become visible to the
//! rest of the machine later than they execute, and out of order.
//!
//! Rules: a cluster keeps such stores in one buffer. They become visible when their time comes, when
//! nothing in the cluster can run, before an access of the cluster to the same bytes, and before
//! everything that may order them for others: fences beyond the CTA and of proxies, releases, `volatile`
//! and `mmio` stores, and any instruction not known to order nothing. Stores to one place keep
//! their order. Bulk copies read global memory past the buffer, as the asynchronous proxy may.
//! All threads of the cluster see the stores at once, which is stronger than PTX demands.
#![expect(unsafe_code, reason = "stores reach guest memory through pointers")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::access::{MemCtx, Span, window};
use super::seed::Choice;
use crate::ir::{FenceKind, Op, Scope, Space};
use crate::mem::Access;

/// Stores that wait at most; then the oldest become visible.
const MOST: usize = 64;

/// The lanes of one store instruction.
#[derive(Debug)]
struct Store {
    due: u64,
    /// Bytes of an element.
    size: u32,
    elements: SmallVec<[(u64, u64); 32]>,
    low: u64,
    high: u64,
}

impl Store {
    fn meets(&self, low: u64, high: u64) -> bool {
        self.low < high && low < self.high
    }

    fn perform(&self) {
        for &(address, value) in &self.elements {
            write(address, self.size, value);
        }
    }
}

/// Writes one element at a resolved, aligned address.
#[expect(
    clippy::cast_possible_truncation,
    reason = "elements sit in the low bits of the word"
)]
fn write(address: u64, size: u32, value: u64) {
    let pointer = usize::try_from(address).unwrap_or(0);
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(pointer);
    let order = Ordering::Relaxed;
    match size {
        // SAFETY: the address was resolved for writing when the store executed, guest memory stays
        // backed, and it is aligned.
        1 => unsafe { AtomicU8::from_ptr(pointer) }.store(value as u8, order),
        // SAFETY: as above.
        2 => unsafe { AtomicU16::from_ptr(pointer.cast()) }.store(value as u16, order),
        // SAFETY: as above.
        4 => unsafe { AtomicU32::from_ptr(pointer.cast()) }.store(value as u32, order),
        // SAFETY: as above.
        _ => unsafe { AtomicU64::from_ptr(pointer.cast()) }.store(value, order),
    }
}

/// What the buffer has to know of an access.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touch<'a> {
    pub(super) space: Space,
    pub(super) addresses: &'a [u64; 32],
    pub(super) mask: u32,
    /// Bytes per lane.
    pub(super) bytes: u32,
}

impl Touch<'_> {
    fn lanes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..32).filter(|lane| self.mask >> lane & 1 != 0)
    }

    /// The range of global addresses; `None` if there are none.
    fn global(&self) -> Option<(u64, u64)> {
        let mut range: Option<(u64, u64)> = None;
        for lane in self.lanes() {
            let address = self.addresses[lane];
            let global = match self.space {
                Space::Generic => window(address).is_none(),
                Space::Global | Space::Const => true,
                _ => false,
            };
            if global {
                let end = address.saturating_add(self.bytes.into());
                let (low, high) = range.unwrap_or((address, end));
                range = Some((low.min(address), high.max(end)));
            }
        }
        range
    }
}

/// The stores of a cluster that others do not see yet.
#[derive(Debug, Default)]
pub(super) struct LateStores {
    /// A seed asks for late stores.
    pub(super) on: bool,
    stores: VecDeque<Store>,
}

impl LateStores {
    /// An empty buffer. Stores may be late at all if there is a seed.
    pub(super) fn new(choice: &Choice) -> Self {
        Self {
            on: choice.is_seeded(),
            stores: VecDeque::new(),
        }
    }

    /// Makes everything visible.
    pub(super) fn drain(&mut self) {
        for store in self.stores.drain(..) {
            store.perform();
        }
    }

    /// Makes visible what an access to the same bytes must see, or come after.
    pub(super) fn settle(&mut self, access: Touch<'_>) {
        if let Some((low, high)) = access.global()
            && self.stores.iter().any(|store| store.meets(low, high))
        {
            self.drain();
        }
    }

    /// Makes visible what is due at `work`.
    pub(super) fn settle_due(&mut self, work: u64) {
        while let Some(at) = self.stores.iter().position(|store| store.due <= work) {
            self.perform(at);
        }
    }

    /// Whether there is a store that others do not see.
    pub(super) fn any(&self) -> bool {
        !self.stores.is_empty()
    }

    /// Makes some store visible, if there is one, as nothing else is left to do.
    pub(super) fn settle_any(&mut self, choice: &mut Choice) {
        let count = self.stores.len();
        if count != 0 {
            let at = choice.below(count as u64, 0);
            self.perform(usize::try_from(at).unwrap_or(0));
        }
    }

    /// Makes one store visible, after earlier ones to the same place.
    fn perform(&mut self, at: usize) {
        let (low, high) = (self.stores[at].low, self.stores[at].high);
        let before = self.stores.range(..at).any(|store| store.meets(low, high));
        let count = if before { at } else { 0 };
        for store in self.stores.drain(..count) {
            store.perform();
        }
        if let Some(store) = self.stores.remove(at - count) {
            store.perform();
        }
    }

    /// Keeps a store for later, if it is one to global memory; `false` if it has to execute now.
    /// `value` gives the elements of a lane.
    pub(super) fn keep(
        &mut self,
        ctx: &MemCtx<'_>,
        access: Touch<'_>,
        (work, choice): (u64, &mut Choice),
        value: impl Fn(u32) -> SmallVec<[u64; 8]>,
    ) -> bool {
        let Some((low, high)) = access.global() else {
            return false;
        };
        if choice.below(4, 0) == 0 {
            self.settle(access);
            return false;
        }
        let mut elements = SmallVec::new();
        let mut size = 0;
        let span = Span {
            bytes: access.bytes.into(),
            align: access.bytes.into(),
            access: Access::Write,
        };
        for lane in access.lanes() {
            let address = access.addresses[lane];
            // A fault is the instruction's to report, and a mixture of spaces its own business.
            if ctx.resolve_one(Space::Global, address, 0, span).is_err() {
                self.drain();
                return false;
            }
            let values = value(u32::try_from(lane).unwrap_or(0));
            size = access.bytes / u32::try_from(values.len().max(1)).unwrap_or(1);
            for (index, value) in values.iter().enumerate() {
                elements.push((address + index as u64 * u64::from(size), *value));
            }
        }
        let scale = [16, 400, 6000, 100_000][usize::try_from(choice.below(4, 0)).unwrap_or(0)];
        if self.stores.len() >= MOST {
            self.drain();
        }
        self.stores.push_back(Store {
            due: work + choice.below(scale, 0),
            size,
            elements,
            low,
            high,
        });
        true
    }
}

/// Whether an instruction of the machine leaves late stores late.
pub(super) fn orders_nothing(op: &Op) -> bool {
    match op {
        Op::Fence(FenceKind::Memory(_, scope)) => matches!(scope, Scope::Cta | Scope::Cluster),
        Op::Fence(FenceKind::MbarrierInit) => true,
        Op::Bulk(_)
        | Op::Wgmma(_)
        | Op::WgmmaCommit
        | Op::WgmmaWait(_)
        | Op::CpAsyncCommit
        | Op::CpAsyncWait(_) => true,
        Op::Fence(_) => false,
        op => super::warp::is_known(op),
    }
}
