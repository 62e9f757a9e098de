//! Statements: scopes, declarations, control flow.

use smallvec::smallvec;

use crate::error::PtxError;
use crate::ir::{Guard, Instr, Op, Param, Space, Ty};
use crate::ptx::ast::{Instruction, Operand, RegDecl, Signature, Statement, Variable};
use crate::ptx::lexer::{Pos, Sym};

use super::VReg;
use super::call::{Passed, Site, frame_layout};
use super::context::Context;
use super::graph::is_call;
use super::layout::{Place, Shared};
use super::names::{Binding, Names};
use super::raw::{Raw, Term};

/// Instructions of one entry after expansion of its calls.
const INSTRUCTION_LIMIT: usize = 1 << 22;

/// A function body that is being lowered.
pub(super) struct Frame {
    /// Where `ret` goes; `None` in an entry or routine.
    after: Option<u32>,
    /// `.reg` results.
    pub(super) results: Vec<Passed>,
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
    /// Largest alignment of a variable of the frame.
    local_align: u32,
    pub(super) frames: Vec<Frame>,
    frame_count: u32,
    /// In a routine: the register that holds the base of its frame.
    pub(super) frame_base: Option<u32>,
    pub(super) sites: Vec<Site>,
    pub(super) prototypes: Vec<&'m Signature>,
    pub(super) call_targets: Vec<&'m [Sym]>,
}

