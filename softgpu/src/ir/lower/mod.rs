//! From parsed statements to [`Function`]s.
//!
//! The stages, each in its own file: statements become instructions over virtual registers in raw
//! blocks ([`body`], [`operand`], names and layouts beside them); blocks are put in execution order
//! ([`order`]); constants are propagated and dead instructions dropped ([`simplify`]); liveness
//! ([`live`]) drives coalescing of copies and the allocation of slots ([`allocate`]). Calls are
//! expanded in place or made for real ([`graph`], [`call`]); [`program`] puts an entry and the
//! functions that it calls together.
//!
//! Normal forms that the executor may rely on:
//! * an address operand is a `B32` register or an immediate for shared spaces, a `B64` register or
//!   an immediate for all others, whatever width the text used;
//! * every register operand has the class of the operation's type; wider registers, which PTX
//!   allows for `cvt`, `ld` and `st`, are converted by instructions of their own;
//! * a destination never shares a slot with a source of the same instruction, unless both are the
//!   same register or the instruction is a `mov`.

mod allocate;
mod body;
mod call;
mod context;
mod estimate;
mod graph;
mod lane;
mod layout;
mod live;
mod names;
mod operand;
mod order;
mod program;
mod raw;
mod simplify;
mod special;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::PtxError;
use crate::ir::{Class, Function, Special, Ty};
use crate::ptx::Module;

use body::Builder;
use context::Context;

/// A virtual register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VReg {
    class: Class,
    /// Declared size in bytes (4 for predicates): 1 and 2 live in `B32` too.
    bytes: u32,
}

impl VReg {
    fn of(ty: Ty) -> Self {
        let class = match ty.bytes() {
            _ if ty == Ty::Pred => Class::Pred,
            8 => Class::B64,
            16 => Class::B128,
            _ => Class::B32,
        };
        Self {
            class,
            bytes: ty.bytes(),
        }
    }
}

/// Lowers every entry of a module. `addresses` gives the device address of a `.global` or `.const`
/// variable by name.
///
/// # Errors
/// [`PtxError::Unsupported`] for an instruction, operand or call that softgpu does not implement,
/// [`PtxError::Syntax`] for text that breaks PTX's rules; both with line and column.
pub fn lower(
    module: &Module,
    addresses: &dyn Fn(&str) -> Option<u64>,
) -> Result<Vec<Function>, PtxError> {
    let context = Context::new(module, addresses);
    module
        .functions
        .iter()
        .enumerate()
        .filter(|(_, function)| function.entry && function.body.is_some())
        .map(|(index, _)| entry(&context, index))
        .collect()
}

fn entry(context: &Context<'_>, index: usize) -> Result<Function, PtxError> {
    let source = &context.module.functions[index];
    let params = layout::params(&source.signature.params)?;
    let shared = layout::shared(context, index)?;
    let mut builder = Builder::new(context, &shared);
    builder.module_scope();
    builder.entry(index, &params)?;
    let main = builder.finish()?;
    let local_bytes = main.local_bytes;
    let program = program::assemble(context, &shared, (index, main))?;
    let registers = estimate::registers(source, &params, program.slots, &program.blocks);
    Ok(Function {
        name: context.module.word(source.name).to_owned(),
        params,
        blocks: program.blocks,
        slots: program.slots,
        preds: program.preds,
        local_bytes,
        static_shared: shared.static_bytes,
        dynamic_align: shared.dynamic_align,
        max_threads: source.max_threads,
        req_threads: source.req_threads,
        req_cluster: source.req_cluster,
        registers,
        sources: Arc::clone(context.module.sources()),
        calls: program.calls,
    })
}

/// Whether reading a special register twice may give two values.
const fn is_volatile(special: Special) -> bool {
    matches!(
        special,
        Special::Clock
            | Special::Clock64
            | Special::ClockHi
            | Special::Pm(_)
            | Special::Pm64(_)
            | Special::Globaltimer
            | Special::GlobaltimerLo
            | Special::GlobaltimerHi
            | Special::Smid
            | Special::Warpid
    )
}
