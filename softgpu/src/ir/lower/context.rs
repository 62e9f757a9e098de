//! What is computed once per module: special registers, register ranges, decoded opcodes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::ir::decode::{self, Candidates};
use crate::ir::{Special, function_address};
use crate::ptx::Module;
use crate::ptx::lexer::Sym;

use super::graph::Graph;
use super::special::{special, special_vector};

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
        for (_, alias, target) in &module.aliases {
            if let Some(&function) = functions.get(target) {
                functions.insert(*alias, function);
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

    /// The components of a special register that is a vector.
    pub(super) fn special_vector(&self, sym: Sym) -> Option<[Special; 4]> {
        special_vector(self.module.word(sym))
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
