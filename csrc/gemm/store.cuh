// The epilogue of a consumer warp: sums to D.
//
// A warp holds 16 rows. It stages them, 128 bytes of each at a time, in two boxes of its own and has
// TMA write the boxes, so the next tile's products run while they drain. A box whose rows are not
// all to be stored (the end of a group, padding) is written by the warp itself, row by row.
//
// In a box, 16-byte unit u of row r lies at unit u ^ (r % 8): TMA's 128-byte swizzle, which keeps
// stmatrix and the warp's own loads free of bank conflicts.
#pragma once

#include <cstdint>

#include "gemm/config.cuh"
#include "gemm/scheduler.cuh"
#include "isa/convert.cuh"
#include "isa/fence.cuh"
#include "isa/ldst.cuh"
#include "isa/memory.cuh"
#include "isa/tma.cuh"
#include "isa/warp.cuh"
#include "params/gemm.h"

namespace hadal::gemm {

// Whether a row of D is stored; `row` may lie anywhere.
__device__ __forceinline__ bool is_stored(const hadal_gemm_params& params, const Tile& tile,
                                          uint32_t row) {
    if (row >= tile.row_limit) return false;
    if (params.form != HADAL_GEMM_CONTIGUOUS) return true;
    const uint64_t at = params.groups + uint64_t{row} * sizeof(int32_t);
    return static_cast<uint32_t>(isa::ld_global_s32(at)) == tile.group;
}

// The scale of row or column `index` of one operand.
__device__ __forceinline__ float channel_scale(uint64_t values, uint32_t stride, uint64_t index) {
    return isa::ld_global_nc_f32(values + index * stride * sizeof(float));
}

// The warp's way out through its two boxes.
template <class Config>
class Output {
  public:
    // `staging` is the warp's shared memory.
    __device__ __forceinline__ Output(const hadal_gemm_params& params, uint32_t staging)
        : params_(params), staging_(staging) {}

    // Stores 16 rows from D's row tile.d_row + `row` on.
    __device__ __forceinline__ void store(const Tile& tile, uint32_t row,
                                          float (&sum)[Config::kAccumulators]) {
        const uint32_t lane = threadIdx.x % kWarp;
        first_ = tile.d_row + row;
        stored_ = __ballot_sync(0xffffffff, is_stored(params_, tile, first_ + lane % kWarpRows));
        stored_ &= (1u << kWarpRows) - 1;
        if (stored_ == 0) return;
        if constexpr (Config::kScales == Scales::kChannel) scale(tile, sum);
        if (params_.output_f32) {
            if (params_.accumulate) add(tile, sum);
            store_f32(tile, sum);
        } else {
            store_bf16(tile, sum);
        }
    }

    // Waits until everything is in D.
    __device__ __forceinline__ void finish() const {
        isa::bulk_wait_group<0>();
    }

  private:
    static constexpr uint32_t kBoxUnits = 8;  // of 16 bytes

    // Channel scales.
    __device__ __forceinline__ void scale(const Tile& tile,
                                          float (&sum)[Config::kAccumulators]) const {
        const uint32_t lane = threadIdx.x % kWarp;
        const uint32_t last = tile.row_limit - 1;
        float rows[2];
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
            const uint32_t row = min(first_ + lane / 4 + 8 * h, last);
            rows[h] = channel_scale(params_.scale_a_values, params_.scale_a_stride, row);
        }
#pragma unroll
        for (uint32_t i = 0; i < Config::kAccumulators; i += 4) {
#pragma unroll
            for (uint32_t c = 0; c < 2; ++c) {
                const uint32_t column = min(tile.column + i * 2 + lane % 4 * 2 + c, params_.n - 1);
                const uint64_t index = uint64_t{tile.group} * params_.n + column;
                const float b = channel_scale(params_.scale_b_values, params_.scale_b_stride, index);
                sum[i + c] = sum[i + c] * rows[0] * b;
                sum[i + 2 + c] = sum[i + 2 + c] * rows[1] * b;
            }
        }
    }

