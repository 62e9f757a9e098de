// The one rule by which a block of values becomes E4M3 codes and a scale: scale = amax / 448, or 1
// for a block of zeros; code = nearest(value / scale), both IEEE divisions.
#pragma once

#include "isa/convert.cuh"

namespace hadal::quant {

// Scale of a block whose largest magnitude is `amax`.
__device__ __forceinline__ float block_scale(float amax) {
    return amax == 0.0f ? 1.0f : __fdiv_rn(amax, 448.0f);
}

// Codes of four values, `x` in bits 0-7.
__device__ __forceinline__ uint32_t quantise(float4 value, float scale) {
    const uint32_t low = isa::cvt_e4m3x2(__fdiv_rn(value.y, scale), __fdiv_rn(value.x, scale));
    const uint32_t high = isa::cvt_e4m3x2(__fdiv_rn(value.w, scale), __fdiv_rn(value.z, scale));
    return low | high << 16;
}

}  // namespace hadal::quant
