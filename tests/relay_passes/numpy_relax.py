"""What a Relax function means, in numpy: the operators that `split_programs` uses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import IRModule, relax
from tvm.ir import GenericConst, GlobalVar

from relay_passes.constants import array_of
from relay_passes.op_work import dtype_bytes, static_shape, tensor_args
from relay_passes.split_tensor import JOIN, SLICE

Value = np.ndarray | tuple


def evaluate(mod: IRModule, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of `main`; regions are called like functions."""
    result = _function(mod, mod["main"], inputs)
    return list(result) if isinstance(result, tuple) else [result]


def _function(mod: IRModule, func: relax.Function, inputs: list[np.ndarray]) -> Value:
    known: dict[relax.Var, Value] = dict(zip(func.params, inputs, strict=True))
    for block in func.body.blocks:
        for binding in block.bindings:
            value = _value(mod, binding.value, known)
            if isinstance(binding.var.ty, relax.TensorType):
                assert value.shape == static_shape(binding.var.ty), binding.var.name
            known[binding.var] = value
    return _value(mod, func.body.body, known)


def _value(mod: IRModule, expr: relax.Expr, known: Mapping[relax.Var, Value]) -> Value:
    if isinstance(expr, relax.Var):
        return known[expr]
    if isinstance(expr, GenericConst):
        return array_of(expr)
    if isinstance(expr, relax.Tuple):
        return tuple(_value(mod, field, known) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _value(mod, expr.tuple_value, known)[expr.index]
    if isinstance(expr.op, GlobalVar):
        return _function(mod, mod[expr.op], [_value(mod, arg, known) for arg in expr.args])
    name = str(expr.op.name).removeprefix("relax.")
    if name == "call_pure_packed":
        callee, *rest = expr.args
        shape = static_shape(expr.ty)
        # Memory as it lies: the parts of a join one after the other, a slice from its first byte.
        if str(callee.global_symbol) == JOIN:
            parts = [_value(mod, arg, known).reshape(-1) for arg in rest]
            return np.concatenate(parts).reshape(shape)
        assert str(callee.global_symbol) == SLICE
        whole, begin = _value(mod, rest[0], known).reshape(-1), int(rest[1].value)
        begin //= dtype_bytes(str(expr.ty.dtype))
        return whole[begin : begin + int(np.prod(shape))].reshape(shape)
    return _OPERATORS[name](expr, *(_value(mod, arg, known) for arg in tensor_args(expr)))


def _softmax(call: relax.Call, x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(call.attrs.axis, keepdims=True))
    return powers / powers.sum(call.attrs.axis, keepdims=True)


def _layer_norm(call: relax.Call, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    axes = tuple(int(axis) for axis in call.attrs.axes)
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5) * scale + bias


def _conv2d(call: relax.Call, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """3x3 in steps of one over [N, C, H, W]."""
    top, left, bottom, right = (int(n) for n in call.attrs.padding)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def _strided_slice(call: relax.Call, x: np.ndarray) -> np.ndarray:
    axes, begin, end = ([int(v.value) for v in arg.fields] for arg in call.args[1:4])
    index = [slice(None)] * x.ndim
    for axis, first, past in zip(axes, begin, end, strict=True):
        index[axis] = slice(first, past)
    return x[tuple(index)]


_OPERATORS = {
    "matmul": lambda call, x, y: x @ y,
    "add": lambda call, x, y: x + y,
    "subtract": lambda call, x, y: x - y,
    "split": lambda call, x: tuple(
        np.split(x, int(call.attrs.indices_or_sections.value), int(call.attrs.axis))
    ),
    "nn.relu": lambda call, x: np.maximum(x, 0),
    "nn.softmax": _softmax,
    "nn.layer_norm": _layer_norm,
    "nn.conv2d": _conv2d,
    "reshape": lambda call, x: x.reshape(static_shape(call.ty)),
    "permute_dims": lambda call, x: x.transpose([int(axis) for axis in call.attrs.axes]),
    "concat": lambda call, *parts: np.concatenate(parts, int(call.attrs.axis)),
    "sum": lambda call, x: x.sum(tuple(int(a) for a in call.attrs.axis), keepdims=True),
    "strided_slice": _strided_slice,
}
