//! mbarrier instructions, and arrivals of asynchronous operations.
#![expect(unsafe_code, reason = "mbarrier objects live in guest shared memory")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "operands are 32-bit values carried as 64 bits"
)]

use std::collections::HashMap;

use super::access::{SHARED_OFFSET_MASK, SHARED_WINDOW, shared_rank};
use super::cta::{Arrived, Env, Event, State};
use super::inflight::{Action, Op, due};
use super::inst::LaneFault;
use super::kernel::Sys;
use super::mbarrier::{Arrive, Mbarrier, Misuse};
use super::regs::Slot;
use super::split::Wait;
use super::warp::{Step, Warp};
use crate::error::FaultKind;
use crate::ir::{Class, Instr, MbarOp, Operand, Space};

/// How long `try_wait` suspends at most, in cycles, when no hint is given.
const SUSPEND: u64 = 1_755_000;

/// Rank and offset of a shared address of any form: a 32-bit shared address, or a generic one.
pub(super) fn shared_place(
    env: &Env,
    own: u32,
    (address, bytes): (u64, u32),
) -> Result<(u32, u32), FaultKind> {
    let illegal = FaultKind::IllegalAddress {
        address,
        bytes: bytes.into(),
        write: true,
    };
    let high = address & !0xffff_ffff;
    if high != 0 && high != SHARED_WINDOW {
        return Err(illegal);
    }
    let low = address as u32;
    let rank = shared_rank(low, own);
    let offset = low & SHARED_OFFSET_MASK;
    match env.shared.get(rank as usize) {
        Some(shared) if u64::from(offset) + u64::from(bytes) <= shared.len.into() => {
            Ok((rank, offset))
        }
        _ => Err(illegal),
    }
}

fn word(env: &Env, (rank, offset): (u32, u32)) -> *mut u64 {
    let base = env.shared[rank as usize].base;
    base.wrapping_add(offset as usize).cast()
}

fn load(env: &Env, place: (u32, u32)) -> Result<Mbarrier, Misuse> {
    // SAFETY: `place` was checked against the CTA's shared memory and is aligned to 8; the cluster
    // belongs to this thread.
    Mbarrier::decode(unsafe { word(env, place).read() })
}

fn store(env: &Env, place: (u32, u32), value: u64) {
    // SAFETY: as in `load`.
    unsafe { word(env, place).write(value) };
}

/// Whether the phase of `parity` of an mbarrier of CTA `rank` is complete. An object that has been
/// invalidated meanwhile counts as complete; the instruction then reports it.
pub(super) fn completed(env: &Env, rank: u32, offset: u32, parity: u32) -> bool {
    load(env, (rank, offset)).map_or(true, |barrier| barrier.completed(parity))
}

/// The state of an mbarrier, for reports.
pub(super) fn describe(env: &Env, place: (u32, u32)) -> String {
    let barrier = match load(env, place) {
        Ok(barrier) => barrier,
        Err(misuse) => return misuse.to_string(),
    };
    let Mbarrier {
        pending,
        expected,
        transactions,
        parity,
    } = barrier;
    let bytes = transactions.unsigned_abs();
    let missing = match (pending, transactions) {
        (0, 1..=i64::MAX) => {
            format!("all {expected} arrivals came, {bytes} of the expected bytes did not")
        }
        (0, _) => format!("all {expected} arrivals came, and {bytes} bytes more than expected"),
        (_, i64::MIN..=-1) => format!(
            "{pending} of {expected} arrivals pending, and {bytes} bytes came that are not expected"
        ),
        _ => format!("{pending} of {expected} arrivals and {bytes} bytes pending"),
    };
    format!("{missing}, current parity {parity}")
}

/// What the instructions of a CTA have made of a place in shared memory.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// Initialised by that PTX line.
    Begun(u32),
    /// Invalidated by that PTX line.
    Ended(u32),
}

/// The mbarrier objects of a CTA, past ones too, by offset.
#[derive(Debug, Default)]
pub(super) struct Lives(HashMap<u32, Life>);

impl Lives {
    /// What is known of a place, to be said after a misuse.
    fn story(&self, offset: u32) -> String {
        match self.0.get(&offset) {
            None => ", and none was made there".to_owned(),
            Some(Life::Begun(line)) => format!(" (mbarrier.init at line {line})"),
            Some(Life::Ended(line)) => format!(" (mbarrier.inval at line {line})"),
        }
    }

    fn began(&self, offset: u32) -> Option<u32> {
        match self.0.get(&offset) {
            Some(Life::Begun(line)) => Some(*line),
            _ => None,
        }
    }
}

