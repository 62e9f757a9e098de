//! Operands: from what is written to typed registers and constants, by the roles of the table.

mod address;
mod fragment;

use smallvec::{SmallVec, smallvec};

use crate::error::PtxError;
use crate::ir::decode::Fixed;
use crate::ir::decode::modifiers::Mods;
use crate::ir::decode::pattern::{In, Role, Width};
use crate::ir::{Class, FloatMod, Instr, IntOp, Op, Operand as Value, Reg, Space, Special, Ty};
use crate::ptx::ast::{Instruction, Number, Operand};
use crate::ptx::lexer::{Pos, Sym};
use crate::ptx::number_bits;

use super::VReg;
use super::body::Builder;
use super::names::Binding;
use super::special::special_bytes;

/// An instruction with what normal form needs around it.
pub(super) struct Lowered {
    pub(super) before: Vec<Instr>,
    pub(super) instr: Instr,
    pub(super) after: Vec<Instr>,
}

/// Collects the operands of one instruction.
pub(super) struct Gather<'b, 'c, 'm> {
    builder: &'b mut Builder<'c, 'm>,
    mods: &'b Mods,
    pub(super) pos: Pos,
    before: Vec<Instr>,
    after: Vec<Instr>,
    dst: SmallVec<[Reg; 2]>,
    src: SmallVec<[Value; 4]>,
    pub(super) fixed: Fixed,
    /// A special register may stand for a value.
    reads_specials: bool,
}

/// Whether the values that an instruction reads may be special registers, as they may in `cvt` and
/// in an unpacking `mov` (a plain `mov` has a row of its own).
fn reads_specials(opcode: &str, operands: &[Operand]) -> bool {
    let unpacks = matches!(operands.first(), Some(Operand::Vector(_)));
    opcode.starts_with("cvt.") || opcode.starts_with("mov.") && unpacks
}

impl Builder<'_, '_> {
    /// Decodes an instruction and resolves its operands.
    pub(super) fn operation(&mut self, instruction: &Instruction) -> Result<Lowered, PtxError> {
        let context = self.context;
        let candidates = context.candidates(instruction.opcode);
        let written = || context.module.word(instruction.opcode);
        if candidates.is_empty() {
            return Err(instruction.pos.unsupported(format!("`{}`", written())));
        }
        let mut refused = None;
        let converts = reads_specials(written(), &instruction.operands);
        for (form, mods) in candidates.iter() {
            let is_special = |operand: &Operand| match operand {
                Operand::Name(sym) => {
                    !converts && context.special(*sym).is_some() && self.names.get(*sym).is_none()
                }
                _ => false,
            };
            let Some(roles) = form
                .operands
                .assign(mods, &instruction.operands, &is_special)
            else {
                continue;
            };
            let mut gather = Gather::new(self, mods, instruction.pos);
            gather.reads_specials = converts;
            let mut roles = roles.into_iter();
            if let Err(error) = roles.try_for_each(|(role, operand)| gather.operand(role, operand))
            {
                // Another row may take operands of other types.
                refused = refused.or(Some(error));
                continue;
            }
            gather.fixed.sources = gather.src.len();
            gather.fixed.destinations = gather.dst.len();
            if let Some(op) = (form.build)(mods, &gather.fixed) {
                return gather.finish(op);
            }
        }
        let what = format!("`{}` with these modifiers and operands", written());
        Err(refused.unwrap_or_else(|| instruction.pos.unsupported(what)))
    }
}

impl Builder<'_, '_> {
    /// A value that is read outside of the table's instructions.
    pub(super) fn value(&mut self, pos: Pos, operand: &Operand, ty: Ty) -> Result<Value, PtxError> {
        let mods = Mods::default();
        let mut gather = Gather::new(self, &mods, pos);
        gather.source(operand, ty)?;
        let (before, value) = (std::mem::take(&mut gather.before), gather.src.pop());
        before.into_iter().for_each(|instr| self.push(instr));
        value.ok_or_else(|| pos.syntax("a value is wanted here"))
    }

    /// A register that is written outside of the table's instructions.
    pub(super) fn target(&mut self, pos: Pos, operand: &Operand, ty: Ty) -> Result<Reg, PtxError> {
        let mods = Mods::default();
        let mut gather = Gather::new(self, &mods, pos);
        gather.destination(operand, ty)?;
        let reg = gather.dst.pop();
        reg.ok_or_else(|| pos.syntax("a register is wanted here"))
    }
}

