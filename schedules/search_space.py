"""Every schedule that is tried for a kernel: a few sketches, each with tile sizes left open.

A sketch is written like a rule, with `choose.split(...)` where a rule has its own sizes:

    contraction   groups, items, register tile, vector lanes, blocks and stretches of depth (and
                  the left side in local memory, where work-items run in lockstep)
    row           rows of one work-item and of one group
    column        lanes, neighbours, items of a reduction whose result is contiguous
    elementwise   lanes, items and stretches, loops fused or kept

What the sizes may be comes from the spec of the device (`limits`). What a default schedule chooses
is a point of its sketch, and is tried first (`seeds`). All choices are perfect tiles, which divide
a loop without a rest, so TVM's own mutator can change them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from schedules.blocks import (
    annotate_unroll,
    axes,
    extent,
    follow_accumulator,
    inline_all_but,
    is_reduction,
)
from schedules.byte_vectors import touches_bytes
from schedules.column_reduction import walks_contiguously
from schedules.conditions import is_bool
from schedules.elementwise import is_flat, uniform_lanes
from schedules.register_tile import (
    TILE_ATTR,
    RegisterTile,
    stores_along_rows,
    take_contraction,
)
from schedules.row_reduction import ROW_ATTR, schedule_rows
from schedules.rule import has_pairs, prepared
from target_specs.spec import GpuSpec

Decisions = dict[str, list[int]]  # name of a choice -> factors, outermost first

_SKETCH = "hetero.sketch"
_VECTORS = (1, 2, 4, 8, 16)  # lanes that OpenCL C has a type for, without 3
_MAX_LANES = 16
_MAX_ROWS = 16
_MAX_COPIES = 512  # of a statement by unrolling; more makes drivers' compilers slow, or crash
_MAX_TAPS = 25
# Sums of one work-item: a core keeps a block's in its second-level cache; a work-item that shares a
# core with others has registers only.
_CORE_BYTES = 128 << 10
_ITEM_BYTES = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a kernel may use, from a device's spec. Equal limits make equal search spaces."""

    items: int  # of one work-group
    local_bytes: int  # of one work-group
    private_bytes: int  # of one work-item
    lanes: int
    is_core: bool  # a work-item has a core to itself

    @property
    def text(self) -> str:
        """As part of a database key."""
        kind = "core" if self.is_core else "lockstep"
        return f"{kind} items={self.items} local={self.local_bytes} lanes={self.lanes}"


def limits(gpu: GpuSpec) -> Limits:
    """The limits of a target."""
    is_core = gpu.wave_size == 1
    return Limits(
        items=gpu.max_work_group_size,
        local_bytes=gpu.local_memory_bytes,
        private_bytes=_CORE_BYTES if is_core else _ITEM_BYTES,
        lanes=min(gpu.vector_width if is_core else 4, _MAX_LANES),
        is_core=is_core,
    )


class Choices:
    """Makes the choices of one schedule: sampled, or as decided before."""

    def __init__(self, decided: Mapping[str, Sequence[int]] | None = None) -> None:
        self.decided = decided or {}
        self.names: list[str] = []

    def split(
        self,
        sch: s_tir.Schedule,
        name: str,
        loop: Any,
        parts: int,
        *,
        innermost: int,
    ) -> tuple[list[Any], list[Any]]:
        """Split `loop` into `parts` that divide it; the loops and their sizes (expressions)."""
        self.names.append(name)
        decision = None
        if name in self.decided:
            decision = fitted(self.decided[name], extent(sch, loop), parts, innermost)
        sizes = sch.sample_perfect_tile(
            loop, n=parts, max_innermost_factor=innermost, decision=decision
        )
        return list(sch.split(loop, sizes)), list(sizes)


