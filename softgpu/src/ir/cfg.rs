//! The control-flow graph of a lowered function.

use smallvec::{SmallVec, smallvec};

use super::{Block, BlockId, Op};

/// The blocks that control may reach next from block `index`.
#[must_use]
pub fn successors(blocks: &[Block], index: usize) -> SmallVec<[BlockId; 2]> {
    let next = BlockId::try_from(index + 1)
        .ok()
        .filter(|_| index + 1 < blocks.len());
    let Some(last) = blocks.get(index).and_then(|block| block.instrs.last()) else {
        return next.into_iter().collect();
    };
    let guarded = last.guard.is_some();
    let mut out: SmallVec<[BlockId; 2]> = match &last.op {
        Op::Bra(target) => smallvec![*target],
        Op::BrxIdx(targets) => targets.iter().copied().collect(),
        Op::Exit | Op::Ret | Op::Trap => smallvec![],
        _ => return next.into_iter().collect(),
    };
    if guarded {
        out.extend(next);
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// The immediate post-dominator of every block; `None` where there is none but the end of the
/// thread (or where a loop without exit follows).
///
/// The algorithm is that of Cooper, Harvey and Kennedy (2001) on the reversed graph.
#[must_use]
pub fn post_dominators(blocks: &[Block]) -> Vec<Option<BlockId>> {
    let count = blocks.len();
    let successors: Vec<_> = (0..count).map(|index| successors(blocks, index)).collect();
    let mut predecessors = vec![Vec::new(); count + 1];
    for (index, targets) in successors.iter().enumerate() {
        for &target in targets {
            predecessors[target as usize].push(index);
        }
        if targets.is_empty() {
            predecessors[count].push(index);
        }
    }
    let (order, number) = backward_post_order(count, &predecessors);
    let mut parent: Vec<Option<usize>> = vec![None; count + 1];
    parent[count] = Some(count);
    let mut changed = true;
    while changed {
        changed = false;
        for &block in &order {
            let mut found: Option<usize> = None;
            let ends = [count];
            let targets = successors[block].iter().map(|&t| t as usize);
            let virtual_exit = ends
                .iter()
                .copied()
                .filter(|_| successors[block].is_empty());
            for target in targets.chain(virtual_exit) {
                if parent[target].is_some() {
                    found =
                        Some(found.map_or(target, |other| meet(other, target, &parent, &number)));
                }
            }
            if found.is_some() && parent[block] != found {
                parent[block] = found;
                changed = true;
            }
        }
    }
    parent
        .iter()
        .take(count)
        .map(|p| {
            p.filter(|&p| p < count)
                .and_then(|p| BlockId::try_from(p).ok())
        })
        .collect()
}

fn meet(a: usize, b: usize, parent: &[Option<usize>], number: &[usize]) -> usize {
    let (mut a, mut b) = (a, b);
    while a != b {
        while number[a] < number[b] {
            a = parent[a].unwrap_or(b);
        }
        while number[b] < number[a] {
            b = parent[b].unwrap_or(a);
        }
    }
    a
}

/// Blocks in reverse post-order of the reversed graph, without the virtual exit `count`; and the
/// post-order number of each.
fn backward_post_order(count: usize, predecessors: &[Vec<usize>]) -> (Vec<usize>, Vec<usize>) {
    let mut number = vec![0; count + 1];
    let mut seen = vec![false; count + 1];
    let mut order = Vec::with_capacity(count);
    let mut stack = vec![(count, 0)];
    seen[count] = true;
    let mut next_number = 1;
    while let Some((block, next)) = stack.last_mut() {
        if let Some(&before) = predecessors[*block].get(*next) {
            *next += 1;
            if !std::mem::replace(&mut seen[before], true) {
                stack.push((before, 0));
            }
            continue;
        }
        number[*block] = next_number;
        next_number += 1;
        order.push(*block);
        stack.pop();
    }
    order.pop();
    order.reverse();
    (order, number)
}
