// Which output tiles a CTA computes, in which order: the persistent tile scheduler of the GEMM
// kernels.
//
// Tiles are numbered; CTA c of G takes tiles c, c + G, c + 2 G, ... Producer and consumers each
// walk the same sequence with a scheduler of their own and never talk about it, so everything read
// here must be the same for all of them: kernel parameters and device memory that nobody writes
// while the kernel runs.
//
// Numbering: M blocks fastest inside bands of kBandBlocks, so that the CTAs at work at one time
// share few B blocks (weights, the larger operand) and few A blocks, and find them in L2.
#pragma once

#include <cstdint>

#include "isa/memory.cuh"
#include "params/gemm.h"

namespace hadal::gemm {

// What the rows of A mean.
enum class Form {
    kDense,       // one matrix
    kContiguous,  // rows of all groups one after another, each group's start aligned to the tile
    kMasked,      // one slot of m rows per group, of which the first count[g] are in use
};

// One output tile, in rows and blocks of the whole problem.
struct Tile {
    uint32_t row;        // first row in A's tensor map and in D
    uint32_t row_limit;  // rows from here on are not stored
    uint32_t scale_x;    // coordinates of the first scale of A in its tensor map: x counts rows,
    uint32_t scale_y;    //   y counts K blocks
    uint32_t n_block;
    uint32_t group;
};

template <uint32_t kTileM, Form kForm>
class TileScheduler {
  public:
    using Params = hadal_fp8_gemm_1d2d_params;

    __device__ __forceinline__ explicit TileScheduler(const Params& params)
        : params_(params), index_(blockIdx.x) {}

    // Moves to the next tile of this CTA that has rows; false when there is none.
    __device__ __forceinline__ bool next(Tile& tile) {
        if constexpr (kForm == Form::kMasked) {
            return next_masked(tile);
        } else {
            return next_flat(tile);
        }
    }

  private:
    static constexpr uint32_t kBandBlocks = 16;

    __device__ __forceinline__ static uint32_t blocks(uint32_t rows) {
        return (rows + kTileM - 1) / kTileM;
    }

    // Splits the number of a tile among m_blocks x n_blocks into its block coordinates.
    __device__ __forceinline__ void split(uint32_t index, uint32_t m_blocks, uint32_t& m_block,
                                          uint32_t& n_block) const {
        const uint32_t band_tiles = kBandBlocks * params_.n_blocks;
        const uint32_t band = index / band_tiles;
        const uint32_t inside = index - band * band_tiles;
        const uint32_t band_blocks = min(kBandBlocks, m_blocks - band * kBandBlocks);
        n_block = inside / band_blocks;
        m_block = band * kBandBlocks + (inside - n_block * band_blocks);
    }

    // Dense and contiguous: one range of rows. A block whose first row belongs to no group is
    // skipped.
    __device__ __forceinline__ bool next_flat(Tile& tile) {
        const uint32_t m_blocks = blocks(params_.m);
        const uint32_t tiles = m_blocks * params_.n_blocks;
        for (; index_ < tiles; index_ += gridDim.x) {
            uint32_t m_block;
            split(index_, m_blocks, m_block, tile.n_block);
            tile.row = m_block * kTileM;
            tile.group = 0;
            if constexpr (kForm == Form::kContiguous) {
                const uint64_t at = params_.groups + uint64_t{tile.row} * sizeof(int32_t);
                tile.group = static_cast<uint32_t>(isa::ld_global_s32(at));
                // A negative index is a large unsigned one.
                if (tile.group >= params_.group_count) continue;
            }
            tile.row_limit = params_.m;
            tile.scale_x = tile.row;
            tile.scale_y = 0;
            index_ += gridDim.x;
            return true;
        }
        return false;
    }

    // Masked: groups one after another, each with the tiles that its count needs.
    __device__ __forceinline__ bool next_masked(Tile& tile) {
        for (; group_ < params_.group_count; ++group_) {
            const uint64_t at = params_.groups + uint64_t{group_} * sizeof(int32_t);
            const int32_t count = max(0, isa::ld_global_s32(at));
            const uint32_t rows = min(static_cast<uint32_t>(count), params_.m);
            const uint32_t m_blocks = blocks(rows);
            const uint32_t end = group_begin_ + m_blocks * params_.n_blocks;
            if (index_ >= end) {
                group_begin_ = end;
                continue;
            }
            uint32_t m_block;
            split(index_ - group_begin_, m_blocks, m_block, tile.n_block);
            tile.row = group_ * params_.m + m_block * kTileM;
            tile.row_limit = group_ * params_.m + rows;
            tile.scale_x = m_block * kTileM;
            tile.scale_y = group_ * params_.k_blocks;
            tile.group = group_;
            index_ += gridDim.x;
            return true;
        }
        return false;
    }

    const Params& params_;
    uint32_t index_;            // number of this CTA's next tile
    uint32_t group_ = 0;        // masked: group that index_ was last seen in
    uint32_t group_begin_ = 0;  // masked: number of that group's first tile
};

}  // namespace hadal::gemm
