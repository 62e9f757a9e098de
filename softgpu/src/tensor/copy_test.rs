//! Box copies against a model that moves one element at a time, over random maps, coordinates and
//! memory contents, so that every rank, swizzle and side out of bounds occurs.
#![expect(
    clippy::cast_possible_truncation,
    clippy::fn_params_excessive_bools,
    reason = "addresses of the test memory are small; a fault carries a bool"
)]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::copy::{self, Global};
use super::map::{DataType, TensorMap, TiledArguments};
use super::reduce::{ReduceOp, Reduction};
use crate::error::FaultKind;

const BASE: u64 = 0x7000_0000;

/// Global memory from `BASE` on; everything else faults.
#[derive(Clone, PartialEq)]
struct Memory(Vec<u8>);

impl Memory {
    fn range(&self, address: u64, bytes: usize, write: bool) -> Result<usize, FaultKind> {
        let start = address.wrapping_sub(BASE);
        if start as usize as u64 == start
            && start.saturating_add(bytes as u64) <= self.0.len() as u64
        {
            return Ok(start as usize);
        }
        Err(FaultKind::IllegalAddress {
            address,
            bytes: bytes as u64,
            write,
        })
    }
}

impl Global for Memory {
    fn read(&mut self, address: u64, row: &mut [u8]) -> Result<(), FaultKind> {
        let start = self.range(address, row.len(), false)?;
        row.copy_from_slice(&self.0[start..start + row.len()]);
        Ok(())
    }
    fn write(&mut self, address: u64, row: &[u8]) -> Result<(), FaultKind> {
        let start = self.range(address, row.len(), true)?;
        self.0[start..start + row.len()].copy_from_slice(row);
        Ok(())
    }
}

/// A map with the numbers it was made of, and where its box goes.
#[derive(Debug, Clone)]
struct Case {
    data_type: usize,
    swizzle: u32,
    nan: bool,
    dims: Vec<u64>,
    padding: Vec<u64>,
    box_dims: Vec<u32>,
    element_strides: Vec<u32>,
    coordinates: Vec<i32>,
    shared: u32,
    seed: u64,
}

const SIZES: [u32; 10] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2];

impl Case {
    fn size(&self) -> u64 {
        SIZES[self.data_type].into()
    }

    fn strides(&self) -> Vec<u64> {
        let mut strides = vec![];
        let mut stride = self.dims[0] * self.size();
        for (i, padding) in self.padding.iter().enumerate() {
            stride = (stride + padding).next_multiple_of(16);
            strides.push(stride);
            stride *= self.dims[i + 1];
        }
        strides
    }

    fn map(&self) -> TensorMap {
        TensorMap::tiled(&TiledArguments {
            data_type: u32::try_from(self.data_type).unwrap(),
            rank: u32::try_from(self.dims.len()).unwrap(),
            address: BASE,
            dims: &self.dims,
            strides: &self.strides(),
            box_dims: &self.box_dims,
            element_strides: &self.element_strides,
            interleave: 0,
            swizzle: self.swizzle,
            l2_promotion: 0,
            fill: u32::from(self.nan && self.data_type >= 6),
        })
        .unwrap()
    }

