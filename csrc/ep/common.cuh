// What the kernels of both modes share: epochs, bounded waits, faults, row copies. `Ep` is the
// mode's hadal_ep_latency or hadal_ep_throughput.
//
// Protocol: docs/protocol.md. Every CTA of a kernel runs `begin`, its loop, `arrive`; a CTA that
// sees a fault leaves its loop early but still arrives, so the counters stay right.
#pragma once

#include <cstdint>

#include "isa/clock.cuh"
#include "isa/ldst.cuh"
#include "isa/memory.cuh"
#include "layout/ep_common.cuh"
#include "params/ep_latency.h"

namespace hadal::ep {

constexpr uint32_t kWarpLanes = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;
/// Turns of a wait loop before it begins to sleep between looks.
constexpr uint32_t kEagerPolls = 64;
/// Nanoseconds slept between looks afterwards: far below the latency of a peer store.
constexpr uint32_t kPollSleepNs = 64;

template <class Ep>
__device__ __forceinline__ hadal_ep_state* state_of(const Ep& ep) {
    return reinterpret_cast<hadal_ep_state*>(ep.state);
}

template <class Ep>
__device__ __forceinline__ hadal_ep_span* span_of(const Ep& ep, uint32_t kernel, uint64_t epoch) {
    return &state_of(ep)->spans[kernel][epoch % HADAL_EP_SPANS];
}

/// The round that this launch of `kernel` works on. Its own rank's earlier launches are complete
/// (stream order). Called once by all threads; the first one's is the begin of the span.
template <class Ep>
__device__ __forceinline__ uint64_t current_epoch(const Ep& ep, uint32_t kernel) {
    const uint64_t epoch = isa::ld_relaxed_gpu_u64(&state_of(ep)->epoch[kernel]) + 1;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        hadal_ep_span* span = span_of(ep, kernel, epoch);
        isa::st_relaxed_gpu_u64(&span->begin_ns, isa::globaltimer());
        isa::st_relaxed_gpu_u64(&span->epoch, epoch);
    }
    return epoch;
}

/// Notes a wait for `peer` that has ended well.
template <class Ep>
__device__ __forceinline__ void count_wait(const Ep& ep, uint32_t peer, uint64_t waited_ns) {
    const auto bits = 64 - static_cast<uint32_t>(__clzll(static_cast<long long>(waited_ns)));
    const uint32_t bin = min(bits, HADAL_EP_WAIT_BINS - 1u);
    isa::red_add_relaxed_gpu_u64(&state_of(ep)->peers[peer].waits[bin], 1);
}

__device__ __forceinline__ uint32_t buffer_of(uint64_t epoch) {
    return static_cast<uint32_t>(epoch & 1);
}

/// The epoch that a consumer must have consumed before its buffer takes rows of `epoch`; 0: nothing
/// to wait for.
__device__ __forceinline__ uint64_t credit_needed(uint64_t epoch) {
    return epoch > 2 ? epoch - 2 : 0;
}

/// Mask of the ranks that take part. The host changes it while no kernel runs.
template <class Ep>
__device__ __forceinline__ uint32_t live_ranks(const Ep& ep) {
    return isa::ld_relaxed_gpu_u32(&state_of(ep)->live);
}

/// Whether the thread of this number has a rank to deal with.
template <class Ep>
__device__ __forceinline__ bool takes_part(const Ep& ep, uint32_t rank) {
    return rank < ep.ranks && (live_ranks(ep) >> rank & 1u) != 0;
}

template <class Ep>
__device__ __forceinline__ bool aborted(const Ep& ep) {
    return isa::ld_relaxed_gpu_u32(&state_of(ep)->abort) != HADAL_EP_FAULT_NONE;
}

/// What a fault record says, apart from the rank.
struct Fault {
    uint32_t kind;
    uint32_t kernel;
    uint32_t peer;
    uint32_t phase;
    uint32_t slot;
    uint64_t epoch;
    uint64_t expected;
    uint64_t seen;
    uint64_t waited_ns;
};