    // Adds what is in D.
    __device__ __forceinline__ void add(const Tile& tile,
                                        float (&sum)[Config::kAccumulators]) const {
        const uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
            const uint32_t row = lane / 4 + 8 * h;
            const uint64_t at = address(first_ + row, tile.column + lane % 4 * 2, sizeof(float));
#pragma unroll
            for (uint32_t j = 0; j < Config::kAccumulators / 4; ++j) {
                const bool inside = tile.column + j * 8 < params_.n;
                if (!(stored_ >> row & 1) || !inside) continue;
                const float2 old = isa::ld_global_f32x2(at + j * 8 * sizeof(float));
                sum[4 * j + 2 * h] = __fadd_rn(old.x, sum[4 * j + 2 * h]);
                sum[4 * j + 2 * h + 1] = __fadd_rn(old.y, sum[4 * j + 2 * h + 1]);
            }
        }
    }

    __device__ __forceinline__ void store_bf16(const Tile& tile,
                                               const float (&sum)[Config::kAccumulators]) {
        constexpr uint32_t kColumns = 64;
        const uint32_t lane = threadIdx.x % kWarp;
        const uint32_t matrix = lane / 8;  // stmatrix: this lane gives row lane % 8 of that matrix
        const uint32_t matrix_row = (matrix % 2 * 8 + lane % 8) * 128;
#pragma unroll
        for (uint32_t box = 0; box < Config::kTileN / kColumns; ++box) {
            if (tile.column + box * kColumns >= params_.n) break;
            const uint32_t at = next_box();
#pragma unroll
            for (uint32_t pair = 0; pair < kBoxUnits / 2; ++pair) {
                const float* v = &sum[box * (kColumns / 2) + pair * 8];
                const uint32_t unit = (pair * 2 + matrix / 2) ^ (lane % 8);
                isa::stmatrix_x4(at + matrix_row + unit * 16,
                                 {isa::cvt_bf16x2(v[1], v[0]), isa::cvt_bf16x2(v[3], v[2]),
                                  isa::cvt_bf16x2(v[5], v[4]), isa::cvt_bf16x2(v[7], v[6])});
            }
            write(at, tile.column + box * kColumns, sizeof(uint16_t));
        }
    }

    __device__ __forceinline__ void store_f32(const Tile& tile,
                                              const float (&sum)[Config::kAccumulators]) {
        constexpr uint32_t kColumns = 32;
        const uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
        for (uint32_t box = 0; box < Config::kTileN / kColumns; ++box) {
            if (tile.column + box * kColumns >= params_.n) break;
            const uint32_t at = next_box();
#pragma unroll
            for (uint32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
                for (uint32_t h = 0; h < 2; ++h) {
                    const uint32_t row = lane / 4 + 8 * h;
                    const uint32_t unit = (j * 2 + lane % 4 / 2) ^ (row % 8);
                    const float* v = &sum[box * (kColumns / 2) + 4 * j + 2 * h];
                    isa::st_shared_f32x2(at + row * 128 + unit * 16 + lane % 2 * 8, {v[0], v[1]});
                }
            }
            write(at, tile.column + box * kColumns, sizeof(float));
        }
    }

    // A box that nothing reads any more.
    __device__ __forceinline__ uint32_t next_box() {
        // One group per box: of the last two, the older has left this box.
        isa::bulk_wait_group_read<1>();
        __syncwarp();
        box_ ^= 1;
        return staging_ + box_ * SharedLayout<Config>::kBox;
    }

    // Writes a box that the warp has filled to D's columns from `column` on.
    __device__ __forceinline__ void write(uint32_t box, uint32_t column, uint32_t element) const {
        isa::fence_proxy_async_shared();
        __syncwarp();
        if (stored_ == (1u << kWarpRows) - 1) {
            if (isa::elect()) isa::tma_store_2d(params_.d, box, column, first_);
        } else {
            write_rows(box, column, element);
        }
        isa::bulk_commit_group();
    }

    // The same row by row.
    __device__ __forceinline__ void write_rows(uint32_t box, uint32_t column,
                                               uint32_t element) const {
        const uint32_t lane = threadIdx.x % kWarp;
        const uint32_t unit = lane % kBoxUnits;
        const uint32_t first = column + unit * (16 / element);
#pragma unroll
        for (uint32_t i = 0; i < kWarpRows / 4; ++i) {
            const uint32_t row = 4 * i + lane / kBoxUnits;
            const uint4 values = isa::ld_shared_v4(box + row * 128 + (unit ^ row % 8) * 16);
            if (stored_ >> row & 1 && first < params_.n) {
                isa::st_global_v4(address(first_ + row, first, element), values);
            }
        }
    }

    __device__ __forceinline__ uint64_t address(uint32_t row, uint32_t column,
                                                uint32_t element) const {
        return params_.d_values + (uint64_t{row} * params_.n + column) * element;
    }

    const hadal_gemm_params& params_;
    uint32_t staging_;
    uint32_t box_ = 0;
    uint32_t first_ = 0;   // row of D of the warp's first row
    uint32_t stored_ = 0;  // bit i: row first_ + i is stored
};

