// What a consumer warpgroup does with the stages: products, and their promotion into f32 sums.
//
// Hopper's FP8 path keeps few fraction bits, so a chain of four wgmma over one block of K starts
// from zero and its values P are promoted in f32, blocks in ascending order:
//
//   1d2d, 1d1d   sum = fma(scale_a * scale_b, P, sum)
//   channel      sum = sum + P, and (sum * scale_a) * scale_b at the end
//   BF16         no promotion: wgmma's own f32 accumulators run through all of K
//
// Order and operations depend on the problem's K only, so a row of D has the same bits whatever
// tile, form, order of operands or place in the grid it is computed with.
//
// A block is strictly serial in a warpgroup; the other warpgroups fill the gaps. (A wgmma group
// kept open across the loop's back edge makes ptxas serialise every wgmma, remark C7514.)
#pragma once

#include <cstdint>

#include "gemm/config.cuh"
#include "gemm/pipeline.cuh"
#include "isa/mbarrier.cuh"
#include "isa/memory.cuh"
#include "isa/wgmma.cuh"

namespace hadal::gemm {

// Starts the products of one stage and row block: four wgmma, one group.
template <class Config>
__device__ __forceinline__ void start(float (&products)[Config::kAccumulators],
                                      const StageView<Config>& view, uint32_t block,
                                      bool from_zero) {
    isa::pin_accumulators(products);
    isa::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kStageWidth / kWgmmaWidth; ++k) {
        const uint32_t step = k * (kWgmmaWidth >> 4);
        const uint32_t a = view.a + block * (kWgmmaM * kStageWidth >> 4) + step;
        Config::Wgmma::mma(products, isa::wgmma_descriptor(a, view.a_high),
                           isa::wgmma_descriptor(view.b + step, view.b_high),
                           !from_zero || k != 0);
    }
    isa::wgmma_commit_group();
}

// Waits for the products.
template <class Config>
__device__ __forceinline__ void finish(float (&products)[Config::kAccumulators]) {
    isa::wgmma_wait_group<0>();
    isa::pin_accumulators(products);
}

// This warp has read a stage for the last time: tells every CTA of the cluster.
template <class Config>
__device__ __forceinline__ void release(const StageView<Config>& view) {
    __syncwarp();  // the lanes' loads of scales come before the arrival of one of them
    if (view.teller) isa::mbarrier_arrive_cluster(view.empty);
}

// Scales of B in 1d2d. One serves a tile that lies in one block of columns. A tile of 192 columns
// begins at a multiple of 64 and has two: the middle 64 columns belong to the first or to the last.
template <class Config>
class BlockScales {
  public:
    static constexpr bool kWhole = Config::kSwapped || kScaleBlock % Config::kTileN == 0;
    static constexpr uint32_t kCount = kWhole ? 1 : 2;
    static constexpr uint32_t kColumns = kWhole ? kScaleBlock : kScaleBlock / 2;  // per segment
    static constexpr uint32_t kSegments = kWhole ? 1 : Config::kTileN / kColumns;
    static_assert(kSegments == 1 || kSegments == 3, "first, middle and last columns");

    // Those of the tile's first block of K.
    __device__ __forceinline__ BlockScales(const hadal_gemm_params& params, const Tile& tile)
        : middle_is_last_(tile.column % kScaleBlock != 0) {
        const uint32_t columns = (params.n + kScaleBlock - 1) / kScaleBlock;
#pragma unroll
        for (uint32_t i = 0; i < kCount; ++i) {
            const uint32_t column = (tile.column + i * (Config::kTileN - kColumns)) / kScaleBlock;
            const uint64_t row = uint64_t{tile.group} * columns + min(column, columns - 1);
            at_[i] = params.scale_b_values + row * params.k_blocks * sizeof(float);
        }
    }

    __device__ __forceinline__ void advance(uint32_t blocks) {
#pragma unroll
        for (uint32_t i = 0; i < kCount; ++i) at_[i] += blocks * sizeof(float);
    }

