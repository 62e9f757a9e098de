//! Puts an entry and the routines that it calls together into one program.
//!
//! Every routine is lowered once and has registers of its own. Those of a caller and of what it
//! calls never overlap, so a call saves nothing; functions that call each other, directly or not,
//! save at those calls what they still need. Routines that are never active at the same time in one
//! thread share registers, but only with registers of the same class: threads of a warp may be in
//! different routines, and each thread's column of a register depends on its width.
//!
//! Routines stand before what calls them. The executor runs the threads with the lowest position
//! first, so those that called meet the others again where the call returns.

use std::collections::HashMap;

use smallvec::smallvec;

use crate::error::PtxError;
use crate::ir::{Block, CallSite, Callee, Calls, Instr, Op, Routine, Stack, function_address};

use super::allocate::{self, Allocation, Sizes};
use super::body::{Builder, Unit};
use super::call::{Site, Target};
use super::context::Context;
use super::graph::components;
use super::layout::Shared;
use super::{order, simplify};

/// Bytes that a call takes from the stack besides the frame: its record, and what aligning the
/// frame may cost.
pub(crate) const CALL_BYTES: u32 = 32;

/// The executable parts of a function.
pub(super) struct Program {
    pub(super) blocks: Vec<Block>,
    pub(super) slots: u32,
    pub(super) preds: u32,
    pub(super) calls: Calls,
}

/// A function in execution order, its registers allocated.
struct Part {
    function: usize,
    blocks: Vec<Block>,
    allocation: Allocation,
    sites: Vec<Site>,
    local_bytes: u32,
    local_align: u32,
    /// It moves the stack itself.
    alloca: bool,
}

pub(super) fn assemble(
    context: &Context<'_>,
    shared: &Shared,
    (entry, main): (usize, Unit),
) -> Result<Program, PtxError> {
    let parts = parts(context, shared, (entry, main))?;
    let edges = edges(context, &parts);
    let components = components(&edges);
    let (bases, sizes) = bases(&parts, &edges, &components);
    let begins = allocate::begins(sizes);
    let stack = stack(&parts, &edges, &components);
    let mut calls = Calls {
        stack,
        ..Calls::default()
    };
    let several = parts.len() > 1;
    let order: Vec<usize> = components.into_iter().flatten().collect();
    let numbers = number(&parts, &order);
    let mut blocks = Vec::new();
    if several {
        blocks.push(Block::default());
    }
    let mut parts: Vec<Option<Part>> = parts.into_iter().map(Some).collect();
    for index in order {
        let Some(mut part) = parts[index].take() else {
            continue;
        };
        let place: Sizes = std::array::from_fn(|class| begins[class] + bases[index][class]);
        allocate::rebase(&mut part.blocks, place);
        let first = block_id(blocks.len());
        let sites = u32::try_from(calls.sites.len()).unwrap_or(u32::MAX);
        if index != 0 {
            let name = context.module.functions[part.function].name;
            calls.routines.push(Routine {
                name: context.module.word(name).to_owned(),
                address: function_address(part.function),
                block: first,
                frame_bytes: part.local_bytes,
                frame_align: part.local_align,
            });
        } else if several {
            blocks[0].instrs.push(jump(first));
        }
        calls.sites.extend(finished(&mut part, &numbers, place));
        part.blocks
            .iter_mut()
            .for_each(|block| shift(block, first, sites));
        blocks.append(&mut part.blocks);
    }
    let [fours, pairs, words, preds] = sizes;
    Ok(Program {
        blocks,
        slots: fours + pairs + words,
        preds,
        calls,
    })
}

fn block_id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn jump(to: u32) -> Instr {
    Instr {
        op: Op::Bra(to),
        guard: None,
        dst: smallvec![],
        src: smallvec![],
        line: 0,
    }
}

/// The number of each function among the routines, which stand in that order; the entry, part 0,
/// is none of them.
fn number(parts: &[Part], order: &[usize]) -> HashMap<usize, u32> {
    let routines = order.iter().filter(|&&index| index != 0);
    routines
        .map(|&index| parts[index].function)
        .zip(0..)
        .collect()
}

/// Lowers what the entry calls, and what that calls. The entry is the first part.
fn parts(
    context: &Context<'_>,
    shared: &Shared,
    (entry, main): (usize, Unit),
) -> Result<Vec<Part>, PtxError> {
    let mut parts = vec![part(context, entry, main)];
    let mut known: HashMap<usize, usize> = HashMap::new();
    let mut next = 0;
    while next < parts.len() {
        let sites = &parts[next].sites;
        let targets: Vec<usize> = sites
            .iter()
            .flat_map(|site| targets(context, site))
            .collect();
        for function in targets {
            if known.contains_key(&function) {
                continue;
            }
            known.insert(function, parts.len());
            let mut builder = Builder::new(context, shared);
            builder.module_scope();
            builder.routine(function)?;
            parts.push(part(context, function, builder.finish()?));
        }
        next += 1;
    }
    Ok(parts)
}

