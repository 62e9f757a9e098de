// The configuration of the latency-mode kernels.
#pragma once

#include <cstdint>

#include "ep/common.cuh"
#include "layout/ep_latency.cuh"

namespace hadal::ep {

/// Threads of a CTA of any latency-mode kernel.
struct LatencyConfig {
    static constexpr uint32_t kThreads = 256;
};

}  // namespace hadal::ep