    // Those of the block of K that is `block` blocks further on.
    __device__ __forceinline__ void load(float (&scales)[kCount], uint32_t block) const {
#pragma unroll
        for (uint32_t i = 0; i < kCount; ++i) {
            scales[i] = isa::ld_global_nc_f32(at_[i] + block * sizeof(float));
        }
    }

    // Each segment's product with a scale of A.
    __device__ __forceinline__ void multiply(float (&products)[kSegments],
                                             const float (&scales)[kCount], float scale_a) const {
        products[0] = scale_a * scales[0];
        if constexpr (kSegments == 3) {
            products[2] = scale_a * scales[1];
            products[1] = middle_is_last_ ? products[2] : products[0];
        }
    }

  private:
    uint64_t at_[kCount];
    bool middle_is_last_;
};

template <class Config>
using Sums = float[Config::kBlocks][Config::kAccumulators];

// 1d2d, rows of D along wgmma's rows.
template <class Config>
__device__ __forceinline__ void promote_1d2d(float (&sum)[Config::kAccumulators],
                                             const float (&products)[Config::kAccumulators],
                                             const float (&low)[BlockScales<Config>::kSegments],
                                             const float (&high)[BlockScales<Config>::kSegments]) {
    constexpr uint32_t kPerSegment = BlockScales<Config>::kColumns / 2;
#pragma unroll
    for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
        const uint32_t s = i / kPerSegment;
        sum[i] = __fmaf_rn(i % 4 < 2 ? low[s] : high[s], products[i], sum[i]);
    }
}

template <class Config>
__device__ __forceinline__ void add_1d2d(Sums<Config>& sum, const StageView<Config>& view,
                                         const BlockScales<Config>& scales, uint32_t ahead,
                                         uint32_t parity) {
    constexpr uint32_t kSegments = BlockScales<Config>::kSegments;
    float scale_b[BlockScales<Config>::kCount];
    wait(view.full, parity);
    scales.load(scale_b, ahead);  // the products hide it
#pragma unroll
    for (uint32_t block = 0; block < Config::kBlocks; ++block) {
        const uint32_t scale_a = view.scale_a + block * (kWgmmaM * sizeof(float));
        const float scale_low = isa::ld_shared_f32(scale_a);
        const float scale_high = isa::ld_shared_f32(scale_a + 8 * sizeof(float));
        float products[Config::kAccumulators];
        start<Config>(products, view, block, true);
        float low[kSegments];
        float high[kSegments];
        scales.multiply(low, scale_b, scale_low);
        scales.multiply(high, scale_b, scale_high);
        finish<Config>(products);
        if (block == Config::kBlocks - 1) release(view);
        promote_1d2d<Config>(sum[block], products, low, high);
    }
}

// 1d2d with swapped operands: the columns of the accumulators are rows of D.
template <class Config>
__device__ __forceinline__ void add_1d2d_swapped(Sums<Config>& sum, const StageView<Config>& view,
                                                 const BlockScales<Config>& scales, uint32_t ahead,
                                                 uint32_t parity) {
    constexpr uint32_t kPairs = Config::kShort / 8;
    float scale_b[1];
    wait(view.full, parity);
    scales.load(scale_b, ahead);  // the products hide it
    float2 scale[kPairs];
#pragma unroll
    for (uint32_t j = 0; j < kPairs; ++j) {
        scale[j] = isa::ld_shared_f32x2(view.scale_a + j * 8 * sizeof(float));
    }
    float products[Config::kAccumulators];
    start<Config>(products, view, 0, true);
#pragma unroll
    for (uint32_t j = 0; j < kPairs; ++j) {
        scale[j] = {scale[j].x * scale_b[0], scale[j].y * scale_b[0]};
    }
    finish<Config>(products);
    release(view);
#pragma unroll
    for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
        const float factor = i % 2 == 0 ? scale[i / 4].x : scale[i / 4].y;
        sum[0][i] = __fmaf_rn(factor, products[i], sum[0][i]);
    }
}

