/* Parameters of the GEMM kernels (gemm/gemm.cuh). */
#ifndef HADAL_PARAMS_GEMM_H
#define HADAL_PARAMS_GEMM_H

#include <stdint.h>

#include "tensor_map.h"

/* Forms: what groups are, and where their rows (or columns of K) lie. */
#define HADAL_GEMM_BATCHED 0    /* a slot of m rows per group, all in use; one group is dense */
#define HADAL_GEMM_MASKED 1     /* a slot of m rows per group, the first groups[g] of them in use */
#define HADAL_GEMM_CONTIGUOUS 2 /* row i belongs to group groups[i]; groups begin at tiles */
#define HADAL_GEMM_OFFSETS 3    /* group g has rows groups[g] to groups[g + 1] */
#define HADAL_GEMM_K_GROUPED 4  /* group g has columns groups[g] to groups[g + 1] of K, multiples of \
                                 * 128, and a D of its own */

struct hadal_gemm_params {
    /* A [rows, K], K-major: box 128 bytes x (tile M / cluster_n), swizzle 128 bytes. */
    struct hadal_tensor_map a;
    /* B [group_count * n, K], or [n, K] when K is grouped: box 128 bytes x (tile N / cluster_m),
     * swizzle 128 bytes. */
    struct hadal_tensor_map b;
    /* Scales of A, f32 [slots * K blocks, m]; row stride a multiple of 16 bytes: box tile M x 1, no
     * swizzle. Block and vector scales only. */
    struct hadal_tensor_map scale_a;
    /* Scales of B, f32 [K blocks, n], of the 1d1d kernels: box tile N x 1, no swizzle. */
    struct hadal_tensor_map scale_b;
    /* D [rows, n]: box 128 bytes x 16, swizzle 128 bytes. */
    struct hadal_tensor_map d;
    /* Device addresses. */
    uint64_t scale_a_values; /* channel scales only: f32, one per row or one in all */
    uint64_t scale_b_values; /* 1d2d: f32 [group_count, ceil(n / 128), k_blocks]; channel scales: one
                              * per group and column or one in all */
    uint64_t d_values;       /* BF16 or f32 [rows, n], contiguous, 16-byte aligned */
    uint64_t groups;         /* int32, as the form says; 0 when batched */
    /* High words of the operands' wgmma descriptors: 128-byte swizzle, 1024 bytes between groups of
     * eight rows. The kernel knows them, the compiler must not: it would materialise a known
     * constant anew for every wgmma, and keeps an unknown one in its register. (Not side by side:
     * loaded as a pair they would have to be copied too.) */
    uint32_t descriptor_a;
    uint32_t form;           /* HADAL_GEMM_* */
    uint32_t descriptor_b;
    uint32_t m;              /* rows of A, or of a slot */
    uint32_t n;              /* columns of D */
    uint32_t k_blocks;       /* blocks of 128 bytes of K, the last perhaps partial */
    uint32_t group_count;
    uint32_t cluster_m;      /* CTAs of a cluster along m: they share B */
    uint32_t cluster_n;      /* CTAs of a cluster along n: they share A */
    uint32_t band;           /* super-tiles along m that are computed together */
    uint32_t output_f32;     /* D is f32 */
    uint32_t accumulate;     /* add to the f32 in D */
    uint32_t scale_a_stride; /* channel scales: 1, or 0 when there is one in all */
    uint32_t scale_b_stride;
};

static_assert(sizeof(struct hadal_gemm_params) == 768, "ABI with the host: size");
static_assert(alignof(struct hadal_gemm_params) == 128, "ABI with the host: alignment");
static_assert(__builtin_offsetof(struct hadal_gemm_params, scale_a_values) == 640,
              "ABI with the host");
static_assert(__builtin_offsetof(struct hadal_gemm_params, descriptor_a) == 672, "ABI with the host");

#endif
