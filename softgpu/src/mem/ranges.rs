//! Allocation of address ranges: best fit over free ranges that are merged when given back.
//! Purely arithmetical; knows nothing of pages or memory.

use std::collections::{BTreeMap, BTreeSet};

/// Free ranges of one region.
#[derive(Debug, Clone)]
pub(super) struct Ranges {
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
}

impl Ranges {
    /// A region of which everything is free.
    pub(super) fn new(start: u64, len: u64) -> Self {
        let mut ranges = Self {
            by_start: BTreeMap::new(),
            by_len: BTreeSet::new(),
        };
        ranges.insert(start, len);
        ranges
    }

    fn insert(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.by_start.insert(start, len);
            self.by_len.insert((len, start));
        }
    }

    fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }

    /// Takes `len` bytes at a multiple of `align` (a power of two) from the smallest free range
    /// that holds them.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let (at, start, free) = self.by_len.range((len, 0)..).find_map(|&(free, start)| {
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= start + free).then_some((at, start, free))
        })?;
        self.split(start, free, at, len);
        Some(at)
    }

    /// Takes exactly `[at, at + len)` if it is free.
    pub(super) fn take_at(&mut self, at: u64, len: u64) -> bool {
        let Some((&start, &free)) = self.by_start.range(..=at).next_back() else {
            return false;
        };
        let fits = at.checked_add(len).is_some_and(|end| end <= start + free);
        if fits {
            self.split(start, free, at, len);
        }
        fits
    }

    fn split(&mut self, start: u64, free: u64, at: u64, len: u64) {
        self.remove(start, free);
        self.insert(start, at - start);
        self.insert(at + len, start + free - (at + len));
    }

    /// Gives a taken range back.
    pub(super) fn give(&mut self, mut start: u64, mut len: u64) {
        if let Some((&before, &free)) = self.by_start.range(..start).next_back()
            && before + free == start
        {
            self.remove(before, free);
            start = before;
            len += free;
        }
        if let Some(&free) = self.by_start.get(&(start + len)) {
            self.remove(start + len, free);
            len += free;
        }
        self.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_the_smallest_range_that_fits_and_merges() {
        let mut r = Ranges::new(1000, 1000);
        assert_eq!(r.take(100, 1), Some(1000));
        assert_eq!(r.take(64, 128), Some(1152));
        assert!(!r.take_at(1150, 10));
        assert!(r.take_at(1100, 52));
        assert_eq!(r.take(785, 1), None);
        r.give(1100, 52);
        r.give(1152, 64);
        r.give(1000, 100);
        assert_eq!(r.take(1000, 1), Some(1000));
    }

    proptest! {
        #[test]
        fn taken_ranges_never_overlap(
            ops in prop::collection::vec((1u64..200, 0u32..8, any::<bool>()), 1..100),
        ) {
            let mut r = Ranges::new(0, 4096);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (len, align, free) in ops {
                if free && !taken.is_empty() {
                    let (at, len) = taken.swap_remove(usize::try_from(len).unwrap() % taken.len());
                    r.give(at, len);
                } else if let Some(at) = r.take(len, 1 << align) {
                    prop_assert_eq!(at % (1 << align), 0);
                    prop_assert!(at + len <= 4096);
                    for &(b, l) in &taken {
                        prop_assert!(at + len <= b || b + l <= at, "{at}+{len} overlaps {b}+{l}");
                    }
                    taken.push((at, len));
                }
            }
            for (at, len) in taken.drain(..) {
                r.give(at, len);
            }
            prop_assert_eq!(r.take(4096, 1), Some(0));
        }
    }
}
