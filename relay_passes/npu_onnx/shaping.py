"""Operators that move, cut, join, look up or reinterpret, and compute nothing."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from relay_passes.constants import values_of
from relay_passes.npu_onnx.graph import (
    OnnxGraph,
    Operand,
    dtype_of,
    emits,
    int_list,
    shape_of,
    shape_of_type,
)


@emits(
    "relax.reshape",
    "relax.flatten",
    "relax.expand_dims",
    "relax.squeeze",
)
def _view(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Reshape", args[0], graph.ints(shape_of(call)))


@emits("relax.permute_dims")
def _permute_dims(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axes = call.attrs.axes
    order = range(call.ty.ndim)[::-1] if axes is None else int_list(axes)
    return graph.node("Transpose", args[0], perm=[axis % call.ty.ndim for axis in order])


@emits("relax.broadcast_to")
def _broadcast_to(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Expand", args[0], graph.ints(shape_of(call)))


@emits("relax.concat")
def _concat(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Concat", *args[0], axis=int(call.attrs.axis))


@emits("relax.stack")
def _stack(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axis = int(call.attrs.axis) % call.ty.ndim
    shape = list(shape_of(call))
    shape[axis] = 1
    rows = [graph.node("Reshape", field, graph.ints(shape)) for field in args[0]]
    return graph.node("Concat", *rows, axis=axis)


@emits("relax.split")
def _split(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> Operand:
    axis = int(call.attrs.axis) % call.args[0].ty.ndim
    sizes = [shape_of_type(field)[axis] for field in call.ty.fields]
    fields = graph.nodes_out("Split", [args[0], graph.ints(sizes)], len(sizes), axis=axis)
    return fields


def slice_bounds(call: relax.Call) -> list[tuple[int, int, int, int]]:
    """Per sliced axis: (axis, begin, end, stride), begin and end inside the tensor.

    Requires: constant bounds and positive strides (`npu_support` sees to it).
    """
    shape = shape_of(call.args[0])
    axes, begins, ends = (int_list(argument) for argument in call.args[1:4])
    strides = int_list(call.args[4]) if len(call.args) > 4 else [1] * len(axes)
    bounds = []
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        axis %= len(shape)
        begin, end, _ = slice(begin, end, stride).indices(shape[axis])
        bounds.append((axis, begin, end, stride))
    return bounds


@emits("relax.strided_slice")
def _strided_slice(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axes, begins, ends, strides = (
        graph.ints(column) for column in zip(*slice_bounds(call), strict=True)
    )
    return graph.node("Slice", args[0], begins, ends, axes, strides)


@emits("relax.take")
def _take(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axis = 0 if call.attrs.axis is None else int(call.attrs.axis)
    index = args[1]
    if isinstance(call.args[1], GenericConst):
        # HTP looks up by int32 some 50 times faster than by int64.
        index = graph.constant(values_of(call.args[1]).astype("int32"))
    return graph.node("Gather", args[0], index, axis=axis % call.args[0].ty.ndim)


@emits("relax.nn.pad")
def _pad(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    widths = np.asarray(int_list(call.attrs.pad_width)).reshape(-1, 2)  # [rank, before/after]
    value = graph.scalar(float(call.attrs.pad_value), dtype_of(call))
    return graph.node("Pad", args[0], graph.ints(widths.T.ravel().tolist()), value, mode="constant")