def fitted(factors: Sequence[int], size: int, parts: int, innermost: int) -> list[int]:
    """`factors` of another loop, made to divide one of `size`: the inner ones first."""
    inner: list[int] = []
    rest = size
    wanted = list(factors)[-(parts - 1) :] if parts > 1 else []
    wanted = [1] * (parts - 1 - len(wanted)) + wanted
    for place, factor in enumerate(reversed(wanted)):
        limit = min(factor, innermost) if place == 0 else factor
        best = max(n for n in range(1, max(1, min(limit, rest)) + 1) if rest % n == 0)
        inner.append(best)
        rest //= best
    return [rest, *reversed(inner)]


Sketch = Callable[[s_tir.Schedule, Choices, Limits], None]


# --- sketches ------------------------------------------------------------------------------------


def _contraction(sch: s_tir.Schedule, choose: Choices, limit: Limits, *, form: str) -> None:
    """`form`: "whole" (a tile's depth at once), "stretched" or "local"."""
    found = take_contraction(sch)
    if found is None:
        raise s_tir.ScheduleError("no contraction, or its epilogue reduces")
    accumulate, final, tile = found
    panel = tile.panel
    along_rows = stores_along_rows(sch, final)
    columns = int(sch.get(final).iter_vars[-1].dom.extent)
    sch.set_scope(accumulate, 0, "local")
    # 1. Groups, items, blocks, and the tile of registers.
    batch, row, column, *depth = sch.get_loops(accumulate)
    padded = extent(sch, column)
    lanes = math.gcd(panel, limit.lanes)
    (group_y, item_y, block_y, r), row_sizes = choose.split(
        sch, "rows", row, 4, innermost=_MAX_ROWS
    )
    (group_x, item_x, block_x, v, lane), column_sizes = choose.split(
        sch, "columns", column, 5, innermost=lanes
    )
    *outer, inner = depth
    (stretch, step, unrolled), _ = choose.split(sch, "depth", inner, 3, innermost=8)
    if form == "whole":
        steps = [block_x, block_y, *outer, stretch, step, unrolled]
    else:
        steps = [*outer, stretch, block_x, block_y, step, unrolled]
    sch.reorder(batch, group_y, group_x, item_y, item_x, *steps, r, v, lane)
    for loop, name in ((batch, "z"), (group_y, "y"), (group_x, "x")):
        sch.bind(loop, f"blockIdx.{name}")
    for loop, name in ((item_y, "y"), (item_x, "x")):
        sch.bind(loop, f"threadIdx.{name}")
    if form == "local":
        _left_in_local_memory(sch, accumulate, stretch, row_sizes[1], column_sizes[1])
    # 2. What follows works on the registers.
    sch.reverse_compute_at(final, item_x, preserve_unit_loops=True)
    *_, row, column = sch.get_loops(final)
    some_rows, one_row = sch.split(row, [None, row_sizes[3]])
    if along_rows or is_bool(sch.get(final).writes[0].source):
        sch.reorder(some_rows, column, one_row)
        straight = [one_row]
    else:
        width = column_sizes[4] if padded == columns else math.gcd(columns, lanes)
        some_columns, part = sch.split(column, [None, width])
        sch.reorder(some_rows, some_columns, one_row, part)
        sch.vectorize(part)
        straight = [one_row]
    # 3. Straight-line code, so that accumulators get register names.
    for loop in (unrolled, r, v, *straight):
        sch.unroll(loop)
    sch.vectorize(lane)
    sch.decompose_reduction(accumulate, steps[0])


def _left_in_local_memory(
    sch: s_tir.Schedule, accumulate: Any, stretch: Any, items_y: Any, items_x: Any
) -> None:
    """The group reads its rows' part of a stretch once, all items side by side."""
    copy = sch.cache_read(accumulate, 0, "shared")
    sch.compute_at(copy, stretch, preserve_unit_loops=True)
    around = sch.get_loops(accumulate)
    inside = [
        loop for loop in sch.get_loops(copy) if not any(_same(sch, loop, other) for other in around)
    ]
    fused = sch.fuse(*inside) if len(inside) > 1 else inside[0]
    _, y, x = sch.split(fused, [None, items_y, items_x])
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")


