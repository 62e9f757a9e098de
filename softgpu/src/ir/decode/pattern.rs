//! Operand patterns: the third column of the instruction table.
//!
//! Comma-separated items, each a role and a type. Types: `0`, `1` = that type modifier, `w` =
//! twice the width of type 0, `p` = predicate, `u` = u32, `q` = u64, `h` = u16, `i` = s32.
//!
//! | role | meaning |
//! |---|---|
//! | `d` | destination register, `_` allowed and discarded; `d0/p` also accepts `d\|p` |
//! | `D` | destination that is left out when written `_` |
//! | `s` | source value |
//! | `x` | source or destination register that may be wider than the type (`x` = source, `X` = destination) |
//! | `V`, `v` | `.v2`/`.v4` list of destinations or sources, a single one without `.vN` |
//! | `m`, `k` | list of parts of an unpacking or packing `mov` |
//! | `b`, `B` | source or destination u32 of a video instruction, with sign and parts |
//! | `r` | special register |
//! | `aN`, `as`, `ag` | `[address]` in space modifier N, shared, or generic; its offset goes into the operation |
//! | `fN`, `fs`, `fg` | the same with its offset added beforehand |
//! | `t` | `[tensor map, {coordinates}]` |
//! | `c` | immediate that is part of the operation |
//! | `h!` | cache policy, present exactly if `.L2::cache_hint` is written; ignored |
//! | `z` | operand that is accepted and ignored |
//! | `l`, `j` | label, list of labels |
//! | `W`, `A` | wgmma accumulators; wgmma A (register list or descriptor) |
//! | `E` | `d\|p` of `elect.sync` |
//! | `M`, `y` | list of destinations or sources of a matrix: 64-bit ones if the first matrix type is f64, else 32-bit ones |
//! | `n` | list of as many registers as the `.xN` modifier says (`N` = destinations) |
//!
//! A trailing `?` makes an item optional.

use crate::ptx::ast::Operand;

use super::modifiers::Mods;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Type(usize),
    Wide,
    Pred,
    U16,
    U32,
    S32,
    U64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum In {
    /// The space of that modifier.
    Modifier(usize),
    Shared,
    Generic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Dst(Width),
    DstPred(Width),
    DstOrNone(Width),
    Src(Width),
    WideSrc(Width),
    WideDst(Width),
    /// A generic address; 32 bits are extended with zeros.
    Generic,
    VecDst,
    VecSrc,
    Unpack,
    Pack,
    LaneSrc,
    LaneDst,
    Special,
    Address(In),
    Folded(In),
    Tensor,
    Const,
    Policy,
    Ignored,
    Label,
    Labels,
    Accumulators,
    WgmmaA,
    Elect,
    MatrixDst,
    MatrixSrc,
    FragmentDst,
    FragmentSrc,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) role: Role,
    pub(crate) optional: bool,
}

#[derive(Debug)]
pub(crate) struct Pattern {
    slots: Vec<Slot>,
}

fn width(text: &str) -> Width {
    match text {
        "1" => Width::Type(1),
        "2" => Width::Type(2),
        "w" => Width::Wide,
        "p" => Width::Pred,
        "h" => Width::U16,
        "u" => Width::U32,
        "i" => Width::S32,
        "q" => Width::U64,
        _ => Width::Type(0),
    }
}

fn place(text: &str) -> In {
    match text {
        "s" => In::Shared,
        "g" => In::Generic,
        "1" => In::Modifier(1),
        _ => In::Modifier(0),
    }
}

