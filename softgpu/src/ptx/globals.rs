//! Module-level memory: what a loader must allocate, fill and relocate.

use super::ast::{Init, Linkage, Number, Statement, Variable};
use super::lexer::{Pos, Sym};
use super::parser::Parsed;
use crate::error::PtxError;
use crate::ir::{Space, Ty};

/// Where a module-level variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalSpace {
    /// `.global`
    Global,
    /// `.const`
    Const,
}

/// The address of a symbol, or a part of it, to be written into an initialiser (little endian).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Byte offset in the variable.
    pub offset: u64,
    /// Name of the symbol: another variable of the module.
    pub symbol: String,
    /// Added to the symbol's address.
    pub addend: i64,
    /// Bits of the address below those that are written.
    pub shift: u32,
    /// Bytes written.
    pub bytes: usize,
}

/// Bytes of an initialiser, those left out included.
const INIT_LIMIT: u64 = 1 << 28;

/// A `.global` or `.const` variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Name.
    pub name: String,
    /// State space.
    pub space: GlobalSpace,
    /// Size in bytes; may be zero.
    pub size: u64,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// Linkage; [`Linkage::External`] is defined by another module.
    pub linkage: Linkage,
    /// First bytes of the initial content; the rest is zero.
    pub init: Vec<u8>,
    /// Addresses to be added to the initial content.
    pub relocations: Vec<Relocation>,
    /// `.attribute(.managed)`: the host uses it as well.
    pub managed: bool,
}

pub(crate) fn collect<'w>(
    parsed: &Parsed,
    word: &dyn Fn(Sym) -> &'w str,
) -> Result<Vec<Global>, PtxError> {
    let local = parsed
        .functions
        .iter()
        .flat_map(|f| f.body.iter().flatten())
        .filter_map(|statement| match statement {
            Statement::Variable(variable) => Some(variable),
            _ => None,
        });
    let mut globals = Vec::new();
    for variable in parsed.variables.iter().chain(local) {
        let space = match variable.space {
            Space::Global => GlobalSpace::Global,
            Space::Const => GlobalSpace::Const,
            _ if !variable.init.is_empty() => {
                return Err(variable.pos.syntax(format!(
                    "`{}` is not in `.global` or `.const` and cannot be initialised",
                    word(variable.name)
                )));
            }
            _ => continue,
        };
        globals.push(global(variable, space, word)?);
    }
    Ok(globals)
}

fn global<'w>(
    variable: &Variable,
    space: GlobalSpace,
    word: &dyn Fn(Sym) -> &'w str,
) -> Result<Global, PtxError> {
    let mut init = Vec::new();
    let mut relocations = Vec::new();
    let bytes = variable.ty.bytes() as usize;
    for element in &variable.init {
        match element {
            Init::Number(number) => {
                let bits = number_bits(*number, variable.ty, variable.pos)?;
                init.extend_from_slice(&bits.to_le_bytes()[..bytes.min(8)]);
                init.extend(std::iter::repeat_n(0, bytes.saturating_sub(8)));
            }
            Init::Symbol(symbol, addend) | Init::Byte(symbol, addend, _) => {
                let byte = match element {
                    Init::Byte(.., byte) => Some(*byte),
                    _ => None,
                };
                let fits = byte.map_or(matches!(bytes, 4 | 8), |_| bytes == 1);
                if !fits {
                    return Err(variable
                        .pos
                        .unsupported(format!("symbol address in elements of {bytes} bytes")));
                }
                relocations.push(Relocation {
                    offset: init.len() as u64,
                    symbol: word(*symbol).to_owned(),
                    addend: *addend,
                    shift: byte.unwrap_or(0) * 8,
                    bytes,
                });
                init.extend(std::iter::repeat_n(0, bytes));
            }
            Init::Pad(count) => {
                let padded = (init.len() as u64).saturating_add(count.saturating_mul(bytes as u64));
                if padded > INIT_LIMIT {
                    return Err(variable
                        .pos
                        .unsupported("initialiser of more than 2^28 bytes"));
                }
                init.resize(usize::try_from(padded).unwrap_or(0), 0);
            }
        }
    }
    if init.len() as u64 > variable.size {
        return Err(variable.pos.syntax(format!(
            "initialiser of {} bytes is longer than `{}`, which has {}",
            init.len(),
            word(variable.name),
            variable.size
        )));
    }
    Ok(Global {
        name: word(variable.name).to_owned(),
        space,
        size: variable.size,
        align: variable.align,
        linkage: variable.linkage,
        init,
        relocations,
        managed: variable.managed,
    })
}

/// The bits of a constant in a value of type `ty`, truncated to its width.
pub(crate) fn number_bits(number: Number, ty: Ty, pos: Pos) -> Result<u64, PtxError> {
    let bits = match (number, ty) {
        (Number::Int(value), Ty::F32 | Ty::F64 | Ty::F16 | Ty::BF16) => {
            return Err(pos.syntax(format!(
                "integer constant {value} where a value of type {ty:?} is wanted"
            )));
        }
        (Number::Int(value), _) => value,
        (Number::F32(bits), Ty::F64) => f64::from(f32::from_bits(bits)).to_bits(),
        (Number::F32(bits), _) => u64::from(bits),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "PTX rounds a double constant to the operand's precision"
        )]
        (Number::F64(bits), Ty::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
        (Number::F64(bits), _) => bits,
    };
    Ok(match ty.bytes() {
        _ if ty == Ty::Pred => u64::from(bits != 0),
        1 => bits & 0xff,
        2 => bits & 0xffff,
        4 => bits & 0xffff_ffff,
        _ => bits,
    })
}
