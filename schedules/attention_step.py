"""A decode step of attention: pieces of the context, then their sum.

    two functions    attention_decode(q, k_cache, v_cache, past)  -> sums, stats
                     attention_combine(sums, stats)               -> out
    one function     attention_step(q, k_cache, v_cache, past)    -> out, scratch for sums and stats

The device's code is the same, but for distances in memory. One function can be cut into any number
of pieces, up to what its scratch has room for: what is tuned, timed and proven is the whole step,
since more pieces make their sum dearer. The scratch is a result that nobody reads, not the
function's own memory: so it is planned with all other memory, and no call allocates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.attention_spec import (
    LOWEST,
    Arguments,
    Attention,
    Pieces,
    Spread,
    argument,
    inputs,
    kernel,
    lane_loop,
    lanes_of,
    local,
    put,
)

Write = Callable[[Arguments, Pieces], None]  # the kernel that gives the pieces


def decode(attention: Attention, pieces: int, write: Write) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, sums, stats)`: the pieces alone."""
    with kernel("attention_decode") as finish:
        args = inputs(attention)
        write(args, _given(attention, pieces))
    return finish()


def combine(attention: Attention, pieces: int, lanes: int, most_items: int) -> tirx.PrimFunc:
    """`(sums, stats, out)`: their sum alone. See `_add_up`."""
    with kernel("attention_combine") as finish:
        given = _given(attention, pieces)
        out = argument("out", attention.out_shape, attention.dtype)
        _add_up(attention, given, out, lanes, most_items)
    return finish()


def step(
    attention: Attention, pieces: int, room: int, write: Write, lanes: int, most_items: int
) -> tirx.PrimFunc:
    """`(q, k_cache, v_cache, past, out, sums, stats)`: two kernels, one after the other.

    The scratch has room for `room` pieces.
    """
    with kernel("attention_step") as finish:
        args = inputs(attention)
        out = argument("out", attention.out_shape, attention.dtype)
        between = dataclasses.replace(_given(attention, room), count=pieces)
        write(args, between)
        _add_up(attention, between, out, lanes, most_items)
    return finish()


def _given(attention: Attention, pieces: int) -> Pieces:
    sums, stats = attention.piece_shapes(pieces)
    return Pieces(
        count=pieces,
        sums=argument("sums", sums, "float32"),
        stats=argument("stats", stats, "float32"),
    )


def _add_up(
    attention: Attention, given: Pieces, out: tirx.Buffer, most_lanes: int, most_items: int
) -> None:
    """Write the kernel that weights the pieces and adds them up.

    A head is one group's: up to `most_items` items, each with vectors of up to `most_lanes` values.
    """
    a = attention
    lanes = lanes_of(a.value_dim, most_lanes)
    chunks = a.value_dim // lanes
    items = min(chunks, most_items)
    with (
        T.launch_thread("blockIdx.y", a.batch) as batch,
        T.launch_thread("blockIdx.x", a.q_heads) as head,
        T.launch_thread("threadIdx.x", items) as item,
    ):
        weight, total = local("weight", (given.count,)), local("total", (lanes,))
        highest, power = local("highest", (1,)), local("power", (1,))
        put(highest, [0], T.float32(LOWEST))
        put(power, [0], T.float32(0))
        with T.serial(0, given.count) as p:
            put(highest, [0], tirx.max(highest[0], given.stats[batch, head, p, 0]))
        with T.serial(0, given.count) as p:
            put(weight, [p], T.exp(given.stats[batch, head, p, 0] - highest[0]))
            put(power, [0], power[0] + weight[p] * given.stats[batch, head, p, 1])
        with Spread(items=items, item=item).over(chunks) as chunk:
            with lane_loop(lanes) as n:
                put(total, [n], T.float32(0))
            with T.serial(0, given.count) as p, lane_loop(lanes) as n:
                more = weight[p] * given.sums[batch, head, p, chunk * lanes + n]
                put(total, [n], total[n] + more)
            with lane_loop(lanes) as n:
                at = head * a.value_dim + chunk * lanes + n
                put(out, [batch, 0, at], (total[n] / power[0]).astype(a.dtype))
