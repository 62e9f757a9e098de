//! Questions about generic addresses: `isspacep`, `getctarank`.
#![expect(unsafe_code, reason = "operands are read through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "a shared address is the low half of a generic one"
)]

use std::marker::PhantomData;

use super::{MemCtx, shared_rank, window};
use crate::exec::inst::{Inst, LaneFault};
use crate::exec::lanes::isa::{Host, MemBody};
use crate::exec::lanes::value::{Raw, Value};
use crate::exec::regs::RegFile;
use crate::ir::Space;

/// A condition on a generic address.
trait Place {
    fn holds(address: u64, own: u32) -> bool;
}

macro_rules! places {
    ($($name:ident($address:ident, $own:ident) $body:expr;)*) => {$(
        pub(crate) struct $name;
        impl Place for $name {
            #[inline(always)]
            fn holds($address: u64, $own: u32) -> bool {
                $body
            }
        }
        impl MemBody for $name {
            #[inline(always)]
            unsafe fn run<I: Host>(
                regs: &mut RegFile,
                mask: u32,
                inst: &Inst,
                ctx: &mut MemCtx<'_>,
            ) -> Result<(), LaneFault> {
                // SAFETY: the caller's promise.
                unsafe { test::<Self>(regs, mask, inst, ctx.rank) };
                Ok(())
            }
        }
    )*};
}
places! {
    IsGlobal(address, _own) window(address).is_none();
    IsShared(address, own) {
        window(address) == Some(Space::SharedCluster) && shared_rank(address as u32, own) == own
    };
    IsSharedCluster(address, _own) window(address) == Some(Space::SharedCluster);
    IsLocal(address, _own) window(address) == Some(Space::Local);
    IsParam(address, _own) window(address) == Some(Space::Param);
}

/// # Safety
/// The operands lie in the file.
#[inline(always)]
unsafe fn test<P: Place>(regs: &mut RegFile, mask: u32, inst: &Inst, own: u32) {
    let a = regs.source(inst.a);
    let mut bits = 0;
    for lane in 0..32 {
        // SAFETY: the operand lies in the file, and lane < 32.
        let address = unsafe { u64::get(a, lane) };
        bits |= u32::from(P::holds(address, own)) << lane;
    }
    regs.set_pred(inst.dst.0, mask, bits);
}

/// `getctarank` of a shared or generic address.
pub(crate) struct Rank<T>(PhantomData<T>);

/// Addresses of either width.
pub(crate) trait Address: Value {
    /// The shared address.
    fn shared(self) -> u32;
}
impl Address for u32 {
    #[inline(always)]
    fn shared(self) -> u32 {
        self
    }
}
impl Address for u64 {
    #[inline(always)]
    fn shared(self) -> u32 {
        self as u32
    }
}

impl<T: Address> MemBody for Rank<T> {
    #[inline(always)]
    unsafe fn run<I: Host>(
        regs: &mut RegFile,
        mask: u32,
        inst: &Inst,
        ctx: &mut MemCtx<'_>,
    ) -> Result<(), LaneFault> {
        let a = regs.source(inst.a);
        let mut out = [0u32; 32];
        for (lane, out) in out.iter_mut().enumerate() {
            // SAFETY: the operand lies in the file, and lane < 32.
            let address = unsafe { T::get(a, lane) };
            *out = shared_rank(address.shared(), ctx.rank);
        }
        let target = regs.target(inst.dst);
        // SAFETY: the destination lies in the file.
        unsafe { Raw::commit(target, mask, &out) };
        Ok(())
    }
}
