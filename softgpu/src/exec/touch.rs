//! Use of registers that a wgmma in flight owns.
//!
//! Between `wgmma.mma_async` and the `wait_group` that covers it, the accumulators belong to the
//! asynchronous unit, and so do A fragments in registers as far as writing goes (PTX ISA, "wgmma.mma_async":
//! anything else is undefined). Most programs wait for all groups first; so decoding finds by data
//! flow the instructions that may come before such a wait, and puts an [`Op::WgmmaTouch`] in front of each,
//! which looks at run time whether a register is in flight then. Other instructions cost nothing.
//!
//! A `mov` between registers is how compilers carry accumulators from one SSA name to the next, and
//! `ptxas` either merges the two or waits. So it waits here until the wgmma is complete; anything
//! else is a guest fault. Further wgmmas may use the accumulators, and nothing asks for a
//! `wgmma.fence` yet: that is for a checker, which finds here what is in flight.

use std::collections::VecDeque;

use super::inst::{Code, LaneFault};
use super::kernel::{Flow, Kernel, Sys};
use super::split::Wait;
use super::warp::Step;
use crate::error::FaultKind;
use crate::ir::cfg::successors;
use crate::ir::{Block, Class, Function, Instr, Op, Operand, Reg};

/// A set of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Slots(Vec<u64>);

impl Slots {
    fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    fn contains(&self, slot: u32) -> bool {
        let word = self.0.get(slot as usize / 64);
        word.is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    /// Adds another set; whether that changed anything.
    fn union(&mut self, other: &Self) -> bool {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        let mut changed = false;
        for (to, from) in self.0.iter_mut().zip(&other.0) {
            changed |= *from & !*to != 0;
            *to |= *from;
        }
        changed
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// The slots of a register of the common file.
fn slots(reg: Reg) -> std::ops::Range<u32> {
    let width = match reg.class {
        Class::Pred => 0,
        Class::B32 => 1,
        Class::B64 => 2,
        Class::B128 => 4,
    };
    reg.slot..reg.slot + width
}

fn source_registers(instr: &Instr) -> impl Iterator<Item = Reg> + '_ {
    instr.src.iter().filter_map(|operand| match operand {
        Operand::Reg(reg) | Operand::NotPred(reg) => Some(*reg),
        Operand::Imm(_) => None,
    })
}

/// The A fragments of a wgmma.
fn fragments(instr: &Instr) -> impl Iterator<Item = Reg> + '_ {
    let in_registers = matches!(&instr.op, Op::Wgmma(shape) if shape.a_regs);
    source_registers(instr).take(if in_registers { 4 } else { 0 })
}

/// What may be in flight: accumulators, and A fragments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Owned {
    accumulators: Slots,
    fragments: Slots,
}

impl Owned {
    fn add(&mut self, wgmma: &Instr) {
        let accumulators = wgmma.dst.iter().flat_map(|reg| slots(*reg));
        accumulators.for_each(|slot| self.accumulators.insert(slot));
        let fragments = fragments(wgmma).flat_map(slots);
        fragments.for_each(|slot| self.fragments.insert(slot));
    }

    fn union(&mut self, other: &Self) -> bool {
        let accumulators = self.accumulators.union(&other.accumulators);
        self.fragments.union(&other.fragments) | accumulators
    }

    fn is_empty(&self) -> bool {
        self.accumulators.is_empty() && self.fragments.is_empty()
    }

    /// Whether an instruction may not have this register.
    fn forbids(&self, reg: Reg, written: Access) -> bool {
        let mut slots = slots(reg);
        slots.any(|slot| {
            self.accumulators.contains(slot)
                || (written == Access::Write && self.fragments.contains(slot))
        })
    }

