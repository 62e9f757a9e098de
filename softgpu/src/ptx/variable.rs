//! Variables: `.global .align 8 .u32 name[4] = {1, 2};` in every state space, and `.reg`.

use super::ast::{Init, Linkage, Number, RegDecl, Variable};
use super::lexer::{Sym, Tok};
use super::parser::Parser;
use crate::error::PtxError;
use crate::ir::{Space, Ty};

/// Fundamental types that may be declared.
pub(crate) fn declared_type(directive: &str) -> Option<Ty> {
    Some(match directive {
        ".pred" => Ty::Pred,
        ".b8" => Ty::B8,
        ".u8" => Ty::U8,
        ".s8" => Ty::S8,
        ".b16" => Ty::B16,
        ".u16" => Ty::U16,
        ".s16" => Ty::S16,
        ".f16" => Ty::F16,
        ".bf16" => Ty::BF16,
        ".b32" => Ty::B32,
        ".u32" => Ty::U32,
        ".s32" => Ty::S32,
        ".f32" => Ty::F32,
        ".f16x2" => Ty::F16x2,
        ".bf16x2" => Ty::BF16x2,
        ".b64" => Ty::B64,
        ".u64" => Ty::U64,
        ".s64" => Ty::S64,
        ".f64" => Ty::F64,
        ".b128" => Ty::B128,
        _ => return None,
    })
}

fn declared_space(directive: &str) -> Option<Space> {
    Some(match directive {
        ".global" => Space::Global,
        ".shared" => Space::Shared,
        ".const" => Space::Const,
        ".local" => Space::Local,
        // A `.reg` parameter; other registers have statements of their own.
        ".param" | ".reg" => Space::Param,
        _ => return None,
    })
}

/// What stands before the name of a variable.
struct Head {
    space: Space,
    register: bool,
    managed: bool,
    /// A texture, sampler or surface reference.
    opaque: bool,
    linkage: Linkage,
    ty: Ty,
    align: u32,
    vector: u64,
}

