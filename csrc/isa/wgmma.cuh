// wgmma: matrix multiply-accumulate of a warpgroup. PTX ISA 9.0, "Asynchronous Warpgroup Level
// Matrix Instructions".
//
// All 128 threads of a warpgroup execute each of these, converged. wgmma.mma_async runs in the
// async proxy: it reads shared memory and writes the accumulators after it was issued. Protocol of
// a group:
//
//   fence -> mma_async ... -> commit_group -> wait_group<n> -> accumulators and operands are free
//
// The fence orders earlier register accesses to the accumulators (and generic writes of A
// registers); consecutive mma_async of one shape on the same accumulators need none between them.
// Operands written to shared memory by TMA need only the mbarrier wait; by ordinary stores,
// fence_proxy_async_shared.
//
// Accumulator layout of m64nN, f32: thread t, w = t / 32 % 4, l = t % 32; d[4 j + 2 h + c] is row
// 16 w + 8 h + l / 4, column 8 j + 2 (l % 4) + c. So a thread holds two rows and N / 2 values.
#pragma once

#include <cstdint>

namespace hadal::isa {

// Shared-memory matrix descriptor ("Matrix Descriptor Format") of a K-major operand whose rows are
// one 128-byte swizzle width. Low word: bits 0-13 address / 16, 16-29 leading offset (unused here:
// 1). High word: bits 0-13 the 1024 bytes from one group of eight rows to the next, 30-31 the
// swizzle (1 = 128 bytes). Kept as two words, because only the low one changes in a loop: moving by
// n bytes adds n / 16 to it, and that holds for 32-byte steps along k too, as the swizzle is a
// function of the absolute address. Matrices begin at a multiple of 1024 bytes.
__device__ __forceinline__ uint32_t wgmma_descriptor_low(uint32_t address) {
    return (1u << 16) | ((address & 0x3ffffu) >> 4);
}

// The descriptor with the given low word.
__device__ __forceinline__ uint64_t wgmma_descriptor_k_major_128b(uint32_t low) {
    constexpr uint32_t kHigh = (1u << 30) | (1024u >> 4);
    return uint64_t{kHigh} << 32 | low;
}

// Orders earlier register and shared-memory accesses of the warpgroup before the next mma_async.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes the current wgmma group.
__device__ __forceinline__ void wgmma_commit_group() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending wgmma groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// No instruction: tells the compiler that the accumulators change here, so that it moves no access
// to them across (mma_async writes them long after the statement that names them).
template <int kCount>
__device__ __forceinline__ void pin_accumulators(float (&d)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
}

// D[64, 128] = A[64, 32] B[128, 32]^T (+ D), e4m3 operands from shared memory, f32 accumulators.
__device__ __forceinline__ void wgmma_m64n128k32_e4m3(float (&d)[64], uint64_t a, uint64_t b,
                                                      bool accumulate) {
    asm volatile(
        "{\n\t.reg .pred accumulate;\n\t"
        "setp.ne.b32 accumulate, %66, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, accumulate, 1, 1;\n\t}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
          "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
          "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
          "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
          "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
          "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
          "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]),
          "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
          "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "r"(static_cast<int32_t>(accumulate)));
}

}  // namespace hadal::isa
