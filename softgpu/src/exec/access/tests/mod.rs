//! Loads, stores and atomics on real guest memory, on every vector extension of the host.
#![expect(
    clippy::fn_params_excessive_bools,
    reason = "modifiers of instructions, named where they are passed"
)]
#![expect(unsafe_code, reason = "handlers are unsafe functions")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "bytes and words of test patterns"
)]

mod atomic;

use super::*;
use crate::error::FaultKind;
use crate::exec::inst::{Code, ConstBank, LaneFault};
use crate::exec::lanes::tests::noise;
use crate::exec::lanes::{Isa, encode_for};
use crate::exec::regs::{FULL, RegFile, Slot};
use crate::ir::{Access, Class, Instr, Op, Operand, Order, Reg, RmwOp, Scope, Space, Ty};
use crate::mem::AddressSpace;

const SOME: u32 = 0x9e37_79b8;
const SHARED_BYTES: u32 = 4096;
const LOCAL_BYTES: u32 = 256;

/// Memory of all kinds, filled with a pattern, and a context over it.
struct World {
    global: u64,
    bytes: u64,
    shared: Vec<Vec<u64>>,
    local: Vec<u128>,
    params: Vec<u8>,
}

impl World {
    fn new(bytes: u64) -> Self {
        let space = AddressSpace::global();
        let global = space.alloc_device(0, bytes).expect("memory").base;
        let world = Self {
            global,
            bytes,
            shared: (0..2)
                .map(|seed| noise(SHARED_BYTES as usize / 8, seed))
                .collect(),
            local: vec![0x5a; LOCAL_BYTES as usize * 64 / 16],
            params: noise(64, 3).iter().map(|&x| x as u8).collect(),
        };
        for (i, byte) in (0..bytes).zip(noise(bytes as usize, 4)) {
            // SAFETY: just allocated.
            unsafe { world.at(i).write(byte as u8) };
        }
        world
    }

    fn at(&self, offset: u64) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut((self.global + offset) as usize)
    }

    fn global_bytes(&self, offset: u64, count: u64) -> Vec<u8> {
        // SAFETY: tests stay within what they allocated.
        (offset..offset + count)
            .map(|i| unsafe { self.at(i).read() })
            .collect()
    }

    /// Runs an instruction as rank 1 of 2, warp 1 of a CTA, on device 0.
    fn run(&mut self, isa: Isa, case: &Case, file: &mut RegFile) -> Result<(), LaneFault> {
        let inst = encode_for(isa, &case.instr, &mut ConstBank::new())
            .unwrap_or_else(|| panic!("{:?} is not encoded", case.instr));
        let Code::Mem(handler, _) = inst.code else {
            panic!("not a memory instruction")
        };
        let shared: Vec<SharedMemory> = self
            .shared
            .iter_mut()
            .map(|words| SharedMemory {
                base: words.as_mut_ptr().cast(),
                len: SHARED_BYTES,
            })
            .collect();
        let local = LocalMemory {
            base: self.local.as_mut_ptr().cast(),
            bytes: LOCAL_BYTES,
            first_thread: 32,
        };
        let mut ctx = MemCtx {
            space: AddressSpace::global(),
            device: 0,
            shared: &shared,
            rank: 1,
            local,
            params: &self.params,
        };
        // SAFETY: the file has the slots of the case, the context describes live memory, and the
        // host has the extension.
        unsafe { handler(file, case.mask, &inst, &mut ctx) }.map_err(|fault| *fault)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        AddressSpace::global()
            .free(self.global)
            .expect("allocated above");
    }
}

/// A memory instruction with the address in slot 0 (B64) and data from slot 2 on.
struct Case {
    instr: Instr,
    mask: u32,
}

const fn access(space: Space, ty: Ty, vec: u8, order: Order) -> Access {
    Access {
        space,
        ty,
        vec,
        order,
        scope: Scope::Gpu,
        offset: 0,
    }
}

fn class_of(ty: Ty) -> Class {
    match ty.bytes() {
        16 => Class::B128,
        8 => Class::B64,
        _ => Class::B32,
    }
}

