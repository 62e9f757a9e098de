// Dispatch of the throughput-mode all-to-all (docs/protocol.md): `dispatch_send` writes each token
// row once per destination rank, `dispatch_recv` expands the rows into the expert-contiguous
// buffer.
//
// A warp moves one row at a time; where it goes follows from the counts of all ranks.
#pragma once

#include <cstdint>

#include "ep/throughput_common.cuh"

namespace hadal::ep {

/// What a sender knows of the other side, in shared memory.
struct Places {
    uint32_t total[kMaxExperts];             // entries of all ranks
    uint32_t first[kMaxExperts];             // row of this rank's first entry
    uint32_t row[HADAL_EP_MAX_RANKS];        // place of this rank's first row at each rank
    unsigned long long sum[HADAL_EP_MAX_RANKS];  // checksum by source
};

/// Waits for the counts of all ranks. The same result in all threads.
__device__ __forceinline__ bool await_counts(const hadal_ep_throughput& ep, uint64_t epoch) {
    const uint32_t source = threadIdx.x;
    bool ready = true;
    if (takes_part(ep, source)) {
        const Awaited awaited{count_signal(ep, ep.rank, buffer_of(epoch), source) + 1,
                              HADAL_EP_DISPATCH_SEND,
                              HADAL_EP_PHASE_COUNTS,
                              source,
                              0,
                              epoch,
                              epoch};
        ready = !aborted(ep) && wait_epoch(ep, awaited);
    }
    return __syncthreads_or(!ready) == 0;
}

/// Adds up the counts and compares their checksums. The same result in all threads.
template <class Config>
__device__ __forceinline__ bool add_counts(const hadal_ep_throughput& ep, uint64_t epoch,
                                           Places& places) {
    const uint32_t buffer = buffer_of(epoch);
    if (threadIdx.x < ep.ranks) places.sum[threadIdx.x] = 0;
    __syncthreads();
    for (uint32_t source = 0; source < ep.ranks; ++source) {
        uint64_t sum = 0;
        for (uint32_t column = threadIdx.x; column < columns(ep); column += Config::kThreads) {
            const uint32_t count = count_at(ep, buffer, source, column);
            sum += mixed(column, count, epoch);
            if (column >= ep.experts) continue;
            if (source == 0) places.total[column] = 0;
            if (source == ep.rank) places.first[column] = places.total[column];
            places.total[column] += count;
        }
        atomicAdd(&places.sum[source], static_cast<unsigned long long>(sum));
    }
    __syncthreads();
    bool ready = true;
    if (takes_part(ep, threadIdx.x)) {
        const uint32_t source = threadIdx.x;
        const uint64_t expected =
            isa::ld_relaxed_sys_u64(count_signal(ep, ep.rank, buffer, source));
        ready = places.sum[source] == expected;
        if (!ready) {
            raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, HADAL_EP_DISPATCH_SEND, source,
                                  HADAL_EP_PHASE_COUNTS, 0, epoch, expected, places.sum[source],
                                  0});
        }
    }
    return __syncthreads_or(!ready) == 0;
}

/// Places this rank's entries and rows at every rank, and checks every rank's room: all ranks see
/// the same overflow. The same result in all threads.
__device__ __forceinline__ bool place_all(const hadal_ep_throughput& ep, uint64_t epoch,
                                          Places& places) {
    uint32_t seen = 0;
    uint32_t limit = 0;
    if (threadIdx.x < ep.ranks) {
        const uint32_t rank = threadIdx.x;
        const uint32_t end = first_expert(ep, rank) + local_experts(ep, rank);
        uint32_t start = 0;
        for (uint32_t expert = first_expert(ep, rank); expert < end; ++expert) {
            places.first[expert] += start;
            start = align_up(start + places.total[expert], ep.alignment);
        }
        uint32_t rows = 0;
        for (uint32_t source = 0; source < ep.ranks; ++source) {
            if (source == ep.rank) places.row[rank] = rows;
            rows += rows_between(ep, buffer_of(epoch), source, rank);
        }
        if (rows > ep.max_recv_rows) {
            seen = rows;
            limit = ep.max_recv_rows;
        }
        if (start > ep.max_rows) {
            seen = start;
            limit = ep.max_rows;
        }
        if (seen > limit) {
            raise_fault(ep, Fault{HADAL_EP_FAULT_ROWS, HADAL_EP_DISPATCH_SEND, rank,
                                  HADAL_EP_PHASE_PLACEMENT, rank, epoch, limit, seen, 0});
        }
    }
    return __syncthreads_or(seen > limit) == 0;
}

