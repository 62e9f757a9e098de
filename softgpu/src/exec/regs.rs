//! The register file of a warp.
//!
//! Storage: `B32`, `B64` and `B128` registers share one 128-byte-aligned array of slots, 32 lanes ×
//! 4 bytes each. A `B64` register is a `[u64; 32]` over two consecutive slots, a `B128` register a
//! `[u128; 32]` over four. Predicates are one bit per lane in words of their own, and so is the
//! carry flag of `add.cc` and its relatives. Immediates live in a constant bank that all warps of a
//! kernel share; it has the layout of the slots, and a warp keeps a copy in front of its registers, so
//! that a handler finds operands of both kinds at an offset from one place.
//!
//! Invariant: values of 8 and 16 bits sit in the low bits of a 32-bit lane. What stands above them
//! is the extension that the writing instruction made (sign for signed types, zero otherwise), so
//! every reader of such a value truncates.
#![expect(
    unsafe_code,
    reason = "lanes are viewed as 4, 8 and 16 byte elements without copying"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "narrow reads truncate by definition"
)]

use std::fmt;

use super::warp::{digest, stir};
use crate::ir::{Class, Operand, Reg};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// The mask of all lanes.
pub const FULL: u32 = u32::MAX;

/// A bank of 32 lanes × 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct Lanes(pub [u32; 32]);

impl Lanes {
    /// All lanes zero.
    pub const ZERO: Self = Self([0; 32]);
}

/// Operand encoding in decoded instructions: a slot of the warp's file, or, as a negative number, of
/// the kernel's constant bank in front of it (immediates broadcast over 32 lanes; 64-bit ones take two
/// slots).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// A slot that is not used: the last of the constant bank, which holds nothing.
    pub const NONE: Self = Self(u32::MAX);
    /// Whether the slot lies in the constant bank.
    #[must_use]
    pub const fn is_const(self) -> bool {
        self.0.cast_signed() < 0
    }
}

/// A predicate operand of a decoded instruction: `slot << 1 | negated`, or a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PredSlot(pub u32);

impl PredSlot {
    /// Always true; as a guard: unguarded.
    pub const TRUE: Self = Self(u32::MAX);
    /// Always false.
    pub const FALSE: Self = Self(u32::MAX - 1);
    /// A predicate register, or its complement.
    #[must_use]
    pub const fn register(slot: u32, negated: u32) -> Self {
        Self(slot << 1 | negated)
    }
}

/// Registers of one warp.
#[derive(Clone)]
pub struct RegFile {
    /// The constant bank, then the registers.
    lanes: Box<[Lanes]>,
    preds: Box<[u32]>,
    /// Slots of the constant bank.
    consts: usize,
    /// Carry flag, one bit per lane.
    pub carry: u32,
}

impl fmt::Debug for RegFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegFile")
            .field("slots", &self.slots())
            .field("preds", &self.preds.len())
            .field("consts", &self.consts)
            .field("carry", &self.carry)
            .finish()
    }
}

impl RegFile {
    /// A zeroed file of `slots` slots and `preds` predicates over a kernel's constant bank.
    #[must_use]
    pub fn new(slots: u32, preds: u32, consts: &[Lanes]) -> Self {
        let mut lanes = Vec::with_capacity(consts.len() + slots as usize);
        lanes.extend_from_slice(consts);
        lanes.resize(consts.len() + slots as usize, Lanes::ZERO);
        Self {
            lanes: lanes.into_boxed_slice(),
            preds: vec![0; preds as usize].into_boxed_slice(),
            consts: consts.len(),
            carry: 0,
        }
    }

    /// Zeroes everything, as for the next CTA on the same storage.
    pub fn clear(&mut self) {
        self.lanes[self.consts..].fill(Lanes::ZERO);
        self.preds.fill(0);
        self.carry = 0;
    }

    /// A hash of all registers.
    pub(super) fn fingerprint(&self) -> u64 {
        let word = |pair: &[u32]| u64::from(pair[0]) << 32 | u64::from(pair[1]);
        let registers = self.lanes[self.consts..].iter();
        let rows = registers.flat_map(|lanes| lanes.0.chunks_exact(8));
        let rows = rows.map(|row| std::array::from_fn(|i| word(&row[2 * i..2 * i + 2])));
        let preds = self.preds.iter().map(|&bits| bits.into());
        preds.fold(stir(digest(rows), self.carry.into()), stir)
    }

