//! From a description to sizes, offsets and grids. No device call.

use super::{Payload, Reduce, ThroughputDesc};
use crate::ep::ctas::{COPY_BATCH, SUM_BATCH, to_fill_links};
use crate::ep::ledger::BUFFERS;
use crate::ep::{EpError, cap};
use crate::memory::{Layout, Region};

/// Bytes of a header ahead of its entries, and of an entry (csrc/layout/ep_throughput.cuh).
const HEADER: u64 = 16;
const ENTRY: u64 = 8;
/// Warps of a CTA, each of which moves a row at a time.
const WARPS: u32 = 8;
/// Threads of a CTA, by which the reduction is split.
const THREADS: u64 = 256;
/// BF16 elements that one thread of the reduction handles.
const ELEMENTS: u64 = 8;
/// Regions begin on a cache line of their own.
const LINE: u64 = 128;
/// Bytes of a signal or poison word.
const WORD: u64 = 8;

/// Where the parts of a rank's window lie; the index orders are in `docs/protocol.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapLayout {
    /// `u32 [2][source][experts + ranks]`.
    pub counts: Region,
    /// `u64 [2][source][2]`.
    pub count_signal: Region,
    /// `u64 [2][source]`.
    pub dispatch_signal: Region,
    /// `u64 [2][rank]`.
    pub combine_signal: Region,
    /// `u64 [rank]`.
    pub poison: Region,
    /// Received rows `[2][max_recv_rows]`.
    pub rows: Region,
    /// BF16 rows `[2][token][results]`.
    pub results: Region,
    /// Bytes of the window.
    pub bytes: u64,
}

/// Most CTAs of each kernel; fewer run where there is less work.
///
/// Unless the description says how many, they are what keeps links of 450 GB/s busy: `B · t` bytes of loads under way, which take
/// `t = 467` ns, where a warp has up to 2 KiB of a row's copy or 512 bytes of a sum under way. Modelled, not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ctas {
    /// Both halves of the dispatch, and the count.
    pub dispatch: u32,
    /// Send half of the combine. With [`Reduce::PerRank`] a row that crosses is the sum of several.
    pub combine_send: u32,
    /// Receive half of the combine.
    pub combine_recv: u32,
}

impl Ctas {
    fn new(desc: &ThroughputDesc, payload: u64) -> Self {
        if let Some(ctas) = desc.ctas {
            return Self {
                dispatch: ctas,
                combine_send: ctas,
                combine_recv: ctas,
            };
        }
        let row = u64::from(desc.hidden) * 2;
        let [ranks, topk] = [desc.ranks, desc.topk].map(f64::from);
        // Entries of a token at one of its ranks, for experts drawn evenly.
        let entries = topk / (ranks * (1.0 - (1.0 - 1.0 / ranks).powf(topk)));
        Self {
            dispatch: to_fill_links(payload, COPY_BATCH, 1.0),
            combine_send: match desc.reduce {
                Reduce::PerExpert => to_fill_links(row, COPY_BATCH, 1.0),
                Reduce::PerRank => to_fill_links(row, SUM_BATCH, entries),
            },
            combine_recv: to_fill_links(row, SUM_BATCH, 1.0),
        }
    }
}

/// Everything that follows from a [`ThroughputDesc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThroughputPlan {
    /// What was asked for.
    pub desc: ThroughputDesc,
    /// Rows that a rank can receive in one round.
    pub max_recv_rows: u32,
    /// Rows of the expert-contiguous buffer.
    pub max_rows: u32,
    /// Rows of a column of its scales: `max_rows` rounded up to 4.
    pub scale_rows: u32,
    /// Bytes of one dispatched row without scales.
    pub payload_bytes: u32,
    /// Scales of one dispatched row.
    pub scales: u32,
    /// Bytes of a dispatched row with its header and scales.
    pub slot_bytes: u32,
    /// Rows that come back per token, at most.
    pub results: u32,
    /// CTAs of the kernels.
    pub ctas: Ctas,
    /// Tokens that one warp counts.
    pub chunk_tokens: u32,
    /// A rank's window in the symmetric heap.
    pub heap: HeapLayout,
}

impl ThroughputPlan {
    /// Plans `desc`.
    ///
    /// # Errors
    /// [`EpError::Desc`] naming the field and its rule, or sizes beyond what an address holds.
    pub fn new(desc: ThroughputDesc) -> Result<Self, EpError> {
        desc.check()?;
        let payload = desc.common().payload_bytes();
        let scales = desc.common().scales();
        let header = HEADER + ENTRY * u64::from(desc.topk);
        let slot = (payload + header + u64::from(scales) * 4).next_multiple_of(16);
        let all = u64::from(desc.ranks) * u64::from(desc.max_tokens);
        let local = desc.local_experts(0);
        let entries = all * u64::from(desc.topk.min(local));
        let padding = u64::from(desc.alignment - 1) * u64::from(local);
        let max_rows = match desc.max_rows {
            Some(rows) => rows,
            None => narrow("max_rows", entries + padding)?,
        };
        let max_recv_rows = match desc.max_recv_rows {
            Some(rows) => rows,
            None => narrow("max_recv_rows", all)?,
        };
        let ctas = Ctas::new(&desc, payload);
        let plan = Self {
            desc,
            max_recv_rows,
            max_rows,
            scale_rows: max_rows.next_multiple_of(4),
            payload_bytes: narrow("hidden", payload)?,
            scales,
            slot_bytes: narrow("hidden", slot)?,
            results: match desc.reduce {
                Reduce::PerExpert => desc.topk,
                Reduce::PerRank => desc.topk.min(desc.ranks),
            },
            ctas,
            chunk_tokens: desc
                .max_tokens
                .div_ceil(ctas.dispatch.saturating_mul(WARPS)),
            heap: HeapLayout::default(),
        };
        let heap = plan.layout()?;
        Ok(Self { heap, ..plan })
    }

