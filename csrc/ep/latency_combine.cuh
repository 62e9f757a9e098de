// Combine of the latency-mode all-to-all (docs/protocol.md): `combine_send` returns every expert's
// rows to the tokens' ranks, `combine_recv` sums them there in the order of k. The bits do not
// depend on placement or timing.
#pragma once

#include <cstdint>

#include "ep/latency_config.cuh"
#include "ep/reduce.cuh"
#include "quant/values.cuh"

namespace hadal::ep {

/// The source record at a global address, which dispatch_recv wrote.
__device__ __forceinline__ hadal_ep_source load_source(uint64_t address) {
    const auto token = static_cast<uint32_t>(isa::ld_global_s32(address));
    const auto rank_and_k = static_cast<uint32_t>(isa::ld_global_s32(address + 4));
    return unpack_source(uint2{token, rank_and_k});
}

/// Sends the BF16 row at `from` as E4M3 codes and their scales, by the rule of quant/block_scale.cuh,
/// with one warp: half of it has a block of 128.
__device__ __forceinline__ void send_quantised(const hadal_ep_latency& ep, uint64_t to,
                                               uint64_t from) {
    const quant::Rule rule = quant::Rule::of(0);
    const uint32_t lane = threadIdx.x % quant::kLanes;
    const uint32_t half = threadIdx.x % kWarpLanes / quant::kLanes;
    for (uint32_t first = 0; first < ep.combine_scales; first += kWarpLanes / quant::kLanes) {
        const uint32_t block = first + half;
        const uint32_t column = block * quant::kBlock + lane * quant::kValues;
        uint4 packed = {};
        if (column < ep.hidden) packed = isa::ld_global_nc_v4(from + uint64_t{column} * 2);
        const quant::Values values(packed);
        const float amax = quant::largest_of_lanes<quant::kLanes>(values.amax());
        const float scale = quant::block_scale(amax, rule);
        if (column >= ep.hidden) continue;
        isa::st_global_v2(to + column, values.codes(scale, rule));
        if (lane == 0) isa::st_global_f32(to + ep.hidden + block * 4, scale);
    }
}

/// Send half: one CTA per local expert. Writes: combine slots and this expert's signal at every
/// rank, once per round. Reads: combine_credit of every rank.
template <class Config>
__device__ __forceinline__ void combine_send(const hadal_ep_combine_send_params& p) {
    constexpr uint32_t kWarps = Config::kThreads / kWarpLanes;
    static_assert(Config::kThreads >= HADAL_EP_MAX_RANKS, "one thread per rank");
    const hadal_ep_latency& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_COMBINE_SEND);
    const uint32_t buffer = buffer_of(epoch);
    const uint32_t experts = local_experts(ep, ep.rank);
    const uint32_t row_bytes = ep.hidden * 2;
    for (uint32_t expert = blockIdx.x; expert < experts; expert += gridDim.x) {
        bool ready = true;
        if (takes_part(ep, threadIdx.x)) {
            ready = !aborted(ep) &&
                    wait_credit(ep, Awaited{combine_credit(ep, ep.rank, threadIdx.x),
                                            HADAL_EP_COMBINE_SEND, HADAL_EP_PHASE_COMBINE_CREDIT,
                                            threadIdx.x, 0, epoch, credit_needed(epoch)});
        }
        if (__syncthreads_or(!ready) != 0) break;
        const uint32_t rows =
            p.abandon != 0
                ? 0u
                : static_cast<uint32_t>(reinterpret_cast<const int32_t*>(p.counts)[expert]);
        const uint64_t source_of =
            p.source + uint64_t{expert} * ep.max_rows * sizeof(hadal_ep_source);
        const uint64_t y = p.y + uint64_t{expert} * ep.max_rows * row_bytes;
        for (uint32_t row = threadIdx.x / kWarpLanes; row < rows; row += kWarps) {
            const hadal_ep_source to = load_source(source_of + row * sizeof(hadal_ep_source));
            const uint64_t slot = combine_slot(ep, to.rank, buffer, to.token, to.k);
            const uint64_t from = y + uint64_t{row} * row_bytes;
            if (threadIdx.x % kWarpLanes == 0)
                isa::red_add_relaxed_gpu_u64(&state_of(ep)->peers[to.rank].combined, 1);
            if (ep.combine_scales != 0) {
                send_quantised(ep, slot, from);
            } else {
                copy_row(slot, from, row_bytes,
                         [](uint64_t address) { return isa::ld_global_nc_v4(address); });
            }
        }
        // Orders the rows of all warps before the signals.
        __syncthreads();
        if (takes_part(ep, threadIdx.x)) {
            isa::st_release_sys_u64(
                combine_signal(ep, threadIdx.x, buffer, first_expert(ep, ep.rank) + expert),
                signal_word(epoch, p.abandon != 0 ? kSignalAbandoned : 0));
        }
    }
    arrive_last(ep, HADAL_EP_COMBINE_SEND, epoch);
}

/// How the sum is stored.
template <class Store>
struct CombineRecvConfig : LatencyConfig {
    using Output = Store;
};

