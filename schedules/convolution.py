"""2-D convolutions over channels-last tensors: `[N, H, W, C]` activations.

Dense and grouped convolutions are contractions over `(kernel row, kernel column, channel)` with
output pixels as rows (implicit GEMM: no im2col tensor is written). A depthwise one sums a window
per channel. A transposed one is a contraction to all kernel positions, then a sum of the positions
that meet in a pixel. Padding is a kernel of its own, so that the inner loops have no conditions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir.expr import GenericConst

from schedules.layout import (
    CONTRACTION_ATTRS,
    OUT_ELEMENTWISE_FUSABLE,
    Legalize,
    accumulator_dtype,
    default_legalize,
    pack_panels,
    static_shape,
)
from schedules.local_tile import product_tile
from schedules.register_tile import RegisterTile, contraction
from target_specs.spec import GpuSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Window:
    """The geometry of one convolution; pairs are (vertical, horizontal)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    groups: int


def legalize_conv2d(gpu: GpuSpec) -> Legalize:
    """`relax.nn.conv2d` in NHWC with a constant OIHW weight; others to TVM's own function."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        data, weight = call.args
        attrs = call.attrs
        shape, out_shape = static_shape(data) or (), static_shape(call) or ()
        layouts = (attrs.data_layout, attrs.kernel_layout)
        if layouts != ("NHWC", "OIHW") or not shape or not isinstance(weight, GenericConst):
            return default_legalize("relax.nn.conv2d")(builder, call)
        kernel = weight.value.numpy()  # [O, I / groups, kh, kw]
        window = _Window(
            kernel=kernel.shape[2:],
            strides=_pair(attrs.strides),
            dilation=_pair(attrs.dilation),
            padding=_sides(attrs.padding),
            groups=int(attrs.groups),
        )
        data = _pad(builder, data, window.padding)
        if window.groups == shape[-1] == kernel.shape[0] and kernel.shape[1] == 1:
            taps = np.ascontiguousarray(kernel[:, 0].transpose(1, 2, 0))  # [kh, kw, C]
            return _call_te(builder, _Depthwise(window, out_shape, gpu), data, taps, "depthwise")
        group_columns = kernel.shape[0] // window.groups
        pixels = out_shape[1] * out_shape[2]
        images = out_shape[0] * window.groups
        tile = product_tile(gpu, (images, pixels, group_columns), kernel.shape[1])
        # [G, O / G, I / G, kh, kw] -> [G, kh, kw, I / G, O / G] -> panels
        grouped = kernel.reshape(window.groups, group_columns, *kernel.shape[1:])
        panels = _conv_panels(grouped.transpose(0, 3, 4, 2, 1), tile.panel)
        dense = _call_te(builder, _Dense(window, out_shape, tile), data, panels, "conv2d")
        if window.groups == 1:
            return dense
        return _side_by_side(builder, builder.emit(dense), out_shape)

    return legalize


def legalize_conv2d_transpose(gpu: GpuSpec) -> Legalize:
    """`relax.nn.conv2d_transpose` in NHWC with a constant IOHW weight and one group."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        data, weight = call.args
        attrs = call.attrs
        shape, out_shape = static_shape(data) or (), static_shape(call) or ()
        layouts = (attrs.data_layout, attrs.kernel_layout)
        plain = int(attrs.groups) == 1 and _pair(attrs.dilation) == (1, 1)
        known = len(shape) == 4 and isinstance(weight, GenericConst)
        if layouts != ("NHWC", "IOHW") or not (plain and known):
            return default_legalize("relax.nn.conv2d_transpose")(builder, call)
        kernel = weight.value.numpy()  # [I, O, kh, kw]
        depth, _, *size = kernel.shape
        # Every input pixel times every kernel position: [H * W, I] x [I, kh * kw * O].
        matrix = kernel.transpose(0, 2, 3, 1).reshape(depth, -1)
        pixels = shape[1] * shape[2]
        tile = product_tile(gpu, (shape[0], pixels, matrix.shape[1]), depth)
        one = _Window(
            kernel=(1, 1), strides=(1, 1), dilation=(1, 1), padding=(0, 0, 0, 0), groups=1
        )
        product_shape = (*shape[:3], matrix.shape[1])
        panels = _conv_panels(matrix[None, None, None], tile.panel)
        products = builder.emit(
            _call_te(builder, _Dense(one, product_shape, tile), data, panels, "conv2d_transpose")
        )
        scatter = _Scatter(
            kernel=tuple(size),
            strides=_pair(attrs.strides),
            padding=_sides(attrs.padding)[:2],
            out_shape=out_shape,
        )
        return builder.call_te(
            scatter.compute,
            products,
            primfunc_name_hint="conv2d_transpose_sum",
            primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSABLE},
        )

    return legalize


