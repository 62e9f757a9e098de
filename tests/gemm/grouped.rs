//! Grouped forms: empty groups, partly filled tiles, padding, and counts that lie.

use hadal::gemm::Tile;

use crate::case::{Device, Grouping, Rows, Weights, unwritten};

/// Rows of groups laid out with each start aligned to 128: source row (or padding) and group index.
fn contiguous(sizes: &[usize]) -> (Vec<Option<usize>>, Vec<i32>) {
    let (mut order, mut index) = (Vec::new(), Vec::new());
    let mut source = 0;
    for (group, &size) in sizes.iter().enumerate() {
        order.extend((source..source + size).map(Some));
        index.resize(order.len(), group as i32);
        source += size;
        order.resize(order.len().next_multiple_of(128), None);
        index.resize(order.len(), -1);
    }
    (order, index)
}

/// Padding is NaN in A and must stay unwritten in D; every group has its own weights.
fn check_contiguous(sizes: &[usize], trailing: usize, (tile, sms): (Tile, u32)) {
    let device = Device::open();
    let (n, k) = (256, 384);
    let source = Rows::random(sizes.iter().sum(), k, 11);
    let b = Weights::random(sizes.len(), n, k, 12);
    let (mut order, mut index) = contiguous(sizes);
    order.resize(order.len() + trailing, None);
    // Not only -1 means padding.
    index.resize(order.len(), i32::MIN);
    let a = source.gather(order.iter().copied());
    let d = device.run(&a, &b, Grouping::OfRows(&index), (tile, sms));
    let what = format!("groups of {sizes:?}, {tile:?}, {sms} SMs");
    let mut at = 0;
    for (group, &size) in sizes.iter().enumerate() {
        let end = at + size.next_multiple_of(128);
        let rows = a.gather((at..at + size).map(Some));
        b.check(&what, group, &rows, &d[at * n..(at + size) * n]);
        unwritten(&what, &d[(at + size) * n..end * n], n);
        at = end;
    }
    unwritten(&what, &d[at * n..], n);
}

#[test]
fn contiguous_groups() {
    for tile in Tile::ALL {
        check_contiguous(&[130, 0, 1, 64, 0, 128], 0, (tile, 132));
        check_contiguous(&[0, 65, 0], 70, (tile, 3));
        check_contiguous(&[0, 0], 128, (tile, 2));
    }
}

/// An index that is no group writes nothing rather than something.
#[test]
fn rows_of_unknown_groups_are_padding() {
    let device = Device::open();
    let (a, b) = (Rows::random(128, 128, 1), Weights::random(2, 128, 128, 2));
    for index in [2, i32::MAX, -7] {
        let d = device.run(&a, &b, Grouping::OfRows(&[index; 128]), (Tile::M64, 4));
        unwritten("unknown group", &d, 128);
    }
}

fn check_masked(slot_rows: usize, counts: &[i32], (tile, sms): (Tile, u32)) {
    let device = Device::open();
    let (n, k) = (256, 256);
    let used = |group: usize| counts[group].clamp(0, slot_rows as i32) as usize;
    let source = Rows::random(slot_rows * counts.len(), k, 21);
    let b = Weights::random(counts.len(), n, k, 22);
    let order = (0..source.len()).map(|r| (r % slot_rows < used(r / slot_rows)).then_some(r));
    let a = source.gather(order);
    let d = device.run(&a, &b, Grouping::Counts(counts), (tile, sms));
    let what = format!("slots of {slot_rows}, counts {counts:?}, {tile:?}, {sms} SMs");
    for group in 0..counts.len() {
        let begin = group * slot_rows;
        let rows = a.gather((begin..begin + used(group)).map(Some));
        let end = begin + used(group);
        b.check(&what, group, &rows, &d[begin * n..end * n]);
        unwritten(&what, &d[end * n..(begin + slot_rows) * n], n);
    }
}

#[test]
fn masked_groups() {
    for tile in Tile::ALL {
        check_masked(130, &[0, 1, 64, 65, 130], (tile, 132));
        check_masked(128, &[128, 0, 0, 127], (tile, 3));
        check_masked(66, &[0, 0], (tile, 1));
        check_masked(7, &[7, 3], (tile, 1));
    }
}

#[test]
fn counts_outside_the_slot_are_clamped() {
    check_masked(66, &[-1, 67, i32::MAX, i32::MIN], (Tile::M64, 3));
}
