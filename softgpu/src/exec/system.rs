//! Instructions of the machine: dispatch, barriers, fences, special registers.
#![expect(unsafe_code, reason = "tensor maps are read from guest memory")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "special registers are 32 bits; operands are 32-bit values carried as 64 bits"
)]

use std::sync::atomic::{Ordering, fence};

use super::access::MemCtx;
use super::barrier::{Arrival, Reduction};
use super::cta::{Arrived, Env, Event, State};
use super::group::Until;
use super::inst::LaneFault;
use super::kernel::{RESERVED_SHARED, Sys};
use super::regs::Slot;
use super::split::{Split, Wait};
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{
    BarRed, Class, FenceKind, Instr, Op, Operand, Order, ReservedSmem, Scope, Special,
};

/// Cycles per nanosecond, as thousandths.
const CYCLES_PER_1000_NS: u64 = super::clock::CYCLES_PER_MICROSECOND;

/// Copies bytes from a resolved guest address.
pub(super) fn read_bytes<const N: usize>(host: *const u8) -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the caller resolved the address for N bytes; `bytes` is no guest memory.
    unsafe { std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), N) };
    bytes
}

/// Execution of one instruction: the split and the lanes whose guard is true.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) instr: &'a Instr,
    pub(super) at: usize,
    pub(super) mask: u32,
}

/// The forms of `bar`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Sync,
    Arrive,
    Reduce,
}

impl Warp {
    /// Executes an instruction of the machine.
    pub(super) fn machine(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        (sys, at, mask): (&Sys, usize, u32),
    ) -> Result<Step, LaneFault> {
        let instr = &sys.instr;
        let site = Site { instr, at, mask };
        if is_aligned(&instr.op) && mask != self.live {
            return Ok(Step::Retry(Wait::Converge));
        }
        match &instr.op {
            Op::Special(special) => {
                self.special(env, st, site, *special);
                Ok(Step::Next)
            }
            // Nobody is there who could let the threads go on.
            Op::Trap | Op::Brkpt => Err(LaneFault {
                lane: mask.trailing_zeros(),
                kind: FaultKind::Trap,
            }),
            Op::Builtin(builtin) => self.builtin(env, ctx, site, *builtin),
            Op::Frame | Op::StackSave | Op::Alloca(_) | Op::StackRestore => self.stack(ctx, site),
            Op::Fence(kind) => {
                execute_fence(*kind);
                Ok(Step::Next)
            }
            Op::Bar { arrive: true, .. } => self.barrier(st, site, Role::Arrive),
            Op::Bar { .. } => self.barrier(st, site, Role::Sync),
            Op::BarRed(_) => self.barrier(st, site, Role::Reduce),
            Op::BarWarp => Ok(self.warp_barrier(site)),
            Op::BarClusterArrive { .. } => self.cluster_arrive(st, mask),
            Op::BarClusterWait => {
                let (phase, lanes) = self.cluster_arrived;
                let waits = phase == st.barrier.phase() && lanes & mask != 0;
                let wait = Wait::Cluster { phase };
                Ok(if waits { Step::Wait(wait) } else { Step::Next })
            }
            // A recorded round looks at the loop around the sleep; sleeping may end at once.
            Op::Nanosleep if st.recorder.on => Ok(Step::Next),
            Op::Griddep { wait: true } => {
                let open = env.launch.dependence.pending().is_some();
                Ok(if open {
                    Step::Wait(Wait::Grid)
                } else {
                    Step::Next
                })
            }
            Op::Griddep { wait: false } => {
                let cta = &mut st.ctas[self.rank as usize];
                if !std::mem::replace(&mut cta.triggered, true) {
                    env.launch.dependence.release(1);
                }
                Ok(Step::Next)
            }
            Op::Nanosleep => {
                let ns = self.regs.operand_u64(&instr.src[0], mask.trailing_zeros()) as u32;
                let until = st.cycles() + u64::from(ns) * CYCLES_PER_1000_NS / 1000;
                let turn = st.turn;
                Ok(Step::Wait(Wait::Sleep { until, turn }))
            }
            Op::Mbarrier(op, space, offset) => {
                self.mbarrier(env, st, (sys, at, mask), (*op, *space, *offset))
            }
            _ => self.asynchronous(env, st, ctx, site),
        }
    }

