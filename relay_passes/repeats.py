"""Layers that a program repeats, found by their structure, and the program without most of them.

    embed | L0 L1 L2 .. L29 | head     ->     embed | L0 L29 | head

Two operators are alike when they are the same operator with the same attributes and types, reading
alike operands from alike places: as far back in their own layer, or one and the same earlier
result. Which constants they hold does not matter, nor what anything is called.

The shortened program is planned in the place of the whole: its first and last layers are those of
the whole, with the same neighbours, and one of them stands for all that were left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.ir import GenericConst
from tvm_ffi import structural_hash

from relay_passes.op_work import op_name, static_shape
from relay_passes.program import Node

KEPT = 1  # layers at either end of a repetition; with two, plans of SmolLM2-135M were no better
_LEAST = 2 * KEPT + 2  # fewer are planned as they are


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeat:
    """`count` times `period` operators that are alike, from operator `first` on."""

    first: int
    period: int
    count: int

    @property
    def end(self) -> int:
        """One past the last operator."""
        return self.first + self.period * self.count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortened:
    """A program without the middle layers of its repetitions."""

    nodes: tuple[Node, ...]
    kept: tuple[int, ...]  # for each of `nodes` its number in the whole
    # Ways to repeat: for each operator of the whole the one of `nodes` that it is like. The first
    # is the nearest: operators that were kept are like themselves.
    likes: tuple[tuple[int, ...], ...]


def find_repeats(nodes: Sequence[Node], more: Callable[[int], Hashable]) -> list[Repeat]:
    """The repetitions that are long enough to be worth leaving layers out, in program order.

    `more`: what else must be equal of two operators, by their numbers, for them to be alike.
    """
    makers = {node.var: number for number, node in enumerate(nodes)}
    known: dict[Hashable, int] = {}
    kinds = np.array(
        [known.setdefault((_kind(n, makers), more(i)), len(known)) for i, n in enumerate(nodes)],
        dtype=np.int64,
    )
    inputs = _inputs(nodes)
    found: list[Repeat] = []
    pending = [(0, len(nodes))]
    while pending:
        begin, end = pending.pop()
        best = _longest(kinds, inputs, begin, end)
        if best is not None:
            found.append(best)
            pending += [(begin, best.first), (best.end, end)]
    return sorted(found, key=lambda repeat: repeat.first)


def _inputs(nodes: Sequence[Node]) -> list[tuple[int, ...]]:
    numbers = {node.name: number for number, node in enumerate(nodes)}
    return [tuple(numbers[name] for name in node.inputs) for node in nodes]


def _kind(node: Node, makers: dict[relax.Var, int]) -> Hashable:
    """All of an operator but where its operands come from."""
    call = node.call
    attrs = structural_hash(call.attrs) if call.attrs is not None else 0
    operands = tuple(_operand(arg, makers) for arg in call.args)
    return op_name(call), attrs, operands, _type(call), node.is_output, node.reads_graph_inputs


def _operand(expr: relax.Expr, makers: dict[relax.Var, int]) -> Hashable:
    if isinstance(expr, relax.Tuple):
        return tuple(_operand(field, makers) for field in expr.fields)
    if isinstance(expr, relax.Var):
        return "made" if expr in makers else "given", _type(expr)
    if isinstance(expr, GenericConst):
        return "constant", _type(expr)
    return structural_hash(expr)


def _type(expr: relax.Expr) -> Hashable:
    shape = static_shape(expr.ty)
    return (shape, str(expr.ty.dtype)) if shape is not None else structural_hash(expr.ty)


def _longest(
    kinds: npt.NDArray[np.int64], inputs: Sequence[tuple[int, ...]], begin: int, end: int
) -> Repeat | None:
    """The repetition that covers most of [begin, end); of those the one with the least period."""
    best: Repeat | None = None
    for period in range(1, (end - begin) // _LEAST + 1):
        same = kinds[begin : end - period] == kinds[begin + period : end]
        most = 0 if best is None else best.period * best.count
        for first, length in _runs(same):
            if length + period <= most or length + period < _LEAST * period:
                continue
            found = _linked(inputs, begin + first, length, period)
            if found is not None and found.period * found.count > most:
                best, most = found, found.period * found.count
    return best


def _runs(same: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, length) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _linked(
    inputs: Sequence[tuple[int, ...]], first: int, length: int, period: int
) -> Repeat | None:
    """The longest repetition within a run of alike operators that also read alike."""
    best: Repeat | None = None
    start = number = first
    while True:
        fits = number < first + length and _reads_alike(inputs, number, period, start)
        if not fits:
            count = (number - start) // period + 1
            if count >= _LEAST and (best is None or count > best.count):
                best = Repeat(first=start, period=period, count=count)
            if number >= first + length:
                return best
            start = number + 1
        number += 1


def _reads_alike(inputs: Sequence[tuple[int, ...]], number: int, period: int, start: int) -> bool:
    """Whether operator `number` and the one a layer later read from alike places."""
    mine, theirs = inputs[number], inputs[number + period]
    return len(mine) == len(theirs) and all(
        b == a + period or (b == a and a < start) for a, b in zip(mine, theirs, strict=True)
    )


def shortened(nodes: Sequence[Node], repeats: Sequence[Repeat]) -> Shortened:
    """The program with `KEPT` layers at either end of every repetition.

    Ensures: operators keep their names; what read a result that is gone reads its likeness; one
    feeds the next alone where all do that it stands for.
    """
    position: dict[int, int] = {}  # in the whole -> in the short
    gone: dict[int, tuple[Repeat, int]] = {}  # the repetition that it is in, and its layer
    for repeat in repeats:
        for number in range(repeat.first, repeat.end):
            layer = (number - repeat.first) // repeat.period
            if KEPT <= layer < repeat.count - KEPT:
                gone[number] = repeat, layer
    kept = [number for number in range(len(nodes)) if number not in gone]
    position = {number: place for place, number in enumerate(kept)}

    def stand_in(number: int) -> int:
        """The kept operator that one reads in the place of `number`."""
        if number not in gone:
            return number
        repeat, layer = gone[number]
        # Everything behind the gap comes as many layers earlier; at least the last before it.
        earlier = min(max(layer - (repeat.count - 2 * KEPT), 0), KEPT - 1)
        return number - (layer - earlier) * repeat.period

    numbers = {node.name: number for number, node in enumerate(nodes)}
    makers = {node.var: number for number, node in enumerate(nodes)}
    builder = relax.BlockBuilder()

    def rewired(number: int) -> Node:
        node = nodes[number]
        if all(numbers[name] not in gone for name in node.inputs):
            return node

        def mapped(expr: relax.Expr) -> relax.Expr:
            if isinstance(expr, relax.Tuple):
                return relax.Tuple([mapped(field) for field in expr.fields])
            if isinstance(expr, relax.Var) and expr in makers:
                return nodes[stand_in(makers[expr])].var
            return expr

        call = node.call
        args = [mapped(arg) for arg in call.args]
        fresh = builder.normalize(relax.Call(call.op, args, call.attrs, call.ty_args))
        names = (nodes[stand_in(numbers[name])].name for name in node.inputs)
        return dataclasses.replace(node, call=fresh, inputs=tuple(dict.fromkeys(names)))

    def like(number: int, layer_in_short: int, *, own: bool) -> int:
        """The operator of the short program that `number` follows."""
        if own and number in position:
            return position[number]
        for repeat in repeats:
            if repeat.first <= number < repeat.end:
                place = (number - repeat.first) % repeat.period
                left = position[repeat.first]
                return left + layer_in_short * repeat.period + place
        return position[number]

    ways = [(layer, own) for own in (True, False) for layer in reversed(range(2 * KEPT))]
    likes = tuple(
        tuple(like(number, layer, own=own) for number in range(len(nodes))) for layer, own in ways
    )
    feeding = [True] * len(kept)
    for places in likes:
        for place, node in zip(places, nodes, strict=True):
            feeding[place] = feeding[place] and node.feeds_next
    return Shortened(
        nodes=tuple(
            dataclasses.replace(rewired(number), feeds_next=feeds)
            for number, feeds in zip(kept, feeding, strict=True)
        ),
        kept=tuple(kept),
        likes=likes,
    )
