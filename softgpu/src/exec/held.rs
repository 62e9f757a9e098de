//! Stores to peers under fault injection: which happen, which happen later, which go wrong.
//!
//! A delayed store of a warp is its instruction with registers of its own, executed again when its
//! time has come; a delayed bulk store is its rows. They belong to their cluster, which does not end
//! before the last of them has arrived. An access of the cluster to bytes that one of them writes
//! makes them all arrive.
#![expect(
    unsafe_code,
    reason = "instructions are executed through their handlers"
)]

use smallvec::SmallVec;

use super::access::transfer::guest_addresses;
use super::access::{MemCtx, Span, window};
use super::clock::Clock;
use super::cta::{Env, Origin, State};
use super::inject::{self, Effect, Trip};
use super::inst::{Code, Inst, LaneFault};
use super::kernel::{AccessInfo, AccessKind};
use super::regs::{RegFile, Slot};
use super::warp::Warp;
use crate::error::Fault;
use crate::ir::{Class, Space};
use crate::mem::{Access, AddressSpace};
use crate::tensor::reduce::Reduction;

/// A store instruction that has left its warp.
#[derive(Debug)]
struct Detached {
    regs: RegFile,
    inst: Inst,
    mask: u32,
}

impl Detached {
    fn of(regs: &RegFile, inst: &Inst, mask: u32) -> Self {
        let list = inst.list.as_deref().unwrap_or_default();
        let (own, slots) = regs.extract(list.iter().copied().chain([inst.a]));
        let (address, list) = slots.split_last().unwrap_or((&Slot::NONE, &[]));
        let inst = Inst {
            a: *address,
            list: Some(list.into()),
            ..inst.clone()
        };
        Self {
            regs: own,
            inst,
            mask,
        }
    }

    /// Makes a bit wrong in the first element of the first lane.
    fn corrupt(&mut self, info: AccessInfo, bit: u32) {
        let list = self.inst.list.as_deref().unwrap_or_default();
        let Some(&slot) = list.iter().find(|slot| **slot != Slot::NONE) else {
            return;
        };
        let lane = self.mask.trailing_zeros() as usize & 31;
        let bit = bit % (8 * info.element.max(1));
        match info.class {
            Class::B128 => self.regs.lanes128_mut(slot)[lane] ^= 1 << bit,
            Class::B64 => self.regs.lanes64_mut(slot)[lane] ^= 1 << bit,
            Class::B32 | Class::Pred => self.regs.lanes32_mut(slot)[lane] ^= 1 << bit,
        }
    }

    fn execute(&mut self, ctx: &mut MemCtx<'_>) -> Result<(), Box<LaneFault>> {
        let Code::Mem(handler, _) = self.inst.code else {
            return Ok(());
        };
        // SAFETY: the handler was chosen for this host; `extract` made room for every slot that
        // the instruction names; the context is its cluster's.
        unsafe { handler(&mut self.regs, self.mask, &self.inst, ctx) }
    }
}

#[derive(Debug)]
enum What {
    Warp(Box<Detached>),
    Row {
        address: u64,
        data: Vec<u8>,
        reduction: Option<Reduction>,
    },
}

/// A delayed store.
#[derive(Debug)]
struct Store {
    /// Clock at which it arrives.
    due: u64,
    low: u64,
    high: u64,
    origin: Origin,
    what: What,
}

impl Store {
    fn perform(self, env: &Env) -> Result<(), Fault> {
        let done = match self.what {
            What::Warp(mut store) => {
                let mut ctx = env.context(self.origin.rank, 0);
                store.execute(&mut ctx).map_err(|fault| fault.kind)
            }
            What::Row {
                address,
                data,
                reduction,
            } => super::transfer::write_row(env, address, &data, reduction),
        };
        done.map_err(|kind| env.fault(self.origin, kind))
    }
}

/// The delayed stores of a cluster, in the order of their issue.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Store>);

impl Held {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets all of them arrive at once.
    pub(super) fn hurry(&mut self) {
        self.0.iter_mut().for_each(|store| store.due = 0);
    }

