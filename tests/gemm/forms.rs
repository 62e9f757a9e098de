//! Every form with every tile that can compute it: row counts around the tiles, tails of N and K,
//! one and several CTAs, pairs that share an operand, groups of every kind.

use hadal::gemm::{Arithmetic, Form, Format, GemmDesc, GemmPlan, Output, Tile};
use proptest::prelude::*;

use crate::device::Device;
use crate::problem::Problem;

const CLUSTERS: [[u32; 2]; 3] = [[1, 1], [2, 1], [1, 2]];

const ARITHMETICS: [Arithmetic; 7] = [
    Arithmetic::Fp8Block1d2d { a: Format::E4m3 },
    Arithmetic::Fp8Block1d2d { a: Format::E5m2 },
    Arithmetic::Fp8Block1d1d { a: Format::E4m3 },
    Arithmetic::Fp8Block1d1d { a: Format::E5m2 },
    Arithmetic::Fp8Channel { a: Format::E4m3 },
    Arithmetic::Fp8Channel { a: Format::E5m2 },
    Arithmetic::Bf16,
];

fn desc(form: Form, [n, k]: [u32; 2], arithmetic: Arithmetic, output: Output) -> GemmDesc {
    GemmDesc {
        form,
        n,
        k,
        arithmetic,
        output,
        sms: 132,
    }
}

/// Runs a problem with every tile and cluster that can compute it.
fn check_tiles(device: &Device, desc: GemmDesc, groups: &[i32]) {
    let problem = Problem::new(desc, groups, 7);
    for tile in Tile::candidates(desc.arithmetic, desc.form) {
        for cluster in CLUSTERS {
            if GemmPlan::with_tile(desc, tile, cluster).is_ok() {
                device.check_tile(&problem, tile, cluster);
            }
        }
    }
}

#[test]
fn row_counts_around_the_tiles() {
    let device = Device::open();
    for rows in [1, 7, 8, 9, 63, 65, 128, 129, 257] {
        let form = Form::Dense { rows };
        let shape = [144, 144];
        check_tiles(
            &device,
            desc(form, shape, Arithmetic::E4M3_1D2D, Output::Bf16),
            &[],
        );
    }
}

#[test]
fn tails_of_columns_and_depth() {
    let device = Device::open();
    for n in [16, 48, 128, 192, 208, 400] {
        for k in [16, 128, 272] {
            for arithmetic in ARITHMETICS {
                let form = Form::Dense { rows: 70 };
                check_tiles(&device, desc(form, [n, k], arithmetic, Output::F32), &[]);
            }
        }
    }
}

/// Few CTAs take many tiles: the ring wraps within and between tiles, and loads of the next tile run
/// while the last one is stored.
#[test]
fn persistent_ctas() {
    let device = Device::open();
    for sms in [1, 2, 5] {
        for (arithmetic, output) in [
            (Arithmetic::E4M3_1D2D, Output::Bf16),
            (Arithmetic::Bf16, Output::AddF32),
        ] {
            let form = Form::Dense { rows: 300 };
            let desc = GemmDesc {
                sms,
                ..desc(form, [400, 1168], arithmetic, output)
            };
            check_tiles(&device, desc, &[]);
        }
    }
}

/// DeepSeek-V3's hidden size as K: 56 promotions.
#[test]
fn a_deep_product() {
    let device = Device::open();
    let form = Form::Dense { rows: 65 };
    check_tiles(
        &device,
        desc(form, [128, 7168], Arithmetic::E4M3_1D2D, Output::Bf16),
        &[],
    );
}

/// More blocks of rows than are computed together.
#[test]
fn more_blocks_than_a_band() {
    let device = Device::open();
    let form = Form::Dense {
        rows: 2048 + 64 + 5,
    };
    check_tiles(
        &device,
        desc(form, [144, 128], Arithmetic::E4M3_1D2D, Output::Bf16),
        &[],
    );
}

#[test]
fn outputs() {
    let device = Device::open();
    for output in [Output::Bf16, Output::F32, Output::AddF32] {
        for arithmetic in ARITHMETICS {
            let form = Form::Dense { rows: 77 };
            check_tiles(&device, desc(form, [80, 128], arithmetic, output), &[]);
        }
    }
}

#[test]
fn batches() {
    let device = Device::open();
    for arithmetic in ARITHMETICS {
        let form = Form::Batched { rows: 66, batch: 3 };
        check_tiles(
            &device,
            desc(form, [144, 144], arithmetic, Output::Bf16),
            &[],
        );
    }
}

/// Empty groups, full ones, and counts that lie.
#[test]
fn masked_groups() {
    let device = Device::open();
    for arithmetic in ARITHMETICS {
        for output in [Output::Bf16, Output::F32] {
            let form = Form::Masked {
                slot_rows: 130,
                groups: 6,
                expected_rows: 10,
            };
            let counts = [0, 130, 1, -5, 65, i32::MAX];
            check_tiles(&device, desc(form, [144, 144], arithmetic, output), &counts);
        }
    }
}

