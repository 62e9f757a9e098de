/* Parameters and outcome of the wait kernel: one thread waits until a word has a value. */
#ifndef HADAL_PARAMS_WAIT_H
#define HADAL_PARAMS_WAIT_H

#include <stdint.h>

struct hadal_wait_word_params {
    uint64_t address;  /* device address of the word; anyone may write it, with release at .sys scope */
    uint64_t outcome;  /* device address of a hadal_wait_outcome */
    uint64_t limit_ns; /* device time after which the wait gives up */
    uint32_t expected; /* value that ends the wait */
    uint32_t reserved; /* zero */
};

static_assert(sizeof(struct hadal_wait_word_params) == 32, "ABI with the host");

/* Written by the kernel before it ends. */
struct hadal_wait_outcome {
    uint64_t waited_ns; /* device time from the first look to the last */
    uint32_t seen;      /* the word at the last look */
    uint32_t expired;   /* 1 when the limit passed, else 0 */
};

static_assert(sizeof(struct hadal_wait_outcome) == 16, "read back by the host");

#endif
