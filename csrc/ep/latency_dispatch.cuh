// Dispatch of the latency-mode all-to-all (docs/protocol.md): `dispatch_send` writes token rows
// into the slots of their experts' ranks, `dispatch_recv` gathers the slots into the layout of a
// masked grouped GEMM.
//
// One CTA serves one expert at a time (global experts in send, local ones in recv) and is alone
// responsible for its signals and credits, so CTAs of a launch do not wait for each other.
#pragma once

#include <cstdint>

#include "ep/latency_config.cuh"

namespace hadal::ep {

/// What stands before a row in its slot: where it comes from, the low word of its epoch, a check word.
__device__ __forceinline__ uint4 slot_header(const hadal_ep_latency& ep, uint64_t epoch,
                                             uint32_t token, uint32_t k) {
    return uint4{token, k, static_cast<uint32_t>(epoch),
                 header_check(token, k, epoch, ep.slot_bytes)};
}

/// Whether a header can be of this round.
__device__ __forceinline__ bool header_holds(const hadal_ep_latency& ep, uint64_t epoch,
                                             const uint4& header) {
    return header.x < ep.max_tokens && header.y < ep.topk &&
           header.z == static_cast<uint32_t>(epoch) &&
           header.w == header_check(header.x, header.y, epoch, ep.slot_bytes);
}

/// Writes one token row into a slot with one warp.
__device__ __forceinline__ void send_row(const hadal_ep_dispatch_send_params& p, uint64_t epoch,
                                         uint64_t slot, uint32_t entry) {
    const hadal_ep_latency& ep = p.ep;
    const uint32_t lane = threadIdx.x % kWarpLanes;
    const uint32_t token = entry / ep.topk;
    if (lane == 0) isa::st_global_v4(slot, slot_header(ep, epoch, token, entry % ep.topk));
    copy_row(slot + kSlotHeaderBytes, p.x + uint64_t{token} * ep.payload_bytes, ep.payload_bytes,
             [](uint64_t address) { return isa::ld_global_nc_v4(address); });
    const uint64_t scales = p.x_scales + uint64_t{token} * ep.scales * 4;
    const uint64_t slot_scales = slot + kSlotHeaderBytes + ep.payload_bytes;
    for (uint32_t i = lane; i < ep.scales; i += kWarpLanes) {
        isa::st_global_f32(slot_scales + i * 4, isa::ld_global_nc_f32(scales + i * 4));
    }
}

/// Finds the entries of `expert` in routing order and writes row j to slot j. All warps scan all
/// entries, warp j % warps writes. The number of entries in `count`, the same in all threads;
/// false, in all threads, if the routing was refused. A token that does not name an expert twice has at
/// most one row for it, so the slots suffice.
template <class Config>
__device__ __forceinline__ bool send_expert_rows(const hadal_ep_dispatch_send_params& p,
                                                 uint64_t epoch, uint32_t expert, uint32_t& count) {
    constexpr uint32_t kWarps = Config::kThreads / kWarpLanes;
    const hadal_ep_latency& ep = p.ep;
    const uint32_t warp = threadIdx.x / kWarpLanes;
    const uint32_t owner = expert_owner(ep, expert);
    const uint64_t slots =
        dispatch_slots(ep, owner, buffer_of(epoch), expert - first_expert(ep, owner), ep.rank);
    const auto* routing = reinterpret_cast<const int32_t*>(p.topk_idx);
    const uint32_t entries = p.tokens * ep.topk;
    Fault fault{HADAL_EP_FAULT_NONE,
                HADAL_EP_DISPATCH_SEND,
                ep.rank,
                HADAL_EP_PHASE_ROUTING,
                0,
                epoch,
                0,
                0,
                0};
    const auto refuse = [&](uint32_t entry, int32_t chosen) {
        fault.kind = HADAL_EP_FAULT_INDEX;
        fault.slot = entry;
        fault.expected = ep.experts;
        fault.seen = static_cast<uint64_t>(int64_t{chosen});
    };
    count = 0;
    uint32_t last = ep.max_tokens;  // token of the last row
    for (uint32_t first = 0; first < entries; first += kWarpLanes) {
        const uint32_t entry = first + threadIdx.x % kWarpLanes;
        const int32_t chosen = entry < entries ? routing[entry] : -1;
        if (chosen < -1 || chosen >= static_cast<int32_t>(ep.experts)) refuse(entry, chosen);
        for (uint32_t found = __ballot_sync(kFullWarp, chosen == static_cast<int32_t>(expert));
             found != 0; found &= found - 1) {
            const uint32_t from = first + static_cast<uint32_t>(__ffs(static_cast<int>(found))) - 1;
            const uint32_t token = from / ep.topk;
            if (token == last) {
                refuse(from, static_cast<int32_t>(expert));
                continue;
            }
            last = token;
            if (count % kWarps == warp) {
                send_row(p, epoch, slots + uint64_t{count} * ep.slot_bytes, from);
            }
            ++count;
        }
    }
    if (fault.kind != HADAL_EP_FAULT_NONE) raise_fault(ep, fault);
    // The barrier also orders the rows of all warps before thread 0's signal.
    return __syncthreads_or(fault.kind != HADAL_EP_FAULT_NONE) == 0;
}

/// Send half. Writes: slots and signal of every (expert, this rank), once per round. Reads:
/// dispatch_credit.
template <class Config>
__device__ __forceinline__ void dispatch_send(const hadal_ep_dispatch_send_params& p) {
    static_assert(Config::kThreads % kWarpLanes == 0, "whole warps");
    const hadal_ep_latency& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_DISPATCH_SEND);
    for (uint32_t expert = blockIdx.x; expert < ep.experts; expert += gridDim.x) {
        const uint32_t owner = expert_owner(ep, expert);
        if (!takes_part(ep, owner)) continue;
        bool ready = true;
        if (threadIdx.x == 0) {
            ready = !aborted(ep) &&
                    wait_credit(ep, Awaited{dispatch_credit(ep, ep.rank, expert),
                                            HADAL_EP_DISPATCH_SEND, HADAL_EP_PHASE_DISPATCH_CREDIT,
                                            owner, expert, epoch, credit_needed(epoch)});
        }
        if (__syncthreads_or(!ready) != 0) break;
        uint32_t count;
        if (!send_expert_rows<Config>(p, epoch, expert, count)) break;
        if (threadIdx.x == 0) {
            const uint32_t local = expert - first_expert(ep, owner);
            isa::st_release_sys_u64(dispatch_signal(ep, owner, buffer_of(epoch), local, ep.rank),
                                    signal_word(epoch, count));
            isa::red_add_relaxed_gpu_u64(&state_of(ep)->peers[owner].dispatched, count);
        }
    }
    arrive_last(ep, HADAL_EP_DISPATCH_SEND, epoch);
}

