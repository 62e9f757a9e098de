//! Issue of asynchronous copies: `cp.async.bulk` in all its forms, and `cp.async`.
//!
//! Issuing checks operands and records the operation; nothing moves before completion
//! ([`super::transfer`]). Tensor maps are read at issue.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "operands are 32-bit values carried as 64 bits, coordinates are signed"
)]

use smallvec::{SmallVec, smallvec};

use super::access::{MemCtx, Span};
use super::cta::{Env, State};
use super::inflight::{Action, Op, due, due_of_store};
use super::inst::LaneFault;
use super::mbar::shared_place;
use super::split::Wait;
use super::transfer::{Coordinates, Destination, LaneCopy, Place, Source, Target, Transfer};
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{BulkDir, BulkDone, BulkOp, Class, Instr, Operand, RmwOp, Space, Ty};
use crate::mem::Access;
use crate::tensor::map::{self, DataType, TensorMap};
use crate::tensor::reduce::{ReduceOp, Reduction};

/// Warp instructions from issue to completion of a load, to the reading of a store's source, and
/// from there to its writing.
const LOAD: u64 = 3000;
const READ: u64 = 1500;
pub(super) const WRITE: u64 = 3000;

fn illegal(what: String) -> FaultKind {
    FaultKind::IllegalInstruction { what }
}

/// The reduction of a PTX operation on an element type.
pub(super) fn reduction(op: RmwOp, ty: DataType) -> Result<Reduction, FaultKind> {
    let op = match op {
        RmwOp::Add => ReduceOp::Add,
        RmwOp::Min => ReduceOp::Min,
        RmwOp::Max => ReduceOp::Max,
        RmwOp::And => ReduceOp::And,
        RmwOp::Or => ReduceOp::Or,
        RmwOp::Xor => ReduceOp::Xor,
        RmwOp::Inc => ReduceOp::Inc,
        RmwOp::Dec => ReduceOp::Dec,
        RmwOp::Exch | RmwOp::Cas => {
            return Err(illegal(format!("bulk reduction with {op:?}")));
        }
    };
    Reduction::new(op, ty)
}

pub(super) fn data_type(ty: Ty) -> Result<DataType, FaultKind> {
    Ok(match ty {
        Ty::U32 | Ty::B32 => DataType::U32,
        Ty::S32 => DataType::S32,
        Ty::U64 | Ty::B64 => DataType::U64,
        Ty::S64 => DataType::S64,
        Ty::F16 => DataType::F16,
        Ty::BF16 => DataType::BF16,
        Ty::F32 => DataType::F32,
        Ty::F64 => DataType::F64,
        _ => return Err(illegal(format!("bulk reduction of {ty:?}"))),
    })
}

/// Operands of one lane.
struct Lane<'a> {
    warp: &'a Warp,
    env: &'a Env,
    instr: &'a Instr,
    lane: u32,
}

