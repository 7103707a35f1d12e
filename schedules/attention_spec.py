"""What one attention computes, and the few lines of TIR that its kernels share.

    out[b, row, h] = softmax over t of cap(scale * q[b, h, row] . k[b, h / group, t]) . v[.., t]

over the positions `t` that the query at `past + row` sees: `t <= past + row`, and with a window
`t > past + row - window`. `cap(x)` is `softcap * tanh(x / softcap)`, or `x` without one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

# A score that no query sees. Finite, so that the difference of two of them is a number.
LOWEST = -3.0e38


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention operator. `past`, how many positions were there before, comes at run time."""

    batch: int
    rows: int  # new positions; 1 is a decode step
    q_heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    value_dim: int
    max_context: int  # positions that the cache has room for
    dtype: str  # of all tensors but `past`; arithmetic is float32
    scale: float
    window: int = 0  # positions that a query sees, with its own; 0: all
    softcap: float = 0.0  # 0: none
    first: int = 0  # new positions before the first row: of a part of a chunk

    def __post_init__(self) -> None:
        if self.q_heads % self.kv_heads:
            raise ValueError(f"{self.q_heads} query heads do not share {self.kv_heads} key heads")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"attention stores float32 or float16, not {self.dtype}")

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.q_heads // self.kv_heads

    @property
    def query_shape(self) -> tuple[int, ...]:
        """Shape of the query."""
        return (self.batch, self.q_heads, self.rows, self.head_dim)

    @property
    def key_shape(self) -> tuple[int, ...]:
        """Shape of the cache of keys."""
        return (self.batch, self.kv_heads, self.max_context, self.head_dim)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of the cache of values."""
        return (self.batch, self.kv_heads, self.max_context, self.value_dim)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return (self.batch, self.rows, self.q_heads * self.value_dim)

    def piece_shapes(self, pieces: int) -> list[tuple[int, ...]]:
        """Shapes of what `pieces` pieces of a context give: sums of values, then (score, power)."""
        return [(self.batch, self.q_heads, pieces, width) for width in (self.value_dim, 2)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The inputs of an attention kernel, in order."""

    query: Any
    key: Any
    value: Any
    past: Any  # int32 [1]
    first: int

    @property
    def place(self) -> tirx.Expr:
        """The position of row 0."""
        return self.past[0] + self.first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pieces:
    """What the pieces of a decode step give, not normalised: float32, see `piece_shapes`."""

    count: int
    sums: Any  # of values, weighted
    stats: Any  # highest score, sum of powers


def inputs(attention: Attention) -> Arguments:
    """Declare the inputs `q, k_cache, v_cache, past`."""
    a = attention
    return Arguments(
        query=argument("q", a.query_shape, a.dtype),
        key=argument("k_cache", a.key_shape, a.dtype),
        value=argument("v_cache", a.value_shape, a.dtype),
        past=argument("past", (1,), "int32"),
        first=a.first,
    )


@contextlib.contextmanager
def kernel(name: str) -> Iterator[Callable[[], tirx.PrimFunc]]:
    """Write a scheduled function that nothing is fused with; the value gives it after the block."""
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(name)
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})
            yield lambda: builder.get().without_attr("global_symbol")


def argument(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """One more parameter, a tensor."""
    return T.arg(name, T.buffer(shape, dtype))


def local(name: str, shape: tuple[int, ...], dtype: str = "float32", scope: str = "local") -> Any:
    """An array of the work-item, or with the scope `shared` of its group."""
    array = T.alloc_buffer(shape, dtype, scope=scope)
    IRBuilder.name(name, array)
    return array


def lane_loop(lanes: int) -> Any:
    """A loop that becomes one vector."""
    return T.vectorized(lanes) if lanes > 1 else T.unroll(1)


def lanes_of(length: int, most: int) -> int:
    """The longest vector of at most `most` values that `length` is a multiple of."""
    lanes = 1
    while lanes * 2 <= most and length % (lanes * 2) == 0:
        lanes *= 2
    return lanes


def widened(value: tirx.Expr) -> tirx.Expr:
    """`value` as float32."""
    return value.astype("float32")


def capped(attention: Attention, score: tirx.Expr) -> tirx.Expr:
    """A score of the scaled query."""
    return score if not attention.softcap else T.tanh(score) * T.float32(attention.softcap)


def ceil_div(a: tirx.Expr, b: int) -> tirx.Expr:
    """`a / b` of a non-negative `a`, rounded up."""
    return tirx.floordiv(a + (b - 1), b)


def put(array: Any, indices: Any, value: tirx.Expr) -> None:
    """`array[indices] = value`."""
    T.buffer_store(array, value, list(indices))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Who walks over the values of a head: one item or several side by side, in vectors."""

    lanes: int = 1
    items: int = 1
    item: Any = 0

    @contextlib.contextmanager
    def over(self, count: int) -> Iterator[tirx.Expr]:
        """A loop over `count` values."""
        lanes = lanes_of(count, self.lanes)
        chunks = count // lanes
        with T.serial(0, -(-chunks // self.items)) as step, contextlib.ExitStack() as inside:
            chunk = step * self.items + self.item
            if chunks % self.items:
                inside.enter_context(T.If(chunk < chunks))
                inside.enter_context(T.Then())
            yield chunk * lanes + inside.enter_context(lane_loop(lanes))


def load_query(
    attention: Attention,
    args: Arguments,
    place: tuple[tirx.Expr, tirx.Expr, tirx.Expr],
    store: Callable[[tirx.Expr, tirx.Expr], None],
    spread: Spread,
) -> None:
    """Store the scaled query at (batch, row, head), a value at a time."""
    batch, row, head = place
    factor = T.float32(attention.scale / (attention.softcap or 1.0))
    with spread.over(attention.head_dim) as d:
        store(d, widened(args.query[batch, head, row, d]) * factor)


def first_seen(attention: Attention, position: tirx.Expr) -> tirx.Expr:
    """The oldest position that a query at `position` sees."""
    if not attention.window:
        return tirx.const(0, "int32")
    return tirx.max(position - (attention.window - 1), 0)


def last_seen(attention: Attention, position: tirx.Expr) -> tirx.Expr:
    """One past the newest position that a query at `position` sees, inside the cache."""
    return tirx.min(position + 1, attention.max_context)


def piece_range(
    attention: Attention, past: tirx.Expr, piece: tirx.Expr, pieces: int, step: int
) -> tuple[tirx.Expr, tirx.Expr]:
    """Begin and end of one piece of what the query sees: whole steps, the last ones may be empty.

    The end may be before the begin.
    """
    oldest, end = first_seen(attention, past), last_seen(attention, past)
    span = ceil_div(ceil_div(end - oldest, pieces), step) * step
    begin = T.bind(oldest + piece * span)
    return begin, T.bind(tirx.min(begin + span, end))


def steps(begin: tirx.Expr, end: tirx.Expr, step: int) -> tirx.Expr:
    """How many steps cover [begin, end), which may be empty."""
    return ceil_div(tirx.max(end - begin, 0), step)
