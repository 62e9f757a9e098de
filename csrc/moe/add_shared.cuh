// The combined FP32 rows plus the shared expert's BF16 rows, four elements per thread and step; the sum, in FP32, is
// stored as FP32 or rounded to BF16.
#pragma once

#include "isa/convert.cuh"
#include "moe/warp.cuh"
#include "params/moe.h"

namespace hadal::moe {

__device__ __forceinline__ void store_sum(float4* output, uint64_t quad, float4 sum) { output[quad] = sum; }

__device__ __forceinline__ void store_sum(uint2* output, uint64_t quad, float4 sum) {
    output[quad] = {isa::cvt_bf16x2(sum.y, sum.x), isa::cvt_bf16x2(sum.w, sum.z)};
}

// Any grid: each thread strides over the quads by the size of the grid. A quad is read before it is written, so
// that `output` may be `combined`.
template <typename Quad>
__device__ __forceinline__ void add_shared(const hadal_add_shared_params& p) {
    const auto* combined = reinterpret_cast<const float4*>(p.combined);
    const auto* shared = reinterpret_cast<const uint2*>(p.shared);
    auto* output = reinterpret_cast<Quad*>(p.output);
    const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
    for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < p.elements / 4; i += stride) {
        const uint2 s = shared[i];
        float4 sum = combined[i];
        sum.x += bf16_low(s.x);
        sum.y += bf16_high(s.x);
        sum.z += bf16_low(s.y);
        sum.w += bf16_high(s.y);
        store_sum(output, i, sum);
    }
}

__device__ __forceinline__ void add_shared_f32(const hadal_add_shared_params& p) { add_shared<float4>(p); }
__device__ __forceinline__ void add_shared_bf16(const hadal_add_shared_params& p) { add_shared<uint2>(p); }

}  // namespace hadal::moe
