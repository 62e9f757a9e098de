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

// Two BF16 values, `low` in bits 0-15: round to nearest even.
__device__ __forceinline__ uint32_t cvt_bf16x2(float high, float low) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

}  // namespace hadal::isa
