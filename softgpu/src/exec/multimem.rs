//! `multimem`: loads, stores and reductions on all replicas behind a multicast address.
//!
//! Replicas are visited in the order of their devices. `ld_reduce` reads each of them and combines
//! the values from the first on; without `.acc::f32` every step rounds to the element type. PTX
//! leaves the order and the precision of float sums open.
#![expect(unsafe_code, reason = "guest memory is accessed through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "elements stand in the low bits of 64-bit words"
)]

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::access::MemCtx;
use super::bulk::{data_type, reduction};
use super::cta::State;
use super::inject::{self, Effect, Trip};
use super::inst::LaneFault;
use super::regs::Slot;
use super::system::Site;
use super::traffic::{Deed, Traffic};
use super::transfer::combine_element;
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{Access, Multimem, RmwOp, Ty};
use crate::mem;
use crate::tensor::convert;
use crate::tensor::reduce::Reduction;

/// The host addresses of one lane's access, one per replica.
type Replicas = SmallVec<[*mut u8; 8]>;

/// Replicas that fault injection keeps from an instruction, by device.
#[derive(Debug, Default)]
struct Lost(SmallVec<[(u32, bool); 8]>);

impl Lost {
    fn has(&mut self, from: u32, to: u32) -> bool {
        if let Some((_, lost)) = self.0.iter().find(|(known, _)| *known == to) {
            return *lost;
        }
        let effect = inject::judge(from, to, Trip::Answered);
        let lost = effect == Some(Effect::Drop);
        self.0.push((to, lost));
        lost
    }
}

/// Bytes of the words in which an access moves: packed pairs are two elements.
const fn element(ty: Ty) -> Ty {
    match ty {
        Ty::F16x2 => Ty::F16,
        Ty::BF16x2 => Ty::BF16,
        other => other,
    }
}

fn load(host: *mut u8, size: usize) -> u64 {
    let order = Ordering::Acquire;
    match size {
        // SAFETY: resolved for the access and aligned to the element; other threads use atomics or
        // race by the guest's own doing.
        2 => unsafe { AtomicU16::from_ptr(host.cast()) }
            .load(order)
            .into(),
        // SAFETY: as above.
        4 => unsafe { AtomicU32::from_ptr(host.cast()) }
            .load(order)
            .into(),
        // SAFETY: as above.
        _ => unsafe { AtomicU64::from_ptr(host.cast()) }.load(order),
    }
}

fn store(host: *mut u8, size: usize, value: u64) {
    let order = Ordering::Release;
    match size {
        // SAFETY: as in `load`.
        2 => unsafe { AtomicU16::from_ptr(host.cast()) }.store(value as u16, order),
        // SAFETY: as in `load`.
        4 => unsafe { AtomicU32::from_ptr(host.cast()) }.store(value as u32, order),
        // SAFETY: as in `load`.
        _ => unsafe { AtomicU64::from_ptr(host.cast()) }.store(value, order),
    }
}

/// The sum of 16-bit floats in f32, rounded once.
fn wide_sum(ty: Ty, values: impl Iterator<Item = u64>) -> u64 {
    let widen = |bits: u64| match ty {
        Ty::F16 => convert::f32_from_f16(bits as u16),
        _ => convert::f32_from_bf16(bits as u16),
    };
    let sum = values.map(widen).reduce(|sum, value| sum + value);
    let sum = sum.unwrap_or(0.0);
    u64::from(match ty {
        Ty::F16 => convert::f16_from_f32(sum),
        _ => convert::bf16_from_f32(sum),
    })
}

fn combine(reduction: Reduction, values: impl Iterator<Item = u64>) -> u64 {
    let all = values.reduce(|all, value| reduction.element(all, value));
    all.unwrap_or(0)
}

fn reduction_of(op: RmwOp, ty: Ty) -> Result<Reduction, FaultKind> {
    reduction(op, data_type(element(ty))?)
}

