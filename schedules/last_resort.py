"""The rule that always answers: every block is a kernel of its own, one work-item per result.

Nothing is inlined or moved, so it is right for any function whose blocks it can see, including a
`contraction` whose own rule declined: its padded result then goes through memory.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tvm import s_tir, tirx

from schedules.blocks import extent, leaf_blocks
from schedules.rule import Rule
from target_specs.spec import GpuSpec


class LastResort(Rule):
    """Bind the data-parallel loops of each block; reductions run inside the work-item."""

    kind: ClassVar[str] = "opencl"
    takes_pairs: ClassVar[bool] = True

    def __init__(self, gpu: GpuSpec) -> None:
        self.items = min(max(64, gpu.wave_size), gpu.max_work_group_size)

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None only where a block's loops are not its own."""
        sch = s_tir.Schedule(func)
        blocks = leaf_blocks(sch)
        read = [region.source for block in blocks for region in sch.get(block).reads]
        made = list(sch.get(sch.get_sblock("root")).alloc_buffers)
        for block in blocks:
            self._bind(sch, block)
            for index, region in enumerate(sch.get(block).writes):
                # What nobody else reads, as the values beside an argmin's indices, is the item's.
                if _is_in(region.source, made) and not _is_in(region.source, read):
                    sch.set_scope(block, index, "local")
        return sch

    def _bind(self, sch: s_tir.Schedule, block: Any) -> None:
        loops = sch.get_loops(block)
        kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
        if len(kinds) != len(loops):  # loops that the block does not name: all stay serial
            kinds = [tirx.IterVar.CommReduce] * len(loops)
        spatial = [
            loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar
        ]
        if spatial:
            sch.reorder(*spatial, *(loop for loop in loops if loop not in spatial))
            work = sch.fuse(*spatial) if len(spatial) > 1 else spatial[0]
        else:
            work = sch.add_unit_loop(loops[0] if loops else block)
        group, item = sch.split(work, [None, min(self.items, extent(sch, work))])
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")


def _is_in(buffer: tirx.Buffer, buffers: list[tirx.Buffer]) -> bool:
    return any(buffer.same_as(other) for other in buffers)