    fn bytes(&self, salt: u64, count: usize) -> Vec<u8> {
        let mut state = self.seed ^ salt;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        };
        (0..count).map(|_| next()).collect()
    }

    /// Just enough shared memory: whole swizzle lines up to the end of the box.
    fn shared_bytes(&self) -> usize {
        (self.shared as usize + self.map().box_bytes()).next_multiple_of(128)
    }

    fn memory(&self) -> Memory {
        let last: u64 = self
            .strides()
            .iter()
            .zip(&self.dims[1..])
            .map(|(s, d)| s * (d - 1))
            .sum();
        Memory(self.bytes(1, (last + self.dims[0] * self.size()) as usize))
    }

    /// For every element of the box: shared address of its first byte, and its global address or
    /// `None` outside of the tensor.
    fn elements(&self) -> Vec<(usize, Option<u64>)> {
        let rank = self.dims.len();
        let step = |d: usize| if d == 0 { 1 } else { self.element_strides[d] };
        let counts: Vec<u32> = (0..rank)
            .map(|d| self.box_dims[d].div_ceil(step(d)))
            .collect();
        let strides = self.strides();
        let total: u32 = counts.iter().product();
        (0..total)
            .map(|index| {
                let mut rest = index;
                let mut global = Some(BASE);
                for d in 0..rank {
                    let at = i64::from(self.coordinates[d])
                        + i64::from(rest % counts[d]) * i64::from(step(d));
                    rest /= counts[d];
                    let stride = if d == 0 { self.size() } else { strides[d - 1] };
                    global = match u64::try_from(at) {
                        Ok(at) if at < self.dims[d] => global.map(|g| g + at * stride),
                        _ => None,
                    };
                }
                let linear = self.shared as usize + (u64::from(index) * self.size()) as usize;
                let (chunk, line) = (linear / 16 % 8, linear / 128 % 8);
                let mask = [0, 1, 3, 7][self.swizzle as usize];
                let chunk = chunk ^ (line & mask);
                (linear / 128 * 128 + chunk * 16 + linear % 16, global)
            })
            .collect()
    }
}

fn case() -> impl Strategy<Value = Case> {
    (0usize..10, 0u32..4, 1usize..=5).prop_flat_map(|(data_type, swizzle, rank)| {
        let size = SIZES[data_type];
        let inner = match swizzle {
            0 => (1u32..=(256 * size / 16).min(12)).boxed(),
            mode => Just(1 << mode).boxed(),
        };
        let outer = rank - 1;
        (
            inner,
            prop::collection::vec(1..=[600u64, 40, 20, 10, 6][rank - 1], rank),
            prop::collection::vec(0u64..64, outer),
            prop::collection::vec((1u32..=5, 1u32..=3), outer),
            prop::collection::vec(-14i32..25, rank),
            (any::<bool>(), 0u32..64, any::<u64>()),
        )
            .prop_map(
                move |(chunks, dims, padding, outer, coordinates, (nan, shared, seed))| Case {
                    data_type,
                    swizzle,
                    nan,
                    dims,
                    padding,
                    box_dims: [chunks * 16 / size]
                        .into_iter()
                        .chain(outer.iter().map(|o| o.0))
                        .collect(),
                    element_strides: [8].into_iter().chain(outer.iter().map(|o| o.1)).collect(),
                    coordinates,
                    shared: shared * 128,
                    seed,
                },
            )
    })
}

fn run(seed: u64, cases: u32, check: impl Fn(&Case)) {
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&case(), |case| {
        check(&case);
        Ok(())
    });
    result.unwrap();
}

fn same(what: &str, case: &Case, expected: &[u8], got: &[u8]) {
    if let Some(i) = (0..expected.len()).find(|&i| expected[i] != got[i]) {
        panic!(
            "{what}: byte {i}: expected {:#x}, got {:#x}; {case:?}",
            expected[i], got[i]
        );
    }
}

#[test]
fn load_agrees_with_the_element_model() {
    run(11, 1500, |case| {
        let map = case.map();
        let mut shared = case.bytes(2, case.shared_bytes());
        let mut expected = shared.clone();
        let memory = case.memory();
        let size = case.size() as usize;
        let elements = case.elements();
        for &(at, global) in &elements {
            let to = &mut expected[at..at + size];
            match global {
                Some(address) => to.copy_from_slice(&memory.0[(address - BASE) as usize..][..size]),
                None if case.nan && case.data_type >= 6 => {
                    to.fill(0xFF);
                    to[size - 1] = 0x7F;
                }
                None => to.fill(0),
            }
        }
        let mut global = memory.clone();
        let bytes = copy::load(
            &map,
            &case.coordinates,
            &mut shared,
            case.shared,
            &mut global,
        );
        assert_eq!(bytes, Ok(u32::try_from(elements.len() * size).unwrap()));
        same("shared", case, &expected, &shared);
        same("global", case, &memory.0, &global.0);
    });
}

