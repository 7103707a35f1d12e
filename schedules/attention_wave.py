"""Attention where work-items run in lockstep and a group has local memory.

A group has a tile of queries that share a key head, and a tile of keys, then of values, in local
memory, both as float32. Its items form a grid: `rows` queries by `columns`; an item computes the
scores of its query with every `columns`-th key and the result's every `columns`-th strip of four
values. Prefill and decode are the same kernel: a decode step's queries are those of one key head,
and its group has one piece of the context.

Where barriers are needed is left to TVM's pass, which sees every use of local memory.
"""

from __future__ import annotations

import dataclasses
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
from target_specs.spec import GpuSpec

_MAX_ROWS = 16
_MAX_KEYS = 32
_MAX_ITEMS = 128
_LANES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveTile:
    """What one group holds."""

    rows: int
    columns: int  # a power of two, as `keys` is
    keys: int
    dim: int  # of queries and keys, rounded up to whole strips
    value_dim: int  # of values, likewise

    @property
    def items(self) -> int:
        """Work-items of a group."""
        return self.rows * self.columns

    @property
    def pitch(self) -> int:
        """Values between rows in local memory: no power of two, whose rows share a bank."""
        return max(self.dim, self.value_dim) + _LANES

    @property
    def local_bytes(self) -> int:
        """Local memory of a group."""
        return 4 * ((self.rows + self.keys) * self.pitch + self.rows * (self.keys + self.columns))


