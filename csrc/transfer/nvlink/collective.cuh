// All-reduce and broadcast over all ranks: through the switch's multicast, or rank by rank.
//
// Both move vectors of 16 bytes and wait for nobody: stream order, barriers and signals say when
// operands are there and results may be read. Any grid of kThreads.
#pragma once

#include <cstdint>

#include "isa/convert.cuh"
#include "isa/fence.cuh"
#include "isa/ldst.cuh"
#include "isa/memory.cuh"
#include "isa/multimem.cuh"
#include "transfer/nvlink/common.cuh"

namespace hadal::nvlink {

enum class Path { kPeer, kMulticast };
enum class Element { kF32, kBf16 };

constexpr uint32_t kVectorBytes = 16;
/// Loads from peers that one thread has in flight.
constexpr uint32_t kPeerLoads = 4;

template <Path path>
struct BroadcastConfig {
    static constexpr Path kPath = path;
    static constexpr uint32_t kThreads = 256;
};

template <Path path, Element element>
struct AllReduceConfig {
    static constexpr Path kPath = path;
    static constexpr Element kElement = element;
    static constexpr uint32_t kThreads = 256;
};

/// Sums of the elements of one vector, in f32, in the order in which vectors are added.
template <Element element>
struct Sums;

template <>
struct Sums<Element::kF32> {
    float x, y, z, w;

    static __device__ __forceinline__ Sums of(uint4 v) {
        return Sums{__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                    __uint_as_float(v.w)};
    }
    __device__ __forceinline__ void add(const Sums& other) {
        x += other.x;
        y += other.y;
        z += other.z;
        w += other.w;
    }
    __device__ __forceinline__ uint4 vector() const {
        return uint4{__float_as_uint(x), __float_as_uint(y), __float_as_uint(z),
                     __float_as_uint(w)};
    }
};

template <>
struct Sums<Element::kBf16> {
    Sums<Element::kF32> even;
    Sums<Element::kF32> odd;

    /// A BF16 value is the upper half of the f32 that equals it.
    static __device__ __forceinline__ Sums of(uint4 v) {
        constexpr uint32_t kOdd = 0xffff0000u;
        return Sums{Sums<Element::kF32>::of(uint4{v.x << 16, v.y << 16, v.z << 16, v.w << 16}),
                    Sums<Element::kF32>::of(uint4{v.x & kOdd, v.y & kOdd, v.z & kOdd, v.w & kOdd})};
    }
    __device__ __forceinline__ void add(const Sums& other) {
        even.add(other.even);
        odd.add(other.odd);
    }
    /// Rounds once, to nearest even.
    __device__ __forceinline__ uint4 vector() const {
        return uint4{isa::cvt_bf16x2(odd.x, even.x), isa::cvt_bf16x2(odd.y, even.y),
                     isa::cvt_bf16x2(odd.z, even.z), isa::cvt_bf16x2(odd.w, even.w)};
    }
};

/// The sums at `offset` over all ranks, in the order of ranks from rank 0's value on. Weak loads.
template <Element element>
__device__ __forceinline__ uint4 sum_peers(const hadal_nvlink& nv, uint64_t offset) {
    auto sums = Sums<element>::of(isa::ld_global_v4(place(nv, 0, offset)));
    for (uint32_t first = 1; first < nv.ranks; first += kPeerLoads) {
        uint4 loaded[kPeerLoads];
#pragma unroll
        for (uint32_t j = 0; j < kPeerLoads; ++j) {
            if (first + j < nv.ranks)
                loaded[j] = isa::ld_global_v4(place(nv, first + j, offset));
        }
#pragma unroll
        for (uint32_t j = 0; j < kPeerLoads; ++j) {
            if (first + j < nv.ranks) sums.add(Sums<element>::of(loaded[j]));
        }
    }
    return sums.vector();
}

/// Stores a vector at `offset` of every window, the next rank's first: ranks spread over the links.
__device__ __forceinline__ void store_peers(const hadal_nvlink& nv, uint64_t offset, uint4 value) {
    for (uint32_t i = 1; i <= nv.ranks; ++i)
        isa::st_global_v4(place(nv, (nv.rank + i) % nv.ranks, offset), value);
}

/// Sums `vectors` vectors at `offset` of all windows, into all windows. Each rank sums a part of them
/// for all, so that every rank gets the same bits.
///
/// Order: none by itself; every rank comes here between two barriers of all ranks. Who writes: this
/// rank, its part of every window. On the peer path the order of summation is that of ranks; on the
/// multicast path it is the switch's. Once per pair of barriers.
template <class Config>
__device__ __forceinline__ void all_reduce(const hadal_nvlink_all_reduce_params& p) {
    constexpr bool kMulticast = Config::kPath == Path::kMulticast;
    const hadal_nvlink& nv = p.nvlink;
    if (aborted(nv) != HADAL_NVLINK_FAULT_NONE) return;
    // What peers wrote by ordinary addresses is read by multicast ones, and the other way round.
    if constexpr (kMulticast) isa::fence_proxy_alias();
    const uint64_t part = (p.vectors + nv.ranks - 1) / nv.ranks;
    const uint64_t begin = nv.rank * part;
    const uint64_t end = begin + part < p.vectors ? begin + part : p.vectors;
    const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
    uint64_t i = begin + uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    for (; i < end; i += stride) {
        const uint64_t offset = i * kVectorBytes;
        if constexpr (!kMulticast) {
            const uint64_t at = p.offset + offset;
            store_peers(nv, at, sum_peers<Config::kElement>(nv, at));
        } else if constexpr (Config::kElement == Element::kF32) {
            const uint64_t at = p.multicast + p.offset + offset;
            isa::multimem_store(at, isa::multimem_sum_f32(at));
        } else {
            const uint64_t at = p.multicast + p.offset + offset;
            isa::multimem_store(at, isa::multimem_sum_bf16(at));
        }
    }
    if constexpr (kMulticast) isa::fence_proxy_alias();
}

/// Copies `vectors` vectors from `source` to `offset` of all windows.
///
/// Order: none by itself, as of a put: a signal or a barrier of a later kernel of the stream publishes
/// them. Who writes: this rank. Ranges do not overlap. Any number of times.
template <class Config>
__device__ __forceinline__ void broadcast(const hadal_nvlink_broadcast_params& p) {
    const hadal_nvlink& nv = p.nvlink;
    if (aborted(nv) != HADAL_NVLINK_FAULT_NONE) return;
    const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
    uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    for (; i < p.vectors; i += stride) {
        const uint4 value = isa::ld_global_v4(p.source + i * kVectorBytes);
        const uint64_t offset = p.offset + i * kVectorBytes;
        if constexpr (Config::kPath == Path::kMulticast) {
            isa::multimem_store(p.multicast + offset, value);
        } else {
            store_peers(nv, offset, value);
        }
    }
    if constexpr (Config::kPath == Path::kMulticast) isa::fence_proxy_alias();
}

}  // namespace hadal::nvlink
