//! Straight runs of a warp: instructions that touch registers and memory only.
//!
//! [`Warp::straight`] applies guards and calls handlers, and nothing else: what a run moved is counted
//! with its instructions, at its end. Accesses that the machine looks at ([`Notice`]), because they may
//! be polls or because someone wants to know of all, go through [`Warp::noticed`].
#![expect(
    unsafe_code,
    reason = "handlers are called through unsafe function pointers"
)]

use super::access::MemCtx;
use super::access::transfer::guest_addresses;
use super::cta::{Env, State};
use super::inst::{Code, Inst, LaneFault, Notice};
use super::kernel::{AccessKind, Kernel};
use super::regs::{PredSlot, Slot};
use super::visibility::Touch;
use super::warp::{Warp, stir};
use crate::error::Fault;
use crate::ir::{Class, Space};

impl Warp {
    /// Executes instructions that touch registers and memory only, from `pc` on: where it stopped,
    /// at `limit` or at an instruction of the machine.
    ///
    /// A function of its own, so that what it needs stays in the host's registers.
    #[inline(never)]
    pub(super) fn straight(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (at, pc, limit, active): (usize, u32, u32, u32),
    ) -> Result<u32, Box<Fault>> {
        let kernel = &*env.launch.kernel;
        let least = match (st.hooked, self.armed) {
            (true, _) => Notice::Never,
            (false, true) => Notice::Armed,
            (false, false) => Notice::Always,
        };
        let end = kernel.code.len().min(limit as usize);
        let mut rest = kernel.code[pc as usize..end].iter();
        // The kernel's positions fit into 32 bits.
        let place =
            |rest: &std::slice::Iter<'_, Inst>| u32::try_from(end - rest.len()).unwrap_or(u32::MAX);
        while let Some(inst) = rest.next() {
            let mut mask = active;
            if inst.guard != PredSlot::TRUE {
                mask &= self.regs.pred_operand(inst.guard);
            }
            match inst.code {
                Code::Alu(handler) => {
                    // SAFETY: `encode` chose the handler for this host, and the file has all slots
                    // of the kernel (`Kernel::new` takes the bank's extent).
                    unsafe { handler(&mut self.regs, mask, inst) };
                }
                Code::Mem(handler, notice) if notice < least => {
                    // SAFETY: as above; `env` keeps alive what the context points to.
                    let done = unsafe { handler(&mut self.regs, mask, inst, ctx) };
                    done.map_err(|fault| self.lane_fault(env, inst, *fault))?;
                }
                Code::Mem(..) => self.noticed(env, st, ctx, (at, place(&rest) - 1, mask))?,
                Code::Sys(_) => return Ok(place(&rest) - 1),
            }
        }
        Ok(place(&rest))
    }

    /// Executes an access that the machine looks at.
    fn noticed(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (at, pc, mask): (usize, u32, u32),
    ) -> Result<(), Box<Fault>> {
        let kernel = &*env.launch.kernel;
        let inst = &kernel.code[pc as usize];
        let Code::Mem(handler, _) = inst.code else {
            return Ok(());
        };
        if mask == 0 {
            return Ok(());
        }
        let mut rest = mask;
        if st.hooked {
            rest = self.before_access(env, st, ctx, (pc, mask))?;
        }
        if rest != 0 {
            // SAFETY: as in `straight`.
            let done = unsafe { handler(&mut self.regs, rest, inst, ctx) };
            done.map_err(|fault| self.lane_fault(env, inst, *fault))?;
        }
        self.note_access(kernel, st, (at, pc, mask));
        Ok(())
    }

    #[cold]
    fn lane_fault(&self, env: &Env, inst: &Inst, fault: LaneFault) -> Box<Fault> {
        Box::new(env.fault(self.origin(fault.lane, inst.line), fault.kind))
    }

