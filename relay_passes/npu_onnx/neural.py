"""Operators that reduce, convolve or normalise: what an NPU is for."""

from __future__ import annotations

import numpy as np
from tvm import relax

from relay_passes.attention import ATTENTION, AttentionAttrs
from relay_passes.npu_onnx.graph import (
    OnnxGraph,
    Operand,
    dtype_of,
    emits,
    int_list,
    shape_of,
    shape_of_type,
)

_RESIZE_MODES = {"nearest_neighbor": "nearest", "linear": "linear"}
_MASKED = -10000.0  # far below any score, and inside float16


@emits("relax.nn.attention", "relax.nn.attention_bias")
def _attention(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    """`softmax(scale Q K^T + bias) V` on [B, S, N, H] operands."""
    dtype = dtype_of(call)
    _, rows, _, head = shape_of(call.args[0])
    columns = shape_of(call.args[1])[1]
    scale = head**-0.5 if call.attrs.scale is None else float(call.attrs.scale.value)
    query = graph.node("Transpose", args[0], perm=[0, 2, 1, 3])  # [B, N, S, H]
    key = graph.node("Transpose", args[1], perm=[0, 2, 3, 1])  # [B, N, H, T]
    value = graph.node("Transpose", args[2], perm=[0, 2, 1, 3])  # [B, N, T, H]
    # The scale goes to the query: scores then stay small enough for float16.
    scaled = graph.node("Mul", query, graph.scalar(scale, dtype))
    scores = graph.node("MatMul", scaled, key)
    if len(args) > 3:
        scores = graph.node("Add", scores, args[3])
    if call.attrs.causal_mask is not None:
        offset = columns - rows if call.attrs.causal_mask == "BottomRight" else 0
        mask = np.where(np.tri(rows, columns, offset) > 0, 0.0, _MASKED).astype(dtype)
        scores = graph.node("Add", scores, graph.constant(mask))
    weights = graph.node("Softmax", scores, axis=-1)
    return graph.node("Transpose", graph.node("MatMul", weights, value), perm=[0, 2, 1, 3])


@emits(ATTENTION)
def _cached_attention(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    """Over all of the cache, with what is not seen masked by where the new positions stand."""
    attrs, dtype = AttentionAttrs.of(call), dtype_of(call)
    query, keys, values, past = args
    batch, heads, rows, depth = shape_of(call.args[0])
    _, groups, capacity, mixed = shape_of(call.args[2])
    together = [batch, groups, heads // groups * rows, depth]  # the heads that read the same keys
    scaled = graph.node("Mul", query, graph.scalar(attrs.scale, dtype))
    scaled = graph.node("Reshape", scaled, graph.ints(together))
    turned = graph.node("Transpose", keys, perm=[0, 1, 3, 2])  # [B, Hkv, D, C]
    scores = graph.node("MatMul", scaled, turned)
    if attrs.softcap:
        cap = graph.scalar(attrs.softcap, dtype)
        scores = graph.node("Mul", graph.node("Tanh", graph.node("Div", scores, cap)), cap)
    scores = graph.node("Reshape", scores, graph.ints([batch, heads, rows, capacity]))
    own = graph.node(
        "Add",
        past,
        graph.constant(np.arange(attrs.first, attrs.first + rows, dtype=np.int32)[:, None]),
    )
    positions = graph.constant(np.arange(capacity, dtype=np.int32)[None, :])
    seen = graph.node("LessOrEqual", positions, own)  # [S, C]
    if attrs.window:
        first = graph.node("Sub", own, graph.constant(np.array([attrs.window], np.int32)))
        seen = graph.node("And", seen, graph.node("Greater", positions, first))
    mask = graph.node("Where", seen, graph.scalar(0.0, dtype), graph.scalar(_MASKED, dtype))
    weights = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)
    weights = graph.node("Reshape", weights, graph.ints([*together[:3], capacity]))
    result = graph.node("MatMul", weights, values)
    result = graph.node("Reshape", result, graph.ints([batch, heads, rows, mixed]))
    result = graph.node("Transpose", result, perm=[0, 2, 1, 3])
    return graph.node("Reshape", result, graph.ints([batch, rows, heads * mixed]))


@emits("relax.nn.conv1d", "relax.nn.conv2d")
def _conv(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    attrs = call.attrs
    return graph.node(
        "Conv",
        *args,
        strides=int_list(attrs.strides),
        pads=int_list(attrs.padding),
        dilations=int_list(attrs.dilation),
        group=int(attrs.groups),
    )


@emits("relax.nn.conv2d_transpose")
def _conv_transpose(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    attrs = call.attrs
    return graph.node(
        "ConvTranspose",
        *args,
        strides=int_list(attrs.strides),
        pads=int_list(attrs.padding),
        output_padding=int_list(attrs.output_padding),
        dilations=int_list(attrs.dilation),
        group=int(attrs.groups),
    )


@emits("relax.nn.max_pool2d")
def _max_pool2d(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("MaxPool", args[0], **_window(call))


@emits("relax.nn.avg_pool2d")
def _avg_pool2d(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    count_include_pad = int(bool(call.attrs.count_include_pad))
    return graph.node("AveragePool", args[0], count_include_pad=count_include_pad, **_window(call))


def _window(call: relax.Call) -> dict[str, object]:
    """Attributes of a pool; `npu_support` takes `ceil_mode` only where it changes nothing."""
    attrs = call.attrs
    return {
        "kernel_shape": int_list(attrs.pool_size),
        "strides": int_list(attrs.strides),
        "pads": int_list(attrs.padding),
        "dilations": int_list(attrs.dilation),
    }


@emits("relax.nn.adaptive_avg_pool2d")
def _adaptive_avg_pool2d(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    window = [i // o for i, o in zip(shape_of(call.args[0])[2:], shape_of(call)[2:], strict=True)]
    return graph.node("AveragePool", args[0], kernel_shape=window, strides=window)


@emits("relax.image.resize2d")
def _resize2d(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    attrs = call.attrs
    size = graph.ints(shape_of(call))
    keys = {"coordinate_transformation_mode": str(attrs.coordinate_transformation_mode)}
    if attrs.method == "nearest_neighbor":
        keys["nearest_mode"] = str(attrs.rounding_method)
    return graph.node("Resize", args[0], "", "", size, mode=_RESIZE_MODES[attrs.method], **keys)


@emits("relax.nn.softmax")
def _softmax(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("Softmax", args[0], axis=int(call.attrs.axis))


@emits("relax.nn.log_softmax")
def _log_softmax(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    return graph.node("LogSoftmax", args[0], axis=int(call.attrs.axis))


@emits("relax.nn.layer_norm")
def _layer_norm(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    attrs = call.attrs
    shape = shape_of(call.args[1])
    dtype = dtype_of(call)
    gamma = args[1] if attrs.scale else graph.constant(np.ones(shape, dtype))
    beta = args[2] if attrs.center else graph.constant(np.zeros(shape, dtype))
    return graph.node(
        "LayerNormalization",
        args[0],
        gamma,
        beta,
        axis=-len(int_list(attrs.axes)),
        epsilon=float(attrs.epsilon),
    )


@emits("relax.nn.rms_norm")
def _rms_norm(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    attrs = call.attrs
    axis = -len(int_list(attrs.axes))
    return graph.node("RMSNormalization", *args, axis=axis, epsilon=float(attrs.epsilon))


@emits("relax.nn.batch_norm")
def _batch_norm(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> Operand:
    """Inference only: the running statistics leave as they came."""
    data, gamma, beta, mean, variance = args
    shape = shape_of_type(call.args[1].ty)
    dtype = dtype_of(call.args[0])
    gamma = gamma if call.attrs.scale else graph.constant(np.ones(shape, dtype))
    beta = beta if call.attrs.center else graph.constant(np.zeros(shape, dtype))
    epsilon = float(call.attrs.epsilon)
    result = graph.node("BatchNormalization", data, gamma, beta, mean, variance, epsilon=epsilon)
    return (result, str(mean), str(variance))


def _reduced_axes(call: relax.Call) -> list[int]:
    rank = call.args[0].ty.ndim
    if call.attrs.axis is None:
        return list(range(rank))
    return sorted(axis % rank for axis in int_list(call.attrs.axis))


def _reduce(graph: OnnxGraph, op: str, data: str, axes: list[int], keepdims: bool) -> str:
    return graph.node(op, data, graph.ints(axes), keepdims=int(keepdims))


_REDUCTIONS = {
    "relax.mean": "ReduceMean",
    "relax.sum": "ReduceSum",
    "relax.max": "ReduceMax",
    "relax.min": "ReduceMin",
}


@emits(*_REDUCTIONS)
def _reduction(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    op = _REDUCTIONS[call.op.name]
    return _reduce(graph, op, args[0], _reduced_axes(call), bool(call.attrs.keepdims))


@emits("relax.variance")
def _variance(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axes = _reduced_axes(call)
    centred = graph.node("Sub", args[0], _reduce(graph, "ReduceMean", args[0], axes, True))
    square = graph.node("Mul", centred, centred)
    return _reduce(graph, "ReduceMean", square, axes, bool(call.attrs.keepdims))


@emits("relax.argmax")
def _argmax(graph: OnnxGraph, call: relax.Call, args: list[Operand]) -> str:
    axis = int(call.attrs.axis)
    return graph.node("ArgMax", args[0], axis=axis, keepdims=int(bool(call.attrs.keepdims)))
