// The ring of stages between the producer and the consumers of a GEMM kernel.
//
// A stage holds one block of K: tile of A, tile of B, and those scales that are staged. Two
// mbarriers each:
//
//   full[s]   one arrival (the CTA's own producer's, which announces kStageBytes) + those bytes, by
//             TMA; of the operand that a cluster shares each CTA loads a part for all
//   empty[s]  one arrival of each consumer warp of each CTA of the cluster, after it has read the
//             stage for the last time
//
// The i-th use of the ring (i counts K blocks over all tiles of this CTA) has stage i % kStages and
// parity p = i / kStages % 2. The producer waits for empty[s] with parity p ^ 1 (true at once in
// the first round), then arms full[s] and issues its loads; consumers wait for full[s] with parity
// p, read, and arrive at empty[s]. CTAs of a cluster compute super-tiles together, so their rings
// turn alike. wgmma reads through the async proxy, and wait_group precedes the arrival; the
// overwriting TMA is of the same proxy. Scales are read by ordinary loads, done before the arrival.
// No wait has a deadline: every one is for work of this cluster that always completes.
#pragma once

#include <cstdint>

#include "gemm/config.cuh"
#include "gemm/scheduler.cuh"
#include "isa/cluster.cuh"
#include "isa/fence.cuh"
#include "isa/mbarrier.cuh"
#include "isa/tma.cuh"
#include "isa/warp.cuh"
#include "params/gemm.h"

namespace hadal::gemm {

// Position in the ring of stages: that of its next use.
template <uint32_t kStages>
class Ring {
  public:
    __device__ __forceinline__ uint32_t stage() const { return stage_; }
    __device__ __forceinline__ uint32_t parity() const { return parity_; }

    // One use.
    __device__ __forceinline__ void advance() {
        if (++stage_ == kStages) {
            stage_ = 0;
            parity_ ^= 1;
        }
    }

    // As many uses as there are stages.
    __device__ __forceinline__ void turn() { parity_ ^= 1; }

  private:
    uint32_t stage_ = 0;
    uint32_t parity_ = 0;
};

__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
    while (!isa::mbarrier_try_wait_parity(barrier, parity)) {
    }
}

// Makes the barriers ready: one thread, before the cluster's first barrier.
template <class Config>
__device__ __forceinline__ void init_barriers(uint32_t shared, uint32_t cluster_size) {
    using Layout = SharedLayout<Config>;
    for (uint32_t stage = 0; stage < Config::kStages; ++stage) {
        isa::mbarrier_init(shared + Layout::kFull + stage * sizeof(uint64_t), 1);
        isa::mbarrier_init(shared + Layout::kEmpty + stage * sizeof(uint64_t),
                           Config::kConsumerWarps * cluster_size);
    }
    isa::fence_mbarrier_init();
}

// Loads `rows` rows of an operand into a stage. Of an operand that the cluster shares, this CTA's
// half for both.
__device__ __forceinline__ void load_operand(uint32_t destination, const hadal_tensor_map& map,
                                             uint32_t full, uint32_t x, uint32_t y, uint32_t rows,
                                             bool shared) {
    if (shared) {
        const uint32_t part = isa::cluster_ctarank() * (rows / 2);
        isa::tma_load_2d_multicast(destination + part * kStageWidth, map, full, 0b11, x, y + part);
    } else {
        isa::tma_load_2d(destination, map, full, x, y);
    }
}

