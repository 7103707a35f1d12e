"""Which rows of an image a part of a convolution or of a pool reads.

Row `o` of the result reads, of the image with `before` rows of padding on top,

    rows  o * stride  ..  o * stride + size - 1        size = (kernel - 1) * dilation + 1

so rows [a, b) of the result read a stretch of the image that overlaps its neighbour's by
`size - stride` rows (the halo), and have padding of their own only at the ends of the image:

    image, 8 rows, kernel 3, padding 1     NPU [0, 4): reads [0, 5), one row of padding above
                                           GPU [4, 8): reads [3, 8), one row of padding below
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tvm import relax

from relay_passes.op_work import op_name, static_shape
from relay_passes.planner.problem import Cut

_POOLS = {
    "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
    "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
}
_CONV = "relax.nn.conv2d"


@dataclasses.dataclass(frozen=True)
class Window:
    """What an element of the result reads along one axis of an image."""

    axis: int  # of the image
    extent: int  # of that axis
    size: int  # elements from the first that is read to the last
    stride: int
    before: int  # elements of padding

    def rows(self, begin: int, end: int) -> tuple[int, int]:
        """First element that [begin, end) of the result reads, and one past the last."""
        first = begin * self.stride - self.before
        last = (end - 1) * self.stride - self.before + self.size
        return max(0, first), min(self.extent, last)

    def padding(self, begin: int, end: int) -> tuple[int, int]:
        """Elements of padding before and behind those rows."""
        first = begin * self.stride - self.before
        last = (end - 1) * self.stride - self.before + self.size
        return max(0, -first), max(0, last - self.extent)

    def fits(self, cut: Cut) -> bool:
        """Whether both parts read something of the image."""
        stretches = [self.rows(*cut.of(device)) for device in ("npu", "gpu")]
        return all(begin < end for begin, end in stretches)

    def is_alike(self, results: int) -> bool:
        """Whether windows lie side by side: parts of the image are cut as the result is."""
        return self.size == self.stride and self.before == 0 and self.extent == self.size * results


def row_window(call: relax.Call) -> Window | None:
    """The window over rows of `call`'s image; None for operators that have none."""
    name, attrs = op_name(call), call.attrs
    if name == _CONV:
        layout, kernel = str(attrs.data_layout), str(attrs.kernel_layout)
        weight = static_shape(call.args[1].ty)
        size = weight[kernel.index("H")] if weight is not None else None
    elif name in _POOLS and not bool(attrs.ceil_mode):
        layout, size = str(attrs.layout), int(attrs.pool_size[0])
    else:
        return None
    shape = static_shape(call.args[0].ty)
    if (str(attrs.out_layout) or layout) != layout or shape is None or size is None:
        return None
    axis = layout.index("H")
    return Window(
        axis=axis,
        extent=shape[axis],
        size=(size - 1) * int(attrs.dilation[0]) + 1,
        stride=int(attrs.strides[0]),
        before=int(attrs.padding[0]),  # of [top, left, bottom, right]
    )


def with_row_padding(
    call: relax.Call, args: Sequence[relax.Expr], padding: tuple[int, int]
) -> relax.Call:
    """`call` on other operands, with this padding above and below.

    Requires: `row_window(call)` is not None.
    """
    attrs = call.attrs
    _, left, _, right = (int(n) for n in attrs.padding)
    options: dict[str, Any] = {
        "strides": [int(n) for n in attrs.strides],
        "padding": [padding[0], left, padding[1], right],
        "dilation": [int(n) for n in attrs.dilation],
        "out_layout": str(attrs.out_layout),
    }
    if op_name(call) == _CONV:
        return relax.op.nn.conv2d(
            *args,
            groups=int(attrs.groups),
            data_layout=str(attrs.data_layout),
            kernel_layout=str(attrs.kernel_layout),
            out_dtype=attrs.out_dtype,
            **options,
        )
    return _POOLS[op_name(call)](
        *args,
        pool_size=[int(n) for n in attrs.pool_size],
        ceil_mode=False,
        count_include_pad=bool(attrs.count_include_pad),
        layout=str(attrs.layout),
        **options,
    )
