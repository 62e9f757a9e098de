"""Matrix products: through pointers, with tensor-map descriptors of host and device, in clusters."""

import numpy
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from device import TYPES, Array, Scratch, near, normal


@triton.jit
def pointers_kernel(
    a, b, c, m, n, k, stride_bk, stride_bn, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr
):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    depth = tl.arange(0, K)
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        at = start + depth
        a_mask = (rows[:, None] < m) & (at[None, :] < k)
        b_mask = (at[:, None] < k) & (columns[None, :] < n)
        a_tile = tl.load(a + rows[:, None] * k + at[None, :], mask=a_mask, other=0.0)
        b_at = b + at[:, None] * stride_bk + columns[None, :] * stride_bn
        total = tl.dot(a_tile, tl.load(b_at, mask=b_mask, other=0.0), total)
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c + rows[:, None] * n + columns[None, :], total, mask=inside)


def operands(kind, m, n, k):
    """A and B, and their product with the sum of the terms' magnitudes, which bounds errors."""
    a = normal(1, (m, k)).astype(TYPES[kind])
    b = normal(2, (k, n)).astype(TYPES[kind])
    wide_a, wide_b = a.astype(numpy.float64), b.astype(numpy.float64)
    return a, b, wide_a @ wide_b, numpy.abs(wide_a) @ numpy.abs(wide_b)


# Of the sum of magnitudes: the accumulator keeps 13 bits below the largest term with FP8 operands.
BOUND = {"fp16": 2.0**-20, "bf16": 2.0**-20, "fp8e4nv": 2.0**-9, "fp8e5": 2.0**-9}


def pointers(kind, warps, stages, ctas=1, tile=(64, 64, 64)):
    m, n, k = (256, 192, 320) if ctas > 1 else (150, 136, 200)
    a, b, product, magnitude = operands(kind, m, n, k)
    column_major = kind.startswith("fp8")
    strides = (1, k) if column_major else (n, 1)
    c = Array(numpy.zeros((m, n), numpy.float32))
    grid = (triton.cdiv(m, tile[0]), triton.cdiv(n, tile[1]))
    pointers_kernel[grid](
        Array(a), Array(b.T if column_major else b), c, m, n, k, *strides,
        M=tile[0], N=tile[1], K=tile[2], num_warps=warps, num_stages=stages, num_ctas=ctas,
    )  # fmt: skip
    near(c.read(), product, BOUND[kind] * magnitude)