/// Waits for the signals of all experts. Returns false after a fault; otherwise `abandoned` (shared
/// memory, zeroed by the caller before a barrier) has the bit of every rank that abandoned the
/// round. The same result in all threads.
template <class Config>
__device__ __forceinline__ bool await_experts(const hadal_ep_latency& ep, uint64_t epoch,
                                              uint32_t& abandoned) {
    bool ready = !aborted(ep);
    for (uint32_t expert = threadIdx.x; ready && expert < ep.experts; expert += Config::kThreads) {
        const uint32_t owner = expert_owner(ep, expert);
        if (!takes_part(ep, owner)) continue;
        bool left = false;
        ready = wait_results(
            ep,
            Awaited{combine_signal(ep, ep.rank, buffer_of(epoch), expert), HADAL_EP_COMBINE_RECV,
                    HADAL_EP_PHASE_COMBINE_SIGNAL, owner, expert, epoch, epoch},
            left);
        if (left) atomicOr(&abandoned, 1u << owner);
    }
    return __syncthreads_or(!ready) == 0;
}

/// acc = fma(weight, code * scale, acc), element by element, for eight E4M3 codes.
__device__ __forceinline__ void add_weighted(Sum& acc, float weight, const uint2& codes,
                                             float scale) {
#pragma unroll
    for (uint32_t i = 0; i < kElements; i += 2) {
        const uint32_t word = i < kElements / 2 ? codes.x : codes.y;
        const float2 pair = quant::decode(static_cast<uint16_t>(word >> (i % 4 * 8)), false);
        acc.value[i] = __fmaf_rn(weight, __fmul_rn(pair.x, scale), acc.value[i]);
        acc.value[i + 1] = __fmaf_rn(weight, __fmul_rn(pair.y, scale), acc.value[i + 1]);
    }
}

/// The weighted sum of this CTA's share of (token, vector) pairs, without the ranks of the mask `absent`.
template <class Config>
__device__ __forceinline__ void reduce_tokens(const hadal_ep_combine_recv_params& p, uint64_t epoch,
                                              uint32_t absent) {
    const hadal_ep_latency& ep = p.ep;
    const uint32_t vectors = ep.hidden / kElements;
    const auto* routing = reinterpret_cast<const int32_t*>(p.topk_idx);
    const auto* weights = reinterpret_cast<const float*>(p.weights);
    const uint64_t work = uint64_t{p.tokens} * vectors;
    for (uint64_t item = uint64_t{blockIdx.x} * Config::kThreads + threadIdx.x; item < work;
         item += uint64_t{gridDim.x} * Config::kThreads) {
        const auto token = static_cast<uint32_t>(item / vectors);
        const auto vector = static_cast<uint32_t>(item % vectors);
        Sum acc{};
        for (uint32_t k = 0; k < ep.topk; ++k) {
            const uint32_t entry = token * ep.topk + k;
            const int32_t expert = routing[entry];
            if (expert < 0 ||
                (absent >> expert_owner(ep, static_cast<uint32_t>(expert)) & 1u) != 0)
                continue;
            const uint64_t row = combine_slot(ep, ep.rank, buffer_of(epoch), token, k);
            if (ep.combine_scales != 0) {
                const uint32_t block = vector / (quant::kBlock / kElements);
                add_weighted(acc, weights[entry],
                             isa::ld_global_v2(row + uint64_t{vector} * kElements),
                             isa::ld_global_f32(row + ep.hidden + block * 4));
            } else {
                add_weighted(acc, weights[entry],
                             isa::ld_global_v4(row + uint64_t{vector} * kVectorBytes));
            }
        }
        Config::Output::store(p.out, uint64_t{token} * ep.hidden + vector * kElements, acc);
    }
}

/// Receive half. Reads: signals of all experts, own combine slots. Writes: the output, and (last
/// CTA, after all reads) this rank's credit at every rank. Abandoned rounds of peers are noted for
/// the host.
template <class Config>
__device__ __forceinline__ void combine_recv(const hadal_ep_combine_recv_params& p) {
    static_assert(Config::kThreads >= HADAL_EP_MAX_RANKS, "one thread per rank");
    static_assert(HADAL_EP_MAX_RANKS <= 16, "the mask of abandoning ranks has 16 bits");
    __shared__ uint32_t abandoned;
    const hadal_ep_latency& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_COMBINE_RECV);
    if (threadIdx.x == 0) abandoned = 0;
    __syncthreads();
    const bool ready = await_experts<Config>(ep, epoch, abandoned);
    if (ready && p.abandon == 0) {
        if (blockIdx.x == 0 && threadIdx.x == 0) note_abandoned(ep, epoch, abandoned);
        reduce_tokens<Config>(p, epoch, abandoned | ~live_ranks(ep));
    }
    // A CTA that was not ready set, or saw, the abort flag: then nobody gets a credit.
    if (arrive_last(ep, HADAL_EP_COMBINE_RECV, epoch) && !aborted(ep) && takes_part(ep, threadIdx.x)) {
        isa::st_release_sys_u64(combine_credit(ep, threadIdx.x, ep.rank), epoch);
    }
}

}  // namespace hadal::ep
