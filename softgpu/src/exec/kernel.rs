//! A decoded kernel: one flat array of instructions with all branch targets resolved.

use std::sync::Arc;

use smallvec::SmallVec;

use super::counters::{self, COLUMNS, Tally};
use super::inst::{Code, ConstBank, Inst, Notice};
use super::lanes;
use super::regs::Lanes;
use crate::error::PtxError;
use crate::ir::{Class, Function, Instr, Op, Operand, Param, Reg, Space, Special, Stack};

/// Bytes of shared memory that belong to the system.
pub(super) const RESERVED_SHARED: u32 = 1024;

/// Most local memory of a thread, as on a device.
const LOCAL_LIMIT: u32 = 512 << 10;

/// What the interpreter's loop does with an instruction that is not a register or memory handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flow {
    /// Jump to a program counter.
    Branch(u32),
    /// Jump through a table.
    Table(Box<[u32]>),
    /// The lanes end.
    Exit,
    /// Enter a routine, by number of the call site.
    Call(u32),
    /// Go back to the caller.
    Return,
    /// Nothing happens.
    Nop,
    /// An opcode is noted as executed.
    Cover(u32),
    /// The machine executes the instruction.
    Machine,
}

/// An instruction of the machine.
#[derive(Debug, Clone)]
pub(super) struct Sys {
    pub(super) flow: Flow,
    pub(super) instr: Instr,
}

/// What a memory instruction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessKind {
    Load,
    Store,
    /// `red`, or an `atom` whose results nobody wants.
    Red,
    Atom,
}

/// What a memory instruction moves, for counters and for finding spin loops.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccessInfo {
    /// Bytes per lane; 0 for instructions that are not memory handlers.
    pub(super) bytes: u32,
    pub(super) space: Space,
    pub(super) kind: AccessKind,
    /// Bytes of one element in memory.
    pub(super) element: u32,
    /// Registers that hold the elements of a store.
    pub(super) class: Class,
    /// Index into [`Kernel::polls`] plus 1; 0 if this is not a poll.
    pub(super) poll: u32,
    /// It is a weak load, and counts as a poll only now and then.
    pub(super) weak: bool,
    /// Index into [`Kernel::stores`] plus 1 of a store that may become visible late.
    pub(super) store: u32,
    /// It orders the stores before it, or is a store that must not be late.
    pub(super) orders: bool,
}

/// A kernel ready to launch.
#[derive(Debug)]
pub struct Kernel {
    function: Function,
    pub(super) code: Vec<Inst>,
    pub(super) sys: Vec<Sys>,
    pub(super) access: Vec<AccessInfo>,
    pub(super) polls: Vec<SmallVec<[Reg; 2]>>,
    /// Values of stores that may become visible late.
    pub(super) stores: Vec<SmallVec<[Operand; 4]>>,
    /// `prefix[pc]` counts the instructions before `pc`.
    pub(super) prefix: Vec<Tally>,
    pub(super) consts: Arc<[Lanes]>,
    pub(super) slots: u32,
    pub(super) preds: u32,
    /// Where the routines begin.
    pub(super) routines: Vec<u32>,
    /// Where the calls return to, by site.
    pub(super) returns: Vec<u32>,
    /// It reads where the system's shared memory is.
    uses_reserved: bool,
    /// It has instructions that may touch registers of a wgmma in flight.
    pub(super) watched: bool,
}

impl Kernel {
    /// Decodes a lowered function.
    ///
    /// # Errors
    /// An instruction that no part of the executor implements, or a branch to a block that does
    /// not exist.
    pub fn new(mut function: Function) -> Result<Self, PtxError> {
        let watched = super::touch::watch(&mut function);
        let mut decoder = Decoder::new(&function);
        for block in &function.blocks {
            for instr in &block.instrs {
                decoder.instruction(instr)?;
            }
        }
        let end = function.blocks.last().and_then(|block| block.instrs.last());
        let line = end.map_or(0, |instr| instr.line);
        // Running off the end is an exit, and the loop may rely on the last instruction being one.
        decoder.instruction(&Instr {
            op: Op::Exit,
            guard: None,
            dst: SmallVec::new(),
            src: SmallVec::new(),
            line,
        })?;
        let (slots, preds) = (decoder.bank.slots(), decoder.bank.preds());
        let uses_reserved = decoder.sys.iter().any(|sys| asks_for_reserved(&sys.instr));
        let blocks = function.calls.routines.iter().map(|r| r.block as usize);
        let routines = blocks.map(|block| decoder.starts.get(block).copied().unwrap_or(0));
        Ok(Self {
            code: decoder.code,
            sys: decoder.sys,
            access: decoder.access,
            polls: decoder.polls,
            stores: decoder.stores,
            prefix: decoder.prefix,
            consts: decoder.bank.finish(),
            uses_reserved,
            watched,
            routines: routines.collect(),
            returns: decoder.returns,
            slots: slots.max(function.slots),
            preds: preds.max(function.preds),
            function: Function {
                blocks: Vec::new(),
                ..function
            },
        })
    }