/// Registers for data: slots 4, 8, 12, …
fn data(class: Class, count: u8) -> Vec<Reg> {
    (0..u32::from(count))
        .map(|i| Reg {
            class,
            slot: 4 + 4 * i,
        })
        .collect()
}

const ADDRESS: Reg = Reg {
    class: Class::B64,
    slot: 0,
};

fn load(access: Access, class: Class, mask: u32) -> Case {
    let instr = Instr {
        op: Op::Ld(access),
        guard: None,
        dst: data(class, access.vec).into_iter().collect(),
        src: [Operand::Reg(ADDRESS)].into_iter().collect(),
        line: 1,
    };
    Case { instr, mask }
}

fn store(access: Access, class: Class, mask: u32) -> Case {
    let values = data(class, access.vec).into_iter().map(Operand::Reg);
    let instr = Instr {
        op: Op::St(access),
        guard: None,
        dst: [].into_iter().collect(),
        src: std::iter::once(Operand::Reg(ADDRESS))
            .chain(values)
            .collect(),
        line: 1,
    };
    Case { instr, mask }
}

fn atom(op: RmwOp, access: Access, operands: u32, old: bool) -> Case {
    let class = class_of(access.ty);
    let count = u32::from(access.vec);
    let operand = |i: u32| {
        Operand::Reg(Reg {
            class,
            slot: 4 + 4 * i,
        })
    };
    let result = |i: u32| Reg {
        class,
        slot: 4 + 4 * (operands + i),
    };
    let instr = Instr {
        op: Op::Atom(op, access),
        guard: None,
        dst: if old {
            (0..count).map(result).collect()
        } else {
            [].into_iter().collect()
        },
        src: std::iter::once(Operand::Reg(ADDRESS))
            .chain((0..operands).map(operand))
            .collect(),
        line: 1,
    };
    Case { instr, mask: FULL }
}

fn file(addresses: &[u64]) -> RegFile {
    let mut file = RegFile::new(48, 1, &[]);
    file.lanes64_mut(Slot(0)).copy_from_slice(addresses);
    file
}

/// Little-endian value of an element, extended to 64 bits by its type.
fn element(bytes: &[u8], ty: Ty) -> u64 {
    let raw = bytes
        .iter()
        .rev()
        .fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let shift = 64 - 8 * bytes.len().min(8) as u32;
    if ty.is_signed() {
        ((raw << shift).cast_signed() >> shift).cast_unsigned()
    } else {
        raw
    }
}

/// Contiguous, reversed, strided, uniform, scattered: offsets in units of the access.
fn patterns() -> Vec<Vec<u64>> {
    vec![
        (0..32).collect(),
        (0..32).rev().collect(),
        (0..32).map(|lane| lane * 3).collect(),
        vec![5; 32],
        noise(32, 9).iter().map(|x| x % 96).collect(),
    ]
}

const TYPES: [(Ty, Class, u8); 18] = [
    (Ty::U8, Class::B32, 1),
    (Ty::S8, Class::B32, 1),
    (Ty::B8, Class::B32, 4),
    (Ty::S8, Class::B64, 1),
    (Ty::U16, Class::B32, 2),
    (Ty::S16, Class::B32, 1),
    (Ty::B16, Class::B32, 4),
    (Ty::U16, Class::B64, 1),
    (Ty::U32, Class::B32, 1),
    (Ty::F32, Class::B32, 2),
    (Ty::F32, Class::B32, 8),
    (Ty::S32, Class::B32, 4),
    (Ty::S32, Class::B64, 1),
    (Ty::U32, Class::B64, 1),
    (Ty::B64, Class::B64, 1),
    (Ty::U64, Class::B64, 2),
    (Ty::B128, Class::B128, 1),
    (Ty::F64, Class::B64, 2),
];

#[test]
fn loads_extend_and_leave_other_lanes() {
    let mut world = World::new(64 << 10);
    for (ty, class, vec) in TYPES {
        for order in [Order::Weak, Order::Relaxed, Order::Acquire, Order::Volatile] {
            for pattern in patterns() {
                for mask in [FULL, SOME, 1 << 31] {
                    for isa in Isa::available() {
                        let case = load(access(Space::Global, ty, vec, order), class, mask);
                        check_load(&mut world, isa, &case, (ty, class, vec), &pattern);
                    }
                }
            }
        }
    }
}

