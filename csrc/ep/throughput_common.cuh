// What the kernels of the throughput-mode all-to-all share: the counts of all ranks and what
// follows from them.
//
// Protocol: docs/protocol.md. Counts are read in place, in the own window: their epoch has been
// acquired by `dispatch_send` of the same round, an earlier kernel of the stream, where a kernel
// does not wait for them itself.
#pragma once

#include <cstdint>

#include "ep/common.cuh"
#include "layout/ep_throughput.cuh"

namespace hadal::ep {

/// Threads of a CTA of any throughput-mode kernel.
struct ThroughputConfig {
    static constexpr uint32_t kThreads = 256;
    static constexpr uint32_t kWarps = kThreads / kWarpLanes;
};
static_assert(ThroughputConfig::kThreads >= HADAL_EP_MAX_RANKS, "one thread per rank");
static_assert(HADAL_EP_MAX_TOPK <= kWarpLanes, "one lane per choice");

constexpr uint32_t kMaxExperts = HADAL_EP_THROUGHPUT_MAX_EXPERTS;

__device__ __forceinline__ uint32_t load_u32(uint64_t address) {
    return static_cast<uint32_t>(isa::ld_global_s32(address));
}

/// Count `column` that `source` has published to this rank.
__device__ __forceinline__ uint32_t count_at(const hadal_ep_throughput& ep, uint32_t buffer,
                                             uint32_t source, uint32_t column) {
    return load_u32(
        reinterpret_cast<uint64_t>(counts_of(ep, ep.rank, buffer, source) + column));
}

/// Rows that `source` sends to `rank`.
__device__ __forceinline__ uint32_t rows_between(const hadal_ep_throughput& ep, uint32_t buffer,
                                                 uint32_t source, uint32_t rank) {
    return count_at(ep, buffer, source, ep.experts + rank);
}

/// The rows that a rank receives: those of source s are first[s] .. first[s + 1].
struct ReceivedRows {
    uint32_t first[HADAL_EP_MAX_RANKS + 1];
};

/// Fills `rows` (shared memory); called by thread 0 between barriers.
__device__ __forceinline__ void place_received(const hadal_ep_throughput& ep, uint32_t buffer,
                                               ReceivedRows& rows) {
    rows.first[0] = 0;
    for (uint32_t s = 0; s < ep.ranks; ++s)
        rows.first[s + 1] = rows.first[s] + rows_between(ep, buffer, s, ep.rank);
}

/// The header of a received row, spread over a warp: lane k holds choice k.
struct Header {
    uint32_t token;
    uint32_t place;    // of this rank among the token's ranks
    uint32_t choices;  // mask
    uint32_t row;      // of this lane's choice, in the expert-contiguous buffer
    uint32_t weight;   // its bits
    bool valid;        // the same in all lanes
};

/// Reads a header with one warp and checks that all it names lies within bounds.
__device__ __forceinline__ Header load_header(const hadal_ep_throughput& ep, uint64_t slot,
                                              uint64_t epoch) {
    const uint32_t lane = threadIdx.x % kWarpLanes;
    const uint64_t header = slot + ep.payload_bytes;
    const uint4 words = isa::ld_global_v4(header);
    Header h{words.x, words.y >> 16, words.y & 0xffffu, 0, 0, false};
    bool bad = words.z != static_cast<uint32_t>(epoch) ||
               words.w != header_check(words.x, words.y, epoch, ep.slot_bytes) || h.choices >> ep.topk != 0 ||
               h.token >= ep.max_tokens || h.place >= results_per_token(ep);
    if (!bad && (h.choices >> lane & 1u) != 0) {
        const uint32_t before = __popc(h.choices & ((1u << lane) - 1));
        const uint64_t entry = header + kHeaderBytes + before * kEntryBytes;
        h.row = load_u32(entry);
        h.weight = load_u32(entry + 4);
        bad = h.row >= ep.max_rows;
    }
    h.valid = !__any_sync(kFullWarp, bad);
    return h;
}

/// A header that cannot be: `expected` and `seen` are the epoch and the place of the row.
__device__ __forceinline__ void refuse_header(const hadal_ep_throughput& ep, uint32_t kernel,
                                              uint32_t source, uint64_t epoch, uint32_t row) {
    if (threadIdx.x % kWarpLanes == 0) {
        raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, kernel, source, HADAL_EP_PHASE_PLACEMENT,
                              row, epoch, epoch, row, 0});
    }
}

}  // namespace hadal::ep
