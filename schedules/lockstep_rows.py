"""Rows across the work-items of a group, for devices that run them in lockstep: the sketch.

    groups of [rows side by side, items along a row]

Softmax, norms and reductions over the last axes are passes over a row: each reduction is one that
the items of its row share, and each of them gets the result. What is computed element by element
between two passes is computed in both, or kept in local memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import s_tir

from schedules.blocks import extent, is_reduction
from schedules.column_reduction import walks_contiguously
from schedules.register_tile import TILE_ATTR

# Groups and neighbours of the loop over all rows.
SplitRows = Callable[[Any], list[Any]]
# Of a row's length: how many items share it and how many steps are unrolled, as `pick` gives them.
Sharing = Callable[[int], tuple[Any, Any]]


def share_rows(sch: s_tir.Schedule, split: SplitRows, sharing: Sharing, *, kept: bool) -> None:
    """Schedule a function of passes over rows.

    Args:
        sch: the schedule.
        split: cuts the loop over rows into groups and the rows of one.
        sharing: how the items of a group share a row.
        kept: values between two passes are kept in local memory, not computed in both.

    Raises:
        ScheduleError: the function is none of rows, or nothing could be kept.
    """
    stages, final = _take_rows(sch, kept=kept)
    reduction = next(block for block in stages if is_reduction(sch, block))
    count, length = _row_shape(sch, reduction)
    # 1. Rows are groups; without columns the result is one item's.
    loops = sch.get_loops(final)
    rows = _leading([extent(sch, loop) for loop in loops], count)
    if rows == len(loops):
        sch.add_unit_loop(final)
    rest, near = split(loops[rows - 1])
    group = sch.fuse(*loops[: rows - 1], rest) if rows > 1 else rest
    sch.bind(group, "blockIdx.x")
    sch.bind(near, "threadIdx.y")
    # 2. All passes are made by the same items.
    items, unrolled = sharing(length)
    _share(sch, _inside(sch, final, near), items, unrolled)
    for stage in reversed(stages):
        sizes = [int(var.dom.extent) for var in sch.get(stage).iter_vars]
        rows = _leading(sizes, count)
        # A result in local memory would need a barrier, which TVM leaves out: it sees one address
        # for each row, and takes the row's items for one.
        sch.set_scope(stage, 0, "local" if is_reduction(sch, stage) else "shared")
        sch.compute_at(stage, group, preserve_unit_loops=True)
        inside = _inside(sch, stage, group)
        work = [extent(sch, loop) for loop in inside]
        if len(inside) != len(sizes) or math.prod(work[:rows]) != extent(sch, near):
            raise s_tir.ScheduleError("a group would work on more than its rows")
        sch.bind(sch.fuse(*inside[:rows]) if rows > 1 else inside[0], "threadIdx.y")
        _share(sch, inside[rows:], items, unrolled)


def _take_rows(sch: s_tir.Schedule, *, kept: bool) -> tuple[list[Any], Any]:
    """The passes, and the block that stores the result."""
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if any(TILE_ATTR in sch.get(block).annotations for block in blocks):
        raise s_tir.ScheduleError("a contraction has sketches of its own")
    if not any(is_reduction(sch, block) for block in blocks):
        raise s_tir.ScheduleError("nothing is reduced")
    if any(not sch.get_consumers(block) for block in blocks[:-1]):
        raise s_tir.ScheduleError("more than one result")
    *others, final = blocks
    if is_reduction(sch, final):
        others.append(final)
        final = sch.cache_write(final, 0, "global")
    (first, *_) = (block for block in others if is_reduction(sch, block))
    if walks_contiguously(sch, first):
        raise s_tir.ScheduleError("columns, not rows")
    count, length = _row_shape(sch, first)
    stages = []
    for block in others:
        size = math.prod(int(var.dom.extent) for var in sch.get(block).iter_vars)
        again = len(sch.get_consumers(block)) > 1 and size == count * length
        if is_reduction(sch, block) or (kept and again):
            stages.append(block)
        else:
            sch.compute_inline(block)
    if kept and all(is_reduction(sch, block) for block in stages):
        raise s_tir.ScheduleError("nothing to keep")
    return stages, final


def _row_shape(sch: s_tir.Schedule, reduction: Any) -> tuple[int, int]:
    """How many rows a reduction has, and how long they are."""
    count = length = 1
    ended = False
    for var in sch.get(reduction).iter_vars:
        size = int(var.dom.extent)
        if int(var.iter_type) == 0:
            if ended and size > 1:
                raise s_tir.ScheduleError("a reduction that is not over the last axes")
            count *= size
        else:
            ended, length = True, length * size
    return count, length


def _leading(sizes: list[int], count: int) -> int:
    """How many of the first axes count the rows."""
    product = 1
    for place, size in enumerate(sizes, start=1):
        product *= size
        if product == count:
            return place
    raise s_tir.ScheduleError("the leading axes are not the rows")


def _inside(sch: s_tir.Schedule, block: Any, around: Any) -> list[Any]:
    """The loops of `block` inside of `around`."""
    loops = sch.get_loops(block)
    place = next(n for n, loop in enumerate(loops) if sch.get(loop).same_as(sch.get(around)))
    return loops[place + 1 :]


def _share(sch: s_tir.Schedule, inside: list[Any], items: Any, unrolled: Any) -> None:
    """One pass of a row's items over it."""
    steps = sch.fuse(*inside) if len(inside) > 1 else inside[0]
    step, item = sch.split(steps, [None, items])
    sch.reorder(item, step)
    sch.bind(item, "threadIdx.x")
    sch.annotate(step, "pragma_auto_unroll_max_step", unrolled)
    sch.annotate(step, "pragma_unroll_explicit", 1)