fn check_load(world: &mut World, isa: Isa, case: &Case, shape: (Ty, Class, u8), pattern: &[u64]) {
    let (ty, class, vec) = shape;
    let size = u64::from(ty.bytes());
    let stride = size * u64::from(vec);
    let addresses: Vec<u64> = pattern.iter().map(|i| world.global + i * stride).collect();
    let mut file = file(&addresses);
    let sentinel = 0x1357_9bdf;
    for reg in data(class, vec) {
        for lane in 0..32 {
            file.set_value(Slot(reg.slot), class, lane, sentinel);
        }
    }
    world.run(isa, case, &mut file).expect("mapped");
    for (k, reg) in (0u64..).zip(data(class, vec)) {
        for lane in 0..32 {
            let offset = pattern[lane as usize] * stride + k * size;
            let bytes = world.global_bytes(offset, size);
            let low = if class == Class::B32 {
                0xffff_ffff
            } else {
                u64::MAX
            };
            let active = case.mask >> lane & 1 != 0;
            let want = if active {
                element(&bytes[..bytes.len().min(8)], ty) & low
            } else {
                sentinel
            };
            let got = file.value_u64(Slot(reg.slot), class, lane);
            assert_eq!(
                got, want,
                "{isa:?} {:?} lane {lane} part {k}",
                case.instr.op
            );
            if class == Class::B128 && active {
                let high = (file.lanes128(Slot(reg.slot))[lane as usize] >> 64) as u64;
                assert_eq!(
                    high,
                    element(&bytes[8..], ty),
                    "{isa:?} high half, lane {lane}"
                );
            }
        }
    }
}

#[test]
fn stores_touch_only_what_they_name() {
    let mut world = World::new(64 << 10);
    for (ty, class, vec) in TYPES {
        for order in [Order::Weak, Order::Release] {
            // Patterns without two lanes at one place.
            for pattern in &patterns()[..3] {
                for mask in [FULL, SOME] {
                    for isa in Isa::available() {
                        let case = store(access(Space::Global, ty, vec, order), class, mask);
                        check_store(&mut world, isa, &case, (ty, class, vec), pattern);
                    }
                }
            }
        }
    }
}

fn check_store(world: &mut World, isa: Isa, case: &Case, shape: (Ty, Class, u8), pattern: &[u64]) {
    let (ty, class, vec) = shape;
    let size = ty.bytes() as usize;
    let stride = size * usize::from(vec);
    let start = 512u64;
    let at = |lane: usize| world.global + start + pattern[lane] * stride as u64;
    let addresses: Vec<u64> = (0..32).map(at).collect();
    let mut file = file(&addresses);
    let count = start * 2 + 96 * stride as u64;
    let mut want = world.global_bytes(0, count);
    for (k, reg) in data(class, vec).into_iter().enumerate() {
        for (lane, value) in noise(32, k as u64 + u64::from(case.mask))
            .into_iter()
            .enumerate()
        {
            file.set_value(Slot(reg.slot), class, lane as u32, value);
            if case.mask >> lane & 1 == 0 {
                continue;
            }
            let offset = start as usize + pattern[lane] as usize * stride + k * size;
            let wide = u128::from(value).to_le_bytes();
            want[offset..offset + size].copy_from_slice(&wide[..size]);
        }
    }
    world.run(isa, case, &mut file).expect("mapped");
    let got = world.global_bytes(0, count);
    let wrong = (0..count as usize).find(|&i| got[i] != want[i]);
    assert_eq!(wrong, None, "first wrong byte, {isa:?} {:?}", case.instr.op);
}

