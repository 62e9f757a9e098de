// Fences. PTX ISA 9.0, "membar / fence" and "Memory Consistency Model: Proxies".
//
// Ordinary loads and stores are accesses of the generic proxy; bulk copies and wgmma's
// shared-memory operands are accesses of the async proxy. Memory written through one and read
// through the other needs a proxy fence between, except where the completion of an asynchronous
// operation implies it (an mbarrier wait for its bytes; wait_group).
#pragma once

namespace hadal::isa {

// Generic accesses of this thread to shared memory, before; async-proxy accesses, after.
__device__ __forceinline__ void fence_proxy_async_shared() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The same for global memory: generic writes before, bulk copies that read them after.
__device__ __forceinline__ void fence_proxy_async_global() {
    asm volatile("fence.proxy.async.global;" ::: "memory");
}

// The same for every state space.
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async;" ::: "memory");
}

// Accesses of this thread by one address of some memory, before; by another address of it, after.
__device__ __forceinline__ void fence_proxy_alias() {
    asm volatile("fence.proxy.alias;" ::: "memory");
}

// Makes this thread's mbarrier.init visible to the async proxy and to the cluster. The threads that
// use the barrier need a CTA or cluster barrier after it.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Acquire and release at CTA scope.
__device__ __forceinline__ void fence_acq_rel_cta() {
    asm volatile("fence.acq_rel.cta;" ::: "memory");
}

// Acquire and release at cluster scope.
__device__ __forceinline__ void fence_acq_rel_cluster() {
    asm volatile("fence.acq_rel.cluster;" ::: "memory");
}

// Acquire and release at the scope of one GPU.
__device__ __forceinline__ void fence_acq_rel_gpu() {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// Acquire and release at the scope of the host and all GPUs.
__device__ __forceinline__ void fence_acq_rel_sys() {
    asm volatile("fence.acq_rel.sys;" ::: "memory");
}

}  // namespace hadal::isa
