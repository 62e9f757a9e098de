//! put, get and put-with-signal: every byte, and none around.

use hadal::device::Buffer;
use hadal::transfer::nvlink::{CopyPlan, Desc, Form, Place, Source};

use crate::harness::{Rank, assert_same, on_ranks, pattern};

const LONG: usize = (1 << 20) + 3;
const LENGTHS: [usize; 6] = [0, 1, 15, 16, 17, 4095];
/// Of source and destination. Together they can be aligned to 16, 8, 4, 2 and 1 bytes.
const OFFSETS: [(u64, u64); 8] = [
    (0, 0),
    (7, 7),
    (0, 8),
    (9, 1),
    (4, 0),
    (1, 5),
    (6, 4),
    (3, 0),
];
/// Bytes around a copy that are looked at, too.
const MARGIN: usize = 40;
const DESC: Desc = Desc {
    bytes: (LONG + 256) as u64,
    signals: 2,
    record_bytes: 16,
    timeout: std::time::Duration::from_secs(120),
    multicast: false,
};

#[derive(Debug, Clone, Copy)]
struct Case {
    length: usize,
    offsets: (u64, u64),
    plan: CopyPlan,
}

fn cases(ranks: u32) -> Vec<Case> {
    let mut all = Vec::new();
    for form in [Form::Vector, Form::Bulk] {
        let plan = CopyPlan::new(form, 0);
        for length in LENGTHS {
            // All of them at two ranks, and enough of them elsewhere.
            let offsets = if ranks == 2 {
                &OFFSETS[..]
            } else {
                &OFFSETS[..2]
            };
            for (i, &offsets) in offsets.iter().enumerate() {
                let plan = plan.with_ctas(1 + (i as u32 + length as u32) % 3);
                all.push(Case {
                    length,
                    offsets,
                    plan,
                });
            }
        }
        let long = if ranks == 2 {
            &OFFSETS[..3]
        } else {
            &OFFSETS[1..2]
        };
        for &offsets in long {
            let plan = CopyPlan::new(form, LONG as u64).with_ctas(3);
            let length = LONG;
            all.push(Case {
                length,
                offsets,
                plan,
            });
        }
    }
    all
}

/// One rank's data, and what its window must hold.
struct Model {
    sent: Vec<u8>,
    source: Buffer<u8>,
    from_left: Vec<u8>,
    window: Vec<u8>,
}

impl Model {
    fn new(at: &Rank) -> Self {
        let sent = pattern(at.rank, 0, LONG + 16);
        Self {
            source: Buffer::from_slice(&at.stream, &sent).unwrap(),
            sent,
            from_left: pattern(at.left(), 0, LONG + 16),
            window: vec![0; DESC.bytes as usize],
        }
    }

    /// Every rank puts to the right, and gets what it put back.
    fn check(&mut self, at: &mut Rank, case: Case) {
        let Case {
            length,
            offsets: (from, to),
            plan,
        } = case;
        let what = format!("{case:?}, rank {} of {}", at.rank, at.ranks);
        let range = from..from + length as u64;
        let source = Source::buffer(&self.source).slice(range.clone());
        let offset = 64 + to;
        let rank = at.right();
        at.put_signal(source, Place { rank, offset }, plan, 1);
        at.wait_next(at.left(), 1);
        let (first, from) = (offset as usize, from as usize);
        self.window[first..first + length].copy_from_slice(&self.from_left[from..from + length]);
        let around = first - MARGIN..first + length + MARGIN;
        let own = Place {
            rank: at.rank,
            offset: around.start as u64,
        };
        let found = at.read(own, around.len());
        assert_same(&format!("put, {what}"), &found, &self.window[around]);
        // All have looked at their windows, and all windows are written.
        at.side.barrier("put").unwrap();
        let mut back = Buffer::<u8>::from_slice(&at.stream, &vec![0xa5; length + 2 * MARGIN]);
        let back = back.as_mut().unwrap();
        let target =
            (MARGIN as u64 + range.start % 16)..(MARGIN as u64 + range.start % 16 + length as u64);
        let mut expected = vec![0xa5; length + 2 * MARGIN];
        expected[target.start as usize..target.end as usize]
            .copy_from_slice(&self.sent[from..from + length]);
        let get = at.endpoint.get(
            &at.stream,
            Place { rank, offset },
            hadal::transfer::nvlink::Target::from(&mut *back).slice(target),
            plan,
        );
        get.unwrap();
        at.synchronize();
        assert_same(
            &format!("get, {what}"),
            &back.to_vec(&at.stream).unwrap(),
            &expected,
        );
        at.side.barrier("got").unwrap();
    }
}

