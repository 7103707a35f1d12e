"""Transposes where work-items run in lockstep: square tiles through local memory.

    out[.., i, .., j] = f(in[.., j, .., i], ..)      items along j write, items along i read

Neighbours touch neighbouring memory on both sides. Element-wise arithmetic may surround it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import tvm_ffi
from tvm import ir, s_tir, tirx

from schedules.blocks import extent, is_reduction
from schedules.rule import Rule
from target_specs.spec import GpuSpec

_EDGE = 32  # of a tile; and of local memory, in banks of 32 bits
_ROWS = 8  # of a tile that the items of a group take at a time
# A shorter axis would leave most of a tile empty.
_SHORTEST = 16


class LockstepTranspose(Rule):
    """One result, one operand of which has another last axis than the result."""

    kind: ClassVar[str] = "opencl"

    def __init__(self, gpu: GpuSpec) -> None:
        tile = 8 * _EDGE * (_EDGE + 1)  # bytes, of the widest elements
        fits = _EDGE * _ROWS <= gpu.max_work_group_size and tile <= gpu.local_memory_bytes
        self.answers = gpu.wave_size > 1 and fits

    def schedule(self, func: tirx.PrimFunc) -> s_tir.Schedule | None:
        """None where nothing is transposed, or an axis of the tile is short."""
        if not self.answers:
            return None
        sch = s_tir.Schedule(func)
        found = take_transpose(sch)
        if found is None:
            return None
        tile_transpose(sch, *found, edge=_EDGE, rows=_ROWS)
        return sch


def take_transpose(sch: s_tir.Schedule) -> tuple[Any, int, int] | None:
    """The one block that is left when others are inlined, the operand that it reads across, and
    along which axis; None where nothing is transposed, or an axis of the tile is short.
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if not blocks or any(is_reduction(sch, block) for block in blocks):
        return None
    *before, block = blocks
    if any(not sch.get_consumers(other) for other in before):
        return None
    for other in before:
        sch.compute_inline(other)
    found = _transposed(sch, block)
    if found is None:
        return None
    operand, axis = found
    loops = sch.get_loops(block)
    if min(extent(sch, loops[axis]), extent(sch, loops[-1])) < _SHORTEST:
        return None
    return block, operand, axis


def tile_transpose(
    sch: s_tir.Schedule, block: Any, operand: int, axis: int, *, edge: Any, rows: Any
) -> None:
    """Schedule what `take_transpose` gave.

    Args:
        sch: the schedule.
        block, operand, axis: as given.
        edge: of a tile, and items of a group along it; a number or an expression.
        rows: of a tile that the items of a group take at a time; likewise.
    """
    loops = sch.get_loops(block)
    tile_i, i = sch.split(loops[axis], [None, edge])
    tile_j, j = sch.split(loops[-1], [None, edge])
    around = [loop for n, loop in enumerate(loops[:-1]) if n != axis]
    sch.reorder(*around, tile_i, tile_j, i, j)
    group = sch.fuse(*around, tile_i, tile_j)
    sch.bind(group, "blockIdx.x")
    copy = sch.cache_read(block, operand, "shared")
    sch.compute_at(copy, group, preserve_unit_loops=True)
    sides = [loop for loop in sch.get_loops(copy)[1:] if extent(sch, loop) > 1]
    for down, across in ((i, j), sides):
        _bind(sch, down, across, edge, rows)
    # One element beside each row: a column then lies in banks of its own.
    sch.storage_align(copy, 0, -2, _EDGE, 1)


def _bind(sch: s_tir.Schedule, down: Any, across: Any, edge: Any, rows: Any) -> None:
    """The group's items to a tile, which may be narrower than the group at an axis' end."""
    _, row = sch.split(down, [None, rows])
    _, column = sch.split(across, [None, edge])
    sch.bind(row, "threadIdx.y")
    sch.bind(column, "threadIdx.x")


def _transposed(sch: s_tir.Schedule, block: Any) -> tuple[int, int] | None:
    """The number of the largest operand read across the result's last axis, and along which."""
    statement = sch.get(block)
    places = [var.var for var in statement.iter_vars]
    loads: list[tuple[Any, list[Any]]] = []

    def read(load: ir.TensorLoad) -> None:
        loads.append((load.source, list(load.indices)))

    tvm_ffi.structural_walk(statement.body, (ir.TensorLoad, read))
    best: tuple[int, int, int] | None = None
    for number, region in enumerate(statement.reads):
        indices = [at for source, at in loads if source.same_as(region.source)]
        if len(indices) != 1 or not indices[0]:
            continue
        axes = [_place(places, index) for index in indices[0]]
        last = len(places) - 1
        across = axes[-1]
        if across is None or across == last or last not in axes:
            continue
        if None in axes or len(set(axes)) < len(axes):
            continue
        size = math.prod(int(n) for n in region.source.shape)
        if best is None or size > best[0]:
            best = (size, number, across)
    return None if best is None else best[1:]


def _place(places: list[Any], index: tirx.Expr) -> int | None:
    return next((n for n, var in enumerate(places) if index.same_as(var)), None)
