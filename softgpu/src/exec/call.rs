//! Calls of routines: the threads' stacks.
//!
//! Every thread has a stack in its local memory, above the kernel's own variables, that grows
//! upwards; frames there hold parameters, results and variables. Where a thread returns to, and the
//! registers that a recursive call saves, are kept on the host, out of reach of stray stores; they
//! count as stack all the same, so that the depth of a recursion is bounded as on a device.
#![expect(unsafe_code, reason = "frames are copied through guest pointers")]

use super::access::MemCtx;
use super::block::POISON;
use super::inst::LaneFault;
use super::kernel::Kernel;
use super::regs::{RegFile, Slot};
use super::system::Site;
use super::warp::{Step, Warp, stir};
use crate::error::FaultKind;
use crate::ir::{CallSite, Callee, Class, Instr, Op, Reg, Routine, Transfer};

/// An activation of a routine.
#[derive(Debug, Clone, Copy)]
struct Activation {
    site: u32,
    /// The caller's frame and top of stack.
    frame: u32,
    top: u32,
}

/// The stacks of a warp's threads.
#[derive(Debug)]
pub(super) struct Stacks {
    frame: [u32; 32],
    top: [u32; 32],
    /// By lane; empty until the first call, as most kernels make none.
    histories: Vec<History>,
}

/// What a thread has called and not left.
#[derive(Debug, Clone, Default)]
struct History {
    activations: Vec<Activation>,
    saved: Vec<u32>,
}

impl Stacks {
    pub(super) fn new(local_bytes: u32) -> Self {
        Self {
            frame: [0; 32],
            top: [local_bytes; 32],
            histories: Vec::new(),
        }
    }

    fn history(&mut self, lane: usize) -> &mut History {
        if self.histories.is_empty() {
            self.histories.resize_with(32, History::default);
        }
        &mut self.histories[lane]
    }

    /// The base of the threads' frames.
    pub(super) fn frames(&self) -> [u64; 32] {
        self.frame.map(u64::from)
    }

    /// The tops of the threads' stacks.
    pub(super) fn tops(&self) -> [u64; 32] {
        self.top.map(u64::from)
    }

    /// A hash of all of it.
    pub(super) fn fingerprint(&self) -> u64 {
        let words = self.frame.iter().chain(&self.top);
        let hash = words.fold(0, |hash, &word| stir(hash, word.into()));
        self.histories.iter().fold(hash, |hash, history| {
            let calls = history.activations.iter().map(|call| {
                let back = u64::from(call.site) << 32 | u64::from(call.frame);
                stir(back, call.top.into())
            });
            let hash = stir(hash, history.activations.len() as u64);
            let saved = history.saved.iter().map(|&word| word.into());
            calls.chain(saved).fold(hash, stir)
        })
    }

    /// Takes bytes from the stack of a thread; where they begin.
    pub(super) fn take(
        &mut self,
        ctx: &MemCtx<'_>,
        lane: u32,
        (bytes, align): (u64, u32),
    ) -> Result<u64, LaneFault> {
        let start = u64::from(self.top[lane as usize]).next_multiple_of(align.max(16).into());
        let end = start.checked_add(bytes);
        self.top[lane as usize] = end
            .filter(|&end| end <= u64::from(ctx.local.bytes))
            .and_then(|end| u32::try_from(end).ok())
            .ok_or_else(|| overflow(ctx, lane))?;
        Ok(start)
    }

    /// Puts the top of a thread's stack back to where it was.
    pub(super) fn restore(
        &mut self,
        ctx: &MemCtx<'_>,
        lane: u32,
        top: u64,
    ) -> Result<(), LaneFault> {
        let fits = u32::try_from(top).ok().filter(|&t| t <= ctx.local.bytes);
        self.top[lane as usize] = fits.ok_or_else(|| overflow(ctx, lane))?;
        Ok(())
    }
}

