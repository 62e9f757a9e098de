//! What does not fit is a typed error, and nothing is launched.

use hadal::device::{Buffer, DeviceError, Stream};
use hadal::params::NvlinkOutcome;
use hadal::transfer::nvlink::{
    Change, CollectivePlan, CopyPlan, Desc, Element, Endpoint, Form, NvLinkError, Path, Place,
    Source, Target, Team, Until, Wait,
};

use crate::harness::{Rank, context, on_ranks};

const DESC: Desc = Desc {
    bytes: 1000,
    signals: 3,
    record_bytes: 8,
    timeout: std::time::Duration::from_secs(10),
    multicast: false,
};

/// Launches of these primitives on this device so far.
fn launches(at: &Rank) -> u64 {
    let all = context(at.rank).launches();
    let ours = all.iter().filter(|(name, _)| name.starts_with("nvlink"));
    ours.map(|(_, count)| count).sum()
}

fn range(what: &'static str, offset: u64, bytes: u64, size: u64) -> impl Fn(&NvLinkError) -> bool {
    move |error| {
        matches!(error, NvLinkError::Range { what: w, offset: o, bytes: b, size: s, .. }
            if (*w, *o, *b, *s) == (what, offset, bytes, size))
    }
}

fn argument(what: &'static str, value: &'static str) -> impl Fn(&NvLinkError) -> bool {
    move |error| matches!(error, NvLinkError::Argument { what: w, value: v, .. } if *w == what && v == value)
}

fn refused(error: Result<(), NvLinkError>, as_expected: impl Fn(&NvLinkError) -> bool) {
    match error {
        Err(error) if as_expected(&error) => {}
        other => panic!("{other:?}"),
    }
}

fn copies_are_refused(at: &Rank) {
    let plan = CopyPlan::new(Form::Bulk, 64);
    let mut data = Buffer::<u8>::zeroed(&at.stream, 64).unwrap();
    let put = |source: Source<'_>, rank, offset| {
        let to = Place { rank, offset };
        at.endpoint.put(&at.stream, source, to, plan)
    };
    refused(
        put(Source::buffer(&data), 1, 937),
        range("window", 937, 64, 1000),
    );
    refused(
        put(Source::buffer(&data), 1, u64::MAX),
        range("window", u64::MAX, 64, 1000),
    );
    refused(
        put(Source::buffer(&data).slice(60..65), 1, 0),
        range("buffer", 60, 5, 64),
    );
    refused(
        put(Source::window(990..1001), 1, 0),
        range("window", 990, 11, 1000),
    );
    refused(put(Source::buffer(&data), 2, 0), argument("rank", "2"));
    let own = put(Source::window(0..100), at.rank, 99);
    refused(own, |e| {
        matches!(
            e,
            NvLinkError::Argument {
                what: "destination",
                ..
            }
        )
    });
    let none = at.endpoint.put(
        &at.stream,
        Source::buffer(&data),
        Place { rank: 1, offset: 0 },
        plan.with_ctas(0),
    );
    refused(none, argument("CTAs", "0"));
    let to = Place { rank: 0, offset: 0 };
    let with = (3, Change::Set(1));
    let source = Source::buffer(&data);
    let put = at.endpoint.put_signal(&at.stream, source, to, plan, with);
    refused(put, argument("signal", "3"));
    let from = Place {
        rank: 0,
        offset: 1000,
    };
    let target = Target::from(&mut data).slice(0..1);
    let get = at.endpoint.get(&at.stream, from, target, plan);
    refused(get, range("window", 1000, 1, 1000));
    let from = Place { rank: 0, offset: 0 };
    let target = Target::from(&mut data).slice(1..66);
    let get = at.endpoint.get(&at.stream, from, target, plan);
    refused(get, range("buffer", 1, 65, 64));
}

fn signals_and_barriers_are_refused(at: &Rank) {
    let signal = |rank, index| {
        at.endpoint
            .signal(&at.stream, (rank, index), Change::Add(1))
    };
    refused(signal(2, 0), argument("rank", "2"));
    refused(signal(0, 3), argument("signal", "3"));
    refused(at.wait(2, 0, Until::Count(1)), argument("rank", "2"));
    refused(at.wait(0, 3, Until::Count(1)), argument("signal", "3"));
    let mut nowhere = Buffer::<NvlinkOutcome>::zeroed(&at.stream, 0).unwrap();
    let wait = Wait {
        peer: 0,
        signal: 0,
        until: Until::Equal(1),
        limit: None,
    };
    let wait = at.endpoint.wait_recorded(&at.stream, wait, &mut nowhere);
    refused(wait, |e| {
        matches!(e, NvLinkError::Device(DeviceError::Length { .. }))
    });
    for team in [&[0, 1, 2][..], &[1 - at.rank], &[]] {
        let barrier = at.endpoint.barrier(&at.stream, Team::of(team).unwrap());
        refused(barrier, |e| {
            matches!(e, NvLinkError::Argument { what: "team", .. })
        });
    }
    assert!(Team::of(&[64]).is_err());
    assert!(Team::all(65).is_err());
}

fn gathers_are_refused(at: &Rank) {
    let record = Buffer::<u8>::zeroed(&at.stream, 9).unwrap();
    let mut output = Buffer::<u8>::zeroed(&at.stream, 18).unwrap();
    let gather = at.endpoint.all_gather(&at.stream, &record, &mut output);
    refused(gather, range("record's slot", 0, 9, 8));
    let record = Buffer::<u8>::zeroed(&at.stream, 8).unwrap();
    let gather = at.endpoint.all_gather(&at.stream, &record, &mut output);
    refused(gather, |e| {
        matches!(e, NvLinkError::Device(DeviceError::Length { .. }))
    });
}

