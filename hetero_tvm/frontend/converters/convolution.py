"""Convolutions and pooling.

One spatial dimension becomes two, the first of size 1: every device has two-dimensional kernels,
and the reshapes around them are views.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter

op = relax.op


def _window(c: Conversion, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and explicit pads `[begins..., ends...]` of a sliding window."""
    spatial = len(kernel)
    strides = list(c.node.attr("strides", [1] * spatial))
    dilations = list(c.node.attr("dilations", [1] * spatial))
    auto = c.node.attr("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return strides, dilations, list(c.node.attr("pads", [0] * 2 * spatial))
    if auto == "VALID":
        return strides, dilations, [0] * 2 * spatial
    begins, ends = [], []
    for axis, size in enumerate(c.node.shape(0)[2:]):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        steps = -(-size // strides[axis])
        total = max((steps - 1) * strides[axis] + reach - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return strides, dilations, begins + ends


def _two(values: Sequence[int], filler: int) -> list[int]:
    """One-dimensional window settings as two-dimensional ones."""
    return [filler, *values]


def _lift_pads(pads: Sequence[int]) -> list[int]:
    return [0, pads[0], 0, pads[1]]


def _lifted(shape: Sequence[int]) -> tuple[int, ...]:
    """`[N, C, L]` as `[N, C, 1, L]`."""
    return (shape[0], shape[1], 1, shape[2])


def _weight(c: Conversion, flat: bool) -> relax.Expr:
    """The kernel, `[O, I, K]` seen as `[O, I, 1, K]` when `flat`."""
    if not flat:
        return c.x(1)
    known = c.node.const(1)
    shape = _lifted(c.node.shape(1))
    return c.reshape(c.x(1), shape) if known is None else c.array(known.reshape(shape))


def _with_bias(c: Conversion, result: relax.Expr, spatial: int) -> relax.Expr:
    if not c.node.has(2):
        return result
    shape = (1, c.node.shape(2)[0], *[1] * spatial)
    known = c.node.const(2)
    bias = c.reshape(c.x(2), shape) if known is None else c.array(known.reshape(shape))
    return op.add(c.emit(result), bias)


def _conv(c: Conversion) -> relax.Expr:
    kernel = c.node.shape(1)[2:]
    strides, dilations, pads = _window(c, kernel)
    spatial, groups = len(kernel), c.node.attr("group", 1)
    flat = spatial == 1
    x = c.reshape(c.x(), _lifted(c.node.shape(0))) if flat else c.x()
    if flat:
        strides, dilations, pads = _two(strides, 1), _two(dilations, 1), _lift_pads(pads)
        spatial = 2
    if spatial not in (2, 3):
        raise c.unsupported(f"{spatial} spatial dimensions; 1, 2 and 3 are covered")
    build = op.nn.conv2d if spatial == 2 else op.nn.conv3d
    result = build(
        x, _weight(c, flat), strides=strides, padding=pads, dilation=dilations, groups=groups
    )
    result = _with_bias(c, result, spatial)
    return c.reshape(c.emit(result), c.out.shape) if flat else result


def _transposed_pads(
    c: Conversion, kernel: Sequence[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Explicit pads and output padding; `output_shape` and `auto_pad` are solved for the pads."""
    spatial = len(kernel)
    extra = list(c.node.attr("output_padding", [0] * spatial))
    auto = c.node.attr("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID") and c.node.attr("output_shape") is None:
        return list(c.node.attr("pads", [0] * 2 * spatial)), extra
    begins, ends = [], []
    for axis in range(spatial):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        full = strides[axis] * (c.node.shape(0)[2 + axis] - 1) + extra[axis] + reach
        total = full - c.out.shape[2 + axis]
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return begins + ends, extra


def _conv_transpose(c: Conversion) -> relax.Expr:
    kernel = c.node.shape(1)[2:]
    spatial, groups = len(kernel), c.node.attr("group", 1)
    strides = list(c.node.attr("strides", [1] * spatial))
    dilations = list(c.node.attr("dilations", [1] * spatial))
    pads, extra = _transposed_pads(c, kernel, strides, dilations)
    if min(pads) < 0:
        raise c.unsupported("its output_shape is larger than the input reaches")
    flat = spatial == 1
    x = c.reshape(c.x(), _lifted(c.node.shape(0))) if flat else c.x()
    if flat:
        strides, dilations, pads = _two(strides, 1), _two(dilations, 1), _lift_pads(pads)
        extra, spatial = _two(extra, 0), 2
    if spatial not in (2, 3):
        raise c.unsupported(f"{spatial} spatial dimensions; 1, 2 and 3 are covered")
    build = op.nn.conv2d_transpose if spatial == 2 else op.nn.conv3d_transpose
    result = build(
        x,
        _weight(c, flat),
        strides=strides,
        padding=pads,
        output_padding=extra,
        dilation=dilations,
        groups=groups,
    )
    result = _with_bias(c, result, spatial)
    return c.reshape(c.emit(result), c.out.shape) if flat else result


def _pool(c: Conversion) -> relax.Expr:
    if c.node.has_output(1):
        raise c.unsupported("the indices of a MaxPool are not covered")
    kernel = list(c.node.attr("kernel_shape"))
    strides, dilations, pads = _window(c, kernel)
    spatial = len(kernel)
    pads, ceiled = _ceil_pads(c, kernel, strides, dilations, pads)
    average = c.node.op == "AveragePool"
    counted = bool(c.node.attr("count_include_pad", 0))
    if average and counted and ceiled:
        raise c.unsupported("ceil_mode together with count_include_pad is not covered")
    flat = spatial == 1
    x = c.reshape(c.x(), _lifted(c.node.shape(0))) if flat else c.x()
    if flat:
        kernel, strides, dilations = _two(kernel, 1), _two(strides, 1), _two(dilations, 1)
        pads, spatial = _lift_pads(pads), 2
    if spatial not in (2, 3):
        raise c.unsupported(f"{spatial} spatial dimensions; 1, 2 and 3 are covered")
    family = {
        (False, 2): op.nn.max_pool2d,
        (False, 3): op.nn.max_pool3d,
        (True, 2): op.nn.avg_pool2d,
        (True, 3): op.nn.avg_pool3d,
    }
    result = family[average, spatial](
        x,
        pool_size=kernel,
        strides=strides,
        padding=pads,
        dilation=dilations,
        ceil_mode=False,
        count_include_pad=average and counted,
    )
    return c.reshape(c.emit(result), c.out.shape) if flat else result


def _ceil_pads(
    c: Conversion,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: list[int],
) -> tuple[list[int], bool]:
    """`ceil_mode` as end padding that makes the last window fit; was any needed?"""
    spatial = len(kernel)
    result = list(pads)
    for axis in range(spatial):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        size = c.node.shape(0)[2 + axis] + pads[axis] + pads[spatial + axis]
        wanted = (c.out.shape[2 + axis] - 1) * strides[axis] + reach
        result[spatial + axis] += max(wanted - size, 0)
    return result, result != list(pads)


def _global_pool(c: Conversion) -> relax.Expr:
    axes = list(range(2, len(c.out.shape)))
    build = op.mean if c.node.op == "GlobalAveragePool" else op.max
    return build(c.x(), axis=axes, keepdims=True)


def _batch_normalization(c: Conversion) -> relax.Expr:
    """Inference form: one scale and one shift per channel."""
    if c.node.attr("training_mode", 0) or c.node.has_output(1):
        raise c.unsupported("training mode is not covered")
    shape = (1, c.node.shape(1)[0], *[1] * (len(c.out.shape) - 2))
    epsilon = c.node.attr("epsilon", 1e-5)
    known = [c.node.const(index) for index in range(1, 5)]
    if all(array is not None for array in known):
        gain, bias, mean, variance = (np.asarray(array, "float64") for array in known)
        scale = gain / np.sqrt(variance + epsilon)
        shift = bias - mean * scale
        scaled = op.multiply(c.x(), c.array(scale.reshape(shape), c.out.dtype))
        return op.add(c.emit(scaled), c.array(shift.reshape(shape), c.out.dtype))
    gain, bias, mean, variance = (c.reshape(c.x(index), shape) for index in range(1, 5))
    spread = c.emit(op.sqrt(c.emit(op.add(variance, c.scalar(epsilon)))))
    centred = c.emit(op.divide(c.emit(op.subtract(c.x(), mean)), spread))
    return op.add(c.emit(op.multiply(centred, gain)), bias)


CONVERTERS: dict[str, Converter] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "BatchNormalization": _batch_normalization,
}
