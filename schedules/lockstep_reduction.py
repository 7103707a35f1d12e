"""Reductions across the work-items of a group, for devices that run them in lockstep.

The schedules are TVM's own (dlight); this rule only says when they may be asked, and writes the
result of a maximum or minimum by a block of its own, without which they take sums only.
"""

from __future__ import annotations

from typing import ClassVar

from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.target import Target

from schedules.blocks import is_reduction, leaf_blocks
from schedules.register_tile import TILE_ATTR
from schedules.rule import Rule
from target_specs.spec import GpuSpec


class LockstepReduction(Rule):
    """One group per row, its items across the row; declines where an item is a core."""

    kind: ClassVar[str] = "opencl"
    # TVM reduces across work-items only from the finite extremes, which it knows.
    takes_infinities: ClassVar[bool] = False

    def __init__(self, gpu: GpuSpec) -> None:
        self.lockstep = gpu.wave_size > 1
        self.rules = (dlight.gpu.GeneralReduction(), dlight.gpu.Reduction())

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None for contractions too: inlining their padded result would be wrong."""
        if not self.lockstep:
            return None
        sch = s_tir.Schedule(func)
        if any(TILE_ATTR in sch.get(block).annotations for block in leaf_blocks(sch)):
            return None
        target = Target.current()
        for form in (lambda: func, lambda: _stored_apart(func)):
            for rule in self.rules:
                answer = rule.apply(form(), target, False)
                if answer is not None:
                    return answer
        return None


def _stored_apart(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func`, whose last block copies what the one before it reduced."""
    sch = s_tir.Schedule(func)
    last = leaf_blocks(sch)[-1]
    if is_reduction(sch, last):
        sch.cache_write(last, 0, "global")
    return sch.mod["main"]
