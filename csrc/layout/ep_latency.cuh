// Where things lie in the windows of the latency-mode all-to-all: index arithmetic only.
//
// The names, index orders and owners are those of docs/protocol.md; the offsets come from the plan
// on the host (src/ep/latency/layout.rs). Every function returns an address valid on the rank that
// runs the kernel.
#pragma once

#include <cstdint>

#include "params/ep_latency.h"

namespace hadal::ep {

/// Bytes of a slot before its payload: the token (u32), the choice k (u32), 8 bytes unused.
constexpr uint32_t kSlotHeaderBytes = 16;
static_assert(kSlotHeaderBytes % 16 == 0, "the payload behind it is moved in 16-byte vectors");

/// Low bits of a signal that hold the count; the epoch lies above them.
constexpr uint32_t kSignalCountBits = 24;
/// Count of a combine signal whose rank abandoned the round.
constexpr uint64_t kSignalAbandoned = (uint64_t{1} << kSignalCountBits) - 1;

__host__ __device__ constexpr uint64_t signal_word(uint64_t epoch, uint64_t count) {
    return epoch << kSignalCountBits | count;
}
__host__ __device__ constexpr uint64_t signal_epoch(uint64_t word) {
    return word >> kSignalCountBits;
}
__host__ __device__ constexpr uint64_t signal_count(uint64_t word) {
    return word & kSignalAbandoned;
}
static_assert(signal_epoch(signal_word(7, 3)) == 7 && signal_count(signal_word(7, 3)) == 3,
              "epoch and count come back");

// --- struct hadal_ep_source as one 8-byte word ---

static_assert(sizeof(hadal_ep_source) == 8, "token in the low word, rank and k in the high one");

/// The two words of a source record.
__device__ __forceinline__ uint2 pack_source(uint32_t token, uint32_t rank, uint32_t k) {
    return uint2{token, rank | k << 16};
}

__device__ __forceinline__ hadal_ep_source unpack_source(uint2 words) {
    return hadal_ep_source{words.x, static_cast<uint16_t>(words.y & 0xffffu),
                           static_cast<uint16_t>(words.y >> 16)};
}

// --- split of E experts over R ranks: consecutive, the first E % R ranks own one more ---

__device__ __forceinline__ uint32_t local_experts(const hadal_ep_latency& ep, uint32_t rank) {
    return ep.experts / ep.ranks + (rank < ep.experts % ep.ranks ? 1u : 0u);
}

__device__ __forceinline__ uint32_t first_expert(const hadal_ep_latency& ep, uint32_t rank) {
    const uint32_t extra = ep.experts % ep.ranks;
    return rank * (ep.experts / ep.ranks) + (rank < extra ? rank : extra);
}

__device__ __forceinline__ uint32_t expert_owner(const hadal_ep_latency& ep, uint32_t expert) {
    const uint32_t base = ep.experts / ep.ranks;
    const uint32_t extra = ep.experts % ep.ranks;
    const uint32_t in_larger = extra * (base + 1);  // experts of the ranks that own base + 1
    if (expert < in_larger) return expert / (base + 1);
    return extra + (expert - in_larger) / base;
}

// --- addresses ---

__device__ __forceinline__ uint64_t window(const hadal_ep_latency& ep, uint32_t rank) {
    return ep.heap + rank * ep.heap_stride;
}

__device__ __forceinline__ uint64_t* word_at(const hadal_ep_latency& ep, uint32_t rank,
                                             uint64_t offset, uint64_t index) {
    return reinterpret_cast<uint64_t*>(window(ep, rank) + offset) + index;
}

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

/// In the window of `rank`; written by `peer` when it faults.
__device__ __forceinline__ uint64_t* poison(const hadal_ep_latency& ep, uint32_t rank,
                                            uint32_t peer) {
    return word_at(ep, rank, ep.poison, peer);
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
    return window(ep, rank) + ep.combine_slots + row * ep.hidden * 2;
}

}  // namespace hadal::ep
