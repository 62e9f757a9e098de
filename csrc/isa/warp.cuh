// Warp and warpgroup control: election, register hand-over, named barriers. PTX ISA 9.0.
#pragma once

#include <cstdint>

namespace hadal::isa {

// True in exactly one lane of a converged warp, the same one each time. ("elect.sync".)
__device__ __forceinline__ bool elect() {
    uint32_t elected;
    asm volatile(
        "{\n\t.reg .pred leader;\n\t"
        "elect.sync _|leader, 0xffffffff;\n\t"
        "selp.u32 %0, 1, 0, leader;\n\t}"
        : "=r"(elected));
    return elected != 0;
}

// Gives registers of this warpgroup back, down to kRegisters per thread. Executed by all warps of a
// warpgroup. ("setmaxnreg".)
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
    static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                  "setmaxnreg takes a multiple of 8 from 24 to 256");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Takes registers, up to kRegisters per thread; blocks until the CTA has them free.
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
    static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                  "setmaxnreg takes a multiple of 8 from 24 to 256");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Named barrier `id` (0 is __syncthreads) among `threads` threads, a multiple of 32. Order: as
// __syncthreads, among those threads. ("bar / barrier".)
__device__ __forceinline__ void bar_sync(uint32_t id, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Arrives at a named barrier without waiting; pairs with bar_sync of the others.
__device__ __forceinline__ void bar_arrive(uint32_t id, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Waits until the grids that this one depends on have completed and their writes are visible.
// Returns at once in an ordinary launch. ("griddepcontrol".)
__device__ __forceinline__ void griddepcontrol_wait() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets dependent grids be scheduled once every CTA has said so or exited. It publishes nothing.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace hadal::isa
