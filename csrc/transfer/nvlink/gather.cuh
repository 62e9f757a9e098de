// All-gather of small records: one CTA, one warp per peer at a time.
//
// Every rank writes its record into a slot of its own in every window, and its epoch behind it
// (release). Slots exist twice, by parity of the epoch; a slot of epoch n > 2 is written after its
// reader's credit of n - 2. The epoch lies in device memory, so that a captured launch replays.
#pragma once

#include "transfer/nvlink/common.cuh"
#include "transfer/nvlink/vector.cuh"

namespace hadal::nvlink {

constexpr uint32_t kWarpLanes = 32;

/// One round of the all-gather, as the warps share it.
struct Gather {
    uint64_t epoch;
    uint32_t buffer;
    uint32_t lane;
};

/// Address of the slot that `source` writes in the window of `rank`.
__device__ __forceinline__ uint64_t gather_slot(const hadal_nvlink& nv, uint32_t rank,
                                                uint32_t source, uint32_t buffer) {
    const uint64_t index = uint64_t{buffer} * nv.ranks + source;
    return place(nv, rank, nv.gather_slots) + index * nv.slot_bytes;
}

/// One warp sends the record to `peer`: acquires the credit (writer: peer), writes the slot (weak),
/// and publishes it with st.release.sys of its epoch (reader: peer). False after a fault.
__device__ __forceinline__ bool send_record(const hadal_nvlink_all_gather_params& p,
                                            const Gather& round, uint32_t peer) {
    const hadal_nvlink& nv = p.nvlink;
    if (round.epoch > 2) {
        const Awaited awaited{word(nv, nv.rank, nv.gather_credit, peer),
                              HADAL_NVLINK_OP_GATHER_CREDIT,
                              peer,
                              round.buffer,
                              round.epoch - 2,
                              nv.timeout_ns};
        Looked looked;
        const auto reached = [&](uint64_t seen) { return seen >= awaited.expected; };
        if (!__all_sync(0xffffffffu, wait_peer(nv, awaited, looked, reached))) return false;
    }
    copy_vector(gather_slot(nv, peer, nv.rank, round.buffer), p.record, p.bytes,
                Share{round.lane, kWarpLanes});
    __syncwarp();
    uint64_t* signal = word(nv, peer, nv.gather_signal, round.buffer * nv.ranks + nv.rank);
    if (round.lane == 0) isa::st_release_sys_u64(signal, round.epoch);
    return true;
}

/// One warp receives the record of `source`: acquires its epoch, copies the slot out, and gives the
/// slot back with st.release.sys of the credit in the source's window (writer: this rank). False
/// after a fault; an epoch from the future is one.
__device__ __forceinline__ bool receive_record(const hadal_nvlink_all_gather_params& p,
                                               const Gather& round, uint32_t source) {
    const hadal_nvlink& nv = p.nvlink;
    const Awaited awaited{word(nv, nv.rank, nv.gather_signal, round.buffer * nv.ranks + source),
                          HADAL_NVLINK_OP_GATHER_SIGNAL,
                          source,
                          round.buffer,
                          round.epoch,
                          nv.timeout_ns};
    Looked looked;
    const auto reached = [&](uint64_t seen) { return seen >= awaited.expected; };
    bool here = wait_peer(nv, awaited, looked, reached);
    if (here && looked.seen != round.epoch) {
        looked.fault = HADAL_NVLINK_FAULT_PROTOCOL;
        raise_fault(nv, awaited, looked);
        here = false;
    }
    if (!__all_sync(0xffffffffu, here)) return false;
    copy_vector(p.output + uint64_t{source} * p.bytes,
                gather_slot(nv, nv.rank, source, round.buffer), p.bytes,
                Share{round.lane, kWarpLanes});
    __syncwarp();
    uint64_t* credit = word(nv, source, nv.gather_credit, nv.rank);
    if (round.lane == 0) isa::st_release_sys_u64(credit, round.epoch);
    return true;
}

/// All threads of one CTA. Every rank calls it the same number of times; the calls of one rank follow
/// each other. Contains CTA barriers.
__device__ __forceinline__ void all_gather(const hadal_nvlink_all_gather_params& p) {
    const hadal_nvlink& nv = p.nvlink;
    uint64_t* completed = &state_of(nv)->gather_epoch;
    const uint64_t epoch = isa::ld_relaxed_gpu_u64(completed) + 1;
    const uint32_t warps = blockDim.x / kWarpLanes;
    const uint32_t warp = threadIdx.x / kWarpLanes;
    const Gather round{epoch, static_cast<uint32_t>(epoch & 1), threadIdx.x % kWarpLanes};
    bool good = __all_sync(0xffffffffu, aborted(nv) == HADAL_NVLINK_FAULT_NONE);
    // Beginning behind oneself spreads the ranks over the windows.
    for (uint32_t i = warp; good && i < nv.ranks; i += warps)
        good = send_record(p, round, (nv.rank + 1 + i) % nv.ranks);
    for (uint32_t i = warp; good && i < nv.ranks; i += warps)
        good = receive_record(p, round, (nv.rank + 1 + i) % nv.ranks);
    if (__syncthreads_and(good) && threadIdx.x == 0) isa::st_relaxed_gpu_u64(completed, epoch);
}

}  // namespace hadal::nvlink