/// The same word by every name it has.
#[test]
fn spaces_and_windows() {
    let mut world = World::new(4096);
    let own = world.shared[1][3] as u32;
    let other = world.shared[0][3] as u32;
    let param = element(&world.params[8..12], Ty::U32) as u32;
    // Warp 1, so lane 0 is thread 32.
    world.local[(32 * LOCAL_BYTES as usize + 16) / 16] = 0x1111;
    world.local[(63 * LOCAL_BYTES as usize + 16) / 16] = 0x2222;
    let rank = |rank: u32| u64::from(map_shared(24, rank));
    for (space, address, want) in [
        (Space::Shared, 24, [own; 2]),
        (Space::Shared, SHARED_WINDOW + 24, [own; 2]),
        (Space::SharedCluster, 24, [own; 2]),
        (Space::SharedCluster, rank(0), [other; 2]),
        (Space::SharedCluster, rank(1), [own; 2]),
        (Space::Generic, SHARED_WINDOW + 24, [own; 2]),
        (Space::Generic, SHARED_WINDOW + rank(0), [other; 2]),
        (Space::Param, 8, [param; 2]),
        (Space::Generic, PARAM_WINDOW + 8, [param; 2]),
        (Space::Local, 16, [0x1111, 0x2222]),
        (Space::Generic, LOCAL_WINDOW + 16, [0x1111, 0x2222]),
    ] {
        for isa in Isa::available() {
            let case = load(access(space, Ty::U32, 1, Order::Weak), Class::B32, FULL);
            let mut file = file(&[address; 32]);
            world.run(isa, &case, &mut file).expect("mapped");
            let lanes = file.lanes32(Slot(4));
            assert_eq!(
                [lanes[0], lanes[31]],
                want,
                "{space:?} {address:#x} {isa:?}"
            );
        }
    }
}

/// Lanes of one generic access in different spaces.
#[test]
fn mixed_generic_addresses() {
    let mut world = World::new(4096);
    let global = world.global;
    let addresses: Vec<u64> = (0..32u64)
        .map(|lane| match lane % 3 {
            0 => global + lane * 4,
            1 => SHARED_WINDOW + lane * 4,
            _ => PARAM_WINDOW + 8,
        })
        .collect();
    for isa in Isa::available() {
        let case = load(
            access(Space::Generic, Ty::U32, 1, Order::Weak),
            Class::B32,
            FULL,
        );
        let mut file = file(&addresses);
        world.run(isa, &case, &mut file).expect("mapped");
        for lane in 0..32u64 {
            let want = match lane % 3 {
                0 => element(&world.global_bytes(lane * 4, 4), Ty::U32),
                1 => world.shared[1][lane as usize / 2] >> (32 * (lane % 2)) & 0xffff_ffff,
                _ => element(&world.params[8..12], Ty::U32),
            };
            assert_eq!(
                u64::from(file.lanes32(Slot(4))[lane as usize]),
                want,
                "lane {lane}"
            );
        }
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "a table of accesses and their faults"
)]
#[test]
fn faults_name_the_lane() {
    let mut world = World::new(4096);
    let (global, end) = (world.global, world.global + world.bytes);
    let case = |space, ty, store_it: bool| {
        let access = access(space, ty, 1, Order::Weak);
        if store_it {
            store(access, class_of(ty), FULL)
        } else {
            load(access, class_of(ty), FULL)
        }
    };
    let illegal = |address, bytes, write| FaultKind::IllegalAddress {
        address,
        bytes,
        write,
    };
    let misaligned = |address, align| FaultKind::MisalignedAddress { address, align };
    let limit = u64::from(SHARED_BYTES);
    for (case, good, bad, kind) in [
        (
            case(Space::Global, Ty::U32, false),
            global,
            0,
            illegal(0, 4, false),
        ),
        (
            case(Space::Global, Ty::U32, true),
            global,
            end,
            illegal(end, 4, true),
        ),
        (
            case(Space::Global, Ty::U32, false),
            global,
            global + 2,
            misaligned(global + 2, 4),
        ),
        (
            case(Space::Global, Ty::B128, false),
            global,
            global + 8,
            misaligned(global + 8, 16),
        ),
        (
            case(Space::Global, Ty::U32, false),
            global,
            SHARED_WINDOW,
            illegal(SHARED_WINDOW, 4, false),
        ),
        (
            case(Space::Shared, Ty::U64, true),
            0,
            limit,
            illegal(limit, 8, true),
        ),
        (case(Space::Shared, Ty::U64, true), 8, 3, misaligned(3, 8)),
        (
            case(Space::SharedCluster, Ty::U32, false),
            0,
            u64::from(map_shared(0, 2)),
            illegal(u64::from(map_shared(0, 2)), 4, false),
        ),
        (
            case(Space::Local, Ty::U32, true),
            0,
            256,
            illegal(256, 4, true),
        ),
        (
            case(Space::Param, Ty::U32, false),
            0,
            64,
            illegal(64, 4, false),
        ),
        (case(Space::Param, Ty::U32, true), 0, 0, illegal(0, 4, true)),
    ] {
        for isa in Isa::available() {
            let mut addresses = [good; 32];
            addresses[7..].fill(bad);
            let lane = if good == bad { 0 } else { 7 };
            let fault = world
                .run(isa, &case, &mut file(&addresses))
                .expect_err("a fault");
            let kind = kind.clone();
            assert_eq!(
                fault,
                LaneFault { lane, kind },
                "{isa:?} {:?}",
                case.instr.op
            );
        }
    }
}