class _Dense:
    """A convolution with channels summed: one contraction per image and group."""

    def __init__(self, window: _Window, out_shape: tuple[int, ...], tile: RegisterTile) -> None:
        self.window = window
        self.out_shape = out_shape  # [N, OH, OW, O]
        self.tile = tile

    def compute(self, data: te.Tensor, panels: te.Tensor) -> te.Tensor:
        """`data`: [N, H, W, I], padded; `panels`: [G, O / G / panel, kh, kw, I / G, panel]."""
        window, tile = self.window, self.tile
        images, height, width, channels = self.out_shape
        groups = window.groups
        depth = int(data.shape[3]) // groups
        columns = channels // groups
        sum_dtype = accumulator_dtype(str(data.dtype))
        kh = te.reduce_axis((0, window.kernel[0]), name="kh")
        kw = te.reduce_axis((0, window.kernel[1]), name="kw")
        k = te.reduce_axis((0, depth), name="k")

        def term(z: tirx.Var, row: tirx.Expr, column: tirx.Var) -> tirx.Expr:
            image, group = (z // groups, z % groups) if groups > 1 else (z, 0)
            y = row // width * window.strides[0] + kh * window.dilation[0]
            x = row % width * window.strides[1] + kw * window.dilation[1]
            pixel = data[image, y, x, group * depth + k]
            tap = panels[group, column // tile.panel, kh, kw, k, column % tile.panel]
            return pixel.astype(sum_dtype) * tap.astype(sum_dtype)

        shape = (images * groups, height * width, columns)
        sums = contraction(shape, [kh, kw, k], term, tile)

        if groups > 1:  # [N * G, OH * OW, O / G]: see `_side_by_side`
            return te.compute(shape, lambda *at: sums(*at).astype(data.dtype), name="convolved")
        return te.compute(
            self.out_shape,
            lambda n, y, x, c: sums(n, y * width + x, c).astype(data.dtype),
            name="convolved",
        )


class _Depthwise:
    """A convolution of every channel with its own window."""

    def __init__(self, window: _Window, out_shape: tuple[int, ...], _gpu: GpuSpec) -> None:
        self.window = window
        self.out_shape = out_shape

    def compute(self, data: te.Tensor, taps: te.Tensor) -> te.Tensor:
        """`data`: [N, H, W, C], padded; `taps`: [kh, kw, C]."""
        window = self.window
        sum_dtype = accumulator_dtype(str(data.dtype))
        kh = te.reduce_axis((0, window.kernel[0]), name="kh")
        kw = te.reduce_axis((0, window.kernel[1]), name="kw")

        def body(n: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
            down = y * window.strides[0] + kh * window.dilation[0]
            right = x * window.strides[1] + kw * window.dilation[1]
            pixel = data[n, down, right, c].astype(sum_dtype)
            return te.sum(pixel * taps[kh, kw, c].astype(sum_dtype), axis=[kh, kw])

        sums = te.compute(self.out_shape, body, name="window_sum")
        return te.compute(
            self.out_shape, lambda *at: sums(*at).astype(data.dtype), name="convolved"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scatter:
    """Sum the products that a transposed convolution puts on one output pixel."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]  # top, left
    out_shape: tuple[int, ...]  # [N, OH, OW, O]

    def compute(self, products: te.Tensor) -> te.Tensor:
        """`products`: [N, H, W, kh * kw * O]; output pixel y gets kernel row y + top - y' * s."""
        _, height, width, _ = (int(n) for n in products.shape)
        channels = self.out_shape[3]
        sum_dtype = accumulator_dtype(str(products.dtype))
        # Kernel positions that can meet in one pixel: every `stride`-th.
        th = te.reduce_axis((0, -(-self.kernel[0] // self.strides[0])), name="th")
        tw = te.reduce_axis((0, -(-self.kernel[1] // self.strides[1])), name="tw")

        def body(n: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
            down, right = y + self.padding[0], x + self.padding[1]
            row, column = down // self.strides[0] - th, right // self.strides[1] - tw
            tap_y = down % self.strides[0] + th * self.strides[0]
            tap_x = right % self.strides[1] + tw * self.strides[1]
            inside = [
                0 <= row,
                row < height,
                0 <= column,
                column < width,
                tap_y < self.kernel[0],
                tap_x < self.kernel[1],
            ]
            product = products[n, row, column, (tap_y * self.kernel[1] + tap_x) * channels + c]
            term = tirx.if_then_else(tirx.all(*inside), product, tirx.const(0, products.dtype))
            return te.sum(term.astype(sum_dtype), axis=[th, tw])

        sums = te.compute(self.out_shape, body, name="window_sum")
        return te.compute(
            self.out_shape, lambda *at: sums(*at).astype(products.dtype), name="upsampled"
        )


def _side_by_side(
    builder: relax.BlockBuilder, grouped: relax.Expr, out_shape: tuple[int, ...]
) -> relax.Call:
    """[N * G, OH * OW, O / G] -> [N, OH, OW, O], as a kernel that element-wise ones may join.

    In the contraction itself the schedule would have to see through a division by O / G.
    """

    def compute(tensor: te.Tensor) -> te.Tensor:
        columns = int(tensor.shape[2])
        groups = out_shape[3] // columns

        def body(n: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
            return tensor[n * groups + c // columns, y * out_shape[2] + x, c % columns]

        return te.compute(out_shape, body, name="side_by_side")

    return builder.call_te(compute, grouped, primfunc_name_hint="side_by_side")


def _call_te(
    builder: relax.BlockBuilder,
    kernel: _Dense | _Depthwise,
    data: relax.Expr,
    weight: np.ndarray,
    name: str,
) -> relax.Call:
    fusable = {"op_pattern": OUT_ELEMENTWISE_FUSABLE}
    return builder.call_te(
        kernel.compute,
        data,
        relax.const(weight),
        primfunc_name_hint=name,
        primfunc_attrs=CONTRACTION_ATTRS if isinstance(kernel, _Dense) else fusable,
    )


def _conv_panels(weight: np.ndarray, panel: int) -> np.ndarray:
    """[G, kh, kw, I, O] -> [G, O' / panel, kh, kw, I, panel]: one strip is contiguous."""
    strips = pack_panels(weight, panel)  # [G, kh, kw, O' / panel, I, panel]
    return np.ascontiguousarray(np.moveaxis(strips, 3, 1))


def _pad(
    builder: relax.BlockBuilder, data: relax.Expr, padding: tuple[int, int, int, int]
) -> relax.Expr:
    """`data` with a border of zeros, as a kernel of its own; `data` itself without padding."""
    if not any(padding):
        return data
    top, left, bottom, right = padding

    def compute(tensor: te.Tensor) -> te.Tensor:
        images, height, width, channels = (int(n) for n in tensor.shape)

        def body(n: tirx.Var, y: tirx.Var, x: tirx.Var, c: tirx.Var) -> tirx.Expr:
            inside = tirx.all(top <= y, y < top + height, left <= x, x < left + width)
            zero = tirx.const(0, tensor.dtype)
            return tirx.if_then_else(inside, tensor[n, y - top, x - left, c], zero)

        padded = (images, height + top + bottom, width + left + right, channels)
        return te.compute(padded, body, name="padded")

    return builder.emit_te(compute, data, primfunc_name_hint="pad")


def _sides(values: Any) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(value) for value in values)
    return top, left, bottom, right


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(value) for value in values)
    return first, second