/// Writes the row of `token` to every rank of one of its experts, with one warp.
__device__ __forceinline__ void send_token(const hadal_ep_tp_dispatch_send_params& p,
                                           uint64_t epoch, uint32_t token, const Places& places) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t lane = threadIdx.x % kWarpLanes;
    const uint32_t buffer = buffer_of(epoch);
    const uint64_t chunk =
        ep.chunks + uint64_t{token / ep.chunk_tokens} * columns(ep) * 4;
    const uint64_t entry = uint64_t{token} * ep.topk + lane;
    int32_t chosen = -1;
    uint2 words{0, 0};
    if (lane < ep.topk) chosen = isa::ld_global_s32(ep.routing + entry * 4);
    if (chosen >= 0) {
        words.x = places.first[chosen] + load_u32(chunk + uint32_t(chosen) * 4) +
                  load_u32(ep.entry_at + entry * 4);
        words.y = load_u32(ep.weights + entry * 4);
    }
    const uint32_t owner =
        chosen >= 0 ? expert_owner(ep, static_cast<uint32_t>(chosen)) : HADAL_EP_MAX_RANKS;
    uint64_t slot = 0;  // lane d: where the row goes at rank d
    uint32_t place = 0;
    for (uint32_t rank = 0; rank < ep.ranks; ++rank) {
        const uint32_t choices = __ballot_sync(kFullWarp, owner == rank);
        if (choices == 0) continue;
        const uint32_t row = places.row[rank] + load_u32(chunk + (ep.experts + rank) * 4) +
                             load_u32(ep.row_at + (uint64_t{token} * ep.ranks + rank) * 4);
        const uint64_t to = row_slot(ep, rank, buffer, row);
        const uint64_t header = to + ep.payload_bytes;
        if (lane == rank) slot = to;
        if (lane == 0) {
            const uint32_t second = choices | place << 16;
            isa::st_global_v4(header,
                              uint4{token, second, static_cast<uint32_t>(epoch),
                                    header_check(token, second, epoch, ep.slot_bytes)});
        }
        if (owner == rank) {
            const uint32_t before = __popc(choices & ((1u << lane) - 1));
            isa::st_global_v2(header + kHeaderBytes + before * kEntryBytes, words);
        }
        ++place;
    }
    const uint32_t ranks = __ballot_sync(kFullWarp, slot != 0);
    copy_row_to_each(ranks, slot, p.x + uint64_t{token} * ep.payload_bytes, ep.payload_bytes,
                     [](uint64_t address) { return isa::ld_global_nc_v4(address); });
    const uint64_t scales = p.x_scales + uint64_t{token} * ep.scales * 4;
    const uint32_t behind = ep.payload_bytes + kHeaderBytes + ep.topk * kEntryBytes;
    for (uint32_t left = ranks; left != 0; left &= left - 1) {
        const uint64_t to = __shfl_sync(kFullWarp, slot, __ffs(static_cast<int>(left)) - 1);
        for (uint32_t i = lane; i < ep.scales; i += kWarpLanes)
            isa::st_global_f32(to + behind + i * 4, isa::ld_global_nc_f32(scales + i * 4));
    }
}

