// Adds the shared expert's BF16 output to the combined FP32 output, four elements per thread and step.
#pragma once

#include "moe/warp.cuh"
#include "params/moe.h"

namespace hadal::moe {

// Any grid: each thread strides over the quads by the size of the grid.
__device__ __forceinline__ void add_shared(const hadal_add_shared_params& p) {
    auto* output = reinterpret_cast<float4*>(p.output);
    const auto* shared = reinterpret_cast<const uint2*>(p.shared);
    const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
    for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < p.elements / 4; i += stride) {
        const uint2 s = shared[i];
        float4 sum = output[i];
        sum.x += bf16_low(s.x);
        sum.y += bf16_high(s.x);
        sum.z += bf16_low(s.y);
        sum.w += bf16_high(s.y);
        output[i] = sum;
    }
}

}  // namespace hadal::moe