template <class Config>
__device__ __forceinline__ void add_1d1d(Sums<Config>& sum, const StageView<Config>& view,
                                         uint32_t parity) {
    constexpr uint32_t kPairs = Config::kShort / 8;
    wait(view.full, parity);
    const float low = isa::ld_shared_f32(view.scale_a);
    const float high = isa::ld_shared_f32(view.scale_a + 8 * sizeof(float));
    float products[Config::kAccumulators];
    start<Config>(products, view, 0, true);
    float2 scale[kPairs];
#pragma unroll
    for (uint32_t j = 0; j < kPairs; ++j) {
        scale[j] = isa::ld_shared_f32x2(view.scale_b + j * 8 * sizeof(float));
    }
    finish<Config>(products);
    release(view);
#pragma unroll
    for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
        const float column = i % 2 == 0 ? scale[i / 4].x : scale[i / 4].y;
        const float factor = (i % 4 < 2 ? low : high) * column;
        sum[0][i] = __fmaf_rn(factor, products[i], sum[0][i]);
    }
}

template <class Config>
__device__ __forceinline__ void add_channel(Sums<Config>& sum, const StageView<Config>& view,
                                            uint32_t parity) {
    wait(view.full, parity);
    float products[Config::kAccumulators];
    start<Config>(products, view, 0, true);
    finish<Config>(products);
    release(view);
#pragma unroll
    for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
        sum[0][i] = __fadd_rn(sum[0][i], products[i]);
    }
}

// BF16: the sums are wgmma's own accumulators.
template <class Config>
__device__ __forceinline__ void add_plain(Sums<Config>& sum, const StageView<Config>& view,
                                          uint32_t parity) {
    wait(view.full, parity);
    start<Config>(sum[0], view, 0, false);
    finish<Config>(sum[0]);
    release(view);
}

// Adds one block of K, whose stage is `view`; `scales` point `ahead` blocks before it.
template <class Config>
__device__ __forceinline__ void add_block(Sums<Config>& sum, const StageView<Config>& view,
                                          const BlockScales<Config>& scales, uint32_t ahead,
                                          uint32_t parity) {
    if constexpr (Config::kScales == Scales::k1d2d && Config::kSwapped) {
        add_1d2d_swapped<Config>(sum, view, scales, ahead, parity);
    } else if constexpr (Config::kScales == Scales::k1d2d) {
        add_1d2d<Config>(sum, view, scales, ahead, parity);
    } else if constexpr (Config::kScales == Scales::k1d1d) {
        add_1d1d<Config>(sum, view, parity);
    } else if constexpr (Config::kScales == Scales::kChannel) {
        add_channel<Config>(sum, view, parity);
    } else {
        add_plain<Config>(sum, view, parity);
    }
}

// Adds one tile's blocks of K. Whole turns of the ring are unrolled, so that all their addresses are
// constant offsets; the blocks before the first and after the last are added singly.
template <class Config>
__device__ __forceinline__ void accumulate(const hadal_gemm_params& params, const Tile& tile,
                                           Ring<Config::kStages>& ring, Sums<Config>& sum,
                                           const StageView<Config>& first) {
    BlockScales<Config> scales(params, tile);
    for (uint32_t left = tile.k_blocks; left != 0;) {
        if (ring.stage() == 0) {
#pragma unroll 1
            for (; left >= Config::kStages; left -= Config::kStages) {
#pragma unroll
                for (uint32_t stage = 0; stage < Config::kStages; ++stage) {
                    add_block<Config>(sum, first.at(stage), scales, stage, ring.parity());
                }
                ring.turn();
                scales.advance(Config::kStages);
            }
            if (left == 0) break;
        }
        add_block<Config>(sum, first.at(ring.stage()), scales, 0, ring.parity());
        ring.advance();
        scales.advance(1);
        --left;
    }
}

}  // namespace hadal::gemm
