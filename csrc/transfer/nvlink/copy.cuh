// put, get and put-with-signal: copies between the own memory and a peer's, then one signal.
//
// A copy orders nothing by itself: its loads and stores are weak. The source was made visible to
// this kernel by stream order (a wait or a barrier before it), the destination becomes visible to
// others by the signal here, or by one of a later kernel of the stream. Any grid of kThreads.
#pragma once

#include "isa/memory.cuh"
#include "transfer/nvlink/bulk.cuh"
#include "transfer/nvlink/common.cuh"
#include "transfer/nvlink/vector.cuh"

namespace hadal::nvlink {

enum class Form { kVector, kBulk };

template <Form form>
struct CopyConfig {
    static constexpr Form kForm = form;
    static constexpr uint32_t kThreads = 256;
};

/// Called by all threads of every CTA, once, after its stores. The last CTA to arrive
/// (atom.acq_rel.gpu on `arrived`, a word of this device that only these kernels write) changes the
/// signal with release at system scope: the stores of all CTAs are ordered before it. After a fault
/// of this rank every CTA arrives, and nobody signals. Contains CTA barriers.
__device__ __forceinline__ void signal_last(const hadal_nvlink_copy_params& p) {
    __syncthreads();
    if (threadIdx.x != 0) return;
    auto* arrived = reinterpret_cast<uint32_t*>(p.arrived);
    if (isa::atom_add_acq_rel_gpu_u32(arrived, 1) != gridDim.x - 1) return;
    isa::st_relaxed_gpu_u32(arrived, 0);
    // A CTA that copied nothing had seen the flag, and so does the last one, which comes after it.
    if (aborted(p.nvlink) == HADAL_NVLINK_FAULT_NONE) change_signal(p.signal, p.value, p.change);
}

template <class Config>
__device__ __forceinline__ void copy(const hadal_nvlink_copy_params& p) {
    if (aborted(p.nvlink) == HADAL_NVLINK_FAULT_NONE) {
        if constexpr (Config::kForm == Form::kBulk) {
            copy_bulk(p.destination, p.source, p.bytes);
        } else {
            const Share share{uint64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                              uint64_t{gridDim.x} * blockDim.x};
            copy_vector(p.destination, p.source, p.bytes, share);
        }
    }
    if (p.signal != 0) signal_last(p);
}

}  // namespace hadal::nvlink
