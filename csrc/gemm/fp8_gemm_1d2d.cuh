// FP8 GEMM with 1x128 scales of A and 128x128 scales of B ("1d2d") for sm_90a.
//
//   D[m, n] = bf16( sum over K blocks b of (scale_a[b][m] * scale_b[n / 128][b]) * P_b[m, n] )
//   P_b[m, n] = sum over the 128 k of block b of A[m, k] * B[n, k]
//
// A and B are e4m3, K-major. P_b is one chain of four wgmma of K = 32 that starts from zero,
// because Hopper's FP8 path keeps few fraction bits: partial sums are promoted every 128 of K into
// f32 registers by d = fma(scale_a * scale_b, P_b, d), blocks in ascending order. Order and
// operations do not depend on M, on the tile or on the group, so the bits of an output row depend
// on that row's operands only.
//
// Pipeline protocol. A stage holds one K block: tile of A, tile of B, scales of A. Two mbarriers
// each:
//
//   full[s]   one arrival (the producer's, which announces kStageBytes) + those bytes, by TMA
//   empty[s]  one arrival of each consumer warp, after it has read the stage for the last time
//
// The i-th use of the ring (i counts K blocks over all tiles of this CTA) has stage i % kStages and
// parity p = i / kStages % 2. The producer waits for empty[s] with parity p ^ 1 (true at once in
// the first round), then arms full[s] and issues its loads; consumers wait for full[s] with parity
// p, read, and arrive at empty[s]. wgmma reads through the async proxy, and wait_group precedes the
// arrival; the overwriting TMA is of the same proxy. Scales are read by ordinary loads, done before
// the arrival. No wait has a deadline: every one is for work of this CTA that always completes.
//
// Roles: warpgroup 0 produces (one elected thread of its first warp; the rest leave), warpgroups
// 1.. consume 64 rows each. Each consumer warp stages its 16 rows through 2 KB of its own shared
// memory on the way out, so the next tile's loads run during the epilogue. Rows that no group owns
// are not written.
#pragma once

#include <cstdint>

#include "gemm/scheduler.cuh"
#include "isa/convert.cuh"
#include "isa/fence.cuh"
#include "isa/mbarrier.cuh"
#include "isa/memory.cuh"
#include "isa/tma.cuh"
#include "isa/warp.cuh"
#include "isa/wgmma.cuh"
#include "params/gemm.h"

namespace hadal::gemm {

constexpr uint32_t kTileN = 128;       // one column of B's scales
constexpr uint32_t kTileK = 128;       // one 128-byte swizzle width of e4m3; one block of scales
constexpr uint32_t kWgmmaM = 64;       // rows of one consumer warpgroup
constexpr uint32_t kWgmmaK = 32;       // bytes of K of one wgmma
constexpr uint32_t kAccumulators = kTileN / 2;  // f32 values that a thread holds of m64n128
constexpr uint32_t kWarpgroup = 128;
constexpr uint32_t kWarp = 32;

// Compile-time choices of one instance.
template <uint32_t kTileM_, uint32_t kStages_, Form kForm_>
struct Fp8Gemm1d2dConfig {
    static constexpr uint32_t kTileM = kTileM_;
    static constexpr uint32_t kStages = kStages_;
    static constexpr Form kForm = kForm_;
    static constexpr uint32_t kConsumers = kTileM / kWgmmaM;  // warpgroups
    static constexpr uint32_t kConsumerWarps = kConsumers * (kWarpgroup / kWarp);
    static constexpr uint32_t kThreads = (kConsumers + 1) * kWarpgroup;
    // Registers per thread: 65536 of the SM, the consumers' share rounded to what setmaxnreg takes.
    static constexpr int kProducerRegisters = 40;
    static constexpr int kConsumerRegisters = kConsumers == 1 ? 248 : 232;
};

// Offsets in dynamic shared memory, in bytes.
template <class Config>
struct SharedLayout {
    static constexpr uint32_t kStageA = Config::kTileM * kTileK;
    static constexpr uint32_t kStageB = kTileN * kTileK;
    static constexpr uint32_t kStageScale = Config::kTileM * sizeof(float);
    static constexpr uint32_t kStageBytes = kStageA + kStageB + kStageScale;
    static constexpr uint32_t kWarpOutput = 16 * 128;  // 16 rows of 64 BF16

