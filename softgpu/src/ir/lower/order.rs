//! Puts blocks in execution order.
//!
//! The executor runs, of a diverged warp, the lanes with the lowest position first. They meet again
//! if the post-dominator of every branch stands behind it, which this order provides: a weak
//! topological order (Bourdoncle 1993). Every loop is contiguous and begins with its header, inside
//! it the same holds without the header, and otherwise blocks follow their predecessors. Where
//! several edges lead back to a header, or one from within an inner loop, they are joined in a
//! *latch*, an empty block at the end of the loop, so that the lanes that go round wait there for
//! the others. A polling loop that shares its header with the loop around it gets one of its own.
//! Irreducible loops take the first of their entries as header. Blocks that cannot be reached are
//! dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use smallvec::{SmallVec, smallvec};

use crate::ir::{Block, BlockId, Guard, Instr, MbarOp, Op, Order};

use super::raw::{Raw, Term};
use super::simplify::is_pure;

type Targets = SmallVec<[u32; 2]>;

fn targets(term: Option<&Term>) -> Targets {
    match term {
        Some(Term::Jump(target)) => smallvec![*target],
        Some(Term::Branch { taken, next, .. }) => smallvec![*taken, *next],
        Some(Term::Switch(instr)) => match &instr.op {
            Op::BrxIdx(targets) => targets.iter().copied().collect(),
            _ => smallvec![],
        },
        Some(Term::End(_)) | None => smallvec![],
    }
}

fn retarget(term: &mut Term, mut map: impl FnMut(u32) -> u32) {
    match term {
        Term::Jump(target) => *target = map(*target),
        Term::Branch { taken, next, .. } => {
            *taken = map(*taken);
            *next = map(*next);
        }
        Term::Switch(instr) => {
            if let Op::BrxIdx(targets) = &mut instr.op {
                targets.iter_mut().for_each(|target| *target = map(*target));
            }
        }
        Term::End(_) => {}
    }
}

/// Orders and flattens the blocks; block 0 is the entry.
pub(super) fn order(mut raw: Vec<Raw>) -> Vec<Block> {
    thread_jumps(&mut raw);
    // An entry of its own, so that no edge leads back to the first block.
    raw.push(Raw {
        instrs: Vec::new(),
        term: Some(Term::Jump(0)),
    });
    let entry = id(raw.len() - 1);
    let mut sorter = Sorter::new(raw, entry);
    let order = sorter.sort(entry);
    flatten(sorter.raw, &order)
}

fn id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Sends jumps to empty blocks on to where those lead.
fn thread_jumps(raw: &mut [Raw]) {
    let mut forward: Vec<u32> = (0..raw.len()).map(id).collect();
    for (start, forward) in forward.iter_mut().enumerate() {
        let mut at = start;
        // A bound, since empty blocks may jump in a circle.
        for _ in 0..8 {
            match &raw[at] {
                Raw {
                    instrs,
                    term: Some(Term::Jump(target)),
                } if instrs.is_empty() => at = *target as usize,
                _ => break,
            }
        }
        *forward = id(at);
    }
    for block in raw {
        if let Some(term) = &mut block.term {
            retarget(term, |target| forward[target as usize]);
        }
    }
}

/// A polling loop has at most this many blocks.
const POLL_BLOCKS: usize = 4;

/// Whether an instruction looks at something that others change.
fn is_poll(op: &Op) -> bool {
    match op {
        Op::Mbarrier(MbarOp::Wait { .. }, ..) | Op::Atom(..) | Op::Nanosleep => true,
        Op::Ld(access) => access.order != Order::Weak,
        _ => false,
    }
}

/// Whether an instruction may stand in a polling loop: it changes nothing outside the thread.
fn is_harmless(op: &Op) -> bool {
    is_pure(op) || matches!(op, Op::Ld(_) | Op::Special(_) | Op::Fence(_) | Op::Cover(_))
}

/// Loops that nest more deeply keep their blocks in text order. Each level costs a pass over its
/// blocks, and a text that is made to be slow has as many levels as blocks.
const NESTING: u32 = 64;

enum Work {
    Emit(u32),
    /// Blocks, and how many loops they are in.
    Sort(Vec<u32>, u32),
}

struct Sorter {
    raw: Vec<Raw>,
    successors: Vec<Targets>,
    predecessors: Vec<Vec<u32>>,
    /// The innermost set of blocks that is being sorted and holds the block.
    set: Vec<u32>,
    sets: u32,
    /// Text order; latches come last.
    key: Vec<u32>,
}

