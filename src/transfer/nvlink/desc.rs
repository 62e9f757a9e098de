//! What a window holds: pure arithmetic, the same on every rank.

use std::time::Duration;

use super::NvLinkError;
use crate::memory::{self, Region};
use crate::params::HADAL_NVLINK_MAX_RANKS;

/// Bytes that keep apart what different ranks write.
const LINE: u64 = 128;
/// Bytes of a signal, a credit or a count.
const WORD: u64 = 8;
/// Alignment of a record's slot.
const VECTOR: u64 = 16;

/// What every rank's window holds; equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desc {
    /// Bytes for the caller's data, from offset 0 of the window.
    pub bytes: u64,
    /// Signal words.
    pub signals: u32,
    /// Longest record of an all-gather, in bytes.
    pub record_bytes: u32,
    /// Device time after which a wait gives up, where it has no limit of its own.
    pub timeout: Duration,
    /// Whether to look for multicast, which speeds up [`all_reduce`](super::Endpoint::all_reduce) and
    /// [`broadcast`](super::Endpoint::broadcast).
    pub multicast: bool,
}

impl Default for Desc {
    /// No data, 64 signals, records of 1 KiB, 10 s, multicast where it exists.
    fn default() -> Self {
        Self {
            bytes: 0,
            signals: 64,
            record_bytes: 1024,
            timeout: Duration::from_secs(10),
            multicast: true,
        }
    }
}

/// Where everything lies in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The caller's bytes.
    pub data: Region,
    /// `u64 [signals]`.
    pub signals: Region,
    /// `u64 [rank]`: set when that rank has a fault.
    pub poison: Region,
    /// `u64 [rank]`: barriers entered together with that rank.
    pub barrier: Region,
    /// `u64 [2][rank]`: epoch of that rank's record.
    pub gather_signal: Region,
    /// `u64 [rank]`: epoch that this rank has read of this window's owner.
    pub gather_credit: Region,
    /// `[2][rank]` records.
    pub gather_slots: Region,
    /// Bytes of a record's slot.
    pub slot_bytes: u32,
    /// Bytes of the window.
    pub bytes: u64,
}

impl Desc {
    /// Where everything lies in the window of each of `ranks` ranks.
    ///
    /// # Errors
    /// No rank or more than 64, more than 2^32 signals of all ranks, records beyond 2^31 bytes, or sizes
    /// that no address holds.
    pub fn layout(&self, ranks: u32) -> Result<Layout, NvLinkError> {
        let refuse = |what, value: String, expected: String| {
            let operation = "NVLink endpoint";
            Err(NvLinkError::Argument {
                operation,
                what,
                value,
                expected,
            })
        };
        if ranks == 0 || ranks > HADAL_NVLINK_MAX_RANKS {
            let expected = format!("1..={HADAL_NVLINK_MAX_RANKS}");
            return refuse("ranks", ranks.to_string(), expected);
        }
        if self.signals.checked_mul(ranks).is_none() {
            let expected = format!("at most {}", u32::MAX / ranks);
            return refuse("signals", self.signals.to_string(), expected);
        }
        if i32::try_from(self.record_bytes).is_err() {
            let value = self.record_bytes.to_string();
            return refuse("record_bytes", value, format!("at most {}", i32::MAX));
        }
        let all = u64::from(ranks);
        let slot = u64::from(self.record_bytes).next_multiple_of(VECTOR);
        let mut layout = memory::Layout::new();
        let mut place = |what, extents: &[u64]| layout.place(what, extents, LINE);
        Ok(Layout {
            data: place("data", &[self.bytes])?,
            signals: place("signals", &[u64::from(self.signals), WORD])?,
            poison: place("poison", &[all, WORD])?,
            barrier: place("barrier", &[all, WORD])?,
            gather_signal: place("gather signal", &[2, all, WORD])?,
            gather_credit: place("gather credit", &[all, WORD])?,
            gather_slots: place("gather slots", &[2, all, slot])?,
            slot_bytes: u32::try_from(slot).unwrap_or(u32::MAX),
            bytes: layout.bytes(),
        })
    }
}
