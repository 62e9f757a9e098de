//! Blocks under construction: instructions over virtual registers and an explicit terminator.
//! `Reg::slot` and `Guard::slot` hold the number of a virtual register until allocation.

use crate::ir::{BlockId, Guard, Instr};

/// How a raw block ends.
#[derive(Debug, Clone)]
pub(super) enum Term {
    Jump(BlockId),
    /// Lanes whose guard holds go to `taken`, the others to `next`.
    Branch {
        guard: Guard,
        taken: BlockId,
        next: BlockId,
        line: u32,
    },
    /// `brx.idx`, with its targets inside.
    Switch(Instr),
    /// `exit`, `ret` or `trap`, unguarded.
    End(Instr),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Raw {
    pub(super) instrs: Vec<Instr>,
    /// `None` only while the block is open.
    pub(super) term: Option<Term>,
}
