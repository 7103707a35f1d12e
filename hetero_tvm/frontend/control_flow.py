"""`If`, `Loop` and `Scan` without control flow.

ONNX operators have no side effects, so an `If` may compute both branches and select; a `Loop`
whose trip count is known, and every `Scan`, is written out.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import onnx

from hetero_tvm.errors import ModelTooLarge, ShapeMismatchError, UnsupportedModel
from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.node_view import NodeView, ValueType

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 4096


class Walker(Protocol):
    """What control flow needs of the walk over the graph."""

    def inline(self, graph: onnx.GraphProto, arguments: list[str], prefix: str) -> list[str]:
        """Walk a subgraph in place; returns its results. `ShapeMismatchError` undoes it."""

    def emit(self, view: NodeView, emitter: Emitter) -> None:
        """Walk what `emitter` collected."""

    def emitter(self, view: NodeView) -> Emitter:
        """A place to write nodes in place of `view`."""

    def known(self, name: str) -> np.ndarray | None:
        """The value of `name`, if it is known."""

    def kind(self, name: str) -> ValueType | None:
        """The type of `name`; `None` behind an unsupported node."""


def expand(view: NodeView, walker: Walker) -> bool:
    """Replace a control-flow node; False when it has to stay (and so is unsupported)."""
    rules = {"If": _expand_if, "Loop": _expand_loop, "Scan": _expand_scan}
    return rules[view.op](view, walker)


def _expand_if(view: NodeView, walker: Walker) -> bool:
    branches = {key: view.attr(f"{key}_branch") for key in ("then", "else")}
    known = view.const(0)
    if known is not None:
        chosen = "then" if bool(known.reshape(-1)[0]) else "else"
        _finish(view, walker, walker.inline(branches[chosen], [], view.proto.name))
        return True
    results: dict[str, list[str]] = {}
    failures: list[ShapeMismatchError] = []
    for key, graph in branches.items():
        try:
            results[key] = walker.inline(graph, [], f"{view.proto.name}/{key}")
        except ShapeMismatchError as error:
            failures.append(error)
            logger.warning(
                "%s: its %r branch cannot run at these shapes (%s); the other one is taken",
                view.label,
                key,
                error,
            )
    if len(failures) == len(branches):
        raise failures[0]
    if failures:
        # Where the condition picks the failing branch, the original model fails as well.
        (only,) = results.values()
        _finish(view, walker, only)
        return True
    _select(view, walker, results["then"], results["else"])
    return True


def _finish(view: NodeView, walker: Walker, results: list[str]) -> None:
    emitter = walker.emitter(view)
    for index, result in enumerate(results):
        emitter.output(result, index)
    walker.emit(view, emitter)


def _select(view: NodeView, walker: Walker, then: list[str], other: list[str]) -> None:
    emitter = walker.emitter(view)
    condition = emitter.reshape(view.input(0), [])
    for index, pair in enumerate(zip(then, other, strict=True)):
        kinds = [walker.kind(name) for name in pair]
        if kinds[0] != kinds[1] and None not in kinds:
            shapes = [list(kind.shape) for kind in kinds if kind]
            raise UnsupportedModel(
                f"node {view.label}: the shape of output {index} depends on the condition "
                f"({shapes[0]} or {shapes[1]}); make the condition a constant in the model"
            )
        emitter.output(emitter.op("Where", condition, *pair), index)
    walker.emit(view, emitter)


def _expand_loop(view: NodeView, walker: Walker) -> bool:
    """Inputs: trip count, condition, state...; outputs: state..., one row per iteration..."""
    body: onnx.GraphProto = view.attr("body")
    trips = view.const(0) if view.has(0) else None
    going = view.const(1) if view.has(1) else np.array(True)
    if trips is None or going is None:
        return False
    state = list(view.proto.input[2:])
    rows: list[list[str]] = [[] for _ in range(len(body.output) - 1 - len(state))]
    for step in range(int(trips.reshape(-1)[0])):
        if not bool(going.reshape(-1)[0]):
            break
        if step == MAX_ITERATIONS:
            raise ModelTooLarge(f"node {view.label} runs more than {MAX_ITERATIONS} iterations")
        emitter = walker.emitter(view)
        fixed = [emitter.const(step, "int64"), emitter.const(True, "bool")]
        walker.emit(view, emitter)
        results = walker.inline(body, [*fixed, *state], f"{view.proto.name}/{step}")
        known = walker.known(results[0])
        if known is None:
            return False
        going = known
        state, scanned = results[1 : 1 + len(state)], results[1 + len(state) :]
        for row, value in zip(rows, scanned, strict=True):
            row.append(value)
    if any(not row for row in rows):
        return False
    _collect(view, walker, state, rows, [0] * len(rows))
    return True


def _collect(
    view: NodeView, walker: Walker, state: list[str], rows: list[list[str]], axes: list[int]
) -> None:
    """Last states, then each row of values joined along a new axis."""
    emitter = walker.emitter(view)
    for index, value in enumerate(state):
        emitter.output(value, index)
    for index, (row, axis) in enumerate(zip(rows, axes, strict=True)):
        kind = walker.kind(row[0])
        if kind is None:
            continue
        place = axis % (kind.rank + 1)
        shape = [*kind.shape[:place], 1, *kind.shape[place:]]
        parts = [emitter.reshape(value, shape) for value in row]
        emitter.output(emitter.op("Concat", *parts, axis=place), len(state) + index)
    walker.emit(view, emitter)


def _expand_scan(view: NodeView, walker: Walker) -> bool:
    """Inputs: state..., sequences...; outputs: state..., one row per iteration..."""
    body: onnx.GraphProto = view.attr("body")
    count = view.attr("num_scan_inputs")
    held = len(view.proto.input) - count
    if view.opset < 9:
        return False
    state, sequences = list(view.proto.input[:held]), list(view.proto.input[held:])
    rows: list[list[str]] = [[] for _ in range(len(body.output) - held)]
    axes = view.attr("scan_input_axes", [0] * count)
    backwards = view.attr("scan_input_directions", [0] * count)
    shapes = [view.shape(held + index) for index in range(count)]
    steps = shapes[0][axes[0]]
    if steps > MAX_ITERATIONS:
        raise ModelTooLarge(f"node {view.label} runs more than {MAX_ITERATIONS} iterations")
    for step in range(steps):
        emitter = walker.emitter(view)
        slices = []
        for name, axis, reverse, shape in zip(sequences, axes, backwards, shapes, strict=True):
            place = axis % len(shape)
            at = steps - 1 - step if reverse else step
            part = emitter.slice(name, place, at, at + 1)
            slices.append(emitter.reshape(part, [*shape[:place], *shape[place + 1 :]]))
        walker.emit(view, emitter)
        results = walker.inline(body, [*state, *slices], f"{view.proto.name}/{step}")
        state = results[:held]
        for row, value in zip(rows, results[held:], strict=True):
            row.append(value)
    directions = view.attr("scan_output_directions", [0] * len(rows))
    ordered = [row[::-1] if back else row for row, back in zip(rows, directions, strict=True)]
    _collect(view, walker, state, ordered, view.attr("scan_output_axes", [0] * len(rows)))
    return True
