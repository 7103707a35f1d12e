"""Constants read as images over their memory, where the target has a texture path.

    w: float*, w[4 * i .. 4 * i + 3]        ->  w: image1d_buffer_t, read_imagef(w, i)

An Adreno has a cache of its own for images, in front of the one that all memory shares. The image
is made over the buffer that the constant lies in: nothing is copied, and nothing else about the
kernel changes, so every schedule, tuned or not, has this path. A pixel is four values.

Only constants (`relay_passes/align_arguments.py` marks them): what another kernel wrote might still
be in a cache that image reads do not look into. A source that reads images reads the same values
from memory behind `FROM_MEMORY`, which the runtime puts there on a device without images.

Requires: device functions after vectorisation, flattening and host/device split, `StoreHalf` after.
Ensures:  a buffer that is not only read by whole, aligned pixels, or that has more of them than an
    image may, stays as it is.
"""

from __future__ import annotations

import math
import re

import tvm
import tvm_ffi
from tvm import IRModule, ir, tirx
from tvm.ir.transform import PassContext

from schedules.aligned_vectors import uniform_lanes, whole_vector

# Before the number of pixels that an image may have: a target's key, beside TVM's own.
IMAGES_KEY = "image_pixels:"
# OpenCL 3.0, CL_DEVICE_MAX_READ_IMAGE_ARGS: at least 8 where there are images at all.
_MOST_IMAGES = 8
_PIXEL = 4  # values
_PREFIX = "hetero_image_"
# In front of a source: constants are read from memory.
FROM_MEMORY = "#define HETERO_BUFFERS 1\n"
_READS = {
    "float32": ("float", "read_imagef", "float32x4"),
    "float16": ("half", "read_imagef", "float32x4"),
    "int32": ("int", "read_imagei", "int32x4"),
    "uint32": ("uint", "read_imageui", "uint32x4"),
}
_CALLED = re.compile(rf"{_PREFIX}(float|half|int|uint)\((\w+), (\d+), ")
_TYPE = """#ifdef HETERO_BUFFERS
#define {prefix}{type}_t __global const {type}* restrict
#define {prefix}{type}(image, pixels, at) {load}
#else
#define {prefix}{type}_t __read_only image1d_buffer_t
#define {prefix}{type}(image, pixels, at) {read}(image, convert_int(at))
#endif
"""


@tvm.transform.module_pass(opt_level=0, name="ImageReads")
class ImageReads:
    """Rewrite kernels for targets that say how large an image over a buffer may be."""

    def transform_module(self, mod: IRModule, _ctx: PassContext) -> IRModule:
        """Other functions are returned as they are."""
        result = IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for name, func in mod.functions.items():
            target = func.attrs.get("target") if isinstance(func, tirx.PrimFunc) else None
            if target is not None and (most := _most_pixels(target)):
                result[name] = _rewrite(func, most)
        return result


def with_image_types(source: str) -> str:
    """`source` of a kernel, with what its calls of this file's functions need declared."""
    images = {name: (kind, pixels) for kind, name, pixels in _CALLED.findall(source)}
    if not images:
        return source
    for name, (kind, pixels) in images.items():
        declared = rf"__global \w+\* restrict {name}\b"
        source = re.sub(declared, f"{_PREFIX}{kind}_t /*{pixels}*/ {name}", source)
    types = [
        _TYPE.format(prefix=_PREFIX, type=kind, read=read, load=_load(kind))
        for kind, read, _ in _READS.values()
        if kind in {used for used, _ in images.values()}
    ]
    return "".join([*types, source])


def _load(kind: str) -> str:
    """Four values from memory."""
    if kind == "half":
        return "vload_half4(at, image)"
    return f"((__global const {kind}4*)(image))[at]"


def _most_pixels(target: tvm.target.Target) -> int:
    """Of an image over a buffer; 0 where the target has none."""
    keys = (str(key) for key in target.keys)
    return next((int(key[len(IMAGES_KEY) :]) for key in keys if key.startswith(IMAGES_KEY)), 0)


def _rewrite(func: tirx.PrimFunc, most: int) -> tirx.PrimFunc:
    """`func` with its largest constants as images."""
    lanes = uniform_lanes(func, _is_constant)
    pixels = {
        buffer: math.prod(int(n) for n in buffer.shape) // _PIXEL
        for buffer, width in lanes.items()
        if width == _PIXEL and all(isinstance(n, tirx.IntImm) for n in buffer.shape)
    }
    fitting = [buffer for buffer, count in pixels.items() if 0 < count <= most]
    chosen = set(sorted(fitting, key=lambda buffer: -pixels[buffer])[:_MOST_IMAGES])
    if not chosen:
        return func

    def load(node: ir.TensorLoad) -> tirx.Expr:
        if node.source not in chosen:
            return node
        buffer = node.source
        kind, _, dtype = _READS[str(buffer.dtype)]
        at = whole_vector(node.indices[0], _PIXEL)
        name = f"{_PREFIX}{kind}"
        read = tirx.call_pure_extern(dtype, name, buffer.data, pixels[buffer], at)
        return read if kind != "half" else read.astype(f"float16x{_PIXEL}")

    return tvm_ffi.structural_map(func, (ir.TensorLoad, load))


def _is_constant(buffer: tirx.Buffer) -> bool:
    """Whether nobody writes the memory while the program lives."""
    is_marked = (
        isinstance(buffer.offset_factor, int | tirx.IntImm) and int(buffer.offset_factor) > 1
    )
    return is_marked and str(buffer.dtype) in _READS