/// A lowered body.
pub(super) struct Unit {
    pub(super) raw: Vec<Raw>,
    pub(super) registers: Vec<VReg>,
    pub(super) sites: Vec<Site>,
    pub(super) local_bytes: u32,
    pub(super) local_align: u32,
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
            local_align: 16,
            frames: Vec::new(),
            frame_count: 0,
            frame_base: None,
            sites: Vec::new(),
            prototypes: Vec::new(),
            call_targets: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Result<Unit, PtxError> {
        let bytes = self.local.next_multiple_of(16);
        let local_bytes = u32::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= 512 << 10)
            .ok_or_else(|| {
                Pos { line: 1, column: 1 }
                    .syntax(format!("{bytes} bytes of local memory exceed 512 KiB"))
            })?;
        Ok(Unit {
            raw: self.blocks,
            registers: self.registers,
            sites: self.sites,
            local_bytes,
            local_align: self.local_align,
        })
    }

    /// Whether the statements come from a called function.
    pub(super) fn in_call(&self) -> bool {
        self.frames.len() > 1 || self.frame_base.is_some()
    }

    pub(super) fn new_register(&mut self, vreg: VReg) -> u32 {
        let number = u32::try_from(self.registers.len()).unwrap_or(u32::MAX);
        self.registers.push(vreg);
        number
    }

    pub(super) fn new_block(&mut self) -> u32 {
        let number = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks.push(Raw::default());
        number
    }

    /// Ends the current block, unless it has ended already.
    pub(super) fn end(&mut self, term: Term) {
        self.blocks[self.current].term.get_or_insert(term);
    }

    pub(super) fn start(&mut self, block: u32) {
        self.end(Term::Jump(block));
        self.current = block as usize;
    }

    /// Goes on in a block to which a branch leads.
    pub(super) fn enter_block(&mut self, block: u32) {
        self.current = block as usize;
    }

    pub(super) fn push(&mut self, instr: Instr) {
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

    pub(super) fn frame_space(&mut self, variable: &Variable) -> u64 {
        self.local_align = self.local_align.max(variable.align);
        let address = self
            .local
            .next_multiple_of(u64::from(variable.align.max(1)));
        self.local = address.saturating_add(variable.size);
        address
    }

    pub(super) fn entry(&mut self, function: usize, params: &[Param]) -> Result<(), PtxError> {
        let source = &self.context.module.functions[function];
        self.enter(None);
        for (variable, param) in source.signature.params.iter().zip(params) {
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

    /// A function that is called for real.
    pub(super) fn routine(&mut self, function: usize) -> Result<(), PtxError> {
        let source = &self.context.module.functions[function];
        self.enter(None);
        let base = self.new_reg(Ty::U64);
        self.frame_base = Some(base.slot);
        self.push(Instr {
            op: Op::Frame,
            dst: smallvec![base],
            ..exit(source.pos.line)
        });
        let (offsets, end) = frame_layout(&source.signature);
        self.local = end;
        self.declare_parameters(&source.signature, offsets.into_iter());
        self.statements(function)?;
        self.store_results(None);
        self.leave();
        self.end(Term::End(Instr {
            op: Op::Ret,
            ..exit(source.pos.line)
        }));
        Ok(())
    }

    pub(super) fn enter(&mut self, after: Option<u32>) {
        let results = Vec::new();
        self.frames.push(Frame { after, results });
        self.frame_count += 1;
        self.names.frame = self.frame_count;
        self.names.open();
    }

    pub(super) fn leave(&mut self) {
        self.names.close();
        self.frames.pop();
    }

    pub(super) fn statements(&mut self, function: usize) -> Result<(), PtxError> {
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
                Statement::BranchTargets(_)
                | Statement::CallTargets(_)
                | Statement::CallPrototype(_) => {}
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.names.close();
        Ok(())
    }

    /// Opens a scope and declares its labels, which may be used before they stand.
    fn open_scope(&mut self, labels: Option<Vec<Labelled<'m>>>) {
        self.names.open();
        for (name, what) in labels.into_iter().flatten() {
            let binding = match what {
                Some(Statement::BranchTargets(targets)) => {
                    self.targets.push(targets.clone());
                    Binding::Targets(self.targets.len() - 1)
                }
                Some(Statement::CallTargets(targets)) => {
                    self.call_targets.push(targets);
                    Binding::CallTargets(self.call_targets.len() - 1)
                }
                Some(Statement::CallPrototype(signature)) => {
                    self.prototypes.push(signature);
                    Binding::Prototype(self.prototypes.len() - 1)
                }
                _ => Binding::Label(self.new_block()),
            };
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

    fn instruction(&mut self, instruction: &'m Instruction) -> Result<(), PtxError> {
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
        if is_call(opcode) {
            return self.call(instruction, guard);
        }
        if self.special_vector(instruction, guard)? {
            return Ok(());
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

    /// `mov.v4.u32 {x, y, z, w}, %tid;`: says whether the instruction is one.
    fn special_vector(
        &mut self,
        instruction: &Instruction,
        guard: Option<Guard>,
    ) -> Result<bool, PtxError> {
        let opcode = self.context.module.word(instruction.opcode);
        let [Operand::Vector(items), Operand::Name(name)] = instruction.operands.as_slice() else {
            return Ok(false);
        };
        let Some(parts) = self.context.special_vector(*name) else {
            return Ok(false);
        };
        if !matches!(opcode, "mov.v4.u32" | "mov.v4.b32" | "mov.v4.s32") || items.len() != 4 {
            return Ok(false);
        }
        for (item, part) in items.iter().zip(parts) {
            let register = self.target(instruction.pos, item, Ty::U32)?;
            self.push(Instr {
                op: Op::Special(part),
                guard,
                dst: smallvec![register],
                ..exit(instruction.pos.line)
            });
        }
        Ok(true)
    }

    /// Adds an instruction, ending the block if it is control flow.
    fn place(&mut self, mut instr: Instr, opcode: &str) {
        let mut after = None;
        if instr.op == Op::Exit && opcode.starts_with("ret") {
            self.store_results(instr.guard);
            after = self.frames.last().and_then(|frame| frame.after);
            if after.is_none() && self.frame_base.is_some() {
                instr.op = Op::Ret;
            }
        }
        let target = match (&instr.op, after) {
            (Op::Bra(target), _) => Some(*target),
            (Op::Exit, Some(after)) => Some(after),
            (Op::BrxIdx(_) | Op::Exit | Op::Ret | Op::Trap, _) => None,
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

/// A label and the statement that it stands before.
type Labelled<'s> = (Sym, Option<&'s Statement>);

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
                scopes[scope].push((*name, body.get(index + 1)));
            }
            _ => {}
        }
    }
    scopes
}