    static constexpr uint32_t kA = 0;
    static constexpr uint32_t kB = kA + Config::kStages * kStageA;
    static constexpr uint32_t kOutput = kB + Config::kStages * kStageB;
    static constexpr uint32_t kScale = kOutput + Config::kConsumerWarps * kWarpOutput;
    static constexpr uint32_t kFull = kScale + Config::kStages * kStageScale;
    static constexpr uint32_t kEmpty = kFull + Config::kStages * sizeof(uint64_t);
    static constexpr uint32_t kBytes = kEmpty + Config::kStages * sizeof(uint64_t);
};

// Consecutive uses of the ring that do not cross its end, hence share a parity.
struct Run {
    uint32_t stage;  // of the first
    uint32_t count;
    uint32_t parity;
};

// Position in the ring of stages.
template <uint32_t kStages>
class Ring {
  public:
    // The next uses, at least one and at most `wanted` > 0 of them.
    __device__ __forceinline__ Run take(uint32_t wanted) {
        const Run run{stage_, min(wanted, kStages - stage_), parity_};
        stage_ += run.count;
        if (stage_ == kStages) {
            stage_ = 0;
            parity_ ^= 1;
        }
        return run;
    }

  private:
    uint32_t stage_ = 0;
    uint32_t parity_ = 0;
};

__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
    while (!isa::mbarrier_try_wait_parity(barrier, parity)) {
    }
}

// Role: one thread loads the operands of every K block of every tile of this CTA.
template <class Config>
__device__ __forceinline__ void produce(const hadal_fp8_gemm_1d2d_params& params, uint32_t shared) {
    using Layout = SharedLayout<Config>;
    TileScheduler<Config::kTileM, Config::kForm> scheduler(params);
    Ring<Config::kStages> ring;
    Tile tile;
    while (scheduler.next(tile)) {
        const uint32_t b_row = (tile.group * params.n_blocks + tile.n_block) * kTileN;
        for (uint32_t block = 0; block < params.k_blocks; ++block) {
            const auto [stage, count, parity] = ring.take(1);
            const uint32_t full = shared + Layout::kFull + stage * sizeof(uint64_t);
            wait(shared + Layout::kEmpty + stage * sizeof(uint64_t), parity ^ 1);
            isa::mbarrier_arrive_expect_tx(full, Layout::kStageBytes);
            isa::tma_load_2d(shared + Layout::kA + stage * Layout::kStageA, params.a, full,
                             block * kTileK, tile.row);
            isa::tma_load_2d(shared + Layout::kB + stage * Layout::kStageB, params.b, full,
                             block * kTileK, b_row);
            isa::tma_load_2d(shared + Layout::kScale + stage * Layout::kStageScale, params.scale_a,
                             full, tile.scale_x, tile.scale_y + block);
        }
    }
    isa::griddepcontrol_launch_dependents();
}

// Starts P_b of one K block: four wgmma from zero, one group. `a` and `b` are the low words of the
// operands' descriptors. `partial` may be read after finish_block.
__device__ __forceinline__ void start_block(float (&partial)[kAccumulators], uint32_t a,
                                            uint32_t b) {
    isa::pin_accumulators(partial);
    isa::wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < kTileK / kWgmmaK; ++k) {
        const uint32_t step = k * (kWgmmaK >> 4);
        isa::wgmma_m64n128k32_e4m3(partial, isa::wgmma_descriptor_k_major_128b(a + step),
                                   isa::wgmma_descriptor_k_major_128b(b + step), k != 0);
    }
    isa::wgmma_commit_group();
}

__device__ __forceinline__ void finish_block(float (&partial)[kAccumulators]) {
    isa::wgmma_wait_group<0>();
    isa::pin_accumulators(partial);
}

// The rows of D that this thread stores: bit i stands for row 4 i + lane / 8 of its warp.
template <class Config>
__device__ __forceinline__ uint32_t rows_to_store(const hadal_fp8_gemm_1d2d_params& params,
                                                  const Tile& tile, uint32_t first_row) {
    uint32_t mask = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = first_row + 4 * i;
        bool stored = row < tile.row_limit;
        if constexpr (Config::kForm == Form::kContiguous) {
            const uint64_t at = params.groups + uint64_t{row} * sizeof(int32_t);
            stored = stored && static_cast<uint32_t>(isa::ld_global_s32(at)) == tile.group;
        }
        mask |= stored ? 1u << i : 0u;
    }
    return mask;
}

