//! Function bodies: statements and operands.

use smallvec::SmallVec;

use super::ast::{
    Base, Instruction, Linkage, Number, Operand, RegDecl, Signature, Statement, Variable,
};
use super::lexer::{Pos, Sym, Tok};
use super::parser::Parser;
use crate::error::PtxError;

impl Parser<'_> {
    /// Statements up to the `}` that closes the function; its `{` has been read.
    pub(crate) fn body(&mut self) -> Result<Vec<Statement>, PtxError> {
        let mut out = Vec::new();
        let mut depth = 0usize;
        loop {
            if self.accept(b'{')? {
                depth += 1;
                out.push(Statement::Open);
            } else if self.accept(b'}')? {
                if depth == 0 {
                    return Ok(out);
                }
                depth -= 1;
                out.push(Statement::Close);
            } else {
                self.statement(&mut out)?;
            }
        }
    }

    fn statement(&mut self, out: &mut Vec<Statement>) -> Result<(), PtxError> {
        let pos = self.pos();
        match self.token.tok {
            Tok::Directive(sym) => self.declaration(self.name(sym), out),
            Tok::Word(word) => {
                self.advance()?;
                if self.accept(b':')? {
                    return self.label(word, out);
                }
                self.instruction(word, pos, None, out)
            }
            Tok::Punct(b'@') => {
                self.advance()?;
                let negated = self.accept(b'!')?;
                let guard = self.expect_word("a predicate")?;
                let pos = self.pos();
                let opcode = self.expect_word("an instruction")?;
                self.instruction(opcode, pos, Some((guard, negated)), out)
            }
            _ => self.expected("a statement"),
        }
    }

    fn label(&mut self, word: Sym, out: &mut Vec<Statement>) -> Result<(), PtxError> {
        out.push(Statement::Label(word));
        match self.directive() {
            Some(".branchtargets") => {
                self.advance()?;
                let targets = self.words("a label")?;
                out.push(Statement::BranchTargets(targets));
                self.expect(b';')
            }
            Some(".calltargets") => {
                self.advance()?;
                let targets = self.words("a function")?;
                out.push(Statement::CallTargets(targets));
                self.expect(b';')
            }
            Some(".callprototype") => {
                self.advance()?;
                let returns = self.optional_parameters()?;
                self.expect_word("`_`")?;
                let params = self.optional_parameters()?;
                self.prototype_directives()?;
                out.push(Statement::CallPrototype(Signature { returns, params }));
                self.expect(b';')
            }
            _ => Ok(()),
        }
    }

    fn words(&mut self, what: &str) -> Result<Vec<Sym>, PtxError> {
        let mut words = vec![self.expect_word(what)?];
        while self.accept(b',')? {
            words.push(self.expect_word(what)?);
        }
        Ok(words)
    }

    /// `.noreturn`, `.abi_preserve n` and the like behind a prototype: nothing to an interpreter.
    fn prototype_directives(&mut self) -> Result<(), PtxError> {
        while let Some(directive) = self.directive() {
            let pos = self.pos();
            self.advance()?;
            match directive {
                ".noreturn" => {}
                ".abi_preserve" | ".abi_preserve_control" => {
                    self.expect_u32("a register count")?;
                }
                _ => return Err(pos.unsupported(format!("directive `{directive}`"))),
            }
        }
        Ok(())
    }

    fn declaration(&mut self, directive: &str, out: &mut Vec<Statement>) -> Result<(), PtxError> {
        match directive {
            ".reg" => {
                self.advance()?;
                let mut registers: Vec<RegDecl> = Vec::new();
                self.registers(&mut registers)?;
                out.extend(registers.into_iter().map(Statement::Reg));
                Ok(())
            }
            ".loc" | ".file" | ".pragma" | ".section" => self.hint(directive),
            _ => {
                let linkage: Linkage = self.linkage()?;
                let mut variables: Vec<Variable> = Vec::new();
                self.variables(linkage, &mut variables)?;
                out.extend(variables.into_iter().map(Statement::Variable));
                Ok(())
            }
        }
    }

    fn instruction(
        &mut self,
        opcode: Sym,
        pos: Pos,
        guard: Option<(Sym, bool)>,
        out: &mut Vec<Statement>,
    ) -> Result<(), PtxError> {
        let mut operands = SmallVec::new();
        let call = self.name(opcode).starts_with("call");
        while !self.at(b';') {
            operands.push(if call && self.at(b'(') {
                self.list()?
            } else {
                self.operand()?
            });
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';')?;
        out.push(Statement::Instruction(Instruction {
            pos,
            guard,
            opcode,
            operands,
        }));
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand, PtxError> {
        match self.token.tok {
            Tok::Punct(b'{') => {
                self.advance()?;
                let items = self.items(b'}')?;
                Ok(Operand::Vector(items))
            }
            Tok::Punct(b'[') => self.address(),
            _ => {
                let first = self.simple()?;
                if !self.accept(b'|')? {
                    return Ok(first);
                }
                let second = self.simple()?;
                Ok(Operand::Pair(Box::new((first, second))))
            }
        }
    }

    /// `(a, b)` of a call.
    fn list(&mut self) -> Result<Operand, PtxError> {
        self.expect(b'(')?;
        Ok(Operand::List(self.items(b')')?))
    }

    /// Simple operands up to the closing character; the opening one has been read.
    fn items(&mut self, close: u8) -> Result<Vec<Operand>, PtxError> {
        let mut items = Vec::new();
        while !self.at(close) {
            items.push(self.simple()?);
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(close)?;
        Ok(items)
    }

    /// A name (with offset), a number, or a negated predicate.
    fn simple(&mut self) -> Result<Operand, PtxError> {
        match self.token.tok {
            Tok::Word(name) => {
                self.advance()?;
                if self.at(b'+') || self.at(b'-') {
                    return Ok(Operand::Offset(name, self.offset()?));
                }
                let (name, part) = self.part(name);
                Ok(match part {
                    None => Operand::Name(name),
                    part => Operand::Part {
                        name,
                        negated: false,
                        part,
                    },
                })
            }
            Tok::Punct(b'-') if self.lexer.at_word() => self.negative(),
            Tok::Punct(b'!') => {
                self.advance()?;
                if let Tok::Word(name) = self.token.tok {
                    self.advance()?;
                    return Ok(Operand::Not(name));
                }
                Ok(Operand::Number(self.constant_negation()?))
            }
            Tok::Int(_) | Tok::F32(_) | Tok::F64(_) | Tok::Punct(b'-' | b'~' | b'+' | b'(') => {
                Ok(Operand::Number(self.constant()?))
            }
            _ => self.expected("an operand"),
        }
    }

    /// Takes the part of a register off its name: `%r1.b0`, `%r1.h10`.
    fn part(&mut self, word: Sym) -> (Sym, Option<Sym>) {
        let text = self.name(word);
        let Some((name, part)) = text.rsplit_once('.') else {
            return (word, None);
        };
        let digits = part.strip_prefix(['b', 'h']).unwrap_or("");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return (word, None);
        }
        let names = &mut self.lexer.names;
        (names.intern(name), Some(names.intern(part)))
    }

    /// A register with a minus.
    fn negative(&mut self) -> Result<Operand, PtxError> {
        self.expect(b'-')?;
        let word = self.expect_word("a register")?;
        let (name, part) = self.part(word);
        Ok(Operand::Part {
            name,
            negated: true,
            part,
        })
    }

    fn address(&mut self) -> Result<Operand, PtxError> {
        self.expect(b'[')?;
        let pos = self.pos();
        let base = if let Tok::Word(name) = self.token.tok {
            self.advance()?;
            Base::Name(name)
        } else {
            match self.constant()? {
                Number::Int(value) => Base::Absolute(value),
                _ => return Err(pos.syntax("an address must be an integer")),
            }
        };
        let offset = self.offset()?;
        let operand = if self.accept(b',')? {
            self.expect(b'{')?;
            Operand::Tensor(base, offset, self.items(b'}')?)
        } else {
            Operand::Address(base, offset)
        };
        self.expect(b']')?;
        // `[address].unified`: a hint.
        if let Tok::Directive(name) = self.token.tok
            && self.name(name) == ".unified"
        {
            self.advance()?;
        }
        Ok(operand)
    }
}