    /// Asynchronous operations; anything else is an operation of the warp's lanes.
    fn asynchronous(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &mut MemCtx<'_>,
        site: Site<'_>,
    ) -> Result<Step, LaneFault> {
        let Site { instr, at, mask } = site;
        let finished = |done, wait| if done { Step::Next } else { Step::Wait(wait) };
        match &instr.op {
            Op::Multimem(form, access) => self.multimem(st, ctx, site, (*form, *access)),
            Op::Mma(_)
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_) => {
                self.count_matrix(&mut st.counters, ctx, instr);
                self.warp_operation(ctx, site)
            }
            Op::TensormapReplace {
                field,
                space,
                offset,
            } => self.tensormap_replace(ctx, site, (*field, *space, *offset)),
            Op::TensormapCopy => self.tensormap_copy(ctx, site),
            Op::Createpolicy(policy) => {
                let dst = Slot(instr.dst[0].slot);
                self.regs.write64(dst, mask, &[*policy; 32]);
                Ok(Step::Next)
            }
            Op::Bulk(op) => self.bulk(env, st, ctx, (instr, mask, *op)),
            Op::CpAsync {
                bytes,
                dst_offset,
                src_offset,
            } => self.cp_async(env, st, (instr, mask), (*bytes, *dst_offset, *src_offset)),
            Op::CpAsyncCommit => {
                self.copies.commit(mask);
                Ok(Step::Next)
            }
            Op::CpAsyncWait(pending) => {
                self.copies.settle(&st.inflight);
                let pending = *pending;
                let done = self.copies.at_most(mask, pending, Until::Done);
                Ok(finished(done, Wait::CpAsync { pending }))
            }
            Op::Wgmma(shape) => self.wgmma(env, st, (instr, at), shape),
            Op::WgmmaTouch { .. } => {
                let group = &st.ctas[self.rank as usize].warpgroups[self.index as usize / 4];
                let completed = group.completed();
                self.wgmma.open.touch(&env.launch.kernel, instr, completed)
            }
            Op::WgmmaCommit => {
                self.wgmma.commit();
                Ok(Step::Next)
            }
            Op::WgmmaWait(pending) => {
                let pending = *pending;
                let group = &st.ctas[self.rank as usize].warpgroups[self.index as usize / 4];
                let done = self.wgmma.at_most(&env.launch.kernel, group, pending);
                Ok(finished(done, Wait::Wgmma { pending }))
            }
            _ => self.warp_operation(ctx, site),
        }
    }

    fn barrier(&mut self, st: &mut State, site: Site<'_>, role: Role) -> Result<Step, LaneFault> {
        let Site { instr, mask, .. } = site;
        let lane = mask.trailing_zeros();
        let extra = usize::from(role == Role::Reduce);
        let count = (instr.src.len() > 1 + extra).then(|| &instr.src[1]);
        let key = |warp: &Self, lane| {
            let id = warp.regs.operand_u64(&instr.src[0], lane);
            (
                id,
                count.map(|count| warp.regs.operand_u64(count, lane) as u32),
            )
        };
        let (id, count) = key(self, lane);
        let lanes = (0..32u32).filter(|&other| mask >> other & 1 != 0);
        let lanes = lanes.filter(|&other| key(self, other) == (id, count));
        let lanes = lanes.fold(0, |mask, other| mask | 1u32 << other);
        let fault = |what: String| LaneFault {
            lane,
            kind: FaultKind::IllegalInstruction { what },
        };
        let cta = &mut st.ctas[self.rank as usize];
        let live = cta.live;
        let Some(barrier) = usize::try_from(id)
            .ok()
            .and_then(|id| cta.barriers.get_mut(id))
        else {
            return Err(fault(format!("barrier {id} is not in 0..=15")));
        };
        let yes = match (role, instr.src.last()) {
            (Role::Reduce, Some(operand)) => self.regs.operand_pred(operand),
            _ => 0,
        };
        let generation = barrier.generation();
        let whole = count.is_some() && lanes == self.live;
        let arrival = Arrival {
            threads: if whole { 32 } else { lanes.count_ones() },
            count,
            reduction: Reduction {
                yes: (yes & lanes).count_ones(),
                all: lanes.count_ones(),
            },
        };
        let (rank, warp, line) = (self.rank, self.index, instr.line);
        cta.last_at_barrier[usize::try_from(id).unwrap_or(0)] = Some(Arrived { rank, warp, line });
        let done = barrier.arrive(arrival, live);
        let done = done.map_err(|misuse| fault(format!("barrier {id}: {misuse}")))?;
        if done {
            cta.wake(Event::Barrier);
        }
        let wait = if role == Role::Arrive {
            None
        } else {
            Some(Wait::Barrier {
                id: id as u8,
                generation,
            })
        };
        Ok(match wait {
            None if lanes == mask => Step::Next,
            Some(wait) if lanes == mask => Step::Wait(wait),
            wait => Step::Subset(lanes, wait),
        })
    }

    /// Delivers the result of `bar.red` to lanes whose barrier has completed.
    pub(super) fn finish_barrier(&mut self, env: &Env, st: &State, split: &Split) {
        let Wait::Barrier { id, generation } = split.wait else {
            return;
        };
        let kernel = &env.launch.kernel;
        let super::inst::Code::Sys(index) = kernel.code[split.pc as usize].code else {
            return;
        };
        let instr = &kernel.sys[index as usize].instr;
        let Op::BarRed(red) = instr.op else {
            return;
        };
        let barrier = &st.ctas[self.rank as usize].barriers[usize::from(id)];
        let Reduction { yes, all } = barrier.result(generation);
        let dst = instr.dst[0];
        let value = match red {
            BarRed::Popc => yes,
            BarRed::And => u32::from(yes == all),
            BarRed::Or => u32::from(yes != 0),
        };
        self.write_uniform(dst, split.mask, value);
    }

    /// Writes one value to the lanes of `mask` of a B32 or predicate register.
    pub(super) fn write_uniform(&mut self, dst: crate::ir::Reg, mask: u32, value: u32) {
        match dst.class {
            Class::Pred => {
                let bits = if value != 0 { u32::MAX } else { 0 };
                self.regs.set_pred(dst.slot, mask, bits);
            }
            Class::B64 => self.regs.write64(Slot(dst.slot), mask, &[value.into(); 32]),
            Class::B32 | Class::B128 => self.regs.write32(Slot(dst.slot), mask, &[value; 32]),
        }
    }

    fn warp_barrier(&mut self, site: Site<'_>) -> Step {
        let Site { instr, mask, .. } = site;
        let lane = mask.trailing_zeros();
        let operand = &instr.src[0];
        let members = self.regs.operand_u64(operand, lane) as u32;
        if members & self.live & !mask == 0 && matches!(operand, Operand::Imm(_)) {
            return Step::Next;
        }
        let lanes = (0..32u32).filter(|&other| {
            mask >> other & 1 != 0 && self.regs.operand_u64(operand, other) as u32 == members
        });
        let lanes = lanes.fold(0, |mask, other| mask | 1u32 << other);
        let wait = Wait::WarpBarrier { members };
        if lanes == mask {
            Step::Wait(wait)
        } else {
            Step::Subset(lanes, Some(wait))
        }
    }

    fn cluster_arrive(&mut self, st: &mut State, mask: u32) -> Result<Step, LaneFault> {
        let phase = st.barrier.phase();
        if self.cluster_arrived.0 != phase {
            self.cluster_arrived = (phase, 0);
        }
        let twice = self.cluster_arrived.1 & mask;
        if twice != 0 {
            let what = "barrier.cluster.arrive twice in one phase".to_owned();
            return Err(LaneFault {
                lane: twice.trailing_zeros(),
                kind: FaultKind::IllegalInstruction { what },
            });
        }
        self.cluster_arrived.1 |= mask;
        if st.barrier.arrive(mask.count_ones(), st.live) {
            st.wake_all(Event::Cluster);
        }
        Ok(Step::Next)
    }

    fn special(&mut self, env: &Env, st: &State, site: Site<'_>, special: Special) {
        let dst = site.instr.dst[0];
        let values: [u64; 32] = match special {
            Special::Tid(axis) => {
                std::array::from_fn(|lane| self.tid[usize::from(axis)][lane].into())
            }
            Special::Laneid => std::array::from_fn(|lane| lane as u64),
            Special::LanemaskEq => std::array::from_fn(|lane| 1 << lane),
            Special::LanemaskLe => std::array::from_fn(|lane| (2 << lane) - 1),
            Special::LanemaskLt => std::array::from_fn(|lane| (1 << lane) - 1),
            Special::LanemaskGe => std::array::from_fn(|lane| 0xffff_ffff & !((1 << lane) - 1)),
            Special::LanemaskGt => std::array::from_fn(|lane| 0xffff_ffff & !((2 << lane) - 1)),
            uniform => [self.uniform_special(env, st, uniform); 32],
        };
        match dst.class {
            Class::Pred => self.write_uniform(dst, site.mask, values[0] as u32),
            Class::B64 => self.regs.write64(Slot(dst.slot), site.mask, &values),
            _ => {
                let words = values.map(|value| value as u32);
                self.regs.write32(Slot(dst.slot), site.mask, &words);
            }
        }
    }

    fn uniform_special(&self, env: &Env, st: &State, special: Special) -> u64 {
        let launch = &env.launch;
        let position = env.positions[self.rank as usize];
        let axis = |values: [u32; 3], axis: u8| u64::from(values[usize::from(axis)]);
        let clusters = std::array::from_fn(|i| launch.grid[i].div_ceil(launch.cluster[i]));
        let inside = std::array::from_fn(|i| position.cta[i] % launch.cluster[i]);
        let (dynamic_start, total) = launch.kernel.shared_layout(launch.dynamic_shared);
        match special {
            Special::Ntid(a) => axis(launch.block, a),
            Special::Ctaid(a) => axis(position.cta, a),
            Special::Nctaid(a) => axis(launch.grid, a),
            Special::Clusterid(a) => axis(env.cluster_id, a),
            Special::Nclusterid(a) => axis(clusters, a),
            Special::ClusterCtaid(a) => axis(inside, a),
            Special::ClusterNctaid(a) => axis(launch.cluster, a),
            Special::ClusterCtarank => self.rank.into(),
            Special::ClusterNctarank => launch.cluster_size().into(),
            Special::IsExplicitCluster => u64::from(launch.cluster_size() > 1),
            Special::Warpid => self.index.into(),
            Special::Nwarpid => 64,
            Special::Smid => position.sm.into(),
            Special::Nsmid => launch.sms.into(),
            Special::Gridid => launch.number(),
            Special::Clock | Special::Clock64 => st.cycles(),
            Special::ClockHi => st.cycles() >> 32,
            Special::Globaltimer | Special::GlobaltimerLo => st.nanoseconds(),
            Special::GlobaltimerHi => st.nanoseconds() >> 32,
            Special::DynamicSmemSize => u64::from(total.saturating_sub(dynamic_start)),
            Special::TotalSmemSize => total.into(),
            Special::AggrSmemSize => u64::from(total) + u64::from(RESERVED_SHARED),
            Special::ReservedSmem(what) => {
                let begin = u64::from(launch.kernel.reserved_shared(launch.dynamic_shared).0);
                let half = u64::from(RESERVED_SHARED / 2);
                match what {
                    ReservedSmem::Begin | ReservedSmem::Offset0 => begin,
                    ReservedSmem::Offset1 => begin + half,
                    ReservedSmem::End => begin + 2 * half,
                    ReservedSmem::Cap => 2 * half,
                }
            }
            Special::Envreg(1) => launch.workspace >> 32,
            Special::Envreg(2) => launch.workspace & 0xffff_ffff,
            _ => 0,
        }
    }
}

/// Whether all live lanes of the warp execute the instruction together.
fn is_aligned(op: &Op) -> bool {
    matches!(
        op,
        Op::Bar { aligned: true, .. }
            | Op::BarRed(_)
            | Op::Wgmma(_)
            | Op::WgmmaCommit
            | Op::WgmmaWait(_)
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::TensormapCopy
            | Op::Movmatrix
            | Op::Mma(_)
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_)
    )
}

/// Guest threads of different clusters are different host threads, so a fence is a host fence.
/// Proxies have one memory here: proxy fences only order.
fn execute_fence(kind: FenceKind) {
    match kind {
        FenceKind::Memory(Order::SeqCst, _) | FenceKind::Memory(_, Scope::Sys) => {
            fence(Ordering::SeqCst);
        }
        FenceKind::Memory(..)
        | FenceKind::MbarrierInit
        | FenceKind::ProxyAsync
        | FenceKind::ProxyAlias
        | FenceKind::ProxyTensormapRelease(_)
        | FenceKind::ProxyTensormapAcquire(_) => fence(Ordering::AcqRel),
    }
}
