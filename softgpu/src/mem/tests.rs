//! Tests of the address space: permissions, allocation, mappings. Each test has a window of its
//! own, at a place no other uses.

#![expect(unsafe_code, reason = "tests touch the memory that was handed out")]

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

fn space() -> AddressSpace {
    static NEXT: AtomicU64 = AtomicU64::new(0x1400_0000_0000);
    let window = 64 << 30;
    let base = NEXT.fetch_add(window, Ordering::Relaxed);
    AddressSpace::new(base, window, 256 << 20).unwrap()
}

fn write(space: &AddressSpace, device: u32, address: u64, value: u64) {
    let at = space.translate(device, address, 8, Access::Write).unwrap();
    // SAFETY: translated for 8 bytes.
    unsafe { at.cast::<u64>().write_unaligned(value) };
}

fn read(space: &AddressSpace, device: u32, address: u64) -> u64 {
    let at = space.translate(device, address, 8, Access::Read).unwrap();
    // SAFETY: translated for 8 bytes.
    unsafe { at.cast::<u64>().read_unaligned() }
}

#[test]
fn device_memory_is_private_until_peers_are_enabled() {
    let s = space();
    let a = s.alloc_device(1, 1000).unwrap();
    assert_eq!(a.base % ALLOC_ALIGN, 0);
    assert!(s.translate(0, a.base, 4, Access::Read).is_none());
    write(&s, 1, a.base + 992, 7);
    s.set_peer(1, 0, Peer::Enabled).unwrap();
    let b = s.alloc_device(1, 8).unwrap();
    assert_eq!(read(&s, 0, a.base + 992), 7);
    write(&s, 0, b.base, 9);
    s.set_peer(1, 0, Peer::Disabled).unwrap();
    assert!(s.translate(0, b.base, 4, Access::Read).is_none());
    assert_eq!(read(&s, 1, b.base), 9);
}

#[test]
fn overruns_and_freed_memory_are_refused() {
    let s = space();
    let a = s.alloc_device(0, 100_000).unwrap();
    let end = a.base + 100_000;
    assert!(s.translate(0, end - 4, 4, Access::Write).is_some());
    assert!(s.translate(0, end, 1, Access::Read).is_none());
    assert!(s.translate(0, end - 4, 8, Access::Read).is_none());
    assert!(s.translate(0, a.base, 100_000, Access::Read).is_some());
    assert!(s.translate(0, a.base, 100_001, Access::Read).is_none());
    assert!(
        s.translate(0, a.base - 1, 1, Access::Read).is_none(),
        "below"
    );
    assert!(s.translate(0, a.base - 4, 8, Access::Read).is_none());
    for bytes in [1, 511, 512, 513, 65_535, 65_536, 65_537, 3 << 16] {
        let b = s.alloc_device(0, bytes).unwrap();
        assert!(s.translate(0, b.base, bytes, Access::Write).is_some());
        assert!(
            s.translate(0, b.base + bytes - 1, 1, Access::Write)
                .is_some()
        );
        for (at, len) in [
            (b.base - 1, 1),
            (b.base + bytes, 1),
            (b.base - 1, bytes + 1),
        ] {
            assert!(s.translate(0, at, len, Access::Read).is_none(), "{bytes}");
        }
        let h = s.alloc_host(bytes, RegionKind::Host).unwrap();
        assert!(s.translate(3, h.base, bytes, Access::Write).is_some());
        assert!(s.translate(3, h.base, bytes + 1, Access::Write).is_none());
        assert!(s.translate(3, h.base - 1, 1, Access::Write).is_none());
    }
    assert!(s.translate(0, u64::MAX - 3, 8, Access::Read).is_none());
    assert!(s.translate(0, 0, 4, Access::Read).is_none());
    assert!(s.free(a.base + 8).is_err());
    write(&s, 0, a.base, 3);
    s.free(a.base).unwrap();
    assert!(s.translate(0, a.base, 4, Access::Read).is_none());
    assert!(s.free(a.base).is_err());
    let again = s.alloc_device(0, 100_000).unwrap();
    assert_eq!((again.base, read(&s, 0, again.base)), (a.base, 0));
}

#[test]
fn a_large_range_needs_every_page() {
    let s = space();
    let base = s.reserve(3 * GRANULARITY, 0, 0).unwrap();
    let physical = s.create_physical(Location::Device(2), GRANULARITY).unwrap();
    for i in [0, 2] {
        s.map(base + i * GRANULARITY, GRANULARITY, &physical, 0)
            .unwrap();
        let at = base + i * GRANULARITY;
        s.set_access(at, GRANULARITY, 2, Permission::ReadWrite)
            .unwrap();
    }
    assert!(s.translate(2, base, GRANULARITY, Access::Write).is_some());
    assert!(
        s.translate(2, base, 3 * GRANULARITY, Access::Write)
            .is_none()
    );
    write(&s, 2, base + 40, 5);
    assert_eq!(read(&s, 2, base + 2 * GRANULARITY + 40), 5);
    assert!(!s.is_allocated(base, GRANULARITY + 1));
    assert!(s.is_allocated(base, GRANULARITY));
}

