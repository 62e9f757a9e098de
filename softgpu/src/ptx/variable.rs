//! Variables: `.global .align 8 .u32 name[4] = {1, 2};` in every state space, and `.reg`.

use super::ast::{Init, Linkage, Number, RegDecl, Variable};
use super::lexer::{Pos, Sym, Tok};
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
        let head = self.head(Linkage::Internal)?;
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
        let mut elements: u64 = head.vector;
        let mut unsized_array = false;
        while self.accept(b'[')? {
            if self.accept(b']')? {
                unsized_array = true;
                continue;
            }
            let extent = self.expect_u32("an array extent")?;
            elements = elements.saturating_mul(u64::from(extent));
            self.expect(b']')?;
        }
        let init = self.initialiser(pos)?;
        if unsized_array {
            elements = init.len() as u64;
        }
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
            ty: head.ty,
            align: head.align.max(if head.align == 0 { natural } else { 1 }),
            size,
            unsized_array: unsized_array && init.is_empty(),
            init,
        })
    }

    fn initialiser(&mut self, pos: Pos) -> Result<Vec<Init>, PtxError> {
        let mut init = Vec::new();
        if !self.accept(b'=')? {
            return Ok(init);
        }
        if !self.accept(b'{')? {
            init.push(self.init_element()?);
            return Ok(init);
        }
        while !self.at(b'}') {
            if self.at(b'{') {
                return Err(pos.unsupported("nested initialiser"));
            }
            init.push(self.init_element()?);
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b'}')?;
        Ok(init)
    }

    fn init_element(&mut self) -> Result<Init, PtxError> {
        let pos = self.pos();
        let Tok::Word(mut symbol) = self.token.tok else {
            let number = self.number()?;
            if self.at(b'(') {
                return Err(pos.unsupported("masked symbol address in an initialiser"));
            }
            return Ok(Init::Number(number));
        };
        self.advance()?;
        if self.name(symbol) == "generic" && self.accept(b'(')? {
            symbol = self.expect_word("a symbol")?;
            self.expect(b')')?;
        }
        let addend = self.offset()?;
        Ok(Init::Symbol(symbol, addend))
    }

    /// `.reg .type name, name<count>;` with the cursor after `.reg`.
    pub(crate) fn registers(&mut self, out: &mut Vec<RegDecl>) -> Result<(), PtxError> {
        let pos = self.pos();
        let Some(directive) = self.directive() else {
            return self.expected("a register type");
        };
        let Some(ty) = declared_type(directive) else {
            return Err(pos.unsupported(format!("register type `{directive}`")));
        };
        self.advance()?;
        loop {
            let name: Sym = self.expect_word("a register name")?;
            let mut count = None;
            if self.accept(b'<')? {
                let pos = self.pos();
                let found = self.expect_u32("a register count")?;
                if found > 1 << 22 {
                    return Err(pos.syntax(format!("{found} registers are more than 2^22")));
                }
                count = Some(found);
                self.expect(b'>')?;
            }
            out.push(RegDecl { name, ty, count });
            if !self.accept(b',')? {
                break;
            }
        }
        self.expect(b';')
    }

    /// A signed constant.
    pub(crate) fn number(&mut self) -> Result<Number, PtxError> {
        let mut negative = false;
        let mut complement = false;
        loop {
            if self.accept(b'-')? {
                negative = !negative;
            } else if self.accept(b'~')? {
                complement = !complement;
            } else if !self.accept(b'+')? {
                break;
            }
        }
        let number = match self.token.tok {
            Tok::Int(value) => {
                let value = if negative {
                    value.wrapping_neg()
                } else {
                    value
                };
                Number::Int(if complement { !value } else { value })
            }
            _ if complement => return self.expected("an integer"),
            Tok::F32(bits) => Number::F32(if negative { bits ^ (1 << 31) } else { bits }),
            Tok::F64(bits) => Number::F64(if negative { bits ^ (1 << 63) } else { bits }),
            _ => return self.expected("a number"),
        };
        self.advance()?;
        Ok(number)
    }

    /// `+imm`, `-imm`, `+-imm`, or nothing.
    pub(crate) fn offset(&mut self) -> Result<i64, PtxError> {
        let mut offset: i64 = 0;
        while self.at(b'+') || self.at(b'-') {
            let pos = self.pos();
            match self.number()? {
                Number::Int(value) => offset = offset.wrapping_add(value.cast_signed()),
                _ => return Err(pos.syntax("an offset must be an integer")),
            }
        }
        Ok(offset)
    }
}
