"""How a tensor that is cut lies in memory: the cut axis outermost, images channels last.

Two parts are views of one buffer only where the cut axis is the outermost that is longer than one.
A tensor that is cut along another is stored with that axis first:

    a matrix [M, N] cut by columns            [N, M]
    an image [1, C, H, W] cut by rows         [1, H, W, C]

Kernels of convolutions compute images channels last anyway (`channels_last.py`), and so does HTP:
to store one image so costs no pass over memory on either. Of several images the rows come first,
[H, N, W, C], which takes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tvm import relax

from relay_passes.op_work import op_name, static_shape, tensor_args
from relay_passes.sharding import ELEMENTWISE

_CHANNELS, _ROWS, _WIDTH = 1, 2, 3  # axes of an NCHW image
_MAKERS = frozenset(
    f"relax.{name}"
    for name in ("nn.conv2d", "nn.conv2d_transpose", "nn.max_pool2d", "nn.avg_pool2d")
)
_KEEPERS = frozenset(f"relax.{name}" for name in ELEMENTWISE)


def image_results(calls: Iterable[tuple[relax.Var, relax.Call]]) -> frozenset[relax.Var]:
    """The results that kernels compute channels last: of convolutions, and element-wise of those.

    `calls`: the program, in order.
    """
    images: set[relax.Var] = set()
    for var, call in calls:
        name, shape = op_name(call), static_shape(call.ty)
        if shape is None or len(shape) != 4:
            continue
        if name in _MAKERS:
            layout = str(call.attrs.data_layout if "conv" in name else call.attrs.layout)
            if layout == "NCHW" and (str(call.attrs.out_layout) or layout) == layout:
                images.add(var)
        elif name in _KEEPERS and any(arg in images for arg in _variables(call)):
            images.add(var)
    return frozenset(images)


def stored_order(shape: Sequence[int], axis: int, *, image: bool) -> list[int]:
    """The axes in the order of memory of a tensor that is cut along `axis`.

    `image`: it is one of `image_results`.
    """
    if image and axis == _ROWS:
        lead = [0, _ROWS] if shape[0] == 1 else [_ROWS, 0]
        return [*lead, _WIDTH, _CHANNELS]
    return [axis, *(a for a in range(len(shape)) if a != axis)]


def is_stored_as_computed(shape: Sequence[int], axis: int, *, image: bool) -> bool:
    """Whether that order is the one in which kernels of convolutions compute."""
    return image and axis == _ROWS and shape[0] == 1


def _variables(call: relax.Call) -> list[relax.Var]:
    return [arg for arg in tensor_args(call) if isinstance(arg, relax.Var)]