impl Lane<'_> {
    fn value(&self, index: usize) -> u64 {
        self.warp
            .regs
            .operand_u64(&self.instr.src[index], self.lane)
    }

    /// A shared address, aligned.
    fn shared(&self, index: usize, bytes: u32, align: u32) -> Result<Place, FaultKind> {
        let address = self.value(index) & 0xffff_ffff;
        let place = shared_place(self.env, self.warp.rank, (address, bytes))?;
        if !place.1.is_multiple_of(align) {
            return Err(FaultKind::MisalignedAddress {
                address,
                align: align.into(),
            });
        }
        Ok(place)
    }

    /// Size operand: a multiple of 16.
    fn size(&self, index: usize) -> Result<u32, FaultKind> {
        let bytes = self.value(index) as u32;
        if !bytes.is_multiple_of(16) {
            return Err(illegal(format!(
                "bulk copy of {bytes} bytes, not a multiple of 16"
            )));
        }
        Ok(bytes)
    }

    fn global(&self, index: usize) -> Result<u64, FaultKind> {
        let address = self.value(index);
        if !address.is_multiple_of(16) {
            return Err(FaultKind::MisalignedAddress { address, align: 16 });
        }
        Ok(address)
    }

    fn coordinates(&self, first: usize, rank: u8) -> Coordinates {
        let axes = first..first + usize::from(rank);
        axes.map(|index| self.value(index) as u32 as i32).collect()
    }

    fn map(&self, ctx: &MemCtx<'_>, index: usize) -> Result<TensorMap, FaultKind> {
        let address = self.value(index);
        let span = Span {
            bytes: map::BYTES as u64,
            align: 64,
            access: Access::Read,
        };
        let host = ctx.resolve_one(Space::Generic, address, self.lane, span);
        let host = host.map_err(|fault| fault.kind)?;
        let bytes = super::system::read_bytes(host);
        TensorMap::decode(&bytes).map_err(|error| illegal(error.to_string()))
    }

    /// The CTAs that receive a load: the one the addresses name, or those of the mask.
    fn targets(
        &self,
        (to, mbarrier): (usize, usize),
        (bytes, align): (u32, u32),
        mask: Option<usize>,
    ) -> Result<SmallVec<[Target; 2]>, FaultKind> {
        let place = self.shared(to, bytes, align)?;
        let mbarrier = self.shared(mbarrier, 8, 8)?;
        let Some(mask) = mask else {
            if place.0 != mbarrier.0 {
                return Err(illegal(format!(
                    "asynchronous copy into CTA {} of the cluster with an mbarrier of CTA {}",
                    place.0, mbarrier.0
                )));
            }
            return Ok(smallvec![Target { place, mbarrier }]);
        };
        let mask = self.value(mask) as u16;
        let ranks = self.env.shared.len() as u32;
        if u32::from(mask) >> ranks.min(16) != 0 {
            return Err(illegal(format!(
                "multicast to {mask:#b} in a cluster of {ranks}"
            )));
        }
        let ranks = (0..16).filter(|rank| mask >> rank & 1 != 0);
        Ok(ranks
            .map(|rank| Target {
                place: (rank, place.1),
                mbarrier: (rank, mbarrier.1),
            })
            .collect())
    }

    /// Decodes a bulk operation, and says whether it completes by bulk group.
    fn transfer(&self, ctx: &MemCtx<'_>, op: BulkOp) -> Result<(Transfer, BulkDone), FaultKind> {
        match op {
            BulkOp::Copy {
                dir,
                done,
                multicast,
            } => Ok((self.linear(dir, multicast.then_some(4), None)?, done)),
            BulkOp::Reduce { dir, done, op, ty } => {
                let reduction = reduction(op, data_type(ty)?)?;
                Ok((self.linear(dir, None, Some(reduction))?, done))
            }
            BulkOp::TensorLoad { rank, multicast } => {
                let map = self.map(ctx, 1)?;
                let last = 2 + usize::from(rank);
                let mask = multicast.then_some(last + 1);
                let bytes = u32::try_from(map.box_bytes()).unwrap_or(u32::MAX);
                let targets = self.targets((0, last), (bytes, 16), mask)?;
                let at = self.coordinates(2, rank);
                let load = Transfer::Load {
                    source: Source::Tensor { map, at },
                    targets,
                    reduction: None,
                };
                Ok((load, BulkDone::Mbarrier))
            }
            BulkOp::TensorStore { rank, reduce } => {
                let map = self.map(ctx, 0)?;
                let reduce = reduce
                    .map(|op| reduction(op, map.data_type()))
                    .transpose()?;
                let bytes = u32::try_from(map.box_bytes()).unwrap_or(u32::MAX);
                let store = Transfer::Store {
                    source: self.shared(1 + usize::from(rank), bytes, 128)?,
                    destination: Destination::Tensor {
                        map,
                        at: self.coordinates(1, rank),
                    },
                    reduction: reduce,
                    staged: None,
                };
                Ok((store, BulkDone::BulkGroup))
            }
            BulkOp::StoreAsync { ty, vec } => {
                Ok((self.values(ty, usize::from(vec), None)?, BulkDone::Mbarrier))
            }
            BulkOp::ReduceAsync { op, ty } => {
                let reduction = reduction(op, data_type(ty)?)?;
                Ok((self.values(ty, 1, Some(reduction))?, BulkDone::Mbarrier))
            }
            BulkOp::Prefetch | BulkOp::CommitGroup | BulkOp::WaitGroup { .. } => {
                Err(FaultKind::Internal {
                    what: format!("{op:?} has no transfer"),
                })
            }
        }
    }

    /// `st.async` and `red.async`: `vec` values of registers.
    fn values(
        &self,
        ty: Ty,
        vec: usize,
        reduction: Option<Reduction>,
    ) -> Result<Transfer, FaultKind> {
        let size = ty.bytes() as usize;
        let mut data = SmallVec::new();
        for index in 1..=vec {
            data.extend_from_slice(&self.value(index).to_le_bytes()[..size]);
        }
        let bytes = data.len() as u32;
        Ok(Transfer::Load {
            targets: self.targets((0, 1 + vec), (bytes, bytes), None)?,
            source: Source::Value(data),
            reduction,
        })
    }

    fn linear(
        &self,
        dir: BulkDir,
        mask: Option<usize>,
        reduction: Option<Reduction>,
    ) -> Result<Transfer, FaultKind> {
        let bytes = self.size(2)?;
        Ok(match dir {
            BulkDir::GlobalToShared => Transfer::Load {
                source: Source::Global {
                    address: self.global(1)?,
                    bytes,
                },
                targets: self.targets((0, 3), (bytes, 16), mask)?,
                reduction: None,
            },
            BulkDir::SharedToCluster => Transfer::Load {
                source: Source::Shared {
                    place: self.shared(1, bytes, 16)?,
                    bytes,
                },
                targets: self.targets((0, 3), (bytes, 16), None)?,
                reduction,
            },
            BulkDir::SharedToGlobal => Transfer::Store {
                source: self.shared(1, bytes, 16)?,
                destination: Destination::Global {
                    address: self.global(0)?,
                    bytes,
                },
                reduction,
                staged: None,
            },
        })
    }
}

