//! Calls: expanded in place, made for real, or of functions that the driver provides.
//!
//! A called function's `.param` variables are variables of a frame in local memory. Expanded in
//! place, they are the caller's own variables; in a real call they stand at the start of the
//! callee's frame, and the call copies. `.reg` parameters pass through a variable as well.

use smallvec::{SmallVec, smallvec};

use crate::error::PtxError;
use crate::ir::{
    Access, Builtin, Class, Guard, Instr, Op, Operand as Value, Order, Reg, Scope, Space, Transfer,
    Ty,
};
use crate::ptx::ast::{Instruction, Operand, Signature, Variable};
use crate::ptx::lexer::{Pos, Sym};

use super::VReg;
use super::body::Builder;
use super::names::Binding;
use super::raw::Term;

/// Calls expanded inside each other.
const EXPANSION_DEPTH: usize = 64;

/// Whom a real call calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Function(usize),
    /// Through a register, one of these functions if they are known.
    Indirect(Option<Vec<usize>>),
}

/// A real call.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) target: Target,
    pub(super) arguments: Vec<Transfer>,
    pub(super) results: Vec<Transfer>,
}

/// A `.reg` parameter of a function: its register and the variable through which it passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    register: Reg,
    variable: u64,
    ty: Ty,
}

/// Where parameters and results stand in the frame of a routine; the end of the last.
pub(super) fn frame_layout(signature: &Signature) -> (Vec<u64>, u64) {
    let mut at: u64 = 0;
    let all = signature.params.iter().chain(&signature.returns);
    // Caller and callee may see different declarations: only sizes must agree.
    let offsets = all
        .map(|variable| {
            let offset = at.next_multiple_of(u64::from(variable.align.max(16)));
            at = offset.saturating_add(variable.size);
            offset
        })
        .collect();
    (offsets, at)
}

/// The parts of a call as written.
struct Call<'o> {
    pos: Pos,
    returns: &'o [Operand],
    callee: Sym,
    arguments: &'o [Operand],
    /// Prototype or list of targets.
    last: Option<Sym>,
}

impl<'o> Call<'o> {
    /// `[(returns),] callee [, (arguments)] [, prototype]`.
    fn of(call: &'o Instruction) -> Option<Self> {
        let mut rest = call.operands.as_slice();
        let mut returns: &[Operand] = &[];
        if let [Operand::List(list), after @ ..] = rest {
            (returns, rest) = (list, after);
        }
        let [Operand::Name(callee), after @ ..] = rest else {
            return None;
        };
        rest = after;
        let mut arguments: &[Operand] = &[];
        if let [Operand::List(list), after @ ..] = rest {
            (arguments, rest) = (list, after);
        }
        let last = match rest {
            [] => None,
            [Operand::Name(name)] => Some(*name),
            _ => return None,
        };
        Some(Self {
            pos: call.pos,
            returns,
            callee: *callee,
            arguments,
            last,
        })
    }

    fn check(&self, signature: &Signature) -> Result<(), PtxError> {
        let (params, returns) = (signature.params.len(), signature.returns.len());
        for (given, declared) in [
            (self.arguments.len(), params),
            (self.returns.len(), returns),
        ] {
            if given != declared {
                return Err(self.pos.syntax(format!(
                    "call passes {given} values where {declared} are declared"
                )));
            }
        }
        Ok(())
    }
}

