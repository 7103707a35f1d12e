"""Reductions, softmax and normalisations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter

op = relax.op


def _axes(c: Conversion) -> list[int] | None:
    """Axes to reduce, or `None` when nothing is to be reduced."""
    rank = len(c.node.shape(0))
    axes = c.node.ints("axes", 1)
    if axes is None and c.node.has(1):
        raise c.unsupported("its axes are computed from an input's values")
    if not axes:
        return None if c.node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def _reduce(
    build: Callable[..., relax.Expr],
    before: Callable[[Conversion, relax.Expr], relax.Expr] | None = None,
    after: Callable[[relax.Expr], relax.Expr] | None = None,
) -> Converter:
    """A reduction, with an elementwise step on each side."""

    def convert(c: Conversion) -> relax.Expr:
        axes = _axes(c)
        x = c.x() if before is None else c.emit(before(c, c.x()))
        if axes is None:
            return x if after is None else after(x)
        result = build(x, axis=axes, keepdims=bool(c.node.attr("keepdims", 1)))
        return result if after is None else after(c.emit(result))

    return convert


def _square(_c: Conversion, x: relax.Expr) -> relax.Expr:
    return op.multiply(x, x)


def _log_sum_exp(c: Conversion) -> relax.Expr:
    axes = _axes(c)
    if axes is None:
        return c.x()
    top = c.emit(op.max(c.x(), axis=axes, keepdims=True))
    grown = c.emit(op.exp(c.emit(op.subtract(c.x(), top))))
    total = c.emit(op.log(c.emit(op.sum(grown, axis=axes, keepdims=True))))
    return c.reshape(c.emit(op.add(total, top)), c.out.shape)


def _softmax(c: Conversion) -> relax.Expr:
    """From opset 13 along one axis; before, over all axes from `axis` on, seen as one."""
    build = op.nn.softmax if c.node.op == "Softmax" else op.nn.log_softmax
    shape = c.node.shape(0)
    rank = len(shape)
    if c.node.opset >= 13:
        return build(c.x(), axis=c.node.attr("axis", -1) % rank)
    axis = c.node.attr("axis", 1) % rank
    if axis == rank - 1 or all(size == 1 for size in shape[axis + 1 :]):
        return build(c.x(), axis=axis)
    rows = int(np.prod(shape[:axis], dtype=np.int64))
    flat = c.reshape(c.x(), (rows, int(np.prod(shape[axis:], dtype=np.int64))))
    return c.reshape(c.emit(build(flat, axis=1)), c.out.shape)


def _layer_normalization(c: Conversion) -> relax.Expr:
    if c.node.has_output(1):
        raise c.unsupported("its second output (mean) is not covered")
    shape = c.node.shape(0)
    axis = c.node.attr("axis", -1) % len(shape)
    tail = shape[axis:]
    axes = list(range(axis, len(shape)))
    gain = _spread(c, 1, tail, 1.0)
    bias = _spread(c, 2, tail, 0.0)
    return op.nn.layer_norm(c.x(), gain, bias, axes, epsilon=c.node.attr("epsilon", 1e-5))


def _rms_normalization(c: Conversion) -> relax.Expr:
    shape = c.node.shape(0)
    axis = c.node.attr("axis", -1) % len(shape)
    axes = list(range(axis, len(shape)))
    gain = _spread(c, 1, shape[axis:], 1.0)
    epsilon = c.node.attr("epsilon", 1e-5)
    if axis:
        return op.nn.rms_norm(c.x(), gain, axes, epsilon=epsilon)
    # TVM's kernel needs an axis that is left.
    row = c.reshape(c.x(), (1, *shape))
    row = c.emit(op.nn.rms_norm(row, gain, [axis + 1 for axis in axes], epsilon=epsilon))
    return c.reshape(row, shape)


def _spread(c: Conversion, index: int, shape: tuple[int, ...], default: float) -> relax.Expr:
    """Input `index` in exactly `shape`."""
    if not c.node.has(index):
        return c.array(np.full(shape, default), c.node.dtype(0))
    if c.node.shape(index) == shape:
        return c.x(index)
    known = c.node.const(index)
    if known is not None:
        return c.array(np.broadcast_to(known, shape))
    return c.emit(op.broadcast_to(c.x(index), shape))


def _instance_normalization(c: Conversion) -> relax.Expr:
    axes = list(range(2, len(c.out.shape)))
    shape = (1, c.node.shape(1)[0], *[1] * len(axes))
    centred, inverse = _standardise(c, c.x(), axes, c.node.attr("epsilon", 1e-5))
    gain, bias = (c.reshape(c.x(index), shape) for index in (1, 2))
    return op.add(c.emit(op.multiply(c.emit(op.divide(centred, inverse)), gain)), bias)


def _standardise(
    c: Conversion, x: relax.Expr, axes: list[int], epsilon: float
) -> tuple[relax.Expr, relax.Expr]:
    """`x - mean` and the standard deviation along `axes`."""
    centred = c.emit(op.subtract(x, c.emit(op.mean(x, axis=axes, keepdims=True))))
    squares = c.emit(op.multiply(centred, centred))
    variance = c.emit(op.mean(squares, axis=axes, keepdims=True))
    return centred, c.emit(op.sqrt(c.emit(op.add(variance, c.scalar(epsilon)))))


def _arg_reduce(build: Callable[..., relax.Expr]) -> Converter:
    def convert(c: Conversion) -> relax.Expr:
        rank = len(c.node.shape(0))
        axis = c.node.attr("axis", 0) % rank
        keepdims = bool(c.node.attr("keepdims", 1))
        if not c.node.attr("select_last_index", 0):
            return build(c.x(), axis=axis, keepdims=keepdims)
        last = c.node.shape(0)[axis] - 1
        order = c.array(np.arange(last, -1, -1), "int64")
        backwards = c.emit(op.take(c.x(), order, axis=axis, mode="clip"))
        found = c.emit(build(backwards, axis=axis, keepdims=keepdims))
        return op.subtract(c.array(np.asarray(last), "int64"), found)

    return convert


CONVERTERS: dict[str, Converter] = {
    "ReduceSum": _reduce(op.sum),
    "ReduceMean": _reduce(op.mean),
    "ReduceMax": _reduce(op.max),
    "ReduceMin": _reduce(op.min),
    "ReduceProd": _reduce(op.prod),
    "ReduceL1": _reduce(op.sum, before=lambda _c, x: op.abs(x)),
    "ReduceL2": _reduce(op.sum, before=_square, after=op.sqrt),
    "ReduceSumSquare": _reduce(op.sum, before=_square),
    "ReduceLogSum": _reduce(op.sum, after=op.log),
    "ReduceLogSumExp": _log_sum_exp,
    "ArgMax": _arg_reduce(op.argmax),
    "ArgMin": _arg_reduce(op.argmin),
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "InstanceNormalization": _instance_normalization,
}
