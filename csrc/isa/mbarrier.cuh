// mbarrier: the transaction barriers of a CTA's shared memory.
// PTX ISA 9.0, "Parallel Synchronization and Communication Instructions: mbarrier".
//
// A barrier holds a count of pending arrivals and a count of pending transaction bytes. The current
// phase completes when both are zero; it then reloads the arrival count. A phase is named by its
// parity: a fresh barrier is in phase 0, and `try_wait_parity(b, p)` succeeds when the phase of
// parity p has completed. So a reader of a fresh barrier waits for parity 0, and a wait for parity
// 1 on a fresh barrier succeeds at once: that is how an empty slot is born free.
//
// Addresses are 32-bit addresses of shared::cta. The counting is done by hardware for any CTA of
// the cluster; the order that each function gives is stated with it.
#pragma once

#include <cstdint>

namespace hadal::isa {

// Makes `barrier` an mbarrier whose phases need `arrivals` arrivals. One thread, once; other
// threads may use it after fence_mbarrier_init and a CTA (or cluster) barrier.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}

// Ends the life of an mbarrier, so that its bytes are ordinary memory again. No thread may wait on
// it.
__device__ __forceinline__ void mbarrier_inval(uint32_t barrier) {
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// One arrival. Order: release, CTA scope: what the thread wrote or read before is ordered before
// whatever follows a wait that observes the phase.
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival, and the phase waits for `bytes` more bytes of asynchronous copies. The expectation
// is added before the arrival, so the phase cannot complete between the two. Order: release, CTA
// scope.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

// One arrival on a barrier of any CTA of the cluster; `barrier` is a shared::cluster address (see
// mapa). Order: release, CTA scope only: cluster scope would cost a fence of all memory on sm_90a,
// and who overwrites through the async proxy what was read through it needs none.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier)
                 : "memory");
}

// Whether the phase of parity `parity` has completed; may suspend the thread for a time that the
// hardware chooses before it answers no. Order on yes: acquire, CTA scope; bytes that asynchronous
// copies delivered to this barrier are visible.
__device__ __forceinline__ bool mbarrier_try_wait_parity(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile(
        "{\n\t.reg .pred complete;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, complete;\n\t}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}

}  // namespace hadal::isa