/// Send half. Reads: the counts of all ranks. Writes: this rank's rows and (last CTA) its signal in
/// every window, once per round.
template <class Config>
__device__ __forceinline__ void tp_dispatch_send(const hadal_ep_tp_dispatch_send_params& p) {
    __shared__ Places places;
    const hadal_ep_throughput& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_DISPATCH_SEND);
    if (await_counts(ep, epoch) && add_counts<Config>(ep, epoch, places) &&
        place_all(ep, epoch, places)) {
        const uint32_t warp = blockIdx.x * Config::kWarps + threadIdx.x / kWarpLanes;
        for (uint32_t token = warp; token < p.tokens; token += gridDim.x * Config::kWarps)
            send_token(p, epoch, token, places);
    }
    if (arrive_last(ep, HADAL_EP_DISPATCH_SEND, epoch) && !aborted(ep) &&
        takes_part(ep, threadIdx.x)) {
        const uint32_t rank = threadIdx.x;
        const uint32_t rows = rows_between(ep, buffer_of(epoch), ep.rank, rank);
        isa::st_release_sys_u64(tp_dispatch_signal(ep, rank, buffer_of(epoch), ep.rank),
                                signal_word(epoch, rows));
        isa::red_add_relaxed_gpu_u64(&state_of(ep)->peers[rank].dispatched, rows);
    }
}

/// The groups of the expert-contiguous buffer of this rank, in shared memory.
struct Groups {
    uint32_t start[kMaxExperts + 1];
    uint32_t rows[kMaxExperts];
};

/// Waits for the rows of all ranks; a signal that contradicts the counts breaks the protocol. The
/// same result in all threads.
__device__ __forceinline__ bool await_rows(const hadal_ep_throughput& ep, uint64_t epoch) {
    const uint32_t source = threadIdx.x;
    bool ready = true;
    if (takes_part(ep, source)) {
        const Awaited awaited{tp_dispatch_signal(ep, ep.rank, buffer_of(epoch), source),
                              HADAL_EP_DISPATCH_RECV,
                              HADAL_EP_PHASE_DISPATCH_SIGNAL,
                              source,
                              0,
                              epoch,
                              epoch};
        uint64_t rows = 0;
        ready = !aborted(ep) && wait_signal(ep, awaited, rows);
        if (ready) {
            const uint32_t expected = rows_between(ep, buffer_of(epoch), source, ep.rank);
            ready = rows == expected;
            if (!ready) {
                raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, HADAL_EP_DISPATCH_RECV, source,
                                      HADAL_EP_PHASE_DISPATCH_SIGNAL, 0, epoch, expected, rows, 0});
            }
        }
    }
    return __syncthreads_or(!ready) == 0;
}

/// Fills `groups` and `received`; the groups are empty unless `ready`.
template <class Config>
__device__ __forceinline__ void place_groups(const hadal_ep_throughput& ep, uint64_t epoch,
                                             bool ready, Groups& groups, ReceivedRows& received) {
    const uint32_t experts = local_experts(ep, ep.rank);
    for (uint32_t local = threadIdx.x; local < experts; local += Config::kThreads) {
        uint32_t rows = 0;
        for (uint32_t source = 0; ready && source < ep.ranks; ++source)
            rows += count_at(ep, buffer_of(epoch), source, first_expert(ep, ep.rank) + local);
        groups.rows[local] = rows;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        groups.start[0] = 0;
        for (uint32_t local = 0; local < experts; ++local) {
            groups.start[local + 1] =
                align_up(groups.start[local] + groups.rows[local], ep.alignment);
        }
        place_received(ep, buffer_of(epoch), received);
    }
    __syncthreads();
}

