//! Control flow of C++ programs as nvcc writes it, optimised and for debugging; the expected values
//! are computed by the same algorithms on the host.

use cudarc::driver::sys::{CUmodule, CUresult};

use crate::support::{Context, DEFAULT, alloc, assert_same, download, function, module, upload};

const OK: CUresult = CUresult::CUDA_SUCCESS;
/// PTX of `testdata/kernels/control.cu`.
const OPTIMISED: &str = include_str!("../../testdata/kernels/control.ptx");
/// The same compiled with `-G`.
const DEBUG: &str = include_str!("../../testdata/kernels/control_debug.ptx");

fn both(check: impl Fn(CUmodule)) {
    let _context = Context::new(0);
    for text in [OPTIMISED, DEBUG] {
        check(module(text));
    }
}

#[test]
fn virtual_functions_dispatch_per_lane() {
    both(|module| {
        let (areas, corners) = (alloc::<f32>(32), alloc::<i32>(32));
        let shapes = function(module, "shapes");
        let launched = launch!(shapes, [1; 3], [32, 1, 1], 0, DEFAULT, [areas, corners]);
        assert_eq!(launched, OK);
        let area = |i: u8| {
            let x = f32::from(i);
            match i % 3 {
                0 => x * (x + 1.0),
                1 => x * (x + 1.0) * (x + 2.0),
                _ => 3.0 * x * x,
            }
        };
        let expected: Vec<f32> = (0..32).map(area).collect();
        assert_same(&download::<f32>(areas, 32), &expected);
        let expected: Vec<i32> = (0..32).map(|i| [8, 16, 0][i % 3]).collect();
        assert_same(&download::<i32>(corners, 32), &expected);
    });
}

#[test]
fn pointers_in_device_memory_are_called() {
    both(|module| {
        let which: Vec<i32> = (0..100).map(|i| i * 7 % 3).collect();
        let (choice, out) = (upload(&which), alloc::<i32>(100));
        let pointers = function(module, "pointers");
        let launched = launch!(
            pointers,
            [2, 1, 1],
            [64, 1, 1],
            0,
            DEFAULT,
            [out, choice, 100i32]
        );
        assert_eq!(launched, OK);
        let apply = |(i, which): (i32, &i32)| match which {
            0 => i + 7,
            1 => i - 7,
            _ => i * 7,
        };
        let expected: Vec<i32> = (0..).zip(&which).map(apply).collect();
        assert_same(&download::<i32>(out, 100), &expected);
    });
}

fn ackermann(m: u32, n: u32) -> u32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

fn tree(depth: u8, x: f64) -> f64 {
    let mut mine: [f64; 4] = [0u8, 1, 2, 3].map(|i| x + f64::from(i * depth));
    if depth > 0 {
        mine[usize::from(depth & 3)] += tree(depth - 1, x * 0.5) - tree(depth - 1, x + 1.0);
    }
    mine[0] + mine[1] + mine[2] + mine[3]
}

#[test]
fn recursion_of_lanes_at_different_depths() {
    both(|module| {
        let (ack, sorted, sums) = (alloc::<u32>(32), alloc::<i32>(512), alloc::<f64>(32));
        let recursion = function(module, "recursion");
        let launched = launch!(
            recursion,
            [1; 3],
            [32, 1, 1],
            0,
            DEFAULT,
            [ack, sorted, sums]
        );
        assert_eq!(launched, OK);
        let expected: Vec<u32> = (0..32).map(|i| ackermann(i % 3, i % 5)).collect();
        assert_same(&download::<u32>(ack, 32), &expected);
        let values = |i: u32| {
            let mut seed = i.wrapping_mul(2_654_435_761).wrapping_add(12_345);
            let mut values = [0; 16].map(|_: i32| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 20).cast_signed()
            });
            values.sort_unstable();
            values
        };
        let expected: Vec<i32> = (0..32).flat_map(values).collect();
        assert_same(&download::<i32>(sorted, 512), &expected);
        let expected: Vec<f64> = (0..32u8)
            .map(|i| tree(i % 6, f64::from(i) * 0.25))
            .collect();
        assert_same(&download::<f64>(sums, 32), &expected);
    });
}

/// What thread `i` of `mixed` computes.
fn mixed(i: i32) -> i32 {
    let mut a = [i, i + 1, i + 2, i + 3, i + 4];
    let (mut d, mut c) = (f64::from(i) * 0.5, i);
    for k in [i, i + 1] {
        a[usize::try_from(k % 5).unwrap()] += k;
        d *= 2.0;
        c ^= 1;
    }
    let sum = a.iter().rev().fold(0, |sum, digit| sum * 10 + digit);
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    let d = d as i32;
    let twice = (i * 3 + i) * 3 + i;
    let class = match i {
        0 => 11,
        1 => 7,
        2 => 5,
        3 => 3,
        4 => -1,
        5 => 25,
        6 => 99,
        7 => 7 << 4,
        8 => 1000,
        9 => 8,
        other => -other,
    };
    sum + d + c + twice + class + if i < 16 { 2 } else { 1 }
}

#[test]
fn switches_structures_lambdas_and_inline_assembly() {
    both(|module| {
        let out = alloc::<i32>(32);
        let kernel = function(module, "mixed");
        assert_eq!(
            launch!(kernel, [1; 3], [32, 1, 1], 0, DEFAULT, [out, 32i32]),
            OK
        );
        let expected: Vec<i32> = (0..32).map(mixed).collect();
        assert_same(&download::<i32>(out, 32), &expected);
    });
}