impl Parser<'_> {
    /// `.space [.align n] [.v2] .type name[…] [= …] [, name…] ;` with the cursor on the space.
    pub(crate) fn variables(
        &mut self,
        linkage: Linkage,
        out: &mut Vec<Variable>,
    ) -> Result<(), PtxError> {
        let head = self.head(linkage)?;
        if head.opaque {
            // Declared only: instructions that use it are not supported.
            while !self.at(b';') && self.token.tok != Tok::End {
                self.advance()?;
            }
            return self.expect(b';');
        }
        loop {
            let variable = self.declarator(&head)?;
            out.push(variable);
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';')
    }

    /// One `.param` of a function header.
    pub(crate) fn parameter(&mut self) -> Result<Variable, PtxError> {
        let pos = self.pos();
        let head = self.head(Linkage::Internal)?;
        if head.opaque {
            return Err(pos.unsupported("texture, sampler or surface parameter"));
        }
        self.declarator(&head)
    }

    fn head(&mut self, linkage: Linkage) -> Result<Head, PtxError> {
        let pos = self.pos();
        let directive = self.directive().unwrap_or("");
        let Some(space) = declared_space(directive) else {
            return Err(pos.unsupported(format!("directive `{directive}`")));
        };
        self.advance()?;
        let mut head = Head {
            space,
            register: directive == ".reg",
            managed: false,
            opaque: false,
            linkage,
            ty: Ty::B8,
            align: 0,
            vector: 1,
        };
        let mut typed = false;
        while let Some(directive) = self.directive() {
            let pos = self.pos();
            self.advance()?;
            match directive {
                ".align" => head.align = self.alignment()?,
                ".v2" => head.vector = 2,
                ".v4" => head.vector = 4,
                ".texref" | ".samplerref" | ".surfref" if !typed && space == Space::Global => {
                    head.opaque = true;
                    typed = true;
                }
                ".attribute" => head.managed |= self.attributes()?,
                // What a pointer parameter points to: `.ptr .global .align 16`.
                ".ptr" => self.pointee()?,
                _ => match declared_type(directive) {
                    Some(ty) if (ty != Ty::Pred || head.register) && !typed => {
                        head.ty = ty;
                        typed = true;
                    }
                    _ => return Err(pos.unsupported(format!("directive `{directive}`"))),
                },
            }
        }
        if !typed {
            return self.expected("a type");
        }
        Ok(head)
    }

    /// `(.managed, .unified(a, b))`: whether `.managed` is among them.
    fn attributes(&mut self) -> Result<bool, PtxError> {
        self.expect(b'(')?;
        let mut managed = false;
        loop {
            let pos = self.pos();
            let attribute = self.directive().unwrap_or("");
            match attribute {
                ".managed" => managed = true,
                ".unified" => {}
                _ => return Err(pos.unsupported(format!("attribute `{attribute}`"))),
            }
            self.advance()?;
            if attribute == ".unified" && self.accept(b'(')? {
                self.constant()?;
                self.expect(b',')?;
                self.constant()?;
                self.expect(b')')?;
            }
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b')')?;
        Ok(managed)
    }

    fn alignment(&mut self) -> Result<u32, PtxError> {
        let pos = self.pos();
        let align = self.expect_u32("an alignment")?;
        if !align.is_power_of_two() || align > 1 << 20 {
            return Err(pos.syntax(format!(
                "alignment {align} is not a power of two up to 2^20"
            )));
        }
        Ok(align)
    }

    fn pointee(&mut self) -> Result<(), PtxError> {
        if matches!(
            self.directive(),
            Some(".global" | ".shared" | ".const" | ".local" | ".generic")
        ) {
            self.advance()?;
        }
        if self.directive() == Some(".align") {
            self.advance()?;
            self.alignment()?;
        }
        Ok(())
    }

    fn declarator(&mut self, head: &Head) -> Result<Variable, PtxError> {
        let pos = self.pos();
        let name = self.expect_word("a variable name")?;
        let mut extents: Vec<u64> = Vec::new();
        let mut unsized_array = false;
        while self.accept(b'[')? {
            if self.accept(b']')? {
                unsized_array = true;
                continue;
            }
            extents.push(self.expect_u32("an array extent")?.into());
            self.expect(b']')?;
        }
        let inner = extents
            .iter()
            .copied()
            .fold(head.vector, u64::saturating_mul);
        // What one element holds of the outermost list, of the lists in it, and so on.
        let mut strides: Vec<u64> = vec![1];
        let within = extents.iter().skip(usize::from(!unsized_array)).rev();
        let vector = (head.vector > 1).then_some(&head.vector);
        for extent in vector.into_iter().chain(within) {
            let last = strides.last().copied().unwrap_or(1);
            strides.push(last.saturating_mul(*extent));
        }
        let (init, given) = self.initialiser(&strides)?;
        let elements = if unsized_array {
            given.next_multiple_of(inner.max(1))
        } else {
            inner
        };
        let size = elements.saturating_mul(u64::from(head.ty.bytes()));
        if size > 1 << 40 {
            return Err(pos.syntax("variable is larger than 2^40 bytes"));
        }
        let natural = head.ty.bytes() * u32::try_from(head.vector).unwrap_or(1);
        Ok(Variable {
            name,
            pos,
            linkage: head.linkage,
            space: head.space,
            register: head.register,
            managed: head.managed,
            ty: head.ty,
            align: head.align.max(if head.align == 0 { natural } else { 1 }),
            size,
            unsized_array: unsized_array && init.is_empty(),
            init,
        })
    }

    /// The elements of an initialiser in order, and how many. `strides` holds the elements that a
    /// list spans, innermost first; an inner list that is shorter is padded.
    fn initialiser(&mut self, strides: &[u64]) -> Result<(Vec<Init>, u64), PtxError> {
        let mut init = Vec::new();
        let mut count: u64 = 0;
        if !self.accept(b'=')? {
            return Ok((init, 0));
        }
        if !self.at(b'{') {
            init.push(self.init_element()?);
            return Ok((init, 1));
        }
        // Where the open lists began.
        let mut open: Vec<u64> = Vec::new();
        loop {
            if self.at(b'{') {
                let pos = self.pos();
                if open.len() >= strides.len() {
                    return Err(pos.syntax("initialiser is nested more deeply than its variable"));
                }
                self.advance()?;
                open.push(count);
                if !self.at(b'}') {
                    continue;
                }
            } else {
                init.push(self.init_element()?);
                count += 1;
            }
            while !self.accept(b',')? || self.at(b'}') {
                self.expect(b'}')?;
                let Some(start) = open.pop() else {
                    return Ok((init, count));
                };
                if open.is_empty() {
                    return Ok((init, count));
                }
                let span = strides.len().checked_sub(open.len());
                let span = span.and_then(|index| strides.get(index)).copied();
                let missing = start
                    .saturating_add(span.unwrap_or(1))
                    .saturating_sub(count);
                if missing > 0 {
                    init.push(Init::Pad(missing));
                    count += missing;
                }
            }
        }
    }

    fn init_element(&mut self) -> Result<Init, PtxError> {
        let pos = self.pos();
        if let Tok::Word(_) = self.token.tok {
            let (symbol, addend) = self.symbol_address()?;
            return Ok(Init::Symbol(symbol, addend));
        }
        let number = self.constant()?;
        if !self.accept(b'(')? {
            return Ok(Init::Number(number));
        }
        let (symbol, addend) = self.symbol_address()?;
        self.expect(b')')?;
        match number {
            Number::Int(mask) if mask != 0 && mask.trailing_zeros() % 8 == 0 => {
                let byte = mask.trailing_zeros() / 8;
                if mask >> (byte * 8) == 0xff {
                    return Ok(Init::Byte(symbol, addend, byte));
                }
                Err(pos.syntax("a mask of an address selects one byte"))
            }
            _ => Err(pos.syntax("a mask of an address selects one byte")),
        }
    }

    /// `symbol`, `generic(symbol)`, with an offset.
    fn symbol_address(&mut self) -> Result<(Sym, i64), PtxError> {
        let mut symbol = self.expect_word("a symbol")?;
        if self.name(symbol) == "generic" && self.accept(b'(')? {
            symbol = self.expect_word("a symbol")?;
            self.expect(b')')?;
        }
        Ok((symbol, self.offset()?))
    }

    /// `.reg [.v2] .type name, name<count>;` with the cursor after `.reg`.
    pub(crate) fn registers(&mut self, out: &mut Vec<RegDecl>) -> Result<(), PtxError> {
        let pos = self.pos();
        let vector = match self.directive() {
            Some(".v2") => 2,
            Some(".v4") => 4,
            _ => 1,
        };
        if vector > 1 {
            self.has_vectors = true;
            self.advance()?;
        }
        let Some(directive) = self.directive() else {
            return self.expected("a register type");
        };
        let Some(ty) = declared_type(directive) else {
            return Err(pos.unsupported(format!("register type `{directive}`")));
        };
        if vector > 1 && (ty == Ty::Pred || vector * ty.bytes() > 16) {
            return Err(pos.syntax("a vector of predicates or of more than 128 bits"));
        }
        self.advance()?;
        loop {
            let name: Sym = self.expect_word("a register name")?;
            let mut count = None;
            if self.accept(b'<')? {
                let pos = self.pos();
                let found = self.expect_u32("a register count")?;
                // Each vector is written out.
                let most = if vector > 1 { 1 << 16 } else { 1 << 22 };
                if found > most {
                    return Err(pos.syntax(format!("{found} registers are more than {most}")));
                }
                count = Some(found);
                self.expect(b'>')?;
            }
            out.push(RegDecl {
                name,
                ty,
                count,
                vector,
            });
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';')
    }
}
