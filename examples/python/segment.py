#!/usr/bin/env python3
"""Segments one picture from Python, through ctypes; numpy is used where it is installed.

    cargo build --release --features capi
    python3 examples/python/segment.py --library target/release/libu2pl_engine.so \
        WEIGHTS [PICTURE.ppm] [--out CLASSES.pgm] [--dlpack]

WEIGHTS is a file of weights or a run folder of `u2pl-engine train`. Without a picture a pattern is
made. Copy `Network` and the structures, which are those of include/u2pl_engine.h.

With `--dlpack` a second call passes the picture as a DLPack tensor and gets tensors back, as a program
would whose arrays are PyTorch's or CuPy's: on a GPU nothing leaves it. Open the network with
`stream=(context, stream)` there, so that its work follows the program's own.
"""

import argparse
import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_size_t
from ctypes import c_uint8, c_uint32, c_uint64, c_void_p

try:
    import numpy
except ImportError:
    numpy = None

# Names of u2pl_engine.h.
U8, F32, RGB = 0, 1, 0


class Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_char_p),
        ("precision", c_char_p),
        ("threads", c_size_t),
        ("student", c_uint32),
        ("flip", c_uint32),
        ("config", c_char_p),
        ("scales", POINTER(c_float)),
        ("scale_count", c_size_t),
        ("tile", c_size_t),
        ("tile_overlap", c_size_t),
        ("callers", c_size_t),
        ("shapes", c_size_t),
    ]


class Image(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("data", c_void_p),
        ("sample_count", c_size_t),
        ("sample_type", c_uint32),
        ("channels", c_uint32),
        ("height", c_size_t),
        ("width", c_size_t),
        ("row_stride", c_size_t),
        ("pixel_stride", c_size_t),
        ("channel_stride", c_size_t),
    ]


class Maps(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("pixels", c_size_t),
        ("classes", c_void_p),
        ("confidence", c_void_p),
        ("entropy", c_void_p),
        ("probabilities", c_void_p),
    ]


class Error(RuntimeError):
    """A status other than U2PL_OK, with the library's message."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Network:
    """A loaded network; calls release Python's lock and may come from any thread."""

    def __init__(self, library, weights, stream=None, **options):
        self.library = ctypes.CDLL(library)
        self.library.u2pl_last_error.restype = c_char_p
        self.library.u2pl_version.restype = c_char_p
        self.handle = c_void_p()
        chosen = Options()
        self._check(self.library.u2pl_options_init(byref(chosen)))
        for name, value in options.items():
            setattr(chosen, name, value)
        path, options, out = weights.encode(), byref(chosen), byref(self.handle)
        if stream is None:
            self._check(self.library.u2pl_open(path, options, out))
        else:
            context, stream = map(c_void_p, stream)
            self._check(self.library.u2pl_open_on_stream(path, options, context, stream, out))

    def close(self):
        handle, self.handle = self.handle, c_void_p()
        self._check(self.library.u2pl_close(handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self, status):
        if status != 0:
            raise Error(status, self.library.u2pl_last_error().decode())

    def version(self):
        return self.library.u2pl_version().decode()

    def classes(self):
        classes = c_size_t()
        self._check(self.library.u2pl_classes(self.handle, byref(classes)))
        return classes.value

    def segment(self, image):
        """Class, confidence and entropy of every pixel: arrays, with numpy `[height, width]`."""
        count = image.height * image.width
        classes = (c_uint8 * count)()
        confidence, entropy = (c_float * count)(), (c_float * count)()
        maps = Maps(
            struct_size=ctypes.sizeof(Maps),
            pixels=count,
            classes=ctypes.addressof(classes),
            confidence=ctypes.addressof(confidence),
            entropy=ctypes.addressof(entropy),
        )
        one = c_size_t(1)
        self._check(self.library.u2pl_segment(self.handle, byref(image), one, byref(maps)))
        if numpy is None:
            return classes, confidence, entropy
        views = (numpy.ctypeslib.as_array(found) for found in (classes, confidence, entropy))
        return tuple(view.reshape(image.height, image.width) for view in views)


    def segment_dlpack(self, image, channels_first=False):
        """Class, confidence and entropy, `[N, H, W]`, of what has `__dlpack__`: uint8, or float32 from
        0 to 1, RGB. Hand the answers to `numpy.from_dlpack`, `torch.from_dlpack` or the like, each
        once. On a GPU `image` must stay until the work on the stream is done."""
        capsule = image.__dlpack__()
        outs = [c_void_p() for _ in range(3)]
        tensor = c_void_p(capsule_pointer(capsule, b"dltensor"))
        first = c_uint32(int(channels_first))
        self._check(
            self.library.u2pl_segment_dlpack(
                self.handle, tensor, c_uint32(RGB), first, *map(byref, outs)
            )
        )
        return tuple(Exported(out.value) for out in outs)


class ManagedTensor(ctypes.Structure):
    """A DLManagedTensor: data, device, ndim, type, shape, strides, offset, context, deleter."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("dtype", c_uint32),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("byte_offset", c_uint64),
        ("context", c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, c_void_p)),
    ]


capsule_new = ctypes.pythonapi.PyCapsule_New
capsule_new.restype, capsule_new.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype, capsule_pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]


class Exported:
    """A tensor of the engine's until an array library takes it over; deleted if none does."""

    def __init__(self, address):
        self.address = address
        self.tensor = ManagedTensor.from_address(address)
        self.device = self.tensor.device_type, self.tensor.device_id

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **_):
        address, self.address = self.address, None
        if address is None:
            raise BufferError("taken over already")
        # Whoever renames the capsule calls the deleter.
        return capsule_new(address, b"dltensor", None)

    def __del__(self):
        if self.address is not None:
            self.tensor.deleter(self.address)


