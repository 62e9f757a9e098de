/* The device's description of a tensor in global memory (CUtensorMap), as a kernel parameter.
 *
 * Encoded by the driver, opaque to both sides, and read by the TMA unit from parameter space, which
 * demands 128-byte alignment. Parameter structs put their tensor maps first. */
#ifndef HADAL_PARAMS_TENSOR_MAP_H
#define HADAL_PARAMS_TENSOR_MAP_H

#include <stdint.h>

struct hadal_tensor_map {
    alignas(128) uint64_t opaque[16];
};

static_assert(sizeof(struct hadal_tensor_map) == 128, "a tensor map has 128 bytes");
static_assert(alignof(struct hadal_tensor_map) == 128, "TMA reads tensor maps at 128-byte alignment");

#endif
