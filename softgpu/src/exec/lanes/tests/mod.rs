//! Every operation against an independent oracle, on every vector extension of the host.
//!
//! The harness runs an instruction over 32 cases at a time with a full and with a partial mask,
//! compares the extensions with each other, checks that inactive lanes keep what they had, and
//! compares the active ones with the oracle.
#![expect(unsafe_code, reason = "handlers are unsafe functions")]

mod approx;
mod carry;
mod convert;
mod coverage;
mod double;
mod float;
mod integer;
mod other;
mod rare;

use super::{Isa, encode_for};
use crate::exec::inst::{Code, ConstBank};
use crate::exec::regs::{FULL, RegFile, Slot};
use crate::ir::{Class, Instr, Op, Operand, Reg};

/// What inactive destinations hold.
const UNTOUCHED: u64 = 0x5a5a_1234_dead_beef;

/// A partial mask with lane 0 off and lane 31 on.
const SOME: u32 = 0x9e37_79b8;

/// An instruction's shape: the operation and the classes of its operands.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) op: Op,
    pub(crate) dst: Vec<Class>,
    pub(crate) src: Vec<Class>,
}

impl Shape {
    pub(crate) fn new(op: Op, dst: &[Class], src: &[Class]) -> Self {
        Self {
            op,
            dst: dst.to_vec(),
            src: src.to_vec(),
        }
    }

    /// Registers in order, and the number of slots and predicates.
    fn registers(&self) -> (Vec<Reg>, u32, u32) {
        let (mut slots, mut preds) = (0, 0);
        let all = self.dst.iter().chain(&self.src);
        let regs = all
            .map(|&class| {
                let (counter, step) = match class {
                    Class::Pred => (&mut preds, 1),
                    Class::B32 => (&mut slots, 2),
                    Class::B64 => (&mut slots, 2),
                    Class::B128 => (&mut slots, 4),
                };
                let slot = *counter;
                *counter += step;
                Reg { class, slot }
            })
            .collect();
        (regs, slots, preds)
    }

    /// Runs 32 cases (`cases[lane][operand]`) on one extension: `results[destination][lane]`.
    fn run(&self, isa: Isa, cases: &[Vec<u64>], mask: u32) -> Vec<Vec<u64>> {
        let (regs, slots, preds) = self.registers();
        let (dst, src) = regs.split_at(self.dst.len());
        let instr = Instr {
            op: self.op.clone(),
            guard: None,
            dst: dst.iter().copied().collect(),
            src: src.iter().copied().map(Operand::Reg).collect(),
            line: 1,
        };
        let mut consts = ConstBank::new();
        let inst = encode_for(isa, &instr, &mut consts)
            .unwrap_or_else(|| panic!("{:?} is not encoded", self));
        assert!(consts.slots() <= slots && consts.preds() <= preds);
        let mut file = RegFile::new(slots, preds, &consts.finish());
        for lane in 0..32 {
            for reg in dst {
                file.set_value(Slot(reg.slot), reg.class, lane, UNTOUCHED);
            }
            for (reg, value) in src.iter().zip(&cases[lane as usize]) {
                file.set_value(Slot(reg.slot), reg.class, lane, *value);
            }
        }
        let Code::Alu(handler) = inst.code else {
            panic!("{self:?} has no register-only handler")
        };
        // SAFETY: the file has the slots that encoding noted, and the host the extension.
        unsafe { handler(&mut file, mask, &inst) };
        let value = |reg: &Reg| {
            let value = |lane| file.value_u64(Slot(reg.slot), reg.class, lane);
            (0..32).map(value).collect()
        };
        dst.iter().map(value).collect()
    }

    /// Runs 32 cases everywhere and returns the common results.
    fn agree(&self, cases: &[Vec<u64>]) -> Vec<Vec<u64>> {
        let baseline = self.run(Isa::Baseline, cases, FULL);
        for isa in Isa::available() {
            let full = self.run(isa, cases, FULL);
            let partial = self.run(isa, cases, SOME);
            for (index, class) in self.dst.iter().enumerate() {
                let untouched = match class {
                    Class::Pred => UNTOUCHED & 1,
                    Class::B32 => UNTOUCHED & 0xffff_ffff,
                    _ => UNTOUCHED,
                };
                for lane in 0..32 {
                    let at = format!(
                        "{self:?} {isa:?} dst {index} lane {lane} {:x?}",
                        cases[lane]
                    );
                    assert_eq!(full[index][lane], baseline[index][lane], "{at}");
                    let active = SOME >> lane & 1 != 0;
                    let expected = if active {
                        baseline[index][lane]
                    } else {
                        untouched
                    };
                    assert_eq!(partial[index][lane], expected, "partial mask, {at}");
                }
            }
        }
        baseline
    }

    /// Compares all cases with an oracle for the first destination, in its low `bits` bits.
    pub(crate) fn check(
        &self,
        bits: u32,
        cases: impl IntoIterator<Item = Vec<u64>>,
        oracle: impl Fn(&[u64]) -> u64,
    ) {
        self.check_with(cases, |case, got| {
            let low = if bits == 64 {
                u64::MAX
            } else {
                (1 << bits) - 1
            };
            let want = oracle(case) & low;
            if got & low == want {
                Ok(())
            } else {
                Err(format!("{want:#x}"))
            }
        });
    }

    /// Compares all cases with a judgement over the first destination.
    pub(crate) fn check_with(
        &self,
        cases: impl IntoIterator<Item = Vec<u64>>,
        judge: impl Fn(&[u64], u64) -> Result<(), String>,
    ) {
        let mut cases: Vec<_> = cases.into_iter().collect();
        assert!(!cases.is_empty());
        while cases.len() % 32 != 0 {
            cases.push(cases[0].clone());
        }
        for chunk in cases.chunks(32) {
            let results = self.agree(chunk);
            for (case, &got) in chunk.iter().zip(&results[0]) {
                if let Err(want) = judge(case, got) {
                    panic!("{:?} of {case:x?}: got {got:#x}, want {want}", self.op);
                }
            }
        }
    }
}

/// All combinations of one value from each list.
pub(crate) fn product(lists: &[&[u64]]) -> Vec<Vec<u64>> {
    let mut all = vec![vec![]];
    for list in lists {
        let extend = |case: &Vec<u64>| {
            let case = case.clone();
            list.iter().map(move |&value| {
                let mut case = case.clone();
                case.push(value);
                case
            })
        };
        all = all.iter().flat_map(extend).collect();
    }
    all
}

/// A fixed sequence of well-mixed numbers (splitmix64).
pub(crate) fn noise(count: usize, seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count).map(|_| next()).collect()
}

/// Random cases of `operands` values.
pub(crate) fn random(count: usize, operands: usize, seed: u64) -> Vec<Vec<u64>> {
    noise(count * operands, seed)
        .chunks(operands)
        .map(<[u64]>::to_vec)
        .collect()
}