#[test]
fn store_agrees_with_the_element_model() {
    run(12, 1500, |case| {
        let shared = case.bytes(2, case.shared_bytes());
        let mut memory = case.memory();
        let mut expected = memory.clone();
        let size = case.size() as usize;
        for (at, global) in case.elements() {
            if let Some(address) = global {
                let to = &mut expected.0[(address - BASE) as usize..][..size];
                to.copy_from_slice(&shared[at..at + size]);
            }
        }
        copy::store(
            &case.map(),
            &case.coordinates,
            &shared,
            case.shared,
            &mut memory,
        )
        .unwrap();
        same("global", case, &expected.0, &memory.0);
    });
}

/// One element sum, by other means than the code under test: integers by their own type, floats by
/// f64 (in which a sum of two f16 or bf16 is rounded at most once before `half` rounds it).
fn sum(data_type: usize, a: &[u8], b: &[u8]) -> Vec<u8> {
    macro_rules! wrapping {
        ($t:ty) => {
            <$t>::from_le_bytes(a.try_into().unwrap())
                .wrapping_add(<$t>::from_le_bytes(b.try_into().unwrap()))
                .to_le_bytes()
                .to_vec()
        };
    }
    let flush = |x: f32| {
        if x.is_subnormal() {
            0f32.copysign(x)
        } else {
            x
        }
    };
    match data_type {
        2 => wrapping!(u32),
        3 => wrapping!(i32),
        4 => wrapping!(u64),
        5 => wrapping!(i64),
        6 => {
            let value = |x: &[u8]| half::f16::from_le_bytes(x.try_into().unwrap()).to_f32();
            half::f16::from_f32(value(a) + value(b))
                .to_le_bytes()
                .to_vec()
        }
        7 => {
            let value = |x: &[u8]| flush(f32::from_le_bytes(x.try_into().unwrap()));
            flush(value(a) + value(b)).to_le_bytes().to_vec()
        }
        8 => {
            let value = |x: &[u8]| f64::from_le_bytes(x.try_into().unwrap());
            (value(a) + value(b)).to_le_bytes().to_vec()
        }
        _ => {
            let value = |x: &[u8]| half::bf16::from_le_bytes(x.try_into().unwrap()).to_f32();
            half::bf16::from_f32(value(a) + value(b))
                .to_le_bytes()
                .to_vec()
        }
    }
}

fn is_nan(data_type: usize, x: &[u8]) -> bool {
    match data_type {
        6 => half::f16::from_le_bytes(x.try_into().unwrap()).is_nan(),
        7 => f32::from_le_bytes(x.try_into().unwrap()).is_nan(),
        8 => f64::from_le_bytes(x.try_into().unwrap()).is_nan(),
        9 => half::bf16::from_le_bytes(x.try_into().unwrap()).is_nan(),
        _ => false,
    }
}

#[test]
fn reduce_add_agrees_with_the_element_model() {
    run(13, 1500, |case| {
        let map = case.map();
        let Ok(add) = Reduction::new(ReduceOp::Add, map.data_type()) else {
            assert!(case.data_type < 2, "{case:?}");
            return;
        };
        let shared = case.bytes(2, case.shared_bytes());
        let mut memory = case.memory();
        let before = memory.clone();
        let size = case.size() as usize;
        let mut expected = memory.clone();
        for (at, global) in case.elements() {
            let Some(address) = global else { continue };
            let start = (address - BASE) as usize;
            let old = &before.0[start..start + size];
            let new = sum(case.data_type, old, &shared[at..at + size]);
            expected.0[start..start + size].copy_from_slice(&new);
        }
        let source = (&shared[..], case.shared);
        copy::reduce(&map, &case.coordinates, source, add, &mut memory).unwrap();
        for start in (0..memory.0.len() / size * size).step_by(size) {
            let (want, got) = (
                &expected.0[start..start + size],
                &memory.0[start..start + size],
            );
            let both_nan = is_nan(case.data_type, want) && is_nan(case.data_type, got);
            assert!(
                want == got || both_nan,
                "byte {start}: {want:x?} != {got:x?}; {case:?}"
            );
        }
    });
}

