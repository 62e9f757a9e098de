// Quantisation of BF16 rows to FP8 with one f32 scale per 128 columns, by the rule of
// block_scale.cuh. The last block of a row may be narrower; its scale counts what is there.
//
// Sixteen lanes hold one block, eight values each. Any grid; 256 threads.
#pragma once

#include "isa/memory.cuh"
#include "quant/values.cuh"

namespace hadal::quant {

__device__ __forceinline__ void quantise_1x128(const hadal_quantise_1x128_params& params) {
    const Rule rule = Rule::of(params.rule);
    const uint32_t blocks = (params.columns + kBlock - 1) / kBlock;
    const uint32_t total = params.slots * params.rows * blocks;
    const uint32_t stride = gridDim.x * (blockDim.x / kLanes);
    const uint32_t lane = threadIdx.x % kLanes;
    const uint32_t first = (blockIdx.x * blockDim.x + threadIdx.x) / kLanes;
    const uint32_t in_warp = threadIdx.x % 32 / kLanes;
    // The bound is that of the warp's first block, so that all lanes take part in every shuffle.
    for (uint32_t index = first; index - in_warp < total; index += stride) {
        const uint32_t row = index / blocks;
        const uint32_t block = index - row * blocks;
        const uint32_t column = block * kBlock + lane * kValues;
        const bool present = index < total && column < params.columns;
        const uint64_t at = uint64_t{row} * params.columns + column;
        uint4 packed = {};
        if (present) packed = isa::ld_global_nc_v4(params.input + at * sizeof(uint16_t));
        const Values values(packed);
        const float amax = largest_of_lanes<kLanes>(values.amax());
        const float scale = block_scale(amax, rule);
        if (!present) continue;
        isa::st_global_v2(params.codes + at, values.codes(scale, rule));
        if (lane == 0) {
            const uint32_t slot = row / params.rows;
            const uint64_t to = slot * params.scale_slot_stride +
                                (row - slot * params.rows) * params.scale_row_stride +
                                block * params.scale_block_stride;
            isa::st_global_f32(params.scales + to * sizeof(float), scale);
        }
    }
}

}  // namespace hadal::quant
