// TMA: tensor and bulk copies of the async proxy. PTX ISA 9.0, "cp.async.bulk" and
// "cp.async.bulk.tensor".
//
// One thread issues. A load announces its bytes to an mbarrier of the destination CTA (complete_tx
// counts the whole box, out-of-bounds elements included: those arrive as zeros); waiting on that
// barrier is all a reader needs. A store belongs to the bulk group of the issuing thread: only that
// thread can wait for it. A copy orders nothing but its own bytes.
//
// Addresses in shared memory are 32-bit and 16-byte aligned (128 for tensor copies, 1024 where the
// map swizzles by 128 bytes). Coordinates count elements, innermost dimension first.
#pragma once

#include <cstdint>

#include "params/tensor_map.h"

namespace hadal::isa {

// Brings a tensor map (in kernel parameters or constant memory) near before its first use. A hint.
__device__ __forceinline__ void prefetch_tensormap(const hadal_tensor_map& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Global -> shared, one box of a 2-D tensor.
__device__ __forceinline__ void tma_load_2d(uint32_t destination, const hadal_tensor_map& map,
                                            uint32_t barrier, int32_t x, int32_t y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4}], [%2];" ::"r"(destination),
        "l"(&map), "r"(barrier), "r"(x), "r"(y)
        : "memory");
}

// Global -> shared, one box of a 3-D tensor.
__device__ __forceinline__ void tma_load_3d(uint32_t destination, const hadal_tensor_map& map,
                                            uint32_t barrier, int32_t x, int32_t y, int32_t z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(destination),
        "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z)
        : "memory");
}

// Global -> the same shared address of every CTA of the cluster whose bit is set in `ctas`; each
// destination's barrier (same offset) counts its own bytes.
__device__ __forceinline__ void tma_load_2d_multicast(uint32_t destination,
                                                      const hadal_tensor_map& map, uint32_t barrier,
                                                      uint16_t ctas, int32_t x, int32_t y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(destination),
        "l"(&map), "r"(barrier), "h"(ctas), "r"(x), "r"(y)
        : "memory");
}

// Shared -> global, one box of a 2-D tensor; what lies out of bounds is not written. Generic writes
// to the source need fence_proxy_async_shared first.
__device__ __forceinline__ void tma_store_2d(const hadal_tensor_map& map, uint32_t source,
                                             int32_t x, int32_t y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group "
        "[%0, {%2, %3}], [%1];" ::"l"(&map),
        "r"(source), "r"(x), "r"(y)
        : "memory");
}

// Shared -> global, one box of a 3-D tensor.
__device__ __forceinline__ void tma_store_3d(const hadal_tensor_map& map, uint32_t source,
                                             int32_t x, int32_t y, int32_t z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group "
        "[%0, {%2, %3, %4}], [%1];" ::"l"(&map),
        "r"(source), "r"(x), "r"(y), "r"(z)
        : "memory");
}

// Global -> shared, `bytes` (a multiple of 16) contiguous bytes; completes on `barrier`.
__device__ __forceinline__ void bulk_load(uint32_t destination, const void* source, uint32_t bytes,
                                          uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(destination),
        "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier)
        : "memory");
}

// Shared -> global (a peer's memory is a legal target), `bytes` (a multiple of 16).
__device__ __forceinline__ void bulk_store(void* destination, uint32_t source, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(destination)),
                 "r"(source), "r"(bytes)
                 : "memory");
}

// Closes this thread's current bulk group.
__device__ __forceinline__ void bulk_commit_group() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most kPending of this thread's bulk groups are unfinished. The writes of the
// others are then visible to this thread, which may publish them with a release.
template <int kPending>
__device__ __forceinline__ void bulk_wait_group() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}

// Waits until at most kPending groups may still read their sources: the sources may be overwritten,
// and nothing more. It publishes nothing.
template <int kPending>
__device__ __forceinline__ void bulk_wait_group_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

}  // namespace hadal::isa
