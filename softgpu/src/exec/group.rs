//! Groups of asynchronous operations, per thread: `cp.async` and `cp.async.bulk` commit and wait.
//!
//! All lanes of a warp share one list; an entry concerns the lanes of its mask. A wait for `n` lets
//! the `n` youngest groups of a lane be incomplete, whatever the state of the older ones, so a
//! complete group leaves the list only when it is the oldest.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::inflight::InFlight;

/// Identity of an operation in flight.
pub(super) type OpId = u64;

#[derive(Debug, Clone, Default)]
struct Group {
    mask: u32,
    ops: SmallVec<[OpId; 4]>,
    /// Some source has not been read.
    unread: bool,
    /// Some operation is incomplete.
    open: bool,
}

/// What a wait waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Sources have been read.
    Read,
    /// Operations are complete.
    Done,
}

impl From<bool> for Until {
    /// From the flag `.read` of the instruction.
    fn from(read: bool) -> Self {
        if read { Self::Read } else { Self::Done }
    }
}

/// The groups of the lanes of a warp.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    /// Operations that no commit has taken yet.
    loose: SmallVec<[(OpId, u32); 4]>,
    groups: VecDeque<Group>,
}

impl Groups {
    /// An operation that lanes have started.
    pub(super) fn add(&mut self, id: OpId, mask: u32) {
        self.loose.push((id, mask));
    }

    /// The lanes commit what they have started.
    pub(super) fn commit(&mut self, mask: u32) {
        let mut ops = SmallVec::new();
        self.loose.retain(|(id, lanes)| {
            if *lanes & mask != 0 {
                ops.push(*id);
            }
            *lanes &= !mask;
            *lanes != 0
        });
        self.groups.push_back(Group {
            mask,
            ops,
            unread: true,
            open: true,
        });
    }

    /// Looks which operations have completed.
    pub(super) fn settle(&mut self, inflight: &InFlight) {
        for group in &mut self.groups {
            if group.open {
                group.ops.retain(|id| inflight.is_open(*id));
                group.open = !group.ops.is_empty();
                group.unread = group.ops.iter().any(|id| inflight.is_unread(*id));
            }
        }
        while self.groups.front().is_some_and(|group| !group.open) {
            self.groups.pop_front();
        }
        self.loose.retain(|(id, _)| inflight.is_open(*id));
    }

    /// Whether for every lane of `mask` all groups but the `pending` youngest are complete, or
    /// have at least read their sources. Call [`Groups::settle`] first.
    pub(super) fn at_most(&self, mask: u32, pending: u32, until: Until) -> bool {
        // How many younger groups each lane has, as bit planes would do; lanes seldom differ.
        let mut younger = [0u32; 32];
        for group in self.groups.iter().rev() {
            let lanes = group.mask & mask;
            let waits = match until {
                Until::Read => group.unread,
                Until::Done => group.open,
            };
            for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
                if waits && younger[lane] >= pending {
                    return false;
                }
                younger[lane] += 1;
            }
        }
        true
    }

    /// The incomplete operations that a wait of `mask` for all but the `pending` youngest groups
    /// waits for. Call [`Groups::settle`] first.
    pub(super) fn awaited(&self, mask: u32, pending: u32) -> SmallVec<[OpId; 4]> {
        let mut ops = SmallVec::new();
        let mut younger = [0u32; 32];
        for group in self.groups.iter().rev() {
            let mut waits = false;
            let lanes = group.mask & mask;
            for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
                waits |= younger[lane] >= pending;
                younger[lane] += 1;
            }
            if waits {
                ops.extend(group.ops.iter().copied());
            }
        }
        ops
    }

    /// The operations of a lane that are not complete.
    pub(super) fn of_lane(&self, lane: u32) -> SmallVec<[OpId; 4]> {
        let loose = self.loose.iter().filter(|(_, mask)| mask >> lane & 1 != 0);
        let groups = self
            .groups
            .iter()
            .filter(|group| group.mask >> lane & 1 != 0);
        let mut ops: SmallVec<_> = loose.map(|(id, _)| *id).collect();
        ops.extend(groups.flat_map(|group| group.ops.iter().copied()));
        ops
    }
}

#[cfg(test)]
mod tests {
    use super::{Groups, Until};
    use crate::exec::inflight::{InFlight, Op};

    #[test]
    fn waits_count_from_the_youngest_group() {
        let mut flight = InFlight::default();
        let mut groups = Groups::default();
        let ids: Vec<_> = (0..3)
            .map(|due| flight.push(10 + due, Op::nothing()))
            .collect();
        for id in &ids {
            groups.add(*id, 1);
            groups.commit(1);
        }
        groups.settle(&flight);
        assert!(groups.at_most(1, 3, Until::Done));
        assert!(!groups.at_most(1, 2, Until::Done));
        assert!(
            groups.at_most(2, 0, Until::Done),
            "another lane has no groups"
        );
        // The middle group completes first: the oldest still counts.
        let first = flight.pop_due(10).unwrap();
        let second = flight.pop_due(11).unwrap();
        flight.finish(second.id);
        groups.settle(&flight);
        assert!(!groups.at_most(1, 2, Until::Done));
        assert!(!groups.at_most(1, 1, Until::Done));
        flight.finish(first.id);
        groups.settle(&flight);
        assert!(groups.at_most(1, 1, Until::Done));
        assert!(!groups.at_most(1, 0, Until::Done));
    }

    #[test]
    fn read_waits_end_when_sources_are_read() {
        let mut flight = InFlight::default();
        let mut groups = Groups::default();
        let id = flight.push(5, Op::nothing());
        groups.add(id, 1);
        groups.commit(1);
        groups.settle(&flight);
        assert!(!groups.at_most(1, 0, Until::Read));
        let op = flight.pop_due(5).unwrap();
        flight.push_again(9, op);
        groups.settle(&flight);
        assert!(groups.at_most(1, 0, Until::Read));
        assert!(!groups.at_most(1, 0, Until::Done));
    }
}
