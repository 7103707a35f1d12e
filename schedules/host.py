"""Schedules for the kernels that stay on the CPU, compiled by LLVM.

Two uses: operators that neither the GPU nor the NPU takes, and the evaluation of a whole module on
the CPU by the import self-check. Both need loops that LLVM's vectoriser understands: the innermost
loop walks contiguous memory, and no reduction is innermost where a spatial loop can be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule

from schedules.blocks import leaf_blocks
from schedules.rule import Rule

# Below this many executions of a block the thread pool costs more than it saves.
_PARALLEL_MIN_STEPS = 1 << 18
# Outputs that accumulate together: 64 float32 are four AVX-512 or sixteen NEON registers.
_ACCUMULATORS = 64


class HostLoops(Rule):
    """Reorder every block's loops to `parallel spatial, reduction, contiguous spatial`.

    Element-wise blocks are inlined first. A block that a primitive refuses (data-dependent
    bounds, opaque bodies such as sort) keeps the loops that it came with.
    """

    kind: ClassVar[str] = "llvm"

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """Always answers: a function without a known block is returned as it is."""
        sch = s_tir.Schedule(func)
        if "root" not in _block_names(func):
            return sch
        for block in leaf_blocks(sch):
            _attempt(sch, _inline, block)
        for block in leaf_blocks(sch):
            _attempt(sch, _order_loops, block)
        return sch


def host_rules() -> list[ScheduleRule]:
    """The rules for LLVM, in order; the last one always answers.

    Use: `with target: mod = dlight.ApplyDefaultSchedule(*host_rules())(mod)`.
    """
    return [HostLoops()]


def _block_names(func: tirx.PrimFunc) -> list[str]:
    body = func.body
    return [body.block.name_hint] if isinstance(body, s_tir.SBlockRealize) else []


def _attempt(
    sch: s_tir.Schedule, change: Callable[[s_tir.Schedule, Any], None], block: Any
) -> None:
    """Apply `change` to `block`; a refused primitive leaves the last good state."""
    try:
        change(sch, block)
    except s_tir.ScheduleError:
        return


def _inline(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    """Inline a producer that only renames or combines elements (no reduction, one consumer)."""
    consumers = sch.get_consumers(block)
    reduces = any(int(var.iter_type) != tirx.IterVar.DataPar for var in sch.get(block).iter_vars)
    if len(consumers) == 1 and not reduces:
        sch.compute_inline(block)


def _order_loops(sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV) -> None:
    loops = sch.get_loops(block)
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    extents = [sch.get(loop).extent for loop in loops]
    if len(kinds) != len(loops) or not all(isinstance(n, tirx.IntImm) for n in extents):
        return  # the block's variables are not its loops one to one
    if any(kind not in (tirx.IterVar.DataPar, tirx.IterVar.CommReduce) for kind in kinds):
        return
    steps = 1
    for extent in extents:
        steps *= int(extent)
    spatial = [lp for lp, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduced = [lp for lp in loops if lp not in spatial]
    if not spatial:
        return
    *outer, inner = spatial
    if reduced:
        tile, inner = sch.split(inner, [None, min(_ACCUMULATORS, int(sch.get(inner).extent))])
        outer = [*outer, tile]
        sch.reorder(*outer, *reduced, inner)
    if outer and steps >= _PARALLEL_MIN_STEPS:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
    if reduced:  # last: a parallel loop over both halves would be refused
        sch.decompose_reduction(block, reduced[0])
