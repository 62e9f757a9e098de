/* Parameters of the kernels around the expert GEMMs. Addresses are device addresses. */
#ifndef HADAL_PARAMS_MOE_H
#define HADAL_PARAMS_MOE_H

#include <stdint.h>

/* Most experts a router may have, most groups, and most experts per token. */
#define HADAL_ROUTE_MAX_EXPERTS 512
#define HADAL_ROUTE_MAX_GROUPS 32
#define HADAL_ROUTE_MAX_TOP_K 16

/* csrc/moe/route.cuh */
struct hadal_route_params {
    uint64_t hidden_states; /* BF16 [tokens, hidden], 16-byte aligned */
    uint64_t router;        /* BF16 or F32 by instance, [experts, hidden], 16-byte aligned */
    uint64_t bias;          /* F32 [experts], takes part in the choice only; 0: none */
    uint64_t valid;         /* U32 [1]: tokens in use, the others are dropped; 0: all are */
    uint64_t topk_indices;  /* out: I32 [tokens, top_k], falling choice score; -1: dropped */
    uint64_t topk_weights;  /* out: F32 [tokens, top_k]; 0 where dropped */
    uint32_t tokens;
    uint32_t hidden; /* a multiple of 8 */
    uint32_t experts;
    uint32_t top_k;
    uint32_t groups; /* divides experts */
    uint32_t top_groups;
    uint32_t softmax;    /* 1: scores are the softmax of the logits; 0: the sigmoid of each */
    uint32_t group_best; /* 1: a group's worth is its best choice score; 0: the sum of its two best */
    uint32_t normalise;  /* 1: weights are divided by their sum */
    float scaling;
};

/* csrc/moe/swiglu.cuh */
struct hadal_swiglu_params {
    uint64_t gate_up; /* BF16 [groups, rows, 2 * intermediate]: gate, then up; 16-byte aligned */
    uint64_t counts;  /* I32 [groups]: rows in use; 0: all of them */
    uint64_t output;  /* out: E4M3 or BF16 by instance, [groups, rows, intermediate], 16-byte aligned */
    uint64_t scales;  /* out, E4M3 only: F32 [groups, intermediate / 128, scale_stride] */
    uint32_t groups;
    uint32_t rows;
    uint32_t intermediate; /* E4M3: a multiple of 128; BF16: of 4 */
    uint32_t scale_stride; /* at least rows */
    float limit;           /* gate is at most this, up within plus and minus this; infinity: neither */
    uint32_t rule;         /* HADAL_QUANT_POWER_OF_TWO or 0 */
};

/* csrc/moe/add_shared.cuh */
struct hadal_add_shared_params {
    uint64_t combined; /* F32 [elements], 16-byte aligned */
    uint64_t shared;   /* BF16 [elements], 8-byte aligned */
    uint64_t output;   /* out: F32 or BF16 by instance, [elements], 16-byte aligned; F32: may be combined */
    uint64_t elements; /* a multiple of 4 */
};

static_assert(sizeof(struct hadal_route_params) == 88, "ABI with the host");
static_assert(sizeof(struct hadal_swiglu_params) == 56, "ABI with the host");
static_assert(sizeof(struct hadal_add_shared_params) == 32, "ABI with the host");

#endif
