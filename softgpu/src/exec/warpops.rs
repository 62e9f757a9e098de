//! Operations among the lanes of one warp: shuffles, votes, matches, reductions, elections, and the
//! arithmetic of shared addresses.
//!
//! A `.sync` operation executes when all live lanes of its member mask are here; lanes of one split
//! may name different masks, and then execute in as many groups.
#![expect(
    clippy::cast_possible_truncation,
    reason = "operands are 32-bit values carried as 64 bits"
)]

use super::access::{
    LOCAL_WINDOW, MemCtx, PARAM_WINDOW, SHARED_WINDOW, map_shared, shared_rank, window,
};
use super::inst::LaneFault;
use super::regs::{RegFile, Slot};
use super::split::Wait;
use super::system::Site;
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{Class, Instr, Op, Operand, RmwOp, ShflMode, Space, Ty, VoteMode};

/// The lanes of a B32 operand.
pub(super) fn words(regs: &RegFile, operand: &Operand) -> [u32; 32] {
    match operand {
        Operand::Imm(value) => [*value as u32; 32],
        Operand::Reg(reg) if reg.class == Class::B32 => *regs.lanes32(Slot(reg.slot)),
        other => std::array::from_fn(|lane| regs.operand_u64(other, lane as u32) as u32),
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

/// The index of the operand that holds the member mask.
fn members_of(instr: &Instr) -> Option<&Operand> {
    match instr.op {
        Op::Elect { .. } | Op::Vote(_) | Op::Match { .. } | Op::Redux(..) | Op::Shfl(_) => {
            instr.src.last()
        }
        _ => None,
    }
}

impl Warp {
    /// Executes an operation of the lanes of one warp.
    pub(super) fn warp_operation(
        &mut self,
        ctx: &MemCtx<'_>,
        site: Site<'_>,
    ) -> Result<Step, LaneFault> {
        let Some(members) = members_of(site.instr) else {
            return self.plain(ctx, site).map(|()| Step::Next);
        };
        let Site { instr, mask, .. } = site;
        let wanted = words(&self.regs, members);
        let first = wanted[mask.trailing_zeros() as usize];
        let mut through = 0;
        if lanes(mask).all(|lane| wanted[lane as usize] == first) {
            if first & self.live & !mask == 0 {
                self.synchronous(instr, mask, first);
                through = mask;
            }
        } else {
            let mut left = mask;
            while left != 0 {
                let wants = wanted[left.trailing_zeros() as usize];
                let same = lanes(left).filter(|&lane| wanted[lane as usize] == wants);
                let same = same.fold(0, |mask, lane| mask | 1 << lane);
                left &= !same;
                if wants & self.live & !same == 0 {
                    self.synchronous(instr, same, wants);
                    through |= same;
                }
            }
        }
        Ok(match through {
            0 => Step::Retry(Wait::Converge),
            done if done == mask => Step::Next,
            some => Step::Subset(some, None),
        })
    }

    fn synchronous(&mut self, instr: &Instr, mask: u32, members: u32) {
        match instr.op {
            Op::Elect { .. } => self.elect(instr, mask),
            Op::Vote(mode) => self.vote(instr, mask, mode),
            Op::Match { .. } => self.matches(instr, mask),
            Op::Redux(op, ty) => self.redux(instr, mask, (op, ty)),
            Op::Shfl(mode) => self.shuffle(instr, mask, mode),
            _ => debug_assert!(false, "{members:#x}: not a synchronous operation"),
        }
    }

    fn elect(&mut self, instr: &Instr, mask: u32) {
        let has_lane = matches!(instr.op, Op::Elect { has_lane: true });
        let leader = mask.trailing_zeros();
        let mut dst = instr.dst.iter();
        if has_lane && let Some(&lane) = dst.next() {
            self.write_uniform(lane, mask, leader);
        }
        if let Some(pred) = dst.next() {
            self.regs.set_pred(pred.slot, mask, 1 << leader);
        }
    }

    fn vote(&mut self, instr: &Instr, mask: u32, mode: VoteMode) {
        let ballot = self.regs.operand_pred(&instr.src[0]) & mask;
        let value = match mode {
            VoteMode::All => u32::from(ballot == mask),
            VoteMode::Any => u32::from(ballot != 0),
            VoteMode::Uni => u32::from(ballot == mask || ballot == 0),
            VoteMode::Ballot => ballot,
        };
        self.write_uniform(instr.dst[0], mask, value);
    }

    fn matches(&mut self, instr: &Instr, mask: u32) {
        let all = matches!(instr.op, Op::Match { all: true, .. });
        let values: [u64; 32] =
            std::array::from_fn(|lane| self.regs.operand_u64(&instr.src[0], lane as u32));
        let equal = |lane: u32| {
            let same = lanes(mask).filter(|&other| values[other as usize] == values[lane as usize]);
            same.fold(0u32, |mask, other| mask | 1 << other)
        };
        let mut result = [0; 32];
        let mut unanimous = false;
        for lane in lanes(mask) {
            let same = equal(lane);
            unanimous = same == mask;
            result[lane as usize] = if all && !unanimous { 0 } else { same };
        }
        self.regs.write32(Slot(instr.dst[0].slot), mask, &result);
        if let Some(pred) = instr.dst.get(1) {
            let bits = if unanimous { u32::MAX } else { 0 };
            self.regs.set_pred(pred.slot, mask, bits);
        }
    }

    fn redux(&mut self, instr: &Instr, mask: u32, (op, ty): (RmwOp, Ty)) {
        let values = words(&self.regs, &instr.src[0]);
        let signed = ty.is_signed();
        let key = |value: u32| if signed { value ^ 1 << 31 } else { value };
        let combine = |a: u32, b: u32| match op {
            RmwOp::Add => a.wrapping_add(b),
            RmwOp::Min => key(key(a).min(key(b))),
            RmwOp::Max => key(key(a).max(key(b))),
            RmwOp::And => a & b,
            RmwOp::Or => a | b,
            _ => a ^ b,
        };
        let result = lanes(mask)
            .map(|lane| values[lane as usize])
            .reduce(combine);
        self.write_uniform(instr.dst[0], mask, result.unwrap_or(0));
    }

    fn shuffle(&mut self, instr: &Instr, mask: u32, mode: ShflMode) {
        let a = words(&self.regs, &instr.src[0]);
        let b = words(&self.regs, &instr.src[1]);
        let c = words(&self.regs, &instr.src[2]);
        let mut result = [0; 32];
        let mut inside = 0;
        for lane in 0..32u32 {
            let (b, c) = (b[lane as usize] & 31, c[lane as usize]);
            let (clamp, segment) = (c & 31, c >> 8 & 31);
            let last = lane & segment | clamp & !segment;
            let first = lane & segment;
            let (from, valid) = match mode {
                ShflMode::Up => {
                    let from = lane.wrapping_sub(b);
                    (from, from.cast_signed() >= last.cast_signed())
                }
                ShflMode::Down => (lane + b, lane + b <= last),
                ShflMode::Bfly => (lane ^ b, lane ^ b <= last),
                ShflMode::Idx => {
                    let from = first | b & !segment;
                    (from, from <= last)
                }
            };
            let from = if valid { from } else { lane };
            result[lane as usize] = a[from as usize & 31];
            inside |= u32::from(valid) << lane;
        }
        self.regs.write32(Slot(instr.dst[0].slot), mask, &result);
        if let Some(pred) = instr.dst.get(1) {
            self.regs.set_pred(pred.slot, mask, inside);
        }
    }

    /// Operations that need no other lanes.
    fn plain(&mut self, ctx: &MemCtx<'_>, site: Site<'_>) -> Result<(), LaneFault> {
        let Site { instr, mask, .. } = site;
        match &instr.op {
            Op::Activemask => {
                let active = self.splits.at(site.at).mask;
                self.write_uniform(instr.dst[0], mask, active);
                Ok(())
            }
            Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::Movmatrix
            | Op::Mma(_)
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_) => self.matrix(ctx, instr),
            Op::Mapa { .. } | Op::Getctarank { .. } | Op::Cvta { .. } | Op::Isspacep(_) => {
                let own = self.rank;
                for lane in lanes(mask) {
                    let address = self.regs.operand_u64(&instr.src[0], lane);
                    let rank = instr
                        .src
                        .get(1)
                        .map(|rank| self.regs.operand_u64(rank, lane));
                    let value = address_operation(&instr.op, address, (rank, own));
                    let dst = instr.dst[0];
                    self.regs.set_value(Slot(dst.slot), dst.class, lane, value);
                }
                Ok(())
            }
            op => Err(LaneFault {
                lane: mask.trailing_zeros(),
                kind: FaultKind::Unsupported {
                    what: format!("{op:?}"),
                },
            }),
        }
    }
}

/// `mapa`, `getctarank`, `cvta`, `isspacep`.
fn address_operation(op: &Op, address: u64, (rank, own): (Option<u64>, u32)) -> u64 {
    let low = address as u32;
    match op {
        Op::Mapa { generic, .. } => {
            let mapped = map_shared(low, rank.unwrap_or(0) as u32);
            if *generic {
                SHARED_WINDOW | u64::from(mapped)
            } else {
                mapped.into()
            }
        }
        Op::Getctarank { .. } => shared_rank(low, own).into(),
        Op::Cvta { space, to_space } => {
            let base = match space {
                Space::Shared | Space::SharedCluster => SHARED_WINDOW,
                Space::Local => LOCAL_WINDOW,
                Space::Param => PARAM_WINDOW,
                Space::Global | Space::Const | Space::Generic => 0,
            };
            if *to_space {
                address.wrapping_sub(base)
            } else {
                address.wrapping_add(base)
            }
        }
        Op::Isspacep(space) => {
            let own_cta = address >> 24 & 0xff == 0;
            u64::from(match (window(address), space) {
                (Some(Space::SharedCluster), Space::Shared) => own_cta,
                (Some(Space::SharedCluster), Space::SharedCluster) => true,
                (Some(found), wanted) => found == *wanted,
                (None, wanted) => *wanted == Space::Global,
            })
        }
        _ => 0,
    }
}
