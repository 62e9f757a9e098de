// Compile-time choices of a GEMM kernel, and what follows from them.
#pragma once

#include <cstdint>

#include "isa/wgmma.cuh"

namespace hadal::gemm {

using isa::Element;

// How products become values.
enum class Scales {
    k1d2d,     // A one scale per row and 128 of K, B one per 128 x 128
    k1d1d,     // both one scale per row and 128 of K
    kChannel,  // one per row of A and per row of B, or per operand: applied at the end
    kNone,     // BF16
};

// Which operand fills the 64 rows of a wgmma.
enum class Order {
    kRows,     // A: rows of D are rows of the accumulators
    kSwapped,  // B: for few rows of A, which then fill the narrow side
};

constexpr uint32_t kStageWidth = 128;  // bytes of K of one stage: one swizzle width, four wgmma
constexpr uint32_t kScaleBlock = 128;  // columns of D that share a scale of B in 1d2d
constexpr uint32_t kGroupAlignment = 128;  // rows at which contiguous groups begin
constexpr uint32_t kWgmmaM = 64;
constexpr uint32_t kWgmmaWidth = 32;   // bytes of K of one wgmma
constexpr uint32_t kWarpRows = 16;     // rows of wgmma's 64 that one warp holds
constexpr uint32_t kWarp = 32;
constexpr uint32_t kWarpgroup = 128;

// One instance. `kBlocks` wgmma row blocks are computed by each consumer warpgroup, one after
// another.
template <Scales kScales_, Element kA_, Element kB_, uint32_t kTileM_, uint32_t kTileN_,
          uint32_t kStages_, uint32_t kBlocks_ = 1, Order kOrder_ = Order::kRows>
struct Config {
    static constexpr Scales kScales = kScales_;
    static constexpr uint32_t kTileM = kTileM_;
    static constexpr uint32_t kTileN = kTileN_;
    static constexpr uint32_t kStages = kStages_;
    static constexpr uint32_t kBlocks = kBlocks_;
    static constexpr bool kSwapped = kOrder_ == Order::kSwapped;

    // wgmma's sides.
    static constexpr uint32_t kLong = kSwapped ? kTileN : kTileM;
    static constexpr uint32_t kShort = kSwapped ? kTileM : kTileN;
    static constexpr uint32_t kAccumulators = kShort / 2;  // f32 of one thread and row block
    using Wgmma = isa::Wgmma<kSwapped ? kB_ : kA_, kSwapped ? kA_ : kB_, kShort>;

    static constexpr uint32_t kTileK = kA_ == Element::kBf16 ? kStageWidth / 2 : kStageWidth;
    static constexpr uint32_t kConsumers = kLong / (kWgmmaM * kBlocks);  // warpgroups
    static constexpr uint32_t kConsumerWarps = kConsumers * (kWarpgroup / kWarp);
    static constexpr uint32_t kThreads = (kConsumers + 1) * kWarpgroup;
    // Registers per thread: 65536 in all, in steps of 8.
    static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 40;
    static constexpr int kConsumerRegisters = kConsumers == 1 ? 248 : kConsumers == 2 ? 232 : 160;

    static constexpr bool kStagedScaleA = kScales == Scales::k1d2d || kScales == Scales::k1d1d;
    static constexpr bool kStagedScaleB = kScales == Scales::k1d1d;

    static_assert(kLong % (kWgmmaM * kBlocks) == 0, "a consumer owns whole row blocks");
    static_assert(kBlocks == 1 || (kBlocks == 2 && kScales == Scales::k1d2d && !kSwapped),
                  "one or two row blocks");
    static_assert(kConsumers >= 1 && kConsumers <= 3, "the register file holds three accumulators");
    static_assert((kConsumers * kConsumerRegisters + kProducerRegisters) * kWarpgroup <= 65536,
                  "the register file holds 65536 registers");
    static_assert(kStages >= 2, "loads overlap products");
    static_assert(!kSwapped || kScaleBlock % kLong == 0, "one scale of B serves a swapped tile");
};

// Offsets in dynamic shared memory, in bytes.
template <class Config>
struct SharedLayout {
    static constexpr uint32_t align(uint32_t bytes) { return (bytes + 127) / 128 * 128; }

    static constexpr uint32_t kStageA = Config::kTileM * kStageWidth;
    static constexpr uint32_t kStageB = Config::kTileN * kStageWidth;
    static constexpr uint32_t kScaleABytes = Config::kStagedScaleA ? Config::kTileM * 4 : 0;
    static constexpr uint32_t kScaleBBytes = Config::kStagedScaleB ? Config::kTileN * 4 : 0;
    static constexpr uint32_t kStageScaleA = align(kScaleABytes);
    static constexpr uint32_t kStageScaleB = align(kScaleBBytes);
    // What arrives at a full barrier.
    static constexpr uint32_t kStageBytes = kStageA + kStageB + kScaleABytes + kScaleBBytes;
    // Two boxes of 16 rows of 128 bytes per warp; swapped, 16 columns of all rows in BF16.
    static constexpr uint32_t kBox = kWarpRows * 128;
    static constexpr uint32_t kWarpOutput = Config::kSwapped ? Config::kTileM * 32 : 2 * kBox;

    static constexpr uint32_t kA = 0;
    static constexpr uint32_t kB = kA + Config::kStages * kStageA;
    static constexpr uint32_t kOutput = kB + Config::kStages * kStageB;
    static constexpr uint32_t kScaleA = kOutput + Config::kConsumerWarps * kWarpOutput;
    static constexpr uint32_t kScaleB = kScaleA + Config::kStages * kStageScaleA;
    static constexpr uint32_t kFull = kScaleB + Config::kStages * kStageScaleB;
    static constexpr uint32_t kEmpty = kFull + Config::kStages * 8;
    static constexpr uint32_t kBytes = kEmpty + Config::kStages * 8;

    static_assert(kBytes <= 232448, "sm_90 has 227 KB of shared memory per CTA");
    static_assert(kStageA % 1024 == 0 && kStageB % 1024 == 0, "swizzle atoms are 1024 bytes");
    static_assert(kOutput % 1024 == 0 && (Config::kSwapped || kWarpOutput % 1024 == 0),
                  "output boxes are swizzle atoms");
    static_assert(kScaleA % 128 == 0, "a TMA box begins at a multiple of 128 bytes");
};

}  // namespace hadal::gemm
