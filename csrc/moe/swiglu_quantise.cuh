// SwiGLU of the gate and up halves of a GEMM's BF16 output, quantised to E4M3 with one FP32 scale per
// row and 128 columns: scale = amax / 448 (1 for a block of zeros), code = nearest(value / scale).
//
// One warp per (row, block of 128 columns), four columns per lane; warps stride over the rows in use of
// their group. Scales are written M-major, as the FP8 GEMM reads those of A.
#pragma once

#include "moe/warp.cuh"
#include "params/moe.h"
#include "quant/block_scale.cuh"

namespace hadal::moe {

struct SwigluConfig {
    static constexpr uint32_t kThreads = 256;
    static constexpr uint32_t kWarps = kThreads / kWarp;
    static constexpr uint32_t kBlock = 128;
};

__device__ __forceinline__ float swiglu(float gate, float up) {
    return gate / (1.0f + expf(-gate)) * up;
}

// Grid: x CTAs share a group's rows, y is the group.
__device__ __forceinline__ void swiglu_quantise(const hadal_swiglu_quantise_params& p) {
    static_assert(SwigluConfig::kBlock == 4 * kWarp, "a lane holds four columns of a block");
    const uint32_t group = blockIdx.y, lane = threadIdx.x % kWarp;
    const auto* counts = reinterpret_cast<const int32_t*>(p.counts);
    const uint32_t used = counts != nullptr ? static_cast<uint32_t>(max(counts[group], 0)) : p.rows;
    const uint32_t rows = min(used, p.rows);
    const uint32_t blocks = p.intermediate / SwigluConfig::kBlock;
    const uint32_t first = blockIdx.x * SwigluConfig::kWarps + threadIdx.x / kWarp;
    for (uint64_t i = first; i < uint64_t{rows} * blocks; i += gridDim.x * SwigluConfig::kWarps) {
        const auto row = static_cast<uint32_t>(i / blocks), block = static_cast<uint32_t>(i % blocks);
        const uint64_t flat = uint64_t{group} * p.rows + row;
        const uint32_t column = block * SwigluConfig::kBlock + lane * 4;
        const auto* gate_up =
            reinterpret_cast<const uint16_t*>(p.gate_up) + flat * 2 * p.intermediate + column;
        const uint2 gate = *reinterpret_cast<const uint2*>(gate_up);
        const uint2 up = *reinterpret_cast<const uint2*>(gate_up + p.intermediate);
        const float4 value = {swiglu(bf16_low(gate.x), bf16_low(up.x)),
                              swiglu(bf16_high(gate.x), bf16_high(up.x)),
                              swiglu(bf16_low(gate.y), bf16_low(up.y)),
                              swiglu(bf16_high(gate.y), bf16_high(up.y))};
        const float amax = warp_max(fmaxf(fmaxf(fabsf(value.x), fabsf(value.y)),
                                          fmaxf(fabsf(value.z), fabsf(value.w))));
        const quant::Rule rule = quant::Rule::of(0);
        const float scale = quant::block_scale(amax, rule);
        auto* codes = reinterpret_cast<uint8_t*>(p.codes) + flat * p.intermediate + column;
        *reinterpret_cast<uint32_t*>(codes) = quant::quantise(value, scale, rule);
        if (lane == 0) {
            reinterpret_cast<float*>(
                p.scales)[(uint64_t{group} * blocks + block) * p.scale_stride + row] = scale;
        }
    }
}

}  // namespace hadal::moe
