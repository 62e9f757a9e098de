//! The mbarrier object as a pure state machine over one opaque 64-bit word.
//!
//! A phase completes when the pending arrivals and the pending transaction bytes are both zero.
//! The next phase then begins with the expected arrival count pending. The transaction count may be
//! negative for a while: bytes may arrive before they are expected.
//!
//! Word layout (this machine's own): bits 0..20 pending arrivals, 20..40 expected arrivals, 40..61
//! transaction count plus 2²⁰, 61 phase parity, 62..64 = 0b10 while initialised. Source: PTX ISA,
//! section "Parallel Synchronization and Communication Instructions: mbarrier".

/// Largest arrival count and largest magnitude of the transaction count.
pub const MAX_COUNT: u32 = (1 << 20) - 1;

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const TX_SHIFT: u32 = 40;
const TX_MASK: u64 = (1 << 21) - 1;
const TX_BIAS: i64 = 1 << 20;
const PARITY_SHIFT: u32 = 61;
const MARK_SHIFT: u32 = 62;
const MARK: u64 = 0b10;

/// A use of an mbarrier against its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// The word is not an initialised mbarrier object.
    #[error("{0:#018x} is not an initialised mbarrier object")]
    Uninitialised(u64),
    /// `init` with a count outside 1..=2²⁰−1.
    #[error("mbarrier count {0} is not in 1..=1048575")]
    Count(u64),
    /// More arrivals than the phase has pending.
    #[error("{arrivals} arrivals on an mbarrier with {pending} pending")]
    Underflow {
        /// Arrivals asked for.
        arrivals: u32,
        /// Arrivals still pending.
        pending: u32,
    },
    /// The transaction count left its range.
    #[error("mbarrier transaction count {0} is outside ±1048575")]
    Transactions(i64),
    /// `.noComplete` would have completed the phase.
    #[error("arrive.noComplete would complete the phase")]
    WouldComplete,
}

/// The decoded object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mbarrier {
    /// Arrivals that the current phase still needs.
    pub pending: u32,
    /// Arrivals that the next phase begins with.
    pub expected: u32,
    /// Bytes expected and not yet complete.
    pub transactions: i64,
    /// Parity of the current (incomplete) phase.
    pub parity: u32,
}

/// How arriving changes the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrive {
    /// Number of arrivals, at least 1.
    pub count: u32,
    /// Bytes expected before arriving.
    pub expect: u32,
    /// The arriving threads leave: later phases expect fewer arrivals.
    pub drop: bool,
    /// Completing the phase is an error.
    pub no_complete: bool,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "fields are masked to their width, and the transaction count is biased"
)]
impl Mbarrier {
    /// A fresh object.
    ///
    /// # Errors
    /// The count is 0 or too large.
    pub fn init(count: u64) -> Result<Self, Misuse> {
        if count == 0 || count > u64::from(MAX_COUNT) {
            return Err(Misuse::Count(count));
        }
        let count = count as u32;
        Ok(Self {
            pending: count,
            expected: count,
            transactions: 0,
            parity: 0,
        })
    }

    /// Decodes a word.
    ///
    /// # Errors
    /// The word is not an initialised object.
    pub fn decode(word: u64) -> Result<Self, Misuse> {
        if word >> MARK_SHIFT != MARK {
            return Err(Misuse::Uninitialised(word));
        }
        Ok(Self {
            pending: (word & COUNT_MASK) as u32,
            expected: (word >> COUNT_BITS & COUNT_MASK) as u32,
            transactions: (word >> TX_SHIFT & TX_MASK) as i64 - TX_BIAS,
            parity: (word >> PARITY_SHIFT & 1) as u32,
        })
    }

    /// The word of this object; also the state token that `arrive` returns.
    #[must_use]
    pub fn encode(self) -> u64 {
        MARK << MARK_SHIFT
            | u64::from(self.parity) << PARITY_SHIFT
            | ((self.transactions + TX_BIAS) as u64 & TX_MASK) << TX_SHIFT
            | u64::from(self.expected) << COUNT_BITS
            | u64::from(self.pending)
    }

    /// Completes the phase if nothing is pending; says whether it did.
    fn settle(&mut self) -> bool {
        let done = self.pending == 0 && self.transactions == 0;
        if done {
            self.pending = self.expected;
            self.parity ^= 1;
        }
        done
    }

    fn add_transactions(&mut self, bytes: i64) -> Result<(), Misuse> {
        self.transactions += bytes;
        if self.transactions.unsigned_abs() > u64::from(MAX_COUNT) {
            return Err(Misuse::Transactions(self.transactions));
        }
        Ok(())
    }

    /// Arrives; says whether the phase completed.
    ///
    /// # Errors
    /// Too many arrivals, transaction count out of range, or completion against `no_complete`.
    pub fn arrive(&mut self, arrive: Arrive) -> Result<bool, Misuse> {
        let Arrive { count, expect, .. } = arrive;
        if count == 0 || count > MAX_COUNT {
            return Err(Misuse::Count(u64::from(count)));
        }
        self.add_transactions(i64::from(expect))?;
        let pending = self.pending;
        let underflow = Misuse::Underflow {
            arrivals: count,
            pending,
        };
        self.pending = pending.checked_sub(count).ok_or(underflow)?;
        if arrive.drop {
            self.expected = self.expected.checked_sub(count).ok_or(underflow)?;
        }
        let done = self.settle();
        if done && arrive.no_complete {
            return Err(Misuse::WouldComplete);
        }
        Ok(done)
    }

