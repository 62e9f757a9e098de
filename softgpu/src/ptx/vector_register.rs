//! Registers that are vectors: `.reg .v4 .u32 %v;` declares `%v.x`, `%v.y`, `%v.z` and `%v.w`, which
//! may be called `%v.r`, `%v.g`, `%v.b` and `%v.a` as well. `%v` alone stands for the list of them.
//!
//! They become scalar registers and lists here, so that nothing behind the parser knows of them.
//! Source: PTX ISA 9.0, "Vectors" and "Vectors as Operands".

use std::collections::HashMap;

use super::ast::{Base, Function, Instruction, Operand, RegDecl, Statement};
use super::lexer::Sym;

/// Names of the elements, each with its other one.
const ELEMENTS: [(&str, &str); 4] = [("x", "r"), ("y", "g"), ("z", "b"), ("w", "a")];

/// What a name means in a scope.
#[derive(Debug, Clone)]
enum Meaning {
    /// No part of a vector.
    Other,
    /// A vector with these elements.
    Vector(Vec<Sym>),
    /// Another name of an element.
    Element(Sym),
}

struct Expander<'w> {
    words: &'w mut Vec<Box<str>>,
    index: HashMap<Box<str>, Sym>,
    scopes: Vec<HashMap<Sym, Meaning>>,
}

/// Rewrites the bodies of functions.
pub(super) fn expand(functions: &mut [Function], words: &mut Vec<Box<str>>) {
    let index = words.iter().cloned().zip((0..).map(Sym)).collect();
    let mut expander = Expander {
        words,
        index,
        scopes: Vec::new(),
    };
    for body in functions.iter_mut().filter_map(|f| f.body.as_mut()) {
        *body = expander.body(std::mem::take(body));
    }
}

impl Expander<'_> {
    fn body(&mut self, body: Vec<Statement>) -> Vec<Statement> {
        self.scopes = vec![HashMap::new()];
        let mut out = Vec::with_capacity(body.len());
        for statement in body {
            match statement {
                Statement::Reg(vector) if vector.vector > 1 => self.declare(vector, &mut out),
                Statement::Instruction(instruction) => self.instruction(instruction, &mut out),
                other => {
                    match &other {
                        Statement::Open => self.scopes.push(HashMap::new()),
                        Statement::Close => drop(self.scopes.pop()),
                        Statement::Reg(scalar) => self.mean(scalar.name, Meaning::Other),
                        Statement::Variable(variable) => self.mean(variable.name, Meaning::Other),
                        _ => {}
                    }
                    out.push(other);
                }
            }
        }
        out
    }

    /// Declares the elements of the vectors of a declaration.
    fn declare(&mut self, vectors: RegDecl, out: &mut Vec<Statement>) {
        let base = self.text(vectors.name);
        let names: Vec<String> = match vectors.count {
            None => vec![base],
            Some(count) => (0..count).map(|number| format!("{base}{number}")).collect(),
        };
        for name in names {
            let mut elements = Vec::new();
            for (element, other) in ELEMENTS.iter().take(vectors.vector as usize) {
                let element = self.intern(format!("{name}.{element}"));
                let other = self.intern(format!("{name}.{other}"));
                self.mean(other, Meaning::Element(element));
                elements.push(element);
                out.push(Statement::Reg(RegDecl {
                    name: element,
                    count: None,
                    vector: 1,
                    ..vectors
                }));
            }
            let name = self.intern(name);
            self.mean(name, Meaning::Vector(elements));
        }
    }

    fn instruction(&mut self, mut instruction: Instruction, out: &mut Vec<Statement>) {
        let mut whole = 0;
        for operand in &mut instruction.operands {
            if let Operand::Name(name) = operand
                && let Some(Meaning::Vector(elements)) = self.meaning(*name)
            {
                let elements = elements.iter().copied().map(Operand::Name);
                *operand = Operand::Vector(elements.collect());
                whole += 1;
            } else {
                self.rename(operand);
            }
        }
        let opcode = self.text(instruction.opcode);
        let scalar = ["mov.v2.", "mov.v4."]
            .iter()
            .find_map(|vector| opcode.strip_prefix(vector));
        match (instruction.operands.as_slice(), scalar) {
            // A copy of a vector: of each element.
            ([Operand::Vector(to), Operand::Vector(from)], Some(ty))
                if whole == 2 && to.len() == from.len() =>
            {
                let opcode = self.intern(format!("mov.{ty}"));
                out.extend(to.iter().zip(from).map(|(to, from)| {
                    Statement::Instruction(Instruction {
                        opcode,
                        operands: [to.clone(), from.clone()].into_iter().collect(),
                        ..instruction
                    })
                }));
            }
            _ => out.push(Statement::Instruction(instruction)),
        }
    }

    /// Replaces other names of elements.
    fn rename(&self, operand: &mut Operand) {
        let name = |sym: &mut Sym| {
            if let Some(Meaning::Element(element)) = self.meaning(*sym) {
                *sym = *element;
            }
        };
        match operand {
            Operand::Name(sym) | Operand::Offset(sym, _) | Operand::Not(sym) => name(sym),
            Operand::Part { name: sym, .. } => name(sym),
            Operand::Address(Base::Name(sym), _) => name(sym),
            Operand::Tensor(base, _, items) => {
                if let Base::Name(sym) = base {
                    name(sym);
                }
                items.iter_mut().for_each(|item| self.rename(item));
            }
            Operand::Vector(items) | Operand::List(items) => {
                items.iter_mut().for_each(|item| self.rename(item));
            }
            Operand::Pair(pair) => {
                self.rename(&mut pair.0);
                self.rename(&mut pair.1);
            }
            Operand::Number(_) | Operand::Address(Base::Absolute(_), _) => {}
        }
    }

    fn mean(&mut self, name: Sym, meaning: Meaning) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, meaning);
        }
    }

    fn meaning(&self, name: Sym) -> Option<&Meaning> {
        self.scopes.iter().rev().find_map(|scope| scope.get(&name))
    }

    fn text(&self, sym: Sym) -> String {
        let word = self.words.get(sym.0 as usize);
        word.map_or_else(String::new, |word| word.to_string())
    }

    fn intern(&mut self, text: String) -> Sym {
        let text = text.into_boxed_str();
        if let Some(&sym) = self.index.get(&text) {
            return sym;
        }
        let sym = Sym(u32::try_from(self.words.len()).unwrap_or(u32::MAX));
        self.words.push(text.clone());
        self.index.insert(text, sym);
        sym
    }
}
