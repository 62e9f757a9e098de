//! PTX text: lexer, parser and the declarations of a module.
//!
//! [`parse`] reads a whole module and keeps bodies as unresolved statements; typing and resolution
//! happen in [`crate::ir::lower`]. Source: PTX ISA 9.0 (texts up to 9.4 are accepted).

pub(crate) mod ast;
mod body;
mod constant;
mod globals;
pub(crate) mod lexer;
mod names;
mod parser;
mod source;
mod variable;
mod vector_register;

pub use ast::Linkage;
pub(crate) use globals::number_bits;
pub use globals::{Global, GlobalSpace, Relocation};
pub use source::Sources;

use std::sync::Arc;

use crate::error::PtxError;

/// A parsed module.
#[derive(Debug)]
pub struct Module {
    version: (u32, u32),
    target: String,
    pub(crate) words: Vec<Box<str>>,
    pub(crate) variables: Vec<ast::Variable>,
    pub(crate) functions: Vec<ast::Function>,
    /// `.alias`: where, another name, and the function that it names.
    pub(crate) aliases: Vec<(lexer::Pos, lexer::Sym, lexer::Sym)>,
    globals: Vec<Global>,
    sources: Arc<Sources>,
}

impl Module {
    /// `.version`: major and minor.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// `.target`, such as `sm_90a`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The module's `.global` and `.const` variables, in order of declaration.
    #[must_use]
    pub fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// Where its lines come from.
    #[must_use]
    pub fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    /// The names of the entries, in order of definition.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.functions
            .iter()
            .filter(|f| f.entry && f.body.is_some())
            .map(|f| self.word(f.name))
    }

    /// The address that `mov` of a function's name gives: what an initialiser with the name holds.
    #[must_use]
    pub fn function_address(&self, name: &str) -> Option<u64> {
        let named = |f: &ast::Function| self.word(f.name) == name;
        let defined = self
            .functions
            .iter()
            .position(|f| named(f) && f.body.is_some());
        let index = defined.or_else(|| self.functions.iter().position(named));
        index.map(crate::ir::function_address)
    }

    pub(crate) fn word(&self, sym: lexer::Sym) -> &str {
        self.words.get(sym.0 as usize).map_or("?", |word| word)
    }
}

/// Parses a PTX module.
///
/// # Errors
/// [`PtxError::Syntax`] where the text is not PTX, [`PtxError::Unsupported`] for directives and
/// declarations that softgpu does not implement, both with line and column. Instructions are
/// checked by [`crate::ir::lower::lower`].
pub fn parse(text: &str) -> Result<Module, PtxError> {
    let mut parser = parser::Parser::new(text)?;
    let mut parsed = parser.module()?;
    let Some(version) = parsed.version else {
        return Err(lexer::Pos { line: 1, column: 1 }.syntax("`.version` is missing"));
    };
    let sources = Arc::new(parser.sources);
    let mut words = parser.lexer.names.into_words();
    if parser.has_vectors {
        vector_register::expand(&mut parsed.functions, &mut words);
    }
    let word = |sym: lexer::Sym| words.get(sym.0 as usize).map_or("?", |w| w);
    names::check(&parsed, &word)?;
    let globals = globals::collect(&parsed, &word)?;
    Ok(Module {
        version,
        target: parsed.target,
        words,
        variables: parsed.variables,
        functions: parsed.functions,
        aliases: parsed.aliases,
        globals,
        sources,
    })
}