    /// Before an access to memory, if someone wants to know: the lanes that still have to execute it.
    ///
    /// This is the place for whatever else looks at accesses one by one, such as shadow memory.
    #[cold]
    fn before_access(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (pc, mask): (u32, u32),
    ) -> Result<u32, Fault> {
        let kernel = &*env.launch.kernel;
        let info = kernel.access[pc as usize];
        let mut rest = mask;
        if let Some(traffic) = &mut st.counters.traffic
            && info.bytes != 0
        {
            // SAFETY: only loads, stores and atomics have bytes; the file has all slots of the kernel.
            let (space, addresses) =
                unsafe { guest_addresses(&mut self.regs, &kernel.code[pc as usize]) };
            traffic.access(ctx, (info, mask), (space, &addresses));
        }
        if st.injects {
            rest = self.inject(env, st, ctx, (&kernel.code[pc as usize], info, mask))?;
        }
        if st.recorder.on && (info.poll != 0 || info.kind != AccessKind::Load) {
            let inst = &kernel.code[pc as usize];
            // SAFETY: only loads, stores and atomics have bytes, and these have; the file has all
            // slots of the kernel.
            let (space, addresses) = unsafe { guest_addresses(&mut self.regs, inst) };
            let lanes = (0..32).filter(|lane| mask >> lane & 1 != 0);
            let places = lanes.map(|lane| (space, addresses[lane as usize], lane));
            st.recorder.access((env, ctx), info, places);
        }
        if st.late.on && self.make_late(kernel, st, ctx, (pc, rest)) {
            return Ok(0);
        }
        Ok(rest)
    }

    /// Under a seed: keeps a store for later, or makes visible what the access must come after.
    fn make_late(
        &mut self,
        kernel: &Kernel,
        st: &mut State,
        ctx: &MemCtx<'_>,
        (pc, mask): (u32, u32),
    ) -> bool {
        let info = kernel.access[pc as usize];
        if info.bytes == 0 || info.orders {
            st.late.drain();
            return false;
        }
        if matches!(
            info.space,
            Space::Shared | Space::SharedCluster | Space::Local | Space::Param
        ) {
            return false;
        }
        let inst = &kernel.code[pc as usize];
        // SAFETY: only loads, stores and atomics have bytes; the file has all slots of the kernel.
        let (space, addresses) = unsafe { guest_addresses(&mut self.regs, inst) };
        let touch = Touch {
            space,
            addresses: &addresses,
            mask,
            bytes: info.bytes,
        };
        if info.store == 0 {
            st.late.settle(touch);
            return false;
        }
        let values = &kernel.stores[info.store as usize - 1];
        let regs = &self.regs;
        let of_lane = |lane| {
            values
                .iter()
                .map(|value| regs.operand_u64(value, lane))
                .collect()
        };
        st.late.keep(ctx, touch, (st.work, &mut st.choice), of_lane)
    }

    /// Counts the bytes of an access, and what a poll has read.
    fn note_access(&mut self, kernel: &Kernel, st: &mut State, (at, pc, mask): (usize, u32, u32)) {
        let info = kernel.access[pc as usize];
        if kernel.code[pc as usize].guard != PredSlot::TRUE {
            // The others are counted with the instructions of their run.
            let bytes = u64::from(info.bytes) * u64::from(mask.count_ones());
            st.counters.bytes.add(info.space, bytes);
        }
        if info.poll == 0 || info.weak && !self.armed {
            return;
        }
        if st.recorder.on {
            st.recorder.look_at_atomics();
        }
        let inst = &kernel.code[pc as usize];
        // SAFETY: as in `before_access`.
        let (_, addresses) = unsafe { guest_addresses(&mut self.regs, inst) };
        let lanes = (0..32).filter(|lane| mask >> lane & 1 != 0);
        let places = lanes.fold(self.splits.at(at).spin.places, |hash, lane: usize| {
            stir(hash, addresses[lane])
        });
        let mut hash = self.splits.at(at).spin.hash;
        for reg in &kernel.polls[info.poll as usize - 1] {
            let slot = Slot(reg.slot);
            let mut mix = |value: u64| hash = stir(hash, value);
            let lanes = (0..32u32).filter(|lane| mask >> lane & 1 != 0);
            match reg.class {
                Class::B32 | Class::Pred if mask.count_ones() == 32 => {
                    self.regs
                        .lanes32(slot)
                        .iter()
                        .for_each(|&value| mix(value.into()));
                }
                class => lanes.for_each(|lane| mix(self.regs.value_u64(slot, class, lane))),
            }
        }
        let spin = &mut self.splits.at_mut(at).spin;
        spin.hash = if info.weak { stir(hash, places) } else { hash };
        spin.places = places;
        spin.polled = true;
    }
}
