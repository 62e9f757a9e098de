//! Dense form: row counts around the tiles, one and several CTAs, NaN.

use hadal::gemm::Tile;
use proptest::prelude::*;

use crate::case::{Device, Grouping, Rows, UNWRITTEN, Weights, unwritten};

fn check(device: &Device, [m, n, k]: [usize; 3], (tile, sms): (Tile, u32)) {
    let (a, b) = (Rows::random(m, k, m as u64), Weights::random(1, n, k, 7));
    let d = device.run(&a, &b, Grouping::Dense, (tile, sms));
    let what = format!("M {m}, N {n}, K {k}, {tile:?}, {sms} SMs");
    b.check(&what, 0, &a, &d);
}

#[test]
fn row_counts_around_the_tiles() {
    let device = Device::open();
    for m in [1, 7, 63, 64, 65, 127, 128, 129, 200] {
        for tile in Tile::ALL {
            check(&device, [m, 128, 256], (tile, 132));
        }
    }
}

#[test]
fn columns_and_depths() {
    let device = Device::open();
    for n in [128, 256, 384] {
        for k in [128, 256, 384] {
            for tile in Tile::ALL {
                check(&device, [65, n, k], (tile, 132));
            }
        }
    }
}

/// One CTA takes every tile: the ring wraps within and between tiles (9 K blocks per tile, 6 or 8
/// stages), and loads of the next tile run while the last one is stored.
#[test]
fn persistent_ctas() {
    let device = Device::open();
    for tile in Tile::ALL {
        for sms in [1, 2, 5] {
            check(&device, [200, 384, 1152], (tile, sms));
        }
    }
}

/// DeepSeek-V3's hidden size as K: 56 promotions.
#[test]
fn a_deep_product() {
    let device = Device::open();
    for tile in Tile::ALL {
        check(&device, [65, 128, 7168], (tile, 132));
    }
}

/// More M blocks than a band of the scheduler holds.
#[test]
fn more_blocks_than_a_band() {
    let device = Device::open();
    check(&device, [64 * 18 + 5, 256, 128], (Tile::M64, 7));
}

#[test]
fn no_rows_launch_nothing() {
    let device = Device::open();
    for tile in Tile::ALL {
        let (a, b) = (Rows::random(0, 128, 1), Weights::random(1, 128, 128, 7));
        assert!(device.run(&a, &b, Grouping::Dense, (tile, 132)).is_empty());
    }
}

/// A NaN code of A spoils its row, one of B its column, and nothing else.
#[test]
fn nan_stays_in_its_row_and_column() {
    let device = Device::open();
    let (m, n, k) = (130, 256, 256);
    let (mut a, mut b) = (Rows::random(m, k, 3), Weights::random(1, n, k, 4));
    let clean = device.run(&a, &b, Grouping::Dense, (Tile::M128, 132));
    a.codes[129 * k + 200] = 0xff;
    b.codes[77 * k + 3] = 0x7f;
    let d = device.run(&a, &b, Grouping::Dense, (Tile::M128, 132));
    for (i, (&got, &before)) in d.iter().zip(&clean).enumerate() {
        let (row, column) = (i / n, i % n);
        let is_nan = got & 0x7fff > 0x7f80;
        if row == 129 || column == 77 {
            assert!(
                is_nan && got != UNWRITTEN,
                "[{row}, {column}] = {got:#06x} is no NaN"
            );
        } else {
            assert_eq!(got, before, "[{row}, {column}]");
        }
    }
}

/// Zero codes give zeros, not what was in the accumulators.
#[test]
fn zeros_give_zeros() {
    let device = Device::open();
    let (mut a, b) = (Rows::random(70, 128, 3), Weights::random(1, 128, 128, 4));
    a.codes.fill(0);
    let d = device.run(&a, &b, Grouping::Dense, (Tile::M64, 132));
    assert_eq!(d.iter().position(|&bits| bits & 0x7fff != 0), None);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_shape(
        m in 1usize..300,
        n in 1usize..4,
        k in 1usize..12,
        tile in 0usize..2,
        sms in 1u32..9,
    ) {
        let device = Device::open();
        check(&device, [m, n * 128, k * 128], (Tile::ALL[tile], sms));
    }
}

/// The harness itself: a stray write is noticed.
#[test]
#[should_panic(expected = "[1, 2] was written")]
fn a_stray_write_is_noticed() {
    let mut bits = [UNWRITTEN; 8];
    bits[6] = 0;
    unwritten("harness", &bits, 4);
}