@triton.jit
def host_maps_kernel(a, b, c, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    total = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        total = tl.dot(a.load([row, start]), b.load([column, start]).T, total)
    c.store([row, column], total)


def host_maps(kind, warps, stages, ctas=1):
    m, n, k = 256, 192, 320
    a, b, product, magnitude = operands(kind, m, n, k)
    tile = (128, 64, 64)
    c = Array(numpy.zeros((m, n), numpy.float32))
    a_map = TensorDescriptor.from_tensor(Array(a), [tile[0], tile[2]])
    b_map = TensorDescriptor.from_tensor(Array(b.T), [tile[1], tile[2]])
    c_map = TensorDescriptor.from_tensor(c, [tile[0], tile[1]])
    host_maps_kernel[(m // tile[0], n // tile[1])](
        a_map, b_map, c_map, k, M=tile[0], N=tile[1], K=tile[2],
        num_warps=warps, num_stages=stages, num_ctas=ctas,
    )  # fmt: skip
    near(c.read(), product, BOUND[kind] * magnitude)


@triton.jit
def device_maps_kernel(
    a, b, c, m, n, k, CTAS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr
):
    a_map = tl.make_tensor_descriptor(a, [m, k], [k, 1], [M, K])
    b_map = tl.make_tensor_descriptor(b, [n, k], [k, 1], [N, K])
    c_map = tl.make_tensor_descriptor(c, [m, n], [n, 1], [M, N])
    across = tl.cdiv(n, N)
    for tile in range(tl.program_id(0), tl.cdiv(m, M) * across, CTAS):
        row, column = tile // across * M, tile % across * N
        total = tl.zeros((M, N), dtype=tl.float32)
        for start in range(0, k, K):
            total = tl.dot(a_map.load([row, start]), b_map.load([column, start]).T, total)
        c_map.store([row, column], total.to(tl.float16))


def device_maps(kind, warps, stages):
    """Persistent; the maps are made on the device, and the last tiles are cut off."""
    triton.set_allocator(lambda size, alignment, stream: Scratch(size))
    m, n, k = 200, 136, 208
    a, b, product, magnitude = operands(kind, m, n, k)
    c = Array(numpy.zeros((m, n), numpy.float16))
    device_maps_kernel[(3,)](
        Array(a), Array(b.T), c, m, n, k,
        CTAS=3, M=64, N=64, K=64, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    near(c.read(), product, BOUND[kind] * magnitude + 2.0**-11 * numpy.abs(product))


@triton.jit
def integers_kernel(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    rows, columns, depth = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a_tile = tl.load(a + rows[:, None] * K + depth[None, :])
    b_tile = tl.load(b + depth[:, None] + columns[None, :] * K)
    product = tl.dot(a_tile, b_tile, out_dtype=tl.int32)
    tl.store(c + rows[:, None] * N + columns[None, :], product)


def integers(warps):
    generator = numpy.random.default_rng(3)
    a, b = (generator.integers(-128, 128, (64, 128), numpy.int8) for _ in range(2))
    c = Array(numpy.zeros((64, 64), numpy.int32))
    integers_kernel[(1,)](Array(a), Array(b), c, M=64, N=64, K=128, num_warps=warps)
    near(c.read(), a.astype(numpy.float64) @ b.T.astype(numpy.float64), 0.0)


@triton.jit
def attention_kernel(q, k, v, out, scale, L: tl.constexpr, D: tl.constexpr, B: tl.constexpr):
    rows, depth = tl.program_id(0) * B + tl.arange(0, B), tl.arange(0, D)
    q_tile = tl.load(q + rows[:, None] * D + depth[None, :])
    most = tl.full([B], -float("inf"), tl.float32)
    total = tl.zeros([B], tl.float32)
    result = tl.zeros([B, D], tl.float32)
    for start in range(0, L, B):
        at = start + tl.arange(0, B)
        k_tile = tl.load(k + at[None, :] * D + depth[:, None])
        scores = tl.dot(q_tile, k_tile) * scale
        higher = tl.maximum(most, tl.max(scores, 1))
        powers = tl.exp(scores - higher[:, None])
        keep = tl.exp(most - higher)
        total = total * keep + tl.sum(powers, 1)
        v_tile = tl.load(v + at[:, None] * D + depth[None, :])
        result = tl.dot(powers.to(tl.float16), v_tile, result * keep[:, None])
        most = higher
    tl.store(out + rows[:, None] * D + depth[None, :], result / total[:, None])


def attention(warps):
    length, width = 256, 64
    q, k, v = (normal(seed, (length, width), numpy.float16) for seed in (4, 5, 6))
    out = Array(numpy.zeros((length, width), numpy.float32))
    attention_kernel[(length // 64,)](
        Array(q), Array(k), Array(v), out, 0.125, L=length, D=width, B=64, num_warps=warps
    )
    wide_q, wide_k, wide_v = (x.astype(numpy.float64) for x in (q, k, v))
    scores = wide_q @ wide_k.T * 0.125
    powers = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    near(out.read(), powers @ wide_v / powers.sum(axis=1, keepdims=True), 2e-3)


TESTS = {
    **{
        f"matmul_{kind}_w{warps}_s{stages}": (pointers, kind, warps, stages)
        for kind in TYPES
        for warps, stages in ((4, 1), (4, 3), (8, 2), (2, 2))
    },
    "matmul_fp16_large_tile": (pointers, "fp16", 8, 3, 1, (128, 128, 64)),
    "matmul_fp16_cluster": (pointers, "fp16", 4, 2, 2, (128, 64, 64)),
    **{f"tma_{kind}_w{w}": (host_maps, kind, w, 3) for kind in TYPES for w in (4, 8)},
    "tma_fp16_cluster": (host_maps, "fp16", 4, 2, 2),
    **{f"device_tma_{kind}": (device_maps, kind, 4, 3) for kind in TYPES},
    **{f"matmul_int8_w{w}": (integers, w) for w in (4, 8)},
    **{f"attention_w{w}": (attention, w) for w in (4, 8)},
}