    /// Entry name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.function.name
    }

    /// The lowered function's attributes; its blocks have been consumed.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Parameters in order.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.function.params
    }

    /// Bytes of the parameter buffer.
    #[must_use]
    pub fn param_bytes(&self) -> u32 {
        let ends = self.params().iter().map(|p| p.offset + p.size);
        ends.max().unwrap_or(0)
    }

    /// Shared memory per CTA for a launch with `dynamic` bytes of dynamic shared memory: where the
    /// dynamic part begins, and the end.
    #[must_use]
    pub fn shared_layout(&self, dynamic: u32) -> (u32, u32) {
        let align = self.function.dynamic_align.max(16);
        let start = self.function.static_shared.next_multiple_of(align);
        if dynamic == 0 {
            return (start, self.function.static_shared);
        }
        (start, start + dynamic)
    }

    /// Where the part of shared memory begins that belongs to the system, and the end of all shared
    /// memory. A device keeps that part below the program's; only code that asks for it gets one
    /// here.
    #[must_use]
    pub fn reserved_shared(&self, dynamic: u32) -> (u32, u32) {
        let (_, end) = self.shared_layout(dynamic);
        if !self.uses_reserved {
            return (end, end);
        }
        let begin = end.next_multiple_of(128);
        (begin, begin + RESERVED_SHARED)
    }

    /// Bytes of local memory per thread: its variables and its stack, which is `unknown` bytes
    /// where the text does not bound it.
    #[must_use]
    pub fn local_bytes(&self, unknown: u32) -> u32 {
        let stack = match self.function.calls.stack {
            Stack::Bytes(bytes) => bytes,
            Stack::Unknown => unknown,
        };
        let bytes = self.function.local_bytes.saturating_add(stack);
        bytes.min(LOCAL_LIMIT).next_multiple_of(16)
    }

    /// Warp instructions in the program.
    #[must_use]
    pub fn instructions(&self) -> usize {
        self.code.len()
    }
}

struct Decoder {
    /// First program counter of every block.
    starts: Vec<u32>,
    bank: ConstBank,
    code: Vec<Inst>,
    sys: Vec<Sys>,
    access: Vec<AccessInfo>,
    polls: Vec<SmallVec<[Reg; 2]>>,
    stores: Vec<SmallVec<[Operand; 4]>>,
    prefix: Vec<Tally>,
    returns: Vec<u32>,
}

impl Decoder {
    fn new(function: &Function) -> Self {
        let mut next = 0;
        let starts = function
            .blocks
            .iter()
            .map(|block| {
                let start = next;
                next += index(block.instrs.len());
                start
            })
            .collect();
        Self {
            starts,
            bank: ConstBank::new(),
            code: Vec::new(),
            sys: Vec::new(),
            access: Vec::new(),
            polls: Vec::new(),
            stores: Vec::new(),
            prefix: vec![[0; COLUMNS]],
            returns: vec![0; function.calls.sites.len()],
        }
    }

    fn instruction(&mut self, instr: &Instr) -> Result<(), PtxError> {
        for operand in &instr.src {
            if let Operand::Reg(reg) | Operand::NotPred(reg) = operand {
                self.bank.register(*reg);
            }
        }
        for reg in &instr.dst {
            self.bank.register(*reg);
        }
        self.bank.guard(instr.guard);
        let inst = match lanes::encode(instr, &mut self.bank) {
            Some(inst) => inst,
            None => self.machine(instr)?,
        };
        self.code.push(inst);
        self.note_access(instr);
        self.look_at_access(instr);
        let mut sum = self.prefix.last().copied().unwrap_or([0; COLUMNS]);
        for (total, more) in sum.iter_mut().zip(counters::columns(instr)) {
            *total += more;
        }
        self.prefix.push(sum);
        Ok(())
    }

