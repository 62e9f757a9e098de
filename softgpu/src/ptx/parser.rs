//! Recursive descent over the tokens of a module: directives, functions and their headers.
//! Statements and operands are in [`body`](super::body), variables in
//! [`variable`](super::variable).
//!
//! Nothing is recursive in the depth of the input, so hostile text cannot exhaust the stack.
//! Debugging sections are skipped ([`source`](super::source) has `.file` and `.loc`); a directive that is not known is
//! an error. Source: PTX ISA 9.0, "Directives".

use super::ast::{Function, Linkage, Signature, Variable};
use super::lexer::{Lexer, Pos, Sym, Tok, Token};
use super::source::Sources;
use crate::error::PtxError;

pub(crate) struct Parser<'a> {
    pub(crate) lexer: Lexer<'a>,
    /// The token under the cursor.
    pub(crate) token: Token,
    pub(crate) sources: Sources,
    /// There are registers that are vectors.
    pub(crate) has_vectors: bool,
}

/// Everything a text declares.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) version: Option<(u32, u32)>,
    pub(crate) target: String,
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
    /// Where it is said, another name, and the function that it names.
    pub(crate) aliases: Vec<(Pos, Sym, Sym)>,
}

/// Architectures whose code an H100 can run (the "f" ones are all newer).
const TARGETS: [&str; 26] = [
    "10", "11", "12", "13", "20", "21", "30", "32", "35", "37", "50", "52", "53", "60", "61", "62",
    "70", "72", "75", "80", "86", "87", "88", "89", "90", "90a",
];
const TARGET_OPTIONS: [&str; 4] = [
    "debug",
    "map_f64_to_f32",
    "texmode_independent",
    "texmode_unified",
];

