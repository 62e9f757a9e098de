// DeepSeek-V3 routing (arXiv 2412.19437, section 2.1.2): sigmoid scores, a correction bias that takes
// part in the choice only, group-limited top-k, normalised and scaled weights.
//
// One CTA per token. Its warps compute the logits, each an FP32 dot product of a BF16 token and a BF16
// router row (lane-strided fused multiply-adds, then a butterfly sum: a fixed order). Warp 0 chooses.
// A choice compares 64-bit keys: the score mapped to an unsigned integer of the same order in the upper
// half, the complement of the index in the lower, so that equal scores fall to the lower index; a NaN
// score maps to the smallest key, and key 0 marks what may not be chosen. So the indices are valid
// and distinct whatever the input.
#pragma once

#include "moe/warp.cuh"
#include "params/moe.h"

namespace hadal::moe {

struct RouteConfig {
    static constexpr uint32_t kThreads = 128;
    static constexpr uint32_t kWarps = kThreads / kWarp;
    static constexpr uint32_t kMaxExperts = HADAL_ROUTE_MAX_EXPERTS;
    static constexpr uint32_t kMaxGroups = HADAL_ROUTE_MAX_GROUPS;
};

struct RouteShared {
    float score[RouteConfig::kMaxExperts];    // sigmoid of the logit
    uint64_t key[RouteConfig::kMaxExperts];   // choice key; 0: not to be chosen
    uint64_t group_key[RouteConfig::kMaxGroups];
};

// FP32 dot product of two BF16 rows of `hidden` elements; all lanes return it.
__device__ __forceinline__ float dot_bf16(const uint4* a, const uint4* b, uint32_t hidden) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x % kWarp; i < hidden / 8; i += kWarp) {
        const uint4 x = a[i], y = b[i];
        const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            sum = fmaf(bf16_low(xs[j]), bf16_low(ys[j]), sum);
            sum = fmaf(bf16_high(xs[j]), bf16_high(ys[j]), sum);
        }
    }
    return warp_sum(sum);
}

// Key of a score: greater scores have greater keys, of equal ones the lower index has, none is 0.
__device__ __forceinline__ uint64_t choice_key(float score, uint32_t index) {
    const uint32_t bits = __float_as_uint(score);
    const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    const uint32_t rank = score != score ? 0 : ordered;
    return (uint64_t{rank} << 32) | ~index;
}

__device__ __forceinline__ uint32_t chosen_index(uint64_t key) {
    return ~static_cast<uint32_t>(key);
}

// Takes the greatest key out of `keys` and returns it. All lanes of the warp call and agree.
__device__ __forceinline__ uint64_t take_greatest(uint64_t* keys, uint32_t count) {
    uint64_t best = 0;
    for (uint32_t i = threadIdx.x % kWarp; i < count; i += kWarp) {
        best = keys[i] > best ? keys[i] : best;
    }
    best = warp_max(best);
    if (threadIdx.x % kWarp == 0) {
        keys[chosen_index(best)] = 0;
    }
    __syncwarp();
    return best;
}

// Logits and scores of this CTA's token, and a key per expert.
__device__ __forceinline__ void score_experts(const hadal_route_params& p, uint32_t token,
                                              RouteShared& shared) {
    const auto* x = reinterpret_cast<const uint4*>(p.hidden_states) + uint64_t{token} * (p.hidden / 8);
    const auto* router = reinterpret_cast<const uint4*>(p.router);
    const auto* bias = reinterpret_cast<const float*>(p.bias);
    for (uint32_t e = threadIdx.x / kWarp; e < p.experts; e += RouteConfig::kWarps) {
        const float logit = dot_bf16(x, router + uint64_t{e} * (p.hidden / 8), p.hidden);
        if (threadIdx.x % kWarp == 0) {
            const float score = 1.0f / (1.0f + expf(-logit));
            shared.score[e] = score;
            shared.key[e] = choice_key(score + bias[e], e);
        }
    }
}

// A group's worth is the sum of its two best choice scores. Experts outside the kept groups lose
// their key. Executed by one warp.
__device__ __forceinline__ void keep_groups(const hadal_route_params& p, RouteShared& shared) {
    const uint32_t lane = threadIdx.x % kWarp, size = p.experts / p.groups;
    const auto* bias = reinterpret_cast<const float*>(p.bias);
    if (lane < p.groups) {
        float first = -INFINITY, second = -INFINITY;
        for (uint32_t e = lane * size; e < (lane + 1) * size; ++e) {
            const float score = shared.score[e] + bias[e];
            second = fmaxf(second, fminf(first, score));
            first = fmaxf(first, score);
        }
        shared.group_key[lane] = choice_key(first + second, lane);
    }
    __syncwarp();
    for (uint32_t i = 0; i < p.top_groups; ++i) {
        take_greatest(shared.group_key, p.groups);
    }
    for (uint32_t e = lane; e < p.experts; e += kWarp) {
        if (shared.group_key[e / size] != 0) {
            shared.key[e] = 0;
        }
    }
    __syncwarp();
}

// Chooses top_k experts and writes them with their weights. Executed by one warp.
__device__ __forceinline__ void choose_experts(const hadal_route_params& p, uint32_t token,
                                               RouteShared& shared) {
    const uint32_t lane = threadIdx.x % kWarp;
    uint32_t expert = 0;  // lane k holds choice k
    float sum = 0.0f;
    for (uint32_t k = 0; k < p.top_k; ++k) {
        const uint32_t index = chosen_index(take_greatest(shared.key, p.experts));
        expert = lane == k ? index : expert;
        sum += shared.score[index];
    }
    if (lane < p.top_k) {
        float weight = shared.score[expert];
        weight = p.normalise != 0 ? weight / (sum + 1e-20f) : weight;
        const uint64_t at = uint64_t{token} * p.top_k + lane;
        reinterpret_cast<int32_t*>(p.topk_indices)[at] = static_cast<int32_t>(expert);
        reinterpret_cast<float*>(p.topk_weights)[at] = weight * p.scaling;
    }
}

// Grid: one CTA per token.
__device__ __forceinline__ void route(const hadal_route_params& p) {
    static_assert(RouteConfig::kMaxGroups <= kWarp, "one lane judges one group");
    static_assert(HADAL_ROUTE_MAX_TOP_K <= kWarp, "one lane holds one choice");
    __shared__ RouteShared shared;
    const uint32_t token = blockIdx.x;
    score_experts(p, token, shared);
    __syncthreads();
    if (threadIdx.x < kWarp) {
        if (p.groups > 1) {
            keep_groups(p, shared);
        }
        choose_experts(p, token, shared);
    }
}

}  // namespace hadal::moe