fn overflow(ctx: &MemCtx<'_>, lane: u32) -> LaneFault {
    let bytes = ctx.local.bytes;
    LaneFault {
        lane,
        kind: FaultKind::StackOverflow { bytes },
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

impl Warp {
    /// Enters the routines that a call names, one split per routine.
    pub(super) fn enter_call(
        &mut self,
        kernel: &Kernel,
        ctx: &MemCtx<'_>,
        (instr, number): (&Instr, u32),
        (at, mask): (usize, u32),
    ) -> Result<(), LaneFault> {
        let calls = &kernel.function().calls;
        let Some(site) = calls.sites.get(number as usize) else {
            return Err(invalid(mask.trailing_zeros(), 0));
        };
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            let (index, same) = match site.callee {
                Callee::Routine(index) => (index as usize, left),
                Callee::Indirect => {
                    let address = |lane| self.regs.operand_u64(&instr.src[0], lane);
                    let wanted = address(lane);
                    let index = calls.routines.iter().position(|r| r.address == wanted);
                    let index = index.ok_or_else(|| invalid(lane, wanted))?;
                    let same = lanes(left).filter(|&other| address(other) == wanted);
                    (index, same.fold(0, |mask, lane| mask | 1 << lane))
                }
            };
            left &= !same;
            let routine = calls.routines.get(index).ok_or_else(|| invalid(lane, 0))?;
            self.activate(ctx, (number, site), routine, same)?;
            let target = kernel.routines.get(index).copied().unwrap_or(0);
            self.divert(at, same, target);
        }
        Ok(())
    }

    /// `alloca`, `stacksave`, `stackrestore`, and the base of the frame.
    pub(super) fn stack(&mut self, ctx: &MemCtx<'_>, site: Site<'_>) -> Result<Step, LaneFault> {
        let Site { instr, mask, .. } = site;
        let mut values = match instr.op {
            Op::Frame => self.stacks.frames(),
            _ => self.stacks.tops(),
        };
        for lane in lanes(mask) {
            let operand = instr.src.first();
            let value = operand.map_or(0, |operand| self.regs.operand_u64(operand, lane));
            match instr.op {
                Op::Alloca(align) => {
                    values[lane as usize] = self.stacks.take(ctx, lane, (value, align))?;
                }
                Op::StackRestore => self.stacks.restore(ctx, lane, value)?,
                _ => {}
            }
        }
        if let Some(dst) = instr.dst.first() {
            for lane in lanes(mask) {
                let value = values[lane as usize];
                self.regs.set_value(Slot(dst.slot), dst.class, lane, value);
            }
        }
        Ok(Step::Next)
    }

    fn activate(
        &mut self,
        ctx: &MemCtx<'_>,
        (number, site): (u32, &CallSite),
        routine: &Routine,
        mask: u32,
    ) -> Result<(), LaneFault> {
        let words: u32 = site.saved.iter().map(|&reg| words(reg)).sum();
        let record = 16 + 4 * u64::from(words);
        for lane in lanes(mask) {
            let index = lane as usize;
            let (frame, top) = (self.stacks.frame[index], self.stacks.top[index]);
            self.stacks.take(ctx, lane, (record, 16))?;
            let bytes = (routine.frame_bytes.into(), routine.frame_align);
            let base = self.stacks.take(ctx, lane, bytes)?;
            // `take` made it fit.
            let base = u32::try_from(base).unwrap_or(u32::MAX);
            poison(ctx, lane, (base, routine.frame_bytes));
            for transfer in &site.arguments {
                copy(ctx, lane, (frame, base), *transfer, Way::In)?;
            }
            let history = self.stacks.history(index);
            for &reg in &site.saved {
                save(&self.regs, reg, lane, &mut history.saved);
            }
            history.activations.push(Activation {
                site: number,
                frame,
                top,
            });
            self.stacks.frame[index] = base;
        }
        Ok(())
    }

    /// `ret`: the threads go back to their callers, one split per call site.
    pub(super) fn leave_call(
        &mut self,
        kernel: &Kernel,
        ctx: &MemCtx<'_>,
        (at, mask): (usize, u32),
    ) -> Result<(), LaneFault> {
        let sites = &kernel.function().calls.sites;
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            let histories = &self.stacks.histories;
            let caller = |lane: u32| histories.get(lane as usize)?.activations.last();
            let number = caller(lane).map(|activation| activation.site);
            let Some(number) = number else {
                return Err(invalid(lane, 0));
            };
            let same = lanes(left).filter(|&l| caller(l).is_some_and(|a| a.site == number));
            let same = same.fold(0, |mask, lane| mask | 1 << lane);
            left &= !same;
            let (Some(site), Some(&back)) = (
                sites.get(number as usize),
                kernel.returns.get(number as usize),
            ) else {
                return Err(invalid(lane, 0));
            };
            self.deactivate(ctx, site, same)?;
            self.divert(at, same, back);
        }
        Ok(())
    }

    fn deactivate(
        &mut self,
        ctx: &MemCtx<'_>,
        site: &CallSite,
        mask: u32,
    ) -> Result<(), LaneFault> {
        for lane in lanes(mask) {
            let index = lane as usize;
            let Some(activation) = self.stacks.history(index).activations.pop() else {
                continue;
            };
            let frames = (activation.frame, self.stacks.frame[index]);
            for transfer in &site.results {
                copy(ctx, lane, frames, *transfer, Way::Out)?;
            }
            let history = self.stacks.history(index);
            for &reg in site.saved.iter().rev() {
                restore(&mut self.regs, reg, lane, &mut history.saved);
            }
            self.stacks.frame[index] = activation.frame;
            self.stacks.top[index] = activation.top;
        }
        Ok(())
    }
}

