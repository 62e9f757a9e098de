// Thread-block clusters. PTX ISA 9.0, "barrier.cluster", "mapa", "Special Registers".
#pragma once

#include <cstdint>

namespace hadal::isa {

// Rank of this CTA in its cluster.
__device__ __forceinline__ uint32_t cluster_ctarank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// CTAs in this cluster.
__device__ __forceinline__ uint32_t cluster_nctarank() {
    uint32_t count;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    return count;
}

// The shared::cluster address, in CTA `rank` of the cluster, of what `address` names in this CTA.
__device__ __forceinline__ uint32_t mapa(uint32_t address, uint32_t rank) {
    uint32_t mapped;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

// Arrives at the cluster barrier; all threads of all CTAs, converged warps. Order: release,
// cluster.
__device__ __forceinline__ void barrier_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

// Arrives without giving any order.
__device__ __forceinline__ void relaxed_barrier_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

// Waits for all threads of the cluster to arrive. Order: acquire, cluster.
__device__ __forceinline__ void barrier_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

}  // namespace hadal::isa
