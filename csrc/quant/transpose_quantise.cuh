// Transposition of rows in groups, quantised along the new rows: what a weight gradient multiplies.
// The input is `[rows, columns]`, the rows of group g from offsets[g] to offsets[g + 1]; the output
// `[columns, k]`, where they are columns padded[g] to padded[g + 1], zeros behind the group's last
// row. One scale per column of the input and 128 rows, M-major; block_scale.cuh has the rule. The
// K-grouped GEMM takes codes, scales and `padded` as they are.
//
// Offsets are read as the GEMM reads them: below 0 as 0, above the extent as that. Blocks of 128
// columns of the output that no group owns are not written. Whatever the tables say, reads stay in
// `rows` and writes in `k`.
//
// A CTA has 128 rows of 64 columns at a time: 16 rows per warp, two columns per lane, so that a
// warp reads along the input's rows. Codes pass through shared memory, so that it writes along the
// output's. Any grid; 256 threads.
#pragma once

#include "isa/memory.cuh"
#include "quant/pad_offsets.cuh"
#include "quant/values.cuh"

namespace hadal::quant {

// How two neighbouring values of a row are read.
struct SourceBf16 {
    using Params = hadal_transpose_quantise_params;
    __device__ __forceinline__ static float2 load(const Params& params, uint32_t row,
                                                  uint32_t column) {
        const uint64_t at = uint64_t{row} * params.columns + column;
        return from_bf16x2(isa::ld_global_nc_u32(params.input + at * sizeof(uint16_t)));
    }
};

// Code times scale, rounded to f32.
struct SourceFp8 {
    using Params = hadal_transpose_quantise_params;
    __device__ __forceinline__ static float2 load(const Params& params, uint32_t row,
                                                  uint32_t column) {
        const uint64_t at = uint64_t{row} * params.columns + column;
        const uint64_t line = uint64_t{column / kBlock} * params.input_scale_stride;
        const float scale =
            isa::ld_global_nc_f32(params.input_scales + (line + row) * sizeof(float));
        const uint16_t codes = isa::ld_global_nc_u16(params.input + at);
        const float2 value = decode(codes, (params.input_rule & HADAL_QUANT_E5M2) != 0);
        return {__fmul_rn(value.x, scale), __fmul_rn(value.y, scale)};
    }
};

template <typename Source_>
struct TransposeQuantiseConfig {
    using Source = Source_;
    static constexpr uint32_t kThreads = 256;
    static constexpr uint32_t kWarps = kThreads / 32;
    static constexpr uint32_t kColumns = 64;
    static constexpr uint32_t kRows = kBlock / kWarps;  // of a warp
    static constexpr uint32_t kChunks = kBlock / sizeof(uint4);
};

// Rows of the input behind a block of 128 columns of the output.
struct BlockRows {
    bool present;    // whether a group owns the block
    uint32_t first;  // row of the block's first column
    uint32_t count;  // columns that are rows; the others are padding

    // Looked up by a whole warp; all its lanes get the same.
    __device__ __forceinline__ BlockRows(const hadal_transpose_quantise_params& params,
                                         uint32_t column)
        : present(false), first(0), count(0) {
        const uint32_t lane = threadIdx.x % 32;
        for (uint32_t base = 0; base < params.groups && !present; base += 32) {
            const uint32_t group = base + lane;
            uint32_t begin = params.k;
            uint32_t end = 0;
            if (group < params.groups) {
                begin = offset_entry(params.padded, group, params.k);
                end = offset_entry(params.padded, group + 1, params.k);
            }
            const uint32_t owner = __ballot_sync(0xffffffff, begin <= column && column < end);
            if (owner == 0) continue;
            const uint32_t source = __ffs(owner) - 1;
            const uint32_t inside = column - __shfl_sync(0xffffffff, begin, source);
            const uint32_t row = offset_entry(params.offsets, base + source, params.rows);
            const uint32_t row_end = offset_entry(params.offsets, base + source + 1, params.rows);
            const uint32_t rows = max(row_end, row) - row;
            present = true;
            first = row + inside;
            count = inside < rows ? min(rows - inside, kBlock) : 0;
        }
    }
};

// 16 codes of a column of values.
template <uint32_t kCount>
__device__ __forceinline__ uint4 quantise_column(const float (&x)[kCount], float scale,
                                                 const Rule& rule) {
    static_assert(kCount == sizeof(uint4), "one byte per value");
    return {quantise({x[0], x[1], x[2], x[3]}, scale, rule),
            quantise({x[4], x[5], x[6], x[7]}, scale, rule),
            quantise({x[8], x[9], x[10], x[11]}, scale, rule),
            quantise({x[12], x[13], x[14], x[15]}, scale, rule)};
}

template <typename Config>
struct TransposeQuantiseShared {
    float2 partial[Config::kWarps][Config::kColumns / 2];  // largest magnitudes
    uint4 codes[Config::kColumns][Config::kChunks];        // chunks swizzled, see slot()

