"""Contractions as register tiles: the one schedule behind matmul and convolution.

A contraction is written as one reduction block over `(batch, row, column)` that reads its weight
from *panels*: columns cut into strips of `tile.panel`, each strip contiguous over the depth.
Then one work-item keeps `rows x vectors` vector accumulators in registers, and a step of the depth
loop is `vectors` contiguous loads and `rows` scalars broadcast. The epilogue (bias, activation,
residual) runs on the accumulators before anything is stored, and so does a permutation: where
columns are not the last axis of the result, vectors are stored along the rows.

On the Intel CPU driver this reaches 190-220 GFLOP/s on one Zen 5 core; the same without panels
reaches 130, and with the loops of a plain schedule 13.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

from tvm import s_tir, te, tirx

from schedules.blocks import extent, follow_accumulator, inline_all_but
from schedules.conditions import is_bool
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# Block annotation of the reduction block; the value is `RegisterTile.to_attr()`.
TILE_ATTR = "hetero.register_tile"

# Of the reduction block: what a vector of the weight becomes serves all rows before the next one is
# read, as it takes most of the registers.
VECTORS_FIRST_ATTR = "hetero.vectors_first"

# A CPU core has 32 vector registers: two thirds accumulate, the rest hold weights and broadcasts.
_MAX_ACCUMULATORS = 24
_MAX_ROWS = 9
# Tiles, along the rows, of which a work-item stores the results together where rows are contiguous.
_STORED_TOGETHER = 16
# Columns that a work-item stores at a time then: each is a cache line of its own, and where columns
# lie a power of two apart, a first-level cache of eight ways holds no more.
_COLUMNS_AT_A_TIME = 8
# Whole tiles of any height up to `_MAX_ROWS`, so that only the columns decide.
_MANY_ROWS = math.lcm(*range(1, _MAX_ROWS + 1))
# Two multiply-adds of four cycles each in flight: fewer accumulators wait for each other.
_ACCUMULATORS_IN_FLIGHT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisterTile:
    """What one work-item and one work-group compute of a `[row, column]` result."""

    rows: int  # of one work-item
    vectors: int  # of one work-item, side by side in the columns
    lanes: int  # of one vector
    items_x: int  # work-items of a group along the columns
    items_y: int  # work-items of a group along the rows
    # Where an item is a core, it computes a block of tiles, a stretch of depth at a time.
    block_rows: int = 1  # tiles of a block along the rows
    block_panels: int = 1  # panels of a block
    block_depth: int = 0  # of one stretch of the innermost reduced axis; 0: all of the depth
    # Where items run in lockstep: `gemv.SplitDepth` and `local_tile.LocalTiled`.
    items_k: int = 1  # work-items of a group along the depth
    local_depth: int = 0  # of one stretch that a group shares in local memory; 0: it shares none

    @property
    def panel(self) -> int:
        """Columns of one weight strip, which one work-group reads."""
        return self.vectors * self.lanes * self.items_x

    @property
    def group_rows(self) -> int:
        """Rows of one work-group."""
        return self.rows * self.items_y * self.block_rows

    def to_attr(self) -> list[int]:
        """As a block annotation."""
        return list(dataclasses.astuple(self))

    @staticmethod
    def from_attr(values: Any) -> RegisterTile:
        """The tile in a block annotation."""
        names = [field.name for field in dataclasses.fields(RegisterTile)]
        return RegisterTile(**dict(zip(names, map(int, values), strict=True)))


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def choose_tile(
    gpu: GpuSpec, rows: int, columns: int, lanes: int | None = None, strip: int = 0
) -> RegisterTile:
    """The tile for a `[rows, columns]` result, with the least waste at the edges.

    `lanes` fixes the vector length (a weight that cannot be repacked must be read as it lies).
    `strip`: the weight lies in strips of so many columns already; whole strips, or parts of one.
    """
    rows, columns = max(rows, 1), max(columns, 1)  # any tile does for a result without elements
    if gpu.wave_size > 1:
        return _wave_tile(gpu, rows, lanes or gpu.vector_width)
    lanes = lanes or min(gpu.vector_width, 16)
    while lanes > 4 and lanes // 2 >= columns:
        lanes //= 2

    def speed(shape: tuple[int, int]) -> float:
        tile_rows, vectors = shape
        used = rows / round_up(rows, tile_rows) * columns / round_up(columns, vectors * lanes)
        in_flight = min(1.0, tile_rows * vectors / _ACCUMULATORS_IN_FLIGHT)
        # Loads: one per vector and one per row, for `rows * vectors` multiply-adds.
        balance = min(1.0, 1.5 * tile_rows * vectors / (tile_rows + vectors) / 2)
        return used * in_flight * balance

    shapes = [
        (tile_rows, vectors)
        for vectors in (2, 3, 1, 4)
        for tile_rows in range(min(_MAX_ROWS, rows), 0, -1)
        if tile_rows * vectors <= _MAX_ACCUMULATORS
        and _reads_strips(vectors * lanes, strip, columns)
    ]
    tile_rows, vectors = max(shapes, key=speed)
    return RegisterTile(rows=tile_rows, vectors=vectors, lanes=lanes, items_x=1, items_y=1)


def weight_strip(gpu: GpuSpec, columns: int) -> int:
    """Columns of a constant weight that lie side by side, however many rows read them; 0: any.

    What many rows read best; so a model's steps of one token and of many have one weight.
    """
    if gpu.wave_size > 1:
        return 0
    return choose_tile(gpu, _MANY_ROWS, columns).panel


def _reads_strips(panel: int, strip: int, columns: int) -> bool:
    """Whether panels of such width are strips, or parts of strips, and cover no more of them."""
    if not strip:
        return True
    return strip % panel == 0 or (panel % strip == 0 and round_up(columns, strip) % panel == 0)


def _wave_tile(gpu: GpuSpec, rows: int, lanes: int) -> RegisterTile:
    """Work-items side by side over columns, so that a wave's loads are contiguous."""
    items = min(2 * gpu.wave_size, gpu.max_work_group_size)
    tile_rows = min(8, rows)
    items_y = max(1, min(8, rows // tile_rows))
    items_x = 1 << max(0, int(math.log2(max(1, min(16, items // items_y)))))
    return RegisterTile(
        rows=tile_rows, vectors=1, lanes=min(lanes, 8), items_x=items_x, items_y=items_y
    )


def contraction(
    shape: tuple[int, int, int],
    reduce_axes: list[tirx.IterVar],
    term: Callable[[tirx.Var, tirx.Expr, tirx.Var], tirx.Expr],
    tile: RegisterTile,
    *,
    vectors_first: bool = False,
) -> te.Tensor:
    """The padded result `[batch, rows', columns']` of summing `term(batch, row, column)`.

    `term` must be defined for every column below `columns'` (panels are padded with zeros); rows
    past the end are clamped here, so that they compute a copy of the last one.
    """
    batch, rows, columns = shape
    padded_rows = round_up(rows, tile.group_rows)

    def body(z: tirx.Var, m: tirx.Var, n: tirx.Var) -> tirx.Expr:
        row = m if padded_rows == rows else te.min(m, rows - 1)
        return te.sum(term(z, row, n), axis=reduce_axes)

    return te.compute(
        (batch, padded_rows, round_up(columns, tile.panel)),
        body,
        name="accumulate",
        attrs={TILE_ATTR: tile.to_attr(), **({VECTORS_FIRST_ATTR: 1} if vectors_first else {})},
    )


class RegisterTiled(Rule):
    """Schedule a `contraction` and the element-wise blocks after it as one kernel."""

    kind: ClassVar[str] = "opencl"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where no block carries a tile or the epilogue is not element-wise."""
        sch = s_tir.Schedule(func)
        # 1. One block besides the accumulation: everything after it, in the final one.
        found = take_contraction(sch)
        if found is None:
            return None
        accumulate, final, tile = found
        along_rows = stores_along_rows(sch, final)
        if along_rows and tile.items_y == tile.block_rows == 1:
            tile = dataclasses.replace(tile, block_rows=_stored_together(sch, accumulate, tile))
        # 2. Accumulators live in registers; columns and rows become group, item and vector.
        sch.set_scope(accumulate, 0, "local")
        batch, row, column, *depth = sch.get_loops(accumulate)
        group_y, block_y, item_y, r = sch.split(
            row, [None, tile.block_rows, tile.items_y, tile.rows]
        )
        group_x, block_x, v, item_x, lane = sch.split(
            column, [None, tile.block_panels, tile.vectors, tile.items_x, tile.lanes]
        )
        steps = [block_x, block_y, *depth]
        if tile.block_depth:
            # The panels' part of this stretch stays in the first-level cache for all of the rows.
            *outer, inner = depth
            stretch, inner = sch.split(inner, [None, tile.block_depth])
            steps = [*outer, stretch, block_x, block_y, inner]
        inner = inner_loops(sch, accumulate, r, v)
        sch.reorder(batch, group_y, group_x, item_y, item_x, *steps, *inner, lane)
        for loop, axis in ((batch, "z"), (group_y, "y"), (group_x, "x")):
            sch.bind(loop, f"blockIdx.{axis}")
        for loop, axis in ((item_y, "y"), (item_x, "x")):
            sch.bind(loop, f"threadIdx.{axis}")
        # 3. The epilogue works on the registers and stores whole vectors.
        sch.reverse_compute_at(final, item_x, preserve_unit_loops=True)
        straight = store_rows(sch, final, tile) if along_rows else store_vectors(sch, final, tile)
        # 4. Straight-line code, so that accumulators get register names.
        for loop in (r, v, *straight):
            sch.unroll(loop)
        sch.vectorize(lane)
        sch.decompose_reduction(accumulate, steps[0])
        return sch


def inner_loops(sch: s_tir.Schedule, accumulate: Any, rows: Any, vectors: Any) -> tuple[Any, Any]:
    """The loops over the rows and vectors of a tile, in the order that suits the contraction."""
    if VECTORS_FIRST_ATTR not in sch.get(accumulate).annotations:
        return rows, vectors
    sch.unannotate(accumulate, VECTORS_FIRST_ATTR)
    return vectors, rows


def take_contraction(sch: s_tir.Schedule) -> tuple[Any, Any, RegisterTile] | None:
    """The block of a `contraction`, the one block after it, and its tile.

    Everything after the contraction is inlined into that block, which then iterates as the
    contraction does. None where no block, or more than one, carries a tile, or where what follows
    is not element-wise.
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    marked = [block for block in blocks if TILE_ATTR in sch.get(block).annotations]
    if len(marked) != 1:
        return None
    (accumulate,) = marked
    tile = RegisterTile.from_attr(sch.get(accumulate).annotations[TILE_ATTR])
    final = inline_all_but(sch, accumulate, blocks)
    if final is None:
        return None
    follow_accumulator(sch, accumulate, final)
    sch.unannotate(accumulate, TILE_ATTR)
    return accumulate, final, tile


def stores_along_rows(sch: s_tir.Schedule, final: Any) -> bool:
    """Whether the column is not the last axis of what `final`, which iterates over them, stores."""
    statement = sch.get(final)
    column = statement.iter_vars[-1]
    (write,) = statement.writes
    # A single column is the last axis however it is written.
    return int(column.dom.extent) > 1 and not write.region[-1].min.same_as(column.var)


def _stored_together(sch: s_tir.Schedule, accumulate: Any, tile: RegisterTile) -> int:
    """How many tiles of rows make a work-item's stores long runs, with none left over."""
    tiles = extent(sch, sch.get_loops(accumulate)[1]) // tile.rows
    return max(n for n in range(1, _STORED_TOGETHER + 1) if tiles % n == 0)


def store_vectors(sch: s_tir.Schedule, final: Any, tile: RegisterTile) -> list[Any]:
    """Vectors along the columns, where they allow; the loops that are to be unrolled."""
    *_, row, column = sch.get_loops(final)
    lanes = math.gcd(_extents(sch, final)[1], 1 if _is_bool(sch, final) else tile.lanes)
    if tile.block_rows > 1:
        _, row = sch.split(row, [None, tile.rows])
    strip, lane = sch.split(column, [None, lanes])
    if tile.block_panels > 1:
        panel, strip = sch.split(strip, [None, tile.panel // lanes])
        sch.reorder(panel, row)
    if lanes > 1:
        sch.vectorize(lane)
    return [row, strip]


def store_rows(sch: s_tir.Schedule, final: Any, tile: RegisterTile) -> list[Any]:
    """Vectors along the rows, where they allow; else element by element, rows after rows."""
    *_, row, column = sch.get_loops(final)
    rows, columns = _extents(sch, final)
    lanes = math.gcd(rows, tile.rows)
    is_scalar = _is_bool(sch, final)
    strip, column = sch.split(column, [None, math.gcd(columns, _COLUMNS_AT_A_TIME)])
    whole = tile.block_rows == tile.block_panels == 1  # else the sums are too many for registers
    if lanes in (4, 8) and not is_scalar:
        block, part, lane = sch.split(row, [None, tile.rows // lanes, lanes])
        sch.reorder(strip, block, column, part, lane)
        sch.vectorize(lane)
        return [column, part, *([strip] if whole else [])]
    block, part = sch.split(row, [None, tile.rows])
    sch.reorder(strip, block, part, column)
    if extent(sch, column) > 1 and not is_scalar:
        # Computed as a vector, and taken apart by the store.
        sch.vectorize(column)
    return [part, *([strip] if whole else [])]


def _extents(sch: s_tir.Schedule, final: Any) -> tuple[int, int]:
    """Rows and columns of the result, without padding."""
    *_, rows, columns = (int(var.dom.extent) for var in sch.get(final).iter_vars)
    return rows, columns


def _is_bool(sch: s_tir.Schedule, final: Any) -> bool:
    return is_bool(sch.get(final).writes[0].source)