#[test]
fn memory_is_accounted_for() {
    let s = space();
    let total = 256 << 20;
    assert_eq!(s.memory_info(3), (total, total));
    let a = s.alloc_device(3, 1000).unwrap();
    let p = s
        .create_physical(Location::Device(3), 8 * GRANULARITY)
        .unwrap();
    assert_eq!(s.memory_info(3).0, total - 1024 - 8 * GRANULARITY);
    assert!(matches!(
        s.alloc_device(3, total - GRANULARITY),
        Err(MemError::OutOfMemory { .. })
    ));
    let base = s.reserve(8 * GRANULARITY, 0, 0).unwrap();
    s.map(base, 8 * GRANULARITY, &p, 0).unwrap();
    drop(p);
    assert_eq!(s.memory_info(3).0, total - 1024 - 8 * GRANULARITY);
    s.unmap(base, 8 * GRANULARITY).unwrap();
    s.free(a.base).unwrap();
    assert_eq!(s.memory_info(3).0, total);
}

#[test]
fn exported_memory_is_the_same_memory() {
    let (s, other) = (space(), space());
    let p = s.create_physical(Location::Device(1), GRANULARITY).unwrap();
    let fd = p.export().unwrap();
    assert!(Arc::ptr_eq(&s.import_physical(fd.as_raw_fd()).unwrap(), &p));
    // A second address space stands in for a second process.
    let q = other.import_physical(fd.as_raw_fd()).unwrap();
    assert_eq!(
        (q.bytes(), q.location()),
        (GRANULARITY, Location::Device(1))
    );
    for (space, physical) in [(&s, &p), (&other, &q)] {
        let base = space.reserve(GRANULARITY, 0, 0).unwrap();
        space.map(base, GRANULARITY, physical, 0).unwrap();
        space
            .set_access(base, GRANULARITY, 0, Permission::ReadWrite)
            .unwrap();
    }
    let at = |s: &AddressSpace| *s.state.lock().mappings.keys().next().unwrap();
    write(&s, 0, at(&s) + 80, 77);
    assert_eq!(read(&other, 0, at(&other) + 80), 77);
    let foreign = std::fs::File::open("/dev/null").unwrap();
    assert!(s.import_physical(foreign.as_raw_fd()).is_err());
    assert!(s.import_physical(-1).is_err());
}

#[test]
fn host_memory_is_for_everyone() {
    let s = space();
    let h = s.alloc_host(5000, RegionKind::Host).unwrap();
    assert_eq!(h.base % 4096, 0);
    write(&s, 4, h.base + 4992, 1);
    assert_eq!(read(&s, 15, h.base + 4992), 1);
    let local = [11u64; 4];
    let base = local.as_ptr().expose_provenance() as u64;
    assert!(s.translate(0, base, 8, Access::Read).is_none());
    let r = s.register_host(base, 32).unwrap();
    assert!(s.register_host(base + 31, 1).is_err());
    assert_eq!(read(&s, 0, base + 24), 11);
    assert!(s.translate(0, base + 28, 8, Access::Read).is_none());
    assert_eq!(s.lookup(base + 31), Some(r));
    s.unregister_host(base).unwrap();
    assert!(s.translate(0, base, 8, Access::Read).is_none());
    assert_eq!(s.lookup(h.base + 4999), Some(h));
    assert_eq!(s.lookup(h.base + 5000), None);
}

