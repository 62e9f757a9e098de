//! What is asked of the all-to-all.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ep::EpError;
use crate::params::{HADAL_EP_MAX_RANKS, HADAL_EP_MAX_TOPK};

/// Elements that share one scale of an FP8 row.
const SCALE_GROUP: u32 = 128;
/// Most tokens of a rank in one round: a signal holds its count in 24 bits.
const MAX_TOKENS: u32 = 1 << 20;

/// What a dispatched row consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Payload {
    /// `hidden` E4M3 codes and one f32 scale per 128 of them.
    Fp8,
    /// `hidden` BF16 values.
    Bf16,
}

/// Shape of the all-to-all; equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LatencyDesc {
    /// Ranks, 1 to 16.
    pub ranks: u32,
    /// Experts of all ranks together, split as evenly as they go: the first `experts % ranks` own one more.
    pub experts: u32,
    /// Choices per token, 1 to 16.
    pub topk: u32,
    /// Elements of a row. A row must be a multiple of 16 bytes: 16 elements in FP8, 8 in BF16.
    pub hidden: u32,
    /// Most tokens of any rank in one round; also the most rows from one rank for one expert.
    pub max_tokens: u32,
    /// What is dispatched.
    pub payload: Payload,
    /// What travels back: the experts' BF16 rows as they are, or as E4M3 codes with one f32 scale per 128, by the
    /// rule of [`crate::quant::Quantise1x128`]: half the bytes, and its error.
    pub combine: Payload,
    /// Rows per local expert in the received layout. `None`: `ranks * max_tokens`, which always suffice.
    pub max_rows: Option<u32>,
    /// Most CTAs of any kernel: what the all-to-all may take of a device. `None`: one per expert, up to the SMs of an H100.
    pub ctas: Option<u32>,
    /// How long a kernel waits for a peer before it reports a fault.
    pub timeout: Duration,
}

impl LatencyDesc {
    /// How long a kernel waits for a peer unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Bytes of one dispatched row without its scales.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        match self.payload {
            Payload::Fp8 => u64::from(self.hidden),
            Payload::Bf16 => u64::from(self.hidden) * 2,
        }
    }

    /// Scales of one dispatched row.
    #[must_use]
    pub fn scales(&self) -> u32 {
        self.scales_of(self.payload)
    }

    /// Scales of one combined row.
    pub(super) fn combine_scales(&self) -> u32 {
        self.scales_of(self.combine)
    }

    /// Bytes of one combined row with its scales, rounded up to 16.
    pub(super) fn combine_slot_bytes(&self) -> u64 {
        let codes = match self.combine {
            Payload::Fp8 => u64::from(self.hidden),
            Payload::Bf16 => u64::from(self.hidden) * 2,
        };
        (codes + u64::from(self.combine_scales()) * 4).next_multiple_of(16)
    }

    fn scales_of(&self, payload: Payload) -> u32 {
        match payload {
            Payload::Fp8 => self.hidden.div_ceil(SCALE_GROUP),
            Payload::Bf16 => 0,
        }
    }

    /// Experts that `rank` owns.
    #[must_use]
    pub fn local_experts(&self, rank: u32) -> u32 {
        let ranks = self.ranks.max(1);
        self.experts / ranks + u32::from(rank < self.experts % ranks)
    }

    /// First expert that `rank` owns.
    #[must_use]
    pub fn first_expert(&self, rank: u32) -> u32 {
        let ranks = self.ranks.max(1);
        rank * (self.experts / ranks) + rank.min(self.experts % ranks)
    }

    /// The first rule that this breaks.
    pub(in crate::ep) fn check(&self) -> Result<(), EpError> {
        let row = self.payload_bytes();
        within("ranks", self.ranks, 1, HADAL_EP_MAX_RANKS)?;
        within("experts", self.experts, 1, 1 << 20)?;
        within("topk", self.topk, 1, HADAL_EP_MAX_TOPK)?;
        within("hidden", self.hidden, 1, 1 << 24)?;
        within("max_tokens", self.max_tokens, 1, MAX_TOKENS)?;
        within("ctas", self.ctas.unwrap_or(1), 1, 1 << 16)?;
        if let Some(rows) = self.max_rows {
            within("max_rows", rows, 1, i32::MAX.unsigned_abs())?;
        }
        if !row.is_multiple_of(16) {
            return Err(EpError::Desc {
                field: "hidden",
                value: format!("{} ({row} bytes of {:?})", self.hidden, self.payload),
                expected: "a row of a multiple of 16 bytes".into(),
            });
        }
        if self.timeout.is_zero() || u64::try_from(self.timeout.as_nanos()).is_err() {
            return Err(EpError::Desc {
                field: "timeout",
                value: format!("{:?}", self.timeout),
                expected: "more than nothing and less than 500 years".into(),
            });
        }
        Ok(())
    }
}

fn within(field: &'static str, value: u32, least: u32, most: u32) -> Result<(), EpError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(EpError::Desc {
        field,
        value: value.to_string(),
        expected: format!("{least} to {most}"),
    })
}
