//! Statements: scopes, declarations, control flow, and calls, which are expanded in place.
//!
//! A called function's `.param` variables become variables of the caller's local frame, so that
//! `st.param`, `ld.param` and addresses of parameters work unchanged.

use smallvec::smallvec;

use crate::error::PtxError;
use crate::ir::{Guard, Instr, Op, Param, Space, Ty};
use crate::ptx::ast::{Instruction, Operand, RegDecl, Statement, Variable};
use crate::ptx::lexer::{Pos, Sym};

use super::VReg;
use super::context::Context;
use super::layout::{Place, Shared};
use super::names::{Binding, Names};
use super::raw::{Raw, Term};

/// Calls deeper than this are refused, as recursion is.
const CALL_DEPTH: usize = 64;
/// Instructions of one entry after expansion of its calls.
const INSTRUCTION_LIMIT: usize = 1 << 22;

/// A function body that is being expanded.
struct Frame {
    function: usize,
    /// Where `ret` goes; `None` in an entry.
    after: Option<u32>,
}

pub(super) struct Builder<'c, 'm> {
    pub(super) context: &'c Context<'m>,
    shared: &'c Shared,
    pub(super) names: Names,
    pub(super) registers: Vec<VReg>,
    pub(super) targets: Vec<Vec<Sym>>,
    blocks: Vec<Raw>,
    current: usize,
    emitted: usize,
    local: u64,
    frames: Vec<Frame>,
    frame_count: u32,
}

impl<'c, 'm> Builder<'c, 'm> {
    pub(super) fn new(context: &'c Context<'m>, shared: &'c Shared) -> Self {
        Self {
            context,
            shared,
            names: Names::new(context.module.words.len()),
            registers: Vec::new(),
            targets: Vec::new(),
            blocks: vec![Raw::default()],
            current: 0,
            emitted: 0,
            local: 0,
            frames: Vec::new(),
            frame_count: 0,
        }
    }

    pub(super) fn finish(self) -> (Vec<Raw>, Vec<VReg>) {
        (self.blocks, self.registers)
    }