// Writes the 16 x 128 values of one warp to D as BF16. Two halves of 64 columns go through
// `staging` (16 rows of 128 bytes; 16-byte chunk c of row r lies at chunk c ^ (r % 8), which keeps
// both the stmatrix and the loads free of bank conflicts) and leave as whole 128-byte lines.
template <class Config>
__device__ __forceinline__ void store_tile(const hadal_fp8_gemm_1d2d_params& params,
                                           const Tile& tile, uint32_t warp_row, uint32_t staging,
                                           const float (&sum)[kAccumulators]) {
    const uint32_t lane = threadIdx.x % kWarp;
    const uint32_t row = tile.row + warp_row + lane / 8;
    const uint32_t mask = rows_to_store<Config>(params, tile, row);
    const uint64_t row_bytes = uint64_t{params.n_blocks} * kTileN * 2;
    const uint64_t out = params.d + row * row_bytes + tile.n_block * kTileN * 2 + lane % 8 * 16;
    const uint32_t matrix = lane / 8;  // stmatrix: this lane gives row lane % 8 of that matrix
    const uint32_t matrix_row = staging + (matrix % 2 * 8 + lane % 8) * 128;
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
#pragma unroll
        for (uint32_t pair = 0; pair < 4; ++pair) {
            const float* v = &sum[half * 32 + pair * 8];
            const uint32_t chunk = (pair * 2 + matrix / 2) ^ (lane % 8);
            isa::stmatrix_x4(matrix_row + chunk * 16,
                             {isa::cvt_bf16x2(v[1], v[0]), isa::cvt_bf16x2(v[3], v[2]),
                              isa::cvt_bf16x2(v[5], v[4]), isa::cvt_bf16x2(v[7], v[6])});
        }
        __syncwarp();
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t local = 4 * i + lane / 8;
            const uint32_t chunk = lane % 8 ^ local % 8;
            const uint4 line = isa::ld_shared_v4(staging + local * 128 + chunk * 16);
            if (mask >> i & 1) isa::st_global_v4(out + 4 * i * row_bytes + half * 128, line);
        }
        __syncwarp();
    }
}

// Where one thread finds its part of a stage; moves from stage to stage by additions only.
template <class Config>
struct StageView {
    using Layout = SharedLayout<Config>;

    uint32_t full;   // barrier
    uint32_t a;      // low word of the wgmma descriptor of the warpgroup's 64 rows
    uint32_t b;      // the same of B
    uint32_t scale;  // address of the scale of the thread's first row; eight rows on is its second

    // Stage 0.
    __device__ __forceinline__ StageView(uint32_t shared, uint32_t warp) {
        // Accumulator layout: see isa/wgmma.cuh.
        const uint32_t row = warp * 16 + threadIdx.x % kWarp / 4;
        full = shared + Layout::kFull;
        a = isa::wgmma_descriptor_low(shared + Layout::kA + warp / 4 * (kWgmmaM * kTileK));
        b = isa::wgmma_descriptor_low(shared + Layout::kB);
        scale = shared + Layout::kScale + row * sizeof(float);
    }

    __device__ __forceinline__ void advance(uint32_t stages) {
        full += stages * sizeof(uint64_t);
        a += stages * (Layout::kStageA >> 4);
        b += stages * (Layout::kStageB >> 4);
        scale += stages * Layout::kStageScale;
    }
};

// Adds the K blocks of one run of stages to `sum`. Lane l holds in `scales_b` the scale of B of the
// run's l-th block from the end (l counts from 1). Unrolling would only multiply the code: the
// bodies are strictly serial, the other warpgroup fills the gaps.
template <class Config>
__device__ __forceinline__ void accumulate(float (&sum)[kAccumulators], StageView<Config> view,
                                           const Run& run, float scales_b) {
    using Layout = SharedLayout<Config>;
#pragma unroll 1
    for (uint32_t left = run.count; left != 0; --left, view.advance(1)) {
        wait(view.full, run.parity);
        const float scale_low = isa::ld_shared_f32(view.scale);
        const float scale_high = isa::ld_shared_f32(view.scale + 8 * sizeof(float));
        float partial[kAccumulators];
        start_block(partial, view.a, view.b);
        // The first use of scales_b in a run waits for its load: here the products hide that.
        const float scale_b = __shfl_sync(0xffffffff, scales_b, left);
        const float low = scale_low * scale_b;
        const float high = scale_high * scale_b;
        finish_block(partial);
        __syncwarp();  // the lanes' loads of scales come before the arrival of one of them
        if (threadIdx.x % kWarp == 0) {
            isa::mbarrier_arrive(view.full + (Layout::kEmpty - Layout::kFull));
        }
#pragma unroll
        for (uint32_t i = 0; i < kAccumulators; ++i) {
            sum[i] = __fmaf_rn(i % 4 < 2 ? low : high, partial[i], sum[i]);
        }
    }
}

