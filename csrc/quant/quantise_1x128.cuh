// Quantisation of BF16 rows to e4m3 with one f32 scale per 128 columns.
//
//   amax  = largest |x| of the block, NaN ignored
//   scale = amax == 0 ? 1 : amax / 448          (f32 division, to nearest even)
//   code  = e4m3(x / scale)                     (f32 division, to nearest even; then rn.satfinite)
//
// (block_scale.cuh, shared with the kernels that quantise what they have just computed). The
// division is by the scale as stored, never by way of an inverse, so code * scale is the nearest
// that the format offers and an oracle reproduces every bit with two IEEE divisions. 448 is e4m3's
// largest value. A NaN gives code 0x7f; an infinity makes the scale infinite, its own code 0x7f,
// and every finite code of the block 0 (which times the scale is NaN: the block is lost, visibly).
//
// Sixteen lanes hold one block, eight values each. Any grid; 256 threads.
#pragma once

#include <cstdint>

#include "isa/memory.cuh"
#include "params/quant.h"
#include "quant/block_scale.cuh"

namespace hadal::quant {

constexpr uint32_t kBlock = 128;
constexpr uint32_t kLanes = 16;               // per block
constexpr uint32_t kValues = kBlock / kLanes;  // per lane

static_assert(kValues * sizeof(uint16_t) == sizeof(uint4), "a lane loads its values at once");
static_assert(32 % kLanes == 0, "a block lies within one warp");

// The eight values of one lane.
struct Values {
    float x[kValues];

    // From eight BF16: each is the upper half of its f32.
    __device__ __forceinline__ explicit Values(const uint4& packed) {
        const uint32_t words[] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (uint32_t i = 0; i < kValues / 2; ++i) {
            x[2 * i] = __uint_as_float(words[i] << 16);
            x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }

    // Largest magnitude of the block, the same in all its lanes.
    __device__ __forceinline__ float block_amax() const {
        float amax = 0;
#pragma unroll
        for (uint32_t i = 0; i < kValues; ++i) amax = fmaxf(amax, fabsf(x[i]));
#pragma unroll
        for (uint32_t step = kLanes / 2; step != 0; step /= 2) {
            amax = fmaxf(amax, __shfl_xor_sync(0xffffffff, amax, step));
        }
        return amax;
    }

    __device__ __forceinline__ uint2 codes(float scale) const {
        return {quantise({x[0], x[1], x[2], x[3]}, scale),
                quantise({x[4], x[5], x[6], x[7]}, scale)};
    }
};

__device__ __forceinline__ void quantise_1x128(const hadal_quantise_1x128_params& params) {
    const uint64_t total = uint64_t{params.rows} * params.blocks;
    const uint64_t stride = uint64_t{gridDim.x} * blockDim.x / kLanes;
    const uint32_t lane = threadIdx.x % kLanes;
    const uint64_t first = (uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kLanes;
    const uint32_t in_warp = threadIdx.x % 32 / kLanes;
    // The bound is that of the warp's first block, so that all lanes take part in every shuffle.
    for (uint64_t block = first; block - in_warp < total; block += stride) {
        const bool present = block < total;
        const uint64_t value = block * kBlock + lane * kValues;
        uint4 packed = {};
        if (present) packed = isa::ld_global_nc_v4(params.input + value * sizeof(uint16_t));
        const Values values(packed);
        const float amax = values.block_amax();
        const float scale = block_scale(amax);
        if (!present) continue;
        isa::st_global_v2(params.codes + value, values.codes(scale));
        if (lane == 0) {
            const uint64_t row = block / params.blocks;
            const uint64_t at = row * params.scale_row_stride +
                                (block - row * params.blocks) * params.scale_block_stride;
            isa::st_global_f32(params.scales + at * sizeof(float), scale);
        }
    }
}

}  // namespace hadal::quant
