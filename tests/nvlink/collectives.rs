//! All-reduce and broadcast on both paths: every element, and no byte around.
//!
//! Sums that are exact in any order must have the same bits on both paths. Others must have those of the order of ranks
//! where ranks are summed one by one, and lie within the bound of any order where the switch sums.

use std::time::Duration;

use hadal::device::Buffer;
use hadal::transfer::nvlink::{
    CollectivePlan, CopyPlan, Desc, Element, Form, Path, Place, Source, Team,
};
use half::bf16;

use crate::harness::{Rank, assert_same, byte, on_ranks, pattern};

/// Fewer vectors than ranks, an odd number, more than all threads of a plan have.
const VECTORS: [usize; 6] = [0, 1, 3, 17, 1025, 30_001];
const LONGEST: usize = 30_001 * 16;
/// Bytes before and after the range, which nobody may touch.
const MARGIN: usize = 48;
const DESC: Desc = Desc {
    bytes: (LONGEST + 2 * MARGIN) as u64,
    signals: 1,
    record_bytes: 16,
    timeout: Duration::from_secs(120),
    multicast: true,
};

/// What operands are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Integers so small that every sum is exact.
    Exact,
    /// Any between 2^-8 and 2^8 of either sign.
    Any,
}

/// Element `index` of the operand of `rank`.
fn value(rank: u32, index: u64, numbers: Numbers) -> f32 {
    let bits = [0, 1, 2, 3].map(|part| byte(rank, 77, 4 * index + part));
    if numbers == Numbers::Exact {
        return f32::from(bits[0] as i8 / 9);
    }
    let exponent = i32::from(bits[3] % 16) - 8;
    let sign = if bits[2] & 1 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(u16::from_le_bytes([bits[0], bits[1]]));
    sign * (1.0 + fraction / 65536.0) * (exponent as f32).exp2()
}