// Role: one warpgroup computes and stores 64 rows of every tile of this CTA. `warp` counts the
// consumer warps of the CTA.
template <class Config>
__device__ __forceinline__ void consume(const hadal_fp8_gemm_1d2d_params& params, uint32_t shared,
                                        uint32_t warp) {
    using Layout = SharedLayout<Config>;
    const uint32_t lane = threadIdx.x % kWarp;
    const StageView<Config> first_stage(shared, warp);
    TileScheduler<Config::kTileM, Config::kForm> scheduler(params);
    Ring<Config::kStages> ring;
    Tile tile;
    while (scheduler.next(tile)) {
        const uint64_t scales_row = uint64_t{tile.group} * params.n_blocks + tile.n_block;
        uint64_t scales_at = params.scale_b + (scales_row * params.k_blocks - lane) * sizeof(float);
        float sum[kAccumulators] = {};
        for (uint32_t left = params.k_blocks; left != 0;) {
            const Run run = ring.take(left);
            left -= run.count;
            scales_at += run.count * sizeof(float);
            float scales_b = 0;
            if (lane - 1 < run.count) scales_b = isa::ld_global_nc_f32(scales_at);
            StageView<Config> view = first_stage;
            view.advance(run.stage);
            accumulate(sum, view, run, scales_b);
        }
        store_tile<Config>(params, tile, warp * 16,
                           shared + Layout::kOutput + warp * Layout::kWarpOutput, sum);
    }
}

// Makes the barriers ready: one thread, before __syncthreads.
template <class Config>
__device__ __forceinline__ void init_barriers(uint32_t shared) {
    using Layout = SharedLayout<Config>;
    for (uint32_t stage = 0; stage < Config::kStages; ++stage) {
        isa::mbarrier_init(shared + Layout::kFull + stage * sizeof(uint64_t), 1);
        isa::mbarrier_init(shared + Layout::kEmpty + stage * sizeof(uint64_t),
                           Config::kConsumerWarps);
    }
    isa::fence_mbarrier_init();
}

// Kernel body. Grid: any number of CTAs (x); block: Config::kThreads; dynamic shared memory:
// SharedLayout<Config>::kBytes.
template <class Config>
__device__ __forceinline__ void fp8_gemm_1d2d(const hadal_fp8_gemm_1d2d_params& params) {
    using Layout = SharedLayout<Config>;
    static_assert(Config::kTileM == 64 || Config::kTileM == 128,
                  "a consumer warpgroup owns 64 rows; one or two of them fit the register file");
    static_assert(Config::kStages < kWarp, "one lane holds the scale of one stage of a run");
    static_assert(Config::kStages >= 2, "the pipeline needs a stage to fill and a stage to read");
    static_assert(Layout::kBytes <= 232448, "sm_90 has 227 KB of shared memory per CTA");
    static_assert(Layout::kStageA % 1024 == 0 && Layout::kStageB % 1024 == 0,
                  "128-byte swizzle atoms are 1024 bytes");
    static_assert(Layout::kA % 1024 == 0 && Layout::kB % 1024 == 0,
                  "wgmma descriptors here have base offset 0");
    static_assert(Layout::kScale % 128 == 0 && Layout::kStageScale % 128 == 0,
                  "a TMA box begins at a multiple of 128 bytes");
    static_assert(Layout::kOutput % 128 == 0, "staging rows are whole swizzle rows");
    static_assert(Layout::kFull % 8 == 0, "mbarriers are 8 bytes");
    static_assert((Config::kConsumers * Config::kConsumerRegisters + Config::kProducerRegisters) *
                          kWarpgroup <=
                      65536,
                  "the register file holds 65536 registers");

    extern __shared__ __align__(1024) uint8_t shared_memory[];
    const uint32_t shared = isa::shared_address(shared_memory);
    // Warp-uniform for the compiler too, so that addresses live in uniform registers.
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / kWarp, 0);
    if (threadIdx.x == 0) {
        isa::prefetch_tensormap(params.a);
        isa::prefetch_tensormap(params.b);
        isa::prefetch_tensormap(params.scale_a);
        init_barriers<Config>(shared);
    }
    __syncthreads();
    isa::griddepcontrol_wait();

    if (warp < kWarpgroup / kWarp) {
        isa::setmaxnreg_dec<Config::kProducerRegisters>();
        if (warp == 0 && isa::elect()) produce<Config>(params, shared);
    } else {
        isa::setmaxnreg_inc<Config::kConsumerRegisters>();
        consume<Config>(params, shared, warp - kWarpgroup / kWarp);
    }
}

}  // namespace hadal::gemm
