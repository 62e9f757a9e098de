//! Addresses of parameters and shared variables.
//!
//! Parameters follow each other in order, each at the next multiple of its alignment, as the
//! driver's parameter buffer has them. Static shared variables that a kernel (or a function that
//! it calls) names are laid out the same way from 0; all `.extern .shared` arrays begin at the
//! first multiple of their largest alignment, and of 16, behind them.

use std::collections::{HashMap, HashSet};

use crate::error::PtxError;
use crate::ir::{Param, Space};
use crate::ptx::Module;
use crate::ptx::ast::{Statement, Variable};
use crate::ptx::lexer::Sym;

use super::context::Context;
use super::graph::names_of;

/// Largest shared memory of a CTA that can be addressed: 24 bits of a shared address.
const SHARED_LIMIT: u64 = 1 << 24;

/// Where a shared variable is declared: module scope, or statement of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Module(usize),
    Statement(usize, usize),
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) addresses: HashMap<Place, u64>,
    pub(super) static_bytes: u32,
    pub(super) dynamic_align: u32,
}

/// Parameter offsets and their total size.
pub(super) fn params(variables: &[Variable]) -> Result<Vec<Param>, PtxError> {
    let mut at: u64 = 0;
    variables
        .iter()
        .map(|variable| {
            let offset = at.next_multiple_of(u64::from(variable.align.max(1)));
            at = offset + variable.size;
            if at > 32764 {
                return Err(variable
                    .pos
                    .syntax("parameters are larger than 32764 bytes"));
            }
            Ok(Param {
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
                size: u32::try_from(variable.size).unwrap_or(u32::MAX),
                align: variable.align,
            })
        })
        .collect()
}

/// The names that a function's statements use, and the functions that can be reached from it.
fn reach(context: &Context<'_>, function: usize) -> (HashSet<Sym>, Vec<usize>) {
    let mut used = HashSet::new();
    let mut order = vec![function];
    let mut seen: HashSet<usize> = HashSet::from([function]);
    let mut next = 0;
    while let Some(&current) = order.get(next) {
        next += 1;
        let body = context.module.functions[current].body.iter().flatten();
        let mut names = HashSet::new();
        for statement in body {
            if let Statement::Instruction(instruction) = statement {
                for operand in &instruction.operands {
                    names_of(operand, &mut names);
                }
            }
        }
        for name in &names {
            if let Some(&callee) = context.functions.get(name)
                && seen.insert(callee)
            {
                order.push(callee);
            }
        }
        if context.graph.indirect[current] {
            let taken = context.graph.taken.iter().copied();
            order.extend(taken.filter(|&function| seen.insert(function)));
        }
        used.extend(names);
    }
    (used, order)
}

fn shared_variables<'m>(
    module: &'m Module,
    reached: &[usize],
) -> impl Iterator<Item = (Place, &'m Variable)> {
    let global = module.variables.iter().enumerate();
    let global = global.map(|(index, variable)| (Place::Module(index), variable));
    let mut local = Vec::new();
    for &function in reached {
        let body = module.functions[function].body.iter().flatten();
        for (index, statement) in body.enumerate() {
            if let Statement::Variable(variable) = statement {
                local.push((Place::Statement(function, index), variable));
            }
        }
    }
    global
        .chain(local)
        .filter(|(_, variable)| variable.space == Space::Shared)
}

/// Lays out the shared memory of an entry.
pub(super) fn shared(context: &Context<'_>, function: usize) -> Result<Shared, PtxError> {
    let (used, mut reached) = reach(context, function);
    // The order of discovery depends on hashing; that of definition does not.
    reached.sort_unstable();
    let variables: Vec<_> = shared_variables(context.module, &reached)
        .filter(|(_, variable)| used.contains(&variable.name))
        .collect();
    let mut layout = Shared {
        dynamic_align: 16,
        ..Shared::default()
    };
    let mut at: u64 = 0;
    for (place, variable) in variables.iter().filter(|(_, v)| !v.unsized_array) {
        let address = at.next_multiple_of(u64::from(variable.align.max(1)));
        at = address.saturating_add(variable.size);
        if at > SHARED_LIMIT {
            return Err(variable.pos.syntax("shared variables exceed 2^24 bytes"));
        }
        layout.addresses.insert(*place, address);
    }
    layout.static_bytes = u32::try_from(at).unwrap_or(u32::MAX);
    let dynamic = || variables.iter().filter(|(_, v)| v.unsized_array);
    for (_, variable) in dynamic() {
        layout.dynamic_align = layout.dynamic_align.max(variable.align);
    }
    let address = at.next_multiple_of(u64::from(layout.dynamic_align));
    for (place, _) in dynamic() {
        layout.addresses.insert(*place, address);
    }
    Ok(layout)
}
