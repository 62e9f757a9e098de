//! Atomics: their results in lane order, and that they are atomic.
#![expect(unsafe_code, reason = "test memory is written through raw pointers")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "bytes and words of test patterns"
)]

use super::*;

#[test]
fn atomics_one_after_the_other() {
    use RmwOp::{Add, And, Cas, Dec, Exch, Inc, Max, Min, Or, Xor};
    let mut world = World::new(4096);
    for ty in [Ty::U32, Ty::S32, Ty::U64, Ty::S64] {
        let bits = ty.bytes() * 8;
        let number = |raw: u64| {
            let shift = 128 - bits;
            let high = u128::from(raw) << shift;
            if ty.is_signed() {
                high.cast_signed() >> shift
            } else {
                (high >> shift).cast_signed()
            }
        };
        for op in [Add, And, Cas, Dec, Exch, Inc, Max, Min, Or, Xor] {
            let rule = |old: u64, b: u64, c: u64| match op {
                Add => old.wrapping_add(b),
                And => old & b,
                Or => old | b,
                Xor => old ^ b,
                Exch => b,
                Cas if number(old) == number(b) => c,
                Cas => old,
                Min => {
                    if number(b) < number(old) {
                        b
                    } else {
                        old
                    }
                }
                Max => {
                    if number(b) > number(old) {
                        b
                    } else {
                        old
                    }
                }
                Inc => {
                    if old >= b {
                        0
                    } else {
                        old + 1
                    }
                }
                Dec => {
                    if old == 0 || old > b {
                        b
                    } else {
                        old - 1
                    }
                }
            };
            for isa in Isa::available() {
                check_atomic(&mut world, isa, op, ty, &rule);
            }
        }
    }
}

/// All lanes at one address: each sees what the one before left.
fn check_atomic(
    world: &mut World,
    isa: Isa,
    op: RmwOp,
    ty: Ty,
    rule: &dyn Fn(u64, u64, u64) -> u64,
) {
    let class = class_of(ty);
    let low = if class == Class::B64 {
        u64::MAX
    } else {
        0xffff_ffff
    };
    let operands = if op == RmwOp::Cas { 2 } else { 1 };
    let shape = access(Space::Global, ty, 1, Order::Relaxed);
    let case = atom(op, shape, operands, true);
    let mut file = file(&[world.global; 32]);
    let mut b: Vec<u64> = noise(32, 21).iter().map(|x| x & low).collect();
    let c: Vec<u64> = noise(32, 22).iter().map(|x| x & low).collect();
    if op == RmwOp::Cas {
        // Every other exchange succeeds.
        b = (0..32)
            .map(|lane| {
                if lane >= 2 && lane % 2 == 0 {
                    c[lane - 2]
                } else {
                    77
                }
            })
            .collect();
        b[0] = element(&world.global_bytes(0, u64::from(ty.bytes())), Ty::U64);
    }
    for lane in 0..32 {
        file.set_value(Slot(4), class, lane, b[lane as usize]);
        file.set_value(Slot(8), class, lane, c[lane as usize]);
    }
    let mut memory = element(&world.global_bytes(0, u64::from(ty.bytes())), Ty::U64);
    world.run(isa, &case, &mut file).expect("mapped");
    for lane in 0..32 {
        let old = file.value_u64(Slot(4 + 4 * operands), class, lane);
        assert_eq!(
            old, memory,
            "{op:?} {ty:?} {isa:?}: old value of lane {lane}"
        );
        memory = rule(memory, b[lane as usize], c[lane as usize]) & low;
    }
    let left = element(&world.global_bytes(0, u64::from(ty.bytes())), Ty::U64);
    assert_eq!(left, memory, "{op:?} {ty:?} {isa:?}: what is left");
}

#[test]
fn float_and_narrow_atomics() {
    let mut world = World::new(4096);
    for isa in Isa::available() {
        // f32: 32 lanes add lane + 0.5 to one place.
        let sum: f32 = (0..32u8).map(|lane| f32::from(lane) + 0.5).sum();
        let got = reduce(&mut world, isa, Ty::F32, |lane| {
            u64::from((f32::from(lane) + 0.5).to_bits())
        });
        assert_eq!(got, u64::from(sum.to_bits()), "f32 {isa:?}");
        let got = reduce(&mut world, isa, Ty::F64, |lane| {
            (f64::from(lane) + 0.5).to_bits()
        });
        assert_eq!(f64::from_bits(got), f64::from(sum), "f64 {isa:?}");
        let pair = |lane: u8| {
            let (low, high) = (f32::from(lane), 0.25 * f32::from(lane));
            u64::from(half::f16::from_f32(high).to_bits()) << 16
                | u64::from(half::f16::from_f32(low).to_bits())
        };
        let got = reduce(&mut world, isa, Ty::F16x2, pair);
        let want = u64::from(half::f16::from_f32(124.0).to_bits()) << 16
            | u64::from(half::f16::from_f32(496.0).to_bits());
        assert_eq!(got, want, "f16x2 {isa:?}");
        let got = reduce(&mut world, isa, Ty::BF16x2, |_| 0x3f80_3f80);
        let want = u64::from(half::bf16::from_f32(32.0).to_bits());
        assert_eq!(got, want << 16 | want, "bf16x2 {isa:?}");
    }
}

