//! From a description to sizes, offsets and grids. No device call.

use std::time::Duration;

use super::{LatencyDesc, Payload};
use crate::ep::ctas::SMS;
use crate::ep::ledger::BUFFERS;
use crate::ep::{EpError, cap};
use crate::memory::{Layout, Region};

/// Bytes of a slot ahead of its payload (csrc/layout/ep_latency.cuh).
const SLOT_HEADER: u64 = 16;
/// Threads of a CTA of the kernels, by which the reduction is split.
const THREADS: u64 = 256;
/// BF16 elements that one thread of the reduction handles.
const ELEMENTS: u64 = 8;
/// Regions begin on a cache line of their own.
const LINE: u64 = 128;
/// Bytes of a signal, credit or poison word.
const WORD: u64 = 8;

/// Where the parts of a rank's window lie; the index orders are in `docs/protocol.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapLayout {
    /// `u64 [2][local expert][source]`.
    pub dispatch_signal: Region,
    /// `u64 [expert]`.
    pub dispatch_credit: Region,
    /// `u64 [2][expert]`.
    pub combine_signal: Region,
    /// `u64 [rank]`.
    pub combine_credit: Region,
    /// `u64 [rank]`.
    pub poison: Region,
    /// Slots `[2][local expert][source][max_tokens]`.
    pub dispatch_slots: Region,
    /// BF16 rows `[2][token][k]`.
    pub combine_slots: Region,
    /// Bytes of the window.
    pub bytes: u64,
}

/// Everything that follows from a [`LatencyDesc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyPlan {
    /// What was asked for.
    pub desc: LatencyDesc,
    /// Most experts that a rank owns.
    pub max_local_experts: u32,
    /// Rows per local expert in the received layout.
    pub max_rows: u32,
    /// Rows of a column of received scales: `max_rows` rounded up to 4.
    pub scale_rows: u32,
    /// Bytes of one dispatched row without scales.
    pub payload_bytes: u32,
    /// Scales of one dispatched row.
    pub scales: u32,
    /// Bytes of a dispatch slot.
    pub slot_bytes: u32,
    /// A rank's window in the symmetric heap.
    pub heap: HeapLayout,
    /// Scales of one combined row.
    pub combine_scales: u32,
    /// Bytes of one combined row with its scales, rounded up to 16.
    pub combine_slot_bytes: u32,
    /// CTAs of the dispatch's send half.
    pub dispatch_send_ctas: u32,
    /// CTAs of the dispatch's receive half and of the combine's send half.
    pub expert_ctas: u32,
}

