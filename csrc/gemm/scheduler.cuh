// Which output tiles a CTA computes, in which order: the persistent tile scheduler of the GEMM
// kernels.
//
// A cluster of cluster_m x cluster_n CTAs computes as many tiles side by side: a super-tile. Those
// are numbered group by group; cluster c of G takes super-tiles c, c + G, c + 2 G, ... Producer and
// consumers each walk the same sequence with a scheduler of their own and never talk about it, so
// everything read here must be the same for all of them: kernel parameters and device memory that
// nobody writes while the kernel runs.
//
// Numbering in a group: m fastest inside bands of `band` super-tiles, so that the CTAs at work at
// one time share few blocks of B (weights, the larger operand) and few of A, and find them in L2.
#pragma once

#include <cstdint>

#include "gemm/config.cuh"
#include "isa/cluster.cuh"
#include "isa/memory.cuh"
#include "params/gemm.h"

namespace hadal::gemm {

// One output tile. It may lie outside of its group in part, or, beside another one in its cluster,
// as a whole: what lies outside is computed and not stored.
struct Tile {
    uint32_t a_row;      // first row in A's tensor map
    uint32_t scale_x;    // coordinates of the first scale of A in its tensor map: x counts rows,
    uint32_t scale_y;    //   y counts K blocks
    uint32_t b_row;      // first row in B's tensor map
    uint32_t k_block;    // first K block in the tensor maps
    uint32_t k_blocks;   // how many
    uint32_t d_row;      // first row of D
    uint32_t row_limit;  // rows of D from here on are not stored
    uint32_t column;     // first column of D
    uint32_t scale_b_y;  // first K block in the tensor map of B's scales (1d1d)
    uint32_t group;
};

template <uint32_t kTileM, uint32_t kTileN>
class TileScheduler {
  public:
    using Params = hadal_gemm_params;

    __device__ __forceinline__ explicit TileScheduler(const Params& params)
        : params_(params),
          super_m_(kTileM * params.cluster_m),
          super_n_(kTileN * params.cluster_n),
          n_blocks_((params.n + super_n_ - 1) / super_n_),
          stride_(gridDim.x / (params.cluster_m * params.cluster_n)),
          index_(blockIdx.x / (params.cluster_m * params.cluster_n)) {
        const uint32_t rank = isa::cluster_ctarank();
        offset_m_ = params.cluster_m > 1 ? rank * kTileM : 0;
        offset_n_ = params.cluster_n > 1 ? rank * kTileN : 0;
    }

    // Moves to the next tile of this CTA; false when there is none.
    __device__ __forceinline__ bool next(Tile& tile) {
        if (params_.form == HADAL_GEMM_CONTIGUOUS) return next_contiguous(tile);
        for (; group_ < params_.group_count; ++group_) {
            const Range rows = rows_of(group_);
            const uint32_t m_blocks = (rows.count + super_m_ - 1) / super_m_;
            const uint32_t end = group_begin_ + m_blocks * n_blocks_;
            if (index_ >= end) {
                group_begin_ = end;
                continue;
            }
            place(tile, index_ - group_begin_, m_blocks, rows, group_);
            index_ += stride_;
            return true;
        }
        return false;
    }

  private:
    struct Range {
        uint32_t begin;
        uint32_t count;
    };

    // Entry `index` of `groups`, below 0 as 0 and above `most` as that.
    __device__ __forceinline__ uint32_t entry(uint32_t index, uint32_t most) const {
        const uint64_t at = params_.groups + uint64_t{index} * sizeof(int32_t);
        return min(static_cast<uint32_t>(max(0, isa::ld_global_s32(at))), most);
    }

    // Entries `index` and `index + 1` as begin and end.
    __device__ __forceinline__ Range range(uint32_t index, uint32_t most) const {
        const uint32_t begin = entry(index, most);
        return {begin, max(entry(index + 1, most), begin) - begin};
    }

