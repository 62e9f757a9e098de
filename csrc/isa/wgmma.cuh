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

// The descriptor of two words.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t low, uint32_t high) {
    return uint64_t{high} << 32 | low;
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

// What a matrix operand holds.
enum class Element {
    kE4m3,
    kE5m2,
    kBf16,
};

// mma<kA, kB, kN>: D[64, kN] = A[64, k] B[kN, k]^T (+ D), both operands K-major in shared memory
// under 128-byte swizzle, f32 accumulators; k is 32 bytes of a row: 32 of FP8, 16 of BF16.
template <Element kA, Element kB, uint32_t kN>
struct Wgmma;

// Placeholders of eight accumulators each, and what is bound to them.
#define HADAL_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define HADAL_R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define HADAL_R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define HADAL_R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define HADAL_R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define HADAL_R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define HADAL_R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define HADAL_R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define HADAL_R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define HADAL_R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define HADAL_R10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define HADAL_R11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define HADAL_D0 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define HADAL_D1 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define HADAL_D2 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define HADAL_D3 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define HADAL_D4 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define HADAL_D5 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define HADAL_D6 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define HADAL_D7 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define HADAL_D8 "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define HADAL_D9 "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define HADAL_D10 "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define HADAL_D11 "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])

// `is`, `ia` and `ib` are the placeholders behind the accumulators: the flag and the descriptors.
#define HADAL_WGMMA(kA, kB, kN, opcode, registers, operands, ia, ib, is, tail)                    \
    template <>                                                                                   \
    struct Wgmma<Element::kA, Element::kB, kN> {                                                  \
        __device__ __forceinline__ static void mma(float (&d)[kN / 2], uint64_t a, uint64_t b,    \
                                                   bool accumulate) {                             \
            asm volatile("{\n\t.reg .pred accumulate;\n\t"                                        \
                         "setp.ne.b32 accumulate, %" #is ", 0;\n\t"                               \
                         "wgmma.mma_async.sync.aligned.m64n" #kN opcode " {" registers "}, %" #ia  \
                         ", %" #ib ", accumulate, 1, 1" tail ";\n\t}"                             \
                         : operands                                                               \
                         : "l"(a), "l"(b), "r"(static_cast<int32_t>(accumulate)));                \
        }                                                                                         \
    };

#define HADAL_LIST(...) __VA_ARGS__
HADAL_WGMMA(kE4m3, kE4m3, 8, "k32.f32.e4m3.e4m3",
            "%0, %1, %2, %3",
            HADAL_LIST("+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])),
            4, 5, 6, "")
HADAL_WGMMA(kE4m3, kE4m3, 16, "k32.f32.e4m3.e4m3",
            HADAL_R0,
            HADAL_LIST(HADAL_D0),
            8, 9, 10, "")
HADAL_WGMMA(kE4m3, kE4m3, 32, "k32.f32.e4m3.e4m3",
            HADAL_R0 ", " HADAL_R1,
            HADAL_LIST(HADAL_D0, HADAL_D1),
            16, 17, 18, "")
HADAL_WGMMA(kE4m3, kE4m3, 64, "k32.f32.e4m3.e4m3",
            HADAL_R0 ", " HADAL_R1 ", " HADAL_R2 ", " HADAL_R3,
            HADAL_LIST(HADAL_D0, HADAL_D1, HADAL_D2, HADAL_D3),
            32, 33, 34, "")
HADAL_WGMMA(kE4m3, kE4m3, 128, "k32.f32.e4m3.e4m3",
            HADAL_R0 ", " HADAL_R1 ", " HADAL_R2 ", " HADAL_R3 ", " HADAL_R4 ", " HADAL_R5 ", " HADAL_R6 ", " HADAL_R7,
            HADAL_LIST(HADAL_D0, HADAL_D1, HADAL_D2, HADAL_D3, HADAL_D4, HADAL_D5, HADAL_D6, HADAL_D7),
            64, 65, 66, "")
HADAL_WGMMA(kE4m3, kE4m3, 192, "k32.f32.e4m3.e4m3",
            HADAL_R0 ", " HADAL_R1 ", " HADAL_R2 ", " HADAL_R3 ", " HADAL_R4 ", " HADAL_R5 ", " HADAL_R6 ", " HADAL_R7 ", " HADAL_R8 ", " HADAL_R9 ", " HADAL_R10 ", " HADAL_R11,
            HADAL_LIST(HADAL_D0, HADAL_D1, HADAL_D2, HADAL_D3, HADAL_D4, HADAL_D5, HADAL_D6, HADAL_D7, HADAL_D8, HADAL_D9, HADAL_D10, HADAL_D11),
            96, 97, 98, "")
HADAL_WGMMA(kE5m2, kE4m3, 128, "k32.f32.e5m2.e4m3",
            HADAL_R0 ", " HADAL_R1 ", " HADAL_R2 ", " HADAL_R3 ", " HADAL_R4 ", " HADAL_R5 ", " HADAL_R6 ", " HADAL_R7,
            HADAL_LIST(HADAL_D0, HADAL_D1, HADAL_D2, HADAL_D3, HADAL_D4, HADAL_D5, HADAL_D6, HADAL_D7),
            64, 65, 66, "")
HADAL_WGMMA(kBf16, kBf16, 128, "k16.f32.bf16.bf16",
            HADAL_R0 ", " HADAL_R1 ", " HADAL_R2 ", " HADAL_R3 ", " HADAL_R4 ", " HADAL_R5 ", " HADAL_R6 ", " HADAL_R7,
            HADAL_LIST(HADAL_D0, HADAL_D1, HADAL_D2, HADAL_D3, HADAL_D4, HADAL_D5, HADAL_D6, HADAL_D7),
            64, 65, 66, ", 0, 0")

#undef HADAL_WGMMA
#undef HADAL_LIST
#undef HADAL_R0
#undef HADAL_D0
#undef HADAL_R1
#undef HADAL_D1
#undef HADAL_R2
#undef HADAL_D2
#undef HADAL_R3
#undef HADAL_D3
#undef HADAL_R4
#undef HADAL_D4
#undef HADAL_R5
#undef HADAL_D5
#undef HADAL_R6
#undef HADAL_D6
#undef HADAL_R7
#undef HADAL_D7
#undef HADAL_R8
#undef HADAL_D8
#undef HADAL_R9
#undef HADAL_D9
#undef HADAL_R10
#undef HADAL_D10
#undef HADAL_R11
#undef HADAL_D11

}  // namespace hadal::isa