#[test]
fn misuse_of_mappings_is_an_error() {
    let s = space();
    let base = s.reserve(4 * GRANULARITY, 1 << 25, 0).unwrap();
    assert_eq!(base % (1 << 25), 0);
    let p = s.create_physical(Location::Host, 2 * GRANULARITY).unwrap();
    assert!(s.create_physical(Location::Host, GRANULARITY + 1).is_err());
    assert!(
        s.create_physical(Location::Device(16), GRANULARITY)
            .is_err()
    );
    assert!(s.reserve(GRANULARITY, 3, 0).is_err());
    assert!(s.map(base + 4 * GRANULARITY, GRANULARITY, &p, 0).is_err());
    assert!(s.map(base, 3 * GRANULARITY, &p, 0).is_err());
    assert!(s.map(base, GRANULARITY, &p, 4096).is_err());
    s.map(base, 2 * GRANULARITY, &p, 0).unwrap();
    assert!(s.map(base + GRANULARITY, GRANULARITY, &p, 0).is_err());
    assert!(s.unmap(base, GRANULARITY).is_err());
    assert!(s.release_reservation(base, 4 * GRANULARITY).is_err());
    assert!(
        s.set_access(base, 3 * GRANULARITY, 0, Permission::Read)
            .is_err()
    );
    s.set_access(base + GRANULARITY, GRANULARITY, 0, Permission::Read)
        .unwrap();
    assert_eq!(s.access(base, 0), Ok(Permission::None));
    assert_eq!(s.access(base + GRANULARITY, 0), Ok(Permission::Read));
    assert!(
        s.translate(0, base + GRANULARITY, 4, Access::Write)
            .is_none()
    );
    s.unmap(base, 2 * GRANULARITY).unwrap();
    assert!(s.access(base, 0).is_err());
    s.release_reservation(base, 4 * GRANULARITY).unwrap();
    assert!(s.release_reservation(base, 4 * GRANULARITY).is_err());
    assert_eq!(s.reserve(GRANULARITY, 0, base), Ok(base));
}

/// One step on a reservation of eight granules.
#[derive(Debug, Clone, Copy)]
enum Step {
    Map { at: u64, len: u64, physical: usize },
    Unmap { at: u64, len: u64 },
    Access { at: u64, len: u64, device: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0u64..8, 1u64..4);
    prop_oneof![
        (range(), 0usize..2).prop_map(|((at, len), physical)| Step::Map { at, len, physical }),
        range().prop_map(|(at, len)| Step::Unmap { at, len }),
        (range(), 0u32..3).prop_map(|((at, len), device)| Step::Access { at, len, device }),
    ]
}

/// The model: per granule which mapping (its first granule and length), and who may write.
type Model = [Option<(u64, u64, usize, u32)>; 8];

fn apply(model: &mut Model, step: Step) -> bool {
    let range = |at: u64, len: u64| {
        let (at, end) = (
            usize::try_from(at).unwrap(),
            usize::try_from(at + len).unwrap(),
        );
        (end <= 8).then_some(at..end)
    };
    match step {
        Step::Map { at, len, physical } => {
            let Some(range) = range(at, len) else {
                return false;
            };
            let free = model[range.clone()].iter().all(Option::is_none);
            if free {
                model[range].fill(Some((at, len, physical, 0)));
            }
            free
        }
        Step::Unmap { at, len } => {
            let Some(range) = range(at, len) else {
                return false;
            };
            let whole = model[range.clone()].iter().all(|g| {
                g.is_some_and(|(first, count, ..)| first >= at && first + count <= at + len)
            });
            if whole {
                model[range].fill(None);
            }
            whole
        }
        Step::Access { at, len, device } => {
            let Some(range) = range(at, len) else {
                return false;
            };
            let mapped = model[range.clone()].iter().all(Option::is_some);
            if mapped {
                model[range]
                    .iter_mut()
                    .flatten()
                    .for_each(|g| g.3 |= 1 << device);
            }
            mapped
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn mappings_behave_as_the_model(steps in prop::collection::vec(step(), 1..40)) {
        let s = space();
        let base = s.reserve(8 * GRANULARITY, 0, 0).unwrap();
        let physical = [0, 1].map(|d| {
            s.create_physical(Location::Device(d), 3 * GRANULARITY).unwrap()
        });
        let mut model = Model::default();
        for step in steps {
            let g = GRANULARITY;
            let done = match step {
                Step::Map { at, len, physical: p } =>
                    s.map(base + at * g, len * g, &physical[p], 0),
                Step::Unmap { at, len } => s.unmap(base + at * g, len * g),
                Step::Access { at, len, device } =>
                    s.set_access(base + at * g, len * g, device, Permission::ReadWrite),
            };
            prop_assert_eq!(done.is_ok(), apply(&mut model, step), "{:?}", step);
            for (i, granule) in (0u64..).zip(&model) {
                let mask = granule.map_or(0, |(.., mask)| mask);
                for device in 0..3 {
                    let may = s.translate(device, base + i * g + g / 2, 4, Access::Write);
                    prop_assert_eq!(may.is_some(), mask >> device & 1 == 1, "granule {}", i);
                }
                let kind = s.lookup(base + i * g).map(|r| r.kind);
                let expected = granule.map(|(_, _, p, _)| {
                    RegionKind::Mapped(Location::Device(u32::try_from(p).unwrap()))
                });
                prop_assert_eq!(kind, expected);
            }
        }
    }
}
