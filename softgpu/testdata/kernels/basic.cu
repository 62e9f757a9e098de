// Plain kernels for the driver tests.
#include <cstdint>

__device__ int table[4] = {1, 10, 100, 1000};
__device__ int* table_end = table + 3;
__constant__ float scale = 2.5f;

extern "C" __global__ void vector_add(const float* a, const float* b, float* c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

// Sum of n values: shuffle within the warp, shared memory within the block, atomics across blocks.
extern "C" __global__ void sum_atomic(const uint32_t* values, int n, unsigned long long* total) {
    __shared__ unsigned long long partial;
    if (threadIdx.x == 0) partial = 0;
    __syncthreads();
    unsigned long long sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += values[i];
    for (int d = 16; d > 0; d /= 2) sum += __shfl_down_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) atomicAdd(&partial, sum);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, partial);
}

// Reads initialised variables, one of which holds the address of another.
extern "C" __global__ void read_globals(float* out) {
    out[threadIdx.x] = scale * table[threadIdx.x] + *table_end;
}

struct Odd {
    char tag;
    double value;
    short pair[3];
};

// Parameters of many sizes and alignments.
extern "C" __global__ void pack(double* out, char a, short b, Odd odd, int c, long long d) {
    out[0] = a;
    out[1] = b;
    out[2] = odd.tag;
    out[3] = odd.value;
    out[4] = odd.pair[2];
    out[5] = c;
    out[6] = static_cast<double>(d);
}

// Fills dynamic shared memory and copies it out in reverse.
extern "C" __global__ void reverse_shared(int* data, int n) {
    extern __shared__ int buffer[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) buffer[i] = data[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) data[i] = buffer[n - 1 - i];
}

extern "C" __global__ void __launch_bounds__(64) bounded(int* out) { out[threadIdx.x] = 1; }

extern "C" __global__ void write_at(int* at, int value) { *at = value; }

extern "C" __global__ void stop() { asm volatile("trap;"); }

// Waits until *flag is value, then stores value + 1 to *reply.
extern "C" __global__ void answer(const uint32_t* flag, uint32_t value, uint32_t* reply) {
    uint32_t seen;
    do {
        asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    } while (seen != value);
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(reply), "r"(value + 1) : "memory");
}

// A token goes round the ring of devices: device r waits for round * ranks + r in its own box and
// sends the next number to the box of device r + 1.
extern "C" __global__ void ring(uint32_t* own, uint32_t* next, uint32_t rank, uint32_t ranks,
                                uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; ++round) {
        uint32_t expected = round * ranks + rank, seen;
        do {
            asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(own) : "memory");
        } while (seen != expected);
        asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(next), "r"(expected + 1)
                     : "memory");
    }
}
