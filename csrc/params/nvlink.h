/* Parameters of the NVLink primitives (csrc/transfer/nvlink); protocol: docs/protocol.md, "NVLink primitives". */
#ifndef HADAL_PARAMS_NVLINK_H
#define HADAL_PARAMS_NVLINK_H

#include <stdint.h>

/* Ranks of one NVLink domain: a team is a bit mask of 64. */
#define HADAL_NVLINK_MAX_RANKS 64u

/* How a signal word changes. */
#define HADAL_NVLINK_SET 0u
#define HADAL_NVLINK_ADD 1u

/* When a wait ends. */
#define HADAL_NVLINK_AT_LEAST 0u
#define HADAL_NVLINK_EQUAL 1u
#define HADAL_NVLINK_COUNT 2u

/* Fault kinds. */
#define HADAL_NVLINK_FAULT_NONE 0u
#define HADAL_NVLINK_FAULT_TIMEOUT 1u
#define HADAL_NVLINK_FAULT_POISONED 2u
#define HADAL_NVLINK_FAULT_PROTOCOL 3u

/* Operations that wait. */
#define HADAL_NVLINK_OP_WAIT 1u
#define HADAL_NVLINK_OP_BARRIER 2u
#define HADAL_NVLINK_OP_GATHER_CREDIT 3u
#define HADAL_NVLINK_OP_GATHER_SIGNAL 4u

/* Written once by the device, read by the host; `kind` last, with release. */
struct hadal_nvlink_fault {
    uint32_t kind;
    uint32_t operation;
    uint32_t rank;
    uint32_t peer;
    uint32_t slot; /* signal, or buffer of a gather */
    uint32_t reserved;
    uint64_t expected;
    uint64_t seen;
    uint64_t waited_ns;
};

static_assert(sizeof(struct hadal_nvlink_fault) == 48, "read back by the host");

/* Private to a rank's device; starts zeroed. */
struct hadal_nvlink_state {
    uint32_t abort; /* a fault kind; stays set */
    uint32_t reserved;
    uint64_t gather_epoch;                          /* all-gathers completed */
    uint64_t barrier_epoch[HADAL_NVLINK_MAX_RANKS]; /* barriers completed together with that rank */
};

static_assert(sizeof(struct hadal_nvlink_state) == 528, "allocated by the host");

/* How a wait ended. */
struct hadal_nvlink_outcome {
    uint64_t waited_ns; /* device time from the first look to the last */
    uint64_t seen;      /* the word at the last look */
    uint32_t expired;   /* 1 when the limit passed, else 0 */
    uint32_t fault;     /* a fault kind; none when the word was reached */
};

static_assert(sizeof(struct hadal_nvlink_outcome) == 24, "read back by the host");

/* What every primitive is given. Offsets count from the start of a window, the same on all ranks. */
struct hadal_nvlink {
    uint64_t heap;          /* address of window 0 */
    uint64_t heap_stride;   /* bytes from window to window */
    uint64_t state;         /* hadal_nvlink_state of this rank */
    uint64_t fault;         /* hadal_nvlink_fault in host memory */
    uint64_t timeout_ns;    /* of each wait that has no limit of its own */
    uint64_t poison;        /* u64 [rank], written by the rank of the index */
    uint64_t barrier;       /* u64 [rank], written by the rank of the index */
    uint64_t gather_signal; /* u64 [2][rank], written by the rank of the index */
    uint64_t gather_credit; /* u64 [rank], written by the rank of the index */
    uint64_t gather_slots;  /* [2][rank] of slot_bytes, written by the rank of the index */
    uint32_t rank;
    uint32_t ranks;
    uint32_t slot_bytes; /* a multiple of 16 */
    uint32_t reserved;   /* zero */
};

static_assert(sizeof(struct hadal_nvlink) == 96, "ABI with the host");

/* Copies bytes; then, if asked, changes one signal word. Ranges do not overlap. */
struct hadal_nvlink_copy_params {
    struct hadal_nvlink nvlink;
    uint64_t destination; /* any alignment; one of the two may be a peer's memory */
    uint64_t source;      /* any alignment */
    uint64_t bytes;
    uint64_t signal;  /* address of a u64, or 0: none */
    uint64_t value;   /* stored or added */
    uint64_t arrived; /* address of a u32 of this device, zero between launches; with a signal */
    uint32_t change;  /* HADAL_NVLINK_SET or HADAL_NVLINK_ADD */
    uint32_t reserved; /* zero */
};

static_assert(sizeof(struct hadal_nvlink_copy_params) == 152, "ABI with the host");

/* Changes one signal word. */
struct hadal_nvlink_signal_params {
    uint64_t signal; /* address of a u64 */
    uint64_t state;  /* hadal_nvlink_state: nothing is sent after a fault */
    uint64_t value;
    uint32_t change; /* HADAL_NVLINK_SET or HADAL_NVLINK_ADD */
    uint32_t reserved; /* zero */
};

static_assert(sizeof(struct hadal_nvlink_signal_params) == 32, "ABI with the host");

/* Waits for one signal word of the own window. */
struct hadal_nvlink_wait_params {
    struct hadal_nvlink nvlink;
    uint64_t signal;   /* address of a u64 */
    uint64_t consumed; /* address of a u64 of this device: what earlier waits of HADAL_NVLINK_COUNT waited for */
    uint64_t outcome;  /* address of a hadal_nvlink_outcome, or 0 */
    uint64_t value;    /* compared with; of HADAL_NVLINK_COUNT, on top of `consumed` */
    uint64_t limit_ns;
    uint32_t until; /* HADAL_NVLINK_AT_LEAST, _EQUAL or _COUNT */
    uint32_t peer;  /* who changes the word */
    uint32_t slot;  /* index of the signal, for the record */
    uint32_t reserved; /* zero */
};

static_assert(sizeof(struct hadal_nvlink_wait_params) == 152, "ABI with the host");

/* Waits until every rank of a team is here. */
struct hadal_nvlink_barrier_params {
    struct hadal_nvlink nvlink;
    uint64_t team; /* bit r: rank r; the own bit has no effect */
};

static_assert(sizeof(struct hadal_nvlink_barrier_params) == 104, "ABI with the host");

/* Brings every rank's record to every rank. */
struct hadal_nvlink_all_gather_params {
    struct hadal_nvlink nvlink;
    uint64_t record; /* own record, any alignment */
    uint64_t output; /* records by rank, one behind the other */
    uint32_t bytes;  /* of a record, at most slot_bytes */
    uint32_t reserved; /* zero */
};

static_assert(sizeof(struct hadal_nvlink_all_gather_params) == 120, "ABI with the host");

/* Sums what the ranks have at one offset, into all windows. Ranks in step: barriers before and after. */
struct hadal_nvlink_all_reduce_params {
    struct hadal_nvlink nvlink;
    uint64_t offset;    /* in a window, a multiple of 16 */
    uint64_t multicast; /* address of all windows at once, or 0: none */
    uint64_t vectors;   /* of 16 bytes */
};

static_assert(sizeof(struct hadal_nvlink_all_reduce_params) == 120, "ABI with the host");

/* Copies into all windows, the own one too. */
struct hadal_nvlink_broadcast_params {
    struct hadal_nvlink nvlink;
    uint64_t source;    /* address, a multiple of 16 */
    uint64_t offset;    /* in a window, a multiple of 16 */
    uint64_t multicast; /* address of all windows at once, or 0: none */
    uint64_t vectors;   /* of 16 bytes */
};

static_assert(sizeof(struct hadal_nvlink_broadcast_params) == 128, "ABI with the host");

#endif
