"""The name, dtype and static shape of one tensor at a model's border."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MAX_RANK = 16
MAX_BYTES = 1 << 40  # of one tensor; more than any device has
_ITEM_BYTES = {  # what numpy calls them
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One model input or output, as the user names it.

    Requires: every dimension is at least 0; `dtype` is a numpy name such as `"float32"`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of a dense tensor of this dtype and shape."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name}={'x'.join(map(str, self.shape)) or 'scalar'}:{self.dtype}"


class Described(Protocol):
    """What has a name, a dtype and a shape."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


def check_tensors(tensors: Iterable[Described]) -> None:
    """Refuse descriptions, which came with a file, of what no tensor is; ValueError names it."""
    for spec in tensors:
        if spec.dtype not in _ITEM_BYTES:
            raise ValueError(f"{spec.name} is of no type {spec.dtype!r}")
        if len(spec.shape) > MAX_RANK or any(size < 0 for size in spec.shape):
            raise ValueError(f"{spec.name} has the impossible shape {list(spec.shape)}")
        # Without the zeros, since strides are products of some of the dimensions.
        elements = math.prod(max(size, 1) for size in spec.shape)
        if elements * _ITEM_BYTES[spec.dtype] > MAX_BYTES:
            raise ValueError(f"{spec.name} is larger than any memory")
