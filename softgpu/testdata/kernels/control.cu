// Control flow as C++ makes it: virtual functions, function pointers, recursion, switches, structures
// by value, lambdas, inline assembly. control.ptx: nvcc -arch=compute_90a -ptx; control_debug.ptx: the
// same with -G.

// Virtual functions and templates.
struct Shape {
    int tag;
    __device__ Shape(int t) : tag(t) {}
    __device__ virtual float area() const = 0;
    __device__ virtual int corners() const { return tag; }
};
template <int N> struct Box : Shape {
    float side[N];
    __device__ Box(float s) : Shape(2 << N) { for (int i = 0; i < N; i++) side[i] = s + i; }
    __device__ float area() const override { float a = 1; for (int i = 0; i < N; i++) a *= side[i]; return a; }
};
struct Disc : Shape {
    float r;
    __device__ Disc(float r) : Shape(0), r(r) {}
    __device__ float area() const override { return 3.0f * r * r; }
    __device__ int corners() const override { return 0; }
};
extern "C" __global__ void shapes(float *out, int *corners) {
    int i = threadIdx.x;
    Box<2> b2(i); Box<3> b3(i); Disc d(i);
    const Shape *all[3] = {&b2, &b3, &d};
    const Shape *s = all[i % 3];
    out[i] = s->area();
    corners[i] = s->corners();
}

// Function pointers, divergent.
typedef int (*op_t)(int, int);
__device__ __noinline__ int add(int a, int b) { return a + b; }
__device__ __noinline__ int sub(int a, int b) { return a - b; }
__device__ __noinline__ int mulo(int a, int b) { return a * b; }
__device__ op_t ops[3] = {add, sub, mulo};
extern "C" __global__ void pointers(int *out, const int *which, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = ops[which[i]](i, 7);
}

// Recursion of several kinds.
__device__ __noinline__ unsigned ackermann(unsigned m, unsigned n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}
__device__ void quicksort(int *v, int lo, int hi) {
    if (lo >= hi) return;
    int pivot = v[(lo + hi) / 2], i = lo, j = hi;
    while (i <= j) {
        while (v[i] < pivot) i++;
        while (v[j] > pivot) j--;
        if (i <= j) { int t = v[i]; v[i] = v[j]; v[j] = t; i++; j--; }
    }
    quicksort(v, lo, j);
    quicksort(v, i, hi);
}
__device__ __noinline__ double tree(int depth, double x) {
    double mine[4];
    for (int i = 0; i < 4; i++) mine[i] = x + i * depth;
    if (depth > 0) {
        double l = tree(depth - 1, x * 0.5), r = tree(depth - 1, x + 1);
        mine[depth & 3] += l - r;
    }
    return mine[0] + mine[1] + mine[2] + mine[3];
}
extern "C" __global__ void recursion(unsigned *ack, int *sorted, double *sums) {
    int i = threadIdx.x;
    ack[i] = ackermann(i % 3, i % 5);
    int v[16];
    unsigned seed = i * 2654435761u + 12345;
    for (int k = 0; k < 16; k++) { seed = seed * 1664525u + 1013904223u; v[k] = seed >> 20; }
    quicksort(v, 0, 15);
    for (int k = 0; k < 16; k++) sorted[i * 16 + k] = v[k];
    sums[i] = tree(i % 6, i * 0.25);
}

// Switch tables, structs by value, lambdas, inline assembly.
struct Big { int a[5]; double d; char c; };
__device__ __noinline__ Big shuffle_big(Big b, int k) {
    b.a[k % 5] += k; b.d *= 2; b.c ^= 1;
    return b;
}
__device__ __noinline__ int classify(int x) {
    switch (x) {
        case 0: return 11; case 1: return 7; case 2: return 5; case 3: return 3;
        case 4: return -1; case 5: return x * x; case 6: return 99; case 7: return x << 4;
        case 8: return 1000; case 9: return 8; default: return -x;
    }
}
template <class F> __device__ int twice(F f, int x) { return f(f(x)); }
extern "C" __global__ void mixed(int *out, int n) {
    int i = threadIdx.x;
    Big b = {{i, i + 1, i + 2, i + 3, i + 4}, i * 0.5, (char)i};
    b = shuffle_big(b, i);
    b = shuffle_big(b, i + 1);
    int k = 3;
    int t = twice([=](int x) { return x * k + i; }, i);
    int r;
    asm("{\n .reg .pred p;\n setp.lt.s32 p, %1, 16;\n @p bra L1;\n mov.s32 %0, 1;\n bra L2;\nL1: mov.s32 %0, 2;\nL2:\n}" : "=r"(r) : "r"(i));
    out[i] = b.a[0] + 10 * b.a[1] + 100 * b.a[2] + 1000 * b.a[3] + 10000 * b.a[4] + (int)b.d + b.c + t + classify(i) + r;
}

