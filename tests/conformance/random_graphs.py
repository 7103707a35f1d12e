"""Random small ONNX graphs: odd shapes, broadcasts, scalars, now and then no elements; all types.

A strategy of hypothesis, so that what fails shrinks. A value that took part in rounded arithmetic
is never rounded up or down, compared or turned into a whole number: two right results may then
differ by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

FLOATS = ("float32", "float32", "float32", "float16")
WHOLE = ("int32", "int64", "int8", "uint8")
DTYPES = (*FLOATS, *WHOLE, "bool")
_SIZES = st.sampled_from((1, 1, 2, 3, 3, 4, 5, 7, 9, 16, 17, 33))


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    exact: bool  # no rounding took part in it

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")


class Graph:
    """A graph that grows."""

    def __init__(self, draw: Callable, sizes: st.SearchStrategy) -> None:
        self.draw, self.sizes = draw, sizes
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def shape(self, most: int = 4) -> tuple[int, ...]:
        rank = self.draw(st.integers(0, most))
        shape = tuple(self.draw(self.sizes) for _ in range(rank))
        return shape if np.prod(shape) <= 2000 else shape[:2]

    def add_input(self) -> None:
        value = Value(f"x{len(self.inputs)}", self.pick(*DTYPES), self.shape(), True)
        self.inputs.append(value)
        self.values.append(value)

    def const(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def operand(self, value: Value, shape: tuple[int, ...] | None = None) -> str:
        """Another operand of the type of `value`: a constant that broadcasts with it."""
        if shape is None:
            kept = value.shape[self.draw(st.integers(0, len(value.shape))) :]
            shape = tuple(self.pick(size, size, 1) for size in kept)
        rng = np.random.default_rng(self.draw(st.integers(0, 999)))
        return self.const(drawn(value.dtype, shape, rng))

    def add(
        self,
        op: str,
        inputs: list[str],
        like: Value,
        shape: tuple[int, ...],
        dtype: str = "",
        exact: bool = True,
        **attributes,
    ) -> None:
        """A node whose first result is a new value."""
        name = f"v{len(self.nodes)}"
        made = helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes)
        self.nodes.append(made)
        self.values.append(Value(name, dtype or like.dtype, tuple(shape), like.exact and exact))

    def model(self) -> onnx.ModelProto:
        read = {name for node in self.nodes for name in node.input}
        outputs = [v for v in self.values if v.name not in read and v not in self.inputs]
        info = [
            [
                helper.make_tensor_value_info(
                    v.name, helper.np_dtype_to_tensor_dtype(np.dtype(v.dtype)), v.shape
                )
                for v in side
            ]
            for side in (self.inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "random", *info, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def drawn(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Values of a moderate size, of either sign where the type has one."""
    if dtype.startswith("float"):
        return np.asarray(rng.uniform(-2, 2, shape), dtype)
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), dtype)
    return np.asarray(rng.integers(0 if dtype == "uint8" else -3, 4, shape), dtype)


def _unary(g: Graph, x: Value) -> None:
    if x.is_float:
        # ONNX Runtime takes a float16 Softplus as log(1 + exp(x)), infinite from 89 on.
        coarse = () if x.dtype == "float16" else ("Softplus",)
        op = g.pick("Relu", "Neg", "Abs", "Tanh", "Sigmoid", "Erf", "HardSigmoid", *coarse)
        g.add(op, [x.name], x, x.shape, exact=op in ("Relu", "Neg", "Abs"))
    elif x.dtype == "bool":
        g.add("Not", [x.name], x, x.shape)
    elif x.dtype != "uint8":
        g.add(g.pick("Neg", "Abs"), [x.name], x, x.shape)


def _binary(g: Graph, x: Value) -> None:
    if x.dtype == "bool":
        g.add(g.pick("And", "Or", "Xor"), [x.name, g.operand(x)], x, x.shape)
        return
    narrow = x.dtype in ("int8", "uint8")
    op = g.pick("Max", "Min") if narrow else g.pick("Add", "Sub", "Mul", "Max", "Min")
    operands = [x.name, g.operand(x)]
    g.add(op, operands if g.draw(st.booleans()) else operands[::-1], x, x.shape, exact=False)
    if not x.is_float:
        g.values[-1] = dataclasses.replace(g.values[-1], exact=x.exact)


def _two(g: Graph, x: Value) -> None:
    """Two values of the graph, broadcast against each other."""
    for y in g.values:
        if y.dtype == x.dtype and x.is_float and y is not x:
            try:
                shape = np.broadcast_shapes(x.shape, y.shape)
            except ValueError:
                continue
            if np.prod(shape) <= 5000:
                g.add(g.pick("Add", "Mul"), [x.name, y.name], x, shape, exact=False)
                return


def _compare(g: Graph, x: Value) -> None:
    if x.exact and x.dtype != "bool" and x.dtype not in ("int8", "uint8"):
        g.add(g.pick("Less", "Greater", "Equal"), [x.name, g.operand(x)], x, x.shape, "bool")
        chosen = g.values[-1]
        if g.draw(st.booleans()):
            g.add("Where", [chosen.name, x.name, g.operand(x)], x, x.shape)


def _cast(g: Graph, x: Value) -> None:
    to = g.pick("float32", "int32", "int64", "float16", "bool")
    if to == "bool" or x.exact or to.startswith("float"):
        if to == "bool" and not x.exact:
            return
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(to))
        g.add("Cast", [x.name], x, x.shape, to, exact=not to.startswith("float16"), to=kind)


