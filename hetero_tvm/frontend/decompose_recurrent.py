"""LSTM, GRU and RNN, unrolled over their (static) length.

The products with the input are taken for all steps at once; each step adds the product with the
previous state. All gates of a step are one product, cut apart afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hetero_tvm.errors import ModelTooLarge
from hetero_tvm.frontend.control_flow import MAX_ITERATIONS
from hetero_tvm.frontend.emitter import Emitter
from hetero_tvm.frontend.node_view import NodeView
from hetero_tvm.frontend.shape_folding import Decomposition

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = frozenset(("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"))
_PEEPHOLES, _SEQUENCE_LENGTHS, _BIAS, _FIRST_STATE, _FIRST_CELL = 7, 4, 3, 5, 6


@dataclass(frozen=True)
class _Direction:
    """One direction of one layer, in standard layout."""

    index: int
    reverse: bool
    activations: list[str]
    recurrent: str  # R transposed, [H, gates * H]
    recurrent_bias: str  # Rb, [gates * H], empty without biases
    peepholes: str  # [3 * H], empty without peepholes


_Step = Callable[[Emitter, _Direction, str, dict[str, str]], dict[str, str]]


def _recurrent(step_of: Callable[[NodeView], _Step]) -> Decomposition:
    def decompose(node: NodeView, out: Emitter) -> bool:
        names = _activation_names(node)
        if names is None or node.attr("clip") is not None or node.attr("input_forget", 0):
            return False
        batch_first = node.attr("layout", 0) == 1
        steps, batch, _width = node.shape(0)
        if batch_first:
            steps, batch = batch, steps
        if steps > MAX_ITERATIONS:
            raise ModelTooLarge(f"node {node.label} runs more than {MAX_ITERATIONS} steps")
        lengths = node.const(_SEQUENCE_LENGTHS)
        if node.has(_SEQUENCE_LENGTHS) and (lengths is None or np.any(lengths != steps)):
            return False
        x = out.transpose(node.input(0), [1, 0, 2]) if batch_first else node.input(0)
        runs = [
            _run(node, out, direction, x, steps, batch, step_of(node))
            for direction in _directions(node, out, names)
        ]
        _join(node, out, runs, batch_first)
        return True

    return decompose


def _activation_names(node: NodeView) -> list[list[str]] | None:
    """Activations per direction, or `None` when one has parameters or is unknown."""
    count = 2 if node.attr("direction", "forward") == "bidirectional" else 1
    default = _DEFAULTS[node.op]
    given = node.attr("activations")
    names = [n.decode() if isinstance(n, bytes) else n for n in given] if given else default * count
    if node.attr("activation_alpha") or not set(names) <= _ACTIVATIONS:
        return None
    return [names[i * len(default) : (i + 1) * len(default)] for i in range(count)]


def _directions(node: NodeView, out: Emitter, names: list[list[str]]) -> list[_Direction]:
    hidden, gates = node.shape(2)[2], _GATES[node.op]
    result = []
    for index, activations in enumerate(names):
        recurrent = out.reshape(out.slice(node.input(2), 0, index, index + 1), node.shape(2)[1:])
        bias = peepholes = ""
        if node.has(_BIAS):
            row = out.slice(node.input(_BIAS), 0, index, index + 1)
            row = out.reshape(row, [2 * gates * hidden])
            bias = out.slice(row, 0, gates * hidden, 2 * gates * hidden)
        if node.op == "LSTM" and node.has(_PEEPHOLES):
            row = out.slice(node.input(_PEEPHOLES), 0, index, index + 1)
            peepholes = out.reshape(row, [3 * hidden])
        direction = node.attr("direction", "forward")
        result.append(
            _Direction(
                index=index,
                reverse=direction == "reverse" or index == 1,
                activations=activations,
                recurrent=out.transpose(recurrent, [1, 0]),
                recurrent_bias=bias,
                peepholes=peepholes,
            )
        )
    return result


def _run(
    node: NodeView,
    out: Emitter,
    direction: _Direction,
    x: str,
    steps: int,
    batch: int,
    step: _Step,
) -> tuple[list[str], dict[str, str]]:
    """Every step's output [B, H] in order of time, and the last state."""
    hidden, gates = node.shape(2)[2], _GATES[node.op]
    weight = out.reshape(
        out.slice(node.input(1), 0, direction.index, direction.index + 1), node.shape(1)[1:]
    )
    driven = out.op("MatMul", x, out.transpose(weight, [1, 0]))  # [T, B, gates * H]
    if node.has(_BIAS):
        row = out.slice(node.input(_BIAS), 0, direction.index, direction.index + 1)
        bias = out.slice(out.reshape(row, [2 * gates * hidden]), 0, 0, gates * hidden)
        driven = out.op("Add", driven, bias)
    state = {"h": _first(node, out, direction.index, _FIRST_STATE, batch)}
    if node.op == "LSTM":
        state["c"] = _first(node, out, direction.index, _FIRST_CELL, batch)
    outputs: dict[int, str] = {}
    for time in range(steps)[:: -1 if direction.reverse else 1]:
        now = out.reshape(out.slice(driven, 0, time, time + 1), [batch, gates * hidden])
        state = step(out, direction, now, state)
        outputs[time] = state["h"]
    return [outputs[time] for time in range(steps)], state


