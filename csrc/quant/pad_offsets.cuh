// Where groups begin once each is padded to a multiple of 128 rows: padded[0] = 0, padded[g + 1] =
// padded[g] + rows of group g rounded up, cut off at `k`. Offsets are read as the GEMM reads them:
// below 0 as 0, above `rows` as that, and a group that ends before it begins is empty.
//
// One warp scans the groups, 32 at a time. One CTA of 32 threads.
#pragma once

#include "isa/memory.cuh"
#include "params/quant.h"

namespace hadal::quant {

// Entry `index` of a table of offsets at `table`, held between 0 and `most`.
__device__ __forceinline__ uint32_t offset_entry(uint64_t table, uint32_t index, uint32_t most) {
    const int32_t entry = isa::ld_global_s32(table + uint64_t{index} * sizeof(int32_t));
    return min(static_cast<uint32_t>(max(0, entry)), most);
}

__device__ __forceinline__ void pad_offsets(const hadal_pad_offsets_params& params) {
    constexpr uint32_t kMultiple = 128, kAll = 0xffffffff, kLast = 31;
    const uint32_t lane = threadIdx.x;
    uint32_t before = 0;  // padded rows of the groups so far; at most k
    for (uint32_t first = 0; first < params.groups; first += 32) {
        const uint32_t group = first + lane;
        uint32_t sum = 0;
        if (group < params.groups) {
            const uint32_t begin = offset_entry(params.offsets, group, params.rows);
            const uint32_t end = offset_entry(params.offsets, group + 1, params.rows);
            const uint32_t rows = max(end, begin) - begin;
            sum = min((rows + kMultiple - 1) / kMultiple * kMultiple, params.k);
        }
#pragma unroll
        for (uint32_t step = 1; step < 32; step *= 2) {
            const uint32_t other = __shfl_up_sync(kAll, sum, step);
            // Held at k in each step, so that no table makes the sum wrap.
            if (lane >= step) sum = min(sum + other, params.k);
        }
        sum = min(before + sum, params.k);
        if (group < params.groups) {
            const uint64_t at = params.padded + (uint64_t{group} + 1) * sizeof(uint32_t);
            isa::st_global_u32(at, sum);
        }
        before = __shfl_sync(kAll, sum, kLast);
    }
    if (lane == 0) isa::st_global_u32(params.padded, 0);
}

}  // namespace hadal::quant
