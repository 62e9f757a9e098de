/* Parameters of the kernels that prepare operands of the GEMM (csrc/quant/). Addresses are device
 * addresses; strides and pitches count elements. */
#ifndef HADAL_PARAMS_QUANT_H
#define HADAL_PARAMS_QUANT_H

#include <stdint.h>

/* Bits of `rule`: how a block becomes codes and a scale. */
#define HADAL_QUANT_E5M2 1         /* E5M2; otherwise E4M3 */
#define HADAL_QUANT_POWER_OF_TWO 2 /* the scale is rounded up to a power of two */

/* csrc/quant/quantise_1x128.cuh */
struct hadal_quantise_1x128_params {
    uint64_t input;              /* BF16 [slots, rows, columns], 16-byte aligned */
    uint64_t codes;              /* out: FP8 [slots, rows, columns], 8-byte aligned */
    uint64_t scales;             /* out: F32 */
    uint64_t scale_slot_stride;  /* scales from one slot to the next */
    uint64_t scale_row_stride;   /* scales from one row to the next */
    uint64_t scale_block_stride; /* scales from one block of 128 columns to the next */
    uint32_t slots;
    uint32_t rows;    /* slots * rows * blocks of columns fits in 31 bits */
    uint32_t columns; /* a multiple of 16 */
    uint32_t rule;    /* HADAL_QUANT_* */
};

/* csrc/quant/quantise_128x128.cuh */
struct hadal_quantise_128x128_params {
    uint64_t input;  /* BF16 [slots, rows, columns], 16-byte aligned */
    uint64_t codes;  /* out: FP8 [slots, rows, columns], 8-byte aligned */
    uint64_t scales; /* out: F32 [slots, rows / 128, columns / 128], both rounded up */
    uint32_t slots;
    uint32_t rows;
    uint32_t columns; /* a multiple of 16 */
    uint32_t rule;    /* HADAL_QUANT_* */
};

/* csrc/quant/dequantise.cuh */
struct hadal_dequantise_params {
    uint64_t codes;              /* FP8 [slots, rows, columns], 16-byte aligned */
    uint64_t scales;             /* F32 */
    uint64_t output;             /* out: BF16 [slots, rows, columns], 16-byte aligned */
    uint64_t scale_slot_stride;  /* scales from one slot to the next */
    uint64_t scale_row_stride;   /* scales from one block of rows to the next */
    uint64_t scale_block_stride; /* scales from one block of 128 columns to the next */
    uint32_t slots;
    uint32_t rows;       /* slots * rows * columns / 16 fits in 31 bits */
    uint32_t columns;    /* a multiple of 16 */
    uint32_t rows_log2;  /* 2^this rows share a scale */
    uint32_t rule;       /* HADAL_QUANT_E5M2 or 0 */
    uint32_t reserved;   /* zero */
};

/* csrc/quant/transpose_scales.cuh */
struct hadal_transpose_scales_params {
    uint64_t input;        /* F32 [slots, rows, input_pitch], of which `columns` of a row count */
    uint64_t output;       /* out: F32 [slots, columns, output_pitch], `rows` of a row written */
    uint32_t slots;        /* slots * tiles of 32 x 32 fits in 31 bits */
    uint32_t rows;
    uint32_t columns;
    uint32_t input_pitch;
    uint32_t output_pitch;
    uint32_t reserved;     /* zero */
};

/* csrc/quant/ue8m0.cuh: pack_ue8m0 reads scales and writes packed, unpack_ue8m0 the other way. */
struct hadal_ue8m0_params {
    uint64_t scales;             /* F32 */
    uint64_t packed;             /* U32 [slots, blocks / 4 rounded up, packed_stride] */
    uint64_t scale_slot_stride;  /* scales from one slot to the next */
    uint64_t scale_row_stride;   /* scales from one row to the next */
    uint64_t scale_block_stride; /* scales from one block of 128 columns to the next */
    uint32_t slots;
    uint32_t rows;   /* slots * rows * blocks fits in 31 bits */
    uint32_t blocks; /* of 128 columns */
    uint32_t packed_stride;
};

/* csrc/quant/pad_offsets.cuh */
struct hadal_pad_offsets_params {
    uint64_t offsets; /* I32 [groups + 1]: rows */
    uint64_t padded;  /* out: I32 [groups + 1]: multiples of 128 */
    uint32_t groups;
    uint32_t rows;     /* offsets beyond count as this */
    uint32_t k;        /* padded offsets beyond become this, a multiple of 128 */
    uint32_t reserved; /* zero */
};

/* csrc/quant/transpose_quantise.cuh */
struct hadal_transpose_quantise_params {
    uint64_t input;        /* BF16 or FP8 [rows, columns], 16-byte aligned */
    uint64_t input_scales; /* F32 [columns / 128 rounded up, input_scale_stride]; 0 for BF16 */
    uint64_t offsets;      /* I32 [groups + 1]: rows of each group in the input */
    uint64_t padded;       /* I32 [groups + 1]: columns of each group in the codes */
    uint64_t codes;        /* out: FP8 [columns, k], 16-byte aligned */
    uint64_t scales;       /* out: F32 [k / 128, scale_stride], 8-byte aligned */
    uint32_t rows;
    uint32_t columns; /* a multiple of 16 */
    uint32_t k;       /* a multiple of 128 */
    uint32_t groups;
    uint32_t input_scale_stride;
    uint32_t scale_stride; /* even */
    uint32_t input_rule;   /* HADAL_QUANT_E5M2 or 0 */
    uint32_t rule;         /* HADAL_QUANT_* */
};

static_assert(sizeof(struct hadal_quantise_1x128_params) == 64, "ABI with the host: size");
static_assert(sizeof(struct hadal_quantise_128x128_params) == 40, "ABI with the host: size");
static_assert(sizeof(struct hadal_dequantise_params) == 72, "ABI with the host: size");
static_assert(sizeof(struct hadal_transpose_scales_params) == 40, "ABI with the host: size");
static_assert(sizeof(struct hadal_ue8m0_params) == 56, "ABI with the host: size");
static_assert(sizeof(struct hadal_pad_offsets_params) == 32, "ABI with the host: size");
static_assert(sizeof(struct hadal_transpose_quantise_params) == 80, "ABI with the host: size");

#endif