/// The fault of using an mbarrier against its rules.
fn misused(st: &State, (rank, offset): (u32, u32), misuse: Misuse) -> FaultKind {
    let story = match misuse {
        Misuse::Uninitialised(_) => st.ctas[rank as usize].mbarriers.story(offset),
        _ => String::new(),
    };
    FaultKind::IllegalInstruction {
        what: format!("mbarrier at shared {offset:#x} of CTA {rank}: {misuse}{story}"),
    }
}

/// `mbarrier.init`. An object in the middle of a phase must not be initialised again.
fn begin(
    env: &Env,
    st: &mut State,
    place: (u32, u32),
    (count, line): (u32, u32),
) -> Result<(), FaultKind> {
    let fresh = Mbarrier::init(count.into()).map_err(|misuse| misused(st, place, misuse))?;
    let lives = &mut st.ctas[place.0 as usize].mbarriers;
    if let (Some(first), Ok(old)) = (lives.began(place.1), load(env, place))
        && (old.pending != old.expected || old.transactions != 0)
    {
        return Err(FaultKind::IllegalInstruction {
            what: format!(
                "mbarrier at shared {:#x} of CTA {}: initialised again while in use since line \
                 {first}: {}",
                place.1,
                place.0,
                describe(env, place)
            ),
        });
    }
    lives.0.insert(place.1, Life::Begun(line));
    store(env, place, fresh.encode());
    Ok(())
}

/// Applies a change to an mbarrier and wakes those who wait when it completes a phase.
pub(super) fn change(
    env: &Env,
    st: &mut State,
    place: (u32, u32),
    change: impl FnOnce(&mut Mbarrier) -> Result<bool, Misuse>,
) -> Result<(), FaultKind> {
    let mut barrier = load(env, place).map_err(|misuse| misused(st, place, misuse))?;
    let done = change(&mut barrier).map_err(|misuse| misused(st, place, misuse))?;
    store(env, place, barrier.encode());
    if done {
        st.wake(place.0, Event::Mbarrier);
    }
    Ok(())
}

/// Bytes of an asynchronous operation have arrived.
pub(super) fn complete_tx(
    env: &Env,
    st: &mut State,
    place: (u32, u32),
    bytes: u32,
) -> Result<(), FaultKind> {
    change(env, st, place, |barrier| barrier.complete_tx(bytes))
}

/// A plain arrival.
pub(super) fn arrive_one(env: &Env, st: &mut State, place: (u32, u32)) -> Result<(), FaultKind> {
    let one = Arrive {
        count: 1,
        expect: 0,
        drop: false,
        no_complete: false,
    };
    change(env, st, place, |barrier| barrier.arrive(one))
}

impl Warp {
    /// The mbarrier that a lane names.
    fn mbarrier_place(
        &self,
        env: &Env,
        (operand, space, offset): (&Operand, Space, i64),
        lane: u32,
    ) -> Result<(u32, u32), LaneFault> {
        let base = self.regs.operand_u64(operand, lane);
        let wide = matches!(operand, Operand::Reg(reg) if reg.class == Class::B64);
        let mut address = base.wrapping_add_signed(offset);
        if !wide || space != Space::Generic {
            address &= 0xffff_ffff;
        }
        let fault = |kind| LaneFault { lane, kind };
        let place = shared_place(env, self.rank, (address, 8)).map_err(fault)?;
        if !place.1.is_multiple_of(8) {
            return Err(fault(FaultKind::MisalignedAddress { address, align: 8 }));
        }
        Ok(place)
    }

