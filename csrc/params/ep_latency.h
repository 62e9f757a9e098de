/* Parameters and shared records of the expert all-to-all kernels, latency mode (docs/protocol.md).
 *
 * Plain C: the ABI with Rust. Device addresses are uint64_t; "offset" means bytes from the start of
 * any rank's window in the symmetric heap, which is the same on all ranks. The window of rank p
 * starts at heap + p * heap_stride in the address space of the rank that runs the kernel. */
#ifndef HADAL_PARAMS_EP_LATENCY_H
#define HADAL_PARAMS_EP_LATENCY_H

#include <stdint.h>

#ifdef __cplusplus
#define HADAL_EP_ASSERT(condition, message) static_assert(condition, message)
#else
#define HADAL_EP_ASSERT(condition, message) _Static_assert(condition, message)
#endif

/* Bits of the mask in hadal_ep_fault.abandoned; more ranks than any Hopper NVLink domain has
 * devices. */
#define HADAL_EP_MAX_RANKS 16
#define HADAL_EP_MAX_TOPK 16

/* The kernels; index of their words in hadal_ep_state, and `kernel` of a fault record. */
#define HADAL_EP_DISPATCH_SEND 0
#define HADAL_EP_DISPATCH_RECV 1
#define HADAL_EP_COMBINE_SEND 2
#define HADAL_EP_COMBINE_RECV 3
#define HADAL_EP_COUNT 4 /* throughput mode only */

/* What was being done when a fault was raised; `phase` of a fault record. */
#define HADAL_EP_PHASE_DISPATCH_CREDIT 1 /* slot: expert */
#define HADAL_EP_PHASE_DISPATCH_SIGNAL 2 /* slot: expert */
#define HADAL_EP_PHASE_COMBINE_CREDIT 3  /* slot: 0 */
#define HADAL_EP_PHASE_COMBINE_SIGNAL 4  /* slot: expert */
#define HADAL_EP_PHASE_ROUTING 5         /* slot: token * topk + k, or the expert */
#define HADAL_EP_PHASE_PLACEMENT 6       /* slot: expert; in throughput mode the rank or row */
#define HADAL_EP_PHASE_COUNTS 7          /* slot: 0 */

/* Kind of a fault; 0 in a fault record means none. */
#define HADAL_EP_FAULT_NONE 0
#define HADAL_EP_FAULT_TIMEOUT 1  /* the peer's word did not come in time */
#define HADAL_EP_FAULT_POISONED 2 /* the peer said that it faulted */
#define HADAL_EP_FAULT_INDEX 3    /* routing entry outside -1..experts, or repeated; seen: the entry */
#define HADAL_EP_FAULT_ROWS 4     /* expected: max_rows, seen: rows for one local expert */
#define HADAL_EP_FAULT_PROTOCOL 5 /* a word shows a later epoch than can be */

/* Host-visible, one per rank, written at most once (kind last, release.sys), except `abandoned`. */
struct hadal_ep_fault {
    uint32_t kind;
    uint32_t kernel;
    uint32_t rank;
    uint32_t peer;
    uint32_t phase;
    uint32_t slot;
    uint64_t epoch;
    uint64_t expected;
    uint64_t seen;
    uint64_t waited_ns;
    /* epoch << 16 | mask of ranks: the latest round that this rank combined and others had
     * abandoned. */
    uint64_t abandoned;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_fault) == 64, "the fault record is read by the host");
HADAL_EP_ASSERT(__builtin_offsetof(struct hadal_ep_fault, abandoned) == 56,
                "no padding in the fault record");

/* Bins of a histogram of waits: 0 for a word that was there at once, b for 2^(b-1) ns up to 2^b. */
#define HADAL_EP_WAIT_BINS 32
/* Rounds whose spans are kept. */
#define HADAL_EP_SPANS 32

/* What a rank has had to do with a peer. */
struct hadal_ep_peer_stats {
    uint64_t waits[HADAL_EP_WAIT_BINS]; /* waits for a word of the peer, by their time */
    uint64_t dispatched;                /* rows sent to it */
    uint64_t combined;
};

/* When a kernel worked on a round, by the global timer. */
struct hadal_ep_span {
    uint64_t epoch;
    uint64_t begin_ns; /* its first CTA */
    uint64_t end_ns;   /* the arrival of its last one */
};

