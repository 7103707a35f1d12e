"""Injective kernels: element-wise arithmetic, broadcasts, copies, transposes, gathers, resizes.

One work-item computes one vector along the last axis where that axis can be cut into whole
vectors, else one element; neighbouring work-items touch neighbouring memory.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tvm import s_tir, tirx

from schedules.blocks import extent, is_reduction
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# A vector shorter than this is not worth its edge code.
_MIN_LANES = 2
# Work-items of a group on a CPU: one group is one task of the driver's thread pool.
_CPU_ITEMS = 64


class Elementwise(Rule):
    """Fuse all loops of an injective PrimFunc into groups, items and vectors.

    Declines reductions and functions with several results of different shapes.
    """

    kind: ClassVar[str] = "opencl"

    def __init__(self, gpu: GpuSpec) -> None:
        wanted = _CPU_ITEMS if gpu.wave_size == 1 else 4 * gpu.wave_size
        self.items = min(wanted, gpu.max_work_group_size)
        self.lanes = min(gpu.vector_width, 16)

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where a block reduces."""
        sch = s_tir.Schedule(func)
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
        if not blocks or any(is_reduction(sch, block) for block in blocks):
            return None
        outputs = [block for block in blocks if not sch.get_consumers(block)]
        for block in blocks:
            if sch.get_consumers(block):
                sch.compute_inline(block)
        for block in outputs:
            self._tile(sch, block)
        return sch

    def _tile(self, sch: s_tir.Schedule, block: Any) -> None:
        loops = sch.get_loops(block)
        if not loops:
            loops = [sch.add_unit_loop(block)]
        lanes = math.gcd(extent(sch, loops[-1]), self.lanes)
        vector = None
        if lanes >= _MIN_LANES:
            strips, vector = sch.split(loops[-1], [None, lanes])
            loops = [*loops[:-1], strips]
        work = sch.fuse(*loops) if len(loops) > 1 else loops[0]
        group, item = sch.split(work, [None, min(self.items, extent(sch, work))])
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")
        if vector is not None:
            sch.vectorize(vector)