// Swapped operands: a warp holds 16 columns of all rows of the tile.
template <class Config>
class SwappedOutput {
  public:
    __device__ __forceinline__ SwappedOutput(const hadal_gemm_params& params, uint32_t staging)
        : params_(params), staging_(staging) {}

    // Stores the columns from tile.column + `column` on.
    __device__ __forceinline__ void store(const Tile& tile, uint32_t column,
                                          float (&sum)[Config::kAccumulators]) {
        const uint32_t first = tile.column + column;
        if (first >= params_.n) return;
        if constexpr (Config::kScales == Scales::kChannel) scale(tile, first, sum);
        if (params_.output_f32) {
            store_f32(tile, first, sum);
        } else {
            store_bf16(tile, first, sum);
        }
    }

    __device__ __forceinline__ void finish() const {}

  private:
    __device__ __forceinline__ void scale(const Tile& tile, uint32_t first,
                                          float (&sum)[Config::kAccumulators]) const {
        const uint32_t lane = threadIdx.x % kWarp;
        float columns[2];
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
            const uint64_t index = uint64_t{tile.group} * params_.n + first + lane / 4 + 8 * h;
            columns[h] = channel_scale(params_.scale_b_values, params_.scale_b_stride, index);
        }
#pragma unroll
        for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
            const uint32_t row = tile.d_row + i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (row >= tile.row_limit) continue;
            const float a = channel_scale(params_.scale_a_values, params_.scale_a_stride, row);
            sum[i] = sum[i] * a * columns[i % 4 / 2];
        }
    }

    // The staging has one row of 32 bytes per row of the tile.
    __device__ __forceinline__ void store_bf16(const Tile& tile, uint32_t first,
                                               const float (&sum)[Config::kAccumulators]) const {
        const uint32_t lane = threadIdx.x % kWarp;
        __syncwarp();  // the last tile's loads are done
#pragma unroll
        for (uint32_t j = 0; j < Config::kTileM / 8; ++j) {
            const float* v = &sum[4 * j];
            const uint32_t row = j * 8 + lane % 8;
            isa::stmatrix_x2_trans(staging_ + row * 32 + lane / 8 % 2 * 16,
                                   isa::cvt_bf16x2(v[1], v[0]), isa::cvt_bf16x2(v[3], v[2]));
        }
        __syncwarp();
#pragma unroll
        for (uint32_t unit = lane; unit < Config::kTileM * 2; unit += kWarp) {
            const uint32_t row = tile.d_row + unit / 2;
            if (!is_stored(params_, tile, row)) continue;
            const uint64_t index = uint64_t{row} * params_.n + first + unit % 2 * 8;
            isa::st_global_v4(params_.d_values + index * sizeof(uint16_t),
                              isa::ld_shared_v4(staging_ + unit * 16));
        }
    }

    // Eight lanes hold eight consecutive columns of a row: 32 bytes.
    __device__ __forceinline__ void store_f32(const Tile& tile, uint32_t first,
                                              const float (&sum)[Config::kAccumulators]) const {
        const uint32_t lane = threadIdx.x % kWarp;
#pragma unroll
        for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
            const uint32_t row = tile.d_row + i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (!is_stored(params_, tile, row)) continue;
            const uint32_t column = first + lane / 4 + i % 4 / 2 * 8;
            const uint64_t index = uint64_t{row} * params_.n + column;
            const uint64_t at = params_.d_values + index * sizeof(float);
            const float old = params_.accumulate ? isa::ld_global_f32(at) : 0.0f;
            isa::st_global_f32(at, params_.accumulate ? __fadd_rn(old, sum[i]) : sum[i]);
        }
    }

    const hadal_gemm_params& params_;
    uint32_t staging_;
};

}  // namespace hadal::gemm