impl<'m> Builder<'_, 'm> {
    pub(super) fn call(
        &mut self,
        instruction: &'m Instruction,
        guard: Option<Guard>,
    ) -> Result<(), PtxError> {
        let pos = instruction.pos;
        let Some(call) = Call::of(instruction) else {
            return Err(pos.syntax("a call is `call (results), callee, (arguments)`"));
        };
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
                line: pos.line,
            });
            self.enter_block(next);
        }
        let function = match self.names.get(call.callee) {
            Some(_) => None,
            None => self.context.functions.get(&call.callee).copied(),
        };
        match function {
            None => self.indirect(&call)?,
            Some(function) => self.direct(&call, function)?,
        }
        self.start(after);
        Ok(())
    }

    fn direct(&mut self, call: &Call<'_>, function: usize) -> Result<(), PtxError> {
        let source = &self.context.module.functions[function];
        call.check(&source.signature)?;
        if source.body.is_none() {
            return self.provided(call, &source.signature);
        }
        let shallow = self.frames.len() <= EXPANSION_DEPTH;
        if self.context.graph.expanded[function] && shallow {
            return self.expand(call, function);
        }
        self.real(call, &source.signature, (Target::Function(function), None))
    }

    fn expand(&mut self, call: &Call<'_>, function: usize) -> Result<(), PtxError> {
        let signature = &self.context.module.functions[function].signature;
        let arguments = self.pass_in(call, signature)?;
        let results = self.result_variables(call, signature);
        let caller = self.names.frame;
        let after = self.new_block();
        self.enter(Some(after));
        let variables = arguments.into_iter().chain(results.iter().copied());
        self.declare_parameters(signature, variables);
        self.statements(function)?;
        self.store_results(None);
        self.leave();
        self.names.frame = caller;
        self.start(after);
        for instr in self.pass_out(call, signature, &results)? {
            self.push(instr);
        }
        Ok(())
    }

    fn indirect(&mut self, call: &Call<'_>) -> Result<(), PtxError> {
        let unknown = |what: &str| {
            let name = self.context.module.word(call.callee);
            call.pos.unsupported(format!("call of {what}`{name}`"))
        };
        let Some(Binding::Reg(_)) = self.names.get(call.callee) else {
            return Err(unknown("undeclared "));
        };
        let (signature, targets) = match call.last.and_then(|name| self.names.get(name)) {
            Some(Binding::Prototype(index)) => (self.prototypes[index], None),
            Some(Binding::CallTargets(index)) => {
                let names = self.call_targets[index];
                let known = |name| self.context.functions.get(name).copied();
                let targets: Option<Vec<usize>> = names.iter().map(known).collect();
                let targets = targets.ok_or_else(|| unknown("an undeclared target of "))?;
                let first = targets.first().copied().unwrap_or(0);
                let signature = &self.context.module.functions[first].signature;
                (signature, Some(targets))
            }
            _ => return Err(unknown("no prototype and no targets: indirect ")),
        };
        call.check(signature)?;
        let callee = Operand::Name(call.callee);
        let address = self.value(call.pos, &callee, Ty::U64)?;
        let target = Target::Indirect(targets);
        self.real(call, signature, (target, Some(address)))
    }

    fn real(
        &mut self,
        call: &Call<'_>,
        signature: &Signature,
        (target, address): (Target, Option<Value>),
    ) -> Result<(), PtxError> {
        let arguments = self.pass_in(call, signature)?;
        let results = self.result_variables(call, signature);
        let (offsets, _) = frame_layout(signature);
        let formals = signature.params.iter().chain(&signature.returns);
        let mut transfers: Vec<Transfer> = arguments
            .into_iter()
            .chain(results.iter().copied())
            .zip(offsets)
            .zip(formals)
            .map(|((caller, callee), formal)| Transfer {
                caller: short(caller),
                callee: short(callee),
                bytes: short(formal.size),
            })
            .collect();
        let outgoing = transfers.split_off(signature.params.len());
        let site = short(self.sites.len() as u64);
        self.sites.push(Site {
            target,
            arguments: transfers,
            results: outgoing,
        });
        self.push(Instr {
            op: Op::Call(site),
            guard: None,
            dst: smallvec![],
            src: address.into_iter().collect(),
            line: call.pos.line,
        });
        // Where it returns to is the start of a block.
        let back = self.new_block();
        self.start(back);
        for instr in self.pass_out(call, signature, &results)? {
            self.push(instr);
        }
        Ok(())
    }

    /// A function that the driver provides.
    fn provided(&mut self, call: &Call<'_>, signature: &Signature) -> Result<(), PtxError> {
        let name = self.context.module.word(call.callee);
        let builtin = Builtin::named(name).filter(|builtin| {
            let (params, result) = builtin.signature();
            let sizes = signature.params.iter().map(|p| p.size);
            let results = signature.returns.iter().map(|p| p.size);
            let wanted = (result != 0).then_some(u64::from(result));
            sizes.eq(params.iter().map(|&size| u64::from(size))) && results.eq(wanted)
        });
        let Some(builtin) = builtin else {
            let what = format!("call of external `{name}`, which nothing defines");
            return Err(call.pos.unsupported(what));
        };
        let line = call.pos.line;
        let arguments = self.pass_in(call, signature)?;
        let mut src: SmallVec<[Value; 4]> = SmallVec::new();
        for (variable, formal) in arguments.into_iter().zip(&signature.params) {
            let ty = bits(formal.size).unwrap_or(Ty::B64);
            let register = self.new_reg(ty);
            let load = self.load(register, variable, ty, line);
            self.push(load);
            src.push(Value::Reg(register));
        }
        let results = self.result_variables(call, signature);
        let mut dst = SmallVec::new();
        let mut store = None;
        if let (Some(&variable), Some(formal)) = (results.first(), signature.returns.first()) {
            let ty = bits(formal.size).unwrap_or(Ty::B64);
            let register = self.new_reg(ty);
            dst.push(register);
            store = Some(self.store(Value::Reg(register), variable, ty, line));
        }
        self.push(Instr {
            op: Op::Builtin(builtin),
            guard: None,
            dst,
            src,
            line,
        });
        let reads = self.pass_out(call, signature, &results)?;
        for instr in store.into_iter().chain(reads) {
            self.push(instr);
        }
        Ok(())
    }

    /// The variables of the caller's frame that hold the arguments.
    fn pass_in(&mut self, call: &Call<'_>, signature: &Signature) -> Result<Vec<u64>, PtxError> {
        let pairs = signature.params.iter().zip(call.arguments);
        pairs
            .map(|(formal, actual)| {
                if let Some(variable) = self.own_variable(actual) {
                    return Ok(variable);
                }
                let ty = self.passed_type(call, formal, actual)?;
                let value = self.value(call.pos, actual, ty)?;
                let variable = self.frame_space(formal);
                let store = self.store(value, variable, ty, call.pos.line);
                self.push(store);
                Ok(variable)
            })
            .collect()
    }

    /// The variables of the caller's frame that take the results.
    fn result_variables(&mut self, call: &Call<'_>, signature: &Signature) -> Vec<u64> {
        let pairs = signature.returns.iter().zip(call.returns);
        pairs
            .map(|(formal, actual)| match self.own_variable(actual) {
                Some(variable) => variable,
                None => self.frame_space(formal),
            })
            .collect()
    }

    /// Loads of the results that go to registers.
    fn pass_out(
        &mut self,
        call: &Call<'_>,
        signature: &Signature,
        variables: &[u64],
    ) -> Result<Vec<Instr>, PtxError> {
        let mut loads = Vec::new();
        let pairs = signature.returns.iter().zip(call.returns).zip(variables);
        for ((formal, actual), &variable) in pairs {
            if self.own_variable(actual).is_some() {
                continue;
            }
            let ty = self.passed_type(call, formal, actual)?;
            let register = self.target(call.pos, actual, ty)?;
            loads.push(self.load(register, variable, ty, call.pos.line));
        }
        Ok(loads)
    }

    fn own_variable(&self, actual: &Operand) -> Option<u64> {
        let Operand::Name(name) = actual else {
            return None;
        };
        match self.names.get(*name) {
            Some(Binding::Variable {
                space: Space::Local,
                address,
            }) => Some(address),
            _ => None,
        }
    }

    /// The type of a parameter that is not passed as a `.param` variable.
    fn passed_type(
        &self,
        call: &Call<'_>,
        formal: &Variable,
        actual: &Operand,
    ) -> Result<Ty, PtxError> {
        let plain = match actual {
            Operand::Number(_) => true,
            Operand::Name(name) => {
                let word = self.context.module.word(*name);
                word == "_" || matches!(self.names.get(*name), Some(Binding::Reg(_)))
            }
            _ => false,
        };
        let scalar = formal.size == u64::from(formal.ty.bytes());
        let ty = if matches!(actual, Operand::Number(_)) {
            Some(formal.ty)
        } else {
            bits(formal.size)
        };
        let ty = ty.filter(|_| plain && scalar && formal.ty != Ty::Pred);
        ty.ok_or_else(|| {
            let what = "call argument that is neither a `.param` variable nor a register";
            call.pos.unsupported(what)
        })
    }

    /// Declares the parameters of a function whose variables stand in the frame; `.reg` ones are
    /// read from there.
    pub(super) fn declare_parameters(
        &mut self,
        signature: &'m Signature,
        variables: impl Iterator<Item = u64>,
    ) {
        let params = signature.params.len();
        let formals = signature.params.iter().chain(&signature.returns);
        for (index, (formal, variable)) in formals.zip(variables).enumerate() {
            if !formal.register {
                let binding = Binding::Variable {
                    space: Space::Local,
                    address: variable,
                };
                self.names.declare(formal.name, binding);
                continue;
            }
            let register = self.new_reg(formal.ty);
            self.names.declare(formal.name, Binding::Reg(register.slot));
            let ty = bits(formal.size).unwrap_or(Ty::B32);
            if index < params {
                let load = self.load(register, variable, ty, formal.pos.line);
                self.push(load);
            } else if let Some(frame) = self.frames.last_mut() {
                frame.results.push(Passed {
                    register,
                    variable,
                    ty,
                });
            }
        }
    }

    /// Writes the `.reg` results of the function that ends here to their variables.
    pub(super) fn store_results(&mut self, guard: Option<Guard>) {
        let results = self.frames.last().map(|frame| frame.results.clone());
        for passed in results.into_iter().flatten() {
            let value = Value::Reg(passed.register);
            let mut store = self.store(value, passed.variable, passed.ty, 0);
            store.guard = guard;
            self.push(store);
        }
    }

    pub(super) fn new_reg(&mut self, ty: Ty) -> Reg {
        let vreg = VReg::of(ty);
        Reg {
            class: vreg.class,
            slot: self.new_register(vreg),
        }
    }

    /// Base and offset of a variable of the frame.
    pub(super) fn frame_address(&self, variable: u64) -> (Value, i64) {
        match self.frame_base {
            Some(slot) => {
                let class = Class::B64;
                (Value::Reg(Reg { class, slot }), variable.cast_signed())
            }
            None => (Value::Imm(variable), 0),
        }
    }

    fn load(&self, register: Reg, variable: u64, ty: Ty, line: u32) -> Instr {
        let (base, offset) = self.frame_address(variable);
        Instr {
            op: Op::Ld(local(ty, offset)),
            guard: None,
            dst: smallvec![register],
            src: smallvec![base],
            line,
        }
    }

    fn store(&self, value: Value, variable: u64, ty: Ty, line: u32) -> Instr {
        let (base, offset) = self.frame_address(variable);
        Instr {
            op: Op::St(local(ty, offset)),
            guard: None,
            dst: smallvec![],
            src: smallvec![base, value],
            line,
        }
    }
}

fn local(ty: Ty, offset: i64) -> Access {
    Access {
        space: Space::Local,
        ty,
        vec: 1,
        order: Order::Weak,
        scope: Scope::Cta,
        offset,
    }
}

/// The bit type of a size.
fn bits(size: u64) -> Option<Ty> {
    Some(match size {
        1 => Ty::B8,
        2 => Ty::B16,
        4 => Ty::B32,
        8 => Ty::B64,
        16 => Ty::B128,
        _ => return None,
    })
}

/// Frames are smaller than local memory, which is checked when a function has been lowered.
fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
