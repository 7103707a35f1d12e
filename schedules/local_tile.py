"""Contractions where work-items run in lockstep: a group shares both operands in local memory.

A group computes `group_rows x panel` results. It fetches a stretch of the depth of both operands
into local memory, all items together, and then every item reads the vectors that its register
tile needs from there: `rows + vectors * lanes` values for `rows * vectors * lanes` multiply-adds.

The left side lies in local memory as [depth, rows], so that an item's rows are vectors too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from tvm import s_tir, tirx

from schedules.blocks import extent
from schedules.register_tile import (
    RegisterTile,
    choose_tile,
    round_up,
    store_rows,
    store_vectors,
    stores_along_rows,
    take_contraction,
)
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# Floats between the rows of the left side in local memory, so that stores hit different banks.
_BANK_PADDING = 4
_BANKS = 32
# (rows of a group, rows of an item) and (columns of a group, vectors of an item), the best first.
_ROWS = ((128, 8), (64, 8), (32, 4), (16, 2))
_COLUMNS = ((128, 2), (64, 1), (32, 1))
_LANES = 4
# Of one stretch; a longer one saves barriers, and is hardly faster from here on.
_DEPTHS = (16, 8, 4)
# A group may compute this much more than the tile that wastes least.
_MAX_WASTE = 1.25
# Groups that a device needs to be busy; smaller tiles make more of them. On a GPU of 132 cores 128
# rows by 4096 columns take 1.3 times as long with half as many, and 1.15 times with twice as many.
_MIN_GROUPS = 128


# Cuts the loop of a name into parts, the outermost first.
Split = Callable[[str, Any], list[Any]]


def product_tile(gpu: GpuSpec, shape: tuple[int, int, int], depth: int) -> RegisterTile:
    """The tile of a result of `shape` (batch, rows, columns): a shared one where that suits."""
    return shared_tile(gpu, shape, depth) or choose_tile(gpu, *shape[1:])


def shared_tile(gpu: GpuSpec, shape: tuple[int, int, int], depth: int) -> RegisterTile | None:
    """The tile of a result of `shape` (batch, rows, columns); None where sharing does not suit.

    `depth` is the extent of the innermost reduced axis, of which a stretch is shared at a time.
    """
    batch, rows, columns = shape
    stretch = next((n for n in _DEPTHS if depth % n == 0), 0)
    if gpu.wave_size == 1 or gpu.vector_width < _LANES or not stretch or rows == 1:
        return None
    down = _least_waste(rows, [size for size, _ in _ROWS])
    across = _least_waste(columns, [size for size, _ in _COLUMNS])

    def groups() -> int:
        return batch * -(-rows // _ROWS[down][0]) * -(-columns // _COLUMNS[across][0])

    while groups() < _MIN_GROUPS and (down < len(_ROWS) - 1 or across < len(_COLUMNS) - 1):
        if across == len(_COLUMNS) - 1 or _ROWS[down][0] > _COLUMNS[across][0]:
            down += 1
        else:
            across += 1
    (group_rows, item_rows), (group_columns, vectors) = _ROWS[down], _COLUMNS[across]
    tile = RegisterTile(
        rows=item_rows,
        vectors=vectors,
        lanes=_LANES,
        items_x=group_columns // (vectors * _LANES),
        items_y=group_rows // item_rows,
        local_depth=stretch,
    )
    shared_bytes = 4 * stretch * (group_rows + _BANK_PADDING + group_columns)
    fits = shared_bytes <= gpu.local_memory_bytes
    return tile if fits and tile.items_x * tile.items_y <= gpu.max_work_group_size else None


def _least_waste(extent: int, sizes: list[int]) -> int:
    """The first of `sizes` of which whole multiples do not cover much more than needed."""
    least = min(round_up(extent, size) for size in sizes)
    return next(n for n, size in enumerate(sizes) if round_up(extent, size) <= _MAX_WASTE * least)


class LocalTiled(Rule):
    """Schedule a `contraction` whose tile shares stretches of the depth."""

    kind: ClassVar[str] = "opencl"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where no block carries such a tile or the epilogue is not element-wise."""
        sch = s_tir.Schedule(func)
        found = take_contraction(sch)
        if found is None or not found[2].local_depth:
            return None
        tile = found[2]
        sizes: dict[str, list[int | None]] = {
            "rows": [None, tile.items_y, tile.rows],
            "columns": [None, tile.items_x, tile.vectors, tile.lanes],
            "depth": [None, tile.local_depth],
        }
        schedule_shared(sch, found, lambda name, loop: list(sch.split(loop, sizes[name])))
        return sch