fn invalid(lane: u32, address: u64) -> LaneFault {
    LaneFault {
        lane,
        kind: FaultKind::InvalidPc { address },
    }
}

/// 32-bit words of a saved register.
const fn words(reg: Reg) -> u32 {
    match reg.class {
        Class::Pred | Class::B32 => 1,
        Class::B64 => 2,
        Class::B128 => 4,
    }
}

fn save(regs: &RegFile, reg: Reg, lane: u32, out: &mut Vec<u32>) {
    let mut bits = match reg.class {
        Class::B128 => regs.lanes128(Slot(reg.slot))[lane as usize],
        class => regs.value_u64(Slot(reg.slot), class, lane).into(),
    };
    for _ in 0..words(reg) {
        out.push(low(bits));
        bits >>= 32;
    }
}

fn restore(regs: &mut RegFile, reg: Reg, lane: u32, saved: &mut Vec<u32>) {
    let mut bits: u128 = 0;
    for _ in 0..words(reg) {
        bits = bits << 32 | u128::from(saved.pop().unwrap_or(0));
    }
    match reg.class {
        Class::B128 => regs.lanes128_mut(Slot(reg.slot))[lane as usize] = bits,
        class => {
            let bits = u64::from(low(bits >> 32)) << 32 | u64::from(low(bits));
            regs.set_value(Slot(reg.slot), class, lane, bits);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low word is meant")]
const fn low(bits: u128) -> u32 {
    bits as u32
}

/// Direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// The host address of a range of a thread's local memory.
fn local(ctx: &MemCtx<'_>, lane: u32, start: u64, bytes: u32) -> Option<*mut u8> {
    let end = start.checked_add(bytes.into())?;
    let thread = u64::from(ctx.local.first_thread + lane);
    let offset = thread * u64::from(ctx.local.bytes) + start;
    let offset = usize::try_from(offset).ok()?;
    (end <= u64::from(ctx.local.bytes)).then(|| ctx.local.base.wrapping_add(offset))
}

/// Moves one value between the frames of caller and callee.
fn copy(
    ctx: &MemCtx<'_>,
    lane: u32,
    (caller, callee): (u32, u32),
    transfer: Transfer,
    way: Way,
) -> Result<(), LaneFault> {
    let outer = u64::from(caller) + u64::from(transfer.caller);
    let inner = u64::from(callee) + u64::from(transfer.callee);
    let (Some(outer), Some(inner)) = (
        local(ctx, lane, outer, transfer.bytes),
        local(ctx, lane, inner, transfer.bytes),
    ) else {
        return Err(overflow(ctx, lane));
    };
    let (from, to) = match way {
        Way::In => (outer, inner),
        Way::Out => (inner, outer),
    };
    // SAFETY: `local` checked both ranges against the thread's local memory, which the context
    // keeps valid and which only this host thread touches; `copy` allows overlap.
    unsafe { std::ptr::copy(from, to, transfer.bytes as usize) };
    Ok(())
}

/// Fills a new frame with what uninitialised memory holds.
fn poison(ctx: &MemCtx<'_>, lane: u32, (base, bytes): (u32, u32)) {
    if let Some(start) = local(ctx, lane, base.into(), bytes) {
        let words = bytes as usize / 4;
        // SAFETY: as in `copy`; frames are multiples of 16 bytes at multiples of 16 in a block
        // that is aligned at least so.
        let frame = unsafe { std::slice::from_raw_parts_mut(start.cast::<u32>(), words) };
        frame.fill(POISON);
    }
}
