// SwiGLU of the gate and up halves of a GEMM's BF16 output: silu(gate) * up, with gate at most `limit`
// and up within ±limit beforehand. The result is stored as BF16, or as E4M3 with one FP32 scale per row
// and 128 columns by the rule of `quant/block_scale.cuh`.
//
// One warp per (row, block of 128 columns), four columns per lane; warps stride over the rows in use of
// their group. Scales are written M-major, as the FP8 GEMM reads those of A.
#pragma once

#include "isa/convert.cuh"
#include "moe/warp.cuh"
#include "params/moe.h"
#include "quant/block_scale.cuh"

namespace hadal::moe {

struct SwigluConfig {
    static constexpr uint32_t kThreads = 256;
    static constexpr uint32_t kWarps = kThreads / kWarp;
    static constexpr uint32_t kBlock = 128;
    static_assert(kBlock == 4 * kWarp, "a lane holds four columns of a block");
};

// Comparisons that are false for a NaN let it pass.
__device__ __forceinline__ float swiglu(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate / (1.0f + expf(-gate)) * up;
}

// Four columns of a row, as one lane handles them.
struct SwigluQuad {
    uint64_t flat;  // row among those of all groups
    uint32_t row;   // within its group
    uint32_t block;
    uint32_t column;

    __device__ __forceinline__ float4 value(const hadal_swiglu_params& p) const {
        const auto* gate_up =
            reinterpret_cast<const uint16_t*>(p.gate_up) + flat * 2 * p.intermediate + column;
        const uint2 gate = *reinterpret_cast<const uint2*>(gate_up);
        const uint2 up = *reinterpret_cast<const uint2*>(gate_up + p.intermediate);
        return {swiglu(bf16_low(gate.x), bf16_low(up.x), p.limit),
                swiglu(bf16_high(gate.x), bf16_high(up.x), p.limit),
                swiglu(bf16_low(gate.y), bf16_low(up.y), p.limit),
                swiglu(bf16_high(gate.y), bf16_high(up.y), p.limit)};
    }
};

// Calls `store(quad)` with whole warps. Grid: x CTAs share a group's rows, y is the group.
template <typename Store>
__device__ __forceinline__ void for_each_swiglu_quad(const hadal_swiglu_params& p, Store store) {
    const uint32_t group = blockIdx.y, lane = threadIdx.x % kWarp;
    const auto* counts = reinterpret_cast<const int32_t*>(p.counts);
    const uint32_t used = counts != nullptr ? static_cast<uint32_t>(max(counts[group], 0)) : p.rows;
    const uint32_t rows = min(used, p.rows);
    const uint32_t blocks = (p.intermediate + SwigluConfig::kBlock - 1) / SwigluConfig::kBlock;
    const uint32_t first = blockIdx.x * SwigluConfig::kWarps + threadIdx.x / kWarp;
    for (uint64_t i = first; i < uint64_t{rows} * blocks; i += gridDim.x * SwigluConfig::kWarps) {
        const auto row = static_cast<uint32_t>(i / blocks), block = static_cast<uint32_t>(i % blocks);
        const uint32_t column = block * SwigluConfig::kBlock + lane * 4;
        store(SwigluQuad{uint64_t{group} * p.rows + row, row, block, column});
    }
}

__device__ __forceinline__ void swiglu_quantise(const hadal_swiglu_params& p) {
    const quant::Rule rule = quant::Rule::of(p.rule);
    for_each_swiglu_quad(p, [&](const SwigluQuad& quad) {
        const float4 value = quad.value(p);
        const float amax = warp_max(fmaxf(fmaxf(fabsf(value.x), fabsf(value.y)),
                                          fmaxf(fabsf(value.z), fabsf(value.w))));
        const float scale = quant::block_scale(amax, rule);
        auto* codes =
            reinterpret_cast<uint8_t*>(p.output) + quad.flat * p.intermediate + quad.column;
        *reinterpret_cast<uint32_t*>(codes) = quant::quantise(value, scale, rule);
        if (threadIdx.x % kWarp == 0) {
            const uint64_t blocks = p.intermediate / SwigluConfig::kBlock;
            reinterpret_cast<float*>(
                p.scales)[(blockIdx.y * blocks + quad.block) * p.scale_stride + quad.row] = scale;
        }
    });
}

__device__ __forceinline__ void swiglu_bf16(const hadal_swiglu_params& p) {
    for_each_swiglu_quad(p, [&](const SwigluQuad& quad) {
        if (quad.column >= p.intermediate) return;
        const float4 value = quad.value(p);
        auto* output =
            reinterpret_cast<uint16_t*>(p.output) + quad.flat * p.intermediate + quad.column;
        *reinterpret_cast<uint2*>(output) = {isa::cvt_bf16x2(value.y, value.x),
                                             isa::cvt_bf16x2(value.w, value.z)};
    });
}

}  // namespace hadal::moe