/// Inactive lanes may hold any address.
#[test]
fn inactive_lanes_are_not_resolved() {
    let mut world = World::new(4096);
    let mut addresses = [u64::MAX; 32];
    addresses[3] = world.global;
    for isa in Isa::available() {
        let case = load(
            access(Space::Global, Ty::U32, 1, Order::Weak),
            Class::B32,
            1 << 3,
        );
        world
            .run(isa, &case, &mut file(&addresses))
            .expect("lane 3 is mapped");
    }
}

#[test]
fn offsets_and_immediate_addresses() {
    let mut world = World::new(4096);
    let mut shape = access(Space::Global, Ty::U32, 1, Order::Weak);
    shape.offset = -8;
    let want = element(&world.global_bytes(16, 4), Ty::U32);
    for isa in Isa::available() {
        let mut case = load(shape, Class::B32, FULL);
        let mut registers = file(&[world.global + 24; 32]);
        world.run(isa, &case, &mut registers).expect("mapped");
        assert_eq!(u64::from(registers.lanes32(Slot(4))[9]), want, "{isa:?}");
        case.instr.op = Op::Ld(access(Space::Param, Ty::U32, 1, Order::Weak));
        case.instr.src = [Operand::Imm(8)].into_iter().collect();
        let mut consts = ConstBank::new();
        let inst = encode_for(isa, &case.instr, &mut consts).expect("encoded");
        assert!(inst.a.is_const(), "the address stands in the bank");
    }
}

#[test]
fn address_queries() {
    let mut world = World::new(512);
    let global = world.global;
    let rank = |rank: u32| SHARED_WINDOW + u64::from(map_shared(64, rank));
    let addresses = [
        global,
        SHARED_WINDOW + 64,
        rank(0),
        rank(1),
        LOCAL_WINDOW,
        PARAM_WINDOW,
    ];
    let mut lanes = [global; 32];
    lanes[..6].copy_from_slice(&addresses);
    for isa in Isa::available() {
        for (space, want) in [
            (Space::Global, 0b00_0001),
            (Space::Shared, 0b00_1010),
            (Space::SharedCluster, 0b00_1110),
            (Space::Local, 0b01_0000),
            (Space::Param, 0b10_0000),
        ] {
            let pred = Reg {
                class: Class::Pred,
                slot: 0,
            };
            let mut case = load(access(space, Ty::U32, 1, Order::Weak), Class::B32, 0x3f);
            case.instr.op = Op::Isspacep(space);
            case.instr.dst = [pred].into_iter().collect();
            let mut registers = file(&lanes);
            world.run(isa, &case, &mut registers).expect("no access");
            assert_eq!(registers.pred(0), want, "{space:?} {isa:?}");
        }
        let mut case = load(
            access(Space::Generic, Ty::U32, 1, Order::Weak),
            Class::B32,
            FULL,
        );
        case.instr.op = Op::Getctarank { wide: true };
        let mut registers = file(&lanes);
        world.run(isa, &case, &mut registers).expect("no access");
        assert_eq!(registers.lanes32(Slot(4))[1..4], [1, 0, 1], "{isa:?}");
    }
}