    pub(super) fn local_bytes(&self) -> Result<u32, PtxError> {
        let bytes = self.local.next_multiple_of(16);
        u32::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= 512 << 10)
            .ok_or_else(|| {
                Pos { line: 1, column: 1 }
                    .syntax(format!("{bytes} bytes of local memory exceed 512 KiB"))
            })
    }

    /// Whether the statements come from a called function.
    pub(super) fn in_call(&self) -> bool {
        self.frames.len() > 1
    }

    pub(super) fn new_register(&mut self, vreg: VReg) -> u32 {
        let number = u32::try_from(self.registers.len()).unwrap_or(u32::MAX);
        self.registers.push(vreg);
        number
    }

    fn new_block(&mut self) -> u32 {
        let number = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks.push(Raw::default());
        number
    }

    /// Ends the current block, unless it has ended already.
    fn end(&mut self, term: Term) {
        self.blocks[self.current].term.get_or_insert(term);
    }

    fn start(&mut self, block: u32) {
        self.end(Term::Jump(block));
        self.current = block as usize;
    }

    fn push(&mut self, instr: Instr) {
        if self.blocks[self.current].term.is_some() {
            // Code behind a jump and before the next label: cannot be reached.
            let block = self.new_block();
            self.current = block as usize;
        }
        self.emitted += 1;
        self.blocks[self.current].instrs.push(instr);
    }

    /// Declares the variables of the module.
    pub(super) fn module_scope(&mut self) {
        let module = self.context.module;
        self.names.open();
        for (index, variable) in module.variables.iter().enumerate() {
            self.variable(variable, Place::Module(index));
        }
    }

    fn variable(&mut self, variable: &Variable, place: Place) {
        let binding = match variable.space {
            Space::Shared => match self.shared.addresses.get(&place) {
                Some(&address) => Binding::Variable {
                    space: Space::Shared,
                    address,
                },
                // No statement names it.
                None => return,
            },
            Space::Global | Space::Const => Binding::Global(variable.space),
            // `.param` variables of calls live in the frame too.
            _ => Binding::Variable {
                space: Space::Local,
                address: self.frame_space(variable),
            },
        };
        self.names.declare(variable.name, binding);
    }

    fn frame_space(&mut self, variable: &Variable) -> u64 {
        let address = self
            .local
            .next_multiple_of(u64::from(variable.align.max(1)));
        self.local = address.saturating_add(variable.size);
        address
    }

    pub(super) fn entry(&mut self, function: usize, params: &[Param]) -> Result<(), PtxError> {
        let source = &self.context.module.functions[function];
        self.enter(function, None);
        for (variable, param) in source.params.iter().zip(params) {
            let binding = Binding::Variable {
                space: Space::Param,
                address: u64::from(param.offset),
            };
            self.names.declare(variable.name, binding);
        }
        self.statements(function)?;
        self.leave();
        self.end(Term::End(exit(source.pos.line)));
        Ok(())
    }

    fn enter(&mut self, function: usize, after: Option<u32>) {
        self.frames.push(Frame { function, after });
        self.frame_count += 1;
        self.names.frame = self.frame_count;
        self.names.open();
    }

    fn leave(&mut self) {
        self.names.close();
        self.frames.pop();
    }

    fn statements(&mut self, function: usize) -> Result<(), PtxError> {
        let module = self.context.module;
        let body = module.functions[function].body.as_deref().unwrap_or(&[]);
        let mut scopes = label_scopes(body).into_iter();
        self.open_scope(scopes.next());
        for (index, statement) in body.iter().enumerate() {
            match statement {
                Statement::Open => self.open_scope(scopes.next()),
                Statement::Close => self.names.close(),
                Statement::Label(name) => {
                    if let Some(Binding::Label(block)) = self.names.get(*name) {
                        self.start(block);
                    }
                }
                Statement::Reg(declaration) => self.registers(*declaration),
                Statement::Variable(variable) => {
                    self.variable(variable, Place::Statement(function, index));
                }
                // Declared with the labels of their scope.
                Statement::BranchTargets(_) => {}
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.names.close();
        Ok(())
    }

    /// Opens a scope and declares its labels, which may be used before they stand.
    fn open_scope(&mut self, labels: Option<Vec<Labelled>>) {
        self.names.open();
        for label in labels.into_iter().flatten() {
            let binding = match label {
                Labelled::Block(_) => Binding::Label(self.new_block()),
                Labelled::Targets(_, targets) => {
                    self.targets.push(targets.to_vec());
                    Binding::Targets(self.targets.len() - 1)
                }
            };
            let (Labelled::Block(name) | Labelled::Targets(name, _)) = label;
            self.names.declare(name, binding);
        }
    }

    fn registers(&mut self, declaration: RegDecl) {
        let vreg = VReg::of(declaration.ty);
        let Some(count) = declaration.count else {
            let number = self.new_register(vreg);
            self.names.declare(declaration.name, Binding::Reg(number));
            return;
        };
        let context = self.context;
        for name in context.range(declaration.name, count) {
            let number = self.new_register(vreg);
            self.names.declare(name, Binding::Reg(number));
        }
    }

    fn guard(&self, instruction: &Instruction) -> Result<Option<Guard>, PtxError> {
        let Some((name, negated)) = instruction.guard else {
            return Ok(None);
        };
        match self.names.get(name) {
            Some(Binding::Reg(slot)) if self.registers[slot as usize] == VReg::of(Ty::Pred) => {
                Ok(Some(Guard { slot, negated }))
            }
            _ => Err(instruction.pos.syntax(format!(
                "guard `{}` is not a predicate register",
                self.context.module.word(name)
            ))),
        }
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), PtxError> {
        if self.emitted > INSTRUCTION_LIMIT {
            return Err(instruction
                .pos
                .unsupported("more than 2^22 instructions in an entry"));
        }
        let guard = self.guard(instruction)?;
        let opcode = self.context.module.word(instruction.opcode);
        if let Some(number) = crate::coverage::number(opcode) {
            self.push(Instr {
                op: Op::Cover(number),
                guard,
                dst: smallvec![],
                src: smallvec![],
                line: instruction.pos.line,
            });
        }
        if opcode == "call" || opcode == "call.uni" {
            return self.call(instruction, guard);
        }
        let lowered = self.operation(instruction)?;
        for instr in lowered.before {
            self.push(instr);
        }
        let mut instr = lowered.instr;
        instr.guard = guard;
        self.place(instr, opcode);
        for mut instr in lowered.after {
            instr.guard = guard;
            self.push(instr);
        }
        Ok(())
    }

    /// Adds an instruction, ending the block if it is control flow.
    fn place(&mut self, instr: Instr, opcode: &str) {
        let after = self.frames.last().and_then(|frame| frame.after);
        let target = match (&instr.op, after) {
            (Op::Bra(target), _) => Some(*target),
            (Op::Exit, Some(after)) if opcode.starts_with("ret") => Some(after),
            (Op::BrxIdx(_) | Op::Exit | Op::Trap, _) => None,
            _ => {
                self.push(instr);
                return;
            }
        };
        let line = instr.line;
        let Some(guard) = instr.guard else {
            self.end(match (target, &instr.op) {
                (Some(target), _) => Term::Jump(target),
                (None, Op::BrxIdx(_)) => Term::Switch(instr),
                (None, _) => Term::End(instr),
            });
            return;
        };
        let next = self.new_block();
        let taken = target.unwrap_or_else(|| {
            let block = self.new_block();
            let instr = Instr {
                guard: None,
                ..instr
            };
            self.blocks[block as usize].term = Some(match instr.op {
                Op::BrxIdx(_) => Term::Switch(instr),
                _ => Term::End(instr),
            });
            block
        });
        self.end(Term::Branch {
            guard,
            taken,
            next,
            line,
        });
        self.current = next as usize;
    }

    fn call(&mut self, call: &Instruction, guard: Option<Guard>) -> Result<(), PtxError> {
        let (returns, callee, arguments) = call_operands(call)?;
        let name = self.context.module.word(callee);
        let found = self.context.functions.get(&callee).copied();
        let function = found.filter(|&f| self.context.module.functions[f].body.is_some());
        let Some(function) = function else {
            let what = if found.is_some() {
                "external "
            } else {
                "indirect "
            };
            return Err(call.pos.unsupported(format!("call of {what}`{name}`")));
        };
        let recursive = self.frames.iter().any(|frame| frame.function == function);
        if recursive || self.frames.len() > CALL_DEPTH {
            return Err(call.pos.unsupported(format!("recursive call of `{name}`")));
        }
        let after = self.new_block();
        if let Some(guard) = guard {
            let next = self.new_block();
            self.end(Term::Branch {
                guard: Guard {
                    negated: !guard.negated,
                    ..guard
                },
                taken: after,
                next,
                line: call.pos.line,
            });
            self.current = next as usize;
        }
        let source = &self.context.module.functions[function];
        let mut bindings = self.bind(call.pos, &source.params, arguments)?;
        bindings.extend(self.bind(call.pos, &source.returns, returns)?);
        let caller = self.names.frame;
        self.enter(function, Some(after));
        for (name, binding) in bindings {
            self.names.declare(name, binding);
        }
        self.statements(function)?;
        self.leave();
        self.names.frame = caller;
        self.start(after);
        Ok(())
    }

    /// Pairs the parameters of a function with the caller's variables that carry them.
    fn bind(
        &self,
        pos: Pos,
        formals: &[Variable],
        actuals: &[Operand],
    ) -> Result<Vec<(Sym, Binding)>, PtxError> {
        if formals.len() != actuals.len() {
            return Err(pos.syntax(format!(
                "call passes {} values where {} are declared",
                actuals.len(),
                formals.len()
            )));
        }
        formals
            .iter()
            .zip(actuals)
            .map(|(formal, actual)| {
                let Operand::Name(name) = actual else {
                    return Err(pos.unsupported("call argument that is not a `.param` variable"));
                };
                match self.names.get(*name) {
                    Some(
                        binding @ Binding::Variable {
                            space: Space::Local,
                            ..
                        },
                    ) => Ok((formal.name, binding)),
                    _ => Err(pos.unsupported("call argument that is not a `.param` variable")),
                }
            })
            .collect()
    }
}

type CallOperands<'o> = (&'o [Operand], Sym, &'o [Operand]);

/// `[(returns),] name [, (arguments)]`; prototypes of indirect calls do not fit.
fn call_operands(call: &Instruction) -> Result<CallOperands<'_>, PtxError> {
    match call.operands.as_slice() {
        [Operand::Name(name)] => Ok((&[], *name, &[])),
        [Operand::Name(name), Operand::List(arguments)] => Ok((&[], *name, arguments)),
        [Operand::List(returns), Operand::Name(name)] => Ok((returns, *name, &[])),
        [
            Operand::List(returns),
            Operand::Name(name),
            Operand::List(arguments),
        ] => Ok((returns, *name, arguments)),
        _ => Err(call.pos.unsupported("indirect call")),
    }
}

fn exit(line: u32) -> Instr {
    Instr {
        op: Op::Exit,
        guard: None,
        dst: smallvec![],
        src: smallvec![],
        line,
    }
}

enum Labelled<'s> {
    Block(Sym),
    Targets(Sym, &'s [Sym]),
}

/// The labels of every scope of a body, in the order in which the scopes open.
fn label_scopes(body: &[Statement]) -> Vec<Vec<Labelled<'_>>> {
    let mut scopes = vec![Vec::new()];
    let mut open = vec![0];
    for (index, statement) in body.iter().enumerate() {
        match statement {
            Statement::Open => {
                open.push(scopes.len());
                scopes.push(Vec::new());
            }
            Statement::Close => {
                open.pop();
            }
            Statement::Label(name) => {
                let scope = open.last().copied().unwrap_or(0);
                scopes[scope].push(match body.get(index + 1) {
                    Some(Statement::BranchTargets(targets)) => Labelled::Targets(*name, targets),
                    _ => Labelled::Block(*name),
                });
            }
            _ => {}
        }
    }
    scopes
}
