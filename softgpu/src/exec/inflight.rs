//! Asynchronous operations of a cluster between issue and completion.
//!
//! An operation has a due time in the cluster's own work count ([`super::cta::State::work`]): it
//! completes when that time comes, or when the cluster has nothing else to do. Due times lie well
//! after the issue, so a kernel that forgets to wait reads old data; a seed draws them from several
//! scales, so that completions also come at once, or very late, and in any order.
//!
//! Stores complete in two steps: first the source is read, then the destination is written.

use std::collections::{BTreeMap, HashMap};

use super::cta::Origin;
use super::group::OpId;
use super::seed::Choice;
use super::transfer::Transfer;

/// What an operation does when it completes.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Moves bytes.
    Transfer(Box<Transfer>),
    /// `cp.async.mbarrier.arrive`: arrives once the operations listed are complete.
    Arrive {
        after: Vec<OpId>,
        mbarrier: (u32, u32),
    },
    /// Completes the oldest wgmma of a warpgroup.
    Wgmma { rank: u32, group: u32 },
}

/// An operation in flight.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) id: OpId,
    pub(super) origin: Origin,
    pub(super) action: Action,
}

impl Op {
    pub(super) fn new(origin: Origin, action: Action) -> Self {
        Self {
            id: 0,
            origin,
            action,
        }
    }

    /// An operation that does nothing, for tests.
    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        let origin = Origin {
            rank: 0,
            warp: 0,
            lane: 0,
            line: 0,
        };
        Self::new(origin, Action::Wgmma { rank: 0, group: 0 })
    }
}

#[derive(Debug, Clone, Copy)]
struct Stage {
    due: u64,
    read: bool,
}

/// The operations of a cluster.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    queue: BTreeMap<(u64, OpId), Op>,
    stages: HashMap<OpId, Stage>,
    next: OpId,
}

impl InFlight {
    /// Starts an operation; its identity.
    pub(super) fn push(&mut self, due: u64, mut op: Op) -> OpId {
        self.next += 1;
        let id = self.next;
        op.id = id;
        self.stages.insert(id, Stage { due, read: false });
        self.queue.insert((due, id), op);
        id
    }

    /// Puts an operation back: it has read its source, or has to wait for others.
    pub(super) fn push_again(&mut self, due: u64, op: Op) {
        self.stages.insert(op.id, Stage { due, read: true });
        self.queue.insert((due, op.id), op);
    }

    /// Takes the first operation that is due at `work`.
    pub(super) fn pop_due(&mut self, work: u64) -> Option<Op> {
        let (&(due, _), _) = self.queue.first_key_value()?;
        if due > work {
            return None;
        }
        self.pop_first()
    }

    /// Takes the operation that is due first, now or later.
    pub(super) fn pop_first(&mut self) -> Option<Op> {
        self.queue.pop_first().map(|(_, op)| op)
    }

    /// Whether all operations are complete.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Notes that an operation is complete.
    pub(super) fn finish(&mut self, id: OpId) {
        self.stages.remove(&id);
    }

    /// Whether an operation is not complete.
    pub(super) fn is_open(&self, id: OpId) -> bool {
        self.stages.contains_key(&id)
    }

    /// Whether an operation has not read its source.
    pub(super) fn is_unread(&self, id: OpId) -> bool {
        self.stages.get(&id).is_some_and(|stage| !stage.read)
    }

    /// Brings forward operations that were held until something waits for them.
    pub(super) fn hasten(&mut self, ids: &[OpId], latest: u64) {
        for id in ids {
            let Some(stage) = self.stages.get_mut(id).filter(|stage| stage.due > latest) else {
                continue;
            };
            if let Some(op) = self.queue.remove(&(stage.due, *id)) {
                stage.due = latest;
                self.queue.insert((latest, *id), op);
            }
        }
    }

    /// When an operation is due, if it is not complete.
    pub(super) fn due(&self, id: OpId) -> Option<u64> {
        self.stages.get(&id).map(|stage| stage.due)
    }
}

/// How long a held operation waits for a wait that names it: long enough to be seen by all that
/// follows in a kernel that forgot to wait, and an end to the spins of one that polls the data.
const HELD: u64 = 4_000_000;

/// When a copy out of shared memory is due. A seed holds some until the thread waits for them or
/// the cluster has nothing else to do, so that a source reused without a wait shows.
pub(super) fn due_of_store(choice: &mut Choice, work: u64, typical: u64) -> u64 {
    if choice.below(4, 1) == 0 {
        work + HELD
    } else {
        due(choice, work, typical)
    }
}

/// When an operation issued at `work` is due: `typical` instructions later, or as the seed says.
pub(super) fn due(choice: &mut Choice, work: u64, typical: u64) -> u64 {
    let scale = match choice.below(4, 4) {
        0 => 8,
        1 => typical / 4,
        2 => typical * 2,
        3 => typical * 16,
        _ => return work + typical,
    };
    work + choice.below(scale.max(1), typical)
}

#[cfg(test)]
mod tests {
    use super::{Choice, HELD, InFlight, Op, due_of_store};

    #[test]
    fn a_wait_brings_held_operations_forward() {
        let mut flight = InFlight::default();
        let held = flight.push(HELD, Op::nothing());
        let soon = flight.push(5, Op::nothing());
        flight.hasten(&[held, soon, 99], 100);
        assert_eq!(flight.due(held), Some(100));
        assert_eq!(flight.due(soon), Some(5), "never later than before");
        assert_eq!(flight.pop_due(100).map(|op| op.id), Some(soon));
        assert_eq!(flight.pop_due(99).map(|op| op.id), None);
        assert_eq!(flight.pop_due(100).map(|op| op.id), Some(held));
    }

    #[test]
    fn only_a_seed_holds_stores() {
        let held = |seed| {
            let mut choice = Choice::new(seed, 0);
            let due = (0..400).map(|_| due_of_store(&mut choice, 0, 1500));
            due.filter(|due| *due >= HELD).count()
        };
        assert_eq!(held(None), 0);
        assert!((50..200).contains(&held(Some(1))));
    }
}
