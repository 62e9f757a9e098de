//! Chains of carries, as 128-bit arithmetic.
#![expect(unsafe_code, reason = "handlers are unsafe functions")]

use super::{SOME, random};
use crate::exec::inst::{Code, ConstBank};
use crate::exec::lanes::{Isa, encode_for};
use crate::exec::regs::{FULL, RegFile, Slot};
use crate::ir::{Class, Instr, IntOp, Op, Operand, Reg, Ty};

fn instr(op: IntOp, ty: Ty, carry: (bool, bool), slots: &[u32]) -> Instr {
    let class = if ty.bytes() == 8 {
        Class::B64
    } else {
        Class::B32
    };
    let reg = |slot| Reg { class, slot };
    Instr {
        op: Op::Carry {
            op,
            ty,
            carry_in: carry.0,
            carry_out: carry.1,
        },
        guard: None,
        dst: [reg(slots[0])].into_iter().collect(),
        src: slots[1..]
            .iter()
            .map(|&slot| Operand::Reg(reg(slot)))
            .collect(),
        line: 1,
    }
}

fn execute(isa: Isa, program: &[Instr], file: &mut RegFile, mask: u32) {
    for instr in program {
        let inst = encode_for(isa, instr, &mut ConstBank::new()).expect("encoded");
        let Code::Alu(handler) = inst.code else {
            panic!("not register-only")
        };
        // SAFETY: the tests' slots are below the file's size, and the host has the extension.
        unsafe { handler(file, mask, &inst) };
    }
}

/// Two 64-bit words each: slots 0.. = a, 4.. = b, 8.. = result.
#[test]
fn sums_and_differences_of_128_bits() {
    for (op, exact) in [
        (IntOp::Add, u128::wrapping_add as fn(u128, u128) -> u128),
        (IntOp::Sub, u128::wrapping_sub),
    ] {
        let program = [
            instr(op, Ty::U64, (false, true), &[8, 0, 4]),
            instr(op, Ty::U64, (true, false), &[10, 2, 6]),
        ];
        for isa in Isa::available() {
            for mask in [FULL, SOME] {
                let mut file = RegFile::new(12, 0, &[]);
                let mut cases = random(32, 4, 51);
                for (case, word) in cases.iter_mut().zip([0, 1, u64::MAX].into_iter().cycle()) {
                    case[0] = word;
                }
                for (lane, case) in (0..).zip(&cases) {
                    for (slot, value) in [0, 2, 4, 6].into_iter().zip(case) {
                        file.set_value(Slot(slot), Class::B64, lane, *value);
                    }
                }
                file.carry = 0x0f0f_0f0f;
                execute(isa, &program, &mut file, mask);
                assert_eq!(file.carry & !mask, 0x0f0f_0f0f & !mask, "inactive flags");
                for (lane, case) in (0..32u32).zip(&cases) {
                    let word = |i: usize| u128::from(case[i + 1]) << 64 | u128::from(case[i]);
                    let want = exact(word(0), word(2));
                    let half = |slot| u128::from(file.value_u64(Slot(slot), Class::B64, lane));
                    let got = half(10) << 64 | half(8);
                    let active = mask >> lane & 1 != 0;
                    let want = if active { want } else { 0 };
                    assert_eq!(got, want, "{op:?} {isa:?} lane {lane} {case:x?}");
                }
            }
        }
    }
}

/// 32 × 32 + 64 bits by mad.lo.cc and madc.hi: slots a, b, c low, c high, result low, high.
#[test]
fn multiply_add_chain() {
    let program = [
        instr(IntOp::MulLo, Ty::U32, (false, true), &[4, 0, 1, 2]),
        instr(IntOp::MulHi, Ty::U32, (true, false), &[5, 0, 1, 3]),
    ];
    for isa in Isa::available() {
        let mut file = RegFile::new(6, 0, &[]);
        let cases = random(32, 4, 52);
        for (lane, case) in (0..).zip(&cases) {
            for (slot, value) in (0..).zip(case) {
                file.set_value(Slot(slot), Class::B32, lane, *value);
            }
        }
        execute(isa, &program, &mut file, FULL);
        for (lane, case) in (0..32u32).zip(&cases) {
            let word = |i: usize| case[i] & 0xffff_ffff;
            let want = (word(0) * word(1)).wrapping_add(word(3) << 32 | word(2));
            let half = |slot| file.value_u64(Slot(slot), Class::B32, lane);
            assert_eq!(
                half(5) << 32 | half(4),
                want,
                "{isa:?} lane {lane} {case:x?}"
            );
        }
    }
}
