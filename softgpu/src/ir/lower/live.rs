//! Liveness of virtual registers, as seen by one thread.
//!
//! Lanes of a warp that stand at different places each use their own column of a slot, so the
//! liveness of a single thread is enough for sharing slots. A guarded definition does not end the
//! life of the old value. Registers of a `wgmma.mma_async` stay occupied until a
//! `wgmma.wait_group 0` that every path passes, since the asynchronous unit reads and writes them
//! in between. A register that no definition has reached yet occupies nothing: what it would
//! hold is arbitrary.
//!
//! Positions: a block takes one, then each of its instructions one, times four. An instruction at
//! `p` reads at `p` and writes from `p` on (a `mov` from `p + 2` on), so what it writes does not
//! share a slot with what it reads, unless it is a `mov`.

use crate::ir::cfg::successors;
use crate::ir::{Block, Instr, Op, Operand};

/// Half-open ranges of positions, sorted and disjoint.
pub(super) type Segments = Vec<(u32, u32)>;

/// A set of small numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(size: usize) -> Self {
        Self(vec![0; size.div_ceil(64)])
    }

    fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    fn contains(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(word, &bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 != 0)
                .map(move |bit| word * 64 + bit)
        })
    }
}

/// Registers read: sources, the guard, and wgmma accumulators.
pub(super) fn reads(instr: &Instr) -> impl Iterator<Item = u32> + '_ {
    let sources = instr.src.iter().filter_map(|src| match src {
        Operand::Reg(reg) | Operand::NotPred(reg) => Some(reg.slot),
        Operand::Imm(_) => None,
    });
    let guard = instr.guard.map(|guard| guard.slot);
    let accumulators = matches!(instr.op, Op::Wgmma(_)).then_some(&instr.dst);
    sources
        .chain(guard)
        .chain(accumulators.into_iter().flatten().map(|reg| reg.slot))
}

/// Registers whose old value ends here.
fn kills(instr: &Instr) -> impl Iterator<Item = u32> + '_ {
    let ends = instr.guard.is_none() && !matches!(instr.op, Op::Wgmma(_));
    instr.dst.iter().filter(move |_| ends).map(|reg| reg.slot)
}

/// Numbers the registers of interest densely.
struct Index {
    of: Vec<u32>,
    registers: Vec<u32>,
}

impl Index {
    fn new(registers: usize) -> Self {
        Self {
            of: vec![u32::MAX; registers],
            registers: Vec::new(),
        }
    }

    fn add(&mut self, register: u32) {
        let place = &mut self.of[register as usize];
        if *place == u32::MAX {
            *place = u32::try_from(self.registers.len()).unwrap_or(u32::MAX - 1);
            self.registers.push(register);
        }
    }

    fn get(&self, register: u32) -> Option<usize> {
        let index = self.of[register as usize];
        (index != u32::MAX).then_some(index as usize)
    }
}

/// Registers that are read in some block before that block writes them: no others can be live at
/// the boundary of a block.
fn exposed(blocks: &[Block], registers: usize) -> Index {
    let mut index = Index::new(registers);
    let mut written: Vec<u32> = vec![u32::MAX; registers];
    for (number, block) in (0..).zip(blocks) {
        for instr in &block.instrs {
            for register in reads(instr) {
                if written[register as usize] != number {
                    index.add(register);
                }
            }
            for register in kills(instr) {
                written[register as usize] = number;
            }
        }
    }
    index
}

/// Live-out sets over the exposed registers.
fn live_out(blocks: &[Block], index: &Index) -> Vec<Bits> {
    let size = index.registers.len();
    let targets: Vec<_> = (0..blocks.len()).map(|b| successors(blocks, b)).collect();
    let mut incoming = vec![Bits::new(size); blocks.len()];
    let mut outgoing = vec![Bits::new(size); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for number in (0..blocks.len()).rev() {
            let mut live = Bits::new(size);
            for &target in &targets[number] {
                live.union(&incoming[target as usize]);
            }
            outgoing[number] = live.clone();
            for instr in blocks[number].instrs.iter().rev() {
                kills(instr)
                    .filter_map(|r| index.get(r))
                    .for_each(|r| live.remove(r));
                reads(instr)
                    .filter_map(|r| index.get(r))
                    .for_each(|r| live.insert(r));
            }
            if live != incoming[number] {
                incoming[number] = live;
                changed = true;
            }
        }
    }
    outgoing
}

/// Exposed registers that some definition may have reached at the start of each block.
fn defined_in(blocks: &[Block], index: &Index) -> Vec<Bits> {
    let size = index.registers.len();
    let mut incoming = vec![Bits::new(size); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for number in 0..blocks.len() {
            let mut defined = incoming[number].clone();
            for dst in blocks[number].instrs.iter().flat_map(|instr| &instr.dst) {
                index
                    .get(dst.slot)
                    .into_iter()
                    .for_each(|r| defined.insert(r));
            }
            for target in successors(blocks, number) {
                let before = incoming[target as usize].clone();
                incoming[target as usize].union(&defined);
                changed |= before != incoming[target as usize];
            }
        }
    }
    incoming
}

/// The first position of every block, and the end of the last.
pub(super) fn starts(blocks: &[Block]) -> Vec<u32> {
    let mut at = 0u32;
    let mut starts: Vec<u32> = Vec::with_capacity(blocks.len() + 1);
    for block in blocks {
        starts.push(at);
        let length = u32::try_from(block.instrs.len()).unwrap_or(u32::MAX / 8);
        at = at.saturating_add((length + 1) * 4);
    }
    starts.push(at);
    starts
}

