"""Finds the 4- or 8-bit weight that a float constant came from, so that products read codes.

The importer writes such a weight as the float matrix that it stands for, and every pass, device
and estimate up to here takes it as one, whole or cut by columns. A product for the GPU looks its
constant up here: by its first column, and then by every value, so that codes are used only where
they give the constant bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst

from schedules.layout import Legalize
from schedules.w4a16 import Rounded, W4Weight, depth_unit, middle, takes, w4a16_product
from target_specs.spec import GpuSpec

_AT_A_TIME = 1 << 20  # values of a weight
_DTYPES = ("float32", "float16")  # that the importer makes of it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class W4Blocks:
    """A weight as `MatMulNBits` stores it; see `W4Weight.from_blocks`."""

    packed: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    depth: int
    bits: int = 4  # of a code, 4 or 8

    @property
    def group(self) -> int:
        """Neighbours along the depth that share a scale."""
        return self.packed.shape[2] * 8 // self.bits

    @property
    def nbytes(self) -> int:
        """As `w4a16` stores it: codes, and of each group a scale and maybe as wide a zero point."""
        groups = 1 if self.zeros is None else 2
        return self.depth * len(self.packed) * self.bits // 8 + groups * self.scales.nbytes

    def weight(self, first: int = 0, count: int | None = None) -> W4Weight:
        """Codes and scales of all columns, or of `count` from `first` on."""
        columns = len(self.packed)
        part = slice(first, columns if count is None else first + count)
        zeros = None if self.zeros is None else self.zeros.reshape(columns, -1)[part]
        scales = self.scales.reshape(columns, -1)[part]
        return W4Weight.from_blocks(self.packed[part], scales, zeros, self.depth, self.bits)

    def imported(
        self, dtype: str, first: int = 0, count: int | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """The matrix that the importer makes of it, or of `count` columns from `first` on.

        In pieces, since all of it would be several times the weight: their columns, counted from
        `first`, and values [K, columns].
        """
        count = len(self.packed) - first if count is None else count
        step = max(1, _AT_A_TIME // self.depth)
        for begin in range(0, count, step):
            piece = slice(begin, min(begin + step, count))
            weight = self.weight(first + begin, piece.stop - begin)
            yield piece, _as_imported(weight, dtype)


class W4Table:
    """The 4- and 8-bit weights of a model."""

    def __init__(self, blocks: Iterable[W4Blocks]) -> None:
        """Weights whose depth no kernel takes are left out; they stay float."""
        self._blocks = [
            entry
            for entry in blocks
            if not (entry.depth % depth_unit(entry.bits) or entry.group % depth_unit(entry.bits))
        ]
        # Of each element type that was asked for: first column -> weight and column.
        self._places: dict[str, dict[int, list[tuple[int, int]]]] = {}
        # Likewise: depth, columns and first column -> bytes.
        self._sizes: dict[str, dict[tuple[int, int, int], int]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, matrix: np.ndarray) -> W4Weight | None:
        """The weight that is `matrix` [K, N], whole or some neighbouring columns of one."""
        dtype = str(matrix.dtype)
        if matrix.ndim != 2 or dtype not in _DTYPES:
            return None
        if dtype not in self._places:
            self._places[dtype] = self._columns(dtype)
        depth, columns = matrix.shape
        for number, first in self._places[dtype].get(_key(matrix[:, 0]), ()):
            entry = self._blocks[number]
            if entry.depth != depth or first + columns > len(entry.packed):
                continue
            pieces = entry.imported(dtype, first, columns)
            if all(np.array_equal(values, matrix[:, piece]) for piece, values in pieces):
                return entry.weight(first, columns)
        return None

    def packed_bytes(self, matrix: np.ndarray) -> int | None:
        """What a kernel reads of `matrix` [K, N] where it is a whole such weight; else None.

        It is known by its shape and first column alone: enough for a price, not to compute with.
        """
        dtype = str(matrix.dtype)
        if matrix.ndim != 2 or dtype not in _DTYPES:
            return None
        if dtype not in self._sizes:
            self._sizes[dtype] = {
                (entry.depth, len(entry.packed), _key(values[:, 0])): entry.nbytes
                for entry in self._blocks
                for _, values in entry.imported(dtype, 0, 1)
            }
        return self._sizes[dtype].get((*matrix.shape, _key(matrix[:, 0])))

    def _columns(self, dtype: str) -> dict[int, list[tuple[int, int]]]:
        places: dict[int, list[tuple[int, int]]] = {}
        for number, entry in enumerate(self._blocks):
            for piece, matrix in entry.imported(dtype):
                for column, values in enumerate(matrix.T, piece.start):
                    places.setdefault(_key(values), []).append((number, column))
        return places


def legalize_w4_matmul(gpu: GpuSpec, table: W4Table, otherwise: Legalize) -> Legalize:
    """`relax.matmul` with a constant of `table` as a W4A16 product; others as `otherwise` does."""
    rounded: Rounded = {}

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        data, right = call.args
        if isinstance(right, GenericConst) and str(data.ty.dtype) == str(call.ty.dtype):
            # As it lies: a copy of the largest would be a quarter of a model.
            known = str(right.value.dtype) in _DTYPES
            weight = table.find(np.from_dlpack(right.value)) if known else None
            if (
                weight is not None
                and len(data.ty.shape) > 1
                and takes(gpu, len(weight.codes), weight.group, weight.bits)
            ):
                return w4a16_product(builder, gpu, data, weight, rounded)
        return otherwise(builder, call)

    return legalize


def _as_imported(weight: W4Weight, dtype: str) -> np.ndarray:
    """[K, N] with the roundings of the importer: in float32, then in the constant's own type."""
    depth = len(weight.codes)

    def spread(parts: np.ndarray) -> np.ndarray:
        return np.repeat(parts.astype(np.float32), weight.group, axis=0)[:depth]

    zeros = np.float32(middle(weight.bits)) if weight.zeros is None else spread(weight.zeros)
    return ((weight.codes.astype(np.float32) - zeros) * spread(weight.scales)).astype(dtype)


def _key(column: np.ndarray) -> int:
    return hash(np.ascontiguousarray(column).tobytes())