def schedule_shared(
    sch: s_tir.Schedule, found: tuple[Any, Any, RegisterTile], split: Split
) -> None:
    """Schedule what `take_contraction` gave so that groups share stretches of both operands.

    Args:
        sch: the schedule.
        found: the contraction, what follows it, and its tile, of which only the panel counts.
        split: cuts a loop: "rows" into groups, items, rows of an item; "columns" into groups,
            items, vectors, lanes; "depth" into stretches and their steps.

    Raises:
        ScheduleError: the operands cannot be shared.
    """
    accumulate, final, tile = found
    if len(sch.get(accumulate).reads) != 2:
        raise s_tir.ScheduleError("not two operands")
    along_rows = stores_along_rows(sch, final)
    # 1. The left side by the block's own axes, however it is read; both sides in local memory.
    left = sch.reindex(accumulate, ("read", 0))
    if not _is_by_rows(sch, left, accumulate):
        raise s_tir.ScheduleError("the left side has no axis for the rows")
    right = sch.cache_read(accumulate, 1, "shared")
    sch.set_scope(left, 0, "shared")
    sch.set_scope(accumulate, 0, "local")
    # 2. Groups, items and registers.
    panel = tile.panel
    batch, row, column, *depth = sch.get_loops(accumulate)
    group_y, item_y, r = split("rows", row)
    group_x, item_x, v, lane = split("columns", column)
    *outer, inner = depth
    stretch, near = split("depth", inner)
    tile = RegisterTile(
        rows=extent(sch, r),
        vectors=extent(sch, v),
        lanes=extent(sch, lane),
        items_x=extent(sch, item_x),
        items_y=extent(sch, item_y),
        local_depth=extent(sch, near),
    )
    sch.reorder(batch, group_y, group_x, item_y, item_x, *outer, stretch, near, r, v, lane)
    for loop, axis in ((batch, "z"), (group_y, "y"), (group_x, "x")):
        sch.bind(loop, f"blockIdx.{axis}")
    for loop, axis in ((item_y, "y"), (item_x, "x")):
        sch.bind(loop, f"threadIdx.{axis}")
    sch.reverse_compute_at(final, item_x, preserve_unit_loops=True)
    # 3. A stretch of both, fetched by all items.
    for block in (left, right):
        sch.compute_at(block, stretch, preserve_unit_loops=True)
        _fetch(sch, block, tile)
    _rows_last(sch, left, len(depth))
    _spread_vectors(sch, right, tile, panel)
    # 4. Whole vectors from local memory, straight-line code, sums in registers.
    straight = (store_rows if along_rows else store_vectors)(sch, final, tile)
    for loop in (r, v, *straight):
        sch.unroll(loop)
    sch.unroll(near)
    sch.vectorize(lane)
    sch.decompose_reduction(accumulate, [*outer, stretch][0])


def _fetch(sch: s_tir.Schedule, block: Any, tile: RegisterTile) -> None:
    """All items of a group copy a vector each until the stretch is there."""
    loops = sch.get_loops(block)
    place = [int(var.dom.extent) for var in sch.get(block).iter_vars]
    lanes = math.gcd(tile.lanes, extent(sch, loops[-1]))
    copied = sch.fuse(*loops[-len(place) :])
    _, y, x, lane = sch.split(copied, [None, tile.items_y, tile.items_x, lanes])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    sch.vectorize(lane)


def _is_by_rows(sch: s_tir.Schedule, left: Any, accumulate: Any) -> bool:
    """Whether the left side has an axis for the rows, and all of the depth behind it."""
    _, row, _, *depth = (int(var.dom.extent) for var in sch.get(accumulate).iter_vars)
    shape = [int(var.dom.extent) for var in sch.get(left).iter_vars]
    return shape[-1 - len(depth) :] == [row, *depth]


def _rows_last(sch: s_tir.Schedule, left: Any, reduced: int) -> None:
    """[.., row, depth..] -> [.., depth.., row] in local memory, its rows padded apart."""
    rank = len(sch.get(left).iter_vars)
    row = rank - 1 - reduced
    order = [*range(row), *range(row + 1, rank), row]
    sch.transform_layout(left, ("write", 0), lambda *at: [at[axis] for axis in order])
    sch.storage_align(left, 0, rank - 2, _BANKS, _BANK_PADDING)


def _spread_vectors(sch: s_tir.Schedule, right: Any, tile: RegisterTile, panel: int) -> None:
    """An item's vectors apart in local memory, neighbours' first vectors side by side."""
    width = tile.vectors * tile.lanes
    if tile.vectors == 1 or panel % width:
        return

    def spread(*at: tirx.Var) -> list[tirx.Expr]:
        *place, column = at
        return [*place, column % width // tile.lanes, column // width, column % tile.lanes]

    sch.transform_layout(right, ("write", 0), spread)
