// Where things lie in the windows of the latency-mode all-to-all: index arithmetic only.
//
// The names, index orders and owners are those of docs/protocol.md; the offsets come from the plan
// on the host (src/ep/latency/layout.rs). Every function returns an address valid on the rank that
// runs the kernel.
#pragma once

#include <cstdint>

#include "layout/ep_common.cuh"
#include "params/ep_latency.h"

namespace hadal::ep {

/// Bytes of a slot before its payload: the token (u32), the choice k (u32), 8 bytes unused.
constexpr uint32_t kSlotHeaderBytes = 16;
static_assert(kSlotHeaderBytes % 16 == 0, "the payload behind it is moved in 16-byte vectors");

// --- addresses ---

/// In the window of the expert's rank; written by `source`.
__device__ __forceinline__ uint64_t* dispatch_signal(const hadal_ep_latency& ep, uint32_t rank,
                                                     uint32_t buffer, uint32_t local_expert,
                                                     uint32_t source) {
    const uint64_t index =
        (uint64_t{buffer} * ep.max_local_experts + local_expert) * ep.ranks + source;
    return word_at(ep, rank, ep.dispatch_signal, index);
}

/// In the window of the source; written by the expert's rank.
__device__ __forceinline__ uint64_t* dispatch_credit(const hadal_ep_latency& ep, uint32_t rank,
                                                     uint32_t expert) {
    return word_at(ep, rank, ep.dispatch_credit, expert);
}

/// In the window of the token's rank; written by the expert's rank.
__device__ __forceinline__ uint64_t* combine_signal(const hadal_ep_latency& ep, uint32_t rank,
                                                    uint32_t buffer, uint32_t expert) {
    return word_at(ep, rank, ep.combine_signal, uint64_t{buffer} * ep.experts + expert);
}

/// In the window of the expert's rank; written by `token_rank`.
__device__ __forceinline__ uint64_t* combine_credit(const hadal_ep_latency& ep, uint32_t rank,
                                                    uint32_t token_rank) {
    return word_at(ep, rank, ep.combine_credit, token_rank);
}

/// Slot 0 of (local expert, source) in the window of the expert's rank.
__device__ __forceinline__ uint64_t dispatch_slots(const hadal_ep_latency& ep, uint32_t rank,
                                                   uint32_t buffer, uint32_t local_expert,
                                                   uint32_t source) {
    const uint64_t block =
        (uint64_t{buffer} * ep.max_local_experts + local_expert) * ep.ranks + source;
    return window(ep, rank) + ep.dispatch_slots + block * ep.max_tokens * ep.slot_bytes;
}

/// The row (token, k) in the window of the token's rank.
__device__ __forceinline__ uint64_t combine_slot(const hadal_ep_latency& ep, uint32_t rank,
                                                 uint32_t buffer, uint32_t token, uint32_t k) {
    const uint64_t row = (uint64_t{buffer} * ep.max_tokens + token) * ep.topk + k;
    return window(ep, rank) + ep.combine_slots + row * ep.combine_slot_bytes;
}

}  // namespace hadal::ep
