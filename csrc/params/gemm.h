/* Parameters of the FP8 GEMM kernels (gemm/fp8_gemm_1d2d.cuh). */
#ifndef HADAL_PARAMS_GEMM_H
#define HADAL_PARAMS_GEMM_H

#include <stdint.h>

#include "tensor_map.h"

struct hadal_fp8_gemm_1d2d_params {
    /* A, e4m3 [rows, K]: box 128 x tile M, swizzle 128 bytes. rows is m, or group_count * m in the
     * masked form. */
    struct hadal_tensor_map a;
    /* B, e4m3 [group_count * N, K]: box 128 x 128, swizzle 128 bytes. */
    struct hadal_tensor_map b;
    /* Scales of A, f32 [K / 128, m], or [group_count * K / 128, m] in the masked form; row stride a
     * multiple of 16 bytes: box tile M x 1, no swizzle. */
    struct hadal_tensor_map scale_a;
    /* Device address of the scales of B, f32 [group_count, N / 128, K / 128], contiguous. */
    uint64_t scale_b;
    /* Device address of D, BF16 [rows, N], contiguous, 16-byte aligned. */
    uint64_t d;
    /* Device address of int32. Contiguous: the group of each row [m], negative = padding. Masked:
     * the rows in use of each group [group_count]. Dense: 0. */
    uint64_t groups;
    uint32_t m;           /* rows of A (dense, contiguous), or of each group's slot (masked) */
    uint32_t n_blocks;    /* N / 128 */
    uint32_t k_blocks;    /* K / 128 */
    uint32_t group_count; /* 1 in the dense form */
};

static_assert(sizeof(struct hadal_fp8_gemm_1d2d_params) == 512, "ABI with the host: size");
static_assert(alignof(struct hadal_fp8_gemm_1d2d_params) == 128, "ABI with the host: alignment");
static_assert(__builtin_offsetof(struct hadal_fp8_gemm_1d2d_params, scale_b) == 384,
              "ABI with the host");
static_assert(__builtin_offsetof(struct hadal_fp8_gemm_1d2d_params, m) == 408, "ABI with the host");

#endif