/// Row ranges of one expert: rows first[s] .. first[s + 1] came from rank s.
struct ExpertRows {
    uint32_t first[HADAL_EP_MAX_RANKS + 1];
};

/// Whether a signal's count can be: within the slots, and no row of the round stands behind the last one. (That none in front
/// is missing, the rows' headers say.)
__device__ __forceinline__ bool count_holds(const hadal_ep_latency& ep, uint64_t epoch,
                                            uint2 expert_and_source, uint64_t count) {
    if (count >= ep.max_tokens) return count == ep.max_tokens;
    const uint64_t behind = dispatch_slots(ep, ep.rank, buffer_of(epoch), expert_and_source.x,
                                           expert_and_source.y) +
                            count * ep.slot_bytes;
    return isa::ld_global_v4(behind).z != static_cast<uint32_t>(epoch);
}

/// Waits for the signals of all sources and fills `rows` (shared memory). The same result in all
/// threads.
__device__ __forceinline__ bool await_sources(const hadal_ep_latency& ep, uint64_t epoch,
                                              uint32_t local_expert, ExpertRows& rows) {
    const uint32_t source = threadIdx.x;
    const uint32_t expert = first_expert(ep, ep.rank) + local_expert;
    bool ready = true;
    if (source < ep.ranks) rows.first[source + 1] = 0;
    if (takes_part(ep, source)) {
        uint64_t count = 0;
        ready = !aborted(ep) &&
                wait_signal(
                    ep,
                    Awaited{dispatch_signal(ep, ep.rank, buffer_of(epoch), local_expert, source),
                            HADAL_EP_DISPATCH_RECV, HADAL_EP_PHASE_DISPATCH_SIGNAL, source, expert,
                            epoch, epoch},
                    count);
        if (ready && !count_holds(ep, epoch, {local_expert, source}, count)) {
            raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, HADAL_EP_DISPATCH_RECV, source,
                                  HADAL_EP_PHASE_DISPATCH_SIGNAL, expert, epoch, ep.max_tokens,
                                  count, 0});
            ready = false;
        }
        rows.first[source + 1] = ready ? static_cast<uint32_t>(count) : 0;
    }
    if (__syncthreads_or(!ready) != 0) return false;
    if (threadIdx.x == 0) {
        rows.first[0] = 0;
        for (uint32_t s = 0; s < ep.ranks; ++s) rows.first[s + 1] += rows.first[s];
        const uint32_t total = rows.first[ep.ranks];
        if (total > ep.max_rows) {
            raise_fault(ep, Fault{HADAL_EP_FAULT_ROWS, HADAL_EP_DISPATCH_RECV, ep.rank,
                                  HADAL_EP_PHASE_PLACEMENT, expert, epoch, ep.max_rows, total, 0});
            ready = false;
        }
    }
    return __syncthreads_or(!ready) == 0;
}

