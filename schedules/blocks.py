"""Small steps that several schedule rules share. Blocks and loops are schedule handles."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx


def is_reduction(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether any iteration variable of `block` is not data-parallel."""
    return any(int(var.iter_type) != tirx.IterVar.DataPar for var in sch.get(block).iter_vars)


def extent(sch: s_tir.Schedule, loop: Any) -> int:
    """The trip count of `loop`, which must be known."""
    return int(sch.get(loop).extent)


def axes(sch: s_tir.Schedule, block: Any) -> tuple[list[Any], list[Any]]:
    """The data-parallel and the reduced loops of a block whose variables are its loops."""
    loops = sch.get_loops(block)
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    if len(kinds) != len(loops):
        raise s_tir.ScheduleError("the block's variables are not its loops one to one")
    pairs = list(zip(loops, kinds, strict=True))
    spatial = [loop for loop, kind in pairs if kind == tirx.IterVar.DataPar]
    return spatial, [loop for loop, kind in pairs if kind != tirx.IterVar.DataPar]


def inline_all_but(sch: s_tir.Schedule, kept: Any, blocks: list[Any]) -> Any | None:
    """Inline every other block into the last of `blocks`; None where one of them reduces."""
    name = sch.get(kept).name_hint
    others = [block for block in blocks if sch.get(block).name_hint != name]
    if not others or any(is_reduction(sch, block) for block in others):
        return None
    *inner, final = others
    for block in inner:
        sch.compute_inline(block)
    return final


def follow_accumulator(sch: s_tir.Schedule, accumulate: Any, final: Any) -> None:
    """Make `final` iterate as the block `accumulate` does, whose result it reads at one place."""
    buffer = sch.get(accumulate).writes[0].source
    first, *_ = _indices_of(sch, final, buffer)
    variables = [var.var for var in sch.get(final).iter_vars]
    sch.transform_block_layout(final, tirx.IndexMap(variables, first, None))
    # The schedule places `final` by these variables: they must be the indices themselves, not
    # expressions that happen to be equal to them, which TVM may fail to see.
    places = [var.var for var in sch.get(final).iter_vars]
    for indices in _indices_of(sch, final, buffer):
        for index, var in zip(indices, places, strict=True):
            if not index.same_as(var) and not (isinstance(index, tirx.IntImm) and int(index) == 0):
                raise s_tir.ScheduleError(f"the epilogue reads the accumulator at {index}")


def _indices_of(sch: s_tir.Schedule, block: Any, buffer: tirx.Buffer) -> list[list[tirx.Expr]]:
    """Where `block` reads `buffer`."""
    indices: list[list[tirx.Expr]] = []

    def visit(load: ir.TensorLoad) -> None:
        if load.source.same_as(buffer):
            indices.append(list(load.indices))

    tvm_ffi.structural_walk(sch.get(block).body, (ir.TensorLoad, visit))
    return indices


def annotate_unroll(sch: s_tir.Schedule, loops: list[Any], max_steps: int) -> None:
    """Unroll the innermost of `loops` while the copies stay at most `max_steps`."""
    steps = 1
    for loop in reversed(loops):
        steps *= extent(sch, loop)
        if steps > max_steps:
            return
        sch.unroll(loop)


def leaf_blocks(sch: s_tir.Schedule) -> list[Any]:
    """Blocks that contain no other block, in program order."""
    leaves: list[Any] = []
    pending = [sch.get_sblock("root")]
    while pending:
        block = pending.pop()
        children = sch.get_child_blocks(block)
        if children:
            pending.extend(reversed(children))
        elif sch.get(block).name_hint != "root":
            leaves.append(block)
    return leaves
