//! wgmma as an asynchronous operation of a warpgroup.
//!
//! Each of the four warps issues an instruction in its own time; the n-th wgmma of one warp belongs
//! with the n-th of the others. When all four have issued, the operation is in flight, and it
//! completes in order, at its due time or when the cluster has nothing else to do. Only then are
//! operands read (shared memory, and A registers in that form) and accumulators written, so a
//! missing `wait_group` shows.
//!
//! Commit groups are kept per warp: a group is a position in the sequence of operations.
#![expect(unsafe_code, reason = "operands are read from guest shared memory")]

use std::collections::VecDeque;

use super::cta::{Env, Event, Origin, State};
use super::inflight::{Action, Op, due};
use super::inst::{Code, LaneFault};
use super::kernel::Kernel;
use super::regs::Slot;
use super::touch::Open;
use super::warp::{Step, Warp};
use crate::error::{Fault, FaultKind};
use crate::ir::{self, Instr, Operand};
use crate::tensor::operand::{self, Descriptor, Major};
use crate::tensor::wgmma::{A_BYTES, Accumulators, Addend, MAX_B_BYTES, Tile, pack_a};

/// Multiply-accumulates that take as long as one ordinary warp instruction.
const MACS_PER_INSTRUCTION: u64 = 100;

/// Warp instructions after which an operation is due.
const DUE: u64 = 2000;

/// An operation that some warps of the group have issued.
#[derive(Debug, Clone, Copy)]
struct Pending {
    pc: u32,
    /// Bit per warp of the group that has issued it.
    warps: u32,
    /// Descriptor of A; 0 if A is in registers.
    a: u64,
    b: u64,
    accumulate: bool,
    origin: Origin,
}

/// State of one warpgroup.
#[derive(Debug, Default)]
pub(super) struct Warpgroup {
    queue: VecDeque<Pending>,
    /// Operations completed since the start.
    completed: u64,
}

/// What a warp has issued.
#[derive(Debug, Default)]
pub(super) struct WarpIssue {
    issued: u64,
    /// For each committed group, the operations issued until then.
    groups: VecDeque<u64>,
    /// The same for groups that no wait has covered, complete or not.
    uncovered: VecDeque<u64>,
    pub(super) open: Open,
}

impl Warpgroup {
    /// Operations completed since the start.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }
}

impl WarpIssue {
    /// Whether all but the `pending` youngest groups are complete.
    pub(super) fn at_most(&mut self, kernel: &Kernel, group: &Warpgroup, pending: u32) -> bool {
        while self
            .groups
            .front()
            .is_some_and(|&end| end <= group.completed)
        {
            self.groups.pop_front();
        }
        if self.groups.len() > pending as usize {
            return false;
        }
        let mut covered = 0;
        while self.uncovered.len() > pending as usize {
            covered = self.uncovered.pop_front().unwrap_or(covered);
        }
        self.open.cover(kernel, covered);
        true
    }

    /// `wgmma.commit_group`.
    pub(super) fn commit(&mut self) {
        self.groups.push_back(self.issued);
        self.uncovered.push_back(self.issued);
    }
}

fn illegal(what: String) -> LaneFault {
    LaneFault {
        lane: 0,
        kind: FaultKind::IllegalInstruction { what },
    }
}

impl Warp {
    /// Issues `wgmma.mma_async`.
    pub(super) fn wgmma(
        &mut self,
        env: &Env,
        st: &mut State,
        (instr, at): (&Instr, usize),
        shape: &ir::Wgmma,
    ) -> Result<Step, LaneFault> {
        let tile = Tile::new(shape).map_err(|kind| LaneFault { lane: 0, kind })?;
        let a_operands = if shape.a_regs { 4 } else { 1 };
        if instr.src.len() != a_operands + 2 || instr.dst.len() != tile.registers() {
            return Err(illegal(format!("wgmma operands of n{}", shape.n)));
        }
        let uniform = |operand: &Operand, name: &str| {
            let value = self.regs.uniform_u64(operand, self.live);
            value.ok_or_else(|| illegal(format!("wgmma {name} differs between lanes")))
        };
        let a = if shape.a_regs {
            0
        } else {
            uniform(&instr.src[0], "descriptor of A")?
        };
        let b = uniform(&instr.src[a_operands], "descriptor of B")?;
        let accumulate = uniform(&instr.src[a_operands + 1], "scale-d")? != 0;
        let mine = Pending {
            pc: self.splits.at(at).pc,
            warps: 1 << (self.index % 4),
            a,
            b,
            accumulate,
            origin: self.origin(0, instr.line),
        };
        let number = self.index / 4;
        let group = &mut st.ctas[self.rank as usize].warpgroups[number as usize];
        let place = usize::try_from(self.wgmma.issued - group.completed).unwrap_or(usize::MAX);
        self.wgmma.issued += 1;
        let issued = self.wgmma.issued;
        (self.wgmma.open).issue(&env.launch.kernel, (issued, mine.pc));
        match group.queue.get_mut(place) {
            None => group.queue.push_back(mine),
            Some(op) if (op.pc, op.a, op.b, op.accumulate) != (mine.pc, a, b, accumulate) => {
                return Err(illegal(
                    "warps of a warpgroup disagree about a wgmma".to_owned(),
                ));
            }
            Some(op) => {
                op.warps |= mine.warps;
                if op.warps == 0b1111 {
                    let when = due(&mut st.choice, st.work, DUE);
                    let rank = self.rank;
                    let action = Action::Wgmma {
                        rank,
                        group: number,
                    };
                    st.inflight.push(when, Op::new(mine.origin, action));
                }
            }
        }
        Ok(Step::Next)
    }
}

