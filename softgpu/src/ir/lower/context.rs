//! What is computed once per module: special registers, register ranges, decoded opcodes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::ir::decode::{self, Candidates};
use crate::ir::{Special, function_address};
use crate::ptx::Module;
use crate::ptx::lexer::Sym;

use super::graph::Graph;

/// Looks up the address of a global symbol.
pub(super) type Addresses<'a> = &'a dyn Fn(&str) -> Option<u64>;

pub(super) struct Context<'m> {
    pub(super) module: &'m Module,
    pub(super) addresses: Addresses<'m>,
    /// Functions that may be called, by name.
    pub(super) functions: HashMap<Sym, usize>,
    entries: HashMap<Sym, usize>,
    pub(super) graph: Graph,
    specials: Vec<Option<Special>>,
    /// For every word that is the head of others: those others with the number that follows, so
    /// `%r` leads to (0, `%r0`), (17, `%r17`), …
    ranges: HashMap<Sym, Vec<(u32, Sym)>>,
    opcodes: RefCell<HashMap<Sym, Rc<Candidates>>>,
}

impl<'m> Context<'m> {
    pub(super) fn new(module: &'m Module, addresses: Addresses<'m>) -> Self {
        let mut index: HashMap<&str, Sym> = HashMap::with_capacity(module.words.len());
        for (word, number) in module.words.iter().zip(0..) {
            index.insert(word, Sym(number));
        }
        let mut ranges: HashMap<Sym, Vec<(u32, Sym)>> = HashMap::new();
        for (word, number) in module.words.iter().zip(0..) {
            for (head, count) in heads(word) {
                if let Some(&head) = index.get(head) {
                    ranges.entry(head).or_default().push((count, Sym(number)));
                }
            }
        }
        let mut functions = HashMap::new();
        let mut entries = HashMap::new();
        for (position, function) in module.functions.iter().enumerate() {
            let map = if function.entry {
                &mut entries
            } else {
                &mut functions
            };
            if function.body.is_some() || !map.contains_key(&function.name) {
                map.insert(function.name, position);
            }
        }
        Self {
            module,
            addresses,
            graph: Graph::new(module, &functions),
            functions,
            entries,
            specials: module.words.iter().map(|word| special(word)).collect(),
            ranges,
            opcodes: RefCell::default(),
        }
    }

    /// What `mov` of a function's name gives.
    pub(super) fn function_address(&self, name: Sym) -> Option<u64> {
        let index = self.functions.get(&name).or(self.entries.get(&name));
        index.map(|&index| function_address(index))
    }

    pub(super) fn special(&self, sym: Sym) -> Option<Special> {
        self.specials.get(sym.0 as usize).copied().flatten()
    }

    /// The words of the text that `.reg head<count>` declares.
    pub(super) fn range(&self, head: Sym, count: u32) -> impl Iterator<Item = Sym> + '_ {
        self.ranges
            .get(&head)
            .into_iter()
            .flatten()
            .filter(move |(number, _)| *number < count)
            .map(|(_, sym)| *sym)
    }

    pub(super) fn candidates(&self, opcode: Sym) -> Rc<Candidates> {
        Rc::clone(
            self.opcodes
                .borrow_mut()
                .entry(opcode)
                .or_insert_with(|| Rc::new(decode::candidates(self.module.word(opcode)))),
        )
    }
}

/// All ways to read a word as a head and a number without leading zeros.
fn heads(word: &str) -> impl Iterator<Item = (&str, u32)> {
    let digits = word.bytes().rev().take_while(u8::is_ascii_digit).count();
    // Ten digits hold every u32.
    (1..=digits.min(10)).filter_map(move |length| {
        let (head, number) = word.split_at_checked(word.len() - length)?;
        let canonical = length == 1 || !number.starts_with('0');
        (canonical && !head.is_empty())
            .then(|| number.parse().ok().map(|n| (head, n)))
            .flatten()
    })
}

fn axis(name: &str) -> Option<u8> {
    match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    }
}

/// Special registers by name. Source: PTX ISA 9.0, "Special Registers".
fn special(word: &str) -> Option<Special> {
    let name = word.strip_prefix('%')?;
    if let Some((vector, component)) = name.split_once('.') {
        let axis = axis(component)?;
        return Some(match vector {
            "tid" => Special::Tid(axis),
            "ntid" => Special::Ntid(axis),
            "ctaid" => Special::Ctaid(axis),
            "nctaid" => Special::Nctaid(axis),
            "clusterid" => Special::Clusterid(axis),
            "nclusterid" => Special::Nclusterid(axis),
            "cluster_ctaid" => Special::ClusterCtaid(axis),
            "cluster_nctaid" => Special::ClusterNctaid(axis),
            _ => return None,
        });
    }
    if let Some(number) = name.strip_prefix("envreg") {
        return number.parse().ok().filter(|n| *n < 32).map(Special::Envreg);
    }
    Some(match name {
        "cluster_ctarank" => Special::ClusterCtarank,
        "cluster_nctarank" => Special::ClusterNctarank,
        "is_explicit_cluster" => Special::IsExplicitCluster,
        "laneid" => Special::Laneid,
        "warpid" => Special::Warpid,
        "nwarpid" => Special::Nwarpid,
        "smid" => Special::Smid,
        "nsmid" => Special::Nsmid,
        "gridid" => Special::Gridid,
        "lanemask_eq" => Special::LanemaskEq,
        "lanemask_le" => Special::LanemaskLe,
        "lanemask_lt" => Special::LanemaskLt,
        "lanemask_ge" => Special::LanemaskGe,
        "lanemask_gt" => Special::LanemaskGt,
        "clock" => Special::Clock,
        "clock64" => Special::Clock64,
        "globaltimer" => Special::Globaltimer,
        "globaltimer_lo" => Special::GlobaltimerLo,
        "globaltimer_hi" => Special::GlobaltimerHi,
        "dynamic_smem_size" => Special::DynamicSmemSize,
        "total_smem_size" => Special::TotalSmemSize,
        _ => return None,
    })
}

/// Bytes of a special register's value.
pub(super) fn special_bytes(special: Special) -> u32 {
    match special {
        Special::Clock64 | Special::Globaltimer | Special::Gridid => 8,
        _ => 4,
    }
}
