/* Parameters of the expert all-to-all kernels, throughput mode (docs/protocol.md).
 *
 * Plain C: the ABI with Rust. Fault record, state and constants are those of ep_latency.h, and so are
 * the conventions: "offset" means bytes from the start of any rank's window. */
#ifndef HADAL_PARAMS_EP_THROUGHPUT_H
#define HADAL_PARAMS_EP_THROUGHPUT_H

#include <stdint.h>

#include "ep_latency.h"

#ifdef __cplusplus
#define HADAL_EP_ASSERT(condition, message) static_assert(condition, message)
#else
#define HADAL_EP_ASSERT(condition, message) _Static_assert(condition, message)
#endif

/* Bounds the shared memory in which a kernel keeps one word per expert. */
#define HADAL_EP_THROUGHPUT_MAX_EXPERTS 1024

/* What the five kernels have in common. */
struct hadal_ep_throughput {
    uint64_t heap;
    uint64_t heap_stride;
    uint64_t state; /* struct hadal_ep_state of this rank */
    uint64_t fault; /* struct hadal_ep_fault of this rank */
    uint64_t timeout_ns;
    /* Offsets in a window; indices in docs/protocol.md. */
    uint64_t counts;
    uint64_t count_signal;
    uint64_t dispatch_signal;
    uint64_t combine_signal;
    uint64_t poison;
    uint64_t rows;
    uint64_t results;
    /* Private device memory of this rank, written by the `count` of this round or, when its routing is
     * used again, of an earlier one. */
    uint64_t routing;  /* int32 [max_tokens][topk]: copy of topk_idx */
    uint64_t weights;  /* f32 [max_tokens][topk]: copy */
    uint64_t entry_at; /* uint32 [max_tokens][topk]: place among its chunk's entries of its expert */
    uint64_t row_at;   /* uint32 [max_tokens][ranks]: place among its chunk's rows for the rank */
    uint64_t chunks;   /* uint32 [chunks + 1][experts + ranks]: of the chunks before, together */
    uint32_t rank;
    uint32_t ranks;
    uint32_t experts; /* global */
    uint32_t topk;
    uint32_t max_tokens;    /* of any rank in one round */
    uint32_t max_recv_rows; /* places in `rows` per buffer */
    uint32_t max_rows;      /* rows of the expert-contiguous buffer */
    uint32_t alignment;     /* of the first row of an expert in it */
    uint32_t chunk_tokens;  /* tokens that one warp of `count` takes */
    uint32_t hidden;        /* elements per row */
    uint32_t payload_bytes; /* of one dispatched row; a multiple of 16 */
    uint32_t scales;        /* f32 scales per dispatched row; 0 for BF16 */
    uint32_t slot_bytes;    /* payload + header + scales, rounded up to 16 */
    uint32_t per_rank;      /* 1: one result per token and rank; 0: one per entry */
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_throughput) == 192, "no padding");

struct hadal_ep_tp_count_params {
    struct hadal_ep_throughput ep;
    uint64_t topk_idx; /* int32 [tokens][topk] */
    uint64_t weights;  /* f32 [tokens][topk] */
    uint32_t tokens;
    uint32_t again; /* 1: publish what was counted before; the two arrays are not read */
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_tp_count_params) == 216, "no padding");

struct hadal_ep_tp_dispatch_send_params {
    struct hadal_ep_throughput ep;
    uint64_t x;        /* [tokens][payload_bytes], 16-byte aligned */
    uint64_t x_scales; /* f32 [tokens][scales]; unused when scales == 0 */
    uint32_t tokens;
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_tp_dispatch_send_params) == 216, "no padding");

struct hadal_ep_tp_dispatch_recv_params {
    struct hadal_ep_throughput ep;
    uint64_t x;        /* [max_rows][payload_bytes], 16-byte aligned */
    uint64_t x_scales; /* f32 [scales][max_rows rounded up to 4] */
    uint64_t offsets;  /* int32 [local experts + 1] */
    uint64_t counts;   /* int32 [local experts] */
    uint64_t index;    /* int32 [max_rows]: local expert, or -1 */
    uint64_t source;   /* struct hadal_ep_source [max_rows] */
    uint64_t weights;  /* f32 [max_rows] */
    uint32_t abandon;  /* 1: copy nothing, write nothing */
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_tp_dispatch_recv_params) == 256, "no padding");

struct hadal_ep_tp_combine_send_params {
    struct hadal_ep_throughput ep;
    uint64_t y;       /* BF16 [max_rows][hidden], 16-byte aligned */
    uint32_t abandon; /* 1: send no rows, signal "abandoned" */
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_tp_combine_send_params) == 208, "no padding");

struct hadal_ep_tp_combine_recv_params {
    struct hadal_ep_throughput ep;
    uint64_t out; /* F32 or BF16 [tokens][hidden] by instance, 16-byte aligned */
    uint32_t tokens;
    uint32_t abandon; /* 1: write no output */
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_tp_combine_recv_params) == 208, "no padding");

#undef HADAL_EP_ASSERT

#endif /* HADAL_PARAMS_EP_THROUGHPUT_H */
