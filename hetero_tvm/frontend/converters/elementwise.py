"""Elementwise operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from hetero_tvm.frontend.converters.context import Conversion, Converter

op = relax.op


def _unary(build: Callable[[relax.Expr], relax.Expr]) -> Converter:
    return lambda c: build(c.x())


def _binary(build: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    return lambda c: build(c.x(0), c.x(1))


def _variadic(build: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    """Fold inputs from the left; the last step is left to the importer to bind and name."""

    def convert(c: Conversion) -> relax.Expr:
        result = c.x(0)
        count = len(c.node.proto.input)
        for index in range(1, count):
            result = build(result, c.x(index))
            if index < count - 1:
                result = c.emit(result)
        return result

    return convert


def _divide(c: Conversion) -> relax.Expr:
    if np.dtype(c.out.dtype).kind in "iu":
        # ONNX Runtime divides integers as C++ does: towards zero.
        wide = "float64"
        quotient = op.divide(op.astype(c.x(0), wide), op.astype(c.x(1), wide))
        return op.astype(op.trunc(c.emit(quotient)), c.out.dtype)
    return op.divide(c.x(0), c.x(1))


def _power(c: Conversion) -> relax.Expr:
    exponent = c.node.const(1)
    is_float = np.dtype(c.node.dtype(0)).kind == "f"
    if exponent is not None and exponent.size == 1 and len(c.out.shape) >= exponent.ndim:
        value = float(exponent.reshape(-1)[0])
        if c.out.shape == c.node.shape(0):
            if value == 1:
                return c.x()
            if value == 2:
                return op.multiply(c.x(), c.x())
            if value == 0.5 and is_float:
                return op.sqrt(c.x())
        if is_float:
            return op.power(c.x(), c.array(exponent, c.node.dtype(0)))
    if is_float:
        same = c.node.dtype(0) == c.node.dtype(1)
        return op.power(c.x(0), c.x(1) if same else op.astype(c.x(1), c.node.dtype(0)))
    wide = "float64"
    result = op.power(op.astype(c.x(0), wide), op.astype(c.x(1), wide))
    return op.astype(c.emit(result), c.out.dtype)


def _bit_shift(c: Conversion) -> relax.Expr:
    """A shift by as many bits as there are, or by a negative number, leaves only the sign."""
    bits = np.iinfo(c.out.dtype).bits
    x, by = c.x(0), c.x(1)
    if c.node.dtype(1)[0] == "u":
        past = c.emit(op.greater_equal(by, c.scalar(bits)))
    else:
        low = c.emit(op.less(by, c.scalar(0)))
        past = c.emit(op.logical_or(low, c.emit(op.greater_equal(by, c.scalar(bits)))))
    right = c.node.attr("direction") == "RIGHT"
    signed = right and c.out.dtype[0] == "i"
    # Shifting by one bit less leaves the sign alone, of an unsigned number or to the left nothing.
    by = c.emit(op.where(past, c.scalar(bits - 1 if signed else 0), by))
    shifted = c.emit((op.right_shift if right else op.left_shift)(x, by))
    return shifted if signed else op.where(past, c.scalar(0), shifted)


def _modulo(c: Conversion) -> relax.Expr:
    """C's remainder, or with `fmod` 0 the one that has the divisor's sign."""
    x, y = c.x(0), c.x(1)
    if c.node.attr("fmod", 0) or c.out.dtype[0] == "u":
        return op.mod(x, y)
    remainder = c.emit(op.mod(x, y))
    is_some = c.emit(op.not_equal(remainder, c.scalar(0)))
    negative = [c.emit(op.less(value, c.scalar(0))) for value in (remainder, y)]
    other_sign = c.emit(op.logical_xor(*negative))
    wrong = c.emit(op.logical_and(is_some, other_sign))
    return op.where(wrong, c.emit(op.add(remainder, y)), remainder)


def _dropout(c: Conversion) -> list[relax.Expr]:
    """Nothing is dropped at inference; the mask, where somebody wants it, keeps everything."""
    training = c.node.const(2) if c.node.has(2) else np.asarray(False)
    if training is None or training.any():
        raise c.unsupported("training mode is not covered")
    mask = c.array(np.ones(c.out.shape, dtype=bool), "bool")
    return [c.x(), mask]


def _is_inf(c: Conversion) -> relax.Expr:
    high, low = c.node.attr("detect_positive", 1), c.node.attr("detect_negative", 1)
    if high and low:
        return op.isinf(c.x())
    if not high and not low:
        return op.isinf(c.emit(op.zeros_like(c.x())))
    return op.equal(c.x(), c.scalar(np.inf if high else -np.inf))


def _cast(c: Conversion) -> relax.Expr:
    if c.out.dtype == "bool":
        return op.not_equal(c.x(), c.scalar(0))
    return op.astype(c.x(), c.out.dtype)


def _clip(c: Conversion) -> relax.Expr:
    low, high = _bound(c, 1, "min"), _bound(c, 2, "max")
    if low is None and high is None:
        return c.x()
    if isinstance(low, int | float) and isinstance(high, int | float):
        return op.clip(c.x(), low, high)
    result = c.x()
    if low is not None:
        result = op.maximum(result, c.scalar(low) if isinstance(low, int | float) else low)
    if high is None:
        return result
    result = c.emit(result) if low is not None else result
    return op.minimum(result, c.scalar(high) if isinstance(high, int | float) else high)


def _bound(c: Conversion, index: int, name: str) -> float | relax.Expr | None:
    """A bound of `Clip`: a number when it is known, `None` when it bounds nothing."""
    value = c.node.attr(name)
    if value is None and c.node.has(index):
        known = c.node.const(index)
        if known is None:
            return c.x(index)
        value = known.reshape(-1)[0]
    return _meaningful(value, c.node.dtype(0))


def _meaningful(bound: float | None, dtype: str) -> float | int | None:
    """`bound`, or `None` when no value of the type can be beyond it."""
    if bound is None:
        return None
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return None if int(bound) in (limits.min, limits.max) else int(bound)
    limit = float(np.finfo(kind).max)
    return None if abs(float(bound)) >= limit else float(bound)


def _hard_swish(c: Conversion) -> relax.Expr:
    line = op.add(c.emit(op.multiply(c.x(), c.scalar(1 / 6))), c.scalar(0.5))
    return op.multiply(c.x(), c.emit(op.clip(c.emit(line), 0.0, 1.0)))


def _gelu(c: Conversion) -> relax.Expr:
    tanh = c.node.attr("approximate", "none") == "tanh"
    return op.nn.gelu_tanh(c.x()) if tanh else op.nn.gelu(c.x())


def _leaky_relu(c: Conversion) -> relax.Expr:
    return op.nn.leakyrelu(c.x(), c.node.attr("alpha", 0.01))


def _prelu(c: Conversion) -> relax.Expr:
    zero = c.scalar(0)
    negative = op.multiply(c.emit(op.minimum(c.x(), zero)), c.x(1))
    return op.add(c.emit(op.nn.relu(c.x())), c.emit(negative))


def _elu_like(c: Conversion, alpha: float, gamma: float, divisor: float) -> relax.Expr:
    """`gamma * (max(x, 0) + min(0, alpha * (exp(x / divisor) - 1)))`, without overflow."""
    negative = c.emit(op.minimum(c.x(), c.scalar(0)))
    if divisor != 1:
        negative = c.emit(op.divide(negative, c.scalar(divisor)))
    grown = c.emit(op.subtract(c.emit(op.exp(negative)), c.scalar(1)))
    if alpha != 1:
        grown = c.emit(op.multiply(grown, c.scalar(alpha)))
    result = op.add(c.emit(op.nn.relu(c.x())), grown)
    return result if gamma == 1 else op.multiply(c.emit(result), c.scalar(gamma))


def _elu(c: Conversion) -> relax.Expr:
    return _elu_like(c, c.node.attr("alpha", 1.0), 1.0, 1.0)


def _celu(c: Conversion) -> relax.Expr:
    alpha = c.node.attr("alpha", 1.0)
    return _elu_like(c, alpha, 1.0, alpha)


def _selu(c: Conversion) -> relax.Expr:
    alpha = c.node.attr("alpha", 1.67326319217681884765625)
    return _elu_like(c, alpha, c.node.attr("gamma", 1.05070102214813232421875), 1.0)


def _softplus(c: Conversion) -> relax.Expr:
    """`log(1 + exp(x))` as `max(x, 0) + log(1 + exp(-|x|))`, which cannot overflow."""
    magnitude = c.emit(op.negative(c.emit(op.abs(c.x()))))
    tail = op.log(c.emit(op.add(c.emit(op.exp(magnitude)), c.scalar(1))))
    return op.add(c.emit(op.nn.relu(c.x())), c.emit(tail))


def _mish(c: Conversion) -> relax.Expr:
    return op.multiply(c.x(), c.emit(op.tanh(c.emit(_softplus(c)))))


def _softsign(c: Conversion) -> relax.Expr:
    return op.divide(c.x(), c.emit(op.add(c.emit(op.abs(c.x())), c.scalar(1))))


def _thresholded_relu(c: Conversion) -> relax.Expr:
    above = op.greater(c.x(), c.scalar(c.node.attr("alpha", 1.0)))
    return op.where(c.emit(above), c.x(), c.scalar(0))


def _reciprocal(c: Conversion) -> relax.Expr:
    return op.divide(c.scalar(1), c.x())


def _mean(c: Conversion) -> relax.Expr:
    total = _variadic(op.add)(c)
    count = len(c.node.proto.input)
    return total if count == 1 else op.divide(c.emit(total), c.scalar(count))


CONVERTERS: dict[str, Converter] = {
    "Relu": _unary(op.nn.relu),
    "Sigmoid": _unary(op.sigmoid),
    "Tanh": _unary(op.tanh),
    "Exp": _unary(op.exp),
    "Log": _unary(op.log),
    "Sqrt": _unary(op.sqrt),
    "Neg": _unary(op.negative),
    "Abs": _unary(op.abs),
    "Floor": _unary(op.floor),
    "Ceil": _unary(op.ceil),
    "Round": _unary(op.round),
    "Erf": _unary(op.erf),
    "BitShift": _bit_shift,
    "Dropout": _dropout,
    "Mod": _modulo,
    "IsInf": _is_inf,
    "Sin": _unary(op.sin),
    "Cos": _unary(op.cos),
    "Tan": _unary(op.tan),
    "Sinh": _unary(op.sinh),
    "Cosh": _unary(op.cosh),
    "Sign": _unary(op.sign),
    "Not": _unary(op.logical_not),
    "Reciprocal": _reciprocal,
    "Add": _binary(op.add),
    "Sub": _binary(op.subtract),
    "Mul": _binary(op.multiply),
    "Div": _divide,
    "Pow": _power,
    "And": _binary(op.logical_and),
    "Or": _binary(op.logical_or),
    "Xor": _binary(op.logical_xor),
    "Equal": _binary(op.equal),
    "Less": _binary(op.less),
    "LessOrEqual": _binary(op.less_equal),
    "Greater": _binary(op.greater),
    "GreaterOrEqual": _binary(op.greater_equal),
    "Where": lambda c: op.where(c.x(0), c.x(1), c.x(2)),
    "Min": _variadic(op.minimum),
    "Max": _variadic(op.maximum),
    "Sum": _variadic(op.add),
    "Mean": _mean,
    "Cast": _cast,
    "Clip": _clip,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Mish": _mish,
    "ThresholdedRelu": _thresholded_relu,
}
