//! Names that one scope defines twice, and other names for what is no function. Such a text could
//! mean one thing or another, or nothing: it is refused, as the assembler refuses it.

use std::collections::{HashMap, HashSet};

use super::ast::{Function, Linkage, RegDecl, Statement};
use super::lexer::{Pos, Sym};
use super::parser::Parsed;
use crate::error::PtxError;

type Word<'w> = &'w dyn Fn(Sym) -> &'w str;

/// What a scope has defined so far.
#[derive(Default)]
struct Scope<'w> {
    names: HashSet<Sym>,
    /// Counts of `%r<count>`, by `%r`.
    ranges: HashMap<&'w str, u32>,
}

impl<'w> Scope<'w> {
    fn name(&mut self, pos: Pos, name: Sym, word: Word<'w>) -> Result<(), PtxError> {
        let is_register = is_in_range(word(name), |prefix| self.ranges.get(prefix));
        if is_register || !self.names.insert(name) {
            return Err(twice(pos, word(name)));
        }
        Ok(())
    }

    fn registers(&mut self, pos: Pos, declared: RegDecl, word: Word<'w>) -> Result<(), PtxError> {
        let Some(count) = declared.count else {
            return self.name(pos, declared.name, word);
        };
        let range = word(declared.name);
        let is_new = |prefix: &str| (prefix == range).then_some(&count);
        let has_one = self.names.iter().any(|&n| is_in_range(word(n), is_new));
        if has_one || self.ranges.insert(range, count).is_some() {
            return Err(twice(pos, range));
        }
        Ok(())
    }
}

fn twice(pos: Pos, name: &str) -> PtxError {
    pos.syntax(format!("`{name}` is defined twice in its scope"))
}

/// Whether a name is one of the registers that a range declares.
fn is_in_range<'c>(name: &str, count_of: impl Fn(&str) -> Option<&'c u32>) -> bool {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    // Digits may belong to the range's own name: `%r1<3>` has `%r10`.
    (prefix.len()..name.len()).any(|at| {
        let (range, number) = name.split_at(at);
        let canonical = number == "0" || !number.starts_with('0');
        let number = number.parse().ok().filter(|_: &u32| canonical);
        number.is_some_and(|number| count_of(range).is_some_and(|&count| number < count))
    })
}

/// Checks a module.
///
/// # Errors
/// The first name that is defined twice, or the first alias of nothing.
pub(super) fn check<'w>(module: &Parsed, word: Word<'w>) -> Result<(), PtxError> {
    let mut defined = Scope::default();
    let variables = module.variables.iter();
    for variable in variables.filter(|v| v.linkage != Linkage::External) {
        defined.name(variable.pos, variable.name, word)?;
    }
    for function in &module.functions {
        if let Some(body) = &function.body {
            defined.name(function.pos, function.name, word)?;
            in_body(function, body, word)?;
        }
    }
    aliases(module, word)
}

/// An alias is declared as a function without a body, and names one that has a body.
fn aliases(module: &Parsed, word: Word<'_>) -> Result<(), PtxError> {
    let functions = || module.functions.iter().filter(|f| !f.entry);
    let declared: HashSet<Sym> = functions().map(|f| f.name).collect();
    let defined = functions().filter(|f| f.body.is_some());
    let mut defined: HashSet<Sym> = defined.map(|f| f.name).collect();
    for &(pos, alias, target) in &module.aliases {
        if !defined.contains(&target) {
            return Err(pos.syntax(format!("`{}` is not a function with a body", word(target))));
        }
        if !declared.contains(&alias) {
            return Err(pos.syntax(format!("`{}` is not declared", word(alias))));
        }
        if !defined.insert(alias) {
            return Err(twice(pos, word(alias)));
        }
    }
    Ok(())
}

fn in_body<'w>(function: &Function, body: &[Statement], word: Word<'w>) -> Result<(), PtxError> {
    let mut outer = Scope::default();
    let signature = &function.signature;
    for variable in signature.returns.iter().chain(&signature.params) {
        outer.name(variable.pos, variable.name, word)?;
    }
    let mut scopes = vec![outer];
    for statement in body {
        let Some(scope) = scopes.last_mut() else {
            return Ok(());
        };
        match statement {
            Statement::Open => scopes.push(Scope::default()),
            Statement::Close => drop(scopes.pop()),
            Statement::Label(name) => scope.name(function.pos, *name, word)?,
            Statement::Reg(declared) => scope.registers(function.pos, *declared, word)?,
            Statement::Variable(variable) if variable.linkage != Linkage::External => {
                scope.name(variable.pos, variable.name, word)?;
            }
            _ => {}
        }
    }
    Ok(())
}