impl Sorter {
    fn new(raw: Vec<Raw>, entry: u32) -> Self {
        let count = raw.len();
        let successors = raw
            .iter()
            .map(|block| targets(block.term.as_ref()))
            .collect();
        let mut key: Vec<u32> = (1..=count).map(id).collect();
        key[entry as usize] = 0;
        Self {
            raw,
            successors,
            predecessors: vec![Vec::new(); count],
            set: vec![0; count],
            sets: 0,
            key,
        }
    }

    fn sort(&mut self, entry: u32) -> Vec<u32> {
        let reachable = self.reachable(entry);
        for &block in &reachable {
            for &successor in &self.successors[block as usize] {
                self.predecessors[successor as usize].push(block);
            }
        }
        let mut order = Vec::with_capacity(reachable.len());
        let mut work = vec![Work::Sort(reachable, 0)];
        while let Some(item) = work.pop() {
            match item {
                Work::Emit(block) => order.push(block),
                Work::Sort(mut blocks, NESTING) => {
                    blocks.sort_by_key(|&block| self.key[block as usize]);
                    order.append(&mut blocks);
                }
                Work::Sort(blocks, depth) => {
                    let mut parts = self.split(&blocks, depth);
                    parts.reverse();
                    work.append(&mut parts);
                }
            }
        }
        order
    }

    fn reachable(&self, entry: u32) -> Vec<u32> {
        let mut seen = vec![false; self.raw.len()];
        let mut found = vec![entry];
        seen[entry as usize] = true;
        let mut next = 0;
        while let Some(&block) = found.get(next) {
            next += 1;
            for &successor in &self.successors[block as usize] {
                if !std::mem::replace(&mut seen[successor as usize], true) {
                    found.push(successor);
                }
            }
        }
        found
    }

    /// Puts the strongly connected components of a set in topological order, in text order where
    /// there is a choice, and replaces each loop by its header and the rest of it.
    fn split(&mut self, blocks: &[u32], depth: u32) -> Vec<Work> {
        self.sets += 1;
        for &block in blocks {
            self.set[block as usize] = self.sets;
        }
        let (component, mut members) = components(blocks, &self.successors, &self.set, self.sets);
        let mut waiting = vec![0u32; members.len()];
        for &block in blocks {
            for successor in self.inside(block) {
                if component[&block] != component[&successor] {
                    waiting[component[&successor]] += 1;
                }
            }
        }
        let first = |members: &[u32]| members.iter().map(|&b| self.key[b as usize]).min();
        let mut ready: BinaryHeap<Reverse<(Option<u32>, usize)>> = members
            .iter()
            .enumerate()
            .filter(|(index, _)| waiting[*index] == 0)
            .map(|(index, members)| Reverse((first(members), index)))
            .collect();
        let mut sorted = Vec::with_capacity(members.len());
        while let Some(Reverse((_, index))) = ready.pop() {
            sorted.push(index);
            for &block in &members[index] {
                for successor in self.inside(block) {
                    let other = component[&successor];
                    if other != index {
                        waiting[other] -= 1;
                        if waiting[other] == 0 {
                            ready.push(Reverse((first(&members[other]), other)));
                        }
                    }
                }
            }
        }
        let mut out = Vec::with_capacity(sorted.len());
        for index in sorted {
            let members = std::mem::take(&mut members[index]);
            self.component(members, depth, &mut out);
        }
        out
    }