    // Where chunk `chunk` of column `column` lies: lanes that write one chunk of many columns and
    // lanes that read all of one column meet different banks.
    __device__ __forceinline__ uint4& slot(uint32_t column, uint32_t chunk) {
        return codes[column][chunk ^ (column / 2 % Config::kChunks)];
    }
};

// One tile: rows `rows` of the input, columns from `column`, to columns from `k0` of the output.
template <typename Config>
__device__ __forceinline__ void transpose_quantise_tile(
    const hadal_transpose_quantise_params& params, TransposeQuantiseShared<Config>& shared,
    const BlockRows& rows, uint32_t column, uint32_t k0) {
    const Rule rule = Rule::of(params.rule);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t mine = column + 2 * lane;
    float left[Config::kRows];
    float right[Config::kRows];
    float2 amax = {};
#pragma unroll
    for (uint32_t i = 0; i < Config::kRows; ++i) {
        const uint32_t row = warp * Config::kRows + i;
        float2 value = {};
        if (row < rows.count && mine < params.columns) {
            value = Config::Source::load(params, rows.first + row, mine);
        }
        left[i] = value.x;
        right[i] = value.y;
        amax = {fmaxf(amax.x, fabsf(value.x)), fmaxf(amax.y, fabsf(value.y))};
    }
    shared.partial[warp][lane] = amax;
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < Config::kWarps; ++i) {
        const float2 other = shared.partial[i][lane];
        amax = {fmaxf(amax.x, other.x), fmaxf(amax.y, other.y)};
    }
    const float2 scale = {block_scale(amax.x, rule), block_scale(amax.y, rule)};
    shared.slot(2 * lane, warp) = quantise_column(left, scale.x, rule);
    shared.slot(2 * lane + 1, warp) = quantise_column(right, scale.y, rule);
    if (warp == 0 && mine < params.columns) {
        const uint64_t at = uint64_t{k0 / kBlock} * params.scale_stride + mine;
        isa::st_global_v2(params.scales + at * sizeof(float),
                          {__float_as_uint(scale.x), __float_as_uint(scale.y)});
    }
    __syncthreads();
#pragma unroll
    for (uint32_t i = threadIdx.x; i < Config::kColumns * Config::kChunks; i += Config::kThreads) {
        const uint32_t inside = i / Config::kChunks, chunk = i % Config::kChunks;
        if (column + inside >= params.columns) continue;
        const uint64_t at = uint64_t{column + inside} * params.k + k0 + chunk * sizeof(uint4);
        isa::st_global_v4(params.codes + at, shared.slot(inside, chunk));
    }
}

template <typename Config>
__device__ __forceinline__ void transpose_quantise(const hadal_transpose_quantise_params& params) {
    static_assert(Config::kColumns == 2 * 32, "a lane has two columns");
    static_assert(Config::kRows == sizeof(uint4), "a warp's codes of a column are one chunk");
    __shared__ TransposeQuantiseShared<Config> shared;
    const uint32_t tiles = (params.columns + Config::kColumns - 1) / Config::kColumns;
    const uint32_t total = tiles * (params.k / kBlock);
    for (uint32_t index = blockIdx.x; index < total; index += gridDim.x) {
        const uint32_t block = index / tiles;
        const uint32_t column = (index - block * tiles) * Config::kColumns;
        // All warps look up the same, in memory that nobody writes meanwhile.
        const BlockRows rows(params, block * kBlock);
        if (rows.present) {
            transpose_quantise_tile<Config>(params, shared, rows, column, block * kBlock);
        }
    }
}

}  // namespace hadal::quant
