// Where things lie in the windows of the throughput-mode all-to-all: index arithmetic only.
//
// The names, index orders and owners are those of docs/protocol.md; the offsets come from the plan
// on the host (src/ep/throughput/plan.rs). Every function returns an address valid on the rank that
// runs the kernel.
#pragma once

#include <cstdint>

#include "layout/ep_common.cuh"
#include "params/ep_throughput.h"

namespace hadal::ep {

/// Bytes of a header ahead of its entries.
constexpr uint32_t kHeaderBytes = 16;
/// Bytes of an entry: row in the expert-contiguous buffer, weight.
constexpr uint32_t kEntryBytes = 8;

/// Columns of the counts: entries per expert, then rows per rank.
__device__ __forceinline__ uint32_t columns(const hadal_ep_throughput& ep) {
    return ep.experts + ep.ranks;
}

/// Counts of `source` in the window of `rank`; written by `source`.
__device__ __forceinline__ uint32_t* counts_of(const hadal_ep_throughput& ep, uint32_t rank,
                                               uint32_t buffer, uint32_t source) {
    const uint64_t row = uint64_t{buffer} * ep.ranks + source;
    return reinterpret_cast<uint32_t*>(window(ep, rank) + ep.counts) + row * columns(ep);
}

/// Checksum of those counts; the epoch is in the word behind it.
__device__ __forceinline__ uint64_t* count_signal(const hadal_ep_throughput& ep, uint32_t rank,
                                                  uint32_t buffer, uint32_t source) {
    return word_at(ep, rank, ep.count_signal, (uint64_t{buffer} * ep.ranks + source) * 2);
}

/// In the window of the experts' rank; written by `source`.
__device__ __forceinline__ uint64_t* tp_dispatch_signal(const hadal_ep_throughput& ep,
                                                        uint32_t rank, uint32_t buffer,
                                                        uint32_t source) {
    return word_at(ep, rank, ep.dispatch_signal, uint64_t{buffer} * ep.ranks + source);
}

/// In the window of the tokens' rank; written by `from`.
__device__ __forceinline__ uint64_t* tp_combine_signal(const hadal_ep_throughput& ep, uint32_t rank,
                                                       uint32_t buffer, uint32_t from) {
    return word_at(ep, rank, ep.combine_signal, uint64_t{buffer} * ep.ranks + from);
}

/// Place `row` of the received rows in the window of the experts' rank.
__device__ __forceinline__ uint64_t row_slot(const hadal_ep_throughput& ep, uint32_t rank,
                                             uint32_t buffer, uint32_t row) {
    const uint64_t place = uint64_t{buffer} * ep.max_recv_rows + row;
    return window(ep, rank) + ep.rows + place * ep.slot_bytes;
}

/// Results per token: one per choice, or one per rank that owns any.
__device__ __forceinline__ uint32_t results_per_token(const hadal_ep_throughput& ep) {
    return ep.per_rank != 0 && ep.ranks < ep.topk ? ep.ranks : ep.topk;
}

/// Result `place` of a token in the window of its rank.
__device__ __forceinline__ uint64_t result_row(const hadal_ep_throughput& ep, uint32_t rank,
                                               uint32_t buffer, uint32_t token, uint32_t place) {
    const uint64_t row =
        (uint64_t{buffer} * ep.max_tokens + token) * results_per_token(ep) + place;
    return window(ep, rank) + ep.results + row * ep.hidden * 2;
}

__device__ __forceinline__ uint32_t align_up(uint32_t rows, uint32_t alignment) {
    return (rows + alignment - 1) / alignment * alignment;
}

/// One summand of the checksum: a count that moves or changes changes the sum.
__device__ __forceinline__ uint64_t mixed(uint32_t column, uint32_t count, uint64_t epoch) {
    uint64_t z = (uint64_t{column} << 32 | count) ^ epoch * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

}  // namespace hadal::ep