    /// Expects bytes without arriving.
    ///
    /// # Errors
    /// The transaction count leaves its range.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<(), Misuse> {
        self.add_transactions(i64::from(bytes))
    }

    /// Bytes have arrived; says whether the phase completed.
    ///
    /// # Errors
    /// The transaction count leaves its range.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<bool, Misuse> {
        self.add_transactions(-i64::from(bytes))?;
        Ok(self.settle())
    }

    /// `cp.async.mbarrier.arrive` without `.noinc`: one more arrival is pending until the copies
    /// complete.
    ///
    /// # Errors
    /// The pending count would leave its range.
    pub fn increment(&mut self) -> Result<(), Misuse> {
        self.pending += 1;
        if self.pending > MAX_COUNT {
            return Err(Misuse::Count(u64::from(self.pending)));
        }
        Ok(())
    }

    /// Whether the phase of `parity` has completed: the current phase has the other parity.
    #[must_use]
    pub fn completed(&self, parity: u32) -> bool {
        self.parity != parity & 1
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrive, MAX_COUNT, Mbarrier, Misuse};

    fn one() -> Arrive {
        Arrive {
            count: 1,
            expect: 0,
            drop: false,
            no_complete: false,
        }
    }

    #[test]
    fn words_round_trip_at_the_edges() {
        for pending in [1, 2, MAX_COUNT] {
            for transactions in [-i64::from(MAX_COUNT), -1, 0, 1, i64::from(MAX_COUNT)] {
                for parity in [0, 1] {
                    let barrier = Mbarrier {
                        pending,
                        expected: MAX_COUNT,
                        transactions,
                        parity,
                    };
                    assert_eq!(Mbarrier::decode(barrier.encode()), Ok(barrier));
                }
            }
        }
    }

    #[test]
    fn phases_alternate() {
        let mut barrier = Mbarrier::init(2).unwrap();
        assert!(
            barrier.completed(1),
            "a fresh barrier: the phase before it counts as complete"
        );
        assert!(!barrier.completed(0));
        assert_eq!(barrier.arrive(one()), Ok(false));
        assert_eq!(barrier.arrive(one()), Ok(true));
        assert!(barrier.completed(0));
        assert!(!barrier.completed(1));
        assert_eq!(barrier.pending, 2);
    }

    #[test]
    fn bytes_may_come_before_they_are_expected() {
        let mut barrier = Mbarrier::init(1).unwrap();
        assert_eq!(barrier.complete_tx(64), Ok(false));
        assert_eq!(barrier.transactions, -64);
        let expect = Arrive {
            expect: 64,
            ..one()
        };
        assert_eq!(barrier.arrive(expect), Ok(true));
        assert_eq!(barrier.parity, 1);
    }

    #[test]
    fn a_phase_waits_for_bytes_after_the_last_arrival() {
        let mut barrier = Mbarrier::init(1).unwrap();
        let expect = Arrive {
            expect: 128,
            ..one()
        };
        assert_eq!(barrier.arrive(expect), Ok(false));
        assert_eq!(barrier.complete_tx(64), Ok(false));
        assert_eq!(barrier.complete_tx(64), Ok(true));
    }

    #[test]
    fn drop_lowers_later_phases() {
        let mut barrier = Mbarrier::init(3).unwrap();
        let drop = Arrive {
            drop: true,
            ..one()
        };
        assert_eq!(barrier.arrive(drop), Ok(false));
        assert_eq!(barrier.arrive(Arrive { count: 2, ..one() }), Ok(true));
        assert_eq!((barrier.pending, barrier.expected), (2, 2));
    }

    #[test]
    fn misuse_is_named() {
        assert_eq!(Mbarrier::init(0), Err(Misuse::Count(0)));
        assert_eq!(Mbarrier::init(1 << 20), Err(Misuse::Count(1 << 20)));
        assert_eq!(Mbarrier::decode(0), Err(Misuse::Uninitialised(0)));
        let mut barrier = Mbarrier::init(1).unwrap();
        let two = Arrive { count: 2, ..one() };
        let underflow = Misuse::Underflow {
            arrivals: 2,
            pending: 1,
        };
        assert_eq!(barrier.arrive(two), Err(underflow));
        let mut barrier = Mbarrier::init(1).unwrap();
        let loud = Arrive {
            no_complete: true,
            ..one()
        };
        assert_eq!(barrier.arrive(loud), Err(Misuse::WouldComplete));
        let mut barrier = Mbarrier::init(1).unwrap();
        assert_eq!(barrier.expect_tx(MAX_COUNT), Ok(()));
        assert_eq!(barrier.expect_tx(1), Err(Misuse::Transactions(1 << 20)));
    }
}
