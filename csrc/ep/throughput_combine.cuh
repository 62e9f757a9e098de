// Combine of the throughput-mode all-to-all (docs/protocol.md): `combine_send` returns the experts'
// rows to the tokens' ranks, `combine_recv` sums them there.
#pragma once

#include <cstdint>

#include "ep/reduce.cuh"
#include "ep/throughput_common.cuh"

namespace hadal::ep {

/// Returns the row of every choice with one warp.
__device__ __forceinline__ void return_entries(const hadal_ep_tp_combine_send_params& p,
                                               uint64_t epoch, uint32_t source, const Header& h) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t row_bytes = ep.hidden * 2;
    for (uint32_t left = h.choices; left != 0; left &= left - 1) {
        const uint32_t k = static_cast<uint32_t>(__ffs(static_cast<int>(left))) - 1;
        const uint32_t row = __shfl_sync(kFullWarp, h.row, static_cast<int>(k));
        copy_row(result_row(ep, source, buffer_of(epoch), h.token, k),
                 p.y + uint64_t{row} * row_bytes, row_bytes,
                 [](uint64_t address) { return isa::ld_global_nc_v4(address); });
    }
}

/// Returns the weighted sum over the choices, in the order of their rows, with one warp.
__device__ __forceinline__ void return_sum(const hadal_ep_tp_combine_send_params& p, uint64_t epoch,
                                           uint32_t source, const Header& h) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t lane = threadIdx.x % kWarpLanes;
    const uint32_t entries = __popc(h.choices);
    uint32_t before = 0;  // choices whose rows come before this lane's
    for (uint32_t left = h.choices; left != 0; left &= left - 1) {
        const uint32_t row = __shfl_sync(kFullWarp, h.row, __ffs(static_cast<int>(left)) - 1);
        before += row < h.row ? 1u : 0u;
    }
    if ((h.choices >> lane & 1u) == 0) before = kWarpLanes;
    // Lane j takes over the j-th in that order.
    uint32_t row = 0;
    uint32_t weight = 0;
    for (uint32_t j = 0; j < entries; ++j) {
        const int from = __ffs(static_cast<int>(__ballot_sync(kFullWarp, before == j))) - 1;
        const uint32_t row_j = __shfl_sync(kFullWarp, h.row, from);
        const uint32_t weight_j = __shfl_sync(kFullWarp, h.weight, from);
        if (lane == j) {
            row = row_j;
            weight = weight_j;
        }
    }
    const uint64_t to = result_row(ep, source, buffer_of(epoch), h.token, h.place);
    const uint32_t vectors = ep.hidden / kElements;
    for (uint32_t start = 0; start < vectors; start += kWarpLanes) {
        const uint32_t vector = start + lane;
        Sum acc{};
        for (uint32_t j = 0; j < entries; ++j) {
            const uint32_t row_j = __shfl_sync(kFullWarp, row, static_cast<int>(j));
            const uint32_t weight_j = __shfl_sync(kFullWarp, weight, static_cast<int>(j));
            if (vector < vectors) {
                add_weighted(acc, __uint_as_float(weight_j),
                             isa::ld_global_nc_v4(p.y + (uint64_t{row_j} * vectors + vector) *
                                                            kVectorBytes));
            }
        }
        if (vector < vectors) StoreBf16::store(to, uint64_t{vector} * kElements, acc);
    }
}

/// Send half. Reads: the headers of the received rows. Writes: results and (last CTA) this rank's
/// signal in every window, once per round. Waits for nobody.
template <class Config>
__device__ __forceinline__ void tp_combine_send(const hadal_ep_tp_combine_send_params& p) {
    __shared__ ReceivedRows received;
    const hadal_ep_throughput& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_COMBINE_SEND);
    const bool sends = p.abandon == 0 && !aborted(ep);
    if (threadIdx.x == 0) place_received(ep, buffer_of(epoch), received);
    __syncthreads();
    uint32_t source = 0;
    const uint32_t rows = sends ? received.first[ep.ranks] : 0;
    for (uint32_t row = blockIdx.x * Config::kWarps + threadIdx.x / kWarpLanes; row < rows;
         row += gridDim.x * Config::kWarps) {
        while (row >= received.first[source + 1]) ++source;
        const Header header =
            load_header(ep, row_slot(ep, ep.rank, buffer_of(epoch), row), epoch);
        if (!header.valid) {
            refuse_header(ep, HADAL_EP_COMBINE_SEND, source, epoch, row);
            break;
        }
        if (threadIdx.x % kWarpLanes == 0) {
            const uint32_t results = ep.per_rank != 0 ? 1 : __popc(header.choices);
            isa::red_add_relaxed_gpu_u64(&state_of(ep)->peers[source].combined, results);
        }
        if (ep.per_rank != 0) {
            return_sum(p, epoch, source, header);
        } else {
            return_entries(p, epoch, source, header);
        }
    }
    if (arrive_last(ep, HADAL_EP_COMBINE_SEND, epoch) && !aborted(ep) && takes_part(ep, threadIdx.x)) {
        isa::st_release_sys_u64(tp_combine_signal(ep, threadIdx.x, buffer_of(epoch), ep.rank),
                                signal_word(epoch, p.abandon != 0 ? kSignalAbandoned : 0));
    }
}