fn is_target(word: &str) -> bool {
    let architecture = word.strip_prefix("sm_").or(word.strip_prefix("compute_"));
    architecture.is_some_and(|name| TARGETS.contains(&name))
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, PtxError> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Self {
            lexer,
            token,
            sources: Sources::default(),
            has_vectors: false,
        })
    }

    pub(crate) fn name(&self, sym: Sym) -> &'a str {
        self.lexer.names.get(sym)
    }

    pub(crate) fn pos(&self) -> Pos {
        self.token.pos
    }

    /// Moves on and returns the token that was under the cursor.
    pub(crate) fn advance(&mut self) -> Result<Token, PtxError> {
        let token = self.token;
        self.token = self.lexer.next()?;
        Ok(token)
    }

    pub(crate) fn describe(&self) -> String {
        match self.token.tok {
            Tok::Word(sym) | Tok::Directive(sym) => format!("`{}`", self.name(sym)),
            Tok::Int(value) => format!("`{value}`"),
            Tok::F32(bits) => format!("`0f{bits:08X}`"),
            Tok::F64(bits) => format!("`0d{bits:016X}`"),
            Tok::Str(_) => "a string".into(),
            Tok::Punct(byte) => format!("`{}`", char::from(byte)),
            Tok::End => "the end of the text".into(),
        }
    }

    pub(crate) fn expected<T>(&self, what: &str) -> Result<T, PtxError> {
        let found = self.describe();
        Err(self.pos().syntax(format!("expected {what}, found {found}")))
    }

    pub(crate) fn at(&self, byte: u8) -> bool {
        self.token.tok == Tok::Punct(byte)
    }

    /// Consumes the punctuation if it is there.
    pub(crate) fn accept(&mut self, byte: u8) -> Result<bool, PtxError> {
        let found = self.at(byte);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), PtxError> {
        if self.accept(byte)? {
            return Ok(());
        }
        self.expected(&format!("`{}`", char::from(byte)))
    }

    pub(crate) fn expect_word(&mut self, what: &str) -> Result<Sym, PtxError> {
        if let Tok::Word(sym) = self.token.tok {
            self.advance()?;
            return Ok(sym);
        }
        self.expected(what)
    }

    pub(crate) fn expect_u32(&mut self, what: &str) -> Result<u32, PtxError> {
        let pos = self.pos();
        if let Tok::Int(value) = self.token.tok {
            self.advance()?;
            return u32::try_from(value)
                .map_err(|_| pos.syntax(format!("{what} {value} does not fit 32 bits")));
        }
        self.expected(what)
    }

    fn expect_positive(&mut self, what: &str) -> Result<u32, PtxError> {
        let pos = self.pos();
        match self.expect_u32(what)? {
            0 => Err(pos.syntax(format!("{what} must not be 0"))),
            number => Ok(number),
        }
    }

    /// The directive under the cursor.
    pub(crate) fn directive(&self) -> Option<&'a str> {
        match self.token.tok {
            Tok::Directive(sym) => Some(self.name(sym)),
            _ => None,
        }
    }

    /// Parses the whole module.
    pub(crate) fn module(&mut self) -> Result<Parsed, PtxError> {
        let mut parsed = Parsed::default();
        loop {
            if self.token.tok == Tok::End {
                return Ok(parsed);
            }
            let Some(directive) = self.directive() else {
                return self.expected("a directive");
            };
            self.module_item(directive, &mut parsed)?;
        }
    }

    fn module_item(&mut self, directive: &str, parsed: &mut Parsed) -> Result<(), PtxError> {
        match directive {
            ".version" => {
                self.advance()?;
                parsed.version = Some(self.version()?);
            }
            ".target" => {
                self.advance()?;
                parsed.target = self.target()?;
            }
            ".address_size" => {
                let pos = self.pos();
                self.advance()?;
                if self.expect_u32("an address size")? != 64 {
                    return Err(pos.unsupported("`.address_size` other than 64"));
                }
            }
            ".file" | ".loc" | ".section" | ".pragma" => self.hint(directive)?,
            ".alias" => {
                let pos = self.advance()?.pos;
                let alias = self.expect_word("a function")?;
                self.expect(b',')?;
                let target = self.expect_word("a function")?;
                self.expect(b';')?;
                parsed.aliases.push((pos, alias, target));
            }
            _ => {
                let linkage = self.linkage()?;
                match self.directive() {
                    Some(".entry" | ".func") => {
                        let function = self.function(linkage)?;
                        parsed.functions.push(function);
                    }
                    Some(_) => self.variables(linkage, &mut parsed.variables)?,
                    None => return self.expected("a declaration"),
                }
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(u32, u32), PtxError> {
        let pos = self.pos();
        let Tok::F64(bits) = self.token.tok else {
            return self.expected("a version such as `9.0`");
        };
        self.advance()?;
        // `9.0` is lexed as a decimal fraction; minor versions have one digit.
        let tenths = (f64::from_bits(bits) * 10.0).round();
        if !(10.0..=94.0).contains(&tenths) {
            return Err(pos.unsupported(format!("PTX version {}", tenths / 10.0)));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked above"
        )]
        let tenths = tenths as u32;
        Ok((tenths / 10, tenths % 10))
    }

    fn target(&mut self) -> Result<String, PtxError> {
        let pos = self.pos();
        let target = self.expect_word("a target")?;
        let target = self.name(target);
        if !is_target(target) {
            return Err(pos.unsupported(format!("`.target {target}`")));
        }
        while self.accept(b',')? {
            let pos = self.pos();
            let option = self.expect_word("a target option")?;
            let option = self.name(option);
            if !is_target(option) && !TARGET_OPTIONS.contains(&option) {
                return Err(pos.unsupported(format!("target option `{option}`")));
            }
        }
        Ok(target.to_owned())
    }

    pub(crate) fn linkage(&mut self) -> Result<Linkage, PtxError> {
        let mut linkage = Linkage::Internal;
        loop {
            linkage = match self.directive() {
                Some(".visible") => Linkage::Visible,
                Some(".weak" | ".common") => Linkage::Weak,
                Some(".extern") => Linkage::External,
                _ => return Ok(linkage),
            };
            self.advance()?;
        }
    }

    /// Reads a directive without meaning for execution; the cursor stands on it.
    pub(crate) fn hint(&mut self, directive: &str) -> Result<(), PtxError> {
        match directive {
            ".file" => self.file()?,
            ".loc" => self.loc()?,
            ".pragma" => {
                while !self.at(b';') {
                    if self.token.tok == Tok::End {
                        return self.expected("`;`");
                    }
                    self.advance()?;
                }
                self.advance()?;
            }
            _ => {
                while !self.at(b'{') {
                    if self.token.tok == Tok::End {
                        return self.expected("`{`");
                    }
                    self.advance()?;
                }
                while !self.at(b'}') {
                    if self.token.tok == Tok::End {
                        return self.expected("`}`");
                    }
                    self.advance()?;
                }
                self.advance()?;
            }
        }
        Ok(())
    }

    fn function(&mut self, linkage: Linkage) -> Result<Function, PtxError> {
        let pos = self.pos();
        self.sources.begin(pos.line);
        let entry = self.directive() == Some(".entry");
        self.advance()?;
        let returns = if entry {
            Vec::new()
        } else {
            self.optional_parameters()?
        };
        let name = self.expect_word("a function name")?;
        let params = self.optional_parameters()?;
        let mut function = Function {
            name,
            pos,
            entry,
            signature: Signature { returns, params },
            max_threads: None,
            req_threads: None,
            req_cluster: None,
            max_registers: None,
            min_ctas: None,
            body: None,
        };
        self.function_directives(&mut function)?;
        if self.accept(b';')? {
            return Ok(function);
        }
        if linkage == Linkage::External {
            return self.expected("`;` after an external declaration");
        }
        self.expect(b'{')?;
        function.body = Some(self.body()?);
        Ok(function)
    }

    /// `(…)`, or nothing.
    pub(crate) fn optional_parameters(&mut self) -> Result<Vec<Variable>, PtxError> {
        let mut params = Vec::new();
        if !self.accept(b'(')? {
            return Ok(params);
        }
        while !self.at(b')') {
            if !matches!(self.directive(), Some(".param" | ".reg")) {
                return self.expected("`.param`");
            }
            params.push(self.parameter()?);
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b')')?;
        Ok(params)
    }

    fn function_directives(&mut self, function: &mut Function) -> Result<(), PtxError> {
        while let Some(directive) = self.directive() {
            let pos = self.pos();
            match directive {
                ".maxntid" => {
                    self.advance()?;
                    function.max_threads = Some(self.extent(Self::expect_positive)?);
                }
                ".reqntid" => {
                    self.advance()?;
                    function.req_threads = Some(self.extent(Self::expect_positive)?);
                }
                ".reqnctapercluster" => {
                    self.advance()?;
                    function.req_cluster = Some(self.extent(Self::expect_u32)?);
                }
                ".maxnreg" => {
                    self.advance()?;
                    function.max_registers = Some(self.expect_positive("a register count")?);
                }
                ".minnctapersm" => {
                    self.advance()?;
                    function.min_ctas = Some(self.expect_positive("a count")?);
                }
                ".maxnctapersm" | ".maxclusterrank" => {
                    self.advance()?;
                    self.expect_u32("a count")?;
                }
                ".explicitcluster" | ".blocksareclusters" | ".noreturn" => {
                    self.advance()?;
                }
                ".abi_preserve" | ".abi_preserve_control" => {
                    self.advance()?;
                    self.expect_u32("a register count")?;
                }
                ".pragma" | ".loc" | ".file" => self.hint(directive)?,
                _ => return Err(pos.unsupported(format!("directive `{directive}`"))),
            }
        }
        Ok(())
    }

    fn extent(
        &mut self,
        number: fn(&mut Self, &str) -> Result<u32, PtxError>,
    ) -> Result<[u32; 3], PtxError> {
        let mut extent = [1; 3];
        for (axis, extent) in extent.iter_mut().enumerate() {
            if axis > 0 && !self.accept(b',')? {
                break;
            }
            *extent = number(self, "an extent")?;
        }
        Ok(extent)
    }
}
