/* Parameters of the arithmetic probe: a loop without memory accesses, for the speed of execution. */
#ifndef HADAL_PARAMS_PROBE_H
#define HADAL_PARAMS_PROBE_H

#include <stdint.h>

struct hadal_probe_arithmetic_params {
    uint64_t output;     /* device address of one 32-bit word per thread */
    uint32_t iterations; /* of the loop */
    uint32_t reserved;   /* zero */
};

static_assert(sizeof(struct hadal_probe_arithmetic_params) == 16, "ABI with the host");

#endif
