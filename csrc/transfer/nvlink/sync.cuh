// wait and barrier on words of the symmetric heap.
#pragma once

#include "transfer/nvlink/common.cuh"

namespace hadal::nvlink {

/// Whether a signal word ends a wait.
__device__ __forceinline__ bool ends_wait(uint64_t seen, uint64_t expected, uint32_t until) {
    return until == HADAL_NVLINK_EQUAL ? seen == expected : seen >= expected;
}

/// One thread waits for a signal of the own window. Order: acquire, system scope; later kernels of
/// the stream see what the signal's writer released. Writer of the word: `peer`; reader: this rank.
/// HADAL_NVLINK_COUNT waits for `value` more than the waits of this kind before it, whose sum lies
/// in device memory, so that a captured launch replays. Any number of times; one wait at a time per
/// signal.
__device__ __forceinline__ void wait(const hadal_nvlink_wait_params& p) {
    const hadal_nvlink& nv = p.nvlink;
    auto* consumed = reinterpret_cast<uint64_t*>(p.consumed);
    const bool counts = p.until == HADAL_NVLINK_COUNT;
    const uint64_t expected = p.value + (counts ? isa::ld_relaxed_gpu_u64(consumed) : 0);
    const Awaited awaited{reinterpret_cast<const uint64_t*>(p.signal),
                          HADAL_NVLINK_OP_WAIT,
                          p.peer,
                          p.slot,
                          expected,
                          p.limit_ns};
    Looked looked{0, 0, aborted(nv)};
    if (looked.fault == HADAL_NVLINK_FAULT_NONE) {
        const auto reached = [&](uint64_t seen) { return ends_wait(seen, expected, p.until); };
        const bool arrived = wait_peer(nv, awaited, looked, reached);
        if (arrived && counts) isa::st_relaxed_gpu_u64(consumed, expected);
    }
    if (p.outcome == 0) return;
    auto* outcome = reinterpret_cast<hadal_nvlink_outcome*>(p.outcome);
    outcome->waited_ns = looked.waited_ns;
    outcome->seen = looked.seen;
    outcome->expired = looked.fault == HADAL_NVLINK_FAULT_TIMEOUT;
    outcome->fault = looked.fault;
}

/// Waits until every rank of `team` is here; one thread per rank, one CTA, no CTA barrier inside.
///
/// Thread t tells rank t how many barriers this rank has entered together with it (st.release.sys to
/// barrier[own rank] of t's window: one writer), and waits for the same count of t (ld.acquire.sys
/// of barrier[t] of the own window). Counts are per pair, so teams need no name: any two ranks must
/// only enter the barriers that contain both in the same order. They lie in device memory. Order:
/// what a member did before its barrier is visible to later kernels of every member.
__device__ __forceinline__ void barrier_member(const hadal_nvlink& nv, uint64_t team) {
    const uint32_t peer = threadIdx.x;
    if (peer >= nv.ranks || peer == nv.rank || (team >> peer & 1) == 0) return;
    if (aborted(nv) != HADAL_NVLINK_FAULT_NONE) return;
    uint64_t* completed = &state_of(nv)->barrier_epoch[peer];
    const uint64_t epoch = isa::ld_relaxed_gpu_u64(completed) + 1;
    isa::st_release_sys_u64(word(nv, peer, nv.barrier, nv.rank), epoch);
    const Awaited awaited{word(nv, nv.rank, nv.barrier, peer),
                          HADAL_NVLINK_OP_BARRIER,
                          peer,
                          0,
                          epoch,
                          nv.timeout_ns};
    Looked looked;
    // A member that is through may have entered the next one.
    const auto reached = [&](uint64_t seen) { return seen >= epoch; };
    if (wait_peer(nv, awaited, looked, reached)) isa::st_relaxed_gpu_u64(completed, epoch);
}

__device__ __forceinline__ void barrier(const hadal_nvlink_barrier_params& p) {
    barrier_member(p.nvlink, p.team);
}

}  // namespace hadal::nvlink