/// Sets the abort flag; the first to do so writes the record (kind last, release.sys) and poisons
/// every live peer. May be called by any number of threads.
template <class Ep>
__device__ __forceinline__ void raise_fault(const Ep& ep, const Fault& fault) {
    uint32_t* abort = &state_of(ep)->abort;
    if (isa::atom_cas_relaxed_gpu_u32(abort, HADAL_EP_FAULT_NONE, fault.kind) !=
        HADAL_EP_FAULT_NONE)
        return;
    auto* record = reinterpret_cast<volatile hadal_ep_fault*>(ep.fault);
    record->kernel = fault.kernel;
    record->rank = ep.rank;
    record->peer = fault.peer;
    record->phase = fault.phase;
    record->slot = fault.slot;
    record->epoch = fault.epoch;
    record->expected = fault.expected;
    record->seen = fault.seen;
    record->waited_ns = fault.waited_ns;
    isa::st_release_sys_u32(&reinterpret_cast<hadal_ep_fault*>(ep.fault)->kind, fault.kind);
    for (uint32_t peer = 0; peer < ep.ranks; ++peer) {
        if (peer != ep.rank && takes_part(ep, peer)) {
            isa::st_release_sys_u64(poison(ep, peer, ep.rank), fault.epoch << 8 | fault.kind);
        }
    }
}

/// A word in the own window that a peer will write, and what is waited for.
struct Awaited {
    const uint64_t* word;
    uint32_t kernel;
    uint32_t phase;
    uint32_t peer;
    uint32_t slot;
    uint64_t epoch;     // of this round, for the record
    uint64_t expected;  // least epoch that ends the wait
};

/// Waits (acquire.sys) until `epoch_in(word) >= expected`, at most `timeout_ns`. Returns the word's
/// last value in `seen`; false after a fault, here or elsewhere on this rank. Any number of threads
/// may wait; no barrier inside.
template <class Ep, class EpochIn>
__device__ __forceinline__ bool wait_peer(const Ep& ep, const Awaited& awaited,
                                          uint64_t& seen, EpochIn epoch_in) {
    seen = isa::ld_acquire_sys_u64(awaited.word);
    if (epoch_in(seen) >= awaited.expected) {
        count_wait(ep, awaited.peer, 0);
        return true;
    }
    const uint64_t start = isa::globaltimer();
    const uint64_t* poisoned = poison(ep, ep.rank, awaited.peer);
    uint32_t kind = HADAL_EP_FAULT_NONE;
    uint64_t waited = 0;
    for (uint32_t polls = 0; kind == HADAL_EP_FAULT_NONE; ++polls) {
        const bool peer_faulted = isa::ld_relaxed_sys_u64(poisoned) != 0;
        waited = isa::globaltimer() - start;
        seen = isa::ld_acquire_sys_u64(awaited.word);
        if (epoch_in(seen) >= awaited.expected) {
            count_wait(ep, awaited.peer, max(waited, uint64_t{1}));
            return true;
        }
        if (aborted(ep)) return false;
        if (peer_faulted) kind = HADAL_EP_FAULT_POISONED;
        if (waited > ep.timeout_ns) kind = HADAL_EP_FAULT_TIMEOUT;
        if (polls >= kEagerPolls) isa::nanosleep(kPollSleepNs);
    }
    raise_fault(ep, Fault{kind, awaited.kernel, awaited.peer, awaited.phase, awaited.slot,
                          awaited.epoch, awaited.expected, epoch_in(seen), waited});
    return false;
}

/// Waits for a credit: any epoch from `expected` on will do.
template <class Ep>
__device__ __forceinline__ bool wait_credit(const Ep& ep, const Awaited& awaited) {
    if (awaited.expected == 0) return true;
    uint64_t seen;
    return wait_peer(ep, awaited, seen, [](uint64_t word) { return word; });
}

/// Waits for the signal of exactly `expected`; its count in `count`. A later epoch breaks the
/// protocol and is a fault.
template <class Ep>
__device__ __forceinline__ bool wait_signal(const Ep& ep, const Awaited& awaited,
                                            uint64_t& count) {
    uint64_t seen;
    if (!wait_peer(ep, awaited, seen, [](uint64_t word) { return signal_epoch(word); }))
        return false;
    count = signal_count(seen);
    if (signal_epoch(seen) == awaited.expected) return true;
    raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, awaited.kernel, awaited.peer, awaited.phase,
                          awaited.slot, awaited.epoch, awaited.expected, signal_epoch(seen), 0});
    return false;
}

/// Waits for the signal of exactly `expected` that a round's results are there, or were abandoned.
template <class Ep>
__device__ __forceinline__ bool wait_results(const Ep& ep, const Awaited& awaited,
                                             bool& abandoned) {
    uint64_t count;
    if (!wait_signal(ep, awaited, count)) return false;
    abandoned = count == kSignalAbandoned;
    if (abandoned || count == 0) return true;
    raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, awaited.kernel, awaited.peer, awaited.phase,
                          awaited.slot, awaited.epoch, 0, count, 0});
    return false;
}

