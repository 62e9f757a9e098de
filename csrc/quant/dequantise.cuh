// Values of FP8 codes and their scales as BF16: bf16(code * scale), where the product is rounded to
// f32 and then to BF16, each to nearest even. A NaN is 0x7fff.
//
// A thread converts 16 neighbouring codes of a row. Any grid, any threads.
#pragma once

#include "isa/memory.cuh"
#include "quant/block_scale.cuh"

namespace hadal::quant {

// Two BF16 from two codes of a word, the first in bits 0-7 of `codes`.
__device__ __forceinline__ uint32_t dequantise_pair(uint32_t codes, float scale, bool e5m2) {
    const float2 value = decode(static_cast<uint16_t>(codes), e5m2);
    return isa::cvt_bf16x2(__fmul_rn(value.y, scale), __fmul_rn(value.x, scale));
}

__device__ __forceinline__ void dequantise(const hadal_dequantise_params& params) {
    constexpr uint32_t kCodes = 16, kBlockLog2 = 7;
    static_assert((1u << kBlockLog2) % kCodes == 0, "a thread's codes share a scale");
    const bool e5m2 = (params.rule & HADAL_QUANT_E5M2) != 0;
    const uint32_t chunks = params.columns / kCodes;  // of a row
    const uint32_t total = params.slots * params.rows * chunks;
    const uint32_t stride = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const uint32_t row = i / chunks;
        const uint32_t slot = row / params.rows;
        const uint32_t block = (i - row * chunks) * kCodes >> kBlockLog2;
        const uint64_t scale_at =
            slot * params.scale_slot_stride +
            (row - slot * params.rows >> params.rows_log2) * params.scale_row_stride +
            block * params.scale_block_stride;
        const float scale = isa::ld_global_nc_f32(params.scales + scale_at * sizeof(float));
        const uint64_t at = uint64_t{i} * kCodes;
        const uint4 codes = isa::ld_global_nc_v4(params.codes + at);
        const uint32_t words[] = {codes.x, codes.y, codes.z, codes.w};
        uint32_t pairs[kCodes / 2];
#pragma unroll
        for (uint32_t j = 0; j < kCodes / 2; ++j) {
            pairs[j] = dequantise_pair(words[j / 2] >> (j % 2 * 16), scale, e5m2);
        }
        const uint64_t to = params.output + at * sizeof(uint16_t);
        isa::st_global_v4(to, {pairs[0], pairs[1], pairs[2], pairs[3]});
        isa::st_global_v4(to + sizeof(uint4), {pairs[4], pairs[5], pairs[6], pairs[7]});
    }
}

}  // namespace hadal::quant
