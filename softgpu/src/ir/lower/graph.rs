//! Who calls whom in a module, and which calls are expanded in place.
//!
//! Small functions, and functions with one call in the whole module, are expanded: the optimiser
//! then sees through them. Recursive functions never are, nor those that allocate on the stack, because
//! what they take is free when they return. The rest are routines, so the size of what is lowered stays
//! proportional to the text.

use std::collections::{HashMap, HashSet};

use crate::ptx::Module;
use crate::ptx::ast::{Base, Init, Instruction, Operand, Statement, Variable};
use crate::ptx::lexer::Sym;

/// Instructions up to which a function is expanded wherever it is called.
const SMALL: usize = 160;
/// Instructions up to which a function is expanded if it is called once.
const ONCE: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Graph {
    /// Whether calls of the function are expanded in place.
    pub(super) expanded: Vec<bool>,
    /// Functions whose address something takes, in order of definition: targets of indirect calls.
    pub(super) taken: Vec<usize>,
    /// Whether the function calls through a register.
    pub(super) indirect: Vec<bool>,
    /// The functions that call each other have the same number.
    component: Vec<usize>,
}

/// What one function's body refers to.
#[derive(Default)]
struct Uses {
    size: usize,
    /// Direct callees, once per call.
    calls: Vec<usize>,
    indirect: bool,
    alloca: bool,
}

impl Graph {
    pub(super) fn new(module: &Module, functions: &HashMap<Sym, usize>) -> Self {
        let mut taken = HashSet::new();
        initialisers(&module.variables, functions, &mut taken);
        let uses: Vec<Uses> = module
            .functions
            .iter()
            .map(|function| uses(module, function.body.as_deref(), functions, &mut taken))
            .collect();
        let mut taken: Vec<usize> = taken.into_iter().collect();
        taken.sort_unstable();
        let edges: Vec<Vec<usize>> = uses
            .iter()
            .map(|uses| {
                let through = if uses.indirect { &taken[..] } else { &[] };
                uses.calls.iter().chain(through).copied().collect()
            })
            .collect();
        let mut sites = vec![0u32; uses.len()];
        uses.iter()
            .flat_map(|uses| &uses.calls)
            .for_each(|&callee| sites[callee] += 1);
        let mut expanded = vec![false; uses.len()];
        let mut sizes = vec![0usize; uses.len()];
        let mut component_of = vec![0; uses.len()];
        for (number, component) in components(&edges).into_iter().enumerate() {
            for &function in &component {
                component_of[function] = number;
                let inner = uses[function].calls.iter().filter(|&&c| expanded[c]);
                let inner = inner.map(|&callee| sizes[callee]);
                sizes[function] = inner.fold(uses[function].size, usize::saturating_add);
            }
            if let [function] = component[..]
                && !edges[function].contains(&function)
                && !uses[function].alloca
            {
                let size = sizes[function];
                expanded[function] = size <= SMALL || sites[function] == 1 && size <= ONCE;
            }
        }
        Self {
            expanded,
            taken,
            indirect: uses.iter().map(|uses| uses.indirect).collect(),
            component: component_of,
        }
    }

    /// Whether `callee` may be active again below a call from `caller`.
    pub(super) fn recursive(&self, caller: usize, callee: usize) -> bool {
        self.component[caller] == self.component[callee]
    }
}

fn initialisers<'v>(
    variables: impl IntoIterator<Item = &'v Variable>,
    functions: &HashMap<Sym, usize>,
    taken: &mut HashSet<usize>,
) {
    for element in variables.into_iter().flat_map(|variable| &variable.init) {
        if let Init::Symbol(symbol, _) | Init::Byte(symbol, ..) = element {
            taken.extend(functions.get(symbol));
        }
    }
}

