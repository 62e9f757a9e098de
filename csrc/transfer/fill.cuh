// Fills device memory with one 32-bit word: the smallest kernel that goes through the whole path.
// Any grid: each thread strides over the words by the size of the grid.
#pragma once

#include "params/fill.h"

namespace hadal::transfer {

__device__ __forceinline__ void fill(const hadal_fill_params& p) {
    const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
    auto* words = reinterpret_cast<uint32_t*>(p.destination);
    for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < p.count; i += stride) {
        words[i] = p.value;
    }
}

}  // namespace hadal::transfer