def _first(node: NodeView, out: Emitter, index: int, position: int, batch: int) -> str:
    """The initial state [B, H] of one direction."""
    hidden = node.shape(2)[2]
    if not node.has(position):
        return out.const(np.zeros((batch, hidden)), node.dtype(0))
    axis = 1 if node.attr("layout", 0) == 1 else 0
    return out.reshape(out.slice(node.input(position), axis, index, index + 1), [batch, hidden])


def _join(
    node: NodeView,
    out: Emitter,
    runs: list[tuple[list[str], dict[str, str]]],
    batch_first: bool,
) -> None:
    """Outputs Y [T, D, B, H], Y_h [D, B, H], Y_c; or batch first."""
    hidden = node.shape(2)[2]
    batch = node.shape(0)[0 if batch_first else 1]
    if node.has_output(0):
        rows = []
        for outputs, _state in runs:
            steps = [out.reshape(value, [1, 1, batch, hidden]) for value in outputs]
            rows.append(out.op("Concat", *steps, axis=0))
        whole = out.op("Concat", *rows, axis=1)
        out.output(out.transpose(whole, [2, 0, 1, 3]) if batch_first else whole, 0)
    for index, key in ((1, "h"), (2, "c")):
        if node.has_output(index):
            last = [out.reshape(state[key], [1, batch, hidden]) for _outputs, state in runs]
            whole = out.op("Concat", *last, axis=0)
            out.output(out.transpose(whole, [1, 0, 2]) if batch_first else whole, index)


def _cut(out: Emitter, value: str, hidden: int, count: int) -> list[str]:
    return [out.slice(value, 1, i * hidden, (i + 1) * hidden) for i in range(count)]


def _product(out: Emitter, direction: _Direction, h: str) -> str:
    """The previous state's share of all gates."""
    product = out.op("MatMul", h, direction.recurrent)
    if not direction.recurrent_bias:
        return product
    return out.op("Add", product, direction.recurrent_bias)


def _lstm_step(node: NodeView) -> _Step:
    hidden = node.shape(2)[2]

    def step(
        out: Emitter, direction: _Direction, now: str, state: dict[str, str]
    ) -> dict[str, str]:
        inner, candidate, outer = direction.activations
        total = out.op("Add", now, _product(out, direction, state["h"]))
        i, o, f, c = _cut(out, total, hidden, 4)
        if direction.peepholes:
            weights = [
                out.slice(direction.peepholes, 0, k * hidden, (k + 1) * hidden) for k in range(3)
            ]
            i = out.op("Add", i, out.op("Mul", weights[0], state["c"]))
            f = out.op("Add", f, out.op("Mul", weights[2], state["c"]))
        kept = out.op("Mul", out.op(inner, f), state["c"])
        cell = out.op("Add", kept, out.op("Mul", out.op(inner, i), out.op(candidate, c)))
        if direction.peepholes:
            o = out.op("Add", o, out.op("Mul", weights[1], cell))
        return {"h": out.op("Mul", out.op(inner, o), out.op(outer, cell)), "c": cell}

    return step


def _gru_step(node: NodeView) -> _Step:
    hidden = node.shape(2)[2]
    reset_after = bool(node.attr("linear_before_reset", 0))
    dtype = node.dtype(0)

    def step(
        out: Emitter, direction: _Direction, now: str, state: dict[str, str]
    ) -> dict[str, str]:
        gate, candidate = direction.activations
        h = state["h"]
        driven = _cut(out, now, hidden, 3)
        recurrent = _cut(out, _product(out, direction, h), hidden, 3)
        updating = out.op("Add", driven[0], recurrent[0])
        update = out.op(gate, updating)
        reset = out.op(gate, out.op("Add", driven[1], recurrent[1]))
        if reset_after:
            seen = out.op("Mul", reset, recurrent[2])
        else:
            matrix = out.slice(direction.recurrent, 1, 2 * hidden, 3 * hidden)
            seen = out.op("MatMul", out.op("Mul", reset, h), matrix)
            if direction.recurrent_bias:
                bias = out.slice(direction.recurrent_bias, 0, 2 * hidden, 3 * hidden)
                seen = out.op("Add", seen, bias)
        new = out.op(candidate, out.op("Add", driven[2], seen))
        if gate == "Sigmoid":  # 1 - sigmoid(x) cancels near 1, where a float16 has few digits left
            rest = out.op(gate, out.op("Neg", updating))
        else:
            rest = out.op("Sub", out.const(1.0, dtype), update)
        return {"h": out.op("Add", out.op("Mul", rest, new), out.op("Mul", update, h))}

    return step


def _rnn_step(_node: NodeView) -> _Step:
    def step(
        out: Emitter, direction: _Direction, now: str, state: dict[str, str]
    ) -> dict[str, str]:
        total = out.op("Add", now, _product(out, direction, state["h"]))
        return {"h": out.op(direction.activations[0], total)}

    return step


RECURRENT_DECOMPOSITIONS: dict[tuple[str, str], Decomposition] = {
    ("", "LSTM"): _recurrent(_lstm_step),
    ("", "GRU"): _recurrent(_gru_step),
    ("", "RNN"): _recurrent(_rnn_step),
}