impl Warp {
    /// Executes `multimem` for the lanes of a site.
    pub(super) fn multimem(
        &mut self,
        st: &mut State,
        ctx: &MemCtx<'_>,
        site: Site<'_>,
        (form, access): (Multimem, Access),
    ) -> Result<Step, LaneFault> {
        let bytes = u64::from(access.ty.bytes()) * u64::from(access.vec);
        let lanes = u64::from(site.mask.count_ones());
        st.counters.bytes.add(access.space, bytes * lanes);
        let mut lost = Lost::default();
        let mut left = site.mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            left &= left - 1;
            let fault = |kind| LaneFault { lane, kind };
            let address = self.regs.operand_u64(&site.instr.src[0], lane);
            let address = address.wrapping_add_signed(access.offset);
            if let Some(traffic) = &mut st.counters.traffic {
                count(traffic, ctx, (address, bytes), form);
            }
            let replicas = replicas(ctx, address, (form, access), &mut lost).map_err(fault)?;
            self.multimem_lane(site, lane, (form, access), &replicas)
                .map_err(fault)?;
        }
        Ok(Step::Next)
    }

    fn multimem_lane(
        &mut self,
        site: Site<'_>,
        lane: u32,
        (form, access): (Multimem, Access),
        replicas: &Replicas,
    ) -> Result<(), FaultKind> {
        let word = access.ty.bytes() as usize;
        let size = element(access.ty).bytes() as usize;
        for index in 0..usize::from(access.vec) {
            let at = |part: usize| {
                let offset = index * word + part * size;
                replicas.iter().map(move |host| host.wrapping_add(offset))
            };
            if let Multimem::LoadReduce { op, wide } = form {
                let reduction = reduction_of(op, access.ty)?;
                let mut bits = 0;
                for part in 0..word / size {
                    let values = at(part).map(|host| load(host, size));
                    let one = if wide {
                        wide_sum(element(access.ty), values)
                    } else {
                        combine(reduction, values)
                    };
                    bits |= one << (8 * size * part);
                }
                let dst = site.instr.dst[index];
                self.regs.set_value(Slot(dst.slot), dst.class, lane, bits);
                continue;
            }
            let bits = self.regs.operand_u64(&site.instr.src[1 + index], lane);
            match form {
                Multimem::Reduce(op) => {
                    let reduction = reduction_of(op, access.ty)?;
                    for part in 0..word / size {
                        let operand = bits >> (8 * size * part);
                        let operand = operand & u64::MAX >> (64 - 8 * size);
                        at(part).for_each(|host| combine_element(host, size, operand, reduction));
                    }
                }
                _ => at(0).for_each(|host| store(host, word, bits)),
            }
        }
        Ok(())
    }
}

/// Counts an access of a lane to all replicas.
fn count(traffic: &mut Traffic, ctx: &MemCtx<'_>, (address, bytes): (u64, u64), form: Multimem) {
    let deed = match form {
        Multimem::LoadReduce { .. } => Deed::Read,
        Multimem::Store => Deed::Write,
        Multimem::Reduce(_) => Deed::Atomic,
    };
    traffic.bytes.global += bytes;
    for replica in ctx
        .space
        .multicast(ctx.device, address, bytes)
        .iter()
        .flatten()
    {
        traffic.link((ctx.device, Some(replica.device)), (deed, bytes));
    }
}

/// Where the replicas of a multicast address are in the host.
fn replicas(
    ctx: &MemCtx<'_>,
    address: u64,
    (form, access): (Multimem, Access),
    lost: &mut Lost,
) -> Result<Replicas, FaultKind> {
    let bytes = u64::from(access.ty.bytes()) * u64::from(access.vec);
    if !address.is_multiple_of(bytes) {
        let align = bytes;
        return Err(FaultKind::MisalignedAddress { address, align });
    }
    let write = !matches!(form, Multimem::LoadReduce { .. });
    let illegal = FaultKind::IllegalAddress {
        address,
        bytes,
        write,
    };
    let mode = if write {
        mem::Access::Write
    } else {
        mem::Access::Read
    };
    let found = ctx.space.multicast(ctx.device, address, bytes);
    let found = found.ok_or_else(|| illegal.clone())?;
    let injects = write && inject::concerns(ctx.device);
    let mut arrives = |device| !injects || !lost.has(ctx.device, device);
    let found = found.iter().filter(|unicast| arrives(unicast.device));
    let hosts = found.map(|unicast| {
        // Whoever owns the memory may access it; that is checked for the executing device by the
        // window's own permissions.
        ctx.space
            .translate(unicast.device, unicast.address, bytes, mode)
    });
    hosts.collect::<Option<Replicas>>().ok_or(illegal)
}
