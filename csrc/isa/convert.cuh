// Conversions between f32 and the narrow formats. PTX ISA 9.0, "cvt".
#pragma once

#include <cstdint>

namespace hadal::isa {

// Two e4m3 codes, `low` in bits 0-7: round to nearest even, beyond +-448 to +-448, NaN to 0x7f.
__device__ __forceinline__ uint16_t cvt_e4m3x2(float high, float low) {
    uint16_t codes;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    return codes;
}

// Two e5m2 codes, `low` in bits 0-7: round to nearest even, beyond +-57344 to +-57344, NaN to 0x7f.
__device__ __forceinline__ uint16_t cvt_e5m2x2(float high, float low) {
    uint16_t codes;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    return codes;
}

// Two f16 values, exact, from two e4m3 codes; the lower code in bits 0-15.
__device__ __forceinline__ uint32_t cvt_f16x2_e4m3x2(uint16_t codes) {
    uint32_t packed;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(packed) : "h"(codes));
    return packed;
}

// Two f16 values, exact, from two e5m2 codes; the lower code in bits 0-15.
__device__ __forceinline__ uint32_t cvt_f16x2_e5m2x2(uint16_t codes) {
    uint32_t packed;
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(packed) : "h"(codes));
    return packed;
}

// f32 of the f16 whose bits are given, exact.
__device__ __forceinline__ float cvt_f32_f16(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Two BF16 values, `low` in bits 0-15: round to nearest even.
__device__ __forceinline__ uint32_t cvt_bf16x2(float high, float low) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

}  // namespace hadal::isa
