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

// wgmma descriptors' high words; see params/gemm.h.
struct DescriptorHigh {
    uint32_t a;
    uint32_t b;
};

// Starts the products of one stage and row block: four wgmma, one group.
template <class Config>
__device__ __forceinline__ void start(float (&products)[Config::kAccumulators], uint32_t a,
                                      uint32_t b, const DescriptorHigh& high, bool from_zero) {
    isa::pin_accumulators(products);
    isa::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kStageWidth / kWgmmaWidth; ++k) {
        const uint32_t step = k * (kWgmmaWidth >> 4);
        Config::Wgmma::mma(products, isa::wgmma_descriptor(a + step, high.a),
                           isa::wgmma_descriptor(b + step, high.b), !from_zero || k != 0);
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
__device__ __forceinline__ void release(uint32_t empty, bool teller) {
    __syncwarp();  // the lanes' loads of scales come before the arrival of one of them
    if (teller) isa::mbarrier_arrive_cluster(empty);
}

// Scales of B in 1d2d: one per segment of columns that are sure to share one. A tile whose width is
// no multiple of the scale block begins at any multiple of 64 columns.
template <class Config>
struct BlockScales {
    static constexpr bool kWhole = Config::kSwapped || kScaleBlock % Config::kTileN == 0;
    static constexpr uint32_t kColumns = kWhole ? kScaleBlock : kScaleBlock / 2;
    static constexpr uint32_t kSegments = kWhole ? 1 : Config::kTileN / kColumns;

    float values[kSegments];

    uint32_t lane_of_next;

    // Lane l takes the scales of the run's l-th block from the end (l counts from 1), so that
    // neither the loads nor the hand-over cost anything between the products.
    __device__ __forceinline__ void load(const hadal_gemm_params& params, const Tile& tile,
                                         uint32_t block, uint32_t count) {
        const uint32_t lane = threadIdx.x % kWarp;
        const uint32_t columns = (params.n + kScaleBlock - 1) / kScaleBlock;
        // From a uniform register it would be copied for every shuffle.
        lane_of_next = count + isa::lane_zero();
#pragma unroll
        for (uint32_t s = 0; s < kSegments; ++s) {
            const uint32_t column = min((tile.column + s * kColumns) / kScaleBlock, columns - 1);
            const uint64_t row = uint64_t{tile.group} * columns + column;
            const uint64_t index = row * params.k_blocks + block + count - lane;
            values[s] = 0;
            if (lane - 1 < count) {
                values[s] = isa::ld_global_nc_f32(params.scale_b_values + index * sizeof(float));
            }
        }
    }

    // The scale of segment `s` of the next block.
    __device__ __forceinline__ float next(uint32_t s) const {
        return __shfl_sync(0xffffffff, values[s], lane_of_next);
    }
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
__device__ __forceinline__ void accumulate_1d2d(Sums<Config>& sum, StageView<Config> view,
                                                const Run& run, BlockScales<Config> scales,
                                                const DescriptorHigh& high_words, bool teller) {
    constexpr uint32_t kSegments = BlockScales<Config>::kSegments;
    // Two copies let the addresses of the second be offsets; more only cost instruction cache.
#pragma unroll(Config::kBlocks == 1 ? 2 : 1)
    for (uint32_t left = run.count; left != 0; --left, --scales.lane_of_next, view.advance(1)) {
        wait(view.full, run.parity);
        float scale_b[kSegments];
#pragma unroll
        for (uint32_t block = 0; block < Config::kBlocks; ++block) {
            const uint32_t scale_a = view.scale_a + block * (kWgmmaM * sizeof(float));
            const float scale_low = isa::ld_shared_f32(scale_a);
            const float scale_high = isa::ld_shared_f32(scale_a + 8 * sizeof(float));
            float products[Config::kAccumulators];
            start<Config>(products, view.a + block * (kWgmmaM * kStageWidth >> 4), view.b,
                          high_words, true);
            float low[kSegments];
            float high[kSegments];
#pragma unroll
            for (uint32_t s = 0; s < kSegments; ++s) {
                // The first use in a run waits for the load: here the products hide that.
                if (block == 0) scale_b[s] = scales.next(s);
                low[s] = scale_low * scale_b[s];
                high[s] = scale_high * scale_b[s];
            }
            finish<Config>(products);
            if (block == Config::kBlocks - 1) release(view.empty, teller);
            promote_1d2d<Config>(sum[block], products, low, high);
        }
    }
}

// 1d2d with swapped operands: the columns of the accumulators are rows of D.
template <class Config>
__device__ __forceinline__ void accumulate_1d2d_swapped(Sums<Config>& sum, StageView<Config> view,
                                                        const Run& run,
                                                        BlockScales<Config> scales,
                                                        const DescriptorHigh& high_words,
                                                        bool teller) {
    constexpr uint32_t kPairs = Config::kShort / 8;
#pragma unroll 2
    for (uint32_t left = run.count; left != 0; --left, --scales.lane_of_next, view.advance(1)) {
        wait(view.full, run.parity);
        float2 scale[kPairs];
#pragma unroll
        for (uint32_t j = 0; j < kPairs; ++j) {
            scale[j] = isa::ld_shared_f32x2(view.scale_a + j * 8 * sizeof(float));
        }
        float products[Config::kAccumulators];
        start<Config>(products, view.a, view.b, high_words, true);
        const float scale_b = scales.next(0);
#pragma unroll
        for (uint32_t j = 0; j < kPairs; ++j) {
            scale[j] = {scale[j].x * scale_b, scale[j].y * scale_b};
        }
        finish<Config>(products);
        release(view.empty, teller);
#pragma unroll
        for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
            const float factor = i % 2 == 0 ? scale[i / 4].x : scale[i / 4].y;
            sum[0][i] = __fmaf_rn(factor, products[i], sum[0][i]);
        }
    }
}

template <class Config>
__device__ __forceinline__ void accumulate_1d1d(Sums<Config>& sum, StageView<Config> view,
                                                const Run& run, const DescriptorHigh& high_words,
                                                bool teller) {
    constexpr uint32_t kPairs = Config::kShort / 8;
#pragma unroll 2
    for (uint32_t left = run.count; left != 0; --left, view.advance(1)) {
        wait(view.full, run.parity);
        const float low = isa::ld_shared_f32(view.scale_a);
        const float high = isa::ld_shared_f32(view.scale_a + 8 * sizeof(float));
        float products[Config::kAccumulators];
        start<Config>(products, view.a, view.b, high_words, true);
        float2 scale[kPairs];
#pragma unroll
        for (uint32_t j = 0; j < kPairs; ++j) {
            scale[j] = isa::ld_shared_f32x2(view.scale_b + j * 8 * sizeof(float));
        }
        finish<Config>(products);
        release(view.empty, teller);
#pragma unroll
        for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
            const float column = i % 2 == 0 ? scale[i / 4].x : scale[i / 4].y;
            const float factor = (i % 4 < 2 ? low : high) * column;
            sum[0][i] = __fmaf_rn(factor, products[i], sum[0][i]);
        }
    }
}

