// Scales as powers of two in one byte each (UE8M0: value 2^(code - 127), 0xff is NaN), four blocks
// of a row in a word, words stored M-major: the layout that block-scaled kernels of later GPUs
// read, first block in bits 0-7.
//
// Rounding is that of `cvt.rp.ue8m0x2.f32` (PTX ISA 9.0; an instruction that sm_90 does not have):
// the sign is ignored, the next power of two above; what is beyond 2^127, infinity and NaN give
// 0xff; zero and what is below 2^-127 give 0. A power of two keeps its value.
//
// A thread has one word. Any grid, any threads.
#pragma once

#include "isa/memory.cuh"
#include "params/quant.h"

namespace hadal::quant {

constexpr uint32_t kScalesPerWord = 4;
constexpr uint32_t kNanCode = 0xff;

__device__ __forceinline__ uint32_t to_ue8m0(float scale) {
    constexpr uint32_t kMagnitude = 0x7fffffff, kFraction = 0x7fffff, kLeast = 0x400000;
    const uint32_t bits = __float_as_uint(scale) & kMagnitude;
    return bits <= kLeast ? 0 : min((bits + kFraction) >> 23, kNanCode);
}

__device__ __forceinline__ float from_ue8m0(uint32_t code) {
    constexpr uint32_t kLeast = 0x400000, kNan = 0x7fffffff;
    const uint32_t bits = code << 23;
    return __uint_as_float(code == 0 ? kLeast : code == kNanCode ? kNan : bits);
}

// Where one word and its scales are.
struct Ue8m0Word {
    uint64_t packed;  // address of the word
    uint64_t scales;  // address of its first scale
    uint32_t count;   // blocks that it has

    __device__ __forceinline__ Ue8m0Word(const hadal_ue8m0_params& params, uint32_t index) {
        const uint32_t words = (params.blocks + kScalesPerWord - 1) / kScalesPerWord;
        const uint32_t line = index / params.rows;
        const uint32_t row = index - line * params.rows;
        const uint32_t slot = line / words;
        const uint32_t block = (line - slot * words) * kScalesPerWord;
        const uint64_t at = slot * params.scale_slot_stride + row * params.scale_row_stride +
                            block * params.scale_block_stride;
        packed = params.packed + (uint64_t{line} * params.packed_stride + row) * sizeof(uint32_t);
        scales = params.scales + at * sizeof(float);
        count = min(params.blocks - block, kScalesPerWord);
    }
};

__device__ __forceinline__ uint32_t ue8m0_words(const hadal_ue8m0_params& params) {
    return params.slots * params.rows * ((params.blocks + kScalesPerWord - 1) / kScalesPerWord);
}

// Bytes of blocks that a row does not have are 0.
__device__ __forceinline__ void pack_ue8m0(const hadal_ue8m0_params& params) {
    const uint32_t total = ue8m0_words(params);
    const uint32_t stride = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const Ue8m0Word word(params, i);
        uint32_t packed = 0;
#pragma unroll
        for (uint32_t j = 0; j < kScalesPerWord; ++j) {
            if (j >= word.count) break;
            const uint64_t at = word.scales + j * params.scale_block_stride * sizeof(float);
            packed |= to_ue8m0(isa::ld_global_nc_f32(at)) << (8 * j);
        }
        isa::st_global_u32(word.packed, packed);
    }
}

__device__ __forceinline__ void unpack_ue8m0(const hadal_ue8m0_params& params) {
    const uint32_t total = ue8m0_words(params);
    const uint32_t stride = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += stride) {
        const Ue8m0Word word(params, i);
        const uint32_t packed = isa::ld_global_nc_u32(word.packed);
#pragma unroll
        for (uint32_t j = 0; j < kScalesPerWord; ++j) {
            if (j >= word.count) break;
            const uint64_t at = word.scales + j * params.scale_block_stride * sizeof(float);
            isa::st_global_f32(at, from_ue8m0(packed >> (8 * j) & 0xff));
        }
    }
}

}  // namespace hadal::quant