fn role(item: &str) -> Role {
    let (head, rest) = item.split_at(1.min(item.len()));
    match (head, rest) {
        ("d", _) if rest.ends_with("/p") => Role::DstPred(width(rest.trim_end_matches("/p"))),
        ("d", _) => Role::Dst(width(rest)),
        ("D", _) => Role::DstOrNone(width(rest)),
        ("s", _) => Role::Src(width(rest)),
        ("x", _) => Role::WideSrc(width(rest)),
        ("X", _) => Role::WideDst(width(rest)),
        ("g", _) => Role::Generic,
        ("V", _) => Role::VecDst,
        ("v", _) => Role::VecSrc,
        ("m", _) => Role::Unpack,
        ("k", _) => Role::Pack,
        ("b", _) => Role::LaneSrc,
        ("B", _) => Role::LaneDst,
        ("r", _) => Role::Special,
        ("a", _) => Role::Address(place(rest)),
        ("f", _) => Role::Folded(place(rest)),
        ("t", _) => Role::Tensor,
        ("c", _) => Role::Const,
        ("h", _) => Role::Policy,
        ("l", _) => Role::Label,
        ("j", _) => Role::Labels,
        ("W", _) => Role::Accumulators,
        ("A", _) => Role::WgmmaA,
        ("E", _) => Role::Elect,
        ("N", _) => Role::MatrixDst,
        ("n", _) => Role::MatrixSrc,
        ("M", _) => Role::FragmentDst,
        ("y", _) => Role::FragmentSrc,
        _ => Role::Ignored,
    }
}

impl Pattern {
    pub(crate) fn parse(spec: &'static str) -> Self {
        let slots = spec
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Slot {
                role: role(item.trim_end_matches('?')),
                optional: item.ends_with('?'),
            })
            .collect();
        Self { slots }
    }

    /// Pairs the operands with the roles of the pattern, if their number and shapes fit.
    pub(crate) fn assign<'o>(
        &self,
        mods: &Mods,
        operands: &'o [Operand],
        is_special: &dyn Fn(&Operand) -> bool,
    ) -> Option<Vec<(Role, &'o Operand)>> {
        let mut out = Vec::with_capacity(operands.len());
        let mut rest = operands.iter();
        let mut missing = operands.len();
        let mut required: usize = self
            .slots
            .iter()
            .filter(|slot| slot.role != Role::Policy && !slot.optional)
            .count();
        let policy = mods.has("L2::cache_hint");
        required += usize::from(policy && self.slots.iter().any(|s| s.role == Role::Policy));
        for slot in &self.slots {
            if slot.role == Role::Policy && !policy {
                continue;
            }
            if slot.optional && missing <= required {
                continue;
            }
            let operand = rest.next()?;
            if !fits(slot.role, operand, is_special) {
                return None;
            }
            missing -= 1;
            required -= usize::from(!slot.optional);
            out.push((slot.role, operand));
        }
        rest.next().is_none().then_some(out)
    }
}

fn fits(role: Role, operand: &Operand, is_special: &dyn Fn(&Operand) -> bool) -> bool {
    match role {
        Role::Special => is_special(operand),
        Role::Address(_) | Role::Folded(_) => matches!(operand, Operand::Address(..)),
        Role::Tensor => matches!(operand, Operand::Tensor(..)),
        Role::Unpack
        | Role::Pack
        | Role::Accumulators
        | Role::MatrixDst
        | Role::MatrixSrc
        | Role::FragmentDst
        | Role::FragmentSrc => matches!(operand, Operand::Vector(_)),
        Role::WgmmaA => matches!(operand, Operand::Vector(_) | Operand::Name(_)),
        Role::VecDst | Role::VecSrc => !matches!(
            operand,
            Operand::Address(..) | Operand::Tensor(..) | Operand::List(_) | Operand::Pair(_)
        ),
        Role::LaneDst => matches!(operand, Operand::Name(_) | Operand::Part { .. }),
        Role::LaneSrc => matches!(
            operand,
            Operand::Name(_) | Operand::Number(_) | Operand::Part { .. }
        ),
        Role::Const => matches!(operand, Operand::Number(_)),
        Role::DstPred(_) | Role::Elect => matches!(operand, Operand::Name(_) | Operand::Pair(_)),
        Role::Dst(_) | Role::DstOrNone(_) | Role::WideDst(_) | Role::Label | Role::Labels => {
            matches!(operand, Operand::Name(_))
        }
        Role::Src(_) | Role::WideSrc(_) | Role::Generic | Role::Policy | Role::Ignored => {
            !is_special(operand)
                && matches!(
                    operand,
                    Operand::Name(_) | Operand::Offset(..) | Operand::Not(_) | Operand::Number(_)
                )
        }
    }
}
