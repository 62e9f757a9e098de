//! Waiting for and writing words of memory in stream order.

use super::status::{Result, Status};
use crate::mem::{AddressSpace, Span, Width};

/// What is done to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordAction {
    /// Stores the value.
    Write,
    /// Waits until the word compares to the value as a mode of `CUstreamWaitValue_flags` says.
    Wait(u32),
    /// Nothing: a barrier or a flush of remote writes.
    Order,
}

/// An operation on a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordOp {
    span: Option<Span>,
    width: Width,
    action: WordAction,
    value: u64,
    /// The operation as the client wrote it, for queries.
    pub raw: [u64; 6],
}

impl WordOp {
    /// A checked operation.
    ///
    /// # Errors
    ///
    /// `INVALID_VALUE` for memory that the driver does not know, a misaligned address or an
    /// unknown mode.
    pub fn new(action: WordAction, width: Width, address: u64, value: u64) -> Result<Self> {
        let raw = [0; 6];
        if action == WordAction::Order {
            let span = None;
            return Ok(Self {
                span,
                width,
                action,
                value,
                raw,
            });
        }
        let span = AddressSpace::global().span(address, width as u64);
        let span = span.filter(|s| s.load(width).is_some());
        let known = !matches!(action, WordAction::Wait(mode) if mode > 3);
        let span = span.filter(|_| known).ok_or(Status::INVALID_VALUE)?;
        Ok(Self {
            span: Some(span),
            width,
            action,
            value,
            raw,
        })
    }

    /// Whether it can take arbitrarily long.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(self.action, WordAction::Wait(_))
    }

    /// Does it; `false` if a wait has to go on.
    #[must_use]
    pub fn attempt(&self) -> bool {
        let Some(span) = self.span else {
            return true;
        };
        match self.action {
            WordAction::Order => true,
            WordAction::Write => {
                span.store(self.width, self.value);
                true
            }
            WordAction::Wait(mode) => {
                let word = span.load(self.width);
                word.is_none_or(|word| satisfied(mode, self.width, word, self.value))
            }
        }
    }
}

/// Whether a word satisfies a wait: `CUstreamWaitValue_flags`.
fn satisfied(mode: u32, width: Width, word: u64, value: u64) -> bool {
    let mask = match width {
        Width::Four => u64::from(u32::MAX),
        Width::Eight => u64::MAX,
    };
    let half = mask / 2;
    match mode {
        // Cyclic: the word is at most half the range ahead of the value.
        0 => word.wrapping_sub(value) & mask <= half,
        1 => word == value & mask,
        2 => word & value != 0,
        _ => !(word | value) & mask != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_compare_as_the_api_says() {
        let narrow = |mode, word, value| satisfied(mode, Width::Four, word, value);
        assert!(narrow(0, 5, 5) && narrow(0, 6, 5) && !narrow(0, 4, 5));
        // Cyclic comparison wraps.
        assert!(narrow(0, 1, 0xFFFF_FFFF) && !narrow(0, 0xFFFF_FFFF, 1));
        assert!(narrow(1, 7, 7) && !narrow(1, 8, 7));
        assert!(narrow(2, 6, 2) && !narrow(2, 4, 2));
        assert!(narrow(3, 1, 2) && !narrow(3, 0xFFFF_0000, 0xFFFF));
        assert!(satisfied(0, Width::Eight, 1 << 40, 5));
    }
}
