//! Signals and waits: set and add, at least and equal, what they publish and what they record.

use std::time::Duration;

use hadal::device::Buffer;
use hadal::params::NvlinkOutcome;
use hadal::transfer::nvlink::{Change, CopyPlan, Desc, Form, Place, Source, Until, Wait};

use crate::harness::{assert_same, on_ranks, pattern};

const DESC: Desc = Desc {
    bytes: 1 << 16,
    signals: 4,
    record_bytes: 16,
    timeout: Duration::from_secs(60),
    multicast: false,
};

#[test]
fn a_signal_publishes_the_puts_before_it() {
    for ranks in [1, 2, 3, 8] {
        on_ranks(ranks, DESC, |at| {
            let data = pattern(at.rank, 0, 3000);
            let data = Buffer::from_slice(&at.stream, &data).unwrap();
            let plan = CopyPlan::new(Form::Vector, 0).with_ctas(2);
            for (i, form) in [Form::Vector, Form::Bulk].into_iter().enumerate() {
                let to = Place {
                    rank: at.right(),
                    offset: 4096 * i as u64,
                };
                let plan = CopyPlan { form, ..plan };
                at.endpoint
                    .put(&at.stream, Source::buffer(&data), to, plan)
                    .unwrap();
            }
            let signal = (at.right(), 3);
            at.endpoint
                .signal(&at.stream, signal, Change::Set(7))
                .unwrap();
            at.wait(at.left(), 3, Until::Equal(7)).unwrap();
            for i in 0..2 {
                let own = Place {
                    rank: at.rank,
                    offset: 4096 * i,
                };
                let expected = pattern(at.left(), 0, 3000);
                assert_same("put", &at.read(own, 3000), &expected);
            }
        });
    }
}

#[test]
fn additions_of_all_ranks_meet_in_one_word() {
    on_ranks(8, DESC, |mut at| {
        for rank in 0..at.ranks {
            let change = Change::Add(1 + u64::from(at.rank));
            at.endpoint.signal(&at.stream, (rank, 2), change).unwrap();
        }
        at.wait(at.left(), 2, Until::AtLeast(36)).unwrap();
        at.wait(at.left(), 2, Until::Equal(36)).unwrap();
        at.wait(at.left(), 2, Until::Count(30)).unwrap();
        at.wait(at.left(), 2, Until::Count(6)).unwrap();
        at.synchronize();
        at.side.barrier("end").unwrap();
    });
}

#[test]
fn a_wait_records_what_it_saw() {
    on_ranks(2, DESC, |mut at| {
        let mut outcome = Buffer::<NvlinkOutcome>::zeroed(&at.stream, 2).unwrap();
        let signal = (at.right(), 0);
        at.endpoint
            .signal(&at.stream, signal, Change::Set(41))
            .unwrap();
        let wait = Wait {
            peer: at.left(),
            signal: 0,
            until: Until::AtLeast(40),
            limit: Some(Duration::from_secs(60)),
        };
        at.endpoint
            .wait_recorded(&at.stream, wait, &mut outcome)
            .unwrap();
        at.synchronize();
        let found = outcome.to_vec(&at.stream).unwrap();
        assert_eq!(
            (found[0].seen, found[0].expired, found[0].fault),
            (41, 0, 0)
        );
        assert!(found[0].waited_ns < 60_000_000_000);
        assert_eq!(bytemuck::bytes_of(&found[1]), [0; 24], "behind the outcome");
        at.side.barrier("end").unwrap();
    });
}
