//! A row's bits depend on that row only: not on tile, number of SMs, form, or place.

use hadal::gemm::Tile;

use crate::case::{Device, Grouping, Rows, Weights, same_bits};

const N: usize = 256;
const K: usize = 896;

fn row(d: &[u16], row: usize) -> &[u16] {
    &d[row * N..][..N]
}

#[test]
fn tiles_and_sms_agree() {
    let device = Device::open();
    let (a, b) = (Rows::random(200, K, 31), Weights::random(1, N, K, 32));
    let expected = device.run(&a, &b, Grouping::Dense, (Tile::M128, 132));
    b.check("dense", 0, &a, &expected);
    for (tile, sms) in [(Tile::M64, 132), (Tile::M64, 1), (Tile::M128, 3)] {
        let d = device.run(&a, &b, Grouping::Dense, (tile, sms));
        for r in 0..a.len() {
            same_bits(
                &format!("{tile:?}, {sms} SMs, row {r}"),
                row(&d, r),
                row(&expected, r),
            );
        }
    }
}

#[test]
fn forms_and_places_agree() {
    let device = Device::open();
    let a = Rows::random(70, K, 33);
    let b = Weights::random(2, N, K, 34);
    let alone = |group: usize| {
        let size = N * K;
        let blocks = size / 128 / 128;
        let one = Weights {
            groups: 1,
            codes: b.codes[group * size..][..size].to_vec(),
            scales: b.scales[group * blocks..][..blocks].to_vec(),
            ..b.clone()
        };
        device.run(&a, &one, Grouping::Dense, (Tile::M128, 132))
    };
    let expected = alone(1);
    // Contiguous: the same rows, reversed, as group 1 behind a block of group 0.
    let order = (0..128)
        .map(|r| (r < 5).then_some(r))
        .chain((0..70).rev().map(Some));
    let index: Vec<i32> = (0..198)
        .map(|r| [-1, 0, 1][usize::from(r < 5) + 2 * usize::from(r >= 128)])
        .collect();
    let d = device.run(
        &a.gather(order),
        &b,
        Grouping::OfRows(&index),
        (Tile::M64, 2),
    );
    for r in 0..70 {
        same_bits(
            &format!("contiguous, row {r}"),
            row(&d, 128 + 69 - r),
            row(&expected, r),
        );
    }
    // Masked: as slot 1.
    let order = (0..70).map(|_| None).chain((0..70).map(Some));
    let d = device.run(
        &a.gather(order),
        &b,
        Grouping::Counts(&[0, 70]),
        (Tile::M64, 2),
    );
    for r in 0..70 {
        same_bits(
            &format!("masked, row {r}"),
            row(&d, 70 + r),
            row(&expected, r),
        );
    }
}

#[test]
fn runs_agree() {
    let device = Device::open();
    let (a, b) = (Rows::random(129, K, 35), Weights::random(1, N, K, 36));
    let first = device.run(&a, &b, Grouping::Dense, (Tile::M128, 4));
    for run in 0..3 {
        let d = device.run(&a, &b, Grouping::Dense, (Tile::M128, 4));
        same_bits(&format!("run {run}"), &d, &first);
    }
}