/// Writes what a grouped GEMM reads beside the rows; the index of every row, of padding too.
template <class Config>
__device__ __forceinline__ void write_groups(const hadal_ep_tp_dispatch_recv_params& p,
                                             const Groups& groups) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t experts = local_experts(ep, ep.rank);
    const uint32_t thread = blockIdx.x * Config::kThreads + threadIdx.x;
    const uint32_t threads = gridDim.x * Config::kThreads;
    auto* offsets = reinterpret_cast<int32_t*>(p.offsets);
    auto* counts = reinterpret_cast<int32_t*>(p.counts);
    auto* index = reinterpret_cast<int32_t*>(p.index);
    for (uint32_t local = thread; local <= experts; local += threads) {
        offsets[local] = static_cast<int32_t>(groups.start[local]);
        if (local < experts) counts[local] = static_cast<int32_t>(groups.rows[local]);
    }
    for (uint32_t row = thread; row < ep.max_rows; row += threads) {
        uint32_t low = 0;  // the last group that begins at or before the row
        for (uint32_t high = experts; low + 1 < high;) {
            const uint32_t middle = (low + high) / 2;
            if (groups.start[middle] <= row) {
                low = middle;
            } else {
                high = middle;
            }
        }
        const bool used = experts > 0 && row - groups.start[low] < groups.rows[low];
        index[row] = used ? static_cast<int32_t>(low) : -1;
    }
}

/// Expands the row at place `from` with one warp: its payload is read once.
__device__ __forceinline__ void expand_row(const hadal_ep_tp_dispatch_recv_params& p, uint64_t slot,
                                           uint32_t source, const Header& h) {
    const hadal_ep_throughput& ep = p.ep;
    const uint32_t lane = threadIdx.x % kWarpLanes;
    copy_row_to_each(h.choices, p.x + uint64_t{h.row} * ep.payload_bytes, slot, ep.payload_bytes,
                     [](uint64_t address) { return isa::ld_global_v4(address); });
    const uint64_t scales = slot + ep.payload_bytes + kHeaderBytes + ep.topk * kEntryBytes;
    const uint64_t stride = (uint64_t{ep.max_rows} + 3) / 4 * 4;
    for (uint32_t left = h.choices; left != 0; left &= left - 1) {
        const uint32_t row = __shfl_sync(kFullWarp, h.row, __ffs(static_cast<int>(left)) - 1);
        for (uint32_t i = lane; i < ep.scales; i += kWarpLanes)
            isa::st_global_f32(p.x_scales + (i * stride + row) * 4,
                               isa::ld_global_f32(scales + i * 4));
    }
    if ((h.choices >> lane & 1u) != 0) {
        isa::st_global_v2(p.source + uint64_t{h.row} * sizeof(hadal_ep_source),
                          pack_source(h.token, source, lane));
        isa::st_global_f32(p.weights + uint64_t{h.row} * 4, __uint_as_float(h.weight));
    }
}

/// Receive half. Reads: the signals, counts and rows of all ranks. Writes: the expert-contiguous
/// layout.
template <class Config>
__device__ __forceinline__ void tp_dispatch_recv(const hadal_ep_tp_dispatch_recv_params& p) {
    __shared__ Groups groups;
    __shared__ ReceivedRows received;
    const hadal_ep_throughput& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_DISPATCH_RECV);
    const bool ready = await_rows(ep, epoch);
    if (p.abandon == 0) {
        place_groups<Config>(ep, epoch, ready, groups, received);
        write_groups<Config>(p, groups);
        uint32_t source = 0;
        const uint32_t rows = ready ? received.first[ep.ranks] : 0;
        for (uint32_t row = blockIdx.x * Config::kWarps + threadIdx.x / kWarpLanes; row < rows;
             row += gridDim.x * Config::kWarps) {
            while (row >= received.first[source + 1]) ++source;
            const uint64_t slot = row_slot(ep, ep.rank, buffer_of(epoch), row);
            const Header header = load_header(ep, slot, epoch);
            if (!header.valid) {
                refuse_header(ep, HADAL_EP_DISPATCH_RECV, source, epoch, row);
                break;
            }
            expand_row(p, slot, source, header);
        }
    }
    arrive_last(ep, HADAL_EP_DISPATCH_RECV, epoch);
}

}  // namespace hadal::ep