/// Copies the slots of one expert into row order, one warp per row. A row that cannot be of this round is a fault;
/// false, in its warp, then.
template <class Config>
__device__ __forceinline__ bool receive_rows(const hadal_ep_dispatch_recv_params& p, uint64_t epoch,
                                             uint32_t local_expert, const ExpertRows& rows) {
    constexpr uint32_t kWarps = Config::kThreads / kWarpLanes;
    const hadal_ep_latency& ep = p.ep;
    const uint32_t lane = threadIdx.x % kWarpLanes;
    const uint64_t scale_rows = (ep.max_rows + 3) / 4 * 4;
    const uint64_t source_of =
        p.source + uint64_t{local_expert} * ep.max_rows * sizeof(hadal_ep_source);
    const uint64_t x = p.x + uint64_t{local_expert} * ep.max_rows * ep.payload_bytes;
    const uint64_t scales = p.x_scales + uint64_t{local_expert} * ep.scales * scale_rows * 4;
    uint32_t source = 0;
    for (uint32_t row = threadIdx.x / kWarpLanes; row < rows.first[ep.ranks]; row += kWarps) {
        while (row >= rows.first[source + 1]) ++source;
        const uint64_t slot = dispatch_slots(ep, ep.rank, buffer_of(epoch), local_expert, source) +
                              uint64_t{row - rows.first[source]} * ep.slot_bytes;
        const uint4 header = isa::ld_global_v4(slot);
        if (!header_holds(ep, epoch, header)) {
            if (lane == 0) {
                raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, HADAL_EP_DISPATCH_RECV, source,
                                      HADAL_EP_PHASE_PLACEMENT,
                                      first_expert(ep, ep.rank) + local_expert, epoch, epoch,
                                      header.z, 0});
            }
            return false;
        }
        const uint64_t slot_scales = slot + kSlotHeaderBytes + ep.payload_bytes;
        copy_row(x + uint64_t{row} * ep.payload_bytes, slot + kSlotHeaderBytes, ep.payload_bytes,
                 [](uint64_t address) { return isa::ld_global_v4(address); });
        for (uint32_t i = lane; i < ep.scales; i += kWarpLanes) {
            isa::st_global_f32(scales + (i * scale_rows + row) * 4,
                               isa::ld_global_f32(slot_scales + i * 4));
        }
        if (lane == 0) {
            isa::st_global_v2(source_of + row * sizeof(hadal_ep_source),
                              pack_source(header.x, source, header.y));
        }
    }
    return true;
}

/// Receive half. Reads: signals and slots of every (local expert, source). Writes: the received
/// layout, and the credit of every (source, local expert) once its rows are copied. After a fault
/// the counts not yet delivered are 0.
template <class Config>
__device__ __forceinline__ void dispatch_recv(const hadal_ep_dispatch_recv_params& p) {
    static_assert(Config::kThreads >= HADAL_EP_MAX_RANKS, "one thread per source");
    __shared__ ExpertRows rows;
    const hadal_ep_latency& ep = p.ep;
    const uint64_t epoch = current_epoch(ep, HADAL_EP_DISPATCH_RECV);
    const uint32_t experts = local_experts(ep, ep.rank);
    for (uint32_t expert = blockIdx.x; expert < experts; expert += gridDim.x) {
        bool ready = await_sources(ep, epoch, expert, rows);
        if (ready && p.abandon == 0) ready = receive_rows<Config>(p, epoch, expert, rows);
        const uint32_t count = rows.first[ep.ranks];
        // Orders the reads of all warps before the credits, and before `rows` is used again.
        ready = __syncthreads_or(!ready) == 0;
        if (threadIdx.x == 0 && p.abandon == 0) {
            reinterpret_cast<int32_t*>(p.counts)[expert] = ready ? static_cast<int32_t>(count) : 0;
        }
        if (ready && takes_part(ep, threadIdx.x)) {
            isa::st_release_sys_u64(
                dispatch_credit(ep, threadIdx.x, first_expert(ep, ep.rank) + expert), epoch);
        }
    }
    arrive_last(ep, HADAL_EP_DISPATCH_RECV, epoch);
}

}  // namespace hadal::ep
