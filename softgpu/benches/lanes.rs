//! Speed of the bare handlers: lane-instructions per second on one core, without a scheduler.
#![expect(unsafe_code, reason = "handlers are unsafe functions")]
#![expect(clippy::print_stdout, reason = "the figures are the purpose")]

use std::hint::black_box;
use std::time::Instant;

use softgpu::exec::inst::{Code, ConstBank, Inst};
use softgpu::exec::lanes::{Isa, encode_for};
use softgpu::exec::regs::{FULL, RegFile};
use softgpu::ir::{Class, FloatBin, FloatMod, Instr, IntOp, Op, Operand, Reg, Ty};

/// Instructions in the loop; independent registers, as in unrolled code.
const BODY: u32 = 64;
const ROUNDS: u32 = 200_000;

fn instr(op: &Op, class: Class, sources: u32, index: u32) -> Instr {
    let width = if class == Class::B64 { 2 } else { 1 };
    let reg = |slot: u32| Reg {
        class,
        slot: slot % 32 * width,
    };
    Instr {
        op: op.clone(),
        guard: None,
        dst: [reg(index)].into_iter().collect(),
        src: (1..=sources)
            .map(|k| Operand::Reg(reg(index + 7 * k)))
            .collect(),
        line: 1,
    }
}

fn rate(isa: Isa, op: &Op, class: Class, sources: u32, mask: u32) -> Option<f64> {
    let mut consts = ConstBank::new();
    let encode = |index| encode_for(isa, &instr(op, class, sources, index), &mut consts);
    let body: Vec<Inst> = (0..BODY).map(encode).collect::<Option<_>>()?;
    let mut file = RegFile::new(64, 0, consts.finish());
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for inst in &body {
            if let Code::Alu(handler) = inst.code {
                // SAFETY: the slots are below the file's size, and the host has the extension.
                unsafe { handler(black_box(&mut file), mask, inst) };
            }
        }
    }
    let lanes = f64::from(mask.count_ones()) * f64::from(BODY) * f64::from(ROUNDS);
    Some(lanes / start.elapsed().as_secs_f64())
}

fn main() {
    let plain = FloatMod::default();
    let ops = [
        ("add.u32", Op::Int(IntOp::Add, Ty::U32), Class::B32, 2),
        ("add.u64", Op::Int(IntOp::Add, Ty::U64), Class::B64, 2),
        ("mad.lo.u32", Op::Mad(IntOp::MulLo, Ty::U32), Class::B32, 3),
        (
            "add.f32",
            Op::Float(FloatBin::Add, Ty::F32, plain),
            Class::B32,
            2,
        ),
        ("fma.rn.f32", Op::Fma(Ty::F32, plain, false), Class::B32, 3),
        ("fma.rn.f64", Op::Fma(Ty::F64, plain, false), Class::B64, 3),
        (
            "fma.rn.bf16x2",
            Op::Fma(Ty::BF16x2, plain, false),
            Class::B32,
            3,
        ),
    ];
    for isa in Isa::available() {
        for (name, op, class, sources) in &ops {
            for (label, mask) in [("full", FULL), ("half", 0x5555_5555)] {
                if let Some(rate) = rate(isa, op, *class, *sources, mask) {
                    let giga = rate / 1e9;
                    println!("{isa:?} {name} {label} mask: {giga:.2} G lane-instructions/s");
                }
            }
        }
    }
}