    /// Performs what is due at `now`.
    pub(super) fn land(&mut self, env: &Env, now: u64) -> Result<(), Fault> {
        let (due, later) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|store| store.due <= now);
        self.0 = later;
        let mut due: Vec<Store> = due;
        due.sort_by_key(|store| store.due);
        due.into_iter().try_for_each(|store| store.perform(env))
    }

    /// Performs all of them if one writes to some of `low..high`.
    fn settle(&mut self, env: &Env, low: u64, high: u64) -> Result<(), Fault> {
        if self.0.iter().any(|s| s.low < high && low < s.high) {
            self.land(env, u64::MAX)?;
        }
        Ok(())
    }

    /// Keeps a row of a bulk store.
    pub(super) fn keep_row(
        &mut self,
        (due, origin): (u64, Origin),
        address: u64,
        data: &[u8],
        reduction: Option<Reduction>,
    ) {
        self.0.push(Store {
            due,
            low: address,
            high: address.saturating_add(data.len() as u64),
            origin,
            what: What::Row {
                address,
                data: data.to_vec(),
                reduction,
            },
        });
    }
}

/// Whose memory addresses are, remembering the last answer.
#[derive(Debug, Default)]
pub(super) struct Owners {
    last: Option<crate::mem::Region>,
}

impl Owners {
    /// The device that the memory at an address belongs to.
    pub(super) fn of(&mut self, address: u64) -> Option<u32> {
        if !self.last.is_some_and(|region| region.contains(address, 1)) {
            self.last = AddressSpace::global().lookup(address);
        }
        self.last.and_then(|region| region.device())
    }
}

/// Whether a lane's address is one of global memory.
pub(super) fn is_global(space: Space, address: u64) -> bool {
    match space {
        Space::Generic => window(address).is_none(),
        space => matches!(space, Space::Global | Space::Const),
    }
}

/// Lanes that go to one peer.
type Group = (u32, u32);

impl State {
    /// The clock at which a store of now arrives that is delayed.
    pub(super) fn arrival(&self, ns: u64) -> u64 {
        self.share
            .end(self.work)
            .saturating_add(Clock::ticks_of(std::time::Duration::from_nanos(ns)))
    }
}

impl Warp {
    /// Under fault injection: the lanes of an access that still have to execute it.
    pub(super) fn inject(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (inst, info, mask): (&Inst, AccessInfo, u32),
    ) -> Result<u32, Fault> {
        if info.bytes == 0 {
            return Ok(mask);
        }
        // SAFETY: only loads, stores and atomics have bytes; the file has all slots of the kernel.
        let (space, addresses) = unsafe { guest_addresses(&mut self.regs, inst) };
        let lanes = (0..32).filter(|lane| mask >> lane & 1 != 0);
        let global: SmallVec<[usize; 32]> =
            lanes.filter(|&l| is_global(space, addresses[l])).collect();
        let low = global.iter().map(|&lane| addresses[lane]).min();
        let high = global.iter().map(|&lane| addresses[lane]).max();
        let (Some(low), Some(high)) = (low, high) else {
            return Ok(mask);
        };
        let bytes = u64::from(info.bytes);
        let high = high.saturating_add(bytes);
        st.held.settle(env, low, high)?;
        if info.kind == AccessKind::Load || !inject::concerns(ctx.device) {
            return Ok(mask);
        }
        let trip = match info.kind {
            AccessKind::Atom => Trip::Answered,
            _ => Trip::OneWay,
        };
        let mut rest = mask;
        for (owner, lanes) in groups(ctx, (&global, &addresses), bytes) {
            let origin = self.origin(lanes.trailing_zeros(), inst.line);
            let fault = |fault: LaneFault| env.fault(origin, fault.kind);
            let Some(effect) = inject::judge(ctx.device, owner, trip) else {
                continue;
            };
            rest &= !lanes;
            let mut store = Box::new(Detached::of(&self.regs, inst, lanes));
            match effect {
                Effect::Drop if info.kind == AccessKind::Atom => {
                    self.look(ctx, (inst, info), (lanes, &addresses))
                        .map_err(fault)?;
                }
                Effect::Drop => {}
                Effect::Corrupt { bit } => {
                    store.corrupt(info, bit);
                    store.execute(ctx).map_err(|error| fault(*error))?;
                }
                Effect::Delay { ns } => st.held.0.push(Store {
                    due: st.arrival(ns),
                    low,
                    high,
                    origin,
                    what: What::Warp(store),
                }),
            }
        }
        Ok(rest)
    }

