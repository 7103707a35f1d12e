"""The name, dtype and static shape of one tensor at a model's border."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


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
