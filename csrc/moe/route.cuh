// Routing: scores from logits, a correction bias that takes part in the choice only, group-limited
// top-k, weights. DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) takes sigmoids and judges a group by its
// two best experts, DeepSeek-V2 (arXiv 2405.04434, section 2.1.2) softmax and the best one; others
// have one group.
//
// One CTA per token. Its warps compute the logits, each an FP32 dot product of a BF16 token and a
// router row (lane-strided fused multiply-adds, then a butterfly sum: a fixed order). Warp 0 turns
// them into scores and chooses. A choice compares 64-bit keys: the score mapped to an unsigned integer of the same order in the upper
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

/// Eight consecutive weights of a BF16 router.
struct RouterBf16 {
    static constexpr uint32_t kVectors = 1;
    __device__ static __forceinline__ void load(const uint4* from, float (&weight)[8]) {
        const uint4 y = *from;
        const uint32_t words[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            weight[2 * j] = bf16_low(words[j]);
            weight[2 * j + 1] = bf16_high(words[j]);
        }
    }
};

/// The same of an FP32 router.
struct RouterF32 {
    static constexpr uint32_t kVectors = 2;
    __device__ static __forceinline__ void load(const uint4* from, float (&weight)[8]) {
#pragma unroll
        for (uint32_t half = 0; half < kVectors; ++half) {
            const uint4 y = from[half];
            const uint32_t words[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (uint32_t j = 0; j < 4; ++j) weight[4 * half + j] = __uint_as_float(words[j]);
        }
    }
};

struct RouteShared {
    float score[RouteConfig::kMaxExperts];    // the logit at first
    uint64_t key[RouteConfig::kMaxExperts];   // choice key; 0: not to be chosen
    uint64_t group_key[RouteConfig::kMaxGroups];
};

// FP32 dot product of a token and a router row of `hidden` elements; all lanes return it.
template <class Router>
__device__ __forceinline__ float dot(const uint4* token, const uint4* row, uint32_t hidden) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x % kWarp; i < hidden / 8; i += kWarp) {
        float x[8], y[8];
        RouterBf16::load(token + i, x);
        Router::load(row + i * Router::kVectors, y);
#pragma unroll
        for (uint32_t j = 0; j < 8; ++j) sum = fmaf(x[j], y[j], sum);
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

// Logits of this CTA's token.
template <class Router>
__device__ __forceinline__ void compute_logits(const hadal_route_params& p, uint32_t token,
                                               RouteShared& shared) {
    const uint32_t vectors = p.hidden / 8;
    const auto* x = reinterpret_cast<const uint4*>(p.hidden_states) + uint64_t{token} * vectors;
    const auto* router = reinterpret_cast<const uint4*>(p.router);
    for (uint32_t e = threadIdx.x / kWarp; e < p.experts; e += RouteConfig::kWarps) {
        const uint64_t row = uint64_t{e} * vectors * Router::kVectors;
        const float logit = dot<Router>(x, router + row, p.hidden);
        if (threadIdx.x % kWarp == 0) shared.score[e] = logit;
    }
}

// The score by which an expert is chosen.
__device__ __forceinline__ float choice_score(const hadal_route_params& p,
                                              const RouteShared& shared, uint32_t expert) {
    const auto* bias = reinterpret_cast<const float*>(p.bias);
    return shared.score[expert] + (bias != nullptr ? bias[expert] : 0.0f);
}

// Scores from logits, and a key per expert. Executed by one warp.
__device__ __forceinline__ void score_experts(const hadal_route_params& p, RouteShared& shared) {
    const uint32_t lane = threadIdx.x % kWarp;
    float most = -INFINITY, sum = 0.0f;
    if (p.softmax != 0) {
        for (uint32_t e = lane; e < p.experts; e += kWarp) most = fmaxf(most, shared.score[e]);
        most = warp_max(most);
        for (uint32_t e = lane; e < p.experts; e += kWarp) sum += expf(shared.score[e] - most);
        sum = warp_sum(sum);
    }
    for (uint32_t e = lane; e < p.experts; e += kWarp) {
        const float logit = shared.score[e];
        shared.score[e] =
            p.softmax != 0 ? expf(logit - most) / sum : 1.0f / (1.0f + expf(-logit));
        shared.key[e] = choice_key(choice_score(p, shared, e), e);
    }
    __syncwarp();
}

// A group's worth is its best choice score, or the sum of its two best. Experts outside the kept
// groups lose their key. Executed by one warp.
__device__ __forceinline__ void keep_groups(const hadal_route_params& p, RouteShared& shared) {
    const uint32_t lane = threadIdx.x % kWarp, size = p.experts / p.groups;
    if (lane < p.groups) {
        float first = -INFINITY, second = -INFINITY;
        for (uint32_t e = lane * size; e < (lane + 1) * size; ++e) {
            const float score = choice_score(p, shared, e);
            second = fmaxf(second, fminf(first, score));
            first = fmaxf(first, score);
        }
        shared.group_key[lane] = choice_key(p.group_best != 0 ? first : first + second, lane);
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

// Executed by one warp.
__device__ __forceinline__ void drop_token(const hadal_route_params& p, uint32_t token) {
    if (threadIdx.x >= p.top_k) return;
    const uint64_t at = uint64_t{token} * p.top_k + threadIdx.x;
    reinterpret_cast<int32_t*>(p.topk_indices)[at] = -1;
    reinterpret_cast<float*>(p.topk_weights)[at] = 0.0f;
}

// Grid: one CTA per token. `Router` is how the router's weights are stored.
template <class Router>
__device__ __forceinline__ void route(const hadal_route_params& p) {
    static_assert(RouteConfig::kMaxGroups <= kWarp, "one lane judges one group");
    static_assert(HADAL_ROUTE_MAX_TOP_K <= kWarp, "one lane holds one choice");
    __shared__ RouteShared shared;
    const uint32_t token = blockIdx.x;
    const auto* valid = reinterpret_cast<const uint32_t*>(p.valid);
    if (valid != nullptr && token >= *valid) {
        drop_token(p, token);
        return;
    }
    compute_logits<Router>(p, token, shared);
    __syncthreads();
    if (threadIdx.x < kWarp) {
        score_experts(p, shared);
        if (p.groups > 1) {
            keep_groups(p, shared);
        }
        choose_experts(p, token, shared);
    }
}

}  // namespace hadal::moe