    fn layout(&self) -> Result<HeapLayout, EpError> {
        let [ranks, experts, tokens] =
            [self.desc.ranks, self.desc.experts, self.desc.max_tokens].map(u64::from);
        let row = u64::from(self.desc.hidden) * 2;
        let received = [BUFFERS, self.max_recv_rows.into(), self.slot_bytes.into()];
        let mut layout = Layout::new();
        let mut place = |what, extents: &[u64]| layout.place(what, extents, LINE);
        let mut heap = HeapLayout {
            counts: place("counts", &[BUFFERS, ranks, experts + ranks, 4])?,
            count_signal: place("count signals", &[BUFFERS, ranks, 2, WORD])?,
            dispatch_signal: place("dispatch signals", &[BUFFERS, ranks, WORD])?,
            combine_signal: place("combine signals", &[BUFFERS, ranks, WORD])?,
            poison: place("poison", &[ranks, WORD])?,
            rows: place("received rows", &received)?,
            results: place("results", &[BUFFERS, tokens, self.results.into(), row])?,
            bytes: 0,
        };
        heap.bytes = layout.bytes();
        // Private memory must fit an address as well, so that no later size can overflow.
        let bytes = u64::from(self.payload_bytes) + u64::from(self.scales) * 4 + 16;
        let mut private = Layout::new();
        private.place(
            "expanded rows",
            &[BUFFERS, self.scale_rows.into(), bytes],
            LINE,
        )?;
        Ok(heap)
    }

    /// Warps that count `tokens` tokens.
    #[must_use]
    pub fn chunks(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.chunk_tokens)
    }

    /// CTAs of the counting kernel for `tokens` tokens.
    #[must_use]
    pub fn count_ctas(&self, tokens: u32) -> u32 {
        self.chunks(tokens).div_ceil(WARPS).max(1)
    }

    /// CTAs of the dispatch's halves for `rows` rows, one per warp.
    #[must_use]
    pub fn dispatch_ctas(&self, rows: u32) -> u32 {
        rows.div_ceil(WARPS).clamp(1, self.ctas.dispatch)
    }

    /// CTAs of the combine's send half.
    #[must_use]
    pub fn combine_send_ctas(&self) -> u32 {
        let rows = self.max_recv_rows.div_ceil(WARPS);
        rows.clamp(1, self.ctas.combine_send)
    }

    /// CTAs of the combine's receive half for `tokens` tokens.
    #[must_use]
    pub fn combine_recv_ctas(&self, tokens: u32) -> u32 {
        let vectors = u64::from(tokens) * (u64::from(self.desc.hidden) / ELEMENTS);
        let wanted = vectors.div_ceil(THREADS).max(1);
        u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .min(self.ctas.combine_recv)
    }

    /// Plans `desc` with as many tokens in a round, `desc.max_tokens` at most, as fit into `cap` bytes of each rank's
    /// device memory ([`Self::bytes`]). A longer batch takes several rounds ([`Self::rounds`]), each of which begins
    /// at a later row of the same buffers (`first` of its input).
    ///
    /// # Errors
    /// As [`Self::new`]; and [`EpError::Desc`] for a cap that is too small for one token.
    pub fn within(desc: ThroughputDesc, cap: u64) -> Result<Self, EpError> {
        let plan = |max_tokens| Self::new(ThroughputDesc { max_tokens, ..desc });
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
        let desc = &self.desc;
        let [rows, scale_rows, scales] =
            [self.max_rows, self.scale_rows, self.scales].map(u64::from);
        let element = match desc.payload {
            Payload::Fp8 => 1,
            Payload::Bf16 => 2,
        };
        let experts = u64::from(desc.local_experts(rank));
        let per_round = rows * u64::from(desc.hidden) * element
            + scale_rows * scales * 4
            + (2 * experts + 1) * 4
            + rows * 16;
        BUFFERS * (per_round + self.routing_bytes()) + size_of::<crate::params::EpState>() as u64
    }

    /// Bytes of the routing of one round: what [`super::DispatchHandle::reuse`] takes until it is dropped.
    #[must_use]
    pub fn routing_bytes(&self) -> u64 {
        let desc = &self.desc;
        let [tokens, topk, ranks] = [desc.max_tokens, desc.topk, desc.ranks].map(u64::from);
        let chunks = u64::from(self.chunks(desc.max_tokens)) + 1;
        let columns = u64::from(desc.experts + desc.ranks);
        tokens * (3 * topk + ranks) * 4 + chunks * columns * 4
    }
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