    /// A small file with copies of some operands of any class, and where they are in it.
    /// [`Slot::NONE`] stays what it is.
    pub(super) fn extract(&self, slots: impl Iterator<Item = Slot>) -> (Self, Vec<Slot>) {
        const WIDEST: usize = 4;
        let mut lanes = Vec::new();
        let copied = slots.map(|slot| {
            if slot == Slot::NONE {
                return slot;
            }
            let copy = Slot(lanes.len() as u32);
            lanes.extend(self.lanes.iter().skip(self.place(slot)).take(WIDEST));
            lanes.resize(copy.0 as usize + WIDEST, Lanes::ZERO);
            copy
        });
        let copied = copied.collect();
        let file = Self {
            lanes: lanes.into_boxed_slice(),
            preds: Box::default(),
            consts: 0,
            carry: 0,
        };
        (file, copied)
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        (self.lanes.len() - self.consts) as u32
    }

    /// Where a slot stands in the file.
    #[inline]
    fn place(&self, slot: Slot) -> usize {
        self.consts
            .wrapping_add_signed(slot.0.cast_signed() as isize)
    }

    /// `count` consecutive slots from `slot` on.
    #[inline]
    fn bank(&self, slot: Slot, count: usize) -> &[Lanes] {
        let first = self.place(slot);
        &self.lanes[first..first + count]
    }

    #[inline]
    fn bank_mut(&mut self, slot: Slot, count: usize) -> &mut [Lanes] {
        let first = self.place(slot);
        &mut self.lanes[first..first + count]
    }

    /// The 32 lanes of a `B32` operand.
    ///
    /// # Panics
    /// When the slot is not in the file, as for all accessors of this type.
    #[inline]
    #[must_use]
    pub fn lanes32(&self, slot: Slot) -> &[u32; 32] {
        &self.bank(slot, 1)[0].0
    }

    /// The 32 lanes of a `B64` operand.
    #[inline]
    #[must_use]
    pub fn lanes64(&self, slot: Slot) -> &[u64; 32] {
        let bank = self.bank(slot, 2).as_ptr().cast::<[u64; 32]>();
        // SAFETY: `bank` checked two slots = 256 bytes, aligned to 128; any bits are a u64.
        unsafe { &*bank }
    }

    /// The 32 lanes of a `B128` operand.
    #[inline]
    #[must_use]
    pub fn lanes128(&self, slot: Slot) -> &[u128; 32] {
        let bank = self.bank(slot, 4).as_ptr().cast::<[u128; 32]>();
        // SAFETY: `bank` checked four slots = 512 bytes, aligned to 128; any bits are a u128.
        unsafe { &*bank }
    }

    /// The 32 lanes of a `B32` register, to be written.
    #[inline]
    pub fn lanes32_mut(&mut self, slot: Slot) -> &mut [u32; 32] {
        &mut self.bank_mut(slot, 1)[0].0
    }

    /// The 32 lanes of a `B64` register, to be written.
    #[inline]
    pub fn lanes64_mut(&mut self, slot: Slot) -> &mut [u64; 32] {
        let bank = self.bank_mut(slot, 2).as_mut_ptr().cast::<[u64; 32]>();
        // SAFETY: as in `lanes64`; the borrow of `self` is exclusive.
        unsafe { &mut *bank }
    }

    /// The 32 lanes of a `B128` register, to be written.
    #[inline]
    pub fn lanes128_mut(&mut self, slot: Slot) -> &mut [u128; 32] {
        let bank = self.bank_mut(slot, 4).as_mut_ptr().cast::<[u128; 32]>();
        // SAFETY: as in `lanes128`; the borrow of `self` is exclusive.
        unsafe { &mut *bank }
    }

    /// Writes the lanes of `mask`.
    #[inline]
    pub fn write32(&mut self, slot: Slot, mask: u32, values: &[u32; 32]) {
        blend(self.lanes32_mut(slot), mask, values);
    }

    /// Writes the lanes of `mask`.
    #[inline]
    pub fn write64(&mut self, slot: Slot, mask: u32, values: &[u64; 32]) {
        blend(self.lanes64_mut(slot), mask, values);
    }

    /// The value of one lane, zero-extended; a `B128` register gives its low half.
    #[inline]
    #[must_use]
    pub fn value_u64(&self, slot: Slot, class: Class, lane: u32) -> u64 {
        let lane = lane as usize;
        match class {
            Class::Pred => u64::from(self.pred(slot.0) >> lane & 1),
            Class::B32 => u64::from(self.lanes32(slot)[lane]),
            Class::B64 => self.lanes64(slot)[lane],
            Class::B128 => self.lanes128(slot)[lane] as u64,
        }
    }