def _same(sch: s_tir.Schedule, one: Any, other: Any) -> bool:
    return sch.get(one).same_as(sch.get(other))


def _whole(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _contraction(sch, choose, limit, form="whole")


def _stretched(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _contraction(sch, choose, limit, form="stretched")


def _local(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    if limit.is_core:
        raise s_tir.ScheduleError("a core has no memory that is nearer than its caches")
    _contraction(sch, choose, limit, form="local")


def _rows(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if not any(ROW_ATTR in sch.get(block).annotations for block in blocks):
        raise s_tir.ScheduleError("no rows")

    def bind(sch: s_tir.Schedule, row: Any) -> Any:
        (group, item), _ = choose.split(sch, "rows", row, 2, innermost=limit.items)
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")
        return item

    schedule_rows(sch, bind)


def _columns(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    places = [place for place, block in enumerate(blocks) if is_reduction(sch, block)]
    if len(places) != 1 or not walks_contiguously(sch, blocks[places[0]]):
        raise s_tir.ScheduleError("not one reduction over a contiguous result")
    reduction = blocks[places[0]]
    if TILE_ATTR in sch.get(reduction).annotations:
        raise s_tir.ScheduleError("a contraction has sketches of its own")
    for block in blocks[: places[0]]:
        sch.compute_inline(block)
    after = blocks[places[0] + 1 :] or [sch.cache_write(reduction, 0, "local")]
    final = inline_all_but(sch, reduction, [reduction, *after])
    if final is None:
        raise s_tir.ScheduleError("the epilogue reduces")
    follow_accumulator(sch, reduction, final)
    sch.set_scope(reduction, 0, "local")
    (*outer, column), reduced = axes(sch, reduction)
    if not outer:
        outer = [sch.add_unit_loop(column)]
    (strips, lane), (_, lanes) = choose.split(sch, "columns", column, 2, innermost=limit.lanes)
    (rest, neighbour), _ = choose.split(sch, "neighbours", outer[-1], 2, innermost=8)
    sch.reorder(*outer[:-1], rest, strips, *reduced, neighbour, lane)
    work = sch.fuse(*outer[:-1], rest, strips)
    (group, item), _ = choose.split(sch, "groups", work, 2, innermost=limit.items)
    sch.bind(group, "blockIdx.x")
    sch.bind(item, "threadIdx.x")
    sch.reverse_compute_at(final, item, preserve_unit_loops=True)
    if not is_bool(sch.get(final).writes[0].source):
        _, stored = sch.split(sch.get_loops(final)[-1], [None, lanes])
        sch.vectorize(stored)
    sch.vectorize(lane)
    sch.unroll(neighbour)
    annotate_unroll(sch, reduced, _MAX_TAPS)
    sch.decompose_reduction(reduction, reduced[0])


def _elementwise(sch: s_tir.Schedule, choose: Choices, limit: Limits, *, fused: bool) -> None:
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    if not blocks or any(is_reduction(sch, block) for block in blocks):
        raise s_tir.ScheduleError("not element-wise")
    outputs = [block for block in blocks if not sch.get_consumers(block)]
    for block in blocks:
        if sch.get_consumers(block):
            sch.compute_inline(block)
    for number, block in enumerate(outputs):
        loops = sch.get_loops(block) or [sch.add_unit_loop(block)]
        if len(loops) > 1 and is_flat(sch, block):
            loops = [sch.fuse(*loops)]
        *outer, last = loops
        whole = uniform_lanes(sch, block, math.gcd(extent(sch, last), 4 * limit.lanes))
        if is_bool(sch.get(block).writes[0].source):
            whole = 1
        strips, unit = sch.split(last, [None, whole])
        (part, lane), _ = choose.split(sch, f"lanes{number}", unit, 2, innermost=limit.lanes)
        sch.unroll(part)
        sch.vectorize(lane)
        spread = [*outer, strips] if fused or not outer else outer
        work = sch.fuse(*spread) if len(spread) > 1 else spread[0]
        (group, item, _), _ = choose.split(sch, f"work{number}", work, 3, innermost=4096)
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")


def _flat(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _elementwise(sch, choose, limit, fused=True)


def _kept(sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    _elementwise(sch, choose, limit, fused=False)


SKETCHES: dict[str, Sketch] = {
    "whole": _whole,
    "stretched": _stretched,
    "local": _local,
    "rows": _rows,
    "columns": _columns,
    "flat": _flat,
    "kept": _kept,
}


# --- the space of one kernel ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """What can be tried for one kernel."""

    func: tirx.PrimFunc  # as sketches start from it
    limit: Limits
    names: Mapping[str, tuple[str, ...]]  # sketch -> its choices, in order

    def draw(self, sketch: str, decisions: Mapping[str, Sequence[int]]) -> s_tir.Schedule | None:
        """The schedule with these choices, made to fit; None where that is none."""
        sch = s_tir.Schedule(self.func)
        try:
            apply_sketch(sketch, sch, Choices(decisions), self.limit)
        except s_tir.ScheduleError:
            return None
        return sch if fits(sch, self.limit) else None

    def generator(self) -> ms.space_generator.SpaceGenerator:
        """For MetaSchedule."""
        limit, names = self.limit, list(self.names)

        def generate(sch: s_tir.Schedule) -> list[s_tir.Schedule]:
            spaces = []
            for name in names:
                one = sch.copy()
                apply_sketch(name, one, Choices(), limit)
                spaces.append(one)
            return spaces

        return ms.space_generator.ScheduleFn(
            generate,
            sch_rules=[],
            postprocs=[Fits(limit)],
            mutator_probs={ms.mutator.MutateTileSize(): 1.0},
        )

    def decisions(self, trace: s_tir.schedule.Trace) -> tuple[str, Decisions]:
        """Which sketch a trace is of, and its choices by name."""
        kinds = [(inst, inst.kind.name) for inst in trace.insts]
        (mark,) = (i for i, kind in kinds if kind == "Annotate" and i.attrs[0] == _SKETCH)
        sketch = str(mark.inputs[1])
        factors = [
            [int(n) for n in trace.decisions[inst]]
            for inst, kind in kinds
            if kind == "SamplePerfectTile"
        ]
        return sketch, dict(zip(self.names[sketch], factors, strict=True))


def apply_sketch(name: str, sch: s_tir.Schedule, choose: Choices, limit: Limits) -> None:
    """Apply a sketch; its name stays in the trace, and there only."""
    root = sch.get_sblock("root")
    sch.annotate(root, _SKETCH, name)
    sch.unannotate(root, _SKETCH)
    SKETCHES[name](sch, choose, limit)


def space_of(func: tirx.PrimFunc, limit: Limits) -> Space | None:
    """The space of an unscheduled kernel; None where no sketch is for it."""
    if has_pairs(func) or touches_bytes(func):  # sketches have one result, and vectors
        return None
    func = prepared(func)
    names: dict[str, tuple[str, ...]] = {}
    for name in SKETCHES:
        choose = Choices()
        try:
            apply_sketch(name, s_tir.Schedule(func, seed=1), choose, limit)
        except s_tir.ScheduleError:
            continue
        names[name] = tuple(choose.names)
    return Space(func=func, limit=limit, names=names) if names else None


def seeds(func: tirx.PrimFunc, limit: Limits) -> list[tuple[str, Decisions]]:
    """What default schedules choose, as choices of sketches."""
    sch = s_tir.Schedule(func)
    found: list[tuple[str, Decisions]] = []
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        attr = sch.get(block).annotations.get(TILE_ATTR)
        if attr is None:
            continue
        tile = RegisterTile.from_attr(attr)
        depth = extent(sch, sch.get_loops(block)[-1])
        rows = [1, tile.items_y, tile.block_rows, tile.rows]
        columns = [1, tile.items_x, tile.block_panels, tile.vectors, tile.lanes]
        stretch = tile.block_depth or depth
        for unrolled in (1, 2, 4):
            choices: Decisions = {
                "rows": rows,
                "columns": columns,
                "depth": [depth // stretch, max(1, stretch // unrolled), unrolled],
            }
            found += [(name, choices) for name in ("stretched", "whole")]
        for stretch in (32, 16):
            short = [depth // stretch, max(1, stretch // 4), 4]
            found.append(("local", {"rows": rows, "columns": columns, "depth": short}))
    if not found:
        items, lanes = (1, limit.lanes) if limit.is_core else (min(64, limit.items), limit.lanes)
        for stretch in (256, 16, 1):
            wide = {f"work{n}": [1, items, stretch] for n in range(4)}
            found += [
                (name, {"lanes0": [1, lanes], "lanes1": [1, lanes], **wide})
                for name in ("flat", "kept")
            ]
        for neighbours in (4, 2, 1):
            choices = {"columns": [1, lanes], "neighbours": [1, neighbours], "groups": [1, items]}
            found.append(("columns", choices))
        found += [("rows", {"rows": [1, n]}) for n in (1, items)]
    return found


# --- what a device can take ----------------------------------------------------------------------

_TO_BUFFERS = tvm.transform.Sequential(
    [
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
    ]
)


def fits(sch: s_tir.Schedule, limit: Limits) -> bool:
    """Whether the device, and a driver's compiler, can take the kernel."""
    (func,) = (f for f in sch.mod.functions.values() if isinstance(f, tirx.PrimFunc))
    items: dict[str, int] = {}
    fine = [True]

    def loop(node: tirx.For) -> None:
        if node.thread_binding is not None:
            items[str(node.thread_binding.thread_tag)] = int(node.extent)
        elif node.kind == tirx.ForKind.VECTORIZED:
            fine.append(int(node.extent) in _VECTORS)

    tvm_ffi.structural_walk(func.body, (tirx.For, loop))
    group = math.prod(n for tag, n in items.items() if tag.startswith("threadIdx"))
    if not all(fine) or group > limit.items or _copies(func.body) > _MAX_COPIES:
        return False
    used = _memory_bytes(sch.mod)
    return used["local"] <= limit.private_bytes and used["shared"] <= limit.local_bytes


def _copies(node: Any) -> int:
    """How many statements unrolling makes of the one that is copied most."""
    if isinstance(node, tirx.For):
        factor = int(node.extent) if node.kind == tirx.ForKind.UNROLLED else 1
        return factor * _copies(node.body)
    if isinstance(node, tirx.SeqStmt):
        return max(_copies(part) for part in node.seq)
    if isinstance(node, s_tir.SBlockRealize):
        return _copies(node.block.body)
    return 1


def _memory_bytes(mod: tvm.IRModule) -> dict[str, int]:
    """Bytes by scope, as the kernel will be generated."""
    used = {"local": 0, "shared": 0}

    def block(node: s_tir.SBlock) -> None:
        for buffer in node.alloc_buffers:
            size = math.prod(int(n) for n in buffer.shape) * (tvm.DataType(buffer.dtype).bits // 8)
            used[buffer.scope()] = used.get(buffer.scope(), 0) + size

    for func in _TO_BUFFERS(mod).functions.values():
        tvm_ffi.structural_walk(func.body, (s_tir.SBlock, block))
    return used


@derived_object
class Fits(ms.postproc.PyPostproc):
    """`fits`, for MetaSchedule's search."""

    def __init__(self, limit: Limits) -> None:
        super().__init__()
        self.limit = limit

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing of the context is needed."""

    def apply(self, sch: s_tir.Schedule) -> bool:
        """False drops the candidate."""
        return fits(sch, self.limit)

    def clone(self) -> Any:
        """Another one, for another context."""
        return Fits(self.limit)
