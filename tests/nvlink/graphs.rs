//! Captured primitives, replayed: signals are additions, waits and barriers count on the device.

use hadal::device::Buffer;
use hadal::transfer::nvlink::{
    CollectivePlan, CopyPlan, Desc, Element, Form, NvLinkError, Path, Place, Source, Target, Team,
};

use crate::harness::{assert_same, on_ranks, pattern};

const BYTES: usize = 3001;
const DESC: Desc = Desc {
    bytes: 8192,
    signals: 1,
    record_bytes: 16,
    timeout: std::time::Duration::from_secs(60),
    multicast: false,
};

#[test]
#[expect(unsafe_code, reason = "launches graphs")]
fn a_captured_exchange_replays_with_new_data() {
    for form in [Form::Vector, Form::Bulk] {
        on_ranks(2, DESC, |mut at| {
            let mut data = Buffer::<u8>::zeroed(&at.stream, BYTES).unwrap();
            let mut got = Buffer::<u8>::zeroed(&at.stream, BYTES).unwrap();
            let record = Buffer::from_slice(&at.stream, &[u64::from(at.rank)]).unwrap();
            let mut records = Buffer::<u64>::zeroed(&at.stream, 2).unwrap();
            let plan = CopyPlan::new(form, 0).with_ctas(2);
            let to = Place {
                rank: at.right(),
                offset: 5,
            };
            let own = Place {
                rank: at.rank,
                offset: 5,
            };
            at.synchronize();
            let team = Team::all(2).unwrap();
            let graph = at.stream.capture::<NvLinkError>(|stream| {
                at.put_signal(Source::buffer(&data), to, plan, 0);
                at.wait_next(at.left(), 0);
                at.endpoint.get(stream, own, Target::from(&mut got), plan)?;
                at.endpoint.all_gather(stream, &record, &mut records)?;
                at.endpoint.barrier(stream, team)
            });
            let graph = graph.unwrap();
            for round in 0..10 {
                data.copy_from(&at.stream, &pattern(at.rank, round, BYTES))
                    .unwrap();
                // SAFETY: the buffers and the endpoint outlive the launches, which follow each other.
                unsafe { graph.launch(&at.stream) }.unwrap();
                at.synchronize();
                let found = got.to_vec(&at.stream).unwrap();
                let what = format!("replay {round}, rank {}", at.rank);
                assert_same(&what, &found, &pattern(at.left(), round, BYTES));
                assert_eq!(records.to_vec(&at.stream).unwrap(), [0, 1], "{what}");
                records.fill_bytes(&at.stream, 0xff).unwrap();
            }
            at.side.barrier("end").unwrap();
        });
    }
}

#[test]
#[expect(unsafe_code, reason = "launches graphs")]
fn a_captured_all_reduce_replays_with_new_operands() {
    const ELEMENTS: u32 = 1001 * 4;
    let desc = Desc {
        bytes: 4 * u64::from(ELEMENTS),
        multicast: true,
        ..DESC
    };
    for path in [Path::Peer, Path::Multicast] {
        on_ranks(3, desc, |mut at| {
            let mut data = Buffer::<f32>::zeroed(&at.stream, ELEMENTS as usize).unwrap();
            let mut got = Buffer::<f32>::zeroed(&at.stream, ELEMENTS as usize).unwrap();
            let own = Place {
                rank: at.rank,
                offset: 0,
            };
            let copy = CopyPlan::new(Form::Vector, desc.bytes);
            let plan = CollectivePlan::new(desc.bytes).with_path(path);
            at.synchronize();
            let graph = at.stream.capture::<NvLinkError>(|stream| {
                at.endpoint.put(stream, Source::buffer(&data), own, copy)?;
                let range = 0..desc.bytes;
                at.endpoint.all_reduce(stream, Element::F32, range, plan)?;
                at.endpoint.get(stream, own, Target::from(&mut got), copy)
            });
            let graph = graph.unwrap();
            for round in 0..10 {
                let mine: Vec<f32> = (0..ELEMENTS)
                    .map(|i| (i * (at.rank + 1) + round) as f32)
                    .collect();
                data.copy_from(&at.stream, &mine).unwrap();
                // SAFETY: the buffers and the endpoint outlive the launches, which follow each other.
                unsafe { graph.launch(&at.stream) }.unwrap();
                at.synchronize();
                let expected: Vec<f32> =
                    (0..ELEMENTS).map(|i| (6 * i + 3 * round) as f32).collect();
                let found = got.to_vec(&at.stream).unwrap();
                let differs = found.iter().zip(&expected).position(|(f, e)| f != e);
                assert_eq!(differs, None, "{path:?}, replay {round}, rank {}", at.rank);
            }
            at.side.barrier("end").unwrap();
        });
    }
}
