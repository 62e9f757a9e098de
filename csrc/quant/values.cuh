// Eight neighbouring BF16 values of a row, as one lane holds them: sixteen lanes have a row of a
// block of 128 columns.
#pragma once

#include <cstdint>

#include "quant/block_scale.cuh"

namespace hadal::quant {

constexpr uint32_t kBlock = 128;
constexpr uint32_t kLanes = 16;                // per row of a block
constexpr uint32_t kValues = kBlock / kLanes;  // per lane

static_assert(kValues * sizeof(uint16_t) == sizeof(uint4), "a lane loads its values at once");
static_assert(32 % kLanes == 0, "a row of a block lies within one warp");

// Two values from two BF16: each is the upper half of its f32.
__device__ __forceinline__ float2 from_bf16x2(uint32_t word) {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

struct Values {
    float x[kValues];

    __device__ __forceinline__ explicit Values(const uint4& packed) {
        const uint32_t words[] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (uint32_t i = 0; i < kValues / 2; ++i) {
            const float2 pair = from_bf16x2(words[i]);
            x[2 * i] = pair.x;
            x[2 * i + 1] = pair.y;
        }
    }

    // Largest magnitude of this lane's values.
    __device__ __forceinline__ float amax() const {
        float amax = 0;
#pragma unroll
        for (uint32_t i = 0; i < kValues; ++i) amax = fmaxf(amax, fabsf(x[i]));
        return amax;
    }

    __device__ __forceinline__ uint2 codes(float scale, const Rule& rule) const {
        return {quantise({x[0], x[1], x[2], x[3]}, scale, rule),
                quantise({x[4], x[5], x[6], x[7]}, scale, rule)};
    }
};

// Largest of `kCount` neighbouring lanes, a power of two, in each of them.
template <uint32_t kCount>
__device__ __forceinline__ float largest_of_lanes(float value) {
    static_assert(kCount <= 32 && (kCount & (kCount - 1)) == 0, "lanes of one warp, halved");
#pragma unroll
    for (uint32_t step = kCount / 2; step != 0; step /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, step));
    }
    return value;
}

}  // namespace hadal::quant
