// What the NVLink primitives share: places in windows, bounded waits, faults.
//
// Protocol: docs/protocol.md, "NVLink primitives". Usable by any kernel that is given a
// hadal_nvlink. No function here contains a CTA barrier unless it says so.
#pragma once

#include <cstdint>

#include "isa/clock.cuh"
#include "isa/ldst.cuh"
#include "params/nvlink.h"

namespace hadal::nvlink {

/// Turns of a wait loop before it begins to sleep between looks.
constexpr uint32_t kEagerPolls = 64;
/// Nanoseconds slept between looks afterwards: far below the latency of a peer store.
constexpr uint32_t kPollSleepNs = 64;

/// Address of `offset` in the window of `rank`, as this device maps it.
__device__ __forceinline__ uint64_t place(const hadal_nvlink& nv, uint32_t rank, uint64_t offset) {
    return nv.heap + rank * nv.heap_stride + offset;
}

/// Word `index` of the array at `offset` in the window of `rank`.
__device__ __forceinline__ uint64_t* word(const hadal_nvlink& nv, uint32_t rank, uint64_t offset,
                                          uint32_t index) {
    return reinterpret_cast<uint64_t*>(place(nv, rank, offset)) + index;
}

__device__ __forceinline__ hadal_nvlink_state* state_of(const hadal_nvlink& nv) {
    return reinterpret_cast<hadal_nvlink_state*>(nv.state);
}

/// The fault of this rank, or HADAL_NVLINK_FAULT_NONE. Relaxed, gpu scope: orders nothing; a set
/// flag stays set.
__device__ __forceinline__ uint32_t aborted(const hadal_nvlink& nv) {
    return isa::ld_relaxed_gpu_u32(&state_of(nv)->abort);
}

/// A word of the own window that a peer writes, and what is waited for.
struct Awaited {
    const uint64_t* word;
    uint32_t operation;
    uint32_t peer;
    uint32_t slot;
    uint64_t expected;
    uint64_t limit_ns;
};

/// What the last look showed.
struct Looked {
    uint64_t seen;
    uint64_t waited_ns;
    uint32_t fault;
};

/// Sets the abort flag; the first to do so on this rank writes the record to host memory (kind
/// last, release.sys: the host reads it with acquire) and its poison word into every peer's window
/// (release.sys; read by waiters of that peer). Any number of threads may call it.
__device__ __forceinline__ void raise_fault(const hadal_nvlink& nv, const Awaited& awaited,
                                            const Looked& looked) {
    uint32_t* abort = &state_of(nv)->abort;
    if (isa::atom_cas_relaxed_gpu_u32(abort, HADAL_NVLINK_FAULT_NONE, looked.fault) !=
        HADAL_NVLINK_FAULT_NONE)
        return;
    auto* record = reinterpret_cast<volatile hadal_nvlink_fault*>(nv.fault);
    record->operation = awaited.operation;
    record->rank = nv.rank;
    record->peer = awaited.peer;
    record->slot = awaited.slot;
    record->expected = awaited.expected;
    record->seen = looked.seen;
    record->waited_ns = looked.waited_ns;
    isa::st_release_sys_u32(&reinterpret_cast<hadal_nvlink_fault*>(nv.fault)->kind, looked.fault);
    for (uint32_t peer = 0; peer < nv.ranks; ++peer) {
        if (peer != nv.rank)
            isa::st_release_sys_u64(word(nv, peer, nv.poison, nv.rank), looked.fault);
    }
}

/// Waits until `reached(word)`. Order: acquire, system scope: what the word's writer released with
/// it is visible to this thread afterwards. One look always happens; the limit counts from then.
/// False after a fault: the limit passed, or the awaited peer is poisoned (both raised here), or
/// this rank has one already. Any number of threads may wait, on any words.
template <class Reached>
__device__ __forceinline__ bool wait_peer(const hadal_nvlink& nv, const Awaited& awaited,
                                          Looked& looked, Reached reached) {
    looked = Looked{isa::ld_acquire_sys_u64(awaited.word), 0, HADAL_NVLINK_FAULT_NONE};
    if (reached(looked.seen)) return true;
    const uint64_t start = isa::globaltimer();
    const uint64_t* poisoned = word(nv, nv.rank, nv.poison, awaited.peer);
    for (uint32_t polls = 0; looked.fault == HADAL_NVLINK_FAULT_NONE; ++polls) {
        // Before the word: what a peer sent before it was poisoned still counts.
        const bool peer_faulted = isa::ld_relaxed_sys_u64(poisoned) != 0;
        looked.waited_ns = isa::globaltimer() - start;
        looked.seen = isa::ld_acquire_sys_u64(awaited.word);
        if (reached(looked.seen)) return true;
        const uint32_t own = aborted(nv);
        if (own != HADAL_NVLINK_FAULT_NONE) {
            looked.fault = own;
            return false;
        }
        if (peer_faulted) looked.fault = HADAL_NVLINK_FAULT_POISONED;
        if (looked.waited_ns > awaited.limit_ns) looked.fault = HADAL_NVLINK_FAULT_TIMEOUT;
        if (polls >= kEagerPolls) isa::nanosleep(kPollSleepNs);
    }
    raise_fault(nv, awaited, looked);
    return false;
}

/// Changes a signal word of any window: st.release.sys (HADAL_NVLINK_SET) or red.release.sys.add.
/// Publishes, to whoever acquires the word, all that is ordered before it by this thread or through
/// a barrier. The writer is the one rank that the word was agreed for; only additions may come from
/// several.
__device__ __forceinline__ void change_signal(uint64_t address, uint64_t value, uint32_t change) {
    auto* signal = reinterpret_cast<uint64_t*>(address);
    if (change == HADAL_NVLINK_ADD) {
        isa::red_add_release_sys_u64(signal, value);
    } else {
        isa::st_release_sys_u64(signal, value);
    }
}

}  // namespace hadal::nvlink