    /// Gives the lanes of a lost atomic the values that they find.
    fn look(
        &mut self,
        ctx: &MemCtx<'_>,
        (inst, info): (&Inst, AccessInfo),
        (lanes, addresses): (u32, &[u64; 32]),
    ) -> Result<(), LaneFault> {
        let element = info.element.max(1);
        let targets = inst.list.as_deref().unwrap_or_default();
        for lane in (0..32u32).filter(|lane| lanes >> lane & 1 != 0) {
            for (index, &slot) in (0..info.bytes / element).zip(targets) {
                if slot == Slot::NONE {
                    continue;
                }
                let address = addresses[lane as usize] + u64::from(index * element);
                let value = read(ctx, address, (lane, element))?;
                match element {
                    16 => self.regs.lanes128_mut(slot)[lane as usize] = value,
                    8 => self.regs.lanes64_mut(slot)[lane as usize] = low64(value),
                    _ => self.regs.set_value(slot, Class::B32, lane, low64(value)),
                }
            }
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low64(value: u128) -> u64 {
    value as u64
}

/// Reads an element of global memory.
fn read(ctx: &MemCtx<'_>, address: u64, (lane, bytes): (u32, u32)) -> Result<u128, LaneFault> {
    let span = Span {
        bytes: bytes.into(),
        align: bytes.into(),
        access: Access::Read,
    };
    let host = ctx.resolve_one(Space::Global, address, lane, span)?;
    Ok(match bytes {
        16 => u128::from_le_bytes(super::system::read_bytes(host)),
        8 => u64::from_le_bytes(super::system::read_bytes(host)).into(),
        4 => u32::from_le_bytes(super::system::read_bytes(host)).into(),
        _ => u16::from_le_bytes(super::system::read_bytes(host)).into(),
    })
}

/// The lanes that write to memory of other devices, by device. Those whose access would fault are
/// left to the instruction.
fn groups(
    ctx: &MemCtx<'_>,
    (lanes, addresses): (&[usize], &[u64; 32]),
    bytes: u64,
) -> SmallVec<[Group; 2]> {
    let span = Span {
        bytes,
        align: bytes,
        access: Access::Write,
    };
    let mut owners = Owners::default();
    let mut groups: SmallVec<[Group; 2]> = SmallVec::new();
    for &lane in lanes {
        let Some(owner) = owners.of(addresses[lane]).filter(|&o| o != ctx.device) else {
            continue;
        };
        if ctx
            .resolve_one(Space::Global, addresses[lane], 0, span)
            .is_err()
        {
            continue;
        }
        match groups.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, mask)) => *mask |= 1 << lane,
            None => groups.push((owner, 1 << lane)),
        }
    }
    groups
}

/// What becomes of the rows of one bulk store: one answer per peer.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    owners: Owners,
    known: SmallVec<[(u32, Option<Effect>); 2]>,
}

impl Verdicts {
    /// The fault for a row at an address.
    pub(super) fn of(&mut self, from: u32, address: u64) -> Option<Effect> {
        let to = self.owners.of(address)?;
        if let Some((_, effect)) = self.known.iter().find(|(known, _)| *known == to) {
            return *effect;
        }
        let effect = inject::judge(from, to, Trip::OneWay);
        self.known.push((to, effect));
        effect
    }

    /// A bit of a row is wrong; the others are right.
    pub(super) fn corrupted(&mut self, address: u64) {
        let to = self.owners.of(address);
        for (_, effect) in self
            .known
            .iter_mut()
            .filter(|(known, _)| Some(*known) == to)
        {
            *effect = None;
        }
    }
}

/// A row with a wrong bit.
pub(super) fn wrong(row: &[u8], bit: u32) -> Vec<u8> {
    let mut row = row.to_vec();
    if let Some(byte) = row.get_mut(bit as usize / 8) {
        *byte ^= 1 << (bit % 8);
    }
    row
}
