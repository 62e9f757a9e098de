"""Kernels without matrix products: vectors, rows, atomics, scans and sorts."""

import numpy
import triton
import triton.language as tl

from device import Array, equal, near, normal


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


def vector_add(warps):
    n = 4097
    x, y = normal(1, n), normal(2, n)
    out = Array(numpy.zeros(n, numpy.float32))
    add_kernel[(triton.cdiv(n, 1024),)](Array(x), Array(y), out, n, BLOCK=1024, num_warps=warps)
    equal(out.read(), x + y)


@triton.jit
def softmax_kernel(x, out, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + at, mask=at < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * stride + at, powers / tl.sum(powers, axis=0), mask=at < columns)


def softmax(warps):
    x = normal(3, (33, 781)) * 4
    out = Array(numpy.zeros_like(x))
    softmax_kernel[(33,)](Array(x), out, 781, 781, BLOCK=1024, num_warps=warps)
    wide = x.astype(numpy.float64)
    powers = numpy.exp(wide - wide.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    near(out.read(), expected, 1e-5 * expected + 1e-12)


@triton.jit
def layer_norm_kernel(x, out, weight, bias, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x + row * columns + at, mask=at < columns, other=0.0)
    mean = tl.sum(total, axis=0) / columns
    square = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * columns + at, mask=at < columns, other=0.0)
        value = tl.where(at < columns, value - mean, 0.0)
        square += value * value
    scale = 1 / tl.sqrt(tl.sum(square, axis=0) / columns + eps)
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < columns
        value = tl.load(x + row * columns + at, mask=inside)
        value = (value - mean) * scale * tl.load(weight + at, mask=inside)
        tl.store(out + row * columns + at, value + tl.load(bias + at, mask=inside), mask=inside)


def layer_norm(warps):
    rows, columns = 17, 1111
    x, weight, bias = normal(4, (rows, columns)), normal(5, columns), normal(6, columns)
    out = Array(numpy.zeros_like(x))
    arguments = (Array(x), out, Array(weight), Array(bias), columns, 1e-5)
    layer_norm_kernel[(rows,)](*arguments, BLOCK=512, num_warps=warps)
    wide = x.astype(numpy.float64)
    mean, variance = wide.mean(axis=1, keepdims=True), wide.var(axis=1, keepdims=True)
    near(out.read(), (wide - mean) / numpy.sqrt(variance + 1e-5) * weight + bias, 2e-5)