    // Rows of A and D that a group has.
    __device__ __forceinline__ Range rows_of(uint32_t group) const {
        const uint32_t m = params_.m;
        switch (params_.form) {
            case HADAL_GEMM_MASKED:
                return {group * m, entry(group, m)};
            case HADAL_GEMM_OFFSETS:
                return range(group, m);
            default:
                return {group * m, m};
        }
    }

    // The super-tile `index` among those of a group.
    __device__ __forceinline__ void place(Tile& tile, uint32_t index, uint32_t m_blocks,
                                          const Range& rows, uint32_t group) const {
        const uint32_t band_tiles = params_.band * n_blocks_;
        const uint32_t band = index / band_tiles;
        const uint32_t inside = index - band * band_tiles;
        const uint32_t band_blocks = min(params_.band, m_blocks - band * params_.band);
        const uint32_t n_block = inside / band_blocks;
        const uint32_t m_block = band * params_.band + (inside - n_block * band_blocks);
        const uint32_t row = m_block * super_m_ + offset_m_;
        tile.column = n_block * super_n_ + offset_n_;
        tile.d_row = rows.begin + row;
        tile.row_limit = rows.begin + rows.count;
        if (params_.form == HADAL_GEMM_K_GROUPED) {
            const Range blocks = k_range(group);
            tile.a_row = tile.scale_x = row;
            tile.b_row = tile.column;
            tile.group = group;
            tile.k_block = tile.scale_y = tile.scale_b_y = blocks.begin;
            tile.k_blocks = blocks.count;
            return;
        }
        const bool slots = params_.form != HADAL_GEMM_OFFSETS;
        tile.a_row = tile.d_row;
        tile.scale_x = slots ? row : tile.d_row;
        tile.scale_y = slots ? group * params_.k_blocks : 0;
        set_group(tile, group);
        tile.k_block = 0;
        tile.k_blocks = params_.k_blocks;
    }

    // Where the B of a group lies.
    __device__ __forceinline__ void set_group(Tile& tile, uint32_t group) const {
        tile.group = group;
        tile.b_row = group * params_.n + tile.column;
        tile.scale_b_y = group * params_.k_blocks;
    }

    // K blocks of a group.
    __device__ __forceinline__ Range k_range(uint32_t group) const {
        const Range k = range(group, params_.k_blocks * kScaleBlock);
        return {k.begin / kScaleBlock, k.count / kScaleBlock};
    }

    // One range of rows. Groups begin at multiples of kGroupAlignment, which is one of every
    // super-tile's height: a super-tile has the group of the first row of its block of that many, so
    // that a table that breaks the rule means the same to every tile, and is skipped if that is none.
    __device__ __forceinline__ bool next_contiguous(Tile& tile) {
        const uint32_t m_blocks = (params_.m + super_m_ - 1) / super_m_;
        const uint32_t tiles = m_blocks * n_blocks_;
        for (; index_ < tiles; index_ += stride_) {
            place(tile, index_, m_blocks, {0, params_.m}, 0);
            const uint32_t row = tile.d_row - offset_m_;
            const uint32_t first = row / kGroupAlignment * kGroupAlignment;
            const uint64_t at = params_.groups + uint64_t{first} * sizeof(int32_t);
            // A negative index is a large unsigned one.
            const uint32_t group = static_cast<uint32_t>(isa::ld_global_s32(at));
            if (group >= params_.group_count) continue;
            set_group(tile, group);
            index_ += stride_;
            return true;
        }
        return false;
    }

    const Params& params_;
    uint32_t super_m_;
    uint32_t super_n_;
    uint32_t n_blocks_;
    uint32_t stride_;
    uint32_t index_;  // number of this cluster's next super-tile
    uint32_t offset_m_;
    uint32_t offset_n_;
    uint32_t group_ = 0;        // group that index_ was last seen in
    uint32_t group_begin_ = 0;  // number of that group's first super-tile
};

}  // namespace hadal::gemm