/* Private device memory of one rank; set by the host when the members are, then written by kernels only. */
struct hadal_ep_state {
    uint64_t epoch[6];   /* completed launches, by kernel */
    uint32_t arrived[6]; /* CTAs of the running launch that have finished, by kernel */
    uint32_t abort;      /* 0, or the kind of the fault raised */
    uint32_t live;       /* mask of the ranks that take part, this one included; set by the host */
    uint32_t reserved[4];
    struct hadal_ep_peer_stats peers[HADAL_EP_MAX_RANKS];
    struct hadal_ep_span spans[5][HADAL_EP_SPANS]; /* by kernel, then epoch modulo their number */
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_state) == 96 + 16 * 272 + 5 * 32 * 24,
                "the state is allocated by the host");

/* Where a received row came from. */
struct hadal_ep_source {
    uint32_t token; /* index in the source rank's batch */
    uint16_t rank;
    uint16_t k; /* which of the token's choices */
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_source) == 8, "one 8-byte store per row");

/* What the four kernels have in common. */
struct hadal_ep_latency {
    uint64_t heap;
    uint64_t heap_stride;
    uint64_t state; /* struct hadal_ep_state of this rank */
    uint64_t fault; /* struct hadal_ep_fault of this rank */
    uint64_t timeout_ns;
    /* Offsets in a window; indices in docs/protocol.md. */
    uint64_t dispatch_signal;
    uint64_t dispatch_credit;
    uint64_t combine_signal;
    uint64_t combine_credit;
    uint64_t poison;
    uint64_t dispatch_slots;
    uint64_t combine_slots;
    uint32_t rank;
    uint32_t ranks;
    uint32_t experts;           /* global */
    uint32_t max_local_experts; /* of any rank: the stride of the slots */
    uint32_t topk;
    uint32_t max_tokens;    /* of any rank in one round */
    uint32_t max_rows;      /* rows per local expert in the received layout */
    uint32_t hidden;        /* elements per row */
    uint32_t payload_bytes; /* of one dispatched row; a multiple of 16 */
    uint32_t scales;        /* f32 scales per dispatched row; 0 for BF16 */
    uint32_t slot_bytes;    /* header + payload + scales, rounded up to 16 */
    uint32_t combine_scales;     /* f32 scales per combined row; 0 for BF16 */
    uint32_t combine_slot_bytes; /* of one combined row: BF16, or E4M3 codes and scales, rounded up to 16 */
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_latency) == 152, "no padding");
HADAL_EP_ASSERT(__builtin_offsetof(struct hadal_ep_latency, rank) == 96, "no padding");

struct hadal_ep_dispatch_send_params {
    struct hadal_ep_latency ep;
    uint64_t x;        /* [tokens][payload_bytes], 16-byte aligned */
    uint64_t x_scales; /* f32 [tokens][scales]; unused when scales == 0 */
    uint64_t topk_idx; /* int32 [tokens][topk] */
    uint32_t tokens;
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_dispatch_send_params) == 184, "no padding");

struct hadal_ep_dispatch_recv_params {
    struct hadal_ep_latency ep;
    uint64_t x;        /* [local experts][max_rows][payload_bytes], 16-byte aligned */
    uint64_t x_scales; /* f32 [local experts][scales][max_rows rounded up to 4] */
    uint64_t counts;   /* int32 [local experts] */
    uint64_t source;   /* struct hadal_ep_source [local experts][max_rows] */
    uint32_t abandon;  /* 1: copy nothing, set no count */
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_dispatch_recv_params) == 192, "no padding");

struct hadal_ep_combine_send_params {
    struct hadal_ep_latency ep;
    uint64_t y;       /* BF16 [local experts][max_rows][hidden], 16-byte aligned */
    uint64_t counts;  /* as dispatch_recv wrote it */
    uint64_t source;  /* as dispatch_recv wrote it */
    uint32_t abandon; /* 1: send no rows, signal "abandoned" */
    uint32_t reserved;
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_combine_send_params) == 184, "no padding");

struct hadal_ep_combine_recv_params {
    struct hadal_ep_latency ep;
    uint64_t topk_idx; /* int32 [tokens][topk], the entries that were dispatched */
    uint64_t weights;  /* f32 [tokens][topk] */
    uint64_t out;      /* F32 or BF16 [tokens][hidden] by instance, 16-byte aligned */
    uint32_t tokens;
    uint32_t abandon; /* 1: write no output */
};
HADAL_EP_ASSERT(sizeof(struct hadal_ep_combine_recv_params) == 184, "no padding");

#undef HADAL_EP_ASSERT

#endif /* HADAL_PARAMS_EP_LATENCY_H */
