// What the windows of both modes of the all-to-all have in common: signal words, the split of
// experts over ranks, the windows themselves. `Ep` is the mode's hadal_ep_latency or
// hadal_ep_throughput.
#pragma once

#include <cstdint>

#include "params/ep_latency.h"

namespace hadal::ep {

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

/// The last word of a row's header, which follows from the others, the epoch and the row's length: a change of any one of
/// them shows.
__host__ __device__ constexpr uint32_t header_check(uint32_t first, uint32_t second, uint64_t epoch,
                                                    uint32_t length) {
    return first * 0x9e3779b1u + second * 0x85ebca77u +
           static_cast<uint32_t>(epoch) * 0xc2b2ae3du + length;
}

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

template <class Ep>
__device__ __forceinline__ uint32_t local_experts(const Ep& ep, uint32_t rank) {
    return ep.experts / ep.ranks + (rank < ep.experts % ep.ranks ? 1u : 0u);
}

template <class Ep>
__device__ __forceinline__ uint32_t first_expert(const Ep& ep, uint32_t rank) {
    const uint32_t extra = ep.experts % ep.ranks;
    return rank * (ep.experts / ep.ranks) + (rank < extra ? rank : extra);
}

template <class Ep>
__device__ __forceinline__ uint32_t expert_owner(const Ep& ep, uint32_t expert) {
    const uint32_t base = ep.experts / ep.ranks;
    const uint32_t extra = ep.experts % ep.ranks;
    const uint32_t in_larger = extra * (base + 1);  // experts of the ranks that own base + 1
    if (expert < in_larger) return expert / (base + 1);
    return extra + (expert - in_larger) / base;
}

// --- addresses ---

template <class Ep>
__device__ __forceinline__ uint64_t window(const Ep& ep, uint32_t rank) {
    return ep.heap + rank * ep.heap_stride;
}

template <class Ep>
__device__ __forceinline__ uint64_t* word_at(const Ep& ep, uint32_t rank,
                                             uint64_t offset, uint64_t index) {
    return reinterpret_cast<uint64_t*>(window(ep, rank) + offset) + index;
}

/// In the window of `rank`; written by `peer` when it faults.
template <class Ep>
__device__ __forceinline__ uint64_t* poison(const Ep& ep, uint32_t rank,
                                            uint32_t peer) {
    return word_at(ep, rank, ep.poison, peer);
}

}  // namespace hadal::ep
