//! What a layer takes of a rank's device, before anything is allocated.

use super::mlp::{Rows, Sizes};
use super::{LayerDesc, decode, prefill, size};
use crate::config::{BLOCK, WeightFormat};
use crate::error::Result;
use hadal::gemm::scale_stride;
use serde::Serialize;

/// Bytes of a rank's device, by purpose. An allocator rounds each buffer up to its pages, the windows to its granules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Memory {
    /// The rank's experts, the shared expert, and the router (its weight as BF16).
    pub weights: u64,
    /// Intermediate results of calls.
    pub workspace: u64,
    /// What the all-to-alls keep for themselves.
    pub all_to_all: u64,
    /// This rank's windows in the symmetric heaps, which all ranks map.
    pub windows: u64,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.weights + self.workspace + self.all_to_all + self.windows
    }
}

impl LayerDesc {
    /// What [`MoeLayer::new`](super::MoeLayer::new) allocates on the device of `rank`.
    ///
    /// # Errors
    /// A description that cannot be planned.
    pub fn memory(&self, rank: u32) -> Result<Memory> {
        let config = &self.config;
        let own = self.experts(rank).len();
        let shared = usize::from(config.shared > 0);
        let shared_width = config.shared * config.intermediate;
        let mut memory = Memory {
            weights: own as u64 * self.expert_bytes(config.intermediate)
                + shared as u64 * self.expert_bytes(shared_width)
                + (config.experts * config.hidden * 2) as u64
                + if config.routing.bias {
                    4 * config.experts as u64
                } else {
                    0
                },
            workspace: self.token_bytes(),
            ..Memory::default()
        };
        let sizes = |rows, experts, width| {
            Sizes::new(rows, experts, [config.hidden, width], config.weights)
        };
        if shared == 1 {
            let rows = Rows::Dense(self.max_tokens());
            memory.workspace += sizes(rows, 1, shared_width).bytes(1);
        }
        let own = size(own)?;
        if self.prefill_tokens > 0 {
            let plan = prefill::plan(self)?;
            memory.workspace += match own {
                0 => 2 * u64::from(plan.max_rows) * config.hidden as u64,
                _ => sizes(prefill::rows(&plan), own, config.intermediate).bytes(2),
            };
            memory.all_to_all += plan.private_bytes(rank);
            memory.windows += plan.heap.bytes;
        }
        if self.decode_tokens > 0 {
            let plan = decode::plan(self)?;
            memory.workspace += match own {
                0 => 0,
                _ => sizes(decode::rows(&plan), own, config.intermediate).bytes(1),
            };
            memory.all_to_all += plan.private_bytes(rank);
            memory.windows += plan.heap.bytes;
        }
        Ok(memory)
    }

    /// Weights of one expert of this intermediate width.
    fn expert_bytes(&self, intermediate: usize) -> u64 {
        let hidden = self.config.hidden;
        let values = 3 * hidden * intermediate;
        let bytes = match self.config.weights {
            WeightFormat::Bf16 => 2 * values,
            WeightFormat::Fp8 => values + 4 * 3 * (hidden / BLOCK) * (intermediate / BLOCK),
        };
        bytes as u64
    }

    /// Routing, quantised tokens and sums.
    fn token_bytes(&self) -> u64 {
        let config = &self.config;
        let tokens = self.max_tokens() as usize;
        let (hidden, blocks) = (config.hidden, config.hidden / BLOCK);
        let stride = scale_stride(self.max_tokens()) as usize;
        let quantised = match config.weights {
            WeightFormat::Bf16 => 0,
            WeightFormat::Fp8 => {
                let m_major = if config.shared > 0 { stride } else { 0 };
                tokens * hidden + 4 * blocks * (tokens + m_major)
            }
        };
        (tokens * config.top_k * 8 + quantised + 4 * tokens * hidden) as u64
    }
}