impl<'b, 'c, 'm> Gather<'b, 'c, 'm> {
    fn new(builder: &'b mut Builder<'c, 'm>, mods: &'b Mods, pos: Pos) -> Self {
        Self {
            builder,
            mods,
            pos,
            before: Vec::new(),
            after: Vec::new(),
            dst: SmallVec::new(),
            src: SmallVec::new(),
            fixed: Fixed::default(),
            reads_specials: false,
        }
    }

    fn finish(mut self, op: Op) -> Result<Lowered, PtxError> {
        if let (Op::Special(special), Some(&reg)) = (&op, self.dst.first()) {
            self.special_width(*special, reg)?;
        }
        Ok(Lowered {
            instr: Instr {
                op,
                guard: None,
                dst: self.dst,
                src: self.src,
                line: self.pos.line,
            },
            before: self.before,
            after: self.after,
        })
    }

    /// Reads a special register through a temporary of its own width where PTX allows another one.
    fn special_width(&mut self, special: Special, reg: Reg) -> Result<(), PtxError> {
        let bytes = self.builder.registers[reg.slot as usize].bytes;
        let (to, from) = match (special_bytes(special), bytes) {
            (8, 4) if special == Special::Gridid => (Ty::U32, Ty::U64),
            (4, 2) => (Ty::U16, Ty::U32),
            (own, _) if own == bytes => return Ok(()),
            (own, _) => {
                let message = format!("{special:?} has {} bits, not {}", own * 8, bytes * 8);
                return Err(self.pos.syntax(message));
            }
        };
        let temporary = self.temporary(from);
        self.dst[0] = temporary;
        let convert = self.conversion(to, from, reg, temporary);
        self.after.push(convert);
        Ok(())
    }