    fn forbidden(&self, instr: &Instr) -> Option<Reg> {
        let read = source_registers(instr).find(|reg| self.forbids(*reg, Access::Read));
        let mut written = instr.dst.iter().copied();
        read.or_else(|| written.find(|reg| self.forbids(*reg, Access::Write)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// The state of the data flow: what may be in flight, committed or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Flight {
    loose: Owned,
    committed: Owned,
}

impl Flight {
    fn step(&mut self, instr: &Instr) {
        match instr.op {
            Op::Wgmma(_) => self.loose.add(instr),
            Op::WgmmaCommit => {
                self.committed.union(&self.loose);
                self.loose = Owned::default();
            }
            Op::WgmmaWait(0) => self.committed = Owned::default(),
            _ => {}
        }
    }

    fn union(&mut self, other: &Self) -> bool {
        let loose = self.loose.union(&other.loose);
        self.committed.union(&other.committed) | loose
    }
}

/// Puts [`Op::WgmmaTouch`] in front of instructions that may touch registers in flight; whether
/// there are any.
pub(super) fn watch(function: &mut Function) -> bool {
    let blocks = &mut function.blocks;
    let instrs = || blocks.iter().flat_map(|block| &block.instrs);
    if !instrs().any(|instr| matches!(instr.op, Op::Wgmma(_))) {
        return false;
    }
    let mut incoming = vec![Flight::default(); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for number in 0..blocks.len() {
            let mut flight = incoming[number].clone();
            blocks[number]
                .instrs
                .iter()
                .for_each(|instr| flight.step(instr));
            for target in successors(blocks, number) {
                if let Some(incoming) = incoming.get_mut(target as usize) {
                    changed |= incoming.union(&flight);
                }
            }
        }
    }
    let mut any = false;
    for (block, flight) in blocks.iter_mut().zip(incoming) {
        any |= watch_block(block, flight);
    }
    any
}

fn watch_block(block: &mut Block, mut flight: Flight) -> bool {
    // What may be in flight and has not been looked at since the last wgmma.
    let mut unseen = flight.loose.clone();
    unseen.union(&flight.committed);
    let mut out = Vec::with_capacity(block.instrs.len());
    let mut any = false;
    for instr in block.instrs.drain(..) {
        flight.step(&instr);
        match instr.op {
            Op::Wgmma(_) => unseen.add(&instr),
            Op::WgmmaWait(0) => unseen = flight.loose.clone(),
            _ if !unseen.is_empty() && unseen.forbidden(&instr).is_some() => {
                out.push(touch(&instr));
                any = true;
                if instr.guard.is_none() {
                    let registers = source_registers(&instr).chain(instr.dst.iter().copied());
                    for slot in registers.flat_map(slots) {
                        unseen.accumulators.remove(slot);
                    }
                    for slot in instr.dst.iter().flat_map(|reg| slots(*reg)) {
                        unseen.fragments.remove(slot);
                    }
                }
            }
            _ => {}
        }
        out.push(instr);
    }
    block.instrs = out;
    any
}

fn touch(instr: &Instr) -> Instr {
    Instr {
        op: Op::WgmmaTouch {
            copy: instr.op == Op::Mov,
        },
        guard: instr.guard,
        dst: instr.dst.clone(),
        src: source_registers(instr).map(Operand::Reg).collect(),
        line: instr.line,
    }
}

/// The wgmmas of a warp that no wait has covered.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Number in the order of issue, and program counter.
    ops: VecDeque<(u64, u32)>,
    owned: Owned,
}

impl Open {
    /// A wgmma was issued as the `number`-th.
    pub(super) fn issue(&mut self, kernel: &Kernel, (number, pc): (u64, u32)) {
        if !kernel.watched {
            return;
        }
        self.ops.push_back((number, pc));
        if let Some(instr) = instr(kernel, pc) {
            self.owned.add(instr);
        }
    }

    /// A wait has covered the wgmmas up to a number.
    pub(super) fn cover(&mut self, kernel: &Kernel, number: u64) {
        let before = self.ops.len();
        while self.ops.front().is_some_and(|&(n, _)| n <= number) {
            self.ops.pop_front();
        }
        if self.ops.len() == before {
            return;
        }
        self.owned = Owned::default();
        let open = self.ops.iter().filter_map(|&(_, pc)| instr(kernel, pc));
        open.for_each(|instr| self.owned.add(instr));
    }

    /// Executes [`Op::WgmmaTouch`]; `completed` wgmmas of the warpgroup are.
    pub(super) fn touch(
        &self,
        kernel: &Kernel,
        touch: &Instr,
        completed: u64,
    ) -> Result<Step, LaneFault> {
        let Some(reg) = self.owned.forbidden(touch) else {
            return Ok(Step::Next);
        };
        let mut owned = Owned::default();
        let newest = self.ops.iter().rev().find(|&&(_, pc)| {
            owned = Owned::default();
            if let Some(instr) = instr(kernel, pc) {
                owned.add(instr);
            }
            owned.forbidden(touch).is_some()
        });
        let &(number, pc) = newest.unwrap_or(&(0, 0));
        if matches!(touch.op, Op::WgmmaTouch { copy: true }) {
            return Ok(if completed >= number {
                Step::Next
            } else {
                Step::Retry(Wait::WgmmaDone { number })
            });
        }
        let line = instr(kernel, pc).map_or(0, |instr| instr.line);
        let source = kernel.function().sources.at(line);
        let line = crate::error::place(line, source.as_deref());
        let what = format!(
            "register in slot {} belongs to the wgmma of PTX line {line}, which no wait_group has covered",
            reg.slot
        );
        Err(LaneFault {
            lane: 0,
            kind: FaultKind::IllegalInstruction { what },
        })
    }
}

fn instr(kernel: &Kernel, pc: u32) -> Option<&Instr> {
    let Code::Sys(index) = kernel.code.get(pc as usize)?.code else {
        return None;
    };
    match kernel.sys.get(index as usize)? {
        Sys {
            flow: Flow::Machine,
            instr,
        } => Some(instr),
        _ => None,
    }
}
