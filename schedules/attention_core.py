"""Attention where a work-item is a core with long vectors and no local memory is needed.

Prefill: queries are the lanes. A work-item has up to three vectors of queries that share a key
head, turned so that one value of all of them is contiguous; then scores and sums are products of
a broadcast key or value with whole vectors, maxima need no step across lanes, and every lane has
its own end.

Decode: the values of a head are the lanes, since a step has few queries; a work-item has one piece
of the context; `attention_step.py` adds the pieces up.

Both are the online softmax of M. Milakov and N. Gimelshein (arXiv 1805.02867) over tiles of keys,
as in FlashAttention (arXiv 2205.14135) and in Flash-Decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.attention_spec import (
    LOWEST,
    Arguments,
    Attention,
    Pieces,
    Spread,
    argument,
    capped,
    first_seen,
    inputs,
    kernel,
    lane_loop,
    lanes_of,
    last_seen,
    load_query,
    local,
    piece_range,
    put,
    steps,
    widened,
)

_TILE = 8  # keys, or values of a head, that a register tile has beside its vectors of queries
_TILE_BYTES = 16 << 10  # of the keys of one step, a part of the first-level cache
_QUERY_BYTES = 12 << 10  # of the turned queries
_MAX_VECTORS = 3
DECODE_KEYS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreTile:
    """What one work-item of the prefill holds."""

    lanes: int
    vectors: int
    keys: int
    dim: int  # of queries and keys, rounded up to whole tiles
    value_dim: int  # of values, likewise

    @property
    def rows(self) -> int:
        """Queries of one work-item."""
        return self.lanes * self.vectors


def core_tile(attention: Attention, vector_width: int) -> CoreTile:
    """The tile for this many queries."""
    total = attention.rows * attention.group
    dim = -(-attention.head_dim // _TILE) * _TILE
    value_dim = -(-attention.value_dim // _TILE) * _TILE
    most = max(dim, value_dim)
    lanes = min(vector_width, 16)
    while lanes > 4 and lanes // 2 >= total:
        lanes //= 2
    fit = max(1, _QUERY_BYTES // (4 * most * lanes))
    vectors = max(1, min(_MAX_VECTORS, fit, -(-total // lanes)))
    keys = max(2, min(8, _TILE_BYTES // (4 * most * _TILE))) * _TILE
    return CoreTile(lanes=lanes, vectors=vectors, keys=keys, dim=dim, value_dim=value_dim)


def core_prefill(attention: Attention, tile: CoreTile) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, out)`."""
    with kernel("attention_prefill") as finish:
        args = inputs(attention)
        out = argument("out", attention.out_shape, attention.dtype)
        with (
            T.launch_thread("blockIdx.z", attention.batch) as batch,
            T.launch_thread("blockIdx.y", attention.kv_heads) as kv,
            T.launch_thread(
                "blockIdx.x", -(-attention.rows * attention.group // tile.rows)
            ) as block,
        ):
            item = _PrefillItem(attention, tile, args, batch, kv, block)
            item.load_queries()
            with T.serial(0, steps(item.begin, item.end, tile.keys)) as step:
                item.base = T.bind(item.begin + step * tile.keys)
                item.hold(args.key, attention.head_dim)
                item.scores()
                item.powers()
                item.hold(args.value, attention.value_dim)
                item.values()
            item.store(out)
    return finish()


class _PrefillItem:
    """One work-item: its arrays, and the steps that write code on them."""

    base: tirx.Expr  # first key of the tile

    def __init__(
        self,
        attention: Attention,
        tile: CoreTile,
        args: Arguments,
        batch: tirx.Expr,
        kv: tirx.Expr,
        block: tirx.Expr,
    ) -> None:
        self.a, self.tile, self.args = attention, tile, args
        self.batch, self.kv, self.block = batch, kv, block
        self.total = attention.rows * attention.group
        # A vector of these is one value of several queries.
        self.query = local("query", (tile.dim, tile.rows))
        self.result = local("result", (tile.value_dim, tile.rows))
        self.score = local("score", (tile.keys, tile.rows))
        self.position = local("position", (tile.rows,), "int32")
        self.highest = local("highest", (tile.rows,))
        self.peak = local("peak", (tile.rows,))
        self.shrink = local("shrink", (tile.rows,))
        self.power = local("power", (tile.rows,))
        self.held = local("held", (tile.keys, max(tile.dim, tile.value_dim)))  # keys, then values
        self.acc = local("acc", (_TILE, tile.rows))
        past = args.place
        first = past + self.row_head(tirx.const(0, "int32"))[0]
        last = past + self.row_head(tirx.const(tile.rows - 1, "int32"))[0]
        self.begin = T.bind(first_seen(attention, first))
        self.end = T.bind(last_seen(attention, last))

    def row_head(self, r: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """Row and head of query `r`; past the last one, the last one again."""
        index = tirx.min(self.block * self.tile.rows + r, self.total - 1)
        group = self.a.group
        return tirx.floordiv(index, group), self.kv * group + tirx.floormod(index, group)

    def lanes(self, body: Callable[[tirx.Expr], None]) -> None:
        """`body` for every query, as vectors."""
        with T.unroll(0, self.tile.vectors) as v, lane_loop(self.tile.lanes) as n:
            body(v * self.tile.lanes + n)

    def register_tile(self, body: Callable[[tirx.Expr, tirx.Expr], None]) -> None:
        """`body` for every value of the accumulator, straight-line code."""
        with T.unroll(0, _TILE) as i:
            self.lanes(lambda at: body(i, at))

    def load_queries(self) -> None:
        """Turn the queries, and start from nothing."""
        a, tile = self.a, self.tile
        with T.serial(0, tile.rows) as r:
            row, head = self.row_head(r)
            put(self.position, [r], self.args.place + row)
            place = (self.batch, row, head)
            load_query(a, self.args, place, lambda d, x: put(self.query, [d, r], x), Spread())
        with T.serial(0, tile.value_dim) as d:
            self.lanes(lambda at: put(self.result, [d, at], T.float32(0)))
        self.lanes(lambda at: put(self.highest, [at], T.float32(LOWEST)))
        self.lanes(lambda at: put(self.power, [at], T.float32(0)))
        if tile.dim > a.head_dim:
            with T.serial(0, tile.dim - a.head_dim) as d:
                self.lanes(lambda at: put(self.query, [a.head_dim + d, at], T.float32(0)))

    def hold(self, cache: Any, dim: int) -> None:
        """Read a tile of the cache as float32; past the end, the last position again."""
        lanes, whole = lanes_of(dim, 16), -(-dim // _TILE) * _TILE
        with T.serial(0, self.tile.keys) as k:
            source = T.bind(tirx.min(self.base + k, self.end - 1))
            with T.serial(0, dim // lanes) as c, lane_loop(lanes) as n:
                at = c * lanes + n
                put(self.held, [k, at], widened(cache[self.batch, self.kv, source, at]))
            if whole > dim:
                with T.serial(0, whole - dim) as d:
                    put(self.held, [k, dim + d], T.float32(0))

    def scores(self) -> None:
        """Scores of the tile, and the highest of each query so far as `peak`."""
        a = self.a
        self.lanes(lambda at: put(self.peak, [at], self.highest[at]))
        with T.serial(0, self.tile.keys // _TILE) as part:
            self.register_tile(lambda i, at: put(self.acc, [i, at], T.float32(0)))
            with T.serial(0, self.tile.dim) as d:
                self.register_tile(
                    lambda i, at: put(
                        self.acc,
                        [i, at],
                        self.acc[i, at] + self.held[part * _TILE + i, d] * self.query[d, at],
                    )
                )

            def finish(i: tirx.Expr, at: tirx.Expr) -> None:
                key = self.base + part * _TILE + i
                value = capped(a, self.acc[i, at])
                seen = tirx.Select(key <= self.position[at], value, T.float32(LOWEST))
                if a.window:
                    oldest = self.position[at] - a.window
                    seen = tirx.Select(oldest < key, seen, T.float32(LOWEST))
                put(self.score, [part * _TILE + i, at], seen)
                put(self.peak, [at], tirx.max(self.peak[at], self.score[part * _TILE + i, at]))

            self.register_tile(finish)

    def powers(self) -> None:
        """Scores become powers; what was summed before shrinks if a higher score came."""

        def shrink(at: tirx.Expr) -> None:
            put(self.shrink, [at], T.exp(self.highest[at] - self.peak[at]))
            put(self.power, [at], self.power[at] * self.shrink[at])
            put(self.highest, [at], self.peak[at])

        def power(at: tirx.Expr) -> None:
            put(self.score, [k, at], T.exp(self.score[k, at] - self.highest[at]))
            put(self.power, [at], self.power[at] + self.score[k, at])

        self.lanes(shrink)
        with T.serial(0, self.tile.keys) as k:
            self.lanes(power)

    def values(self) -> None:
        """Add the tile's values, weighted."""
        with T.serial(0, self.tile.value_dim // _TILE) as part:
            self.register_tile(
                lambda i, at: put(
                    self.acc, [i, at], self.result[part * _TILE + i, at] * self.shrink[at]
                )
            )
            with T.serial(0, self.tile.keys) as k:
                self.register_tile(
                    lambda i, at: put(
                        self.acc,
                        [i, at],
                        self.acc[i, at] + self.held[k, part * _TILE + i] * self.score[k, at],
                    )
                )
            self.register_tile(
                lambda i, at: put(self.result, [part * _TILE + i, at], self.acc[i, at])
            )

    def store(self, out: Any) -> None:
        """Divide, and turn back."""
        a = self.a
        with T.serial(0, self.tile.rows) as r:
            with T.If(self.block * self.tile.rows + r < self.total), T.Then():
                row, head = self.row_head(r)
                with T.serial(0, a.value_dim) as d:
                    value = (self.result[d, r] / self.power[r]).astype(a.dtype)
                    put(out, [self.batch, row, head * a.value_dim + d], value)


def core_pieces(attention: Attention, args: Arguments, pieces: Pieces, vector_width: int) -> None:
    """Write the kernel of a decode step that gives `pieces`, with vectors up to this width."""
    a = attention
    with (
        T.launch_thread("blockIdx.z", a.batch) as batch,
        T.launch_thread("blockIdx.y", a.kv_heads) as kv,
        T.launch_thread("blockIdx.x", pieces.count) as piece,
    ):
        item = _DecodeItem(a, args, vector_width, (batch, kv))
        begin, end = piece_range(a, args.place, piece, pieces.count, DECODE_KEYS)
        item.start()
        with T.serial(0, steps(begin, end, DECODE_KEYS)) as step:
            base = T.bind(begin + step * DECODE_KEYS)
            item.scores(base, end)
            item.powers(base, end)
            item.values(base, end)
        with T.serial(0, a.group) as g:
            place = [batch, kv * a.group + g, piece]
            item.each_value(lambda at: put(pieces.sums, [*place, at], item.result[g, at]))
            put(pieces.stats, [*place, 0], item.highest[g])
            put(pieces.stats, [*place, 1], item.power[g])


class _DecodeItem:
    """One work-item: the queries of one key head and one piece of the context."""

    def __init__(
        self,
        attention: Attention,
        args: Arguments,
        vector_width: int,
        head: tuple[tirx.Expr, tirx.Expr],
    ) -> None:
        self.a, self.args, self.head = attention, args, head
        self.lanes = lanes_of(attention.head_dim, min(vector_width, 16))
        self.value_lanes = lanes_of(attention.value_dim, min(vector_width, 16))
        group = attention.group
        self.query = local("query", (group, attention.head_dim))
        self.result = local("result", (group, attention.value_dim))
        self.score = local("score", (group, DECODE_KEYS))
        self.dot = local("dot", (self.lanes,))
        self.highest, self.power = local("highest", (group,)), local("power", (group,))
        self.peak, self.shrink = local("peak", (DECODE_KEYS,)), local("shrink", (group,))

    def each_value(self, body: Callable[[tirx.Expr], None]) -> None:
        """`body` for every value of a head, as vectors."""
        lanes = self.value_lanes
        with T.unroll(0, self.a.value_dim // lanes) as c, lane_loop(lanes) as n:
            body(c * lanes + n)

    def start(self) -> None:
        """Read the queries, and start from nothing."""
        with T.serial(0, self.a.group) as g:
            place = (self.head[0], tirx.const(0, "int32"), self.head[1] * self.a.group + g)
            load_query(
                self.a,
                self.args,
                place,
                lambda d, x: put(self.query, [g, d], x),
                Spread(lanes=self.lanes),
            )
            put(self.highest, [g], T.float32(LOWEST))
            put(self.power, [g], T.float32(0))
            self.each_value(lambda at: put(self.result, [g, at], T.float32(0)))

    def scores(self, base: tirx.Expr, end: tirx.Expr) -> None:
        """Products with each key; vectors become sums by adding halves."""
        lanes = self.lanes

        def product(at: tirx.Expr) -> tirx.Expr:
            return self.query[g, at] * widened(self.args.key[*self.head, source, at])

        with T.serial(0, DECODE_KEYS) as k:
            source = T.bind(tirx.min(base + k, end - 1))
            with T.unroll(0, self.a.group) as g:
                with lane_loop(lanes) as n:
                    put(self.dot, [n], product(n))
                with T.unroll(1, self.a.head_dim // lanes) as c, lane_loop(lanes) as n:
                    put(self.dot, [n], self.dot[n] + product(c * lanes + n))
                _fold(self.dot, lanes, lambda a, b: a + b)
                put(self.score, [g, k], capped(self.a, self.dot[0]))

    def powers(self, base: tirx.Expr, end: tirx.Expr) -> None:
        """Scores become powers, those past the end zero."""
        keys = DECODE_KEYS // 2
        with T.serial(0, self.a.group) as g:
            with T.unroll(0, 2) as half, lane_loop(keys) as n:
                at = half * keys + n
                seen = tirx.Select(base + at < end, self.score[g, at], T.float32(LOWEST))
                put(self.score, [g, at], seen)
                put(self.peak, [at], seen)
            _fold(self.peak, DECODE_KEYS, tirx.max)
            peak = T.bind(tirx.max(self.highest[g], self.peak[0]))
            put(self.shrink, [g], T.exp(self.highest[g] - peak))
            put(self.highest, [g], peak)
            with T.unroll(0, 2) as half, lane_loop(keys) as n:
                at = half * keys + n
                put(self.score, [g, at], T.exp(self.score[g, at] - peak))
                put(self.peak, [at], self.score[g, at])
            _fold(self.peak, DECODE_KEYS, lambda a, b: a + b)
            put(self.power, [g], self.power[g] * self.shrink[g] + self.peak[0])

    def values(self, base: tirx.Expr, end: tirx.Expr) -> None:
        """Add the values, weighted."""

        def shrink(at: tirx.Expr) -> None:
            put(self.result, [g, at], self.result[g, at] * self.shrink[g])

        def add(at: tirx.Expr) -> None:
            more = self.score[g, k] * widened(self.args.value[*self.head, source, at])
            put(self.result, [g, at], self.result[g, at] + more)

        with T.unroll(0, self.a.group) as g:
            self.each_value(shrink)
        with T.serial(0, DECODE_KEYS) as k:
            source = T.bind(tirx.min(base + k, end - 1))
            with T.unroll(0, self.a.group) as g:
                self.each_value(add)


def _fold(array: Any, length: int, join: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> None:
    """`array[0]` becomes all of its first `length` values joined; a power of two."""
    while length > 1:
        length //= 2
        with lane_loop(length) as n:
            put(array, [n], join(array[n], array[length + n]))
