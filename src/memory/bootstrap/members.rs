//! Which ranks take part, and since when.

/// Most ranks that can meet.
pub(crate) const MOST_RANKS: u32 = 64;

/// The ranks that take part in meetings and exchanges: those that are alive, as far as they have agreed. Every agreement
/// ([`Bootstrap::recover`](super::Bootstrap::recover), `rejoin`) has an epoch of its own; ranks of the same epoch
/// have the same members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Members {
    pub(crate) epoch: u64,
    /// A bit per rank.
    pub(crate) live: u64,
}

impl Members {
    /// All of `ranks`, at epoch 1.
    pub(crate) const fn all(ranks: u32) -> Self {
        let live = match ranks {
            0..64 => (1 << ranks) - 1,
            _ => u64::MAX,
        };
        Self { epoch: 1, live }
    }

    /// The agreement, counted from 1.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether `rank` takes part.
    #[must_use]
    pub const fn contains(&self, rank: u32) -> bool {
        rank < MOST_RANKS && self.live >> rank & 1 == 1
    }

    /// The ranks that take part, in order.
    pub fn ranks(&self) -> impl Iterator<Item = u32> + use<> {
        let members = *self;
        (0..MOST_RANKS).filter(move |&rank| members.contains(rank))
    }

    /// Their number.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.live.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_hold_their_ranks() {
        for ranks in [0, 1, 3, 63, 64] {
            let members = Members::all(ranks);
            assert!(members.ranks().eq(0..ranks));
            assert_eq!(members.count(), ranks);
        }
        let some = Members {
            epoch: 4,
            live: 0b1010,
        };
        assert!(some.ranks().eq([1, 3]));
        assert!(!some.contains(0) && !some.contains(64) && !some.contains(u32::MAX));
    }
}