def wave_tile(attention: Attention, gpu: GpuSpec) -> WaveTile:
    """The tile that reads least of its local memory for each product.

    Raises:
        ValueError: not even a tile of one query fits the local memory.
    """
    items = min(2 * gpu.wave_size, gpu.max_work_group_size, _MAX_ITEMS)
    total = attention.rows * attention.group
    dim, value_dim = (
        -(-width // _LANES) * _LANES for width in (attention.head_dim, attention.value_dim)
    )
    tiles = [
        WaveTile(
            rows=rows,
            columns=min(1 << (items // rows).bit_length() - 1, keys),
            keys=keys,
            dim=dim,
            value_dim=value_dim,
        )
        for rows in (1, 2, 4, 8, _MAX_ROWS)
        if rows <= items and rows < 2 * total
        for keys in (1, 2, 4, 8, 16, _MAX_KEYS)
    ]
    fitting = [tile for tile in tiles if tile.local_bytes <= gpu.local_memory_bytes]
    if not fitting:
        raise ValueError(
            f"heads of {attention.head_dim} do not fit {gpu.local_memory_bytes} bytes of local "
            "memory"
        )
    return max(fitting, key=lambda tile: tile.rows * tile.keys / (tile.rows + tile.keys))


def wave_prefill(attention: Attention, tile: WaveTile) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, out)`."""
    a = attention
    blocks = -(-a.rows * a.group // tile.rows)
    with kernel("attention_prefill") as finish:
        args = inputs(a)
        out = argument("out", a.out_shape, a.dtype)
        with (
            T.launch_thread("blockIdx.z", a.batch) as batch,
            T.launch_thread("blockIdx.y", a.kv_heads) as kv,
            T.launch_thread("blockIdx.x", blocks) as block,
            T.launch_thread("threadIdx.x", tile.items) as thread,
        ):
            item = _Item(a, tile, args, (batch, kv), block * tile.rows, thread)
            past = args.place
            first, _ = item.row_head(tirx.const(0, "int32"))
            last, _ = item.row_head(tirx.const(tile.rows - 1, "int32"))
            item.attend(T.bind(first_seen(a, past + first)), T.bind(last_seen(a, past + last)))
            total = item.total_power()
            with T.If(item.is_query), T.Then():
                row, head = item.row_head(item.r)

                def store(d: tirx.Expr, value: tirx.Expr) -> None:
                    put(out, [batch, row, head * a.value_dim + d], (value / total).astype(a.dtype))

                item.each_result(store)
    return finish()


def wave_pieces(attention: Attention, args: Arguments, pieces: Pieces, tile: WaveTile) -> None:
    """Write the kernel of a decode step that gives `pieces`."""
    a = attention
    blocks = -(-a.group // tile.rows)
    with (
        T.launch_thread("blockIdx.z", a.batch) as batch,
        T.launch_thread("blockIdx.y", a.kv_heads * blocks) as part,
        T.launch_thread("blockIdx.x", pieces.count) as piece,
        T.launch_thread("threadIdx.x", tile.items) as thread,
    ):
        kv, block = tirx.floordiv(part, blocks), tirx.floormod(part, blocks)
        item = _Item(a, tile, args, (batch, kv), block * tile.rows, thread)
        item.attend(*piece_range(a, args.place, piece, pieces.count, tile.keys))
        total = item.total_power()
        with T.If(item.is_query), T.Then():
            _, head = item.row_head(item.r)
            place = [batch, head, piece]
            item.each_result(lambda d, value: put(pieces.sums, [*place, d], value))
            with T.If(item.c == 0), T.Then():
                put(pieces.stats, [*place, 0], item.highest[0])
                put(pieces.stats, [*place, 1], total)


class _Item:
    """One work-item of a group, and the steps that write code for it."""

    def __init__(
        self,
        attention: Attention,
        tile: WaveTile,
        args: Arguments,
        head: tuple[tirx.Expr, tirx.Expr],
        start: tirx.Expr,
        thread: tirx.Expr,
    ) -> None:
        self.a, self.tile, self.args, self.head, self.start = attention, tile, args, head, start
        self.thread = thread
        self.r, self.c = tirx.floordiv(thread, tile.columns), tirx.floormod(thread, tile.columns)
        self.total = attention.rows * attention.group
        self.is_query = start + self.r < self.total
        self.strips = tile.value_dim // _LANES
        self.own_strips = -(-self.strips // tile.columns)
        self.own_keys = tile.keys // tile.columns
        self.query = local("query", (tile.rows, tile.pitch), scope="shared")
        self.held = local("held", (tile.keys, tile.pitch), scope="shared")  # keys, then values
        self.score = local("score", (tile.rows, tile.keys), scope="shared")
        self.partial = local("partial", (tile.rows, tile.columns), scope="shared")
        self.acc = local("acc", (self.own_keys, _LANES))
        self.result = local("result", (self.own_strips, _LANES))
        self.highest, self.power = local("highest", (1,)), local("power", (1,))
        self.peak, self.shrink = local("peak", (1,)), local("shrink", (1,))

    def row_head(self, r: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """Row and head of the group's query `r`; past the last one, the last one again."""
        index, group = tirx.min(self.start + r, self.total - 1), self.a.group
        return tirx.floordiv(index, group), self.head[1] * group + tirx.floormod(index, group)

    def attend(self, begin: tirx.Expr, end: tirx.Expr) -> None:
        """Everything from the queries to the sums over the keys [begin, end)."""
        a, tile = self.a, self.tile
        row, head = self.row_head(self.r)
        load_query(
            a,
            self.args,
            (self.head[0], row, head),
            lambda d, x: put(self.query, [self.r, d], x),
            Spread(items=tile.columns, item=self.c),
        )
        with Spread(items=tile.columns, item=self.c).over(tile.pitch - a.head_dim) as d:
            put(self.query, [self.r, a.head_dim + d], T.float32(0))
        put(self.highest, [0], T.float32(LOWEST))
        put(self.power, [0], T.float32(0))
        with T.unroll(0, self.own_strips) as s, lane_loop(_LANES) as n:
            put(self.result, [s, n], T.float32(0))
        with T.serial(0, steps(begin, end, tile.keys)) as step:
            base = T.bind(begin + step * tile.keys)
            self.hold(self.args.key, a.head_dim, base, end)
            self.scores(base, end, self.args.place + row)
            self.hold(self.args.value, a.value_dim, base, end)
            self.values()

    def hold(self, cache: Any, dim: int, base: tirx.Expr, end: tirx.Expr) -> None:
        """Read a tile of the cache; past the end, the last position again."""
        # All of the group's items walk over the tile's values.
        spread = Spread(items=self.tile.items, item=self.thread)
        lanes = lanes_of(dim, _LANES)
        strips = dim // lanes
        with spread.over(self.tile.keys * strips) as at:
            k, d = tirx.floordiv(at, strips), tirx.floormod(at, strips) * lanes
            source = T.bind(tirx.min(base + k, end - 1))
            with lane_loop(lanes) as n:
                put(self.held, [k, d + n], widened(cache[*self.head, source, d + n]))
        pad = -dim % _LANES
        if pad:
            with spread.over(self.tile.keys * pad) as at:
                k, d = tirx.floordiv(at, pad), tirx.floormod(at, pad)
                put(self.held, [k, dim + d], T.float32(0))

    def scores(self, base: tirx.Expr, end: tirx.Expr, position: tirx.Expr) -> None:
        """Powers of the tile's scores, and by how much older sums shrink."""
        a, columns = self.a, self.tile.columns
        with T.unroll(0, self.own_keys) as j, lane_loop(_LANES) as n:
            put(self.acc, [j, n], T.float32(0))
        with T.serial(0, self.tile.dim // _LANES) as s, T.unroll(0, self.own_keys) as j:
            with lane_loop(_LANES) as n:
                d, k = s * _LANES + n, j * columns + self.c
                product = self.query[self.r, d] * self.held[k, d]
                put(self.acc, [j, n], self.acc[j, n] + product)
        put(self.peak, [0], self.highest[0])
        with T.unroll(0, self.own_keys) as j:
            key = base + j * columns + self.c
            seen = tirx.And(key <= position, key < end)
            if a.window:
                seen = tirx.And(seen, position - a.window < key)
            value = capped(a, self.acc[j, 0] + self.acc[j, 1] + (self.acc[j, 2] + self.acc[j, 3]))
            put(self.acc, [j, 0], tirx.if_then_else(seen, value, T.float32(LOWEST)))
            put(self.peak, [0], tirx.max(self.peak[0], self.acc[j, 0]))
        put(self.partial, [self.r, self.c], self.peak[0])
        with T.serial(0, columns) as c:
            put(self.peak, [0], tirx.max(self.peak[0], self.partial[self.r, c]))
        put(self.shrink, [0], T.exp(self.highest[0] - self.peak[0]))
        put(self.highest, [0], self.peak[0])
        put(self.power, [0], self.power[0] * self.shrink[0])
        with T.unroll(0, self.own_keys) as j:
            put(self.acc, [j, 0], T.exp(self.acc[j, 0] - self.peak[0]))
            put(self.power, [0], self.power[0] + self.acc[j, 0])
            put(self.score, [self.r, j * columns + self.c], self.acc[j, 0])

    def values(self) -> None:
        """Add the tile's values, weighted."""
        with T.unroll(0, self.own_strips) as s, lane_loop(_LANES) as n:
            put(self.result, [s, n], self.result[s, n] * self.shrink[0])
        with T.serial(0, self.tile.keys) as k, T.unroll(0, self.own_strips) as s:
            # Past the last strip, the last one again: it is not stored.
            strip = tirx.min(s * self.tile.columns + self.c, self.strips - 1)
            with lane_loop(_LANES) as n:
                more = self.score[self.r, k] * self.held[k, strip * _LANES + n]
                put(self.result, [s, n], self.result[s, n] + more)

    def total_power(self) -> tirx.Expr:
        """The sum of the query's powers, of all of its items."""
        put(self.partial, [self.r, self.c], self.power[0])
        put(self.power, [0], T.float32(0))
        with T.serial(0, self.tile.columns) as c:
            put(self.power, [0], self.power[0] + self.partial[self.r, c])
        return self.power[0]

    def each_result(self, store: Any) -> None:
        """`store(d, value)` for every value of this item's strips."""
        with T.unroll(0, self.own_strips) as s, T.unroll(0, _LANES) as n:
            d = (s * self.tile.columns + self.c) * _LANES + n
            with T.If(d < self.a.value_dim), T.Then():
                store(d, self.result[s, n])
