//! What is asked of the all-to-all.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Payload;
use crate::ep::EpError;
use crate::ep::latency::LatencyDesc;
use crate::params::HADAL_EP_THROUGHPUT_MAX_EXPERTS;

/// What travels back, and in which order a token's results are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reduce {
    /// Every expert's row, summed at the token's rank in the order of k: the same bits on any number of ranks.
    PerExpert,
    /// One BF16 row per token and rank, summed there in the order of experts, then at the token's rank in the order
    /// of ranks: fewer bytes, bits fixed per placement.
    PerRank,
}

/// Shape of the all-to-all; equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ThroughputDesc {
    /// Ranks, 1 to 16.
    pub ranks: u32,
    /// Experts of all ranks together, 1 to 1024, split as evenly as they go: the first `experts % ranks` own one more.
    pub experts: u32,
    /// Choices per token, 1 to 16; different experts, or -1.
    pub topk: u32,
    /// Elements of a row. A row must be a multiple of 16 bytes: 16 elements in FP8, 8 in BF16.
    pub hidden: u32,
    /// Most tokens of any rank in one round.
    pub max_tokens: u32,
    /// What is dispatched. Combined rows are BF16.
    pub payload: Payload,
    /// What travels back.
    pub reduce: Reduce,
    /// Rows that a rank can receive in one round. `None`: `ranks * max_tokens`, which always suffice.
    pub max_recv_rows: Option<u32>,
    /// Rows of the expert-contiguous buffer, padding included. `None`: what always suffices.
    pub max_rows: Option<u32>,
    /// Multiple at which the rows of an expert begin: 1, or [`crate::gemm::GROUP_ALIGNMENT`] for the contiguous form.
    pub alignment: u32,
    /// CTAs of every kernel that has work for as many: what the all-to-all may take of a device. `None`: what keeps the links busy,
    /// by kernel ([`super::Ctas`]).
    pub ctas: Option<u32>,
    /// How long a kernel waits for a peer before it reports a fault.
    pub timeout: Duration,
}

impl ThroughputDesc {
    /// `[ranks, experts, topk]`, capacities that always suffice, no alignment.
    #[must_use]
    pub const fn new(
        [ranks, experts, topk]: [u32; 3],
        hidden: u32,
        max_tokens: u32,
        payload: Payload,
        reduce: Reduce,
    ) -> Self {
        Self {
            ranks,
            experts,
            topk,
            hidden,
            max_tokens,
            payload,
            reduce,
            max_recv_rows: None,
            max_rows: None,
            alignment: 1,
            ctas: None,
            timeout: LatencyDesc::DEFAULT_TIMEOUT,
        }
    }

    /// The same shape in latency mode: rows, scales and the split of experts are alike.
    pub(super) fn common(&self) -> LatencyDesc {
        LatencyDesc {
            ranks: self.ranks,
            experts: self.experts,
            topk: self.topk,
            hidden: self.hidden,
            max_tokens: self.max_tokens,
            payload: self.payload,
            combine: Payload::Bf16,
            max_rows: self.max_rows,
            ctas: self.ctas,
            timeout: self.timeout,
        }
    }

    /// Experts that `rank` owns.
    #[must_use]
    pub fn local_experts(&self, rank: u32) -> u32 {
        self.common().local_experts(rank)
    }

    /// First expert that `rank` owns.
    #[must_use]
    pub fn first_expert(&self, rank: u32) -> u32 {
        self.common().first_expert(rank)
    }

    /// The first rule that this breaks.
    pub(super) fn check(&self) -> Result<(), EpError> {
        self.common().check()?;
        let most = i32::MAX.unsigned_abs();
        let rules = [
            ("experts", self.experts, HADAL_EP_THROUGHPUT_MAX_EXPERTS),
            ("alignment", self.alignment, 1 << 16),
            ("max_recv_rows", self.max_recv_rows.unwrap_or(1), most),
        ];
        for (field, value, most) in rules {
            if !(1..=most).contains(&value) {
                return Err(EpError::Desc {
                    field,
                    value: value.to_string(),
                    expected: format!("1 to {most}"),
                });
            }
        }
        Ok(())
    }
}
