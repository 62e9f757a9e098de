// Transposition of f32 matrices with pitches: scales `[rows, blocks]` as they come from outside to
// the lines that the GEMM reads, and back. Bits are copied as they are; padding is not written.
//
// Tiles of 32 x 32 pass through shared memory, so that both sides are read and written along their
// rows. Any grid; 256 threads.
#pragma once

#include "isa/memory.cuh"
#include "params/quant.h"

namespace hadal::quant {

__device__ __forceinline__ void transpose_scales(const hadal_transpose_scales_params& params) {
    constexpr uint32_t kTile = 32, kLines = 256 / kTile;
    __shared__ uint32_t tile[kTile][kTile + 1];  // one more against bank conflicts
    const uint32_t row_tiles = (params.rows + kTile - 1) / kTile;
    const uint32_t column_tiles = (params.columns + kTile - 1) / kTile;
    const uint32_t total = params.slots * row_tiles * column_tiles;
    const uint32_t x = threadIdx.x % kTile, y = threadIdx.x / kTile;
    for (uint32_t index = blockIdx.x; index < total; index += gridDim.x) {
        const uint32_t line = index / column_tiles;
        const uint32_t slot = line / row_tiles;
        const uint32_t row = (line - slot * row_tiles) * kTile;
        const uint32_t column = (index - line * column_tiles) * kTile;
        const uint64_t from = uint64_t{slot} * params.rows * params.input_pitch;
        const uint64_t to = uint64_t{slot} * params.columns * params.output_pitch;
#pragma unroll
        for (uint32_t i = y; i < kTile; i += kLines) {
            if (row + i >= params.rows || column + x >= params.columns) continue;
            const uint64_t at = from + uint64_t{row + i} * params.input_pitch + column + x;
            tile[i][x] = isa::ld_global_nc_u32(params.input + at * sizeof(uint32_t));
        }
        __syncthreads();
#pragma unroll
        for (uint32_t i = y; i < kTile; i += kLines) {
            if (column + i >= params.columns || row + x >= params.rows) continue;
            const uint64_t at = to + uint64_t{column + i} * params.output_pitch + row + x;
            isa::st_global_u32(params.output + at * sizeof(uint32_t), tile[x][i]);
        }
        __syncthreads();
    }
}

}  // namespace hadal::quant