#[test]
fn integer_and_selecting_reductions() {
    let apply = |op, ty, memory, operand| Reduction::new(op, ty).unwrap().element(memory, operand);
    use DataType::{BF16, F16, F32, S32, S64, U16, U32};
    use ReduceOp::{Add, And, Dec, Inc, Max, Min, Or, Xor};
    let minus_one = u64::from(u32::MAX);
    assert_eq!(apply(Min, S32, 5, minus_one), minus_one);
    assert_eq!(apply(Min, U32, 5, minus_one), 5);
    assert_eq!(apply(Max, S32, 5, minus_one), 5);
    assert_eq!(apply(Max, S64, u64::MAX, 3), 3);
    assert_eq!(apply(Add, U32, minus_one, 2), 1);
    assert_eq!(apply(Inc, U32, 4, 5), 5);
    assert_eq!(apply(Inc, U32, 5, 5), 0);
    assert_eq!(apply(Dec, U32, 0, 5), 5);
    assert_eq!(apply(Dec, U32, 9, 5), 5);
    assert_eq!(apply(Dec, U32, 3, 5), 2);
    assert_eq!(apply(And, U32, 0b1100, 0b1010), 0b1000);
    assert_eq!(apply(Or, U32, 0b1100, 0b1010), 0b1110);
    assert_eq!(apply(Xor, S64, 0b1100, 0b1010), 0b0110);
    let (one, two, nan) = (0x3C00, 0x4000, 0x7E00);
    assert_eq!(apply(Max, F16, one, two), two);
    assert_eq!(apply(Min, F16, nan, two), two);
    assert_eq!(apply(Max, F16, one, nan), one);
    assert_eq!(apply(Min, BF16, 0x0000, 0x8000), 0x8000);
    for (op, ty) in [(Max, F32), (Inc, S32), (Add, U16), (And, F16)] {
        assert!(Reduction::new(op, ty).is_err(), "{op:?} {ty:?}");
    }
}

fn plain() -> Case {
    Case {
        data_type: 0,
        swizzle: 3,
        nan: false,
        dims: vec![256, 64],
        padding: vec![0],
        box_dims: vec![128, 8],
        element_strides: vec![1, 1],
        coordinates: vec![0, 0],
        shared: 1024,
        seed: 1,
    }
}

#[test]
fn faults_are_typed() {
    let map = plain().map();
    let mut memory = plain().memory();
    let mut shared = vec![0; 4096];
    let mut load = |coordinates: &[i32], at: u32, memory: &mut Memory| {
        copy::load(&map, coordinates, &mut shared, at, memory).unwrap_err()
    };
    let fault = load(&[0], 0, &mut memory);
    assert!(
        matches!(fault, FaultKind::IllegalInstruction { .. }),
        "{fault:?}"
    );
    let fault = load(&[0, 0], 64, &mut memory);
    assert_eq!(
        fault,
        FaultKind::MisalignedAddress {
            address: 64,
            align: 128
        }
    );
    let fault = load(&[0, 0], 4096 - 896, &mut memory);
    assert!(
        matches!(fault, FaultKind::IllegalAddress { write: true, .. }),
        "{fault:?}"
    );
    memory.0.truncate(300);
    let fault = load(&[0, 0], 0, &mut memory);
    let expected = FaultKind::IllegalAddress {
        address: BASE + 256,
        bytes: 128,
        write: false,
    };
    assert_eq!(fault, expected);
    let narrow = Case {
        box_dims: vec![64, 8],
        ..plain()
    }
    .map();
    let fault = copy::store(&narrow, &[0, 0], &shared, 0, &mut memory);
    assert!(matches!(fault, Err(FaultKind::Unsupported { .. })));
}
