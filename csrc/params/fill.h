/* Parameters of the fill kernel: sets `count` 32-bit words at `destination` to `value`. */
#ifndef HADAL_PARAMS_FILL_H
#define HADAL_PARAMS_FILL_H

#include <stdint.h>

struct hadal_fill_params {
    uint64_t destination; /* device address of the first word */
    uint64_t count;       /* words */
    uint32_t value;
    uint32_t reserved; /* zero */
};

static_assert(sizeof(struct hadal_fill_params) == 24, "ABI with the host");

#endif