    /// Executes an mbarrier instruction for the lanes of `mask`.
    pub(super) fn mbarrier(
        &mut self,
        env: &Env,
        st: &mut State,
        (sys, at, mask): (&Sys, usize, u32),
        (op, space, offset): (MbarOp, Space, i64),
    ) -> Result<Step, LaneFault> {
        let instr = &sys.instr;
        if let MbarOp::PendingCount = op {
            self.pending_count(instr, mask);
            return Ok(Step::Next);
        }
        if let MbarOp::Wait { try_wait, parity } = op {
            let expired = self.splits.at(at).expired;
            let test = Test {
                block: try_wait && !expired,
                parity,
            };
            return self.mbarrier_wait(env, st, (instr, mask), (space, offset, test));
        }
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let place = self.mbarrier_place(env, (&instr.src[0], space, offset), lane)?;
            let fault = |kind| LaneFault { lane, kind };
            self.mbarrier_update(env, st, (instr, lane), (op, place))
                .map_err(fault)?;
        }
        Ok(Step::Next)
    }

    fn mbarrier_update(
        &mut self,
        env: &Env,
        st: &mut State,
        (instr, lane): (&Instr, u32),
        (op, place): (MbarOp, (u32, u32)),
    ) -> Result<(), FaultKind> {
        let value = |index: usize| self.regs.operand_u64(&instr.src[index], lane) as u32;
        match op {
            MbarOp::Init => {
                let count = value(1);
                begin(env, st, place, (count, instr.line))
            }
            MbarOp::Inval => {
                change(env, st, place, |_| Ok(false))?;
                store(env, place, 0);
                let lives = &mut st.ctas[place.0 as usize].mbarriers;
                lives.0.insert(place.1, Life::Ended(instr.line));
                Ok(())
            }
            MbarOp::Arrive {
                expect_tx,
                count,
                drop,
                no_complete,
            } => {
                let arrive = Arrive {
                    expect: if expect_tx { value(1) } else { 0 },
                    count: if count {
                        value(1 + usize::from(expect_tx))
                    } else {
                        1
                    },
                    drop,
                    no_complete,
                };
                let mut token = 0;
                let arrived = Arrived {
                    rank: self.rank,
                    warp: self.index,
                    line: instr.line,
                };
                st.ctas[place.0 as usize].note_arrival(place.1, arrived);
                change(env, st, place, |barrier| {
                    token = barrier.encode();
                    barrier.arrive(arrive)
                })?;
                if let Some(dst) = instr.dst.first() {
                    self.regs.set_value(Slot(dst.slot), dst.class, lane, token);
                }
                Ok(())
            }
            MbarOp::ExpectTx => {
                let bytes = value(1);
                change(env, st, place, |barrier| {
                    barrier.expect_tx(bytes).map(|()| false)
                })
            }
            MbarOp::CompleteTx => complete_tx(env, st, place, value(1)),
            MbarOp::CpAsyncArrive { noinc } => {
                if !noinc {
                    change(env, st, place, |barrier| {
                        barrier.increment().map(|()| false)
                    })?;
                }
                let after = self.copies.of_lane(lane).to_vec();
                let action = Action::Arrive {
                    after,
                    mbarrier: place,
                };
                let op = Op::new(self.origin(lane, instr.line), action);
                let when = due(&mut st.choice, st.work, 100);
                st.inflight.push(when, op);
                Ok(())
            }
            MbarOp::Wait { .. } | MbarOp::PendingCount => Ok(()),
        }
    }

    fn pending_count(&mut self, instr: &Instr, mask: u32) {
        let dst = instr.dst[0];
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let token = self.regs.operand_u64(&instr.src[0], lane);
            let count = Mbarrier::decode(token).map_or(0, |barrier| barrier.pending);
            self.regs
                .set_value(Slot(dst.slot), dst.class, lane, count.into());
        }
    }

    /// `test_wait` and `try_wait`. The latter suspends when no lane's phase is complete.
    fn mbarrier_wait(
        &mut self,
        env: &Env,
        st: &State,
        (instr, mask): (&Instr, u32),
        (space, offset, test): (Space, i64, Test),
    ) -> Result<Step, LaneFault> {
        let mut done = 0;
        let mut first = None;
        let mut previous = None;
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let place = self.mbarrier_place(env, (&instr.src[0], space, offset), lane)?;
            let operand = self.regs.operand_u64(&instr.src[1], lane);
            let parity = match (test.parity, Mbarrier::decode(operand)) {
                (true, _) => operand as u32 & 1,
                (false, Ok(token)) => token.parity,
                (false, Err(misuse)) => {
                    let what = format!("mbarrier state token: {misuse}");
                    let kind = FaultKind::IllegalInstruction { what };
                    return Err(LaneFault { lane, kind });
                }
            };
            let complete = match previous {
                Some((same, complete)) if same == (place, parity) => complete,
                _ => load(env, place)
                    .map(|barrier| barrier.completed(parity))
                    .map_err(|misuse| LaneFault {
                        lane,
                        kind: misused(st, place, misuse),
                    })?,
            };
            previous = Some(((place, parity), complete));
            if complete {
                done |= 1 << lane;
            } else if first.is_none() {
                first = Some((place, parity, lane));
            }
        }
        if let Some(((rank, at), parity, lane)) = first
            && test.block
            && done == 0
            && rank == self.rank
        {
            let hint = instr
                .src
                .get(2)
                .map(|hint| self.regs.operand_u64(hint, lane) as u32);
            let cycles = hint.map_or(SUSPEND, |hint| u64::from(hint) * 1755 / 1000);
            return Ok(Step::Retry(Wait::Mbarrier {
                offset: at,
                parity,
                until: st.cycles() + cycles.max(1),
            }));
        }
        self.regs.set_pred(instr.dst[0].slot, mask, done);
        Ok(Step::Next)
    }
}

/// How to wait.
#[derive(Debug, Clone, Copy)]
struct Test {
    /// Suspend while the phase is incomplete.
    block: bool,
    /// The operand is a parity rather than a token.
    parity: bool,
}