@triton.jit
def atomics_kernel(keys, counts, most, total, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    key = tl.load(keys + at, mask=inside, other=0)
    tl.atomic_add(counts + key, 1, mask=inside)
    tl.atomic_max(most + key, at, mask=inside)
    tl.atomic_add(total, tl.sum(tl.where(inside, key, 0).to(tl.float32), axis=0))


def atomics():
    n = 5000
    keys = numpy.random.default_rng(7).integers(0, 37, n, numpy.int32)
    counts, most = Array(numpy.zeros(37, numpy.int32)), Array(numpy.full(37, -1, numpy.int32))
    total = Array(numpy.zeros(1, numpy.float32))
    atomics_kernel[(triton.cdiv(n, 512),)](Array(keys), counts, most, total, n, BLOCK=512)
    equal(counts.read(), numpy.bincount(keys, minlength=37).astype(numpy.int32))
    last = numpy.full(37, -1, numpy.int32)
    last[keys] = numpy.arange(n, dtype=numpy.int32)
    equal(most.read(), last)
    equal(total.read(), numpy.array([keys.sum()], numpy.float32))


@triton.jit
def lock_kernel(lock, value):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(value, tl.load(value) * 3 % 65521 + 1)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


def spin_lock():
    lock, value = Array(numpy.zeros(1, numpy.int32)), Array(numpy.ones(1, numpy.int32))
    lock_kernel[(50,)](lock, value)
    expected = 1
    for _ in range(50):
        expected = expected * 3 % 65521 + 1
    equal(value.read(), numpy.array([expected], numpy.int32))


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def rows_kernel(x, sums, places, scans, maxima, sorted_rows, C: tl.constexpr):
    row = tl.program_id(0)
    at = row * C + tl.arange(0, C)
    value = tl.load(x + at)
    tl.store(sums + row, tl.sum(value, axis=0))
    tl.store(places + row, tl.argmax(value, axis=0))
    tl.store(scans + at, tl.cumsum(value, axis=0))
    tl.store(maxima + at, tl.associative_scan(value, 0, larger))
    tl.store(sorted_rows + at, tl.sort(value))


def reduce_scan_sort(warps):
    x = numpy.random.default_rng(8).integers(-9999, 9999, (9, 512), numpy.int32)
    sums, places = (Array(numpy.zeros(9, numpy.int32)) for _ in range(2))
    scans, maxima, ordered = (Array(numpy.zeros_like(x)) for _ in range(3))
    rows_kernel[(9,)](Array(x), sums, places, scans, maxima, ordered, C=512, num_warps=warps)
    equal(sums.read(), x.sum(axis=1, dtype=numpy.int32))
    equal(places.read(), x.argmax(axis=1).astype(numpy.int32))
    equal(scans.read(), x.cumsum(axis=1, dtype=numpy.int32))
    equal(maxima.read(), numpy.maximum.accumulate(x, axis=1))
    equal(ordered.read(), numpy.sort(x, axis=1))


@triton.jit
def casts_kernel(x, halves, brains, e4m3, e5m2, integers, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(halves + at, value.to(tl.float16))
    tl.store(brains + at, value.to(tl.bfloat16))
    tl.store(e4m3 + at, value.to(tl.float8e4nv))
    tl.store(e5m2 + at, value.to(tl.float8e5))
    tl.store(integers + at, value.to(tl.int32))


def casts():
    from device import TYPES

    x = normal(9, 1024) * 30
    outs = [Array(numpy.zeros(1024, dtype)) for dtype in TYPES.values()]
    integers = Array(numpy.zeros(1024, numpy.int32))
    casts_kernel[(1,)](Array(x), *outs, integers, BLOCK=1024)
    for out, dtype in zip(outs, TYPES.values()):
        equal(out.read(), x.astype(dtype))
    equal(integers.read(), x.astype(numpy.int32))


@triton.jit
def histogram_kernel(x, counts, gathered, N: tl.constexpr, BINS: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(counts + tl.arange(0, BINS), tl.histogram(value, BINS))
    tl.store(gathered + at, tl.gather(value, (at * 7) % N, axis=0))


def histogram_gather():
    x = numpy.random.default_rng(10).integers(0, 64, 1024, numpy.int32)
    counts, gathered = Array(numpy.zeros(64, numpy.int32)), Array(numpy.zeros_like(x))
    histogram_kernel[(1,)](Array(x), counts, gathered, N=1024, BINS=64)
    equal(counts.read(), numpy.bincount(x, minlength=64).astype(numpy.int32))
    equal(gathered.read(), x[(numpy.arange(1024) * 7) % 1024])


@triton.jit
def math_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    result = tl.exp(value) + tl.log(value) * tl.sin(value) + tl.cos(value) + tl.rsqrt(value)
    tl.store(out + at, result + tl.erf(value) + tl.exp2(value) - tl.log2(value))


def maths():
    import math

    x = numpy.abs(normal(11, 512)) + numpy.float32(0.1)
    out = Array(numpy.zeros_like(x))
    math_kernel[(1,)](Array(x), out, BLOCK=512)
    v = x.astype(numpy.float64)
    expected = numpy.exp(v) + numpy.log(v) * numpy.sin(v) + numpy.cos(v) + 1 / numpy.sqrt(v)
    expected += numpy.array([math.erf(e) for e in v]) + numpy.exp2(v) - numpy.log2(v)
    near(out.read(), expected, 1e-5 * (1 + numpy.abs(expected)))


TESTS = {
    **{f"vector_add_w{w}": (vector_add, w) for w in (1, 4, 8)},
    **{f"softmax_w{w}": (softmax, w) for w in (1, 4, 8)},
    **{f"layer_norm_w{w}": (layer_norm, w) for w in (1, 4, 8)},
    **{f"reduce_scan_sort_w{w}": (reduce_scan_sort, w) for w in (1, 4, 8)},
    "atomics": (atomics,),
    "spin_lock": (spin_lock,),
    "casts": (casts,),
    "histogram_gather": (histogram_gather,),
    "maths": (maths,),
}