/// Waits for a word that holds exactly the epoch `expected`; a later one breaks the protocol.
template <class Ep>
__device__ __forceinline__ bool wait_epoch(const Ep& ep, const Awaited& awaited) {
    uint64_t seen;
    if (!wait_peer(ep, awaited, seen, [](uint64_t word) { return word; })) return false;
    if (seen == awaited.expected) return true;
    raise_fault(ep, Fault{HADAL_EP_FAULT_PROTOCOL, awaited.kernel, awaited.peer, awaited.phase,
                          awaited.slot, awaited.epoch, awaited.expected, seen, 0});
    return false;
}

/// Tells the host that the ranks of the mask `ranks` abandoned `epoch`, if there are any.
template <class Ep>
__device__ __forceinline__ void note_abandoned(const Ep& ep, uint64_t epoch, uint32_t ranks) {
    auto* record = reinterpret_cast<hadal_ep_fault*>(ep.fault);
    if (ranks != 0) isa::st_release_sys_u64(&record->abandoned, epoch << 16 | ranks);
}

/// Called by all threads of every CTA, once, at the end. True, in all threads, for the CTA that
/// arrives last: all that the CTAs did before is then ordered before what it does next. Advances
/// the epoch.
template <class Ep>
__device__ __forceinline__ bool arrive_last(const Ep& ep, uint32_t kernel,
                                            uint64_t epoch) {
    uint32_t last = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* arrived = &state_of(ep)->arrived[kernel];
        last = isa::atom_add_acq_rel_gpu_u32(arrived, 1) == gridDim.x - 1;
        if (last) {
            isa::st_relaxed_gpu_u32(arrived, 0);
            isa::st_relaxed_gpu_u64(&state_of(ep)->epoch[kernel], epoch);
            isa::st_relaxed_gpu_u64(&span_of(ep, kernel, epoch)->end_ns, isa::globaltimer());
        }
    }
    return __syncthreads_or(static_cast<int>(last)) != 0;
}

/// Bytes of one vector access.
constexpr uint32_t kVectorBytes = 16;
/// Vectors that one lane has in flight in a row copy.
constexpr uint32_t kCopyBatch = 4;

/// Copies `bytes` (a multiple of 16) between 16-byte aligned global addresses with one warp; weak
/// stores. `load` is isa::ld_global_v4 where a peer wrote the source, isa::ld_global_nc_v4 where
/// nobody writes it during the kernel.
template <class Load>
__device__ __forceinline__ void copy_row(uint64_t to, uint64_t from, uint32_t bytes, Load load) {
    constexpr uint32_t kLaneStride = kWarpLanes * kVectorBytes;
    uint32_t at = threadIdx.x % kWarpLanes * kVectorBytes;
    for (; at + (kCopyBatch - 1) * kLaneStride < bytes; at += kCopyBatch * kLaneStride) {
        uint4 batch[kCopyBatch];
#pragma unroll
        for (uint32_t j = 0; j < kCopyBatch; ++j) batch[j] = load(from + at + j * kLaneStride);
#pragma unroll
        for (uint32_t j = 0; j < kCopyBatch; ++j)
            isa::st_global_v4(to + at + j * kLaneStride, batch[j]);
    }
    for (; at < bytes; at += kLaneStride) isa::st_global_v4(to + at, load(from + at));
}

/// Copies `bytes` (a multiple of 16) from `from` with one warp to every place `to` of the lanes in
/// the mask `lanes`: loaded once, stored weakly. `lanes` is the same in all lanes; otherwise as
/// copy_row.
template <class Load>
__device__ __forceinline__ void copy_row_to_each(uint32_t lanes, uint64_t to, uint64_t from,
                                                 uint32_t bytes, Load load) {
    constexpr uint32_t kLaneStride = kWarpLanes * kVectorBytes;
    for (uint32_t start = 0; lanes != 0 && start < bytes; start += kCopyBatch * kLaneStride) {
        const uint32_t at = start + threadIdx.x % kWarpLanes * kVectorBytes;
        uint4 batch[kCopyBatch];
#pragma unroll
        for (uint32_t j = 0; j < kCopyBatch; ++j) {
            if (at + j * kLaneStride < bytes) batch[j] = load(from + at + j * kLaneStride);
        }
        for (uint32_t left = lanes; left != 0; left &= left - 1) {
            const uint64_t place = __shfl_sync(kFullWarp, to, __ffs(static_cast<int>(left)) - 1);
#pragma unroll
            for (uint32_t j = 0; j < kCopyBatch; ++j) {
                if (at + j * kLaneStride < bytes)
                    isa::st_global_v4(place + at + j * kLaneStride, batch[j]);
            }
        }
    }
}

}  // namespace hadal::ep
