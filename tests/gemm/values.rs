//! Special values, and the harness itself.

use hadal::gemm::{Arithmetic, Form, Format, GemmDesc, GemmPlan, Output};

use crate::device::Device;
use crate::problem::{Problem, UNWRITTEN, same_bits};

fn desc(rows: u32, [n, k]: [u32; 2]) -> GemmDesc {
    GemmDesc {
        form: Form::Dense { rows },
        n,
        k,
        arithmetic: Arithmetic::E4M3_1D2D,
        output: Output::Bf16,
        sms: 132,
    }
}

/// A NaN code of A spoils its row, one of B its column, and nothing else.
#[test]
fn nan_stays_in_its_row_and_column() {
    let device = Device::open();
    let desc = desc(130, [256, 256]);
    let mut problem = Problem::new(desc, &[], 3);
    let plan = GemmPlan::new(desc).expect("a plan");
    let clean = device.run(&problem, plan);
    problem.a.codes[129 * 256 + 200] = 0xff;
    problem.b.codes[77 * 256 + 3] = 0x7f;
    let d = device.run(&problem, plan);
    for (i, (&got, &before)) in d.iter().zip(&clean).enumerate() {
        let (row, column) = (i / 256, i % 256);
        if row == 129 || column == 77 {
            let nan = got & 0x7fff > 0x7f80 && got != UNWRITTEN & 0xffff;
            assert!(nan, "[{row}, {column}] = {got:#06x} is no NaN");
        } else {
            assert_eq!(got, before, "[{row}, {column}]");
        }
    }
}

/// Zero codes give zeros, not what was in the accumulators.
#[test]
fn zeros_give_zeros() {
    let device = Device::open();
    let desc = desc(70, [128, 128]);
    let mut problem = Problem::new(desc, &[], 3);
    problem.a.codes.fill(0);
    let d = device.run(&problem, GemmPlan::new(desc).expect("a plan"));
    assert_eq!(d.iter().position(|&bits| bits & 0x7fff != 0), None);
}

/// One scale for all of an operand.
#[test]
fn one_scale_in_all() {
    use crate::problem::SideScales;

    let device = Device::open();
    let desc = GemmDesc {
        arithmetic: Arithmetic::Fp8Channel { a: Format::E4m3 },
        ..desc(70, [144, 144])
    };
    let mut problem = Problem::new(desc, &[], 3);
    problem.a.scales = SideScales::Channel(vec![0.3]);
    device.check(&problem);
    problem.b.scales = SideScales::Channel(vec![1.7]);
    device.check(&problem);
}

/// A wrong bit is noticed.
#[test]
#[should_panic(expected = "row 1, column 2: 0x00000000, expected 0x7fa57fa5")]
fn a_stray_write_is_noticed() {
    let mut bits = [UNWRITTEN; 4];
    bits[2] = 0;
    same_bits("row 1", &bits, &[UNWRITTEN; 4]);
}
