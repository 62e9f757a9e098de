// First kernel of a round in throughput mode (docs/protocol.md): counts this rank's entries per
// expert and rows per rank, and publishes them to every rank. That is also the credit for this
// rank's window.
//
// A chunk of tokens belongs to one warp, which numbers its entries in routing order; the last CTA
// adds up the chunks in front of each chunk. So places depend on the routing alone.
#pragma once

#include <cstdint>

#include "ep/throughput_common.cuh"

namespace hadal::ep {

/// Columns that a warp counts in shared memory.
constexpr uint32_t kMaxColumns = kMaxExperts + HADAL_EP_MAX_RANKS;
static_assert(kMaxColumns * 4 * ThroughputConfig::kWarps <= 48 * 1024, "static shared memory");

/// The fault of an entry, or kind none: outside the experts, or an expert that the token has named.
__device__ __forceinline__ Fault check_entry(const hadal_ep_tp_count_params& p, uint64_t epoch,
                                             uint32_t entry, int32_t chosen) {
    const hadal_ep_throughput& ep = p.ep;
    bool refused = chosen < -1 || chosen >= static_cast<int32_t>(ep.experts);
    for (uint32_t other = entry / ep.topk * ep.topk; other < entry && chosen >= 0; ++other)
        refused |= isa::ld_global_s32(p.topk_idx + uint64_t{other} * 4) == chosen;
    const uint32_t kind = refused ? HADAL_EP_FAULT_INDEX : HADAL_EP_FAULT_NONE;
    return Fault{kind,
                 HADAL_EP_COUNT,
                 ep.rank,
                 HADAL_EP_PHASE_ROUTING,
                 entry,
                 epoch,
                 ep.experts,
                 static_cast<uint64_t>(int64_t{chosen}),
                 0};
}

/// Numbers and copies the entries `first .. end` with one warp; `seen[expert]` counts them.
__device__ __forceinline__ void count_entries(const hadal_ep_tp_count_params& p, uint64_t epoch,
                                              uint32_t first, uint32_t end, uint32_t* seen) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t lane = threadIdx.x % kWarpLanes;
    for (uint32_t start = first; start < end; start += kWarpLanes) {
        const uint32_t entry = start + lane;
        int32_t chosen = -1;
        if (entry < end) {
            chosen = isa::ld_global_s32(p.topk_idx + uint64_t{entry} * 4);
            const Fault fault = check_entry(p, epoch, entry, chosen);
            if (fault.kind != HADAL_EP_FAULT_NONE) {
                raise_fault(ep, fault);
                chosen = -1;
            }
            // An expert of a rank that takes no part gets no rows and contributes none.
            if (chosen >= 0 && !takes_part(ep, expert_owner(ep, static_cast<uint32_t>(chosen))))
                chosen = -1;
            reinterpret_cast<int32_t*>(ep.routing)[entry] = chosen;
            isa::st_global_f32(ep.weights + uint64_t{entry} * 4,
                               isa::ld_global_nc_f32(p.weights + uint64_t{entry} * 4));
        }
        const uint32_t same = __match_any_sync(kFullWarp, chosen);
        const uint32_t before = __popc(same & ((1u << lane) - 1));
        if (chosen >= 0)
            reinterpret_cast<uint32_t*>(ep.entry_at)[entry] = seen[chosen] + before;
        __syncwarp();
        if (chosen >= 0 && before == 0) seen[chosen] += __popc(same);
        __syncwarp();
    }
}

/// Numbers the rows of the tokens `first .. end` for each rank with one warp; `seen[rank]` counts.
__device__ __forceinline__ void count_rows(const hadal_ep_throughput& ep, uint32_t first,
                                           uint32_t end, uint32_t* seen) {
    const uint32_t lane = threadIdx.x % kWarpLanes;
    for (uint32_t start = first; start < end; start += kWarpLanes) {
        const uint32_t token = start + lane;
        uint32_t owners = 0;
        for (uint32_t k = 0; token < end && k < ep.topk; ++k) {
            const uint64_t entry = uint64_t{token} * ep.topk + k;
            const int32_t chosen = isa::ld_global_s32(ep.routing + entry * 4);
            if (chosen >= 0) owners |= 1u << expert_owner(ep, static_cast<uint32_t>(chosen));
        }
        for (uint32_t rank = 0; rank < ep.ranks; ++rank) {
            const uint32_t sent = __ballot_sync(kFullWarp, (owners >> rank & 1u) != 0);
            if ((owners >> rank & 1u) != 0) {
                reinterpret_cast<uint32_t*>(ep.row_at)[uint64_t{token} * ep.ranks + rank] =
                    seen[rank] + __popc(sent & ((1u << lane) - 1));
            }
            __syncwarp();
            if (lane == 0) seen[rank] += __popc(sent);
            __syncwarp();
        }
    }
}

