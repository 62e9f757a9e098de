// Quantisation of BF16 matrices (weights) to FP8 with one f32 scale per 128 x 128, by the rule of
// block_scale.cuh. Blocks at the lower and right edges may be smaller; their scales count what is
// there.
//
// A CTA holds a block in registers, between the reading that finds its scale and the writing that
// uses it. Any grid; 256 threads.
#pragma once

#include "isa/memory.cuh"
#include "quant/values.cuh"

namespace hadal::quant {

struct Quantise128x128Config {
    static constexpr uint32_t kThreads = 256;
    static constexpr uint32_t kWarps = kThreads / 32;
    static constexpr uint32_t kRows = kThreads / kLanes;  // that the CTA reads at a time
    static constexpr uint32_t kSteps = kBlock / kRows;
};

__device__ __forceinline__ void quantise_128x128(const hadal_quantise_128x128_params& params) {
    using Config = Quantise128x128Config;
    static_assert(Config::kSteps * Config::kRows == kBlock, "steps cover a block");
    // Two, so that a warp may enter the next block while another still reads.
    __shared__ float partial[2][Config::kWarps];
    const Rule rule = Rule::of(params.rule);
    const uint32_t row_blocks = (params.rows + kBlock - 1) / kBlock;
    const uint32_t blocks = (params.columns + kBlock - 1) / kBlock;
    const uint32_t total = params.slots * row_blocks * blocks;
    const uint32_t lane = threadIdx.x % kLanes;
    uint32_t turn = 0;
    for (uint32_t index = blockIdx.x; index < total; index += gridDim.x, turn ^= 1) {
        const uint32_t line = index / blocks;
        const uint32_t slot = line / row_blocks;
        const uint32_t column = (index - line * blocks) * kBlock + lane * kValues;
        const uint32_t first = (line - slot * row_blocks) * kBlock + threadIdx.x / kLanes;
        uint4 packed[Config::kSteps] = {};
        float amax = 0;
#pragma unroll
        for (uint32_t i = 0; i < Config::kSteps; ++i) {
            const uint32_t row = first + i * Config::kRows;
            const uint64_t at = (uint64_t{slot} * params.rows + row) * params.columns + column;
            if (row < params.rows && column < params.columns) {
                packed[i] = isa::ld_global_nc_v4(params.input + at * sizeof(uint16_t));
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < Config::kSteps; ++i) amax = fmaxf(amax, Values(packed[i]).amax());
        amax = largest_of_lanes<32>(amax);
        if (threadIdx.x % 32 == 0) partial[turn][threadIdx.x / 32] = amax;
        __syncthreads();
#pragma unroll
        for (uint32_t i = 0; i < Config::kWarps; ++i) amax = fmaxf(amax, partial[turn][i]);
        const float scale = block_scale(amax, rule);
        if (threadIdx.x == 0) {
            isa::st_global_f32(params.scales + uint64_t{index} * sizeof(float), scale);
        }
#pragma unroll
        for (uint32_t i = 0; i < Config::kSteps; ++i) {
            const uint32_t row = first + i * Config::kRows;
            const uint64_t at = (uint64_t{slot} * params.rows + row) * params.columns + column;
            if (row < params.rows && column < params.columns) {
                isa::st_global_v2(params.codes + at, Values(packed[i]).codes(scale, rule));
            }
        }
    }
}

}  // namespace hadal::quant
