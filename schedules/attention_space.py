"""Tuning of the attention kernels, which are written by hand: their tiles are the space.

    core, prefill    lanes, vectors of queries and keys of a work-item
    core, decode     lanes of a head's values
    wave             queries, items that share one, and keys of a group
    decode           also into how many pieces the context is cut: a step is one function then

A function that gives the pieces alone has no number of its own, since another one adds them up, and
its keys stay where pieces begin: no search is made for it, but earlier records of it can be used.

A kernel says of itself what it computes and with which tile (`WRITTEN_ATTR`), so another tile's can
be made from it, and so can the loops that it is verified with. Spaces are small: each point is
proposed once, in an order that the seed decides; there is nothing to evolve.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence

import tvm_ffi
from tvm import s_tir, tirx
from tvm.script.ir_builder import tirx as T

from schedules import attention_step
from schedules.attention_core import CoreTile, core_pieces, core_prefill
from schedules.attention_spec import (
    LOWEST,
    Arguments,
    Attention,
    Pieces,
    argument,
    first_seen,
    kernel,
    last_seen,
    local,
    piece_range,
    put,
)
from schedules.attention_wave import WaveTile, wave_pieces, wave_prefill
from schedules.limits import Limits

# Attribute of a function, as text; it is part of what the kernel is.
WRITTEN_ATTR = "attention.kernel"
SKETCH = "attention"
PIECES = "pieces"  # of a tile: how many a whole decode step is cut into
PAST, SUMS, STATS = 3, 5, 6  # places of parameters; those of a whole step
_LANES = (4, 8, 16)
_VECTORS = (1, 2, 3, 4)
_CORE_KEYS = (16, 32, 64, 128)
_ROWS = (1, 2, 4, 8, 16, 32)
_COLUMNS = (1, 2, 4, 8, 16, 32, 64)
_WAVE_KEYS = (8, 16, 32, 64)
_TILE = 8  # of a core's registers; what heads are rounded up to
_STRIP = 4  # values, where items run in lockstep
_PIECES = (1, 2, 4, 8, 16, 32, 64)
_LEAST_PIECE = 32  # keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What a kernel computes, and with which tile."""

    attention: Attention
    pieces: int  # of a function that gives the pieces of a decode step alone; else 0
    step: int  # keys that these are whole multiples of
    tile: Mapping[str, int]

    @property
    def text(self) -> str:
        """As the attribute has it."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def of(func: tirx.PrimFunc) -> Written | None:
        """What `func` says of itself; None where it is another kernel."""
        text = func.attrs.get(WRITTEN_ATTR)
        if text is None:
            return None
        fields = json.loads(str(text))
        return Written(**{**fields, "attention": Attention(**fields["attention"])})

    @property
    def is_step(self) -> bool:
        """Whether this is a whole decode step, with pieces and their sum."""
        return PIECES in self.tile

    @property
    def most_past(self) -> int:
        """The largest `past` that leaves room for the new positions."""
        return max(0, self.attention.max_context - self.attention.rows)

    @property
    def iterations(self) -> int:
        """Multiplications where half of the room is filled."""
        a = self.attention
        keys = self.most_past // 2 + a.rows
        return a.batch * a.q_heads * a.rows * keys * (a.head_dim + a.value_dim)


def typical_past(func: tirx.PrimFunc) -> dict[int, int]:
    """The value of parameters by place that a kernel is timed with: half of the room is filled."""
    written = Written.of(func)
    return {} if written is None else {PAST: written.most_past // 2}


class WrittenSpace:
    """What can be tried for one attention kernel: as `search_space.Space`, without evolution."""

    def __init__(self, func: tirx.PrimFunc, written: Written, limit: Limits) -> None:
        """`func` has parameters whose alignment others keep to."""
        self.func, self.written, self.limit = func, written, limit
        self.names = {SKETCH: tuple(sorted(written.tile))}
        self.points = _points(written, limit)

    def nearest(self, decisions: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """The point that is nearest to what another shape has."""

        def distance(point: Mapping[str, int]) -> float:
            wanted = {name: decisions.get(name, [size])[0] for name, size in point.items()}
            return sum(abs(math.log2(max(1, wanted[name]) / point[name])) for name in point)

        return {name: [size] for name, size in min(self.points, key=distance).items()}

    def draw(self, sketch: str, decisions: Mapping[str, Sequence[int]]) -> s_tir.Schedule | None:
        """The kernel with these choices, made to fit."""
        if sketch != SKETCH:
            return None
        tile = {name: size for name, (size,) in self.nearest(decisions).items()}
        made = build(dataclasses.replace(self.written, tile=tile), self.limit)
        params = dict(zip(made.params, self.func.params, strict=True))
        made = tvm_ffi.structural_map(made, [(tirx.Var, lambda var: params.get(var, var))])
        return s_tir.Schedule(made.without_attr("tirx.is_scheduled"))


def written_space(func: tirx.PrimFunc, limit: Limits) -> WrittenSpace | None:
    """The space of an attention kernel; None for others."""
    written = Written.of(func)
    return None if written is None else WrittenSpace(func, written, limit)


def build(written: Written, limit: Limits) -> tirx.PrimFunc:
    """The kernel; where a work-item is a core, or where items share local memory."""
    a, tile = written.attention, written.tile
    pieces = written.pieces or tile.get(PIECES, 0)

    def write(args: Arguments, given: Pieces) -> None:
        if limit.is_core:
            core_pieces(a, args, given, tile["lanes"])
        else:
            wave_pieces(a, args, given, _wave_tile(a, tile))

    if written.pieces:
        made = attention_step.decode(a, pieces, write)
    elif pieces:
        lanes, items = (tile["lanes"], 1) if limit.is_core else (limit.lanes, limit.items)
        made = attention_step.step(a, pieces, room(a), write, lanes, items)
    elif limit.is_core:
        made = core_prefill(a, _core_tile(a, tile))
    else:
        made = wave_prefill(a, _wave_tile(a, tile))
    return made.with_attr(WRITTEN_ATTR, written.text)


def room(attention: Attention) -> int:
    """The most pieces of a decode step that have anything to do; scratch has room for them."""
    return min(_PIECES[-1], -(-attention.max_context // _LEAST_PIECE))


def scratch(func: tirx.PrimFunc) -> tuple[int, ...]:
    """Places of parameters that are written and are no result."""
    written = Written.of(func)
    return (SUMS, STATS) if written is not None and written.is_step else ()


def reference(written: Written) -> tirx.PrimFunc:
    """The same function as plain loops over float64, for this machine's compiler."""
    a, pieces = written.attention, written.pieces
    with kernel("main") as finish:
        q, k, v = (
            argument(name, shape, "float64")
            for name, shape in (("q", a.query_shape), ("k", a.key_shape), ("v", a.value_shape))
        )
        past = argument("past", (1,), "int32")
        shapes = a.piece_shapes(pieces) if pieces else [a.out_shape]
        if written.is_step:  # of the scratch, which is no result
            shapes += a.piece_shapes(room(a))
        outs = [argument(f"out{n}", shape, "float64") for n, shape in enumerate(shapes)]
        score = local("score", (a.max_context,), "float64", scope="global")
        total = local("total", (a.value_dim,), "float64", scope="global")
        highest, power, dot = (local(name, (1,), "float64") for name in ("top", "power", "dot"))
        with (
            T.serial(0, a.batch) as b,
            T.serial(0, a.q_heads) as h,
            T.serial(0, pieces or a.rows) as part,
        ):
            kv, row = tirx.floordiv(h, a.group), tirx.const(0, "int32") if pieces else part
            place = past[0] + a.first
            if pieces:
                begin, end = piece_range(a, place, part, pieces, written.step)
            else:
                begin = T.bind(first_seen(a, place + row))
                end = T.bind(last_seen(a, place + row))
            count = T.bind(tirx.max(end - begin, 0))
            put(highest, [0], _wide(LOWEST))
            put(power, [0], _wide(0))
            with T.serial(0, count) as t:
                put(dot, [0], _wide(0))
                with T.serial(0, a.head_dim) as d:
                    put(dot, [0], dot[0] + q[b, h, row, d] * k[b, kv, begin + t, d])
                value = dot[0] * _wide(a.scale)
                if a.softcap:
                    value = T.tanh(value / _wide(a.softcap)) * _wide(a.softcap)
                put(score, [t], value)
                put(highest, [0], tirx.max(highest[0], score[t]))
            with T.serial(0, a.value_dim) as d:
                put(total, [d], _wide(0))
            with T.serial(0, count) as t:
                put(score, [t], T.exp(score[t] - highest[0]))
                put(power, [0], power[0] + score[t])
                with T.serial(0, a.value_dim) as d:
                    put(total, [d], total[d] + score[t] * v[b, kv, begin + t, d])
            with T.serial(0, a.value_dim) as d:
                if pieces:
                    put(outs[0], [b, h, part, d], total[d])
                else:
                    put(outs[0], [b, row, h * a.value_dim + d], total[d] / power[0])
            if pieces:
                put(outs[1], [b, h, part, 0], highest[0])
                put(outs[1], [b, h, part, 1], power[0])
    return finish()