/// The total of `column`; leaves, for every chunk and behind the last one, the sum of those before.
/// Finds it there when the routing was counted in an earlier round.
__device__ __forceinline__ uint32_t add_chunks(const hadal_ep_tp_count_params& p, uint32_t chunks,
                                               uint32_t column) {
    const uint64_t stride = uint64_t{columns(p.ep)} * 4;
    uint64_t at = p.ep.chunks + uint64_t{column} * 4;
    if (p.again != 0) return load_u32(at + chunks * stride);
    uint32_t total = 0;
    for (uint32_t chunk = 0; chunk < chunks; ++chunk, at += stride) {
        const uint32_t count = load_u32(at);
        *reinterpret_cast<uint32_t*>(at) = total;
        total += count;
    }
    *reinterpret_cast<uint32_t*>(at) = total;
    return total;
}

/// Turns the chunks' counts into sums over the chunks before, with the totals behind the last one,
/// unless an earlier round has; publishes the totals with their checksum. Run by the last CTA.
template <class Config>
__device__ __forceinline__ void publish_counts(const hadal_ep_tp_count_params& p, uint64_t epoch,
                                               unsigned long long& checksum) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t chunks = (p.tokens + ep.chunk_tokens - 1) / ep.chunk_tokens;
    if (threadIdx.x == 0) checksum = 0;
    __syncthreads();
    const uint32_t live = live_ranks(ep);
    uint64_t mine = 0;
    for (uint32_t column = threadIdx.x; column < columns(ep); column += Config::kThreads) {
        const uint32_t total = add_chunks(p, chunks, column);
        mine += mixed(column, total, epoch);
        for (uint32_t left = live; left != 0; left &= left - 1) {
            const uint32_t rank = static_cast<uint32_t>(__ffs(static_cast<int>(left))) - 1;
            counts_of(ep, rank, buffer_of(epoch), ep.rank)[column] = total;
        }
    }
    atomicAdd(&checksum, static_cast<unsigned long long>(mine));
    // Also orders the counts of all warps before the signals.
    __syncthreads();
    if (takes_part(ep, threadIdx.x)) {
        uint64_t* signal = count_signal(ep, threadIdx.x, buffer_of(epoch), ep.rank);
        signal[0] = checksum;
        isa::st_release_sys_u64(signal + 1, epoch);
    }
}

/// Writes: the private copies and places, and the counts and signal of this rank in every window,
/// once per round. Waits for nobody.
template <class Config>
__device__ __forceinline__ void count(const hadal_ep_tp_count_params& p) {
    __shared__ uint32_t seen[Config::kWarps][kMaxColumns];
    __shared__ unsigned long long checksum;
    const hadal_ep_throughput& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_COUNT);
    const uint32_t lane = threadIdx.x % kWarpLanes;
    uint32_t* own = seen[threadIdx.x / kWarpLanes];
    const uint32_t chunk = blockIdx.x * Config::kWarps + threadIdx.x / kWarpLanes;
    const uint32_t first = chunk * ep.chunk_tokens;
    if (first < p.tokens && p.again == 0 && !aborted(ep)) {
        const uint32_t end = min(first + ep.chunk_tokens, p.tokens);
        for (uint32_t column = lane; column < columns(ep); column += kWarpLanes) own[column] = 0;
        __syncwarp();
        count_entries(p, epoch, first * ep.topk, end * ep.topk, own);
        count_rows(ep, first, end, own + ep.experts);
        auto* to = reinterpret_cast<uint32_t*>(ep.chunks) + uint64_t{chunk} * columns(ep);
        for (uint32_t column = lane; column < columns(ep); column += kWarpLanes)
            to[column] = own[column];
    }
    if (arrive_last(ep, HADAL_EP_COUNT, epoch) && !aborted(ep))
        publish_counts<Config>(p, epoch, checksum);
}

}  // namespace hadal::ep