/// Groups back to back: none, one row, one huge, ends that lie.
#[test]
fn groups_without_padding() {
    let device = Device::open();
    let lists: [(u32, &[i32]); 5] = [
        (200, &[0, 0, 1, 130, 130, 200]),
        (70, &[3, 40, 66]),
        (70, &[60, 50, 55, i32::MAX]),
        (70, &[-1, 9, 9]),
        (300, &[0, 0, 0, 300, 300]),
    ];
    for arithmetic in ARITHMETICS {
        for (rows, offsets) in lists {
            let groups = offsets.len() as u32 - 1;
            let form = Form::Offsets { rows, groups };
            check_tiles(
                &device,
                desc(form, [144, 144], arithmetic, Output::Bf16),
                offsets,
            );
        }
    }
}

/// The group of each row of groups of the given sizes, each start aligned to 128.
fn contiguous(sizes: &[usize], trailing: usize) -> Vec<i32> {
    let mut index = Vec::new();
    for (group, &size) in sizes.iter().enumerate() {
        index.resize(index.len() + size, group as i32);
        index.resize(index.len().next_multiple_of(128), -1);
    }
    // Not only -1 means padding.
    index.resize(index.len() + trailing, i32::MIN);
    index
}

#[test]
fn contiguous_groups() {
    let device = Device::open();
    for arithmetic in ARITHMETICS {
        for (sizes, trailing) in [
            (&[130usize, 0, 1, 64][..], 0),
            (&[0, 65, 0], 70),
            (&[0, 0], 128),
        ] {
            let index = contiguous(sizes, trailing);
            let form = Form::Contiguous {
                rows: index.len() as u32,
                groups: sizes.len() as u32,
            };
            check_tiles(
                &device,
                desc(form, [144, 144], arithmetic, Output::Bf16),
                &index,
            );
        }
    }
}

/// A block of 128 rows has the group of its first row, with tiles of any height; its other rows are
/// padding.
#[test]
fn blocks_of_several_groups() {
    let device = Device::open();
    for (lengths, of) in [([8, 56, 64], [0, 1, 0]), ([64, 60, 4], [-1, 1, 0])] {
        let blocks = [of, [1, -1, 1]].map(|of| {
            let parts = lengths.into_iter().zip(of);
            parts.flat_map(|(length, group)| vec![group; length])
        });
        let index: Vec<i32> = blocks.into_iter().flatten().collect();
        let meant: Vec<i32> = (0..index.len())
            .map(|row| (index[row], index[row / 128 * 128]))
            .map(|(own, first)| if own == first { own } else { -1 })
            .collect();
        let form = Form::Contiguous {
            rows: 256,
            groups: 2,
        };
        let desc = desc(form, [144, 144], Arithmetic::E4M3_1D2D, Output::Bf16);
        let expected = Problem::new(desc, &meant, 7);
        let problem = Problem {
            groups: index,
            ..expected.clone()
        };
        for tile in Tile::candidates(desc.arithmetic, form) {
            for cluster in CLUSTERS {
                if let Ok(plan) = GemmPlan::with_tile(desc, tile, cluster) {
                    expected.check(tile.kernel, &device.run(&problem, plan));
                }
            }
        }
    }
}

/// An index that is no group writes nothing rather than something.
#[test]
fn rows_of_unknown_groups_are_padding() {
    let device = Device::open();
    for index in [2, i32::MAX, -7] {
        let form = Form::Contiguous {
            rows: 128,
            groups: 2,
        };
        let desc = desc(form, [128, 128], Arithmetic::E4M3_1D2D, Output::Bf16);
        check_tiles(&device, desc, &[index; 128]);
    }
}

/// Weight gradients: an empty group's D is zero, or has zero added to it.
#[test]
fn groups_along_k() {
    let device = Device::open();
    for a in [Format::E4m3, Format::E5m2] {
        for output in [Output::F32, Output::AddF32, Output::Bf16] {
            let form = Form::KGrouped {
                rows: 130,
                groups: 4,
            };
            let arithmetic = Arithmetic::Fp8Block1d1d { a };
            let desc = desc(form, [144, 768], arithmetic, output);
            check_tiles(&device, desc, &[0, 128, 128, 640, 768]);
            check_tiles(&device, desc, &[128, 256, 256, 256, 512]);
            // Below 0 is 0, beyond K is K, and what ends before it begins is empty.
            check_tiles(&device, desc, &[-7, 256, 128, i32::MAX, 9999]);
        }
    }
}

#[test]
fn no_rows_launch_nothing() {
    let device = Device::open();
    for arithmetic in ARITHMETICS {
        let form = Form::Dense { rows: 0 };
        check_tiles(
            &device,
            desc(form, [128, 128], arithmetic, Output::Bf16),
            &[],
        );
    }
    let context = &device.context;
    assert_eq!(context.launches(), [], "nothing was launched");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_shape(
        rows in 1u32..300,
        n in 1u32..30,
        k in 1u32..90,
        arithmetic in 0usize..ARITHMETICS.len(),
        output in prop::sample::select(vec![Output::Bf16, Output::F32, Output::AddF32]),
        sms in 1u32..9,
    ) {
        let form = Form::Dense { rows };
        let desc = GemmDesc {
            sms,
            ..desc(form, [n * 16, k * 16], ARITHMETICS[arithmetic], output)
        };
        Device::open().check(&Problem::new(desc, &[], u64::from(rows)));
    }
}