    /// Writes one lane, truncating to the class.
    #[inline]
    pub fn set_value(&mut self, slot: Slot, class: Class, lane: u32, value: u64) {
        let index = lane as usize;
        match class {
            Class::Pred => {
                let bits = if value & 1 != 0 { FULL } else { 0 };
                self.set_pred(slot.0, 1 << lane, bits);
            }
            Class::B32 => self.lanes32_mut(slot)[index] = value as u32,
            Class::B64 => self.lanes64_mut(slot)[index] = value,
            Class::B128 => self.lanes128_mut(slot)[index] = u128::from(value),
        }
    }

    /// The value of an operand in one lane, zero-extended; predicates give 0 or 1.
    #[inline]
    #[must_use]
    pub fn operand_u64(&self, operand: &Operand, lane: u32) -> u64 {
        match operand {
            Operand::Imm(value) => *value,
            Operand::Reg(reg) => self.value_u64(Slot(reg.slot), reg.class, lane),
            Operand::NotPred(reg) => u64::from(!self.pred(reg.slot) >> lane & 1),
        }
    }

    /// The lanes in which a predicate operand (or an immediate) is true.
    #[inline]
    #[must_use]
    pub fn operand_pred(&self, operand: &Operand) -> u32 {
        match operand {
            Operand::Imm(0) => 0,
            Operand::Imm(_) => FULL,
            Operand::Reg(reg) => self.pred(reg.slot),
            Operand::NotPred(reg) => !self.pred(reg.slot),
        }
    }

    /// The common value of an operand in the lanes of `mask`; `None` if they differ or the mask
    /// is empty.
    #[must_use]
    pub fn uniform_u64(&self, operand: &Operand, mask: u32) -> Option<u64> {
        if mask == 0 {
            return None;
        }
        let value = self.operand_u64(operand, mask.trailing_zeros());
        match operand {
            Operand::Imm(_) => return Some(value),
            Operand::Reg(Reg {
                class: Class::Pred, ..
            })
            | Operand::NotPred(_) => {
                let bits = self.operand_pred(operand) & mask;
                return (bits == 0 || bits == mask).then_some(value);
            }
            Operand::Reg(reg) if mask == FULL && reg.class == Class::B64 => {
                let lanes = self.lanes64(Slot(reg.slot));
                let apart = lanes.iter().fold(0, |apart, lane| apart | (lane ^ value));
                return (apart == 0).then_some(value);
            }
            Operand::Reg(_) => {}
        }
        let same = |lane| mask >> lane & 1 == 0 || self.operand_u64(operand, lane) == value;
        (0..32).all(same).then_some(value)
    }

    /// A predicate register: bit = lane.
    #[inline]
    #[must_use]
    pub fn pred(&self, slot: u32) -> u32 {
        self.preds[slot as usize]
    }

    /// Writes the lanes of `mask` of a predicate register.
    #[inline]
    pub fn set_pred(&mut self, slot: u32, mask: u32, bits: u32) {
        let word = &mut self.preds[slot as usize];
        *word = *word & !mask | bits & mask;
    }

    /// The lanes in which a decoded predicate operand or guard is true.
    #[inline]
    #[must_use]
    pub fn pred_operand(&self, operand: PredSlot) -> u32 {
        match operand {
            PredSlot::TRUE => FULL,
            PredSlot::FALSE => 0,
            PredSlot(code) => self.pred(code >> 1) ^ (code & 1).wrapping_neg(),
        }
    }

    /// The storage of an operand, for handlers. `Slot::NONE` gives a pointer that must not be used.
    #[inline(always)]
    pub(crate) fn source(&mut self, slot: Slot) -> *const u32 {
        self.target(slot).cast_const()
    }

    /// The storage of a register, for handlers.
    #[inline(always)]
    pub(crate) fn target(&mut self, slot: Slot) -> *mut u32 {
        let registers = self.lanes.as_mut_ptr().wrapping_add(self.consts);
        registers
            .wrapping_offset(slot.0.cast_signed() as isize)
            .cast()
    }
}

#[inline]
fn blend<T: Copy>(target: &mut [T; 32], mask: u32, values: &[T; 32]) {
    if mask == FULL {
        *target = *values;
        return;
    }
    for (lane, (slot, value)) in target.iter_mut().zip(values).enumerate() {
        if mask >> lane & 1 != 0 {
            *slot = *value;
        }
    }
}