    pub(super) fn word(&self, sym: Sym) -> &'m str {
        self.builder.context.module.word(sym)
    }

    fn temporary(&mut self, ty: Ty) -> Reg {
        let vreg = VReg::of(ty);
        let slot = self.builder.new_register(vreg);
        Reg {
            class: vreg.class,
            slot,
        }
    }

    fn conversion(&self, to: Ty, from: Ty, dst: Reg, src: Reg) -> Instr {
        Instr {
            op: Op::Cvt {
                to,
                from,
                modifiers: FloatMod::default(),
                satfinite: false,
                relu: false,
            },
            guard: None,
            dst: smallvec![dst],
            src: smallvec![Value::Reg(src)],
            line: self.pos.line,
        }
    }

    fn ty(&self, width: Width) -> Ty {
        match width {
            Width::Type(index) => self.mods.ty(index),
            Width::Wide => match self.mods.ty(0) {
                Ty::U16 => Ty::U32,
                Ty::S16 => Ty::S32,
                Ty::U32 => Ty::U64,
                _ => Ty::S64,
            },
            Width::Pred => Ty::Pred,
            Width::U16 => Ty::U16,
            Width::U32 => Ty::U32,
            Width::S32 => Ty::S32,
            Width::U64 => Ty::U64,
        }
    }

    fn operand(&mut self, role: Role, operand: &Operand) -> Result<(), PtxError> {
        match role {
            Role::Dst(width) => self.destination(operand, self.ty(width)),
            Role::DstPred(width) => self.destination_pair(operand, self.ty(width)),
            Role::DstOrNone(width) => {
                if self.is_sink(operand) {
                    return Ok(());
                }
                self.destination(operand, self.ty(width))
            }
            Role::Src(width) => self.source(operand, self.ty(width)),
            Role::WideSrc(width) => self.wide_source(operand, self.ty(width)),
            Role::Generic => self.generic_source(operand),
            Role::WideDst(width) => self.wide_destination(operand, self.ty(width)),
            // `atom.v2` whose results nobody wants.
            Role::VecDst if self.mods.vec > 1 && self.is_sink(operand) => Ok(()),
            Role::VecDst => self.vector(operand, Self::load_destination),
            Role::VecSrc => self.vector(operand, Self::wide_source),
            Role::Unpack => self.unpack(operand),
            Role::Pack => self.pack(operand),
            Role::LaneSrc => self.lane_source(operand),
            Role::LaneDst => self.lane_destination(operand),
            Role::Special => {
                if let Operand::Name(sym) = operand {
                    self.fixed.special = self.builder.context.special(*sym);
                }
                Ok(())
            }
            Role::Address(place) => {
                let offset = self.address(operand, self.place(place))?;
                self.fixed.offsets.push(offset);
                Ok(())
            }
            Role::Folded(place) => self.folded(operand, self.place(place)),
            Role::Tensor => self.tensor(operand),
            Role::Const => self.constant(operand),
            Role::Policy => {
                self.source(operand, Ty::U64)?;
                self.src.pop();
                Ok(())
            }
            Role::Ignored => Ok(()),
            Role::Label => self.label(operand),
            Role::Labels => self.labels(operand),
            Role::Accumulators => self.registers(operand, None, Self::destination),
            Role::WgmmaA => self.wgmma_a(operand),
            Role::Elect => self.elect(operand),
            Role::MatrixDst => self.registers(operand, Some(self.matrices()), Self::destination),
            Role::MatrixSrc => self.registers(operand, Some(self.matrices()), Self::source),
            Role::FragmentDst => self.fragment(operand, Self::destination),
            Role::FragmentSrc => self.fragment(operand, Self::source),
        }
    }

    fn place(&self, place: In) -> Space {
        match place {
            In::Modifier(index) => self.mods.space(index),
            In::Shared => Space::Shared,
            In::Generic => Space::Generic,
        }
    }

    fn is_sink(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Name(sym) if self.word(*sym) == "_")
    }

    /// The register that a name stands for.
    fn register(&self, sym: Sym) -> Result<(Reg, VReg), PtxError> {
        match self.builder.names.get(sym) {
            Some(Binding::Reg(slot)) => {
                let vreg = self.builder.registers[slot as usize];
                let class = vreg.class;
                Ok((Reg { class, slot }, vreg))
            }
            Some(_) => Err(self
                .pos
                .syntax(format!("`{}` is not a register", self.word(sym)))),
            None => Err(self
                .pos
                .syntax(format!("`{}` is not declared", self.word(sym)))),
        }
    }

    fn width_error(&self, sym: Sym, vreg: VReg, ty: Ty) -> PtxError {
        let has = match vreg.class {
            Class::Pred => "a predicate".to_owned(),
            _ => format!("{} bits wide", vreg.bytes * 8),
        };
        let wants = match ty {
            Ty::Pred => "a predicate".to_owned(),
            _ => format!("{} bits", ty.bytes() * 8),
        };
        let name = self.word(sym);
        self.pos
            .syntax(format!("register `{name}` is {has}, {wants} wanted"))
    }

    pub(super) fn destination(&mut self, operand: &Operand, ty: Ty) -> Result<(), PtxError> {
        let Operand::Name(sym) = operand else {
            return Err(self.pos.syntax("a destination must be a register"));
        };
        if self.is_sink(operand) {
            let reg = self.temporary(ty);
            self.dst.push(reg);
            return Ok(());
        }
        let (reg, vreg) = self.register(*sym)?;
        if vreg != VReg::of(ty) {
            return Err(self.width_error(*sym, vreg, ty));
        }
        self.dst.push(reg);
        Ok(())
    }

    /// `d` or `d|p`.
    fn destination_pair(&mut self, operand: &Operand, ty: Ty) -> Result<(), PtxError> {
        let Operand::Pair(pair) = operand else {
            return self.destination(operand, ty);
        };
        self.destination(&pair.0, ty)?;
        if self.is_sink(&pair.1) {
            return Ok(());
        }
        self.destination(&pair.1, Ty::Pred)
    }

    fn elect(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let Operand::Pair(pair) = operand else {
            return Err(self.pos.syntax("`elect.sync` writes `d|p`"));
        };
        if !self.is_sink(&pair.0) {
            self.destination(&pair.0, Ty::U32)?;
        }
        self.destination(&pair.1, Ty::Pred)
    }

    /// A destination that may be wider than the type: the value is extended.
    fn wide_destination(&mut self, operand: &Operand, ty: Ty) -> Result<(), PtxError> {
        let Operand::Name(sym) = operand else {
            return Err(self.pos.syntax("a destination must be a register"));
        };
        if self.is_sink(operand) {
            return self.destination(operand, ty);
        }
        let (reg, vreg) = self.register(*sym)?;
        let integer = !matches!(ty, Ty::F16 | Ty::BF16 | Ty::F32 | Ty::F64 | Ty::TF32);
        let fits = vreg.bytes == ty.bytes() || vreg.bytes > ty.bytes() && integer;
        if vreg.class == Class::Pred || !fits {
            return Err(self.width_error(*sym, vreg, ty));
        }
        let convert_to = match (vreg.bytes, ty.is_signed()) {
            (bytes, _) if bytes == ty.bytes() && bytes != 1 => None,
            (16, _) => return Err(self.width_error(*sym, vreg, ty)),
            (8, true) => Some(Ty::S64),
            (8, false) => Some(Ty::U64),
            (4, true) => Some(Ty::S32),
            (2, true) => Some(Ty::S16),
            _ => None,
        };
        let Some(to) = convert_to else {
            self.dst.push(reg);
            return Ok(());
        };
        let from = if vreg.bytes == 8 && ty.bytes() < 4 {
            // The narrow value is extended to 32 bits in its own register first.
            if ty.is_signed() { Ty::S32 } else { Ty::U32 }
        } else {
            ty
        };
        let temporary = self.temporary(ty);
        self.dst.push(temporary);
        let mut value = temporary;
        if from != ty {
            let wide = self.temporary(from);
            let first = self.conversion(from, integer_type(ty), wide, temporary);
            self.after.push(first);
            value = wide;
        }
        let last = self.conversion(to, integer_type(from), reg, value);
        self.after.push(last);
        Ok(())
    }

    /// The type of a load as its destination takes it: a register of 64 bits holds an `f32` as it
    /// holds a word, above which it is zero.
    fn loaded_type(&self, operand: &Operand, ty: Ty) -> Ty {
        let wide = VReg::of(Ty::B64);
        match operand {
            Operand::Name(sym) if ty == Ty::F32 => match self.register(*sym) {
                Ok((_, vreg)) if vreg == wide => Ty::B32,
                _ => ty,
            },
            _ => ty,
        }
    }

    /// A destination of a load. Loads extend signed values to 32 bits, so 16-bit registers, which
    /// are zero above their width, are written through a temporary.
    fn load_destination(&mut self, operand: &Operand, ty: Ty) -> Result<(), PtxError> {
        let first = self.after.len();
        self.wide_destination(operand, self.loaded_type(operand, ty))?;
        let Some(reg) = self.dst.pop() else {
            return Ok(());
        };
        if ty != Ty::S16 || self.builder.registers[reg.slot as usize].bytes != 2 {
            self.dst.push(reg);
            return Ok(());
        }
        let temporary = self.temporary(Ty::S32);
        self.dst.push(temporary);
        let convert = self.conversion(Ty::U16, Ty::U16, reg, temporary);
        // A wider destination is converted from `reg`: that comes after.
        self.after.insert(first, convert);
        Ok(())
    }

    pub(super) fn source(&mut self, operand: &Operand, ty: Ty) -> Result<(), PtxError> {
        let value = match operand {
            Operand::Name(sym) => match self.value_of(*sym, ty, 0)? {
                Some(value) => value,
                None => {
                    let (reg, vreg) = self.register(*sym)?;
                    if vreg != VReg::of(ty) {
                        return Err(self.width_error(*sym, vreg, ty));
                    }
                    Value::Reg(reg)
                }
            },
            Operand::Offset(sym, offset) => match self.value_of(*sym, ty, *offset)? {
                Some(value) => value,
                None => return Err(self.pos.syntax("an offset needs a symbol before it")),
            },
            Operand::Not(sym) => {
                let (reg, vreg) = self.register(*sym)?;
                if ty != Ty::Pred || vreg.class != Class::Pred {
                    return Err(self.pos.syntax("`!` needs a predicate"));
                }
                Value::NotPred(reg)
            }
            Operand::Number(number) => Value::Imm(number_bits(*number, ty, self.pos)?),
            _ => return Err(self.pos.syntax("a value is wanted here")),
        };
        self.src.push(value);
        Ok(())
    }

    /// The constant that a name stands for, or `None` for a register. The address of a variable in
    /// the frame of a routine is computed.
    fn value_of(&mut self, sym: Sym, ty: Ty, offset: i64) -> Result<Option<Value>, PtxError> {
        let address = match self.builder.names.get(sym) {
            Some(Binding::Reg(_)) => return Ok(None),
            Some(Binding::Variable {
                space: Space::Local,
                address,
            }) if self.builder.frame_base.is_some() => {
                return self.frame_pointer(sym, ty, address.wrapping_add_signed(offset));
            }
            Some(Binding::Variable { address, .. }) => address,
            Some(Binding::Global(_)) => self.global(sym)?,
            Some(_) => {
                return Err(self
                    .pos
                    .unsupported(format!("address of label `{}`", self.word(sym))));
            }
            None => match self.builder.context.special(sym) {
                Some(special) if self.reads_specials => {
                    return self.special_value(special, ty).map(Some);
                }
                _ => self.undeclared(sym)?,
            },
        };
        let address = address.wrapping_add_signed(offset);
        match ty.bytes() {
            8 => Ok(Some(Value::Imm(address))),
            4 if ty != Ty::Pred => Ok(Some(Value::Imm(address & 0xffff_ffff))),
            _ => Err(self
                .pos
                .syntax(format!("`{}` is not a register", self.word(sym)))),
        }
    }

    fn frame_pointer(&mut self, sym: Sym, ty: Ty, address: u64) -> Result<Option<Value>, PtxError> {
        let class = match VReg::of(ty) {
            VReg {
                class: Class::B64, ..
            } => Class::B64,
            VReg {
                class: Class::B32,
                bytes: 4,
            } => Class::B32,
            _ => {
                let word = self.word(sym);
                return Err(self.pos.syntax(format!("`{word}` is not a register")));
            }
        };
        let (base, offset) = self.builder.frame_address(address);
        let sum = self.temporary(Ty::U64);
        self.before.push(Instr {
            op: Op::Int(IntOp::Add, Ty::U64),
            guard: None,
            dst: smallvec![sum],
            src: smallvec![base, Value::Imm(offset.cast_unsigned())],
            line: self.pos.line,
        });
        Ok(Some(Value::Reg(self.narrowed(sum, class))))
    }

    /// Reads a special register into a temporary.
    fn special_value(&mut self, special: Special, ty: Ty) -> Result<Value, PtxError> {
        let own = match (special, special_bytes(special)) {
            (Special::IsExplicitCluster, _) => Ty::Pred,
            (_, 8) => Ty::U64,
            _ => Ty::U32,
        };
        if ty == Ty::Pred || own == Ty::Pred || ty.bytes() > own.bytes() {
            let message = format!("{special:?} is not a value of type {ty:?}");
            return Err(self.pos.syntax(message));
        }
        let temporary = self.temporary(own);
        self.before.push(Instr {
            op: Op::Special(special),
            guard: None,
            dst: smallvec![temporary],
            src: smallvec![],
            line: self.pos.line,
        });
        Ok(Value::Reg(self.narrowed(temporary, VReg::of(ty).class)))
    }

    fn undeclared(&self, sym: Sym) -> Result<u64, PtxError> {
        let word = self.word(sym);
        let context = self.builder.context;
        if word == "WARP_SZ" {
            return Ok(32);
        }
        if let Some(address) = context.function_address(sym) {
            return Ok(address);
        }
        if word.starts_with('%') && context.special(sym).is_some() {
            let what = format!("special register `{word}` outside of `mov`");
            return Err(self.pos.unsupported(what));
        }
        Err(self.pos.syntax(format!("`{word}` is not declared")))
    }

    fn global(&self, sym: Sym) -> Result<u64, PtxError> {
        let name = self.word(sym);
        (self.builder.context.addresses)(name).ok_or_else(|| {
            self.pos
                .unsupported(format!("symbol `{name}`, which no loaded module defines"))
        })
    }

    /// A source that may be wider than the type: its low bits count.
    fn wide_source(&mut self, operand: &Operand, ty: Ty) -> Result<(), PtxError> {
        if let Operand::Name(sym) = operand
            && let Some(Binding::Reg(_)) = self.builder.names.get(*sym)
        {
            let (reg, vreg) = self.register(*sym)?;
            let narrower = vreg.bytes < ty.bytes();
            let quad = vreg.class == Class::B128 && ty.bytes() != 16;
            if vreg.class == Class::Pred || narrower || quad {
                return Err(self.width_error(*sym, vreg, ty));
            }
            let reg = self.narrowed(reg, VReg::of(ty).class);
            self.src.push(Value::Reg(reg));
            return Ok(());
        }
        self.source(operand, ty)
    }

    /// A generic address as a value.
    fn generic_source(&mut self, operand: &Operand) -> Result<(), PtxError> {
        if let Operand::Name(sym) = operand
            && let Some(Binding::Reg(_)) = self.builder.names.get(*sym)
        {
            let (reg, vreg) = self.register(*sym)?;
            if vreg == VReg::of(Ty::U32) {
                let wide = self.narrowed(reg, Class::B64);
                self.src.push(Value::Reg(wide));
                return Ok(());
            }
        }
        self.source(operand, Ty::U64)
    }

    /// The register itself, or its value in the width of the space: cut to the low 32 bits, or
    /// zero-extended.
    fn narrowed(&mut self, reg: Reg, class: Class) -> Reg {
        let (to, from) = match (reg.class, class) {
            (Class::B64, Class::B32) => (Ty::U32, Ty::U64),
            (Class::B32, Class::B64) => (Ty::U64, Ty::U32),
            _ => return reg,
        };
        let temporary = self.temporary(to);
        let convert = self.conversion(to, from, temporary, reg);
        self.before.push(convert);
        temporary
    }

    fn vector(
        &mut self,
        operand: &Operand,
        each: fn(&mut Self, &Operand, Ty) -> Result<(), PtxError>,
    ) -> Result<(), PtxError> {
        let ty = self.mods.ty(0);
        let single = std::slice::from_ref(operand);
        let (items, wanted) = match operand {
            Operand::Vector(items) => (items.as_slice(), usize::from(self.mods.vec())),
            _ if self.mods.vec <= 1 => (single, 1),
            _ => return Err(self.pos.syntax("a vector access needs a `{}` list")),
        };
        if items.len() != wanted {
            return Err(self.pos.syntax(format!(
                "list of {} operands where {wanted} are wanted",
                items.len()
            )));
        }
        items.iter().try_for_each(|item| each(self, item, ty))
    }

    fn part(&self, parts: usize) -> Result<Ty, PtxError> {
        let whole = self.mods.ty(0).bytes() as usize;
        match (whole.checked_div(parts), whole.checked_rem(parts)) {
            (Some(1), Some(0)) => Ok(Ty::B8),
            (Some(2), Some(0)) => Ok(Ty::B16),
            (Some(4), Some(0)) if parts > 1 => Ok(Ty::B32),
            (Some(8), Some(0)) if parts > 1 => Ok(Ty::B64),
            _ => Err(self.pos.syntax(format!("cannot split into {parts} parts"))),
        }
    }

    fn pack(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let Operand::Vector(items) = operand else {
            return Ok(());
        };
        let part = self.part(items.len())?;
        self.fixed.parts = items.len();
        items.iter().try_for_each(|item| self.source(item, part))
    }

    fn unpack(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let Operand::Vector(items) = operand else {
            return Ok(());
        };
        let part = self.part(items.len())?;
        self.fixed.parts = items.len();
        for (index, item) in items.iter().enumerate() {
            if self.is_sink(item) {
                self.fixed.sink |= 1 << index;
            } else {
                self.destination(item, part)?;
            }
        }
        Ok(())
    }

    fn constant(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let Operand::Number(Number::Int(value)) = operand else {
            return Err(self.pos.syntax("an integer constant is wanted"));
        };
        self.fixed.imms.push(value.cast_signed());
        Ok(())
    }

    fn block(&self, sym: Sym) -> Result<u32, PtxError> {
        match self.builder.names.get(sym) {
            Some(Binding::Label(block)) => Ok(block),
            _ => Err(self
                .pos
                .syntax(format!("`{}` is not a label", self.word(sym)))),
        }
    }

    fn label(&mut self, operand: &Operand) -> Result<(), PtxError> {
        if let Operand::Name(sym) = operand {
            let block = self.block(*sym)?;
            self.fixed.targets.push(block);
        }
        Ok(())
    }

    fn labels(&mut self, operand: &Operand) -> Result<(), PtxError> {
        let Operand::Name(sym) = operand else {
            return Ok(());
        };
        let Some(Binding::Targets(list)) = self.builder.names.get(*sym) else {
            let word = self.word(*sym);
            return Err(self
                .pos
                .syntax(format!("`{word}` is not a list of branch targets")));
        };
        for sym in self.builder.targets[list].clone() {
            let block = self.block(sym)?;
            self.fixed.targets.push(block);
        }
        Ok(())
    }
}

/// The integer type of a bit type, for conversions.
const fn integer_type(ty: Ty) -> Ty {
    match ty {
        Ty::B8 => Ty::U8,
        Ty::B16 => Ty::U16,
        Ty::B32 => Ty::U32,
        other => other,
    }
}
