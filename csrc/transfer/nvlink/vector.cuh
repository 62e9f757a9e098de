// Copies by loads and stores of up to 16 bytes, between global addresses of any alignment.
//
// Loads are weak and never .nc: a peer may have written the source. Stores are weak: a barrier and
// a release by one thread publish them.
#pragma once

#include <cstdint>

#include "isa/ldst.cuh"
#include "isa/memory.cuh"

namespace hadal::nvlink {

/// Which of the threads that copy together this one is: units index, index + stride, ...
struct Share {
    uint64_t index;
    uint64_t stride;
};

struct Unit1 {
    static constexpr uint32_t kBytes = 1;
    using Value = uint32_t;
    static __device__ __forceinline__ Value load(uint64_t from) { return isa::ld_global_u8(from); }
    static __device__ __forceinline__ void store(uint64_t to, Value v) { isa::st_global_u8(to, v); }
};

struct Unit2 {
    static constexpr uint32_t kBytes = 2;
    using Value = uint16_t;
    static __device__ __forceinline__ Value load(uint64_t from) { return isa::ld_global_u16(from); }
    static __device__ __forceinline__ void store(uint64_t to, Value v) {
        isa::st_global_u16(to, v);
    }
};

struct Unit4 {
    static constexpr uint32_t kBytes = 4;
    using Value = uint32_t;
    static __device__ __forceinline__ Value load(uint64_t from) { return isa::ld_global_u32(from); }
    static __device__ __forceinline__ void store(uint64_t to, Value v) {
        isa::st_global_u32(to, v);
    }
};

struct Unit8 {
    static constexpr uint32_t kBytes = 8;
    using Value = uint2;
    static __device__ __forceinline__ Value load(uint64_t from) { return isa::ld_global_v2(from); }
    static __device__ __forceinline__ void store(uint64_t to, Value v) { isa::st_global_v2(to, v); }
};

struct Unit16 {
    static constexpr uint32_t kBytes = 16;
    using Value = uint4;
    static __device__ __forceinline__ Value load(uint64_t from) { return isa::ld_global_v4(from); }
    static __device__ __forceinline__ void store(uint64_t to, Value v) { isa::st_global_v4(to, v); }
};

/// Units that one thread has in flight.
constexpr uint32_t kCopyBatch = 4;

/// Copies `count` units between addresses that are multiples of a unit.
template <class Unit>
__device__ __forceinline__ void copy_units(uint64_t to, uint64_t from, uint64_t count,
                                           Share share) {
    uint64_t i = share.index;
    for (; i + (kCopyBatch - 1) * share.stride < count; i += kCopyBatch * share.stride) {
        typename Unit::Value batch[kCopyBatch];
#pragma unroll
        for (uint32_t j = 0; j < kCopyBatch; ++j)
            batch[j] = Unit::load(from + (i + j * share.stride) * Unit::kBytes);
#pragma unroll
        for (uint32_t j = 0; j < kCopyBatch; ++j)
            Unit::store(to + (i + j * share.stride) * Unit::kBytes, batch[j]);
    }
    for (; i < count; i += share.stride)
        Unit::store(to + i * Unit::kBytes, Unit::load(from + i * Unit::kBytes));
}

/// The parts of a range: bytes before the first multiple of a unit, whole units, bytes after.
struct Split {
    uint64_t head;
    uint64_t body;  // bytes, a multiple of the unit
};

__device__ __forceinline__ Split split(uint64_t to, uint64_t bytes, uint32_t unit) {
    const uint64_t before = (0 - to) & (unit - 1);
    const uint64_t head = before < bytes ? before : bytes;
    return Split{head, (bytes - head) & ~uint64_t{unit - 1}};
}

/// Copies the bytes around the body.
__device__ __forceinline__ void copy_ends(uint64_t to, uint64_t from, uint64_t bytes, Split parts,
                                          Share share) {
    const uint64_t tail = parts.head + parts.body;
    copy_units<Unit1>(to, from, parts.head, share);
    copy_units<Unit1>(to + tail, from + tail, bytes - tail, share);
}

template <class Unit>
__device__ __forceinline__ void copy_split(uint64_t to, uint64_t from, uint64_t bytes,
                                           Share share) {
    const Split parts = split(to, bytes, Unit::kBytes);
    copy_ends(to, from, bytes, parts, share);
    copy_units<Unit>(to + parts.head, from + parts.head, parts.body / Unit::kBytes, share);
}

/// Copies `bytes` by the widest unit at which both addresses can be aligned together. Order: weak.
/// Who writes: the threads that share; ranges do not overlap. Any number of times.
__device__ __forceinline__ void copy_vector(uint64_t to, uint64_t from, uint64_t bytes,
                                            Share share) {
    const uint64_t apart = to ^ from;
    if ((apart & 15) == 0) {
        copy_split<Unit16>(to, from, bytes, share);
    } else if ((apart & 7) == 0) {
        copy_split<Unit8>(to, from, bytes, share);
    } else if ((apart & 3) == 0) {
        copy_split<Unit4>(to, from, bytes, share);
    } else if ((apart & 1) == 0) {
        copy_split<Unit2>(to, from, bytes, share);
    } else {
        copy_units<Unit1>(to, from, bytes, share);
    }
}

}  // namespace hadal::nvlink