// Role: one thread loads the operands of every K block of every tile of this CTA.
template <class Config>
__device__ __forceinline__ void produce(const hadal_gemm_params& params, uint32_t shared) {
    using Layout = SharedLayout<Config>;
    TileScheduler<Config::kTileM, Config::kTileN> scheduler(params);
    Ring<Config::kStages> ring;
    Tile tile;
    while (scheduler.next(tile)) {
        for (uint32_t block = 0; block < tile.k_blocks; ++block, ring.advance()) {
            const uint32_t stage = ring.stage();
            const uint32_t full = shared + Layout::kFull + stage * sizeof(uint64_t);
            const uint32_t x = (tile.k_block + block) * Config::kTileK;
            wait(shared + Layout::kEmpty + stage * sizeof(uint64_t), ring.parity() ^ 1);
            isa::mbarrier_arrive_expect_tx(full, Layout::kStageBytes);
            load_operand(shared + Layout::kA + stage * Layout::kStageA, params.a, full, x,
                         tile.a_row, Config::kTileM, params.cluster_n > 1);
            load_operand(shared + Layout::kB + stage * Layout::kStageB, params.b, full, x,
                         tile.b_row, Config::kTileN, params.cluster_m > 1);
            if constexpr (Config::kStagedScaleA) {
                isa::tma_load_2d(shared + Layout::kScaleA + stage * Layout::kStageScaleA,
                                 params.scale_a, full, tile.scale_x, tile.scale_y + block);
            }
            if constexpr (Config::kStagedScaleB) {
                isa::tma_load_2d(shared + Layout::kScaleB + stage * Layout::kStageScaleB,
                                 params.scale_b, full, tile.column, tile.scale_b_y + block);
            }
        }
    }
    isa::griddepcontrol_launch_dependents();
}

// Where one thread finds its part of a stage.
template <class Config>
struct StageView {
    using Layout = SharedLayout<Config>;

    uint32_t full;     // barrier
    uint32_t empty;    // shared::cluster address of the barrier of the CTA that this lane tells
    bool teller;       // whether it tells one
    uint32_t a;        // low word of the wgmma descriptor of the long side's first row block
    uint32_t a_high;   // high word
    uint32_t b;        // the same of the short side
    uint32_t b_high;
    uint32_t scale_a;  // address of the scale of the thread's first row of A
    uint32_t scale_b;  // address of the scale of the thread's first column

    // Stage 0. `row` is the warp's first row on the long side.
    __device__ __forceinline__ StageView(const hadal_gemm_params& params, uint32_t shared,
                                         uint32_t row, uint32_t warpgroup) {
        // Accumulator layout: see isa/wgmma.cuh.
        const uint32_t lane = threadIdx.x % kWarp;
        const uint32_t long_row = warpgroup * (kWgmmaM * Config::kBlocks);
        const uint32_t a_at = shared + (Config::kSwapped ? Layout::kB : Layout::kA);
        const uint32_t b_at = shared + (Config::kSwapped ? Layout::kA : Layout::kB);
        full = shared + Layout::kFull;
        empty = isa::mapa(shared + Layout::kEmpty, min(lane, isa::cluster_nctarank() - 1));
        teller = lane < isa::cluster_nctarank();
        a = isa::wgmma_descriptor_low(a_at + long_row * kStageWidth);
        b = isa::wgmma_descriptor_low(b_at);
        a_high = params.descriptor_a;
        b_high = params.descriptor_b;
        const uint32_t first = Config::kSwapped ? lane % 4 * 2 : row + lane / 4;
        scale_a = shared + Layout::kScaleA + first * sizeof(float);
        scale_b = shared + Layout::kScaleB + lane % 4 * 2 * sizeof(float);
    }

    // The same, `stage` stages further on.
    __device__ __forceinline__ StageView at(uint32_t stage) const {
        StageView view = *this;
        view.full += stage * sizeof(uint64_t);
        view.empty += stage * sizeof(uint64_t);
        view.a += stage * ((Config::kSwapped ? Layout::kStageB : Layout::kStageA) >> 4);
        view.b += stage * ((Config::kSwapped ? Layout::kStageA : Layout::kStageB) >> 4);
        view.scale_a += stage * Layout::kStageScaleA;
        view.scale_b += stage * Layout::kStageScaleB;
        return view;
    }
};

}  // namespace hadal::gemm
