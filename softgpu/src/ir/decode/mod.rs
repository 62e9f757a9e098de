//! The instruction table: one row per instruction form.
//!
//! A row has four columns: the root of the opcode, its modifiers (see [`modifiers`]), its operands
//! (see [`pattern`]) and the [`Op`] it stands for. Decoding an instruction means finding the first
//! row whose columns fit; what fits no row is not supported, and never guessed.

pub(crate) mod modifiers;
pub(crate) mod pattern;
mod rows_arith;
mod rows_async;
mod rows_matrix;
mod rows_memory;
mod rows_misc;
mod rows_video;

use std::collections::HashMap;
use std::sync::LazyLock;

use smallvec::SmallVec;

use crate::ir::{Op, Special};
use modifiers::{Item, Mods};
use pattern::Pattern;

/// The parts of a register that an operand of a video instruction means.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lane {
    /// `-r`.
    pub(crate) negated: bool,
    /// `.h…` rather than `.b…`.
    pub(crate) halves: bool,
    /// Parts named; 0 for none.
    pub(crate) count: u8,
    /// The parts, last digit first.
    pub(crate) index: [u8; 4],
}

/// What the operands of an instruction fix statically.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fixed {
    /// Offsets of the address operands, in order.
    pub(crate) offsets: SmallVec<[i64; 3]>,
    /// Immediate operands that are part of the operation.
    pub(crate) imms: SmallVec<[i64; 4]>,
    /// Values read and registers written so far.
    pub(crate) sources: usize,
    pub(crate) destinations: usize,
    /// Blocks that label operands name.
    pub(crate) targets: Vec<u32>,
    pub(crate) special: Option<Special>,
    /// Parts that the operands of a video instruction name, in order.
    pub(crate) lanes: SmallVec<[Lane; 4]>,
    /// Discarded parts of an unpacking `mov`.
    pub(crate) sink: u8,
    /// Parts of a packing or unpacking `mov`.
    pub(crate) parts: usize,
    /// A of a wgmma comes from registers.
    pub(crate) a_regs: bool,
    /// The state space of the first address, where its symbol decides it.
    pub(crate) space: Option<crate::ir::Space>,
}

impl Fixed {
    pub(crate) fn offset(&self, index: usize) -> i64 {
        self.offsets.get(index).copied().unwrap_or(0)
    }

    pub(crate) fn imm(&self, index: usize) -> i64 {
        self.imms.get(index).copied().unwrap_or(0)
    }
}

/// Makes the operation; `None` where the combination does not exist or is not supported.
pub(crate) type Build = fn(&Mods, &Fixed) -> Option<Op>;

/// One row of the table, as written.
pub(crate) struct Row {
    pub(crate) root: &'static str,
    pub(crate) modifiers: &'static str,
    pub(crate) operands: &'static str,
    pub(crate) build: Build,
}

const fn row(
    root: &'static str,
    modifiers: &'static str,
    operands: &'static str,
    build: Build,
) -> Row {
    Row {
        root,
        modifiers,
        operands,
        build,
    }
}

/// A row with its columns parsed.
#[derive(Debug)]
pub(crate) struct Form {
    modifiers: Vec<Item>,
    pub(crate) operands: Pattern,
    pub(crate) build: Build,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Form>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Form>> = HashMap::new();
    for row in [
        rows_arith::ROWS,
        rows_memory::ROWS,
        rows_async::ROWS,
        rows_matrix::ROWS,
        rows_misc::ROWS,
        rows_video::ROWS,
    ]
    .into_iter()
    .flatten()
    {
        table.entry(row.root).or_default().push(Form {
            modifiers: modifiers::items(row.modifiers),
            operands: Pattern::parse(row.operands),
            build: row.build,
        });
    }
    table
});

/// The rows that an opcode may mean, with its modifiers as each row reads them.
pub(crate) type Candidates = Vec<(&'static Form, Mods)>;

/// Looks an opcode up by its root and modifiers.
pub(crate) fn candidates(opcode: &str) -> Candidates {
    let mut parts = opcode.split('.');
    let root = parts.next().unwrap_or("");
    let written: SmallVec<[&str; 12]> = parts.collect();
    let Some(forms) = TABLE.get(root) else {
        return Vec::new();
    };
    forms
        .iter()
        .filter_map(|form| Some((form, modifiers::matches(&form.modifiers, &written)?)))
        .collect()
}