/// Starts from zero, lets every lane add, and returns what is there then.
fn reduce(world: &mut World, isa: Isa, ty: Ty, value: impl Fn(u8) -> u64) -> u64 {
    for i in 0..8 {
        // SAFETY: within the allocation.
        unsafe { world.at(i).write(0) };
    }
    let case = atom(
        RmwOp::Add,
        access(Space::Global, ty, 1, Order::Relaxed),
        1,
        false,
    );
    let mut file = file(&[world.global; 32]);
    for lane in 0..32u8 {
        file.set_value(Slot(4), class_of(ty), u32::from(lane), value(lane));
    }
    world.run(isa, &case, &mut file).expect("mapped");
    element(&world.global_bytes(0, u64::from(ty.bytes())), ty)
}

/// Subnormal sums are flushed in global memory and kept in shared memory.
#[test]
fn float_atomics_flush_in_global_memory() {
    let mut world = World::new(4096);
    for isa in Isa::available() {
        let got = reduce(&mut world, isa, Ty::F32, |_| 1);
        assert_eq!(got, 0, "global {isa:?}");
        world.shared[1][0] = 0;
        let case = atom(
            RmwOp::Add,
            access(Space::Shared, Ty::F32, 1, Order::Relaxed),
            1,
            false,
        );
        let mut file = file(&[0; 32]);
        file.lanes32_mut(Slot(4)).fill(1);
        world.run(isa, &case, &mut file).expect("mapped");
        assert_eq!(world.shared[1][0], 32, "shared {isa:?}");
    }
}

#[test]
fn vectors_and_wide_patterns() {
    let mut world = World::new(4096);
    for isa in Isa::available() {
        for i in 0..16 {
            // SAFETY: within the allocation.
            unsafe { world.at(i).write(0) };
        }
        let shape = access(Space::Global, Ty::F32, 4, Order::Relaxed);
        let case = atom(RmwOp::Add, shape, 4, true);
        let mut registers = file(&[world.global; 32]);
        for k in 0..4u8 {
            let bits = f32::from(k + 1).to_bits();
            registers.lanes32_mut(Slot(4 + 4 * u32::from(k))).fill(bits);
        }
        world.run(isa, &case, &mut registers).expect("mapped");
        for k in 0..4u8 {
            let raw = element(&world.global_bytes(u64::from(k) * 4, 4), Ty::U32) as u32;
            assert_eq!(
                f32::from_bits(raw),
                32.0 * f32::from(k + 1),
                "part {k} {isa:?}"
            );
            let old = registers.lanes32(Slot(20 + 4 * u32::from(k)))[31];
            assert_eq!(
                f32::from_bits(old),
                31.0 * f32::from(k + 1),
                "old {k} {isa:?}"
            );
        }
        let case = atom(
            RmwOp::Exch,
            access(Space::Global, Ty::B128, 1, Order::Relaxed),
            1,
            true,
        );
        let mut registers = file(&[world.global; 32]);
        for lane in 0..32u128 {
            registers.lanes128_mut(Slot(4))[lane as usize] = lane << 100 | lane;
        }
        world.run(isa, &case, &mut registers).expect("mapped");
        for lane in 1..32u128 {
            let old = registers.lanes128(Slot(8))[lane as usize];
            assert_eq!(
                old,
                (lane - 1) << 100 | (lane - 1),
                "b128 lane {lane} {isa:?}"
            );
        }
    }
}

/// Host threads and guest instructions count on one word.
#[test]
fn atomics_are_atomic_between_threads() {
    let world = World::new(4096);
    // SAFETY: within the allocation, aligned.
    unsafe { world.at(0).cast::<u32>().write(0) };
    let (threads, rounds) = (4u32, 2000u32);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let shape = access(Space::Global, Ty::U32, 1, Order::Relaxed);
                let case = atom(RmwOp::Add, shape, 1, false);
                let mut registers = file(&[world.global; 32]);
                registers.lanes32_mut(Slot(4)).fill(1);
                let mut own = World::new(512);
                for _ in 0..rounds {
                    own.run(Isa::detect(), &case, &mut registers)
                        .expect("mapped");
                }
            });
        }
    });
    let total = element(&world.global_bytes(0, 4), Ty::U32) as u32;
    assert_eq!(total, threads * rounds * 32);
}
