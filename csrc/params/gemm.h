// Parameters of the FP8 GEMM kernels (gemm/fp8_gemm_1d2d.cuh).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "tensor_map.h"

// D[m, n] = sum over K blocks of scale_a * scale_b * (A block . B block), see the kernel's header.
struct hadal_fp8_gemm_1d2d_params {
    // A, e4m3 [rows, K]; box 128 x tile M, swizzle 128 bytes. rows = m, or group_count * m (masked).
    hadal_tensor_map a;
    // B, e4m3 [group_count * N, K]; box 128 x 128, swizzle 128 bytes.
    hadal_tensor_map b;
    // Scales of A, f32 [K / 128, m], or [group_count * K / 128, m] (masked), row stride a multiple of
    // 16 bytes; box tile M x 1, no swizzle.
    hadal_tensor_map scale_a;
    // Device address of the scales of B, f32 [group_count, N / 128, K / 128], contiguous.
    uint64_t scale_b;
    // Device address of D, BF16 [rows, N], contiguous, 16-byte aligned.
    uint64_t d;
    // Device address of int32: contiguous form, the group of each row [m], negative = padding; masked
    // form, the rows in use of each group [group_count]; dense form, 0.
    uint64_t groups;
    // Rows: of A (dense, contiguous) or of each group's slot (masked).
    uint32_t m;
    // N / 128.
    uint32_t n_blocks;
    // K / 128.
    uint32_t k_blocks;
    // Groups (experts); 1 in the dense form.
    uint32_t group_count;
};

#ifdef __cplusplus
static_assert(sizeof(hadal_fp8_gemm_1d2d_params) == 512, "ABI with Rust: size");
static_assert(alignof(hadal_fp8_gemm_1d2d_params) == 128, "ABI with Rust: alignment");
static_assert(offsetof(hadal_fp8_gemm_1d2d_params, scale_b) == 384, "ABI with Rust: scale_b");
static_assert(offsetof(hadal_fp8_gemm_1d2d_params, m) == 408, "ABI with Rust: m");
#endif
