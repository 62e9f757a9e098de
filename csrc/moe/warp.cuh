// Warp-wide reductions by butterfly shuffles: every lane ends with the same value.
#pragma once

#include <cstdint>

namespace hadal::moe {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffff;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (uint32_t step = kWarp / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, step);
    }
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (uint32_t step = kWarp / 2; step > 0; step /= 2) {
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
    }
    return value;
}

__device__ __forceinline__ uint64_t warp_max(uint64_t value) {
#pragma unroll
    for (uint32_t step = kWarp / 2; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(kAllLanes, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// The two BF16 values of a word, exactly.
__device__ __forceinline__ float bf16_low(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float bf16_high(uint32_t word) {
    return __uint_as_float(word & 0xffff0000u);
}

}  // namespace hadal::moe