fn encode(element: Element, value: f32) -> Vec<u8> {
    match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

/// What the encoded value is.
fn rounded(element: Element, value: f32) -> f32 {
    match element {
        Element::F32 => value,
        Element::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

pub(crate) fn operand(element: Element, rank: u32, elements: u64, numbers: Numbers) -> Vec<u8> {
    let all = (0..elements).flat_map(|i| encode(element, value(rank, i, numbers)));
    all.collect()
}

/// Sums in f32 in the order of ranks, rounded once.
pub(crate) fn summed(element: Element, ranks: u32, elements: u64, numbers: Numbers) -> Vec<u8> {
    let sum = |i| {
        let values = (0..ranks).map(|rank| rounded(element, value(rank, i, numbers)));
        values.reduce(|sum, value| sum + value).unwrap()
    };
    (0..elements)
        .flat_map(|i| encode(element, sum(i)))
        .collect()
}

fn width(element: Element) -> usize {
    match element {
        Element::F32 => 4,
        Element::Bf16 => 2,
    }
}

fn decode(element: Element, bytes: &[u8]) -> f64 {
    match *bytes {
        [a, b, c, d] if element == Element::F32 => f32::from_le_bytes([a, b, c, d]).into(),
        [a, b] => bf16::from_le_bytes([a, b]).to_f64(),
        _ => panic!("{} bytes", bytes.len()),
    }
}

/// Every element within `(R - 1) 2^-24 Σ|x|`, what R - 1 additions in f32 in any order can be off to first order (one more
/// for the rest), and for BF16 half a unit in the last place of the result.
fn assert_within_any_order(what: &str, element: Element, ranks: u32, found: &[u8]) {
    for (i, bytes) in (0u64..).zip(found.chunks(width(element))) {
        let values =
            (0..ranks).map(|rank| f64::from(rounded(element, value(rank, i, Numbers::Any))));
        let (sum, size) = values.fold((0.0, 0.0), |(sum, size), v| (sum + v, size + v.abs()));
        let narrow = match element {
            Element::F32 => 0.0,
            Element::Bf16 => (sum.abs() + size * f64::from(2f32.powi(-20))) / 256.0,
        };
        let bound = f64::from(ranks) * size * f64::from(2f32.powi(-24)) + narrow;
        let found = decode(element, bytes);
        let off = (found - sum).abs();
        assert!(
            off <= bound,
            "{what}: element {i} is {found}, expected {sum} ± {bound}"
        );
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    element: Element,
    vectors: usize,
    numbers: Numbers,
    plan: CollectivePlan,
}

impl Case {
    fn bytes(self) -> usize {
        self.vectors * 16
    }

    fn elements(self) -> u64 {
        (self.bytes() / width(self.element)) as u64
    }
}

fn cases(ranks: u32) -> Vec<Case> {
    let paths = if ranks == 1 {
        &[Path::Best, Path::Peer][..]
    } else {
        &[Path::Best, Path::Peer, Path::Multicast]
    };
    let mut all = Vec::new();
    for &path in paths {
        for element in [Element::F32, Element::Bf16] {
            for (i, vectors) in VECTORS.into_iter().enumerate() {
                let ctas = 1 + (i as u32) % 3;
                let plan = CollectivePlan::new(0).with_ctas(ctas).with_path(path);
                all.extend([Numbers::Exact, Numbers::Any].map(|numbers| Case {
                    element,
                    vectors,
                    numbers,
                    plan,
                }));
            }
        }
    }
    all
}

/// Writes the operand between margins of a pattern, sums, and looks at all of it.
fn reduce(at: &Rank, case: Case) -> Vec<u8> {
    let bytes = case.bytes();
    let mut before = pattern(at.rank, 3, bytes + 2 * MARGIN);
    let operand = operand(case.element, at.rank, case.elements(), case.numbers);
    before[MARGIN..MARGIN + bytes].copy_from_slice(&operand);
    let before = Buffer::from_slice(&at.stream, &before).unwrap();
    let own = Place {
        rank: at.rank,
        offset: 0,
    };
    let plan = CopyPlan::new(Form::Vector, bytes as u64);
    at.endpoint
        .put(&at.stream, Source::buffer(&before), own, plan)
        .unwrap();
    let range = MARGIN as u64..(MARGIN + bytes) as u64;
    at.endpoint
        .all_reduce(&at.stream, case.element, range, case.plan)
        .unwrap();
    at.read(own, bytes + 2 * MARGIN)
}

fn check(ranks: u32) {
    let cases = cases(ranks);
    let found = on_ranks(ranks, DESC, |mut at| {
        assert_eq!(at.endpoint.multicast().is_ok(), ranks > 1);
        let mut results = Vec::new();
        for &case in &cases {
            let what = format!("{case:?}, rank {} of {ranks}", at.rank);
            let mut found = reduce(&at, case);
            let (first, end) = (MARGIN, MARGIN + case.bytes());
            let around = pattern(at.rank, 3, found.len());
            assert_same(
                &format!("before, {what}"),
                &found[..first],
                &around[..first],
            );
            assert_same(&format!("after, {what}"), &found[end..], &around[end..]);
            found.truncate(end);
            let found = found.split_off(first);
            let by_rank = case.plan.path == Path::Peer || ranks == 1;
            if case.numbers == Numbers::Exact || by_rank {
                let expected = summed(case.element, ranks, case.elements(), case.numbers);
                assert_same(&what, &found, &expected);
            } else {
                assert_within_any_order(&what, case.element, ranks, &found);
            }
            results.push(found);
        }
        at.side.barrier("end").unwrap();
        results
    });
    for (rank, results) in found.iter().enumerate().skip(1) {
        for (case, (found, first)) in cases.iter().zip(results.iter().zip(&found[0])) {
            assert_same(&format!("{case:?}, ranks 0 and {rank}"), found, first);
        }
    }
}

#[test]
fn all_ranks_get_the_sums_of_1_rank() {
    check(1);
}

#[test]
fn all_ranks_get_the_sums_of_2_ranks() {
    check(2);
}

#[test]
fn all_ranks_get_the_sums_of_3_ranks() {
    check(3);
}

#[test]
fn all_ranks_get_the_sums_of_8_ranks() {
    check(8);
}

#[test]
fn a_broadcast_reaches_every_window_and_no_byte_around() {
    for ranks in [1, 2, 3, 8] {
        on_ranks(ranks, DESC, |mut at| {
            let all = Team::all(ranks).unwrap();
            let own = Place {
                rank: at.rank,
                offset: 0,
            };
            let mut expected = vec![0; LONGEST + 2 * MARGIN];
            for (round, vectors) in VECTORS.into_iter().enumerate() {
                for path in [Path::Best, Path::Peer] {
                    let root = round as u32 % ranks;
                    let sent = pattern(root, 5 + round as u64, vectors * 16);
                    let plan = CollectivePlan::new(0).with_ctas(2).with_path(path);
                    if at.rank == root {
                        let data = Buffer::from_slice(&at.stream, &sent).unwrap();
                        let source = Source::buffer(&data);
                        at.endpoint
                            .broadcast(&at.stream, source, MARGIN as u64, plan)
                            .unwrap();
                        at.synchronize();
                    }
                    at.endpoint.barrier(&at.stream, all).unwrap();
                    expected[MARGIN..MARGIN + sent.len()].copy_from_slice(&sent);
                    let what = format!("{vectors} vectors, {path:?}, rank {} of {ranks}", at.rank);
                    assert_same(&what, &at.read(own, expected.len()), &expected);
                    // A later path may not find what an earlier one left.
                    at.side.barrier("read").unwrap();
                    expected.fill(path as u8);
                    let cleared = Buffer::from_slice(&at.stream, &expected).unwrap();
                    let plan = CopyPlan::new(Form::Vector, expected.len() as u64);
                    at.endpoint
                        .put(&at.stream, Source::buffer(&cleared), own, plan)
                        .unwrap();
                    at.endpoint.barrier(&at.stream, all).unwrap();
                    at.synchronize();
                }
            }
            at.side.barrier("end").unwrap();
        });
    }
}

#[test]
fn without_multicast_the_best_path_is_that_of_peers() {
    let desc = Desc {
        multicast: false,
        ..DESC
    };
    on_ranks(3, desc, |mut at| {
        assert!(at.endpoint.multicast().is_err());
        let case = Case {
            element: Element::F32,
            vectors: 17,
            numbers: Numbers::Any,
            plan: CollectivePlan::new(0),
        };
        let found = reduce(&at, case);
        let expected = summed(Element::F32, 3, case.elements(), Numbers::Any);
        assert_same("sums", &found[MARGIN..MARGIN + 17 * 16], &expected);
        at.side.barrier("end").unwrap();
    });
}
