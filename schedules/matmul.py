"""Matrix products: 2-D, batched, with a constant or a computed right-hand side.

    [.., M, K] x [K, N]      every leading axis of the left side becomes rows
    [.., M, K] x [.., K, N]  leading axes broadcast and become the batch

A permutation of the left side is no kernel of its own: the product reads through it. Sums are
float32 for float16 tensors. A constant right side is cut into panels at compile time;
a computed one is repacked by a kernel of its own where its rows cannot be read as whole vectors.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax, te, tirx
from tvm.ir.expr import GenericConst

from schedules.cache_block import blocked
from schedules.gemv import split_depth_tile
from schedules.layout import (
    CONTRACTION_ATTRS,
    Legalize,
    Panels,
    accumulator_dtype,
    behind_permutations,
    broadcast_index,
    default_legalize,
    known_shape,
    panel_tensor,
    panels_of,
    ravel,
    static_shape,
    unravel,
)
from schedules.local_tile import product_tile
from schedules.register_tile import RegisterTile, choose_tile, contraction, weight_strip
from target_specs.spec import GpuSpec

# A right side this small stays in the first-level cache however its rows lie.
_REPACK_MIN_BYTES = 64 * 1024
# Rows that must share the cost of repacking.
_REPACK_MIN_ROWS = 32


def legalize_matmul(gpu: GpuSpec, panels: Panels = panels_of) -> Legalize:
    """`relax.matmul` to a `contraction`; vectors and unknown shapes to TVM's own function."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        lhs, rhs = call.args  # [.., M, K], [.., K, N]
        lhs_shape, rhs_shape = static_shape(lhs) or (), static_shape(rhs) or ()
        if min(len(lhs_shape), len(rhs_shape)) < 2:
            return default_legalize("relax.matmul")(builder, call)
        if math.prod(rhs_shape[:-2]) == 1:
            batch: tuple[int, ...] = ()
            rows = math.prod(lhs_shape[:-1])
        else:
            batch = tuple(np.broadcast_shapes(lhs_shape[:-2], rhs_shape[:-2]))
            rows = lhs_shape[-2]
        out_dtype = str(call.ty.dtype)
        tile, packed, strip = _right_side(builder, gpu, rhs, rows, panels)
        if strip:
            shape = (math.prod(batch), rows, rhs_shape[-1])
            tile = blocked(gpu, tile, shape, rhs_shape[-2])
        source, axes = behind_permutations(builder, lhs)
        product = _Product(
            lhs_shape=lhs_shape,
            lhs_axes=axes,
            batch=batch,
            out_shape=known_shape(call),
            columns=rhs_shape[-1],
            tile=tile,
            strip=strip,
            out_dtype=out_dtype,
        )
        return builder.call_te(
            product.compute,
            source,
            packed,
            primfunc_name_hint="matmul",
            primfunc_attrs=CONTRACTION_ATTRS,
        )

    return legalize


class _Product:
    """The tensor expression of one product."""

    def __init__(
        self,
        *,
        lhs_shape: tuple[int, ...],
        lhs_axes: list[int],
        batch: tuple[int, ...],
        out_shape: tuple[int, ...],
        columns: int,
        tile: RegisterTile,
        strip: int,
        out_dtype: str,
    ) -> None:
        self.lhs_shape = lhs_shape
        self.lhs_axes = lhs_axes
        self.batch = batch
        self.out_shape = out_shape
        self.columns = columns
        self.tile = tile
        self.strip = strip
        self.out_dtype = out_dtype

    def compute(self, lhs: te.Tensor, rhs: te.Tensor) -> te.Tensor:
        """`lhs`: `lhs_shape` [.., M, K] before a permutation by `lhs_axes`.

        `rhs`: [.., K, N], or, where there is a strip, panels [.., N / strip, K, strip].
        """
        shape = self.lhs_shape
        depth = shape[-1]
        sum_dtype = accumulator_dtype(self.out_dtype)
        k = te.reduce_axis((0, depth), name="k")
        # What the batch, or else the row, counts through.
        leading = self.batch or shape[:-1]
        strip = self.strip

        def term(z: tirx.Var, row: tirx.Expr, column: tirx.Var) -> tirx.Expr:
            if self.batch:
                place = unravel(z, leading)
                left = self._left(lhs, *broadcast_index(place, shape[:-2]), row, k)
            else:
                place = []
                left = self._left(lhs, *unravel(row, leading), k)
            trailing = (column // strip, k, column % strip) if strip else (k, column)
            right = rhs(*broadcast_index(place, rhs.shape[: -len(trailing)]), *trailing)
            return left.astype(sum_dtype) * right.astype(sum_dtype)

        rows = shape[-2] if self.batch else math.prod(leading)
        sums = contraction((math.prod(self.batch), rows, self.columns), [k], term, self.tile)

        def result(*index: tirx.Var) -> tirx.Expr:
            if self.batch:
                at = (ravel(index[:-2], leading), index[-2], index[-1])
            else:
                at = (0, ravel(index[-1 - len(leading) : -1], leading), index[-1])
            return sums(*at).astype(self.out_dtype)

        return te.compute(self.out_shape, result, name="product")

    def _left(self, lhs: te.Tensor, *index: tirx.Expr) -> tirx.Expr:
        """An element of the left side, read through its permutation."""
        place = dict(zip(self.lhs_axes, index, strict=True))
        return lhs(*(place[axis] for axis in range(len(index))))


def _right_side(
    builder: relax.BlockBuilder, gpu: GpuSpec, rhs: relax.Expr, rows: int, panels: Panels
) -> tuple[RegisterTile, relax.Expr, int]:
    """The tile, the right side as the kernel reads it, and the width of its panels; 0: none."""
    shape = known_shape(rhs)
    depth, columns = shape[-2:]
    batch = math.prod(shape[:-2])
    tile = product_tile(gpu, (batch, rows, columns), depth)
    if isinstance(rhs, GenericConst):
        strip = weight_strip(gpu, columns)
        if strip:
            tile = choose_tile(gpu, rows, columns, strip=strip)
        else:
            tile = split_depth_tile(gpu, rows, depth) or tile
            strip = tile.panel
        return tile, panels(rhs, strip), strip
    size_bytes = depth * columns * 4
    pays = size_bytes >= _REPACK_MIN_BYTES and rows >= _REPACK_MIN_ROWS
    if columns % tile.panel == 0 and not pays:
        return tile, rhs, 0
    lanes = math.gcd(columns, tile.lanes)
    if lanes >= 4 and gpu.wave_size == 1 and not pays:
        narrow = choose_tile(gpu, rows, columns, lanes=lanes)
        if columns % narrow.panel == 0:
            return narrow, rhs, 0
    packed = builder.emit_te(
        lambda tensor: panel_tensor(tensor, tile.panel), rhs, primfunc_name_hint="pack"
    )
    return tile, packed, tile.panel
