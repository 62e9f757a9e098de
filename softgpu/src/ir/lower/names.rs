//! Names in scope. Scopes nest and may redefine names (inline assembly does so thousands of times),
//! so a table indexed by word holds the innermost meaning, and a log restores the outer ones.

use crate::ir::Space;
use crate::ptx::lexer::Sym;

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// A virtual register.
    Reg(u32),
    /// A block.
    Label(u32),
    /// A list of branch targets, by number.
    Targets(usize),
    /// A `.callprototype`, by number.
    Prototype(usize),
    /// A `.calltargets`, by number.
    CallTargets(usize),
    /// A variable at a known address of its space.
    Variable { space: Space, address: u64 },
    /// A `.global` or `.const` variable, whose address the loader knows.
    Global(Space),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Which function body declared it: an inlined body does not see its caller's names.
    frame: u32,
    binding: Binding,
}

/// Frame of the module's own names, visible everywhere.
pub(super) const MODULE: u32 = 0;

#[derive(Debug)]
pub(super) struct Names {
    table: Vec<Option<Entry>>,
    log: Vec<(Sym, Option<Entry>)>,
    marks: Vec<usize>,
    pub(super) frame: u32,
}

impl Names {
    pub(super) fn new(words: usize) -> Self {
        Self {
            table: vec![None; words],
            log: Vec::new(),
            marks: Vec::new(),
            frame: MODULE,
        }
    }

    pub(super) fn open(&mut self) {
        self.marks.push(self.log.len());
    }

    pub(super) fn close(&mut self) {
        let mark = self.marks.pop().unwrap_or(0);
        for (sym, entry) in self.log.drain(mark..).rev() {
            if let Some(place) = self.table.get_mut(sym.0 as usize) {
                *place = entry;
            }
        }
    }

    pub(super) fn declare(&mut self, sym: Sym, binding: Binding) {
        let frame = self.frame;
        if let Some(place) = self.table.get_mut(sym.0 as usize) {
            let outer = place.replace(Entry { frame, binding });
            self.log.push((sym, outer));
        }
    }

    pub(super) fn get(&self, sym: Sym) -> Option<Binding> {
        let entry = self.table.get(sym.0 as usize).copied().flatten()?;
        (entry.frame == self.frame || entry.frame == MODULE).then_some(entry.binding)
    }
}