    fn inside(&self, block: u32) -> impl Iterator<Item = u32> + '_ {
        let set = self.set[block as usize];
        self.successors[block as usize]
            .iter()
            .copied()
            .filter(move |&successor| self.set[successor as usize] == set)
    }

    fn component(&mut self, members: Vec<u32>, depth: u32, out: &mut Vec<Work>) {
        let single = members.len() == 1;
        if let (true, Some(&block)) = (single, members.first())
            && !self.successors[block as usize].contains(&block)
        {
            out.push(Work::Emit(block));
            return;
        }
        self.sets += 1;
        for &block in &members {
            self.set[block as usize] = self.sets;
        }
        let entered = |block: &&u32| {
            self.predecessors[**block as usize]
                .iter()
                .any(|&p| self.set[p as usize] != self.sets)
        };
        let key = |block: &&u32| self.key[**block as usize];
        let header = members.iter().filter(entered).min_by_key(key);
        let Some(&header) = header.or_else(|| members.iter().min_by_key(key)) else {
            return;
        };
        if let Some(outer) = self.separate(header) {
            let mut members = members;
            members.push(outer);
            self.component(members, depth, out);
            return;
        }
        let mut rest: Vec<u32> = members.into_iter().filter(|&b| b != header).collect();
        if let Some(latch) = self.latch(header) {
            rest.push(latch);
        }
        out.push(Work::Emit(header));
        if !rest.is_empty() {
            out.push(Work::Sort(rest, depth + 1));
        }
    }

    /// The blocks of the loop that lead back to its header.
    fn back_edges(&self, header: u32) -> Vec<u32> {
        let current = self.set[header as usize];
        let mut sources: Vec<u32> = self.predecessors[header as usize]
            .iter()
            .copied()
            .filter(|&p| self.set[p as usize] == current)
            .collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// Gives a polling loop that shares its header with the loop around it a header of its own, and
    /// returns the new header of the outer loop. Otherwise lanes that poll would meet the others
    /// only after those had run the rest of the outer loop without them.
    fn separate(&mut self, header: u32) -> Option<u32> {
        let sources = self.back_edges(header);
        let polling: Vec<u32> = sources
            .iter()
            .copied()
            .filter(|&source| self.polls(source, header))
            .collect();
        if polling.is_empty() || polling.len() == sources.len() {
            return None;
        }
        let outer = id(self.raw.len());
        self.raw.push(Raw {
            instrs: Vec::new(),
            term: Some(Term::Jump(header)),
        });
        let moved: Vec<u32> = self.predecessors[header as usize]
            .iter()
            .copied()
            .filter(|p| polling.binary_search(p).is_err())
            .collect();
        self.redirect(&moved, header, outer);
        self.predecessors[header as usize] = polling;
        self.predecessors[header as usize].push(outer);
        self.predecessors.push(moved);
        self.successors.push(smallvec![header]);
        self.set.push(self.set[header as usize]);
        self.key.push(self.key[header as usize]);
        Some(outer)
    }

    /// Whether the way from the header to `source` and back is short and does nothing but wait.
    fn polls(&self, source: u32, header: u32) -> bool {
        let mut blocks = vec![source];
        let mut next = 0;
        while let Some(&block) = blocks.get(next) {
            next += 1;
            if block == header {
                continue;
            }
            for &p in &self.predecessors[block as usize] {
                if self.set[p as usize] == self.set[header as usize] && !blocks.contains(&p) {
                    blocks.push(p);
                }
            }
            if blocks.len() > POLL_BLOCKS {
                return false;
            }
        }
        let ops = || {
            blocks
                .iter()
                .flat_map(|&block| self.raw[block as usize].instrs.iter().map(|i| &i.op))
        };
        ops().any(is_poll) && ops().all(|op| is_poll(op) || is_harmless(op))
    }

    fn redirect(&mut self, sources: &[u32], from: u32, to: u32) {
        let redirect = |target| if target == from { to } else { target };
        for &source in sources {
            if let Some(term) = &mut self.raw[source as usize].term {
                retarget(term, redirect);
            }
            for successor in &mut self.successors[source as usize] {
                *successor = redirect(*successor);
            }
        }
    }

    /// Joins the edges back to a header in a new block, if that is needed.
    fn latch(&mut self, header: u32) -> Option<u32> {
        let current = self.set[header as usize];
        let sources = self.back_edges(header);
        let goes_on = |&source: &u32| self.inside(source).any(|s| s != header);
        if sources.len() == 1 && !sources.iter().any(goes_on) {
            return None;
        }
        let latch = id(self.raw.len());
        self.raw.push(Raw {
            instrs: Vec::new(),
            term: Some(Term::Jump(header)),
        });
        self.redirect(&sources, header, latch);
        self.predecessors[header as usize].retain(|p| sources.binary_search(p).is_err());
        self.predecessors[header as usize].push(latch);
        self.predecessors.push(sources);
        self.successors.push(smallvec![header]);
        self.set.push(current);
        self.key.push(u32::MAX);
        Some(latch)
    }
}

type Components = (std::collections::HashMap<u32, usize>, Vec<Vec<u32>>);

