/* Parameters of the quantisation kernel (quant/quantise_1x128.cuh). */
#ifndef HADAL_PARAMS_QUANT_H
#define HADAL_PARAMS_QUANT_H

#include <stdint.h>

struct hadal_quantise_1x128_params {
    uint64_t input;  /* device address of BF16 [rows, blocks * 128], contiguous, 16-byte aligned */
    uint64_t codes;  /* device address of e4m3 [rows, blocks * 128], contiguous, 8-byte aligned */
    uint64_t scales; /* device address of f32 */
    uint64_t scale_row_stride;   /* scales from one row to the next */
    uint64_t scale_block_stride; /* scales from one block of 128 columns to the next */
    uint32_t rows;
    uint32_t blocks; /* columns / 128 */
};

static_assert(sizeof(struct hadal_quantise_1x128_params) == 48, "ABI with the host: size");
static_assert(__builtin_offsetof(struct hadal_quantise_1x128_params, rows) == 40,
              "ABI with the host: rows");

#endif