def _wide(value: float) -> tirx.Expr:
    return tirx.const(value, "float64")


def _rounded(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple


def _core_tile(a: Attention, tile: Mapping[str, int]) -> CoreTile:
    return CoreTile(**tile, dim=_rounded(a.head_dim, _TILE), value_dim=_rounded(a.value_dim, _TILE))


def _wave_tile(a: Attention, tile: Mapping[str, int]) -> WaveTile:
    return WaveTile(
        rows=tile["rows"],
        columns=tile["columns"],
        keys=tile["keys"],
        dim=_rounded(a.head_dim, _STRIP),
        value_dim=_rounded(a.value_dim, _STRIP),
    )


def _points(written: Written, limit: Limits) -> list[dict[str, int]]:
    """Every tile that the device can take, the default first."""
    a, default = written.attention, dict(written.tile)
    total = a.rows * a.group
    grids: dict[str, tuple[int, ...]]
    if not limit.is_core:
        keys = (written.step,) if written.pieces else _WAVE_KEYS
        grids = {"rows": _ROWS, "columns": _COLUMNS, "keys": keys}
    elif a.rows == 1:
        grids = {"lanes": _LANES}
    else:
        grids = {"lanes": _LANES, "vectors": _VECTORS, "keys": _CORE_KEYS}
    if written.is_step:
        grids[PIECES] = _PIECES

    def fits(point: Mapping[str, int]) -> bool:
        if point.get(PIECES, 1) > room(a):
            return False
        if not limit.is_core:
            return _wave_fits(_wave_tile(a, point), total, limit)
        if point["lanes"] > limit.lanes:
            return False
        return a.rows == 1 or _core_fits(_core_tile(a, point), total, limit)

    every = (dict(zip(grids, sizes, strict=True)) for sizes in itertools.product(*grids.values()))
    return [default, *(point for point in every if point != default and fits(point))]


def _core_fits(tile: CoreTile, total: int, limit: Limits) -> bool:
    widest = max(tile.dim, tile.value_dim)
    held = tile.rows * (tile.dim + tile.value_dim + tile.keys + _TILE) + tile.keys * widest
    return 4 * held <= limit.private_bytes and tile.rows < 2 * max(total, tile.lanes)


def _wave_fits(tile: WaveTile, total: int, limit: Limits) -> bool:
    if tile.columns > tile.keys or tile.items > limit.items or tile.rows >= 2 * total:
        return False
    strips = -(-tile.value_dim // (_STRIP * tile.columns))
    own = 4 * _STRIP * (tile.keys // tile.columns + strips)
    return own <= limit.private_bytes and tile.local_bytes <= limit.local_bytes
