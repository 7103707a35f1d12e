"""Sketches: schedules that are written like rules, with tile sizes left open.

    contraction   groups, items, register tile, vector lanes, blocks and stretches of depth (and
                  the left side, or both, in local memory, where work-items run in lockstep;
                  with few rows there, items along the depth)
                  with few rows there, items along the depth; a panel of floats that an item
                  makes of four-bit words, and holds)
    row           rows of one work-item and of one group; where items run in lockstep, those that
                  share a row, rows side by side, and what is kept between two passes over a row
    column        lanes, neighbours, items of a reduction whose result is contiguous; also items
                  that share a column, where they run in lockstep
    transpose     tiles in local memory, and the items of one
    elementwise   lanes, items and stretches, loops fused or kept

Most choices are perfect tiles, which divide a loop without a rest, so TVM's own mutator can change
them. The others are picked from a list; the search draws them anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import s_tir, tirx

from schedules.blocks import (
    annotate_unroll,
    axes,
    extent,
    follow_accumulator,
    inline_all_but,
    is_reduction,
)
from schedules.choices import Choices
from schedules.column_reduction import take_columns, walks_contiguously
from schedules.conditions import is_bool
from schedules.elementwise import is_flat, uniform_lanes
from schedules.gemv import schedule_split_depth
from schedules.limits import Limits
from schedules.local_tile import schedule_shared
from schedules.lockstep_columns import share_columns
from schedules.lockstep_rows import share_rows
from schedules.lockstep_transpose import take_transpose, tile_transpose
from schedules.register_tile import (
    TILE_ATTR,
    inner_loops,
    stores_along_rows,
    take_contraction,
)
from schedules.row_reduction import ROW_ATTR, schedule_rows

SKETCH_ATTR = "hetero.sketch"
_MAX_ROWS = 16
_MAX_TAPS = 25
_MAX_SHARING = 64  # items of a group that share a column, and columns of a group
_MAX_ROWS_OF_A_GROUP = 8
_ROW_ITEMS = (8, 16, 32, 64, 128, 256, 512, 1024)  # that share a row
_UNROLLED = (1, 4, 16, 64)  # steps along a row
_EDGES = (8, 16, 32, 64)  # of a transpose's tile
_EDGE_ROWS = (1, 2, 4, 8, 16, 32)  # of a tile that the items of a group take at a time


Sketch = Callable[[s_tir.Schedule, Choices, Limits], None]


# --- sketches ------------------------------------------------------------------------------------


def _contraction(sch: s_tir.Schedule, choose: Choices, limit: Limits, *, form: str) -> None:
    """`form`: "whole" (a tile's depth at once), "stretched" or "local"."""
    found = take_contraction(sch)
    if found is None:
        raise s_tir.ScheduleError("no contraction, or its epilogue reduces")
    accumulate, final, tile = found
    panel = tile.panel
    along_rows = stores_along_rows(sch, final)
    columns = int(sch.get(final).iter_vars[-1].dom.extent)
    sch.set_scope(accumulate, 0, "local")
    # 1. Groups, items, blocks, and the tile of registers.
    batch, row, column, *depth = sch.get_loops(accumulate)
    padded = extent(sch, column)
    lanes = math.gcd(panel, limit.lanes)
    (group_y, item_y, block_y, r), row_sizes = choose.split(
        sch, "rows", row, 4, innermost=_MAX_ROWS
    )
    (group_x, item_x, block_x, v, lane), column_sizes = choose.split(
        sch, "columns", column, 5, innermost=lanes
    )
    *outer, inner = depth
    (stretch, step, unrolled), _ = choose.split(sch, "depth", inner, 3, innermost=8)
    if form == "whole":
        steps = [block_x, block_y, *outer, stretch, step, unrolled]
    else:
        steps = [*outer, stretch, block_x, block_y, step, unrolled]
    sch.reorder(
        batch, group_y, group_x, item_y, item_x, *steps, *inner_loops(sch, accumulate, r, v), lane
    )
    for loop, name in ((batch, "z"), (group_y, "y"), (group_x, "x")):
        sch.bind(loop, f"blockIdx.{name}")
    for loop, name in ((item_y, "y"), (item_x, "x")):
        sch.bind(loop, f"threadIdx.{name}")
    if form == "local":
        _left_in_local_memory(sch, accumulate, stretch, row_sizes[1], column_sizes[1])
    # 2. What follows works on the registers.
    sch.reverse_compute_at(final, item_x, preserve_unit_loops=True)
    *_, row, column = sch.get_loops(final)
    some_rows, one_row = sch.split(row, [None, row_sizes[3]])
    if along_rows or is_bool(sch.get(final).writes[0].source):
        sch.reorder(some_rows, column, one_row)
        straight = [one_row]
    else:
        width = column_sizes[4] if padded == columns else math.gcd(columns, lanes)
        some_columns, part = sch.split(column, [None, width])
        sch.reorder(some_rows, some_columns, one_row, part)
        sch.vectorize(part)
        straight = [one_row]
    # 3. Straight-line code, so that accumulators get register names.
    for loop in (unrolled, r, v, *straight):
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.decompose_reduction(accumulate, steps[0])


def _left_in_local_memory(
    sch: s_tir.Schedule, accumulate: Any, stretch: Any, items_y: Any, items_x: Any
) -> None:
    """The group reads its rows' part of a stretch once, all items side by side."""
    copy = sch.cache_read(accumulate, 0, "shared")
    sch.compute_at(copy, stretch, preserve_unit_loops=True)
    around = sch.get_loops(accumulate)
    inside = [
        loop for loop in sch.get_loops(copy) if not any(_same(sch, loop, other) for other in around)
    ]
    fused = sch.fuse(*inside) if len(inside) > 1 else inside[0]
    _, y, x = sch.split(fused, [None, items_y, items_x])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")


def _same(sch: s_tir.Schedule, one: Any, other: Any) -> bool:
    return sch.get(one).same_as(sch.get(other))


def _whole(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _contraction(sch, choose, limit, form="whole")


def _stretched(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _contraction(sch, choose, limit, form="stretched")


def _local(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    if limit.is_core:
        raise s_tir.ScheduleError("a core has no memory that is nearer than its caches")
    _contraction(sch, choose, limit, form="local")


def _shared(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    """Stretches of both operands in local memory."""
    found = take_contraction(sch)
    if found is None or limit.is_core:
        raise s_tir.ScheduleError("no contraction, or no memory that is nearer than the caches")
    innermost = {"rows": _MAX_ROWS, "columns": math.gcd(found[2].panel, limit.lanes), "depth": 16}
    parts = {"rows": 3, "columns": 4, "depth": 2}

    def split(name: str, loop: Any) -> list[Any]:
        return choose.split(sch, name, loop, parts[name], innermost=innermost[name])[0]

    schedule_shared(sch, found, split)


def _split_depth(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    """The items of a group share the depth, where the weight lies in panels for that."""
    found = take_contraction(sch)
    if found is None or found[2].items_k == 1:
        raise s_tir.ScheduleError("no contraction of few rows")

    def split(name: str, loop: Any, most: int) -> list[Any]:
        most = {"depth": limit.items, "near": 2 * most}.get(name, most)
        return choose.split(sch, name, loop, 2, innermost=most)[0]

    schedule_split_depth(sch, found, split)


def _rows(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if not any(ROW_ATTR in sch.get(block).annotations for block in blocks):
        raise s_tir.ScheduleError("no rows")

    def bind(sch: s_tir.Schedule, row: Any) -> Any:
        (group, item), _ = choose.split(sch, "rows", row, 2, innermost=limit.items)
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")
        return item

    schedule_rows(sch, bind)


def _columns(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    places = [place for place, block in enumerate(blocks) if is_reduction(sch, block)]
    if len(places) != 1 or not walks_contiguously(sch, blocks[places[0]]):
        raise s_tir.ScheduleError("not one reduction over a contiguous result")
    reduction = blocks[places[0]]
    if TILE_ATTR in sch.get(reduction).annotations:
        raise s_tir.ScheduleError("a contraction has sketches of its own")
    for block in blocks[: places[0]]:
        sch.compute_inline(block)
    after = blocks[places[0] + 1 :] or [sch.cache_write(reduction, 0, "local")]
    final = inline_all_but(sch, reduction, [reduction, *after])
    if final is None:
        raise s_tir.ScheduleError("the epilogue reduces")
    follow_accumulator(sch, reduction, final)
    sch.set_scope(reduction, 0, "local")
    (*outer, column), reduced = axes(sch, reduction)
    if not outer:
        outer = [sch.add_unit_loop(column)]
    (strips, lane), (_, lanes) = choose.split(sch, "columns", column, 2, innermost=limit.lanes)
    (rest, neighbour), _ = choose.split(sch, "neighbours", outer[-1], 2, innermost=8)
    sch.reorder(*outer[:-1], rest, strips, *reduced, neighbour, lane)
    work = sch.fuse(*outer[:-1], rest, strips)
    (group, item), _ = choose.split(sch, "groups", work, 2, innermost=limit.items)
    sch.bind(group, "blockIdx.x")
    sch.bind(item, "threadIdx.x")
    sch.reverse_compute_at(final, item, preserve_unit_loops=True)
    if not is_bool(sch.get(final).writes[0].source):
        _, stored = sch.split(sch.get_loops(final)[-1], [None, lanes])
        sch.vectorize(stored)
    sch.vectorize(lane)
    sch.unroll(neighbour)
    annotate_unroll(sch, reduced, _MAX_TAPS)
    sch.decompose_reduction(reduction, reduced[0])


def _shared_columns(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    """Columns that the items of a group sum together."""
    found = None if limit.is_core else take_columns(sch)
    if found is None or TILE_ATTR in sch.get(found[0]).annotations:
        raise s_tir.ScheduleError("no columns, or nothing to share them in")
    if not isinstance(sch.get(found[0]).body.value, tirx.Add):
        raise s_tir.ScheduleError("TVM adds up what items have, and no more")

    def split(name: str, loop: Any) -> tuple[Any, Any, Any]:
        (rest, part), (_, size) = choose.split(sch, name, loop, 2, innermost=_MAX_SHARING)
        return rest, part, size

    share_columns(sch, *found, split)


def _shared_rows(sch: s_tir.Schedule, choose: Choices, limit: Limits, *, kept: bool) -> None:
    """Rows that the items of a group work on together."""
    if limit.is_core:
        raise s_tir.ScheduleError("nothing to share rows in")

    def split(row: Any) -> list[Any]:
        return choose.split(sch, "rows", row, 2, innermost=_MAX_ROWS_OF_A_GROUP)[0]

    def sharing(length: int) -> tuple[Any, Any]:
        most = min(limit.items, 1 << max(0, length - 1).bit_length())
        items = [n for n in _ROW_ITEMS if n <= max(most, _ROW_ITEMS[0])]
        return choose.pick(sch, "items", items), choose.pick(sch, "unroll", _UNROLLED)

    share_rows(sch, split, sharing, kept=kept)


def _rows_again(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _shared_rows(sch, choose, limit, kept=False)


def _rows_kept(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _shared_rows(sch, choose, limit, kept=True)


def _transposed(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    found = None if limit.is_core else take_transpose(sch)
    if found is None:
        raise s_tir.ScheduleError("nothing is transposed, or there is no local memory")
    edge = choose.pick(sch, "edge", [n for n in _EDGES if n <= limit.items])
    rows = choose.pick(sch, "rows", _EDGE_ROWS)
    tile_transpose(sch, *found, edge=edge, rows=rows)


def _elementwise(sch: s_tir.Schedule, choose: Choices, limit: Limits, *, fused: bool) -> None:
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if not blocks or any(is_reduction(sch, block) for block in blocks):
        raise s_tir.ScheduleError("not element-wise")
    outputs = [block for block in blocks if not sch.get_consumers(block)]
    for block in blocks:
        if sch.get_consumers(block):
            sch.compute_inline(block)
    for number, block in enumerate(outputs):
        loops = sch.get_loops(block) or [sch.add_unit_loop(block)]
        if len(loops) > 1 and is_flat(sch, block):
            loops = [sch.fuse(*loops)]
        *outer, last = loops
        whole = uniform_lanes(sch, block, math.gcd(extent(sch, last), 4 * limit.lanes))
        if is_bool(sch.get(block).writes[0].source):
            whole = 1
        strips, unit = sch.split(last, [None, whole])
        (part, lane), _ = choose.split(sch, f"lanes{number}", unit, 2, innermost=limit.lanes)
        sch.unroll(part)
        sch.vectorize(lane)
        spread = [*outer, strips] if fused or not outer else outer
        work = sch.fuse(*spread) if len(spread) > 1 else spread[0]
        (group, item, _), _ = choose.split(sch, f"work{number}", work, 3, innermost=4096)
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")


def _flat(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _elementwise(sch, choose, limit, fused=True)


def _kept(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _elementwise(sch, choose, limit, fused=False)


# They add up across items: TVM does so only from the finite extremes, which it knows.
FROM_FINITE = frozenset({"shared_rows", "kept_rows"})
SKETCHES: dict[str, Sketch] = {
    "whole": _whole,
    "stretched": _stretched,
    "local": _local,
    "shared": _shared,
    "split_depth": _split_depth,
    "rows": _rows,
    "columns": _columns,
    "shared_columns": _shared_columns,
    "shared_rows": _rows_again,
    "kept_rows": _rows_kept,
    "transposed": _transposed,
    "flat": _flat,
    "kept": _kept,
}


def apply_sketch(name: str, sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    """Apply a sketch; its name stays in the trace, and there only."""
    root = sch.get_sblock("root")
    sch.annotate(root, SKETCH_ATTR, name)
    sch.unannotate(root, SKETCH_ATTR)
    SKETCHES[name](sch, choose, limit)
