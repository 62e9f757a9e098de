// Weak loads and stores of global and shared memory in fixed widths, and the address forms that the
// asynchronous instructions take. PTX ISA 9.0, "ld", "ld.global.nc", "st", "stmatrix". Scoped
// (acquire, release, relaxed) forms are in ldst.cuh.
//
// Weak accesses give no order: they need a barrier, an mbarrier or a kernel boundary between writer
// and reader.
#pragma once

#include <cstdint>

namespace hadal::isa {

// The 32-bit shared::cta address of an object in shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* object) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(object));
}

// f32 that no thread of any kernel writes while this one runs; `address` is a global address.
__device__ __forceinline__ float ld_global_nc_f32(uint64_t address) {
    float value;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(address));
    return value;
}

// Two f32, 8-byte aligned.
__device__ __forceinline__ float2 ld_global_f32x2(uint64_t address) {
    float2 value;
    asm volatile("ld.global.v2.f32 {%0, %1}, [%2];"
                 : "=f"(value.x), "=f"(value.y)
                 : "l"(address)
                 : "memory");
    return value;
}

// 16 bytes that no thread of any kernel writes while this one runs.
__device__ __forceinline__ uint4 ld_global_nc_v4(uint64_t address) {
    uint4 value;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
}

// 4 bytes that no thread of any kernel writes while this one runs.
__device__ __forceinline__ uint32_t ld_global_nc_u32(uint64_t address) {
    uint32_t value;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(address));
    return value;
}

// 2 bytes that no thread of any kernel writes while this one runs.
__device__ __forceinline__ uint16_t ld_global_nc_u16(uint64_t address) {
    uint16_t value;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(value) : "l"(address));
    return value;
}

// 32-bit integer.
__device__ __forceinline__ int32_t ld_global_s32(uint64_t address) {
    int32_t value;
    asm volatile("ld.global.s32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

// f32.
__device__ __forceinline__ void st_global_f32(uint64_t address, float value) {
    asm volatile("st.global.f32 [%0], %1;" ::"l"(address), "f"(value) : "memory");
}

// 1 byte, the low one.
__device__ __forceinline__ void st_global_u8(uint64_t address, uint32_t value) {
    asm volatile("st.global.u8 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// 2 bytes.
__device__ __forceinline__ void st_global_u16(uint64_t address, uint16_t value) {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(address), "h"(value) : "memory");
}

// 4 bytes.
__device__ __forceinline__ void st_global_u32(uint64_t address, uint32_t value) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// 8 bytes.
__device__ __forceinline__ void st_global_v2(uint64_t address, uint2 value) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(address), "r"(value.x), "r"(value.y)
                 : "memory");
}

// 16 bytes.
__device__ __forceinline__ void st_global_v4(uint64_t address, uint4 value) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(value.x),
                 "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
}

// f32 of shared memory.
__device__ __forceinline__ float ld_shared_f32(uint32_t address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

// Two f32 of shared memory, 8-byte aligned.
__device__ __forceinline__ float2 ld_shared_f32x2(uint32_t address) {
    float2 value;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(value.x), "=f"(value.y)
                 : "r"(address)
                 : "memory");
    return value;
}

// 16 bytes of shared memory.
__device__ __forceinline__ uint4 ld_shared_v4(uint32_t address) {
    uint4 value;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(address)
                 : "memory");
    return value;
}

// Two f32 to shared memory, 8-byte aligned.
__device__ __forceinline__ void st_shared_f32x2(uint32_t address, float2 value) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(value.x), "f"(value.y)
                 : "memory");
}

// Four 8x8 matrices of 16-bit elements from the registers of a converged warp to shared memory.
// Lane l gives in `address` where row l % 8 of matrix l / 8 begins (16-byte aligned). Register i of
// lane l holds elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix i.
__device__ __forceinline__ void stmatrix_x4(uint32_t address, uint4 matrices) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(matrices.x), "r"(matrices.y), "r"(matrices.z), "r"(matrices.w)
                 : "memory");
}

// Two 8x8 matrices, transposed: as above, but what a lane holds of a row goes to a column. Lanes 0
// to 15 give the addresses.
__device__ __forceinline__ void stmatrix_x2_trans(uint32_t address, uint32_t first,
                                                  uint32_t second) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
                 "r"(first), "r"(second)
                 : "memory");
}

}  // namespace hadal::isa