def _transpose(g: Graph, x: Value) -> None:
    perm = list(g.draw(st.permutations(range(len(x.shape)))))
    if perm:
        g.add("Transpose", [x.name], x, tuple(x.shape[axis] for axis in perm), perm=perm)


def _reshape(g: Graph, x: Value) -> None:
    size = int(np.prod(x.shape))
    shape = g.pick((size,), (1, size), (size, 1), x.shape[::-1], (*x.shape, 1), (1, *x.shape))
    if size:
        g.add("Reshape", [x.name, g.ints(*shape)], x, shape)


def _slice(g: Graph, x: Value) -> None:
    if not x.shape:
        return
    axis = g.draw(st.integers(0, len(x.shape) - 1))
    size = x.shape[axis]
    begin = g.draw(st.integers(0, max(size - 1, 0)))
    end = g.draw(st.integers(begin, size))
    step = g.pick(1, 1, 2)
    found = len(range(begin, end, step))
    if found or not size:
        shape = (*x.shape[:axis], found, *x.shape[axis + 1 :])
        words = [g.ints(number) for number in (begin, end, axis, step)]
        g.add("Slice", [x.name, *words], x, shape)


def _concat(g: Graph, x: Value) -> None:
    if x.shape:
        axis = g.draw(st.integers(0, len(x.shape) - 1))
        extra = g.draw(st.integers(1, 4))
        other = (*x.shape[:axis], extra, *x.shape[axis + 1 :])
        shape = (*x.shape[:axis], x.shape[axis] + extra, *x.shape[axis + 1 :])
        g.add("Concat", [x.name, g.operand(x, other)], x, shape, axis=axis)


def _reduce(g: Graph, x: Value) -> None:
    if not x.shape or not (x.is_float or x.dtype in ("int32", "int64")):
        return
    axis = g.draw(st.integers(0, len(x.shape) - 1))
    kept = g.draw(st.booleans())
    op = g.pick("ReduceSum", "ReduceMax", "ReduceMean") if x.is_float else "ReduceSum"
    if x.shape[axis]:
        shape = (*x.shape[:axis], *((1,) if kept else ()), *x.shape[axis + 1 :])
        exact = op == "ReduceMax" or not x.is_float
        words = [x.name, g.ints(axis)]
        g.add(op, words, x, shape, exact=exact, keepdims=int(kept))


def _softmax(g: Graph, x: Value) -> None:
    if x.is_float and x.shape and x.shape[-1]:
        g.add("Softmax", [x.name], x, x.shape, exact=False, axis=-1)


def _matmul(g: Graph, x: Value) -> None:
    if x.is_float and len(x.shape) >= 2:
        columns = g.draw(g.sizes)
        weight = g.operand(x, (x.shape[-1], columns))
        g.add("MatMul", [x.name, weight], x, (*x.shape[:-1], columns), exact=False)


def _gather(g: Graph, x: Value) -> None:
    if x.shape and x.shape[0]:
        indices = g.draw(st.lists(st.integers(-x.shape[0], x.shape[0] - 1), min_size=1, max_size=4))
        g.add("Gather", [x.name, g.ints(*indices)], x, (len(indices), *x.shape[1:]), axis=0)


def _pad(g: Graph, x: Value) -> None:
    if x.shape and x.is_float:
        pads = [g.draw(st.integers(0, 2)) for _ in range(2 * len(x.shape))]
        rank = len(x.shape)
        shape = tuple(size + pads[i] + pads[i + rank] for i, size in enumerate(x.shape))
        if np.prod(shape) <= 5000:
            g.add("Pad", [x.name, g.ints(*pads)], x, shape)


def _conv(g: Graph, x: Value) -> None:
    if x.dtype == "float32" and len(x.shape) == 4 and np.prod(x.shape):
        side, out = g.pick(1, 3), g.draw(st.integers(1, 5))
        weight = g.operand(x, (out, x.shape[1], side, side))
        pads = [side // 2] * 4
        shape = (x.shape[0], out, *x.shape[2:])
        g.add("Conv", [x.name, weight], x, shape, exact=False, kernel_shape=[side] * 2, pads=pads)


def _expand(g: Graph, x: Value) -> None:
    extra = g.draw(st.integers(1, 3))
    if np.prod(x.shape) <= 1000:
        shape = (extra, *x.shape)
        g.add("Expand", [x.name, g.ints(*shape)], x, shape)


_STEPS = (
    *(_unary, _binary, _binary, _two, _compare, _cast, _transpose, _reshape, _slice, _concat),
    *(_reduce, _softmax, _matmul, _matmul, _gather, _pad, _conv, _expand),
)


@st.composite
def graphs(draw: Callable, most_nodes: int = 5, empty: bool = False) -> onnx.ModelProto:
    """Models of a few nodes; `empty`: dimensions may be 0."""
    sizes = st.sampled_from((0, 1, 2, 3)) if empty else _SIZES
    graph = Graph(draw, sizes)
    for _ in range(draw(st.integers(1, 2))):
        graph.add_input()
    for _ in range(draw(st.integers(1, most_nodes))):
        step = draw(st.sampled_from(_STEPS))
        step(graph, draw(st.sampled_from(graph.values[-3:])))
    if not graph.nodes:
        first = graph.inputs[0]
        graph.add("Identity", [first.name], first, first.shape)
    return graph.model()