/// Completes the oldest operation of a warpgroup. `warps` are those of the CTA.
pub(super) fn complete(
    env: &Env,
    st: &mut State,
    warps: &mut [Warp],
    (rank, group): (u32, u32),
) -> Result<(), Fault> {
    let state = &mut st.ctas[rank as usize].warpgroups[group as usize];
    let Some(op) = state.queue.pop_front() else {
        return Ok(());
    };
    state.completed += 1;
    let macs = compute(env, warps, (rank, group), &op);
    let macs = macs.map_err(|kind| env.fault(op.origin, kind))?;
    st.counters.wgmma_macs += macs;
    st.work += macs / MACS_PER_INSTRUCTION;
    st.wake(rank, Event::Async);
    Ok(())
}

fn compute(
    env: &Env,
    warps: &mut [Warp],
    (rank, group): (u32, u32),
    op: &Pending,
) -> Result<u64, FaultKind> {
    let kernel = &env.launch.kernel;
    let host = |what: &str| FaultKind::Internal {
        what: format!("wgmma in flight: {what}"),
    };
    let Code::Sys(index) = kernel.code[op.pc as usize].code else {
        return Err(host("no instruction"));
    };
    let instr = &kernel.sys[index as usize].instr;
    let ir::Op::Wgmma(shape) = &instr.op else {
        return Err(host("another instruction"));
    };
    let first = group as usize * 4;
    let Some([w0, w1, w2, w3]) = warps.get_mut(first..first + 4) else {
        return Err(host("no four warps"));
    };
    let tile = Tile::new(shape)?;
    let memory = env.shared[rank as usize];
    // SAFETY: the block lives as long as `env`, and the cluster's memory belongs to this thread.
    let shared = unsafe { std::slice::from_raw_parts(memory.base, memory.len as usize) };
    let layout = |rows, transposed| operand::Operand {
        rows,
        element_bytes: tile.element_bytes(),
        major: if transposed { Major::Mn } else { Major::K },
    };
    let mut a = [0; A_BYTES];
    let mut b = [0; MAX_B_BYTES];
    if shape.a_regs {
        let slot = |i: usize| match &instr.src[i] {
            Operand::Reg(reg) => Ok(Slot(reg.slot)),
            _ => Err(host("A is not in registers")),
        };
        let slots = [slot(0)?, slot(1)?, slot(2)?, slot(3)?];
        pack_a([&w0.regs, &w1.regs, &w2.regs, &w3.regs], slots, &mut a);
    } else {
        let rows = layout(crate::tensor::wgmma::M, shape.transpose_a);
        operand::gather(Descriptor::decode(op.a), rows, shared, &mut a)?;
    }
    let b = &mut b[..tile.b_bytes()];
    let rows = layout(tile.n(), shape.transpose_b);
    operand::gather(Descriptor::decode(op.b), rows, shared, b)?;
    let slots: smallvec::SmallVec<[u32; 128]> = instr.dst.iter().map(|reg| reg.slot).collect();
    let files = [&mut w0.regs, &mut w1.regs, &mut w2.regs, &mut w3.regs];
    let mut d = Accumulators::new(files, &slots)?;
    let addend = if op.accumulate {
        Addend::Accumulator
    } else {
        Addend::Zero
    };
    tile.multiply_add(&a, b, &mut d, addend)?;
    Ok(64 * u64::from(shape.n) * u64::from(shape.k))
}