fn collectives_are_refused(at: &Rank) {
    let plan = CollectivePlan::new(64);
    let reduce = |range, plan| {
        at.endpoint
            .all_reduce(&at.stream, Element::Bf16, range, plan)
    };
    refused(reduce(8..24, plan), argument("offset", "8"));
    refused(reduce(16..40, plan), argument("bytes", "24"));
    refused(reduce(992..1008, plan), range("window", 992, 16, 1000));
    refused(reduce(0..16, plan.with_ctas(0)), argument("CTAs", "0"));
    let multicast = reduce(0..16, plan.with_path(Path::Multicast));
    refused(multicast, argument("path", "multicast"));
    let data = Buffer::<u8>::zeroed(&at.stream, 64).unwrap();
    let broadcast =
        |source: Source<'_>, offset| at.endpoint.broadcast(&at.stream, source, offset, plan);
    refused(broadcast(Source::buffer(&data), 8), argument("offset", "8"));
    let all = || Source::buffer(&data);
    refused(broadcast(all().slice(0..24), 0), argument("bytes", "24"));
    // An address of a buffer is a multiple of 256.
    let unaligned = broadcast(all().slice(8..24), 0);
    refused(unaligned, |e| {
        matches!(e, NvLinkError::Argument { what: "source", .. })
    });
    refused(broadcast(all(), 992), range("window", 992, 64, 1000));
    refused(broadcast(all().slice(0..80), 0), range("buffer", 0, 80, 64));
    refused(broadcast(Source::window(0..32), 16), |e| {
        matches!(
            e,
            NvLinkError::Argument {
                what: "destination",
                ..
            }
        )
    });
}

fn other_contexts_are_refused(at: &Rank) {
    let wrong =
        |e: &NvLinkError| matches!(e, NvLinkError::Device(DeviceError::WrongContext { .. }));
    let other = context(1 - at.rank);
    let stream = Stream::new(&other).unwrap();
    let data = Buffer::<u8>::zeroed(&stream, 8).unwrap();
    stream.synchronize().unwrap();
    let (to, plan) = (Place { rank: 0, offset: 0 }, CopyPlan::new(Form::Vector, 8));
    refused(
        at.endpoint.put(&at.stream, Source::buffer(&data), to, plan),
        wrong,
    );
    refused(
        at.endpoint.put(&stream, Source::window(8..16), to, plan),
        wrong,
    );
    refused(at.endpoint.signal(&stream, (0, 0), Change::Add(1)), wrong);
    refused(at.endpoint.barrier(&stream, Team::all(2).unwrap()), wrong);
    let plan = CollectivePlan::new(16);
    let reduce = at.endpoint.all_reduce(&stream, Element::F32, 0..16, plan);
    refused(reduce, wrong);
}

#[test]
fn what_does_not_fit_is_refused_and_not_launched() {
    on_ranks(2, DESC, |mut at| {
        let before = launches(&at);
        copies_are_refused(&at);
        signals_and_barriers_are_refused(&at);
        gathers_are_refused(&at);
        collectives_are_refused(&at);
        at.side.barrier("own").unwrap();
        other_contexts_are_refused(&at);
        at.side.barrier("others").unwrap();
        assert_eq!(launches(&at), before, "launched");
        // Nothing to copy is nothing to launch, and no error, up to the very end.
        let (to, plan) = (
            Place {
                rank: 1,
                offset: 1000,
            },
            CopyPlan::new(Form::Vector, 0),
        );
        at.endpoint
            .put(&at.stream, Source::window(1000..1000), to, plan)
            .unwrap();
        assert_eq!(launches(&at), before, "launched");
        at.synchronize();
        at.side.barrier("end").unwrap();
    });
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let layout = |desc: Desc, ranks| desc.layout(ranks).map(drop);
    refused(layout(DESC, 0), argument("ranks", "0"));
    refused(layout(DESC, 65), argument("ranks", "65"));
    let signals = u32::MAX;
    refused(
        layout(Desc { signals, ..DESC }, 2),
        argument("signals", "4294967295"),
    );
    let record_bytes = 1 << 31;
    refused(
        layout(
            Desc {
                record_bytes,
                ..DESC
            },
            2,
        ),
        argument("record_bytes", "2147483648"),
    );
    let bytes = u64::MAX;
    refused(layout(Desc { bytes, ..DESC }, 2), |e| {
        matches!(e, NvLinkError::Memory(_))
    });
    let layout = DESC.layout(64).unwrap();
    assert!(layout.signals.offset >= layout.data.offset + 1000);
    assert_eq!(layout.gather_slots.bytes, 2 * 64 * 16);
    assert_eq!(
        layout.bytes,
        layout.gather_slots.offset + layout.gather_slots.bytes
    );
}

/// Its barriers are among all ranks.
#[test]
fn an_endpoint_needs_all_ranks() {
    let mut sides = hadal::memory::Bootstrap::in_process(3).unwrap();
    drop(sides.remove(1));
    std::thread::scope(|scope| {
        for mut side in sides {
            scope.spawn(move || {
                side.recover().unwrap();
                let context = context(side.rank());
                let error = Endpoint::new(&DESC, &mut side, &context).unwrap_err();
                refused(
                    Err(error),
                    argument("members of the bootstrap", "ranks [0, 2]"),
                );
                side.barrier("nobody waits for anybody").unwrap();
            });
        }
    });
}