template <class Config>
__device__ __forceinline__ void accumulate_channel(Sums<Config>& sum, StageView<Config> view,
                                                   const Run& run,
                                                   const DescriptorHigh& high_words, bool teller) {
#pragma unroll 2
    for (uint32_t left = run.count; left != 0; --left, view.advance(1)) {
        wait(view.full, run.parity);
        float products[Config::kAccumulators];
        start<Config>(products, view.a, view.b, high_words, true);
        finish<Config>(products);
        release(view.empty, teller);
#pragma unroll
        for (uint32_t i = 0; i < Config::kAccumulators; ++i) {
            sum[0][i] = __fadd_rn(sum[0][i], products[i]);
        }
    }
}

// BF16: the sums are wgmma's own accumulators.
template <class Config>
__device__ __forceinline__ void accumulate_plain(Sums<Config>& sum, StageView<Config> view,
                                                 const Run& run, const DescriptorHigh& high_words,
                                                 bool teller) {
#pragma unroll 2
    for (uint32_t left = run.count; left != 0; --left, view.advance(1)) {
        wait(view.full, run.parity);
        start<Config>(sum[0], view.a, view.b, high_words, false);
        finish<Config>(sum[0]);
        release(view.empty, teller);
    }
}

}  // namespace hadal::gemm
