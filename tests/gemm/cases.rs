//! The written cases (`cases.toml`): each form with each of its scales, for each shape. D is compared
//! as a whole, with the bound and bit for bit.
//!
//! M is the rows of the dense form; of each matrix or slot of the batched (two) and masked (four:
//! full, half, one row, empty) forms; of all three groups together (a third, none, the rest) in the
//! contiguous and offsets forms, where contiguous groups are padded to 128; and of D in the K-grouped
//! form, whose K, in blocks, is split like the rows of the offsets form.

use hadal::gemm::{Arithmetic, BLOCK, Form, Format, GROUP_ALIGNMENT, GemmDesc, Output, Tile};
use serde::Deserialize;

use crate::device::Device;
use crate::problem::{Problem, SideScales};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    combination: Vec<Combination>,
    values: Shapes,
    edges: Shapes,
    sweep: Shapes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Combination {
    form: String,
    scales: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shapes {
    shapes: Vec<[u32; 3]>,
}

fn cases() -> Cases {
    toml::from_str(include_str!("cases.toml")).expect("cases.toml")
}

/// With both formats of A; those that apply their scales at the end share the formats between them,
/// as nothing else tells them apart until then.
fn arithmetics(scales: &str, shape: usize) -> Vec<Arithmetic> {
    let [even, odd] = match shape % 2 {
        0 => [Format::E4m3, Format::E5m2],
        _ => [Format::E5m2, Format::E4m3],
    };
    match scales {
        "1d2d" => vec![
            Arithmetic::Fp8Block1d2d { a: even },
            Arithmetic::Fp8Block1d2d { a: odd },
        ],
        "1d1d" => vec![
            Arithmetic::Fp8Block1d1d { a: even },
            Arithmetic::Fp8Block1d1d { a: odd },
        ],
        "channel" => vec![Arithmetic::Fp8Channel { a: even }],
        "tensor" => vec![Arithmetic::Fp8Channel { a: odd }],
        "bf16" => vec![Arithmetic::Bf16],
        other => panic!("no scales {other}"),
    }
}

/// Begin of each of three groups, and the end of the last: a third, none, the rest.
fn thirds(all: u32) -> Vec<i32> {
    [0, all / 3, all / 3, all].map(|at| at as i32).to_vec()
}

/// The form of a name for M rows and a K of its own, with what it reads on the device.
fn form(name: &str, m: u32, k: u32) -> (Form, u32, Vec<i32>) {
    match name {
        "dense" => (Form::Dense { rows: m }, k, vec![]),
        "batched" => (Form::Batched { rows: m, batch: 2 }, k, vec![]),
        "masked" => {
            let form = Form::Masked {
                slot_rows: m,
                groups: 4,
                expected_rows: m / 2,
            };
            let counts = [m, m / 2, m.min(1), 0];
            (form, k, counts.map(|count| count as i32).to_vec())
        }
        "offsets" => (Form::Offsets { rows: m, groups: 3 }, k, thirds(m)),
        "contiguous" => {
            let mut index = Vec::new();
            for (group, ends) in thirds(m).windows(2).enumerate() {
                let rows = (ends[1] - ends[0]) as usize;
                index.resize(index.len() + rows, group as i32);
                index.resize(index.len().next_multiple_of(GROUP_ALIGNMENT as usize), -1);
            }
            let rows = index.len() as u32;
            (Form::Contiguous { rows, groups: 3 }, k, index)
        }
        "k-grouped" => {
            let blocks = k.div_ceil(BLOCK);
            let offsets = thirds(blocks).iter().map(|&at| at * BLOCK as i32).collect();
            let form = Form::KGrouped { rows: m, groups: 3 };
            (form, blocks * BLOCK, offsets)
        }
        other => panic!("no form {other}"),
    }
}

fn run(shapes: &[[u32; 3]], only: Option<&str>) {
    let device = Device::open();
    let outputs = [Output::Bf16, Output::F32, Output::AddF32];
    let mut turn = 0;
    for combination in &cases().combination {
        for scales in &combination.scales {
            if only.is_some_and(|only| only != scales) {
                continue;
            }
            for (index, &[m, n, k]) in shapes.iter().enumerate() {
                for arithmetic in arithmetics(scales, index) {
                    let (form, k, groups) = form(&combination.form, m, k);
                    turn += 1;
                    let desc = GemmDesc {
                        form,
                        n,
                        k,
                        arithmetic,
                        output: outputs[turn % outputs.len()],
                        sms: 132,
                    };
                    if only.is_some() {
                        eprintln!("{} {arithmetic:?} {m} {n} {k}", combination.form);
                    }
                    let mut problem = Problem::new(desc, &groups, turn as u64);
                    if scales == "tensor" {
                        problem.a.scales = SideScales::Channel(vec![0.3]);
                        problem.b.scales = SideScales::Channel(vec![1.7]);
                    }
                    device.check(&problem);
                }
            }
        }
    }
}

#[test]
fn every_value() {
    run(&cases().values.shapes, None);
}

#[test]
fn every_edge() {
    run(&cases().edges.shapes, None);
}

#[test]
#[ignore = "run by cargo xtask sweep gemm"]
fn sweep() {
    run(&cases().sweep.shapes, Some("1d2d"));
}

/// The list holds the forms, scales and values that it is meant to, and both sides of the edges of every tile.
#[test]
fn the_list_is_complete() {
    let cases = cases();
    let listed: Vec<(&str, Vec<&str>)> = cases
        .combination
        .iter()
        .map(|of| {
            (
                &of.form[..],
                of.scales.iter().map(|name| &name[..]).collect(),
            )
        })
        .collect();
    let scales = vec!["1d2d", "1d1d", "channel", "tensor", "bf16"];
    let expected = ["dense", "batched", "contiguous", "offsets", "masked"];
    let mut expected = expected.map(|form| (form, scales.clone())).to_vec();
    expected.push(("k-grouped", vec!["1d1d"]));
    assert_eq!(listed, expected);
    let holds = |shapes: &[[u32; 3]], wanted: [&[u32]; 3]| {
        for (side, values) in wanted.into_iter().enumerate() {
            for value in values {
                let present = shapes.iter().any(|shape| shape[side] == *value);
                assert!(present, "no case with {value} as {}", ["M", "N", "K"][side]);
            }
        }
    };
    holds(
        &cases.values.shapes,
        [
            &[0, 1, 7, 8, 63, 64, 65, 127, 128, 129, 500, 4096],
            &[16, 128, 576, 2112, 4096, 7168],
            &[16, 128, 512, 2048, 7168],
        ],
    );
    let all = [cases.values.shapes, cases.edges.shapes].concat();
    for tile in Tile::ALL {
        let around = |size: u32, step: u32| [size - step, size, size + step];
        let k = tile.arithmetic.stage_k();
        holds(
            &all,
            [&around(tile.m, 1), &around(tile.n, 16), &around(k, 16)],
        );
    }
}