fn uses(
    module: &Module,
    body: Option<&[Statement]>,
    functions: &HashMap<Sym, usize>,
    taken: &mut HashSet<usize>,
) -> Uses {
    let mut uses = Uses::default();
    for statement in body.into_iter().flatten() {
        match statement {
            Statement::Variable(variable) => initialisers([variable], functions, taken),
            Statement::CallTargets(names) => {
                taken.extend(names.iter().filter_map(|name| functions.get(name)));
            }
            Statement::Instruction(instruction) => {
                uses.size += 1;
                let mut callee = None;
                let opcode = module.word(instruction.opcode);
                uses.alloca |= opcode.starts_with("alloca.");
                if is_call(opcode) {
                    callee = callee_of(instruction);
                    match callee.and_then(|name| functions.get(&name)) {
                        Some(&function) => uses.calls.push(function),
                        None => uses.indirect = true,
                    }
                }
                let mut names = HashSet::new();
                for operand in &instruction.operands {
                    names_of(operand, &mut names);
                }
                let others = names.iter().filter(|&&name| Some(name) != callee);
                taken.extend(others.filter_map(|name| functions.get(name)));
            }
            _ => {}
        }
    }
    uses
}

pub(super) fn is_call(opcode: &str) -> bool {
    matches!(opcode, "call" | "call.uni")
}

/// The name that a call calls: of a function or of a register.
pub(super) fn callee_of(call: &Instruction) -> Option<Sym> {
    match call.operands.as_slice() {
        [Operand::Name(name), ..] | [Operand::List(_), Operand::Name(name), ..] => Some(*name),
        _ => None,
    }
}

/// Adds the names that an operand mentions.
pub(super) fn names_of(operand: &Operand, out: &mut HashSet<Sym>) {
    match operand {
        Operand::Name(sym)
        | Operand::Offset(sym, _)
        | Operand::Not(sym)
        | Operand::Part { name: sym, .. } => {
            out.insert(*sym);
        }
        Operand::Address(base, _) => base_name(*base, out),
        Operand::Tensor(base, _, items) => {
            base_name(*base, out);
            items.iter().for_each(|item| names_of(item, out));
        }
        Operand::Vector(items) | Operand::List(items) => {
            items.iter().for_each(|item| names_of(item, out));
        }
        Operand::Pair(pair) => {
            names_of(&pair.0, out);
            names_of(&pair.1, out);
        }
        Operand::Number(_) => {}
    }
}

fn base_name(base: Base, out: &mut HashSet<Sym>) {
    if let Base::Name(sym) = base {
        out.insert(sym);
    }
}

/// Strongly connected components, callees before callers (Tarjan).
pub(super) fn components(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let count = edges.len();
    let mut number = vec![usize::MAX; count];
    let mut lowest = vec![0; count];
    let mut done = vec![false; count];
    let mut path = Vec::new();
    let mut out = Vec::new();
    let mut next_number = 0;
    for root in 0..count {
        let mut calls = Vec::new();
        if number[root] == usize::MAX {
            calls.push((root, 0));
        }
        while let Some((node, next)) = calls.last_mut() {
            let node = *node;
            if *next == 0 {
                number[node] = next_number;
                lowest[node] = next_number;
                next_number += 1;
                path.push(node);
            }
            let edge = edges[node].get(*next).copied();
            *next += 1;
            match edge {
                Some(target) if number[target] == usize::MAX => calls.push((target, 0)),
                Some(target) if !done[target] => lowest[node] = lowest[node].min(number[target]),
                Some(_) => {}
                None => {
                    calls.pop();
                    if let Some((parent, _)) = calls.last() {
                        lowest[*parent] = lowest[*parent].min(lowest[node]);
                    }
                    if lowest[node] == number[node] {
                        let start = path.iter().rposition(|&n| n == node).unwrap_or(0);
                        let mut component = path.split_off(start);
                        component.iter().for_each(|&n| done[n] = true);
                        component.sort_unstable();
                        out.push(component);
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::components;

    #[test]
    fn components_come_callees_first() {
        // 0 → 1 → 2 → 1, 2 → 3, 4 → 4, 0 → 4.
        let edges = [vec![1, 4], vec![2], vec![1, 3], vec![], vec![4]];
        assert_eq!(components(&edges), [vec![3], vec![1, 2], vec![4], vec![0]]);
    }
}
