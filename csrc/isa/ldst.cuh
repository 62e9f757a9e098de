// Loads, stores and atomics with a stated order and scope, on global memory: one instruction per
// function.
//
// Sources: PTX ISA 9.0, "ld", "st", "atom", "Memory Consistency Model". Addresses are generic
// addresses that lie in global memory (own device, mapped peer, or mapped host memory), naturally
// aligned. Every function is volatile and clobbers memory, so the compiler keeps them, and what
// surrounds them, in program order.
//
// Naming: instruction, order, scope, type; no order in the name means weak. Weak accesses order
// nothing: they become visible to others through a barrier or a release by a thread that is ordered
// after them.
#pragma once

#include <cstdint>

namespace hadal::isa {

// --- signals and credits (written by one rank, polled by another) ---

/// ld.acquire.sys.global.u64. Reader of a signal or credit; what its writer released is visible
/// afterwards.
__device__ __forceinline__ uint64_t ld_acquire_sys_u64(const uint64_t* address) {
    uint64_t value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}

/// ld.relaxed.sys.global.u64. Looks at a word of a peer without ordering anything.
__device__ __forceinline__ uint64_t ld_relaxed_sys_u64(const uint64_t* address) {
    uint64_t value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}

/// st.release.sys.global.u64. Publishes all that is ordered before it, by this thread or (through a
/// barrier) its CTA.
__device__ __forceinline__ void st_release_sys_u64(uint64_t* address, uint64_t value) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

/// st.release.sys.global.u32. As the 64-bit form.
__device__ __forceinline__ void st_release_sys_u32(uint32_t* address, uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

/// red.release.sys.global.add.u64. Adds to a word of a peer; publishes as the store does.
__device__ __forceinline__ void red_add_release_sys_u64(uint64_t* address, uint64_t value) {
    asm volatile("red.release.sys.global.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// --- words private to one device ---

/// ld.relaxed.gpu.global.u32. Looks at a word that other CTAs of this device may change.
__device__ __forceinline__ uint32_t ld_relaxed_gpu_u32(const uint32_t* address) {
    uint32_t value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

/// ld.relaxed.gpu.global.u64. As the 32-bit form.
__device__ __forceinline__ uint64_t ld_relaxed_gpu_u64(const uint64_t* address) {
    uint64_t value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}

/// st.relaxed.gpu.global.u32. Visible to later kernels of the stream through the end of this one.
__device__ __forceinline__ void st_relaxed_gpu_u32(uint32_t* address, uint32_t value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

/// st.relaxed.gpu.global.u64. As the 32-bit form.
__device__ __forceinline__ void st_relaxed_gpu_u64(uint64_t* address, uint64_t value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

/// atom.acq_rel.gpu.global.add.u32, the old value. Joins what the CTAs that came before have
/// released.
__device__ __forceinline__ uint32_t atom_add_acq_rel_gpu_u32(uint32_t* address, uint32_t value) {
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(address), "r"(value)
                 : "memory");
    return old;
}

/// red.relaxed.gpu.global.add.u64. Counts; orders nothing.
__device__ __forceinline__ void red_add_relaxed_gpu_u64(uint64_t* address, uint64_t value) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

/// atom.relaxed.gpu.global.cas.b32, the old value. Elects one thread of the device; orders nothing.
__device__ __forceinline__ uint32_t atom_cas_relaxed_gpu_u32(uint32_t* address, uint32_t compare,
                                                             uint32_t value) {
    uint32_t old;
    asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(old)
                 : "l"(address), "r"(compare), "r"(value)
                 : "memory");
    return old;
}

// --- payload ---

/// ld.global.v4.u32 (weak). For data that other devices wrote: coherent once acquired, unlike the
/// .nc form of memory.cuh.
__device__ __forceinline__ uint4 ld_global_v4(uint64_t address) {
    uint4 value;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address)
                 : "memory");
    return value;
}

/// ld.global.v2 (weak), 8-byte aligned. As the 16-byte form.
__device__ __forceinline__ uint2 ld_global_v2(uint64_t address) {
    uint2 value;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];"
                 : "=r"(value.x), "=r"(value.y)
                 : "l"(address)
                 : "memory");
    return value;
}

/// ld.global.u32 (weak). As the 16-byte form.
__device__ __forceinline__ uint32_t ld_global_u32(uint64_t address) {
    uint32_t value;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

/// ld.global.u16 (weak). As the 16-byte form.
__device__ __forceinline__ uint16_t ld_global_u16(uint64_t address) {
    uint16_t value;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(value) : "l"(address) : "memory");
    return value;
}

/// ld.global.u8 (weak), zero-extended. As the 16-byte form.
__device__ __forceinline__ uint32_t ld_global_u8(uint64_t address) {
    uint32_t value;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

/// ld.global.f32 (weak). As the 16-byte form.
__device__ __forceinline__ float ld_global_f32(uint64_t address) {
    float value;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(address) : "memory");
    return value;
}

}  // namespace hadal::isa
