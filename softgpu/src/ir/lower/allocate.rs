//! Coalescing of copies and allocation of slots by linear scan.
//!
//! Copies come first: where the two registers of a `mov` are never live at the same time they
//! become one, and the copy goes. Then each register occupies one slot (aligned pairs for 64 bits,
//! aligned fours for 128) from the start of its life to its end, and the lowest free slots are
//! taken in the order of starts.
//!
//! Registers of different widths never share slots, even at different times. Lane `n` of a 64-bit
//! register lies where lanes `2n` and `2n + 1` of a 32-bit one would, so a lane that still computes
//! in 64 bits would overwrite what other lanes, which are ahead, keep there in 32.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ir::{Block, Class, Instr, Op, Operand, Reg};

use super::VReg;
use super::live::{Segments, covers, join, overlap, segments, starts};

/// Lives longer than this many ranges are not joined further: keeps hostile inputs cheap.
const RANGE_LIMIT: usize = 4096;

/// Slots in the file of each class: B128, B64, B32, predicates.
pub(super) type Sizes = [u32; 4];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) sizes: Sizes,
    /// Registers that hold values across a call, by site.
    pub(super) across: Vec<(u32, Vec<Reg>)>,
}

/// Where the files of the classes begin in the warp's file. Widest first: each part then begins
/// at a multiple of its width.
pub(super) const fn begins([fours, pairs, ..]: Sizes) -> Sizes {
    [0, fours, fours + pairs, 0]
}

/// Rewrites the blocks from virtual registers to slots within the file of each class. `kept` says
/// of which call sites to report the live registers.
pub(super) fn allocate(blocks: &mut [Block], registers: &[VReg], kept: &[bool]) -> Allocation {
    let mut lives = segments(blocks, registers.len());
    let points = points(blocks, kept);
    let mut merged = Merged::new(registers.len());
    coalesce(blocks, &mut lives, &mut merged);
    let mut files: [File; 4] = Default::default();
    let mut slot = vec![0u32; registers.len()];
    let mut order: Vec<(u32, u32, usize)> = lives
        .iter()
        .enumerate()
        .filter_map(|(register, life)| {
            let start = life.first()?.0;
            let end = life.last()?.1;
            Some((start, end, register))
        })
        .collect();
    order.sort_unstable();
    for (start, end, register) in order {
        let (file, width) = file_of(registers[register].class);
        slot[register] = files[file].take(start, end, width);
    }
    let across = points.into_iter().map(|(site, point)| {
        let live = (0..registers.len()).filter(|&register| covers(&lives[register], point));
        let reg = |register: usize| Reg {
            class: registers[register].class,
            slot: slot[register],
        };
        (site, live.map(reg).collect())
    });
    let across = across.collect();
    rewrite(blocks, &mut |reg| slot[merged.find(reg.slot) as usize]);
    Allocation {
        sizes: files.map(|file| file.size),
        across,
    }
}

/// Moves the files of the classes.
pub(super) fn rebase(blocks: &mut [Block], bases: Sizes) {
    rewrite(blocks, &mut |reg| moved(reg, bases).slot);
}

/// A register whose file begins elsewhere.
pub(super) const fn moved(reg: Reg, bases: Sizes) -> Reg {
    Reg {
        class: reg.class,
        slot: reg.slot + bases[file_of(reg.class).0],
    }
}

/// Positions behind the calls at which registers have to be kept, by site.
fn points(blocks: &[Block], kept: &[bool]) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    if !kept.contains(&true) {
        return found;
    }
    for (block, start) in blocks.iter().zip(starts(blocks)) {
        for (at, instr) in (1u32..).zip(&block.instrs) {
            match instr.op {
                // What the call itself reads for the last time ends two positions behind it.
                Op::Call(site) if kept.get(site as usize) == Some(&true) => {
                    found.push((site, start.saturating_add(at * 4 + 2)));
                }
                _ => {}
            }
        }
    }
    found
}

/// The file of a class, and the slots that a register takes there.
const fn file_of(class: Class) -> (usize, u32) {
    match class {
        Class::B128 => (0, 4),
        Class::B64 => (1, 2),
        Class::B32 => (2, 1),
        Class::Pred => (3, 1),
    }
}

/// Registers that have become one.
struct Merged(Vec<u32>);

impl Merged {
    fn new(registers: usize) -> Self {
        Self((0..).take(registers).collect())
    }

    fn find(&mut self, register: u32) -> u32 {
        let mut at = register;
        while self.0[at as usize] != at {
            let up = self.0[self.0[at as usize] as usize];
            self.0[at as usize] = up;
            at = up;
        }
        at
    }
}

/// The registers of an unguarded copy.
fn copy(instr: &Instr) -> Option<(Reg, Reg)> {
    match (
        &instr.op,
        instr.guard,
        instr.dst.as_slice(),
        instr.src.as_slice(),
    ) {
        (Op::Mov, None, [to], [Operand::Reg(from)]) if to.class == from.class => Some((*to, *from)),
        _ => None,
    }
}

fn coalesce(blocks: &mut [Block], lives: &mut [Segments], merged: &mut Merged) {
    for block in blocks.iter() {
        for (to, from) in block.instrs.iter().filter_map(copy) {
            let (a, b) = (merged.find(to.slot), merged.find(from.slot));
            let (x, y) = (&lives[a as usize], &lives[b as usize]);
            if a == b || x.len() + y.len() > RANGE_LIMIT || overlap(x, y) {
                continue;
            }
            let life = std::mem::take(&mut lives[b as usize]);
            join(&mut lives[a as usize], life);
            merged.0[b as usize] = a;
        }
    }
    for block in blocks {
        block.instrs.retain(|instr| {
            copy(instr).is_none_or(|(to, from)| merged.find(to.slot) != merged.find(from.slot))
        });
    }
}

/// One register file during the scan.
#[derive(Default)]
struct File {
    busy: Vec<bool>,
    /// Ends of the lives in the file, with their slots.
    active: BinaryHeap<Reverse<(u32, u32, u32)>>,
    size: u32,
    /// No slot below this one is free.
    full_below: usize,
}

impl File {
    fn take(&mut self, start: u32, end: u32, width: u32) -> u32 {
        while let Some(&Reverse((over, first, count))) = self.active.peek() {
            if over > start {
                break;
            }
            self.active.pop();
            for slot in first..first + count {
                self.busy[slot as usize] = false;
            }
            self.full_below = self.full_below.min(first as usize);
        }
        let step = width as usize;
        let mut first = self.full_below.next_multiple_of(step);
        while self.busy.iter().skip(first).take(step).any(|busy| *busy) {
            first += step;
        }
        if self.busy.len() < first + step {
            self.busy.resize(first + step, false);
        }
        self.busy[first..first + step].fill(true);
        while self.busy.get(self.full_below) == Some(&true) {
            self.full_below += 1;
        }
        let slot = u32::try_from(first).unwrap_or(u32::MAX);
        self.size = self.size.max(slot + width);
        self.active.push(Reverse((end, slot, width)));
        slot
    }
}

fn rewrite(blocks: &mut [Block], slot: &mut dyn FnMut(Reg) -> u32) {
    for instr in blocks.iter_mut().flat_map(|block| &mut block.instrs) {
        if let Some(guard) = &mut instr.guard {
            guard.slot = slot(Reg {
                class: Class::Pred,
                slot: guard.slot,
            });
        }
        for reg in &mut instr.dst {
            reg.slot = slot(*reg);
        }
        for src in &mut instr.src {
            if let Operand::Reg(reg) | Operand::NotPred(reg) = src {
                reg.slot = slot(*reg);
            }
        }
    }
}
