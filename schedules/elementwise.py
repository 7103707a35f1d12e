"""Injective kernels: element-wise arithmetic, broadcasts, copies, transposes, gathers, resizes.

Vectors run along the last axis where it can be cut into whole ones. On a device that runs
work-items in lockstep, one item computes one vector and neighbours touch neighbouring memory; where
an item is a core, it walks a stretch of rows in plain loops, whose indices need no division.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir.prim import expr as prim

from schedules.blocks import extent, is_reduction
from schedules.conditions import is_bool
from schedules.rule import Rule
from target_specs.spec import GpuSpec

# On a short axis, a vector shorter than this is not worth its index arithmetic.
_MIN_LANES = 4
_SHORT_AXIS = 16
_COMPARISONS = (prim.LT, prim.LE, prim.GT, prim.GE, prim.EQ, prim.NE)
# Elements of one work-item where a work-item is a core: a group costs some 12 ns to start.
_STRETCH = 2048


class Elementwise(Rule):
    """Fuse all loops of an injective PrimFunc into groups, items and vectors.

    Declines reductions and functions with several results of different shapes.
    """

    kind: ClassVar[str] = "opencl"

    def __init__(self, gpu: GpuSpec) -> None:
        self.serial = gpu.wave_size == 1
        self.items = min(4 * gpu.wave_size, gpu.max_work_group_size)
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
        if len(loops) > 1 and is_flat(sch, block):
            loops = [sch.fuse(*loops)]
        lanes = uniform_lanes(sch, block, math.gcd(extent(sch, loops[-1]), self.lanes))
        if is_bool(sch.get(block).writes[0].source):
            lanes = 1
        short = len(loops) > 1 and extent(sch, loops[-1]) <= _SHORT_AXIS
        inner = None
        if lanes >= (_MIN_LANES if short else 2):
            strips, inner = sch.split(loops[-1], [None, lanes])
            sch.vectorize(inner)
            loops = [*loops[:-1], strips]
        elif (
            short and extent(sch, loops[-1]) > 1
        ):  # a pixel of few channels: index arithmetic once for all of them
            *loops, inner = loops
            sch.unroll(inner)
        # Loops of no steps cannot be fused, and need no items.
        if self.serial or any(extent(sch, loop) == 0 for loop in loops):
            self._bind_serial(sch, loops, 1 if inner is None else extent(sch, inner))
        else:
            self._bind_wide(sch, loops)

    def _bind_wide(self, sch: s_tir.Schedule, loops: list[Any]) -> None:
        """One work-item per step of `loops`."""
        work = sch.fuse(*loops) if len(loops) > 1 else loops[0]
        group, item = sch.split(work, [None, min(self.items, extent(sch, work))])
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")

    def _bind_serial(self, sch: s_tir.Schedule, loops: list[Any], lanes: int) -> None:
        """One work-item, alone in its group, per stretch of rows."""
        outer, steps = list(loops), lanes
        while outer and steps < _STRETCH:
            steps *= extent(sch, outer[-1])
            innermost = outer.pop()
        if steps > 2 * _STRETCH:
            rest = steps // extent(sch, innermost)
            part, _ = sch.split(innermost, [None, max(1, _STRETCH // rest)])
            outer.append(part)
        if not outer:
            outer = [sch.add_unit_loop(loops[0])]
        sch.bind(sch.fuse(*outer) if len(outer) > 1 else outer[0], "blockIdx.x")


def is_flat(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether every operand is a single value or read at the very place that is written."""
    statement = sch.get(block)
    place = [var.var for var in statement.iter_vars]
    shape = [int(n) for n in statement.writes[0].source.shape]
    flat: list[bool] = [[int(var.dom.extent) for var in statement.iter_vars] == shape]

    def visit(load: ir.TensorLoad) -> None:
        single = all(int(n) == 1 for n in load.source.shape)
        here = [int(n) for n in load.source.shape] == shape and all(
            index.same_as(var) or (int(n) == 1 and isinstance(index, tirx.IntImm))
            for index, var, n in zip(load.indices, place, shape, strict=True)
        )
        flat.append(single or here)

    tvm_ffi.structural_walk(statement.body, (ir.TensorLoad, visit))
    return all(flat)


def uniform_lanes(sch: s_tir.Schedule, block: Any, lanes: int) -> int:
    """`lanes`, cut so that no condition on the last axis changes its answer inside a vector.

    A concat or a pad compares the axis with constants; a vector across such a border would be
    taken apart element by element.
    """
    statement = sch.get(block)
    axis = statement.iter_vars[-1].var
    borders: list[int] = []

    def visit(check: Any) -> None:
        used: list[bool] = []
        constants: list[int] = []
        tvm_ffi.structural_walk(check, (tirx.Var, lambda var: used.append(var.same_as(axis))))
        tvm_ffi.structural_walk(check, (tirx.IntImm, lambda n: constants.append(int(n))))
        if any(used):
            borders.extend(constants)

    tvm_ffi.structural_walk(statement.body, (_COMPARISONS, visit))
    return math.gcd(lanes, *borders)