def image_of_bytes(pixels, height, width):
    """Bytes of red, green and blue without gaps."""
    samples = (c_uint8 * len(pixels)).from_buffer_copy(pixels)
    image = Image(
        struct_size=ctypes.sizeof(Image),
        data=ctypes.addressof(samples),
        sample_count=len(pixels),
        sample_type=U8,
        channels=RGB,
        height=height,
        width=width,
    )
    image.owner = samples
    return image


def image_of_array(array):
    """A numpy array `[height, width, 3]` of uint8, or of float32 from 0 to 1, where it lies."""
    types = {numpy.dtype("uint8"): U8, numpy.dtype("float32"): F32}
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype not in types:
        raise ValueError(f"{array.dtype} {array.shape}: not [height, width, 3] of uint8 or float32")
    strides = [stride // array.itemsize for stride in array.strides]
    if min(strides) < 0:
        raise ValueError("an array that runs backwards: pass a copy")
    image = Image(
        struct_size=ctypes.sizeof(Image),
        data=array.ctypes.data,
        sample_count=1 + sum((n - 1) * stride for n, stride in zip(array.shape, strides)),
        sample_type=types[array.dtype],
        channels=RGB,
        height=array.shape[0],
        width=array.shape[1],
        row_stride=strides[0],
        pixel_stride=strides[1],
        channel_stride=strides[2],
    )
    image.owner = array
    return image


def read_ppm(path):
    """Pixels, height and width of a binary PPM of bytes whose header ends a line."""
    fields = []
    with open(path, "rb") as file:
        while len(fields) < 4:
            line = file.readline()
            if not line:
                break
            fields += line.split(b"#")[0].split()
        pixels = file.read()
    if len(fields) != 4 or fields[0] != b"P6" or fields[3] != b"255":
        raise ValueError(f"{path}: not a binary PPM of bytes")
    return pixels, int(fields[2]), int(fields[1])


def pattern(height=64, width=96):
    """Discs on a gradient."""
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            inside = (x % 32 - 16) ** 2 + (y % 32 - 16) ** 2 < 100
            pixels += bytes((220, 3 * y, 40) if inside else (2 * x, 90, 255 - 3 * y))
    return bytes(pixels), height, width


def main():
    parser = argparse.ArgumentParser(description="Segments one picture.")
    parser.add_argument("weights", help="a file of weights or a run folder")
    parser.add_argument("picture", nargs="?", help="a binary PPM; a pattern when left out")
    parser.add_argument("--library", default="libu2pl_engine.so")
    parser.add_argument("--dlpack", action="store_true", help="once more, by DLPack (needs numpy)")
    parser.add_argument("--out", help="a PGM for the class of every pixel")
    args = parser.parse_args()
    pixels, height, width = read_ppm(args.picture) if args.picture else pattern()
    with Network(args.library, args.weights, threads=2, callers=1) as network:
        if numpy is None:
            image = image_of_bytes(pixels, height, width)
        else:
            array = numpy.frombuffer(pixels, dtype=numpy.uint8)
            image = image_of_array(array.reshape(height, width, 3))
        classes, confidence, entropy = network.segment(image)
        flat = bytes(classes)
        how = "without numpy" if numpy is None else f"numpy {numpy.__version__}"
        print(f"u2pl-engine {network.version()}, {network.classes()} classes, {how}")
        for c in sorted(set(flat)):
            print(f"class {c}: {flat.count(c)} pixels")
        count = height * width
        sums = [sum(map(float, memoryview(m).cast("B").cast("f"))) for m in (confidence, entropy)]
        print(f"mean confidence {sums[0] / count:.4f}, mean entropy {sums[1] / count:.4f} nats")
        if args.dlpack:
            if numpy is None:
                raise ValueError("--dlpack needs numpy")
            tensors = network.segment_dlpack(array.reshape(height, width, 3).copy())
            again = [numpy.from_dlpack(tensor)[0] for tensor in tensors]
            alike = all(map(numpy.array_equal, again, (classes, confidence, entropy)))
            print(f"by DLPack: {'the same' if alike else 'something else'}")
    if args.out:
        with open(args.out, "wb") as file:
            file.write(b"P5\n%d %d\n255\n" % (width, height) + flat)


if __name__ == "__main__":
    try:
        main()
    except (Error, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