    fn note_access(&mut self, instr: &Instr) {
        let (bytes, space) = match &instr.op {
            Op::Ld(access) | Op::St(access) | Op::Atom(_, access) => {
                (access.ty.bytes() * u32::from(access.vec), access.space)
            }
            _ => (0, Space::Generic),
        };
        let mut poll = 0;
        let weak = counters::is_weak_poll(instr);
        if bytes != 0 && (weak || counters::is_poll(instr)) {
            self.polls.push(instr.dst.iter().copied().collect());
            poll = index(self.polls.len());
        }
        let mut store = 0;
        if bytes != 0
            && let Some(values) = counters::may_be_late(instr)
        {
            self.stores.push(values.iter().copied().collect());
            store = index(self.stores.len());
        }
        let element = match &instr.op {
            Op::Ld(access) | Op::St(access) | Op::Atom(_, access) => access.ty.bytes(),
            _ => 0,
        };
        self.access.push(AccessInfo {
            bytes,
            space,
            kind: match &instr.op {
                Op::St(_) => AccessKind::Store,
                Op::Atom(..) if instr.dst.is_empty() => AccessKind::Red,
                Op::Atom(..) => AccessKind::Atom,
                _ => AccessKind::Load,
            },
            element,
            class: match (instr.src.get(1), element) {
                (Some(Operand::Reg(reg)), _) => reg.class,
                (_, 16) => Class::B128,
                (_, 8) => Class::B64,
                _ => Class::B32,
            },
            poll,
            weak,
            store,
            orders: counters::orders_stores(instr),
        });
    }

    /// Tells the last instruction when the machine must look at its access.
    fn look_at_access(&mut self, instr: &Instr) {
        let (Some(inst), Some(info)) = (self.code.last_mut(), self.access.last()) else {
            return;
        };
        if let Code::Mem(_, notice) = &mut inst.code {
            *notice = match (instr.guard, info.poll) {
                (Some(_), _) => Notice::Always,
                (None, 0) => Notice::Never,
                (None, _) if info.weak => Notice::Armed,
                (None, _) => Notice::Always,
            };
        }
    }

    fn machine(&mut self, instr: &Instr) -> Result<Inst, PtxError> {
        let flow = match &instr.op {
            Op::Bra(block) => Flow::Branch(self.target(*block, instr)?),
            Op::BrxIdx(blocks) => {
                let targets = blocks.iter().map(|&block| self.target(block, instr));
                Flow::Table(targets.collect::<Result<_, _>>()?)
            }
            Op::Exit => Flow::Exit,
            Op::Call(site) => {
                if let Some(back) = self.returns.get_mut(*site as usize) {
                    *back = index(self.code.len() + 1);
                }
                Flow::Call(*site)
            }
            Op::Ret => Flow::Return,
            Op::Prefetch | Op::Setmaxnreg { .. } | Op::WgmmaFence => Flow::Nop,
            Op::Cover(number) => Flow::Cover(*number),
            op if is_machine(op) => Flow::Machine,
            op => {
                return Err(PtxError::Unsupported {
                    line: instr.line,
                    column: 1,
                    what: format!("{op:?}"),
                });
            }
        };
        let code = Code::Sys(index(self.sys.len()));
        self.sys.push(Sys {
            flow,
            instr: instr.clone(),
        });
        Ok(Inst::new(code, instr.guard, instr.line))
    }

    fn target(&self, block: u32, instr: &Instr) -> Result<u32, PtxError> {
        let start = self.starts.get(block as usize).copied();
        start.ok_or_else(|| PtxError::Unsupported {
            line: instr.line,
            column: 1,
            what: format!("branch to block {block} of {}", self.starts.len()),
        })
    }
}

fn asks_for_reserved(instr: &Instr) -> bool {
    matches!(instr.op, Op::Special(Special::ReservedSmem(_)))
}

/// Whether the machine executes an operation (as opposed to the lane handlers).
fn is_machine(op: &Op) -> bool {
    matches!(
        op,
        Op::Special(_)
            | Op::CpAsync { .. }
            | Op::CpAsyncCommit
            | Op::CpAsyncWait(_)
            | Op::Cvta { .. }
            | Op::Isspacep(_)
            | Op::Mapa { .. }
            | Op::Getctarank { .. }
            | Op::Trap
            | Op::Brkpt
            | Op::Frame
            | Op::Builtin(_)
            | Op::Alloca(_)
            | Op::StackSave
            | Op::StackRestore
            | Op::Bar { .. }
            | Op::BarRed(_)
            | Op::BarWarp
            | Op::BarClusterArrive { .. }
            | Op::BarClusterWait
            | Op::Fence(_)
            | Op::Mbarrier(..)
            | Op::Bulk(_)
            | Op::Multimem(..)
            | Op::Createpolicy(_)
            | Op::TensormapReplace { .. }
            | Op::TensormapCopy
            | Op::Wgmma(_)
            | Op::WgmmaCommit
            | Op::WgmmaWait(_)
            | Op::WgmmaTouch { .. }
            | Op::Elect { .. }
            | Op::Activemask
            | Op::Vote(_)
            | Op::Match { .. }
            | Op::Redux(..)
            | Op::Shfl(_)
            | Op::Nanosleep
            | Op::Griddep { .. }
            | Op::Ldmatrix { .. }
            | Op::Stmatrix { .. }
            | Op::Movmatrix
            | Op::Mma(_)
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_)
    )
}

/// Program positions are 32 bits: texts are far smaller.
fn index(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
