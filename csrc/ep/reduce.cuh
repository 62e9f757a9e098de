// Weighted sums of BF16 rows in f32, one 16-byte vector at a time, and how they are stored.
#pragma once

#include <cstdint>

#include "ep/common.cuh"
#include "isa/convert.cuh"

namespace hadal::ep {

/// Elements of one 16-byte vector of BF16.
constexpr uint32_t kElements = 8;

/// Sum of one vector of one token, in the order of k, from +0.
struct Sum {
    float value[kElements];
};

/// acc = fma(weight, row, acc) for two elements. BF16 to F32 is exact: the value is the upper half
/// of the word.
__device__ __forceinline__ void add_weighted_pair(float* acc, float weight, uint32_t pair) {
    acc[0] = __fmaf_rn(weight, __uint_as_float(pair << 16), acc[0]);
    acc[1] = __fmaf_rn(weight, __uint_as_float(pair & 0xffff0000u), acc[1]);
}

/// acc = fma(weight, row, acc), element by element.
__device__ __forceinline__ void add_weighted(Sum& acc, float weight, const uint4& row) {
    add_weighted_pair(acc.value, weight, row.x);
    add_weighted_pair(acc.value + 2, weight, row.y);
    add_weighted_pair(acc.value + 4, weight, row.z);
    add_weighted_pair(acc.value + 6, weight, row.w);
}

/// Output in F32.
struct StoreF32 {
    static __device__ __forceinline__ void store(uint64_t out, uint64_t element, const Sum& acc) {
        const float* v = acc.value;
        isa::st_global_v4(out + element * 4, uint4{__float_as_uint(v[0]), __float_as_uint(v[1]),
                                                   __float_as_uint(v[2]), __float_as_uint(v[3])});
        isa::st_global_v4(out + element * 4 + kVectorBytes,
                          uint4{__float_as_uint(v[4]), __float_as_uint(v[5]), __float_as_uint(v[6]),
                                __float_as_uint(v[7])});
    }
};

/// Output in BF16, rounded to nearest even.
struct StoreBf16 {
    static __device__ __forceinline__ void store(uint64_t out, uint64_t element, const Sum& acc) {
        const float* v = acc.value;
        isa::st_global_v4(out + element * 2,
                          uint4{isa::cvt_bf16x2(v[1], v[0]), isa::cvt_bf16x2(v[3], v[2]),
                                isa::cvt_bf16x2(v[5], v[4]), isa::cvt_bf16x2(v[7], v[6])});
    }
};

}  // namespace hadal::ep
