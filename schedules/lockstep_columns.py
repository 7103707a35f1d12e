"""Reductions over long columns where work-items run in lockstep: items share a column.

    groups of [items along the column, neighbouring columns]

Each item adds up every so many rows; neighbours read neighbouring memory. The sums of a column
meet in local memory. A short column is one item's (`column_reduction.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from tvm import s_tir, tirx

from schedules.blocks import axes, extent
from schedules.column_reduction import WINDOW_MAX_TAPS, take_columns
from schedules.register_tile import TILE_ATTR
from schedules.rule import Rule
from target_specs.spec import GpuSpec

_COLUMNS = 16  # 64 bytes of 32-bit numbers
_ITEMS = 16


class LockstepColumns(Rule):
    """One reduction over a column, and element-wise blocks around it."""

    kind: ClassVar[str] = "opencl"
    # TVM reduces across work-items only from the finite extremes, which it knows.
    takes_infinities: ClassVar[bool] = False

    def __init__(self, gpu: GpuSpec) -> None:
        self.answers = gpu.wave_size > 1 and gpu.max_work_group_size >= _COLUMNS * _ITEMS

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where columns are short, and for contractions, whose result is padded."""
        if not self.answers:
            return None
        sch = s_tir.Schedule(func)
        found = take_columns(sch)
        if found is None or TILE_ATTR in sch.get(found[0]).annotations:
            return None
        if math.prod(extent(sch, loop) for loop in axes(sch, found[0])[1]) <= WINDOW_MAX_TAPS:
            return None
        sizes = {"columns": _COLUMNS, "rows": _ITEMS}
        share_columns(
            sch, *found, lambda name, loop: (*sch.split(loop, [None, sizes[name]]), sizes[name])
        )
        return sch


# Cuts the loop of a name in two; and what the inner one's extent is, a number or an expression.
Split = Callable[[str, Any], tuple[Any, Any, Any]]


def share_columns(sch: s_tir.Schedule, reduction: Any, final: Any, split: Split) -> None:
    """Let the items of a group share columns.

    Args:
        sch: the schedule.
        reduction: the block that sums, and `final` what follows it, as `take_columns` gives them.
        split: cuts "columns" into groups and neighbours, "rows" into steps and items.
    """
    sch.set_scope(reduction, 0, "shared")
    (*outer, column), reduced = axes(sch, reduction)
    row = sch.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    strips, near, neighbours = split("columns", column)
    steps, item, _ = split("rows", row)
    sch.reorder(*outer, strips, near, item, steps)
    group = sch.fuse(*outer, strips)
    sch.bind(group, "blockIdx.x")
    sch.bind(near, "threadIdx.x")
    sch.bind(item, "threadIdx.y")
    sch.reverse_compute_at(final, group, preserve_unit_loops=True)
    _, near = sch.split(sch.get_loops(final)[-1], [None, neighbours])
    sch.bind(near, "threadIdx.x")
