"""Finds the 4- or 8-bit weight that a float constant came from, so that products read codes.

The importer writes such a weight as the float matrix that it stands for, and every pass, device
and estimate up to here takes it as one, whole or cut by columns. A product for the GPU looks its
constant up here: by its first column, and then by every value, so that codes are used only where
they give the constant bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst

from schedules.layout import Legalize
from schedules.w4a16 import Rounded, W4Weight, depth_unit, middle, takes, w4a16_product
from target_specs.spec import GpuSpec


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

    def weight(self) -> W4Weight:
        """Codes and scales of all columns."""
        return W4Weight.from_blocks(self.packed, self.scales, self.zeros, self.depth, self.bits)


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
        if matrix.ndim != 2 or dtype not in ("float32", "float16"):
            return None
        if dtype not in self._places:
            self._places[dtype] = self._columns(dtype)
        depth, columns = matrix.shape
        for number, first in self._places[dtype].get(_key(matrix[:, 0]), ()):
            entry = self._blocks[number]
            if entry.depth != depth or first + columns > len(entry.packed):
                continue
            weight = _columns_of(entry.weight(), first, columns)
            if np.array_equal(_as_imported(weight, dtype), matrix):
                return weight
        return None

    def packed_bytes(self, matrix: np.ndarray) -> int | None:
        """What a kernel reads of `matrix` [K, N] where it is a whole such weight; else None.

        It is known by its shape and first column alone: enough for a price, not to compute with.
        """
        dtype = str(matrix.dtype)
        if matrix.ndim != 2 or dtype not in ("float32", "float16"):
            return None
        if dtype not in self._sizes:
            self._sizes[dtype] = {
                (entry.depth, len(entry.packed), _first_column(entry, dtype)): entry.nbytes
                for entry in self._blocks
            }
        return self._sizes[dtype].get((*matrix.shape, _key(matrix[:, 0])))

    def _columns(self, dtype: str) -> dict[int, list[tuple[int, int]]]:
        places: dict[int, list[tuple[int, int]]] = {}
        for number, entry in enumerate(self._blocks):
            for column, values in enumerate(_as_imported(entry.weight(), dtype).T):
                places.setdefault(_key(values), []).append((number, column))
        return places


def legalize_w4_matmul(gpu: GpuSpec, table: W4Table, otherwise: Legalize) -> Legalize:
    """`relax.matmul` with a constant of `table` as a W4A16 product; others as `otherwise` does."""
    rounded: Rounded = {}

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        data, right = call.args
        if isinstance(right, GenericConst) and str(data.ty.dtype) == str(call.ty.dtype):
            weight = table.find(right.value.numpy())
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


def _first_column(entry: W4Blocks, dtype: str) -> int:
    columns = len(entry.packed)
    zeros = None if entry.zeros is None else entry.zeros.reshape(columns, -1)[:1]
    scales = entry.scales.reshape(columns, -1)[:1]
    weight = W4Weight.from_blocks(entry.packed[:1], scales, zeros, entry.depth, entry.bits)
    return _key(_as_imported(weight, dtype)[:, 0])


def _columns_of(weight: W4Weight, first: int, count: int) -> W4Weight:
    part = slice(first, first + count)
    return dataclasses.replace(
        weight,
        codes=weight.codes[:, part],
        scales=weight.scales[:, part],
        zeros=None if weight.zeros is None else weight.zeros[:, part],
    )


def _key(column: np.ndarray) -> int:
    return hash(np.ascontiguousarray(column).tobytes())
