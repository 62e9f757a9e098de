// Accesses to the memory of all devices of a multicast object at once. PTX ISA 9.0, "multimem".
//
// An address lies in a mapping of a multicast object, a multiple of the access's 16 bytes. It is
// another name of memory that has ordinary addresses too: fence_proxy_alias stands between accesses
// by different names. In which order ld_reduce adds the devices' values is up to the switch.
#pragma once

#include <cstdint>

namespace hadal::isa {

/// multimem.ld_reduce.relaxed.sys.global.add.v4.f32. Four sums, each over all devices.
__device__ __forceinline__ uint4 multimem_sum_f32(uint64_t address) {
    float x, y, z, w;
    asm volatile("multimem.ld_reduce.relaxed.sys.global.add.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x), "=f"(y), "=f"(z), "=f"(w)
                 : "l"(address)
                 : "memory");
    return uint4{__float_as_uint(x), __float_as_uint(y), __float_as_uint(z), __float_as_uint(w)};
}

/// multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.bf16x2. Eight sums, each over all devices,
/// in f32 and rounded once.
__device__ __forceinline__ uint4 multimem_sum_bf16(uint64_t address) {
    uint4 sums;
    asm volatile(
        "multimem.ld_reduce.relaxed.sys.global.add.acc::f32.v4.bf16x2 {%0, %1, %2, %3}, [%4];"
        : "=r"(sums.x), "=r"(sums.y), "=r"(sums.z), "=r"(sums.w)
        : "l"(address)
        : "memory");
    return sums;
}

/// multimem.st.relaxed.sys.global.v4.f32. Stores 16 bytes to every device, whatever they mean.
__device__ __forceinline__ void multimem_store(uint64_t address, uint4 value) {
    asm volatile("multimem.st.relaxed.sys.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address),
                 "f"(__uint_as_float(value.x)), "f"(__uint_as_float(value.y)),
                 "f"(__uint_as_float(value.z)), "f"(__uint_as_float(value.w))
                 : "memory");
}

}  // namespace hadal::isa
