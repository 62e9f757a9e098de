// The one rule by which a block of values becomes FP8 codes and a scale.
//
//   amax  = largest |x| of the block, NaN ignored
//   scale = amax == 0 ? 1 : max(amax / largest, 2^-149)   (f32 division, to nearest even)
//   code  = fp8(x / scale)                                (the same; then rn.satfinite)
//
// `largest` is the format's largest value: 448 for E4M3, 57344 for E5M2. The division is by the
// scale as stored, never by way of an inverse, so code * scale is the nearest that the format offers
// and an oracle reproduces every bit with two IEEE divisions. The least scale keeps the quotient of
// a block of tiny f32 values defined.
//
// On request the scale is rounded up to a power of two, at least 2^-126: one that UE8M0 holds
// exactly, whose product with a code is exact in f32.
//
// A NaN gives code 0x7f; an infinity makes the scale infinite, its own code 0x7f, and every finite
// code of the block 0 (which times the scale is NaN: the block is lost, visibly).
#pragma once

#include "isa/convert.cuh"
#include "params/quant.h"

namespace hadal::quant {

struct Rule {
    float largest;
    bool e5m2;
    bool power_of_two;

    // From HADAL_QUANT_* bits.
    __device__ __forceinline__ static Rule of(uint32_t bits) {
        const bool e5m2 = (bits & HADAL_QUANT_E5M2) != 0;
        return {e5m2 ? 57344.0f : 448.0f, e5m2, (bits & HADAL_QUANT_POWER_OF_TWO) != 0};
    }
};

// `value`, which is not negative, rounded up to a power of two of at least 2^-126; infinity stays.
__device__ __forceinline__ float round_up_to_power_of_two(float value) {
    constexpr uint32_t kFraction = 0x7fffff, kLeast = 0x800000;
    return __uint_as_float(max((__float_as_uint(value) + kFraction) & ~kFraction, kLeast));
}

// Scale of a block whose largest magnitude is `amax`.
__device__ __forceinline__ float block_scale(float amax, const Rule& rule) {
    if (amax == 0.0f) return 1.0f;
    const float scale = __fdiv_rn(amax, rule.largest);
    if (rule.power_of_two) return round_up_to_power_of_two(scale);
    return fmaxf(scale, __uint_as_float(1));
}

// Two codes, `low` in bits 0-7.
__device__ __forceinline__ uint32_t encode(float high, float low, const Rule& rule) {
    return rule.e5m2 ? isa::cvt_e5m2x2(high, low) : isa::cvt_e4m3x2(high, low);
}

// Codes of four values, `x` in bits 0-7.
__device__ __forceinline__ uint32_t quantise(float4 value, float scale, const Rule& rule) {
    const uint32_t low = encode(__fdiv_rn(value.y, scale), __fdiv_rn(value.x, scale), rule);
    const uint32_t high = encode(__fdiv_rn(value.w, scale), __fdiv_rn(value.z, scale), rule);
    return low | high << 16;
}

// Values of two codes; `x` from bits 0-7.
__device__ __forceinline__ float2 decode(uint16_t codes, bool e5m2) {
    const uint32_t halves = e5m2 ? isa::cvt_f16x2_e5m2x2(codes) : isa::cvt_f16x2_e4m3x2(codes);
    return {isa::cvt_f32_f16(static_cast<uint16_t>(halves)),
            isa::cvt_f32_f16(static_cast<uint16_t>(halves >> 16))};
}

}  // namespace hadal::quant
