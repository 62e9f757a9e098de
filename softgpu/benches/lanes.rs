//! Speed of the bare handlers: lane-instructions per second of one core's time, without a scheduler.
#![expect(unsafe_code, reason = "handlers are unsafe functions")]
#![expect(clippy::print_stdout, reason = "the figures are the purpose")]

use std::hint::black_box;

use softgpu::exec::access::{LocalMemory, MemCtx, SharedMemory};
use softgpu::exec::inst::{Code, ConstBank, Inst};
use softgpu::exec::lanes::{Isa, encode_for};
use softgpu::exec::regs::{FULL, RegFile, Slot};
use softgpu::ir::{
    Access, Class, FloatBin, FloatMod, FloatUn, Instr, IntOp, Op, Operand, Order, Reg, Rounding,
    Scope, Space, Ty,
};
use softgpu::mem::AddressSpace;

/// Instructions in the loop; independent registers, as in unrolled code.
const BODY: u32 = 64;
const ROUNDS: u32 = 30_000;

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

/// Processor time of this thread, so that other load on the machine does not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(code, 0, "the clock exists");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn rate(isa: Isa, op: &Op, class: Class, sources: u32, mask: u32) -> Option<f64> {
    let mut consts = ConstBank::new();
    let encode = |index| encode_for(isa, &instr(op, class, sources, index), &mut consts);
    let body: Vec<Inst> = (0..BODY).map(encode).collect::<Option<_>>()?;
    let mut file = RegFile::new(64, 0, &consts.finish());
    let start = cpu_seconds();
    for _ in 0..ROUNDS {
        for inst in &body {
            if let Code::Alu(handler) = inst.code {
                // SAFETY: the slots are below the file's size, and the host has the extension.
                unsafe { handler(black_box(&mut file), mask, inst) };
            }
        }
    }
    let lanes = f64::from(mask.count_ones()) * f64::from(BODY) * f64::from(ROUNDS);
    Some(lanes / (cpu_seconds() - start))
}

/// Loads from 32 lanes side by side: `vec` words each.
fn load_rate(isa: Isa, space: Space, vec: u8) -> Option<f64> {
    let memory = AddressSpace::global().alloc_device(0, 1 << 16).ok()?.base;
    let mut shared_bytes = vec![0u64; 4096];
    let access = Access {
        space,
        ty: Ty::U32,
        vec,
        order: Order::Weak,
        scope: Scope::Cta,
        offset: 0,
    };
    let b32 = |slot| Reg {
        class: Class::B32,
        slot,
    };
    let address = Reg {
        class: Class::B64,
        slot: 0,
    };
    let instr = Instr {
        op: Op::Ld(access),
        guard: None,
        dst: (0..u32::from(vec)).map(|k| b32(2 + k)).collect(),
        src: [Operand::Reg(address)].into_iter().collect(),
        line: 1,
    };
    let inst = encode_for(isa, &instr, &mut ConstBank::new())?;
    let mut file = RegFile::new(16, 0, &[]);
    let base = if space == Space::Global { memory } else { 0 };
    for (lane, address) in (0..).zip(file.lanes64_mut(Slot(0))) {
        *address = base + lane * 4 * u64::from(vec);
    }
    let shared = [SharedMemory {
        base: shared_bytes.as_mut_ptr().cast(),
        len: 32768,
    }];
    let mut ctx = MemCtx {
        space: AddressSpace::global(),
        device: 0,
        shared: &shared,
        rank: 0,
        local: LocalMemory {
            base: std::ptr::null_mut(),
            bytes: 0,
            first_thread: 0,
        },
        params: &[],
    };
    let Code::Mem(handler, _) = inst.code else {
        return None;
    };
    let count = BODY * ROUNDS;
    let start = cpu_seconds();
    for _ in 0..count {
        // SAFETY: the slots are below the file's size, the context describes live memory, and the
        // host has the extension.
        unsafe { handler(black_box(&mut file), FULL, &inst, &mut ctx) }.ok()?;
    }
    let rate = 32.0 * f64::from(count) / (cpu_seconds() - start);
    AddressSpace::global().free(memory).ok()?;
    Some(rate)
}

fn main() {
    let plain = FloatMod::default();
    let approx = FloatMod {
        rounding: Rounding::Approx,
        ..plain
    };
    let rcp = Op::FloatUnary(FloatUn::Rcp, Ty::F32, approx);
    let cvt = |to, from| Op::Cvt {
        to,
        from,
        modifiers: plain,
        satfinite: to == Ty::E4M3x2,
        relu: false,
    };
    let float = |op| Op::Float(op, Ty::F32, plain);
    let ops = [
        ("add.u32", Op::Int(IntOp::Add, Ty::U32), Class::B32, 2),
        ("add.u64", Op::Int(IntOp::Add, Ty::U64), Class::B64, 2),
        ("mad.lo.u32", Op::Mad(IntOp::MulLo, Ty::U32), Class::B32, 3),
        ("add.f32", float(FloatBin::Add), Class::B32, 2),
        ("div.rn.f32", float(FloatBin::Div), Class::B32, 2),
        ("fma.rn.f32", Op::Fma(Ty::F32, plain, false), Class::B32, 3),
        ("fma.rn.f64", Op::Fma(Ty::F64, plain, false), Class::B64, 3),
        (
            "fma.rn.bf16x2",
            Op::Fma(Ty::BF16x2, plain, false),
            Class::B32,
            3,
        ),
        (
            "ex2.approx.f32",
            Op::FloatUnary(FloatUn::Ex2, Ty::F32, plain),
            Class::B32,
            1,
        ),
        ("rcp.approx.f32", rcp, Class::B32, 1),
        ("cvt.rn.bf16x2.f32", cvt(Ty::BF16x2, Ty::F32), Class::B32, 2),
        ("cvt.rn.f16x2.f32", cvt(Ty::F16x2, Ty::F32), Class::B32, 2),
        ("cvt.rn.e4m3x2.f32", cvt(Ty::E4M3x2, Ty::F32), Class::B32, 2),
        ("cvt.rn.f32.s32", cvt(Ty::F32, Ty::S32), Class::B32, 1),
        ("cvt.rni.s32.f32", cvt(Ty::S32, Ty::F32), Class::B32, 1),
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
        for (name, space) in [("global", Space::Global), ("shared", Space::Shared)] {
            for vec in [1, 4] {
                if let Some(rate) = load_rate(isa, space, vec) {
                    let giga = rate / 1e9;
                    println!("{isa:?} ld.{name} of {vec} words: {giga:.2} G lane-instructions/s");
                }
            }
        }
    }
}
