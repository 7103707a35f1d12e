"""Recognise layer normalisation written out in elementary operators.

    d = x - mean(x);  d / sqrt(mean(d * d) + eps)        ->  nn.layer_norm(x, 1, 0)
    nn.layer_norm(x, g, b) * c                            ->  nn.layer_norm(x, g * c, b * c)
    nn.layer_norm(x, g, b) + c                            ->  nn.layer_norm(x, g, b + c)

for means over trailing axes and constants `c` over these axes. Nine kernels with three reductions
become one operator that every device has a kernel for.

Requires: powers of two imported as products; reshapes folded.
Ensures:  the same value up to the rounding of one multiplication; the result keeps the name of
the last operator taken in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import IRModule, relax

from relay_passes.constants import array_of, number_of, tensor_constant
from relay_passes.rewrite_bindings import Bindings, is_call, rewrite_main

_Combine = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class FuseLayerNorm:
    """Rewrite the written-out form, then take constant gains and shifts in."""

    def __call__(self, mod: IRModule) -> IRModule:
        """The module with its layer normalisations fused."""
        return rewrite_main(mod, _rule)


def _rule(_var: relax.Var, value: relax.Expr, known: Bindings) -> relax.Expr | None:
    if is_call(value, "relax.divide"):
        return _standardised(value, known)
    if is_call(value, "relax.multiply"):
        return _absorb(value, known, lambda gain, bias, c: (gain * c, bias * c))
    if is_call(value, "relax.add"):
        return _absorb(value, known, lambda gain, bias, c: (gain, bias + c))
    return None


def _standardised(value: relax.Call, known: Bindings) -> relax.Expr | None:
    """`nn.layer_norm(x, 1, 0)` for `d / sqrt(mean(d * d) + eps)`."""
    centred, spread = value.args
    root = known.call(spread, "relax.sqrt")
    total = None if root is None else known.call(root.args[0], "relax.add")
    if total is None:
        return None
    for variance, addend in (total.args, reversed(total.args)):
        epsilon = number_of(addend)
        mean = known.call(variance, "relax.mean")
        square = None if mean is None else known.call(mean.args[0], "relax.multiply")
        if epsilon is None or mean is None or square is None:
            continue
        if not all(arg.same_as(centred) for arg in square.args):
            continue
        axes = trailing_axes(mean)
        x = None if axes is None else _centred_source(centred, axes, known)
        if x is None or axes is None:
            return None
        tail = [int(x.ty.shape.values[axis]) for axis in axes]
        dtype = str(x.ty.dtype)
        one, zero = np.ones(tail, dtype), np.zeros(tail, dtype)
        return relax.op.nn.layer_norm(
            x, tensor_constant(one), tensor_constant(zero), axes, epsilon=epsilon
        )
    return None


def _centred_source(centred: relax.Expr, axes: list[int], known: Bindings) -> relax.Expr | None:
    """`x` when `centred` is `x - mean(x)` over `axes`."""
    difference = known.call(centred, "relax.subtract")
    mean = None if difference is None else known.call(difference.args[1], "relax.mean")
    if difference is None or mean is None or not mean.args[0].same_as(difference.args[0]):
        return None
    return difference.args[0] if trailing_axes(mean) == axes else None


def trailing_axes(mean: relax.Call) -> list[int] | None:
    """The reduced axes when they are the last ones and kept, else `None`."""
    rank = len(mean.args[0].ty.shape.values)
    if mean.attrs.axis is None or not mean.attrs.keepdims:
        return None
    axes = sorted(int(axis) % rank for axis in mean.attrs.axis)
    return axes if axes == list(range(axes[0], rank)) else None


def _absorb(value: relax.Call, known: Bindings, combine: _Combine) -> relax.Expr | None:
    """A constant over the normalised axes becomes part of gain and bias."""
    for operand, other in (value.args, reversed(value.args)):
        norm, constant = known.call(operand, "relax.nn.layer_norm"), array_of(other)
        if norm is None or constant is None or not known.is_read_once(operand):
            continue
        x, gain, bias = norm.args[0], array_of(norm.args[1]), array_of(norm.args[2])
        if gain is None or bias is None:
            continue
        constant = fits_gain(constant, gain)
        if constant is None:
            continue
        new_gain, new_bias = combine(gain, bias, constant)
        return relax.op.nn.layer_norm(
            x,
            tensor_constant(new_gain),
            tensor_constant(new_bias),
            [int(axis) for axis in norm.attrs.axes],
            epsilon=float(norm.attrs.epsilon),
        )
    return None


def fits_gain(constant: np.ndarray, gain: np.ndarray) -> np.ndarray | None:
    """`constant` without leading ones, when it broadcasts to `gain` and no further."""
    while constant.ndim > gain.ndim and constant.shape[0] == 1:
        constant = constant[0]
    if constant.ndim > gain.ndim:
        return None
    pairs = zip(constant.shape[::-1], gain.shape[::-1], strict=False)
    return constant if all(size in (1, extent) for size, extent in pairs) else None
