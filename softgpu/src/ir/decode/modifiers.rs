//! Modifiers: the parts of an opcode after its root, matched against the items of a row.
//!
//! An item is written `.name` or `.a|.b` (literal), `:set` or `:u32|s32` (a type), or `@class`
//! (anything else with a value); a trailing `?` makes it optional. Modifiers may come in any order,
//! as PTX texts differ in it; where an item kind occurs twice (types of `cvt`, spaces of bulk
//! copies) the order of appearance counts. A modifier that no item takes is an error.

use smallvec::SmallVec;

use crate::ir::{BoolOp, Cmp, MmaTy, Order, RmwOp, Rounding, Scope, Space, Ty};

/// The modifiers of one opcode, by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mods {
    pub(crate) types: SmallVec<[Ty; 3]>,
    pub(crate) spaces: SmallVec<[Space; 2]>,
    pub(crate) mma: SmallVec<[MmaTy; 3]>,
    pub(crate) rounding: Rounding,
    pub(crate) order: Option<Order>,
    pub(crate) scope: Option<Scope>,
    pub(crate) cmp: Option<Cmp>,
    pub(crate) combine: Option<BoolOp>,
    pub(crate) rmw: Option<RmwOp>,
    /// `.v2` …; 0 when not written.
    pub(crate) vec: u8,
    /// `.2d` …
    pub(crate) rank: u8,
    /// m, n and k of `.m64n128k16`.
    pub(crate) shape: (u16, u16, u16),
    flags: SmallVec<[&'static str; 8]>,
}

impl Mods {
    /// Whether a literal modifier was written.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// The literal modifiers among `names`, as written.
    pub(crate) fn among(&self, names: &[&str]) -> SmallVec<[&'static str; 2]> {
        let written = self.flags.iter().copied();
        written.filter(|flag| names.contains(flag)).collect()
    }

    /// The `index`-th type; every row that asks for it requires it.
    pub(crate) fn ty(&self, index: usize) -> Ty {
        self.types.get(index).copied().unwrap_or(Ty::B32)
    }

    /// The `index`-th state space, generic if not written.
    pub(crate) fn space(&self, index: usize) -> Space {
        self.spaces.get(index).copied().unwrap_or(Space::Generic)
    }

    pub(crate) fn vec(&self) -> u8 {
        self.vec.max(1)
    }
}

