// GEMM for sm_90a: D[m, n] = sum over k of A[m, k] * B[n, k], A and B K-major; FP8 with scales, or
// BF16; dense, batched, grouped along rows or along K.
//
// Warp-specialised and persistent. Warpgroup 0 produces (one elected thread of its first warp; the
// rest leaves), the others consume: see pipeline.cuh for the protocol between them, accumulate.cuh
// for the arithmetic, store.cuh for the way out, scheduler.cuh for who computes what.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gemm/accumulate.cuh"
#include "gemm/config.cuh"
#include "gemm/pipeline.cuh"
#include "gemm/scheduler.cuh"
#include "gemm/store.cuh"
#include "isa/cluster.cuh"
#include "isa/memory.cuh"
#include "isa/tma.cuh"
#include "isa/warp.cuh"
#include "params/gemm.h"

namespace hadal::gemm {

// Role: one warpgroup computes and stores its row blocks of every tile of this CTA. `warp` counts
// the consumer warps of the CTA.
template <class Config>
__device__ __forceinline__ void consume(const hadal_gemm_params& params, uint32_t shared,
                                        uint32_t warp) {
    using Layout = SharedLayout<Config>;
    using Out = std::conditional_t<Config::kSwapped, SwappedOutput<Config>, Output<Config>>;
    const uint32_t row = warp / 4 * (kWgmmaM * Config::kBlocks) + warp % 4 * kWarpRows;
    const StageView<Config> first_stage(params, shared, row, warp / 4);
    TileScheduler<Config::kTileM, Config::kTileN> scheduler(params);
    Ring<Config::kStages> ring;
    Out out(params, shared + Layout::kOutput + warp * Layout::kWarpOutput);
    Tile tile;
    while (scheduler.next(tile)) {
        Sums<Config> sum = {};
        accumulate<Config>(params, tile, ring, sum, first_stage);
        // No loop: the compiler would rather index the sums than unroll it.
        out.store(tile, row, sum[0]);
        if constexpr (Config::kBlocks == 2) out.store(tile, row + kWgmmaM, sum[1]);
    }
    out.finish();
}

// Kernel body. Grid: any multiple of the cluster, which is [cluster_m * cluster_n, 1, 1] and has one
// or two CTAs; block: Config::kThreads; dynamic shared memory: SharedLayout<Config>::kBytes.
template <class Config>
__device__ __forceinline__ void gemm(const hadal_gemm_params& params) {
    extern __shared__ __align__(1024) uint8_t shared_memory[];
    const uint32_t shared = isa::shared_address(shared_memory);
    // Warp-uniform for the compiler too, so that addresses live in uniform registers.
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / kWarp, 0);
    if (threadIdx.x == 0) {
        isa::prefetch_tensormap(params.a);
        isa::prefetch_tensormap(params.b);
        if constexpr (Config::kStagedScaleA) isa::prefetch_tensormap(params.scale_a);
        if constexpr (Config::kStagedScaleB) isa::prefetch_tensormap(params.scale_b);
        if constexpr (!Config::kSwapped) isa::prefetch_tensormap(params.d);
        init_barriers<Config>(shared, isa::cluster_nctarank());
    }
    isa::barrier_cluster_arrive();
    isa::barrier_cluster_wait();
    isa::griddepcontrol_wait();

    if (warp < kWarpgroup / kWarp) {
        isa::setmaxnreg_dec<Config::kProducerRegisters>();
        if (warp == 0 && isa::elect()) produce<Config>(params, shared);
        __syncwarp();
    } else {
        isa::setmaxnreg_inc<Config::kConsumerRegisters>();
        consume<Config>(params, shared, warp - kWarpgroup / kWarp);
    }
    // No CTA leaves while another still writes into its shared memory or arrives at its barriers.
    isa::barrier_cluster_arrive();
    isa::barrier_cluster_wait();
}

}  // namespace hadal::gemm
