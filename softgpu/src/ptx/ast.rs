//! What the parser makes of a module: declarations, and bodies as flat statement lists in which
//! `{` and `}` are statements of their own. Names are unresolved; types are those written.

use smallvec::SmallVec;

use super::lexer::{Pos, Sym};
use crate::ir::{Space, Ty};

/// How a symbol is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linkage {
    /// Local to the module.
    #[default]
    Internal,
    /// `.visible`.
    Visible,
    /// `.weak`, `.common`.
    Weak,
    /// `.extern`: declared here, defined elsewhere.
    External,
}

/// An element of an initialiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    Number(Number),
    /// The address of a symbol, plus an addend.
    Symbol(Sym, i64),
    /// One byte of that address: `0xff00(symbol)`, with the number of the byte.
    Byte(Sym, i64, u32),
    /// So many elements that an inner list leaves out: zero.
    Pad(u64),
}

/// A constant as written; integers are two's complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Int(u64),
    F32(u32),
    F64(u64),
}

/// A variable in any state space, module-level, function-local or a parameter.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: Sym,
    pub(crate) pos: Pos,
    pub(crate) linkage: Linkage,
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    pub(crate) align: u32,
    /// A `.reg` parameter of a function; its space is `.param` all the same.
    pub(crate) register: bool,
    /// `.attribute(.managed)`.
    pub(crate) managed: bool,
    /// Size in bytes; 0 for `sym[]`.
    pub(crate) size: u64,
    /// `sym[]`: size given at launch (`.extern .shared`).
    pub(crate) unsized_array: bool,
    pub(crate) init: Vec<Init>,
}

/// One name of a `.reg` statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegDecl {
    pub(crate) name: Sym,
    pub(crate) ty: Ty,
    /// `%r<count>` declares `%r0` to `%r(count-1)`.
    pub(crate) count: Option<u32>,
    /// Elements: 2 or 4 of a vector, else 1.
    pub(crate) vector: u32,
}

/// The base of `[…]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Name(Sym),
    Absolute(u64),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// Register, special register, symbol, label or `_`.
    Name(Sym),
    /// `symbol+imm` as a value.
    Offset(Sym, i64),
    /// `!p`.
    Not(Sym),
    Number(Number),
    /// `-r`, `r.b1`, `-r.h0`: of video instructions. The part is without its dot.
    Part {
        name: Sym,
        negated: bool,
        part: Option<Sym>,
    },
    /// `[base+offset]`.
    Address(Base, i64),
    /// `[base+offset, {coordinates}]`.
    Tensor(Base, i64, Vec<Self>),
    /// `{a, b}`.
    Vector(Vec<Self>),
    /// `d|p`.
    Pair(Box<(Self, Self)>),
    /// `(a, b)` of a call.
    List(Vec<Self>),
}

#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub(crate) pos: Pos,
    /// `@p` or `@!p` (true).
    pub(crate) guard: Option<(Sym, bool)>,
    /// Opcode with all modifiers, as written.
    pub(crate) opcode: Sym,
    pub(crate) operands: SmallVec<[Operand; 4]>,
}

#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Open,
    Close,
    Label(Sym),
    Reg(RegDecl),
    Variable(Variable),
    /// `label: .branchtargets a, b, c;`
    BranchTargets(Vec<Sym>),
    /// `label: .calltargets f, g;`
    CallTargets(Vec<Sym>),
    /// `label: .callprototype (returns) _ (parameters);`
    CallPrototype(Signature),
    Instruction(Instruction),
}

/// What a function takes and gives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signature {
    pub(crate) returns: Vec<Variable>,
    pub(crate) params: Vec<Variable>,
}

/// An entry or a function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: Sym,
    pub(crate) pos: Pos,
    pub(crate) entry: bool,
    pub(crate) signature: Signature,
    pub(crate) max_threads: Option<[u32; 3]>,
    pub(crate) req_threads: Option<[u32; 3]>,
    pub(crate) req_cluster: Option<[u32; 3]>,
    pub(crate) max_registers: Option<u32>,
    pub(crate) min_ctas: Option<u32>,
    /// `None` for a declaration.
    pub(crate) body: Option<Vec<Statement>>,
}
