"""Reductions whose last output axis is contiguous in the input: vectors run along that axis.

Channels last, this is depthwise convolution, pooling, the mean over height and width, a sum over
rows: every load is a whole vector whatever the stride or the window. Also the last resort for a
contraction that carries no register tile.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import tvm_ffi
from tvm import ir, s_tir, tirx

from schedules.blocks import (
    annotate_unroll,
    axes,
    extent,
    follow_accumulator,
    inline_all_but,
    is_reduction,
)
from schedules.conditions import is_bool
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# Neighbouring outputs of one work-item: they share the loads of overlapping windows.
_POSITIONS = 4
# A window up to this many taps is a window; more is a plane, where sharing does not pay.
WINDOW_MAX_TAPS = 64
_UNROLL_MAX_TAPS = 25


class ColumnReduction(Rule):
    """One reduction block with a contiguous output axis, and element-wise blocks around it."""

    kind: ClassVar[str] = "opencl"

    def __init__(self, gpu: GpuSpec) -> None:
        self.lanes = min(gpu.vector_width, 16)
        self.items = 1 if gpu.wave_size == 1 else min(gpu.wave_size, gpu.max_work_group_size)

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where there is not exactly one reduction, or it reduces the contiguous axis."""
        sch = s_tir.Schedule(func)
        found = take_columns(sch)
        if found is None:
            return None
        self._tile(sch, *found)
        return sch

    def _tile(self, sch: s_tir.Schedule, reduction: Any, final: Any) -> None:
        sch.set_scope(reduction, 0, "local")
        # 1. Vectors along the last output axis, a few neighbours along the one before.
        (*outer, column), reduced = axes(sch, reduction)
        taps = math.prod(extent(sch, loop) for loop in reduced)
        strips, lane = sch.split(column, [None, math.gcd(extent(sch, column), self.lanes)])
        position = None
        if outer and taps <= WINDOW_MAX_TAPS:
            count = max(n for n in range(1, _POSITIONS + 1) if extent(sch, outer[-1]) % n == 0)
            outer[-1], position = sch.split(outer[-1], [None, count])
        inner = [lane] if position is None else [position, lane]
        sch.reorder(*outer, strips, *reduced, *inner)
        # 2. Everything else is independent work.
        work = sch.fuse(*outer, strips)
        # No more items than there is work: TVM drops the final block's condition where it can tell
        # what the only item with work writes, and then the others would write it too.
        group, item = sch.split(work, [None, min(self.items, extent(sch, work))])
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")
        sch.reverse_compute_at(final, item, preserve_unit_loops=True)
        # 3. Whole vectors in and out; windows as straight-line code.
        stored = sch.get_loops(final)[-1]
        whole = extent(sch, lane) > 1 and extent(sch, stored) == extent(sch, lane)
        if whole and not is_bool(sch.get(final).writes[0].source):
            sch.vectorize(stored)
        if extent(sch, lane) > 1:
            sch.vectorize(lane)
        if position is not None:
            sch.unroll(position)
        annotate_unroll(sch, reduced, _UNROLL_MAX_TAPS)
        sch.decompose_reduction(reduction, reduced[0])


def take_columns(sch: s_tir.Schedule) -> tuple[Any, Any] | None:
    """The reduction over columns and the block that has its result; all others are inlined.

    None where there is not exactly one reduction, it reduces the contiguous axis, or its
    epilogue reduces.
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    places = [place for place, block in enumerate(blocks) if is_reduction(sch, block)]
    if len(places) != 1:
        return None
    reduction = blocks[places[0]]
    if not walks_contiguously(sch, reduction):
        return None
    for block in blocks[: places[0]]:
        sch.compute_inline(block)
    # Without an epilogue, the result goes through registers all the same.
    after = blocks[places[0] + 1 :] or [sch.cache_write(reduction, 0, "local")]
    final = inline_all_but(sch, reduction, [reduction, *after])
    if final is None:
        return None
    follow_accumulator(sch, reduction, final)
    return reduction, final


def walks_contiguously(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether the last data-parallel axis is the last index of every load that uses it."""
    statement = sch.get(block)
    spatial = [v.var for v in statement.iter_vars if int(v.iter_type) == tirx.IterVar.DataPar]
    if not spatial:
        return False
    axis = spatial[-1]
    result = statement.writes[0].source
    uses: list[bool] = []

    def visit(load: ir.TensorLoad) -> None:
        if load.source.same_as(result):
            return
        *leading, last = load.indices
        if any(_mentions(index, axis) for index in leading):
            uses.append(False)
        elif _mentions(last, axis):
            uses.append(True)

    tvm_ffi.structural_walk(statement.body, (ir.TensorLoad, visit))
    return bool(uses) and all(uses)


def _mentions(expr: tirx.Expr, var: tirx.Var) -> bool:
    found: list[bool] = []
    tvm_ffi.structural_walk(expr, (tirx.Var, lambda v: found.append(v.same_as(var))))
    return any(found)
