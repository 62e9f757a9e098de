// Copies by the asynchronous proxy: global -> shared -> global, one issuing thread per CTA, no
// registers for the data. PTX ISA 9.0, "cp.async.bulk".
//
// Chunks go round the CTAs. A chunk's stage is loaded (completes on the stage's mbarrier), stored
// (a bulk group of the issuing thread), and loaded again once the group has read it. Both accesses
// to a stage are of the async proxy, so no proxy fence lies between them.
#pragma once

#include <cstdint>

#include "isa/fence.cuh"
#include "isa/mbarrier.cuh"
#include "isa/memory.cuh"
#include "isa/tma.cuh"
#include "transfer/nvlink/vector.cuh"

namespace hadal::nvlink {

/// Bytes of a stage.
constexpr uint32_t kBulkChunk = 8192;
constexpr uint32_t kBulkStages = 4;
static_assert(kBulkChunk % 16 == 0, "bulk copies move multiples of 16 bytes");
static_assert(kBulkStages >= 2, "a stage is loaded while another is stored");
static_assert((kBulkChunk + 8) * kBulkStages <= 48 * 1024, "static shared memory");

/// The chunks of one CTA: blockIdx.x, blockIdx.x + gridDim.x, ...
struct Chunks {
    uint64_t to;
    uint64_t from;
    uint64_t bytes;
    uint64_t count;

    __device__ __forceinline__ uint64_t at(uint64_t i) const {
        return (blockIdx.x + i * gridDim.x) * kBulkChunk;
    }
    __device__ __forceinline__ uint32_t size(uint64_t i) const {
        const uint64_t left = bytes - at(i);
        return left < kBulkChunk ? static_cast<uint32_t>(left) : kBulkChunk;
    }
};

struct Stages {
    uint32_t buffer;  // shared address of stage 0
    uint32_t full;    // shared address of mbarrier 0

    __device__ __forceinline__ uint32_t stage(uint64_t i) const {
        return buffer + static_cast<uint32_t>(i % kBulkStages) * kBulkChunk;
    }
    __device__ __forceinline__ uint32_t barrier(uint64_t i) const {
        return full + static_cast<uint32_t>(i % kBulkStages) * 8;
    }
};

__device__ __forceinline__ void load_chunk(const Chunks& chunks, const Stages& stages, uint64_t i) {
    isa::mbarrier_arrive_expect_tx(stages.barrier(i), chunks.size(i));
    isa::bulk_load(stages.stage(i), reinterpret_cast<const void*>(chunks.from + chunks.at(i)),
                   chunks.size(i), stages.barrier(i));
}

/// One thread. On return its stores are complete and visible to it (the full wait_group), so that it
/// may publish them with a release.
__device__ __forceinline__ void pump(const Chunks& chunks, const Stages& stages) {
    for (uint32_t s = 0; s < kBulkStages; ++s) isa::mbarrier_init(stages.full + s * 8, 1);
    isa::fence_mbarrier_init();
    for (uint64_t i = 0; i < kBulkStages - 1 && i < chunks.count; ++i)
        load_chunk(chunks, stages, i);
    for (uint64_t i = 0; i < chunks.count; ++i) {
        const uint32_t parity = static_cast<uint32_t>(i / kBulkStages) & 1;
        while (!isa::mbarrier_try_wait_parity(stages.barrier(i), parity)) {
        }
        isa::bulk_store(reinterpret_cast<void*>(chunks.to + chunks.at(i)), stages.stage(i),
                        chunks.size(i));
        isa::bulk_commit_group();
        const uint64_t next = i + kBulkStages - 1;
        if (next >= chunks.count) continue;
        // The stage of `next` was stored by the group before the latest.
        isa::bulk_wait_group_read<1>();
        load_chunk(chunks, stages, next);
    }
    isa::bulk_wait_group<0>();
}

/// Copies `bytes` between global addresses, by bulk copies where both can be aligned to 16 bytes
/// together, else as copy_vector. Called by all threads of all CTAs. Order: none, but the stores of
/// a CTA's bulk copies are visible to its thread 0, and those of all other threads weak: a CTA
/// barrier and a release by thread 0 publish them all. Ranges do not overlap. Once per kernel.
__device__ __forceinline__ void copy_bulk(uint64_t to, uint64_t from, uint64_t bytes) {
    __shared__ alignas(128) uint8_t buffer[kBulkStages][kBulkChunk];
    __shared__ alignas(8) uint64_t full[kBulkStages];
    const Share share{uint64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                      uint64_t{gridDim.x} * blockDim.x};
    if (((to ^ from) & 15) != 0) {
        copy_vector(to, from, bytes, share);
        return;
    }
    const Split parts = split(to, bytes, 16);
    copy_ends(to, from, bytes, parts, share);
    if (threadIdx.x != 0) return;
    const uint64_t all = (parts.body + kBulkChunk - 1) / kBulkChunk;
    const uint64_t own = all > blockIdx.x ? (all - blockIdx.x - 1) / gridDim.x + 1 : 0;
    if (own == 0) return;
    pump(Chunks{to + parts.head, from + parts.head, parts.body, own},
         Stages{isa::shared_address(buffer), isa::shared_address(full)});
}

}  // namespace hadal::nvlink