#[derive(Debug)]
pub(crate) enum Kind {
    Literal(Vec<&'static str>),
    Type(Vec<Ty>),
    Class(&'static str),
}

#[derive(Debug)]
pub(crate) struct Item {
    kind: Kind,
    optional: bool,
}

/// Parses the modifier column of a row.
pub(crate) fn items(spec: &'static str) -> Vec<Item> {
    spec.split_ascii_whitespace()
        .map(|word| {
            let optional = word.ends_with('?');
            let word = word.trim_end_matches('?');
            let kind = if let Some(set) = word.strip_prefix(':') {
                Kind::Type(type_set(set))
            } else if let Some(class) = word.strip_prefix('@') {
                Kind::Class(class)
            } else {
                Kind::Literal(word.split('|').map(|w| &w[1..]).collect())
            };
            Item { kind, optional }
        })
        .collect()
}

/// Matches the modifiers of an opcode, or says that the row is not meant.
pub(crate) fn matches(items: &[Item], written: &[&str]) -> Option<Mods> {
    let mut taken: u32 = 0;
    let mut mods = Mods::default();
    for text in written {
        let index = (0..items.len())
            .find(|&i| taken & (1 << i) == 0 && take(&items[i].kind, text, &mut mods))?;
        taken |= 1 << index;
    }
    items
        .iter()
        .enumerate()
        .all(|(i, item)| item.optional || taken & (1 << i) != 0)
        .then_some(mods)
}

fn take(kind: &Kind, text: &str, mods: &mut Mods) -> bool {
    match kind {
        Kind::Literal(names) => match names.iter().find(|name| **name == text) {
            Some(name) => {
                mods.flags.push(name);
                true
            }
            None => false,
        },
        Kind::Type(set) => match type_named(text).filter(|ty| set.contains(ty)) {
            Some(ty) => {
                mods.types.push(ty);
                true
            }
            None => false,
        },
        Kind::Class(class) => take_class(class, text, mods).is_some(),
    }
}

fn take_class(class: &str, text: &str, mods: &mut Mods) -> Option<()> {
    match class {
        "rnd" => mods.rounding = rounding(text)?,
        "space" => mods.spaces.push(space(text)?),
        "sem" => mods.order = Some(order(text)?),
        "scope" => mods.scope = Some(scope(text)?),
        "cmp" => mods.cmp = Some(comparison(text)?),
        "bool" => mods.combine = Some(combination(text)?),
        "rmw" => mods.rmw = Some(rmw(text)?),
        "mma" => mods.mma.push(mma(text)?),
        "vec" => {
            mods.vec = match text {
                "v2" => 2,
                "v4" => 4,
                "v8" => 8,
                _ => return None,
            }
        }
        "rank" => {
            mods.rank = match text.as_bytes() {
                [digit @ b'1'..=b'5', b'd'] => digit - b'0',
                _ => return None,
            }
        }
        "shape" => mods.shape = shape(text)?,
        _ => return None,
    }
    Some(())
}

fn shape(text: &str) -> Option<(u16, u16, u16)> {
    let (m, rest) = text.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

fn rounding(text: &str) -> Option<Rounding> {
    Some(match text {
        "rn" => Rounding::Rn,
        "rz" => Rounding::Rz,
        "rm" => Rounding::Rm,
        "rp" => Rounding::Rp,
        "rna" => Rounding::Rna,
        "rni" => Rounding::Rni,
        "rzi" => Rounding::Rzi,
        "rmi" => Rounding::Rmi,
        "rpi" => Rounding::Rpi,
        "approx" => Rounding::Approx,
        "full" => Rounding::Full,
        _ => return None,
    })
}

fn space(text: &str) -> Option<Space> {
    Some(match text {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "shared::cluster" => Space::SharedCluster,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

fn order(text: &str) -> Option<Order> {
    Some(match text {
        "weak" => Order::Weak,
        "volatile" => Order::Volatile,
        "relaxed" => Order::Relaxed,
        "acquire" => Order::Acquire,
        "release" => Order::Release,
        "acq_rel" => Order::AcqRel,
        "sc" => Order::SeqCst,
        _ => return None,
    })
}

fn scope(text: &str) -> Option<Scope> {
    Some(match text {
        "cta" => Scope::Cta,
        "cluster" => Scope::Cluster,
        "gpu" => Scope::Gpu,
        "sys" => Scope::Sys,
        _ => return None,
    })
}

fn comparison(text: &str) -> Option<Cmp> {
    Some(match text {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" => Cmp::Lt,
        "le" => Cmp::Le,
        "gt" => Cmp::Gt,
        "ge" => Cmp::Ge,
        "lo" => Cmp::Lo,
        "ls" => Cmp::Ls,
        "hi" => Cmp::Hi,
        "hs" => Cmp::Hs,
        "equ" => Cmp::Equ,
        "neu" => Cmp::Neu,
        "ltu" => Cmp::Ltu,
        "leu" => Cmp::Leu,
        "gtu" => Cmp::Gtu,
        "geu" => Cmp::Geu,
        "num" => Cmp::Num,
        "nan" => Cmp::Nan,
        _ => return None,
    })
}

fn combination(text: &str) -> Option<BoolOp> {
    Some(match text {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        "xor" => BoolOp::Xor,
        _ => return None,
    })
}

fn rmw(text: &str) -> Option<RmwOp> {
    Some(match text {
        "add" => RmwOp::Add,
        "min" => RmwOp::Min,
        "max" => RmwOp::Max,
        "and" => RmwOp::And,
        "or" => RmwOp::Or,
        "xor" => RmwOp::Xor,
        "exch" => RmwOp::Exch,
        "cas" => RmwOp::Cas,
        "inc" => RmwOp::Inc,
        "dec" => RmwOp::Dec,
        _ => return None,
    })
}

fn mma(text: &str) -> Option<MmaTy> {
    Some(match text {
        "f16" => MmaTy::F16,
        "bf16" => MmaTy::BF16,
        "tf32" => MmaTy::TF32,
        "e4m3" => MmaTy::E4M3,
        "e5m2" => MmaTy::E5M2,
        "s8" => MmaTy::S8,
        "u8" => MmaTy::U8,
        "s4" => MmaTy::S4,
        "u4" => MmaTy::U4,
        "b1" => MmaTy::B1,
        "f64" => MmaTy::F64,
        "f32" => MmaTy::F32,
        "s32" => MmaTy::S32,
        _ => return None,
    })
}

/// Types as modifiers spell them.
pub(crate) fn type_named(text: &str) -> Option<Ty> {
    Some(match text {
        "pred" => Ty::Pred,
        "b8" => Ty::B8,
        "b16" => Ty::B16,
        "b32" => Ty::B32,
        "b64" => Ty::B64,
        "b128" => Ty::B128,
        "u8" => Ty::U8,
        "u16" => Ty::U16,
        "u32" => Ty::U32,
        "u64" => Ty::U64,
        "s8" => Ty::S8,
        "s16" => Ty::S16,
        "s32" => Ty::S32,
        "s64" => Ty::S64,
        "f16" => Ty::F16,
        "f16x2" => Ty::F16x2,
        "bf16" => Ty::BF16,
        "bf16x2" => Ty::BF16x2,
        "tf32" => Ty::TF32,
        "f32" => Ty::F32,
        "f64" => Ty::F64,
        "e4m3x2" => Ty::E4M3x2,
        "e5m2x2" => Ty::E5M2x2,
        "ue8m0x2" => Ty::UE8M0x2,
        "u16x2" => Ty::U16x2,
        "s16x2" => Ty::S16x2,
        _ => return None,
    })
}

fn type_set(set: &'static str) -> Vec<Ty> {
    let names = match set {
        "int" => "u16|s16|u32|s32|u64|s64",
        "int8" => "u8|s8|u16|s16|u32|s32|u64|s64",
        "bits" => "b16|b32|b64",
        "logic" => "pred|b16|b32|b64",
        "word" => "b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64",
        "truth" => "u16|s16|u32|s32|f16|f16x2|bf16|bf16x2|f32",
        "half" => "f16|f16x2|bf16|bf16x2",
        "mem" => "b8|u8|s8|b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64|b128",
        _ => set,
    };
    names.split('|').filter_map(type_named).collect()
}
