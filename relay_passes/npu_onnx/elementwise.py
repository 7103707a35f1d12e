"""Operators that work on every element alone.

HTP computes in float16, and its own `Gelu`, `Sigmoid` and `Softplus` are coarser than that (the
first is biased by 5e-4 of its value, the second has a fixed absolute error of 6e-4). Where the NPU
works in float16 these are written with `Exp`, which is right to the last bit.
"""

from __future__ import annotations

from tvm import relax

from relay_passes.npu_onnx.graph import Emitter, OnnxGraph, Operand, dtype_of, element_type, emits

_SAME = {
    "relax.add": "Add",
    "relax.subtract": "Sub",
    "relax.multiply": "Mul",
    "relax.divide": "Div",
    "relax.power": "Pow",
    "relax.maximum": "Max",
    "relax.minimum": "Min",
    "relax.equal": "Equal",
    "relax.less": "Less",
    "relax.less_equal": "LessOrEqual",
    "relax.greater": "Greater",
    "relax.greater_equal": "GreaterOrEqual",
    "relax.logical_and": "And",
    "relax.logical_or": "Or",
    "relax.logical_not": "Not",
    "relax.where": "Where",
    "relax.exp": "Exp",
    "relax.log": "Log",
    "relax.sqrt": "Sqrt",
    "relax.tanh": "Tanh",
    "relax.negative": "Neg",
    "relax.abs": "Abs",
    "relax.floor": "Floor",
    "relax.ceil": "Ceil",
    "relax.nn.relu": "Relu",
}

# gelu(x) ~ x / (1 + exp(x (A + B x^2 + C x^4))) for |x| <= _GELU_EDGE, and x or 0 beyond it.
# Fitted (minimax) to the error-function form: they differ by 2.6e-5 at most, less than a twentieth
# of a float16 step at 1. The well-known form with 0.044715 differs by 4.7e-4.
_GELU = (-1.59501447, -0.0740124702, 0.000703224954)
_GELU_EDGE = 5.5


def _same(op: str) -> Emitter:
    def emit(graph: OnnxGraph, _call: relax.Call, args: list[Operand]) -> str:
        return graph.node(op, *args)

    return emit


for _relax, _onnx in _SAME.items():
    emits(_relax)(_same(_onnx))


@emits("relax.not_equal")
def _not_equal(graph: OnnxGraph, _call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Not", graph.node("Equal", *args))


@emits("relax.square")
def _square(graph: OnnxGraph, _call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Mul", args[0], args[0])


@emits("relax.rsqrt")
def _rsqrt(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    one = graph.scalar(1, dtype_of(call))
    return graph.node("Div", one, graph.node("Sqrt", args[0]))


@emits("relax.clip")
def _clip(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    low, high = (graph.scalar(float(limit.value), dtype_of(call)) for limit in call.args[1:])
    return graph.node("Clip", args[0], low, high)


@emits("relax.nn.leakyrelu")
def _leaky_relu(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("LeakyRelu", args[0], alpha=float(call.attrs.alpha))


@emits("relax.astype")
def _astype(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Cast", args[0], to=element_type(dtype_of(call)))


def _one_plus_exp(graph: OnnxGraph, exponent: str, dtype: str) -> str:
    return graph.node("Add", graph.node("Exp", exponent), graph.scalar(1, dtype))


@emits("relax.sigmoid")
def _sigmoid(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    if not graph.half_inside:
        return graph.node("Sigmoid", args[0])
    below = _one_plus_exp(graph, graph.node("Neg", args[0]), dtype_of(call))
    return graph.node("Div", graph.scalar(1, dtype_of(call)), below)


@emits("relax.nn.silu")
def _silu(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    if not graph.half_inside:
        return graph.node("Mul", args[0], graph.node("Sigmoid", args[0]))
    below = _one_plus_exp(graph, graph.node("Neg", args[0]), dtype_of(call))
    return graph.node("Div", args[0], below)


def _gelu_exponent(graph: OnnxGraph, x: str, dtype: str, scale: float = 1.0) -> str:
    """`x (A + B x^2 + C x^4)` of the bounded, scaled `x`; bounded so that x^2 cannot overflow."""
    x = x if scale == 1.0 else graph.node("Mul", x, graph.scalar(scale, dtype))
    edge = (graph.scalar(-_GELU_EDGE, dtype), graph.scalar(_GELU_EDGE, dtype))
    x = graph.node("Clip", x, *edge)
    square = graph.node("Mul", x, x)
    constant, slope, curve = (graph.scalar(c, dtype) for c in _GELU)
    inner = graph.node("Add", graph.node("Mul", square, curve), slope)
    outer = graph.node("Add", graph.node("Mul", square, inner), constant)
    return graph.node("Mul", x, outer)


@emits("relax.nn.gelu")
def _gelu(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    if not graph.half_inside:
        return graph.node("Gelu", args[0])
    exponent = _gelu_exponent(graph, args[0], dtype_of(call))
    return graph.node("Div", args[0], _one_plus_exp(graph, exponent, dtype_of(call)))


@emits("relax.nn.gelu_tanh")
def _gelu_tanh(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    if not graph.half_inside:
        return graph.node("Gelu", args[0], approximate="tanh")
    dtype = dtype_of(call)
    x = graph.node("Clip", args[0], graph.scalar(-8, dtype), graph.scalar(8, dtype))
    cubic = graph.node("Mul", graph.node("Mul", x, x), graph.scalar(-0.07135481283, dtype))
    factor = graph.node("Add", cubic, graph.scalar(-1.595769122, dtype))
    return graph.node("Div", args[0], _one_plus_exp(graph, graph.node("Mul", x, factor), dtype))


@emits("relax.erf")
def _erf(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    """`erf(z) = 2 gelu(x)/x - 1` with `x = z sqrt(2)`: HTP has no error function of its own."""
    if not graph.half_inside:
        return graph.node("Erf", args[0])
    dtype = dtype_of(call)
    exponent = _gelu_exponent(graph, args[0], dtype, scale=2**0.5)
    twice = graph.node("Div", graph.scalar(2, dtype), _one_plus_exp(graph, exponent, dtype))
    return graph.node("Sub", twice, graph.scalar(1, dtype))