fn is_predicate(operand: Option<&Operand>) -> bool {
    match operand {
        Some(Operand::Reg(reg)) => reg.class == Class::Pred,
        Some(Operand::NotPred(_)) => true,
        _ => false,
    }
}

impl Warp {
    /// Executes a bulk instruction for the lanes of `mask`.
    pub(super) fn bulk(
        &mut self,
        env: &Env,
        st: &mut State,
        ctx: &MemCtx<'_>,
        (instr, mask, op): (&Instr, u32, BulkOp),
    ) -> Result<Step, LaneFault> {
        match op {
            BulkOp::Prefetch => return Ok(Step::Next),
            BulkOp::CommitGroup => {
                self.bulk.commit(mask);
                return Ok(Step::Next);
            }
            BulkOp::WaitGroup { pending, read } => {
                self.bulk.settle(&st.inflight);
                let done = self.bulk.at_most(mask, pending, read.into());
                if !done {
                    let mut awaited = self.bulk.awaited(mask, pending);
                    awaited.retain(|id| !read || st.inflight.is_unread(*id));
                    st.inflight.hasten(&awaited, st.work + READ);
                }
                let wait = Wait::Bulk { pending, read };
                return Ok(if done { Step::Next } else { Step::Wait(wait) });
            }
            _ => {}
        }
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let operands = Lane {
                warp: self,
                env,
                instr,
                lane,
            };
            let decoded = operands.transfer(ctx, op);
            let (transfer, done) = decoded.map_err(|kind| LaneFault { lane, kind })?;
            let loads = matches!(transfer, Transfer::Load { .. });
            let action = Action::Transfer(Box::new(transfer));
            let op = Op::new(self.origin(lane, instr.line), action);
            let when = if loads {
                due(&mut st.choice, st.work, LOAD)
            } else {
                due_of_store(&mut st.choice, st.work, READ)
            };
            let id = st.inflight.push(when, op);
            if done == BulkDone::BulkGroup {
                self.bulk.add(id, 1 << lane);
            }
        }
        Ok(Step::Next)
    }

    /// `cp.async`: one operation for the lanes of `mask`.
    pub(super) fn cp_async(
        &mut self,
        env: &Env,
        st: &mut State,
        (instr, mask): (&Instr, u32),
        (bytes, dst_offset, src_offset): (u32, i64, i64),
    ) -> Result<Step, LaneFault> {
        let mut lanes = Vec::new();
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let fault = |kind| LaneFault { lane, kind };
            let value = |index: usize| self.regs.operand_u64(&instr.src[index], lane);
            // The optional third operand: how many bytes to read, or a predicate to read none.
            let ignores = is_predicate(instr.src.get(2));
            let address = value(0).wrapping_add_signed(dst_offset) & 0xffff_ffff;
            let to = shared_place(env, self.rank, (address, bytes)).map_err(fault)?;
            let from = value(1).wrapping_add_signed(src_offset);
            let align = u64::from(bytes);
            for address in [u64::from(to.1), from] {
                if !address.is_multiple_of(align) {
                    return Err(fault(FaultKind::MisalignedAddress { address, align }));
                }
            }
            let read = match instr.src.get(2) {
                None => bytes,
                Some(operand) if ignores => {
                    bytes * (1 - (self.regs.operand_pred(operand) >> lane & 1))
                }
                Some(_) => value(2) as u32,
            };
            if read > bytes {
                let what = format!("cp.async of {bytes} bytes with a source size of {read}");
                return Err(fault(illegal(what)));
            }
            lanes.push(LaneCopy {
                to,
                from,
                bytes,
                read,
            });
        }
        let action = Action::Transfer(Box::new(Transfer::Copies(lanes)));
        let op = Op::new(self.origin(mask.trailing_zeros(), instr.line), action);
        let when = due(&mut st.choice, st.work, READ);
        let id = st.inflight.push(when, op);
        self.copies.add(id, mask);
        Ok(Step::Next)
    }
}
