"""Device memory for Triton's launcher without torch: numpy arrays, copied by the driver API."""

import ctypes

import ml_dtypes
import numpy

_cuda = ctypes.CDLL("libcuda.so.1")
_context = ctypes.c_void_p()


def call(name, *arguments):
    code = getattr(_cuda, name)(*arguments)
    if code != 0:
        raise RuntimeError(f"{name}: {code}")


def start():
    """Makes the primary context of device 0 current."""
    device = ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(_context), device)
    call("cuCtxSetCurrent", _context)


class DType:
    """An element type as Triton asks for it."""

    def __init__(self, dtype):
        self.name = dtype.name
        self.itemsize = dtype.itemsize
        self.is_floating_point = dtype.kind != "i" and dtype.kind != "u"

    def __str__(self):
        return self.name

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return self.name == str(other)


class Array:
    """An array on the device, between guards that no kernel may touch."""

    GUARD = 256

    def __init__(self, host):
        host = numpy.ascontiguousarray(host)
        self.host_type = host.dtype
        self.dtype = DType(host.dtype)
        self.shape = list(host.shape)
        self.size = host.nbytes
        self.address = ctypes.c_uint64()
        guard = bytes([0xA5]) * self.GUARD
        image = guard + host.tobytes() + guard
        call("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(len(image)))
        call("cuMemcpyHtoD_v2", self.address, image, ctypes.c_size_t(len(image)))

    def data_ptr(self):
        return self.address.value + self.GUARD

    def stride(self):
        return [int(numpy.prod(self.shape[at + 1 :])) for at in range(len(self.shape))]

    def read(self):
        """The array, after all work on the device."""
        call("cuCtxSynchronize")
        image = ctypes.create_string_buffer(self.size + 2 * self.GUARD)
        call("cuMemcpyDtoH_v2", image, self.address, ctypes.c_size_t(len(image.raw)))
        raw = image.raw
        guards = raw[: self.GUARD] + raw[self.GUARD + self.size :]
        assert guards == bytes([0xA5]) * (2 * self.GUARD), "a guard was overwritten"
        content = numpy.frombuffer(raw[self.GUARD : self.GUARD + self.size], self.host_type)
        return content.reshape(self.shape)


class Scratch:
    """What a Triton allocator returns."""

    def __init__(self, size):
        self.address = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(size))

    def data_ptr(self):
        return self.address.value


def equal(found, expected):
    """Bit for bit."""
    found, expected = numpy.asarray(found), numpy.asarray(expected)
    assert found.dtype == expected.dtype and found.shape == expected.shape, (found, expected)
    bits = f"u{found.dtype.itemsize}"
    differs = numpy.argwhere(found.view(bits) != expected.view(bits))
    if len(differs):
        at = tuple(differs[0])
        raise AssertionError(f"{len(differs)} differ; {at}: {found[at]}, expected {expected[at]}")


def near(found, expected, bound):
    """Within `bound` of f64 values, element by element."""
    found = numpy.asarray(found).astype(numpy.float64)
    error = numpy.abs(found - expected)
    wrong = numpy.argwhere(~(error <= bound))
    if len(wrong):
        at = tuple(wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {found.size} differ; {at}: {found[at]}, expected {expected[at]}"
        )


def normal(seed, shape, dtype=numpy.float32):
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)


TYPES = {
    "fp16": numpy.dtype(numpy.float16),
    "bf16": numpy.dtype(ml_dtypes.bfloat16),
    "fp8e4nv": numpy.dtype(ml_dtypes.float8_e4m3fn),
    "fp8e5": numpy.dtype(ml_dtypes.float8_e5m2),
}
