// Clocks: one instruction per function. Source: PTX ISA 9.0, "Special Registers".
#pragma once

#include <cstdint>

namespace hadal::isa {

/// %globaltimer: nanoseconds of the device's global timer, whose step may be as coarse as a
/// microsecond.
__device__ __forceinline__ uint64_t globaltimer() {
    uint64_t value;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value)::"memory");
    return value;
}

/// nanosleep.u32: suspends the thread for about `ns` nanoseconds, at most twice as long.
__device__ __forceinline__ void nanosleep(uint32_t ns) {
    asm volatile("nanosleep.u32 %0;" ::"r"(ns) : "memory");
}

}  // namespace hadal::isa
