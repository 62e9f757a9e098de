//! Sub-allocation of a window: pure arithmetic, the same on every rank.

use super::MemoryError;

/// A part of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Region {
    /// Bytes from the start of the window.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Places regions one behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    end: u64,
}

impl Layout {
    /// An empty window.
    #[must_use]
    pub const fn new() -> Self {
        Self { end: 0 }
    }

    /// Places a region of the product of `extents` bytes at the next multiple of `align`, a power of two.
    ///
    /// # Errors
    /// [`MemoryError::TooLarge`] when an offset would not fit 63 bits.
    pub fn place(
        &mut self,
        what: &'static str,
        extents: &[u64],
        align: u64,
    ) -> Result<Region, MemoryError> {
        let product = extents.iter().try_fold(1u64, |all, &n| all.checked_mul(n));
        let too_large = MemoryError::TooLarge {
            what,
            bytes: product.unwrap_or(u64::MAX),
        };
        let bytes = product.ok_or_else(|| too_large.clone())?;
        let offset = self.end.checked_next_multiple_of(align.max(1));
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        match (offset, end) {
            (Some(offset), Some(end)) if i64::try_from(end).is_ok() => {
                self.end = end;
                Ok(Region { offset, bytes })
            }
            _ => Err(too_large),
        }
    }

    /// Bytes of everything placed so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_follow_each_other_aligned() {
        let mut layout = Layout::new();
        let first = layout.place("a", &[3, 5], 8).unwrap();
        let empty = layout.place("b", &[0, 7], 128).unwrap();
        let last = layout.place("c", &[2], 128).unwrap();
        assert_eq!((first.offset, first.bytes), (0, 15));
        assert_eq!((empty.offset, empty.bytes), (128, 0));
        assert_eq!((last.offset, last.bytes), (128, 2));
        assert_eq!(layout.bytes(), 130);
    }

    #[test]
    fn what_does_not_fit_an_address_is_refused() {
        let mut layout = Layout::new();
        let error = layout.place("slots", &[1 << 40, 1 << 40], 8).unwrap_err();
        assert_eq!(
            error,
            MemoryError::TooLarge {
                what: "slots",
                bytes: u64::MAX
            }
        );
        layout.place("half", &[1 << 62], 1).unwrap();
        assert!(layout.place("other half", &[1 << 62], 1).is_err());
        assert_eq!(layout.bytes(), 1 << 62, "a refused region leaves no trace");
    }
}
