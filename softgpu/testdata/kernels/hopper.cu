// Kernels with Hopper's own instructions: tensor copies, mbarriers, wgmma, clusters.
#include <cstdint>

struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

__device__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ void barrier_init(uint64_t* barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(count)
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ void expect(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

__device__ void wait(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

__device__ void load_2d(void* to, const TensorMap* map, int x, int y, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
        "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
        : "memory");
}

// Copies tiles of 32 x 8 floats through shared memory; rows and columns beyond the tensor read 0.
extern "C" __global__ void tile_copy(const __grid_constant__ TensorMap map, float* out) {
    __shared__ alignas(128) float tile[8][32];
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        barrier_init(&barrier, 1);
        expect(&barrier, sizeof(tile));
        load_2d(tile, &map, blockIdx.x * 32, blockIdx.y * 8, &barrier);
    }
    __syncthreads();
    wait(&barrier, 0);
    int width = gridDim.x * 32;
    for (int row = 0; row < 8; ++row)
        out[(blockIdx.y * 8 + row) * width + blockIdx.x * 32 + threadIdx.x] = tile[row][threadIdx.x];
}

__device__ uint64_t descriptor(const void* tile) {
    uint64_t address = (shared_address(tile) & 0x3FFFF) >> 4;
    return address | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

// D[64, 8] = A[64, 128] * B[8, 128]^T for e4m3 operands, 128-byte swizzle, one warpgroup.
extern "C" __global__ void __launch_bounds__(128)
    wgmma_e4m3(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* d) {
    __shared__ alignas(1024) uint8_t tile_a[64 * 128];
    __shared__ alignas(1024) uint8_t tile_b[8 * 128];
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        barrier_init(&barrier, 1);
        expect(&barrier, sizeof(tile_a) + sizeof(tile_b));
        load_2d(tile_a, &a, 0, 0, &barrier);
        load_2d(tile_b, &b, 0, 0, &barrier);
    }
    __syncthreads();
    wait(&barrier, 0);
    float acc[4] = {};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 4; ++k)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {%0, %1, %2, %3}, %4, %5, 1, 1, 1;"
            : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
            : "l"(descriptor(tile_a + 32 * k)), "l"(descriptor(tile_b + 32 * k)));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])::"memory");
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row = 16 * warp + lane / 4, column = 2 * (lane % 4);
    d[row * 8 + column] = acc[0];
    d[row * 8 + column + 1] = acc[1];
    d[(row + 8) * 8 + column] = acc[2];
    d[(row + 8) * 8 + column + 1] = acc[3];
}

// Every block of a cluster writes its rank into the shared memory of the next one.
extern "C" __global__ void cluster_ranks(uint32_t* out) {
    __shared__ uint32_t slot;
    uint32_t rank, size, peer;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(peer)
                 : "r"(shared_address(&slot)), "r"((rank + 1) % size));
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    if (threadIdx.x == 0)
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(peer), "r"(rank + 100 * size)
                     : "memory");
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    if (threadIdx.x == 0) out[blockIdx.x] = slot;
}