fn check(ranks: u32) {
    on_ranks(ranks, DESC, |mut at| {
        let mut model = Model::new(&at);
        for case in cases(ranks) {
            model.check(&mut at, case);
        }
        // What nobody wrote is still zero.
        let own = Place {
            rank: at.rank,
            offset: 0,
        };
        assert_same("window", &at.read(own, model.window.len()), &model.window);
        at.side.barrier("end").unwrap();
    });
}

#[test]
fn copies_move_every_byte_and_no_other_on_1_rank() {
    check(1);
}

#[test]
fn copies_move_every_byte_and_no_other_on_2_ranks() {
    check(2);
}

#[test]
fn copies_move_every_byte_and_no_other_on_3_ranks() {
    check(3);
}

#[test]
fn copies_move_every_byte_and_no_other_on_8_ranks() {
    check(8);
}

/// From window to window around the ring, without a buffer and without the host.
#[test]
fn what_arrived_can_be_passed_on() {
    let bytes = 5000;
    let desc = Desc {
        bytes: 3 * bytes,
        ..DESC
    };
    on_ranks(3, desc, |at| {
        let data = pattern(at.rank, 1, bytes as usize);
        let data = Buffer::from_slice(&at.stream, &data).unwrap();
        let plan = CopyPlan::new(Form::Bulk, bytes).with_ctas(2);
        let place = |hop: u64| Place {
            rank: at.right(),
            offset: hop * bytes,
        };
        at.put_signal(Source::buffer(&data), place(0), plan, 0);
        for hop in 1..3 {
            at.wait_next(at.left(), 0);
            let arrived = (hop - 1) * bytes..hop * bytes;
            at.put_signal(Source::window(arrived), place(hop), plan, 0);
        }
        at.wait_next(at.left(), 0);
        // Three hops to the right are the rank itself.
        for hop in 0..3u32 {
            let offset = u64::from(hop) * bytes;
            let found = at.read(
                Place {
                    rank: at.rank,
                    offset,
                },
                bytes as usize,
            );
            let from = (at.rank + 2 * (hop + 1)) % 3;
            assert_same(
                &format!("hop {hop}"),
                &found,
                &pattern(from, 1, bytes as usize),
            );
        }
    });
}

/// Every CTA of the widest plan goes round its stages many times.
#[test]
fn a_huge_copy_is_split_over_its_ctas() {
    const HUGE: usize = (64 << 20) + 5;
    let desc = Desc {
        bytes: HUGE as u64 + 3,
        ..DESC
    };
    on_ranks(2, desc, |mut at| {
        let data = pattern(at.rank, 2, HUGE);
        let data = Buffer::from_slice(&at.stream, &data).unwrap();
        for (form, offset) in [(Form::Vector, 0), (Form::Bulk, 3)] {
            let to = Place {
                rank: at.right(),
                offset,
            };
            let own = Place {
                rank: at.rank,
                offset,
            };
            at.put_signal(
                Source::buffer(&data),
                to,
                CopyPlan::new(form, HUGE as u64),
                0,
            );
            at.wait_next(at.left(), 0);
            let what = format!("{form:?}, rank {}", at.rank);
            assert_same(&what, &at.read(own, HUGE), &pattern(at.left(), 2, HUGE));
            at.side.barrier("read").unwrap();
        }
    });
}
