"""Products of few rows where work-items run in lockstep: the items of a group share the depth.

Such a product reads its weight once, so it runs at the memory's rate if enough is in flight. Panels
here are narrow, one vector or two: item `s` of a group reads the vectors at depth s, s + items, ..,
and neighbours read neighbouring memory. The items' sums meet in local memory: one part of the group
for each result adds them up, first serially, then across items.

    [K, panel] of weight    ▸ items x panel sums in registers ▸ local memory ▸ panel results
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from tvm import s_tir, tirx

from schedules.blocks import extent
from schedules.register_tile import RegisterTile, take_contraction
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# Rows of which one item keeps all sums; with more, a product is bound by arithmetic.
MAX_ROWS = 8
MAX_LANES = 4
# Of a group: enough to hide its own barriers, few enough for several groups on a core.
_WAVES = 8
# Fewer items than this leave most of a wave without work.
_MIN_ITEMS = 16
# Steps of an item whose loads are in flight together, and values of x that are read for them.
_IN_FLIGHT = 8
_READ_TOGETHER = 64
# Of local memory, in floats.
_BANKS = 32


def split_depth_tile(gpu: GpuSpec, rows: int, depth: int, vectors: int = 1) -> RegisterTile | None:
    """The tile of a product of `rows` with a weight in panels; None where another suits better.

    Args:
        gpu: the device.
        rows: of the result.
        depth: steps along the depth: K, or words of several codes.
        vectors: of columns, which an item reads at a step: more where a step needs more of x.
    """
    if gpu.wave_size == 1 or rows > MAX_ROWS:
        return None
    items = min(_WAVES * gpu.wave_size, gpu.max_work_group_size)
    while items > gpu.wave_size and depth < 2 * items:
        items //= 2
    # Every item sums equally many steps.
    return shared_depth_tile(gpu, rows, math.gcd(items, depth), vectors)


def shared_depth_tile(gpu: GpuSpec, rows: int, items: int, vectors: int) -> RegisterTile | None:
    """The tile where `items` share the depth; None where the device or the rule cannot take it."""
    lanes = min(gpu.vector_width, MAX_LANES)
    # A part of the group has every result.
    if items < _MIN_ITEMS or items % (rows * vectors * lanes) or rows > MAX_ROWS:
        return None
    results = rows * vectors * lanes
    if 4 * (results * (items + _BANKS) + items) > gpu.local_memory_bytes:
        return None
    return RegisterTile(
        rows=rows, vectors=vectors, lanes=lanes, items_x=1, items_y=1, items_k=items
    )


# Cuts the loop of a name in two; the number is what the inner one should not be longer than.
Split = Callable[[str, Any, int], list[Any]]


class SplitDepth(Rule):
    """Schedule a `contraction` of few rows whose tile has items along the depth."""

    kind: ClassVar[str] = "opencl"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where no block carries such a tile or the epilogue is not element-wise."""
        sch = s_tir.Schedule(func)
        found = take_contraction(sch)
        if found is None or found[2].items_k == 1:
            return None
        tile = found[2]

        def split(name: str, loop: Any, most: int) -> list[Any]:
            sizes = {"depth": tile.items_k, "rows": tile.rows}
            size = sizes.get(name, math.gcd(extent(sch, loop), most))
            return list(sch.split(loop, [None, size]))

        schedule_split_depth(sch, found, split)
        return sch


def schedule_split_depth(
    sch: s_tir.Schedule, found: tuple[Any, Any, RegisterTile], split: Split
) -> None:
    """Schedule what `take_contraction` gave so that the items of a group share the depth.

    Args:
        sch: the schedule.
        found: the contraction, what follows it, and its tile, of which panel and lanes count.
        split: cuts a loop in two, of which the inner one is best not longer than a number: "depth"
            into steps of an item and items; "rows" into groups and rows of an item; "near", an
            item's steps, into rounds and those whose loads are in flight.

    Raises:
        ScheduleError: the depth cannot be shared so.
    """
    accumulate, final, tile = found
    # 1. Each item sums every items_k-th step in registers and shares its sums.
    depth = sch.get_loops(accumulate)[3:]
    step = sch.fuse(*depth) if len(depth) > 1 else depth[0]
    extent_of_depth = extent(sch, step)
    rest, item_k = split("depth", step, extent_of_depth)
    items = extent(sch, item_k)
    if items * extent(sch, rest) != extent_of_depth:
        raise s_tir.ScheduleError("TVM's rfactor loses the condition on the last step")
    shared = sch.rfactor(item_k, 3)  # [batch, row, column, items_k]
    sch.set_scope(shared, 0, "shared")
    partial, shared = shared, sch.cache_write(shared, 0, "local")
    sch.set_scope(accumulate, 0, "local")
    # 2. A group for each panel and stretch of rows, a part of it for each result.
    batch, row, column = sch.get_loops(final)
    group_y, r = split("rows", row, MAX_ROWS)
    parts = max(1, items // (extent(sch, r) * tile.panel))
    # Parts add up side by side: each result begins at another bank.
    sch.storage_align(shared, 0, 2, _BANKS, parts % _BANKS)
    group_x, c = sch.split(column, [None, tile.panel])
    sch.reorder(batch, group_y, group_x, r, c)
    for loop, axis in ((batch, "z"), (group_y, "y"), (group_x, "x")):
        sch.bind(loop, f"blockIdx.{axis}")
    _, item_y = sch.split(sch.fuse(r, c), [None, items // parts])
    sch.bind(item_y, "threadIdx.y")
    # 3. Items of a part add up what was shared, for one result.
    depth = len(sch.get_loops(final))
    sch.compute_at(accumulate, item_y, preserve_unit_loops=True)
    k, *result = sch.get_loops(accumulate)[depth:]
    few, part = sch.split(k, [None, parts])
    sch.reorder(*result, few, part)
    sch.bind(part, "threadIdx.x")
    # 4. Before that, each item sums a few steps at a time, and shares its sums.
    sch.compute_at(shared, group_x, preserve_unit_loops=True)
    *_, z, r, c, k = sch.get_loops(shared)
    sch.reorder(k, z, r, c)
    item_y, item_x = sch.split(k, [None, parts])
    sch.bind(item_y, "threadIdx.y")
    sch.bind(item_x, "threadIdx.x")
    for loop in (r, c):
        sch.unroll(loop)
    sch.compute_at(partial, item_x, preserve_unit_loops=True)
    stretches = _read_by_stretches(sch, partial)
    *_, r, c, step = sch.get_loops(partial)
    together = min([_IN_FLIGHT, *(_READ_TOGETHER // n for n in stretches.values())])
    steps, near = split("near", step, max(1, together))
    vector, lane = sch.split(c, [None, tile.lanes])
    sch.reorder(steps, near, r, vector, lane)
    for loop in (near, r, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    # What an item reads several neighbours of at a step, it reads as vectors.
    for number in stretches:
        cached = sch.cache_read(partial, number, "local")
        sch.compute_at(cached, near, preserve_unit_loops=True)
        rest, lane = sch.split(sch.get_loops(cached)[-1], [None, tile.lanes])
        sch.unroll(rest)
        sch.vectorize(lane)
    sch.decompose_reduction(partial, steps)


def _read_by_stretches(sch: s_tir.Schedule, block: Any) -> dict[int, int]:
    """The buffers of which one instance of `block` reads neighbours: their numbers, how many."""
    extents = {n: read.region[-1].extent for n, read in enumerate(sch.get(block).reads)}
    return {n: int(e) for n, e in extents.items() if isinstance(e, tirx.IntImm) and int(e) > 1}
