//! Plans under a cap of memory: fewer tokens in a round, more rounds.

use crate::ep::EpError;

/// The plan with the most tokens, `most` at most, that takes no more than `cap` bytes. What it takes must grow with
/// the tokens.
pub(in crate::ep) fn largest_within<P>(
    cap: u64,
    most: u32,
    plan: impl Fn(u32) -> Result<P, EpError>,
    bytes: impl Fn(&P) -> u64,
) -> Result<P, EpError> {
    let whole = plan(most);
    if whole.as_ref().is_ok_and(|plan| bytes(plan) <= cap) {
        return whole;
    }
    // A description that not even one token makes right is refused for its own reason.
    let mut best = plan(1)?;
    let least = bytes(&best);
    if least > cap {
        return Err(EpError::Desc {
            field: "cap",
            value: format!("{cap} bytes"),
            expected: format!("at least {least}, for rounds of one token"),
        });
    }
    let (mut fits, mut too_many) = (1, most);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        match plan(middle) {
            Ok(found) if bytes(&found) <= cap => (fits, best) = (middle, found),
            _ => too_many = middle,
        }
    }
    Ok(best)
}