/// Where every register is live.
pub(super) fn segments(blocks: &[Block], registers: usize) -> Vec<Segments> {
    let index = exposed(blocks, registers);
    let outgoing = live_out(blocks, &index);
    let defined = defined_in(blocks, &index);
    let starts = starts(blocks);
    let mut segments: Vec<Segments> = vec![Vec::new(); registers];
    // End of the range that is open, while walking backwards; 0 = none.
    let mut open: Vec<u32> = vec![0; registers];
    // The first definition in the block, for registers that none has reached at its start.
    let mut first: Vec<u32> = vec![u32::MAX; registers];
    for number in (0..blocks.len()).rev() {
        let mut live: Vec<u32> = outgoing[number]
            .iter()
            .map(|r| index.registers[r])
            .collect();
        for &register in &live {
            open[register as usize] = starts[number + 1];
        }
        let mut at = starts[number + 1];
        for instr in blocks[number].instrs.iter().rev() {
            at = at.saturating_sub(4);
            let write = if matches!(instr.op, Op::Mov) {
                at + 2
            } else {
                at
            };
            for dst in &instr.dst {
                let register = dst.slot as usize;
                first[register] = write;
                if open[register] == 0 {
                    segments[register].push((write, at + 4));
                }
            }
            for register in kills(instr) {
                let end = std::mem::take(&mut open[register as usize]);
                if end != 0 {
                    segments[register as usize].push((write, end));
                }
            }
            for register in reads(instr) {
                if open[register as usize] == 0 {
                    open[register as usize] = at + 2;
                    live.push(register);
                }
                // Wherever it is read, it has a slot.
                segments[register as usize].push((at, at + 2));
            }
        }
        for register in live {
            let end = std::mem::take(&mut open[register as usize]);
            let reached = index
                .get(register)
                .is_none_or(|r| defined[number].contains(r));
            let start = if reached {
                starts[number]
            } else {
                first[register as usize]
            };
            if start < end {
                segments[register as usize].push((start, end));
            }
        }
        for dst in blocks[number].instrs.iter().flat_map(|instr| &instr.dst) {
            first[dst.slot as usize] = u32::MAX;
        }
    }
    in_flight(blocks, &starts, &mut segments);
    segments.iter_mut().for_each(normalise);
    segments
}

/// Adds the ranges in which wgmma registers are in use by the asynchronous unit.
fn in_flight(blocks: &[Block], starts: &[u32], segments: &mut [Segments]) {
    let mut index = Index::new(segments.len());
    let wgmmas = blocks
        .iter()
        .flat_map(|block| &block.instrs)
        .filter(|instr| matches!(instr.op, Op::Wgmma(_)));
    for instr in wgmmas {
        reads(instr).for_each(|register| index.add(register));
    }
    let size = index.registers.len();
    if size == 0 {
        return;
    }
    let mut incoming = vec![Bits::new(size); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for number in 0..blocks.len() {
            let mut flying = incoming[number].clone();
            for instr in &blocks[number].instrs {
                fly(instr, &index, &mut flying);
            }
            for target in successors(blocks, number) {
                let before = incoming[target as usize].clone();
                incoming[target as usize].union(&flying);
                changed |= before != incoming[target as usize];
            }
        }
    }
    for (number, block) in blocks.iter().enumerate() {
        let mut flying = incoming[number].clone();
        let mut since = starts[number];
        for (i, instr) in (1..).zip(&block.instrs) {
            if matches!(instr.op, Op::Wgmma(_) | Op::WgmmaWait(0)) {
                let at = starts[number] + 4 * i;
                for flight in flying.iter() {
                    segments[index.registers[flight] as usize].push((since, at + 4));
                }
                since = at;
                fly(instr, &index, &mut flying);
            }
        }
        for flight in flying.iter() {
            segments[index.registers[flight] as usize].push((since, starts[number + 1]));
        }
    }
}

fn fly(instr: &Instr, index: &Index, flying: &mut Bits) {
    match instr.op {
        Op::Wgmma(_) => reads(instr)
            .filter_map(|register| index.get(register))
            .for_each(|register| flying.insert(register)),
        Op::WgmmaWait(0) => flying.clear(),
        _ => {}
    }
}

/// Sorts ranges and joins those that touch.
fn normalise(segments: &mut Segments) {
    segments.sort_unstable();
    let mut kept = 0;
    for i in 0..segments.len() {
        let (start, end) = segments[i];
        if kept > 0 && start <= segments[kept - 1].1 {
            segments[kept - 1].1 = segments[kept - 1].1.max(end);
        } else {
            segments[kept] = (start, end);
            kept += 1;
        }
    }
    segments.truncate(kept);
}

/// Whether two lives overlap.
pub(super) fn overlap(a: &Segments, b: &Segments) -> bool {
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.1 <= y.0 {
            i += 1;
        } else if y.1 <= x.0 {
            j += 1;
        } else {
            return true;
        }
    }
    false
}

/// Whether a life goes on beyond a position.
pub(super) fn covers(life: &Segments, position: u32) -> bool {
    let next = life.partition_point(|range| range.1 <= position);
    life.get(next).is_some_and(|range| range.0 < position)
}

/// Joins the life of `b` into `a`.
pub(super) fn join(a: &mut Segments, b: Segments) {
    a.extend(b);
    normalise(a);
}
