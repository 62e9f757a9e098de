//! Comparisons of whole outputs.

use std::fmt::Debug;

/// Equal, or the index and values of the first difference.
#[track_caller]
pub(crate) fn same<T: PartialEq + Debug + Copy>(
    place: &str,
    what: &str,
    found: &[T],
    expected: &[T],
) {
    assert_eq!(found.len(), expected.len(), "{place}: length of {what}");
    let mut pairs = found.iter().zip(expected).enumerate();
    if let Some((index, (found, expected))) = pairs.find(|(_, (f, e))| f != e) {
        panic!("{place}: {what} {index} is {found:x?}, expected {expected:x?}");
    }
}