/// How the sum is stored.
template <class Store>
struct TpCombineRecvConfig : ThroughputConfig {
    using Output = Store;
};

/// Waits for the results of all ranks; the bit of every rank that abandoned the round in
/// `abandoned` (shared memory, zeroed by the caller before a barrier). The same result in all
/// threads.
__device__ __forceinline__ bool await_results(const hadal_ep_throughput& ep, uint64_t epoch,
                                              uint32_t& abandoned) {
    const uint32_t from = threadIdx.x;
    bool ready = true;
    if (takes_part(ep, from)) {
        const Awaited awaited{tp_combine_signal(ep, ep.rank, buffer_of(epoch), from),
                              HADAL_EP_COMBINE_RECV,
                              HADAL_EP_PHASE_COMBINE_SIGNAL,
                              from,
                              0,
                              epoch,
                              epoch};
        bool left = false;
        ready = !aborted(ep) && wait_results(ep, awaited, left);
        if (left) atomicOr(&abandoned, 1u << from);
    }
    return __syncthreads_or(!ready) == 0;
}

/// One vector of one token: the sum of its entries in the order of k, or of its ranks' sums in the
/// order of ranks.
__device__ __forceinline__ Sum sum_vector(const hadal_ep_throughput& ep, uint64_t epoch,
                                          uint32_t token, uint32_t vector, uint32_t abandoned) {
    const uint32_t buffer = buffer_of(epoch);
    const uint64_t first = uint64_t{token} * ep.topk * 4;
    const uint64_t routing = ep.routing + first;
    const uint64_t weights = ep.weights + first;
    Sum acc{};
    uint32_t owners = 0;
    for (uint32_t k = 0; k < ep.topk; ++k) {
        const int32_t chosen = isa::ld_global_s32(routing + k * 4);
        if (chosen < 0) continue;
        const uint32_t owner = expert_owner(ep, static_cast<uint32_t>(chosen));
        owners |= 1u << owner;
        if (ep.per_rank != 0 || (abandoned >> owner & 1u) != 0) continue;
        const uint64_t row = result_row(ep, ep.rank, buffer, token, k);
        add_weighted(acc, isa::ld_global_f32(weights + k * 4),
                     isa::ld_global_v4(row + uint64_t{vector} * kVectorBytes));
    }
    uint32_t place = 0;
    for (uint32_t left = ep.per_rank != 0 ? owners : 0; left != 0; left &= left - 1, ++place) {
        const uint32_t owner = static_cast<uint32_t>(__ffs(static_cast<int>(left))) - 1;
        if ((abandoned >> owner & 1u) != 0) continue;
        const uint64_t row = result_row(ep, ep.rank, buffer, token, place);
        add_weighted(acc, 1.0f, isa::ld_global_v4(row + uint64_t{vector} * kVectorBytes));
    }
    return acc;
}

/// Receive half. Reads: signals and results of all ranks. Writes: the output. Abandoned rounds of
/// peers are noted for the host.
template <class Config>
__device__ __forceinline__ void tp_combine_recv(const hadal_ep_tp_combine_recv_params& p) {
    __shared__ uint32_t abandoned;
    const hadal_ep_throughput& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_COMBINE_RECV);
    if (threadIdx.x == 0) abandoned = 0;
    __syncthreads();
    if (await_results(ep, epoch, abandoned) && p.abandon == 0) {
        if (blockIdx.x == 0 && threadIdx.x == 0) note_abandoned(ep, epoch, abandoned);
        const uint32_t vectors = ep.hidden / kElements;
        const uint64_t work = uint64_t{p.tokens} * vectors;
        for (uint64_t item = uint64_t{blockIdx.x} * Config::kThreads + threadIdx.x; item < work;
             item += uint64_t{gridDim.x} * Config::kThreads) {
            const auto token = static_cast<uint32_t>(item / vectors);
            const auto vector = static_cast<uint32_t>(item % vectors);
            const Sum acc = sum_vector(ep, epoch, token, vector, abandoned);
            Config::Output::store(p.out, item * kElements, acc);
        }
    }
    arrive_last(ep, HADAL_EP_COMBINE_RECV, epoch);
}

}  // namespace hadal::ep