/// The functions that a call may reach.
fn targets(context: &Context<'_>, site: &Site) -> Vec<usize> {
    let defined = |&function: &usize| context.module.functions[function].body.is_some();
    match &site.target {
        Target::Function(function) => vec![*function],
        Target::Indirect(Some(targets)) => targets.iter().copied().filter(defined).collect(),
        Target::Indirect(None) => {
            let taken = context.graph.taken.iter().copied();
            taken.filter(defined).collect()
        }
    }
}

fn part(context: &Context<'_>, function: usize, unit: Unit) -> Part {
    let Unit {
        raw,
        mut registers,
        sites,
        local_bytes,
        local_align,
    } = unit;
    let mut blocks = order::order(raw);
    if !crate::coverage::enabled() {
        simplify::simplify(&mut blocks, &mut registers);
    }
    let recursive = |site: &Site| {
        let targets = targets(context, site);
        targets
            .into_iter()
            .any(|callee| context.graph.recursive(function, callee))
    };
    let kept: Vec<bool> = sites.iter().map(recursive).collect();
    let allocation = allocate::allocate(&mut blocks, &registers, &kept);
    let mut instrs = blocks.iter().flat_map(|block| &block.instrs);
    let alloca = instrs.any(|instr| matches!(instr.op, Op::Alloca(_) | Op::StackRestore));
    Part {
        function,
        blocks,
        allocation,
        sites,
        local_bytes,
        local_align,
        alloca,
    }
}

/// Which parts each part calls.
fn edges(context: &Context<'_>, parts: &[Part]) -> Vec<Vec<usize>> {
    let index: HashMap<usize, usize> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| (part.function, index))
        .collect();
    parts
        .iter()
        .map(|part| {
            let targets = part.sites.iter().flat_map(|site| targets(context, site));
            let mut called: Vec<usize> = targets
                .filter_map(|function| index.get(&function).copied())
                .collect();
            called.sort_unstable();
            called.dedup();
            called
        })
        .collect()
}

/// Where the registers of each part begin in the file of each class, and the sizes of the files.
/// A part stands behind all that may be active when it is called.
fn bases(parts: &[Part], edges: &[Vec<usize>], components: &[Vec<usize>]) -> (Vec<Sizes>, Sizes) {
    let mut bases: Vec<Sizes> = vec![[0; 4]; parts.len()];
    let mut total: Sizes = [0; 4];
    // Callers come last in the list.
    for component in components.iter().rev() {
        let mut base: Sizes = [0; 4];
        for &index in component {
            base = most(base, bases[index]);
        }
        for &index in component {
            bases[index] = base;
            let sizes = parts[index].allocation.sizes;
            base = std::array::from_fn(|class| base[class] + sizes[class]);
        }
        total = most(total, base);
        for &target in component.iter().flat_map(|&index| &edges[index]) {
            if !component.contains(&target) {
                bases[target] = most(bases[target], base);
            }
        }
    }
    (bases, total)
}

fn most(a: Sizes, b: Sizes) -> Sizes {
    std::array::from_fn(|class| a[class].max(b[class]))
}

/// The stack that the entry's calls can take.
fn stack(parts: &[Part], edges: &[Vec<usize>], components: &[Vec<usize>]) -> Stack {
    // Callees come first in the list. `None`: it depends on the run.
    let mut below: Vec<Option<u32>> = vec![None; parts.len()];
    for component in components {
        let [index] = component[..] else { continue };
        if parts[index].alloca || edges[index].contains(&index) {
            continue;
        }
        let deepest = edges[index].iter().try_fold(0u32, |most, &target| {
            let part = &parts[target];
            let frame = part.local_bytes.saturating_add(part.local_align);
            let bytes = below[target]?.saturating_add(frame);
            Some(most.max(bytes.saturating_add(CALL_BYTES)))
        });
        below[index] = deepest;
    }
    let bytes = below.first().copied().flatten();
    bytes.map_or(Stack::Unknown, Stack::Bytes)
}

/// The sites of a part as the executor sees them.
fn finished(part: &mut Part, numbers: &HashMap<usize, u32>, place: Sizes) -> Vec<CallSite> {
    let sites = std::mem::take(&mut part.sites);
    let mut sites: Vec<CallSite> = sites
        .into_iter()
        .map(|site| CallSite {
            callee: match site.target {
                Target::Function(function) => {
                    Callee::Routine(numbers.get(&function).copied().unwrap_or(u32::MAX))
                }
                Target::Indirect(_) => Callee::Indirect,
            },
            arguments: site.arguments,
            results: site.results,
            saved: Vec::new(),
        })
        .collect();
    for (site, registers) in &part.allocation.across {
        if let Some(site) = sites.get_mut(*site as usize) {
            let registers = registers.iter().map(|&reg| allocate::moved(reg, place));
            site.saved = registers.collect();
        }
    }
    sites
}

/// Renumbers the blocks and sites that the instructions of a part name.
fn shift(block: &mut Block, blocks: u32, sites: u32) {
    for instr in &mut block.instrs {
        match &mut instr.op {
            Op::Bra(target) => *target += blocks,
            Op::BrxIdx(targets) => targets.iter_mut().for_each(|target| *target += blocks),
            Op::Call(site) => *site += sites,
            _ => {}
        }
    }
}