/// Tarjan's strongly connected components of the blocks whose entry in `set` is `current`.
fn components(blocks: &[u32], successors: &[Targets], set: &[u32], current: u32) -> Components {
    let mut component = std::collections::HashMap::with_capacity(blocks.len());
    let mut members: Vec<Vec<u32>> = Vec::new();
    let mut number = std::collections::HashMap::with_capacity(blocks.len());
    let mut lowest: Vec<usize> = Vec::with_capacity(blocks.len());
    let mut path: Vec<u32> = Vec::new();
    // Block, its number, and the next successor to look at.
    let mut calls: Vec<(u32, usize, usize)> = Vec::new();
    for &root in blocks {
        if number.contains_key(&root) {
            continue;
        }
        let mut entering = Some(root);
        loop {
            if let Some(block) = entering.take() {
                number.insert(block, lowest.len());
                calls.push((block, lowest.len(), 0));
                lowest.push(lowest.len());
                path.push(block);
            }
            let Some((block, own, next)) = calls.last_mut() else {
                break;
            };
            let (block, own) = (*block, *own);
            if let Some(&successor) = successors[block as usize].get(*next) {
                *next += 1;
                if set[successor as usize] != current || component.contains_key(&successor) {
                    continue;
                }
                match number.get(&successor) {
                    Some(&other) => lowest[own] = lowest[own].min(other),
                    None => entering = Some(successor),
                }
                continue;
            }
            calls.pop();
            if let Some((_, parent, _)) = calls.last() {
                lowest[*parent] = lowest[*parent].min(lowest[own]);
            }
            if lowest[own] == own {
                let start = path.iter().rposition(|&b| b == block).unwrap_or(0);
                let found = path.split_off(start);
                for &member in &found {
                    component.insert(member, members.len());
                }
                members.push(found);
            }
        }
    }
    (component, members)
}

/// Lays the blocks out in order, with branches where control does not fall through.
fn flatten(mut raw: Vec<Raw>, order: &[u32]) -> Vec<Block> {
    let mut position: Vec<BlockId> = vec![0; raw.len()];
    let mut at = 0;
    let mut following = order.iter().skip(1).map(|&b| Some(b)).collect::<Vec<_>>();
    following.push(None);
    for (&block, &follower) in order.iter().zip(&following) {
        position[block as usize] = at;
        at += 1 + u32::from(needs_trampoline(
            raw[block as usize].term.as_ref(),
            follower,
        ));
    }
    let mut blocks = Vec::with_capacity(at as usize);
    for (&block, &follower) in order.iter().zip(&following) {
        let Raw { instrs, term } = std::mem::take(&mut raw[block as usize]);
        let trampoline = needs_trampoline(term.as_ref(), follower);
        let mut out = Block { instrs };
        let target = |block: u32| position[block as usize];
        match term {
            Some(Term::Jump(to)) if Some(to) != follower => {
                let line = out.instrs.last().map_or(0, |instr| instr.line);
                out.instrs.push(branch(target(to), None, line));
            }
            Some(Term::Branch {
                taken, next, line, ..
            }) if taken == next => {
                if Some(next) != follower {
                    out.instrs.push(branch(target(next), None, line));
                }
            }
            Some(Term::Branch {
                guard,
                taken,
                next,
                line,
            }) => {
                if Some(taken) == follower {
                    let guard = Guard {
                        negated: !guard.negated,
                        ..guard
                    };
                    out.instrs.push(branch(target(next), Some(guard), line));
                } else {
                    out.instrs.push(branch(target(taken), Some(guard), line));
                }
                if trampoline {
                    blocks.push(out);
                    out = Block {
                        instrs: vec![branch(target(next), None, line)],
                    };
                }
            }
            Some(Term::Switch(mut instr)) => {
                if let Op::BrxIdx(targets) = &mut instr.op {
                    targets.iter_mut().for_each(|to| *to = target(*to));
                }
                out.instrs.push(instr);
            }
            Some(Term::End(instr)) => out.instrs.push(instr),
            Some(Term::Jump(_)) | None => {}
        }
        blocks.push(out);
    }
    blocks
}

/// Whether neither way out of a branch leads to the block that follows.
fn needs_trampoline(term: Option<&Term>, follower: Option<u32>) -> bool {
    matches!(term, Some(Term::Branch { taken, next, .. })
        if taken != next && Some(*taken) != follower && Some(*next) != follower)
}

fn branch(target: BlockId, guard: Option<Guard>, line: u32) -> Instr {
    Instr {
        op: Op::Bra(target),
        guard,
        dst: smallvec![],
        src: smallvec![],
        line,
    }
}