impl LatencyPlan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`EpError::Desc`] naming the field and its rule, or sizes beyond what an address holds.
    pub fn new(desc: LatencyDesc) -> Result<Self, EpError> {
        desc.check()?;
        let max_local_experts = desc.local_experts(0);
        let payload = desc.payload_bytes();
        let scales = desc.scales();
        let slot = (SLOT_HEADER + payload + u64::from(scales) * 4).next_multiple_of(16);
        let all_rows = u64::from(desc.ranks) * u64::from(desc.max_tokens);
        // Ranks and tokens are bounded: their product fits.
        let max_rows = desc.max_rows.unwrap_or(narrow("max_rows", all_rows)?);
        let scale_rows = max_rows.next_multiple_of(4);
        let most = desc.ctas.unwrap_or(SMS);
        check_private(&desc, [max_local_experts, scale_rows], payload + 8)?;
        Ok(Self {
            desc,
            max_local_experts,
            max_rows,
            scale_rows,
            payload_bytes: narrow("hidden", payload)?,
            scales,
            slot_bytes: narrow("hidden", slot)?,
            heap: heap(&desc, slot)?,
            combine_scales: desc.combine_scales(),
            combine_slot_bytes: narrow("hidden", desc.combine_slot_bytes())?,
            dispatch_send_ctas: desc.experts.min(most),
            expert_ctas: max_local_experts.min(most),
        })
    }

    /// CTAs of the combine's receive half for `tokens` tokens.
    #[must_use]
    pub fn combine_recv_ctas(&self, tokens: u32) -> u32 {
        let vectors = u64::from(tokens) * (u64::from(self.desc.hidden) / ELEMENTS);
        let wanted = vectors.div_ceil(THREADS).max(1);
        u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .min(self.desc.ctas.unwrap_or(SMS))
    }

    /// Elements of `x` that a rank receives into, per open round: `[local experts][max_rows][hidden]`.
    #[must_use]
    pub fn received_elements(&self, rank: u32) -> u64 {
        self.received_rows(rank) * u64::from(self.desc.hidden)
    }

    /// Scales that a rank receives into, per open round: `[local experts][scales][scale_rows]`.
    #[must_use]
    pub fn received_scales(&self, rank: u32) -> u64 {
        let experts = u64::from(self.desc.local_experts(rank));
        experts * u64::from(self.scales) * u64::from(self.scale_rows)
    }

    /// Rows that a rank has room for, per open round: `[local experts][max_rows]`.
    #[must_use]
    pub fn received_rows(&self, rank: u32) -> u64 {
        u64::from(self.desc.local_experts(rank)) * u64::from(self.max_rows)
    }

    /// Plans `desc` with as many tokens in a round, `desc.max_tokens` at most, as fit into `cap` bytes of each rank's
    /// device memory ([`Self::bytes`]). A longer batch takes several rounds ([`Self::rounds`]), each of which begins
    /// at a later row of the same buffers (`first` of its input).
    ///
    /// # Errors
    /// As [`Self::new`]; and [`EpError::Desc`] for a cap that is too small for one token.
    pub fn within(desc: LatencyDesc, cap: u64) -> Result<Self, EpError> {
        let plan = |max_tokens| Self::new(LatencyDesc { max_tokens, ..desc });
        cap::largest_within(cap, desc.max_tokens, plan, Self::bytes)
    }

    /// Rounds that a batch takes of which no rank has more than `tokens` tokens; all ranks make as many.
    #[must_use]
    pub fn rounds(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.desc.max_tokens).max(1)
    }

    /// Bytes of device memory that a rank takes at most, its window as planned: the device rounds it up.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Rank 0 owns no fewer experts than any other.
        self.heap.bytes + self.private_bytes(0)
    }

    /// Bytes of private device memory that `rank` takes beside its window.
    #[must_use]
    pub fn private_bytes(&self, rank: u32) -> u64 {
        let element = match self.desc.payload {
            Payload::Fp8 => 1,
            Payload::Bf16 => 2,
        };
        let per_round = self.received_elements(rank) * element
            + self.received_scales(rank) * 4
            + u64::from(self.desc.local_experts(rank)) * 4
            + self.received_rows(rank) * size_of::<crate::params::EpSource>() as u64;
        BUFFERS * per_round + size_of::<crate::params::EpState>() as u64
    }

    /// The deadline of a wait on a peer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.desc.timeout
    }
}

fn heap(desc: &LatencyDesc, slot: u64) -> Result<HeapLayout, EpError> {
    let [ranks, experts, topk, tokens] =
        [desc.ranks, desc.experts, desc.topk, desc.max_tokens].map(u64::from);
    let local = u64::from(desc.local_experts(0));
    let row = desc.combine_slot_bytes();
    let mut layout = Layout::new();
    let mut place = |what, extents: &[u64]| layout.place(what, extents, LINE);
    let mut heap = HeapLayout {
        dispatch_signal: place("dispatch signals", &[BUFFERS, local, ranks, WORD])?,
        dispatch_credit: place("dispatch credits", &[experts, WORD])?,
        combine_signal: place("combine signals", &[BUFFERS, experts, WORD])?,
        combine_credit: place("combine credits", &[ranks, WORD])?,
        poison: place("poison", &[ranks, WORD])?,
        dispatch_slots: place("dispatch slots", &[BUFFERS, local, ranks, tokens, slot])?,
        combine_slots: place("combine slots", &[BUFFERS, tokens, topk, row])?,
        bytes: 0,
    };
    heap.bytes = layout.bytes();
    Ok(heap)
}

/// Refuses private memory beyond what an address holds, so that no later size can overflow.
fn check_private(desc: &LatencyDesc, rows: [u32; 2], row: u64) -> Result<(), EpError> {
    let [experts, rows] = rows.map(u64::from);
    let mut layout = Layout::new();
    layout.place("received rows", &[BUFFERS, experts, rows, row], LINE)?;
    let scales = u64::from(desc.scales()) + 1;
    layout.place(
        "received scales",
        &[BUFFERS, experts, rows, scales, 4],
        LINE,
    )?;
    Ok(())
}

fn narrow(field: &'static str, value: u64) -> Result<u32, EpError> {
    u32::try_from(value)
        .ok()
        .filter(|&v| i32::try_from(v).is_ok())
        .ok_or_else(|| EpError::Desc {
            field,
            value: value.to_string(),
            expected: format!("at most {}", i32::MAX),
        })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
