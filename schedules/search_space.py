"""Every schedule that is tried for a kernel: the sketches that fit it, within a device's limits.

What a default schedule chooses is a point of its sketch, and is tried first (`seeds`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms

from schedules.attention_space import WrittenSpace, written_space
from schedules.blocks import extent
from schedules.byte_vectors import touches_bytes
from schedules.choices import Choices
from schedules.limits import Fits, Limits, fits
from schedules.register_tile import TILE_ATTR, RegisterTile
from schedules.rule import has_pairs, prepared
from schedules.sketches import FROM_FINITE, SKETCH_ATTR, SKETCHES, apply_sketch

Decisions = dict[str, list[int]]  # name of a choice -> factors, outermost first


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
        (mark,) = (i for i, kind in kinds if kind == "Annotate" and i.attrs[0] == SKETCH_ATTR)
        sketch = str(mark.inputs[1])
        factors = []
        for inst, kind in kinds:
            if kind == "SamplePerfectTile":
                factors.append([int(n) for n in trace.decisions[inst]])
            elif kind == "SampleCategorical":
                options = inst.attrs[0]
                factors.append([int(options[int(trace.decisions[inst])])])
        return sketch, dict(zip(self.names[sketch], factors, strict=True))


def space_of(func: tirx.PrimFunc, limit: Limits) -> Space | WrittenSpace | None:
    """The space of an unscheduled kernel, or one written by hand; None where nothing is open."""
    written = written_space(func, limit)
    if written is not None:
        return written
    if has_pairs(func) or touches_bytes(func):  # sketches have one result, and vectors
        return None
    finite, infinite = prepared(func, infinities=False), prepared(func)
    names = _fitting(finite, limit, FROM_FINITE)
    if not names or tvm_ffi.structural_equal(finite, infinite):
        finite = infinite
        names |= _fitting(infinite, limit, SKETCHES.keys() - FROM_FINITE)
    return Space(func=finite, limit=limit, names=names) if names else None


def _fitting(func: tirx.PrimFunc, limit: Limits, sketches: Set[str]) -> dict[str, tuple[str, ...]]:
    """Those of `sketches` that can be applied, and the names of their choices."""
    names: dict[str, tuple[str, ...]] = {}
    for name in SKETCHES:
        if name not in sketches:
            continue
        choose = Choices()
        try:
            apply_sketch(name, s_tir.Schedule(func, seed=1), choose, limit)
        except s_tir.ScheduleError:
            continue
        names[name] = tuple(choose.names)
    return names


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
        found += _shared_seeds(tile)
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
        for sharing in (16, 32, 8):
            found.append(("shared_columns", {"columns": [1, 16], "rows": [1, sharing]}))
        found += [("rows", {"rows": [1, n]}) for n in (1, items)]
        for shared, unrolled in ((256, 64), (128, 16), (64, 16), (32, 4)):
            row: Decisions = {"rows": [1, 1], "items": [shared], "unroll": [unrolled]}
            found += [(name, row) for name in ("shared_rows", "kept_rows")]
        for edge, taken in ((32, 8), (32, 4), (16, 16), (64, 4)):
            found.append(("transposed", {"edge": [edge], "rows": [taken]}))
    return found


def _shared_seeds(tile: RegisterTile) -> list[tuple[str, Decisions]]:
    """Choices of the sketches that share something between the items of a group."""
    found: list[tuple[str, Decisions]] = []
    if tile.items_k > 1:
        for items in (tile.items_k, tile.items_k // 2, 2 * tile.items_k):
            for near in (8, 4):
                choices = {"depth": [1, items], "rows": [1, tile.rows], "near": [1, near]}
                found.append(("split_depth", choices))
    if tile.local_depth:
        for stretch in (tile.local_depth, 2 * tile.local_depth, tile.local_depth // 2):
            choices = {
                "rows": [1, tile.items_y, tile.rows],
                "columns": [1, tile.items_x, tile.vectors, tile.lanes],
                "depth": [1, max(1, stretch)],
            }
            found.append(("shared", choices))
    return found
